"""In and out: cells of flax, haiku and equinox as cells of this library, and cells of this library as theirs."""

from rnn_jax.interop.adapters import WithOutput
from rnn_jax.interop.equinox_cells import as_equinox, cell_from_equinox
from rnn_jax.interop.flax_cells import cell_from_flax
from rnn_jax.interop.flax_modules import as_linen, as_nnx
from rnn_jax.interop.haiku_cells import cell_from_haiku

__all__ = [
    "WithOutput",
    "as_equinox",
    "as_linen",
    "as_nnx",
    "cell_from_equinox",
    "cell_from_flax",
    "cell_from_haiku",
]
