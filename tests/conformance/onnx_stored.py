"""ONNX Runtime's own tests of LSTM, GRU and RNN: the numbers that stand in its sources."""

from collections.abc import Iterator

import numpy as np

from tests.conformance.cases import DIRECTLY, Case, Suite, error_of, refusal_of, stored
from tests.conformance.onnx_layers import checked, ours

NAME = "ONNX Runtime, stored"
TOLERANCE = 1e-5  # they print seven or eight digits, of sums in float32

TYPED_WRONG = (-0.04350187, -0.04356321)
"""One entry of Y as two tests have it, and as live ONNX Runtime and ours compute it; ``onnx_live`` has the evidence."""
WITH_THE_ERROR = ("LSTMTest.ONNXRuntime_TestLSTMShorterSeqInMiddle", "LSTMTest.ONNXRuntime_TestLSTMZeroSeqInMiddle")


def corrected(name: str, output: str, numbers: np.ndarray) -> np.ndarray:
    """The stored numbers without their two typing errors."""
    wrong, right = TYPED_WRONG
    if name not in WITH_THE_ERROR or output != "Y":
        return numbers
    return np.where(np.isclose(numbers, wrong, rtol=0, atol=1e-8), right, numbers)


def cases() -> Iterator[Case]:
    """Every output of each distinct run; where theirs must fail, ours must refuse.

    Left out is the run with an activation of an unknown name, which this suite's map would refuse, not the library.
    """
    for number, run in enumerate(stored("onnxruntime")):
        title = f"{number} {run['name']}"
        arguments = run["op"], run["attrs"], run["ins"]
        if "Invalid_activation" in run["attrs"].get("activations", ()):
            continue
        if not run["ok"]:
            error = refusal_of(lambda arguments=arguments: ours(*arguments, checked))
            yield Case(NAME, f"{title}, refused", DIRECTLY, error, 0.0)
            continue
        got = ours(*arguments)
        for output, numbers in run["outs"].items():
            wanted = corrected(run["name"], output, numbers)
            yield Case(NAME, f"{title}, {output}", DIRECTLY, error_of(got[output], wanted), TOLERANCE)


SUITE = Suite(
    NAME,
    "[microsoft/onnxruntime](https://github.com/microsoft/onnxruntime), onnxruntime/test/providers/cpu/rnn, commit not "
    "recorded",
    "Y, Y_h and Y_c of LSTM, GRU and RNN: directions, lengths, peepholes, coupled gates, clips, activations; what it "
    "refuses is refused",
    cases,
    cells=("vanilla", "gru", "gru_reset_before", "lstm", "peephole_lstm", "cifg_lstm", "general_lstm", "bidirectional"),
)
