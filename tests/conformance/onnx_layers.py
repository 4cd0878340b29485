"""Layers of ours that compute the LSTM, GRU and RNN nodes of ONNX, with the suites' own maps of weights.

ONNX reads X (T, B, I), W (D, G·H, I), R (D, G·H, H), B (D, 2·G·H), P (D, 3·H), initial states (D, B, H), where D counts
directions, and writes Y (T, D, B, H), Y_h and Y_c (D, B, H). Its gates are i o f c and z r h, its peepholes i o f.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np

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
from rnn_jax.layers import BothWays, Layer, as_layer
from tests.conformance.cases import gates

Feeds = dict[str, np.ndarray]

FUNCTIONS: dict[str, tuple[Any, tuple[float, ...]]] = {
    **{name: (name, ()) for name in ("sigmoid", "tanh", "relu", "softsign", "softplus")},
    "affine": (affine_activation, (1.0, 0.0)),
    "leakyrelu": (leaky_relu, (0.01,)),
    "thresholdedrelu": (thresholded_relu, (1.0,)),
    "scaledtanh": (scaled_tanh, (1.0, 1.0)),
    "hardsigmoid": (hard_sigmoid, (0.2, 0.5)),
    "elu": (elu, (1.0,)),
}
"""ONNX's activations: ours of a name, or a factory with its default numbers, α and β."""

DEFAULTS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}


def activations_of(op: str, attributes: dict[str, Any], directions: int) -> list[list[Any]]:
    """Our activations of each direction; α and β are listed for those alone that have one."""
    names = attributes.get("activations") or DEFAULTS[op] * directions
    alphas, betas = (iter(attributes.get(f"activation_{kind}", ())) for kind in ("alpha", "beta"))
    found = []
    for name in names:
        if name.lower() not in FUNCTIONS:
            raise ValueError(f"activations got {name!r}; want one of {', '.join(FUNCTIONS)}")
        function, numbers = FUNCTIONS[name.lower()]
        given = [next(row, number) for row, number in zip((alphas, betas), numbers, strict=False)]
        found.append(function(*given) if given else function)
    if "clip" in attributes:  # of the sums before every activation but that of the memory
        pairs = [(function, clipped(function, attributes["clip"])) for function in found]
        found = [f if op == "LSTM" and place % 3 == 2 else b for place, (f, b) in enumerate(pairs)]
    return np.array(found, object).reshape(directions, -1).tolist()


def turned(arrays: tuple[Any, ...], order: str, wanted: str) -> list[Any]:
    """Gates along the last axis, in our order."""
    return [gates(a.T, order, wanted) for a in arrays]


def lstm_of(sizes: tuple[int, int], weights: Any, P: Any, phi: list[Any], coupled: bool) -> tuple[Cell, Any]:
    """The LSTM of one direction: the plain one, that with peepholes, or that with coupled gates.

    Where gates are coupled, ONNX Runtime reads the weights of i: f = 1 − σ(a) = σ(−a).
    """
    gate, candidate, memory = phi
    options: Any = {"activation": candidate, "gate_activation": gate, "memory_activation": memory}
    if not coupled:
        params: Any = turned(weights, "iofc", "ifoc")
        if P is None:
            return lstm(*sizes, **options), LSTMParams(*params)
        return peephole_lstm(*sizes, **options), PeepholeLSTMParams(*params, w_ch=gates(P, "iof", "ifo"))
    pairs = [(-gates(a.T, "iofc", "i"), gates(a.T, "iofc", "oc")) for a in weights]
    params = [np.concatenate(pair, axis=-1) for pair in pairs]
    if P is None and phi == [*DEFAULTS["LSTM"]]:
        return cifg_lstm(*sizes), CIFGParams(*params)
    w_ch: Any = None if P is None else np.concatenate([-gates(P, "iof", "i"), gates(P, "iof", "o")])
    cell = general_lstm(*sizes, coupled=True, peepholes=P is not None, **options)
    return cell, GeneralLSTMParams(*params, w_ch=w_ch)


def one_way(op: str, attributes: dict[str, Any], W: Any, R: Any, bias: Any, P: Any, phi: Any) -> tuple[Cell, Any]:
    """The cell and the params of one direction."""
    sizes, (b_x, b_h) = (W.shape[-1], R.shape[-1]), np.split(bias, 2)
    both: Any = b_x + b_h
    if op == "LSTM":
        return lstm_of(sizes, (W, R, both), P, phi, bool(attributes.get("input_forget")))
    if op == "RNN":
        return vanilla(*sizes, activation=phi[0]), VanillaParams(W.T, R.T, both)
    options: Any = {"gate_activation": phi[0], "activation": phi[1]}
    W_xh, W_hh, b, b_n = *turned((W, R, both), "zrh", "rzh"), gates(b_h, "zrh", "h")
    if not attributes.get("linear_before_reset"):
        return gru_reset_before(*sizes, **options), GRUResetBeforeParams(W_xh, W_hh, b)
    b[-len(b_n) :] -= b_n
    return gru(*sizes, **options), GRUParams(W_xh, W_hh, b, b_n)


@cache
def compiled(layer: Layer) -> Callable[..., Any]:
    """``layer.apply``, compiled once for each shape."""
    return jax.jit(layer.apply)


def checked(layer: Layer) -> Callable[..., Any]:
    """``layer.apply`` outside ``jit``, where the values of lengths are checked."""
    return layer.apply


def ours(op: str, attributes: dict[str, Any], feeds: Feeds, program: Any = compiled) -> dict[str, np.ndarray]:
    """Y, Y_h and, of an LSTM, Y_c, as ONNX has them: zeros at padded steps, and after no steps at all."""
    X, R = feeds["X"], feeds["R"]
    (T, B, _), D, direction = X.shape, len(R), attributes.get("direction", "forward")
    bias, P = feeds.get("B", np.zeros((D, 2 * R.shape[1]))), feeds.get("P", [None] * D)
    phi = activations_of(op, attributes, D)
    ways = [one_way(op, attributes, *way) for way in zip(feeds["W"], R, bias, P, phi, strict=True)]
    cells, params = zip(*ways, strict=True)
    states = [feeds.get(each, np.zeros((D, B, R.shape[-1]))) for each in ("initial_h", "initial_c")]
    starts = [LSTMState(h, c) if op == "LSTM" else h for h, c in zip(*states, strict=True)]
    if direction == "bidirectional":
        layer, params, h0 = bidirectional(*cells), BothWays(*params), BothWays(*starts)
    else:
        layer, (params,), (h0,) = as_layer(*cells, reverse=direction == "reverse"), params, starts
    lengths = feeds.get("sequence_lens", np.full(B, T, np.int32))
    h_T, ys = program(layer)(params, h0, X, lengths=lengths)
    seen = np.arange(T)[:, None, None, None] < lengths[:, None]
    Y = np.where(seen, np.stack(np.split(np.asarray(ys), D, axis=-1), axis=1), 0)
    last = [
        np.stack(jax.tree.leaves(h_T)[part :: 2 if op == "LSTM" else 1]) for part in range(2 if op == "LSTM" else 1)
    ]
    emptied = [np.where(lengths[:, None] == 0, 0, a) for a in last]
    return {"Y": Y} | dict(zip(("Y_h", "Y_c"), emptied, strict=False))


__all__ = ["Feeds", "checked", "ours"]
