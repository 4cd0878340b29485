"""TensorFlow Lite's own tests of its recurrent kernels in float32: the numbers that stand in its sources.

A run is the list of a kernel's inputs, with None for one that is left out; states are carried from run to run. Weights
are (H, I) and (H, H). The LSTM has gates i f c o, and without the weights of i it is the one with coupled gates; its
layer norm normalises the sum of a gate, its peephole included, with an ε of 1e-8.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import bidirectional, general_lstm, gru_reset_before, lstm, peephole_lstm, readout, vanilla
from rnn_jax.cells import (
    GeneralLSTMParams,
    GRUResetBeforeParams,
    LSTMParams,
    LSTMState,
    PeepholeLSTMParams,
    VanillaParams,
)
from rnn_jax.layers import BothWays, Layer, as_layer
from rnn_jax.readouts import ReadoutParams
from tests.conformance.cases import DIRECTLY, Case, Suite, error_of, gates, stored

NAME = "TensorFlow Lite, stored"

Run = list[Any]
Built = tuple[Layer, Any, Any, np.ndarray]
"""A layer, its params, the state before the first step, and the inputs ``(T, B, I)``."""


def beside(W: Any, other: Any) -> Any:
    """Weights (H, I) beside those of the auxiliary input; zeros where one of both is a shape."""
    W, other = (np.zeros(part) if isinstance(part, tuple) else part for part in (W, other))
    return np.concatenate([W, other], axis=-1)


def with_auxiliary(weights: Run, auxiliary: Run, aux_size: int, reads_aux_alone: bool) -> Run:
    """Weights that read (x, aux): each from its own, or, without cross links, backward from aux alone."""
    if auxiliary[-1] is not None:
        return [None if W is None else beside(W, A) for W, A in zip(weights, auxiliary, strict=True)]
    if reads_aux_alone:
        return [None if W is None else beside((len(W), aux_size), W) for W in weights]
    return [None if W is None else beside(W, (len(W), aux_size)) for W in weights]


def time_first(x: Any, time_major: int) -> Any:
    return x if time_major else np.swapaxes(x, 0, 1)


def vanilla_of(W: Any, R: Any, b: Any) -> tuple[Any, Any]:
    """The ReLU network of one direction."""
    return vanilla(W.shape[1], len(W), activation="relu"), VanillaParams(W.T, R.T, b)


def lstm_of(W: Run, R: Run, peepholes: Run, biases: Run, projection: Run, scales: Run) -> tuple[Any, Any]:
    """The LSTM of one direction: the plain one, that with peepholes, or any other combination."""
    coupled, sizes = W[0] is None, (W[1].shape[1], len(W[1]))
    order, wanted = ("fco", "foc") if coupled else ("ifco", "ifoc")

    def joined(blocks: Run, order: str = order, wanted: str = wanted) -> Any:
        given = [block for block in blocks if block is not None]
        return gates(np.concatenate(given).T, order, wanted) if given else None

    W_xh, W_hh, b_h, scale = map(joined, (W, R, biases, scales))
    w_ch = joined(peepholes, order.replace("c", ""), wanted.replace("c", ""))
    W_hp, b_p = (None if a is None else a.T for a in projection)
    if not coupled and scale is None and W_hp is None:
        if w_ch is None:
            return lstm(*sizes), LSTMParams(W_xh, W_hh, b_h)
        return peephole_lstm(*sizes), PeepholeLSTMParams(W_xh, W_hh, b_h, w_ch)
    cell = general_lstm(
        *sizes,
        coupled=coupled,
        peepholes=w_ch is not None,
        layer_norm=scale is not None,
        epsilon=None if scale is None else 1e-8,
        projection_size=None if W_hp is None else W_hp.shape[1],
        projection_bias=b_p is not None,
    )
    return cell, GeneralLSTMParams(W_xh, W_hh, b_h, w_ch=w_ch, scale=scale, W_hp=W_hp, b_p=b_p)


def basic_rnn(opts: list[int], run: Run) -> Built:
    x, W, R, b, h = run
    cell, params = vanilla_of(W, R, b)
    return as_layer(cell), params, h, x[None]


def sequence_rnn(opts: list[int], run: Run) -> Built:
    x, W, R, b, h = run
    cell, params = vanilla_of(W, R, b)
    return as_layer(cell), params, h, time_first(x, opts[0])


def bidirectional_rnn(opts: list[int], run: Run) -> Built:
    x, W, R, b, h, W_back, R_back, b_back, h_back, aux, A, A_back = run
    x, W_x, W_x_back = time_first(x, opts[0]), W, W_back
    if aux is not None:
        aux = time_first(aux, opts[0])
        (W_x,) = with_auxiliary([W], [A], aux.shape[-1], False)
        (W_x_back,) = with_auxiliary([W_back], [A_back], aux.shape[-1], True)
        x = np.concatenate([x, aux], axis=-1)
    cells, params = zip(vanilla_of(W_x, R, b), vanilla_of(W_x_back, R_back, b_back), strict=True)
    return bidirectional(*cells), BothWays(*params), BothWays(h, h_back), x


def sequence_gru(opts: list[int], run: Run) -> Built:
    x, h, W_g, b_g, W_n, b_n = run  # weights read (x, h): gates r z, and n, which reads r ⊙ h
    I, H = x.shape[-1], h.shape[-1]
    W, b = np.concatenate([W_g, W_n]).T, np.concatenate([b_g, b_n])
    params = GRUResetBeforeParams(*map(jnp.asarray, (W[:I], W[I:], b)))
    return as_layer(gru_reset_before(I, H)), params, h, x


def one_lstm(run: Run, scales: Run) -> tuple[Any, Any]:
    """The LSTM of inputs 1 to 17."""
    return lstm_of(run[1:5], run[5:9], run[9:12], run[12:16], run[16:18], scales)


def basic_lstm(opts: list[int], run: Run) -> Built:
    cell, params = one_lstm(run, run[20:24])
    return as_layer(cell), params, LSTMState(*run[18:20]), run[0][None]


def sequence_lstm(opts: list[int], run: Run) -> Built:
    cell, params = one_lstm(run, run[20:24])
    return as_layer(cell), params, LSTMState(*run[18:20]), time_first(run[0], opts[3])


def bidirectional_lstm(opts: list[int], run: Run) -> Built:
    x, ways = time_first(run[0], opts[4]), [run[:18], [None, *run[18:35]]]
    if run[39] is not None:
        aux = time_first(run[39], opts[4])
        for way, A in zip(ways, (run[40:44], run[44:48]), strict=True):
            way[1:5] = with_auxiliary(way[1:5], A, aux.shape[-1], False)
        x = np.concatenate([x, aux], axis=-1)
    cells, params = zip(*(one_lstm(way, [None]) for way in ways), strict=True)
    h0 = BothWays(LSTMState(*run[35:37]), LSTMState(*run[37:39]))
    return bidirectional(*cells), BothWays(*params), h0, x


KERNELS: dict[str, tuple[Callable[[list[int], Run], Built], int | None, int | None]] = {
    "RNN": (basic_rnn, None, None),
    "SEQ_RNN": (sequence_rnn, 0, None),
    "BI_RNN": (bidirectional_rnn, 0, 2),
    "UNIDIRECTIONAL_SEQUENCE_GRU": (sequence_gru, None, None),
    "LSTM": (basic_lstm, None, None),
    "SEQ_LSTM": (sequence_lstm, 3, None),
    "BI_LSTM": (bidirectional_lstm, 4, 3),
}
"""What builds a kernel, and the places of ``time_major`` and ``merge_outputs`` in its options."""


@cache
def program(layer: Layer) -> Callable[..., Any]:
    return jax.jit(layer.apply)


def outputs_of(test: dict[str, Any]) -> Iterator[list[np.ndarray]]:
    """The outputs of each run, flattened: one of each direction, or merged."""
    build, time_major, merge = KERNELS[test["op"]]
    h = None
    for run in test["runs"]:
        layer, params, start, xs = build(test["opts"], run)
        h, ys = program(layer)(params, start if h is None else h, xs)
        if time_major is not None and not test["opts"][time_major]:
            ys = jnp.swapaxes(ys, 0, 1)
        apart = merge is not None and not test["opts"][merge]
        yield [np.ravel(y) for y in (np.split(np.asarray(ys), 2, axis=-1) if apart else [ys])]


def end_to_end(test: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Pairs (ours, theirs) of a bidirectional network, a linear layer behind its summed outputs; its state is kept."""
    h = None
    for run, golden in zip(test["runs"], test["golden"], strict=True):
        _, ways, start, xs = bidirectional_rnn(test["opts"], run)
        cell = vanilla(xs.shape[-1], ways.forward.b_h.shape[0], activation="relu")
        model = readout(bidirectional(cell, cell, merge="sum"), golden.shape[-1])
        params = ReadoutParams(ways, test["dnn_weights"], test["dnn_biases"])
        h, ys = program(model)(params, start if h is None else h, xs)
        yield ys[:, 0], golden


def cases() -> Iterator[Case]:
    """Each expectation of their tests."""
    for test in stored("tflite"):
        title = test["name"].partition(": ")[2]
        if "golden" in test:
            for number, (got, golden) in enumerate(end_to_end(test)):
                yield Case(NAME, f"{title} {number}", DIRECTLY, error_of(got, golden), 1e-5)
            continue
        runs = list(outputs_of(test))
        for each in test["expect"]:
            error = error_of(runs[each["invocation"]][each["out"]], each["expected"])
            yield Case(NAME, f"{title} {each['invocation']}, output {each['out']}", DIRECTLY, error, each["tol"])


SUITE = Suite(
    NAME,
    "[google-ai-edge/LiteRT](https://github.com/google-ai-edge/LiteRT) `f674577`, tflite/kernels",
    "RNN, GRU and LSTM of one and two directions: coupled gates, peepholes, projection and its bias, layer norm, "
    "auxiliary inputs",
    cases,
    cells=("vanilla", "gru_reset_before", "lstm", "peephole_lstm", "general_lstm", "bidirectional", "readout"),
)
