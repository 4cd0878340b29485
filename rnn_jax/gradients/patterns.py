"""Which numbers of a state depend on which numbers before a step, and Jacobians that make use of it."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from rnn_jax.diagnostics.states import Layout, part_size
from rnn_jax.machinery.precision import is_floating
from rnn_jax.machinery.programs import (
    apply_equation,
    dependent,
    is_variable,
    needed,
    type_of,
    values_of,
    without_constants,
)
from rnn_jax.types import Cell, ComplexState, Params, map_parts

__all__ = []

EXAMPLES = 32
"""Random states and inputs at which dependences are searched."""

COMPARISONS = {
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), lambda computed, a, b: (True, False)),
    **dict.fromkeys(("max", "min"), lambda computed, a, b: (a, b)),
    "clamp": lambda computed, low, x, high: (x, computed),
}
"""Primitives that compare, with their two outcomes: ``(what is computed, *operands) -> (if true, if false)``."""

CALLS = {"jit": "jaxpr", "remat2": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
"""Primitives that run one inner program, and the parameter that holds it."""

AS_COMPUTED, TRUE, FALSE, RANDOM = outcomes = range(4)
"""How the comparisons of a step come out while dependences are searched."""


class Dependencies(NamedTuple):
    """Where the Jacobians of one step differ from zero at some of many params, states and inputs."""

    on_state: Bool[np.ndarray, "S S"]
    """Of ∂state_t/∂state_{t−1}."""
    on_params: Bool[np.ndarray, "S P"]
    """Of ∂state_t/∂params, with state_{t−1} held fixed."""


def step_dependencies(cell: Cell, params: Params, layout: Layout, x: PyTree) -> Dependencies:
    """The dependencies of one step, found in its Jacobians at random params, states and inputs.

    An entry counts if it differs from zero at any of them, with the comparisons of the step either way: a ReLU counts
    as on, wherever its threshold is. An entry that differs from zero in a small region alone may be missed where no
    comparison outside of loops limits the region. A weight of zero counts like any other, because training may change
    it; a weight that the cell itself removes by a mask does not. Every id is tried. What acts on the real part of a
    complex number counts as acting on the imaginary part, and the other way round.

    Args:
        cell: any cell.
        params: of which only shapes and types are used.
        layout: of the state.
        x: shapes and types of the input of one example.

    Raises:
        ValueError: for a cell that reads traced arrays, so that its step cannot be computed before compilation.
    """
    has_ids = any(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in jax.tree.leaves(x))
    n = max([EXAMPLES, *(jnp.shape(a)[0] for a in jax.tree.leaves(params) if has_ids and jnp.ndim(a))])
    rng = np.random.default_rng(0)
    some_params = jax.tree.map(lambda a: random_weights(rng, jnp.shape(a), jnp.result_type(a)), params)
    unit = units(layout)
    sizes = np.geomspace(1, 1e-4, n)[:, None]  # large states may all be clipped
    s = (sizes * rng.normal(size=(n, len(unit)))).astype(layout.dtype)

    @jax.jit
    def found(params: Params, s: Array, xs: PyTree) -> list[Array]:
        def steps(params: Params, s: Array, xs: PyTree) -> Array:
            return jax.vmap(lambda s, x: layout.row(cell.step(params, layout.state(s), x)))(s, xs)

        finite = jnp.isfinite(steps(params, s, xs)).all(axis=-1)  # an id outside the vocabulary gives NaN
        instead = jnp.where(finite, jnp.arange(n), jnp.argmax(finite))
        s, xs = jax.tree.map(lambda a: a[instead], (s, xs))
        found = jax.lax.map(lambda outcome: nonzero(steps, params, s, xs, outcome), jnp.array(outcomes))
        return [entries.any(axis=0) | ~finite.any() for entries in found]

    with jax.ensure_compile_time_eval():
        try:
            on_state, on_params = map(np.asarray, found(some_params, s, random_inputs(rng, x, n)))
        except jax.errors.TracerArrayConversionError as error:
            message = "cell got traced arrays; want a cell made outside jit, whose step can be tried at random states"
            raise ValueError(message) from error
    return Dependencies(on_state, on_params | product(unit[:, None] == unit, on_params))


def random_weights(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Params between 0 and 1, so that their roots and logarithms exist, divided by √inputs if they are a matrix."""
    return np.asarray(rng.uniform(0.1, 0.9, shape) / math.sqrt(math.prod(shape[:-1])), dtype)


def units(layout: Layout) -> Int[np.ndarray, " S"]:
    """The unit of each number of the state: the real and the imaginary part of a complex number are one unit."""
    sizes = [part_size(part) for part in layout.parts]
    numbers = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    for i, part in enumerate(layout.parts):
        if jnp.issubdtype(part.dtype, jnp.complexfloating):
            numbers[i] = np.tile(numbers[i][: sizes[i] // 2], 2)

    def joined(part: Any) -> Any:
        return ComplexState(part.re, part.re) if isinstance(part, ComplexState) else part

    return np.concatenate(jax.tree.leaves(map_parts(joined, jax.tree.unflatten(layout.tree, numbers))))


def random_inputs(rng: np.random.Generator, x: PyTree, n: int) -> PyTree:
    """``n`` inputs of these shapes and types: normal numbers, keys, or the ids 0 … n − 1."""

    def draw(like: Any) -> Any:
        shape = (n, *like.shape)
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0), shape)
        if jnp.issubdtype(like.dtype, jnp.inexact):
            return rng.normal(size=shape).astype(like.dtype)
        largest = 1 if like.dtype == jnp.bool_ else int(jnp.iinfo(like.dtype).max)
        ids = (np.arange(n) % (min(largest, n) + 1)).astype(like.dtype)
        return np.broadcast_to(ids.reshape(n, *[1] * len(like.shape)), shape)

    return jax.tree.map(draw, x)


