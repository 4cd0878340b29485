"""Files of ONNX as models: those of ours, and those that the exporters of PyTorch and Keras write.

Exporters place many nodes around a layer: transposes, slices, sizes computed when the file runs. A file is therefore
run, node by node, on random numbers, with random numbers in the place of the output of each LSTM, GRU and RNN. What the
next layer then reads shows which network it is: the output of the layer below, with the two directions beside each
other or added, or something that a network has no place for. Between them only nodes that move numbers may stand, and
the products and sums of a readout; numbers that are only moved have to be equal bit by bit. A second run has large
numbers and other sizes; and where ids are computed with in front of an embedding, one more has every id.
"""

import itertools
from typing import Any

import jax
import numpy as np

from rnn_jax.interop.models import Network, model_of_network
from rnn_jax.interop.onnx_graphs import onnx_package
from rnn_jax.interop.onnx_nodes import GATES, Native, functions_of, part_of
from rnn_jax.interop.onnx_outputs import equals, merges_of, table_of, top_of
from rnn_jax.interop.onnx_runs import (
    LARGEST,
    RECURRENT,
    FailedNodeError,
    Layer,
    Plan,
    Run,
    changing,
    evaluate,
    loaded,
    misplaced,
    normal_numbers,
    started,
)
from rnn_jax.layers import Model
from rnn_jax.types import Params

__all__ = ["from_onnx"]

PLAN, OTHER = Plan(T=5, B=3), Plan(T=7, B=2, scale=1e3)


def from_onnx(file: Any) -> tuple[Model, Params]:
    """The model and its params in a file of ONNX with LSTM, GRU or RNN nodes.

    Layers of one or two directions, with an embedding (Gather) or one-hot ids in front and a linear readout (MatMul or
    Gemm, Add) behind, become a stack; the two biases of a node are added. The model is time-major, ``(T, B, I)``, also
    where the file is not.

    One output of the file has to be the sequence that the model computes, its last step ``ys[-1]``, or the last states
    ``h_T`` of the last layer, each with axes in any order. The model gives every step. Other outputs may be states and
    sequences of its layers. The file's lengths and initial states are given to ``apply``: the model holds neither. At
    padded steps the model holds the state, where files of other exporters have zeros in front of the readout:
    ``jnp.where(jnp.arange(T)[:, None, None] < lengths[:, None], ys, params.b_y)`` is theirs, or 0 without a readout.
    An id outside the vocabulary becomes NaN, whatever the file makes of it. Files of PyTorch that sort a batch by its
    lengths, and put the outputs back, are read too.

    Files of ``to_onnx`` come back bit by bit, unless they hold a ``Scan``, a learned start, a dense input layer,
    several heads, a head with hidden layers, a merge of your own, or two kinds of merges. With coupled gates
    (``input_forget``) the weights of f are not read, as in ONNX Runtime: f is 1 − i.

    Args:
        file: a path, the bytes of a file, or an ``onnx.ModelProto``.

    Raises:
        ValueError: for a file that is no ONNX, has no such node, or has an operator that a network has no place for,
            such as Softmax, Conv, Loop or Scan; its name is in the message. For initial states that are computed or
            constant, lengths that are no input, a readout of the last states of a bidirectional or reversed layer,
            which are no step of the model, bytes whose weights are in another file, and where the package onnx is not
            installed.
        FileNotFoundError: where there is no such file.

    >>> from rnn_jax import lstm, readout
    >>> from rnn_jax.interop import to_onnx
    >>> model = readout(lstm(3, 4, dtype="float32"), output_size=2)
    >>> from_onnx(to_onnx(model, model.init(jax.random.key(0))))[0]
    readout(lstm(input_size=3, hidden_size=4, dtype='float32'), output_size=2)
    """
    given = loaded(file)
    first = read_network(given, PLAN)
    try:
        second = read_network(given, OTHER)
    except FailedNodeError:  # PyTorch may write the sizes of its example into a file whose sizes should be free
        second = read_network(given, PLAN._replace(scale=OTHER.scale))
    pairs = zip(arrays_of(first), arrays_of(second), strict=True)
    if not all(np.array_equal(a, b, equal_nan=True) for a, b in pairs):
        raise ValueError("file got weights that are computed from the sizes of its input; want constants")
    return model_of_network(first)


