"""Keras 3 on JAX, live, in float64: outputs, last states, and the gradients of all that goes in.

Ours run on Keras's weights in Keras's layout, so that both are differentiated by the same arrays. Where the mask is
False ours read NaN, theirs a number, which must not matter.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import bidirectional, conv_lstm, gru, gru_reset_before, lstm, vanilla
from rnn_jax.cells import ConvLSTMParams, GRUParams, GRUResetBeforeParams, LSTMParams, VanillaParams
from rnn_jax.layers import Layer, as_layer
from tests.conformance.cases import DIRECTLY, Case, Suite, error_of, gates, peer
from tests.conformance.jax_peers import lenient

NAME = "Keras, live"
TOLERANCE = 1e-12
QUANTITIES = ("outputs", "last states", "gradients of weights", "gradients of states", "gradients of inputs")

B, I, H = 4, 2, 3
# (T, B): a whole sequence, a hole and an early end, a late beginning and a hole, and nothing
MASK = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]], bool).T


class Peer(NamedTuple):
    """A layer of ours, and what it is called in ``keras.layers``."""

    layer: Layer
    name: str
    options: dict[str, Any]
    space: tuple[int, ...] = ()
    masked: bool = True


SAME = {"kernel_size": 3, "padding": "same", "recurrent_activation": "sigmoid", "data_format": "channels_last"}

PEERS = {
    "tanh": Peer(as_layer(vanilla(I, H)), "SimpleRNN", {}),
    "lstm": Peer(as_layer(lstm(I, H)), "LSTM", {}),
    "lstm, hard sigmoid": Peer(
        as_layer(lstm(I, H, gate_activation="hard_sigmoid")), "LSTM", {"recurrent_activation": "hard_sigmoid"}
    ),
    "gru, reset after": Peer(as_layer(gru(I, H)), "GRU", {"reset_after": True}),
    "gru, reset before": Peer(as_layer(gru_reset_before(I, H)), "GRU", {"reset_after": False}),
    "gru, hard sigmoid": Peer(
        as_layer(gru(I, H, gate_activation="hard_sigmoid")), "GRU", {"recurrent_activation": "hard_sigmoid"}
    ),
    "two lstms, concatenated": Peer(bidirectional(lstm(I, H), lstm(I, H)), "LSTM", {"merge_mode": "concat"}),
    "two grus, added": Peer(bidirectional(gru(I, H), gru(I, H), merge="sum"), "GRU", {"merge_mode": "sum"}),
    "convolutional, 2D": Peer(as_layer(conv_lstm(I, H, space=(4, 3))), "ConvLSTM2D", SAME, (4, 3), False),
    "convolutional, 2D, valid, sin and tanh": Peer(
        as_layer(conv_lstm(I, H, space=(4, 3), padding="valid", activation=jnp.sin, gate_activation="tanh")),
        "ConvLSTM2D",
        SAME | {"padding": "valid", "activation": jnp.sin, "recurrent_activation": jnp.tanh},
        (4, 3),
        False,
    ),
}


def lstm_from_keras(kernel: Any, recurrent_kernel: Any, bias: Any) -> LSTMParams:
    return LSTMParams(*(gates(W, "ifgo", "ifog") for W in (kernel, recurrent_kernel, bias)))


def gru_from_keras(kernel: Any, recurrent_kernel: Any, bias: Any) -> GRUParams:
    """Gates z r h; of the second bias only the candidate's is not the same as the first."""
    first, (b_rz, b_n) = gates(bias[0], "zrn", "rzn"), jnp.split(gates(bias[1], "zrn", "rzn"), [2 * H])
    b_h = first + jnp.concatenate([b_rz, jnp.zeros_like(b_n)])
    return GRUParams(gates(kernel, "zrn", "rzn"), gates(recurrent_kernel, "zrn", "rzn"), b_h, b_n)


