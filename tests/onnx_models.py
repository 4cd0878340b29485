"""Models that go to ONNX and back, with random weights, and their runs in ONNX Runtime."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import (
    bidirectional,
    cell_from_step,
    cifg_lstm,
    dense_input,
    embedding,
    general_lstm,
    gru,
    gru_reset_before,
    learned_start,
    lstm,
    mgu,
    mlp_head,
    peephole_lstm,
    projected_lstm,
    readout,
    stack,
    vanilla,
)
from rnn_jax.cells.activations import (
    affine_activation,
    clipped,
    elu,
    hard_sigmoid,
    leaky_relu,
    scaled_tanh,
    thresholded_relu,
)
from rnn_jax.interop.signatures import named_by_path
from rnn_jax.layers import as_layer

I, H, V, T, B = 3, 4, 7, 9, 3
REASON = "ONNX is not installed: pip install -e .[onnx]"

own = cell_from_step(
    init=lambda key: jnp.zeros((I, H), jnp.float32),
    start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, H), params.dtype),
    step=lambda W, h, x: 0.5 * h + jnp.cos(x @ W),
)

NATIVE = {
    "vanilla": (vanilla(I, H, activation="relu"), ["RNN"]),
    "gru": (gru(I, H), ["GRU"]),
    "gru reset before, reversed": (as_layer(gru_reset_before(I, H), reverse=True), ["GRU"]),
    "lstm with a readout": (readout(lstm(I, H), 2), ["LSTM"]),
    "peephole": (peephole_lstm(I, H), ["LSTM"]),
    "cifg, both ways": (bidirectional(cifg_lstm(I, H), cifg_lstm(I, H)), ["LSTM"]),
    "cifg with peepholes": (general_lstm(I, H, coupled=True, peepholes=True), ["LSTM"]),
    "gru, both ways, added": (bidirectional(gru(I, H), gru(I, H), merge="sum"), ["GRU"]),
    "two kinds of cells": (bidirectional(gru(I, H), lstm(I, 5)), ["GRU", "LSTM"]),
    "deep": (
        readout(
            embedding(
                stack(
                    bidirectional(lstm(I, H), lstm(I, H)), bidirectional(lstm(2 * H, H), lstm(2 * H, H)), gru(2 * H, I)
                ),
                *(V, I),
            ),
            *(2,),
        ),
        ["LSTM", "LSTM", "GRU"],
    ),
    "clipped activations with numbers": (
        gru(I, H, activation=clipped(scaled_tanh(1.7, 0.66), 1.5), gate_activation=clipped(hard_sigmoid(0.2), 1.5)),
        ["GRU"],
    ),
    "three activations": (
        lstm(I, H, activation=leaky_relu(0.1), gate_activation="hard_sigmoid", memory_activation=elu(0.5)),
        ["LSTM"],
    ),
    "clipped, but the memory": (
        lstm(I, H, activation=clipped("tanh", 1.0), gate_activation=clipped("sigmoid", 1.0), memory_activation="tanh"),
        ["LSTM"],
    ),
    "another activation in each direction": (
        bidirectional(
            vanilla(I, H, activation=thresholded_relu(0.3)), vanilla(I, H, activation=affine_activation(0.5, 0.1))
        ),
        ["RNN"],
    ),
}
"""Networks of native nodes, and the nodes of their files."""

OTHERS = {
    "own": (own, ["Scan"]),
    "minimal, reversed": (as_layer(mgu(I, H), reverse=True), ["Scan"]),
    "projected on a native layer": (stack(lstm(I, H), projected_lstm(H, H, projection_size=2)), ["LSTM", "Scan"]),
    "clip of the memory's activation too": (lstm(I, H, activation=clipped("tanh", 1.0)), ["Scan"]),
    "learned start with a dense input": (learned_start(dense_input(lstm(H, H), I, H)), ["LSTM"]),
    "several heads": (readout(gru(I, H), {"policy": 2, "value": mlp_head((5,), 1)}), ["GRU"]),
    "own merge": (bidirectional(lstm(I, H), lstm(I, H), merge=jnp.maximum), ["LSTM"]),
}
"""Models that become other nodes too."""


CELLS = (vanilla, gru, gru_reset_before, lstm, peephole_lstm, cifg_lstm)


def random_network(seed: int) -> Any:
    """A network of one to three layers of any kinds, directions and sizes, with or without what stands around them."""
    rng = np.random.default_rng(seed)
    merge = str(rng.choice(["concatenate", "sum"]))
    size, layers = I, []
    for _ in range(rng.integers(1, 4)):
        make, hidden = CELLS[rng.integers(len(CELLS))], int(rng.integers(1, 6))
        if rng.integers(2):
            layers.append(bidirectional(make(size, hidden), make(size, hidden), merge=merge))
            size = 2 * hidden if merge == "concatenate" else hidden
        else:
            layers.append(as_layer(make(size, hidden), reverse=bool(rng.integers(2))))
            size = hidden
    model = stack(*layers) if len(layers) > 1 else layers[0]
    model = embedding(model, V, I) if rng.integers(2) else model
    return readout(model, 2) if rng.integers(2) else model


def random_params(model: Any, dtype: Any = np.float32, seed: int = 0) -> Any:
    """Normal params of variance 1/4, without the compilation of an initialiser."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda a: jnp.asarray(0.5 * rng.normal(size=a.shape), dtype), shapes)


def session_of(file: Any) -> Any:
    """A session of ONNX Runtime."""
    runtime = pytest.importorskip("onnxruntime", reason=REASON)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])


def outputs_of(session: Any, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    """The outputs of a session by name."""
    arrays = {name: np.asarray(array) for name, array in feeds.items()}
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, arrays), strict=True))


def ops_of(file: Any) -> list[str]:
    """The recurrent nodes of a file."""
    return [node.op_type for node in file.graph.node if node.op_type in ("LSTM", "GRU", "RNN", "Scan", "Loop")]


def by_path(name: str, tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a pytree by their names in a file."""
    return {path: np.asarray(leaf) for path, leaf in named_by_path(name, tree).items()}


def assert_equal_bits(got: Any, wanted: Any) -> None:
    """The same structure, and the same bits in every array."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
