"""The gated recurrent unit, with the reset gate after the recurrent product (PyTorch, cuDNN) or before it (the paper).

Gate order everywhere: r (reset), z (update), n (candidate).
"""

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from rnn_jax.cells.activations import Activation, activation_named, with_complement
from rnn_jax.cells.affine import masked_state, product, recurrent_product
from rnn_jax.cells.binding import Inits, bind_cell
from rnn_jax.initializers import chrono, orthogonal, scaled_normal, zeros
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.types import Cell, Initializer

__all__ = ["GRUParams", "GRUResetBeforeParams", "chrono_gru", "gru", "gru_reset_before"]


class GRUParams(NamedTuple):
    """The weights of a GRU whose reset gate acts after the product; gates r z n."""

    W_xh: Float[Array, "I 3*H"]
    W_hh: Float[Array, "H 3*H"]
    b_h: Float[Array, " 3*H"]
    b_n: Float[Array, " H"]
    """The candidate's recurrent bias, which the reset gate multiplies too."""

    __repr__ = repr_of_arrays


class GRUResetBeforeParams(NamedTuple):
    """The weights of a GRU whose reset gate acts before the product; gates r z n."""

    W_xh: Float[Array, "I 3*H"]
    W_hh: Float[Array, "H 3*H"]
    b_h: Float[Array, " 3*H"]

    __repr__ = repr_of_arrays


class GRUOptions(Inits, total=False):
    """Initialisers and activations of a GRU."""

    activation: str | Activation
    """In the place of tanh."""
    gate_activation: str | Activation
    """In the place of σ."""


def gru_advance(
    params: GRUParams,
    h: Float[Array, "*batch H"],
    u: Float[Array, "*batch 3*H"],
    activation: Activation = jnp.tanh,
    gate_activation: Activation = sigmoid,
) -> Float[Array, "*batch H"]:
    """Reset after: n_t = tanh(u_n + r_t ⊙ (W_hn h_{t−1} + b_n)).

    r_t = σ(u_r + W_hr h_{t−1})
    z_t = σ(u_z + W_hz h_{t−1})
    h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t−1},     with u_t = W_xh x_t + b_h.
    """
    u_r, u_z, u_n = jnp.split(u, 3, axis=-1)
    v_r, v_z, v_n = jnp.split(recurrent_product(h, params.W_hh), 3, axis=-1)
    r, (z, rest) = gate_activation(u_r + v_r), with_complement(gate_activation)(u_z + v_z)
    n = activation(u_n + r * (v_n + jnp.broadcast_to(params.b_n, h.shape)))
    return rest * n + z * h


def gru_reset_before_advance(
    params: GRUResetBeforeParams,
    h: Float[Array, "*batch H"],
    u: Float[Array, "*batch 3*H"],
    activation: Activation = jnp.tanh,
    gate_activation: Activation = sigmoid,
) -> Float[Array, "*batch H"]:
    """Reset before: n_t = tanh(u_n + W_hn (r_t ⊙ h_{t−1})).

    r_t = σ(u_r + W_hr h_{t−1})
    z_t = σ(u_z + W_hz h_{t−1})
    h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t−1},     with u_t = W_xh x_t + b_h.
    """
    masked, W_hh = masked_state(h, params.W_hh)
    W_hrz, W_hn = jnp.split(W_hh, [2 * h.shape[-1]], axis=-1)
    u_r, u_z, u_n = jnp.split(u, 3, axis=-1)
    v_r, v_z = jnp.split(product(masked, W_hrz), 2, axis=-1)
    r, (z, rest) = gate_activation(u_r + v_r), with_complement(gate_activation)(u_z + v_z)
    n = activation(u_n + product(r * masked, W_hn))
    return rest * n + z * h


