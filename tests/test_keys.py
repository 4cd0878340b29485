"""Keys reach whatever draws, in every shape of work, or the call is refused."""

# pyright: reportArgumentType=false
# (states of rates, and wrong things on purpose)

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import (
    Keyed,
    bidirectional,
    dropout_mask,
    encoder_decoder,
    gru,
    keyed,
    lstm,
    many_to_many,
    many_to_one,
    one_to_many,
    one_to_one,
    output_dropout,
    readout,
    rollout,
    scheduled_sampling,
    sequence_to_sequence,
    stack,
    vanilla,
    weight_drop,
    zoneout,
)
from rnn_jax.decoding import greedy, sample
from tests.cases import CASES
from tests.laboratory import any_nonzero, as_a_user_has_it, random_params, refused

T, B, I, H, V = 5, 3, 2, 3, 4  # steps of targets, examples, sizes
S, LENGTHS = 6, jnp.array([6, 4, 1])  # steps of the source
KEY = jax.random.key(0)
FREE = readout(gru(V, H), V)
DRAWN = readout(stack(output_dropout(gru(V, H), 0.5), zoneout(lstm(H, 2), 0.3)), V)
RNG = np.random.default_rng(0)
XS, FIRST, TARGETS = map(jnp.asarray, (RNG.normal(size=(S, B, I)), RNG.integers(0, V, B), RNG.integers(0, V, (T, B))))


