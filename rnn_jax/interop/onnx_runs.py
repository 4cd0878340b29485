"""The run of a file of ONNX on random numbers, node by node, by which ``from_onnx`` finds out what it computes."""

import itertools
import os
from typing import Any, NamedTuple

import numpy as np

from rnn_jax.interop.models import Part
from rnn_jax.interop.onnx_graphs import Tensor, info, onnx_package
from rnn_jax.machinery.checks import in_one_line

__all__ = [
    "KNOWN",
    "PLACED",
    "RECURRENT",
    "Layer",
    "Run",
    "above",
    "evaluate",
    "loaded",
    "misplaced",
    "same",
    "started",
]

RECURRENT = ("LSTM", "GRU", "RNN")

PLACED = frozenset(
    (
        *("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Concat", "Slice", "Split", "Gather"),
        *("Expand", "Flatten", "Constant", "ConstantOfShape", "Shape", "Size", "Range", "Where", "Tile", "Pad"),
    )
)
"""Operators that move numbers and do not change them."""

LINEAR = ("MatMul", "Gemm", "Add")
"""Operators of a readout."""

KNOWN = "want an embedding, layers of LSTM, GRU or RNN, and a linear readout"

T, B = 5, 3
"""Of the run, where the file leaves them free."""


class Layer(NamedTuple):
    """A layer that has been found in a file."""

    x: np.ndarray
    """What it read in the run, ``(T, B, I)``."""
    parts: tuple[Part, ...]
    Ys: tuple[np.ndarray, ...]
    """The output of each direction in the run, ``(T, B, H)``."""


class Run(NamedTuple):
    """The run of a file; the functions below add to its dictionaries and lists."""

    file: Any
    values: dict[str, np.ndarray]
    """What each tensor was."""
    roots: dict[str, frozenset[str]]
    """The inputs and layers whose numbers each tensor depends on; its sizes do not count."""
    makers: dict[str, Any]
    """The node that writes each tensor."""
    layers: list[Layer]
    main: str
    """The name of the input that the first layer reads."""
    ids: bool
    """Whether it is ids."""
    numbers: Any
    """A generator of random numbers."""


def loaded(file: Any) -> Any:
    """A file as a checked ``onnx.ModelProto``, without functions of its own."""
    onnx = onnx_package()
    given = in_one_line(str(file)) if isinstance(file, str | os.PathLike) else type(file).__name__
    if isinstance(file, onnx.ModelProto):
        model: Any = file
    else:
        try:
            model = onnx.load(file) if isinstance(file, str | os.PathLike) else onnx.load_from_string(file)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"file got {given}; want a file of ONNX: {in_one_line(error)}") from None
    if not model.graph.node:
        raise ValueError(f"file got {given}, which holds no node; want a file of ONNX")
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise ValueError(f"file got {given}; want a valid file of ONNX: {in_one_line(error)}") from None
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    if not any(each.op_type in RECURRENT for each in model.graph.node):
        found = sorted({each.op_type for each in model.graph.node})
        loops = [op for op in found if op in ("Loop", "Scan")]
        raise ValueError(f"file got the operators {', '.join(loops or found)}; want a node LSTM, GRU or RNN")
    return model


