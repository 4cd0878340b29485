"""Graphs of ONNX: nodes and constants are added one after another, then a file is made of them and checked.

The package is imported in ``onnx_package`` alone.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.types import Params

__all__ = ["IR_VERSION", "OPSET", "Graph", "Tensor", "empty_graph", "model_of", "onnx_package", "subgraph"]

OPSET, IR_VERSION = 18, 8
"""The operators' version and the file format: old enough for runtimes of some years ago."""

TYPES = ("float64", "float32", "float16")
"""Of params: ONNX has its three recurrent nodes in these."""


class Tensor(NamedTuple):
    """A tensor of a graph, or an array that is known when the graph is made."""

    what: Any
    """The name of a tensor, or the array."""
    shape: tuple[Any, ...]
    """Its sizes: whole numbers, or symbols that have values when the graph runs. An axis may have size 1 where larger
    ones are meant: elementwise operators repeat it."""
    dtype: Any


class Graph(NamedTuple):
    """A graph in the making; the functions below add to its lists."""

    nodes: list[Any]
    constants: dict[str, np.ndarray]
    """By name; those of a whole file, which inner graphs read too."""
    known: dict[Any, str]
    """The names of constants by type, shape and bytes, so that none is there twice."""
    numbers: Iterator[int]
    """For names of nodes and tensors, unique in a file."""
    sizes: dict[str, str]
    """The tensor ``(1,)`` with the value of each symbol."""


def onnx_package() -> Any:
    """The package onnx.

    Raises:
        ValueError: where it is not installed.
    """
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.inliner
        import onnx.numpy_helper
        import onnx.reference
    except ImportError:
        raise ValueError("onnx got no package of this name; want it: pip install rnn-jax-lab[onnx]") from None
    return onnx


def empty_graph() -> Graph:
    """A graph without nodes."""
    return Graph([], {}, {}, itertools.count(1), {})


def subgraph(graph: Graph) -> Graph:
    """An inner graph without nodes, which shares constants and numbers with the outer one."""
    return graph._replace(nodes=[])


def node(graph: Graph, op: str, inputs: Iterable[str], outputs: int = 1, **attributes: Any) -> Any:
    """The name of the output of a new node, or a list of names where it has several outputs."""
    number = next(graph.numbers)
    names = [f"{op}_{number}" if outputs == 1 else f"{op}_{number}_{n}" for n in range(outputs)]
    made = onnx_package().helper.make_node(op, list(inputs), names, name=f"node_{number}_{op}", **attributes)
    graph.nodes.append(made)
    return names[0] if outputs == 1 else names


def constant(graph: Graph, array: Any, name: str = "constant") -> str:
    """The name of a constant, which is added unless there is an equal one."""
    array = np.asarray(array)
    key = (str(array.dtype), array.shape, array.tobytes())
    if key not in graph.known:
        graph.known[key] = f"{name}_{next(graph.numbers)}" if name == "constant" or name in graph.constants else name
        graph.constants[graph.known[key]] = array
    return graph.known[key]


def integers(graph: Graph, *values: Any) -> str:
    """The name of a constant of 64-bit integers, as sizes and axes are."""
    return constant(graph, np.array(values, np.int64))


def named(graph: Graph, tensor: Tensor) -> str:
    """The name of a tensor; an array becomes a constant."""
    return tensor.what if isinstance(tensor.what, str) else constant(graph, tensor.what)


def is_known(tensor: Tensor) -> bool:
    """Whether a tensor is an array that is known already."""
    return not isinstance(tensor.what, str)


def is_tensor(value: Any) -> bool:
    """Whether a leaf of a pytree is a tensor, which is a pytree itself."""
    return isinstance(value, Tensor)


def array_tensor(array: Any, dtype: Any = None) -> Tensor:
    """An array as a tensor."""
    array = np.asarray(array, dtype)
    return Tensor(array, array.shape, array.dtype)


def is_fixed(shape: Iterable[Any]) -> bool:
    """Whether all sizes are whole numbers."""
    return all(isinstance(size, int | np.integer) for size in shape)


