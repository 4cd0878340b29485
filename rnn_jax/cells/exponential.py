"""The sLSTM: exponential gates, with a normaliser and a stabiliser."""

from typing import NamedTuple, Unpack

import jax.numpy as jnp
from jax.nn import log_sigmoid, sigmoid
from jaxtyping import Array, Float

from rnn_jax.cells.affine import recurrent_product
from rnn_jax.cells.binding import Inits
from rnn_jax.cells.lstms import bind_memory
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.types import Cell

__all__ = ["SLSTMParams", "SLSTMState", "slstm"]


class SLSTMParams(NamedTuple):
    """The weights of an sLSTM; gates i f o g."""

    W_xh: Float[Array, "I 4*H"]
    W_hh: Float[Array, "H 4*H"]
    b_h: Float[Array, " 4*H"]

    __repr__ = repr_of_arrays


class SLSTMState(NamedTuple):
    """The state of an sLSTM; its memory is e^m·c and its normaliser e^m·n."""

    h: Float[Array, "*batch H"]
    """The output, which the next layer reads."""
    c: Float[Array, "*batch H"]
    n: Float[Array, "*batch H"]
    m: Float[Array, "*batch H"]
    """The stabiliser: the largest exponent so far."""

    __repr__ = repr_of_arrays


def slstm_advance(params: SLSTMParams, state: SLSTMState, u: Float[Array, "*batch GH"]) -> SLSTMState:
    """A running mean of g, weighted by exponential gates: c_t / n_t.

    (ĩ, f̃, õ, g̃)_t = u_t + W_hh h_{t−1},     with u_t = W_xh x_t + b_h
    m_t = max(ln σ(f̃_t) + m_{t−1}, ĩ_t)
    i_t = exp(ĩ_t − m_t)
    f_t = exp(ln σ(f̃_t) + m_{t−1} − m_t)
    c_t = f_t ⊙ c_{t−1} + i_t ⊙ tanh(g̃_t)
    n_t = f_t ⊙ n_{t−1} + i_t
    h_t = σ(õ_t) ⊙ c_t / n_t.
    """
    h, c, n, m = state
    i, f, o, g = jnp.split(u + recurrent_product(h, params.W_hh), 4, axis=-1)
    f = log_sigmoid(f) + m
    m = jnp.maximum(f, i)
    i, f = jnp.exp(i - m), jnp.exp(f - m)
    c = f * c + i * jnp.tanh(g)
    n = f * n + i
    return SLSTMState(h=sigmoid(o) * c / n, c=c, n=n, m=m)


@factory
def slstm(input_size: int, hidden_size: int, *, forget_bias: float = 1.0, **inits: Unpack[Inits]) -> Cell:
    """The sLSTM of the xLSTM, with one head; the equations stand at ``slstm_advance``.

    It starts from c = n = 0 with the lowest stabiliser there is, so that the first step writes i_1 = 1 and h_1 is
    the same as without a stabiliser. No gate overflows: every exponent is at most 0, one of the two is 0.

    Arguments and errors are those of ``lstm``; W_hh is full, where the paper's is block diagonal, one block a head.

    Reference: Beck, Pöppel, Spanring, Auer, Prudnikova, Kopp, Klambauer, Brandstetter, Hochreiter. xLSTM: extended
    long short-term memory. 2024.
    """
    cell = bind_memory(SLSTMParams, slstm_advance, 4, input_size, hidden_size, forget_bias=forget_bias, **inits)

    def start(params: SLSTMParams, batch_shape: tuple[int, ...] = ()) -> SLSTMState:
        h, c = cell.start(params, batch_shape)
        return SLSTMState(h=h, c=c, n=jnp.zeros_like(h), m=jnp.full_like(h, jnp.finfo(h.dtype).min / 2))

    return cell._replace(start=start)
