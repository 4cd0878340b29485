"""Windows of a sequence: each begins k1 steps after the one before, is k2 steps long, and counts its last k1 losses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, Float, Integer, PyTree

from rnn_jax.machinery.checks import require_kept, require_positive, require_sequence
from rnn_jax.schedules.driver import batch_shape, outputs, require_fit, run_schedule, step_flags
from rnn_jax.schedules.scan import StepFlags, idle_inputs
from rnn_jax.types import Cell, Params, State, require_cell

__all__ = ["Loss"]

Loss = Callable[[PyTree, PyTree], Float[Array, ""]]
"""``(ys, targets) -> scalar``, a sum over the leading axis, time."""


class Steps(NamedTuple):
    """What a sequence brings at each of its steps, time leading, and what stands in for what is masked."""

    xs: PyTree
    flags: StepFlags
    targets: PyTree
    idle: PyTree
    """What masked steps read, ``(*batch, …)``; of the whole sequence, as a window may have no other."""


class Plan(NamedTuple):
    """What is the same for every window. Window ``number`` ends with step (number + 1) k1 of the sequence."""

    cell: Cell
    loss: Loss
    T: int
    k1: int
    k2: int

    def begin(self, number: int | Array) -> int | Array:
        """The index of a window's first step; below 0 for the first windows where k1 < k2."""
        return (number + 1) * self.k1 - self.k2

    def steps(self, number: int | Array, losses: int) -> Array:
        """The indices of a window's steps, of which the last ``losses`` are counted."""
        return self.begin(number) + jnp.arange(self.k2 - self.k1 + losses)


class Ends(NamedTuple):
    """Where a window leads, without gradients."""

    begin: State
    """The state with which the next window begins."""
    last: State
    """The state after the window's last step."""


def read(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    window: int,
    k1: int | None,
    flags: StepFlags,
    lengths: Integer[Array, "..."] | None,
    counted: int | None = None,
) -> tuple[Plan, Steps]:
    """Checks what a program was given and lays its windows out; none is longer than it has to be.

    Args:
        cell, params, h0, xs, targets, loss, window, k1, lengths: as in ``tbptt.chunked``.
        flags: the mask and resets.
        counted: steps that have targets, when not all.
    """
    require_cell("cell", cell)
    T = require_sequence(xs)
    require_kept(xs=xs, targets=targets)
    k1 = window if k1 is None else k1
    require_positive(window=window, k1=k1)
    window, k1 = int(window), int(k1)
    if k1 > window:
        raise ValueError(f"k1 got {k1}, window (k2) {window}; want k1 <= k2, or some losses would teach nothing")
    require_steps(T, xs=xs)
    require_steps(T if counted is None else counted, targets=targets)
    flags = step_flags(T, batch_shape(cell, params, h0), flags.mask, lengths, flags.resets, None, reverse=False)
    k1 = max(min(k1, T), 1)
    whole = -(-T // k1) * k1  # the last window ends here, if only in name
    begins_early = k1 < min(window, whole)  # windows wait before the first step, masked
    mask = jnp.ones(T, bool) if flags.mask is None and begins_early else flags.mask
    return Plan(cell, loss, T, k1, min(window, whole)), Steps(xs, flags, targets, idle_inputs(mask, xs))


def require_steps(steps: int, **trees: PyTree) -> None:
    """Raises a ValueError that names a tree with an array which does not have this many steps leading."""
    for name, tree in trees.items():
        for leaf in jax.tree.leaves(tree):
            if jnp.shape(leaf)[:1] != (steps,):
                raise ValueError(f"{name} got shape {jnp.shape(leaf)}; want {steps} steps leading, one for each of xs")


def require_scalar(value: Array) -> Float[Array, ""]:
    """The loss, if it is a number; otherwise a ValueError."""
    if jnp.shape(value):
        raise ValueError(f"loss got shape {jnp.shape(value)}; want a scalar, the sum over time and batch")
    return value


def take(plan: Plan, steps: Steps, number: int | Array, losses: int) -> Steps:
    """What one window reads: all its steps, and the targets of the last ``losses``.

    Where it reaches back before the sequence, it waits: those steps are masked.
    """
    t = plan.steps(number, losses)

    def at(t: Array, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a: jnp.take(a, t, axis=0, mode="clip"), tree)

    flags = at(t, steps.flags)
    if plan.k1 < plan.k2:
        begun = t >= 0
        mask = begun if flags.mask is None else flags.mask & begun.reshape(-1, *[1] * (flags.mask.ndim - 1))
        flags = flags._replace(mask=mask)
    return Steps(at(t, steps.xs), flags, at(t[len(t) - losses :], steps.targets), steps.idle)


def windowed(plan: Plan, params: Params, h: State, steps: Steps, losses: int) -> tuple[Float[Array, ""], Ends]:
    """The loss of a window's last steps, and where it leads."""
    require_fit(plan.cell, params, h, steps.xs)
    h_T, hs = run_schedule(plan.cell, params, h, steps.xs, steps.flags, steps.idle)
    counted = jax.tree.map(lambda h: h[len(h) - losses :], hs)
    begin = h_T if plan.k1 == plan.k2 else jax.tree.map(lambda h: h[plan.k1 - 1], hs)
    value = require_scalar(plan.loss(outputs(plan.cell, params, counted), steps.targets))
    return value, jax.lax.stop_gradient(Ends(begin, h_T))


def hoisted(f: Callable[..., Any], *args: PyTree) -> tuple[Callable[..., Any], list[Any]]:
    """What a function closes over, as an argument: ``(g, consts)`` with g(consts, *args) = f(*args).

    A rule for reverse mode is traced when its program is there already; what was traced with that program and is
    closed over would be unknown by then.
    """
    closed, shape = jax.make_jaxpr(f, return_shape=True)(*args)
    structure = jax.tree.structure(shape)

    def g(consts: list[Any], *args: PyTree) -> Any:
        run = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, consts))
        return jax.tree.unflatten(structure, run(*jax.tree.leaves(args)))

    return g, closed.consts


def part(tree: PyTree) -> tuple[PyTree, PyTree]:
    """A tree's floating arrays, which have a gradient, and the others; each with None in the other's places."""

    def is_float(leaf: Any) -> bool:
        return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)

    return (
        jax.tree.map(lambda leaf: leaf if is_float(leaf) else None, tree),
        jax.tree.map(lambda leaf: None if is_float(leaf) else leaf, tree),
    )


def join(floats: PyTree, others: PyTree) -> PyTree:
    """The tree that ``part`` took apart."""
    return jax.tree.map(lambda a, b: b if a is None else a, floats, others, is_leaf=lambda leaf: leaf is None)
