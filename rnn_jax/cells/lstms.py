"""The long short-term memory.

Gate order everywhere: i (input), f (forget), o (output), g (candidate), as in the lecture: three sigmoids, one tanh.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from rnn_jax.cells.activations import Activation, lstm_activations
from rnn_jax.cells.affine import recurrent_product
from rnn_jax.cells.binding import Inits, bind_cell
from rnn_jax.initializers import chrono, orthogonal, scaled_normal, zeros
from rnn_jax.machinery.checks import require_finite_number
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.types import Cell, Initializer, Params, State

__all__ = ["LSTMParams", "LSTMState", "chrono_lstm", "lstm"]


class LSTMParams(NamedTuple):
    """The weights of an LSTM; gates i f o g."""

    W_xh: Float[Array, "I 4*H"]
    W_hh: Float[Array, "H 4*H"]
    b_h: Float[Array, " 4*H"]

    __repr__ = repr_of_arrays


class LSTMState(NamedTuple):
    """The state of an LSTM."""

    h: Float[Array, "*batch H"]
    """The output, which the next layer reads."""
    c: Float[Array, "*batch H"]
    """The memory, changed only by gates."""

    __repr__ = repr_of_arrays


def lstm_advance(
    params: LSTMParams,
    state: LSTMState,
    u: Float[Array, "*batch GH"],
    activation: Activation = jnp.tanh,
    gate_activation: Activation = sigmoid,
    memory_activation: Activation | None = None,
) -> LSTMState:
    """The memory is scaled by f, never multiplied by a matrix: c_t = f_t ⊙ c_{t−1} + i_t ⊙ g_t.

    i_t = σ(u_i + W_hi h_{t−1})
    f_t = σ(u_f + W_hf h_{t−1})
    o_t = σ(u_o + W_ho h_{t−1})
    g_t = φ(u_g + W_hg h_{t−1})
    h_t = o_t ⊙ φ(c_t),     with u_t = W_xh x_t + b_h and φ = tanh.
    """
    h, c = state
    i, f, o, g = jnp.split(
        u + recurrent_product(h, params.W_hh), 4, axis=-1
    )  # one sigmoid over i f o is slower on a CPU
    i, f, o, g = gate_activation(i), gate_activation(f), gate_activation(o), activation(g)
    c = f * c + i * g
    return LSTMState(h=o * (memory_activation or activation)(c), c=c)


def bind_memory(
    params_type: Callable[..., Params],
    advance: Callable[[Any, Any, Any], State],
    gates: int,
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = 1.0,
    **inits: Unpack[Inits],
) -> Cell:
    """``bind_cell`` for cells with a memory: the state is ``LSTMState``, the output h, and forget_bias is added to b_f.

    The forget gate is the second of four (i f o g) or the first of three (f o g).
    """
    require_finite_number(forget_bias=forget_bias)
    cell = bind_cell(params_type, advance, gates, input_size, hidden_size, **inits)
    f = hidden_size * (gates - 3)

    def init(key: PRNGKeyArray) -> Params:
        params = cell.init(key)
        return params._replace(b_h=params.b_h.at[f : f + hidden_size].add(forget_bias))

    def start(params: Params, batch_shape: tuple[int, ...] = ()) -> LSTMState:
        return LSTMState(h=cell.start(params, batch_shape), c=cell.start(params, batch_shape))  # both can be donated

    return cell._replace(init=init, start=start, output=lambda params, state: state.h)


@factory
def lstm(
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = 1.0,
    activation: str | Activation = "tanh",
    gate_activation: str | Activation = "sigmoid",
    memory_activation: str | Activation | None = None,
    input_init: Initializer = scaled_normal(),
    recurrent_init: Initializer = orthogonal(),
    bias_init: Initializer = zeros,
    dtype: DTypeLike = float,
) -> Cell:
    """The long short-term memory; the equations stand at ``lstm_advance``.

    Args:
        input_size: I, features of x_t, or the number of ids, for which ``input_init=unit_normal()`` is right.
        hidden_size: H, units of h_t and of c_t.
        forget_bias: added to the forget gate's part of ``b_h`` at initialisation, and trained with it. A fresh memory
            keeps σ(forget_bias) of itself at each step: 1.0 halves it in 2.2 steps, 5.0 in 103.
        activation: φ of the candidate and of the memory, a name in ``ACTIVATIONS`` or any elementwise function.
        gate_activation: of the three gates, likewise.
        memory_activation: of c_t in the equation of h_t, where it is not to be φ too.
        input_init, recurrent_init, bias_init: how each gate's block of ``W_xh (I, 4·H)``, ``W_hh (H, 4·H)`` and
            ``b_h (4·H,)`` begins; gates i f o g.
        dtype: of the params and the state.

    Raises:
        ValueError: for a size below 1, a forget_bias that is not finite, or the name of an unknown activation.

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
    functions = lstm_activations(activation, gate_activation, memory_activation)
    inits = Inits(input_init=input_init, recurrent_init=recurrent_init, bias_init=bias_init, dtype=dtype)

    def advance(params: LSTMParams, state: LSTMState, u: Float[Array, "*batch GH"]) -> LSTMState:
        return lstm_advance(params, state, u, *functions)

    return bind_memory(LSTMParams, advance, 4, input_size, hidden_size, forget_bias=forget_bias, **inits)


@factory
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
