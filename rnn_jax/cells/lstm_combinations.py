"""The LSTM with any combination of coupled gates, peepholes, layer norm, projection, clips and activations."""

import math
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jaxtyping import Array, Float, Num, PRNGKeyArray

from rnn_jax.cells.activations import Activation, lstm_activations, with_complement
from rnn_jax.cells.affine import add_bias, affine, product, project_input, recurrent_product
from rnn_jax.cells.binding import Inits
from rnn_jax.cells.lstms import LSTMState, bind_memory
from rnn_jax.initializers import StateReader, orthogonal, per_gate, scaled_normal
from rnn_jax.machinery.checks import require_number, require_positive, require_switch
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_arrays, short_text
from rnn_jax.types import Cell, Initializer, Start

__all__ = ["GeneralLSTMParams", "general_lstm"]


class GeneralLSTMParams(NamedTuple):
    """The weights of a general LSTM, None for what it does not have; gates i f o g, or f o g where i is coupled to f.

    G is the number of gates, P the projection's size, which is H without a projection.
    """

    W_xh: Float[Array, "I G*H"]
    W_hh: Float[Array, "P G*H"]
    b_h: Float[Array, " G*H"]
    w_ch: Float[Array, " (G-1)*H"] | None = None
    """Peepholes, one weight from each memory to each of its own gates: i f o, or f o."""
    scale: Float[Array, " G*H"] | None = None
    """Gain α of the normalised sums."""
    W_hp: Float[Array, "H P"] | None = None
    b_p: Float[Array, " P"] | None = None

    __repr__ = repr_of_arrays


def general_lstm_advance(
    params: GeneralLSTMParams,
    state: LSTMState,
    u: Float[Array, "*batch GH"],
    activation: Activation = jnp.tanh,
    gate_activation: Activation = sigmoid,
    memory_activation: Activation = jnp.tanh,
    *,
    cell_clip: float = math.inf,
    projection_clip: float = math.inf,
    epsilon: float = 1e-5,
) -> LSTMState:
    """The equations of the LSTM with every option; a term is left out where its params are None.

    i_t = σ(N(u_i + W_hi h_{t−1} + w_ci ⊙ c_{t−1})), or 1 − f_t where it is coupled
    f_t = σ(N(u_f + W_hf h_{t−1} + w_cf ⊙ c_{t−1}))
    g_t = φ(N(u_g + W_hg h_{t−1}))
    c_t = clip(f_t ⊙ c_{t−1} + i_t ⊙ g_t)
    o_t = σ(N(u_o + W_ho h_{t−1} + w_co ⊙ c_t))
    h_t = clip(W_hp (o_t ⊙ ψ(c_t)) + b_p)
    u_t = W_xh x_t + b_h and N(a) = a; with layer norm u_t = W_xh x_t and N(a) = LN(a; α) + b_h
    """
    h, c = state
    gates = "fog" if params.b_h.size == 3 * c.shape[-1] else "ifog"
    sums = by_gate(gates, u + recurrent_product(h, params.W_hh))
    peepholes = {} if params.w_ch is None else by_gate(gates[:-1], params.w_ch)
    scales = {} if params.scale is None else by_gate(gates, params.scale)
    biases = by_gate(gates, params.b_h)

    def normed(gate: str, c: Array) -> Array:
        """N of the sum that a gate or the candidate reads."""
        a = sums[gate]
        if gate in peepholes:
            a = a + jnp.broadcast_to(peepholes[gate], c.shape) * c
        return add_bias(normalised(a, scales[gate], epsilon), biases[gate]) if scales else a

    if "i" in gates:
        f, i = gate_activation(normed("f", c)), gate_activation(normed("i", c))
    else:
        f, i = with_complement(gate_activation)(normed("f", c))
    c = bounded(f * c + i * activation(normed("g", c)), cell_clip)
    h = gate_activation(normed("o", c)) * memory_activation(c)
    if params.W_hp is not None:
        h = product(h, params.W_hp) if params.b_p is None else affine(h, params.W_hp, params.b_p)
    return LSTMState(h=bounded(h, projection_clip), c=c)


