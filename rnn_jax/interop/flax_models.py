"""Live modules of flax with the weights of a model."""

from typing import Any

import jax.numpy as jnp

from rnn_jax.cells.activations import activation_named
from rnn_jax.interop.adapters import library
from rnn_jax.interop.flax_weights import checked_network, to_flax
from rnn_jax.interop.models import Network, Part, gates_of
from rnn_jax.layers import Model
from rnn_jax.types import Params

__all__ = ["linen_module", "nnx_module"]

CELLS = {"vanilla": "SimpleCell", "gru": "GRUCell", "lstm": "OptimizedLSTMCell"}


def linen_module(model: Model, params: Params) -> tuple[Any, dict[str, Any]]:
    """A module of flax.linen for a model, and its variables: ``module.apply(variables, xs) -> ys``, time leading.

    It is an ``nn.RNN`` or an ``nn.Bidirectional``, or an ``nn.Sequential`` of them with ``nn.Embed`` and ``nn.Dense``,
    with the names of ``to_flax``. Ids go in where it has an embedding, else vectors.

    Args:
        model, params: as in ``to_flax``.

    Raises:
        ValueError: as in ``to_flax``, and where flax is not installed.

    >>> import jax
    >>> from rnn_jax import gru, readout
    >>> model = readout(gru(3, 4), 2)
    >>> module, variables = linen_module(model, model.init(jax.random.key(0)))
    >>> [type(layer).__name__ for layer in module.layers], variables["params"]["layers_1"]["kernel"].shape
    (['RNN', 'Dense'], (4, 2))
    """
    nn = library("flax.linen", "flax")
    network, variables = checked_network(model, params, "linen"), to_flax(model, params)

    def cell(part: Part) -> Any:
        H, options = sizes_and_options(part)
        return getattr(nn, CELLS[part.name])(H[1], **options)

    layers = [nn.Embed(*E.shape, dtype=E.dtype, param_dtype=E.dtype) for E in (network.embedding,) if E is not None]
    layers += recurrent_layers(nn, network, cell)
    if network.readout is not None:
        b = network.readout[1]
        layers.append(nn.Dense(b.size, dtype=b.dtype, param_dtype=b.dtype))
    return (layers[0] if len(layers) == 1 else nn.Sequential(layers)), variables


def nnx_module(model: Model, params: Params, *, optimized: bool = True) -> Any:
    """A module of flax.nnx with the weights of a model: ``module(xs) -> ys``, time leading.

    It is an ``nnx.RNN`` or an ``nnx.Bidirectional``, or an ``nnx.Sequential`` of them with ``nnx.Embed`` and
    ``nnx.Linear``, with the names of ``to_flax``. Ids go in where it has an embedding, else vectors.

    Args:
        model, params, optimized: as in ``to_flax``.

    Raises:
        ValueError: as in ``to_flax``, and where flax is not installed.

    >>> import jax
    >>> from rnn_jax import lstm, readout
    >>> model = readout(lstm(3, 4), 2)
    >>> module = nnx_module(model, model.init(jax.random.key(0)))
    >>> [type(layer).__name__ for layer in module.layers], module.layers[1].kernel.shape
    (['RNN', 'Linear'], (4, 2))
    """
    nnx = library("flax.nnx", "flax")
    network, weights = checked_network(model, params, "nnx"), to_flax(model, params, api="nnx", optimized=optimized)
    rngs = nnx.Rngs(0)

    def cell(part: Part) -> Any:
        sizes, options = sizes_and_options(part)
        name = CELLS[part.name].removeprefix("" if optimized else "Optimized")
        return getattr(nnx, name)(*sizes, **options, rngs=rngs)

    layers = [
        nnx.Embed(*E.shape, dtype=E.dtype, param_dtype=E.dtype, rngs=rngs)
        for E in (network.embedding,)
        if E is not None
    ]
    layers += recurrent_layers(nnx, network, cell)
    if network.readout is not None:
        W, b = network.readout
        layers.append(nnx.Linear(*W.shape, dtype=b.dtype, param_dtype=b.dtype, rngs=rngs))
    module = layers[0] if len(layers) == 1 else nnx.Sequential(*layers)
    nnx.update(module, weights)
    return module


def sizes_and_options(part: Part) -> tuple[tuple[int, int], dict[str, Any]]:
    """I and H of a cell, and the options of its counterpart."""
    I, columns = part.params.W_xh.shape
    theirs = {"activation": "activation_fn", "gate_activation": "gate_fn"}
    options = {theirs[name]: activation_named(value) for name, value in part.options.items() if name in theirs}
    dtype = part.params.W_xh.dtype
    return (I, columns // gates_of(part)), options | {"dtype": dtype, "param_dtype": dtype}


def recurrent_layers(library: Any, network: Network, cell: Any) -> list[Any]:
    """The recurrent layers of linen or of nnx, from the bottom up."""
    merge = {"merge_fn": jnp.add} if network.merge == "sum" else {}
    layers = []
    for parts in network.layers:
        ways = [library.RNN(cell(part), time_major=True) for part in parts]
        layers.append(ways[0] if len(ways) == 1 else library.Bidirectional(*ways, time_major=True, **merge))
    return layers
