"""Windows of a sequence: each begins k1 steps after the one before, is k2 steps long, and counts its last k1 losses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Integer, PyTree

from rnn_jax.losses import PerStep
from rnn_jax.machinery.checks import in_one_line, require_kept, require_positive, require_sequence
from rnn_jax.machinery.precision import is_floating
from rnn_jax.machinery.programs import function_of
from rnn_jax.schedules.driver import (
    AUTO,
    Loops,
    batch_shape,
    checked_loops,
    outputs,
    require_fit,
    run_schedule,
    step_flags,
)
from rnn_jax.schedules.scan import StepFlags, idle_inputs
from rnn_jax.types import Cell, Params, State, require_cell

__all__ = ["Loss"]

Loss = Callable[[PyTree, PyTree], Float[Array, ""]]
"""``(ys, targets) -> scalar``, a sum over the leading axis, time."""


class Steps(NamedTuple):
    """The data of each step, time leading, and the inputs that replace masked ones."""

    xs: PyTree
    flags: StepFlags
    targets: PyTree
    idle: PyTree
    """Inputs at masked steps, ``(*batch, …)``, from the whole sequence: a window may have no unmasked step."""


class Windows(NamedTuple):
    """Where windows lie. Window ``number`` ends with step (number + 1) k1 of the sequence."""

    T: int
    k1: int
    k2: int

    def first_step(self, number: int | Array) -> int | Array:
        """The index of a window's first step; below 0 for the first windows where k1 < k2."""
        return (number + 1) * self.k1 - self.k2

    def step_indices(self, number: int | Array, losses: int) -> Array:
        """The indices of a window's steps, of which the last ``losses`` are counted."""
        return self.first_step(number) + jnp.arange(self.k2 - self.k1 + losses)


class Plan(NamedTuple):
    """What all windows share."""

    cell: Cell
    loss: Loss
    windows: Windows
    loops: Loops = AUTO


class Ends(NamedTuple):
    """Two states that a window computes, without gradients."""

    begin: State
    """The state with which the next window begins."""
    last: State
    """The state after the window's last step."""


