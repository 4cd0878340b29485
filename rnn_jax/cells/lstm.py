"""The long short-term memory.

Gate order everywhere: i (input), f (forget), o (output), g (candidate), as in the lecture: three sigmoids, one tanh.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from rnn_jax.cells.affine import project_input
from rnn_jax.checks import require_positive
from rnn_jax.initializers import chrono, gate_weights, orthogonal, scaled_normal, zeros
from rnn_jax.types import Cell, Initializer


class LSTMParams(NamedTuple):
    """The weights of an LSTM; gates i f o g."""

    W_xh: Float[Array, "I 4*H"]
    W_hh: Float[Array, "H 4*H"]
    b_h: Float[Array, " 4*H"]


class LSTMState(NamedTuple):
    """What an LSTM carries from step to step."""

    h: Float[Array, "*batch H"]
    """What the next layer sees."""
    c: Float[Array, "*batch H"]
    """The memory, changed only by gates."""


def lstm_advance(params: LSTMParams, state: LSTMState, u: Float[Array, "*batch GH"]) -> LSTMState:
    """The memory is scaled by f, never multiplied by a matrix: c_t = f_t ⊙ c_{t−1} + i_t ⊙ g_t.

    i_t = σ(u_i + W_hi h_{t−1})
    f_t = σ(u_f + W_hf h_{t−1})
    o_t = σ(u_o + W_ho h_{t−1})
    g_t = tanh(u_g + W_hg h_{t−1})
    h_t = o_t ⊙ tanh(c_t),     with u_t = W_xh x_t + b_h.
    """
    h, c = state
    i, f, o, g = jnp.split(u + h @ params.W_hh, 4, axis=-1)  # one sigmoid over i f o is slower on a CPU
    i, f, o, g = sigmoid(i), sigmoid(f), sigmoid(o), jnp.tanh(g)
    c = f * c + i * g
    return LSTMState(h=o * jnp.tanh(c), c=c)


def lstm(
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = 1.0,
    input_init: Initializer = scaled_normal(),
    recurrent_init: Initializer = orthogonal(),
    bias_init: Initializer = zeros,
    dtype: DTypeLike = float,
) -> Cell:
    """The long short-term memory; the equations stand at ``lstm_advance``.

    Args:
        input_size: I, features of x_t, or the number of ids.
        hidden_size: H, units of h_t and of c_t.
        forget_bias: added to the forget gate's part of ``b_h`` at initialisation, and trained with it. A fresh memory
            keeps σ(forget_bias) of itself at each step: 1.0 halves it in 2.2 steps, 5.0 in 103.
        input_init, recurrent_init, bias_init: how each gate's block of ``W_xh (I, 4·H)``, ``W_hh (H, 4·H)`` and
            ``b_h (4·H,)`` begins; gates i f o g.
        dtype: of the params and the state.

    Raises:
        ValueError: for a size below 1.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import lstm, rollout
    >>> cell = lstm(input_size=3, hidden_size=5)
    >>> params = cell.init(jax.random.key(0))
    >>> state_T, states = rollout(cell, params, cell.start(params, (2,)), jnp.ones((7, 2, 3)))
    >>> states.h.shape, states.c.shape
    ((7, 2, 5), (7, 2, 5))

    Reference: Hochreiter, Schmidhuber. Long short-term memory. 1997; with the forget gate of Gers, Schmidhuber,
    Cummins. Learning to forget. 2000.
    """
    require_positive(input_size=input_size, hidden_size=hidden_size)

    def init(key: PRNGKeyArray) -> LSTMParams:
        inits = {"input_init": input_init, "recurrent_init": recurrent_init, "bias_init": bias_init}
        W_xh, W_hh, b_h = gate_weights(key, input_size, hidden_size, 4, **inits, dtype=dtype)
        return LSTMParams(W_xh, W_hh, b_h.at[hidden_size : 2 * hidden_size].add(forget_bias))

    def start(params: LSTMParams, batch_shape: tuple[int, ...] = ()) -> LSTMState:
        shape, dtype = (*batch_shape, hidden_size), params.W_hh.dtype
        return LSTMState(h=jnp.zeros(shape, dtype), c=jnp.zeros(shape, dtype))  # two, so that both can be donated

    return Cell(
        init=init,
        start=start,
        project=lambda params, x: project_input(x, params.W_xh, params.b_h),
        advance=lstm_advance,
        output=lambda params, state: state.h,
    )


def chrono_lstm(input_size: int, hidden_size: int, *, max_lag: float, **options: Any) -> Cell:
    """An ``lstm`` whose memories begin with retention times spread over 1 … ``max_lag`` steps.

    b_f ~ ln U(1, max_lag − 1) and b_i = −b_f; ``options`` are those of ``lstm``, without ``forget_bias``.

    Reference: Tallec, Ollivier. Can recurrent neural networks warp time? 2018.
    """
    if "forget_bias" in options:
        raise ValueError(
            "chrono_lstm got a forget_bias; want none, as it draws the forget gates' biases itself: use lstm"
        )
    cell, draw = lstm(input_size, hidden_size, **options), chrono(max_lag)

    def init(key: PRNGKeyArray) -> LSTMParams:
        params = cell.init(key)
        _, _, b_o, b_g = jnp.split(params.b_h, 4)
        b_f = draw(jax.random.fold_in(key, 1), b_o.shape, b_o.dtype)
        return params._replace(b_h=jnp.concatenate([-b_f, b_f, b_o, b_g]))

    return cell._replace(init=init)
