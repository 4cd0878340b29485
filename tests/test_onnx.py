"""Cells and layers against ONNX: its reference evaluator, all node cases of its wheel, and ONNX Runtime.

ONNX reads X (T, B, I), W (D, G·H, I), R (D, G·H, H), B (D, 2·G·H), initial_h and initial_c (D, B, H), P (D, 3·H), where
D counts directions, and writes Y (T, D, B, H), Y_h and Y_c (D, B, H). Its gates are i o f c and z r h, its peepholes
i o f. Below, ``feeds`` and what an oracle or the library makes of them are dicts of arrays by these names.
"""

import importlib
import re
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from rnn_jax import Cell, bidirectional, cifg_lstm, general_lstm, gru, gru_reset_before, lstm, peephole_lstm, vanilla
from rnn_jax.cells import (
    CIFGParams,
    GeneralLSTMParams,
    GRUParams,
    GRUResetBeforeParams,
    LSTMParams,
    LSTMState,
    PeepholeLSTMParams,
    VanillaParams,
    activations,
)
from rnn_jax.cells.activations import clipped
from rnn_jax.layers import BothWays, as_layer
from tests.oracles import checked

T, B, I, H = 5, 4, 3, 4
LENGTHS = np.array([5, 3, 1, 0], np.int32)
BATCHED = ("X", "initial_h", "initial_c")  # what has an example on its second axis
DIRECTIONS = ["forward", "reverse", "bidirectional"]
OPSET, IR_VERSION = 22, 10  # when these operators last changed, and a file format that both oracles read
REASON = "ONNX is not installed: pip install -e .[onnx]"

RAGGED = "outputs and last states, every direction, ragged, float32"
NODE_CASES = {
    name: checked(name, "ONNX reference evaluator, its node cases", "outputs and last states, float32", 1e-5)
    for name in ("lstm", "peephole_lstm", "gru_reset_before", "vanilla", "bidirectional")
}
EVALUATOR = {
    name: checked(name, "ONNX reference evaluator", RAGGED, 1e-5)
    for name in ("lstm", "peephole_lstm", "gru", "gru_reset_before", "vanilla", "bidirectional")
}
RUNTIME = {name: checked(name, "ONNX Runtime", RAGGED, 1e-5) for name in (*EVALUATOR, "cifg_lstm", "general_lstm")}
ACTIVATED = {
    name: checked(name, "ONNX Runtime", "other activations, float32", 1e-5)
    for name in ("lstm", "peephole_lstm", "general_lstm", "gru", "gru_reset_before", "vanilla")
}


def blocks(W, order) -> dict[str, Any]:
    """Named gate blocks of the first axis, where ONNX has them."""
    return dict(zip(order, np.split(W, len(order)), strict=True))


def beside(*gates) -> Any:
    """Gates on the last axis, where we have them."""
    return np.concatenate(gates).T


def reorder(W, order, wanted):
    named = blocks(W, order)
    return beside(*(named[gate] for gate in wanted))


def added(bias) -> Any:
    """The one bias that ONNX's two amount to."""
    return np.add(*np.split(bias, 2))


def lstm_params(W, R, bias):
    return LSTMParams(*(reorder(a, "iofc", "ifoc") for a in (W, R, added(bias))))


def peephole_params(W, R, bias, P):
    return PeepholeLSTMParams(*lstm_params(W, R, bias), w_ch=reorder(P, "iof", "ifo"))


def cifg_params(W, R, bias):
    """ONNX Runtime couples f to i and reads the weights of i: f = 1 − σ(a) = σ(−a)."""
    gates = [blocks(a, "iofc") for a in (W, R, added(bias))]
    return CIFGParams(*(beside(-gate["i"], gate["o"], gate["c"]) for gate in gates))


def general_params(W, R, bias, P):
    w = blocks(P, "iof")
    return GeneralLSTMParams(*cifg_params(W, R, bias), w_ch=beside(-w["i"], w["o"]))


