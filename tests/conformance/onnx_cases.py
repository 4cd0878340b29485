"""The node cases of ONNX: inputs, attributes and outputs that its wheel holds for every back end to check."""

import importlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.conformance.cases import DIRECTLY, Case, Suite, error_of, peer
from tests.conformance.onnx_layers import ours

NAME = "ONNX, node cases"
TOLERANCE = 1e-5  # they are computed in float32
OPERATORS = ("LSTM", "GRU", "RNN")
BATCHED = ("X", "initial_h", "initial_c")  # an example on the second axis, or on the first where layout is 1


def node_cases() -> dict[str, Any]:
    """The cases by name; of the modules of all cases only those are imported that name one of the operators."""
    peer("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node = importlib.import_module("onnx.backend.test.case.node")
        (folder,) = node.__path__
        for file in sorted(Path(folder).rglob("*.py")):
            if re.search(rf"""["']({"|".join(OPERATORS)})["']""", file.read_text(encoding="utf-8")):
                importlib.import_module(".".join((node.__name__, *file.relative_to(folder).with_suffix("").parts)))
    found = [case for case in node._NodeTestCases if any(each.op_type in OPERATORS for each in case.model.graph.node)]
    return {case.name: case for case in sorted(found, key=lambda case: case.name)}


def cases() -> Iterator[Case]:
    """Each output of each case."""
    get = peer("onnx").helper.get_attribute_value
    for name, case in node_cases().items():
        (node,), ((inputs, outputs),) = case.model.graph.node, case.data_sets
        attributes = {each.name: get(each) for each in node.attribute}
        attributes |= {key: value.decode() for key, value in attributes.items() if isinstance(value, bytes)}
        named = zip(filter(None, node.input), inputs, strict=True)
        feeds = {key: a if key == "sequence_lens" else np.asarray(a, float) for key, a in named}
        if attributes.get("layout"):
            feeds |= {key: np.swapaxes(feeds[key], 0, 1) for key in BATCHED if key in feeds}
        got = ours(node.op_type, attributes, feeds)
        for output, numbers in zip(filter(None, node.output), outputs, strict=True):
            mine = np.moveaxis(got[output], -2, 0) if attributes.get("layout") else got[output]
            yield Case(NAME, f"{name}, {output}", DIRECTLY, error_of(mine, numbers), TOLERANCE)


SUITE = Suite(
    NAME,
    "the wheel of ONNX, `onnx.backend.test.case.node`",
    "outputs and last states of LSTM, GRU and RNN: directions, peepholes, initial biases, lengths, both layouts",
    cases,
    ("onnx",),
    cells=("vanilla", "gru", "gru_reset_before", "lstm", "peephole_lstm", "bidirectional"),
)
