"""How long each unit keeps its state: its forget factor, along the path that passes through no matrix product."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn, Var, jaxprs_in_params
from jaxtyping import Array, Float, PyTree

from rnn_jax.diagnostics.lag import states_before
from rnn_jax.diagnostics.states import layout_of, require_one_step, require_steps
from rnn_jax.machinery.checks import require_number, require_numbers
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.programs import (
    Program,
    all_equations,
    dependent,
    equations_of,
    needed,
    run,
    type_of,
    values_of,
)
from rnn_jax.schedules.driver import batch_shape, rollout
from rnn_jax.types import Cell, ComplexState, Params, State, map_parts

__all__ = ["chrono_target", "direct_path", "forget_factors", "time_scales"]

PRODUCTS = frozenset({"dot_general", "ragged_dot", "ragged_dot_general", "conv_general_dilated"})
"""Primitives at which the direct path ends."""

NAMES = """
add sub mul div rem neg max min abs sign square integer_pow pow exp exp2 log log1p expm1 tanh logistic sin cos tan asin
acos atan atan2 sinh cosh asinh acosh atanh sqrt rsqrt cbrt erf erfc erf_inv lgamma digamma floor ceil round is_finite
eq ne lt le gt ge and or not xor select_n clamp nextafter convert_element_type reduce_precision stop_gradient copy
add_any real imag complex conj jit remat2 custom_jvp_call custom_vjp_call
"""
ELEMENTWISE = frozenset(NAMES.split())
"""Primitives whose result i depends on operands i alone, and calls of programs made of them."""


@compiled("cell")
def forget_factors(cell: Cell, params: Params, h: State, x: PyTree) -> State:
    """The factor by which each number of the state is carried over in one step, along its direct path.

    It is the derivative of each number of the new state with respect to the same number of the old one, through
    everything but matrix products and convolutions, whose results are held constant. Of an LSTM it is f_t for c and 0
    for h, of a GRU z_t, of a vanilla network 0, of an IndRNN w_hh φ′, of a linear recurrence a_t.

    A loop or a branch inside a step counts as a product where it holds one. A product that is written as a sum of
    elementwise products is not recognised, so its diagonal counts.

    Args:
        cell, params: any cell and its weights.
        h: the state before the step, with or without batch axes.
        x: one input, with the batch axes of ``h``.

    Returns:
        A pytree like the state. A ``ComplexState`` holds the complex factor, λ of an ``lru``, as (Re λ, Im λ). A
        complex number of the new state is assumed to be a holomorphic function of its old self, such as λh: of one that
        is not, such as Re h or the conjugate of h, this is the derivative along the real axis alone.

    Raises:
        ValueError: for a layer, a state that is not floating, or a state and an input that do not fit.

    Example: an LSTM without weights and with the forget bias 2 keeps σ(2) of its memory.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import lstm
    >>> cell = lstm(input_size=1, hidden_size=1, forget_bias=2.0)
    >>> factors = forget_factors(cell, params := cell.init(jax.random.key(0)), cell.start(params), jnp.zeros(1))
    >>> print(factors.h, factors.c.round(4))
    [0.] [0.8808]

    Reference: Hochreiter, Schmidhuber. Long short-term memory. 1997, whose constant error carousel has the factor 1.
    """
    layout_of(cell, params, h)
    require_one_step(cell, params, h, x)
    with jax.default_matmul_precision("highest"):
        return _factors(cell, params, h, x)


@compiled("cell")
def time_scales(cell: Cell, params: Params, h0: State, xs: PyTree) -> PyTree:
    """The time scale of every unit at every step: τ = −1/ln|f|, in steps, of its forget factor f.

    In τ steps with this factor, what a unit holds shrinks by a factor e.

    Args:
        cell, params: any cell and its weights.
        h0: the state before the first step, with the batch axes of ``xs``.
        xs: ``(T, *batch, I)`` or ids ``(T, *batch)``.

    Returns:
        A pytree like the states, ``(T, *batch, H)``; ∞ where |f| ≥ 1, 0 where f = 0, and NaN from the first step whose
        state is not finite. A ``ComplexState`` has one array, that of |λ|.

    Raises:
        ValueError: for a layer, a state that is not floating, or xs or h0 that do not fit the cell.

    Example: the forget bias 2 of an LSTM is a time scale of 7.9 steps.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import lstm
    >>> cell = lstm(input_size=1, hidden_size=1, forget_bias=2.0)
    >>> scales = time_scales(cell, params := cell.init(jax.random.key(0)), cell.start(params), jnp.zeros((1, 1)))
    >>> print(scales.c.round(1))
    [[7.9]]

    Reference: Tallec, Ollivier. Can recurrent neural networks warp time? 2018.
    """
    logs = _log_factors(cell, params, h0, xs)
    return jax.tree.map(lambda log: jnp.where(log >= 0, jnp.inf, -1 / log), logs)


@compiled("cell")
def direct_path(cell: Cell, params: Params, h0: State, xs: PyTree) -> PyTree:
    """ln of the product of forget factors over the last k steps, for every lag k = 0 … T and every unit.

    Row k is ln|∂state_T/∂state_{T−k}| of each number along its direct path. Beside the whole Jacobian, or the curve of
    ``lag_gradients``, it shows how much of a gradient the gates carry, and how much the matrix products do.

    Args:
        cell, params, h0, xs: as in ``time_scales``.

    Returns:
        A pytree like the states, ``(K, *batch, H)`` with K = T + 1, in nats; −∞ where a factor is 0. A
        ``ComplexState`` has one array, that of |λ|.

    Raises:
        ValueError: as ``time_scales``.

    Example: an LSTM without weights and with the forget bias 2 loses 0.127 nats of its memory at each step.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import lstm
    >>> cell = lstm(input_size=1, hidden_size=1, forget_bias=2.0)
    >>> params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0)))
    >>> params = params._replace(b_h=params.b_h.at[1].set(2.0))
    >>> print(direct_path(cell, params, cell.start(params), jnp.zeros((3, 1))).c[:, 0].round(3))
    [ 0.    -0.127 -0.254 -0.381]
    """

    def products(log: Float[Array, "T ..."]) -> Float[Array, "K ..."]:
        return jnp.concatenate([jnp.zeros((1, *log.shape[1:]), log.dtype), jnp.cumsum(log[::-1], axis=0)])

    return jax.tree.map(products, _log_factors(cell, params, h0, xs))


def chrono_target(max_lag: float, q: tuple[float, ...] = (0.1, 0.5, 0.9)) -> Float[Array, " Q"]:
    """Quantiles of the time scales at which ``initializers.chrono(max_lag)`` aims, in steps.

    The bias b = ln u with u ~ U(1, max_lag − 1) opens a gate by f = σ(b) = u/(1 + u), whose time scale is
    τ = −1/ln f = 1/ln(1 + 1/u), about u + ½. It grows with u, so the quantile q of τ is that of u.

    Args:
        max_lag: the longest dependency expected, in steps; more than 2.
        q: the quantiles, each in [0, 1].

    Raises:
        ValueError: for a max_lag of 2 or less or not finite, or a q outside [0, 1].

    >>> print(chrono_target(100, q=(0.0, 0.5, 1.0)).round(2))
    [ 1.44 50.5  99.5 ]

    Reference: Tallec, Ollivier. Can recurrent neural networks warp time? 2018.
    """
    require_number("max_lag", max_lag, lambda n: 2 < n < 1e38, "more than 2 steps, for example the sequence length")
    require_numbers("q", q, lambda level: 0 <= level <= 1, "quantiles in [0, 1]")
    u = 1 + jnp.asarray(q, float) * (max_lag - 2)
    return 1 / jnp.log1p(1 / u)


def _log_factors(cell: Cell, params: Params, h0: State, xs: PyTree) -> PyTree:
    """ln|f| of every unit at every step, in at least 32 bits, with one array for each part of the state."""
    require_steps(xs)
    layout_of(cell, params, h0)

    def log_size(factor: Any) -> Array:
        if isinstance(factor, ComplexState):
            return jnp.log(jnp.hypot(*widened(factor)))
        return jnp.log(jnp.abs(widened(factor)))

    with jax.default_matmul_precision("highest"):
        _, hs = rollout(cell, params, h0, xs)
        before = states_before(h0, hs)
        factors = jax.vmap(lambda h, x: _factors(cell, params, h, x))(before, xs)
    return map_parts(log_size, factors)


def _factors(cell: Cell, params: Params, h: State, x: PyTree) -> State:
    """The derivative of each number of the new state to its old self, while results of products are constants.

    Where all equations on the way are elementwise, one derivative along a vector of ones is that of every number of a
    part. Elsewhere, as where a step moves numbers from place to place, there is one derivative for each number.
    """
    program = equations_of(cell.step, params, h, x)
    values = dict(zip(program.args, jax.tree.leaves((params, h, x)), strict=True))
    first, leaves = len(jax.tree.leaves(params)), jax.tree.leaves(h)
    state = program.args[first : first + len(leaves)]
    parts, tree = jax.tree.flatten(h, is_leaf=_is_complex_state)

    def cut_step(leaves: list) -> list:
        return _cut_at_products(program, values | dict(zip(state, leaves, strict=True)), leaves)

    def derivative(part: int, direction: Array) -> Any:
        """The derivative of a part of the state along a direction of this part, the real one of complex numbers."""
        along = [jax.tree.map(jnp.zeros_like, a) for a in parts]
        along[part] = along[part]._replace(re=direction) if _is_complex_state(along[part]) else direction
        moved = jax.jvp(cut_step, (leaves,), (jax.tree.leaves(along),))[1]
        return jax.tree.leaves(jax.tree.unflatten(jax.tree.structure(h), moved), is_leaf=_is_complex_state)[part]

    batch_axes, factors = len(batch_shape(cell, params, h)), []
    numbered = jax.tree.unflatten(jax.tree.structure(h), range(len(leaves)))
    for i, places in enumerate(jax.tree.leaves(numbered, is_leaf=_is_complex_state)):
        old, new = ([atoms[place] for place in jax.tree.leaves(places)] for atoms in (state, program.results))
        numbers, of_part = jax.tree.leaves(parts[i])[0], partial(derivative, i)
        at_once = _is_elementwise(program, old, new)
        factors.append(of_part(jnp.ones_like(numbers)) if at_once else _one_by_one(of_part, numbers, batch_axes))
    return jax.tree.unflatten(tree, factors)


def _cut_at_products(program: Program, values: dict[Var, Any], like: list) -> list:
    """The results of a program in which those of products are constants."""
    values = program.constants | values
    for eqn in program.eqns:
        values = run([eqn], values)
        if _holds_product(eqn):
            values |= {v: lax.stop_gradient(values[v]) for v in eqn.outvars if v in values}
    results = values_of(program.results, values)
    return [jnp.broadcast_to(a, old.shape) for a, old in zip(results, like, strict=True)]


def _one_by_one(derivative: Callable[[Array], Any], numbers: Array, batch_axes: int) -> Any:
    """The derivative of each number to itself, along one direction for each number of an example."""
    shape = numbers.shape[batch_axes:]
    size = math.prod(shape)

    def of_number(i: Array) -> Any:
        one = jax.nn.one_hot(i, size, dtype=numbers.dtype).reshape(*[1] * batch_axes, *shape)
        one = jnp.broadcast_to(one, numbers.shape)
        return jax.tree.map(lambda moved: jnp.sum(moved * one, axis=range(batch_axes, moved.ndim)), derivative(one))

    def in_place(each: Array) -> Array:
        return jnp.moveaxis(each, 0, -1).reshape(numbers.shape)

    return jax.tree.map(in_place, lax.map(of_number, jnp.arange(size)))


def _is_elementwise(program: Program, old: list[Var], new: list[Any]) -> bool:
    """Whether every equation on the way from a part of the state to the same part, without products, is elementwise."""
    eqns = needed([eqn for eqn in program.eqns if not _holds_product(eqn)], new)
    on_old = dependent(eqns, old)
    on_the_way = [eqn for eqn in eqns if on_old & set(eqn.outvars)]
    return all(_is_known(inner) for eqn in on_the_way for inner in _with_inner(eqn))


def _is_known(eqn: JaxprEqn) -> bool:
    number_to_all = eqn.primitive.name == "broadcast_in_dim" and type_of(eqn.invars[0]).ndim == 0
    return eqn.primitive.name in ELEMENTWISE or number_to_all


def _holds_product(eqn: JaxprEqn) -> bool:
    """Whether an equation is a product, or a program that holds one."""
    return any(inner.primitive.name in PRODUCTS for inner in _with_inner(eqn))


def _with_inner(eqn: JaxprEqn) -> Sequence[JaxprEqn]:
    return [eqn, *(inner for program in jaxprs_in_params(eqn.params) for inner in all_equations(program))]


def _is_complex_state(part: Any) -> bool:
    return isinstance(part, ComplexState)
