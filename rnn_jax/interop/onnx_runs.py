"""The run of a file of ONNX on random numbers, node by node, by which ``from_onnx`` finds out what it computes."""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from rnn_jax.interop.models import Part
from rnn_jax.interop.onnx_graphs import Tensor, info, onnx_package
from rnn_jax.machinery.checks import in_one_line

__all__ = [
    "LARGEST",
    "RECURRENT",
    "FailedNodeError",
    "Layer",
    "Plan",
    "Run",
    "above",
    "between",
    "changing",
    "evaluate",
    "loaded",
    "misplaced",
    "normal_numbers",
    "started",
]

RECURRENT = ("LSTM", "GRU", "RNN")

MOVING = frozenset(
    (
        *("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"),
        *("Concat", "Slice", "Split", "Gather", "Expand", "Dropout"),
    )
)
"""Operators that move numbers and do not change them."""

LINEAR = ("MatMul", "Gemm", "Add")
"""Operators of a readout."""

KNOWN = "want an embedding, layers of LSTM, GRU or RNN, and a linear readout"

LARGEST = 2**27
"""Numbers of one array of a run."""


class FailedNodeError(ValueError):
    """A node that cannot be evaluated with what a run gives it."""


class Plan(NamedTuple):
    """What a run gives to a file."""

    T: int
    B: int
    """Where the file leaves them free."""
    scale: float = 1.0
    """Of the normal numbers."""
    every_id: bool = False
    """Whether the ids are all of the vocabulary, as far as they fit; else they are random, with the first and last."""


class Layer(NamedTuple):
    """A layer that has been found in a file."""

    x: np.ndarray
    """What it read in the run, ``(T, B, I)``."""
    parts: tuple[Part, ...]
    Ys: tuple[np.ndarray, ...]
    """The output of each direction in the run, ``(T, B, H)``; NaN at padded steps, where anything may stand."""
    states: tuple[Any, ...]
    """The last states ``(B, H)`` of each direction in the run: of an LSTM h and c."""
    lengths: frozenset[str]
    """The input of lengths that it reads."""


class Run(NamedTuple):
    """The run of a file; the functions below add to its dictionaries and lists."""

    file: Any
    plan: Plan
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
    lengths: tuple[str, ...]
    """The names of the inputs that are lengths."""
    numbers: Any
    """A generator of random numbers."""


def loaded(file: Any) -> Any:
    """A file as a checked ``onnx.ModelProto``, without functions of its own."""
    onnx = onnx_package()
    is_path = isinstance(file, str | os.PathLike)
    given = in_one_line(str(file)) if is_path else type(file).__name__
    if isinstance(file, onnx.ModelProto):
        model: Any = file
    else:
        try:
            model = onnx.load(file) if is_path else onnx.load_from_string(file)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"file got {given}; want a file of ONNX: {in_one_line(error)}") from None
    if not model.graph.node:
        raise ValueError(f"file got {given}, which holds no node; want a file of ONNX")
    if any(each.data_location == onnx.TensorProto.EXTERNAL for each in model.graph.initializer):
        raise ValueError(f"file got {given} with weights in another file; want the path, from which both are read")
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise ValueError(f"file got {given}; want a valid file of ONNX: {in_one_line(error)}") from None
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    foreign = [each for each in model.graph.node if each.op_type in RECURRENT and each.domain not in ("", "ai.onnx")]
    if foreign:
        raise ValueError(f"file got {foreign[0].op_type} of the domain {foreign[0].domain!r}; want the one of ONNX")
    if not any(each.op_type in RECURRENT for each in model.graph.node):
        found = sorted({each.op_type for each in model.graph.node})
        loops = [op for op in found if op in ("Loop", "Scan")]
        raise ValueError(f"file got the operators {', '.join(loops or found)}; want a node LSTM, GRU or RNN")
    return model


