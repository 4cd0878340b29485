"""Live models of Keras with the weights of a model."""

from typing import Any

from rnn_jax.interop.adapters import their_rules
from rnn_jax.interop.keras_files import keras_library
from rnn_jax.interop.keras_layers import MERGES
from rnn_jax.interop.keras_weights import KINDS, checked_network, names_of_layers, to_keras
from rnn_jax.interop.models import Network, Part, gates_of
from rnn_jax.layers import Model
from rnn_jax.types import Params

__all__ = ["keras_model"]


def keras_model(model: Model, params: Params) -> Any:
    """A live ``Sequential`` of Keras with the weights of a model: ``ys = keras_model(model, params)(xs)``.

    The batch leads and time is second, as in Keras. It takes ``mask=`` too, unless it has an ``Embedding``, which in
    Keras ends a mask: call its ``layers`` one after the other then, the recurrent ones with the mask. Ids go in where
    the model has an embedding, else vectors; one-hot vectors where it reads ids without an embedding.

    Args:
        model, params: as in ``to_keras``.

    Returns:
        The model, of the type of the params. Its layers have the names of ``to_keras``. It takes vectors ``(B, T, I)``
        or ids ``(B, T)`` and returns ``(B, T, O)``. In float64, Keras 3.15 computes tanh in float32, so a ``SimpleRNN``
        with tanh stops with an error there.

    Raises:
        ValueError: as in ``to_keras``, and where Keras is not installed.

    >>> import jax, os
    >>> os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported; any other backend will do
    >>> from rnn_jax import gru, readout
    >>> model = readout(gru(3, 4), 2)
    >>> live = keras_model(model, model.init(jax.random.key(0)))
    >>> [layer.name for layer in live.layers], live.output_shape
    (['gru', 'readout'], (None, None, 2))

    Reference: Chollet and others. Keras. https://keras.io/api/layers/recurrent_layers/.
    """
    keras = keras_library()
    with their_rules():
        return filled_model(keras, model, params)


def filled_model(keras: Any, model: Model, params: Params) -> Any:
    """The model of ``keras_model``."""
    network, weights = checked_network(model, params), to_keras(model, params)
    dtype = str(next(iter(weights.values())).dtype)
    layers = [keras.layers.InputLayer((None, network.layers[0][0].params.W_xh.shape[0]), dtype=dtype)]
    if network.embedding is not None:
        layers = [keras.layers.InputLayer((None,), dtype="int32")]
        E = network.embedding.shape
        layers.append(keras.layers.Embedding(*E, embeddings_initializer="zeros", dtype=dtype, name="embedding"))
    names = names_of_layers(network)
    layers += [layer_of(keras, network, *each, dtype) for each in zip(names, network.layers, strict=True)]
    if network.readout is not None:
        size = network.readout[1].size
        layers.append(keras.layers.Dense(size, kernel_initializer="zeros", dtype=dtype, name="readout"))
    live = keras.Sequential(layers)
    live.supports_masking = True  # as all of its layers
    live.set_weights([*weights.values()])
    return live


def layer_of(keras: Any, network: Network, name: str, parts: tuple[Part, ...], dtype: str) -> Any:
    """The layer of Keras for one layer of a network."""
    if len(parts) == 1:
        return direction_of(keras, name, parts[0], dtype)
    names = KINDS[parts[0].name][1], f"backward_{KINDS[parts[1].name][1]}"  # Keras itself adds "forward_" to the first
    forward, backward = (direction_of(keras, *each, dtype) for each in zip(names, parts, strict=True))
    merge = next(theirs for theirs, ours in MERGES.items() if ours == network.merge)
    return keras.layers.Bidirectional(forward, merge_mode=merge, backward_layer=backward, dtype=dtype, name=name)


def direction_of(keras: Any, name: str, part: Part, dtype: str) -> Any:
    """The layer of Keras for one direction."""
    options: dict[str, Any] = dict.fromkeys(("kernel_initializer", "recurrent_initializer"), "zeros")  # draws nothing
    options |= {"activation": part.options.get("activation", "tanh"), "dtype": dtype, "name": name}
    if part.name != "vanilla":
        options["recurrent_activation"] = part.options.get("gate_activation", "sigmoid")
    if part.name.startswith("gru"):
        options["reset_after"] = part.name == "gru"
    units = part.params.W_xh.shape[1] // gates_of(part)
    layer = getattr(keras.layers, KINDS[part.name][0])
    return layer(units, **options, return_sequences=True, go_backwards=part.reverse)
