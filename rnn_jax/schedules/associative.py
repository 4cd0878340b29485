"""The schedule of cells that are linear in their state: all inputs at once, then one linear recurrence."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Num, PyTree

from rnn_jax.combinators import params_name
from rnn_jax.machinery import sharding
from rnn_jax.machinery.precision import narrowed, widened
from rnn_jax.machinery.sharding import where
from rnn_jax.schedules.blocks import scan_in_blocks
from rnn_jax.schedules.scan import RolloutTask, StepFlags, stop_gradient_where, unmasked
from rnn_jax.types import ComplexState, State, map_parts

__all__ = ["associative"]

BLOCK = 2**16
"""Numbers of the states of one block, on a CPU."""

Flags = Bool[Array, "T ..."] | None
"""One for each step, broadcast over the last axes of a state; None for no such flags."""


def associative(task: RolloutTask) -> tuple[State, State]:
    """The states h_t = a_t ⊙ h_{t−1} + b_t of a cell with ``coefficients``, which are computed for all steps at once.

    Two such steps, one after the other, are again one: a = a_2 ⊙ a_1, b = a_2 ⊙ b_1 + b_2. An accelerator therefore
    computes T steps in a tree of depth log T; a CPU, which gains nothing by that, computes them one after the other, a
    block of steps at a time where there are many.
    The gradient is a recurrence of the same kind in the other direction. Params and inputs of fewer than 32 bits
    are widened to 32, and each state is rounded once.

    Raises:
        ValueError: for a cell without coefficients, or an unroll above 1, as there is no loop to unroll.

    Reference: Blelloch. Prefix sums and their applications. 1990; Martin, Cundy. Parallelizing linear recurrent neural
    nets over sequence length. 2018.
    """
    project, coefficients, flags, reverse = task.cell.project, task.cell.coefficients, task.flags, task.reverse
    if coefficients is None:
        raise ValueError(
            f"schedule got 'associative' for {params_name(task.params)}, which has no coefficients; want a cell that "
            "is linear in its state: diagonal, lru, min_gru, min_lstm, or one of your own made by linear_cell"
        )
    if task.loops.unroll > 1:
        raise ValueError(f"unroll got {task.loops.unroll} for schedule 'associative'; want 1, or another schedule")
    xs = task.xs if flags.mask is None else unmasked(flags.mask, task.xs, task.idle)
    params, xs = widened((task.params, xs))

    def roll(h: State, steps: tuple[PyTree, StepFlags]) -> tuple[State, State]:
        xs, flags = steps
        T = len(jax.tree.leaves(xs)[0])
        a, b = jax.vmap(lambda x: coefficients(params, project(params, x)))(xs)
        part = functools.partial(rolled_part, flags=flags, steps=T, reverse=reverse)
        hs = map_parts(part, h, a, b, h if task.fresh is None else task.fresh)
        return jax.tree.map(lambda h: h[0 if reverse else -1], hs) if T else h, hs

    T = len(jax.tree.leaves(xs)[0])
    length = task.loops.remat or block_length(task.h0, T)
    if length >= T:
        return roll(task.h0, (xs, flags))
    return scan_in_blocks(roll, task.h0, (xs, flags), length, reverse)


def block_length(h0: State, T: int) -> int:
    """Steps that a CPU computes at once, so that their states stay in its cache; all of them elsewhere.

    A length that divides T, if there is one near.
    """
    most = max(1, BLOCK // max(1, sum(h.size for h in jax.tree.leaves(h0))))
    if jax.default_backend() != "cpu" or most >= T:
        return T
    return next((length for length in range(most, most // 2, -1) if T % length == 0), most)


def rolled_part(h0: Any, a: Any, b: Any, fresh: Any, *, flags: StepFlags, steps: int, reverse: bool) -> Any:
    """All states of one part of a state, ``(T, *batch, …)``, from its coefficients; ``a`` may be None."""
    old, start = map(as_array, (h0, fresh))
    b = of_every_step(b, steps, old)
    mask, resets, cuts = (f if f is None else jnp.expand_dims(f, range(f.ndim, b.ndim)) for f in flags)
    if not steps or (a is None and mask is None):
        return as_part(b, like=h0)
    stops, first = resets, -1 if reverse else 0
    if a is None and mask is not None:  # h_t is b_t, or the state that a mask holds
        a, stops = jnp.zeros_like(b), mask if resets is None else mask | resets
    a = of_every_step(a, steps, old)
    if mask is not None:
        a, b = where(mask, a, jnp.ones_like(a)), where(mask, b, jnp.zeros_like(b))
    if resets is not None:
        b = b + a * where(resets, start, jnp.zeros_like(b))
    if stops is not None:
        old = unless(stops[first], old)
    if cuts is not None:
        old = stop_gradient_where(cuts[first], old)
    b = b.at[first].add(a[first] * old)
    return as_part(recurrence(a, b, stops, cuts, reverse), like=h0)


def of_every_step(coefficient: Any, steps: int, h: Array) -> Num[Array, "T ..."]:
    """A coefficient ``(T, …)``, of which each step is broadcast to the shape of the state, in the type of the state."""

    def broadcast(c: Array) -> Array:
        axes = range(1, 1 + h.ndim - (c.ndim - 1))
        return jnp.broadcast_to(jnp.expand_dims(c, axes), (steps, *h.shape))

    return as_array(jax.tree.map(broadcast, coefficient)).astype(h.dtype)


def as_array(part: Any) -> Num[Array, "..."]:
    """A part of a state as one array of at least 32 bits, complex for a ``ComplexState``."""
    part = widened(part)
    return lax.complex(*part) if isinstance(part, ComplexState) else part


def as_part(hs: Num[Array, "T ..."], like: Any) -> Any:
    """States from an array, in the types of a part of the state before the first step."""
    return narrowed(ComplexState(hs.real, hs.imag) if isinstance(like, ComplexState) else hs, like)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def recurrence(
    a: Num[Array, "T ..."], b: Num[Array, "T ..."], stops: Flags, cuts: Flags, reverse: bool
) -> Num[Array, "T ..."]:
    """The states h_t = a_t ⊙ h_{t−1} + b_t from h_0 = 0, with h_t = b_t where a stop is; no gradient crosses a cut.

    These are linear equations h_t − a_t ⊙ h_{t−1} = b_t. The recurrence solves them, and the one in the other direction
    the transposed equations.
    """

    def equations(hs: Array) -> Array:
        return hs - unless(stops, a * previous(hs, reverse))

    def solve(_: Any, b: Array) -> Array:
        return states(a, b, stops, reverse)

    def solve_transposed(_: Any, g: Array) -> Array:
        return states(
            previous(a, not reverse), g, stops if stops is None else previous(stops, not reverse), not reverse
        )

    return lax.custom_linear_solve(equations, b, solve, solve_transposed)


@recurrence.defjvp
def recurrence_jvp(reverse: bool, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The derivative dh_t = a_t ⊙ dh_{t−1} + da_t ⊙ h_{t−1} + db_t, in which a cut stops like a reset."""
    (a, b, stops, cuts), (da, db, *_) = primals, tangents
    hs = recurrence(a, b, stops, cuts, reverse)
    before = unless(stops, previous(hs, reverse))
    if cuts is not None:
        before = stop_gradient_where(cuts, before)
        stops = cuts if stops is None else cuts | stops
    return hs, recurrence(a, da * before + db, stops, None, reverse)


