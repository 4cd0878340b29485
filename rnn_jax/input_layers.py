"""Input layers: an embedding of ids, or a dense layer, in front of a cell or a layer."""

from collections.abc import Callable
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnn_jax.cells.activations import Activation, activation_named
from rnn_jax.cells.affine import project_input, rows_or_product
from rnn_jax.combinators import input_problem, params_dtype, params_name
from rnn_jax.initializers import scaled_normal, unit_normal, zeros
from rnn_jax.keys import unkey
from rnn_jax.layers import Layer, Model, nested, require_model
from rnn_jax.machinery.checks import require_positive, require_sequence
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.schedules.driver import step_flags
from rnn_jax.schedules.scan import idle_inputs, unmasked
from rnn_jax.types import Cell, Initializer, Keyed, Params, State, batch_shape

__all__ = ["DenseInputParams", "EmbeddingParams", "dense_input", "embedding"]


class EmbeddingParams(NamedTuple):
    """The weights of a cell or layer, and the vectors of the ids that it reads."""

    cell: Params
    E: Float[Array, "V I"]
    """Row v is the vector of id v."""

    __repr__ = repr_of_arrays


class DenseInputParams(NamedTuple):
    """The weights of a cell or layer, and of the dense layer in front of it."""

    cell: Params
    W: Float[Array, "F I"]
    b: Float[Array, " I"]

    __repr__ = repr_of_arrays


@overload
def embedding(model: Cell, vocabulary_size: int, embedding_size: int, *, embedding_init: Initializer = ...) -> Cell: ...
@overload
def embedding(
    model: Layer, vocabulary_size: int, embedding_size: int, *, embedding_init: Initializer = ...
) -> Layer: ...
@factory
def embedding(
    model: Model, vocabulary_size: int, embedding_size: int, *, embedding_init: Initializer = unit_normal()
) -> Model:
    """A cell or layer that reads ids through an embedding: x_t is row ``id_t`` of E.

    A cell also reads ids without an embedding: the rows of its ``W_xh (V, G·H)`` are then the vectors of the ids. For a
    large vocabulary an embedding of a smaller size needs fewer weights.

    Args:
        model: a cell or layer with the input size I, the embedding_size.
        vocabulary_size: V, the number of ids. An id outside [0, V) gives NaN.
        embedding_size: I, numbers in the vector of an id.
        embedding_init: the initialiser of ``E (V, I)``; of variance 1, as a cell expects of its inputs.

    Returns:
        A cell or a layer, as ``model`` is, of ids ``(T, *batch)``, or one-hot vectors ``(T, *batch, V)``; params
        are ``EmbeddingParams``.

    Raises:
        ValueError: for a size below 1, or a cell that does not read vectors of this size.

    Example: a language model of 10,000 words.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import embedding, lstm, many_to_many, readout
    >>> model = readout(embedding(lstm(input_size=32, hidden_size=8), 10_000, 32), 10_000)
    >>> params, words = model.init(jax.random.key(0)), jnp.array([[17, 4], [9_999, 0]])
    >>> many_to_many(model, params, model.start(params, (2,)), words).shape
    (2, 2, 10000)

    Reference: Bengio, Ducharme, Vincent, Jauvin. A neural probabilistic language model. 2003.
    """
    require_model("model", model)
    require_positive(vocabulary_size=vocabulary_size, embedding_size=embedding_size)
    require_reader("embedding", model, embedding_size)

    def init(key: PRNGKeyArray) -> EmbeddingParams:
        k_cell, k_E = jax.random.split(key)
        params = model.init(k_cell)
        return EmbeddingParams(params, embedding_init(k_E, (vocabulary_size, embedding_size), params_dtype(params)))

    def vectors(params: EmbeddingParams, x: Array) -> Array:
        if isinstance(model, Cell):
            return rows_or_product(x, params.E, "E")
        return rows_or_product(x, widened(params.E), "E").astype(params.E.dtype)  # the gradient of a whole sequence

    return _with_input_layer(vectors, model)._replace(init=init)


