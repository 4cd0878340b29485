"""Twenty networks for each of linen, nnx, haiku and equinox, and live modules as functions of weights and inputs."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bidirectional, embedding, gru, gru_reset_before, lstm, readout, stack, vanilla
from rnn_jax.interop import (
    equinox_module,
    from_equinox,
    from_flax,
    from_haiku,
    haiku_function,
    linen_module,
    nnx_module,
    to_haiku,
)
from rnn_jax.layers import as_layer

T, LENGTHS = 3, (3, 2)


def relu(input_size: int, hidden_size: int) -> Any:
    return vanilla(input_size, hidden_size, activation="relu")


def softsign(input_size: int, hidden_size: int) -> Any:
    return lstm(input_size, hidden_size, activation="softsign", gate_activation="hard_sigmoid")


LSTMS = [
    lstm(2, 3), lstm(3, 2), readout(lstm(1, 4), 2), embedding(lstm(3, 3), 5, 3), stack(lstm(2, 3), lstm(3, 2)),
    readout(lstm(3, 4), 3), readout(embedding(lstm(2, 3), 4, 2), 4),
    stack(lstm(1, 2), lstm(2, 2), lstm(2, 3)),
]  # fmt: skip
"""Of all libraries."""
GATED = [gru(2, 3), readout(gru(3, 2), 1), stack(gru(2, 3), lstm(3, 2)), embedding(gru(2, 4), 4, 2)]
"""Of flax and equinox."""
FLAX: list[tuple[Any, dict[str, Any]]] = [
    (vanilla(3, 4), {}),
    (bidirectional(lstm(2, 3), gru(2, 2)), {}),
    (readout(bidirectional(gru(3, 2), relu(3, 4)), 2), {"activation": ("tanh", "relu")}),
    (bidirectional(vanilla(2, 3), softsign(2, 3), merge="sum"),
     {"activation": ("tanh", "softsign"), "gate_activation": (None, "hard_sigmoid"), "merge": "sum"}),
    (readout(stack(relu(2, 3), vanilla(3, 2)), 2), {"activation": ["relu", "tanh"]}),
    (gru(2, 3, activation="relu"), {"activation": jax.nn.relu}),
    (readout(embedding(stack(bidirectional(lstm(2, 2), vanilla(2, 3)), gru(5, 2)), 5, 2), 3), {}),
    (stack(bidirectional(gru(1, 2), lstm(1, 2), merge="sum"), bidirectional(lstm(2, 3), lstm(2, 3), merge="sum")),
     {"merge": "sum"}),
]  # fmt: skip
"""Of flax alone, with what its weights do not tell."""
EQUINOX = [
    gru(4, 2), readout(lstm(2, 2), 2), stack(gru(1, 2), gru(2, 3)), embedding(lstm(2, 3), 3, 2),
    readout(lstm(4, 3), 4), readout(embedding(gru(3, 2), 2, 3), 5), readout(gru(2, 2), 2),
    stack(gru(2, 2), lstm(2, 2), gru(2, 2)),
]  # fmt: skip
HAIKU = [
    gru_reset_before(2, 3), gru_reset_before(4, 2), relu(3, 2), readout(relu(2, 4), 1),
    readout(gru_reset_before(1, 3), 2),
    embedding(gru_reset_before(2, 2), 3, 2), readout(embedding(relu(2, 3), 4, 2), 2), stack(relu(2, 3), relu(3, 2)),
    stack(gru_reset_before(2, 3), gru_reset_before(3, 3)), stack(lstm(2, 3), relu(3, 2)),
    readout(gru_reset_before(3, 4), 3), stack(relu(1, 2), gru_reset_before(2, 2), lstm(2, 2)),
]  # fmt: skip


class Live(NamedTuple):
    """A live module of a model."""

    run: Callable[[Any, Any], Any]
    """``(weights, xs) -> ys``"""
    weights: Any
    """Its own."""
    whole: Any
    """What tells the model, too."""


class Library(NamedTuple):
    """A library: what reads its weights, its live modules, and networks with what their weights do not tell."""

    back: Callable[..., Any]
    live: Callable[..., Live]
    networks: list[tuple[Any, dict[str, Any]]]
    ragged: bool = False
    """Whether it has lengths; else each sequence is cut."""


def linen_live(model: Any, params: Any) -> Live:
    module, variables = linen_module(model, params)

    def run(variables: Any, xs: Any) -> Any:
        bound = module.bind(variables)
        return through_layers(getattr(bound, "layers", [bound]), xs)

    return Live(run, variables, module.bind(variables).variables)


def nnx_live(model: Any, params: Any, **options: Any) -> Live:
    nnx = pytest.importorskip("flax.nnx")
    whole = nnx_module(model, params, **options)
    graph, state = nnx.split(whole)

    def run(weights: Any, xs: Any) -> Any:
        module = nnx.merge(graph, jax.tree.map(lambda a: a, state))  # variables of this trace
        nnx.update(module, weights)
        return through_layers(getattr(module, "layers", [module]), xs)

    return Live(run, nnx.to_pure_dict(nnx.state(whole, nnx.Param)), whole)


def through_layers(layers: Any, xs: Any) -> Any:
    """The outputs of layers of flax, of which recurrent ones take lengths."""
    for layer in layers:
        xs = layer(xs, seq_lengths=jnp.array(LENGTHS)) if hasattr(layer, "time_major") else layer(xs)
    return xs


def haiku_live(model: Any, params: Any) -> Live:
    pytest.importorskip("haiku", reason="haiku is not installed: pip install dm-haiku")
    return Live(*haiku_function(model, params), to_haiku(model, params, exact=True))


def equinox_live(model: Any, params: Any) -> Live:
    pytest.importorskip("equinox", reason="equinox is not installed: pip install equinox")
    module = equinox_module(model, params)
    leaves, tree = jax.tree.flatten_with_path(module)
    weights = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    return Live(lambda own, xs: jax.tree.unflatten(tree, [own[path] for path in weights])(xs), weights, module)


PLAIN = [(model, {}) for model in LSTMS + GATED]
LIBRARIES = {
    "linen": Library(from_flax, linen_live, PLAIN + FLAX, ragged=True),
    "nnx": Library(from_flax, nnx_live, PLAIN + FLAX, ragged=True),
    "nnx, LSTMCell": Library(
        from_flax, lambda *pair: nnx_live(*pair, optimized=False), [PLAIN[0], FLAX[3]], ragged=True
    ),
    "haiku": Library(from_haiku, haiku_live, [(model, {}) for model in LSTMS + HAIKU]),
    "equinox": Library(from_equinox, equinox_live, [(model, {}) for model in LSTMS + GATED + EQUINOX]),
}  # fmt: skip
CASES = [(name, number) for name, library in LIBRARIES.items() for number in range(len(library.networks))]


def random_params(name: str, model: Any, seed: int, dtype: str) -> Any:
    """Params of a model, all of them random, but ``b_n`` of a GRU of nnx, which has no such bias."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, a: Any) -> Any:
        absent = name.startswith("nnx") and jax.tree_util.keystr(path[-1:]) == ".b_n"
        return jnp.asarray(0.7 * rng.standard_normal(a.shape) * (not absent), dtype)

    return jax.tree.map_with_path(draw, shapes_of(model))


