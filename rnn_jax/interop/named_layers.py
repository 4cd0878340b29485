"""Recurrent layers of another library by the paths of their modules: their order, and whether they fit together."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from rnn_jax.interop.models import Network, Part, model_of_network, network_of_model, uncoupled
from rnn_jax.layers import Model
from rnn_jax.machinery.checks import in_one_line
from rnn_jax.types import Params

__all__ = [
    "Layers",
    "Linear",
    "given_order",
    "in_order",
    "linear_places",
    "listed",
    "model_of_layers",
    "network_for",
    "numbered",
    "option_of_layers",
    "ordered_paths",
]

ABSENT = {
    "projected_lstm": "has no projection",
    "peephole_lstm": "has no peepholes",
    "clipped_lstm": "clips nothing",
    "general_lstm": "has no other option",
}
"""What the LSTM of most libraries has not."""
HEADS = ("readout", "head", "lm_head", "output", "classifier", "decoder")
"""Names of a linear layer that only a readout has; those of an embedding begin with "emb"."""
USUAL_HEADS = ("fc", "out", "dense", "linear", "logits", "output_layer")
"""Names of a linear layer that is a readout where nothing else tells: neither shapes, nor numbers, nor an order."""


class Layers(NamedTuple):
    """What was found in the weights of another library."""

    recurrent: list[tuple[str, tuple[Part, ...]]]
    """From the bottom up: a path for error messages, and one or two directions."""
    embedding: tuple[str, Float[np.ndarray, "V E"]] | None = None
    readout: tuple[str, tuple[Float[np.ndarray, "H O"], Float[np.ndarray, " O"]]] | None = None


class Linear(NamedTuple):
    """The arrays of a module beside the recurrent ones: an embedding, or a linear layer ``W x + b``."""

    weight: Float[np.ndarray, "O I"]
    bias: Float[np.ndarray, " O"] | None = None
    kind: str | None = None
    """``"embedding"`` or ``"linear"``, where the library tells."""


def numbered(paths: Iterable[str]) -> list[str] | None:
    """Paths in the order of their numbers, or None where they differ in more than numbers.

    >>> numbered(["layers_10/cell", "layers_2/cell"]), numbered(["lstm_1", "lstm"]), numbered(["encoder", "decoder"])
    (['layers_2/cell', 'layers_10/cell'], ['lstm', 'lstm_1'], None)
    """

    def components(path: str) -> list[tuple[str, int]]:
        found = (re.fullmatch(r"(.*?)_?(\d*)", component) for component in re.split(r"[/.]", path))
        return [(match[1], int(match[2] or -1)) for match in found if match]

    ordered = sorted(paths, key=components)
    for pair in itertools.pairwise(map(components, ordered)):
        differ = [(a, b) for a, b in zip(*pair, strict=False) if a != b]
        if not differ or differ[0][0][0] != differ[0][1][0]:
            return None
    return ordered


def in_order(name: str, paths: Iterable[str], layers: Sequence[str] | None) -> list[str]:
    """The paths of recurrent modules from the bottom up, by their numbers, or as they are given.

    Args:
        name: of the weights in error messages.
        paths: all that were found.
        layers: their order, where their names do not tell it.

    Raises:
        ValueError: for no paths, for paths without an order, or for others than those in ``layers``.
    """
    paths = [*paths]
    if not paths:
        raise ValueError(f"{name} got no recurrent cell; want the weights of at least one")
    if layers is not None:
        if sorted(layers) != sorted(paths):
            raise ValueError(f"layers got {listed(layers) or 'none'}; want {listed(paths)} in their order")
        return [*layers]
    ordered = numbered(paths)
    if ordered is None:
        shown = listed(path or "without a name" for path in paths)
        raise ValueError(f"{name} got the recurrent modules {shown}; want numbers in their names, or their "
                         "order from the bottom up as layers")  # fmt: skip
    return ordered


def ordered_paths(paths: list[str], order: list[str] | None, layers: Sequence[str] | None) -> list[str]:
    """Paths in their order: that in ``layers``, of their numbers, or as given; a ValueError where these two differ."""
    if layers is not None or order is None or len(paths) < 2:
        return in_order("source", paths, layers)
    given, by_number = [path for path in order if path in paths], numbered(paths)
    if by_number not in (None, given):
        raise ValueError(f"source got {listed(given)}, not in the order of their numbers; want their order as layers")
    return given


def given_order(names: Iterable[str]) -> list[str] | None:
    """Names as they are given, or None where they are sorted: files and ``jax.tree.map`` sort names, so no order.

    >>> given_order(["lstm/kernel", "gru/kernel"]), given_order(["gru/kernel", "lstm/kernel"])
    (['lstm/kernel', 'gru/kernel'], None)
    """
    names = [*names]
    return None if names == sorted(names) else names


def linear_places(
    name: str, linear: Mapping[str, Linear], recurrent: Sequence[str], sizes: tuple[int, int], order: list[str] | None
) -> dict[str, str]:
    """The paths of the embedding in front of recurrent modules and of the readout behind them, by these two words.

    Shapes tell what a module may be: an embedding, a readout, or a linear layer in front, for which there is no place.
    Where they leave a choice, numbers in the paths decide, then the names ``embedding`` and ``readout``, then the order
    of the weights, then the usual names of a readout.

    Args:
        name: of the weights in error messages.
        linear: the other modules by path.
        recurrent: the paths of the recurrent modules.
        sizes: I and H, inputs of the lowest recurrent layer and outputs of the top one.
        order: all paths as ``given_order`` returns them.

    Raises:
        ValueError: for shapes that do not fit, a linear layer in front, and where two places are possible.

    >>> W = np.ones((5, 4))
    >>> linear_places("weights", {"0": Linear(W), "2": Linear(np.ones((9, 3)))}, ["1"], (4, 3), None)
    {'embedding': '0', 'readout': '2'}
    """
    possible = {path: places_of(name, path, each, recurrent, sizes) for path, each in linear.items()}
    sure = {places[0] for places in possible.values() if len(places) == 1}
    for path, places in possible.items():
        square = linear[path].weight.shape == sizes[:1] * 2  # as one between an embedding and the cells would be
        taken = sure | ({"front"} if "embedding" in sure and not square else set())
        left = [place for place in places if place not in taken] if len(places) > 1 else places
        if order is not None and len(left) > 1:
            first = order.index(path) < min(map(order.index, recurrent))
            left = [place for place in left if (place == "readout") != first] or left
        elif order is None and "readout" in left and re.split(r"[/.]", path)[-1] in USUAL_HEADS:
            left = ["readout"]
        possible[path] = left
    if unclear := [path for path, places in possible.items() if len(places) != 1]:
        wanted = "the names embedding and readout where shapes do not tell what is in front and what behind"
        raise ValueError(f"{name} got the linear layers {listed(unclear)}; want {wanted}")
    place = {places[0]: path for path, places in possible.items()}
    if "front" in place:
        wanted = "an embedding there, or a readout behind, with this name"
        raise ValueError(f"{name} got a linear layer, {place['front']}, in front; want {wanted}")
    if len(place) < len(possible):
        raise ValueError(f"{name} got {listed(possible)}, of which two have one place; want an embedding, a readout")
    return dict(sorted(place.items()))


def places_of(name: str, path: str, each: Linear, recurrent: Sequence[str], sizes: tuple[int, int]) -> list[str]:
    """The places that a module may have: "embedding" and "front" before the recurrent modules, "readout" behind."""
    W, b = each.weight, each.bias
    fits = W.ndim == 2 and W.size > 0 and (b is None or b.shape == W.shape[:1])
    found = ["embedding"] if fits and b is None and W.shape[1] == sizes[0] and each.kind != "linear" else []
    found += ["front"] if fits and W.shape[0] == sizes[0] and each.kind != "embedding" else []
    found += ["readout"] if fits and W.shape[1] == sizes[1] and each.kind != "embedding" else []
    own = re.split(r"[/.]", path)[-1]
    if own.startswith("emb") and "embedding" in found:
        return ["embedding"]
    ordered = numbered([*recurrent, path])
    if ordered is not None and path not in (ordered[0], ordered[-1]):
        raise ValueError(f"{name} got {path} between recurrent modules; want recurrent modules alone there")
    if ordered is not None:
        found = [place for place in found if (place == "readout") == (ordered[-1] == path)]
    elif own in HEADS and "readout" in found:
        return ["readout"]
    if not found:
        shapes = f"{list(W.shape)}" if b is None else f"{list(W.shape)} and bias {list(b.shape)}"
        where = "" if ordered is None else " behind" if ordered[-1] == path else " in front"
        wanted = f"an embedding [V, {sizes[0]}] in front, or a readout [O, {sizes[1]}] behind"
        raise ValueError(f"{path or name} got {shapes}{where}; want {wanted}")
    return found


def option_of_layers(name: str, value: str | Sequence[str] | None, count: int, default: str) -> list[str]:
    """An option of each layer: one text for all of them, or a sequence of one a layer.

    >>> option_of_layers("activation", None, 2, "tanh"), option_of_layers("activation", ("relu", "tanh"), 2, "tanh")
    (['tanh', 'tanh'], ['relu', 'tanh'])
    """
    if value is None or isinstance(value, str):
        return [default if value is None else value] * count
    if not isinstance(value, Sequence) or len(value) != count or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{name} got {in_one_line(value)}; want one text, or a sequence of {count}, one a layer")
    return [*value]


def model_of_layers(name: str, found: Layers, merge: str = "concatenate") -> tuple[Model, Params]:
    """The model and the params of layers that fit together.

    Raises:
        ValueError: for arrays of several types, or sizes that do not fit.
    """
    layers = found.recurrent
    parts = [part for _, layer in layers for part in layer]
    arrays = [*jax.tree.leaves([part.params for part in parts])]
    arrays += [pair[1] for pair in (found.embedding,) if pair] + [*(found.readout[1] if found.readout else ())]
    types = sorted({str(array.dtype) for array in arrays})
    if len(types) > 1:
        raise ValueError(f"{name} got {' and '.join(types)}; want one floating type")
    if merge not in ("concatenate", "sum"):
        raise ValueError(f"merge got {merge!r}; want 'concatenate' or 'sum'")
    below = None if found.embedding is None else found.embedding[1].shape[1]
    for path, layer in layers:
        sizes = [part.params.W_xh.shape[0] for part in layer]
        if len({below or sizes[0], *sizes}) > 1:
            got = f"{path or name} got {' and '.join(map(str, sizes))} inputs"
            raise ValueError(f"{got}; want {below or 'equal numbers'}{', outputs of the layer below' if below else ''}")
        widths = [part.params.W_hh.shape[0] for part in layer]
        if merge == "sum" and len({*widths}) > 1:
            raise ValueError(
                f"{path or name} got {widths} units in its directions; want equal numbers, which are added"
            )
        below = widths[0] if merge == "sum" else sum(widths)
    if found.readout is not None and found.readout[1][0].shape[0] != below:
        raise ValueError(
            f"{found.readout[0]} got {found.readout[1][0].shape[0]} inputs; want {below}, outputs of the layer below"
        )
    embedding, readout = found.embedding and found.embedding[1], found.readout and found.readout[1]
    return model_of_network(Network(tuple(layer for _, layer in layers), merge, embedding, readout))


def network_for(
    library: str,
    model: Model,
    params: Params,
    cells: Iterable[str],
    missing: Mapping[str, str],
    both_ways: bool = False,
) -> Network:
    """The network of a model whose cells another library has.

    Args:
        library: its name.
        model, params: as in ``network_of_model``.
        cells: names of the cells that it has.
        missing: why it has not the others, as "want …", beside those in ``ABSENT``.
        both_ways: whether it has bidirectional layers.

    Raises:
        ValueError: for cells or layers that it does not have, with the reason.
    """
    network = network_of_model(model, params, library)
    layers = tuple(tuple(uncoupled(part) for part in layer) for layer in network.layers)
    for layer in layers:
        if len(layer) == 2 and not both_ways:
            raise ValueError(f"model got a bidirectional layer; want one direction: {library} has no other")
        if len(layer) == 1 and layer[0].reverse:
            wanted = "bidirectional" if both_ways else "one that reads forward"
            raise ValueError(f"model got a layer that only reads backward; want {wanted}: weights of {library} do not "
                             "tell a direction")  # fmt: skip
        for part in layer:
            if part.name not in cells:
                usual = f"want lstm: that of {library} {ABSENT.get(part.name, 'is another')}"
                raise ValueError(f"model got {part.name}; {missing.get(part.name, usual)}")
    return network._replace(layers=layers)


def listed(names: Iterable[Any]) -> str:
    """Names in a message, at most five."""
    names = [*map(str, names)]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
