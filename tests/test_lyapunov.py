"""Lyapunov exponents and singular values of long products, against closed forms."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import digamma

from rnn_jax import cell_from_step, gru, initializers, lstm, residual, rollout, stack, vanilla
from rnn_jax.diagnostics import (
    entropy_rate,
    kaplan_yorke_dimension,
    lyapunov_spectrum,
    product_spectrum,
    step_jacobian,
)
from rnn_jax.diagnostics.frames import first_frame
from rnn_jax.diagnostics.lag import recurrent_of, states_before
from rnn_jax.diagnostics.states import layout_of, part_size
from rnn_jax.gradients import flossing, norm_preserving
from tests.cases import CASES
from tests.laboratory import example, refused

KEY = jax.random.key(0)


def matrices(size):
    """A cell whose Jacobian at each step is its input: h_t = X_t h_{t−1}."""
    return cell_from_step(
        init=lambda key: jnp.zeros(()),
        start=lambda params, batch_shape=(): jnp.ones((*batch_shape, size)),
        step=lambda params, h, x: jnp.einsum("...ij,...j->...i", x, h) + params,
    )


def linear(W):
    cell = vanilla(1, len(W), activation="linear")
    return cell, cell.init(KEY)._replace(W_hh=jnp.asarray(W))


def orthogonal(key, size):
    return jnp.linalg.qr(jax.random.normal(key, (size, size)))[0]


def test_a_scaled_rotation_has_one_exponent():
    cell, params = linear(0.9 * orthogonal(KEY, 6))
    found = lyapunov_spectrum(cell, params, cell.start(params), jnp.zeros((200, 1)))
    np.testing.assert_allclose(found.exponents, math.log(0.9), atol=1e-9)
    np.testing.assert_allclose(found.standard_error, 0, atol=1e-9)
    np.testing.assert_allclose(found.finite_time[0], math.log(0.9), atol=1e-9)


def test_the_exponents_of_a_constant_matrix_are_the_logarithms_of_its_eigenvalues():
    V, eigenvalues = jax.random.normal(KEY, (5, 5)), jnp.array([1.1, 0.8, -0.6, 0.3, 0.1])
    cell, params = linear(V @ jnp.diag(eigenvalues) @ jnp.linalg.inv(V))
    found = lyapunov_spectrum(cell, params, cell.start(params), jnp.zeros((400, 1)))
    np.testing.assert_allclose(found.exponents, np.log(np.abs(eigenvalues)), atol=1e-6)


def test_the_frame_of_a_complex_pair_turns_so_its_exponents_come_closer_as_one_over_t():
    W = jax.random.normal(KEY, (4, 4))
    cell, params = linear(W)
    wanted = -np.sort(-np.log(np.abs(np.linalg.eigvals(W))))
    T = 20_000
    found = lyapunov_spectrum(cell, params, cell.start(params), jnp.zeros((T, 1)), warmup=1000).exponents
    assert np.any(np.abs(np.diff(wanted)) < 1e-12)  # there is a pair
    np.testing.assert_allclose(found, wanted, atol=20 / T)
    np.testing.assert_allclose(found.sum(), np.linalg.slogdet(W)[1], atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_growth_is_that_of_frames_of_numpy_and_adds_up_to_the_logarithm_of_the_determinant(name):
    cell, params, h0, xs = example(name, 5, ())
    growth = np.asarray(lyapunov_spectrum(cell, params, h0, xs, warmup=0).growth)

    @jax.jit
    def jacobians(params, h0, xs):
        before = states_before(h0, rollout(cell, params, h0, xs)[1])
        return jax.vmap(partial(step_jacobian, cell, params))(before, xs)

    Js = np.asarray(jacobians(params, h0, xs))
    frame, wanted = np.asarray(first_frame(growth.shape[1], growth.shape[1], float)), []
    for J in Js:
        frame, R = np.linalg.qr(J @ frame)
        wanted.append(np.log(np.maximum(np.abs(np.diagonal(R)), 1e-300)))
    wanted = np.array(wanted)
    is_lost = np.any(wanted < wanted.max() - 20, axis=0)  # of a direction that is lost, rounding is left
    alive = len(is_lost) - np.sum(np.cumsum(is_lost) > 0)
    assert alive
    np.testing.assert_allclose(growth[:, :alive], wanted[:, :alive], rtol=1e-6, atol=1e-6)
    assert np.all(growth[:, is_lost].min(axis=0) < wanted.max() - 19)
    if not is_lost.any():
        np.testing.assert_allclose(growth.sum(axis=1), np.linalg.slogdet(Js)[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [3, 5, 8])
def test_products_of_gaussian_matrices_have_the_exponents_of_newman(size):
    # λ_i = ln(g/√N) + ½ [ln 2 + ψ((N − i + 1)/2)]; Newman 1986
    gain, cell = 1.3, matrices(size)
    Xs = gain / math.sqrt(size) * jax.random.normal(jax.random.key(size), (6000, size, size))
    h0 = jnp.zeros(size)  # the states themselves stay 0
    found = lyapunov_spectrum(cell, jnp.zeros(()), h0, Xs, warmup=100, blocks=20)
    i = np.arange(1, size + 1)
    wanted = math.log(gain / math.sqrt(size)) + 0.5 * (math.log(2) + digamma((size - i + 1) / 2))
    assert np.all(np.abs(found.exponents - wanted) < 3 * found.standard_error)
    assert np.all(found.standard_error < 0.03)


def test_standard_errors_are_the_spread_over_sequences():
    cell, Xs = matrices(3), jax.random.normal(KEY, (600, 40, 3, 3))
    found = lyapunov_spectrum(cell, jnp.zeros(()), jnp.zeros((40, 3)), Xs, warmup=20, blocks=20)
    spread = found.exponents.std(axis=1, ddof=1)
    np.testing.assert_allclose(np.sqrt(np.mean(found.standard_error**2, axis=1)), spread, rtol=0.4)  # 4 errors of 0.1


def test_the_henon_map():
    henon = cell_from_step(
        init=lambda key: jnp.array([1.4, 0.3]),
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 2)),
        step=lambda params, h, x: jnp.stack([1 - params[0] * h[..., 0] ** 2 + h[..., 1], params[1] * h[..., 0]], -1),
    )
    params = henon.init(KEY)
    found = lyapunov_spectrum(henon, params, henon.start(params), jnp.zeros((200_000, 0)), warmup=1000)
    np.testing.assert_allclose(found.exponents[0], 0.4192, atol=1e-3)
    np.testing.assert_allclose(found.exponents.sum(), math.log(0.3), atol=1e-9)
    np.testing.assert_allclose(kaplan_yorke_dimension(found.exponents), 1.258, atol=2e-3)
    np.testing.assert_allclose(entropy_rate(found.exponents), found.exponents[0])


def test_dimension_and_entropy_at_their_ends():
    spectra = jnp.array([[-1.0, -2.0], [0.5, -0.5], [1.0, 0.5], [0.0, -jnp.inf]]).T
    np.testing.assert_allclose(kaplan_yorke_dimension(spectra), [0, 2, 2, 1])
    np.testing.assert_allclose(entropy_rate(spectra), [0, 0.5, 1.5, 0])
    np.testing.assert_allclose([kaplan_yorke_dimension([0.5, -1.0]), kaplan_yorke_dimension([-1.0, 0.5])], 1.5)
    assert entropy_rate([0.5, -1.0]) == 0.5


def test_no_step_changes_nothing_and_grows_by_nothing(driven):
    cell, params, h0, xs = driven
    np.testing.assert_array_equal(product_spectrum(cell, params, h0, xs[:0]).log_values, np.zeros((6, 2)))
    refused(lambda: lyapunov_spectrum(cell, params, h0, xs[:0]), "xs got 0 steps; want at least one")


@pytest.fixture(scope="module")
def driven():
    cell = lstm(2, 3)
    params = cell.init(KEY)
    return cell, params, cell.start(params, (2,)), jax.random.normal(KEY, (60, 2, 2))


def test_the_first_exponents_alone_are_those_of_the_whole_spectrum_and_examples_are_apart(driven):
    cell, params, h0, xs = driven
    whole = lyapunov_spectrum(cell, params, h0, xs)
    assert whole.exponents.shape == (6, 2)
    for n in (0, 9, 47):
        np.testing.assert_allclose(whole.finite_time[n], whole.growth[: n + 1].mean(axis=0), rtol=1e-12)
    first = lyapunov_spectrum(cell, params, h0, xs, count=2)
    np.testing.assert_allclose(first.growth, whole.growth[:, :2], rtol=1e-5, atol=1e-8)
    alone = lyapunov_spectrum(cell, params, jax.tree.map(lambda h: h[1], h0), xs[:, 1])
    np.testing.assert_allclose(alone.exponents, whole.exponents[:, 1], rtol=1e-10)
    of_seeds = jax.vmap(lambda key: lyapunov_spectrum(cell, cell.init(key), h0, xs, count=1).exponents)
    assert of_seeds(jax.random.split(KEY, 3)).shape == (3, 1, 2)


def test_singular_values_of_a_short_product_are_those_of_the_product_itself(driven):
    cell, params, h0, xs = driven
    found = product_spectrum(cell, params, h0, xs[:6]).log_values

    def last(h, xs):
        h_T, _ = rollout(cell, params, h, xs)
        return jnp.concatenate([h_T.h, h_T.c])

    for n in range(2):
        J = jax.jacobian(last)(jax.tree.map(lambda h, n=n: h[n], h0), xs[:6, n])
        wanted = jnp.linalg.svd(jnp.concatenate([J.h, J.c], axis=1), compute_uv=False)
        np.testing.assert_allclose(found[:, n], np.log(wanted), rtol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_singular_values_of_a_long_product_are_right_at_any_size(dtype):
    # X_t = U_t D U_{t−1}ᵀ with orthogonal U: the product has the singular values D^T
    T, size = 1000, 6
    U = jax.vmap(lambda key: orthogonal(key, size))(jax.random.split(KEY, T + 1))
    d = jnp.array([1.5, 1.0, 0.9, 0.9, 0.1, 1e-3])
    Xs = jnp.einsum("tij,j,tkj->tik", U[1:], d, U[:-1]).astype(dtype)
    cell = matrices(size)
    zero, h0 = jnp.zeros((), dtype), jnp.zeros(size, dtype)
    found = product_spectrum(cell, zero, h0, Xs)
    np.testing.assert_allclose(found.log_values, T * np.log(d), atol=1e-8 if dtype == jnp.float64 else 0.05)
    np.testing.assert_allclose(found.log_condition, T * math.log(1500), rtol=1e-5)


def test_a_small_singular_value_behind_a_triangular_matrix_in_rising_order():
    # W^T = [[a^T, (b^T − a^T)/(b − a)], [0, b^T]]: σ_1² ≈ the sum of squares, σ_1 σ_2 = (ab)^T
    a, b, T = 0.1, 0.9, 300
    W = jnp.array([[a, 1.0], [0.0, b]])
    cell = matrices(2)
    found = product_spectrum(cell, jnp.zeros(()), jnp.zeros(2), jnp.broadcast_to(W, (T, 2, 2))).log_values
    first = T * math.log(b) + 0.5 * math.log(1 + 1 / (b - a) ** 2)
    np.testing.assert_allclose(found, [first, T * math.log(a * b) - first], rtol=1e-10)


def test_a_direction_that_is_lost_has_the_exponent_minus_infinity():
    cell, params = linear(jnp.diag(jnp.array([0.5, 0.0])))
    args = cell, params, cell.start(params), jnp.zeros((10, 1))
    np.testing.assert_array_equal(lyapunov_spectrum(*args).exponents[1], -jnp.inf)
    np.testing.assert_array_equal(product_spectrum(*args).log_values[1], -jnp.inf)
    np.testing.assert_array_equal(product_spectrum(*args).log_condition, jnp.inf)


def test_flossing_has_the_gradient_of_finite_differences():
    cell = gru(2, 3)
    params, xs = cell.init(KEY), jax.random.normal(KEY, (4, 2, 2))
    h0 = cell.start(params, (2,))
    check_grads(jax.jit(lambda p: flossing(cell, p, h0, xs, count=2)), (params,), order=1, modes="rev", rtol=1e-5)


def penalty_by_hand(cell, params, h0, xs, loss):
    """Σ_t (‖a_t J_t‖/‖a_t‖ − 1)² with states and adjoints of constant params, on which only the J_t depend."""
    layout, constant, rows = layout_of(cell, params, h0), jax.lax.stop_gradient(params), []
    counts = np.repeat(recurrent_of(cell, params, h0, xs), list(map(part_size, layout.parts))).astype(float)

    def step(params, row, x):
        return layout.row(cell.step(params, layout.state(row), x))

    def loss_after(row, xs):
        for x in xs:
            row = step(constant, row, x)
        return loss(cell.output(constant, layout.state(row)))

    row, total = layout.row(h0), 0.0
    for x in xs:
        rows.append(row)
        row = step(constant, row, x)
    for t in range(1, len(xs)):
        later = counts * jax.grad(loss_after)(step(constant, rows[t], xs[t]), xs[t + 1 :])
        earlier = counts * (later @ jax.jacrev(step, argnums=1)(params, rows[t], xs[t]))
        total += (jnp.linalg.norm(earlier) / jnp.linalg.norm(later) - 1) ** 2
    return total


@pytest.mark.parametrize("cell", [gru(2, 3), stack(vanilla(2, 3), residual(vanilla(3, 3)))], ids=["gru", "residual"])
def test_the_norm_preserving_penalty_is_that_of_its_formula_with_states_and_adjoints_held(cell):
    # the input that a residual layer keeps for its output alone is no part of the recurrence
    params, xs = cell.init(KEY), jax.random.normal(KEY, (3, 2))
    h0, loss = cell.start(params), lambda y: jnp.sum(y**2)
    found, wanted = (
        jax.jit(jax.value_and_grad(omega))(params)
        for omega in (
            lambda params: norm_preserving(cell, params, h0, xs, (), lambda ys, _: loss(ys[-1])),
            lambda params: penalty_by_hand(cell, params, h0, xs, loss),
        )
    )
    chex.assert_trees_all_close(found, wanted, rtol=1e-9, atol=1e-12)


def penalty_of_one_unit(cell, xs):
    """``w -> (Ω, dΩ/dw)`` of the last output of one linear unit h_t = w h_{t−1} + …."""
    params = cell.init(KEY)

    def omega(W):
        return norm_preserving(cell, params._replace(W_hh=W), cell.start(params), xs, (), lambda ys, _: ys[-1, 0])

    return jax.jit(jax.value_and_grad(omega))


def test_the_gradient_of_the_norm_preserving_penalty_of_a_linear_network_is_that_of_its_formula():
    # of one unit h_t = w h_{t−1}: Ω = (T − 1)(|w| − 1)², dΩ/dw = 2 (T − 1)(w − 1)
    value, g = penalty_of_one_unit(vanilla(1, 1, activation="linear"), jnp.ones((6, 1)))(jnp.array([[0.7]]))
    np.testing.assert_allclose(value, 5 * 0.09, rtol=1e-12)
    np.testing.assert_allclose(g, [[2 * 5 * -0.3]], rtol=1e-12)


@pytest.mark.parametrize(("w", "steps"), [(0.3, 60), (0.3, 200), (3.0, 60)])
def test_the_norm_preserving_penalty_is_right_where_gradients_leave_float32(w, steps):
    cell, xs = vanilla(1, 1, activation="linear", dtype=jnp.float32), jnp.ones((steps, 1), jnp.float32)
    value, g = penalty_of_one_unit(cell, xs)(jnp.full((1, 1), w, jnp.float32))
    np.testing.assert_allclose(value, (steps - 1) * (w - 1) ** 2, rtol=1e-4)
    np.testing.assert_allclose(g, [[2 * (steps - 1) * (w - 1)]], rtol=1e-4)


def test_flossing_brings_the_exponents_to_zero():
    cell = vanilla(1, 6, recurrent_init=initializers.scaled_normal(0.5))
    params, xs = cell.init(KEY), 0.1 * jax.random.normal(KEY, (30, 1))
    penalty = jax.jit(jax.value_and_grad(lambda p: flossing(cell, p, cell.start(p), xs, count=3)))
    before, _ = value, _ = penalty(params)
    for _ in range(60):
        value, g = penalty(params)
        params = jax.tree.map(lambda p, g: p - 0.02 * g, params, g)
    assert value < 0.05 * before


def test_wrong_arguments_are_refused_in_one_line(driven):
    cell, params, h0, xs = driven
    spectrum = partial(lyapunov_spectrum, cell, params, h0)
    refused(lambda: spectrum(xs, count=7), "count got 7; want at most 6")
    refused(lambda: spectrum(xs, count=0), "count got 0")
    for warmup in (60, -1, 2.5, True, "a"):
        refused(
            lambda n=warmup: spectrum(xs, warmup=n), f"warmup got {warmup!r}; want a whole number of steps in [0, 60)"
        )
    refused(lambda: spectrum(xs, blocks=0), "blocks got 0")
    refused(lambda: spectrum(xs.at[7].set(jnp.nan)), "state got numbers that are not finite at step 8")
    refused(
        lambda: product_spectrum(cell, params, h0, xs.at[0].set(jnp.nan)),
        "state got numbers that are not finite at step 1",
    )
    refused(lambda: product_spectrum(cell, params, h0, xs[:, :1]), "xs got")
    refused(
        lambda: norm_preserving(cell, params, h0, xs, (), lambda ys, _: ys[-1]), "loss got shape (2, 3); want a scalar"
    )
    root = cell_from_step(
        lambda key: (), lambda params, batch_shape=(): jnp.zeros((*batch_shape, 1)), lambda p, h, x: x * jnp.sqrt(h)
    )
    for measure in (lyapunov_spectrum, product_spectrum):
        refused(
            lambda of=measure: of(root, (), jnp.ones(1), jnp.array([[1.0], [0], [1]])),
            "Jacobian got numbers that are not finite at step 3",
        )
    ids = cell_from_step(
        lambda key: (), lambda params, batch_shape=(): jnp.zeros((*batch_shape, 1), int), lambda p, h, x: h
    )
    refused(lambda: lyapunov_spectrum(ids, (), jnp.zeros(1, int), jnp.zeros((3, 1))), "state got int64")
