"""What a loss returns beside its value, batches by name, and a key for every update."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

from functools import cache, partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax import gru, lru, readout, rollout, stack, vanilla, variational_dropout, weight_drop
from rnn_jax.dropout import dropout_mask, recurrent_dropout
from rnn_jax.gradients import streaming
from rnn_jax.losses import cross_entropy, per_step
from rnn_jax.training import Window, batch_learner, evaluate, fit, window_learner
from rnn_jax.training.learners import transform_key
from tests.laboratory import refused

V, K, B = 5, 4, 2
MODEL = readout(vanilla(V, 6), V)
IDS = jax.random.randint(jax.random.key(1), (6, K, B), 0, V)
WINDOWS = IDS, (IDS + 1) % V
KEY = jax.random.key(0)


def with_accuracy(ys, targets):
    return per_step(cross_entropy)(ys, targets), {"accuracy": jnp.mean(ys.argmax(-1) == targets)}


def test_auxiliary_outputs_of_windows_are_those_before_each_update():
    learner = window_learner(MODEL, with_accuracy, optax.sgd(0.1), has_aux=True)
    plain = window_learner(MODEL, per_step(cross_entropy), optax.sgd(0.1))
    state = learner.init(KEY, (B,))
    last, info = jax.jit(partial(fit, learner), donate_argnums=0)(learner.init(KEY, (B,)), WINDOWS)
    wanted, plain_info = jax.jit(partial(fit, plain))(state, WINDOWS)
    chex.assert_trees_all_equal((last.params, info._replace(aux=())), (wanted.params, plain_info))
    assert info.aux["accuracy"].shape == (6,)
    second, _ = jax.jit(partial(fit, plain))(state, jax.tree.map(lambda a: a[:5], WINDOWS))
    _, (_, aux) = streaming(MODEL, second.params, second.h, IDS[5], WINDOWS[1][5], with_accuracy, has_aux=True)
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[5], info.aux), aux)


@pytest.mark.parametrize(
    ("cell", "k1", "resets"),
    [(lru(2, 3), 4, None), (stack(gru(2, 3), vanilla(3, 3)), 4, [0, 0, 1, 0]), (vanilla(2, 3), 2, None)],
    ids=["lru", "stack with a reset", "overlapping windows"],
)
def test_a_profile_of_lags_changes_no_bit_of_an_update(cell, k1, resets):
    window = Window(jax.random.normal(KEY, (4, B, 2)), jnp.ones(k1), resets=resets and jnp.array(resets, bool))
    plain, measured = (
        window_learner(cell, lambda ys, _: jnp.sum(ys**2), optax.adam(0.1), lag_profile=on) for on in (False, True)
    )
    state = plain.init(KEY, (B,))
    after, info = measured.update(state, window)
    wanted, _ = plain.update(state, window)
    chex.assert_trees_all_equal(after.params, wanted.params)
    chex.assert_trees_all_equal(after.h, wanted.h)
    assert np.all(np.isfinite(info.lag_profile))


class Batch(NamedTuple):
    """A batch as a named tuple, in another order than the loss."""

    x: Any
    scale: Any


def line(params, x, scale):
    error = params["a"] * x - scale
    return jnp.sum(error**2), {"largest": jnp.max(error)}


def line_learner(**options):
    return batch_learner(lambda key: {"a": jnp.ones(())}, line, optax.sgd(0.1), has_aux=True, **options)


X, SCALE = jnp.array([[1.0, 2.0], [0.5, jnp.nan], [3.0, 1.0]]), jnp.array([0.5, 0.25, 2.0])


def test_the_auxiliary_output_of_a_skipped_update_is_kept_and_training_goes_on():
    learner = line_learner()
    state, info = jax.jit(partial(fit, learner))(learner.init(KEY), (X, SCALE))
    assert info.broken.tolist() == [-1, 0, -1]
    assert np.isnan(info.aux["largest"]).tolist() == [False, True, False]
    a = 1 - 0.1 * 2 * (0.5 + 2 * 1.5)  # d/da Σ (a x − s)² = 2 Σ x (a x − s)
    np.testing.assert_allclose(info.aux["largest"][::2], [1.5, 3 * a - 2], rtol=1e-12)
    assert int(state.step) == 2


def test_a_batch_by_name_is_the_same_batch():
    learner = line_learner()
    train = jax.jit(partial(fit, learner))
    wanted = train(learner.init(KEY), (X, SCALE))
    for batch in ({"scale": SCALE, "x": X}, Batch(X, SCALE), [X, SCALE]):
        chex.assert_trees_all_equal(train(learner.init(KEY), batch), wanted)
    whole = batch_learner(
        lambda key: {"a": jnp.ones(())}, lambda params, batch: line(params, *batch), optax.sgd(0.1), has_aux=True
    )
    chex.assert_trees_all_equal(jax.jit(partial(fit, whole))(whole.init(KEY), ((X, SCALE),)), wanted)
    one = batch_learner(lambda key: jnp.ones(()), lambda w, x: jnp.sum(w * x), optax.sgd(0.1))
    chex.assert_trees_all_equal(one.update(one.init(KEY), SCALE), one.update(one.init(KEY), (SCALE,)))


def test_a_window_by_name_is_the_same_window():
    learner = window_learner(MODEL, cross_entropy, optax.sgd(0.1))
    state, train = learner.init(KEY, (B,)), jax.jit(partial(fit, learner))
    resets = jnp.zeros((6, K), bool).at[3, 2].set(True)
    wanted = train(state, (*WINDOWS, None, resets))
    for windows in ({"resets": resets, "targets": WINDOWS[1], "xs": IDS}, Window(*WINDOWS, resets=resets)):
        chex.assert_trees_all_equal(train(state, windows), wanted)
    assert np.any(wanted[1].loss != train(state, WINDOWS)[1].loss)
    names = "window got parts inputs, targets; want xs and targets, and optionally a mask and resets"
    refused(lambda: learner.update(state, {"inputs": IDS[0], "targets": IDS[0]}), names)
    refused(lambda: learner.update(state, IDS[0]), "window got 1 parts; want xs and targets")


def test_a_loss_with_auxiliary_outputs_returns_a_pair():
    for learner, batch in (
        (window_learner(MODEL, cross_entropy, optax.sgd(0.1), has_aux=True), (IDS[0], IDS[0])),
        (batch_learner(MODEL.init, lambda p: p.W_hy.sum(), optax.sgd(0.1), has_aux=True), ()),
    ):
        refused(lambda of=learner, batch=batch: of.update(of.init(KEY, (B,)), batch), "loss got ")


def test_learners_with_auxiliary_outputs_go_under_vmap():
    learner = line_learner()
    states = jax.vmap(learner.init)(jax.random.split(KEY, 3))
    many, info = jax.vmap(lambda state: fit(learner, state, (X, SCALE)))(states)
    one, one_info = fit(learner, learner.init(KEY), (X, SCALE))
    assert info.aux["largest"].shape == (3, 3)
    np.testing.assert_allclose(many.params["a"], jnp.full(3, one.params["a"]), rtol=1e-12)
    np.testing.assert_allclose(info.aux["largest"][1], one_info.aux["largest"], rtol=1e-12)


def drawn(params, key, x):
    return jnp.sum(params * x), jax.random.normal(key)


def test_a_loss_that_draws_has_a_key_of_its_own_for_every_update():
    learner = batch_learner(lambda key: jnp.ones(()), drawn, optax.sgd(0.1), has_aux=True, keyed_loss=True)
    train, xs = jax.jit(partial(fit, learner)), jnp.ones(4)
    state, info = train(learner.init(KEY), xs)
    assert len({*info.aux.tolist()}) == 4
    half, first = train(learner.init(KEY), xs[:2])  # stopped, and gone on
    resumed, second = train(half, xs[2:])
    np.testing.assert_array_equal(jnp.concatenate([first.aux, second.aux]), info.aux)
    chex.assert_trees_all_equal(resumed, state)
    other = train(learner.init(jax.random.key(1)), xs)[1]
    assert not {*other.aux.tolist()} & {*info.aux.tolist()}


TRANSFORMS = {
    "weights": partial(weight_drop, rate=0.5),
    "states": partial(recurrent_dropout, rate=0.5, batch_shape=(B,)),
}


@cache
def transformed(name):
    learner = window_learner(MODEL, cross_entropy, optax.sgd(0.1), transform=TRANSFORMS[name])
    return learner, jax.jit(partial(fit, learner))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_one_mask_is_used_through_one_window_and_another_one_in_the_next(name):
    learner, train = transformed(name)
    state = learner.init(KEY, (B,))
    same = jax.tree.map(lambda a: jnp.stack([a[0]] * 3), WINDOWS)
    after, info = train(state, jax.tree.map(lambda a: a[:1], WINDOWS))

    def loss(params):
        dropped = TRANSFORMS[name](params, transform_key(state))
        return streaming(MODEL, dropped, state.h, IDS[0], WINDOWS[1][0], cross_entropy)[0]

    value, gradient = jax.value_and_grad(loss)(state.params)
    np.testing.assert_allclose(info.loss[0], value, rtol=1e-12)
    chex.assert_trees_all_close(after.params, jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradient), rtol=1e-9)
    frozen = window_learner(MODEL, cross_entropy, optax.sgd(0.0), transform=TRANSFORMS[name])
    losses = [fit(frozen, frozen.init(jax.random.key(seed), (B,)), same)[1].loss.tolist() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert len({*losses[0]}) == 3


def test_a_dropped_weight_has_no_gradient_in_its_window():
    learner, train = transformed("weights")
    state = learner.init(KEY, (B,))
    after, _ = train(state, jax.tree.map(lambda a: a[:1], WINDOWS))
    kept = weight_drop(state.params, transform_key(state), 0.5).cell.W_hh != 0
    np.testing.assert_array_equal(after.params.cell.W_hh != state.params.cell.W_hh, kept)
    assert 0 < kept.sum() < kept.size


@pytest.mark.parametrize("name", TRANSFORMS)
def test_training_with_masks_goes_on_bit_for_bit_and_evaluation_has_none(name):
    learner, train = transformed(name)
    whole, info = train(learner.init(KEY, (B,)), WINDOWS)
    half, first = train(learner.init(KEY, (B,)), jax.tree.map(lambda a: a[:2], WINDOWS))
    resumed, second = train(half, jax.tree.map(lambda a: a[2:], WINDOWS))
    chex.assert_trees_all_equal(resumed, whole)
    chex.assert_trees_all_equal(jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second), info)
    plain = evaluate(MODEL, whole.params, IDS[0], WINDOWS[1][0], cross_entropy)
    hs = rollout(MODEL, whole.params, MODEL.start(whole.params, (B,)), IDS[0])[1]
    np.testing.assert_allclose(plain, cross_entropy(MODEL.output(whole.params, hs), WINDOWS[1][0]), rtol=1e-12)


def test_a_cell_whose_recurrent_products_are_dropped_has_the_state_mask_of_variational_dropout():
    cell, xs, key = gru(3, 4), jax.random.normal(KEY, (5, B, 3)), jax.random.key(2)
    params = cell.init(KEY)
    mask = dropout_mask(jax.random.fold_in(key, 0), 0.5, (B, 4))
    assert 0 < (mask == 0).sum() < mask.size
    h0 = cell.start(params, (B,))
    wanted = rollout(variational_dropout(cell, state_mask=mask), params, h0, xs)
    chex.assert_trees_all_close(rollout(cell, recurrent_dropout(params, key, 0.5, (B,)), h0, xs), wanted, rtol=1e-12)
    deep = stack(gru(3, 4), vanilla(4, 5))
    masks = [
        W.mask
        for W in jax.tree.leaves(recurrent_dropout(deep.init(KEY), key, 0.5), is_leaf=is_dropped)
        if is_dropped(W)
    ]
    assert [m.shape for m in masks] == [(4,), (5,)]
    refused(lambda: recurrent_dropout({"W": jnp.ones(2)}, key, 0.5), "recurrent_dropout got params of ")
    refused(lambda: recurrent_dropout(params, key, 1.0), "rate got 1.0; want a dropout rate in [0, 1)")


def is_dropped(part):
    return hasattr(part, "mask")
