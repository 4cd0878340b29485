"""Rollouts whose derivative is taken apart: a loop over the state alone, and one product for all steps at once.

The gradient of a plain scan adds a product of the size of the weights to a sum of that size at every step. Here the
loop back through time computes the adjoint of the state and nothing else, and the gradients of the params are one
contraction over time and batch. This holds for every cell whose step is written in plain operations:
``linear_step`` takes its equations apart. A loop inside a step stays whole.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import ClosedJaxpr, Var

from rnn_jax.machinery.precision import is_half
from rnn_jax.machinery.programs import (
    Timed,
    all_equations,
    function_of,
    is_variable,
    made_and_read,
    needed,
    over_time,
    run,
    type_of,
    values_of,
    variables,
)
from rnn_jax.machinery.sharding import has_layouts, one_step
from rnn_jax.schedules.blocks import cut_in_blocks, joined
from rnn_jax.schedules.linear_step import Derivative, Moving, Step, is_inexact, taken_apart
from rnn_jax.schedules.scan import Loops, RolloutTask, flagged_step, is_key, scan
from rnn_jax.types import State

__all__ = ["adjoint"]

CACHE = 26 * 2**20
"""Bytes that the derivative of all steps may write and read again before it is computed in blocks of steps.

About the cache of one processor. Measured at T 100, H 256, against a scan: LSTM, B 32 (33 MB) 0.92 at once and 0.81 in
blocks; vanilla, B 32 (7 MB) 0.58 and 0.82.
"""
BLOCK = 10
"""Steps of a block; 5 and 20 take 2 to 20 % longer at B 32 and 128, H 256."""


class Plan(NamedTuple):
    """What is the same at every step."""

    step: Step
    linear: Derivative
    once: dict[Var, Any]
    """What depends on the params alone."""
    reverse: bool
    unroll: int
    block: int | None
    """Steps of a block of the derivative; None for all at once."""


def adjoint(task: RolloutTask) -> tuple[State, State]:
    """The rollout of ``scan``: up to rounding, the same results.

    It is that of ``scan`` itself where types name axes of a mesh, and for steps that may not be taken apart: see
    ``may_be_taken_apart``. With ``remat``, only the states are kept, and everything else is computed again in blocks
    of so many steps.
    """
    h0, inputs = task.h0, (task.xs, task.flags)
    closed = jax.make_jaxpr(flagged_step(task))(h0, jax.tree.map(one_step, inputs))
    if has_layouts() or not may_be_taken_apart(closed):
        return scan(task)

    run_step = function_of(closed)

    def step(shared: list, h: list, x: list) -> list:
        return run_step(*shared, *h, *x)

    h, tree = jax.tree.flatten(h0)
    h_T, hs = rolled(step, task.reverse, task.loops)(closed.consts, h, jax.tree.leaves(inputs))
    return jax.tree.unflatten(tree, h_T), jax.tree.unflatten(tree, hs)


AS_WRITTEN = frozenset({"cond", "custom_vjp_call", "pure_callback", "rng_bit_generator"})
"""Primitives of steps that may not be taken apart."""


def may_be_taken_apart(step: ClosedJaxpr) -> bool:
    """Whether the equations of a step may be computed for all steps at once, and its gradients be added up first.

    Not so with side effects, such as ``jax.debug.print``, which happen once a step; with numbers of fewer than 32 bits,
    whose sums over time need 32; with branches, callbacks, and random numbers that differ in batches (keys other than
    threefry); and with rules for reverse mode of one's own, which need not be linear.
    """
    arrays = [type_of(v) for v in [*step.jaxpr.invars, *step.jaxpr.constvars]]
    for eqn in all_equations(step.jaxpr):
        if eqn.primitive.name in AS_WRITTEN:
            return False
        arrays += map(type_of, eqn.outvars)
    other_keys = [a for a in arrays if is_key(a) and "fry" not in str(a.dtype)]
    return not (step.effects or other_keys or any(map(is_half, arrays)))


def rolled(step: Callable[..., list], reverse: bool, loops: Loops) -> Callable[..., Any]:
    """The rollout ``(shared, h0, xs) -> (h_T, hs)`` of a step of lists, with its derivative."""

    @jax.custom_jvp
    def roll(shared: list, h0: list, xs: list) -> tuple[list, list]:
        def on(h: list, x: list) -> tuple[list, list]:
            h = step(shared, h, x)
            return h, h

        return lax.scan(on, h0, xs, reverse=reverse, unroll=loops.unroll)

    def derivative(primals: Any, tangents: Any) -> Any:
        shared, h0, xs = primals
        moving = Moving(*([moves(t) for t in part] for part in tangents))
        moving = moving._replace(h=[is_inexact(h) for h in h0])
        taken, linear = taken_apart(step, shared, h0, list(map(one_step, xs)), moving, keep=loops.remat is None)
        constants = taken.constants | linear.constants
        once = run(taken.once, constants | dict(zip(taken.shared, shared, strict=True)))
        written = [type_of(v) for v in [*taken.h, *taken.kept, *linear.injected]]
        at_once = has_cache_alone() and len(xs[0]) * sum(a.size * a.dtype.itemsize for a in written) <= CACHE
        plan = Plan(taken, linear, once, reverse, loops.unroll, loops.remat or (None if at_once else BLOCK))
        h_T, hs, kept = forward(plan, h0, xs)
        d_shared, d_xs = ([t for t in part if moves(t)] for part in (tangents[0], tangents[2]))
        d_h0 = [t if moves(t) else jnp.zeros_like(h) for h, t in zip(h0, tangents[1], strict=True) if is_inexact(h)]
        d_T, ds = linear_rollout(plan, d_shared, d_h0, h0, hs, (xs, kept, d_xs))
        return (h_T, hs), (with_integers(d_T, h_T), with_integers(ds, hs))

    roll.defjvp(derivative, symbolic_zeros=True)
    return roll


def has_cache_alone() -> bool:
    """Whether no other device of a mesh computes beside this one.

    Devices of one CPU compete for its cache. On two of them, blocks are faster at all measured sizes, B 8 and 16 for
    each device, H 256, T 64: LSTM 0.88, GRU 0.96, vanilla 0.89 of the time.
    """
    return jax.sharding.get_abstract_mesh().size <= 1


def forward(plan: Plan, h0: list, xs: list) -> tuple[list, list, list]:
    """``(h_T, hs, kept)``: the rollout, and what the derivative needs of each step.

    What depends on the input alone is computed before the loop, unless all steps of it would not fit into the cache.
    """
    step = plan.step
    known = Timed(plan.once, dict(zip(step.x, xs, strict=True)))
    eqns = step.advance if plan.block is None else [*step.ahead, *step.advance]
    eqns = needed(eqns, [*step.after, *step.kept])
    read = list(dict.fromkeys([*made_and_read(eqns)[1], *variables(step.after)]))
    if plan.block is None:
        known = over_time(needed(step.ahead, read), known)
    read = [v for v in read if v in known.each]

    def on(h: list, now: list) -> tuple[list, tuple[list, list]]:
        made = run(eqns, plan.once | dict(zip([*step.h, *read], [*h, *now], strict=True)))
        h = arrays_of(step.after, made)
        return h, (h, [made[v] for v in step.kept])

    given = [known.each[v] for v in read]
    h_T, (hs, kept) = lax.scan(on, h0, given, length=len(xs[0]), reverse=plan.reverse, unroll=plan.unroll)
    return h_T, hs, kept


def linear_rollout(plan: Plan, d_shared: list, d_h0: list, h0: list, hs: list, given: tuple) -> tuple[list, list]:
    """``(dh_T, dhs)``: dh_t = A_t dh_{t−1} + v_t.

    Args:
        plan: see there.
        d_shared, d_h0: derivatives of the params, and of the state before the first step.
        h0, hs: the states.
        given: inputs, kept results and derivatives of inputs, with time leading.
    """
    plan = plan._replace(once=with_residuals(plan.linear, Timed(plan.once, {})).once)
    on_block = partial(linear_block, plan, d_shared)
    if plan.block is None or len(hs[0]) <= plan.block:
        return on_block(d_h0, (h0, hs, given))
    on_block = jax.checkpoint(on_block, prevent_cse=False)
    whole, rest = cut_in_blocks((hs, given), plan.block, plan.reverse)
    ends = [h[:, 0 if plan.reverse else -1] for h in whole[0]]
    starts = [previous(h, end, plan.reverse) for h, end in zip(h0, ends, strict=True)]
    dh, ds = lax.scan(on_block, d_h0, (starts, *whole), reverse=plan.reverse)
    return joined(dh, ds, on_block, ([end[0 if plan.reverse else -1] for end in ends], *rest), plan.reverse)


def linear_block(plan: Plan, d_shared: list, dh: list, block: tuple) -> tuple[list, list]:
    """``linear_rollout`` of one block: all v_t at once, and A_t dh_{t−1} step by step."""
    step, linear = plan.step, plan.linear
    start, after, (xs, kept, d_xs) = block
    before = [previous(h, every, plan.reverse) for h, every in zip(start, after, strict=True)]
    each = {v: a for v, a in zip(step.after, after, strict=True) if is_variable(v)}
    each |= dict(zip([*step.h, *step.x, *step.kept], [*before, *xs, *kept], strict=True))
    again = [eqn for eqn in [*step.ahead, *step.again] if not each.keys() >= set(eqn.outvars)]
    known = over_time(needed(again, [w for _, w in linear.residuals]), Timed(plan.once, each))
    once, each = with_residuals(linear, known)
    once |= dict(zip(linear.d_shared, d_shared, strict=True))
    once, each = over_time(linear.inject, Timed(once, each | dict(zip(linear.d_x, d_xs, strict=True))))
    for v in linear.added:  # a bias alone, for instance
        if v in once:
            each[v] = jnp.broadcast_to(once[v], (len(xs[0]), *once[v].shape))
    read = list(dict.fromkeys([*made_and_read(linear.carry)[1], *linear.added]))
    now = [v for v in read if v in each]

    def on(dh: list, given: list) -> tuple[list, list]:
        made = run(linear.carry, once | dict(zip([*linear.d_h, *now], [*dh, *given], strict=True)))
        dh = arrays_of(linear.d_after, made)
        return dh, dh

    given = [each[v] for v in now]
    return lax.scan(on, dh, given, length=len(xs[0]), reverse=plan.reverse, unroll=plan.unroll)


def with_residuals(linear: Derivative, known: Timed) -> Timed:
    """What is known of the step, with all that the derivative computes of it."""
    once, each = dict(known.once), dict(known.each)
    for v, w in linear.residuals:
        if not is_variable(w):
            once[v] = w.val
        elif w in each:
            each[v] = each[w]
        elif w in once:
            once[v] = once[w]
    found, eqns = {*once, *each}, []
    for eqn in linear.prepare:
        if found.issuperset(variables(eqn.invars)) and not found.issuperset(eqn.outvars):
            eqns.append(eqn)
            found.update(eqn.outvars)
    return over_time(eqns, Timed(once, each))


def previous(h0: Any, hs: Any, reverse: bool) -> Any:
    """The state before each step."""
    if len(hs) == 0:
        return hs
    return jnp.concatenate([hs[1:], h0[None]]) if reverse else jnp.concatenate([h0[None], hs[:-1]])


def arrays_of(atoms: list, values: dict[Var, Any]) -> list:
    """The values of variables, and numbers as arrays."""
    return [jnp.broadcast_to(a, type_of(v).shape) for v, a in zip(atoms, values_of(atoms, values), strict=True)]


def moves(tangent: Any) -> bool:
    """Whether an array is differentiated."""
    return not isinstance(tangent, SymbolicZero)


def with_integers(tangents: list, like: list) -> list:
    """Derivatives of every array, given those of floating ones; integers have none."""
    given = iter(tangents)
    return [next(given) if is_inexact(a) else np.zeros(a.shape, jax.dtypes.float0) for a in like]
