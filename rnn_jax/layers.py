"""Layers, which map whole sequences to whole sequences: both directions, and stacks of cells and layers."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from rnn_jax.combinators import field_of, nested_cell, params_name, require_one_array, stacked_cells
from rnn_jax.keys import require_draws, unkey, with_stream
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_arrays, repr_of_call
from rnn_jax.schedules.driver import rollout
from rnn_jax.types import Cell, Params, Start, State, require_cell

__all__ = ["BothWays", "Layer", "bidirectional", "stack"]


class Rollout(Protocol):
    """Runs a layer: ``(params, h0, xs, **flags) -> (h_T, hs)``, as ``rollout`` runs a cell."""

    def __call__(self, params: Params, h0: State, xs: PyTree, **flags: Any) -> tuple[State, State]:
        """Flags of the steps are those of ``rollout``: mask, lengths, resets, cuts; and its schedule."""
        ...


class Layer(NamedTuple):
    """A map from sequences to sequences, as four pure functions and a flag."""

    init: Callable[[PRNGKeyArray], Params]
    """``(key) -> params``."""
    start: Start
    """``(params, batch_shape=()) -> h0``."""
    rollout: Rollout
    """``(params, h0, xs, **flags) -> (h_T, hs)``: the last state, and every state with time leading."""
    output: Callable[[Params, State], PyTree]
    """``(params, h) -> y``: the output of states, of hs at every step; in h_T each direction has read everything."""
    keyed: bool = False
    """Whether the layer draws random numbers: xs may be ``keyed``. With plain xs it computes the mean."""

    __repr__ = repr_of_call

    def apply(self, params: Params, h0: State, xs: PyTree, **flags: Any) -> tuple[State, PyTree]:
        """The last state and the outputs, ``(h_T, ys)`` with ``ys (T, *batch, O)``; flags are those of ``rollout``."""
        h_T, hs = self.rollout(params, h0, xs, **flags)
        return h_T, self.output(params, hs)


Model = Cell | Layer
Merge = Callable[[Array, Array], Array]

MERGES: dict[str, Merge] = {
    "concatenate": lambda forward, backward: jnp.concatenate([forward, backward], axis=-1),
    "sum": jnp.add,
}


class BothWays(NamedTuple):
    """A pair for the two directions of a bidirectional layer: their params, or their states."""

    forward: Any
    backward: Any

    __repr__ = repr_of_arrays


def as_layer(model: Model, *, reverse: bool = False) -> Layer:
    """A layer unchanged, or a cell as a layer that reads from the first step on, or reversed, from the last.

    Raises:
        ValueError: when the model is neither.
    """
    require_model("model", model)
    return model if isinstance(model, Layer) else _layer_of_cell(model, reverse)


@factory
def _layer_of_cell(cell: Cell, reverse: bool) -> Layer:
    def run(params: Params, h0: State, xs: PyTree, **flags: Any) -> tuple[State, State]:
        return rollout(cell, params, h0, xs, reverse=reverse, **flags)

    return Layer(cell.init, cell.start, run, cell.output, cell.keyed)


def require_model(name: str, given: Any) -> None:
    """Raises a ValueError unless a value is a cell or a layer."""
    if not isinstance(given, Layer | Cell):
        raise ValueError(f"{name} got {type(given).__name__}; want a Cell, such as gru(3, 4) makes, or a Layer")


@overload
def nested(model: Cell, field: str = "cell") -> Cell: ...
@overload
def nested(model: Layer, field: str = "cell") -> Layer: ...
def nested(model: Model, field: str = "cell") -> Model:
    """``model`` with its params in a field of larger params: its functions take the larger params."""
    require_model("model", model)
    if isinstance(model, Cell):
        return nested_cell(model, field)

    def own(params: Params) -> Params:
        return field_of(params, field)

    return model._replace(
        start=lambda params, batch_shape=(): model.start(own(params), batch_shape),
        rollout=lambda params, h0, xs, **flags: model.rollout(own(params), h0, xs, **flags),
        output=lambda params, h: model.output(own(params), h),
    )


@factory
def bidirectional(forward: Cell, backward: Cell, *, merge: str | Merge = "concatenate") -> Layer:
    """A layer of two cells: one reads from the first step on, the other from the last step back.

    y_t = merge(forward's y_t of x_1 … x_t, backward's y_t of x_t … x_T)

    With lengths or a mask, backward begins at the last step of each example; resets and cuts separate both directions
    at the same borders. Params and states are ``BothWays``; ``h_T.backward`` has read the whole sequence down to x_1.
    Cells with dropout draw from a separate stream of random numbers in each direction.

    Args:
        forward, backward: any two cells that take the same inputs.
        merge: ``"concatenate"``, ``"sum"``, or any function ``(forward_ys, backward_ys) -> ys``.

    Raises:
        ValueError: for an unknown merge, or a value that is not a cell.

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
    merged = merge if callable(merge) else MERGES[merge]
    for name, cell in {"forward": forward, "backward": backward}.items():
        require_cell(name, cell)
    ways = BothWays(as_layer(forward), as_layer(backward, reverse=True))
    draws = forward.keyed or backward.keyed

    def init(key: PRNGKeyArray) -> BothWays:
        return BothWays(*(way.init(k) for way, k in zip(ways, jax.random.split(key), strict=True)))

    def start(params: BothWays, batch_shape: tuple[int, ...] = ()) -> BothWays:
        return BothWays(*(way.start(p, batch_shape) for way, p in zip(ways, params, strict=True)))

    def run(params: BothWays, h0: BothWays, xs: PyTree, **flags: Any) -> tuple[BothWays, BothWays]:
        x, key = unkey(xs)
        require_draws(draws, "xs", key)
        there, back = (
            way.rollout(p, h, with_stream(way, x, key, stream), **flags)
            for stream, (way, p, h) in enumerate(zip(ways, params, h0, strict=True))
        )
        return BothWays(there[0], back[0]), BothWays(there[1], back[1])

    def output(params: BothWays, h: BothWays) -> PyTree:
        ys = [way.output(p, h) for way, p, h in zip(ways, params, h, strict=True)]
        if not callable(merge):
            for y in ys:
                require_one_array("bidirectional", y)
        return merged(*ys)

    return Layer(init, start, run, output, draws)