def arrays_of(network: Network) -> list[np.ndarray]:
    """The weights of a network."""
    return [leaf for leaf in jax.tree.leaves(network) if isinstance(leaf, np.ndarray)]


def read_network(file: Any, plan: Plan) -> Network:
    """The network of a file, as far as one run shows it."""
    run = started(file, plan)
    for each in run.file.graph.node:
        if each.op_type in RECURRENT:
            read_layer(run, each)
        else:
            evaluate(run, each)
    table, (merge, head) = table_of(run), top_of(run)
    merges = {merge} if merge and len(run.layers[-1].parts) == 2 else set()
    for below, layer in itertools.pairwise(run.layers):
        if len(below.parts) == 2:
            merges |= {name for name, merged in merges_of(below.Ys).items() if equals(layer.x, merged)}
    if len(merges) > 1:
        raise ValueError("file got layers that merge directions by concatenation and by a sum; want one of them")
    parts = tuple(layer.parts for layer in run.layers)
    return Network(parts, merges.pop() if merges else "concatenate", table, head)


def read_layer(run: Run, each: Any) -> None:
    """Adds an LSTM, GRU or RNN to the layers, with random numbers as its output."""
    helper = onnx_package().helper
    attributes = {a.name: helper.get_attribute_value(a) for a in each.attribute}
    names = [*each.input, *[""] * (8 - len(each.input))]
    directions, batchwise = directions_of(each, attributes), attributes.get("layout")
    D, X = len(directions), run.values[names[0]]
    natives = natives_of(run, each, names, attributes, D)
    x = np.swapaxes(X, 0, 1) if batchwise else X
    (T, B, _), H = x.shape, natives[0].R.shape[1]
    if T * B * D * H > LARGEST:
        raise ValueError(f"file got {each.op_type} of the sizes {(T, B, D, H)}; want at most {LARGEST} numbers")
    for name in names[5:7]:
        require_start(run, each, name)
    lengths, order = lengths_of(run, each, names[4], T, B)
    padded = np.arange(T)[:, None] >= lengths
    Y = normal_numbers(run.numbers, run.plan, (T, B, D, H), X.dtype)
    Y[padded] = 0
    ends = [0 if back else lengths - 1 for back in directions]
    last = np.stack([Y[end, np.arange(B), d] for d, end in enumerate(ends)])
    memory = normal_numbers(run.numbers, run.plan, last.shape, X.dtype)
    states = (last, memory) if each.op_type == "LSTM" else (last,)
    parts = tuple(part_of(native, back) for native, back in zip(natives, directions, strict=True))
    Ys = tuple(np.where(padded[..., None], np.nan, Y[:, :, d])[:, order] for d in range(D))
    layer = Layer(x[:, order], parts, Ys, tuple(state[:, order] for state in states), run.roots[names[4]])
    add_layer(run, each, layer)
    made = [np.swapaxes(Y, 0, 1) if batchwise else np.moveaxis(Y, 2, 1)]
    made += [np.swapaxes(a, 0, 1) if batchwise else a for a in states]
    for name, value in zip(each.output, made, strict=False):
        run.values[name], run.roots[name] = value, frozenset({f"layer {len(run.layers) - 1}"})


def directions_of(each: Any, attributes: dict[str, Any]) -> list[bool]:
    """Whether each direction of a node reads from the last step to the first."""
    direction = attributes.get("direction", b"forward")
    direction = direction.decode() if isinstance(direction, bytes) else direction
    known = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    if direction not in known:
        raise ValueError(f"direction got {direction!r} for {each.op_type}; want {', '.join(known)}")
    return known[direction]


