"""The shapes of work: one-to-one, one-to-many, many-to-one, many-to-many, and sequence-to-sequence.

Each takes the state before its first step, ``model.start(params, batch_shape)``, as ``rollout`` does. A model is a
cell, or a layer where the whole sequence is there to be read.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Integer, PRNGKeyArray, PyTree

from rnn_jax.cells.affine import affine
from rnn_jax.checks import require_id, require_kept, require_number
from rnn_jax.combinators import inside, name_of, seen_of
from rnn_jax.decoding import check_writer
from rnn_jax.factories import factory
from rnn_jax.initializers import StateReader, scaled_normal, zeros
from rnn_jax.layers import Layer, as_layer
from rnn_jax.precision import widened
from rnn_jax.rollout import describe
from rnn_jax.sharding import alike, scan, where
from rnn_jax.types import Cell, Initializer, Params, Start, State


def one_to_one(cell: Cell, params: Params, h0: State, x: PyTree) -> Any:
    """One input, one output: y = output(f_W(h_0, x)), a network of one hidden layer.

    Args:
        cell, params: any cell and its weights.
        h0: the state before the step.
        x: ``(*batch, I)``, or ids ``(*batch)``.

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
    return cell.output(params, cell.step(params, h0, x))


def one_to_many(
    cell: Cell, params: Params, h0: State, first: Integer[ArrayLike, "*batch"], targets: Integer[ArrayLike, "T *batch"]
) -> Float[Array, "T *batch V"]:
    """One start, many outputs: what the model expects at each place of a sequence whose right beginning it is told.

    y_t = the logits of target_t, given h_0, first, and target_1 … target_{t−1}: teacher forcing. Without targets it
    writes by itself: ``greedy``, ``sample`` and ``beam_search``.

    Args:
        cell, params: a model whose inputs are ids and whose outputs are the logits of the next one.
        h0: the state that holds what is to be told, such as ``EncoderDecoder.encode`` makes.
        first: the id that begins every sequence.
        targets: the ids that follow. Fill short ones up with any id of the vocabulary, and mask them in the loss.

    Raises:
        ValueError: for ids that are known and outside the vocabulary, a state or targets that do not fit, or a model
            that does not predict the ids that it reads.

    Reference: Williams, Zipser. A learning algorithm for continually running fully recurrent neural networks. 1989.
    """
    first, targets = read_targets(cell, params, h0, first, targets)
    read = jnp.concatenate(alike(targets.ndim, first[None], targets[:-1]))
    return many_to_many(cell, params, h0, read[: len(targets)])


def scheduled_sampling(
    cell: Cell,
    params: Params,
    key: PRNGKeyArray,
    h0: State,
    first: Integer[ArrayLike, "*batch"],
    targets: Integer[ArrayLike, "T *batch"],
    rate: float | Float[Array, ""],
) -> Float[Array, "T *batch V"]:
    """``one_to_many`` that must now and then go on from what it would have written itself.

    Args:
        cell, params, h0, first, targets: as in ``one_to_many``.
        key: all the randomness there is.
        rate: the probability that a step reads an id drawn from the model's own softmax, not the right one; 0 is
            teacher forcing, 1 writes freely. May be traced, so that it can grow while training. No gradient flows
            through what is drawn.

    Raises:
        ValueError: as ``one_to_many``, and for a rate outside [0, 1] that is not traced.

    Reference: Bengio, Vinyals, Jaitly, Shazeer. Scheduled sampling for sequence prediction with recurrent neural
    networks. 2015.
    """
    wanted = "the probability of reading what the model wrote, in [0, 1]"
    require_number("rate", rate, lambda part: 0 <= part <= 1, wanted, may_be_traced=True)
    first, targets = read_targets(cell, params, h0, first, targets)
    rate = jnp.asarray(rate, float)

    def step(carry: tuple[State, Array], inputs: tuple[Array, Array]) -> tuple[tuple[State, Array], Array]:
        (h, x), (target, key) = carry, inputs
        h = cell.step(params, h, x)
        y = cell.output(params, h)
        k_coin, k_draw = jax.random.split(key)
        own = jax.random.categorical(k_draw, widened(y)).astype(target.dtype)
        return (h, where(jax.random.bernoulli(k_coin, rate, target.shape), own, target)), y

    keys = jax.random.split(key, len(targets))
    return scan(step, (h0, first), (targets, keys))[1]


