"""Variants of the LSTM, each with its own short equation; gates i f o g, as in ``lstm``.

All but the layer-normalised one are computed by ``general_lstm_advance``: the compiled gradient of each has the same
operations as that of its own equations, or fewer.
"""

import math
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jaxtyping import Array, Float, Num, PRNGKeyArray

from rnn_jax.cells.activations import Activation, lstm_activations
from rnn_jax.cells.affine import project_input, recurrent_product
from rnn_jax.cells.binding import Inits
from rnn_jax.cells.lstm_combinations import (
    GeneralLSTMParams,
    general_lstm_advance,
    normalised,
    projected_start,
    require_clip,
    require_epsilon,
    require_projection,
)
from rnn_jax.cells.lstms import LSTMParams, LSTMState, bind_memory, lstm
from rnn_jax.initializers import StateReader, orthogonal, per_gate, scaled_normal
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
    functions = activation, gate_activation, memory_activation
    return general_lstm_advance(GeneralLSTMParams(**params._asdict()), state, u, *functions)


def cifg_lstm_advance(params: CIFGParams, state: LSTMState, u: Float[Array, "*batch GH"]) -> LSTMState:
    """The input gate is coupled to the forget gate: i_t = 1 − f_t.

    f_t = σ(u_f + W_hf h_{t−1})
    o_t = σ(u_o + W_ho h_{t−1})
    g_t = tanh(u_g + W_hg h_{t−1})
    c_t = f_t ⊙ c_{t−1} + (1 − f_t) ⊙ g_t
    h_t = o_t ⊙ tanh(c_t),     with u_t = W_xh x_t + b_h.
    """
    return general_lstm_advance(GeneralLSTMParams(**params._asdict()), state, u)


def clipped_lstm_advance(
    params: LSTMParams, state: LSTMState, u: Float[Array, "*batch GH"], cell_clip: float
) -> LSTMState:
    """The equations of ``lstm_advance``, with c_t = clip(f_t ⊙ c_{t−1} + i_t ⊙ g_t, −cell_clip, cell_clip)."""
    return general_lstm_advance(GeneralLSTMParams(**params._asdict()), state, u, cell_clip=cell_clip)


def projected_lstm_advance(
    params: ProjectedLSTMParams,
    state: LSTMState,
    u: Float[Array, "*batch GH"],
    cell_clip: float = math.inf,
    projection_clip: float = math.inf,
) -> LSTMState:
    """The equations of ``clipped_lstm_advance``, with h_t = clip(W_hp (o_t ⊙ tanh(c_t))) of P < H numbers."""
    general = GeneralLSTMParams(**params._asdict())
    return general_lstm_advance(general, state, u, cell_clip=cell_clip, projection_clip=projection_clip)


def layer_norm_lstm_advance(
    params: LayerNormLSTMParams, state: LSTMState, u: Float[Array, "*batch GH"], epsilon: float = 1e-5
) -> LSTMState:
    """The terms from x, from h and from the memory are normalised separately; the memory itself is not.

    (i, f, o, g)_t = LN(W_hh h_{t−1}; α_h) + u_t,     with u_t = LN(W_xh x_t; α_x) + b_h
    c_t = σ(f_t) ⊙ c_{t−1} + σ(i_t) ⊙ tanh(g_t)
    h_t = σ(o_t) ⊙ tanh(LN(c_t; α_c) + β_c).
    """
    h, c = state
    i, f, o, g = jnp.split(u + normalised(recurrent_product(h, params.W_hh), params.scale_h, epsilon), 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    normed = normalised(c, params.scale_c, epsilon) + jnp.broadcast_to(params.shift_c, c.shape)
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

    Arguments and errors are those of ``lstm``, without its activations; gates f o g. With other activations, or with
    peepholes, it is ``general_lstm(..., coupled=True)``.

    Reference: Greff, Srivastava, Koutník, Steunebrink, Schmidhuber. LSTM: a search space odyssey. 2017;
    without its peepholes.
    """
    return bind_memory(CIFGParams, cifg_lstm_advance, 3, input_size, hidden_size, forget_bias=forget_bias, **inits)


@factory
def clipped_lstm(
    input_size: int, hidden_size: int, *, cell_clip: float, forget_bias: float = 1.0, **inits: Unpack[Inits]
) -> Cell:
    """The LSTM whose memory is clipped to [−cell_clip, cell_clip] at each step.

    Arguments and errors are those of ``lstm``, without its activations, and a ValueError for a cell_clip that is not
    positive. With other activations it is ``general_lstm(..., cell_clip=cell_clip)``.

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

    With other activations or with a bias it is ``general_lstm(..., projection_size=P)``.

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

    return cell._replace(init=init, start=projected_start(cell, projection_size), advance=advance)


@factory
def layer_norm_lstm(
    input_size: int, hidden_size: int, *, epsilon: float = 1e-5, forget_bias: float = 1.0, **inits: Unpack[Inits]
) -> Cell:
    """The layer-normalised LSTM; the equations stand at ``layer_norm_lstm_advance``.

    Arguments and errors are those of ``lstm``, without its activations; gains begin at 1. ``epsilon`` is ε, which is
    added to each variance: a ValueError for one that is not positive.

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
        u = normalised(project_input(x, params.W_xh, jnp.zeros_like(params.b_h)), params.scale_x, epsilon)
        return u + jnp.broadcast_to(params.b_h, u.shape)

    def advance(params: LayerNormLSTMParams, state: LSTMState, u: Float[Array, "*batch GH"]) -> LSTMState:
        return layer_norm_lstm_advance(params, state, u, epsilon)

    return cell._replace(init=init, project=project, advance=advance)