def gru_params(W, R, bias):
    x, h = (blocks(b, "zrh") for b in np.split(bias, 2))
    b_h = beside(x["r"] + h["r"], x["z"] + h["z"], x["h"])
    return GRUParams(reorder(W, "zrh", "rzh"), reorder(R, "zrh", "rzh"), b_h, b_n=h["h"])


def gru_reset_before_params(W, R, bias):
    return GRUResetBeforeParams(*(reorder(a, "zrh", "rzh") for a in (W, R, added(bias))))


def vanilla_params(W, R, bias):
    return VanillaParams(W.T, R.T, added(bias))


class Kind(NamedTuple):
    """One of our cells, and how ONNX says it."""

    factory: Callable[..., Cell]
    op: str
    gates: int
    attributes: dict[str, int]
    to_params: Callable[..., Any]


KINDS = {
    "lstm": Kind(lstm, "LSTM", 4, {}, lstm_params),
    "peephole_lstm": Kind(peephole_lstm, "LSTM", 4, {}, peephole_params),
    "cifg_lstm": Kind(cifg_lstm, "LSTM", 4, {"input_forget": 1}, cifg_params),
    "general_lstm": Kind(
        partial(general_lstm, coupled=True, peepholes=True), "LSTM", 4, {"input_forget": 1}, general_params
    ),
    "gru": Kind(gru, "GRU", 3, {"linear_before_reset": 1}, gru_params),
    "gru_reset_before": Kind(gru_reset_before, "GRU", 3, {}, gru_reset_before_params),
    "vanilla": Kind(vanilla, "RNN", 1, {}, vanilla_params),
}


def ours(name, feeds, direction="forward", cells=()):
    """What the library makes of them: Y, Y_h and, of an LSTM, Y_c, as ONNX has them, with zeros at padded steps."""
    kind, X, R = KINDS[name], feeds["X"], feeds["R"]
    D, (length, batch, _) = len(R), X.shape
    cells = cells or [kind.factory(X.shape[-1], R.shape[-1])] * D
    layer = bidirectional(*cells) if direction == "bidirectional" else as_layer(*cells, reverse=direction == "reverse")
    join = BothWays if direction == "bidirectional" else lambda way: way
    bias = feeds.get("B", np.zeros((D, 2 * R.shape[1]), R.dtype))
    params = join(*map(kind.to_params, feeds["W"], R, bias, *([feeds["P"]] if "P" in feeds else [])))
    h0 = layer.start(params, (batch,))
    if "initial_c" in feeds:
        h0 = join(*map(LSTMState, feeds["initial_h"], feeds["initial_c"]))
    elif "initial_h" in feeds:
        h0 = join(*feeds["initial_h"])
    lengths = feeds.get("sequence_lens")
    h_T, ys = jax.jit(layer.apply)(params, h0, X, lengths=lengths)
    valid = np.arange(length)[:, None, None, None] < (length if lengths is None else lengths[:, None])
    Y = np.where(valid, np.stack(np.split(np.asarray(ys), D, axis=-1), axis=1), np.float32(0))
    ways = h_T if direction == "bidirectional" else [h_T]
    last = zip(*ways, strict=True) if kind.op == "LSTM" else [ways]
    return {"Y": Y} | dict(zip(["Y_h", "Y_c"], map(np.stack, last), strict=False))


def random_feeds(name, direction):
    """Every input that the operator has, normal, W and R with a quarter of the variance."""
    kind, D, key = KINDS[name], 1 + (direction == "bidirectional"), np.random.default_rng(0)
    shapes = {"X": (T, B, I), "W": (D, kind.gates * H, I), "R": (D, kind.gates * H, H), "B": (D, 2 * kind.gates * H)}
    shapes |= {"initial_h": (D, B, H)} | ({"initial_c": (D, B, H)} if kind.op == "LSTM" else {})
    shapes |= {"P": (D, 3 * H)} if name in ("peephole_lstm", "general_lstm") else {}
    scale = {"W": 0.5, "R": 0.5}
    feeds = {each: (scale.get(each, 1) * key.normal(size=shape)).astype(np.float32) for each, shape in shapes.items()}
    return feeds | {"sequence_lens": LENGTHS}