def started(model: Any, plan: Plan) -> Run:
    """The run of a file before its first node: constants, and random inputs."""
    onnx, graph = onnx_package(), model.graph
    values = {each.name: np.asarray(onnx.numpy_helper.to_array(each)) for each in graph.initializer}
    makers = {name: each for each in graph.node for name in each.output}
    inputs = {each.name: each for each in graph.input if each.name not in values}
    first = next(each for each in graph.node if each.op_type in RECURRENT)
    main, lengths = main_and_lengths(graph, first, inputs, makers)
    numbers, vocabulary = np.random.default_rng(0), vocabulary_size(graph, first, values, makers)
    ids = bool(vocabulary) or is_integer(inputs[main])
    vocabulary = vocabulary or np.shape(values.get(first.input[1], np.ones(1)))[-1]
    shapes = shapes_of(inputs, main, lengths, plan)
    for name, each in inputs.items():
        dtype = onnx.helper.tensor_dtype_to_np_dtype(each.type.tensor_type.elem_type)
        if name == main and ids:
            value: Any = random_ids(numbers, plan, vocabulary, shapes[name])
        elif name in lengths:
            value = random_lengths(shapes[main], shapes[name])
        else:
            value = normal_numbers(numbers, plan, shapes[name], dtype)
        values[name] = np.asarray(value).astype(dtype)
    roots = {name: frozenset({name} if name in inputs else ()) for name in values}
    values, roots = values | {"": np.zeros(0)}, roots | {"": frozenset()}
    return Run(model, plan, values, roots, makers, [], main, ids, lengths, numbers)


