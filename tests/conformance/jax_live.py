"""JAX's own LSTM, ``jax.experimental.rnn.lstm_ref``, live, in float64: layers, directions, ragged lengths."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import bidirectional, lstm, stack
from rnn_jax.cells import LSTMParams
from rnn_jax.layers import as_layer
from tests.conformance.cases import Case, Suite, gates, peer
from tests.conformance.jax_peers import LENGTHS, B, H, I, Peer, compared

NAME = "jax.experimental.rnn, live"


def theirs(layers: int, both: bool) -> Any:
    """Its function, whose batch leads; weights of each layer and direction are (W_ih, W_hh, b_ih, b_hh)."""

    def run(weights: Any, states: Any, xs: Any) -> Any:
        columns = [dict(enumerate(column)) for column in zip(*weights, strict=True)]
        ys, h, c = peer("jax.experimental.rnn").lstm_ref(
            xs.swapaxes(0, 1), *states, *columns, jnp.asarray(LENGTHS), I, H, layers, 0.0, both
        )
        return ys.swapaxes(0, 1), (h, c)

    return run


def ours(layers: int, both: bool) -> Any:
    """A stack of LSTMs, or of LSTMs of both directions; gates i f g o along the first axis."""
    ways = 2 if both else 1
    cells = [lstm(I if number == 0 else ways * H, H) for number in range(layers)]
    layer = as_layer(stack(*(bidirectional(cell, cell) if both else cell for cell in cells)))

    def run(weights: Any, states: Any, xs: Any) -> Any:
        found = [
            LSTMParams(*(gates(a.T, "ifgo", "ifog") for a in (W_ih, W_hh, b_ih + b_hh)))
            for W_ih, W_hh, b_ih, b_hh in weights
        ]
        blank = jax.eval_shape(layer.init, jax.random.key(0))
        params = jax.tree.structure(blank, is_leaf=lambda node: isinstance(node, LSTMParams)).unflatten(found)
        pairs = [a for pair in zip(*states, strict=True) for a in pair]  # h and c of each layer and direction
        h_T, ys = layer.apply(params, jax.tree.structure(layer.start(params)).unflatten(pairs), xs, lengths=LENGTHS)
        leaves = jax.tree.leaves(h_T)
        return ys, (jnp.stack(leaves[::2]), jnp.stack(leaves[1::2]))

    return run


def cases() -> Iterator[Case]:
    """One and two layers, one and both directions."""
    for seed, (layers, both) in enumerate(((2, False), (1, True), (2, True))):
        ways = 2 if both else 1
        sizes = [I if number < ways else ways * H for number in range(layers * ways)]
        weights = [[np.zeros(s) for s in ((4 * H, size), (4 * H, H), (4 * H,), (4 * H,))] for size in sizes]
        states = tuple(np.zeros((layers * ways, B, H)) for _ in range(2))
        name = f"{layers} layers, {ways} ways"
        yield from compared(
            NAME, Peer(name, weights, states, theirs(layers, both), ours(layers, both), lengths=LENGTHS), seed
        )


SUITE = Suite(
    NAME,
    "JAX, `jax.experimental.rnn.lstm_ref`",
    "outputs, last states and all gradients, float64: layers, directions, ragged lengths",
    cases,
    cells=("lstm", "stack", "bidirectional"),
)
