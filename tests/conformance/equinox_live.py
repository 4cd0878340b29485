"""Equinox, live, in float64: its GRU and LSTM cells over a sequence."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import gru, lstm
from rnn_jax.cells import GRUParams, LSTMParams, LSTMState
from rnn_jax.layers import as_layer
from tests.conformance.cases import Case, Suite, gates, peer
from tests.conformance.jax_peers import B, H, I, Peer, compared

NAME = "Equinox, live"


def arrays_of(cell: Any) -> Any:
    """Its weights, those it has."""
    names = ("weight_ih", "weight_hh", "bias", "bias_n")
    return {name: getattr(cell, name) for name in names if getattr(cell, name, None) is not None}


def theirs(cell: Any) -> Any:
    """The scan of its cell over time, one example at a time."""
    tree_at = peer("equinox").tree_at

    def run(weights: Any, states: Any, xs: Any) -> Any:
        filled = tree_at(lambda cell: [getattr(cell, name) for name in weights], cell, [*weights.values()])

        def step(h: Any, x: Any) -> Any:
            h = jax.vmap(filled)(x, h)
            return h, h[0] if isinstance(h, tuple) else h

        last, ys = jax.lax.scan(step, states, xs)
        return ys, last

    return run


def run_gru(weights: Any, h: Any, xs: Any) -> Any:
    """Gates r z n along the first axis; its b_n is ours."""
    none = {"bias": jnp.zeros(3 * H), "bias_n": jnp.zeros(H)}
    w = none | weights
    params = GRUParams(w["weight_ih"].T, w["weight_hh"].T, w["bias"], w["bias_n"])
    last, ys = as_layer(gru(I, H)).apply(params, h, xs)
    return ys, last


def run_lstm(weights: Any, states: Any, xs: Any) -> Any:
    """Gates i f g o along the first axis."""
    w = {"bias": jnp.zeros(4 * H)} | weights
    params = LSTMParams(*(gates(w[name].T, "ifgo", "ifog") for name in ("weight_ih", "weight_hh", "bias")))
    last, ys = as_layer(lstm(I, H)).apply(params, LSTMState(*states), xs)
    return ys, tuple(last)


def cases() -> Iterator[Case]:
    """Both cells, with and without biases."""
    equinox, zeros = peer("equinox"), np.zeros((B, H))
    for seed, use_bias in enumerate((True, False)):
        options: Any = {"use_bias": use_bias, "key": jax.random.key(0)}
        for op, run, states in (("GRUCell", run_gru, zeros), ("LSTMCell", run_lstm, (zeros, zeros))):
            cell = getattr(equinox.nn, op)(I, H, **options)
            name = f"{op}, {'biases' if use_bias else 'no biases'}"
            yield from compared(NAME, Peer(name, arrays_of(cell), states, theirs(cell), run), seed)


SUITE = Suite(
    NAME,
    "Equinox, `nn.GRUCell`, `nn.LSTMCell`",
    "outputs, last states and all gradients, float64, with and without biases",
    cases,
    ("equinox",),
    cells=("gru", "lstm"),
)
