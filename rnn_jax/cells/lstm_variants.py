"""Variants of the LSTM, each with its own short equation; gates i f o g, as in ``lstm``."""

import math
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jaxtyping import Array, Float, Num, PRNGKeyArray

from rnn_jax.cells.activations import Activation, complementary, lstm_activations
from rnn_jax.cells.affine import product, project_input, recurrent_product
from rnn_jax.cells.binding import Inits
from rnn_jax.cells.lstms import LSTMParams, LSTMState, bind_memory, lstm
from rnn_jax.initializers import StateReader, orthogonal, per_gate, scaled_normal
from rnn_jax.machinery.checks import require_number, require_positive
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.types import Cell, Initializer

__all__ = [
    "CIFGParams",
    "LayerNormLSTMParams",
    "PeepholeLSTMParams",
    "ProjectedLSTMParams",
    "cifg_lstm",
    "clipped_lstm",
    "layer_norm_lstm",
    "peephole_lstm",
    "projected_lstm",
]


class PeepholeLSTMParams(NamedTuple):
    """The weights of an LSTM whose gates read the memory; gates i f o g, peepholes i f o."""

    W_xh: Float[Array, "I 4*H"]
    W_hh: Float[Array, "H 4*H"]
    b_h: Float[Array, " 4*H"]
    w_ch: Float[Array, " 3*H"]
    """One weight from each memory to each of its own gates."""

    __repr__ = repr_of_arrays


class CIFGParams(NamedTuple):
    """The weights of an LSTM whose input gate is 1 minus the forget gate; gates f o g."""

    W_xh: Float[Array, "I 3*H"]
    W_hh: Float[Array, "H 3*H"]
    b_h: Float[Array, " 3*H"]

    __repr__ = repr_of_arrays


class ProjectedLSTMParams(NamedTuple):
    """The weights of an LSTM whose output is projected; gates i f o g, P the projection's size."""

    W_xh: Float[Array, "I 4*H"]
    W_hh: Float[Array, "P 4*H"]
    b_h: Float[Array, " 4*H"]
    W_hp: Float[Array, "H P"]

    __repr__ = repr_of_arrays


class LayerNormLSTMParams(NamedTuple):
    """The weights of a layer-normalised LSTM; gates i f o g."""

    W_xh: Float[Array, "I 4*H"]
    W_hh: Float[Array, "H 4*H"]
    b_h: Float[Array, " 4*H"]
    scale_x: Float[Array, " 4*H"]
    """Gain α of the terms from x."""
    scale_h: Float[Array, " 4*H"]
    """Gain α of the terms from h."""
    scale_c: Float[Array, " H"]
    """Gain α of the memory in the equation of h."""
    shift_c: Float[Array, " H"]
    """Bias β of the memory in the equation of h."""

    __repr__ = repr_of_arrays


def peephole_lstm_advance(
    params: PeepholeLSTMParams,
    state: LSTMState,
    u: Float[Array, "*batch GH"],
    activation: Activation = jnp.tanh,
    gate_activation: Activation = sigmoid,
    memory_activation: Activation = jnp.tanh,
) -> LSTMState:
    """The gates read the memory: i and f that of the step before, o that of this step.

    i_t = σ(u_i + W_hi h_{t−1} + w_ci ⊙ c_{t−1})
    f_t = σ(u_f + W_hf h_{t−1} + w_cf ⊙ c_{t−1})
    g_t = tanh(u_g + W_hg h_{t−1})
    c_t = f_t ⊙ c_{t−1} + i_t ⊙ g_t
    o_t = σ(u_o + W_ho h_{t−1} + w_co ⊙ c_t)
    h_t = o_t ⊙ tanh(c_t),     with u_t = W_xh x_t + b_h.
    """
    h, c = state
    i, f, o, g = jnp.split(u + recurrent_product(h, params.W_hh), 4, axis=-1)
    w_ci, w_cf, w_co = (jnp.broadcast_to(w, c.shape) for w in jnp.split(params.w_ch, 3))
    c = gate_activation(f + w_cf * c) * c + gate_activation(i + w_ci * c) * activation(g)
    return LSTMState(h=gate_activation(o + w_co * c) * memory_activation(c), c=c)


