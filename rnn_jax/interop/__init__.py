"""Weights and models of other libraries, in and out."""

from rnn_jax.interop.equinox_weights import equinox_module, from_equinox, to_equinox
from rnn_jax.interop.flax_modules import linen_module, nnx_module
from rnn_jax.interop.flax_weights import from_flax, to_flax
from rnn_jax.interop.haiku_weights import from_haiku, haiku_function, to_haiku
from rnn_jax.interop.models import Network, Part, put_together, taken_apart

__all__ = [
    "Network",
    "Part",
    "equinox_module",
    "from_equinox",
    "from_flax",
    "from_haiku",
    "haiku_function",
    "linen_module",
    "nnx_module",
    "put_together",
    "taken_apart",
    "to_equinox",
    "to_flax",
    "to_haiku",
]