def started(model: Any) -> Run:
    """The run of a file before its first node: constants, and random inputs."""
    onnx, graph = onnx_package(), model.graph
    values = {each.name: np.asarray(onnx.numpy_helper.to_array(each)) for each in graph.initializer}
    makers = {name: each for each in graph.node for name in each.output}
    first = next(each for each in graph.node if each.op_type in RECURRENT)
    inputs = {each.name: each for each in graph.input if each.name not in values}
    reached = [name for name in inputs if name in above(first.input[0], makers)]
    if len(reached) != 1:
        raise ValueError(f"file got {first.op_type} that reads {', '.join(reached) or 'no input'}; want one input")
    numbers, sizes = np.random.default_rng(0), itertools.count(2)
    named: dict[str, int] = {}
    vocabulary = vocabulary_size(graph, first, values, makers)
    ids = bool(vocabulary) or is_integer(inputs[reached[0]])
    for name, each in inputs.items():
        kind = each.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        shape = []
        for axis, size in enumerate(kind.shape.dim):
            key = size.dim_param or f"{name} {axis}"
            free = named.get(key) or ((T, B)[axis] if name == reached[0] and axis < 2 else next(sizes))
            named[key] = size.dim_value or free
            shape.append(named[key])
        if name == reached[0] and ids:
            value = numbers.integers(0, vocabulary or values[first.input[1]].shape[-1], shape)
        else:
            value = np.full(shape, 2**15) if is_integer(each) else numbers.normal(size=shape)  # lengths: all steps
        values[name] = np.asarray(value).astype(dtype)
    roots = {name: frozenset({name} if name in inputs else ()) for name in values}
    return Run(model, values | {"": np.zeros(0)}, roots | {"": frozenset()}, makers, [], reached[0], ids, numbers)


def above(name: str, makers: dict[str, Any]) -> set[str]:
    """The tensors that a tensor is computed of, itself included."""
    found, waiting = set(), [name]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += makers[name].input if name in makers else []
    return found


def vocabulary_size(graph: Any, first: Any, values: dict[str, np.ndarray], makers: dict[str, Any]) -> int:
    """The rows of an embedding in front of the first layer; 0 without one."""
    before = above(first.input[0], makers)
    tables = [each for each in graph.node if each.op_type == "Gather" and {*each.output} & before]
    rows = [len(values[each.input[0]]) for each in tables if np.ndim(values.get(each.input[0], 0)) == 2]
    return min(rows, default=0)


def is_integer(each: Any) -> bool:
    """Whether an input of a file is of whole numbers."""
    dtype = onnx_package().helper.tensor_dtype_to_np_dtype(each.type.tensor_type.elem_type)
    return bool(np.issubdtype(dtype, np.integer))


def evaluate(run: Run, each: Any) -> None:
    """Runs one node that is no layer."""
    onnx = onnx_package()
    if each.op_type in ("Loop", "Scan", "If"):
        raise ValueError(f"file got the operator {each.op_type}; want LSTM, GRU or RNN with what stands around them")
    feeds = {name: run.values[name] for name in each.input if name}
    takes = [info(Tensor(name, array.shape, array.dtype)) for name, array in feeds.items()]
    gives = [onnx.helper.make_empty_tensor_value_info(name) for name in each.output if name]
    graph = onnx.helper.make_graph([each], "node", takes, gives)
    model = onnx.helper.make_model(graph, opset_imports=run.file.opset_import, ir_version=run.file.ir_version)
    try:
        with np.errstate(all="ignore"):
            made = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:
        raise ValueError(f"file got the operator {each.op_type}, which fails: {in_one_line(error)}") from None
    sizes_alone = each.op_type in ("Shape", "Size")
    roots = frozenset().union(*(run.roots[name] for name in each.input)) if not sizes_alone else frozenset()
    for name, value in zip(filter(None, each.output), made, strict=True):
        run.values[name] = np.asarray(value)
        run.roots[name] = roots


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of a run hold the same numbers; a sum may be rounded."""
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True))


def misplaced(run: Run, name: str, where: str) -> ValueError:
    """The error for a tensor that is not what a network has in its place; it names the operators before it."""
    found, waiting, seen = [], [name], set()
    while waiting:
        maker = run.makers.get(waiting.pop())
        if maker is None or id(maker) in seen or maker.op_type in RECURRENT:
            continue
        seen.add(id(maker))
        computed = any(run.roots[each] for each in maker.output if each)
        found += [maker.op_type] if computed and maker.op_type not in PLACED else []
        waiting += [each for each in maker.input if run.roots.get(each)]
    found = [op for op in found if op not in LINEAR] or found
    ops = [*dict.fromkeys(found)] or [run.makers[name].op_type if name in run.makers else "Identity"]
    named = f"operator{'s' if len(ops) > 1 else ''} {', '.join(ops)}"
    return ValueError(f"file got the {named} {where}, for which a network has no place; {KNOWN}")
