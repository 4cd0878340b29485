"""Cells and layers against Keras 3 on JAX, in float64: outputs, last states, and the gradients of all that goes in.

Ours run on Keras's weights in Keras's layout, so that both are differentiated by the same arrays. Where the mask is
False ours read NaN, theirs a number, which must not matter.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bidirectional, conv_lstm, gru, gru_reset_before, lstm
from rnn_jax.cells import ConvLSTMParams, GRUParams, GRUResetBeforeParams, LSTMParams
from rnn_jax.layers import Layer, as_layer
from tests.oracles import checked

B, I, H = 4, 2, 3
# (T, B): a whole sequence, a hole and an early end, a late beginning and a hole, and nothing
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]], bool).T

WHAT = "outputs, last states and all gradients, float64"
HOLES = f"masks with holes: {WHAT}"


class Case(NamedTuple):
    """A layer of ours, and what it is called in ``keras.layers``."""

    layer: Layer
    peer: str
    options: dict[str, Any]
    tolerance: float
    space: tuple[int, ...] = ()


MASKED = {
    "lstm": Case(as_layer(lstm(I, H)), "LSTM", {}, checked("lstm", "Keras 3 LSTM", HOLES, 1e-9)),
    "gru": Case(
        as_layer(gru(I, H)), "GRU", {"reset_after": True}, checked("gru", "Keras 3 GRU, reset_after=True", HOLES, 1e-9)
    ),
    "gru reset before": Case(
        as_layer(gru_reset_before(I, H)),
        "GRU",
        {"reset_after": False},
        checked("gru_reset_before", "Keras 3 GRU, reset_after=False", HOLES, 1e-9),
    ),
}

BOTH_WAYS = {
    "concatenate": Case(
        bidirectional(lstm(I, H), lstm(I, H)),
        "LSTM",
        {"merge_mode": "concat"},
        checked("bidirectional", "Keras 3 Bidirectional(LSTM), concat", HOLES, 1e-9),
    ),
    "sum": Case(
        bidirectional(lstm(I, H), lstm(I, H), merge="sum"),
        "LSTM",
        {"merge_mode": "sum"},
        checked("bidirectional", "Keras 3 Bidirectional(LSTM), sum", HOLES, 1e-9),
    ),
}

CONVOLUTIONAL = {
    f"{len(space)}D": Case(
        as_layer(conv_lstm(I, H, space=space, kernel_size=3)),
        f"ConvLSTM{len(space)}D",
        {"kernel_size": 3, "padding": "same", "recurrent_activation": "sigmoid", "data_format": "channels_last"},
        checked("conv_lstm", f"Keras 3 ConvLSTM{len(space)}D", WHAT, 1e-9),
        space,
    )
    for space in ((5,), (4, 3), (2, 4, 3))
}
SMOOTH = {"activation": jnp.sin, "recurrent_activation": jnp.tanh}
CONVOLUTIONAL["2D, valid"] = Case(
    as_layer(conv_lstm(I, H, space=(4, 3), padding="valid", activation=jnp.sin, gate_activation="tanh")),
    "ConvLSTM2D",
    CONVOLUTIONAL["2D"].options | SMOOTH | {"padding": "valid"},
    checked("conv_lstm", "Keras 3 ConvLSTM2D, valid padding, other activations", WHAT, 1e-9),
    (4, 3),
)


@pytest.fixture(scope="module")
def keras(tmp_path_factory) -> Any:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KERAS_BACKEND", "jax")
        environment.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))  # else it writes in the user's home
        return pytest.importorskip("keras", reason="keras is not installed: pip install -e .[peers]")


def lstm_from_keras(kernel, recurrent_kernel, bias) -> LSTMParams:
    """Gates i f c o along the last axis."""

    def ifog(W):
        i, f, g, o = jnp.split(W, 4, axis=-1)
        return jnp.concatenate([i, f, o, g], axis=-1)

    return LSTMParams(ifog(kernel), ifog(recurrent_kernel), ifog(bias))


def rzn(W):
    """Keras's gates z r h along the last axis as ours."""
    z, r, n = jnp.split(W, 3, axis=-1)
    return jnp.concatenate([r, z, n], axis=-1)


def gru_from_keras(kernel, recurrent_kernel, bias) -> GRUParams:
    """Only the candidate's second bias is not the same as the first."""
    b_rz, b_n = jnp.split(rzn(bias[1]), [2 * H])
    b_h = rzn(bias[0]) + jnp.concatenate([b_rz, jnp.zeros_like(b_n)])
    return GRUParams(rzn(kernel), rzn(recurrent_kernel), b_h, b_n)


FROM_KERAS: dict[type, Callable] = {
    LSTMParams: lstm_from_keras,
    ConvLSTMParams: lambda *W: ConvLSTMParams(*lstm_from_keras(*W)),
    GRUParams: gru_from_keras,
    GRUResetBeforeParams: lambda *W: GRUResetBeforeParams(*map(rzn, W)),
}


class Numbers(NamedTuple):
    """What goes in, and how what comes out is weighed in the loss; time leads."""

    weights: list[np.ndarray]
    """Three of each direction, in Keras's layout."""
    states: list[np.ndarray]
    """h_0, or h_0 and c_0 of each direction."""
    xs: np.ndarray
    weigh: list[np.ndarray]
    """Of the outputs, with zeros where they are not compared, and of each last state."""