def model_of(op, feeds, **attributes):
    """The ONNX model of one operator that takes these feeds and writes all that it can."""
    onnx = pytest.importorskip("onnx", reason=REASON)
    helper, schema = onnx.helper, onnx.defs.get_schema(op, OPSET)
    inputs, outputs = ([each.name for each in side] for side in (schema.inputs, schema.outputs))
    attributes |= {"hidden_size": feeds["R"].shape[-1]}
    node = helper.make_node(op, [each if each in feeds else "" for each in inputs], outputs, **attributes)
    takes = [
        helper.make_tensor_value_info(each, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for each, array in feeds.items()
    ]
    gives = [helper.make_tensor_value_info(each, onnx.TensorProto.FLOAT, None) for each in outputs]
    graph = helper.make_graph([node], op, takes, gives)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def evaluate(model, feeds):
    """What the reference evaluator makes of it."""
    reference = pytest.importorskip("onnx.reference", reason=REASON)
    names = [each.name for each in model.graph.output]
    return dict(zip(names, reference.ReferenceEvaluator(model).run(None, feeds), strict=True))


def evaluate_each(op, feeds, **attributes):
    """The same of each example with steps, alone without its padding, as the evaluator reads no sequence_lens."""
    runs = []
    for b in np.flatnonzero(LENGTHS):
        alone = {each: array[:, b : b + 1] if each in BATCHED else array for each, array in feeds.items()}
        alone["X"] = alone["X"][: LENGTHS[b]]
        del alone["sequence_lens"]
        run = evaluate(model_of(op, alone, **attributes), alone)
        runs.append(run | {"Y": np.pad(run["Y"], [(0, T - LENGTHS[b]), (0, 0), (0, 0), (0, 0)])})
    return {each: np.concatenate([run[each] for run in runs], axis=-2) for each in runs[0]}


def run_natively(op, feeds, **attributes):
    """What ONNX Runtime makes of it, but the state before a sequence of no steps held, where it leaves zeros."""
    runtime = pytest.importorskip("onnxruntime", reason=REASON)
    options, model = runtime.SessionOptions(), model_of(op, feeds, **attributes)
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    run = dict(zip([each.name for each in model.graph.output], session.run(None, feeds), strict=True))
    empty = feeds["sequence_lens"][:, None] == 0
    starts = {"Y_h": "initial_h", "Y_c": "initial_c"}
    return run | {each: np.where(empty, feeds[starts[each]], run[each]) for each in run if each in starts}


def assert_close(got, wanted, tolerance):
    """The same names, shapes and float32, and numbers within the tolerance."""
    assert got.keys() == wanted.keys()
    for each in wanted:
        np.testing.assert_allclose(got[each], wanted[each], rtol=tolerance, atol=tolerance, err_msg=each, strict=True)


@cache
def node_cases():
    """All cases of the three operators in the wheel by name, of the modules that mention one: the rest take seconds."""
    pytest.importorskip("onnx", reason=REASON)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node = importlib.import_module("onnx.backend.test.case.node")
        (folder,) = node.__path__
        for file in sorted(Path(folder).rglob("*.py")):
            if re.search(r"""["'](LSTM|GRU|RNN)["']""", file.read_text(encoding="utf-8")):
                importlib.import_module(".".join((node.__name__, *file.relative_to(folder).with_suffix("").parts)))
    return {
        case.name: case
        for case in node._NodeTestCases
        if any(each.op_type in ("LSTM", "GRU", "RNN") for each in case.model.graph.node)
    }


NODE_CASE_NAMES = [
    f"test_{op}_{each}"
    for op in ("lstm", "gru", "simple_rnn")
    for each in ("defaults", "with_initial_bias", "batchwise", "reverse", "bidirectional")
] + ["test_lstm_with_peepholes", "test_gru_seq_length", "test_rnn_seq_length"]


def test_the_node_cases_named_here_are_all_that_the_wheel_holds():
    assert sorted(node_cases()) == sorted(NODE_CASE_NAMES)


@pytest.mark.parametrize("case_name", NODE_CASE_NAMES)
def test_every_node_case_equals_the_stored_numbers_and_what_the_evaluator_makes_of_it_now(case_name):
    case, helper = node_cases()[case_name], pytest.importorskip("onnx", reason=REASON).helper
    (node,), ((inputs, stored),) = case.model.graph.node, case.data_sets
    feeds = dict(zip(filter(None, node.input), inputs, strict=True))
    attributes: dict[str, Any] = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    direction, batchwise = attributes.get("direction", b"forward").decode(), attributes.get("layout")
    name = {
        "LSTM": "peephole_lstm" if "P" in feeds else "lstm",
        "GRU": "gru" if attributes.get("linear_before_reset") else "gru_reset_before",
        "RNN": "vanilla",
    }[node.op_type]
    tolerance = NODE_CASES.get(direction, NODE_CASES[name])
    turned = {each: np.swapaxes(feeds[each], 0, 1) for each in BATCHED if batchwise and each in feeds}
    got = ours(name, feeds | turned, direction)
    got = {each: np.moveaxis(array, -2, 0) if batchwise else array for each, array in got.items()}
    assert_close(got, evaluate(model_of(node.op_type, feeds, **attributes), feeds), tolerance)  # all that it can write
    own = evaluate(case.model, feeds)  # what the case asks for, sometimes Y_h alone
    assert_close({each: got[each] for each in own}, own, tolerance)
    assert_close({each: got[each] for each in own}, dict(zip(own, stored, strict=True)), tolerance)


@pytest.fixture(scope="module", params=[(n, d) for n in EVALUATOR if n in KINDS for d in DIRECTIONS], ids="-".join)
def random_layer(request):  # of module scope, so that both oracles of one layer follow each other
    name, direction = request.param
    feeds = random_feeds(name, direction)
    return name, direction, feeds, ours(name, feeds, direction)


def test_random_layers_equal_the_evaluator_on_each_example_alone_without_its_padding(random_layer):
    name, direction, feeds, got = random_layer
    wanted = evaluate_each(KINDS[name].op, feeds, direction=direction, **KINDS[name].attributes)
    got = {each: array[..., LENGTHS > 0, :] for each, array in got.items()}
    assert_close(got, wanted, EVALUATOR.get(direction, EVALUATOR[name]))


def test_random_layers_equal_onnx_runtime_on_sequences_of_many_lengths_and_of_no_steps(random_layer):
    name, direction, feeds, got = random_layer
    wanted = run_natively(KINDS[name].op, feeds, direction=direction, **KINDS[name].attributes)
    assert_close(got, wanted, RUNTIME.get(direction, RUNTIME[name]))


@pytest.mark.parametrize(
    ("name", "direction"), [*(("cifg_lstm", direction) for direction in DIRECTIONS), ("general_lstm", "reverse")]
)
def test_the_lstm_with_coupled_gates_equals_onnx_runtime_in_every_direction_and_with_peepholes(name, direction):
    feeds, kind = random_feeds(name, direction), KINDS[name]
    wanted = run_natively(kind.op, feeds, direction=direction, **kind.attributes)
    assert_close(ours(name, feeds, direction), wanted, RUNTIME[name])


class Function(NamedTuple):
    """How ONNX says one of our activations."""

    name: str
    alpha: float | None = None
    beta: float | None = None


FUNCTIONS = {
    "tanh": Function("Tanh"),
    "relu": Function("Relu"),
    "sigmoid": Function("Sigmoid"),
    "hard_sigmoid": Function("HardSigmoid", 1 / 6, 0.5),  # ONNX's own slope is 0.2
    "softplus": Function("Softplus"),
    "softsign": Function("Softsign"),
    "elu": Function("Elu", 1.0),
    "linear": Function("Affine", 1.0, 0.0),
    activations.affine_activation(0.5, -0.25): Function("Affine", 0.5, -0.25),
    activations.leaky_relu(0.3): Function("LeakyRelu", 0.3),
    activations.thresholded_relu(0.5): Function("ThresholdedRelu", 0.5),
    activations.scaled_tanh(1.7, 0.6): Function("ScaledTanh", 1.7, 0.6),
    activations.hard_sigmoid(): Function("HardSigmoid", 0.2, 0.5),
    activations.elu(0.7): Function("Elu", 0.7),
}


def activated(*names):
    """ONNX's attributes of these activations of ours."""
    functions = [FUNCTIONS[name] for name in names]
    numbers = {
        "activation_alpha": [each.alpha for each in functions if each.alpha is not None],
        "activation_beta": [each.beta for each in functions if each.beta is not None],
    }
    return {"activations": [each.name for each in functions]} | {key: a for key, a in numbers.items() if a}


@pytest.mark.parametrize("activation", FUNCTIONS, ids=str)
def test_vanilla_equals_onnx_runtime_with_each_activation(activation):
    feeds = random_feeds("vanilla", "reverse")
    wanted = run_natively("RNN", feeds, direction="reverse", **activated(activation))
    got = ours("vanilla", feeds, "reverse", [vanilla(I, H, activation=activation)])
    assert_close(got, wanted, ACTIVATED["vanilla"])


@pytest.mark.parametrize(
    ("gate", "activation"),
    [("hard_sigmoid", "tanh"), ("sigmoid", "elu"), ("softsign", "softplus"), ("linear", "hard_sigmoid")],
)
def test_lstm_equals_onnx_runtime_with_other_activations_of_gates_and_memory(gate, activation):
    feeds = random_feeds("lstm", "forward")
    wanted = run_natively("LSTM", feeds, direction="forward", **activated(gate, activation, activation))
    got = ours("lstm", feeds, "forward", [lstm(I, H, activation=activation, gate_activation=gate)])
    assert_close(got, wanted, ACTIVATED["lstm"])


@pytest.mark.parametrize("name", ["lstm", "peephole_lstm", "general_lstm", "gru", "gru_reset_before"])
def test_every_activation_of_a_cell_may_be_another_and_a_clip_is_one(name):
    feeds, kind = random_feeds(name, "forward"), KINDS[name]
    of_lstm = {"memory_activation": "softsign"} if kind.op == "LSTM" else {}  # ONNX Runtime does not clip c there
    functions = activated("hard_sigmoid", activations.scaled_tanh(1.7, 0.6), *(["softsign"] if of_lstm else []))
    wanted = run_natively(kind.op, feeds, direction="forward", clip=0.5, **functions, **kind.attributes)
    options = {
        "gate_activation": clipped("hard_sigmoid", 0.5),
        "activation": clipped(activations.scaled_tanh(1.7, 0.6), 0.5),
    }
    got = ours(name, feeds, "forward", [kind.factory(I, H, **options, **of_lstm)])
    assert_close(got, wanted, ACTIVATED[name])


def test_a_bidirectional_layer_of_two_different_cells_equals_onnx_runtime():
    feeds = random_feeds("lstm", "bidirectional")
    functions = activated("sigmoid", "relu", "relu", "hard_sigmoid", "softsign", "softsign")
    wanted = run_natively("LSTM", feeds, direction="bidirectional", **functions)
    cells = [lstm(I, H, activation="relu"), lstm(I, H, activation="softsign", gate_activation="hard_sigmoid")]
    assert_close(ours("lstm", feeds, "bidirectional", cells), wanted, RUNTIME["bidirectional"])
