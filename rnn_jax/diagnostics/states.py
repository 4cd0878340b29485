"""A state as one row of real numbers, and which of its parts the recurrence reads."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval
from jaxtyping import Array, DTypeLike, Float, PyTree

from rnn_jax.schedules.driver import batch_shape
from rnn_jax.types import Cell, Params, State

__all__ = []


class Layout(NamedTuple):
    """How the parts of a state lie in a row of its S real numbers; a complex number is two of them."""

    tree: Any
    parts: tuple[jax.ShapeDtypeStruct, ...]
    """Shape and type of each part at one example."""

    @property
    def dtype(self) -> DTypeLike:
        """The type of a row, which holds the numbers of every part."""
        return functools.reduce(jnp.promote_types, [jnp.finfo(part.dtype).dtype for part in self.parts])

    @property
    def maxexp(self) -> int:
        """Powers of 2 that every part can hold."""
        return min(int(jnp.finfo(part.dtype).maxexp) for part in self.parts)

    def row(self, state: State) -> Float[Array, "*batch S"]:
        """The numbers of a state, in the order of its leaves; the real parts of complex leaves before the imaginary."""
        numbers = []
        for part, leaf in zip(self.parts, jax.tree.leaves(state), strict=True):
            flat = leaf.reshape(*leaf.shape[: leaf.ndim - len(part.shape)], -1)
            numbers += [flat.real, flat.imag] if jnp.iscomplexobj(flat) else [flat]
        return jnp.concatenate([part.astype(self.dtype) for part in numbers], axis=-1)

    def split(self, row: Array) -> list[Array]:
        """The numbers of each part, ``(*batch, S of the part)``."""
        return jnp.split(row, np.cumsum([_size(part) for part in self.parts])[:-1], axis=-1)

    def state(self, row: Float[Array, "*batch S"]) -> State:
        """The state whose numbers these are."""
        leaves = []
        for part, numbers in zip(self.parts, self.split(row), strict=True):
            real = numbers.astype(jnp.finfo(part.dtype).dtype)
            flat = jax.lax.complex(*jnp.split(real, 2, axis=-1)) if _is_complex(part) else real
            leaves.append(flat.reshape(*flat.shape[:-1], *part.shape))
        return jax.tree.unflatten(self.tree, leaves)


def layout_of(cell: Cell, params: Params, h: State) -> Layout:
    """The layout of a state ``h``, with or without batch axes.

    Raises:
        ValueError: for a layer, which has no steps, or a state that is not floating.
    """
    if not isinstance(cell, Cell):
        raise ValueError(f"cell got a {type(cell).__name__}; want a Cell: only a step has a Jacobian")
    batch_ndim = len(batch_shape(cell, params, h))
    for path, leaf in jax.tree.leaves_with_path(h):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            name = f"state{jax.tree_util.keystr(path)}"
            raise ValueError(f"{name} got {leaf.dtype}; want floating numbers: integers have no gradient")
    leaves, tree = jax.tree.flatten(h)
    return Layout(tree, tuple(jax.ShapeDtypeStruct(leaf.shape[batch_ndim:], leaf.dtype) for leaf in leaves))


def require_steps(xs: PyTree) -> None:
    """Raises a ValueError for a sequence that is None."""
    if not jax.tree.leaves(xs):
        raise ValueError("xs got None; want steps (T, *batch, I): jnp.zeros((T, 0)) for a network without inputs")


def parts_read(cell: Cell, params: Params, h: State, x: PyTree) -> list[bool]:
    """Whether the recurrence reads a part of the state, for each part; where it reads none, all count as read.

    What is never read, such as the input that ``residual`` adds to the output, has no part in what comes later.
    """
    jaxpr = jax.make_jaxpr(lambda h, x: cell.step(params, h, x))(h, x).jaxpr
    _, read = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    read = read[: len(jax.tree.leaves(h))]
    return read if any(read) else [True] * len(read)


def _is_complex(part: jax.ShapeDtypeStruct) -> bool:
    return jnp.issubdtype(part.dtype, jnp.complexfloating)


def _size(part: jax.ShapeDtypeStruct) -> int:
    return math.prod(part.shape) * (1 + _is_complex(part))
