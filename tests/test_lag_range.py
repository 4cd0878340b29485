"""Gradients by lag at any ratio between parts, units and examples: float32 against closed forms and float64 logarithms."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_jax import (
    cell_from_step,
    initializers,
    lag_gradients,
    lstm,
    min_gru,
    rollout,
    stack,
    step_jacobian,
    summarise_lags,
    vanilla,
)

NATS = 1e-3  # how far a logarithm may be from the truth
T, S, B = 200, 3, 2  # steps, units and examples of the cells made here
F32 = jnp.float32


def start(params, batch_shape=()):
    return jnp.zeros((*batch_shape, S), F32)


gated = cell_from_step(lambda key: None, start, lambda params, h, gates: gates * h)
"""h_t = x_t ⊙ h_{t−1}: unit j of the adjoint at lag k is the product of its last k gates."""
mixed = cell_from_step(lambda key: None, start, lambda params, h, W: jnp.einsum("...i,...ij->...j", h, W))
"""h_t = h_{t−1} W_t, with the matrix as the input."""


@functools.cache
def measured(cell, loss=lambda y: jnp.sum(y, axis=-1)):
    """``(params, h0, xs) -> lags``, compiled once."""
    return jax.jit(lambda params, h0, xs: lag_gradients(cell, params, h0, xs, loss))


def log_gates(total):
    """Gates whose logarithms add up to ``total`` over the T steps, in float32, and what they add up to by then."""
    gates = np.exp(np.asarray(total) / T).astype(np.float32)
    xs = np.broadcast_to(gates, (T, *gates.shape))
    return jnp.asarray(xs), np.concatenate([0 * xs[:1], np.cumsum(np.log(xs.astype(float)), axis=0)])


def log_norm(logs):
    """ln of the norm over the last axis."""
    return 0.5 * np.logaddexp.reduce(2 * logs, axis=-1)


def log_truth(jacobians, last):
    """ln|adjoint| ``(T + 1, S)`` in float64, a step J at a time: every number as a sign and a logarithm."""
    with np.errstate(divide="ignore", invalid="ignore"):
        sign, log = np.sign(last), np.log(np.abs(last))
        rows = [log]
        for J in jacobians[::-1]:
            terms = np.log(np.abs(J)) + log[:, None]
            top = terms.max(axis=0)
            total = np.sum(np.sign(J) * sign[:, None] * np.exp(terms - np.where(np.isneginf(top), 0, top)), axis=0)
            sign, log = np.sign(total), top + np.log(np.abs(total))
            rows.append(log)
    return np.array(rows)


def test_a_layer_that_forgets_under_one_that_holds_is_followed_to_the_end():
    below = vanilla(2, 8, activation="linear", dtype=F32)
    above = vanilla(8, 8, activation="linear", recurrent_init=initializers.orthogonal(0.5), dtype=F32)
    cell = stack(below, above)
    params = cell.init(jax.random.key(0))
    lags = measured(cell)(params, cell.start(params), jnp.ones((300, 2), F32))
    truth = 0.5 * math.log(8) - math.log(2) * np.arange(301)
    np.testing.assert_allclose(lags.log_norm_of[1], truth, atol=NATS)  # −86.30 at lag 126, −206.9 at lag 300
    np.testing.assert_allclose(summarise_lags(lags.log_norm_of[1]).half_life, 1, rtol=1e-5)


def test_a_unit_that_halves_is_all_that_is_left_when_the_one_that_held_is_gated_to_zero():
    gates = np.ones((T + 1, S), np.float32) * [0.5, 1.0, 0.0]
    gates[0] = [1.0, 0.0, 1.0]
    log_norm = measured(gated)(None, start(None), jnp.asarray(gates, F32)).log_norm
    np.testing.assert_allclose(log_norm[T], 0, atol=NATS)  # one unit halves, one holds, one is off
    np.testing.assert_allclose(log_norm[T + 1], -T * math.log(2), atol=NATS)  # −138.63


@given(st.lists(st.floats(-2000, 2000), min_size=S * B, max_size=S * B))
def test_gated_units_and_examples_are_exact_at_any_ratio(totals):
    xs, truth = log_gates(np.reshape(totals, (B, S)))
    found = measured(gated)(None, start(None, (B,)), xs).log_norm
    np.testing.assert_allclose(found, log_norm(truth), atol=NATS)
    # Once all but the smallest unit of each example are gated to 0, that unit is all there is.
    smallest = np.argmin(truth[-1], axis=-1)[:, None] == np.arange(S)
    found = measured(gated)(None, start(None, (B,)), xs.at[0].multiply(jnp.asarray(smallest, F32))).log_norm
    np.testing.assert_allclose(found[-1], truth[-1].min(axis=-1), atol=NATS)


@given(st.integers(0, 2**32 - 1))
def test_units_that_mix_are_exact_at_any_ratio(seed):
    rng = np.random.default_rng(seed)
    Ws = rng.normal(size=(T, S, S)) * np.exp(rng.uniform(-10, 10, size=(S, S))) * (rng.random((T, S, S)) < 0.35)
    Ws = Ws.astype(np.float32)
    truth = log_truth(np.swapaxes(Ws, 1, 2).astype(float), np.ones(S))
    found = measured(mixed)(None, start(None), jnp.asarray(Ws)).log_norm
    np.testing.assert_allclose(found, log_norm(truth), atol=NATS)
    assert np.array_equal(np.isneginf(found), np.all(np.isneginf(truth), axis=-1))


def test_a_zero_is_exact_and_nothing_else_is():
    xs, truth = log_gates([[-2000.0, 2000.0, -500.0], [-1000.0, 0.0, 1000.0]])
    xs = xs.at[T - 50, :, 1].set(0)  # one unit of each example dies at lag 50
    xs = xs.at[T - 100, 0].set(0)  # and all of the first example at lag 100
    found = np.asarray(measured(gated)(None, start(None, (B,)), xs).log_norm)
    truth[50:, :, 1], truth[100:, 0] = -np.inf, -np.inf
    np.testing.assert_allclose(found, log_norm(truth), atol=NATS)
    assert np.all(np.isneginf(found[100:, 0]))
    assert np.all(np.isfinite(found[:, 1]))


@pytest.mark.parametrize("bias", [-10.0, -3.0, 1.0])
def test_the_parts_of_stacked_lstms_are_exact_at_any_ratio(bias):
    # The forget gate of the upper one lets e^−10 through a step, the lower one nearly all: e^−2000 against 1.
    cell = stack(lstm(2, 3, forget_bias=6.0, dtype=F32), lstm(3, 3, forget_bias=bias, dtype=F32))
    params = cell.init(jax.random.key(1))
    above = params[1]._replace(W_xh=1e-3 * params[1].W_xh, W_hh=1e-6 * params[1].W_hh)
    params = (params[0], above)
    xs, h0 = jax.random.normal(jax.random.key(2), (T, 2), F32), cell.start(params)
    found = measured(cell)(params, h0, xs)

    double = stack(lstm(2, 3), lstm(3, 3))
    params, h0, xs = jax.tree.map(lambda a: a.astype(jnp.float64), (params, h0, xs))

    @jax.jit
    def jacobians(params, h0, xs):
        _, hs = rollout(double, params, h0, xs)
        before = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b])[:-1], h0, hs)
        return jax.vmap(lambda h, x: step_jacobian(double, params, h, x))(before, xs)

    truth = log_truth(np.asarray(jacobians(params, h0, xs)), np.repeat([0.0, 0.0, 1.0, 0.0], 3))
    np.testing.assert_allclose(found.log_norm, log_norm(truth), atol=NATS)
    parts = [log_norm(part) for part in np.split(truth, 4, axis=-1)]
    for part, expected in zip(jax.tree.leaves(found.log_norm_of), parts, strict=True):
        np.testing.assert_allclose(part, expected, atol=NATS)


def test_the_slowest_unit_of_a_minimal_gru_does_not_hide_the_others():
    # Without weights a unit shrinks by 1 − σ(b_z) a step; at the first step x = 1 shuts the last two, σ(100) = 1.
    cell = min_gru(2, S, dtype=F32)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0)))
    b_h = params.b_h.at[:S].set(jnp.array([9.0, -9.0, 0.0], F32))
    params = params._replace(b_h=b_h, W_xh=params.W_xh.at[0, 1:S].set(100.0))
    xs = jnp.zeros((T, 2), F32).at[0].set(1)
    found = measured(cell)(params, cell.start(params), xs).log_norm
    rates = -np.logaddexp(0, [9.0, -9.0, 0.0])
    np.testing.assert_allclose(found[T - 1], log_norm((T - 1) * rates), atol=NATS)
    np.testing.assert_allclose(found[T], T * rates[0], atol=NATS)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_reaches_as_far(dtype):
    gates = jnp.tile(jnp.array([0.5, 1.0, 2.0], dtype), (T, 1)).at[0, 1:].set(0)
    cell = cell_from_step(lambda key: None, lambda params, b=(): jnp.zeros((*b, S), dtype), lambda p, h, g: g * h)
    lags = lag_gradients(cell, None, jnp.zeros(S, dtype), gates, lambda y: y.sum())
    assert lags.log_norm.dtype == F32
    np.testing.assert_allclose(lags.log_norm[T - 1 :], np.array([T - 1, -T]) * math.log(2), atol=NATS)
