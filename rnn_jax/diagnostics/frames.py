"""Frames: orthonormal vectors that are tangent to a trajectory and move along it, instead of products of Jacobians."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PyTree

from rnn_jax.diagnostics.states import layout_of, recurrent_numbers, require_steps
from rnn_jax.initializers import at_least_float32
from rnn_jax.machinery.precision import widened
from rnn_jax.schedules.driver import batch_shape, require_fit
from rnn_jax.types import Cell, Params, State

__all__ = []


class Tangents(NamedTuple):
    """The recurrence of the recurrent numbers of a state, of one example, and of vectors tangent to it."""

    size: int
    """S, numbers of the recurrent parts."""
    dtype: Any
    """Of the vectors, at least float32."""
    push: Callable[[State, PyTree, Float[Array, "S K"]], tuple[State, Float[Array, "S K"]]]
    """``(h, x, vectors) -> (h after the step, J vectors)``."""


def tangents_of(cell: Cell, params: Params, h: State, x: PyTree) -> Tangents:
    """The recurrence of one example, with its tangent vectors.

    Args:
        cell, params: any cell and its weights.
        h, x: a state without batch axes and one input, or their shapes and types.
    """
    layout = layout_of(cell, params, h)
    recurrent = np.flatnonzero(recurrent_numbers(cell, params, h, x))
    dtype = at_least_float32(layout.dtype)

    def push(h: State, x: PyTree, vectors: Array) -> tuple[State, Array]:
        def step(row: Array) -> Array:
            return widened(layout.row(cell.step(params, layout.state(row), x)))

        row = widened(layout.row(h))
        columns = jnp.zeros((row.size, vectors.shape[1]), dtype).at[recurrent].set(vectors)
        pushed = jax.vmap(lambda v: jax.jvp(step, (row,), (v,))[1], in_axes=1, out_axes=1)(columns)
        return cell.step(params, h, x), pushed[recurrent]

    return Tangents(len(recurrent), dtype, push)


def first_frame(size: int, count: int, dtype: Any) -> Float[Array, "S K"]:
    """K orthonormal vectors in general position, the same at each call."""
    return jnp.linalg.qr(jax.random.normal(jax.random.key(0), (size, size), dtype)[:, :count])[0]


def orthonormal(vectors: Float[Array, "S K"]) -> tuple[Float[Array, "S K"], Float[Array, "K K"]]:
    """Q and R of a QR decomposition, of which the diagonal of R is not negative: so both are unique."""
    Q, R = jnp.linalg.qr(vectors)
    sign = jnp.where(jnp.diagonal(R) < 0, -1, 1).astype(R.dtype)
    return Q * sign[None], sign[:, None] * R


def of_each_example(f: Callable[[State, PyTree], PyTree], batch_ndim: int) -> Callable[[State, PyTree], PyTree]:
    """A function ``(h0, xs) -> arrays`` of one example, for h0 ``(*batch, …)`` and xs ``(T, *batch, …)``.

    The batch axes of results are their last ones.
    """
    for axis in range(batch_ndim):
        f = jax.vmap(f, in_axes=(0, 1), out_axes=-1 - axis)
    return f


def first_input(xs: PyTree, batch_ndim: int) -> PyTree:
    """Shape and type of the input of one example at one step."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1 + batch_ndim :], x.dtype), xs)


def one_example(h0: State, batch_ndim: int) -> State:
    """Shape and type of the state of one example."""
    return jax.tree.map(lambda h: jax.ShapeDtypeStruct(h.shape[batch_ndim:], h.dtype), h0)


def state_size(cell: Cell, params: Params, h0: State, xs: PyTree) -> int:
    """S, the numbers in the recurrent parts of a state, for arguments that fit together.

    Raises:
        ValueError: for a layer, a state that is not floating, or arguments that do not fit the cell.
    """
    require_steps(xs)
    layout_of(cell, params, h0)
    require_fit(cell, params, h0, xs)
    axes = len(batch_shape(cell, params, h0))
    return int(recurrent_numbers(cell, params, one_example(h0, axes), first_input(xs, axes)).sum())


class FiniteSteps(NamedTuple):
    """What is finite at each step."""

    state: Bool[Array, "T *batch"]
    vectors: Bool[Array, "T *batch"]
    """The frame after it was multiplied by the Jacobian."""


def is_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether all numbers of a state are finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def require_finite_steps(finite: FiniteSteps) -> None:
    """Raises a ValueError that names the first step whose state or Jacobian is not finite, unless this is traced."""
    for name, holds in (("state", finite.state), ("Jacobian", finite.vectors)):
        if not isinstance(holds, Tracer):
            bad = np.flatnonzero(~np.asarray(holds).all(axis=tuple(range(1, holds.ndim))))
            if bad.size:
                got = f"{name} got numbers that are not finite at step {bad[0] + 1}"
                raise ValueError(f"{got}; want a trajectory that stays finite, and its derivatives too")