def natives_of(run: Run, each: Any, names: list[str], attributes: dict[str, Any], D: int) -> list[Native]:
    """The directions of a node; a ValueError for weights of other shapes than its sizes demand."""
    op, X, W, R = each.op_type, *(run.values[name] for name in names[:3])
    if any(run.roots[name] for name in (*names[1:4], names[7])):
        raise ValueError(f"file got weights of {op} that are computed from an input; want constants")
    gates, H = len(GATES[op][1]), attributes.get("hidden_size", np.shape(R)[-1])
    bias = run.values[names[3]] if names[3] else np.zeros((D, 2 * gates * H), W.dtype)
    wanted = {"W": (W, (D, gates * H, X.shape[-1])), "R": (R, (D, gates * H, H)), "B": (bias, (D, 2 * gates * H))}
    P = run.values[names[7]] if op == "LSTM" and names[7] else None
    wanted |= {} if P is None else {"P": (P, (D, 3 * H))}
    for name, (array, shape) in wanted.items():
        if array.shape != shape or X.ndim != 3:
            raise ValueError(f"file got {name} of {op} of the shape {array.shape}; want {shape}")
    functions = functions_of(op, attributes, D)
    return [Native(op, W[d], R[d], bias[d], None if P is None else P[d], functions[d], attributes) for d in range(D)]


def require_start(run: Run, each: Any, name: str) -> None:
    """Raises a ValueError unless an initial state is 0 or an input of its own, moved at most."""
    roots, computed = run.roots[name], [maker.op_type for maker in changing(run, name)]
    if run.main in roots or any(root.startswith("layer ") for root in roots):
        raise ValueError(
            f"file got an initial state of {each.op_type} that is computed from the sequence; want an input"
        )
    if computed:
        raise ValueError(f"file got an initial state of {each.op_type} that {computed[-1]} computes; want an input")
    if not roots and np.any(run.values[name]):
        raise ValueError(f"file got an initial state of {each.op_type} of constants; want 0, or an input")


def lengths_of(run: Run, each: Any, name: str, T: int, B: int) -> tuple[np.ndarray, np.ndarray]:
    """The lengths of a node in the run, and the order that puts its examples as they were given.

    PyTorch may sort a batch by its lengths in front of the layers, and put its outputs back.

    Raises:
        ValueError: for lengths that are not those of the input of lengths.
    """
    if not name:
        return np.full(B, T), np.arange(B)
    lengths, roots = run.values[name], run.roots[name]
    computed = [maker.op_type for maker in changing(run, name) if maker.op_type != "TopK"]
    text = f"file got sequence_lens of {each.op_type}"
    if computed:
        raise ValueError(f"{text} that {computed[-1]} computes; want an input of lengths")
    if lengths.shape != (B,) or len(roots) > 1 or not roots <= {*run.lengths}:
        raise ValueError(f"{text} of the shape {lengths.shape}, computed of {', '.join(roots)}; want an input {(B,)}")
    if not roots and np.any(lengths != T):
        raise ValueError(f"{text} of constants; want an input")
    given = np.ravel(run.values[next(iter(roots))]) if roots else lengths
    if np.array_equal(lengths, given):
        return lengths, np.arange(B)
    if len({*given}) < B or sorted(given) != sorted(lengths):
        raise ValueError(f"{text} that are not those of the input {', '.join(roots)}; want them unchanged, or sorted")
    return lengths, np.array([[*lengths].index(n) for n in given])


def add_layer(run: Run, each: Any, layer: Layer) -> None:
    """Adds a layer, or the second direction of the layer before; a ValueError unless it reads what is below."""
    layers = run.layers
    if layers and layers[-1].lengths != layer.lengths:
        raise ValueError("file got lengths that some of its layers read; want them in all layers, or in none")
    if layers and np.array_equal(layer.x, layers[-1].x):
        below = layers[-1]
        if len(below.parts) + len(layer.parts) != 2 or below.parts[0].reverse == layer.parts[0].reverse:
            raise ValueError(f"file got two nodes {each.op_type} that read the same; want one, or two directions")
        one, other = sorted((below, layer), key=lambda way: way.parts[0].reverse)
        states = tuple((*a, *b) for a, b in itertools.zip_longest(one.states, other.states, fillvalue=()))
        layers[-1] = one._replace(parts=one.parts + other.parts, Ys=one.Ys + other.Ys, states=states)
        return
    if layers:
        sums = [maker for maker in changing(run, each.input[0]) if maker.op_type not in ("Add", "Sum", "ReduceSum")]
        if sums or not any(equals(layer.x, merged) for merged in merges_of(layers[-1].Ys).values()):
            raise misplaced(run, each.input[0], f"in front of {each.op_type}")
    layers.append(layer)
