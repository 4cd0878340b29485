"""Gradients by lag against closed forms and against products of step Jacobians."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rnn_jax import (
    gru,
    gru_reset_before,
    initializers,
    lag_gradients,
    leading_gain,
    lstm,
    rollout,
    step_jacobian,
    summarise_lags,
    vanilla,
)
from rnn_jax.diagnostics.states import recurrent_parts
from tests.cases import CASES
from tests.laboratory import example, random_example


@pytest.mark.parametrize("gain", [0.3, 1.0, 3.0])
def test_a_linear_orthogonal_network_changes_its_gradient_by_ln_g_a_step(gain):
    cell = vanilla(2, 16, activation="linear", recurrent_init=initializers.orthogonal(gain), dtype=jnp.float32)
    params = cell.init(jax.random.key(0))
    h0 = cell.start(params, (3,))
    xs = jnp.zeros((1000, 3, 2), jnp.float32)
    lags = lag_gradients(cell, params, h0, xs, lambda y: y @ jnp.arange(1, 17, dtype=jnp.float32))
    chex.assert_shape(lags.log_norm, (1001, 3))
    chex.assert_type(lags.log_norm, jnp.float32)
    chex.assert_tree_all_finite(lags.log_norm)  # at 0.3 and 3 the norms are e^∓1200 and e^1100, far outside float32
    np.testing.assert_allclose(summarise_lags(lags.log_norm).slope, math.log(gain), atol=1e-5)
    np.testing.assert_allclose(lags.log_norm[1000] - lags.log_norm[0], 1000 * math.log(gain), atol=1e-2)


@pytest.mark.parametrize("bias", [-1.0, 1.0, 3.0])
def test_an_lstm_without_weights_forgets_by_the_sigmoid_of_its_forget_bias(bias):
    # With W = 0 and c_0 = 0: g = tanh 0 = 0, so c_t = σ(b) c_{t−1} and h never feeds back: ∂c_T/∂c_{T−k} = σ(b)^k I.
    # Seeing c alone, the joint adjoint is (0, σ(b)^k): the part of h is exactly zero.
    cell = lstm(2, 3, forget_bias=bias)
    cell = cell._replace(output=lambda params, state: state.c)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0)))
    params = params._replace(b_h=params.b_h.at[3:6].set(bias))
    lags = lag_gradients(cell, params, cell.start(params), jnp.ones((40, 2)), loss=lambda c: c[0])
    expected = np.arange(41) * -np.log1p(np.exp(-bias))
    np.testing.assert_allclose(lags.log_norm, expected, rtol=1e-12)
    np.testing.assert_allclose(lags.log_norm_of.c, expected, rtol=1e-12)
    assert np.all(np.isneginf(lags.log_norm_of.h))
    if bias == 1.0:
        np.testing.assert_allclose(summarise_lags(lags.log_norm).half_life, 2.21, atol=0.005)


def test_the_forget_bias_begins_at_the_value_given():
    b_h = lstm(2, 3, forget_bias=2.5).init(jax.random.key(0)).b_h
    np.testing.assert_array_equal(b_h, [0, 0, 0, 2.5, 2.5, 2.5, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("factory", [gru, gru_reset_before])
def test_a_gru_at_rest_has_the_jacobian_of_half_itself_and_a_quarter_of_its_candidate(factory):
    # At h = 0, x = 0 and zero biases r = z = ½ and n = tanh(½ W_hn h) ≈ ½ W_hn h; ∂z/∂h meets (h − n) = 0. So
    # ∂h'/∂h = z I + (1 − z) ½ W_hnᵀ = ½ I + ¼ W_hnᵀ, transposed because states are rows here.
    cell = factory(2, 5)
    params = cell.init(jax.random.key(0))
    W_hn = params.W_hh[:, 10:]
    J = step_jacobian(cell, params, cell.start(params), jnp.zeros(2))
    np.testing.assert_allclose(J, 0.5 * jnp.eye(5) + 0.25 * W_hn.T, atol=1e-15)


@pytest.mark.parametrize("name", list(CASES))
def test_lag_gradients_equal_products_of_step_jacobians(name):
    cell, params, h0, xs = random_example(name, 6, ())

    def loss(y):
        return jnp.linspace(1, 2, y.size) @ jnp.sin(y).ravel()

    @jax.jit
    def measure(params, h0, xs):
        h_T, hs = rollout(cell, params, h0, xs)
        before = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b])[:-1], h0, hs)

        def whole(h, x):  # what is only seen of a state has a gradient at lag 0, which the step before hands on
            flat, unravel = ravel_pytree(h)
            return jax.jacrev(lambda h: ravel_pytree(cell.step(params, unravel(h), x))[0])(flat)

        jacobians = jax.vmap(whole)(before, xs), jax.vmap(lambda h, x: step_jacobian(cell, params, h, x))(before, xs)
        last = ravel_pytree(jax.grad(lambda h: loss(cell.output(params, h)))(h_T))[0]
        return lag_gradients(cell, params, h0, xs, loss), jacobians, last

    lags, (jacobians, of_what_is_read), adjoint = measure(params, h0, xs)
    parts, unravel = jax.tree.leaves(h0), ravel_pytree(h0)[1]
    is_read = np.repeat(recurrent_parts(cell, params, h0, xs[0]), [part.size for part in parts])
    np.testing.assert_allclose(jacobians[:, is_read][:, :, is_read], of_what_is_read, rtol=1e-12)
    assert not jacobians[:, :, ~is_read].any()
    for k in range(7):
        norms = [np.linalg.norm(part) for part in jax.tree.leaves(unravel(adjoint))]
        np.testing.assert_allclose(np.exp([a[k] for a in jax.tree.leaves(lags.log_norm_of)]), norms, rtol=1e-10)
        np.testing.assert_allclose(np.exp(lags.log_norm[k]), np.linalg.norm(adjoint[is_read]), rtol=1e-10)
        if k < 6:
            adjoint = jacobians[5 - k].T @ adjoint


def test_each_example_of_a_batch_is_measured_as_if_it_were_alone():
    cell, params, h0, xs = example("lstm", 6, (2, 3))
    together = lag_gradients(cell, params, h0, xs, lambda y: jnp.sum(y**2, axis=-1))
    h0_alone = jax.tree.map(lambda a: a[1, 2], h0)
    alone = lag_gradients(cell, params, h0_alone, xs[:, 1, 2], lambda y: jnp.sum(y**2, axis=-1))
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[:, 1, 2], together), alone, rtol=1e-12)


FLAGS: dict[str, dict[str, Any]] = {
    "mask": {"mask": np.array([[1, 0, 1, 0, 1, 1], [0, 1, 1, 1, 0, 0]], bool).T},
    "lengths": {"lengths": np.array([4, 0])},
    "resets": {"resets": np.array([[0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]], bool).T},
    "lengths and resets": {"lengths": np.array([3, 6]), "resets": np.array([1, 0, 0, 0, 1, 0], bool)},
}


@pytest.mark.parametrize("name", FLAGS)
def test_lag_gradients_keep_the_gradient_over_masked_steps_and_end_at_resets(name):
    # J_t is that of a step, 1 at a masked one, and then 0 where a reset stands before it.
    cell, params, h0, xs = example("lstm", 6, (2,))
    flags, loss = FLAGS[name], lambda y: jnp.sum(jnp.sin(y), axis=-1)

    @jax.jit
    def measure(h0, xs):
        h_T, hs = rollout(cell, params, h0, xs, **flags)
        before = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b])[:-1], h0, hs)
        each = jax.vmap(jax.vmap(lambda h, x: step_jacobian(cell, params, h, x)))(before, xs)
        last = jax.vmap(lambda h: ravel_pytree(jax.grad(lambda h: loss(cell.output(params, h)))(h))[0])(h_T)
        return lag_gradients(cell, params, h0, xs, loss, **flags).log_norm, each, last

    log_norm, jacobians, adjoints = measure(h0, xs)
    mask = np.arange(6)[:, None] < flags["lengths"] if "lengths" in flags else flags.get("mask", np.ones((6, 2), bool))
    resets = flags.get("resets", np.zeros(6, bool)).reshape(6, -1)
    for k in range(7):
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(log_norm[k], np.log(np.linalg.norm(adjoints, axis=-1)), rtol=1e-10)
        if k < 6:
            stepped = np.einsum("bij,bi->bj", jacobians[5 - k], adjoints)
            adjoints = np.where(resets[5 - k][:, None], 0, np.where(mask[5 - k][:, None], stepped, adjoints))


def test_a_dead_gradient_is_minus_infinity_and_leaves_its_neighbours_alone():
    cell = vanilla(1, 2, activation="relu", recurrent_init=initializers.identity())
    params = cell.init(jax.random.key(0))
    params = params._replace(W_xh=jnp.ones((1, 2)), b_h=jnp.zeros(2))
    xs = jnp.ones((5, 2, 1)).at[2, 0].set(-10.0)  # the third step switches every unit of the first example off
    log_norm = lag_gradients(cell, params, cell.start(params, (2,)), xs, lambda y: y.sum(-1)).log_norm
    np.testing.assert_allclose(log_norm[:, 1], 0.5 * math.log(2))
    assert np.all(np.isfinite(log_norm[:3, 0]))
    assert np.all(np.isneginf(log_norm[3:, 0]))
    slope, half_life, quantiles = summarise_lags(log_norm)
    np.testing.assert_array_equal(slope[0], -np.inf)
    np.testing.assert_allclose(slope[1], 0, atol=1e-12)
    np.testing.assert_array_equal(half_life, [0, np.inf])
    assert not np.any(np.isnan(quantiles))


def test_a_part_that_begins_without_a_gradient_and_lives_later_has_the_slope_of_its_life():
    # Of an LSTM's c when h is read: ∂L/∂c_T is 0 at lag 0. It halves at every lag from 1 on; then with holes, and dead.
    dead, ln2 = -jnp.inf, math.log(2)
    k = jnp.arange(6.0)
    later = jnp.where(k == 0, dead, -ln2 * k)
    holes = jnp.where((k == 0) | (k == 3), dead, -ln2 * k)
    dies = jnp.where(k == 5, dead, later)
    late = jnp.where(k < 4, dead, ln2 * k)
    once = jnp.where(k == 5, 1.0, dead)
    at_once = jnp.where(k == 0, 1.0, dead)
    slope, half_life, quantiles = summarise_lags(jnp.stack([later, holes, dies, late, once, at_once], axis=1))
    np.testing.assert_allclose(slope, [-ln2, -ln2, -np.inf, ln2, np.nan, -np.inf], rtol=1e-12)
    np.testing.assert_allclose(half_life, [1, 1, 0, np.inf, np.nan, 0], rtol=1e-12)
    assert not np.any(np.isnan(quantiles))


def test_an_lstm_whose_output_is_without_c_has_a_slope_of_c():
    cell, params, h0, xs = example("lstm", 40, ())
    lags = lag_gradients(cell, params, h0, xs, lambda y: y.sum())
    c = lags.log_norm_of.c
    assert np.isneginf(c[0])
    truth = np.polyfit(np.arange(1, 41), c[1:], 1)[0]
    np.testing.assert_allclose(summarise_lags(c).slope, truth, rtol=1e-10)


def test_a_slope_is_unknown_without_two_lags_without_a_gradient_and_after_an_overflow():
    unknown = jnp.array([[-jnp.inf, jnp.nan, 0.0, 0.0], [-jnp.inf, 1.0, jnp.nan, 1.0], [-jnp.inf, 1.0, 1.0, jnp.inf]])
    assert np.all(np.isnan(summarise_lags(unknown).slope))
    assert np.all(np.isnan(summarise_lags(jnp.zeros((1, 2))).slope))


def test_a_curve_that_is_not_a_number_leaves_the_quantiles_of_the_others():
    log_norm = jnp.stack([jnp.arange(3.0), jnp.full(3, jnp.nan), jnp.arange(3.0)], axis=1)
    np.testing.assert_array_equal(summarise_lags(log_norm, q=(0.0, 0.5)).quantiles, [[0, 1, 2], [0, 1, 2]])


def test_a_part_of_the_state_far_smaller_than_the_other_is_still_measured():
    cell = lstm(2, 3, recurrent_init=initializers.scaled_normal(1e-20), dtype=jnp.float32)
    cell = cell._replace(output=lambda params, state: state.c)
    params = cell.init(jax.random.key(0))
    xs = jnp.ones((5, 2), jnp.float32)
    parts = lag_gradients(cell, params, cell.start(params), xs, jnp.sum).log_norm_of
    assert np.all(parts.h[1:] < -40)
    assert np.all(np.isfinite(parts.h[1:]))  # about e^-46 of c, whose square no float32 holds


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_states_are_measured_in_float32(dtype):
    cell = lstm(2, 3, dtype=dtype)
    params = cell.init(jax.random.key(0))
    lags = lag_gradients(cell, params, cell.start(params), jnp.ones((300, 2), dtype), jnp.sum)
    assert lags.log_norm.dtype == jnp.float32
    assert np.isfinite(summarise_lags(lags.log_norm).slope)
    assert np.isfinite(leading_gain(cell, params, cell.start(params), jnp.ones(2, dtype)))


def test_quantiles_are_those_of_the_examples():
    log_norm = jnp.broadcast_to(jnp.arange(11.0)[None], (3, 11))
    np.testing.assert_array_equal(summarise_lags(log_norm, q=(0.1, 0.5, 1.0)).quantiles, [[1] * 3, [5] * 3, [10] * 3])


def test_a_loss_that_mixes_the_batch_is_refused():
    cell, params, h0, xs = example("lstm", 3, (2,))
    with pytest.raises(ValueError, match=r"loss got shape \(\); want one number for each example"):
        lag_gradients(cell, params, h0, xs, jnp.sum)


def test_the_leading_gain_bounds_what_one_step_does_to_a_gradient():
    cell = vanilla(2, 6, activation="linear", recurrent_init=initializers.orthogonal(1.7))
    params = cell.init(jax.random.key(0))
    np.testing.assert_allclose(leading_gain(cell, params, cell.start(params), jnp.zeros(2)), 1.7, rtol=1e-12)
