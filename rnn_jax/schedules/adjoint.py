"""Rollouts whose derivative is taken apart: a loop over the state alone, and one product for all steps at once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var, jaxpr_as_fun
from jaxtyping import PyTree

from rnn_jax.machinery.programs import apply_equation, dependent, is_variable, needed, run
from rnn_jax.schedules.linear_step import Derivative, Moving, Step, is_inexact, taken_apart
from rnn_jax.schedules.scan import StepFlags, flagged_step, scan
from rnn_jax.types import Cell, Params, State

__all__ = ["adjoint"]


def adjoint(
    cell: Cell, params: Params, h0: State, xs: PyTree, flags: StepFlags, fresh: State, idle: PyTree, reverse: bool
) -> tuple[State, State]:
    """The rollout of ``scan``; its arguments are those of ``scan``, and so are its results, up to rounding."""
    step = flagged_step(cell, params, fresh, idle)
    x0 = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (xs, flags))
    closed = jax.make_jaxpr(step)(h0, x0)
    if closed.effects:
        return scan(cell, params, h0, xs, flags, fresh, idle, reverse)

    def of_lists(shared: list, h: list, x: list) -> list:
        return jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, shared))(*h, *x)

    h, tree = jax.tree.flatten(h0)
    h_T, hs = rolled(of_lists, reverse)(closed.consts, h, jax.tree.leaves((xs, flags)))
    return jax.tree.unflatten(tree, h_T), jax.tree.unflatten(tree, hs)


def rolled(step: Any, reverse: bool) -> Any:
    """The rollout of a step of lists, ``(shared, h0, xs) -> (h_T, hs)``, with its derivative."""

    @jax.custom_jvp
    def roll(shared: list, h0: list, xs: list) -> tuple[list, list]:
        def on(h: list, x: list) -> tuple[list, list]:
            h = step(shared, h, x)
            return h, h

        return lax.scan(on, h0, xs, reverse=reverse)

    def derivative(primals: Any, tangents: Any) -> Any:
        shared, h0, xs = primals
        moving = Moving(*([moves(t) for t in part] for part in tangents))
        moving = moving._replace(h=[is_inexact(a) for a in h0])
        x0 = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in xs]
        parts, linear = taken_apart(step, shared, h0, x0, moving)
        h_T, hs, kept = forward(parts, shared, h0, xs, reverse)
        d_shared, d_xs = ([t for t in part if moves(t)] for part in (tangents[0], tangents[2]))
        d_h0 = [jnp.zeros(h.shape, h.dtype) if not moves(t) else t for h, t in zip(h0, tangents[1]) if is_inexact(h)]
        before = [previous(h, every, reverse) for h, every in zip(h0, hs, strict=True)]
        d_T, ds = linearised(parts, linear, shared, before, hs, xs, kept, d_shared, d_h0, d_xs, reverse)
        return (h_T, hs), (with_zeros(d_T, h_T), with_zeros(ds, hs))

    roll.defjvp(derivative, symbolic_zeros=True)
    return roll


def forward(parts: Step, shared: list, h0: list, xs: list, reverse: bool) -> tuple[list, list, list]:
    """``(h_T, hs, kept)``: the rollout, and at each step what the derivative needs of it."""
    values = run(parts.once, dict(zip(parts.shared, shared, strict=True)))
    eqns = needed([*parts.ahead, *parts.advance], [*parts.after, *parts.kept])

    def on(h: list, x: list) -> tuple[list, tuple[list, list]]:
        made = run(eqns, values | dict(zip([*parts.h, *parts.x], [*h, *x], strict=True)))
        h = results(made, parts.after)
        return h, (h, [made[v] for v in parts.kept])

    h_T, (hs, kept) = lax.scan(on, h0, xs, reverse=reverse)
    return h_T, hs, kept


def linearised(
    parts: Step, linear: Derivative, shared: list, before: list, after: list, xs: list, kept: list,
    d_shared: list, d_h0: list, d_xs: list, reverse: bool,
) -> tuple[list, list]:
    """``(dh_T, dhs)``: dh_t = A_t dh_{t−1} + v_t, where all v_t are computed at once."""
    T = len(after[0])
    once = run(parts.once, dict(zip(parts.shared, shared, strict=True)))
    timed = dict(zip([*parts.h, *parts.x, *parts.kept], [*before, *xs, *kept], strict=True))
    timed |= {v: a for v, a in zip(parts.after, after, strict=True) if is_variable(v) and v not in timed}
    wanted = [w for _, w in linear.residuals if is_variable(w)]
    recompute = needed([*parts.ahead, *parts.again], [v for v in wanted if v not in timed and v not in once])
    names = list(timed)

    def residuals(now: Sequence[Any]) -> dict[Var, Any]:
        """The residuals of one step, or of all at once."""
        made = run([e for e in recompute], once | dict(zip(names, now, strict=True)))
        return {v: made[w] if is_variable(w) else w.val for v, w in linear.residuals}

    # all v_t at once
    read = needed([*linear.prepare, *linear.inject], linear.injected)
    source = {w for v, w in linear.residuals if is_variable(w) and any(v in e.invars for e in read if True)}
    eqns = [*needed(recompute, source), *[e for e in read]]
    values, axes = dict(once), set(timed)
    values |= timed
    values, axes = over_time(needed(recompute, source), values, axes)
    for v, w in linear.residuals:
        if not is_variable(w):
            values[v] = w.val
        elif w in values:
            values[v] = values[w]
            if w in axes:
                axes.add(v)
    values |= dict(zip([*linear.d_shared, *linear.d_x], [*d_shared, *d_xs], strict=True))
    axes |= set(linear.d_x)
    values, axes = over_time(read, values, axes)
    added = {v for e in linear.carry if e.primitive.name in ("add", "add_any") for v in e.invars if is_variable(v)}
    added |= {v for v in linear.d_after if is_variable(v)}
    each = [v for v in linear.injected if v in axes or v in added]
    vs = [values[v] if v in axes else jnp.broadcast_to(values[v], (T, *values[v].shape)) for v in each]
    fixed = {v: values[v] for v in linear.injected if v not in each}

    carry = needed([*linear.prepare, *linear.carry], linear.d_after)

    def on(dh: list, given: tuple[list, list]) -> tuple[list, list]:
        now, v = given
        made = run(carry, residuals(now) | fixed | dict(zip([*linear.d_h, *each], [*dh, *v], strict=True)))
        dh = [made[v] if is_variable(v) else jnp.full(v.aval.shape, v.val, v.aval.dtype) for v in linear.d_after]
        return dh, dh

    on = jax.checkpoint(on, prevent_cse=False)
    return lax.scan(on, d_h0, ([timed[v] for v in names], vs), reverse=reverse)


def over_time(eqns: list[JaxprEqn], values: dict[Var, Any], timed: set[Var]) -> tuple[dict[Var, Any], set[Var]]:
    """Values with the results of equations, of which ``timed`` have a leading time axis."""
    timed = dependent(eqns, timed)
    values = dict(values)
    group: list[JaxprEqn] = []

    def finish() -> None:
        eqns = list(group)
        group.clear()
        if not eqns:
            return
        made = [v for e in eqns for v in e.outvars]
        own = set(made)
        read = [v for v in dict.fromkeys(v for e in eqns for v in e.invars if is_variable(v)) if v not in own]
        leading = [v for v in read if v in timed]
        fixed = {v: values[v] for v in read if v not in timed}

        def one(now: list) -> list:
            out = run(eqns, fixed | dict(zip(leading, now, strict=True)))
            return [out.get(v) for v in made]

        values.update(zip(made, jax.vmap(one)([values[v] for v in leading]), strict=True))

    for eqn in eqns:
        if not any(is_variable(v) and v in timed for v in eqn.invars):
            values.update(run([eqn], values))
        elif is_product(eqn, timed):
            finish()
            values[eqn.outvars[0]] = product_of_rows(eqn, *(values[v] for v in eqn.invars))
        else:
            group.append(eqn)
    finish()
    return values, timed


def is_product(eqn: JaxprEqn, timed: set[Var]) -> bool:
    """Whether an equation is h W, over the last axis of h, with h of every step and W of none."""
    if eqn.primitive.name != "dot_general" or eqn.invars[0] not in timed or eqn.invars[1] in timed:
        return False
    contracted, batch = eqn.params["dimension_numbers"]
    h, W = (v.aval for v in eqn.invars)
    return W.ndim == 2 and contracted == ((h.ndim - 1,), (0,)) and batch == ((), ())


def product_of_rows(eqn: JaxprEqn, hs: Any, W: Any) -> Any:
    """h W for all steps at once, as one product of two matrices.

    The gradient of W is then one product too; of arrays with three axes XLA makes it by transposing the larger one
    first, which takes 2.3 times as long at B 128, H 256.
    """
    kinds = {name: eqn.params[name] for name in ("precision", "preferred_element_type")}
    rows = lax.dot_general(hs.reshape(-1, hs.shape[-1]), W, (((1,), (0,)), ((), ())), **kinds)
    return rows.reshape(*hs.shape[:-1], W.shape[1])


def previous(h0: Any, hs: Any, reverse: bool) -> Any:
    """The state before each step."""
    return jnp.concatenate([hs, h0[None]])[1:] if reverse else jnp.concatenate([h0[None], hs])[:-1]


def results(values: dict[Var, Any], atoms: list) -> list:
    """The values of variables, and numbers as arrays."""
    return [values[v] if is_variable(v) else jnp.full(v.aval.shape, v.val, v.aval.dtype) for v in atoms]


def moves(tangent: Any) -> bool:
    """Whether an array is differentiated."""
    return not isinstance(tangent, SymbolicZero)


def with_zeros(tangents: list, like: list) -> list:
    """Derivatives of every array; integers have none."""
    given = iter(tangents)
    return [next(given) if is_inexact(a) else np.zeros(a.shape, jax.dtypes.float0) for a in like]
