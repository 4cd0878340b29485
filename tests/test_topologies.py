"""The shapes of work: each against its definition by hand, and what reaches what, through gradients."""

# pyright: reportArgumentType=false
# (dictionaries of marks, states of rates, and wrong things on purpose)

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads
from scipy.stats import chisquare

from rnn_jax import (
    bidirectional,
    cell_from_step,
    conv_lstm,
    encoder_decoder,
    gru,
    identity_bridge,
    layer_norm_lstm,
    learned_start,
    length_mask,
    linear_bridge,
    lstm,
    many_to_many,
    many_to_one,
    one_to_many,
    one_to_one,
    readout,
    scheduled_sampling,
    sequence_to_sequence,
    stack,
    vanilla,
)
from rnn_jax.decoding import greedy
from rnn_jax.losses import cross_entropy
from tests.laboratory import any_nonzero, random_params, refused

T, B, I, H, V = 5, 3, 2, 3, 4  # steps of targets, examples, sizes
S, LENGTHS = 6, np.array([6, 4, 1])  # steps of the source
KEY = jax.random.key(0)
with_logits = functools.partial(readout, output_size=V)

MODELS = {
    "gru to gru": encoder_decoder(gru(I, H), with_logits(gru(V, H)), bridge=identity_bridge),
    "lstm to stack": encoder_decoder(lstm(I, H), with_logits(stack(lstm(V, 2), gru(2, H)))),
    "stack to lstm": encoder_decoder(stack(gru(I, H), lstm(H, 2)), with_logits(lstm(V, H))),
    "both ways to gru": encoder_decoder(bidirectional(gru(I, H), lstm(I, 2)), with_logits(gru(V, H))),
    "layers to a learned start": encoder_decoder(
        stack(bidirectional(vanilla(I, 2), vanilla(I, 2)), bidirectional(gru(4, H), gru(4, H), merge="sum")),
        learned_start(with_logits(lstm(V, 2))),
    ),
    "layer norm": encoder_decoder(layer_norm_lstm(I, H), with_logits(layer_norm_lstm(V, H))),
}


class Question(NamedTuple):
    """A source and its targets."""

    params: Any
    h0: Any
    xs: Any
    lengths: Any
    first: Any
    targets: Any
    encoded: Any = 0.0
    """The weight of Σ h², for the h that the decoder starts from."""
    written: Any = 1.0
    """The weight of Σ y²."""


@functools.cache
def laboratory(name):
    """``(question, ask)``: ask, compiled once, gives the gradients of what it weighs to params and xs, and ys."""
    model, rng = MODELS[name], np.random.default_rng(0)
    params = random_params(model, scale=0.5)
    arrays = map(jnp.asarray, (LENGTHS, rng.integers(0, V, B), rng.integers(0, V, (T, B))))
    question = Question(params, model.start(params, (B,)), jnp.asarray(rng.normal(size=(S, B, I))), *arrays)

    def loss(params, xs, given):
        h = model.encode(params, given.h0, xs, lengths=given.lengths)
        ys = one_to_many(model.decoder, params, h, given.first, given.targets)
        return given.written * jnp.sum(ys**2) + given.encoded * sum(jnp.sum(a**2) for a in jax.tree.leaves(h)), ys

    gradients = jax.grad(loss, argnums=(0, 1), has_aux=True)
    return question, jax.jit(lambda given: gradients(given.params, given.xs, given))


@functools.cache
def compiled(cell):
    def step(params, h, x):
        h = cell.step(params, h, x)
        return h, cell.output(params, h)

    return jax.jit(step)


def by_hand(cell, params, h, xs):
    """``(h_T, ys)`` by a loop of one step after another."""
    ys = []
    for x in np.asarray(xs):
        h, y = compiled(cell)(params, h, x)
        ys.append(y)
    return h, np.array(ys)


def both_ways_by_hand(cells, params, xs):
    """``(y of the last state, ys)`` of one example."""
    there, back = (by_hand(c, p, c.start(p), x)[1] for c, p, x in zip(cells, params, (xs, xs[::-1]), strict=True))
    return np.concatenate([there[-1], back[-1]]), np.concatenate([there, back[::-1]], axis=-1)


