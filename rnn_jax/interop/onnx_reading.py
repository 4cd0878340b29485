"""Files of ONNX as models: those of ours, and those that the exporters of PyTorch and Keras write.

Exporters place many nodes around a layer: transposes, slices, sizes computed when the file runs. A file is therefore
run once, node by node, on random numbers, with random numbers in the place of the output of each LSTM, GRU and RNN.
What the next layer then reads shows which network it is: the output of the layer below, with the two directions beside
each other or added, or something that a network has no place for.
"""

from typing import Any

import numpy as np

from rnn_jax.interop.models import Network, Part, model_of_network
from rnn_jax.interop.onnx_graphs import onnx_package
from rnn_jax.interop.onnx_nodes import Native, functions_of, part_of
from rnn_jax.interop.onnx_runs import (
    PLACED,
    RECURRENT,
    Layer,
    Run,
    above,
    evaluate,
    loaded,
    misplaced,
    same,
    started,
)
from rnn_jax.layers import Model
from rnn_jax.types import Params

__all__ = ["from_onnx"]


def from_onnx(file: Any) -> tuple[Model, Params]:
    """The model and its params in a file of ONNX with LSTM, GRU or RNN nodes.

    Layers of one or two directions, with an embedding (Gather) or one-hot ids in front and a linear readout (MatMul or
    Gemm, Add) behind, become a stack; the two biases of a node are added. Of the file's outputs, the sequence or its
    last step alone, the model computes all: ``model.apply`` or ``rollout`` give every step. The model is time-major,
    ``(T, B, I)``, also where the file is not. Files of ``to_onnx`` come back bit by bit, unless they hold a ``Scan``.

    Args:
        file: a path, the bytes of a file, or an ``onnx.ModelProto``.

    Raises:
        ValueError: for a file that is no ONNX, has no such node, or has an operator that a network has no place for,
            such as Softmax, Conv, Loop or Scan; its name is in the message. For initial states of constants other than
            0, and where the package onnx is not installed.
        FileNotFoundError: where there is no such file.

    >>> import jax
    >>> from rnn_jax import lstm, readout
    >>> from rnn_jax.interop import to_onnx
    >>> model = readout(lstm(3, 4, dtype="float32"), output_size=2)
    >>> from_onnx(to_onnx(model, model.init(jax.random.key(0))))[0]
    readout(lstm(input_size=3, hidden_size=4, dtype='float32'), output_size=2)
    """
    run = started(loaded(file))
    for each in run.file.graph.node:
        if each.op_type in RECURRENT:
            read_layer(run, each)
        else:
            evaluate(run, each)
    return model_of_network(network_of(run))


def read_layer(run: Run, each: Any) -> None:
    """Adds an LSTM, GRU or RNN to the layers, with random numbers as its output."""
    helper = onnx_package().helper
    attributes = {a.name: helper.get_attribute_value(a) for a in each.attribute}
    names = [*each.input, *[""] * (8 - len(each.input))]
    X, W, R, bias = (run.values[name] for name in names[:4])
    D, H = R.shape[0], R.shape[2]
    P = run.values[names[7]] if each.op_type == "LSTM" and names[7] else None
    for name in (*names[1:4], names[7]):
        if run.roots[name]:
            raise ValueError(f"file got weights of {each.op_type} that are computed from an input; want constants")
    direction = attributes.get("direction", b"forward")
    direction = direction.decode() if isinstance(direction, bytes) else direction
    directions = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    if direction not in directions or len(directions[direction]) != D:
        raise ValueError(f"direction got {direction!r} with {D} directions; want {', '.join(directions)}")
    for name in names[5:7]:
        require_start(run, each, name)
    require_numbers_of(run, each, names[4])
    x = np.swapaxes(X, 0, 1) if attributes.get("layout") else X
    bias = bias if names[3] else np.zeros((D, 2 * W.shape[1]), W.dtype)
    functions = functions_of(each.op_type, attributes, D)
    count = len(functions) // D
    parts = []
    for d, back in enumerate(directions[direction]):
        own = tuple(functions[d * count : (d + 1) * count])
        native = Native(each.op_type, W[d], R[d], bias[d], None if P is None else P[d], own, attributes)
        parts.append(part_of(native, back))
    Y = run.numbers.normal(size=(*x.shape[:2], D, H)).astype(X.dtype)
    add_layer(run, each, x, tuple(parts), tuple(Y[:, :, d] for d in range(D)))
    last = np.stack([Y[0 if back else -1, :, d] for d, back in enumerate(directions[direction])])
    memory = run.numbers.normal(size=last.shape).astype(X.dtype)
    batchwise = attributes.get("layout")
    made = [np.swapaxes(Y, 0, 1) if batchwise else np.moveaxis(Y, 2, 1), last, memory]
    made[1:] = [np.swapaxes(a, 0, 1) if batchwise else a for a in made[1:]]
    for name, value in zip(each.output, made, strict=False):
        run.values[name], run.roots[name] = value, frozenset({f"layer {len(run.layers) - 1}"})