def cifg_lstm_advance(params: CIFGParams, state: LSTMState, u: Float[Array, "*batch GH"]) -> LSTMState:
    """The input gate is coupled to the forget gate: i_t = 1 − f_t.

    f_t = σ(u_f + W_hf h_{t−1})
    o_t = σ(u_o + W_ho h_{t−1})
    g_t = tanh(u_g + W_hg h_{t−1})
    c_t = f_t ⊙ c_{t−1} + (1 − f_t) ⊙ g_t
    h_t = o_t ⊙ tanh(c_t),     with u_t = W_xh x_t + b_h.
    """
    h, c = state
    f, o, g = jnp.split(u + recurrent_product(h, params.W_hh), 3, axis=-1)
    f, rest = complementary(f)
    c = f * c + rest * jnp.tanh(g)
    return LSTMState(h=sigmoid(o) * jnp.tanh(c), c=c)


def clipped_lstm_advance(
    params: LSTMParams, state: LSTMState, u: Float[Array, "*batch GH"], cell_clip: float
) -> LSTMState:
    """The equations of ``lstm_advance``, with c_t = clip(f_t ⊙ c_{t−1} + i_t ⊙ g_t, −cell_clip, cell_clip)."""
    h, c = state
    i, f, o, g = jnp.split(u + recurrent_product(h, params.W_hh), 4, axis=-1)
    c = jnp.clip(sigmoid(f) * c + sigmoid(i) * jnp.tanh(g), -cell_clip, cell_clip)
    return LSTMState(h=sigmoid(o) * jnp.tanh(c), c=c)


def projected_lstm_advance(
    params: ProjectedLSTMParams,
    state: LSTMState,
    u: Float[Array, "*batch GH"],
    cell_clip: float = math.inf,
    projection_clip: float = math.inf,
) -> LSTMState:
    """The equations of ``clipped_lstm_advance``, with h_t = clip(W_hp (o_t ⊙ tanh(c_t))) of P < H numbers."""
    full = clipped_lstm_advance(LSTMParams(*params[:3]), state, u, cell_clip)
    return LSTMState(h=jnp.clip(product(full.h, params.W_hp), -projection_clip, projection_clip), c=full.c)


def layer_norm(
    a: Float[Array, "*batch H"], scale: Float[Array, " H"], epsilon: float = 1e-5
) -> Float[Array, "*batch H"]:
    """α ⊙ (a − mean) / √(variance + ε) over the last axis."""
    a = a - jnp.broadcast_to(jnp.mean(a, axis=-1, keepdims=True), a.shape)
    variance = jnp.mean(a * a, axis=-1, keepdims=True)
    return jnp.broadcast_to(scale, a.shape) * a * jnp.broadcast_to(jax.lax.rsqrt(variance + epsilon), a.shape)