def test_one_to_one_is_a_network_of_one_hidden_layer():
    model = readout(vanilla(I, H), V)
    params, x = random_params(model), jnp.asarray(np.random.default_rng(0).normal(size=(B, I)))
    (W_xh, W_hh, b_h), W_hy, b_y = jax.device_get(params)
    h0 = np.full((B, H), 0.5)
    hidden = np.tanh(np.asarray(x) @ W_xh + h0 @ W_hh + b_h)
    np.testing.assert_allclose(one_to_one(model, params, jnp.asarray(h0), x), hidden @ W_hy + b_y, rtol=1e-12)


@pytest.mark.parametrize("cell", [learned_start(lstm(I, H)), stack(with_logits(gru(I, 2)), lstm(V, H))])
def test_many_to_one_is_the_last_output_and_many_to_many_the_output_of_each_step(cell):
    params, rng = random_params(cell), np.random.default_rng(0)
    h0, xs, lengths = cell.start(params, (B,)), jnp.asarray(rng.normal(size=(S, B, I))), np.array([6, 3, 0])
    found = jax.jit(lambda lengths: many_to_one(cell, params, h0, xs, lengths=lengths))(lengths)
    _, expected = by_hand(cell, params, h0, xs)
    np.testing.assert_allclose(many_to_many(cell, params, h0, xs), expected, rtol=1e-12, atol=1e-14)
    last = np.stack([expected[5, 0], expected[2, 1], cell.output(params, h0)[2]])
    np.testing.assert_allclose(found, last, rtol=1e-12, atol=1e-14)


def test_the_last_output_of_both_directions_is_taken_where_each_has_read_everything():
    below, above = (lstm(I, H), gru(I, 2)), (gru(H + 2, 2), vanilla(H + 2, H))
    one = bidirectional(*below)
    deep = stack(one, bidirectional(*above))
    params = random_params(deep)
    xs = np.random.default_rng(0).normal(size=(S, B, I))
    beyond = np.arange(S)[:, None] >= LENGTHS
    dirty = jnp.asarray(np.where(beyond[..., None], np.nan, xs))
    once = many_to_one(one, params[0], one.start(params[0], (B,)), dirty, lengths=jnp.asarray(LENGTHS))
    twice = many_to_one(deep, params, deep.start(params, (B,)), dirty, lengths=jnp.asarray(LENGTHS))
    for b, length in enumerate(LENGTHS):
        last, ys = both_ways_by_hand(below, params[0], xs[:length, b])
        np.testing.assert_allclose(once[b], last, rtol=1e-12, atol=1e-14)
        last, _ = both_ways_by_hand(above, params[1], ys)
        np.testing.assert_allclose(twice[b], last, rtol=1e-12, atol=1e-14)


@functools.cache
def one_to_many_example():
    """``(cell, params, h0, first, targets)`` for one-to-many."""
    cell = with_logits(stack(lstm(V, H), gru(H, 2)))
    params, rng = random_params(cell), np.random.default_rng(0)
    h0 = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), cell.start(params, (B,)))
    return cell, params, h0, jnp.asarray(rng.integers(0, V, B)), jnp.asarray(rng.integers(0, V, (T, B)))


def test_one_to_many_reads_the_right_beginning_and_no_target_before_its_own_step():
    cell, params, h0, first, targets = one_to_many_example()
    logits_of = jax.jit(lambda targets: one_to_many(cell, params, h0, first, targets))
    ys = logits_of(targets)
    _, expected = by_hand(cell, params, h0, [first, *targets[:-1]])
    np.testing.assert_allclose(ys, expected, rtol=1e-12, atol=1e-14)
    for t in range(T):
        others = logits_of(targets.at[t].set((targets[t] + 1) % V))
        np.testing.assert_array_equal(others[: t + 1], ys[: t + 1])
        assert np.all(np.any(np.asarray(others != ys)[t + 1 :], axis=-1))
    assert one_to_many(cell, params, h0, first, targets[:0]).shape == (0, B, V)


@functools.cache
def sampler():
    """``((rate, key, targets) -> (ys, gradient of Σ sin y to params and h0))``, compiled, and its example."""
    cell, params, h0, first, _ = example = one_to_many_example()

    def loss(weights, rate, key, targets):
        ys = scheduled_sampling(cell, weights[0], key, weights[1], first, targets, rate)
        return jnp.sum(jnp.sin(ys)), ys

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    return lambda *given: gradient((params, h0), *given)[::-1], example


