"""The convolutional LSTM, over one, two or three axes of space."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from rnn_jax.cells.activations import Activation, lstm_activations
from rnn_jax.cells.affine import masked_state
from rnn_jax.cells.binding import zeros_before
from rnn_jax.cells.lstms import LSTMState
from rnn_jax.initializers import per_gate, scaled_normal, zeros
from rnn_jax.machinery.checks import MisfitError, in_one_line, require_dtype, require_finite_number, require_positive
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.types import Cell, Initializer

__all__ = ["ConvLSTMParams", "conv_lstm"]


Padding = Literal["same", "valid"]


class ConvLSTMParams(NamedTuple):
    """The kernels of a convolutional LSTM; gates i f o g along the last axis."""

    W_xh: Float[Array, "*kernel I 4*H"]
    W_hh: Float[Array, "*kernel H 4*H"]
    b_h: Float[Array, " 4*H"]

    __repr__ = repr_of_arrays


def conv_lstm_advance(
    params: ConvLSTMParams,
    state: LSTMState,
    u: Float[Array, "*batch_and_space GH"],
    activation: Activation = jnp.tanh,
    gate_activation: Activation = sigmoid,
    memory_activation: Activation = jnp.tanh,
) -> LSTMState:
    """The equations of ``lstm_advance``, with convolutions ∗ in place of products.

    i_t = σ(u_i + W_hi ∗ h_{t−1})
    f_t = σ(u_f + W_hf ∗ h_{t−1})
    o_t = σ(u_o + W_ho ∗ h_{t−1})
    g_t = tanh(u_g + W_hg ∗ h_{t−1})
    c_t = f_t ⊙ c_{t−1} + i_t ⊙ g_t
    h_t = o_t ⊙ tanh(c_t),     with u_t = W_xh ∗ x_t + b_h.
    """
    h, c = state
    i, f, o, g = jnp.split(u + convolve(*masked_state(h, params.W_hh)), 4, axis=-1)
    c = gate_activation(f) * c + gate_activation(i) * activation(g)
    return LSTMState(h=gate_activation(o) * memory_activation(c), c=c)


def convolve(x: Float[Array, "..."], W: Float[Array, "..."], padding: Padding = "same") -> Float[Array, "..."]:
    """W ∗ x with zeros past the border, so that space keeps its shape, or where the kernel lies inside space.

    Args:
        x: ``(*batch, *space, I)``.
        W: ``(*kernel, I, O)``, with as many axes of kernel as of space.
        padding: "same" or "valid".

    Returns:
        ``(*batch, *space, O)``; with "valid" each axis of space has k − 1 places less.
    """
    axes = W.ndim - 2
    batch = x.shape[: -axes - 1]
    axis_names = "DHW"[-axes:]
    y = jax.lax.conv_general_dilated(
        widened(x.reshape(-1, *x.shape[-axes - 1 :])),
        widened(W),
        window_strides=(1,) * axes,
        padding=padding.upper(),
        dimension_numbers=(f"N{axis_names}C", f"{axis_names}IO", f"N{axis_names}C"),
    )
    return y.reshape(*batch, *y.shape[1:]).astype(x.dtype)


@factory
def conv_lstm(
    input_size: int,
    hidden_size: int,
    *,
    space: tuple[int, ...],
    kernel_size: int = 3,
    padding: Padding = "same",
    forget_bias: float = 1.0,
    activation: str | Activation = "tanh",
    gate_activation: str | Activation = "sigmoid",
    memory_activation: str | Activation | None = None,
    input_init: Initializer = scaled_normal(),
    recurrent_init: Initializer = scaled_normal(),
    bias_init: Initializer = zeros,
    dtype: DTypeLike = float,
) -> Cell:
    """The convolutional LSTM; the equations stand at ``conv_lstm_advance``.

    Args:
        input_size: I, channels of x_t ``(*batch, *space, I)``.
        hidden_size: H, channels of h_t and c_t ``(*batch, *space, H)``.
        space: the shape of one, two or three axes of space of x_t.
        kernel_size: k, the kernels' width along each of them; odd, so that it has a middle.
        padding: of x_t, "same" with zeros past the border, or "valid" without: each axis of space of h_t and c_t has
            then k − 1 places less. The state is always padded with zeros.
        forget_bias, activation, gate_activation, memory_activation: as in ``lstm``.
        input_init, recurrent_init, bias_init: how each gate's block of ``W_xh (*kernel, I, 4·H)``,
            ``W_hh (*kernel, H, 4·H)`` and ``b_h (4·H,)`` begins.
        dtype: of the params and the state.

    Raises:
        ValueError: for a size below 1, an even kernel, other than one to three axes of space, an unknown padding, a
            kernel that does not fit into space without padding, a forget_bias that is not finite, or the name of an
            unknown activation.

    Reference: Shi, Chen, Wang, Yeung, Wong, Woo. Convolutional LSTM network: a machine learning approach for
    precipitation nowcasting. 2015; without its peepholes.
    """
    require_positive(input_size=input_size, hidden_size=hidden_size, kernel_size=kernel_size)
    require_space(space, kernel_size)
    state_space = space_of_state(space, kernel_size, padding)
    functions = lstm_activations(activation, gate_activation, memory_activation)
    require_finite_number(forget_bias=forget_bias)
    require_dtype(dtype)
    axes = len(space)
    kernel = (kernel_size,) * axes

    def init(key: PRNGKeyArray) -> ConvLSTMParams:
        k_x, k_h, k_b = jax.random.split(key, 3)
        b_h = per_gate(bias_init, 4)(k_b, (4 * hidden_size,), dtype)
        return ConvLSTMParams(
            W_xh=per_gate(input_init, 4)(k_x, (*kernel, input_size, 4 * hidden_size), dtype),
            W_hh=per_gate(recurrent_init, 4)(k_h, (*kernel, hidden_size, 4 * hidden_size), dtype),
            b_h=b_h.at[hidden_size : 2 * hidden_size].add(forget_bias),
        )

    def start(params: ConvLSTMParams, batch_shape: tuple[int, ...] = ()) -> LSTMState:
        h, c = (zeros_before(params, batch_shape, *state_space, hidden_size) for _ in range(2))  # both can be donated
        return LSTMState(h=h, c=c)

    def project(params: ConvLSTMParams, x: Float[Array, "..."]) -> Float[Array, "..."]:
        if x.shape[-axes - 1 :] != (*space, input_size):
            raise MisfitError(
                f"xs got shape (T, {', '.join(map(str, x.shape))}); want (T, *batch, {', '.join(map(str, space))}, "
                f"{input_size}): {input_size} features on the last axis, after space"
            )
        u = convolve(x, params.W_xh, padding)
        return u + jnp.broadcast_to(params.b_h, u.shape)

    def advance(params: ConvLSTMParams, state: LSTMState, u: Float[Array, "*batch_and_space GH"]) -> LSTMState:
        return conv_lstm_advance(params, state, u, *functions)

    return Cell(init, start, project, advance, output=lambda params, state: state.h)


def require_space(space: tuple[int, ...], kernel_size: int) -> None:
    """Raises a ValueError unless there are one to three axes of space and a kernel with a middle."""
    if not isinstance(space, tuple | list) or len(space) not in (1, 2, 3):
        raise ValueError(f"space got {space}; want one, two or three positive lengths, for example (8, 8)")
    for length in space:
        require_positive(space=length)
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size got {kernel_size}; want an odd width, for example 3")


def space_of_state(space: tuple[int, ...], kernel_size: int, padding: Padding) -> tuple[int, ...]:
    """The axes of space of the state; a ValueError for an unknown padding, or a kernel wider than space without it.

    >>> space_of_state((8, 6), 3, "valid")
    (6, 4)
    """
    if not isinstance(padding, str) or padding not in get_args(Padding):
        raise ValueError(f"padding got {in_one_line(padding)}; want 'same' or 'valid'")
    if padding == "same":
        return tuple(space)
    if kernel_size > min(space):
        raise ValueError(f"kernel_size got {kernel_size}; want at most {min(space)}, the least of space {space}")
    return tuple(length - kernel_size + 1 for length in space)