FROM_KERAS: dict[type, Callable] = {
    VanillaParams: VanillaParams,
    LSTMParams: lstm_from_keras,
    ConvLSTMParams: lambda *W: ConvLSTMParams(*lstm_from_keras(*W)),
    GRUParams: gru_from_keras,
    GRUResetBeforeParams: lambda *W: GRUResetBeforeParams(*(gates(a, "zrn", "rzn") for a in W)),
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


def draw(case: Peer, module: Any, seen: np.ndarray, draws: np.random.Generator) -> Numbers:
    """Random numbers of a layer's shapes; biases of zero would hide one in the wrong place."""
    normal = draws.standard_normal
    template = jax.eval_shape(lambda key: case.layer.start(case.layer.init(key), (B,)), jax.random.key(0))
    states = [normal(h.shape) for h in jax.tree.leaves(template)]
    valid = "valid" in str(case.options.values())
    outer = tuple(n - 2 if valid else n for n in case.space)
    channels = 2 * H if case.options.get("merge_mode") == "concat" else H
    weigh_ys = normal((*seen.shape, *outer, channels)) * np.expand_dims(seen, tuple(range(2, len(outer) + 3)))
    weights = [0.6 * normal(W.shape) for W in module.trainable_variables]
    return Numbers(
        weights, states, normal((*seen.shape, *case.space, I)), [weigh_ys, *map(normal, map(np.shape, states))]
    )


def quantities(run: Callable) -> Callable[[Numbers], Any]:
    """What ``QUANTITIES`` names, of a function (weights, states, xs) -> (ys, *last states); compiled."""

    def loss(weights: Any, states: Any, xs: Any, weigh: Any) -> Any:
        ys, *last = run(weights, states, xs)
        total = sum(jnp.sum(w * a) for w, a in zip(weigh, (ys, *last), strict=True))
        return total, (jnp.where(weigh[0] != 0, ys, 0.0), last)

    program = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))

    def measured(numbers: Numbers) -> Any:
        (_, (ys, last)), gradients = program(*jax.tree.map(jnp.asarray, numbers))
        return ys, last, *gradients

    return measured


def ours(layer: Layer, mask: np.ndarray | None) -> Callable[[Numbers], Any]:
    """The quantities of a layer of ours."""
    blank = jax.eval_shape(layer.init, jax.random.key(0))
    runs, shape = jax.tree.flatten(blank, is_leaf=lambda node: hasattr(node, "W_xh"))

    def run(weights: Any, states: Any, xs: Any) -> Any:
        params = shape.unflatten([FROM_KERAS[type(run)](*weights[3 * k : 3 * k + 3]) for k, run in enumerate(runs)])
        h0 = jax.tree.structure(layer.start(params)).unflatten(states)
        h_T, ys = layer.apply(params, h0, xs, mask=None if mask is None else jnp.asarray(mask))
        return ys, *jax.tree.leaves(h_T)

    return quantities(run)


def theirs(module: Any, mask: np.ndarray | None) -> Callable[[Numbers], Any]:
    """The quantities of a layer of Keras, whose batch leads."""
    fixed = [variable.value for variable in module.non_trainable_variables]

    def run(weights: Any, states: Any, xs: Any) -> Any:
        (ys, *last), _ = module.stateless_call(
            weights, fixed, jnp.swapaxes(xs, 0, 1), initial_state=states, mask=None if mask is None else mask.T
        )
        return jnp.swapaxes(ys, 0, 1), *last

    return quantities(run)


def build(case: Peer, T: int) -> Any:
    """The layer of Keras."""
    keras = peer("keras")
    options = case.options | dict.fromkeys(("return_sequences", "return_state"), True) | {"dtype": "float64"}
    options |= dict.fromkeys(("kernel_initializer", "recurrent_initializer"), "zeros")  # ``draw`` makes others
    merge_mode = options.pop("merge_mode", None)
    module = getattr(keras.layers, case.name)(H, **options)
    if merge_mode:
        module = keras.layers.Bidirectional(module, merge_mode=merge_mode, dtype="float64")
    for way in [module.forward_layer, module.backward_layer] if merge_mode else [module]:
        way.cell.activation = case.options.get("activation", jnp.tanh)  # that of Keras 3.15 casts float64 to float32
    module.build((B, T, *case.space, I))
    return module


def cases() -> Iterator[Case]:
    """The quantities of each layer, of two draws of all numbers.

    Bidirectional ones are compared where the mask is True, as Keras gives zeros elsewhere.
    """
    draws = np.random.default_rng(0)
    for title, case in PEERS.items():
        T = len(MASK) if case.masked else 3
        seen = MASK if case.masked and "merge_mode" in case.options else np.ones((T, B), bool)
        module, mask = build(case, T), MASK if case.masked else None
        mine, yours = ours(case.layer, mask), theirs(module, mask)
        for number in range(2):
            numbers = draw(case, module, seen, draws)
            holes = numbers._replace(xs=np.where(MASK[..., None], numbers.xs, np.nan)) if case.masked else numbers
            got = mine(holes)
            with lenient():
                wanted = yours(numbers)
            for what, a, exact in zip(QUANTITIES, got, wanted, strict=True):
                yield Case(NAME, f"{title}, {number}, {what}", DIRECTLY, error_of(a, exact), TOLERANCE)


def types_of_float64() -> dict[str, str]:
    """The types of the activations of a float64 array, by Keras."""
    activations = peer("keras").activations
    return {name: str(getattr(activations, name)(jnp.ones(1)).dtype) for name in ("tanh", "sigmoid")}


SUITE = Suite(
    NAME,
    "Keras 3 on JAX, `keras.layers`",
    "outputs, last states and all gradients, float64; masks with holes, an empty sequence, NaN in our padding",
    cases,
    ("keras",),
    cells=("vanilla", "gru", "gru_reset_before", "lstm", "conv_lstm", "bidirectional"),
)
