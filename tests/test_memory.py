"""Effective memory of networks whose memory is known."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax as rnn
from rnn_jax import ComplexState, cell_from_step, rollout
from rnn_jax.diagnostics.memory import loss_by_context, memory_capacity, recall_scores
from rnn_jax.losses import cross_entropy, squared_error
from tests.laboratory import refused

KEY = jax.random.key(7)


def delay_line(length, read=slice(None)):
    """h = (x_t, x_{t−1}, …): a shift register, whose output is some of its numbers."""
    return cell_from_step(
        init=lambda key: (),
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, length)),
        step=lambda params, h, x: jnp.concatenate([x, h[..., :-1]], axis=-1),
        output=lambda params, h: h[..., read],
    )


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_delay_line_recalls_its_length_and_no_more(batch):
    cell, xs = delay_line(5), jax.random.normal(KEY, (3000, *batch, 1))
    _, hs = rollout(cell, (), cell.start((), batch), xs)
    scores = recall_scores(hs, xs, range(12))
    assert scores.shape == (12, 1)
    np.testing.assert_allclose(scores[:5], 1, atol=1e-9)
    assert np.all(scores[5:] < 0.01)
    np.testing.assert_allclose(memory_capacity(scores), 5, atol=0.02)


def test_a_leaky_average_recalls_by_its_closed_form():
    # Of h = Σ a^k x_{t−k}, of variance 1/(1 − a²), x_{t−k} makes up R²(k) = (1 − a²) a^2k, which add up to 1.
    a, xs = 0.8, jax.random.normal(KEY, (40_000, 1))
    cell = cell_from_step(
        lambda key: a, lambda _, batch_shape=(): jnp.zeros((*batch_shape, 1)), lambda a, h, x: a * h + x
    )
    scores = recall_scores(rollout(cell, a, jnp.zeros(1), xs)[1], xs, range(40))[:, 0]
    np.testing.assert_allclose(scores, (1 - a**2) * a ** (2 * np.arange(40)), atol=0.02)
    np.testing.assert_allclose(memory_capacity(scores[:, None]), 1, atol=0.04)


def test_a_linear_network_has_a_capacity_of_at_most_its_size():
    H = 8
    cell = rnn.vanilla(1, H, activation="linear", recurrent_init=rnn.initializers.orthogonal(0.9))
    params, xs = cell.init(KEY), jax.random.normal(KEY, (8000, 1))
    _, hs = rollout(cell, params, cell.start(params), xs)
    capacity = memory_capacity(recall_scores(hs, xs, range(60)))
    assert 0.9 * H < capacity <= H


def test_every_feature_has_a_score_and_parts_of_a_state_are_read_together():
    xs = jax.random.normal(KEY, (2000, 2))
    parts = ComplexState(re=xs[:, :1], im=jnp.concatenate([jnp.zeros((1, 1)), xs[:-1, 1:]]))
    scores = recall_scores(parts, xs, (0, 1))
    np.testing.assert_allclose(scores, [[1, 0], [0, 1]], atol=0.01)
    numbers = recall_scores(jax.lax.complex(parts.re, parts.im), xs, (0, 1))
    np.testing.assert_allclose(numbers, scores, rtol=1e-12)


def test_a_state_on_a_scale_of_its_own_is_read_in_float32():
    xs = jax.random.normal(KEY, (2000, 1), jnp.float32)
    hs = jnp.concatenate([xs, 1e-6 * jnp.roll(xs, 1, axis=0), jnp.ones_like(xs)], axis=-1)
    np.testing.assert_allclose(recall_scores(hs, xs, (0, 1)), 1, atol=1e-4)


@pytest.mark.parametrize(("k", "stride"), [(0, None), (3, 2)])
def test_a_prediction_by_the_input_k_steps_ago_needs_k_and_one_inputs(k, stride):
    cell, xs = delay_line(6, read=slice(k, k + 1)), jax.random.normal(KEY, (600, 2, 1))
    targets = jnp.concatenate([jnp.zeros((k, 2, 1)), xs])[:600]
    losses = loss_by_context(
        cell, (), cell.start((), (2,)), xs, targets, squared_error, contexts=range(1, 7), stride=stride
    )
    assert not losses[k:].any()
    assert np.all(np.abs(losses[:k] - 1) < 4 * math.sqrt(2 / 200))


def test_the_loss_of_a_context_is_that_of_windows_read_from_the_start():
    cell = rnn.readout(rnn.gru(4, 3), 4)
    params = cell.init(KEY)
    ids = jax.random.randint(KEY, (11, 2), 0, 4)
    targets = jnp.roll(ids, -1, axis=0)
    losses = loss_by_context(cell, params, cell.start(params, (2,)), ids, targets, cross_entropy, contexts=(4, 2))
    expected = []
    for n in (4, 2):
        of_windows = []
        for first in (0, 4):
            h, _ = rollout(cell, params, cell.start(params, (2,)), ids[first : first + n])
            of_windows.append(cross_entropy(cell.output(params, h)[None], targets[first + n - 1][None]))
        expected.append(np.mean(of_windows))
    np.testing.assert_allclose(losses, expected, rtol=1e-12)


def test_wrong_arguments_are_refused():
    xs, hs = jnp.ones((20, 1)), jnp.ones((20, 3))
    for delays in ((-1,), (20,), (1.5,), (), ("1",), 3):
        refused(lambda delays=delays: recall_scores(hs, xs, delays), "delays got ")
    for ridge in (0.0, -1.0, math.nan, math.inf, "1", None):
        refused(lambda ridge=ridge: recall_scores(hs, xs, (1,), ridge=ridge), "ridge got ")
    refused(lambda: recall_scores(hs[1:], xs, (1,)), "hs got shape (19, 3); want (20,) leading")
    refused(lambda: recall_scores(hs, jnp.ones(20, int), (1,)), "xs got int64[20]; want floating")
    refused(lambda: recall_scores(hs, xs, (15,)), "xs got 2 examples for a fit; want more than 3")
    refused(lambda: recall_scores(hs.astype(complex), xs, (10,)), "xs got 5 examples for a fit; want more than 6")
    refused(lambda: recall_scores(hs, {"a": xs}, (1,)), "xs got ['a'] float64[20, 1]; want floating")
    cell = delay_line(3)

    def losses(contexts=(1, 2), stride=None, targets=xs, loss=squared_error):
        return loss_by_context(cell, (), jnp.zeros(3), xs, targets, loss, contexts=contexts, stride=stride)

    for contexts in ((0,), (21,), (1.5,), (), 3):
        refused(lambda contexts=contexts: losses(contexts), "contexts got ")
    for stride in (0, 1.5, "2"):
        refused(lambda stride=stride: losses(stride=stride), "stride got ")
    refused(lambda: losses(targets=xs[1:]), "targets got shape (19, 1); want 20 steps leading")
    refused(lambda: losses(loss=lambda ys, targets: ys - targets), "loss got shape ")


def test_a_large_state_in_float32_has_a_capacity_and_a_constant_input_none():
    cell = rnn.vanilla(1, 60, activation="linear", recurrent_init=rnn.initializers.orthogonal(0.45), dtype=jnp.float32)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (1500, 1), jnp.float32)
    _, hs = rollout(cell, params, cell.start(params), xs)
    assert 5 < memory_capacity(recall_scores(hs, xs, tuple(range(40)))) < 60
    assert np.isnan(recall_scores(hs, jnp.full((1500, 1), 0.1, jnp.float32), (1,))).all()