def forced(cell, params, h0, first, targets):
    """What ``sampler`` gives, under teacher forcing."""

    def loss(weights):
        ys = one_to_many(cell, weights[0], weights[1], first, targets)
        return jnp.sum(jnp.sin(ys)), ys

    return jax.jit(jax.grad(loss, has_aux=True))((params, h0))[::-1]


def test_scheduled_sampling_is_teacher_forcing_at_rate_0_and_reads_no_target_at_rate_1():
    ask, (cell, params, h0, first, targets) = sampler()
    chex.assert_trees_all_close(
        ask(0.0, KEY, targets), forced(cell, params, h0, first, targets), rtol=1e-12, atol=1e-14
    )
    free = ask(1.0, KEY, targets)
    chex.assert_trees_all_equal(ask(1.0, KEY, (targets + 1) % V), free)
    assert np.any(ask(1.0, jax.random.key(1), targets)[0] != free[0])
    ys = scheduled_sampling(cell, params, KEY, h0, first, targets, 1)  # a number, which is not traced
    np.testing.assert_allclose(ys, free[0], rtol=1e-12, atol=1e-14)


def test_no_gradient_flows_through_the_drawn_ids():
    ask, (cell, params, h0, first, targets) = sampler()
    ys, gradient = ask(0.5, KEY, targets)
    read, h, step = [], h0, jax.jit(jax.vmap(compiled(cell), in_axes=(None, None, 0)))
    for y in ys:  # which id makes this output?
        h, candidates = step(params, h, np.broadcast_to(np.arange(V)[:, None], (V, B)))
        misses = np.abs(np.asarray(candidates) - np.asarray(y)).max(-1)
        read.append(np.argmin(misses, axis=0))
        np.testing.assert_allclose(misses.min(0), 0, atol=1e-12)
        h = jax.tree.map(lambda a: np.asarray(a)[read[-1], np.arange(B)], h)
    own = np.array(read[1:]) != targets[:-1]
    assert 0 < np.count_nonzero(own) < own.size
    again = jnp.asarray(np.array([*read[1:], targets[-1]]))
    chex.assert_trees_all_close((ys, gradient), forced(cell, params, h0, first, again), rtol=1e-12, atol=1e-14)


def test_the_share_of_own_ids_is_the_rate_and_they_are_drawn_from_the_softmax():
    steps, keys = 61, jax.random.split(KEY, 40)
    mirror = cell_from_step(  # adds the id it has read to all its logits, which changes no probability
        init=lambda key: jnp.array([0.5, 0.0, -0.7, -1e9]),
        start=lambda logits, batch_shape=(): jnp.zeros(batch_shape),
        step=lambda logits, h, x: x.astype(float),
        output=lambda logits, h: h[..., None] + jnp.broadcast_to(logits, (*h.shape, V)),
    )
    logits, threes = mirror.init(KEY), jnp.full((steps, 2), 3)  # the model never draws a 3
    logits_of = functools.partial(scheduled_sampling, mirror, logits, first=threes[0], targets=threes, rate=0.3)
    ys = jax.vmap(lambda key: logits_of(key, mirror.start(logits, (2,))), out_axes=1)(keys)  # 40 batches of two
    read = np.round(np.asarray(ys)[..., 0] - 0.5).astype(int).reshape(steps, 80)
    assert np.all(read[0] == 3)
    own = read[1:] != 3
    np.testing.assert_allclose(own.mean(), 0.3, atol=4 * np.sqrt(0.3 * 0.7 / own.size))
    assert len(np.unique(own, axis=0)) == steps - 1
    assert len(np.unique(own, axis=1).T) == 80  # a coin for each step of each example
    p = np.exp([0.5, 0.0, -0.7]) / np.exp([0.5, 0.0, -0.7]).sum()
    found = np.bincount(read[1:][own], minlength=3)
    assert chisquare(found, found.sum() * p).pvalue > 1e-3


