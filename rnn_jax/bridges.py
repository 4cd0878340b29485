"""An encoder joined with a decoder, and the bridge between their states."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnn_jax.cells.affine import affine
from rnn_jax.combinators import nested_cell, output_shape, params_name
from rnn_jax.decoding.decoders import check_writer
from rnn_jax.initializers import StateReader, scaled_normal, zeros
from rnn_jax.layers import Layer, as_layer
from rnn_jax.machinery.checks import require_sequence
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_arrays, repr_of_call
from rnn_jax.schedules.driver import describe_shapes
from rnn_jax.types import Cell, Initializer, Params, Start, State, require_cell

__all__ = [
    "Bridge",
    "EncoderDecoder",
    "EncoderDecoderParams",
    "LinearBridgeParams",
    "encoder_decoder",
    "identity_bridge",
    "linear_bridge",
]


class EncoderDecoder(NamedTuple):
    """Many-to-one joined with one-to-many: the decoder starts from the last state of the encoder."""

    init: Callable[[PRNGKeyArray], Params]
    """``(key) -> EncoderDecoderParams``."""
    start: Start
    """``(params, batch_shape=()) -> h0`` of the encoder."""
    encode: Callable[..., State]
    """``(params, h0, xs, **flags) -> the decoder's h0``; flags are those of ``rollout``. A ValueError for a
    source without a step, if its lengths are not traced."""
    decoder: Cell
    """The decoder as a cell of all the params: ``greedy(model.decoder, params, model.encode(params, h0, xs), …)``."""
    keyed: bool = False
    """Whether the encoder draws random numbers: xs of ``encode`` may be ``keyed``."""

    __repr__ = repr_of_call


class EncoderDecoderParams(NamedTuple):
    """The weights of an encoder, of the bridge, and of a decoder."""

    encoder: Params
    bridge: Params
    decoder: Params

    __repr__ = repr_of_arrays


class Bridge(NamedTuple):
    """The map from the last state of an encoder to the first state of a decoder, as two pure functions."""

    init: Callable[[PRNGKeyArray], Params]
    """``(key) -> params of the bridge``."""
    cross: Callable[[EncoderDecoderParams, State], State]
    """``(params of all, the encoder's h_T) -> the decoder's h0``."""

    __repr__ = repr_of_call


class LinearBridgeParams(NamedTuple):
    """The weights from the encoder's output to the N numbers of the decoder's state."""

    W: Float[Array, "S N"]
    b: Float[Array, " N"]

    __repr__ = repr_of_arrays


@factory
def linear_bridge(encoder: Layer, decoder: Cell, *, weight_init: Initializer = scaled_normal()) -> Bridge:
    """A bridge that is a linear function of the encoder's last output s: h_0 = start + W s + b.

    It joins any encoder with any decoder, with any states. (An sLSTM forgets all of its start but h at the first
    step.)

    Args:
        encoder: whose output is one array ``(*batch, S)``.
        decoder: any cell; every part of its state gets its own columns of W.
        weight_init: the initialiser of W.

    Raises:
        ValueError: when the encoder's output is not one array ``(*batch, S)``.

    Reference: Cho, van Merriënboer, Gulcehre, Bahdanau, Bougares, Schwenk, Bengio. Learning phrase representations
    using RNN encoder-decoder for statistical machine translation. 2014; there through a tanh.
    """
    key = jax.random.key(0)
    s = output_shape(encoder, jax.eval_shape(encoder.init, key))
    if not isinstance(s, jax.ShapeDtypeStruct) or s.ndim != 1:
        raise ValueError(f"linear_bridge got an encoder whose output is {s}; want one array (*batch, S)")
    h0 = jax.eval_shape(lambda k: decoder.start(decoder.init(k)), key)
    N = sum(math.prod(part.shape) for part in jax.tree.leaves(h0))

    def init(key: PRNGKeyArray) -> LinearBridgeParams:
        return LinearBridgeParams(weight_init(key, StateReader(s.shape[0], N), s.dtype), zeros(key, (N,), s.dtype))

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
def identity_bridge(encoder: Layer, decoder: Cell) -> Bridge:
    """A bridge without weights: the decoder starts from the encoder's last state itself.

    Raises:
        ValueError: when the states have other shapes or types.

    Reference: Sutskever, Vinyals, Le. Sequence to sequence learning with neural networks. 2014.
    """
    key = jax.random.key(0)
    theirs, ours = (jax.eval_shape(lambda k, m=m: m.start(m.init(k)), key) for m in (encoder, decoder))
    if jax.tree.structure(theirs) != jax.tree.structure(ours) or describe_shapes(theirs) != describe_shapes(ours):
        theirs, ours = describe_shapes(theirs), describe_shapes(ours)
        raise ValueError(
            f"identity_bridge got an encoder of state {theirs} and a decoder of state {ours}; want equal shapes and "
            "types: use linear_bridge, which fits any to any"
        )
    return Bridge(init=lambda key: (), cross=lambda params, h_T: h_T)


@factory
def encoder_decoder(
    encoder: Cell | Layer, decoder: Cell, *, bridge: Callable[[Layer, Cell], Bridge] = linear_bridge
) -> EncoderDecoder:
    """An encoder of any kind joined with a decoder of any kind.

    Args:
        encoder: a cell, a stack, a bidirectional layer.
        decoder: a cell of any kind under a readout: its inputs are ids, its outputs the logits of the next one.
        bridge: how the decoder starts: ``linear_bridge``, ``identity_bridge``, or your own function ``(encoder as a
            layer, decoder) -> Bridge``.

    Raises:
        ValueError: when the decoder does not read the ids that it predicts, or the bridge does not fit.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import bidirectional, encoder_decoder, gru, lstm, readout, sequence_to_sequence, stack
    >>> from rnn_jax.decoding.decoders import beam_search
    >>> model = encoder_decoder(bidirectional(gru(20, 8), gru(20, 8)), readout(stack(lstm(12, 6), gru(6, 5)), 12))
    >>> params, xs = model.init(jax.random.key(0)), jnp.ones((7, 2), int)  # two sources of seven ids
    >>> h0, first = model.start(params, (2,)), jnp.array([11, 11])
    >>> sequence_to_sequence(model, params, h0, xs, first, targets=jnp.ones((4, 2), int)).shape
    (4, 2, 12)
    >>> h = model.encode(params, h0, xs, lengths=jnp.array([7, 3]))
    >>> beam_search(model.decoder, params, h, first, length=4, width=3, end=11).ids.shape
    (4, 2, 3)
    """
    require_cell("decoder", decoder)
    shapes = jax.eval_shape(decoder.init, jax.random.key(0))
    try:
        jax.eval_shape(lambda p: jnp.ones(check_writer(decoder, p, decoder.start(p), jnp.array(0))), shapes)
    except ValueError as error:
        raise ValueError(f"decoder got {params_name(shapes)}: {error}") from error
    layer = as_layer(encoder)
    across = bridge(layer, decoder)
    _check_bridge(layer, across, decoder)

    def init(key: PRNGKeyArray) -> EncoderDecoderParams:
        k_encoder, k_bridge, k_decoder = jax.random.split(key, 3)
        return EncoderDecoderParams(layer.init(k_encoder), across.init(k_bridge), decoder.init(k_decoder))

    def start(params: EncoderDecoderParams, batch_shape: tuple[int, ...] = ()) -> State:
        return layer.start(params.encoder, batch_shape)

    def encode(params: EncoderDecoderParams, h0: State, xs: PyTree, **flags: Any) -> State:
        require_source(require_sequence(xs), flags.get("lengths"), flags.get("mask"))
        return across.cross(params, layer.rollout(params.encoder, h0, xs, **flags)[0])

    return EncoderDecoder(init, start, encode, nested_cell(decoder, "decoder"), layer.keyed)


def _check_bridge(encoder: Layer, bridge: Bridge, decoder: Cell) -> None:
    """Raises a ValueError unless a bridge makes a state of the decoder, of one example."""

    def cross(key: PRNGKeyArray) -> tuple[State, State]:
        params = EncoderDecoderParams(encoder.init(key), bridge.init(key), decoder.init(key))
        return bridge.cross(params, encoder.start(params.encoder)), decoder.start(params.decoder)

    made, wanted = map(describe_shapes, jax.eval_shape(cross, jax.random.key(0)))
    if made != wanted:
        raise ValueError(f"bridge got to a state of {made}; want the decoder's, {wanted}")


def require_source(T: int, lengths: Any, mask: Any) -> None:
    """Raises a ValueError for a source without a step, if its lengths or its mask are not traced."""
    known = {
        name: np.asarray(a)
        for name, a in [("lengths", lengths), ("mask", mask)]
        if a is not None and not isinstance(a, Tracer)
    }
    if T == 0 or np.any(known.get("lengths", 1) == 0) or not np.all(known.get("mask", np.ones((1, 1))).any(axis=0)):
        raise ValueError("xs got an empty source; want at least one step of every example")
