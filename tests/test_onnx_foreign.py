"""Files of ONNX that compute something else than a network of ours: each is refused, with what stands in the way."""

import numpy as np
import pytest

from rnn_jax.interop import from_onnx
from rnn_jax.layers import as_layer
from tests.onnx_models import REASON, H, I, outputs_of, session_of

onnx = pytest.importorskip("onnx", reason=REASON)
helper = onnx.helper
V, FAR = 200, 2**63 - 1
rng = np.random.default_rng(4)


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), output.split(), **attributes)


def normal(*shape):
    return (0.5 * rng.normal(size=shape)).astype(np.float32)


CONSTANTS = {
    "zero": 0,
    "one": 1,
    "two": 2,
    "minus": -1,
    "far": FAR,
    "back": -FAR,
    "many": 1000,
    "f0": np.float32(0),
    "f5": np.float32(5),
    "-f5": np.float32(-5),
    "tiny": np.float32(1e-7),
    "last": np.array(-1),
    "i1": np.int32(1),
    "i2": np.int32(2),
    "t0": np.int64(0),
    "t1": np.int64(1),
    "sides": np.array([1, 2]),
    "fifty": np.full(2, 50, np.float32),
    "four": np.full(3, 4, np.int32),
    "halves": np.array([True, False, True, False]),
    "pads": np.array([0, 0, 0, 0, 0, 3]),
    "swap": np.array([1, 0, 2]),
    "rows": np.array([-1, H]),
    "both": np.array([-1, 2 * H]),
    "turns": np.array([0, 0, 2 * H]),
    "E": normal(V, I),
    "M": np.r_[0, 1, 3, 2, 4:V],
    "Wo": normal(H, 2),
    "Wo2": normal(2, 3),
    "Wb": normal(2 * H, 2),
    "Wz": normal(6, H),
    "bo": normal(2),
}
SCALARS = ("f0", "f5", "-f5", "tiny", "last", "i2", "i1", "t0", "t1")


def weights(name, size, op="RNN", D=1):
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op] * H
    return {f"W{name}": normal(D, gates, size), f"R{name}": normal(D, gates, H)}


def layer(name="", x="x", size=I, op="RNN", D=1, more="", **attributes):
    """The nodes of a layer, which writes y, and h and c beside Y, all with its name; and its weights."""
    outputs = [f"Y{name}", f"h{name}", f"c{name}"][: 3 if op == "LSTM" else 2]
    inputs = [x, f"W{name}", f"R{name}", *more.split(" ")] if more else [x, f"W{name}", f"R{name}"]
    inputs = ["" if each == "-" else each for each in inputs]
    made = helper.make_node(op, inputs, outputs, hidden_size=H, **attributes)
    return [made, *([node("Squeeze", f"Y{name} one", f"y{name}")] if D == 1 else [])], weights(name, size, op, D)


