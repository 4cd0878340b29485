"""Random networks for the converters: cells, sizes, directions and weights drawn, every bias another number."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import bidirectional, embedding, length_mask, readout, stack
from rnn_jax.interop import Network, model_of_network, network_of_model
from rnn_jax.layers import Model, as_layer
from rnn_jax.types import Cell, Params

T, LENGTHS = 5, np.array([3, 5, 1])
Make = Callable[[int, int], Cell]


def random_network(seed: int, makers: list[Make], *, alike: bool, merges: tuple[str, ...]) -> tuple[Model, Params]:
    """A model and its params in float64.

    Args:
        seed: of all choices.
        makers: factories ``(input_size, hidden_size) -> cell``, of which each seed takes the next one first.
        alike: whether all layers have the same cell, size and directions.
        merges: of bidirectional layers.
    """
    rng = np.random.default_rng(seed)
    size, layers, merge = int(rng.integers(2, 5)), [], merges[seed % len(merges)]
    V, inputs = (int(n) for n in rng.integers(3, 7, 2))
    make, H, both = makers[seed % len(makers)], int(rng.integers(3, 6)), seed % 4 == 1
    for _ in range(1 + (seed % 3 == 0) + (seed == 15)):
        cell = make(inputs if not layers else size, H)
        width = jax.eval_shape(lambda cell=cell: cell.output(None, cell.start(cell.init(jax.random.key(0))))).shape[0]
        layers.append(bidirectional(cell, cell, merge=merge) if both else cell)
        size = width * (2 if both and merge == "concatenate" else 1)
        if not alike:
            make, H, both = makers[rng.integers(len(makers))], int(rng.integers(3, 6)), bool(rng.integers(2))
    model: Any = stack(*layers) if len(layers) > 1 else layers[0]
    model = embedding(model, V, inputs) if seed % 5 == 3 else model
    model = readout(model, 3) if seed % 3 else model
    return model, random_params(model, rng)


def random_params(model: Model, rng: np.random.Generator, dtype: Any = np.float64) -> Params:
    """Params of a model, all of them normal numbers times 0.5."""
    blank = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda a: jnp.asarray(0.5 * rng.standard_normal(a.shape), dtype), blank)


def cast(model: Model, params: Params, dtype: Any) -> tuple[Model, Params]:
    """The same model and params in another floating type."""
    network = network_of_model(model, params)
    layers = tuple(
        tuple(part._replace(params=jax.tree.map(lambda a: a.astype(dtype), part.params)) for part in layer)
        for layer in network.layers
    )
    E = None if network.embedding is None else network.embedding.astype(dtype)
    W = None if network.readout is None else (network.readout[0].astype(dtype), network.readout[1].astype(dtype))
    return model_of_network(Network(layers, network.merge, E, W))


def canonical(model: Any, params: Any) -> Any:
    """The model without initialisers and names of defaults."""
    return model_of_network(network_of_model(model, params))


def random_inputs(model: Model, params: Params, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Vectors or ids ``(T, B, …)``, and weights of the outputs in a loss: 0 past the end of each sequence."""
    rng, network = np.random.default_rng(0), network_of_model(model, params)
    layer, shape = as_layer(model), (T, len(LENGTHS))
    if network.embedding is not None:
        xs = rng.integers(len(network.embedding), size=shape).astype(np.int32)
    else:
        xs = rng.standard_normal((*shape, network.layers[0][0].params.W_xh.shape[0])).astype(dtype)
    ys = jax.eval_shape(lambda: layer.apply(params, layer.start(params, shape[1:]), jnp.asarray(xs))[1])
    valid = np.asarray(length_mask(jnp.asarray(LENGTHS), T))[..., None]
    return xs, (rng.standard_normal(ys.shape) * valid).astype(dtype)


def ours(model: Model, params: Params, xs: np.ndarray, weigh: np.ndarray) -> list[np.ndarray]:
    """Outputs, 0 past the end of each sequence, and the gradient of Σ weigh ⊙ ys by xs, unless they are ids."""
    layer = as_layer(model)

    def loss(xs: Any) -> Any:
        _, ys = layer.apply(params, layer.start(params, xs.shape[1:2]), xs, lengths=jnp.asarray(LENGTHS))
        return jnp.sum(weigh * ys), jnp.where(weigh != 0, ys, 0)

    if xs.dtype == np.int32:
        return [np.asarray(jax.jit(loss)(jnp.asarray(xs))[1])]
    (_, ys), by_xs = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.asarray(xs))
    return [np.asarray(ys), np.asarray(by_xs)]


def equal(one: Any, other: Any) -> bool:
    """Whether two pairs of a model and its params are equal, bit for bit, and of the same types."""
    (model, params), (again, params_again) = one, other
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(params_again), strict=True)
    return model == again and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)
