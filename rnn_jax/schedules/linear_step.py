"""One step of a recurrence and its derivative, taken apart by what each equation depends on.

The derivative of a step is linear: dh_t = A_t dh_{t−1} + v_t, where v_t gathers what params and input contribute. Only
the product with A_t has to run step by step.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Var

from rnn_jax.machinery.programs import dependent, equations_of, is_variable, needed, type_of, variables
from rnn_jax.schedules.gathered import SUMS, gathered

__all__ = ["Derivative", "Step", "is_inexact", "taken_apart"]

SHAPING = "broadcast_in_dim reshape squeeze slice split concatenate transpose rev pad copy select_n"
ARITHMETIC = "add sub mul div neg max min abs square integer_pow add_any"
CHEAP = frozenset([*SHAPING.split(), *ARITHMETIC.split()]) | {
    "convert_element_type",
    "and",
    "or",
    "not",
    "xor",
    "clamp",
    "iota",
    "reduce_sum",
    "reduce_max",
    "stop_gradient",
}
"""Primitives that are computed again where the derivative needs their results; those of all others are kept."""

DECIDING = frozenset({"sign", "floor", "ceil", "round", "sort", "top_k"})
"""Primitives whose results are always kept where they depend on the state, as are those that make integers or booleans
of floating numbers, such as comparisons: computed again from rounded numbers, they could decide otherwise."""


class Step(NamedTuple):
    """The equations of a step ``(shared, h, x) -> h``."""

    constants: dict[Var, Any]
    """Arrays of the step that are no params."""
    shared: list[Var]
    h: list[Var]
    x: list[Var]
    after: list[Any]
    """The state after the step: variables, or numbers."""
    once: list[JaxprEqn]
    """Equations of the params alone."""
    ahead: list[JaxprEqn]
    """Equations of the input that do not depend on the state."""
    advance: list[JaxprEqn]
    """Equations that depend on the state."""
    kept: list[Var]
    """Results of ``advance`` that the derivative needs and that are costly."""
    again: list[JaxprEqn]
    """Equations of ``advance`` that are computed again for the derivative, from all the above."""


class Derivative(NamedTuple):
    """The equations of the derivative of a step, ``(shared, h, x; dshared, dh, dx) -> dh``."""

    constants: dict[Var, Any]
    residuals: list[tuple[Var, Any]]
    """Variables, and the variables or numbers of the step that are their values."""
    d_shared: list[Var]
    d_h: list[Var]
    d_x: list[Var]
    d_after: list[Any]
    prepare: list[JaxprEqn]
    """Equations of the residuals alone, such as 1 − tanh²."""
    inject: list[JaxprEqn]
    """Equations of the derivatives of params and input."""
    carry: list[JaxprEqn]
    """Equations of the derivative of the state."""
    injected: list[Var]
    """v_t: what ``carry`` reads of ``inject``."""
    added: list[Var]
    """Those of ``injected`` that are added to a derivative of the state, and so have its size."""


class Moving(NamedTuple):
    """For each array of params, state and input whether it is differentiated."""

    shared: list[bool]
    h: list[bool]
    x: list[bool]


def taken_apart(
    step: Callable[..., list], shared: list, h: list, x: list, moving: Moving, keep: bool = True
) -> tuple[Step, Derivative]:
    """A step ``(shared, h, x) -> h`` of lists of arrays, and its derivative.

    Args:
        step: closes over no array.
        shared, h, x: arrays, or their shapes and types, of one step.
        moving: what is differentiated.
        keep: whether costly results are kept; else all are computed again from the states.
    """
    forms: list[Any] = []

    def with_residuals(shared: list, h: list, x: list) -> tuple[list, list]:
        every, flags = [*shared, *h, *x], [*moving.shared, *moving.h, *moving.x]

        def of_moving(*some: Any) -> tuple[list, list]:
            given = iter(some)
            each = [next(given) if moves else a for moves, a in zip(flags, every, strict=True)]
            after = step(*parts_like((shared, h, x), each))
            return [a for a, moves in zip(after, moving.h, strict=True) if moves], after

        some = [a for moves, a in zip(flags, every, strict=True) if moves]
        _, derivative, after = jax.linearize(of_moving, *some, has_aux=True)
        leaves, tree = jax.tree.flatten(derivative)
        forms[:] = [tree, list(map(jax.typeof, some))]
        return after, leaves

    program = equations_of(with_residuals, shared, h, x)
    of_shared, of_h, of_x = parts_like((shared, h, x), program.args)
    after, read = program.results[: len(h)], program.results[len(h) :]
    on_h, on_x = dependent(program.eqns, of_h), dependent(program.eqns, of_x)
    once, ahead, advance = [], [], []
    for eqn in program.eqns:
        group = advance if on_h & set(eqn.outvars) else ahead if on_x & set(eqn.outvars) else once
        group.append(eqn)
    kept, again = kept_and_again(advance, after, read, keep)
    taken = Step(program.constants, of_shared, of_h, of_x, after, once, ahead, advance, kept, again)
    changing = [is_variable(v) and v in on_h | on_x for v in read]
    return taken, derivative_of(forms[0], read, changing, forms[1], moving)


def derivative_of(tree: Any, read: list, changing: list[bool], some: list, moving: Moving) -> Derivative:
    """The derivative whose residuals are the leaves of a pytree, as ``jax.linearize`` returns it."""
    on_state = [
        is_state for flags, is_state in zip(moving, (False, True, False), strict=True) for _ in range(sum(flags))
    ]

    def derivative(residuals: list, tangents: list) -> Any:
        return jax.tree.unflatten(tree, residuals)(*tangents)

    linear = gathered(derivative, list(map(type_of, read)), some, changing, on_state)
    residuals, tangents = linear.args[: len(read)], linear.args[len(read) :]
    counts = [[None] * sum(flags) for flags in moving]
    d_shared, d_h, d_x = parts_like(counts, tangents)
    eqns = needed(linear.eqns, linear.results)
    on_tangents, on_h = dependent(eqns, tangents), dependent(eqns, d_h)
    prepare, inject, carry = [], [], []
    for eqn in eqns:
        group = carry if on_h & set(eqn.outvars) else inject if on_tangents & set(eqn.outvars) else prepare
        group.append(eqn)
    entering = {*d_shared, *d_x}.union(*(e.outvars for e in inject))
    reads = [*(v for e in carry for v in e.invars), *linear.results]
    injected = [v for v in dict.fromkeys(variables(reads)) if v in entering]
    sums = [*(v for e in carry if e.primitive.name in SUMS for v in e.invars), *linear.results]
    added = [v for v in injected if v in set(variables(sums))]
    pairs = list(zip(residuals, read, strict=True))
    return Derivative(
        linear.constants, pairs, d_shared, d_h, d_x, linear.results, prepare, inject, carry, injected, added
    )


def kept_and_again(advance: list[JaxprEqn], after: list, read: list, keep: bool) -> tuple[list[Var], list[JaxprEqn]]:
    """The results that are kept for the derivative, and the equations that are computed again.

    Of a residual, the costly results that it is made of are kept, or the residual itself where it is smaller.
    """
    source = {v: eqn for eqn in advance for v in eqn.outvars}
    states = set(variables(after))
    kept: set[Var] = set()

    def is_cheap(eqn: JaxprEqn) -> bool:
        if eqn.primitive.name in DECIDING or (
            is_inexact(type_of(eqn.invars[0])) and not is_inexact(type_of(eqn.outvars[0]))
        ):
            return False
        return not keep or eqn.primitive.name in CHEAP or states.issuperset(variables(eqn.invars))

    def sources(v: Var) -> tuple[set[Var], list[JaxprEqn]]:
        """The costly results that a variable is made of, and the equations that make it of them."""
        costly, eqns, waiting = set(), {}, [v]
        while waiting:
            v = waiting.pop()
            if v in states or v in kept or v not in source:
                continue
            if not is_cheap(source[v]):
                costly.add(v)
            elif id(source[v]) not in eqns:
                eqns[id(source[v])] = source[v]
                waiting += variables(source[v].invars)
        return costly, list(eqns.values())

    for v in variables(read):
        costly, _ = sources(v)
        kept |= {v} if sum(type_of(w).size for w in costly) > type_of(v).size else costly
    again = {id(eqn) for v in variables(read) for eqn in sources(v)[1]}
    return [v for v in source if v in kept], [eqn for eqn in advance if id(eqn) in again]


def parts_like(like: Iterable[Sequence], every: Sequence) -> list[list]:
    """A sequence, split into lists as long as those of ``like``."""
    rest = iter(every)
    return [[next(rest) for _ in part] for part in like]


def is_inexact(a: Any) -> bool:
    """Whether an array is floating or complex, so that it may be differentiated."""
    return jnp.issubdtype(a.dtype, jnp.inexact)
