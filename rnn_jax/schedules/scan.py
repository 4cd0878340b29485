"""The reference schedule: one step after another inside ``jax.lax.scan``."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from rnn_jax.machinery import sharding
from rnn_jax.machinery.precision import narrowed, widened
from rnn_jax.machinery.sharding import where_leading as where
from rnn_jax.schedules.blocks import scan_in_blocks
from rnn_jax.types import Cell, Params, State

__all__ = ["Loops", "RolloutTask", "StepFlags", "flagged_step", "is_key", "scan"]


class StepFlags(NamedTuple):
    """Flags of each step, ``(T, …)`` over the leading batch axes, or None for no such flags."""

    mask: Bool[Array, "T ..."] | None = None
    """False: the state is held and the input ignored."""
    resets: Bool[Array, "T ..."] | None = None
    """True: the state before the step is replaced by the start."""
    cuts: Bool[Array, "T ..."] | None = None
    """True: no gradient flows into the state before the step."""


class Loops(NamedTuple):
    """How a rollout is computed; see there."""

    schedule: str = "auto"
    unroll: int = 1
    remat: int | None = None


class RolloutTask(NamedTuple):
    """What a schedule computes, with checked arguments."""

    cell: Cell
    params: Params
    h0: State
    xs: PyTree
    flags: StepFlags
    """Borders are those before the step in the order of reading."""
    fresh: State
    """The state after a reset; None without resets."""
    idle: PyTree
    """The inputs at masked steps, from ``idle_inputs``."""
    reverse: bool
    """From the last step to the first."""
    loops: Loops


def scan(task: RolloutTask) -> tuple[State, State]:
    """h_t = f_W(h_{t−1}, x_t), step by step, from either end; every JAX transformation works on it."""
    step = flagged_step(task)

    def on(h: State, inputs: tuple[PyTree, StepFlags]) -> tuple[State, State]:
        h = step(h, inputs)
        return h, h

    def on_block(h: State, inputs: tuple[PyTree, StepFlags]) -> tuple[State, State]:
        return sharding.scan(on, h, inputs, task.reverse, task.loops.unroll)

    inputs, block = (task.xs, task.flags), task.loops.remat
    if block is None:
        return on_block(task.h0, inputs)
    return scan_in_blocks(on_block, task.h0, inputs, block, task.reverse)


def flagged_step(task: RolloutTask) -> Callable[[State, tuple[PyTree, StepFlags]], State]:
    """One step ``(h, (x, flags)) -> h`` with its mask, reset and cut."""
    wide, wide_fresh = widened(task.params), widened(task.fresh)

    def step(h: State, inputs: tuple[PyTree, StepFlags]) -> State:
        x, (mask, reset, cut) = inputs
        narrow = narrowed(wide, task.params)
        if cut is not None:
            h = stop_gradient_where(cut, h)
        if reset is not None:
            h = where(reset, narrowed(wide_fresh, task.fresh), h)
        stepped = task.cell.step(narrow, h, x if mask is None else unmasked(mask, x, task.idle))
        return stepped if mask is None else where(mask, stepped, h)

    return step


def idle_inputs(mask: Bool[Array, "T ..."] | None, xs: PyTree) -> PyTree:
    """The inputs at masked steps, ``(*batch, …)``: the first input of each example that is not masked.

    None without a mask.

    No constant is safe for every cell: a cell that divides by ‖x‖ has no gradient at 0. An input of the example itself
    is as safe as the sequence. An example that is masked at every step reads numbers between ¼ and ¾, or id 0.
    """
    if mask is None:
        return None
    first = mask & (jnp.cumsum(mask, axis=0) == 1)

    def leaf(x: Array) -> Array:
        if is_key(x):
            return x
        if jnp.issubdtype(x.dtype, jnp.inexact):
            features = jnp.linspace(0.25, 0.75, x.shape[-1] if x.ndim > mask.ndim else 1).astype(x.dtype)
            none = jnp.broadcast_to(features, (*x.shape[1:-1], features.size)).reshape(x.shape[1:])
        else:
            none = jnp.zeros(x.shape[1:], x.dtype)
        held = jnp.sum(where(first, x, jnp.zeros_like(x)), axis=0, dtype=x.dtype)
        return jax.lax.stop_gradient(where(jnp.any(mask, axis=0), held, none))

    return jax.tree.map(leaf, xs)


def stop_gradient_where(cut: Bool[Array, "..."], h: State) -> State:
    """The same values; where ``cut`` is True, no gradient flows back through them."""
    return where(cut, jax.lax.stop_gradient(h), h)


def unmasked(mask: Bool[Array, "..."], x: PyTree, idle: PyTree) -> PyTree:
    """x, replaced by ``idle`` where it is masked; keys stay."""
    return jax.tree.map(lambda a, b: a if is_key(a) else where(mask, a, b), x, idle)


def is_key(a: Any) -> bool:
    """Whether an array, or the type of one, is of typed keys."""
    return jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