def file_of(nodes, arrays, ids=False, given=(), outputs=("out",)):
    """A file with the input x (T, B, I), or ids (T, B)."""
    info = helper.make_tensor_value_info
    inputs = [info("x", 7, ["T", "B"]) if ids else info("x", 1, ["T", "B", I])]
    inputs += [info("n", 6, ["B"])] if "n" in given else []
    inputs += [info("z", 1, ["B", 6])] if "z" in given else []
    reads = {name for each in nodes for name in each.input}
    held = {name: np.atleast_1d(array) if name not in SCALARS else array for name, array in CONSTANTS.items()}
    stored = {name: array for name, array in (held | arrays).items() if name in reads}
    constants = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    gives = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(nodes, "g", inputs, gives, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    for each in model.graph.output:
        if not each.type.HasField("tensor_type"):
            each.type.tensor_type.elem_type = 1
    return model


def behind(*nodes, **options):
    """A file with nodes between one layer and the output."""
    own, arrays = layer(**options)
    return file_of([*own, *nodes], arrays)


def in_front(*nodes, ids=False, **options):
    """A file with nodes in front of one layer."""
    own, arrays = layer(x="x2", **options)
    return file_of([*nodes, *own, node("Identity", "y", "out")], arrays, ids=ids)


def two_layers(*nodes):
    (one, a), (other, b) = layer("1"), layer("2", x="y1", size=H)
    return file_of([*one, *other, *nodes], a | b)


def two_ways(*nodes):
    (one, a), (other, b) = layer("1"), layer("2", direction="reverse")
    return file_of([*one, *other, *nodes], a | b)


def both(*nodes):
    own, arrays = layer(D=2, direction="bidirectional")
    return file_of([*own, *nodes], arrays)


def with_lengths(*nodes, ids=False, given=(), source="L"):
    own, arrays = layer(x="e" if ids else "x", more=f"- {source}")
    nodes = [*own, *nodes] if source == "n" else [*nodes, *own, node("Identity", "y", "out")]
    return file_of(nodes, arrays, ids=ids, given=given)


def with_start(*nodes):
    own, arrays = layer(more="- - h0")
    return file_of([*nodes, *own, node("Identity", "y", "out")], arrays, given="z")


LAST_STATES = [node("Transpose", "h", "t", perm=[1, 0, 2]), node("Reshape", "t both", "r")]
MASKED = [node("Gather", "E x", "e"), node("Equal", "x zero", "m"), node("Not", "m", "nm")]
COUNTED = [*MASKED, node("Cast", "nm", "mi", to=6), node("ReduceSum", "mi zero", "L", keepdims=0)]
READOUT = [node("MatMul", "y Wo", "y0")]

WRONG = {
    "time reversed": (lambda: behind(node("Slice", "y minus back zero minus", "out")), "Slice"),
    "features reversed": (lambda: behind(node("Slice", "y minus back two minus", "out")), "Slice"),
    "half of the features": (lambda: behind(node("Slice", "y zero two two", "out")), "Slice"),
    "a thousand steps at most": (lambda: behind(node("Slice", "y zero many zero", "out")), "Slice"),
    "axes that are mistaken": (
        lambda: behind(node("Shape", "y", "s"), node("Gather", "s swap", "t"), node("Reshape", "y t", "out")),
        "Reshape",
    ),
    "a mask": (lambda: behind(node("Where", "halves y f5", "out")), "Where"),
    "padding": (lambda: behind(node("Pad", "y pads f5", "out")), "Pad"),
    "whole numbers": (lambda: behind(node("Cast", "y", "i", to=6), node("Cast", "i", "out", to=1)), "Cast"),
    "a skip of the input": (lambda: behind(node("Concat", "y x", "out", axis=2)), "Concat"),
    "a clip": (lambda: behind(node("Clip", "y -f5 f5", "out")), "Clip"),
    "a ReLU of a readout that is positive": (
        lambda: behind(*READOUT, node("Add", "y0 fifty", "y1"), node("Relu", "y1", "out")),
        "Relu",
    ),
    "a small sum behind a readout": (
        lambda: behind(*READOUT, node("Add", "y0 bo", "y1"), node("Add", "y1 tiny", "out")),
        "Add",
    ),
    "a small sum in front of a readout": (
        lambda: behind(node("Add", "y tiny", "y1"), node("MatMul", "y1 Wo", "out")),
        "Add",
    ),
    "two readouts": (lambda: behind(*READOUT, node("MatMul", "y0 Wo2", "out")), "MatMul"),
    "clipped inputs": (lambda: in_front(node("Clip", "x -f5 f5", "x2")), "Clip"),
    "a small sum": (lambda: in_front(node("Add", "x tiny", "x2")), "Add"),
    "NaN as 0": (lambda: in_front(node("IsNaN", "x", "nan"), node("Where", "nan f0 x", "x2")), "IsNaN"),
    "a sequence cut far away": (lambda: in_front(node("Slice", "x zero many zero", "x2")), "Slice"),
    "absolute ids": (lambda: in_front(node("Abs", "x", "a"), node("Gather", "E a", "x2"), ids=True), "Abs"),
    "two ids exchanged": (
        lambda: in_front(node("Gather", "M x", "a"), node("Gather", "E a", "x2"), ids=True),
        "Gather",
    ),
    "zeros for one id": (
        lambda: in_front(*MASKED[:2], node("Unsqueeze", "m two", "m2"), node("Where", "m2 f0 e", "x2"), ids=True),
        "Where",
    ),
    "both layers beside each other": (lambda: two_layers(node("Concat", "y1 y2", "out", axis=2)), "Concat"),
    "both layers added": (lambda: two_layers(node("Add", "y1 y2", "out")), "Add"),
    "the lower layer alone": (lambda: two_layers(node("Identity", "y1", "out")), "output 'out'"),
    "the backward direction alone": (lambda: two_ways(node("Identity", "y2", "out")), "output 'out'"),
    "backward, forward": (lambda: two_ways(node("Concat", "y2 y1", "out", axis=2)), "Concat"),
    "a readout of backward, forward": (
        lambda: two_ways(node("Concat", "y2 y1", "b", axis=2), node("MatMul", "b Wb", "out")),
        "MatMul",
    ),
    "one of two last states": (lambda: both(node("Gather", "h one", "out")), "Gather"),
    "features of two directions in turns": (
        lambda: both(node("Transpose", "Y", "t", perm=[0, 2, 3, 1]), node("Reshape", "t turns", "out")),
        "Reshape",
    ),
    "a readout of the last states of two directions": (
        lambda: both(*LAST_STATES, node("MatMul", "r Wb", "out")),
        "the last states of two directions, which are no step of a model",
    ),
    "a readout of the last state of a reversed layer": (
        lambda: behind(node("Squeeze", "h zero", "s"), node("MatMul", "s Wo", "out"), direction="reverse"),
        "the last states of a reversed layer, which are no step of a model",
    ),
    "lengths of ids": (lambda: with_lengths(*COUNTED, ids=True), "sequence_lens of RNN that"),
    "halved lengths": (lambda: with_lengths(node("Div", "n i2", "L"), given="n"), "that Div computes"),
    "constant lengths": (lambda: with_lengths(source="four"), "of constants"),
    "zeros for short sequences": (
        lambda: with_lengths(
            node("Greater", "n i1", "g"),
            node("Unsqueeze", "g one", "g1"),
            node("Where", "g1 y f0", "out"),
            given="n",
            source="n",
        ),
        "Where",
    ),
    "zeros far away": (
        lambda: behind(
            node("Shape", "y", "s", start=0, end=1),
            node("Squeeze", "s", "T"),
            node("Range", "t0 T t1", "t"),
            node("Less", "t far", "v"),
            node("Unsqueeze", "v sides", "v1"),
            node("Where", "v1 y f0", "out"),
        ),
        "Where",
    ),
    "a readout of half of the sum of two directions": (
        lambda: two_ways(node("Add", "y1 y2", "s"), node("Mul", "s f5", "m"), node("MatMul", "m Wo", "out")),
        "Mul",
    ),
    "ids that are cut": (lambda: in_front(node("Min", "x t1", "a"), node("Gather", "E a", "x2"), ids=True), "Min"),
    "a start that is computed": (
        lambda: with_start(node("MatMul", "z Wz", "q"), node("Unsqueeze", "q zero", "h0")),
        "an initial state of RNN that MatMul computes; want an input",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_compute_something_else_are_refused_with_what_stands_in_the_way(name):
    make, named = WRONG[name]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        from_onnx(make())
    text = str(error.value)
    assert text.startswith("file got ")
    assert named in text
    assert "valid file" not in text
    assert "\n" not in text


RIGHT = {
    "nothing": lambda: behind(node("Identity", "y", "out")),
    "dropout": lambda: behind(node("Dropout", "y", "out")),
    "the last step": lambda: behind(node("Gather", "y last", "out", axis=0)),
    "the last step, sliced": lambda: behind(node("Slice", "y minus far zero", "out")),
    "the last state behind a readout": lambda: behind(node("Squeeze", "h zero", "s"), node("MatMul", "s Wo", "out")),
    "the batch first, with axes as one": lambda: behind(
        node("Transpose", "y", "t", perm=[1, 0, 2]), node("Reshape", "t rows", "r"), node("MatMul", "r Wo", "out")
    ),
    "two nodes": lambda: two_ways(node("Concat", "y1 y2", "out", axis=2)),
    "two nodes, added": lambda: two_ways(
        node("Add", "y2 y1", "s"), node("MatMul", "s Wo", "m"), node("Add", "bo m", "out")
    ),
    "raw outputs": lambda: both(node("Identity", "Y", "out")),
    "two layers and a state of the first": lambda: two_layers(
        node("Identity", "y2", "out"), node("Identity", "h1", "s")
    ),
}


def canonical(array):
    """The numbers of an array in one order, whatever its axes."""
    return np.sort(np.ravel(array))


@pytest.mark.parametrize("name", RIGHT)
def test_files_that_only_move_the_outputs_of_a_network_are_read_as_it(name):
    file = RIGHT[name]()
    model, params = from_onnx(file)
    layer, x = as_layer(model), rng.normal(size=(6, 3, I)).astype(np.float32)
    (got,) = outputs_of(session_of(file), {"x": x}).values()
    _, ys = layer.apply(params, layer.start(params, (3,)), x)
    ys = np.asarray(ys if got.size == np.size(ys) else ys[-1])
    np.testing.assert_allclose(canonical(got), canonical(ys), rtol=0, atol=1e-6)
