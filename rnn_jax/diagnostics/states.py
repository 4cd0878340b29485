"""A state as one row of real numbers, and its recurrent parts, those on which later states depend."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval
from jaxtyping import Array, Bool, DTypeLike, Float, PyTree

from rnn_jax.machinery.checks import require_sequence
from rnn_jax.machinery.precision import widened
from rnn_jax.schedules.driver import batch_shape, require_fit
from rnn_jax.types import Cell, Params, State

__all__ = []


class Layout(NamedTuple):
    """The order of the parts of a state, or of params, in a row of S real numbers; a complex number is two of them."""

    tree: Any
    parts: tuple[jax.ShapeDtypeStruct, ...]
    """Shape and type of each part for one example."""

    @property
    def dtype(self) -> DTypeLike:
        """The type of a row, which can hold the numbers of every part."""
        return functools.reduce(jnp.promote_types, [jnp.finfo(part.dtype).dtype for part in self.parts])

    @property
    def maxexp(self) -> int:
        """The largest exponent of 2 that every part can hold."""
        return min(int(jnp.finfo(part.dtype).maxexp) for part in self.parts)

    def row(self, state: State) -> Float[Array, "*batch S"]:
        """The numbers of a state, in the order of its leaves; the real parts of complex leaves before the imaginary."""
        numbers = []
        for part, leaf in zip(self.parts, jax.tree.leaves(state), strict=True):
            flat = leaf.reshape(*leaf.shape[: leaf.ndim - len(part.shape)], math.prod(part.shape))
            numbers += [flat.real, flat.imag] if jnp.iscomplexobj(flat) else [flat]
        return jnp.concatenate([part.astype(self.dtype) for part in numbers], axis=-1)

    def split(self, row: Array) -> list[Array]:
        """The numbers of each part, ``(*batch, S of the part)``."""
        return jnp.split(row, np.cumsum([part_size(part) for part in self.parts])[:-1], axis=-1)

    def state(self, row: Float[Array, "*batch S"]) -> State:
        """The state with these numbers, the inverse of ``row``."""
        leaves = []
        for part, numbers in zip(self.parts, self.split(row), strict=True):
            real = numbers.astype(jnp.finfo(part.dtype).dtype)
            flat = jax.lax.complex(*jnp.split(real, 2, axis=-1)) if _is_complex(part) else real
            leaves.append(flat.reshape(*flat.shape[:-1], *part.shape))
        return jax.tree.unflatten(self.tree, leaves)


def layout_of(cell: Cell, params: Params, h: State) -> Layout:
    """The layout of a state ``h``, with or without batch axes.

    Raises:
        ValueError: for a layer, which has no single steps, or a state that is not floating.
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


def recurrent_numbers(cell: Cell, params: Params, h: State, x: PyTree) -> Bool[np.ndarray, " S"]:
    """Whether each number in the row of a state belongs to a recurrent part."""
    return np.repeat(recurrent_parts(cell, params, h, x), list(map(part_size, layout_of(cell, params, h).parts)))


def require_one_step(cell: Cell, params: Params, h: State, x: PyTree) -> None:
    """Raises a ValueError unless one step takes ``h`` to a state like it, and ``x`` has its batch axes."""
    require_fit(cell, params, h, jax.tree.map(lambda x: jnp.asarray(x)[None], x))


def require_some_steps(xs: PyTree) -> int:
    """T, the number of steps; a ValueError where there is none."""
    T = require_sequence(xs)
    if T == 0:
        raise ValueError("xs got 0 steps; want at least one")
    return T


def require_targets(targets: PyTree, T: int) -> None:
    """Raises a ValueError unless each array of the targets has T steps."""
    for leaf in jax.tree.leaves(targets):
        if jnp.shape(leaf)[:1] != (T,):
            raise ValueError(f"targets got shape {jnp.shape(leaf)}; want {T} steps leading, one for each of xs")


def params_row(params: Params) -> tuple[Float[Array, " P"], Callable[[Array], Params]]:
    """The floating numbers of params in one row of at least 32 bits, and the params with other such numbers.

    A complex number is two real ones, and integers are constants.

    Raises:
        ValueError: for params without floating numbers.
    """
    leaves, tree = jax.tree.flatten(jax.tree.map(jnp.asarray, params))
    moving = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if not moving:
        raise ValueError("params got no floating numbers; want some: only they have a derivative")
    layout = Layout(jax.tree.structure(moving), tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in moving))

    def restored(row: Float[Array, " P"]) -> Params:
        given = iter(layout.state(row))
        return jax.tree.unflatten(
            tree, [next(given) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf for leaf in leaves]
        )

    return widened(layout.row(moving)), restored


def require_steps(xs: PyTree) -> None:
    """Raises a ValueError for a sequence without arrays, such as None."""
    if not jax.tree.leaves(xs):
        raise ValueError("xs got None; want steps (T, *batch, I): jnp.zeros((T, 0)) for a network without inputs")


def recurrent_parts(cell: Cell, params: Params, h: State, x: PyTree) -> list[bool]:
    """Whether later states depend on a part of the state, for each part; all True if they depend on none.

    A part that only the output uses is not recurrent, such as the input that ``residual`` adds to the output.
    """
    jaxpr = jax.make_jaxpr(lambda h, x: cell.step(params, h, x))(h, x).jaxpr
    _, is_used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    is_used = is_used[: len(jax.tree.leaves(h))]
    return is_used if any(is_used) else [True] * len(is_used)


def _is_complex(part: jax.ShapeDtypeStruct) -> bool:
    return jnp.issubdtype(part.dtype, jnp.complexfloating)


def part_size(part: jax.ShapeDtypeStruct) -> int:
    """The real numbers in a part of a state; a complex one counts as two."""
    return math.prod(part.shape) * (1 + _is_complex(part))