def previous(xs: Array, reverse: bool) -> Array:
    """What stands one step before in the order of reading; zeros before the first step."""
    zero = jnp.zeros_like(xs[:1])
    return jnp.concatenate([xs[1:], zero] if reverse else [zero, xs[:-1]])


def unless(stops: Flags, xs: Array) -> Array:
    """xs, and 0 where a stop is, whatever stands there."""
    return xs if stops is None else where(stops, jnp.zeros_like(xs), xs)


def states(a: Array, b: Array, stops: Flags, reverse: bool) -> Array:
    """The states of a recurrence, without derivatives."""
    return lax.platform_dependent(
        *(a, b, stops),
        cpu=functools.partial(one_by_one, reverse=reverse),
        default=functools.partial(as_a_tree, reverse=reverse),
    )


def one_by_one(a: Array, b: Array, stops: Flags, *, reverse: bool) -> Array:
    """The states of a recurrence, one after the other."""

    def step(h: Array, now: Any) -> tuple[Array, Array]:
        a, b, stop = now
        h = unless(stop, a * h) + b
        return h, h

    return sharding.scan(step, jnp.zeros_like(b[0]), (a, b, stops), reverse)[1]


def as_a_tree(a: Array, b: Array, stops: Flags, *, reverse: bool) -> Array:
    """The states of a recurrence as prefixes of an associative product, in about 2 log₂ T operations on arrays."""

    def both(early: Any, late: Any) -> Any:
        (a_1, b_1, stop_1), (a_2, b_2, stop_2) = early, late
        return a_2 * a_1, unless(stop_2, a_2 * b_1) + b_2, None if stop_2 is None else stop_1 | stop_2

    return lax.associative_scan(both, (a, b, stops), reverse=reverse)[1]
