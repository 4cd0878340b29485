"""Gated cells whose gates read only the input: linear in h, so that a schedule may compute them in parallel."""

from typing import NamedTuple, Unpack

import jax.numpy as jnp
from jax.nn import softplus
from jaxtyping import Array, Float, PRNGKeyArray

from rnn_jax.cells.activations import complementary
from rnn_jax.cells.binding import InputInits, bind_input
from rnn_jax.machinery.checks import require_finite_number
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.types import Cell, with_coefficients

__all__ = ["MinGRUParams", "MinLSTMParams", "min_gru", "min_lstm"]


class MinGRUParams(NamedTuple):
    """The weights of a minGRU; gates z n."""

    W_xh: Float[Array, "I 2*H"]
    b_h: Float[Array, " 2*H"]

    __repr__ = repr_of_arrays


class MinLSTMParams(NamedTuple):
    """The weights of a minLSTM; gates f i n."""

    W_xh: Float[Array, "I 3*H"]
    b_h: Float[Array, " 3*H"]

    __repr__ = repr_of_arrays


def min_gru_coefficients(
    params: MinGRUParams, u: Float[Array, "*batch GH"]
) -> tuple[Float[Array, "*batch H"], Float[Array, "*batch H"]]:
    """h_t = (1 − z_t) ⊙ h_{t−1} + z_t ⊙ u_n.

    z_t = σ(u_z),     with u_t = W_xh x_t + b_h.
    """
    z, n = jnp.split(u, 2, axis=-1)
    z, rest = complementary(z)
    return rest, z * n


def min_lstm_coefficients(
    params: MinLSTMParams, u: Float[Array, "*batch GH"]
) -> tuple[Float[Array, "*batch H"], Float[Array, "*batch H"]]:
    """h_t = f_t / (f_t + i_t) ⊙ h_{t−1} + i_t / (f_t + i_t) ⊙ u_n.

    f_t = σ(u_f)
    i_t = σ(u_i),     with u_t = W_xh x_t + b_h.
    """
    f, i, n = jnp.split(u, 3, axis=-1)
    odds = softplus(-f) - softplus(-i)  # ln i/f, which stays finite where both gates are shut
    write, keep = complementary(odds)
    return keep, write * n


@factory
def min_gru(input_size: int, hidden_size: int, **inits: Unpack[InputInits]) -> Cell:
    """The minGRU; the equations stand at ``min_gru_coefficients``.

    Args:
        input_size: I, features of x_t, or the number of ids, for which ``input_init=unit_normal()`` is right.
        hidden_size: H, units of h_t.
        inits: ``input_init`` and ``bias_init`` of each gate's block, and ``dtype``.

    Raises:
        ValueError: for a size below 1.

    Reference: Feng, Tung, Ahmed, Bengio, Hajimirsadeghi. Were RNNs all we needed? 2024.
    """
    return with_coefficients(bind_input(MinGRUParams, 2, input_size, hidden_size, **inits), min_gru_coefficients)


@factory
def min_lstm(input_size: int, hidden_size: int, *, forget_bias: float = 1.0, **inits: Unpack[InputInits]) -> Cell:
    """The minLSTM; the equations stand at ``min_lstm_coefficients``.

    Arguments and errors are those of ``min_gru``; forget_bias is added to the forget gate's part of ``b_h``.

    Reference: Feng, Tung, Ahmed, Bengio, Hajimirsadeghi. Were RNNs all we needed? 2024.
    """
    require_finite_number(forget_bias=forget_bias)
    cell = with_coefficients(bind_input(MinLSTMParams, 3, input_size, hidden_size, **inits), min_lstm_coefficients)

    def init(key: PRNGKeyArray) -> MinLSTMParams:
        params = cell.init(key)
        return params._replace(b_h=params.b_h.at[:hidden_size].add(forget_bias))

    return cell._replace(init=init)
