"""Readouts: a linear layer, any function, or several heads on top of a cell or a layer."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnn_jax.cells.activations import Activation, activation_named
from rnn_jax.cells.affine import affine
from rnn_jax.combinators import output_shape, require_one_array
from rnn_jax.initializers import StateReader, scaled_normal, zeros
from rnn_jax.layers import Layer, Model, nested, require_model
from rnn_jax.machinery.checks import in_one_line, is_whole, require_numbers, require_positive
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_arrays, repr_of_call
from rnn_jax.types import Cell, Initializer, Params, State

__all__ = ["Head", "HeadParams", "LinearParams", "ReadoutParams", "linear_head", "mlp_head", "readout"]


class ReadoutParams(NamedTuple):
    """The weights of a cell or layer, and of the linear layer that reads its output."""

    cell: Params
    W_hy: Float[Array, "H O"]
    b_y: Float[Array, " O"]

    __repr__ = repr_of_arrays


class HeadParams(NamedTuple):
    """The weights of a cell or layer, and those of its head, or of its heads by name."""

    cell: Params
    head: PyTree

    __repr__ = repr_of_arrays


class LinearParams(NamedTuple):
    """The weights of a linear layer W x + b."""

    W: Float[Array, "I O"]
    b: Float[Array, " O"]

    __repr__ = repr_of_arrays


class Head(NamedTuple):
    """A function with weights that reads the output of a cell or a layer, as two pure functions.

    A module of flax.linen is one: ``Head(module.init, module.apply)``.
    """

    init: Callable[[PRNGKeyArray, Array], Params]
    """``(key, y) -> params``, where y is the output for one example, ``(H,)``; only its shape and type matter."""
    apply: Callable[[Params, Array], Any]
    """``(params, y) -> output``, for y with any leading axes, ``(*any, H)``."""

    __repr__ = repr_of_call


@factory
def linear_head(
    output_size: int, *, weight_init: Initializer = scaled_normal(), bias_init: Initializer = zeros
) -> Head:
    """A linear head W y + b with params ``LinearParams``; ``readout`` makes one of each size in a dictionary.

    Args:
        output_size: O.
        weight_init, bias_init: initialisers of ``W (H, O)`` and ``b (O,)``. A policy often begins with a small gain,
            such as ``scaled_normal(0.01)``.

    Raises:
        ValueError: for an output_size below 1.
    """
    require_positive(output_size=output_size)

    def init(key: PRNGKeyArray, y: Array) -> LinearParams:
        k_W, k_b = jax.random.split(key)
        shape = StateReader(y.shape[-1], output_size)
        return LinearParams(weight_init(k_W, shape, y.dtype), bias_init(k_b, (output_size,), y.dtype))

    return Head(init, lambda params, y: affine(y, params.W, params.b))


@factory
def mlp_head(
    hidden_sizes: tuple[int, ...],
    output_size: int,
    *,
    activation: str | Activation = "tanh",
    weight_init: Initializer = scaled_normal(),
    bias_init: Initializer = zeros,
) -> Head:
    """A head with hidden layers, a multilayer perceptron; params are a tuple of ``LinearParams``, from the bottom up.

    Args:
        hidden_sizes: units of each hidden layer, from the bottom up.
        output_size: O, of the linear layer at the top.
        activation: after each hidden layer, a name in ``ACTIVATIONS`` or any elementwise function.
        weight_init, bias_init: initialisers of every layer's ``W`` and ``b``.

    Raises:
        ValueError: for a size below 1, or the name of an unknown activation.

    >>> import jax
    >>> from rnn_jax import gru, readout
    >>> model = readout(gru(input_size=3, hidden_size=8), mlp_head((16,), 2))
    >>> [layer.W.shape for layer in model.init(jax.random.key(0)).head]
    [(8, 16), (16, 2)]
    """
    phi = activation_named(activation)
    require_numbers("hidden_sizes", hidden_sizes, lambda n: is_whole(n) and n >= 1, "positive sizes, such as (64,)")
    require_positive(output_size=output_size)
    layers = [linear_head(n, weight_init=weight_init, bias_init=bias_init) for n in (*hidden_sizes, output_size)]

    def init(key: PRNGKeyArray, y: Array) -> tuple[LinearParams, ...]:
        params = []
        for layer, k in zip(layers, jax.random.split(key, len(layers)), strict=True):
            params.append(layer.init(k, y))
            y = jnp.zeros((*y.shape[:-1], params[-1].b.size), y.dtype)
        return tuple(params)

    def apply(params: tuple[LinearParams, ...], y: Array) -> Array:
        *hidden, top = params
        for layer in hidden:
            y = phi(affine(y, *layer))
        return affine(y, *top)

    return Head(init, apply)


Outputs = int | Head | Mapping[str, int | Head]


@overload
def readout(
    model: Cell, output_size: Outputs, *, weight_init: Initializer = ..., bias_init: Initializer = ...
) -> Cell: ...
@overload
def readout(
    model: Layer, output_size: Outputs, *, weight_init: Initializer = ..., bias_init: Initializer = ...
) -> Layer: ...
@factory
def readout(
    model: Model,
    output_size: Outputs,
    *,
    weight_init: Initializer = scaled_normal(),
    bias_init: Initializer = zeros,
) -> Model:
    """A cell or layer whose output is read by a linear layer, y_t = W_hy h_t + b_y, by any function, or by several.

    The state and the recurrence stay those of ``model``; a cell gives a cell, a layer a layer. As ``output`` works
    on any leading axes, ``outputs(cell, params, hs)`` computes a whole sequence in one product, outside the scan.

    Args:
        model: a cell or layer whose output is one array ``(*batch, H)``.
        output_size: one of

            - O, such as the vocabulary's size when y are the logits of the next character: a linear layer; params are
              ``ReadoutParams``;
            - a ``Head``, such as ``mlp_head((64,), 4)``: any function; params are ``HeadParams``;
            - a dictionary of sizes and heads: the output is a dictionary with the same names, and so is the field
              ``head`` of the ``HeadParams``.
        weight_init, bias_init: initialisers of ``W_hy (H, O)`` and ``b_y (O,)``, and of heads that are sizes.

    Raises:
        ValueError: for an output_size below 1, no head, or a model whose output is not one array.

    Example: logits of the next of four ids; the policy and the value of an agent.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import lstm, mlp_head, outputs, readout, rollout
    >>> core = lstm(input_size=4, hidden_size=8)
    >>> model = readout(core, output_size=4)
    >>> params = model.init(jax.random.key(0))
    >>> _, states = rollout(model, params, model.start(params), jnp.array([0, 1, 2, 2, 3]))
    >>> outputs(model, params, states).shape
    (5, 4)
    >>> agent = readout(core, {"policy": 3, "value": mlp_head((16,), 1)})
    >>> params = agent.init(jax.random.key(0))
    >>> ys = outputs(agent, params, states)
    >>> ys["policy"].shape, ys["value"].shape
    ((5, 3), (5, 1))
    """
    require_model("model", model)
    if isinstance(output_size, Mapping | Head):
        return _with_heads(model, output_size, weight_init, bias_init)
    require_positive(output_size=output_size)

    def init(key: PRNGKeyArray) -> ReadoutParams:
        k_cell, k_W, k_b = jax.random.split(key, 3)
        params = model.init(k_cell)
        y = _one_output(model, params)
        W_hy = weight_init(k_W, StateReader(y.shape[-1], output_size), y.dtype)
        return ReadoutParams(params, W_hy, bias_init(k_b, (output_size,), y.dtype))

    def output(params: ReadoutParams, h: State) -> Array:
        return affine(model.output(params.cell, h), params.W_hy, params.b_y)

    return nested(model)._replace(init=init, output=output)


def _with_heads(
    model: Model, given: Head | Mapping[str, int | Head], weight_init: Initializer, bias_init: Initializer
) -> Model:
    """``readout`` by one head or by several."""
    named = {"": given} if isinstance(given, Head) else dict(given)
    if not named or not all(isinstance(name, str) for name in named):
        raise ValueError(f"output_size got the heads {in_one_line(named)}; want at least one, such as {{'policy': 4}}")

    def head_of(size: int | Head) -> Head:
        return size if isinstance(size, Head) else linear_head(size, weight_init=weight_init, bias_init=bias_init)

    heads = {name: head_of(named[name]) for name in sorted(named)}  # equal dictionaries draw equal weights

    def init(key: PRNGKeyArray) -> HeadParams:
        k_cell, *k_heads = jax.random.split(key, 1 + len(heads))
        params = model.init(k_cell)
        y = jnp.zeros_like(_one_output(model, params))
        made = {name: head.init(k, y) for (name, head), k in zip(heads.items(), k_heads, strict=True)}
        return HeadParams(params, made[""] if isinstance(given, Head) else made)

    def output(params: HeadParams, h: State) -> Any:
        y = model.output(params.cell, h)
        if isinstance(given, Head):
            return given.apply(params.head, y)
        return {name: head.apply(params.head[name], y) for name, head in heads.items()}

    return nested(model)._replace(init=init, output=output)


def _one_output(model: Model, params: Params) -> Any:
    """Shape and type of the output for one example; a ValueError unless it is one array."""
    y = output_shape(model, params)
    require_one_array("readout", y)
    return y
