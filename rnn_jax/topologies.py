"""Topologies: one-to-one, one-to-many, many-to-one, many-to-many, and sequence-to-sequence.

Each takes the state before its first step, ``model.start(params, batch_shape)``, as ``rollout`` does. A model is a
cell, or a layer where the whole sequence is given.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer, PRNGKeyArray, PyTree

from rnn_jax.bridges import (
    Bridge,
    EncoderDecoder,
    EncoderDecoderParams,
    LinearBridgeParams,
    encoder_decoder,
    identity_bridge,
    linear_bridge,
)
from rnn_jax.decoding.decoders import check_writer
from rnn_jax.keys import keyed, one_key, require_draws, unkey, with_stream
from rnn_jax.layers import Layer, as_layer
from rnn_jax.machinery.checks import require_id, require_kept, require_number
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.sharding import scan, where, with_common_layout
from rnn_jax.schedules.driver import require_fit
from rnn_jax.types import Cell, Params, State, require_cell

__all__ = [
    "Bridge",
    "EncoderDecoder",
    "EncoderDecoderParams",
    "LinearBridgeParams",
    "encoder_decoder",
    "identity_bridge",
    "linear_bridge",
    "many_to_many",
    "many_to_one",
    "one_to_many",
    "one_to_one",
    "scheduled_sampling",
    "sequence_to_sequence",
]


def one_to_one(cell: Cell, params: Params, h0: State, x: PyTree) -> Any:
    """One input, one output: y = output(f_W(h_0, x)), a network of one hidden layer.

    Args:
        cell, params: any cell and its weights.
        h0: the state before the step.
        x: ``(*batch, I)``, or ids ``(*batch)``; ``Keyed(x, keys)`` for a cell that draws.

    Returns:
        y ``(*batch, O)``.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import one_to_one, readout, vanilla
    >>> model = readout(vanilla(input_size=64, hidden_size=16), output_size=10)
    >>> params = model.init(jax.random.key(0))
    >>> one_to_one(model, params, model.start(params, (5,)), jnp.ones((5, 64))).shape
    (5, 10)
    """
    require_cell("cell", cell)
    require_fit(cell, params, h0, jax.tree.map(lambda a: jnp.asarray(a)[None], x))
    return cell.output(params, cell.step(params, h0, x))


def one_to_many(
    cell: Cell,
    params: Params,
    h0: State,
    first: Integer[ArrayLike, "*batch"],
    targets: Integer[ArrayLike, "T *batch"],
    *,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "T *batch V"]:
    """One start, many outputs: the logits of each id of a sequence, given the right ids before it (teacher forcing).

    y_t = the logits of target_t, given h_0, first, and target_1 … target_{t−1}. To generate without targets use
    ``greedy``, ``sample`` and ``beam_search``.

    Args:
        cell, params: a model whose inputs are ids and whose outputs are the logits of the next one.
        h0: the state before the first step, which holds the content, such as the result of ``EncoderDecoder.encode``.
        first: the id that begins every sequence.
        targets: the ids that follow. Fill short ones up with any id of the vocabulary, and mask them in the loss.
        key: for the random numbers of a cell with dropout or zoneout; without it, the cell computes the mean.

    Raises:
        ValueError: for ids outside the vocabulary that are not traced, a state or targets that do not fit, a model
            whose outputs are not the logits of the ids that it reads, or a key for one that draws nothing.

    Reference: Williams, Zipser. A learning algorithm for continually running fully recurrent neural networks. 1989.
    """
    first, targets = checked_targets(cell, params, h0, first, targets)
    require_draws(cell.keyed, "key", key)
    xs = jnp.concatenate(with_common_layout(targets.ndim, first[None], targets[:-1]))[: len(targets)]
    return many_to_many(cell, params, h0, xs if key is None else keyed(key, xs, first.shape))


def scheduled_sampling(
    cell: Cell,
    params: Params,
    key: PRNGKeyArray,
    h0: State,
    first: Integer[ArrayLike, "*batch"],
    targets: Integer[ArrayLike, "T *batch"],
    rate: float | Float[Array, ""],
) -> Float[Array, "T *batch V"]:
    """``one_to_many`` in which some steps read an id that the model has sampled, in the place of the right one.

    Args:
        cell, params, h0, first, targets: as in ``one_to_many``.
        key: the only source of randomness, also for a cell with dropout or zoneout.
        rate: the probability that a step reads an id drawn from the model's own softmax, not the right one; 0 is
            teacher forcing, 1 free generation. May be traced, so that it can grow while training. No gradient flows
            through the ids that are drawn.

    Raises:
        ValueError: as ``one_to_many``, and for a rate outside [0, 1] that is not traced.

    Reference: Bengio, Vinyals, Jaitly, Shazeer. Scheduled sampling for sequence prediction with recurrent neural
    networks. 2015.
    """
    wanted = "the probability of reading an id that the model has sampled, in [0, 1]"
    require_number("rate", rate, lambda part: 0 <= part <= 1, wanted, may_be_traced=True)
    first, targets = checked_targets(cell, params, h0, first, targets)
    return _scheduled(cell, params, one_key(key), h0, first, targets, jnp.asarray(rate, float))


@compiled("cell")
def _scheduled(
    cell: Cell, params: Params, key: PRNGKeyArray, h0: State, first: Array, targets: Array, rate: Array
) -> Float[Array, "T *batch V"]:
    """``scheduled_sampling`` of checked arguments."""

    def step(carry: tuple[State, Array], inputs: tuple[Array, Array]) -> tuple[tuple[State, Array], Array]:
        (h, x), (target, key) = carry, inputs
        k_coin, k_draw, k_cell = jax.random.split(key, 3)
        h = cell.step(params, h, with_stream(cell, x, jax.random.split(k_cell, x.shape), 0))
        y = cell.output(params, h)
        own = jax.random.categorical(k_draw, widened(y)).astype(target.dtype)
        return (h, where(jax.random.bernoulli(k_coin, rate, target.shape), own, target)), y

    keys = jax.random.split(key, len(targets))
    return scan(step, (h0, first), (targets, keys))[1]


def many_to_one(model: Cell | Layer, params: Params, h0: State, xs: PyTree, **flags: Any) -> Any:
    """Many inputs, one output: the output of the last state.

    Args:
        model: a cell, or a layer: in a bidirectional one each direction has then read the whole sequence.
        params, h0, xs: as in ``rollout``; ``keyed(key, xs, batch_shape)`` for a model that draws.
        **flags: mask, lengths, resets, cuts, as in ``rollout``.

    Returns:
        y ``(*batch, O)``.

    Raises:
        ValueError: as ``rollout``.

    Example: two words of five and of three characters.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru, many_to_many, many_to_one, readout
    >>> model = readout(gru(input_size=26, hidden_size=8), output_size=12)
    >>> params, words = model.init(jax.random.key(0)), jnp.ones((5, 2), int)
    >>> h0 = model.start(params, (2,))
    >>> many_to_one(model, params, h0, words, lengths=jnp.array([5, 3])).shape
    (2, 12)
    >>> many_to_many(model, params, h0, words).shape
    (5, 2, 12)
    """
    layer = as_layer(model)
    h_T, _ = layer.rollout(params, h0, xs, **flags)
    return layer.output(params, h_T)


def many_to_many(model: Cell | Layer, params: Params, h0: State, xs: PyTree, **flags: Any) -> Any:
    """Many inputs, as many outputs: the output of each step.

    Args:
        model, params, h0, xs, **flags: as in ``many_to_one``.

    Returns:
        ys ``(T, *batch, O)``.
    """
    return as_layer(model).apply(params, h0, xs, **flags)[1]


def checked_targets(
    cell: Cell, params: Params, h0: State, first: ArrayLike, targets: Integer[ArrayLike, "T *batch"]
) -> tuple[Integer[Array, "*batch"], Integer[Array, "T *batch"]]:
    """``first`` and targets as arrays of one type; a ValueError where they do not fit the model."""
    require_kept(first=first, targets=targets)
    first, targets = jnp.asarray(first), jnp.asarray(targets)
    V = check_writer(cell, params, h0, first)
    if not jnp.issubdtype(targets.dtype, jnp.integer) or jnp.iinfo(targets.dtype).max < V - 1:
        raise ValueError(f"targets got {targets.dtype}; want integer ids of a type that holds {V}, such as int32")
    if targets.shape[1:] != first.shape:
        raise ValueError(f"targets got shape {targets.shape}; want (T, *batch) with the batch of first, {first.shape}")
    require_id(V, targets=targets)
    wider = max(first.dtype, targets.dtype, key=lambda dtype: jnp.iinfo(dtype).max)  # a traced first may be outside
    return first.astype(wider), targets.astype(wider)


def sequence_to_sequence(
    model: EncoderDecoder,
    params: EncoderDecoderParams,
    h0: State,
    xs: PyTree,
    first: Integer[ArrayLike, "*batch"],
    targets: Integer[ArrayLike, "T *batch"],
    *,
    key: PRNGKeyArray | None = None,
    **flags: Any,
) -> Float[Array, "T *batch V"]:
    """The logits of a target sequence, given a source sequence, under teacher forcing: many-to-one with one-to-many.

    Args:
        model, params: as ``encoder_decoder`` makes them.
        h0: the encoder's state before its first step, ``model.start(params, batch_shape)``.
        xs: the source ``(S, *batch, I)``, or ids ``(S, *batch)``, of any length.
        first, targets: as in ``one_to_many``.
        key: for the random numbers of encoder and decoder, in separate streams; without it they compute the mean.
        **flags: mask, lengths and the like, of the source, as in ``rollout``.

    Raises:
        ValueError: for an empty source, keys beside xs, which would reach only the encoder, and as ``one_to_many``.

    Example: at ``encoder_decoder``.

    Reference: Cho and others 2014; Sutskever, Vinyals, Le 2014: see ``linear_bridge`` and ``identity_bridge``.
    """
    if not isinstance(model, EncoderDecoder):
        raise ValueError(f"model got {type(model).__name__}; want a model that encoder_decoder(encoder, decoder) makes")
    draws = model.decoder.keyed
    if unkey(xs)[1] is not None and (draws or key is not None):
        raise ValueError("xs got keys; want plain xs, and key=, which reaches encoder and decoder")
    require_draws(model.keyed or draws, "key", key)
    k_encoder, k_decoder = (None, None) if key is None else jax.random.split(one_key(key))
    if model.keyed and k_encoder is not None:
        xs = keyed(k_encoder, xs, jnp.shape(first))
    h = model.encode(params, h0, xs, **flags)
    return one_to_many(model.decoder, params, h, first, targets, key=k_decoder if draws else None)
