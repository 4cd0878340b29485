"""Random networks for the converters: cells, sizes, directions and weights drawn, every bias another number."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.interop import Network, Part, model_of_network, network_of_model
from rnn_jax.layers import Model, as_layer
from rnn_jax.types import Cell, Params

T, LENGTHS = 5, np.array([3, 5, 1])
Make = Callable[[int, int], Cell]


def random_network(
    seed: int, makers: list[Make], *, alike: bool, merges: tuple[str, ...], directions: bool = False
) -> tuple[Model, Params]:
    """A model and its params in float64, of numbers that float32 can hold.

    Args:
        seed: of all choices.
        makers: factories ``(input_size, hidden_size) -> cell``, of which each seed takes the next one first.
        alike: whether all layers have the same cell, size and directions.
        merges: of bidirectional layers.
        directions: whether the two directions of a layer may have different cells.
    """
    rng = np.random.default_rng(seed)
    size, layers, merge = int(rng.integers(2, 5)), [], merges[seed % len(merges)]
    V, inputs = (int(n) for n in rng.integers(3, 7, 2))
    first, number, H, both = size, seed % len(makers), int(rng.integers(3, 6)), seed % 4 == 1
    first = size = inputs if seed % 5 != 3 else size
    for _ in range(3 if seed == 15 else 2 if seed % 6 == 0 else 1):
        numbers = (number, (number + directions) % len(makers)) if both else (number,)
        layer = tuple(random_part(makers[n](size, H), rng)._replace(reverse=d > 0) for d, n in enumerate(numbers))
        layers.append(layer)
        width = layer[0].params.W_hh.shape[0]
        size = width * (2 if both and merge == "concatenate" else 1)
        if not alike:
            number, H, both = int(rng.integers(len(makers))), int(rng.integers(3, 6)), bool(rng.integers(2))
    draw = lambda *shape: np.float32(0.5 * rng.standard_normal(shape)).astype(float)  # noqa: E731
    E = draw(V, first) if seed % 5 == 3 else None
    W = (draw(size, 3), draw(3)) if seed % 3 else None
    return model_of_network(Network(tuple(layers), merge if any(map(is_pair, layers)) else "concatenate", E, W))


def is_pair(layer: tuple[Part, ...]) -> bool:
    """Whether a layer has two directions."""
    return len(layer) == 2


def random_part(cell: Cell, rng: np.random.Generator) -> Part:
    """A cell with random params."""
    made = jax.eval_shape(cell.init, jax.random.key(0))
    params = jax.tree.map(lambda a: np.float32(0.5 * rng.standard_normal(a.shape)).astype(float), made)
    ((part,),) = network_of_model(cell, params).layers
    return part


def random_params(model: Model, rng: np.random.Generator, dtype: Any = np.float64) -> Params:
    """Params of a model, all of them normal numbers times 0.5."""
    blank = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda a: jnp.asarray(np.float32(0.5 * rng.standard_normal(a.shape)), dtype), blank)


def cast(model: Model, params: Params, dtype: Any) -> tuple[Model, Params]:
    """The same model and params in another floating type."""
    network = network_of_model(model, jax.tree.map(lambda a: np.asarray(a).astype(dtype), params))
    return model_of_network(network)


def canonical(model: Any, params: Any) -> Any:
    """The model without initialisers and names of defaults."""
    return model_of_network(network_of_model(model, params))


def random_inputs(model: Model, params: Params, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Vectors or ids ``(T, B, …)``, and weights of the outputs in a loss: 0 past the end of each sequence."""
    rng, network = np.random.default_rng(0), network_of_model(model, params)
    shape, last = (T, len(LENGTHS)), [part.params.W_hh.shape[0] for part in network.layers[-1]]
    if network.embedding is not None:
        xs = rng.integers(len(network.embedding), size=shape).astype(np.int32)
    else:
        xs = rng.standard_normal((*shape, network.layers[0][0].params.W_xh.shape[0])).astype(dtype)
    outputs = last[0] if network.merge == "sum" else sum(last)
    outputs = outputs if network.readout is None else network.readout[1].size
    valid = np.arange(T)[:, None, None] < LENGTHS[:, None]
    return xs, (rng.standard_normal((*shape, outputs)) * valid).astype(dtype)


class Results(NamedTuple):
    """What two libraries compute for one model."""

    outputs: np.ndarray
    """0 past the end of each sequence."""
    by_xs: np.ndarray | None
    """The gradient of Σ weigh ⊙ ys; None of ids."""
    by_params: Any


def ours(model: Model, params: Params, xs: np.ndarray, weigh: np.ndarray) -> Results:
    """Outputs and gradients of a model of ours."""
    layer, ids = as_layer(model), xs.dtype == np.int32

    def loss(params: Any, xs: Any) -> Any:
        _, ys = layer.apply(params, layer.start(params, xs.shape[1:2]), xs, lengths=jnp.asarray(LENGTHS))
        return jnp.sum(weigh * ys), jnp.where(weigh != 0, ys, 0)

    by = jax.jit(jax.value_and_grad(loss, argnums=0 if ids else (0, 1), has_aux=True))
    (_, ys), found = by(params, jnp.asarray(xs))
    by_params, by_xs = (found, None) if ids else (found[0], np.asarray(found[1]))
    return Results(np.asarray(ys), by_xs, jax.tree.map(np.asarray, by_params))


def require_equal(mine: Results, theirs: Results, tolerance: float) -> None:
    """Fails where results differ by more than a tolerance; gradients of params have one form, such as a state dict."""
    pairs = [(mine.outputs, theirs.outputs), *((mine.by_params[name], W) for name, W in theirs.by_params.items())]
    assert mine.by_params.keys() == theirs.by_params.keys()
    pairs += [] if mine.by_xs is None else [(mine.by_xs, theirs.by_xs)]
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def equal(one: Any, other: Any) -> bool:
    """Whether two pairs of a model and its params are equal, bit for bit, and of the same types."""
    (model, params), (again, params_again) = one, other
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(params_again), strict=True)
    return model == again and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def characters_of_torch(torch: Any, module: Any, prompt: list[int], length: int, V: int) -> list[int]:
    """The likeliest ids one after the other, of a module that reads one-hot vectors."""
    ids, state = [], None
    given = torch.nn.functional.one_hot(torch.tensor(prompt), V)[:, None]
    with torch.no_grad():
        for _ in range(length):
            ys, state = module(given.to(next(module.parameters()).dtype), state)
            ids.append(int(ys[-1, 0].argmax()))
            given = torch.nn.functional.one_hot(torch.tensor([[ids[-1]]]), V)
    return ids


def characters_of_onnx(runtime: Any, file: Any, prompt: list[int], length: int, V: int) -> list[int]:
    """The likeliest ids one after the other, of a file of a whole model, which reads all before each of them again."""
    session, ids = runtime.InferenceSession(file.read_bytes()), [*prompt]
    for _ in range(length):
        xs = np.eye(V, dtype=np.float32)[ids][:, None]
        ids.append(int(session.run(["ys"], {"xs": xs})[0][-1, 0].argmax()))
    return ids[len(prompt) :]