@pytest.mark.parametrize("name", list(MODELS))
def test_each_example_has_the_logits_it_has_alone_with_any_padding(name):
    question, ask = laboratory(name)
    model, b = MODELS[name], 1
    answer = ask(question)
    beyond = ~length_mask(question.lengths, S)[..., None]
    chex.assert_trees_all_equal(ask(question._replace(xs=jnp.where(beyond, jnp.nan, question.xs))), answer)
    _, h0, xs, _, first, targets, *_ = jax.device_get(question)
    one = jax.tree.map(lambda a: a[b], h0), xs[: LENGTHS[b], b], first[b], targets[:, b]
    alone = jax.jit(functools.partial(sequence_to_sequence, model))(question.params, *one)
    np.testing.assert_allclose(answer[1][:, b], alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_weight_and_every_step_of_the_source_matters_and_nothing_beyond_it(name):
    question, ask = laboratory(name)
    (to_params, to_xs), _ = ask(question)
    (_, from_start), _ = ask(question._replace(encoded=1.0, written=0.0))
    for path, gradient in jax.tree.leaves_with_path(to_params):
        assert any_nonzero(gradient), jax.tree_util.keystr(path)
    for gradient in (to_xs, from_start):
        np.testing.assert_array_equal(np.any(gradient != 0, axis=-1), np.arange(S)[:, None] < LENGTHS)


@pytest.mark.parametrize("name", ["gru to gru", "layers to a learned start"])
def test_teacher_forcing_on_what_greedy_wrote_makes_its_choices(name):
    question, ask = laboratory(name)
    model, params = MODELS[name], question.params
    h = model.encode(params, question.h0, question.xs, lengths=question.lengths)
    line = greedy(model.decoder, params, h, question.first, length=T)
    _, ys = ask(question._replace(targets=line.ids))
    np.testing.assert_array_equal(np.argmax(ys, axis=-1), line.ids)

    def logits_of(h0, xs, length, first, targets):
        return sequence_to_sequence(model, params, h0, xs, first, targets, lengths=length)

    mapped = jax.vmap(logits_of, in_axes=(0, 1, 0, 0, 1), out_axes=1)(*question[1:5], line.ids)  # and not compiled
    np.testing.assert_allclose(mapped, ys, rtol=1e-12, atol=1e-14)


def test_a_linear_bridge_adds_a_linear_map_of_the_last_output_to_the_decoders_start():
    encoder = bidirectional(gru(I, H), lstm(I, 2))
    model = encoder_decoder(encoder, learned_start(with_logits(stack(lstm(V, 2), gru(2, H)))))
    params, rng = random_params(model), np.random.default_rng(0)
    W, b = params.bridge
    assert W.shape == (H + 2, 2 + 2 + H)
    xs, h0 = jnp.asarray(rng.normal(size=(S, B, I))), model.start(params, (B,))
    s = np.asarray(many_to_one(encoder, params.encoder, h0, xs))
    numbers = s @ np.asarray(W) + np.asarray(b)
    (h, c), gru_h = jax.device_get(params.decoder.h_0)
    lstm_state, gru_state = model.encode(params, h0, xs)
    np.testing.assert_allclose(lstm_state.h, h + numbers[:, :2], rtol=1e-12)
    np.testing.assert_allclose(lstm_state.c, c + numbers[:, 2:4], rtol=1e-12)
    np.testing.assert_allclose(gru_state, gru_h + numbers[:, 4:], rtol=1e-12)


def test_a_bridge_may_be_of_a_wider_type_than_its_input():
    model = encoder_decoder(gru(I, H, dtype=jnp.float32), with_logits(gru(V, H)))
    params = model.init(KEY)
    wide = params._replace(bridge=jax.tree.map(lambda a: a.astype(jnp.float64), params.bridge))
    xs = jnp.ones((2, I), jnp.float32)
    reached = [model.encode(p, model.start(p), xs) for p in (params, wide)]
    np.testing.assert_allclose(*reached, rtol=1e-6)


def test_the_identity_bridge_returns_the_encoders_last_state():
    encoder = stack(lstm(I, 2), lstm(2, H))
    model = encoder_decoder(encoder, with_logits(stack(lstm(V, 2), lstm(2, H))), bridge=identity_bridge)
    params, xs = random_params(model), jnp.asarray(np.random.default_rng(0).normal(size=(S, B, I)))
    h0 = model.start(params, (B,))
    h_T, _ = by_hand(encoder, params.encoder, h0, xs)
    chex.assert_trees_all_close(model.encode(params, h0, xs), h_T, rtol=1e-12, atol=1e-14)
    assert not jax.tree.leaves(params.bridge)


def lesson():
    """``(params, loss, xs, targets, mask)``: the loss where the mask of targets is True."""
    question, _ = laboratory(name := "gru to gru")
    params, h0, xs, lengths, first, targets, *_ = question
    mask = length_mask(jnp.array([5, 2, 3]), T)

    def loss(params, xs, targets):
        ys = sequence_to_sequence(MODELS[name], params, h0, xs, first, targets, lengths=lengths)
        return cross_entropy(ys, targets, mask)

    return params, loss, xs, targets, mask


def test_the_gradient_of_sequence_to_sequence_agrees_with_finite_differences():
    params, loss, xs, targets, _ = lesson()
    vector, unravel = ravel_pytree(params)
    check_grads(jax.jit(lambda v, xs: loss(unravel(v), xs, targets)), (vector, xs), order=1, modes=["rev"])


def test_what_fills_up_short_targets_does_not_matter():
    params, loss, xs, targets, mask = lesson()
    ask = jax.jit(jax.value_and_grad(loss))
    chex.assert_trees_all_equal(ask(params, xs, targets), ask(params, xs, jnp.where(mask, targets, (targets + 1) % V)))


READS, WRITES = gru(I, H), with_logits(gru(V, H))


@pytest.mark.parametrize(
    ("encoder", "decoder", "bridge", "says"),
    [
        (READS, gru(V, H), linear_bridge, "decoder got GRU: the model predicts 3 ids but does not read as many"),
        (READS, with_logits(gru(V + 1, H)), linear_bridge, "decoder got Readout of GRU: the model predicts 4 ids but"),
        (
            READS,
            gru(V, H)._replace(output=lambda params, h: (h, h)),
            linear_bridge,
            "decoder got GRU: the model's output",
        ),
        (conv_lstm(1, 2, space=(3,)), WRITES, linear_bridge, "linear_bridge got an encoder whose output is"),
        (lstm(I, H), WRITES, identity_bridge, "identity_bridge got an encoder of state .h float64[3]"),
        (gru(I, 2), WRITES, identity_bridge, "identity_bridge got an encoder of state float64[2]"),
        (bidirectional(READS, READS), WRITES, identity_bridge, "identity_bridge got an encoder of state .forward"),
    ],
)
def test_what_cannot_be_joined_is_refused(encoder, decoder, bridge, says):
    refused(lambda: jax.eval_shape(encoder_decoder(encoder, decoder, bridge=bridge).init, KEY), says)


def test_targets_and_decoders_that_do_not_fit_are_refused():
    cell, params, h0, first, targets = one_to_many_example()
    outside, narrow = targets.at[0, 0].set(V), targets[:, :1]
    for wrong, says in ((outside, "targets got 4; want ids in"), (narrow, "targets got shape (5, 1)")):
        refused(lambda w=wrong: one_to_many(cell, params, h0, first, w), says)
        refused(lambda w=wrong: scheduled_sampling(cell, params, KEY, h0, first, w, 0.5), says)
    refused(lambda: one_to_many(cell, params, h0, first, targets / 2), "targets got float64; want integer ids")
    refused(lambda: encoder_decoder(READS, bidirectional(WRITES, WRITES)), "decoder got Layer; want a Cell")


def test_an_empty_source_is_refused():
    question, _ = laboratory(name := "gru to gru")
    encode = functools.partial(MODELS[name].encode, question.params, question.h0)
    refused(lambda: encode(question.xs[:0]), "xs got an empty source; want at least one step of every example")
    for lengths in (jnp.array([6, 0, 3]), np.array([0, 0, 0])):
        refused(lambda: encode(question.xs, lengths=lengths), "xs got an empty source; want at least one step of every")
    refused(lambda: encode(question.xs, mask=jnp.zeros((S, B), bool)), "xs got an empty source; want at least one step")
    refused(lambda: encode(question.xs[..., :1]), "xs got shape (T, 3, 1); want 2 features on the last axis")


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate):
    cell, params, h0, first, targets = one_to_many_example()
    says = f"rate got {rate}; want the probability of reading an id that the model has"
    refused(lambda: scheduled_sampling(cell, params, KEY, h0, first, targets, rate), says)
