"""Sensitivity of the state to the params: the curse of memory, and derivatives of whole rollouts."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import rnn_jax as rnn
from rnn_jax import cell_from_step, initializers, rollout
from rnn_jax.diagnostics.sensitivity import parameter_sensitivity, sampled_sensitivity
from tests.laboratory import example, refused

KEY = jax.random.key(5)
LEAKY = cell_from_step(
    init=lambda key: jnp.asarray(0.5),
    start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 1)),
    step=lambda λ, h, x: λ * h + x,
)


def test_the_curse_of_memory_has_its_closed_form():
    # dh/dλ = Σ k λ^{k−1} x_{t−k}, of variance Σ k² λ^{2(k−1)} = (1 + λ²)/(1 − λ²)³
    λs, T, N = jnp.array([0.5, 0.9, 0.99]), 1500, 2000
    xs = jax.random.normal(KEY, (T, N, 1))
    log_norms = jax.vmap(lambda λ: parameter_sensitivity(LEAKY, λ, LEAKY.start(λ, (N,)), xs)[-1])(λs)
    squares = np.exp(2 * np.asarray(log_norms))
    errors = squares.std(axis=1, ddof=1) / N**0.5
    closed = (1 + λs**2) / (1 - λs**2) ** 3
    assert np.all(np.abs(squares.mean(axis=1) - closed) < 3 * errors)
    assert np.all(errors < 0.05 * closed)


@pytest.mark.parametrize("name", ["gru", "lru"])
def test_sensitivities_are_norms_of_the_derivative_of_the_rollout(name):
    cell, params, h0, xs = example(name, 5, (2,))
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def derivative(flat):
        return jax.jacrev(lambda flat: jnp.concatenate(jax.tree.leaves(rollout(cell, unravel(flat), h0, xs)[1]), -1))(
            flat
        )

    norms = parameter_sensitivity(cell, params, h0, xs)
    np.testing.assert_allclose(np.exp(norms), np.sqrt(np.sum(derivative(flat) ** 2, axis=(2, 3))), rtol=1e-10)


def test_one_probe_is_exact_for_one_parameter_and_the_mean_of_many_has_no_bias():
    xs = jax.random.normal(KEY, (30, 4, 1))
    exact = parameter_sensitivity(LEAKY, 0.9, jnp.zeros((4, 1)), xs)
    np.testing.assert_allclose(sampled_sensitivity(LEAKY, 0.9, KEY, jnp.zeros((4, 1)), xs, probes=1), exact, rtol=1e-12)
    cell, params, h0, xs = example("gru", 5, ())
    exact = np.exp(2 * parameter_sensitivity(cell, params, h0, xs))
    keys = jax.random.split(KEY, 300)
    draws = jax.vmap(lambda key: sampled_sensitivity(cell, params, key, h0, xs, probes=4))(keys)
    squares = np.exp(2 * np.asarray(draws))
    errors = squares.std(axis=0, ddof=1) / 300**0.5
    assert np.all(np.abs(squares.mean(axis=0) - exact) < 4 * errors)
    assert np.all(errors < 0.1 * exact)


@pytest.mark.parametrize("gain", [3.0, 0.3])
def test_a_sensitivity_of_any_size_fits_into_float32(gain):
    # At h = 0, ∂h_t/∂b = Σ_{k<t} W^k: it grows by ln g a step, or comes to rest at (I − W)⁻¹.
    cell = rnn.vanilla(2, 4, activation="linear", recurrent_init=initializers.orthogonal(gain), dtype=jnp.float32)
    params, h0, xs = cell.init(KEY), jnp.zeros(4, jnp.float32), jnp.zeros((400, 2), jnp.float32)
    exact = parameter_sensitivity(cell, params, h0, xs)
    sampled = sampled_sensitivity(cell, params, KEY, h0, xs, probes=2)
    at_rest = np.log(np.linalg.norm(np.linalg.inv(np.eye(4) - np.asarray(params.W_hh, float))))
    for norms in (exact, sampled):
        assert norms.dtype == jnp.float32
        np.testing.assert_allclose(norms[300] - norms[200], 100 * math.log(gain) if gain > 1 else 0, atol=1e-3)
    np.testing.assert_allclose(exact[-1], at_rest + (400 * math.log(gain) if gain > 1 else 0), atol=1e-3)


def test_a_state_that_forgets_everything_but_has_a_small_source_is_measured():
    # M_t = 10^-30 M_{t−1} + 0 after the first step: e^{−69 t}, far below the smallest float32.
    cell = cell_from_step(
        init=lambda key: jnp.ones((), jnp.float32),
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 1), jnp.float32),
        step=lambda w, h, x: 1e-30 * h + w * x,
    )
    xs = jnp.zeros((6, 1), jnp.float32).at[0].set(1.0)
    start, w = jnp.zeros(1, jnp.float32), jnp.ones((), jnp.float32)
    for norms in (
        parameter_sensitivity(cell, w, start, xs),
        sampled_sensitivity(cell, w, KEY, start, xs, probes=1),
    ):
        np.testing.assert_allclose(norms, -30 * math.log(10) * np.arange(6), rtol=1e-6)


def test_a_small_sensitivity_is_measured_when_the_large_one_beside_it_is_wiped_out():
    # h_1 keeps its derivative 1 until the last step makes it 0; h_2 holds 10^−3t beside it.
    cell = cell_from_step(
        init=lambda key: jnp.ones((), jnp.float32),
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 2), jnp.float32),
        step=lambda w, h, x: jnp.stack([x[..., 0], jnp.full_like(x[..., 0], 1e-3)], -1) * h + w * x[..., 1:],
    )
    xs = jnp.zeros((20, 2), jnp.float32).at[0, 1].set(1.0).at[:19, 0].set(1.0)
    args = cell, jnp.ones((), jnp.float32), jnp.zeros(2, jnp.float32), xs
    for norms in (parameter_sensitivity(*args), sampled_sensitivity(*args[:2], KEY, *args[2:], probes=1)):
        np.testing.assert_allclose(norms[-2:], [0, -19 * math.log(1000)], rtol=1e-5, atol=1e-6)


def test_complex_params_are_two_real_ones_and_integers_are_constants():
    # h_2 = λ h_1 + 2 with h_1 = 2: ∂h_2/∂(Re λ, Im λ) is 2 times a rotation, of norm 2√2.
    cell = cell_from_step(
        init=lambda key: {"λ": jnp.array([0.9 + 0.1j]), "n": jnp.array(2)},
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 1), complex),
        step=lambda params, h, x: params["λ"] * h + params["n"].astype(complex) * x,
    )
    params = cell.init(KEY)
    args = cell, params, cell.start(params), jnp.ones((2, 1), complex)
    np.testing.assert_allclose(parameter_sensitivity(*args), [-np.inf, 1.5 * math.log(2)], rtol=1e-12)
    np.testing.assert_allclose(
        sampled_sensitivity(*args[:2], KEY, *args[2:], probes=1), [-np.inf, 1.5 * math.log(2)], rtol=1e-12
    )


def test_ids_and_states_that_do_not_depend_on_params():
    cell = rnn.gru(3, 2)
    params = cell.init(KEY)
    ids = jnp.array([0, 2, 1])
    norms = parameter_sensitivity(cell, params, cell.start(params), ids)
    np.testing.assert_allclose(
        norms, parameter_sensitivity(cell, params, cell.start(params), jax.nn.one_hot(ids, 3)), rtol=1e-12
    )
    alone = cell_from_step(
        lambda key: 1.0, lambda _, batch_shape=(): jnp.ones((*batch_shape, 1)), lambda _, h, x: 0.5 * h
    )
    assert np.all(np.isneginf(parameter_sensitivity(alone, 1.0, jnp.ones(1), jnp.ones((3, 1)))))


def test_wrong_arguments_are_refused():
    cell, params, h0, xs = example("gru", 3, ())
    refused(lambda: parameter_sensitivity(cell, params, h0, None), "xs got None")
    refused(lambda: parameter_sensitivity(rnn.bidirectional(cell, cell), params, h0, xs), "cell got a Layer")
    refused(lambda: parameter_sensitivity(LEAKY, (), jnp.zeros(1), jnp.ones((2, 1))), "params got ")
    for probes in (0, -1, 2.5, "3", None, True):
        refused(lambda n=probes: sampled_sensitivity(cell, params, KEY, h0, xs, probes=n), "probes got ")
