"""Light gated cells: fewer gates than the GRU and the LSTM."""

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnn_jax.cells.activations import complementary
from rnn_jax.cells.affine import masked_state, product, recurrent_product
from rnn_jax.cells.binding import Inits, bind_cell
from rnn_jax.initializers import chrono
from rnn_jax.machinery.checks import require_finite_number
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.types import Cell

__all__ = ["JANETParams", "MGUParams", "UGRNNParams", "janet", "mgu", "ugrnn"]


class MGUParams(NamedTuple):
    """The weights of a minimal gated unit; gates f n."""

    W_xh: Float[Array, "I 2*H"]
    W_hh: Float[Array, "H 2*H"]
    b_h: Float[Array, " 2*H"]

    __repr__ = repr_of_arrays


class UGRNNParams(NamedTuple):
    """The weights of an update gate network; gates z n."""

    W_xh: Float[Array, "I 2*H"]
    W_hh: Float[Array, "H 2*H"]
    b_h: Float[Array, " 2*H"]

    __repr__ = repr_of_arrays


class JANETParams(NamedTuple):
    """The weights of a JANET; gates f n."""

    W_xh: Float[Array, "I 2*H"]
    W_hh: Float[Array, "H 2*H"]
    b_h: Float[Array, " 2*H"]

    __repr__ = repr_of_arrays


def mgu_advance(
    params: MGUParams, h: Float[Array, "*batch H"], u: Float[Array, "*batch 2*H"]
) -> Float[Array, "*batch H"]:
    """The equations of the minimal gated unit: one gate, which forgets and resets.

    f_t = σ(u_f + W_hf h_{t−1})
    n_t = tanh(u_n + W_hn (f_t ⊙ h_{t−1}))
    h_t = (1 − f_t) ⊙ h_{t−1} + f_t ⊙ n_t,     with u_t = W_xh x_t + b_h.
    """
    masked, W_hh = masked_state(h, params.W_hh)
    W_hf, W_hn = jnp.split(W_hh, 2, axis=-1)
    u_f, u_n = jnp.split(u, 2, axis=-1)
    f, rest = complementary(u_f + product(masked, W_hf))
    n = jnp.tanh(u_n + product(f * masked, W_hn))
    return rest * h + f * n


def ugrnn_advance(
    params: UGRNNParams, h: Float[Array, "*batch H"], u: Float[Array, "*batch 2*H"]
) -> Float[Array, "*batch H"]:
    """The equations of the update gate network: one gate, which keeps the state.

    z_t = σ(u_z + W_hz h_{t−1})
    n_t = tanh(u_n + W_hn h_{t−1})
    h_t = z_t ⊙ h_{t−1} + (1 − z_t) ⊙ n_t,     with u_t = W_xh x_t + b_h.
    """
    z, n = jnp.split(u + recurrent_product(h, params.W_hh), 2, axis=-1)
    z, rest = complementary(z)
    return z * h + rest * jnp.tanh(n)


def janet_advance(
    params: JANETParams, h: Float[Array, "*batch H"], u: Float[Array, "*batch 2*H"], beta: float = 1.0
) -> Float[Array, "*batch H"]:
    """An LSTM with only the forget gate, which writes β more than it forgets.

    s_t = u_f + W_hf h_{t−1}
    n_t = tanh(u_n + W_hn h_{t−1})
    h_t = σ(s_t) ⊙ h_{t−1} + (1 − σ(s_t − β)) ⊙ n_t,     with u_t = W_xh x_t + b_h.
    """
    s, n = jnp.split(u + recurrent_product(h, params.W_hh), 2, axis=-1)
    keep, _ = complementary(s)
    _, write = complementary(s - beta)
    return keep * h + write * jnp.tanh(n)


@factory
def mgu(input_size: int, hidden_size: int, **inits: Unpack[Inits]) -> Cell:
    """The minimal gated unit; the equations stand at ``mgu_advance``.

    Args:
        input_size: I, features of x_t, or the number of ids, for which ``input_init=unit_normal()`` is right.
        hidden_size: H, units of h_t.
        inits: ``input_init``, ``recurrent_init``, ``bias_init`` of each gate's block, and ``dtype``.

    Raises:
        ValueError: for a size below 1.

    Reference: Zhou, Wu, Zhang, Zhou. Minimal gated unit for recurrent neural networks. 2016.
    """
    return bind_cell(MGUParams, mgu_advance, 2, input_size, hidden_size, **inits)


@factory
def ugrnn(input_size: int, hidden_size: int, *, update_bias: float = 0.0, **inits: Unpack[Inits]) -> Cell:
    """The update gate network; the equations stand at ``ugrnn_advance``.

    Args:
        input_size, hidden_size, inits: as in ``mgu``.
        update_bias: added to the gate's part of ``b_h`` at initialisation: a fresh state keeps σ(update_bias) of
            itself at each step.

    Raises:
        ValueError: for a size below 1, or an update_bias that is not finite.

    Reference: Collins, Sohl-Dickstein, Sussillo. Capacity and trainability in recurrent neural networks. 2017.
    """
    require_finite_number(update_bias=update_bias)
    cell = bind_cell(UGRNNParams, ugrnn_advance, 2, input_size, hidden_size, **inits)

    def init(key: PRNGKeyArray) -> UGRNNParams:
        params = cell.init(key)
        return params._replace(b_h=params.b_h.at[:hidden_size].add(update_bias))

    return cell._replace(init=init)


@factory
def janet(
    input_size: int, hidden_size: int, *, max_lag: float = 100.0, beta: float = 1.0, **inits: Unpack[Inits]
) -> Cell:
    """The LSTM reduced to its forget gate; the equations stand at ``janet_advance``.

    Args:
        input_size, hidden_size, inits: as in ``mgu``.
        max_lag: the longest dependency expected, in steps, more than 2: b_f ~ ln U(1, max_lag − 1), without which
            the paper's network forgets within a few steps.
        beta: β, how much further the writing gate stays open than the forgetting gate.

    Raises:
        ValueError: for a size below 1, a max_lag of 2 or less, or a number that is not finite.

    Reference: van der Westhuizen, Lasenby. The unreasonable effectiveness of the forget gate. 2018.
    """
    draw = chrono(max_lag)
    require_finite_number(beta=beta)
    cell = bind_cell(
        JANETParams, lambda params, h, u: janet_advance(params, h, u, beta), 2, input_size, hidden_size, **inits
    )

    def init(key: PRNGKeyArray) -> JANETParams:
        params = cell.init(key)
        b_f, b_n = jnp.split(params.b_h, 2)
        return params._replace(b_h=jnp.concatenate([draw(jax.random.fold_in(key, 1), b_f.shape, b_f.dtype), b_n]))

    return cell._replace(init=init)