def test_a_decoder_that_draws_is_given_keys_for_every_step_and_example():
    params = random_params(DRAWN)
    h0, read = DRAWN.start(params, (B,)), jnp.concatenate([FIRST[None], TARGETS[:-1]])
    tell = jax.jit(functools.partial(one_to_many, DRAWN, params, h0, FIRST))
    drawn = jax.jit(functools.partial(many_to_many, DRAWN, params, h0))
    np.testing.assert_allclose(tell(TARGETS, key=KEY), drawn(keyed(KEY, read, (B,))), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(tell(TARGETS), drawn(read), rtol=1e-12, atol=1e-14)  # the mean
    assert np.all(np.any(tell(TARGETS, key=KEY) != tell(TARGETS), axis=-1))
    line = greedy(DRAWN, params, h0, FIRST, length=T)  # decoding evaluates
    np.testing.assert_array_equal(np.argmax(tell(line.ids), axis=-1), line.ids)


MASKS = output_dropout(vanilla(V, V, activation="linear")._replace(output=lambda params, h: jnp.ones_like(h)), 0.5)
"""A model whose logits are its dropout masks, 2 or 0."""


def test_scheduled_sampling_draws_new_dropout_of_the_decoder_at_every_step_and_for_every_example():
    steps, lanes = 20, 200
    params, targets = random_params(MASKS), jnp.zeros((steps, lanes), int)
    tell = jax.jit(functools.partial(scheduled_sampling, MASKS, params, first=targets[0], targets=targets))
    h0 = MASKS.start(params, (lanes,))
    for rate in (0.0, 0.5, 1.0):
        kept = np.asarray(tell(KEY, h0, rate=rate)) != 0
        assert abs(kept.mean() - 0.5) < 4 * 0.5 / np.sqrt(kept.size)
        assert len(np.unique(kept.reshape(steps, -1), axis=0)) == steps
        assert len(np.unique(kept.swapaxes(0, 1).reshape(lanes, -1), axis=0)) == lanes


def test_what_is_dropped_in_a_decoder_has_a_gradient_of_exactly_zero():
    model = output_dropout(FREE, 0.5)  # some logits are dropped
    params = random_params(model)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def sums(b_y):
        ys = one_to_many(model, params._replace(b_y=b_y), model.start(params, (B,)), FIRST, TARGETS, key=KEY)
        return ys.sum(), ys

    to_b, ys = sums(params.b_y)
    np.testing.assert_array_equal(to_b, 2.0 * np.count_nonzero(ys, axis=(0, 1)))  # the bias meets 2 or 0 once a step


@pytest.mark.parametrize(("reads", "tells"), [(True, True), (True, False), (False, True)])
def test_the_key_of_sequence_to_sequence_reaches_what_draws_each_by_its_own_stream(reads, tells):
    encoder = bidirectional(output_dropout(gru(I, H), 0.5), gru(I, H)) if reads else gru(I, H)
    model = encoder_decoder(encoder, DRAWN if tells else FREE)
    params = random_params(model)
    h0, k_encoder, k_decoder = model.start(params, (B,)), *jax.random.split(KEY)

    @jax.jit
    def apart(read, key):
        h = model.encode(params, h0, read, lengths=LENGTHS)
        return one_to_many(model.decoder, params, h, FIRST, TARGETS, key=key)

    whole = jax.jit(functools.partial(sequence_to_sequence, model, params, h0, XS, FIRST, TARGETS, lengths=LENGTHS))
    read = keyed(k_encoder, XS, (B,)) if reads else XS
    np.testing.assert_allclose(whole(key=KEY), apart(read, k_decoder if tells else None), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(whole(), apart(XS, None), rtol=1e-12, atol=1e-14)
    assert any_nonzero(whole(key=KEY) - whole())
    assert any_nonzero(whole(key=KEY) - whole(key=jax.random.key(1)))


def test_one_input_may_have_a_key_too():
    params, x, key = random_params(MASKS), jnp.ones((B, V)), jax.random.split(KEY, B)
    h0 = MASKS.start(params, (B,))
    y = one_to_one(MASKS, params, h0, Keyed(x, key))
    assert set(np.unique(y)) == {0.0, 2.0}
    np.testing.assert_array_equal(y, many_to_one(MASKS, params, h0, Keyed(x[None], key[None])))
    np.testing.assert_array_equal(one_to_one(MASKS, params, h0, x), 1)


def test_keys_for_what_draws_nothing_are_refused_and_so_are_keys_for_a_part():
    params, says = random_params(FREE), "got keys for a model that draws nothing; want none"
    h0 = FREE.start(params, (B,))
    refused(lambda: one_to_many(FREE, params, h0, FIRST, TARGETS, key=KEY), f"key {says}")
    refused(lambda: one_to_one(FREE, params, h0, Keyed(FIRST, jax.random.split(KEY, B))), f"xs {says}")
    for encoder, decoder in [(gru(I, H), FREE), (output_dropout(gru(I, H), 0.5), DRAWN), (gru(I, H), DRAWN)]:
        model = encoder_decoder(encoder, decoder)
        params = random_params(model)
        tell = functools.partial(sequence_to_sequence, model, params, model.start(params, (B,)))
        if not (encoder.keyed or decoder.keyed):
            refused(lambda: tell(XS, FIRST, TARGETS, key=KEY), f"key {says}")
            refused(lambda: tell(keyed(KEY, XS, (B,)), FIRST, TARGETS), f"xs {says}")
        else:
            refused(lambda: tell(keyed(KEY, XS, (B,)), FIRST, TARGETS), "xs got keys; want plain xs, and key=")
            refused(lambda: tell(keyed(KEY, XS, (B,)), FIRST, TARGETS, key=KEY), "xs got keys; want plain xs, and key=")


def test_a_legacy_key_draws_as_the_typed_one_does():
    """``jax.random.PRNGKey`` makes keys that are arrays of numbers."""
    params, cell, old = random_params(DRAWN), zoneout(output_dropout(gru(I, I), 0.5), 0.5), jax.random.PRNGKey(0)
    weights, h0 = random_params(cell), DRAWN.start(params, (B,))
    rows = jax.random.key_data(keyed(KEY, XS, (B,)).key)  # an array of legacy keys

    def uses(key):
        return {
            "keyed": keyed(key, XS, (B,)).key,
            "mask": dropout_mask(key, 0.5, (5,)),
            "weights": weight_drop(weights, key, 0.5),
            "sample": sample(DRAWN, params, key, h0, FIRST, length=4).ids,
            "scheduled": scheduled_sampling(DRAWN, params, key, h0, FIRST, TARGETS, 0.5),
            "told": one_to_many(DRAWN, params, h0, FIRST, TARGETS, key=key),
        }

    with as_a_user_has_it():
        chex.assert_trees_all_equal(uses(old), uses(KEY))
        np.testing.assert_array_equal(
            dropout_mask(rows, 0.5, (S, B, 3)), dropout_mask(keyed(KEY, XS, (B,)).key, 0.5, (S, B, 3))
        )
        by_hand = jax.jit(functools.partial(rollout, cell, weights, cell.start(weights, (B,))))
        chex.assert_trees_all_equal(by_hand(Keyed(XS, rows)), by_hand(keyed(KEY, XS, (B,))))


@pytest.mark.parametrize("name", list(CASES))
def test_weights_are_drawn_from_a_legacy_key_too(name):
    with as_a_user_has_it():
        old, new = (jax.eval_shape(CASES[name].cell.init, key) for key in (jax.random.PRNGKey(0), KEY))
    assert old == new


@pytest.mark.parametrize("key", [0, np.zeros(2), np.zeros(3, np.uint32), "key", None])
def test_a_value_that_is_no_key_is_refused(key):
    params, weights = random_params(DRAWN), gru(I, H).init(KEY)
    h0, wanted = DRAWN.start(params, (B,)), re.escape("; want a key, such as jax.random.key(0) makes")
    for use in (
        lambda: keyed(key, XS, (B,)),
        lambda: dropout_mask(key, 0.5, (5,)),
        lambda: weight_drop(weights, key, 0.5),
        lambda: sample(DRAWN, params, key, h0, FIRST, length=4),
        lambda: scheduled_sampling(DRAWN, params, key, h0, FIRST, TARGETS, 0.5),
        lambda: rollout(DRAWN, params, h0, Keyed(TARGETS, key)),
        lambda: one_to_many(DRAWN, params, h0, FIRST, TARGETS, key=key),
    )[: -1 if key is None else None]:  # where a key may be left out
        with as_a_user_has_it(), pytest.raises(ValueError, match=rf"^key got [^;\n]*{wanted}$"):
            use()


def test_many_keys_where_one_is_wanted_are_refused():
    params, keys = random_params(DRAWN), jax.random.split(KEY, B)
    refused(lambda: keyed(keys, XS, (B,)), "key got [3] keys; want one")
    refused(
        lambda: sample(DRAWN, params, keys, DRAWN.start(params, (B,)), FIRST, length=4), "key got [3] keys; want one"
    )
