"""Whole sequences in, whole sequences out: what sees the future too, and so is no cell."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from rnn_jax.cells.affine import affine
from rnn_jax.combinators import name_of, read_by
from rnn_jax.initializers import scaled_normal, zeros
from rnn_jax.keys import feed, require_draws, unkey
from rnn_jax.machinery.factories import factory
from rnn_jax.schedules.driver import rollout
from rnn_jax.types import Cell, Initializer, Params, Start, State, require_cell


class Rollout(Protocol):
    """Runs a layer: ``(params, h0, xs, **marks) -> (h_T, hs)``, as ``rollout`` does a cell."""

    def __call__(self, params: Params, h0: State, xs: PyTree, **marks: Any) -> tuple[State, State]:
        """Marks are those of ``rollout``: mask, lengths, resets, cuts, schedule."""
        ...


class Layer(NamedTuple):
    """A map from sequences to sequences, as four pure functions and a mark."""

    init: Callable[[PRNGKeyArray], Params]
    """``(key) -> params``."""
    start: Start
    """``(params, batch_shape=()) -> h0``."""
    rollout: Rollout
    """``(params, h0, xs, **marks) -> (h_T, hs)``: the last state, and every state with time leading."""
    output: Callable[[Params, State], PyTree]
    """``(params, h) -> y``: what is seen of states, of hs at every step; of h_T, each direction has read everything."""
    keyed: bool = False
    """A mark of layers that draw: xs may be ``keyed``. Given plain xs they take the mean."""

    def apply(self, params: Params, h0: State, xs: PyTree, **marks: Any) -> tuple[State, PyTree]:
        """Reads a sequence: ``(h_T, ys)`` with ``ys (T, *batch, O)``; marks are those of ``rollout``."""
        h_T, hs = self.rollout(params, h0, xs, **marks)
        return h_T, self.output(params, hs)


Merge = Callable[[Array, Array], Array]

MERGES: dict[str, Merge] = {
    "concatenate": lambda forward, backward: jnp.concatenate([forward, backward], axis=-1),
    "sum": jnp.add,
}


class BothWays(NamedTuple):
    """One thing for each direction: params, states."""

    forward: Any
    backward: Any


@factory
def causal(cell: Cell, *, reverse: bool = False) -> Layer:
    """A cell as a layer: its rollout and outputs, from the first step on or, reversed, from the last."""

    require_cell("cell", cell)

    def run(params: Params, h0: State, xs: PyTree, **marks: Any) -> tuple[State, State]:
        return rollout(cell, params, h0, xs, reverse=reverse, **marks)

    return Layer(cell.init, cell.start, run, cell.output, cell.keyed)


def as_layer(model: Cell | Layer) -> Layer:
    """A layer as it is, and a cell as the layer that reads from the first step on."""
    if not isinstance(model, Layer | Cell):
        raise ValueError(f"model got {type(model).__name__}; want a Cell, such as gru(3, 4) makes, or a Layer")
    return model if isinstance(model, Layer) else causal(model)


def require_layer(name: str, given: Any) -> None:
    """Raises a ValueError that names what stands in the place of a layer."""
    if not isinstance(given, Layer):
        raise ValueError(f"{name} got {type(given).__name__}; want a Layer: causal(cell) makes one of a cell")


@factory
def bidirectional(forward: Cell, backward: Cell, *, merge: str | Merge = "concatenate") -> Layer:
    """One cell reads from the first step on, another from the last, and both are seen at every step.

    y_t = merge(forward's y_t of x_1 … x_t, backward's y_t of x_t … x_T)

    With lengths or a mask, backward begins at each example's own last step; resets and cuts part both directions at
    the same borders. Params and states are ``BothWays``; ``h_T.backward`` has seen the whole sequence down to x_1.
    Cells that draw, in both directions or in one, draw from a stream of their own.

    Args:
        forward, backward: any two cells that take the same inputs.
        merge: ``"concatenate"``, ``"sum"``, or any function ``(forward_ys, backward_ys) -> ys``.

    Raises:
        ValueError: for an unknown merge.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import bidirectional, gru, lstm
    >>> layer = bidirectional(lstm(input_size=3, hidden_size=4), gru(input_size=3, hidden_size=5))
    >>> params = layer.init(jax.random.key(0))
    >>> h_T, ys = layer.apply(params, layer.start(params, (2,)), jnp.ones((7, 2, 3)), lengths=jnp.array([7, 4]))
    >>> ys.shape
    (7, 2, 9)

    Reference: Schuster, Paliwal. Bidirectional recurrent neural networks. 1997.
    """
    if not callable(merge) and merge not in MERGES:
        raise ValueError(f"merge got {merge!r}; want one of {', '.join(MERGES)}, or any function of two sequences")
    join = merge if callable(merge) else MERGES[merge]
    for name, cell in {"forward": forward, "backward": backward}.items():
        require_cell(name, cell)
    ways = BothWays(causal(forward), causal(backward, reverse=True))
    draws = forward.keyed or backward.keyed

    def init(key: PRNGKeyArray) -> BothWays:
        return BothWays(*(way.init(k) for way, k in zip(ways, jax.random.split(key), strict=True)))

    def start(params: BothWays, batch_shape: tuple[int, ...] = ()) -> BothWays:
        return BothWays(*(way.start(p, batch_shape) for way, p in zip(ways, params, strict=True)))

    def run(params: BothWays, h0: BothWays, xs: PyTree, **marks: Any) -> tuple[BothWays, BothWays]:
        x, key = unkey(xs)
        require_draws(draws, "xs", key)
        there, back = (
            way.rollout(p, h, feed(way, x, key, stream), **marks)
            for stream, (way, p, h) in enumerate(zip(ways, params, h0, strict=True))
        )
        return BothWays(there[0], back[0]), BothWays(there[1], back[1])

    def output(params: BothWays, h: BothWays) -> PyTree:
        return join(*(way.output(p, h) for way, p, h in zip(ways, params, h, strict=True)))

    return Layer(init, start, run, output, draws)


@factory
def stack_layers(*layers: Layer) -> Layer:
    """One layer on top of another: each sees the whole sequence that the one below has made.

    Params and states are tuples, from the bottom up. Layers that draw draw from a stream of their own. For cells that
    read in one direction ``stack`` makes a cell.

    Args:
        layers: from the bottom up, at least one.

    Raises:
        ValueError: when there is none, or, where it is applied, one that does not take what the one below makes.

    Example: a bidirectional network two layers deep.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import bidirectional, lstm, stack_layers
    >>> deep = stack_layers(bidirectional(lstm(3, 4), lstm(3, 4)), bidirectional(lstm(8, 4), lstm(8, 4)))
    >>> params = deep.init(jax.random.key(0))
    >>> _, ys = deep.apply(params, deep.start(params), jnp.ones((7, 3)))
    >>> ys.shape
    (7, 8)

    Reference: Graves, Mohamed, Hinton. Speech recognition with deep recurrent neural networks. 2013.
    """
    if not layers:
        raise ValueError("stack_layers got no layer; want at least one, from the bottom up")
    for number, layer in enumerate(layers):
        require_layer(f"layer {number} of stack_layers", layer)
    draws = any(layer.keyed for layer in layers)

    def init(key: PRNGKeyArray) -> tuple[Params, ...]:
        return tuple(layer.init(k) for layer, k in zip(layers, jax.random.split(key, len(layers)), strict=True))

    def start(params: tuple[Params, ...], batch_shape: tuple[int, ...] = ()) -> tuple[State, ...]:
        return tuple(layer.start(p, batch_shape) for layer, p in zip(layers, params, strict=True))

    def run(
        params: tuple[Params, ...], h0: tuple[State, ...], xs: PyTree, **marks: Any
    ) -> tuple[tuple[State, ...], tuple[State, ...]]:
        below, key = unkey(xs)
        require_draws(draws, "xs", key)
        ends, states = [], []
        for number, (layer, p, h) in enumerate(zip(layers, params, h0, strict=True)):
            if number:
                below = layers[number - 1].output(params[number - 1], states[-1])
            try:
                h_T, hs = layer.rollout(p, h, feed(layer, below, key, number), **marks)
            except ValueError as error:
                raise ValueError(f"layer {number} of stack_layers ({name_of(p)}): {error}") from error
            ends.append(h_T)
            states.append(hs)
        return tuple(ends), tuple(states)

    return Layer(init, start, run, output=lambda params, h: layers[-1].output(params[-1], h[-1]), keyed=draws)


@factory
def readout_layer(
    layer: Layer,
    output_size: int,
    *,
    weight_init: Initializer = scaled_normal(),
    bias_init: Initializer = zeros,
) -> Layer:
    """Reads a layer through a linear one: y_t = W_hy h_t + b_y; ``readout`` is that of a cell.

    Args:
        layer: whose outputs are one array ``(T, *batch, H)``.
        output_size: O, for example the number of classes.
        weight_init, bias_init: how ``W_hy (H, O)`` and ``b_y (O,)`` begin.

    Raises:
        ValueError: for an output_size below 1.

    Example: a classifier that reads in both directions.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import bidirectional, gru, many_to_one, readout_layer
    >>> model = readout_layer(bidirectional(gru(26, 8), gru(26, 8)), output_size=12)
    >>> params = model.init(jax.random.key(0))
    >>> word = jnp.array([7, 4, 11, 11, 14])
    >>> many_to_one(model, params, model.start(params), word).shape
    (12,)
    """

    require_layer("layer", layer)
    return Layer(
        init=read_by(layer, output_size, weight_init, bias_init),
        start=lambda params, batch_shape=(): layer.start(params.cell, batch_shape),
        rollout=lambda params, h0, xs, **marks: layer.rollout(params.cell, h0, xs, **marks),
        output=lambda params, h: affine(layer.output(params.cell, h), params.W_hy, params.b_y),
        keyed=layer.keyed,
    )
