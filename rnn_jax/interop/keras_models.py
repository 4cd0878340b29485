"""Live models of Keras, and files of them, in and out."""

import itertools
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnn_jax.interop.keras_weights import KINDS, Group, checked_network, model_of_groups, to_keras
from rnn_jax.interop.models import Network, Part, gates_of
from rnn_jax.interop.weight_files import array_of, installed
from rnn_jax.lab.files import FilePath
from rnn_jax.layers import Model
from rnn_jax.types import Params

__all__ = ["from_keras_model", "keras_model"]

MERGES = {"concat": "concatenate", "sum": "sum"}
WITHOUT_WEIGHTS = ("InputLayer", "Dropout", "SpatialDropout1D")
"""Layers that change nothing when no network is trained."""
CELLS = ("SimpleRNNCell", "GRUCell", "LSTMCell")


def keras_library() -> Any:
    """Keras, on JAX unless it is imported already or the environment names another backend."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return installed("keras", "keras")


def from_keras_model(live: Any) -> tuple[Model, Params]:
    """The model and the params of a live layer or model of Keras, or of a ``.keras`` or ``.h5`` file of one.

    It may be an ``Embedding``, ``SimpleRNN``, ``GRU``, ``LSTM``, ``RNN`` of their cells, ``Bidirectional`` layers and a
    linear ``Dense`` layer, one after the other, in a ``Sequential`` or functional model. Dropout acts in training alone
    and is left out. All else is as in ``from_keras``.

    Args:
        live: built, so that it has weights; or a path, for which Keras must be installed. Keras refuses files whose
            reading would run code (``safe_mode``).

    Raises:
        ValueError: for a layer that has no counterpart, such as a ``Dense`` with a softmax, a mask of ids, or
            ``go_backwards``; its arrays alone can be given to ``from_keras``. For a file that is none of Keras.

    Example, where Keras is installed:

        model, params = from_keras_model(keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(5)]))
    """
    keras = keras_library()
    if isinstance(live, str | os.PathLike):
        live = loaded(keras, live)
    layers, merges = [], set()
    for layer in layers_in_order(keras, live):
        groups, merge = groups_of(layer)
        layers += groups
        merges |= {merge} - {None}
    if len(merges) > 1:
        raise ValueError(f"model got layers with the merges {', '.join(sorted(merges))}; want one of them")
    return model_of_groups(layers, merges.pop() if merges else "concatenate")


def loaded(keras: Any, file: FilePath) -> Any:
    """The model of a file of Keras."""
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"file got {path}, which is not there; want a .keras file")
    if path.name.endswith(".weights.h5"):
        raise ValueError(f"file got {path}, weights without their model; want a .keras file of the model")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # h5py, zipfile and Keras raise many kinds of errors
        problem = " ".join(str(error).split())[:200]
        raise ValueError(f"file got {path}, which Keras does not read ({problem}); want a .keras file") from None


def layers_in_order(keras: Any, live: Any) -> list[Any]:
    """The layers with weights of a layer or model, from the bottom up; a ValueError unless they are a chain."""
    if not isinstance(live, keras.layers.Layer):
        raise ValueError(
            f"model got {type(live).__name__}; want a layer or a model of Keras, a path, or see from_keras"
        )
    if not isinstance(live, keras.Model):
        chain = [live]
    elif isinstance(live, keras.Sequential):
        chain = [inner for layer in live.layers for inner in layers_in_order(keras, layer)]
    else:
        chain = live.layers
        for below, layer in itertools.pairwise(chain):
            if getattr(layer, "input", None) is not below.output:
                raise ValueError(
                    f"model got {layer.name}, which reads more than {below.name}; want one layer after the other"
                )
    return [layer for layer in chain if type(layer).__name__ not in WITHOUT_WEIGHTS]


def groups_of(layer: Any) -> tuple[list[tuple[Group, ...]], str | None]:
    """The groups of each layer of ours in a layer of Keras, and how its directions are merged."""
    kind, name = type(layer).__name__, layer.name
    if not type(layer).__module__.startswith("keras."):
        raise ValueError(f"model got {name}, a layer of your own ({kind}); want layers of Keras, or see from_keras")
    if not layer.built:
        raise ValueError(f"model got {name} without weights; want it built, such as by calling it once")
    if kind == "Embedding":
        require(name, mask_zero=(layer.mask_zero, False, "rollout takes a mask"))
        return [(group_of(layer, "embeddings"),)], None
    if kind == "TimeDistributed":
        return groups_of(layer.layer)
    if kind == "Dense":
        require(name, activation=(layer.activation.__name__, "linear", "a readout is linear"))
        return [(group_of(layer, "kernel", "bias"),)], None
    if kind == "Bidirectional":
        if layer.merge_mode not in MERGES:
            raise ValueError(f"merge_mode got {layer.merge_mode!r} in {name}; want {' or '.join(MERGES)}")
        ways = [cells_of(way) for way in (layer.forward_layer, layer.backward_layer)]
        if any(len(cells) > 1 for cells in ways):
            raise ValueError(f"model got {name} with several cells in a direction; want one")
        return [tuple(recurrent_group(cells[0]) for cells in ways)], MERGES[layer.merge_mode]
    if kind in ("SimpleRNN", "GRU", "LSTM", "RNN"):
        require(name, go_backwards=(layer.go_backwards, False, "Keras returns its outputs in reverse"))
    elif kind not in CELLS:
        raise ValueError(f"model got {name}, a {kind}; want recurrent layers, Embedding and Dense, or see from_keras")
    return [(recurrent_group(cell),) for cell in cells_of(layer)], None


def require(layer: str, **options: tuple[Any, Any, str]) -> None:
    """Raises a ValueError that names the first option ``(value, wanted, why)`` with another value."""
    for name, (value, wanted, why) in options.items():
        if value != wanted:
            raise ValueError(f"{name} got {value!r} in {layer}; want {wanted!r}: {why}; or see from_keras, of arrays")


def cells_of(layer: Any) -> list[Any]:
    """The cells of a recurrent layer, from the bottom up."""
    cell = getattr(layer, "cell", layer)
    cells = getattr(cell, "cells", [cell])
    for cell in cells:
        if type(cell).__name__ not in CELLS or not type(cell).__module__.startswith("keras."):
            raise ValueError(f"model got the cell {type(cell).__name__}; want {', '.join(CELLS)}")
    return [*cells]


def recurrent_group(cell: Any) -> Group:
    """The group of a cell, with its activations."""
    options = {
        "activation": cell.activation.__name__,
        "gate_activation": getattr(getattr(cell, "recurrent_activation", None), "__name__", None),
        "reset_after": getattr(cell, "reset_after", None),
    }
    return group_of(cell, "kernel", "recurrent_kernel", "bias")._replace(options=options)


def group_of(layer: Any, *names: str) -> Group:
    """The arrays of a part, those of these names that it has."""
    found = {name: getattr(layer, name, None) for name in names}
    path = getattr(layer, "path", layer.name)
    return Group(path, {n: array_of(f"{path}/{n}", v) for n, v in found.items() if v is not None}, {})


def keras_model(model: Model, params: Params) -> Any:
    """A live ``Sequential`` of Keras with the weights of a model: ``ys = keras_model(model, params)(xs)``.

    The batch leads and time is second, as in Keras. It takes ``mask=`` too, unless it has an ``Embedding``, which in
    Keras ends a mask: call its ``layers`` one after the other then, the recurrent ones with the mask. Ids go in where
    the model has an embedding, else vectors; one-hot vectors where it reads ids without an embedding.

    Args:
        model, params: as in ``to_keras``.

    Raises:
        ValueError: as in ``to_keras``, and where Keras is not installed.

    Example, where Keras is installed:

        keras_model(model, params).save("model.keras")
    """
    keras = keras_library()
    network, weights = checked_network(model, params), to_keras(model, params)
    dtype = str(next(iter(weights.values())).dtype)
    layers = [keras.layers.InputLayer((None, network.layers[0][0].params.W_xh.shape[0]), dtype=dtype)]
    if network.embedding is not None:
        layers = [keras.layers.InputLayer((None,), dtype="int32")]
        layers.append(keras.layers.Embedding(*network.embedding.shape, embeddings_initializer="zeros", dtype=dtype))
    layers += [layer_of(keras, network, parts, dtype) for parts in network.layers]
    if network.readout is not None:
        size = network.readout[1].size
        layers.append(keras.layers.Dense(size, kernel_initializer="zeros", dtype=dtype))
    live = keras.Sequential(layers)
    live.supports_masking = True  # as all of its layers
    live.set_weights([*weights.values()])
    return live


def outputs_of_file(file: FilePath, xs: np.ndarray) -> np.ndarray:
    """The outputs ``(T, B, O)`` of a file of Keras for inputs ``(T, B, I)`` or ids ``(T, B)``."""
    keras = keras_library()
    live = loaded(keras, file)
    if str(live.weights[0].dtype) == "float64" and keras.backend.backend() == "jax":
        for layer in live.layers:
            for way in (getattr(layer, "forward_layer", layer), getattr(layer, "backward_layer", layer)):
                if getattr(getattr(way, "cell", None), "activation", None) is keras.activations.tanh:
                    way.cell.activation = jnp.tanh  # that of Keras 3.15 computes in float32
    return np.swapaxes(keras.ops.convert_to_numpy(live(np.swapaxes(xs, 0, 1))), 0, 1)


def layer_of(keras: Any, network: Network, parts: tuple[Part, ...], dtype: str) -> Any:
    """The layer of Keras for one layer of a network."""
    ways = [way_of(keras, part, dtype) for part in parts]
    if len(ways) == 1:
        return ways[0]
    merge = next(theirs for theirs, ours in MERGES.items() if ours == network.merge)
    return keras.layers.Bidirectional(ways[0], merge_mode=merge, backward_layer=ways[1], dtype=dtype)


def way_of(keras: Any, part: Part, dtype: str) -> Any:
    """The layer of Keras for one direction."""
    options: dict[str, Any] = dict.fromkeys(("kernel_initializer", "recurrent_initializer"), "zeros")  # draws nothing
    options |= {"activation": part.options.get("activation", "tanh"), "dtype": dtype}
    if part.name != "vanilla":
        options["recurrent_activation"] = part.options.get("gate_activation", "sigmoid")
    if part.name.startswith("gru"):
        options["reset_after"] = part.name == "gru"
    units = part.params.W_xh.shape[1] // gates_of(part)
    return getattr(keras.layers, KINDS[part.name][0])(
        units, **options, return_sequences=True, go_backwards=part.reverse
    )
