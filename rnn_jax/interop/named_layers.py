"""Recurrent layers of another library by the paths of their modules: their order, and whether they fit together."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from rnn_jax.interop.models import Network, Part, put_together, taken_apart, uncoupled
from rnn_jax.layers import Model
from rnn_jax.types import Params

__all__ = ["Layers", "in_order", "listed", "model_of_layers", "network_for", "numbered"]


class Layers(NamedTuple):
    """What was found in the weights of another library."""

    recurrent: list[tuple[str, tuple[Part, ...]]]
    """From the bottom up: a path for error messages, and one or two directions."""
    embedding: tuple[str, Float[np.ndarray, "V E"]] | None = None
    readout: tuple[str, tuple[Float[np.ndarray, "H O"], Float[np.ndarray, " O"]]] | None = None


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
        raise ValueError(f"{name} got the recurrent modules {listed(paths)}; want numbers in their names, or their "
                         "order from the bottom up as layers")  # fmt: skip
    return ordered


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
    return put_together(Network(tuple(layer for _, layer in layers), merge, embedding, readout))


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
        model, params: as in ``taken_apart``.
        cells: names of the cells that it has.
        missing: why it has not the others, as "want …".
        both_ways: whether it has bidirectional layers.

    Raises:
        ValueError: for cells or layers that it does not have, with the reason.
    """
    network = taken_apart(model, params, library)
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
                raise ValueError(f"model got {part.name}; {missing[part.name]}")
    return network._replace(layers=layers)


def listed(names: Iterable[Any]) -> str:
    """Names in a message, at most five."""
    names = [*map(str, names)]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