@factory
def gru(
    input_size: int,
    hidden_size: int,
    *,
    activation: str | Activation = "tanh",
    gate_activation: str | Activation = "sigmoid",
    input_init: Initializer = scaled_normal(),
    recurrent_init: Initializer = orthogonal(),
    bias_init: Initializer = zeros,
    dtype: DTypeLike = float,
) -> Cell:
    """The gated recurrent unit with its reset gate after the product, as PyTorch and cuDNN compute it.

    The equations stand at ``gru_advance``. Where z_t is near 1, h_t ≈ h_{t−1} and the gradient passes.

    Args:
        input_size: I, features of x_t, or the number of ids, for which ``input_init=unit_normal()`` is right.
        hidden_size: H, units of h_t.
        activation, gate_activation: in the place of tanh and of σ, names in ``ACTIVATIONS`` or any elementwise
            functions.
        input_init, recurrent_init, bias_init: how each gate's block of ``W_xh (I, 3·H)``, ``W_hh (H, 3·H)``,
            ``b_h (3·H,)`` and ``b_n (H,)`` begins; gates r z n.
        dtype: of the params and the state.

    Raises:
        ValueError: for a size below 1, or the name of an unknown activation.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru, rollout
    >>> cell = gru(input_size=3, hidden_size=5)
    >>> params = cell.init(jax.random.key(0))
    >>> h_T, hs = rollout(cell, params, cell.start(params, (2,)), jnp.ones((7, 2, 3)))
    >>> hs.shape
    (7, 2, 5)

    Reference: Cho, van Merriënboer, Gulcehre, Bahdanau, Bougares, Schwenk, Bengio. Learning phrase representations
    using RNN encoder–decoder. 2014; version 1, with the reset after the product.
    """
    functions = activation_named(activation), activation_named(gate_activation, "gate_activation")
    inits = Inits(input_init=input_init, recurrent_init=recurrent_init, bias_init=bias_init, dtype=dtype)

    def advance(
        params: GRUParams, h: Float[Array, "*batch H"], u: Float[Array, "*batch 3*H"]
    ) -> Float[Array, "*batch H"]:
        return gru_advance(params, h, u, *functions)

    cell = bind_cell(GRUResetBeforeParams, advance, 3, input_size, hidden_size, **inits)

    def init(key: PRNGKeyArray) -> GRUParams:
        k_w, k_n = jax.random.split(key)
        return GRUParams(*cell.init(k_w), b_n=bias_init(k_n, (hidden_size,), dtype))

    return cell._replace(init=init)


@factory
def gru_reset_before(
    input_size: int,
    hidden_size: int,
    *,
    activation: str | Activation = "tanh",
    gate_activation: str | Activation = "sigmoid",
    **inits: Unpack[Inits],
) -> Cell:
    """The gated recurrent unit with its reset gate before the product, as published.

    The equations stand at ``gru_reset_before_advance``; arguments and errors are those of ``gru``.

    Reference: Cho, van Merriënboer, Gulcehre, Bahdanau, Bougares, Schwenk, Bengio. Learning phrase representations
    using RNN encoder–decoder for statistical machine translation. 2014.
    """
    functions = activation_named(activation), activation_named(gate_activation, "gate_activation")

    def advance(
        params: GRUResetBeforeParams, h: Float[Array, "*batch H"], u: Float[Array, "*batch 3*H"]
    ) -> Float[Array, "*batch H"]:
        return gru_reset_before_advance(params, h, u, *functions)

    return bind_cell(GRUResetBeforeParams, advance, 3, input_size, hidden_size, **inits)


@factory
def chrono_gru(input_size: int, hidden_size: int, *, max_lag: float, **options: Unpack[GRUOptions]) -> Cell:
    """A ``gru`` whose update gates begin with retention times spread over 1 … ``max_lag`` steps.

    b_z ~ ln U(1, max_lag − 1); ``options`` are those of ``gru``.

    Reference: Tallec, Ollivier. Can recurrent neural networks warp time? 2018.
    """
    cell, draw = gru(input_size, hidden_size, **options), chrono(max_lag)

    def init(key: PRNGKeyArray) -> GRUParams:
        params = cell.init(key)
        b_r, _, b_n = jnp.split(params.b_h, 3)
        b_z = draw(jax.random.fold_in(key, 1), b_r.shape, b_r.dtype)
        return params._replace(b_h=jnp.concatenate([b_r, b_z, b_n]))

    return cell._replace(init=init)