def main_and_lengths(graph: Any, first: Any, inputs: Any, makers: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The names of the input that the first layer reads, and of those that are the lengths."""
    takes = [each.input[4] for each in graph.node if each.op_type in RECURRENT and len(each.input) > 4]
    behind = set().union(*(above(name, makers) for name in takes if name))
    reached = [name for name in inputs if name in above(first.input[0], makers)]
    lengths = [name for name in inputs if name in behind and is_integer(inputs[name])]
    alone = [name for name in reached if name not in lengths]
    main = alone or reached
    if len(main) != 1:
        raise ValueError(f"file got {first.op_type} that reads {', '.join(main) or 'no input'}; want one input")
    return main[0], tuple(name for name in lengths if name != main[0])


def shapes_of(inputs: Any, main: str, lengths: tuple[str, ...], plan: Plan) -> dict[str, tuple[int, ...]]:
    """The shapes of the inputs in a run: free sizes of the same name are equal."""
    axes = {
        name: [(d.dim_param, d.dim_value) for d in each.type.tensor_type.shape.dim] for name, each in inputs.items()
    }
    batch = {axes[name][0] for name in lengths if len(axes[name]) == 1} - {("", 0)}
    leads = len(axes[main]) > 1 and axes[main][0] in batch and axes[main][1] not in batch
    B = max([size for _, size in batch], default=0) or plan.B
    free = (B, plan.T) if leads else (plan.T, B)
    sizes = {each[0]: size for each, size in zip(axes[main], free, strict=False) if each[0]}
    shapes = {}
    for name in (main, *inputs):
        own = free if name == main else (B,) * (name in lengths)
        shape = []
        for axis, (symbol, size) in enumerate(axes[name]):
            usual = own[axis] if axis < len(own) else 11 + len(sizes)
            shape.append(size or (sizes.setdefault(symbol, usual) if symbol else usual))
        shapes[name] = tuple(shape)
        if np.prod(shape, dtype=float) > LARGEST:
            raise ValueError(f"file got {name} of the shape {shapes[name]}; want at most {LARGEST} numbers")
    return shapes


def random_ids(numbers: Any, plan: Plan, V: int, shape: tuple[int, ...]) -> np.ndarray:
    """Ids of a vocabulary, with the first and the last of it."""
    count = int(np.prod(shape))
    if plan.every_id:
        return np.resize(numbers.permutation(V), shape)
    ids = numbers.integers(0, V, count)
    ids[-2:] = [0, V - 1][-count:]
    return numbers.permutation(ids).reshape(shape)


def random_lengths(main: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Lengths from 1 to T, which differ as far as T allows and are not in order."""
    count = int(np.prod(shape))
    first, second = (*main, count, count)[:2]
    T = first if second == count else second
    lengths = np.maximum(T - np.arange(1, count + 1) % count, 1)
    lengths[: count - 1][-1:] = 1
    return lengths.reshape(shape)


def normal_numbers(numbers: Any, plan: Plan, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Normal numbers of the scale of a run, but small ones in 16 bits, where sums of large ones would be infinite."""
    scale = plan.scale if np.dtype(dtype).itemsize > 2 else min(plan.scale, 10.0)
    return (scale * numbers.normal(size=shape)).astype(dtype)


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
    in_front = above(first.input[0], makers)
    tables = [each for each in graph.node if each.op_type == "Gather" and {*each.output} & in_front]
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
        raise FailedNodeError(f"file got the operator {each.op_type}, which fails: {in_one_line(error)}") from None
    roots = frozenset().union(*(run.roots[name] for name in each.input))
    if each.op_type in ("NonZero", "Compress", "Unique") and roots:
        raise ValueError(f"file got the operator {each.op_type}, whose size depends on numbers; {KNOWN}")
    roots = frozenset() if each.op_type in ("Shape", "Size") else roots
    for name, value in zip(filter(None, each.output), made, strict=True):
        run.values[name] = np.asarray(value)
        run.roots[name] = roots


def changing(run: Run, name: str) -> list[Any]:
    """The nodes between inputs or layers and a tensor that do more than to move their numbers."""
    return [each for each in between(run, name) if moved_by(run, each) is None]


def between(run: Run, name: str) -> Iterator[Any]:
    """The nodes between inputs or layers and a tensor, from the tensor on."""
    waiting, seen = [name], set()
    while waiting:
        maker = run.makers.get(waiting.pop(0))
        if maker is None or id(maker) in seen or maker.op_type in RECURRENT or not run.roots[next(iter(maker.output))]:
            continue
        seen.add(id(maker))
        yield maker
        moved = moved_by(run, maker)
        waiting += [each for each in (maker.input if moved is None else moved) if run.roots.get(each)]


def moved_by(run: Run, each: Any) -> list[str] | None:
    """The tensors whose numbers a node moves; None for a node that does more.

    What lengths alone decide is where padding stands, and the order of examples: a run shows whether that is right.
    """
    of_lengths = [bool(run.roots[name]) and run.roots[name] <= {*run.lengths} for name in each.input]
    if each.op_type == "Where" and (of_lengths[0] or is_stored(run, each.input[0])):
        return [*each.input[1:]]
    if each.op_type == "Gather":
        return [name for name, own in zip(each.input, (False, of_lengths[1]), strict=True) if not own]
    if each.op_type == "Slice" and cuts_far_away(run, each):
        return None
    return [*each.input] if each.op_type in MOVING else None


def is_stored(run: Run, name: str) -> bool:
    """Whether a tensor stands in the file, and is not computed."""
    return name not in run.makers or run.makers[name].op_type == "Constant"


def cuts_far_away(run: Run, each: Any) -> bool:
    """Whether a Slice has a bound, outside of the sizes of a run, that would cut longer sequences."""
    x, *bounds = (run.values[name] for name in each.input[:4])
    if len(bounds) < 2:  # attributes, of old files
        given = {a.name: np.array(a.ints) for a in each.attribute}
        bounds = [given["starts"], given["ends"], *([given["axes"]] if "axes" in given else [])]
    starts, ends, *axes = (np.ravel(bound) for bound in bounds)
    sizes = np.array(x.shape)[axes[0] if axes and axes[0].size else np.arange(starts.size)]
    far = 2**31 - 1
    return any(bool(np.any((sizes < abs(bound)) & (abs(bound.astype(float)) < far))) for bound in (starts, ends))


def misplaced(run: Run, name: str, where: str) -> ValueError:
    """The error for a tensor that is not what a network has in its place; it names the operators before it."""
    found = [each.op_type for each in changing(run, name)]
    found = [op for op in found if op not in LINEAR] or found or [each.op_type for each in between(run, name)]
    ops = [*dict.fromkeys(found)] or ["Identity"]
    named = f"operator{'s' if len(ops) > 1 else ''} {', '.join(ops)}"
    return ValueError(f"file got the {named} {where}, for which a network has no place; {KNOWN}")
