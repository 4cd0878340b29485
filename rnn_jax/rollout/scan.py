"""The reference schedule: one step after another inside ``jax.lax.scan``."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from rnn_jax.types import Cell, Params, State


class Marks(NamedTuple):
    """What is said about each step beside its input, ``(T, …)`` over the leading batch axes; None says nothing."""

    mask: Bool[Array, "T ..."] | None = None
    """False: the state is held and the input ignored."""
    resets: Bool[Array, "T ..."] | None = None
    """True: the state before the step is replaced by the start."""
    cuts: Bool[Array, "T ..."] | None = None
    """True: no gradient flows into the state before the step."""


def scan(
    cell: Cell, params: Params, h0: State, xs: PyTree, marks: Marks, fresh: State, reverse: bool
) -> tuple[State, State]:
    """h_t = f_W(h_{t−1}, x_t), step by step, from either end; every JAX transformation works on it.

    Args:
        cell, params, h0, xs: as in ``rollout``.
        marks: as in ``Marks``; borders are those before the step in the order of reading.
        fresh: what a reset puts in the state's place.
        reverse: from the last step to the first.
    """

    def step(h: State, inputs: tuple[PyTree, Marks]) -> tuple[State, State]:
        x, (mask, reset, cut) = inputs
        if cut is not None:
            h = stop_gradient_where(cut, h)
        if reset is not None:
            h = where(reset, fresh, h)
        h = cell.step(params, h, x) if mask is None else where(mask, cell.step(params, h, or_zero(mask, x)), h)
        return h, h

    return jax.lax.scan(step, h0, (xs, marks), reverse=reverse)


def where(condition: Bool[Array, "..."], a: State, b: State) -> State:
    """a where the condition over the leading batch axes is True, elsewhere b."""

    def leaf(a: Array, b: Array) -> Array:
        return jnp.where(jnp.expand_dims(condition, range(condition.ndim, a.ndim)), a, b)

    return jax.tree.map(leaf, a, b)


def stop_gradient_where(cut: Bool[Array, "..."], h: State) -> State:
    """The same values; where ``cut`` is True, no gradient flows back through them."""
    return where(cut, jax.lax.stop_gradient(h), h)


def or_zero(mask: Bool[Array, "..."], x: PyTree) -> PyTree:
    """x, and zero where it is masked: whatever lies there cannot make a gradient NaN. Keys are left alone."""

    def leaf(a: Array) -> Array:
        return a if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else where(mask, a, jnp.zeros_like(a))

    return jax.tree.map(leaf, x)