def require_start(run: Run, each: Any, name: str) -> None:
    """Raises a ValueError unless an initial state is 0 or an input of its own."""
    roots = run.roots[name]
    if run.main in roots or any(root.startswith("layer ") for root in roots):
        raise ValueError(
            f"file got an initial state of {each.op_type} that is computed from the sequence; want an input"
        )
    if not roots and np.any(run.values[name]):
        raise ValueError(f"file got an initial state of {each.op_type} of constants; want 0, or an input")


def require_numbers_of(run: Run, each: Any, name: str) -> None:
    """Raises a ValueError for sequence_lens that are constants, which no model holds."""
    if name and not run.roots[name]:
        raise ValueError(f"file got sequence_lens of {each.op_type} of constants; want an input")


def add_layer(run: Run, each: Any, x: np.ndarray, parts: tuple[Part, ...], Ys: tuple[np.ndarray, ...]) -> None:
    """Adds a layer, or the second direction of the layer before; a ValueError unless it reads what is below."""
    layers = run.layers
    if layers and same(x, layers[-1].x):
        one = layers[-1]
        if len(one.parts) + len(parts) != 2 or one.parts[0].reverse == parts[0].reverse:
            raise ValueError(f"file got two nodes {each.op_type} that read the same; want one, or two directions")
        both = sorted(zip((*one.parts, *parts), (*one.Ys, *Ys), strict=True), key=lambda pair: pair[0].reverse)
        layers[-1] = Layer(x, *(tuple(side) for side in zip(*both, strict=True)))
        return
    if layers and not any(same(x, merged) for merged in merges_of(layers[-1]).values()):
        raise misplaced(run, each.input[0], f"in front of {each.op_type}")
    layers.append(Layer(x, parts, Ys))


def merges_of(layer: Layer) -> dict[str, np.ndarray]:
    """What a layer gives to the layer above, by the merge of its directions."""
    together = np.concatenate(layer.Ys, axis=-1)
    if len(layer.Ys) == 1:
        return {"concatenate": together}
    equal = layer.Ys[0].shape == layer.Ys[1].shape
    return {"concatenate": together} | ({"sum": layer.Ys[0] + layer.Ys[1]} if equal else {})


def network_of(run: Run) -> Network:
    """The network of a run."""
    layers = run.layers
    table = table_of(run)
    merges = set()
    for below, x in zip(layers, [*(layer.x for layer in layers[1:]), None], strict=True):
        if len(below.parts) == 2 and x is not None:
            merges |= {name for name, merged in merges_of(below).items() if same(merged, x)}
    merge, head = top_of(run)
    merges |= {merge} if len(layers[-1].parts) == 2 and merge else set()
    if len(merges) > 1:
        raise ValueError("file got layers that merge directions by concatenation and by a sum; want one of them")
    parts = tuple(layer.parts for layer in layers)
    return Network(parts, merges.pop() if merges else "concatenate", table, head)


