"""One step of a recurrence and its derivative, taken apart by what each equation depends on.

The derivative of a step is linear: dh_t = A_t dh_{t−1} + v_t, where v_t gathers what params and input contribute. Only
the product with A_t has to run step by step.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn, Var

from rnn_jax.machinery.programs import apply_equation, dependent, equations_of, is_variable, needed
from rnn_jax.schedules.gathered import gathered

__all__ = ["Derivative", "Step", "is_inexact", "taken_apart"]

CHEAP = frozenset(
    "add sub mul div neg max min sign abs square integer_pow select_n clamp add_any copy stop_gradient "
    "eq ne lt le gt ge and or not xor is_finite convert_element_type iota "
    "broadcast_in_dim reshape squeeze expand_dims slice split concatenate transpose rev pad "
    "reduce_sum reduce_max reduce_min".split()
)
"""Primitives that are computed again where the derivative needs their results; those of all others are kept."""


class Step(NamedTuple):
    """The equations of a step ``(shared, h, x) -> h``."""

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


class Moving(NamedTuple):
    """For each array of params, state and input whether it is differentiated."""

    shared: list[bool]
    h: list[bool]
    x: list[bool]


def taken_apart(
    step: Callable[..., list], shared: list, h: list, x: list, moving: Moving
) -> tuple[Step, Derivative]:
    """A step ``(shared, h, x) -> h`` of lists of arrays, and its derivative.

    Args:
        step: closes over no array.
        shared, h, x: arrays, or their shapes and types, of one step.
        moving: what is differentiated.
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
        forms[:] = [tree, some]
        return after, leaves

    program = equations_of(with_residuals, shared, h, x)
    of_shared, of_h, of_x = parts_like((shared, h, x), program.invars)
    after, read = program.outvars[: len(h)], program.outvars[len(h) :]
    on_h, on_x = dependent(program.eqns, of_h), dependent(program.eqns, of_x)
    once, ahead, advance = [], [], []
    for eqn in program.eqns:
        group = advance if on_h & set(eqn.outvars) else ahead if on_x & set(eqn.outvars) else once
        group.append(eqn)
    kept, again = kept_and_again(advance, after, read)
    taken = Step(of_shared, of_h, of_x, after, once, ahead, advance, kept, again)
    changing = [is_variable(v) and v in on_h | on_x for v in read]
    return taken, derivative_of(forms[0], read, changing, forms[1], moving)


def derivative_of(tree: Any, read: list, changing: list[bool], some: list, moving: Moving) -> Derivative:
    """The derivative whose residuals are the leaves of a pytree, as ``jax.linearize`` returns it."""
    kinds = [*("time" if c else "once" for c in changing)]
    kinds += [*["inject"] * sum(moving.shared), *["carry"] * sum(moving.h), *["inject"] * sum(moving.x)]
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in read]
    shapes_of_some = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in some]
    linear = gathered(lambda leaves, some: jax.tree.unflatten(tree, leaves)(*some), shapes, shapes_of_some, kinds)
    residuals, tangents = linear.invars[: len(read)], linear.invars[len(read) :]
    counts = [[None] * sum(flags) for flags in moving]
    d_shared, d_h, d_x = parts_like(counts, tangents)
    eqns = needed(linear.eqns, linear.outvars)
    on_tangents, on_h = dependent(eqns, tangents), dependent(eqns, d_h)
    prepare, inject, carry = [], [], []
    for eqn in eqns:
        group = carry if on_h & set(eqn.outvars) else inject if on_tangents & set(eqn.outvars) else prepare
        group.append(eqn)
    entering = {*d_shared, *d_x}.union(*(e.outvars for e in inject))
    reads = [*(v for e in carry for v in e.invars), *linear.outvars]
    injected = [v for v in dict.fromkeys(filter(is_variable, reads)) if v in entering]
    return Derivative(
        list(zip(residuals, read, strict=True)), d_shared, d_h, d_x, linear.outvars, prepare, inject, carry, injected
    )


def kept_and_again(advance: list[JaxprEqn], after: list, read: list) -> tuple[list[Var], list[JaxprEqn]]:
    """The results that are kept for the derivative, and the equations that are computed again."""
    source = {v: eqn for eqn in advance for v in eqn.outvars}
    states = set(filter(is_variable, after))
    kept: dict[Var, None] = {}
    again: set[int] = set()
    waiting = [v for v in read if is_variable(v)]
    while waiting:
        v = waiting.pop()
        if v not in source or v in states or v in kept:
            continue
        eqn = source[v]
        of_a_state = len(eqn.outvars) == 1 and all(not is_variable(w) or w in states for w in eqn.invars)
        if eqn.primitive.name in CHEAP or of_a_state:
            if id(eqn) not in again:
                again.add(id(eqn))
                waiting += filter(is_variable, eqn.invars)
        else:
            kept[v] = None
    return list(kept), [eqn for eqn in advance if id(eqn) in again]


def parts_like(like: Iterable[Sequence], every: Sequence) -> list[list]:
    """A sequence, split into lists as long as those of ``like``."""
    rest = iter(every)
    return [[next(rest) for _ in part] for part in like]


def is_inexact(a: Any) -> bool:
    """Whether an array is floating or complex, so that it may be differentiated."""
    return jnp.issubdtype(a.dtype, jnp.inexact)