def bounded(a: Float[Array, "*batch H"], bound: float) -> Float[Array, "*batch H"]:
    """a clipped to [−bound, bound]; a itself where the bound is ∞."""
    return a if is_infinite(bound) else jnp.clip(a, -bound, bound)


def is_infinite(bound: Any) -> bool:
    """Whether a bound is ∞; a traced one is not."""
    return isinstance(bound, float) and bound == math.inf


def by_gate(gates: str, a: Array) -> dict[str, Array]:
    """The block of each gate, along the last axis."""
    return dict(zip(gates, jnp.split(a, len(gates), axis=-1), strict=True))


def normalised(
    a: Float[Array, "*batch H"], scale: Float[Array, " H"], epsilon: float = 1e-5
) -> Float[Array, "*batch H"]:
    """α ⊙ (a − mean) / √(variance + ε) over the last axis."""
    a = a - jnp.broadcast_to(jnp.mean(a, axis=-1, keepdims=True), a.shape)
    variance = jnp.mean(a * a, axis=-1, keepdims=True)
    return jnp.broadcast_to(scale, a.shape) * a * jnp.broadcast_to(jax.lax.rsqrt(variance + epsilon), a.shape)


PEEPHOLES, PROJECTION = scaled_normal(0.1), scaled_normal()
"""How peepholes and a projection begin by default."""


