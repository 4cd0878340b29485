"""ONNX Runtime, live: the runs of its own tests again, random layers, and the evidence for its two typing errors."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from tests.conformance.cases import DIRECTLY, Case, Suite, error_of, peer, stored
from tests.conformance.onnx_layers import Feeds, ours
from tests.conformance.onnx_stored import TYPED_WRONG, WITH_THE_ERROR

NAME = "ONNX Runtime, live"
TOLERANCE = 1e-5  # it computes in float32
OPSET, IR_VERSION = 22, 10
FLOATING = ("clip", "activation_alpha", "activation_beta")
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}

T, B, I, H = 5, 4, 3, 4
LENGTHS = np.array([5, 3, 1, 0], np.int32)

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "LSTM": [
        *({"input_forget": coupled, "P": P} for coupled in (0, 1) for P in (False, True)),
        {"activations": ["HardSigmoid", "Softsign", "Elu"], "activation_alpha": [0.3, 1.2], "activation_beta": [0.4]},
        {"activations": ["Sigmoid", "Tanh", "ScaledTanh"], "activation_alpha": [1.5], "activation_beta": [0.5]},
        {"clip": 0.3, "P": True},
    ],
    "GRU": [
        {"linear_before_reset": 0},
        {"linear_before_reset": 1},
        {"linear_before_reset": 1, "activations": ["HardSigmoid", "Softsign"], "activation_alpha": [0.3]},
        {"linear_before_reset": 0, "clip": 0.3},
    ],
    "RNN": [
        {"activations": ["Relu"]},
        {"activations": ["LeakyRelu"], "activation_alpha": [0.2]},
        {"activations": ["ThresholdedRelu"], "activation_alpha": [0.1]},
        {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.1]},
        {"activations": ["Softplus"]},
        {"activations": ["Tanh"], "clip": 0.5},
    ],
}


def both(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a node of both directions: each list twice."""
    repeated = {name: value * 2 if isinstance(value, list) else value for name, value in attributes.items()}
    return repeated | {"direction": "bidirectional"}


def random_feeds(op: str, peepholes: bool, draws: np.random.Generator) -> Feeds:
    """Random numbers of every shape; biases of zero would hide one in the wrong place."""
    D, G = 2, GATES[op]
    shapes = {"X": (T, B, I), "W": (D, G * H, I), "R": (D, G * H, H), "B": (D, 2 * G * H), "initial_h": (D, B, H)}
    shapes |= {"initial_c": (D, B, H)} if op == "LSTM" else {}
    shapes |= {"P": (D, 3 * H)} if peepholes else {}
    return {name: 0.6 * draws.normal(size=shape) for name, shape in shapes.items()} | {"sequence_lens": LENGTHS}


def run_natively(op: str, attributes: dict[str, Any], feeds: Feeds) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes, in float32."""
    onnx, runtime = peer("onnx"), peer("onnxruntime")
    helper, schema = onnx.helper, onnx.defs.get_schema(op, OPSET)
    given = {name: a if name == "sequence_lens" else a.astype(np.float32) for name, a in feeds.items()}
    inputs, outputs = ([each.name for each in side] for side in (schema.inputs, schema.outputs))
    floats = {name: np.asarray(a, float).tolist() for name, a in attributes.items() if name in FLOATING}
    node = helper.make_node(op, [name if name in given else "" for name in inputs], outputs, **attributes | floats)
    takes = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in given.items()
    ]
    gives = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph([node], op, takes, gives)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(outputs, session.run(None, given), strict=True))


def compared(title: str, op: str, attributes: dict[str, Any], feeds: Feeds) -> Iterator[Case]:
    """A case for each output."""
    got, wanted = ours(op, attributes, feeds), run_natively(op, attributes, feeds)
    for output, numbers in wanted.items():
        yield Case(NAME, f"{title}, {output}", DIRECTLY, error_of(got[output], numbers), TOLERANCE)


def cases() -> Iterator[Case]:
    """The stored runs again, all outputs; then random layers of both directions, one sequence of them without steps."""
    for number, run in enumerate(stored("onnxruntime")):
        if run["ok"]:
            yield from compared(f"{number} {run['name']}", run["op"], run["attrs"], run["ins"])
    draws = np.random.default_rng(5)
    for op, variants in VARIANTS.items():
        for variant, draw in product(variants, range(3)):
            options = {name: value for name, value in variant.items() if name != "P"} | {"hidden_size": H}
            feeds = random_feeds(op, variant.get("P", False), draws)
            yield from compared(f"{op} {variant}, {draw}", op, both(options), feeds)


def evidence() -> list[tuple[str, float, float, float]]:
    """``(test, number in their source, live ONNX Runtime, ours)`` of the two typing errors."""
    found, (wrong, _) = [], TYPED_WRONG
    for run in stored("onnxruntime"):
        if run["name"] in WITH_THE_ERROR:
            at = np.isclose(run["outs"]["Y"], wrong, rtol=0, atol=1e-8)
            arguments = run["op"], run["attrs"], run["ins"]
            live, got = run_natively(*arguments)["Y"][at], ours(*arguments)["Y"][at]
            found.append((run["name"], wrong, float(live.item()), float(got.item())))
    return found


SUITE = Suite(
    NAME,
    "ONNX Runtime, nodes `LSTM`, `GRU` and `RNN`",
    "its stored runs again, and random layers of both directions with lengths from 0 to T: coupled gates, peepholes, "
    "clips, eleven activations",
    cases,
    ("onnx", "onnxruntime"),
    cells=("vanilla", "gru", "gru_reset_before", "lstm", "peephole_lstm", "cifg_lstm", "general_lstm", "bidirectional"),
)
