"""Fixed points, slow points and their eigenvalues, against closed forms."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logit

from rnn_jax import cell_from_step, conv_lstm, gru, gru_reset_before, lru, lstm, rollout, vanilla
from rnn_jax.diagnostics.points import (
    FixedPoints,
    fixed_points,
    principal_components,
    stability,
    state_rows,
    unique_points,
    visited_states,
)
from rnn_jax.lab.figures.dynamics import POINT_KINDS, Portrait, eigenvalue_figure, point_kind, portrait_figure
from rnn_jax.lab.fixed_point_study import (
    anatomy_of,
    eigenvalue_rows,
    index_sum,
    kind_counts,
    of_kind,
    portrait_of,
    portrait_rows,
    ways_out,
)
from rnn_jax.layers import as_layer
from tests.laboratory import random_params, refused

A = 0.8585595  # a > 0 with a = tanh(1.5 a)
SLOPE_AT_A = 1.5 * (1 - A**2)  # of tanh(1.5 h) at ±a


def own(size, step):
    """A cell without weights but its params, ``step(params, h)``, whose state starts at 0."""
    return cell_from_step(
        init=lambda key: jnp.zeros(()),
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, size)),
        step=lambda params, h, x: step(params, h),
    )


ring = own(3, lambda w, h: jnp.tanh(w * jnp.roll(h, 1)))
six_steps = own(3, lambda w, h: functools.reduce(lambda h, _: jnp.tanh(w * jnp.roll(h, 1)), range(6), h))
wall = own(1, lambda b, x: 5 * jax.nn.sigmoid(x) + b)
NOTHING = jnp.zeros(0)


def found_in(cell, params, h0s, x=NOTHING, radius=1e-3, **options):
    """The fixed points among the unique points, and their stability."""
    points = unique_points(fixed_points(cell, params, h0s, x, **options), radius)
    fixed = jax.tree.map(lambda a: a[points.converged], points)
    return fixed, stability(cell, params, fixed.states, x)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_tanh_unit_of_gain_one_and_a_half_has_three_fixed_points(dtype):
    cell = vanilla(1, 1, dtype=dtype)
    params = cell.init(jax.random.key(0))._replace(W_hh=jnp.full((1, 1), 1.5, dtype))
    points, found = found_in(cell, params, jnp.linspace(-2, 2, 16, dtype=dtype)[:, None], jnp.zeros(1, dtype))
    order = np.argsort(points.states[:, 0])
    assert points.states.dtype == points.speed.dtype == dtype
    np.testing.assert_allclose(points.states[order, 0], [-A, 0, A], atol=1e-6)
    np.testing.assert_allclose(found.eigenvalues[order, 0], [SLOPE_AT_A, 1.5, SLOPE_AT_A], atol=1e-5)
    np.testing.assert_array_equal(found.unstable[order], [0, 1, 0])
    np.testing.assert_array_equal(np.bincount(found.unstable), [2, 1])


CUBE_ROOTS = np.exp(2j * np.pi * np.arange(3) / 3)


@pytest.mark.parametrize("w", [1.5, -1.5])
def test_a_ring_of_three_tanh_units_has_the_fixed_points_and_eigenvalues_of_its_derivation(w):
    # h_i' = f(h_{i−1}) with f(h) = tanh(w h). At a fixed point h_1 = f(f(f(h_1))). For w > 0, f is increasing, and the
    # orbit of an increasing map is monotonic, so it returns after three steps only if h_1 = f(h_1): all three units
    # are equal, (a, a, a) with a = tanh(w a), which are 0 and ±a for w > 1. For w < 0, f∘f∘f is decreasing, and a
    # decreasing map has one fixed point: 0. The Jacobian at (a, a, a) is w(1 − a²) times a cyclic permutation, so
    # λ = w(1 − a²) times the three cube roots of unity, all of one modulus.
    h0s = jax.random.uniform(jax.random.key(0), (60, 3), minval=-1, maxval=1)
    points, found = found_in(ring, jnp.asarray(w), h0s)
    order = np.argsort(points.states[:, 0])
    a = np.array([-A, 0, A] if w > 0 else [0])
    np.testing.assert_allclose(points.states[order], np.outer(a, np.ones(3)), atol=1e-6)
    np.testing.assert_array_equal(found.unstable[order], np.where(a == 0, 3, 0))
    for eigenvalues, at in zip(np.asarray(found.eigenvalues)[order], a, strict=True):
        expected = w * (1 - at**2) * CUBE_ROOTS
        distance = np.abs(eigenvalues[:, None] - expected)
        np.testing.assert_allclose(distance.min(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(distance.min(axis=1), 0, atol=1e-5)


def test_six_steps_of_a_negative_ring_have_27_fixed_points_eight_of_them_stable():
    # With w = −1.5 the origin is the only fixed point of the ring, and unstable. tanh is odd, so signs move around the
    # ring and flip: (a, a, a) ↔ (−a, −a, −a) is a cycle of 2 steps, and the other six of the eight sign patterns are
    # one cycle of 6 steps: ++− → +−− → +−+ → −−+ → −++ → −+− → ++−. Six steps bring each unit back to its own place
    # with an even power of f: h_i' = f⁶(h_i), whose fixed points are 0 and ±a for each unit alone. So F⁶ has 3³ = 27
    # fixed points, and each unit at 0 is one unstable direction: 8 stable, 12, 6 and 1 with one, two and three.
    h0s = jax.random.uniform(jax.random.key(0), (1000, 3), minval=-1, maxval=1)
    points, found = found_in(six_steps, jnp.asarray(-1.5), h0s)
    corners = np.array([*itertools.product((-A, 0, A), repeat=3)])
    distance = np.linalg.norm(np.asarray(points.states)[:, None] - corners, axis=-1)
    assert len(points.states) == 27
    assert {*distance.argmin(axis=1)} == {*range(27)}
    assert distance.min(axis=1).max() < 1e-6
    np.testing.assert_array_equal(np.bincount(found.unstable), [8, 12, 6, 1])
    np.testing.assert_array_equal(found.unstable, np.sum(np.abs(points.states) < 0.1, axis=1))
    stable = np.abs(found.eigenvalues[found.unstable == 0])
    np.testing.assert_allclose(stable, SLOPE_AT_A**6, rtol=1e-4)


def bisected(is_past, low, high):
    """The number between two at which a condition begins to hold, to 2⁻¹⁴ of their distance."""
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (low, middle) if is_past(middle) else (middle, high)
    return (low + high) / 2


@pytest.mark.parametrize("factory", [gru, gru_reset_before])
def test_a_gru_without_biases_loses_its_stable_rest_at_a_candidate_eigenvalue_of_2(factory):
    # At h = 0, x = 0 and zero biases r = z = ½ and n = 0, for a reset before the product as well as after it, so
    # J = ½ I + ¼ W_hn (test_lag.py), whatever the weights of the gates. An eigenvalue u of W_hn becomes ½ + u/4, which
    # is 1 at u = 2. Here W_hn = g V diag(1, ½, −0.3, −0.8) V⁻¹, whose largest eigenvalue is g.
    cell = factory(2, 4)
    params = random_params(cell)
    params = params._replace(**{name: 0 * params._asdict()[name] for name in params._fields if name.startswith("b")})
    V = np.random.default_rng(1).normal(size=(4, 4))
    candidate = V @ np.diag([1, 0.5, -0.3, -0.8]) @ np.linalg.inv(V)
    h = jnp.zeros((1, 4))

    def is_unstable(gain):
        scaled = params._replace(W_hh=params.W_hh.at[:, 8:].set(gain * candidate))
        return stability(cell, scaled, h, jnp.zeros(2)).unstable[0] > 0

    np.testing.assert_allclose(bisected(is_unstable, 1.0, 4.0), 2, atol=1e-3)


def count_on_the_wall(b):
    points, _ = found_in(wall, jnp.asarray(b), jnp.linspace(-4, 4, 17)[:, None])
    return len(points.states)


FOLD = (1 + np.sqrt(0.2)) / 2  # 5 σ′(x) = 5 σ(1 − σ) = 1 at σ = (1 ± √0.2)/2, and b = x − 5σ there


def test_the_wall_of_the_vanilla_network_stands_between_two_folds():
    assert [count_on_the_wall(b) for b in (-2.8, -2.5, -2.2)] == [1, 3, 1]
    low = bisected(lambda b: count_on_the_wall(b) == 3, -2.8, -2.5)
    high = bisected(lambda b: count_on_the_wall(b) == 1, -2.5, -2.2)
    np.testing.assert_allclose([low, high], [-2.6556, -2.3444], atol=1e-3)
    np.testing.assert_allclose([low, high], [logit(s) - 5 * s for s in (FOLD, 1 - FOLD)], atol=1e-4)


def test_beyond_the_fold_a_slow_point_is_left():
    # F(x) − x has its maximum −0.01 where F′(x) = 1: a local minimum of q = ½·0.01² there, which is not 0.
    b = logit(FOLD) - 5 * FOLD - 0.01
    points = unique_points(fixed_points(wall, jnp.asarray(b), jnp.linspace(0.3, 2, 6)[:, None], NOTHING))
    np.testing.assert_allclose(points.states[:, 0], logit(FOLD), atol=1e-3)
    np.testing.assert_allclose(points.speed, 0.5 * 0.01**2, rtol=1e-4)
    assert not points.converged.any()
    assert np.all(points.slope < 1e-5)
    fixed = unique_points(fixed_points(wall, jnp.asarray(b), jnp.full((1, 1), -3.0), NOTHING))
    assert fixed.converged.all()
    np.testing.assert_allclose(5 * expit(fixed.states) + b, fixed.states, atol=1e-9)


def test_points_under_vmap_and_jit_are_those_of_each_network_alone():
    bs, h0s = jnp.array([-2.8, -2.5, -2.2]), jnp.linspace(-4, 4, 9)[:, None]
    together = jax.jit(jax.vmap(lambda b: (fixed_points(wall, b, h0s, NOTHING), stability(wall, b, h0s, NOTHING))))(bs)
    for n, b in enumerate(bs):
        alone = fixed_points(wall, b, h0s, NOTHING), stability(wall, b, h0s, NOTHING)
        jax.tree.map(lambda many, one, n=n: np.testing.assert_allclose(many[n], one, atol=1e-9), together, alone)


def test_an_lstm_without_weights_rests_where_its_gates_balance():
    # With W = 0 the gates are constant: c* = σ(i) tanh(g) / (1 − σ(f)) and h* = σ(o) tanh(c*). ∂c'/∂c = σ(f), and
    # nothing depends on h: eigenvalues σ(f) and 0, twice each.
    cell = lstm(2, 2)
    i, f, o, g = 0.3, 1.2, -0.4, 0.8
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0)))
    params = params._replace(b_h=jnp.repeat(jnp.array([i, f, o, g]), 2))
    h0s = visited_states(cell, params, jax.random.key(0), cell.start(params, (3,)), count=5, noise=1.0)
    points, found = found_in(cell, params, h0s, jnp.ones(2))
    c = expit(i) * np.tanh(g) / (1 - expit(f))
    np.testing.assert_allclose(points.states.c, np.full((1, 2), c), rtol=1e-6)
    np.testing.assert_allclose(points.states.h, np.full((1, 2), expit(o) * np.tanh(c)), rtol=1e-6)
    np.testing.assert_allclose(found.eigenvalues, [[expit(f), expit(f), 0, 0]], atol=1e-9)


def test_a_complex_recurrence_rests_at_its_input_over_one_less_its_eigenvalue():
    # h* = γ B x / (1 − λ). As real numbers, each complex unit has the two eigenvalues λ and λ̄.
    cell = lru(3, 4)
    params = cell.init(jax.random.key(1))
    x = jnp.array([1.0, -0.5, 0.3])
    lam = np.exp(-np.exp(params.log_nu) + 1j * np.exp(params.log_theta))
    re, im = np.split(np.asarray(x @ params.W_xh), 2)
    expected = np.exp(params.log_gamma) * (re + 1j * im) / (1 - lam)
    points, found = found_in(cell, params, cell.start(params, (2,)), x)
    np.testing.assert_allclose(points.states.re + 1j * points.states.im, expected[None], rtol=1e-6)
    np.testing.assert_allclose(np.sort_complex(found.eigenvalues[0]), np.sort_complex([*lam, *lam.conj()]), rtol=1e-9)
    assert found.unstable.tolist() == [0]


def test_a_convolutional_lstm_rests_where_a_long_rollout_ends():
    cell = conv_lstm(2, 2, space=(4,))
    params = random_params(cell, scale=0.3)
    x = jnp.ones((4, 2))
    points, found = found_in(cell, params, cell.start(params, (2,)), x)
    end, _ = rollout(cell, params, cell.start(params), jnp.broadcast_to(x, (400, 4, 2)))
    assert found.eigenvalues.shape == (1, 16)
    assert abs(found.eigenvalues[0, 0]) < 1, "the rollout converges"
    jax.tree.map(lambda one, last: np.testing.assert_allclose(one[0], last, atol=1e-6), points.states, end)


def test_candidates_are_visited_states_with_noise_of_the_given_size():
    cell = lstm(2, 3)
    params = cell.init(jax.random.key(0))
    _, hs = rollout(cell, params, cell.start(params, (20,)), jax.random.normal(jax.random.key(1), (50, 20, 2)))
    exact = state_rows(cell, params, visited_states(cell, params, jax.random.key(2), hs, count=1000, noise=0))
    visited = {tuple(row) for row in np.asarray(state_rows(cell, params, hs)).reshape(-1, 6)}
    assert {tuple(row) for row in np.asarray(exact)} == visited, "each once, where count is the number of states"
    noisy = state_rows(cell, params, visited_states(cell, params, jax.random.key(2), hs, count=1000, noise=0.5))
    assert abs(np.std(noisy - exact) - 0.5) < 4 * 0.5 / np.sqrt(2 * 6000)
    more = visited_states(cell, params, jax.random.key(2), cell.start(params, (2,)), count=7)
    assert more.h.shape == more.c.shape == (7, 3)


def test_unique_points_are_the_slowest_of_each_group_and_those_that_are_no_numbers_are_left_out():
    states = np.array([[0.0, 1.0], [2.0, 1.0], [0.0, 1.05], [0.0, 0.0], [5.0, 5.0]])
    points = FixedPoints(states, np.array([0.3, 0.2, 0.1, 0.0, np.nan]), np.arange(5.0), np.arange(5) == 3)
    found = unique_points(points, radius=0.1)
    np.testing.assert_array_equal(found.states, states[[3, 2, 1]])
    np.testing.assert_array_equal(found.slope, [3, 2, 1])
    np.testing.assert_array_equal(found.converged, [True, False, False])
    as_one = unique_points(points._replace(states=states[:, 0] + 1j * states[:, 1]), radius=0.1)
    np.testing.assert_array_equal(as_one.speed, found.speed)


def test_principal_components_are_the_directions_of_the_largest_variance():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    latent = np.linalg.qr(rng.normal(size=(200, 5)) - 0)[0]
    latent = np.linalg.qr(latent - latent.mean(axis=0))[0] * [5, 3, 2, 1, 0.1]  # uncorrelated, with known variances
    found = principal_components((latent @ rotation + 7).reshape(20, 10, 5))
    np.testing.assert_allclose(found.share, np.array([25, 9, 4]) / 39.01, rtol=1e-9)
    np.testing.assert_allclose(np.abs(found.axes.T @ rotation[:3].T), np.eye(3), atol=1e-9)
    np.testing.assert_allclose(np.abs(found.coordinates(latent @ rotation + 7)), np.abs(latent[:, :3]), atol=1e-9)
    few = principal_components(latent[:, :2], count=3)
    assert few.axes.shape == (2, 3)
    np.testing.assert_array_equal(few.axes[:, 2], 0)
    assert few.share[2] == 0


def test_wrong_candidates_and_numbers_are_refused_in_one_line():
    cell = lstm(3, 4)
    params = random_params(cell)
    h0s, x = cell.start(params, (5,)), jnp.zeros(3)
    search = functools.partial(fixed_points, cell, params)
    refused(lambda: fixed_points(as_layer(cell), params, h0s, x), "cell got Layer; want a Cell")
    refused(lambda: stability(as_layer(cell), params, h0s, x), "cell got Layer; want a Cell")
    refused(lambda: search(cell.start(params), x), "h0s got .h float64[4], .c float64[4]; want N candidates (N, …)")
    refused(lambda: search(cell.start(params, (5, 2)), x), "h0s got .h float64[5, 2, 4], .c float64[5, 2, 4]; want N")
    refused(lambda: search(h0s.h, x), "h0s got float64[5, 4]; want N candidates")
    refused(lambda: search(h0s._replace(c=h0s.c[:2]), x), "h0s got .h float64[5, 4], .c float64[2, 4]; want N")
    bad = h0s._replace(c=h0s.c.at[3, 1].set(jnp.inf))
    refused(lambda: search(bad, x), "h0s got candidate 3, which is not finite")
    refused(lambda: search(h0s, jnp.zeros(2)), "")
    for steps in (0, 2.5, True):
        refused(lambda steps=steps: search(h0s, x, steps=steps), "steps got ")
    for number in (-1, float("nan"), float("inf"), "a", True):
        refused(lambda q=number: search(h0s, x, tolerance=q), "tolerance got ")
        refused(lambda r=number: unique_points(FixedPoints(*[np.zeros(1)] * 4), r), "radius got ")
        refused(lambda n=number: visited_states(cell, params, jax.random.key(0), h0s, count=2, noise=n), "noise got ")
    refused(lambda: visited_states(cell, params, jax.random.key(0), h0s, count=0), "count got 0")
    none = cell.start(params, (0,))
    refused(lambda: visited_states(cell, params, jax.random.key(0), none, count=1), "hs got no state")
    refused(lambda: principal_components(np.ones((3, 2)), count=0), "count got 0")
    refused(lambda: principal_components(np.ones((0, 2))), "rows got no state")
    refused(lambda: principal_components(np.full((3, 2), np.nan)), "rows got numbers that are not finite")
    refused(lambda: stability(cell, params, cell.start(params), x), "states got .h float64[4], .c float64[4]; want N")
    refused(lambda: stability(cell, params, bad, x), "states got candidate 3, which is not finite")
    refused(lambda: stability(cell, params, h0s, x * np.nan), "x got an input at which the Jacobian of state 0 is not")
    traced = jax.jit(lambda h: stability(cell, params, h, x).unstable)(bad)
    np.testing.assert_array_equal(traced < 0, np.arange(5) == 3)
    refused(lambda: unique_points(FixedPoints(*[np.zeros((2, 3))] * 4)), "points got speeds of shape (2, 3)")


def test_figures_of_dynamics_show_the_points_and_the_eigenvalues_of_each_kind():
    points = {"stable": np.eye(3), "saddle, 2 unstable directions": np.zeros((1, 3))}
    portrait = Portrait(points, np.ones((4, 2, 3)), np.zeros((5, 3, 3)), np.array([0.6, 0.3, 0.1]))
    figure = portrait_figure({"gru": portrait, "tanh": portrait})
    assert len(figure.axes) == 6
    drawn = {str(line.get_marker()): line for line in figure.axes[1].get_lines() if len(np.ravel(line.get_xdata()))}
    np.testing.assert_array_equal(drawn["o"].get_xydata(), np.eye(3)[:, [0, 2]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *points,
        "with pulses",
        "without pulses, from both sides of a saddle",
    ]
    figure.draw_without_rendering()
    spectrum = eigenvalue_figure({"gru": {point_kind(1): np.array([1.5, 0.5j])}, "none": {}})
    marks = [line for line in spectrum.axes[0].get_lines() if line.get_marker() == POINT_KINDS[point_kind(1)]["marker"]]
    np.testing.assert_array_equal(marks[0].get_xydata(), [[1.5, 0], [0, 0.5]])
    spectrum.draw_without_rendering()


def test_the_anatomy_of_two_bits_has_four_corners_and_each_way_from_an_edge_leads_to_one_of_its_corners():
    # Two units tanh(1.5 h), each alone: 3² points, 4 stable, 4 saddles with one unit at 0, and the origin.
    two = own(2, lambda w, h: jnp.tanh(w * h))
    w, EDGE = jnp.asarray(1.5), point_kind(1)
    h0s = jax.random.uniform(jax.random.key(0), (120, 2), minval=-1, maxval=1)
    anatomy = anatomy_of(two, w, fixed_points(two, w, h0s, NOTHING), NOTHING, np.asarray(h0s), radius=1e-3, slow=1e-4)
    assert kind_counts(anatomy) == dict(zip(POINT_KINDS, (4, 4, 1, 0, 0), strict=True))
    np.testing.assert_allclose(np.abs(of_kind(anatomy, "stable").outputs), A, atol=1e-6)
    assert index_sum(anatomy) == 4 - 4 + 1
    assert index_sum(of_kind(anatomy, EDGE)) == -4
    near = anatomy_of(two, w, anatomy.points, NOTHING, np.asarray(h0s) / 4, radius=1e-3, slow=1e-4)
    assert kind_counts(near) == dict(zip(POINT_KINDS, (0, 0, 1, 0, 0), strict=True))  # the others are far outside
    nothing = anatomy_of(two, w, anatomy.points, NOTHING, np.asarray(h0s) + 9, radius=1e-3, slow=1e-4)
    assert kind_counts(nothing) == dict.fromkeys(POINT_KINDS, 0)
    edges = of_kind(anatomy, EDGE).points.states
    flows = ways_out(two, w, edges, NOTHING, steps=100, size=0.01)
    ends = np.stack(np.split(np.asarray(flows[-1]), 2))
    np.testing.assert_allclose(ends.mean(axis=0), edges, atol=1e-6)  # one unit stays, the other falls to both sides
    np.testing.assert_allclose(np.abs(ends), A, atol=1e-6)
    visited = np.asarray(flows)
    portrait = portrait_of(two, w, anatomy, visited, flows, shown=3)
    rows = [*portrait_rows({"two": portrait})]
    assert len(rows) == 9 + 100 * 3 + 100 * 8
    assert {len(row) for row in rows} == {7}
    spectrum = [*eigenvalue_rows({"two": {"stable": of_kind(anatomy, "stable").eigenvalues}})]
    np.testing.assert_allclose([float(row[-1]) for row in spectrum], SLOPE_AT_A, atol=1e-5)