@overload
def stack(*models: Cell) -> Cell: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def stack(*models: Model) -> Layer: ...
@factory
def stack(*models: Model) -> Model:
    """Cells or layers on top of each other: each reads the output of the one below.

    Cells alone become one cell, whose scan over time runs all of them at each step. With a layer among them the result
    is a layer: each part reads the whole sequence that the part below has computed, and cells read from the first step
    on. The values are the same. Params and state are tuples, from the bottom up, and the output is that of the top.
    Parts with dropout draw from separate streams of random numbers.

    Args:
        models: from the bottom up, at least one.

    Raises:
        ValueError: when there is none, or a part is neither a cell nor a layer; when a cell does not accept the output
            of the cell below it; where a stack with layers is applied, when a part does not accept the output below it.

    Example: two cells, and a bidirectional network two layers deep.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import bidirectional, gru, lstm, outputs, rollout, stack
    >>> cell = stack(lstm(input_size=3, hidden_size=8), gru(input_size=8, hidden_size=5))
    >>> params = cell.init(jax.random.key(0))
    >>> _, hs = rollout(cell, params, cell.start(params), jnp.ones((7, 3)))
    >>> outputs(cell, params, hs).shape
    (7, 5)
    >>> deep = stack(bidirectional(lstm(3, 4), lstm(3, 4)), bidirectional(lstm(8, 4), lstm(8, 4)))
    >>> params = deep.init(jax.random.key(0))
    >>> _, ys = deep.apply(params, deep.start(params), jnp.ones((7, 3)))
    >>> ys.shape
    (7, 8)

    Reference: Schmidhuber. Learning complex, extended sequences using the principle of history compression. 1992; El
    Hihi, Bengio. Hierarchical recurrent neural networks for long-term dependencies. 1995; of layers: Graves, Mohamed,
    Hinton. Speech recognition with deep recurrent neural networks. 2013.
    """
    if not models:
        raise ValueError("stack got no cell or layer; want at least one, from the bottom up")
    for number, model in enumerate(models):
        require_model(f"layer {number} of stack", model)
    cells = tuple(model for model in models if isinstance(model, Cell))
    return stacked_cells(cells) if len(cells) == len(models) else _stacked_layers(tuple(map(as_layer, models)))


def _stacked_layers(layers: tuple[Layer, ...]) -> Layer:
    """The layer that ``stack`` returns where there is a layer among its models."""
    draws = any(layer.keyed for layer in layers)

    def init(key: PRNGKeyArray) -> tuple[Params, ...]:
        return tuple(layer.init(k) for layer, k in zip(layers, jax.random.split(key, len(layers)), strict=True))

    def start(params: tuple[Params, ...], batch_shape: tuple[int, ...] = ()) -> tuple[State, ...]:
        return tuple(layer.start(p, batch_shape) for layer, p in zip(layers, params, strict=True))

    def run(
        params: tuple[Params, ...], h0: tuple[State, ...], xs: PyTree, **flags: Any
    ) -> tuple[tuple[State, ...], tuple[State, ...]]:
        below, key = unkey(xs)
        require_draws(draws, "xs", key)
        ends, states = [], []
        for number, (layer, p, h) in enumerate(zip(layers, params, h0, strict=True)):
            if number:
                below = layers[number - 1].output(params[number - 1], states[-1])
            try:
                h_T, hs = layer.rollout(p, h, with_stream(layer, below, key, number), **flags)
            except ValueError as error:
                raise ValueError(f"layer {number} of stack ({params_name(p)}): {error}") from error
            except (TypeError, AttributeError):
                require_one_array(f"layer {number - 1} of stack", below)
                raise
            ends.append(h_T)
            states.append(hs)
        return tuple(ends), tuple(states)

    return Layer(init, start, run, output=lambda params, h: layers[-1].output(params[-1], h[-1]), keyed=draws)