@functools.cache
def shapes_of(model: Any) -> Any:
    """The shapes of the params of a model."""
    return jax.eval_shape(model.init, jax.random.key(0))


def random_inputs(params: Any, dtype: str) -> tuple[Any, Any]:
    """Vectors or ids ``(T, B, …)``, and weights of at most 8 outputs in a loss, 0 behind the end of each sequence."""
    rng, shape, E = np.random.default_rng(1), (T, len(LENGTHS)), embedding_of(params)
    if E is not None:
        xs = jnp.asarray(rng.integers(len(E), size=shape))
    else:
        xs = jnp.asarray(rng.standard_normal((*shape, first_kernel(params).shape[0])), dtype)
    inside = np.arange(T)[:, None] < np.array(LENGTHS)
    return xs, jnp.asarray(rng.standard_normal((*shape, 8)) * inside[..., None], dtype)


def embedding_of(params: Any) -> Any:
    """The vectors of the ids, or None."""
    return getattr(params.cell if hasattr(params, "W_hy") else params, "E", None)


def first_kernel(params: Any) -> Any:
    """``W_xh`` of the lowest cell."""
    return next(leaf for path, leaf in jax.tree.leaves_with_path(params) if jax.tree_util.keystr(path[-1:]) == ".W_xh")


def measured(run: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """A compiled function ``(weights, xs, weigh)`` for outputs, and gradients of Σ weigh ⊙ ys by weights and inputs."""

    def loss(weights: Any, xs: Any, weigh: Any) -> Any:
        ys = run(weights, xs)
        weigh = weigh[..., : ys.shape[-1]]
        ys = jnp.where(weigh != 0, ys, jnp.zeros_like(ys))
        return jnp.sum(weigh * ys), ys

    def both(weights: Any, xs: Any, weigh: Any) -> Any:
        by = (0, 1) if jnp.issubdtype(xs.dtype, jnp.floating) else (0,)
        (_, ys), gradients = jax.value_and_grad(loss, by, has_aux=True)(weights, xs, weigh)
        return ys, gradients

    return jax.jit(both)


@functools.cache
def ours(model: Any) -> Callable[..., Any]:
    """What ``measured`` returns for a model of ours, with lengths; compiled once for all libraries."""
    layer, options = as_layer(model), {"lengths": jnp.array(LENGTHS), "schedule": "scan"}
    return measured(lambda p, xs: layer.apply(p, layer.start(p, xs.shape[1:2]), xs, **options)[1])


def cut(run: Callable[[Any, Any], Any], rows: tuple[int, ...]) -> Callable[[Any, Any], Any]:
    """The outputs of some sequences, each cut to its length, with zeros behind it and in the places of the others."""

    def outputs(weights: Any, xs: Any) -> Any:
        found = {row: run(weights, xs[: LENGTHS[row], row]) for row in rows}
        nothing = jnp.zeros_like(found[rows[0]], shape=(0, found[rows[0]].shape[1]))
        every = [found.get(row, nothing) for row in range(len(LENGTHS))]
        return jnp.stack([jnp.pad(ys, ((0, T - len(ys)), (0, 0))) for ys in every], 1)

    return outputs