def table_of(run: Run) -> np.ndarray | None:
    """The embedding in front of the first layer; None for features, or ids as one-hot vectors."""
    x, given = run.layers[0].x, run.values[run.main]
    first = next(each for each in run.file.graph.node if each.op_type in RECURRENT)
    time_major = (given, np.swapaxes(given, 0, 1)) if given.ndim > 1 else (given,)
    if not run.ids:
        if any(same(x, each) for each in time_major):
            return None
        raise misplaced(run, first.input[0], f"in front of {first.op_type}")
    time_major, before = [each.astype(np.int64) for each in time_major], above(first.input[0], run.makers)
    for each in run.file.graph.node:
        table = run.values[each.input[0]] if each.op_type == "Gather" and {*each.output} & before else np.zeros(0)
        if table.ndim == 2 and not run.roots[each.input[0]] and any(same(x, table[ids]) for ids in time_major):
            return table
    ones = np.eye(x.shape[-1], dtype=x.dtype)
    if any(same(x, ones[ids]) for ids in time_major if ids.max() < len(ones)):
        return None
    raise misplaced(run, first.input[0], f"in front of {first.op_type}")


Readout = tuple[np.ndarray, np.ndarray]


def top_of(run: Run) -> tuple[str | None, Readout | None]:
    """The merge of the last layer, and the readout; a ValueError for an output that is neither theirs nor a state."""
    layer, source = run.layers[-1], f"layer {len(run.layers) - 1}"
    products = [
        each
        for each in run.file.graph.node
        if each.op_type in ("MatMul", "Gemm") and source in run.roots[each.output[0]]
    ]
    ends = Layer(
        layer.x, layer.parts, tuple(Y[0 if p.reverse else -1] for p, Y in zip(layer.parts, layer.Ys, strict=True))
    )
    found: tuple[str | None, Readout | None, list[np.ndarray]] = (None, None, [])
    for merge, below in merges_of(layer).items():
        head = readout_of(run, products[0], below.shape[-1]) if products else None
        if bool(products) != (head is not None):
            continue
        ys = [y if head is None else y @ head[0] + head[1] for y in (below, merges_of(ends)[merge])]
        if any(is_output(run, each.name, *ys) for each in run.file.graph.output):
            found = (merge, head, ys)
    merge, head, ys = found
    for each in run.file.graph.output:
        if not (ys and is_output(run, each.name, *ys)) and not is_state(run, each.name):
            raise misplaced(run, each.name, f"in front of the output {each.name!r}")
    return merge, head


def readout_of(run: Run, product: Any, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The weights and the bias of a readout that reads so many numbers."""
    attributes = {a.name: onnx_package().helper.get_attribute_value(a) for a in product.attribute}
    if attributes.get("transA") or attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1:
        return None
    known = [name for name in product.input[:2] if not run.roots[name]]
    if known != [product.input[1]] or run.values[known[0]].ndim != 2:
        return None
    W = run.values[known[0]].T if attributes.get("transB") else run.values[known[0]]
    b, name = np.zeros(W.shape[1], W.dtype), product.output[0]
    if len(product.input) > 2 and product.input[2]:
        b = np.broadcast_to(run.values[product.input[2]], b.shape) if not run.roots[product.input[2]] else b
    for each in run.file.graph.node:
        terms = [n for n in each.input if not run.roots[n]]
        if each.op_type == "Add" and len(terms) == 1 and name in above(each.output[0], run.makers):
            if run.values[terms[0]].size not in (1, b.size):
                return None
            b = b + np.broadcast_to(run.values[terms[0]].reshape(-1), b.shape)
            break
    return (W, np.ascontiguousarray(b)) if W.shape[0] == size else None


def is_output(run: Run, name: str, y: np.ndarray, last: np.ndarray) -> bool:
    """Whether an output of a file is y ``(T, B, O)``, with the batch first, its last step, or that of last states."""
    got = run.values[name]
    return any(same(got, each) for each in (y, np.swapaxes(y, 0, 1), y[-1], y[-1:], last, last[None]))


def is_state(run: Run, name: str) -> bool:
    """Whether an output of a file is a part of states, moved at most."""
    return all(
        maker.op_type in (*PLACED, *RECURRENT)
        for each in path_to(run, name)
        if (maker := run.makers.get(each)) is not None
    )


def path_to(run: Run, name: str) -> set[str]:
    """The tensors between the layers and a tensor, itself included."""
    found, waiting = set(), [name]
    while waiting:
        name = waiting.pop()
        if name in found or not any(root.startswith("layer ") for root in run.roots.get(name, ())):
            continue
        found.add(name)
        maker = run.makers[name]
        waiting += [] if maker.op_type in RECURRENT else maker.input
    return found