def shape_name(graph: Graph, shape: tuple[Any, ...]) -> str:
    """The name of a tensor with these sizes.

    Raises:
        ValueError: for a size that is not one symbol, such as 2·B.
    """
    if is_fixed(shape):
        return integers(graph, *map(int, shape))
    parts = []
    for size in shape:
        if not is_fixed((size,)) and str(size) not in graph.sizes:
            raise ValueError(f"cell got an array with a size of {size}; ONNX takes B, or whole numbers")
        parts.append(integers(graph, int(size)) if is_fixed((size,)) else graph.sizes[str(size)])
    return parts[0] if len(parts) == 1 else node(graph, "Concat", parts, axis=0)


def broadcast_to(graph: Graph, tensor: Tensor, shape: tuple[Any, ...]) -> Tensor:
    """A tensor repeated along its axes of size 1 until it has a shape."""
    if tensor.shape == tuple(shape):
        return tensor
    if is_known(tensor) and is_fixed(shape):
        return array_tensor(np.broadcast_to(tensor.what, shape))
    name = node(graph, "Expand", [named(graph, tensor), shape_name(graph, shape)])
    return Tensor(name, tuple(shape), tensor.dtype)


def reshaped(graph: Graph, name: str, shape: tuple[Any, ...]) -> str:
    """A tensor in another shape, with at most one size that is no whole number left to ONNX."""
    if sum(not is_fixed((size,)) for size in shape) == 1 and 0 not in shape:
        return node(graph, "Reshape", [name, integers(graph, *(s if is_fixed((s,)) else -1 for s in shape))])
    return node(graph, "Reshape", [name, shape_name(graph, shape)], allowzero=1)


def data_type(dtype: Any) -> int:
    """ONNX's number of a type."""
    return onnx_package().helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def info(tensor: Tensor, name: str = "") -> Any:
    """The name, type and shape of an input or output."""
    sizes = [int(size) if is_fixed((size,)) else str(size) for size in tensor.shape]
    return onnx_package().helper.make_tensor_value_info(name or tensor.what, data_type(tensor.dtype), sizes)


def model_of(graph: Graph, inputs: list[Tensor], outputs: dict[str, Tensor], description: str) -> Any:
    """The checked ``onnx.ModelProto`` of a graph.

    Args:
        graph: with all nodes.
        inputs: by their names.
        outputs: the tensors that become outputs of these names.
        description: of the model.
    """
    onnx = onnx_package()
    final: dict[str, str] = {}
    for name, tensor in outputs.items():
        made = named(graph, tensor)
        renamed(graph, final.get(made, made), name, fixed=made in final)
        final.setdefault(made, name)
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    gives = [info(tensor, name) for name, tensor in outputs.items()]
    made = onnx.helper.make_graph(graph.nodes, "rnn_jax", [*map(info, inputs)], gives, used(graph, constants))
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION, producer_name="rnn_jax")
    model.graph.doc_string = description
    if sum(array.nbytes for array in graph.constants.values()) < LARGEST_CHECKED:
        onnx.checker.check_model(model, full_check=True)
    return model


LARGEST_CHECKED = 2**31 - 2**20
"""Bytes of weights: a larger file can only be saved with its weights beside it."""


def used(graph: Graph, constants: list[Any]) -> list[Any]:
    """Those constants that a node reads, in inner graphs too."""
    reads = {name for made in all_nodes(graph.nodes) for name in made.input}
    return [each for each in constants if each.name in reads]


def all_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Nodes, and those of their inner graphs."""
    for each in nodes:
        yield each
        for attribute in each.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g.node)


def renamed(graph: Graph, name: str, wanted: str, fixed: bool) -> None:
    """Gives the output of a node another name, or makes a copy of it; inputs, constants and outputs keep theirs."""
    if fixed or not any(name in each.output for each in graph.nodes):
        graph.nodes.append(onnx_package().helper.make_node("Identity", [name], [wanted], name=f"node_{wanted}"))
        return
    for each in graph.nodes:
        for names in (each.input, each.output):
            names[:] = [wanted if each == name else each for each in names]


def require_types(params: Params) -> None:
    """Raises a ValueError unless all floating params have the same type, one of ``TYPES``."""
    types = {np.dtype(getattr(leaf, "dtype", None) or jnp.result_type(leaf)) for leaf in jax.tree.leaves(params)}
    found = sorted(each.name for each in types if jnp.issubdtype(each, jnp.floating))
    if len(found) > 1 or not {*found} <= {*TYPES}:
        wanted = "one of " * (len(found) > 1) + ", ".join(TYPES)
        raise ValueError(f"params got {', '.join(found)}; ONNX takes {wanted}: cast them first")
