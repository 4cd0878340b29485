"""The inputs and outputs of exported files: their names, shapes and types, and programs with symbols as sizes."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jaxtyping
import numpy as np

from rnn_jax.combinators import params_dtype
from rnn_jax.types import Params

__all__ = ["input_of", "named_by_path", "with_symbols"]


class TypeOfArray(NamedTuple):
    """Its shape and type; int64 stays int64, where JAX without 64 bits has none."""

    shape: tuple[Any, ...]
    """Sizes, or symbols."""
    dtype: Any


@contextlib.contextmanager
def with_symbols() -> Iterator[None]:
    """A context in which jaxtyping checks no types, because a size that is a symbol is no ``int``."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def named_by_path(name: str, tree: Any, is_leaf: Any = None) -> dict[str, Any]:
    """The leaves of a pytree by their paths.

    >>> named_by_path("h", {"a": 1, "b": (2, 3)})
    {'h.a': 1, 'h.b.0': 2, 'h.b.1': 3}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    text = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return {".".join(filter(None, (name, path))): leaf for path, (_, leaf) in zip(text, leaves, strict=True)}


def input_of(
    params: Params,
    ids: bool | str | None,
    input_shape: tuple[int, ...] | None,
    axes: tuple[Any, ...],
) -> TypeOfArray:
    """The shape and the type of a file's input.

    Args:
        params, ids, input_shape: as in ``to_onnx``.
        axes: the leading ones, T and B.

    Raises:
        ValueError: for a type of ids other than int32 and int64, or where the shape cannot be found in the params.
    """
    found = None if input_shape is None else tuple(input_shape)
    found = input_shape_of(params) if found is None else found
    kind = found == () and input_shape is None if ids is None else ids
    if kind not in (False, True, "int32", "int64"):
        raise ValueError(f"ids got {ids!r}; want True, False, 'int32' or 'int64'")
    if kind is not False:
        return TypeOfArray(axes, np.dtype("int32" if kind is True else kind))
    if not found and input_shape is None:
        raise ValueError("input_shape got None; want the shape of one example's input at one step, such as (3,)")
    return TypeOfArray((*axes, *(found or ())), np.dtype(params_dtype(params)))


def input_shape_of(params: Params) -> tuple[int, ...] | None:
    """The shape of one example's input at one step, as far as params show it; () for the ids of an embedding."""
    if hasattr(params, "E"):
        return ()
    if hasattr(params, "W_xh") and np.ndim(params.W_xh) == 2:
        return (np.shape(params.W_xh)[0],)
    if hasattr(params, "cell") and hasattr(params, "W"):
        return (np.shape(params.W)[0],)
    if hasattr(params, "cell"):
        return input_shape_of(params.cell)
    return input_shape_of(params[0]) if isinstance(params, tuple) and params else None