@overload
def dense_input(
    model: Cell,
    input_size: int,
    output_size: int,
    *,
    activation: str | Activation = ...,
    weight_init: Initializer = ...,
    bias_init: Initializer = ...,
) -> Cell: ...
@overload
def dense_input(
    model: Layer,
    input_size: int,
    output_size: int,
    *,
    activation: str | Activation = ...,
    weight_init: Initializer = ...,
    bias_init: Initializer = ...,
) -> Layer: ...
@factory
def dense_input(
    model: Model,
    input_size: int,
    output_size: int,
    *,
    activation: str | Activation = "relu",
    weight_init: Initializer = scaled_normal(),
    bias_init: Initializer = zeros,
) -> Model:
    """A cell or layer that reads its inputs through a dense layer: φ(W x_t + b) takes the place of x_t.

    Args:
        model: a cell or layer with the input size I, the output_size of the dense layer.
        input_size: F, features of x_t.
        output_size: I, units of the dense layer.
        activation: φ, a name in ``ACTIVATIONS`` or any elementwise function.
        weight_init, bias_init: initialisers of ``W (F, I)`` and ``b (I,)``.

    Returns:
        A cell or a layer, as ``model`` is, of inputs ``(T, *batch, F)``; params are ``DenseInputParams``.

    Raises:
        ValueError: for a size below 1, the name of an unknown activation, or a cell that does not read vectors of this
            size.

    Example: an agent with an encoder of its observations.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import dense_input, gru, readout
    >>> agent = readout(dense_input(gru(input_size=32, hidden_size=16), 7, 32), {"policy": 3, "value": 1})
    >>> params = agent.init(jax.random.key(0))
    >>> h = agent.step(params, agent.start(params, (5,)), jnp.ones((5, 7)))
    >>> agent.output(params, h)["policy"].shape
    (5, 3)
    """
    require_model("model", model)
    require_positive(input_size=input_size, output_size=output_size)
    phi = activation_named(activation)
    require_reader("dense_input", model, output_size)

    def init(key: PRNGKeyArray) -> DenseInputParams:
        k_cell, k_W, k_b = jax.random.split(key, 3)
        params = model.init(k_cell)
        dtype = params_dtype(params)
        W = weight_init(k_W, (input_size, output_size), dtype)
        return DenseInputParams(params, W, bias_init(k_b, (output_size,), dtype))

    return _with_input_layer(lambda params, x: phi(project_input(x, params.W, params.b, "W")), model)._replace(
        init=init
    )


def require_reader(name: str, model: Model, size: int) -> None:
    """Raises a ValueError unless a model reads vectors of this size, as far as that can be checked without a step."""
    if isinstance(model, Layer):
        return
    params = jax.eval_shape(model.init, jax.random.key(0))
    if problem := input_problem(model, jax.ShapeDtypeStruct((size,), params_dtype(params))):
        raise ValueError(f"{name} of size {size} got {params_name(params)}, which does not accept it: {problem}")


def _with_input_layer(layer: Callable[[Any, PyTree], Array], model: Model) -> Model:
    """``model`` behind an input layer ``(params, x) -> x``, which takes one step or a whole sequence."""

    def read_by_layer(params: Params, xs: PyTree) -> PyTree:
        x, key = unkey(xs)
        return layer(params, x) if key is None else Keyed(layer(params, x), key)

    if isinstance(model, Cell):
        cell = nested(model)
        return cell._replace(project=lambda params, x: cell.project(params, read_by_layer(params, x)))
    inner = nested(model)

    def run(params: Params, h0: State, xs: PyTree, **flags: Any) -> tuple[State, State]:
        xs = _without_padding(xs, batch_shape(inner, params, h0), **flags)
        return inner.rollout(params, h0, read_by_layer(params, xs), **flags)

    return inner._replace(rollout=run)


def _without_padding(xs: PyTree, batch: tuple[int, ...], mask: Any = None, lengths: Any = None, **_: Any) -> PyTree:
    """The sequence with safe inputs at masked steps, because NaN there would reach the gradient of the input layer."""
    x, key = unkey(xs)
    mask = step_flags(require_sequence(xs), batch, mask, lengths).mask
    if mask is None:
        return xs
    idle = jax.tree.map(lambda i, a: jnp.broadcast_to(i, a.shape), idle_inputs(mask, x), x)
    x = unmasked(mask, x, idle)
    return x if key is None else Keyed(x, key)
