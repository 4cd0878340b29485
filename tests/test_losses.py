"""Losses of sequences against closed forms, what a mask hides from them, and their means per step."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_expit

from rnn_jax import gru, readout
from rnn_jax.gradients import chunked, parallel
from rnn_jax.losses import (
    binary_cross_entropy,
    cross_entropy,
    masked_mean,
    next_token_nats,
    per_step,
    squared_error,
)
from rnn_jax.sequences import length_mask
from rnn_jax.training import evaluate
from tests.laboratory import random_params, refused

T, B, O = 6, 3, 4
RNG = np.random.default_rng(0)
YS, MASK = jnp.asarray(2 * RNG.normal(size=(T, B, O))), RNG.random((T, B)) < 0.6
TARGETS = {
    cross_entropy: RNG.integers(0, O, (T, B)),
    binary_cross_entropy: RNG.integers(0, 2, (T, B, O)).astype(float),
    squared_error: RNG.normal(size=(T, B, O)),
}


def by_definition(loss, ys, targets):
    """Losses of each step ``(T, B)``, in NumPy."""
    if loss is squared_error:
        return ((ys - targets) ** 2).sum(-1)
    if loss is binary_cross_entropy:
        return -(targets * log_expit(ys) + (1 - targets) * log_expit(-ys)).sum(-1)
    return np.log(np.exp(ys).sum(-1)) - np.take_along_axis(ys, targets[..., None], -1)[..., 0]


@pytest.mark.parametrize("loss", TARGETS, ids=lambda loss: loss.__name__)
def test_a_loss_is_a_sum_over_time_and_a_mean_over_the_batch_of_what_is_not_masked(loss):
    targets, each = TARGETS[loss], by_definition(loss, np.asarray(YS), TARGETS[loss])
    np.testing.assert_allclose(loss(YS, targets), each.sum(0).mean(), rtol=1e-12)
    np.testing.assert_allclose(loss(YS, targets, MASK), (each * MASK).sum(0).mean(), rtol=1e-12)
    np.testing.assert_allclose(per_step(loss)(YS, targets), each.mean(), rtol=1e-12)
    np.testing.assert_allclose(per_step(loss)(YS, targets, MASK), each[MASK].mean(), rtol=1e-12)
    assert per_step(loss)(YS, targets, np.zeros_like(MASK)) == 0


@pytest.mark.parametrize("loss", TARGETS, ids=lambda loss: loss.__name__)
def test_what_stands_at_a_masked_step_changes_neither_value_nor_gradient(loss):
    value_and_grad = jax.jit(jax.value_and_grad(lambda ys, targets: per_step(loss)(ys, targets, MASK)))
    targets = TARGETS[loss]
    clean = value_and_grad(YS, targets)
    wrong = -7 if targets.dtype == int else np.nan
    broad = MASK if targets.ndim == 2 else MASK[..., None]
    dirty = value_and_grad(np.where(MASK[..., None], YS, np.nan), np.where(broad, targets, wrong))
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)
    assert np.all(np.any(clean[1] != 0, axis=-1) == MASK)


def test_the_gradient_of_log_odds_is_the_probability_less_the_target_however_sure_they_are():
    logits = jnp.array([-1000.0, -1.0, 0.0, 1.0, 1000.0])[None, None]
    for target in (0, 1, 0.25, True):
        targets = jnp.full_like(logits, target)
        gradient = jax.grad(binary_cross_entropy)(logits, targets)
        np.testing.assert_allclose(gradient, jax.nn.sigmoid(logits) - targets, rtol=1e-12, atol=1e-15)
    for target in (-0.1, 1.1):
        assert np.isnan(binary_cross_entropy(logits, jnp.full_like(logits, target)))
    notes = jnp.array([[[True, False, True, False, True]]])
    np.testing.assert_array_equal(binary_cross_entropy(logits, notes), binary_cross_entropy(logits, notes.astype(int)))


@pytest.mark.parametrize("loss", [binary_cross_entropy, squared_error], ids=lambda loss: loss.__name__)
def test_sums_of_few_bits_are_made_in_float32(loss):
    ys = jnp.asarray(np.tile(YS, (500, 1, 1)), jnp.bfloat16)
    targets = jnp.asarray(np.tile(TARGETS[loss], (500, 1, 1)), jnp.bfloat16)
    value = loss(ys, targets)
    assert value.dtype == jnp.float32
    truth = by_definition(loss, np.asarray(ys, float), np.asarray(targets, float)).sum(0).mean()
    np.testing.assert_allclose(value, truth, rtol=1e-5)


def test_a_masked_mean_is_that_of_the_values_that_count():
    values = np.where(MASK[..., None], YS, np.nan)
    np.testing.assert_allclose(masked_mean(jnp.asarray(values), MASK), YS[MASK].mean(), rtol=1e-12)
    nats = next_token_nats(YS, TARGETS[cross_entropy], MASK)
    np.testing.assert_allclose(
        masked_mean(nats, MASK), per_step(cross_entropy)(YS, TARGETS[cross_entropy], MASK), rtol=1e-12
    )
    assert masked_mean(jnp.ones(3), np.zeros(3, bool)) == 0
    refused(lambda: masked_mean(jnp.ones(3), jnp.ones(3)), "mask got float64 (3,); want bool (3,)")
    refused(lambda: masked_mean(jnp.ones(3), jnp.ones(2, bool)), "mask got bool (2,); want bool (3,)")


def test_an_evaluation_per_step_does_not_depend_on_its_windows():
    model = readout(gru(O, 3), O)
    params = random_params(model)
    ids, targets = jnp.asarray(RNG.integers(0, O, (2, 7, 2)))
    lengths = jnp.array([7, 3])
    alone = [
        evaluate(model, params, ids[:n, b, None], targets[:n, b, None], cross_entropy) for b, n in ((0, 7), (1, 3))
    ]
    for window in (2, 100):
        whole = evaluate(model, params, ids, targets, per_step(cross_entropy), lengths=lengths, window=window)
        np.testing.assert_allclose(whole, sum(alone) / 10, rtol=1e-12)
        total = evaluate(model, params, ids, targets, cross_entropy, mask=length_mask(lengths, 7), window=window)
        np.testing.assert_allclose(total, sum(alone) / 2, rtol=1e-12)
    mask = jnp.arange(7) < 4
    np.testing.assert_allclose(
        evaluate(model, params, ids, targets, per_step(cross_entropy), mask=mask, window=3),
        evaluate(model, params, ids[:4], targets[:4], cross_entropy) / 4,
        rtol=1e-12,
    )


def test_losses_that_do_not_fit_are_refused():
    ys, flat = jnp.zeros((3, 2, 4)), jnp.zeros((3, 2))
    refused(lambda: squared_error(ys, flat), "targets got shape (3, 2); want (3, 2, 4), one for each of the outputs")
    refused(lambda: binary_cross_entropy(ys.astype(int), ys), "logits got int64; want floating")
    refused(lambda: squared_error(ys, ys, jnp.ones(3, bool)), "mask got bool (3,); want bool (3, 2)")
    model = readout(gru(4, 3), 4)
    params, ids = random_params(model), jnp.zeros((3, 2), int)
    for program in (chunked, parallel):
        says = "loss got per_step(…); want the sum over time"
        refused(
            lambda p=program: p(model, params, model.start(params, (2,)), ids, ids, per_step(cross_entropy), window=2),
            says,
        )