def plan_windows(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    window: int,
    k1: int | None,
    mask: Bool[ArrayLike, "T ..."] | None,
    lengths: Integer[ArrayLike, "..."] | None,
    resets: Bool[ArrayLike, "T ..."] | None,
    schedule: str,
    counted_steps: int | None = None,
) -> tuple[Plan, Steps]:
    """The plan of a program's windows, none longer than necessary, and the data of its steps, both checked.

    Args:
        cell, params, h0, xs, targets, loss, window, k1, mask, lengths, resets, schedule: as in
            ``tbptt.chunked``.
        counted_steps: number of steps that have targets, if not all have.

    Raises:
        ValueError: for arguments that ``tbptt.chunked`` refuses.
    """
    require_cell("cell", cell)
    if counted_steps is None:
        require_sum(loss)
    T = require_sequence(xs)
    require_kept(xs=xs, targets=targets)
    k1 = window if k1 is None else k1
    require_positive(window=window, k1=k1)
    window, k1 = int(window), int(k1)
    if k1 > window:
        raise ValueError(f"k1 got {k1}, window (k2) {window}; want k1 <= k2, as each window counts its last k1 losses")
    require_steps(T, xs=xs)
    require_steps(T if counted_steps is None else counted_steps, targets=targets)
    flags = step_flags(T, batch_shape(cell, params, h0), mask, lengths, resets)
    k1 = max(min(k1, T), 1)
    whole = -(-T // k1) * k1  # where the last window would end if it were not shorter
    begins_early = k1 < min(window, whole)  # the first windows begin with masked steps before the sequence
    all_or_some = jnp.ones(T, bool) if flags.mask is None and begins_early else flags.mask
    loops = checked_loops(schedule)
    windows = Windows(T, k1, min(window, whole))
    return Plan(cell, loss, windows, loops), Steps(xs, flags, targets, idle_inputs(all_or_some, xs))


def require_steps(steps: int, **trees: PyTree) -> None:
    """Raises a ValueError that names the tree in which an array does not have this many steps leading."""
    for name, tree in trees.items():
        for leaf in jax.tree.leaves(tree):
            if jnp.shape(leaf)[:1] != (steps,):
                raise ValueError(f"{name} got shape {jnp.shape(leaf)}; want {steps} steps leading, one for each of xs")


def require_scalar(value: Array) -> Float[Array, ""]:
    """The loss, if it is a scalar; otherwise a ValueError."""
    if jnp.shape(value):
        raise ValueError(f"loss got shape {jnp.shape(value)}; want a scalar, the sum over time and batch")
    return value


def require_floating(value: Any) -> Any:
    """A loss, or its type, if it is floating; otherwise a ValueError."""
    if not is_floating(value):
        got = value.dtype if hasattr(value, "dtype") else jnp.result_type(value)
        raise ValueError(f"loss got {got}; want a floating number: others have no gradient")
    return value


def require_sum(loss: Any) -> None:
    """Raises a ValueError for a loss that is no function, or a mean over steps: means of windows do not add up."""
    if not callable(loss):
        raise ValueError(f"loss got {in_one_line(loss)}; want a function (ys, targets) -> scalar")
    if isinstance(loss, PerStep):
        raise ValueError(
            "loss got per_step(…); want the sum over time that it divides, as the losses of windows add up"
        )


def value_and_aux(returned: Any, has_aux: bool) -> tuple[Any, PyTree]:
    """The value of a loss and its auxiliary output, ``()`` without has_aux.

    Raises:
        ValueError: for a loss with has_aux that does not return a pair.
    """
    if not has_aux:
        return returned, ()
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError(f"loss got {type(returned).__name__}; want the pair (loss, aux), as has_aux is True")
    return returned


def window_steps(windows: Windows, steps: Steps, number: int | Array, losses: int) -> Steps:
    """The data of one window: all its steps, and the targets of the last ``losses``.

    Steps before the beginning of the sequence are masked.
    """
    t = windows.step_indices(number, losses)

    def at(t: Array, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a: jnp.take(a, t, axis=0, mode="clip"), tree)

    flags = at(t, steps.flags)
    if windows.k1 < windows.k2:
        begun = t >= 0
        mask = begun if flags.mask is None else flags.mask & begun.reshape(-1, *[1] * (flags.mask.ndim - 1))
        flags = flags._replace(mask=mask)
    return Steps(at(t, steps.xs), flags, at(t[len(t) - losses :], steps.targets), steps.idle)


def window_outputs(plan: Plan, params: Params, h: State, steps: Steps, losses: int) -> tuple[PyTree, Ends]:
    """The outputs at a window's last steps, whose losses it counts, and the states that it computes."""
    require_fit(plan.cell, params, h, steps.xs)
    h_T, hs = run_schedule(plan.cell, params, h, steps.xs, steps.flags, steps.idle, loops=plan.loops)
    counted = jax.tree.map(lambda h: h[len(h) - losses :], hs)
    k1, k2 = plan.windows.k1, plan.windows.k2
    begin = h_T if k1 == k2 else jax.tree.map(lambda h: h[k1 - 1], hs)
    return outputs(plan.cell, params, counted), jax.lax.stop_gradient(Ends(begin, h_T))


def window_loss(plan: Plan, params: Params, h: State, steps: Steps, losses: int) -> tuple[Float[Array, ""], Ends]:
    """The loss of a window's last steps, and the states that it computes."""
    ys, ends = window_outputs(plan, params, h, steps, losses)
    return require_scalar(plan.loss(ys, steps.targets)), ends


def with_constants_as_argument(f: Callable[..., Any], *args: PyTree) -> tuple[Callable[..., Any], list[Any]]:
    """A function whose closed-over arrays are an argument: ``(g, consts)`` with g(consts, *args) = f(*args).

    JAX traces a rule for reverse mode after the program itself. Tracers of the program that are closed over would have
    expired by then.
    """
    closed, shape = jax.make_jaxpr(f, return_shape=True)(*args)
    structure, run = jax.tree.structure(shape), function_of(closed)

    def g(consts: list[Any], *args: PyTree) -> Any:
        return jax.tree.unflatten(structure, run(*consts, *jax.tree.leaves(args)))

    return g, closed.consts


def partition(tree: PyTree) -> tuple[PyTree, PyTree]:
    """The floating arrays of a tree, which have a gradient, and its other arrays; None in place of the missing ones."""

    def is_float(leaf: Any) -> bool:
        return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)

    return (
        jax.tree.map(lambda leaf: leaf if is_float(leaf) else None, tree),
        jax.tree.map(lambda leaf: None if is_float(leaf) else leaf, tree),
    )


def combine(floats: PyTree, others: PyTree) -> PyTree:
    """The tree whose two parts ``partition`` returned."""
    return jax.tree.map(lambda a, b: b if a is None else a, floats, others, is_leaf=lambda leaf: leaf is None)
