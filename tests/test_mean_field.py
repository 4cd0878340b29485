"""Mean-field theory against closed forms, tables, fixed points by hand, and measured gradients of wide networks."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize

from rnn_jax import lag_gradients, rollout, summarise_lags, vanilla
from rnn_jax.cells.activations import ACTIVATIONS
from rnn_jax.diagnostics.mean_fields import gaussian_mean, mean_field
from tests.laboratory import refused


@pytest.mark.parametrize(
    ("gain", "variance", "chi"), [(0.9, 0.0, 0.81), (1.2, 0.0, 1.0335), (1.5, 0.1, 1.0538), (2.0, 1.0, 1.0963)]
)
def test_the_gain_of_a_tanh_network_is_that_of_the_table(gain, variance, chi):
    theory = mean_field("tanh", gain, variance)
    np.testing.assert_allclose(theory.chi, chi, atol=5e-5)
    np.testing.assert_allclose(theory.slope, 0.5 * math.log(theory.chi), rtol=1e-12)
    np.testing.assert_allclose(theory.depth, 1 / abs(math.log(theory.chi)), rtol=1e-12)


@pytest.mark.parametrize(("gain", "variance"), [(1.2, 0.0), (1.5, 0.1), (2.0, 1.0), (20.0, 0.3)])
def test_the_variance_is_the_root_that_another_integrator_and_another_solver_find(gain, variance):
    def mean(f, q):
        density = lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi)  # noqa: E731
        knee = min(3 / math.sqrt(q), 10.0)
        return 2 * sum(
            integrate.quad(lambda z: f(math.sqrt(q) * z) * density(z), *ends, epsabs=1e-13)[0]
            for ends in ((0, knee), (knee, 12))
        )

    rest = lambda q: gain**2 * mean(lambda a: math.tanh(a) ** 2, q) + variance - q  # noqa: E731
    q = float(np.asarray(optimize.brentq(rest, 1e-2, gain**2 + variance + 1, xtol=1e-13)))
    theory = mean_field("tanh", gain, variance)
    np.testing.assert_allclose(theory.q, q, rtol=1e-9)
    np.testing.assert_allclose(theory.chi, gain**2 * mean(lambda a: math.cosh(a) ** -4, q), rtol=1e-9)


def test_a_relu_network_is_critical_at_the_square_of_the_gain_of_two():
    # E φ(√q z)² = q/2 and E φ′² = 1/2: q* = σ_b²/(1 − σ_w²/2) below 2, and χ = σ_w²/2 everywhere.
    below = mean_field("relu", 1.2, 0.3)
    np.testing.assert_allclose([below.q, below.chi], [0.3 / (1 - 0.72), 0.72], rtol=1e-10)
    for gain, variance, q in [(2**0.5, 0.0, 0), (2**0.5, 0.1, math.inf), (1.6, 0.1, math.inf), (1.6, 0.0, math.inf)]:
        theory = mean_field("relu", gain, variance)
        assert theory.q == q
        np.testing.assert_allclose(theory.chi, gain**2 / 2, rtol=1e-12)
    critical = mean_field("relu", 2**0.5)
    np.testing.assert_allclose(critical.slope, 0, atol=1e-14)
    assert critical.depth > 1e12


def test_a_linear_network_has_the_variance_of_a_geometric_series():
    theory = mean_field("linear", 0.8, 0.9)
    np.testing.assert_allclose(theory.q, 0.9 / (1 - 0.64), rtol=1e-10)
    np.testing.assert_allclose(theory.chi, 0.64, rtol=1e-12)
    assert mean_field("linear", 1.0, 0.1).q == math.inf
    assert mean_field("linear", 0.0, 0.0) == (0, 0, -math.inf, 0)


MIDDLES = (np.arange(20_000) + 0.5) / 20_000


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_integrals_of_every_activation_and_of_its_derivative_are_those_of_another_integrator(name):
    phi = ACTIVATIONS[name]
    slope = lambda a: jax.jvp(phi, (a,), (jnp.ones_like(a),))[1]  # noqa: E731
    for q in (1e-8, 0.5, 30.0, 1e5):
        # the midpoint rule between the kinks, at steps far below 1 where an activation changes
        edges = np.minimum([0, 3, 30, math.inf], 9 * math.sqrt(q))[:, None]
        a = (edges[:-1] + np.diff(edges, axis=0) * MIDDLES).ravel()
        weight = np.diff(edges, axis=0) / len(MIDDLES) * np.exp(-(a.reshape(3, -1) ** 2) / (2 * q))
        weight = weight.ravel() / math.sqrt(2 * math.pi * q)
        for f in (phi, slope):
            truth = np.sum(weight * (np.square(f(jnp.asarray(a))) + np.square(f(jnp.asarray(-a)))))
            mean = gaussian_mean(lambda a, f=f: jnp.square(f(a)), jnp.asarray(q))
            np.testing.assert_allclose(mean, truth, rtol=1e-6)


def test_theory_is_the_same_under_jit_and_vmap_and_of_arrays_and_of_a_function():
    gains = jnp.array([0.9, 1.5, 2.5])
    together = jax.vmap(lambda gain: mean_field(jnp.tanh, gain, 0.1))(gains)
    for one, many in zip(mean_field("tanh", gains, 0.1), together, strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-12)
    alone = jax.jit(lambda gain: mean_field("tanh", gain, 0.1))(gains[1])
    np.testing.assert_allclose(alone.chi, together.chi[1], rtol=1e-12)
    assert mean_field("relu", gains[:, None], jnp.ones((1, 2))).q.shape == (3, 2)


def test_wrong_gains_and_activations_are_refused():
    for wrong in (-1.0, math.nan, math.inf, "1", None, True, np.array([1.0, -1.0])):
        refused(lambda wrong=wrong: mean_field("tanh", wrong, 0.1), "weight_gain got ")
        refused(lambda wrong=wrong: mean_field("tanh", 1.0, wrong), "bias_variance got ")
    refused(lambda: mean_field("swoosh", 1.0), "activation got 'swoosh'")


H, B, SEEDS, BURN_IN, LAGS = 512, 16, 10, 10, 12


@pytest.mark.parametrize(
    ("activation", "points"),
    [("tanh", [(0.9, 0.0), (1.2, 0.0), (1.5, 0.1), (2.0, 1.0)]), ("relu", [(1.2, 0.3), (2**0.5, 0.0)])],
)
def test_measured_slopes_of_wide_networks_are_those_of_the_theory(activation, points):
    # The slope is that of the mean square over B examples, as χ is: E ln lies below ln E, by 1/H and more a step.
    # Few lags: powers of one random matrix grow beside its gain, by ½ ln(sinh s / s) with s = lags²/2H.
    cell = vanilla(1, H, activation=activation, dtype=jnp.float32)
    cell = cell._replace(project=lambda params, u: u)
    phi, normal = ACTIVATIONS[activation], partial(jax.random.normal, dtype=jnp.float32)

    def slope(key, gain, variance, q):
        k_W, k_u, k_h, k_loss = jax.random.split(key, 4)
        params = cell.init(key)._replace(W_hh=gain / H**0.5 * normal(k_W, (H, H)))
        us = jnp.sqrt(variance) * normal(k_u, (BURN_IN + LAGS, B, H))
        h, _ = rollout(cell, params, phi(jnp.sqrt(q) * normal(k_h, (B, H))), us[:BURN_IN])
        a = normal(k_loss, (B, H))
        lags = lag_gradients(cell, params, h, us[BURN_IN:], lambda y: jnp.sum(a * y, axis=-1))
        return summarise_lags(0.5 * jax.nn.logsumexp(2 * lags.log_norm, axis=1)).slope

    theories = [mean_field(activation, *point) for point in points]
    starts = [
        1.0 if activation == "relu" and theory.q == 0 else theory.q for theory in theories
    ]  # any q is fixed there
    given = [jnp.asarray(numbers, jnp.float32) for numbers in (*zip(*points, strict=True), starts)]
    over_seeds = jax.vmap(slope, in_axes=(0, None, None, None))
    over_points = jax.jit(jax.vmap(over_seeds, in_axes=(None, 0, 0, 0)))
    slopes = np.asarray(over_points(jax.random.split(jax.random.key(0), SEEDS), *given))
    errors = slopes.std(axis=1, ddof=1) / SEEDS**0.5
    theory = np.array([theory.slope for theory in theories])
    assert errors.max() < 0.01
    assert np.all(np.abs(slopes.mean(axis=1) - theory) < 3 * errors), (slopes.mean(axis=1), theory, errors)