def nonzero(
    steps: Callable[[Params, Array, PyTree], Array],
    params: Params,
    s: Float[Array, "N S"],
    xs: PyTree,
    outcome: Int[Array, ""],
) -> tuple[Bool[Array, "S S"], Bool[Array, "S P"]]:
    """Where the Jacobians of N steps with respect to the state, and to the params, differ from zero, row by row."""

    def pulled_back(params: Params, s: Array, xs: PyTree, row: Array) -> tuple[Array, Array]:
        of_params, of_state = jax.vjp(lambda params, s: steps(params, s, xs), params, s)[1](row)
        return of_state, ravel_pytree(of_params)[0][None]

    def row(i: Array) -> list[Array]:
        entries = with_outcome(pulled_back, outcome, params, s, xs, jnp.zeros_like(s).at[:, i].set(1))
        counts = [(a != 0) & (jnp.isfinite(a) | (outcome == AS_COMPUTED)) for a in entries]
        return [jnp.any(a, axis=0) for a in counts]

    return tuple(jax.lax.map(row, jnp.arange(s.shape[1])))


def with_outcome(f: Callable[..., Any], outcome: Int[Array, ""], *args: PyTree) -> list[Array]:
    """The results of ``f(*args)`` with one outcome of all comparisons of floating numbers that depend on ``args``.

    max(a, b) and min(a, b) are a where it is true, else b; a clip is the number itself where it is true.
    """
    rng = np.random.default_rng(0)

    def results(program: Jaxpr | ClosedJaxpr, given: list[Any], depends: list[bool]) -> list[Any]:
        jaxpr, constants = without_constants(program), getattr(program, "consts", [])
        values = dict(zip(jaxpr.invars, [*constants, *given], strict=True))
        moving = dependent(jaxpr.eqns, itertools.compress(jaxpr.invars[len(constants) :], depends))
        for eqn in needed(jaxpr.eqns, jaxpr.outvars):
            operands, name = values_of(eqn.invars, values), eqn.primitive.name
            if name in CALLS:
                made = results(eqn.params[CALLS[name]], operands, [is_variable(v) and v in moving for v in eqn.invars])
            else:
                made = apply_equation(eqn, *operands)
            if name in COMPARISONS and eqn.outvars[0] in moving and is_floating(type_of(eqn.invars[0])):
                is_true = (outcome == TRUE) | ((outcome == RANDOM) & (rng.integers(0, 2, made[0].shape) > 0))
                either = jnp.where(is_true, *COMPARISONS[name](made[0], *operands))
                made = [jnp.where(outcome == AS_COMPUTED, made[0], either)]
            values.update(zip(eqn.outvars, made, strict=True))
        return values_of(jaxpr.outvars, values)

    given = jax.tree.leaves(args)
    return results(jax.make_jaxpr(f)(*args), given, [True] * len(given))


def influence_pattern(on: Dependencies, order: int) -> Bool[np.ndarray, "S P"]:
    """Which params have an influence on which numbers of the state within ``order`` steps.

    Reference: Menick, Elsen, Evci, Osindero, Simonyan, Graves. Practical real time recurrent learning with a sparse
    approximation. 2020.
    """
    pattern = on.on_params
    for _ in range(order - 1):
        wider = pattern | product(on.on_state, pattern)
        if (wider == pattern).all():
            break
        pattern = wider
    return pattern


def product(a: Bool[np.ndarray, "N M"], b: Bool[np.ndarray, "M L"]) -> Bool[np.ndarray, "N L"]:
    """Where the product of two matrices may differ from zero."""
    return a.astype(np.float32) @ b.astype(np.float32) > 0


def row_groups(pattern: Bool[np.ndarray, "N M"]) -> Int[np.ndarray, " N"]:
    """The number of each row's group, such that no two rows of a group have an entry in the same column.

    The sum of the rows of a group holds all their entries, and costs one backward pass.

    >>> row_groups(np.array([[True, False, False], [False, True, False], [False, True, True]]))
    array([0, 0, 1])

    Reference: Curtis, Powell, Reid. On the estimation of sparse Jacobian matrices. 1974.
    """
    overlap = product(pattern, pattern.T)
    groups = np.zeros(len(pattern), int)
    for i in range(1, len(pattern)):
        taken = {*groups[:i][overlap[i, :i]]}
        groups[i] = next(g for g in itertools.count() if g not in taken)
    return groups


def grouped_rows(
    f: Callable[[Array], Array], at: Float[Array, " M"], groups: Int[np.ndarray, " N"]
) -> Float[Array, "G M"]:
    """The sum of the rows of each group of the Jacobian of ``f``: one backward pass a group."""
    out, pullback = jax.vjp(f, at)
    seeds = jnp.asarray(groups == np.arange(groups.max() + 1)[:, None], out.dtype)
    return jax.vmap(lambda seed: pullback(seed)[0])(seeds)