def draw(case: Case, peer: Any, seen: np.ndarray) -> Numbers:
    """Random numbers of a layer's shapes; biases of zero would hide one in the wrong place.

    Args:
        case, peer: the same, of ours and of Keras.
        seen: ``(T, B)``, where outputs are compared.
    """
    normal = np.random.default_rng(0).standard_normal
    template = jax.eval_shape(lambda key: case.layer.start(case.layer.init(key), (B,)), jax.random.key(0))
    states = [normal(h.shape) for h in jax.tree.leaves(template)]
    xs = normal((*seen.shape, *case.space, I))
    channels = 2 * H if case.options.get("merge_mode") == "concat" else H
    weigh_ys = normal((*seen.shape, *states[0].shape[1:-1], channels)) * np.expand_dims(seen, tuple(range(2, xs.ndim)))
    weights = [0.6 * normal(W.shape) for W in peer.trainable_variables]
    return Numbers(weights, states, xs, [weigh_ys, *(normal(h.shape) for h in states)])


def differentiate(run: Callable, numbers: Numbers):
    """Loss, outputs, last states, and gradients with respect to weights, states and inputs."""

    def loss(weights, states, xs):
        ys, *last = run(weights, states, xs)
        total = sum(jnp.sum(w * a) for w, a in zip(numbers.weigh, (ys, *last), strict=True))
        return total, (jnp.where(numbers.weigh[0] != 0, ys, 0.0), last)

    run_once = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    return jax.tree.map(np.asarray, run_once(*jax.tree.map(jnp.asarray, numbers[:3])))


def ours(layer: Layer, numbers: Numbers, mask: np.ndarray | None):
    """``differentiate`` of a layer of ours."""
    blank = jax.eval_shape(layer.init, jax.random.key(0))
    runs, shape = jax.tree.flatten(blank, is_leaf=lambda node: hasattr(node, "W_xh"))

    def run(weights, states, xs):
        params = shape.unflatten([FROM_KERAS[type(run)](*weights[3 * k : 3 * k + 3]) for k, run in enumerate(runs)])
        h0 = jax.tree.structure(layer.start(params)).unflatten(states)
        h_T, ys = layer.apply(params, h0, xs, mask=None if mask is None else jnp.asarray(mask))
        return ys, *jax.tree.leaves(h_T)

    return differentiate(run, numbers)


def theirs(peer: Any, numbers: Numbers, mask: np.ndarray | None):
    """``differentiate`` of a layer of Keras, whose batch leads."""
    fixed = [variable.value for variable in peer.non_trainable_variables]

    def run(weights, states, xs):
        (ys, *last), _ = peer.stateless_call(
            weights, fixed, jnp.swapaxes(xs, 0, 1), initial_state=states, mask=None if mask is None else mask.T
        )
        return jnp.swapaxes(ys, 0, 1), *last

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return differentiate(run, numbers)


def build(keras: Any, case: Case, T: int) -> Any:
    """The layer of Keras."""
    options = case.options | dict.fromkeys(("return_sequences", "return_state"), True) | {"dtype": "float64"}
    options |= dict.fromkeys(("kernel_initializer", "recurrent_initializer"), "zeros")  # quick; ``draw`` makes others
    merge_mode = options.pop("merge_mode", None)
    peer = getattr(keras.layers, case.peer)(H, **options)
    if merge_mode:
        peer = keras.layers.Bidirectional(peer, merge_mode=merge_mode, dtype="float64")
    for way in [peer.forward_layer, peer.backward_layer] if merge_mode else [peer]:
        way.cell.activation = case.options.get("activation", jnp.tanh)  # that of Keras 3.15 casts float64 to float32
    peer.build((B, T, *case.space, I))
    return peer


def assert_masked_runs_equal(keras: Any, case: Case, seen: np.ndarray) -> None:
    """Ours with NaN, theirs with numbers where the mask is False; outputs are compared where they are seen."""
    peer = build(keras, case, len(MASK))
    numbers = draw(case, peer, seen)
    holes = numbers._replace(xs=np.where(MASK[..., None], numbers.xs, np.nan))
    mine, yours = ours(case.layer, holes, MASK), theirs(peer, numbers, MASK)
    chex.assert_trees_all_close(mine, yours, rtol=case.tolerance, atol=case.tolerance)
    _, (_, _, by_xs) = mine
    assert not by_xs[~MASK].any()


@pytest.mark.parametrize("case", MASKED.values(), ids=MASKED)
def test_cells_hold_their_state_over_holes_of_a_mask_as_keras_does(keras, case):
    assert_masked_runs_equal(keras, case, seen=np.ones_like(MASK))


@pytest.mark.parametrize("case", BOTH_WAYS.values(), ids=BOTH_WAYS)
def test_bidirectional_lstms_under_a_mask_equal_those_of_keras(keras, case):
    assert_masked_runs_equal(keras, case, seen=MASK)  # at masked steps Keras gives zeros, ours what is held


@pytest.mark.parametrize("case", CONVOLUTIONAL.values(), ids=CONVOLUTIONAL)
def test_convolutional_lstms_equal_those_of_keras(keras, case):
    T = 3
    peer = build(keras, case, T)
    numbers = draw(case, peer, seen=np.ones((T, B), bool))
    mine, yours = ours(case.layer, numbers, None), theirs(peer, numbers, None)
    chex.assert_trees_all_close(mine, yours, rtol=case.tolerance, atol=case.tolerance)