@factory
def general_lstm(
    input_size: int,
    hidden_size: int,
    *,
    coupled: bool = False,
    peepholes: bool = False,
    layer_norm: bool = False,
    projection_size: int | None = None,
    projection_bias: bool = False,
    activation: str | Activation = "tanh",
    gate_activation: str | Activation = "sigmoid",
    memory_activation: str | Activation | None = None,
    cell_clip: float = math.inf,
    projection_clip: float = math.inf,
    epsilon: float | None = None,
    forget_bias: float = 1.0,
    peephole_init: Initializer = PEEPHOLES,
    projection_init: Initializer = PROJECTION,
    **inits: Unpack[Inits],
) -> Cell:
    """The LSTM with any combination of its variants; the equations stand at ``general_lstm_advance``.

    Without options it is ``lstm``, and with one of them ``cifg_lstm``, ``peephole_lstm``, ``projected_lstm`` or
    ``clipped_lstm``, whose params have fewer fields. Its layer norm is not that of ``layer_norm_lstm``: each gate's sum
    of all terms is normalised alone, and the memory is not.

    Args:
        input_size, hidden_size, forget_bias, inits: as in ``lstm``.
        coupled: i_t = 1 − f_t, and three gates f o g.
        peepholes: i and f read c_{t−1}, o reads c_t.
        layer_norm: each gate's sum is normalised over its H numbers before b_h is added.
        projection_size: P, at most H: h_t has P numbers. None for no projection.
        projection_bias: b_p is added to the projection.
        activation, gate_activation, memory_activation: φ, σ and ψ, as in ``lstm``; ψ is φ without it.
        cell_clip: bound of c_t; none without it.
        projection_clip: bound of the projection h_t; none without it.
        epsilon: ε of the layer norm, which is added to each variance; 1e-5 without it.
        peephole_init, projection_init: how each gate's block of ``w_ch`` and how ``W_hp (H, P)`` begin; gains begin at
            1, b_p at 0.

    Raises:
        ValueError: for a size below 1, a projection larger than the hidden size, an option of a part that the cell
            does not have, such as an epsilon without layer norm, a clip or an epsilon that is not positive, a switch
            that is not True or False, a forget_bias that is not finite, or the name of an unknown activation.

    Example: the LSTM of Sak, Senior and Beaufays, with coupled gates.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import general_lstm, rollout
    >>> cell = general_lstm(input_size=3, hidden_size=5, coupled=True, peepholes=True, projection_size=2)
    >>> params = cell.init(jax.random.key(0))
    >>> params.W_hh.shape, params.w_ch.shape, params.W_hp.shape, params.b_p
    ((2, 15), (10,), (5, 2), None)
    >>> _, states = rollout(cell, params, cell.start(params), jnp.ones((7, 3)))
    >>> states.h.shape, states.c.shape
    ((7, 2), (7, 5))

    Reference: Greff, Srivastava, Koutník, Steunebrink, Schmidhuber. LSTM: a search space odyssey. 2017; Sak, Senior,
    Beaufays. Long short-term memory recurrent neural network architectures for large scale acoustic modeling. 2014.
    """
    require_switch(coupled=coupled, peepholes=peepholes, layer_norm=layer_norm, projection_bias=projection_bias)
    require_clip(cell_clip=cell_clip, projection_clip=projection_clip)
    require_epsilon(1e-5 if epsilon is None else epsilon)
    projected = projection_size is not None
    if projected:
        require_projection(hidden_size, projection_size)
    require_part("peepholes=True", peepholes, peephole_init=peephole_init)
    require_part("layer_norm=True", layer_norm, epsilon=epsilon)
    options = {"projection_bias": bool(projection_bias), "projection_clip": projection_clip}
    require_part("a projection_size", projected, **options, projection_init=projection_init)
    functions = lstm_activations(activation, gate_activation, memory_activation)
    G, P = (3 if coupled else 4), (projection_size or hidden_size)

    def advance(params: GeneralLSTMParams, state: LSTMState, u: Float[Array, "*batch GH"]) -> LSTMState:
        bounds = {"cell_clip": cell_clip, "projection_clip": projection_clip}
        return general_lstm_advance(params, state, u, *functions, **bounds, epsilon=epsilon or 1e-5)

    cell = bind_memory(GeneralLSTMParams, advance, G, input_size, hidden_size, forget_bias=forget_bias, **inits)
    recurrent_init = per_gate(inits.get("recurrent_init", orthogonal()), G)

    def init(key: PRNGKeyArray) -> GeneralLSTMParams:
        k_cell, k_h, k_c, k_p = jax.random.split(key, 4)
        W_xh, W_hh, b_h, *_ = cell.init(k_cell)
        return GeneralLSTMParams(
            W_xh,
            recurrent_init(k_h, (P, b_h.size), b_h.dtype) if projected else W_hh,
            b_h,
            w_ch=per_gate(peephole_init, G - 1)(k_c, ((G - 1) * hidden_size,), b_h.dtype) if peepholes else None,
            scale=jnp.ones_like(b_h) if layer_norm else None,
            W_hp=projection_init(k_p, StateReader(hidden_size, P), b_h.dtype) if projected else None,
            b_p=jnp.zeros(P, b_h.dtype) if projection_bias else None,
        )

    def project(params: GeneralLSTMParams, x: Num[Array, "..."]) -> Float[Array, "*batch GH"]:
        return project_input(x, params.W_xh, params.b_h if params.scale is None else jnp.zeros_like(params.b_h))

    return cell._replace(init=init, start=projected_start(cell, P), project=project)


def projected_start(cell: Cell, P: int) -> Start:
    """The start of an LSTM whose h_t has P numbers."""

    def start(params: Any, batch_shape: tuple[int, ...] = ()) -> LSTMState:
        full = cell.start(params, batch_shape)
        return full._replace(h=full.h[..., :P])

    return start


def require_part(part: str, present: bool, **options: Any) -> None:
    """Raises a ValueError that names the first option with a value of its own, of a part that is not present."""
    for name, value in options.items():
        default = any(value is default for default in (None, False, PEEPHOLES, PROJECTION)) or is_infinite(value)
        if not present and not default:
            raise ValueError(f"{name} got {short_text(value)} without {part}; want {part} too")


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
