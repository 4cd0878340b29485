"""Live layers of Keras, as groups of arrays with what is known of each."""

import itertools
from typing import Any, NamedTuple

import numpy as np

from rnn_jax.interop.keras_files import keras_library
from rnn_jax.interop.weight_files import array_of

__all__ = ["MERGES", "Chain", "Group", "chain_of_model", "gives_last_step", "to_logits"]

MERGES = {"concat": "concatenate", "sum": "sum"}
"""How a ``Bidirectional`` layer merges its directions, in the words of Keras and in ours."""
WITHOUT_WEIGHTS = ("InputLayer", "Dropout", "SpatialDropout1D", "GaussianNoise", "ActivityRegularization")
"""Layers that change nothing when no network is trained."""
CELL_CLASSES = ("SimpleRNNCell", "GRUCell", "LSTMCell")
ARRAYS = "give from_keras the arrays, {w.path: w for w in model.weights}"


class Group(NamedTuple):
    """The arrays of one part of Keras."""

    path: str
    """Of the part: that of its arrays without their last name."""
    arrays: dict[str, np.ndarray]
    """By their last name, such as ``kernel``."""
    options: dict[str, Any]
    """``activation``, ``gate_activation`` and ``reset_after``, as far as they are known."""


class Chain(NamedTuple):
    """The layers of a live model, from the bottom up."""

    layers: list[tuple[Group, ...]]
    """An embedding, a dense layer, or a recurrent layer of one or two directions."""
    merge: str


def chain_of_model(live: Any) -> Chain:
    """The layers of a live layer or model of Keras.

    Raises:
        ValueError: for a layer that has no counterpart, for layers that are no chain or have no weights yet.
    """
    keras = keras_library()
    if not isinstance(live, keras.layers.Layer):
        got = f"{type(live).__name__}"
        wanted = "arrays by path, such as {w.path: w for w in model.weights}, a path of a file, or a model of Keras"
        raise ValueError(f"source got {got}; want {wanted}")
    layers, merges = [], set()
    for layer in layers_in_order(keras, live):
        groups, merge = groups_of_layer(layer)
        layers += groups
        merges |= {merge} - {None}
    if len(merges) > 1:
        raise ValueError(f"model got layers with the merges {', '.join(sorted(merges))}; want one of them")
    return Chain(layers, merges.pop() if merges else "concatenate")


def gives_last_step(live: Any) -> bool:
    """Whether a model that ``chain_of_model`` takes gives the output of the last step alone.

    Raises:
        ValueError: for the last states of two directions, which are no step of a model; for several outputs.
    """
    if len(getattr(live, "outputs", None) or [live]) > 1:
        raise ValueError(f"file got {len(live.outputs)} outputs; want one")
    tops = [layer for layer in layers_in_order(keras_library(), live) if hasattr(layer, "return_sequences")]
    if not tops:  # a cell
        return False
    top = tops[-1]
    if not top.return_sequences and type(top).__name__ == "Bidirectional":
        raise ValueError(
            f"file got {top.name}, which gives the last states of two directions, which are no step of a model; want "
            "return_sequences=True"
        )
    return not top.return_sequences


def to_logits(live: Any) -> str:
    """The softmax or the sigmoid at the end of a live model in words, "softmax of dense"; it is taken off the model.

    The text is empty where there is none.
    """
    keras, taken = keras_library(), []
    for layer in reversed(layers_in_order(keras, live) if isinstance(live, keras.Model) else []):
        inner = layer.layer if type(layer).__name__ == "TimeDistributed" else layer
        if type(inner).__name__ not in ("Dense", "Activation"):
            break
        if name_of(inner.activation) in ("softmax", "sigmoid"):
            taken.append(f"{name_of(inner.activation)} of {inner.name}")
            inner.activation = keras.activations.linear
        if taken or type(inner).__name__ == "Dense":
            break
    return "".join(taken)


def layers_in_order(keras: Any, live: Any) -> list[Any]:
    """The layers with weights of a layer or model, from the bottom up; a ValueError unless they are a chain."""
    if not isinstance(live, keras.Model):
        chain = [live]
    elif isinstance(live, keras.Sequential):
        chain = [inner for layer in live.layers for inner in layers_in_order(keras, layer)]
    elif all(base.__name__ != "Functional" for base in type(live).__mro__):
        raise ValueError(f"model got {type(live).__name__}, a model of your own class; want arrays by path")
    else:
        chain = live.layers
        for below, layer in itertools.pairwise(chain):
            if getattr(layer, "input", None) is not below.output:
                raise ValueError(
                    f"model got {layer.name}, which reads more than {below.name}; want one layer after the other"
                )
    return [layer for layer in chain if type(layer).__name__ not in WITHOUT_WEIGHTS]


