"""Training: one update a window, the state carried on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax import gru, lstm, many_to_one, outputs, readout, rollout, vanilla
from rnn_jax.counting import matching_size, parameter_count
from rnn_jax.losses import cross_entropy
from rnn_jax.text import streams, vocabulary
from rnn_jax.training import batch_learner, evaluate, fit, window_learner


def hello(window=5, batch_size=2, repeats=12):
    v = vocabulary("hello ")
    return v, tuple(jnp.asarray(a) for a in streams(v.encode("hello " * repeats), batch_size, window))


def test_an_update_is_the_gradient_of_its_window_from_the_carried_state():
    v, (xs, ys) = hello()
    model = readout(lstm(v.size, 4), v.size)
    learner = window_learner(model, cross_entropy, optax.sgd(0.1))
    state = learner.init(jax.random.key(0), (2,))
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


@pytest.mark.parametrize("factory", [vanilla, gru, lstm])
def test_hello_is_learned(factory):
    v, windows = hello()
    model = readout(factory(v.size, 8), v.size)
    learner = window_learner(model, cross_entropy, optax.adam(0.05))
    state, info = jax.jit(lambda key: fit_epochs(learner, key, windows, 30))(jax.random.key(0))
    assert info.loss[0] > 5 * 1.2  # nats of a window of five letters
    assert info.loss[-1] < 0.5
    xs, ys = (a.transpose(2, 0, 1).reshape(2, -1).T for a in windows)
    assert evaluate(model, state.params, cross_entropy, xs, ys) < 0.2 * len(xs)


def fit_epochs(learner, key, windows, epochs):
    xs, ys = (jnp.tile(a, (epochs, 1, 1)) for a in windows)
    return fit(learner, learner.init(key, (2,)), (xs, ys))


COUNTS = {
    vanilla: lambda H: H * (20 + H + 1),
    gru: lambda H: 3 * H * (20 + H + 1) + H,
    lstm: lambda H: 4 * H * (20 + H + 1),
}


@pytest.mark.parametrize("factory", list(COUNTS))
@pytest.mark.parametrize("parameters", [50, 1000, 49_703])
def test_no_other_size_comes_closer_to_a_number_of_parameters(factory, parameters):
    counts = np.array([COUNTS[factory](H) for H in range(1, 250)])
    best = 1 + int(np.argmin(np.abs(counts - parameters)))
    assert matching_size(lambda H: factory(20, H), parameters) == best
    assert parameter_count(factory(20, best)) == counts[best - 1]
