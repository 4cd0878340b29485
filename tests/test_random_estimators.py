"""Random estimators of the gradient: unbiased, of a known variance, and right for gradients of any size."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rnn_jax import cell_from_step, gru, readout, vanilla
from rnn_jax.gradients.estimators import artbp, bptt, compare_estimator, truncated
from rnn_jax.gradients.influence import uoro
from tests.test_estimators import assert_same, flat, problem, squares


@cache
def random_problem(name):
    """A small network whose loss is that of an output layer: the same for all random estimators."""
    core = {"vanilla": vanilla(2, 3), "gru": gru(2, 3)}[name]
    return problem(readout(core, 2), steps=6, batch=(2,), seed=1)


@pytest.mark.parametrize("name", ["vanilla", "gru"])
@pytest.mark.parametrize(("estimator", "options"), [(uoro, {}), (artbp, {"mean_window": 3.0})], ids=["uoro", "artbp"])
def test_the_mean_of_a_random_estimator_is_back_propagation(name, estimator, options):
    given = random_problem(name)
    value, exact = bptt(*given)
    values, estimates = jax.vmap(lambda key: estimator(*given, key=key, **options))(
        jax.random.split(jax.random.key(0), 10_000)
    )
    np.testing.assert_allclose(values, value, rtol=1e-12)
    g = flat(exact)
    errors = np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(estimates)) - g
    directions = np.concatenate([g[None], np.random.default_rng(0).normal(size=(9, g.size))])
    projected = errors @ directions.T
    standard_errors = projected.std(axis=0, ddof=1) / np.sqrt(len(projected))
    assert np.all(np.abs(projected.mean(axis=0)) < 4 * standard_errors)
    assert np.linalg.norm(errors, axis=1).min() > 1e-3 * np.linalg.norm(g)  # each of them is wrong
    assert standard_errors[0] < 0.005 * g @ g  # and a bias of some percent would be seen


power = cell_from_step(
    lambda key: 0.2, lambda params, batch_shape=(): jnp.full((*batch_shape, 1), 0.9), lambda w, x, u: w * x
)


def third(xs, is_last):
    return xs[:, 0] @ is_last


def test_the_quality_of_estimators_of_a_power_is_worked_by_hand():
    # x_3 = w³ x_0 and dx_3/dw = 3 x_2 with x_2 = w² x_0. Truncation to one step leaves x_2: a bias of 2/3. ARTBP with
    # c = ½ leaves x_2, 3 x_2 and 7 x_2 with probabilities ½, ¼ and ¼: the variance is (½ + 9/4 + 49/4 − 9)/9 = 2/3.
    w = jnp.asarray(0.2)
    given = power, w, power.start(w), jnp.zeros((3, 1)), jnp.array([0.0, 0.0, 1.0]), third
    keys = jax.random.split(jax.random.key(0), 20_000)
    quality = compare_estimator(truncated, *given, keys=keys[:2], window=1)
    np.testing.assert_allclose(quality.bias, 2 / 3, rtol=1e-12)
    np.testing.assert_allclose(quality.cosine, [1, 1], rtol=1e-12)
    assert quality.variance < 1e-30
    quality = compare_estimator(artbp, *given, keys=keys, mean_window=2)
    assert quality.bias < 4 * quality.bias_error
    np.testing.assert_allclose(quality.bias_error, np.sqrt(2 / 3 / 20_000), rtol=0.03)
    np.testing.assert_allclose(quality.variance, 2 / 3, rtol=0.05)
    estimates = jax.vmap(lambda key: artbp(*given, mean_window=2, key=key)[1])(keys) / 0.036
    shares = [np.mean(np.isclose(estimates, factor)) for factor in (1, 3, 7)]
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=4 * 0.5 / np.sqrt(20_000))


def test_uoro_of_one_unit_is_exact_for_one_step():
    # With S = 1, s̃ θ̃ᵀ = ν · ν D = D; at later steps the products of ν with the past are added.
    given = problem(vanilla(2, 1), steps=1)
    assert_same(uoro(*given, key=jax.random.key(3)), bptt(*given))


def test_uoro_forgets_what_the_state_forgets():
    # h_t = w x_t: nothing of the past is left, so each estimate of one unit is exact.
    one = cell_from_step(
        lambda key: 1.0, lambda params, batch_shape=(): jnp.ones((*batch_shape, 1)), lambda w, h, x: w * x
    )
    given = one, jnp.asarray(1.0), jnp.ones(1), jnp.ones((60, 1)), jnp.zeros(60).at[-1].set(1.0), squares
    assert_same(uoro(*given, key=jax.random.key(0)), bptt(*given))


def test_uoro_is_finite_where_squares_leave_float32():
    # States are of 3^50 = 7e23, and the loss is small: the gradient is an ordinary number.
    cell = vanilla(1, 2, activation="linear", dtype=jnp.float32)
    params = cell.init(jax.random.key(0))._replace(W_hh=3 * jnp.eye(2, dtype=jnp.float32))
    given = cell, params, cell.start(params), jnp.ones((50, 1), jnp.float32)
    large, small = (
        flat(uoro(*given, jnp.full(50, scale, jnp.float32), lambda ys, c: ys[0, 0] * c[0], key=jax.random.key(0))[1])
        for scale in (1.0, 1e-30)
    )
    assert 1e20 < np.abs(large).max() < np.inf
    np.testing.assert_allclose(small * 1e30, large, rtol=1e-5)


def test_the_quality_of_an_estimator_does_not_depend_on_the_size_of_the_gradient():
    cell = vanilla(1, 2, dtype=jnp.float32)
    params, keys = cell.init(jax.random.key(0)), jax.random.split(jax.random.key(0), 4)
    given = cell, params, cell.start(params), jnp.ones((3, 1), jnp.float32)
    qualities = [
        compare_estimator(
            uoro, *given, jnp.full(3, scale, jnp.float32), lambda ys, c: jnp.sum(ys[:, 0]) * c[0], keys=keys
        )
        for scale in (1.0, 1e-25, 0.0)
    ]
    chex.assert_trees_all_close(qualities[1], qualities[0], rtol=1e-5)
    assert all(np.all(np.isnan(leaf)) for leaf in qualities[2])