def many_to_one(model: Cell | Layer, params: Params, h0: State, xs: PyTree, **marks: Any) -> Any:
    """Many inputs, one output: what is seen of the last state.

    Args:
        model: a cell, or a layer: a bidirectional one is seen after each direction has read everything.
        params, h0, xs: as in ``rollout``.
        **marks: mask, lengths, resets, cuts, as in ``rollout``.

    Returns:
        y ``(*batch, O)``.

    Raises:
        ValueError: as ``rollout``.

    Example: two words of five letters and of three.

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
    h_T, _ = layer.apply(params, h0, xs, **marks)
    return layer.output(params, h_T)


def many_to_many(model: Cell | Layer, params: Params, h0: State, xs: PyTree, **marks: Any) -> Any:
    """Many inputs, as many outputs, one at each step.

    Args:
        model, params, h0, xs, **marks: as in ``many_to_one``.

    Returns:
        ys ``(T, *batch, O)``.
    """
    return as_layer(model).apply(params, h0, xs, **marks)[1]


class EncoderDecoder(NamedTuple):
    """Many-to-one joined with one-to-many: an encoder reads, and the decoder starts from what it has read."""

    init: Callable[[PRNGKeyArray], Params]
    """``(key) -> EncoderDecoderParams``."""
    start: Start
    """``(params, batch_shape=()) -> h0`` of the encoder."""
    encode: Callable[..., State]
    """``(params, h0, xs, **marks) -> the decoder's h0``; marks are those of ``rollout``. A ValueError for a
    source without a step, as far as that is known."""
    decoder: Cell
    """The decoder as a cell of all the params: ``greedy(model.decoder, params, model.encode(params, h0, xs), …)``."""


class EncoderDecoderParams(NamedTuple):
    """The weights of an encoder, of the bridge, and of a decoder."""

    encoder: Params
    bridge: Params
    decoder: Params


class Bridge(NamedTuple):
    """How a decoder starts from what an encoder has read, as two pure functions."""

    init: Callable[[PRNGKeyArray], Params]
    """``(key) -> params of the bridge``."""
    cross: Callable[[EncoderDecoderParams, State], State]
    """``(params of all, the encoder's h_T) -> the decoder's h0``."""


class LinearBridgeParams(NamedTuple):
    """The weights from what is seen of the encoder to the N numbers of the decoder's state."""

    W: Float[Array, "S N"]
    b: Float[Array, " N"]


@factory
def linear_bridge(encoder: Layer, decoder: Cell, *, weight_init: Initializer = scaled_normal()) -> Bridge:
    """The decoder starts from a linear function of what is seen of the encoder: h_0 = start + W s + b.

    Fits any encoder to any decoder, whatever their states. (An sLSTM forgets all of its start but h at the first step.)

    Args:
        encoder: whose output is one array ``(*batch, S)``.
        decoder: any cell; every part of its state gets its own columns of W.
        weight_init: how W begins.

    Raises:
        ValueError: when the encoder's output is not one array ``(*batch, S)``.

    Reference: Cho, van Merriënboer, Gulcehre, Bahdanau, Bougares, Schwenk, Bengio. Learning phrase representations
    using RNN encoder-decoder for statistical machine translation. 2014; there through a tanh.
    """
    key = jax.random.key(0)
    s = seen_of(encoder, jax.eval_shape(encoder.init, key))
    if not isinstance(s, jax.ShapeDtypeStruct) or s.ndim != 1:
        raise ValueError(f"linear_bridge got an encoder whose output is {s}; want one array (*batch, S)")
    h0 = jax.eval_shape(lambda k: decoder.start(decoder.init(k)), key)
    N = sum(math.prod(part.shape) for part in jax.tree.leaves(h0))

    def init(key: PRNGKeyArray) -> LinearBridgeParams:
        return LinearBridgeParams(weight_init(key, StateReader(*s.shape, N), s.dtype), zeros(key, (N,), s.dtype))

    def cross(params: EncoderDecoderParams, h_T: State) -> State:
        s = encoder.output(params.encoder, h_T)
        numbers, used = affine(s.astype(params.bridge.W.dtype), *params.bridge), 0
        parts, tree = jax.tree.flatten(decoder.start(params.decoder, s.shape[:-1]))
        for i, part in enumerate(parts):
            size = math.prod(part.shape[s.ndim - 1 :])
            parts[i] = part + numbers[..., used : used + size].reshape(part.shape).astype(part.dtype)
            used += size
        return jax.tree.unflatten(tree, parts)

    return Bridge(init, cross)


@factory
def hand_over(encoder: Layer, decoder: Cell) -> Bridge:
    """The decoder starts from the encoder's last state itself, so their states must be alike.

    Raises:
        ValueError: when they are not.

    Reference: Sutskever, Vinyals, Le. Sequence to sequence learning with neural networks. 2014.
    """
    key = jax.random.key(0)
    theirs, ours = (jax.eval_shape(lambda k, m=m: m.start(m.init(k)), key) for m in (encoder, decoder))
    if jax.tree.structure(theirs) != jax.tree.structure(ours) or describe(theirs) != describe(ours):
        raise ValueError(
            f"hand_over got an encoder of state {describe(theirs)} and a decoder of state {describe(ours)}; want them "
            "alike: use linear_bridge, which fits any to any"
        )
    return Bridge(init=lambda key: (), cross=lambda params, h_T: h_T)


@factory
def encoder_decoder(
    encoder: Cell | Layer, decoder: Cell, *, bridge: Callable[[Layer, Cell], Bridge] = linear_bridge
) -> EncoderDecoder:
    """Joins an encoder of any kind with a decoder of any kind.

    Args:
        encoder: a cell, a stack, a bidirectional layer.
        decoder: a cell of any kind under a readout: its inputs are ids, its outputs the logits of the next one.
        bridge: how the decoder starts: ``linear_bridge``, ``hand_over``, or a function ``(encoder as a layer, decoder)
            -> Bridge`` of your own.

    Raises:
        ValueError: when the decoder does not read the ids that it predicts, or the bridge does not fit.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import bidirectional, encoder_decoder, gru, lstm, readout, sequence_to_sequence, stack
    >>> from rnn_jax.decoding import beam_search
    >>> model = encoder_decoder(bidirectional(gru(20, 8), gru(20, 8)), readout(stack(lstm(12, 6), gru(6, 5)), 12))
    >>> params, xs = model.init(jax.random.key(0)), jnp.ones((7, 2), int)  # two sources of seven ids
    >>> h0, first = model.start(params, (2,)), jnp.array([11, 11])
    >>> sequence_to_sequence(model, params, h0, xs, first, targets=jnp.ones((4, 2), int)).shape
    (4, 2, 12)
    >>> told = model.encode(params, h0, xs, lengths=jnp.array([7, 3]))
    >>> beam_search(model.decoder, params, told, first, length=4, width=3, end=11).ids.shape
    (4, 2, 3)
    """
    if not isinstance(decoder, Cell):
        raise ValueError("decoder got a layer; want a cell, which reads in one direction, as it writes")
    shapes = jax.eval_shape(decoder.init, jax.random.key(0))
    try:
        check_writer(decoder, shapes, jax.eval_shape(decoder.start, shapes), jnp.array(0))
    except ValueError as error:
        raise ValueError(f"decoder got {name_of(shapes)}: {error}") from error
    layer = as_layer(encoder)
    across = bridge(layer, decoder)
    _check_bridge(layer, across, decoder)

    def init(key: PRNGKeyArray) -> EncoderDecoderParams:
        k_encoder, k_bridge, k_decoder = jax.random.split(key, 3)
        return EncoderDecoderParams(layer.init(k_encoder), across.init(k_bridge), decoder.init(k_decoder))

    def start(params: EncoderDecoderParams, batch_shape: tuple[int, ...] = ()) -> State:
        return layer.start(params.encoder, batch_shape)

    def encode(params: EncoderDecoderParams, h0: State, xs: PyTree, **marks: Any) -> State:
        require_source(jax.tree.leaves(xs)[0].shape[0], marks.get("lengths"), marks.get("mask"))
        return across.cross(params, layer.apply(params.encoder, h0, xs, **marks)[0])

    return EncoderDecoder(init, start, encode, inside(decoder, "decoder"))


def _check_bridge(encoder: Layer, bridge: Bridge, decoder: Cell) -> None:
    """Raises a ValueError unless a bridge makes a state of the decoder, of one example."""

    def cross(key: PRNGKeyArray) -> tuple[State, State]:
        params = EncoderDecoderParams(encoder.init(key), bridge.init(key), decoder.init(key))
        return bridge.cross(params, encoder.start(params.encoder)), decoder.start(params.decoder)

    made, wanted = map(describe, jax.eval_shape(cross, jax.random.key(0)))
    if made != wanted:
        raise ValueError(f"bridge got to a state of {made}; want the decoder's, {wanted}")


def read_targets(
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


def require_source(T: int, lengths: Any, mask: Any) -> None:
    """Raises a ValueError for a source without a step, as far as it is known."""
    known = {
        name: np.asarray(a)
        for name, a in [("lengths", lengths), ("mask", mask)]
        if a is not None and not isinstance(a, Tracer)
    }
    if T == 0 or np.any(known.get("lengths", 1) == 0) or not np.all(known.get("mask", np.ones((1, 1))).any(axis=0)):
        raise ValueError("xs got an empty source; want at least one step of every example")


def sequence_to_sequence(
    model: EncoderDecoder,
    params: EncoderDecoderParams,
    h0: State,
    xs: PyTree,
    first: Integer[ArrayLike, "*batch"],
    targets: Integer[ArrayLike, "T *batch"],
    **marks: Any,
) -> Float[Array, "T *batch V"]:
    """Reads a sequence, then tells another: many-to-one joined with one-to-many, under teacher forcing.

    Args:
        model, params: as ``encoder_decoder`` makes them.
        h0: the encoder's state before its first step, ``model.start(params, batch_shape)``.
        xs: the source ``(S, *batch, I)``, or ids ``(S, *batch)``, of any length.
        first, targets: as in ``one_to_many``.
        **marks: mask, lengths and the like, of the source, as in ``rollout``.

    Raises:
        ValueError: for an empty source, and as ``one_to_many``.

    Example: at ``encoder_decoder``.

    Reference: Cho and others 2014; Sutskever, Vinyals, Le 2014: see ``linear_bridge`` and ``hand_over``.
    """
    return one_to_many(model.decoder, params, model.encode(params, h0, xs, **marks), first, targets)
