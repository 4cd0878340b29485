"""The inputs and outputs of exported files: their names, shapes and types, and programs with symbols as sizes."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np

from rnn_jax.combinators import params_dtype
from rnn_jax.machinery.checks import in_one_line, is_whole
from rnn_jax.types import Params

__all__ = ["input_of", "named_by_path", "require_params", "with_symbols"]


class TypeOfArray(NamedTuple):
    """Its shape and type; int64 stays int64, where JAX without 64 bits has none."""

    shape: tuple[Any, ...]
    """Sizes, or symbols."""
    dtype: Any


LOCK = threading.Lock()
BEFORE: list[bool] = []
"""Of the contexts below that are open, in any thread: whether jaxtyping was off before the first of them."""


@contextlib.contextmanager
def with_symbols() -> Iterator[None]:
    """A context in which jaxtyping checks no types, because a size that is a symbol is no ``int``.

    jaxtyping has one switch for a process: the last context that ends, in any thread, puts it back.
    """
    with LOCK:
        BEFORE.append(BEFORE[0] if BEFORE else jaxtyping.config.jaxtyping_disable)
        jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        with LOCK:
            before = BEFORE.pop()
            if not BEFORE:
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
        ValueError: for a type of ids other than int32 and int64, a shape that is not that of the weights, or where it
            cannot be found in the params.
    """
    shown = input_shape_of(params)
    found = shown if input_shape is None else input_shape
    if found is not None and not (isinstance(found, tuple | list) and all(is_whole(n) and n > 0 for n in found)):
        raise ValueError(f"input_shape got {in_one_line(input_shape)}; want sizes of one example's input, such as (3,)")
    if input_shape is not None and shown and tuple(input_shape) != shown:
        raise ValueError(f"input_shape got {input_shape}; want {shown}, which the weights have")
    kind = found == () and input_shape is None if ids is None else ids
    if not isinstance(kind, bool | np.bool_) and not (isinstance(kind, str) and kind in ("int32", "int64")):
        raise ValueError(f"ids got {in_one_line(ids)}; want True, False, 'int32' or 'int64'")
    if kind:
        return TypeOfArray(axes, np.dtype(kind if isinstance(kind, str) else "int32"))
    if not found and input_shape is None:
        raise ValueError("input_shape got None; want the shape of one example's input at one step, such as (3,)")
    return TypeOfArray((*axes, *(found or ())), np.dtype(params_dtype(params)))


def require_params(model: Any, params: Params) -> None:
    """Raises a ValueError unless params have the structure and the shapes of a model's, and floating types."""
    example = jax.eval_shape(model.init, jax.random.key(0))
    wanted, found = (jax.tree.map(np.shape, tree) for tree in (example, params))
    if jax.tree.structure(wanted) != jax.tree.structure(found) or wanted != found:
        raise ValueError(f"params got {in_one_line(params)}; want those of {model!r}")
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(example), strict=True):
        if jnp.issubdtype(b.dtype, jnp.floating) and not jnp.issubdtype(jnp.result_type(a), jnp.floating):
            raise ValueError(f"params got {jnp.result_type(a)}; want a floating type, such as float32")


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