def layer_norm_lstm_advance(
    params: LayerNormLSTMParams, state: LSTMState, u: Float[Array, "*batch GH"], epsilon: float = 1e-5
) -> LSTMState:
    """The terms from x, from h and from the memory are normalised separately; the memory itself is not.

    (i, f, o, g)_t = LN(W_hh h_{t−1}; α_h) + u_t,     with u_t = LN(W_xh x_t; α_x) + b_h
    c_t = σ(f_t) ⊙ c_{t−1} + σ(i_t) ⊙ tanh(g_t)
    h_t = σ(o_t) ⊙ tanh(LN(c_t; α_c) + β_c).
    """
    h, c = state
    i, f, o, g = jnp.split(u + layer_norm(recurrent_product(h, params.W_hh), params.scale_h, epsilon), 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    normed = layer_norm(c, params.scale_c, epsilon) + jnp.broadcast_to(params.shift_c, c.shape)
    return LSTMState(h=sigmoid(o) * jnp.tanh(normed), c=c)


@factory
def peephole_lstm(
    input_size: int,
    hidden_size: int,
    *,
    peephole_init: Initializer = scaled_normal(0.1),
    forget_bias: float = 1.0,
    activation: str | Activation = "tanh",
    gate_activation: str | Activation = "sigmoid",
    memory_activation: str | Activation | None = None,
    **inits: Unpack[Inits],
) -> Cell:
    """The LSTM with peepholes; the equations stand at ``peephole_lstm_advance``.

    Args:
        input_size, hidden_size, forget_bias, activation, gate_activation, memory_activation, inits: as in ``lstm``.
        peephole_init: how each gate's block of ``w_ch (3·H,)`` begins.

    Raises:
        ValueError: for a size below 1, or the name of an unknown activation.

    Reference: Gers, Schmidhuber. Recurrent nets that time and count. 2000.
    """
    functions = lstm_activations(activation, gate_activation, memory_activation)
    cell = lstm(input_size, hidden_size, forget_bias=forget_bias, **inits)

    def init(key: PRNGKeyArray) -> PeepholeLSTMParams:
        k_cell, k_c = jax.random.split(key)
        params = cell.init(k_cell)
        return PeepholeLSTMParams(*params, w_ch=per_gate(peephole_init, 3)(k_c, (3 * hidden_size,), params.b_h.dtype))

    def advance(params: PeepholeLSTMParams, state: LSTMState, u: Float[Array, "*batch GH"]) -> LSTMState:
        return peephole_lstm_advance(params, state, u, *functions)

    return cell._replace(init=init, advance=advance)


@factory
def cifg_lstm(input_size: int, hidden_size: int, *, forget_bias: float = 1.0, **inits: Unpack[Inits]) -> Cell:
    """The LSTM with coupled input and forget gates; the equations stand at ``cifg_lstm_advance``.

    Arguments and errors are those of ``lstm``; gates f o g.

    Reference: Greff, Srivastava, Koutník, Steunebrink, Schmidhuber. LSTM: a search space odyssey. 2017;
    without its peepholes.
    """
    return bind_memory(CIFGParams, cifg_lstm_advance, 3, input_size, hidden_size, forget_bias=forget_bias, **inits)


@factory
def clipped_lstm(
    input_size: int, hidden_size: int, *, cell_clip: float, forget_bias: float = 1.0, **inits: Unpack[Inits]
) -> Cell:
    """The LSTM whose memory is clipped to [−cell_clip, cell_clip] at each step.

    Arguments and errors are those of ``lstm``, and a ValueError for a cell_clip that is not positive.

    Reference: Sak, Senior, Beaufays. Long short-term memory recurrent neural network architectures for large scale
    acoustic modeling. 2014; without its peepholes.
    """
    require_clip(cell_clip=cell_clip)
    cell = lstm(input_size, hidden_size, forget_bias=forget_bias, **inits)
    return cell._replace(advance=lambda params, state, u: clipped_lstm_advance(params, state, u, cell_clip))


@factory
def projected_lstm(
    input_size: int,
    hidden_size: int,
    *,
    projection_size: int,
    projection_clip: float = math.inf,
    cell_clip: float = math.inf,
    forget_bias: float = 1.0,
    projection_init: Initializer = scaled_normal(),
    **inits: Unpack[Inits],
) -> Cell:
    """The LSTM whose output is projected to fewer numbers: W_hh is ``(P, 4·H)``, the state ``(h: P, c: H)``.

    Args:
        input_size, hidden_size, forget_bias, inits: as in ``lstm``; ``recurrent_init`` makes blocks ``(P, H)``.
        projection_size: P, at most H.
        projection_clip, cell_clip: bounds of h_t and of c_t; none without them.
        projection_init: how ``W_hp (H, P)`` begins.

    Raises:
        ValueError: for a size below 1, a projection larger than the hidden size, or a clip that is not positive.

    Reference: Sak, Senior, Beaufays. Long short-term memory recurrent neural network architectures for large scale
    acoustic modeling. 2014; without its peepholes.
    """
    require_projection(hidden_size, projection_size)
    require_clip(projection_clip=projection_clip, cell_clip=cell_clip)

    def advance(params: ProjectedLSTMParams, state: LSTMState, u: Float[Array, "*batch GH"]) -> LSTMState:
        return projected_lstm_advance(params, state, u, cell_clip, projection_clip)

    cell = lstm(input_size, hidden_size, forget_bias=forget_bias, **inits)
    recurrent_init = per_gate(inits.get("recurrent_init", orthogonal()), 4)
    down = StateReader(hidden_size, projection_size)

    def init(key: PRNGKeyArray) -> ProjectedLSTMParams:
        k_cell, k_h, k_p = jax.random.split(key, 3)
        W_xh, _, b_h = cell.init(k_cell)
        W_hh = recurrent_init(k_h, (projection_size, 4 * hidden_size), b_h.dtype)
        return ProjectedLSTMParams(W_xh, W_hh, b_h, projection_init(k_p, down, b_h.dtype))

    def start(params: ProjectedLSTMParams, batch_shape: tuple[int, ...] = ()) -> LSTMState:
        full = cell.start(params, batch_shape)
        return full._replace(h=full.h[..., :projection_size])

    return cell._replace(init=init, start=start, advance=advance)


@factory
def layer_norm_lstm(
    input_size: int, hidden_size: int, *, epsilon: float = 1e-5, forget_bias: float = 1.0, **inits: Unpack[Inits]
) -> Cell:
    """The layer-normalised LSTM; the equations stand at ``layer_norm_lstm_advance``.

    Arguments and errors are those of ``lstm``; gains begin at 1. ``epsilon`` is ε, which is added to each variance:
    a ValueError for one that is not positive.

    Reference: Ba, Kiros, Hinton. Layer normalization. 2016.
    """
    require_epsilon(epsilon)
    cell = lstm(input_size, hidden_size, forget_bias=forget_bias, **inits)

    def init(key: PRNGKeyArray) -> LayerNormLSTMParams:
        params = cell.init(key)
        gain = jnp.ones_like(params.b_h)
        one = gain[:hidden_size]
        scales = {"scale_x": gain, "scale_h": jnp.ones_like(gain), "scale_c": one}  # no array twice: all can be donated
        return LayerNormLSTMParams(*params, **scales, shift_c=jnp.zeros_like(one))

    def project(params: LayerNormLSTMParams, x: Num[Array, "..."]) -> Float[Array, "*batch GH"]:
        u = layer_norm(project_input(x, params.W_xh, jnp.zeros_like(params.b_h)), params.scale_x, epsilon)
        return u + jnp.broadcast_to(params.b_h, u.shape)

    def advance(params: LayerNormLSTMParams, state: LSTMState, u: Float[Array, "*batch GH"]) -> LSTMState:
        return layer_norm_lstm_advance(params, state, u, epsilon)

    return cell._replace(init=init, project=project, advance=advance)


def require_clip(**clips: float) -> None:
    """Raises a ValueError that names the first clip which is not positive."""
    for name, clip in clips.items():
        require_number(name, clip, lambda c: c > 0, "a positive bound, or none", may_be_traced=True)


def require_projection(hidden_size: int, projection_size: int) -> None:
    """Raises a ValueError unless a projection makes h smaller."""
    require_positive(hidden_size=hidden_size, projection_size=projection_size)
    if projection_size > hidden_size:
        raise ValueError(
            f"projection_size got {projection_size}; want at most hidden_size {hidden_size}: h gets smaller"
        )


def require_epsilon(epsilon: float) -> None:
    """Raises a ValueError unless ε of a layer norm is a positive number."""
    require_number("epsilon", epsilon, lambda e: 0 < e < math.inf, "a small positive number, such as 1e-5")
