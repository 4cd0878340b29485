"""Weights of the libraries of JAX: nested dicts, flat dicts and safetensors files, as arrays by their paths."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rnn_jax.interop.named_layers import listed
from rnn_jax.interop.weight_files import array_of, is_path, read_weights

__all__ = [
    "arrays_by_path",
    "is_in_front",
    "nested",
    "one_path",
    "require_names",
    "require_paths",
    "require_shape",
    "usable_array",
]


def arrays_by_path(name: str, weights: Any, wanted: str, without: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of weights by their paths, such as ``cell/i/kernel``.

    Args:
        name: of the weights in error messages.
        weights: nested mappings, a flat one whose keys are paths, or the path of a safetensors file.
        wanted: what else the weights should be, in error messages.
        without: keys whose values are left out.

    Raises:
        ValueError: for anything else, and for values that are not arrays of floating numbers.

    >>> weights = {"layers": {0: {"kernel": np.ones((2, 3))}}}
    >>> {path: array.shape for path, array in arrays_by_path("weights", weights, "").items()}
    {'layers/0/kernel': (2, 3)}
    """
    if is_path(weights):
        weights, _ = read_weights(weights)
    if not isinstance(weights, Mapping):
        raise ValueError(f"{name} got {type(weights).__name__}; want {wanted}, or the path of a safetensors file")
    found: dict[str, np.ndarray] = {}

    def visit(path: str, node: Any) -> None:
        if not isinstance(node, Mapping):
            if path in found:
                raise ValueError(f"{name} got {path} twice; want each array once")
            found[path] = usable_array(path, node)
            return
        for key, value in node.items():
            if not isinstance(key, str | int) or key == "":
                raise ValueError(f"{path or name} got the key {key!r}; want the name or the number of a module")
            if key not in without:
                visit(f"{path}/{key}" if path else str(key), value)

    visit("", weights)
    return found


def usable_array(path: str, value: Any) -> np.ndarray:
    """The array of a value, whose type JAX keeps.

    Raises:
        ValueError: for anything but floating numbers, and for float64 where ``jax_enable_x64`` is off.
    """
    array = array_of(path, value.unbox() if hasattr(value, "unbox") else value)
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(f"{path} got {array.dtype}; want jax_enable_x64, or float32 arrays")
    return array


def nested(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays by path as nested dicts; slashes and full stops divide a path.

    >>> nested("weights", {"cell/i.kernel": np.ones(1), "cell/h.kernel": np.ones(1)})
    {'cell': {'i': {'kernel': array([1.])}, 'h': {'kernel': array([1.])}}}
    """
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *above, last = re.split(r"[/.]", path)
        node = tree
        for key in above:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name} got {path} and an array of the name {key}; want a module or an array")
        if last in node:
            raise ValueError(f"{name} got {path} and a module of this name; want a module or an array")
        node[last] = array
    return tree


def is_in_front(path: str, others: Collection[str], tree: Mapping[str, Any], paths: Sequence[str]) -> bool:
    """Whether a module was made before all others, by the order of its weights; not where they are sorted by name.

    ``init`` of linen and of haiku returns modules in the order in which they are made, ``jax.tree.map`` sorts them.

    Args:
        path: of the module.
        others: paths of other modules.
        tree: the weights.
        paths: of all modules, as they stand in the weights.

    >>> tree = {"linear": {"w": 1, "b": 2}, "lstm/linear": {"w": 3, "b": 4}}
    >>> is_in_front("linear", ["lstm/linear"], tree, [*tree])
    True
    >>> is_in_front("linear", ["lstm/linear"], jax.tree.map(abs, tree), [*tree])
    False
    """

    def is_sorted(node: Any) -> bool:
        names = [*node] if isinstance(node, Mapping) else []
        by_number = sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
        return names in (sorted(names), by_number) and all(is_sorted(node[name]) for name in names)

    return not is_sorted(tree) and paths.index(path) < min(map(paths.index, others))


def require_paths(layers: Sequence[str] | None) -> None:
    """Raises a ValueError unless layers are None or paths."""
    if layers is not None and (
        not isinstance(layers, list | tuple) or not all(isinstance(path, str) for path in layers)
    ):
        raise ValueError(f"layers got {layers!r}; want the paths of cells from the bottom up, such as ('lstm', 'gru')")


def one_path(name: str, kind: str, paths: Collection[str]) -> str | None:
    """The only path of a kind of layer, or None where there is none."""
    if len(paths) > 1:
        raise ValueError(f"{name} got {listed(sorted(paths))}, each as {kind}; want one alone")
    return next(iter(paths), None)


def require_names(where: str, found: Mapping[str, Any], wanted: Collection[str], may_be: Collection[str] = ()) -> None:
    """Raises a ValueError unless a module has these names, and perhaps some that it may have."""
    if missing := sorted({*wanted} - found.keys()):
        raise ValueError(f"{where} got no {listed(missing)}; want it beside {listed(sorted(found)) or 'nothing'}")
    if extra := sorted(found.keys() - {*wanted, *may_be}):
        raise ValueError(f"{where} got {listed(extra)}; want {', '.join(sorted(wanted))} alone")


def require_shape(name: str, array: np.ndarray, *shape: int | None) -> Any:
    """The array; a ValueError for another shape, in which None is any positive size."""
    if len(shape) != array.ndim or any(n != (m or n) or not n for n, m in zip(array.shape, shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} got {list(array.shape)}; want [{wanted}]")
    return array
