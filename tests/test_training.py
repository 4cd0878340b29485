"""Training: one update for each window, with the state carried on."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax import (
    cell_from_step,
    gru,
    learned_start,
    lstm,
    many_to_one,
    output_dropout,
    outputs,
    readout,
    rollout,
)
from rnn_jax.data.text import streams, vocabulary
from rnn_jax.losses import cross_entropy
from rnn_jax.training import batch_learner, evaluate, fit, require_finite, window_learner
from tests.laboratory import any_nonzero

SGD = optax.sgd(0.1)  # one, so that equal learners are compiled once


def hello(window=5, batch_size=2, repeats=12):
    v = vocabulary("hello ")
    return v, tuple(jnp.asarray(a) for a in streams(v.encode("hello " * repeats), batch_size, window))


def test_an_update_is_the_gradient_of_its_window_from_the_carried_state():
    learner, state, (xs, ys) = learner_of_hello()
    v, _ = hello()
    model = readout(lstm(v.size, 4), v.size)
    state, _ = learner.update(state, (xs[0], ys[0]))
    after, info = learner.update(state, (xs[1], ys[1]))

    def loss(params):
        h_T, hs = rollout(model, params, state.h, xs[1])
        return cross_entropy(outputs(model, params, hs), ys[1]), h_T

    (value, h_T), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    chex.assert_trees_all_close(after.h, h_T, rtol=1e-12)
    chex.assert_trees_all_close(info.loss, value, rtol=1e-12)
    by_hand = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    chex.assert_trees_all_close(after.params, by_hand, rtol=1e-12)
    norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(info.grad_norm, norm, rtol=1e-12)


def test_an_update_on_a_batch_of_whole_examples_is_one_step_of_gradient_descent():
    model = readout(gru(3, 4), 2)

    def loss(params, xs, targets):
        ys = many_to_one(model, params, model.start(params, targets.shape), xs)
        return cross_entropy(ys[None], targets[None])

    batch = jax.random.normal(jax.random.key(1), (5, 6, 3)), jnp.array([0, 1, 1, 0, 1, 1])
    learner = batch_learner(model.init, loss, optax.sgd(0.1))
    state = learner.init(jax.random.key(0), ())
    after, info = jax.jit(learner.update)(state, batch)
    value, gradient = jax.jit(jax.value_and_grad(loss))(state.params, *batch)
    by_hand = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradient)
    chex.assert_trees_all_close(after.params, by_hand, rtol=1e-12)
    norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(gradient)))
    np.testing.assert_allclose((info.loss, info.grad_norm), (value, norm), rtol=1e-12)
    assert after.h == ()


def test_hello_is_learned():
    v, windows = hello()
    model = readout(gru(v.size, 8), v.size)
    learner = window_learner(model, cross_entropy, optax.adam(0.05))
    state, info = jax.jit(lambda key: fit_epochs(learner, key, windows, 30))(jax.random.key(0))
    assert info.loss[0] > 5 * 1.2  # nats of a window of five characters
    assert info.loss[-1] < 0.5
    xs, ys = (a.transpose(2, 0, 1).reshape(2, -1).T for a in windows)
    assert evaluate(model, state.params, xs, ys, cross_entropy) < 0.2 * len(xs)


def fit_epochs(learner, key, windows, epochs):
    xs, ys = (jnp.tile(a, (epochs, 1, 1)) for a in windows)
    return fit(learner, learner.init(key, (2,)), (xs, ys))


@cache
def learner_of_hello(**options):
    v, windows = hello()
    learner = window_learner(readout(lstm(v.size, 4), v.size), cross_entropy, SGD, **options)
    return learner, learner.init(jax.random.key(0), (2,)), windows


def test_clipping_shortens_the_gradient_and_is_reported():
    plain, state, (xs, ys) = learner_of_hello()
    clipped, _, _ = learner_of_hello(clip=0.5)
    after, info = plain.update(state, (xs[0], ys[0]))
    short, clipped_info = clipped.update(state, (xs[0], ys[0]))
    assert not info.clipped
    assert clipped_info.clipped
    np.testing.assert_allclose(info.clipped_norm, info.grad_norm)
    chex.assert_trees_all_close((clipped_info.grad_norm, clipped_info.clipped_norm), (info.grad_norm, jnp.asarray(0.5)))
    long, step = (jax.tree.map(jnp.subtract, s.params, state.params) for s in (after, short))
    chex.assert_trees_all_close(jax.tree.map(lambda a: a * 0.5 / info.grad_norm, long), step, rtol=1e-10)
    np.testing.assert_allclose(info.update_ratio, 0.1 * info.grad_norm / optax.tree.norm(state.params))


def test_an_update_that_is_not_finite_is_skipped_counted_and_named():
    learner = batch_learner(lambda key: {"v": jnp.ones(2), "w": jnp.ones(2)}, root_of_w, optax.adam(0.1))
    state = learner.init(jax.random.key(0))
    good, _ = learner.update(state, (jnp.ones(()),))
    same, info = learner.update(good, (jnp.zeros(()),))  # √0 has a value and no gradient
    assert np.isfinite(info.loss)
    chex.assert_trees_all_equal((same.params, same.optimizer), (good.params, good.optimizer))
    assert (int(same.step), int(same.cursor), int(info.broken)) == (1, 2, 2)
    state, info = fit(learner, good, (jnp.array([1.0, 0.0, 1.0, jnp.nan]),))
    assert (int(state.step), int(state.cursor)) == (3, 5)
    assert info.broken.tolist() == [-1, 2, -1, 0]
    with pytest.raises(FloatingPointError, match=r"^batch 2 \(update 2\) got a gradient of params\['w'\] that is not"):
        require_finite(state, info)
    require_finite(state, jax.tree.map(lambda a: a[:1], info))
    chex.assert_tree_all_finite((state.params, state.optimizer))


def slope_of(params, x):
    return jnp.sum(params * x)


@pytest.mark.parametrize(("slope", "rate", "broken"), [(1e30, 0.1, 2), (1.0, float("inf"), 3)])
def test_a_norm_or_an_update_that_overflows_is_skipped_too(slope, rate, broken):
    learner = batch_learner(lambda key: jnp.ones(2, jnp.float32), slope_of, optax.sgd(rate), clip=1.0)
    state = learner.init(jax.random.key(0))
    after, info = learner.update(state, (jnp.float32(slope),))  # whose square is no float32
    chex.assert_trees_all_equal(after.params, state.params)
    assert int(info.broken) == broken


def root_of_w(params, x):
    return jnp.sum(params["v"] ** 2) + jnp.sum(jnp.sqrt(x * params["w"]))


def test_a_state_that_is_not_finite_is_not_carried_on():
    learner, state, (xs, ys) = learner_of_hello()
    state, _ = learner.update(state, (xs[0], ys[0]))
    wild = state._replace(h=jax.tree.map(lambda h: jnp.full_like(h, jnp.nan), state.h))
    after, info = learner.update(wild, (xs[0], ys[0]))
    chex.assert_trees_all_equal(after.params, state.params)
    assert int(info.broken) == 0
    assert not any_nonzero(after.h)
    _, info = learner.update(after, (xs[1], ys[1]))
    assert int(info.broken) == -1


def doubling():
    """A state that doubles at each step and overflows in the tenth window; what is seen of it stays small."""
    return cell_from_step(
        lambda key: jnp.ones((), jnp.float32),
        lambda params, batch_shape=(): jnp.ones((*batch_shape, 1), jnp.float32),
        lambda w, h, u: 2.0 * h + 0.0 * w,
    )


def test_a_state_that_overflows_without_reaching_the_loss_starts_again():
    cell = doubling()._replace(output=lambda w, h: w * jnp.ones_like(h))
    learner = window_learner(cell, lambda ys, _: jnp.sum(ys**2), optax.sgd(1e-3))
    windows = jnp.zeros((20, 14, 1), jnp.float32), jnp.zeros((20, 14), jnp.float32)
    state, info = fit(learner, learner.init(jax.random.key(0)), windows)
    assert [n for n, broken in enumerate(info.broken.tolist()) if broken >= 0] == [9, 19]
    assert (int(state.step), int(state.cursor)) == (18, 20)
    assert state.h.tolist() == [1.0]
    with pytest.raises(FloatingPointError, match=r"^batch 9 \(update 9\) got a carried state that is not finite; want"):
        require_finite(state, info)


def test_a_state_may_hold_what_is_not_finite_if_it_begins_so():
    running = cell_from_step(  # the greatest so far
        lambda key: jnp.ones(()),
        lambda params, batch_shape=(): jnp.full((*batch_shape, 1), -jnp.inf),
        lambda w, h, x: jnp.maximum(h, w * x),
    )
    learner = window_learner(running, lambda ys, _: jnp.sum(jnp.where(ys > 0, ys, 0.0)), optax.sgd(0.1))
    mask = jnp.array([[True, False]] * 3)
    state, info = learner.update(learner.init(jax.random.key(0), (2,)), (jnp.ones((3, 2, 1)), jnp.zeros((3, 2)), mask))
    assert (int(info.broken), int(state.step)) == (-1, 1)
    assert state.h.tolist() == [[1.0], [-jnp.inf]]


def test_the_first_window_begins_with_the_state_that_it_is_given():
    learner, state, (xs, ys) = learner_of_hello()
    own = state._replace(h=jax.tree.map(lambda h: h + 0.5, state.h))
    assert learner.update(own, (xs[0], ys[0]))[1].loss != learner.update(state, (xs[0], ys[0]))[1].loss


def test_a_learned_start_is_trained_by_the_first_window_and_by_resets():
    v, (xs, ys) = hello()
    model = readout(learned_start(gru(v.size, 4)), v.size)
    learner = window_learner(model, cross_entropy, SGD)
    state = learner.init(jax.random.key(0), (2,))
    first, _ = learner.update(state, (xs[0], ys[0]))
    moved = lambda a, b: any_nonzero(jax.tree.map(jnp.subtract, a.params.cell.h_0, b.params.cell.h_0))  # noqa: E731
    assert moved(first, state)
    second, _ = learner.update(first, (xs[1], ys[1]))
    assert not moved(second, first)
    third, _ = learner.update(second, (xs[2], ys[2], jnp.ones(5, bool), jnp.arange(5) == 2))
    assert moved(third, second)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.adam(0.01), optax.contrib.reduce_on_plateau()),
        optax.polyak_sgd(max_learning_rate=0.1),
        optax.MultiSteps(optax.adam(0.01), 3).gradient_transformation(),
        optax.chain(optax.adaptive_grad_clip(0.1), optax.lion(0.01)),
        optax.contrib.sam(optax.adam(0.01), optax.sgd(0.05)),
    ],
    ids=["needs the loss", "needs it too", "accumulates gradients", "a chain", "accepts no extra argument"],
)
def test_any_transformation_that_descends_without_searching_learns(optimizer):
    v, windows = hello()
    learner = window_learner(readout(lstm(v.size, 4), v.size), cross_entropy, optimizer)
    state, info = fit(learner, learner.init(jax.random.key(0), (2,)), tuple(jnp.tile(w, (9, 1, 1)) for w in windows))
    assert int(state.step) == len(info.loss)
    assert info.loss[-1] < info.loss[0]


def test_overlapping_windows_learn_from_their_last_characters_and_move_on_by_as_many():
    v = vocabulary("hello ")
    model = readout(lstm(v.size, 4), v.size)
    xs, ys = map(jnp.asarray, streams(v.encode("hello " * 9), batch_size=2, window=5, k1=2))
    learner = window_learner(model, cross_entropy, optax.sgd(0.0))
    state, info = fit(learner, learner.init(jax.random.key(0), (2,)), (xs, ys))
    lanes = jnp.concatenate([xs[0], xs[1:, -2:].reshape(-1, 2)])
    _, hs = rollout(model, state.params, model.start(state.params, (2,)), lanes)
    whole = outputs(model, state.params, hs)
    np.testing.assert_allclose(info.loss[2], cross_entropy(whole[7:9], ys[2]), rtol=1e-12)
    chex.assert_trees_all_close(state.h, jax.tree.map(lambda h: h[2 * len(xs) - 1], hs), rtol=1e-12)


def test_every_window_has_new_random_numbers_and_the_same_key_gives_the_same():
    v, (xs, ys) = hello()
    model = readout(output_dropout(lstm(v.size, 8), 0.5), v.size)
    learner = window_learner(model, cross_entropy, optax.sgd(0.0))
    same = jax.tree.map(lambda a: jnp.stack([a[0]] * 3), (xs, ys))
    losses = [fit(learner, learner.init(jax.random.key(seed), (2,)), same)[1].loss.tolist() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert len({*losses[0]}) == 3


def test_marks_of_a_window_reach_the_rollout():
    learner, state, (xs, ys) = learner_of_hello()
    resets = jnp.zeros(5, bool).at[2].set(True)
    after, _ = learner.update(state, (xs[0], ys[0], jnp.ones(5, bool), resets))
    v, _ = hello()
    model = readout(lstm(v.size, 4), v.size)
    h_T, _ = rollout(model, state.params, state.h, xs[0], resets=resets)
    chex.assert_trees_all_close(after.h, h_T, rtol=1e-12)


def test_evaluation_in_small_windows_is_that_of_the_whole_stream():
    v, _ = hello()
    model = readout(lstm(v.size, 4), v.size)
    params, ids = model.init(jax.random.key(0)), jnp.asarray(v.encode("hello " * 9))[:, None]
    whole = evaluate(model, params, ids[:-1], ids[1:], cross_entropy)
    _, hs = rollout(model, params, model.start(params, (1,)), ids[:-1])
    np.testing.assert_allclose(whole, cross_entropy(outputs(model, params, hs), ids[1:]), rtol=1e-12)
    np.testing.assert_allclose(evaluate(model, params, ids[:-1], ids[1:], cross_entropy, window=4), whole, rtol=1e-12)