def groups_of_layer(layer: Any) -> tuple[list[tuple[Group, ...]], str | None]:
    """The groups of each layer of ours in a layer of Keras, and how its directions are merged."""
    kind, name = type(layer).__name__, layer.name
    if not type(layer).__module__.startswith("keras."):
        raise ValueError(f"model got {name}, a layer of your own ({kind}); want layers of Keras, or arrays by path")
    if not layer.built:
        raise ValueError(f"model got {name} without weights; want it built, such as by calling it once")
    if kind == "Embedding":
        require(name, mask_zero=(layer.mask_zero, False, f"{ARRAYS}, and call apply with mask=ids != 0"))
        return [(group_of(layer, "embeddings"),)], None
    if kind == "TimeDistributed":
        return groups_of_layer(layer.layer)
    if kind == "Dense":
        require_linear(layer)
        return [(group_of(layer, "kernel", "bias"),)], None
    if kind == "Activation":
        require_linear(layer)
        return [], None
    if kind == "Bidirectional":
        if layer.merge_mode not in MERGES:
            raise ValueError(f"merge_mode got {layer.merge_mode!r} in {name}; want {' or '.join(MERGES)}")
        ways = [cells_of(way) for way in (layer.forward_layer, layer.backward_layer)]
        if any(len(cells) > 1 for cells in ways):
            raise ValueError(f"model got {name} with several cells in a direction; want one")
        return [tuple(recurrent_group(cells[0]) for cells in ways)], MERGES[layer.merge_mode]
    if kind in ("SimpleRNN", "GRU", "LSTM", "RNN"):
        require(name, go_backwards=(layer.go_backwards, False, "Keras returns its outputs in reverse"))
    elif kind not in CELL_CLASSES:
        raise ValueError(f"model got {name}, a {kind}; want recurrent layers, Embedding and Dense, or arrays by path")
    return [(recurrent_group(cell),) for cell in cells_of(layer)], None


def require(layer: str, **options: tuple[Any, Any, str]) -> None:
    """Raises a ValueError that names the first option ``(value, wanted, why)`` with another value."""
    for name, (value, wanted, why) in options.items():
        if value != wanted:
            raise ValueError(f"{name} got {value!r} in {layer}; want {wanted!r}: {why}")


def require_linear(layer: Any) -> None:
    """Raises a ValueError for a layer with an activation, which a readout has not."""
    phi = name_of(layer.activation)
    require(layer.name, activation=(phi, "linear", f"{ARRAYS}, whose model has the outputs before {phi}"))


def name_of(activation: Any) -> str | None:
    """The name of an activation, or the class of a layer that is used as one."""
    return None if activation is None else getattr(activation, "__name__", type(activation).__name__)


def cells_of(layer: Any) -> list[Any]:
    """The cells of a recurrent layer, from the bottom up."""
    cell = getattr(layer, "cell", layer)
    cells = getattr(cell, "cells", [cell])
    for cell in cells:
        if type(cell).__name__ not in CELL_CLASSES or not type(cell).__module__.startswith("keras."):
            raise ValueError(f"model got the cell {type(cell).__name__}; want {', '.join(CELL_CLASSES)}")
    return [*cells]


def recurrent_group(cell: Any) -> Group:
    """The group of a cell, with its activations."""
    options = {
        "activation": name_of(cell.activation),
        "gate_activation": name_of(getattr(cell, "recurrent_activation", None)),
        "reset_after": getattr(cell, "reset_after", None),
    }
    return group_of(cell, "kernel", "recurrent_kernel", "bias")._replace(options=options)


def group_of(layer: Any, *names: str) -> Group:
    """The arrays of a part, those of these names that it has."""
    found = {name: getattr(layer, name, None) for name in names}
    path = getattr(layer, "path", layer.name)
    return Group(path, {n: array_of(f"{path}/{n}", v) for n, v in found.items() if v is not None}, {})
