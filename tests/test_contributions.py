"""Gradients of states and params by lag: losses at every step, windows, probes, and the training step itself."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax import (
    BothWays,
    bidirectional,
    gru,
    initializers,
    lag_gradients,
    length_mask,
    lstm,
    output_dropout,
    readout,
    residual,
    rollout,
    stack,
    vanilla,
    zoneout,
)
from rnn_jax.diagnostics import (
    jacobian_numbers,
    lag_contributions,
    leading_gain,
    log_norms_of_layers,
    log_norms_of_probes,
    loss_surface,
    probe_gradients,
    probed,
    random_direction,
    saturation,
    state_gradients,
    step_jacobian,
    with_probes,
    zero_probes,
)
from rnn_jax.schedules.scan import is_key
from rnn_jax.training import fit, window_learner
from tests.cases import CASES, SAME_OUTSIDE
from tests.laboratory import random_example, refused

KEY = jax.random.key(0)
T, B = 7, 2


def squares(ys, targets):
    return jnp.sum(jnp.square(ys - targets))


def rollout_outputs(cell, params, h0, xs, **flags):
    return cell.output(params, rollout(cell, params, h0, xs, **flags)[1])


def test_a_profile_of_probes_reaches_as_far_as_float32():
    cell = vanilla(1, 3, activation="linear", dtype=jnp.float32)
    params = cell.init(KEY)._replace(W_hh=jnp.float32(0.1) * jnp.eye(3, dtype=jnp.float32))
    xs = jnp.ones((36, 1), jnp.float32)
    last = lambda d: rollout(probed(cell), params, cell.start(params), with_probes(xs, d))[0].sum()  # noqa: E731
    found = jax.jit(lambda d: log_norms_of_probes(cell, params, xs, jax.grad(last)(d)))(
        zero_probes(cell.start(params), 36)
    )
    np.testing.assert_allclose(np.diff(found), math.log(0.1), atol=1e-3)


def test_a_mask_does_not_make_a_part_recurrent():
    cell = residual(gru(3, 3))
    params, xs = cell.init(KEY), jax.random.normal(KEY, (5, B, 3))
    measure = partial(state_gradients, cell, params, cell.start(params, (B,)), xs, loss_of_each)
    np.testing.assert_allclose(measure(mask=np.ones(5, bool)).log_norm, measure().log_norm, rtol=1e-12)


@pytest.fixture(scope="module")
def deep():
    cell = readout(stack(gru(2, 3), lstm(3, 2)), 2)
    params = cell.init(KEY)
    return cell, params, cell.start(params, (B,)), jax.random.normal(KEY, (T, B, 2))


def loss_of_each(ys):
    return jnp.sum(jnp.square(ys), axis=(0, -1))


FLAGS = {
    "none": {},
    "lengths": {"lengths": np.array([4, T])},
    "resets": {"resets": np.arange(T)[:, None] == np.array([3, 5])},
    "mask": {"mask": np.arange(T) % 3 != 1},
}


@pytest.mark.parametrize("name", FLAGS)
def test_state_gradients_are_those_of_states_that_are_perturbed(deep, name):
    cell, params, h0, xs = deep
    found = state_gradients(cell, params, h0, xs, loss_of_each, **FLAGS[name])

    def from_step(t):
        # the state after t steps is added to, and the rest of the sequence is rolled out from there
        flags = {k: v if k == "lengths" else v[t:] for k, v in FLAGS[name].items()}
        if "lengths" in flags:
            flags["lengths"] = jnp.maximum(flags["lengths"] - t, 0)
        head = {k: v if k == "lengths" else v[:t] for k, v in FLAGS[name].items()}
        if "lengths" in head:
            head["lengths"] = jnp.minimum(head["lengths"], t)
        h = rollout(cell, params, h0, xs[:t], **head)[0]

        def later(h):
            own = cell.output(params, h)[None] if t else jnp.zeros((0, B, 2))
            ys = rollout_outputs(cell, params, h, xs[t:], **flags)
            return jnp.sum(loss_of_each(jnp.concatenate([own, ys])))

        g = jax.grad(later)(h)
        return [jnp.linalg.norm(flat_rows(layer), axis=-1) for layer in g]

    of_layers = jax.device_get(log_norms_of_layers(found))
    steps = (0, 4, T)
    for t, layers in zip(steps, jax.device_get(jax.jit(lambda: [*map(from_step, steps)])()), strict=True):
        for layer, wanted in zip(of_layers, layers, strict=True):
            np.testing.assert_allclose(np.exp(layer[T - t]), wanted, rtol=1e-9, atol=1e-14)
        total = np.sqrt(sum(np.square(layer) for layer in layers))
        np.testing.assert_allclose(np.exp(np.asarray(found.log_norm)[T - t]), total, rtol=1e-9, atol=1e-14)


def test_each_direction_of_a_bidirectional_layer_has_a_profile(deep):
    cells, xs = BothWays(gru(2, 3), lstm(2, 2)), deep[3]
    layer = bidirectional(*cells)
    params, flags, read = (
        layer.init(KEY),
        FLAGS["lengths"] | {"resets": np.arange(T) == 2},
        length_mask(np.array([4, T]), T),
    )
    h0 = layer.start(params, (B,))

    def loss(ys):
        return loss_of_each(jnp.where(read[..., None], ys, 0))

    def of_probes(probes):
        runs = zip(cells, params, h0, probes, (False, True), strict=True)
        hs = [rollout(probed(c), p, h, with_probes(xs, d), reverse=back, **flags)[1] for c, p, h, d, back in runs]
        return jnp.sum(loss(layer.output(params, BothWays(*hs))))

    wanted = jax.grad(of_probes)(BothWays(*(zero_probes(h, T) for h in h0)))
    there, back = jnp.split(layer.apply(params, h0, xs, **flags)[1], [3], axis=-1)
    merged = BothWays(
        lambda ys: loss(jnp.concatenate([ys, back], -1)), lambda ys: loss(jnp.concatenate([there, ys], -1))
    )
    for direction in ("forward", "backward"):
        cell, p, h, of, probes = (getattr(pair, direction) for pair in (cells, params, h0, merged, wanted))
        found = state_gradients(cell, p, h, xs, of, reverse=direction == "backward", **flags).log_norm
        by_step = found[:-1] if direction == "backward" else found[:-1][::-1]
        of_state = np.linalg.norm(np.concatenate(jax.tree.leaves(probes), axis=-1), axis=-1)
        np.testing.assert_allclose(jnp.exp(by_step)[read], of_state[read], rtol=1e-9, atol=1e-14)


def flat_rows(layer):
    return jnp.concatenate(jax.tree.leaves(layer), axis=-1)


def test_a_loss_of_the_last_output_gives_lag_gradients_and_probes_are_those_of_shorter_sequences(deep):
    cell, params, h0, xs = deep
    last = lambda y: jnp.sum(jnp.square(y), axis=-1)  # noqa: E731
    wanted = lag_gradients(cell, params, h0, xs, last)
    found = state_gradients(cell, params, h0, xs, lambda ys: last(ys[-1]))
    np.testing.assert_allclose(found.log_norm, wanted.log_norm, rtol=1e-12)
    flags = {"lengths": np.array([T - 2, 3]), "resets": np.arange(T) == 1}
    of_flags = [
        lag_gradients(cell, params, h0, xs, last, **flags),
        state_gradients(cell, params, h0, xs, lambda ys: last(ys[-1]), **flags),
    ]
    np.testing.assert_allclose(of_flags[0].log_norm, of_flags[1].log_norm, rtol=1e-12)
    of_probes = probe_gradients(cell, params, h0, xs, last, steps=[5, T], lags=4).log_norm
    np.testing.assert_allclose(of_probes[:, 1], wanted.log_norm[:5], rtol=1e-12)
    np.testing.assert_allclose(of_probes[:, 0], lag_gradients(cell, params, h0, xs[:5], last).log_norm[:5], rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in CASES if name not in SAME_OUTSIDE])
def test_the_gradients_of_probes_are_lag_gradients_for_every_cell(name):
    cell, params, h0, xs = random_example(name, 4)

    def last(y):
        return jnp.sum(jnp.square(y), axis=tuple(range(1, y.ndim)))

    @jax.jit
    def of_probes(h0, xs):
        g = jax.grad(lambda d: jnp.sum(last(rollout_outputs(probed(cell), params, h0, with_probes(xs, d))[-1])))
        return log_norms_of_probes(cell, params, xs, g(zero_probes(h0, 4)))

    found = of_probes(h0, xs)
    np.testing.assert_allclose(found, lag_gradients(cell, params, h0, xs, last).log_norm[:4], rtol=1e-9, atol=1e-9)


def test_the_profile_of_the_training_step_is_that_of_lag_gradients_and_changes_no_bit_of_the_params():
    model = readout(lstm(3, 4), 2)
    windows = jax.random.normal(KEY, (3, T, B, 3)), jax.random.normal(KEY, (3, T, B, 2))

    def loss(ys, targets):
        return jnp.sum(jnp.square(ys[-1] - targets[-1]))

    plain, measured = (window_learner(model, loss, optax.adam(0.1), clip=1.0, lag_profile=on) for on in (False, True))
    state = plain.init(KEY, (B,))
    after, info = fit(measured, state, windows)
    without, other = fit(plain, state, windows)
    assert other.lag_profile == ()
    for a, b in zip(jax.tree.leaves((after, info.loss)), jax.tree.leaves((without, other.loss)), strict=True):
        a, b = (jax.random.key_data(x) if is_key(x) else x for x in (a, b))
        np.testing.assert_array_equal(a, b)
    assert info.lag_profile.shape == (3, T, B)
    wanted = lag_gradients(
        model, state.params, state.h, windows[0][0], lambda y: jnp.sum(jnp.square(y - windows[1][0, -1]), axis=-1)
    )
    np.testing.assert_allclose(info.lag_profile[0], wanted.log_norm[:T], rtol=1e-5)


def test_cells_that_draw_and_masked_windows_have_a_profile_too():
    model = readout(output_dropout(zoneout(gru(3, 4), 0.2), 0.3), 2)
    learner = window_learner(model, squares, optax.sgd(0.1), lag_profile=True)
    mask = jnp.arange(T) < 5
    window = jax.random.normal(KEY, (T, B, 3)), jnp.zeros((T, B, 2)), mask
    _, info = learner.update(learner.init(KEY, (B,)), window)
    assert np.all(np.isneginf(info.lag_profile[:2]))  # a probe of a masked step is not added
    assert np.all(np.isfinite(info.lag_profile[2:]))


def test_the_numbers_of_a_jacobian():
    W = jax.random.normal(KEY, (5, 5))
    cell = vanilla(1, 5, activation="linear")
    params = cell.init(KEY)._replace(W_hh=W)
    found = jacobian_numbers(cell, params, cell.start(params), jnp.zeros(1))
    values = np.linalg.svd(W, compute_uv=False)
    eigenvalues = np.linalg.eigvals(W)
    np.testing.assert_allclose(found.gain, values[0], rtol=1e-12)
    np.testing.assert_allclose(found.radius, np.abs(eigenvalues).max(), rtol=1e-12)
    np.testing.assert_allclose(found.log_abs_det, np.log(values).sum(), rtol=1e-12)
    # the strict upper triangle of the Schur form holds what is not normal
    from scipy.linalg import schur

    upper = np.triu(schur(np.asarray(W), output="complex")[0], 1)
    np.testing.assert_allclose(found.non_normality, np.linalg.norm(upper) / np.linalg.norm(W), rtol=1e-10)
    rotation = initializers.orthogonal(0.7)(KEY, (5, 5))
    normal = jacobian_numbers(cell, params._replace(W_hh=rotation), cell.start(params), jnp.zeros(1))
    np.testing.assert_allclose(normal, (0.7, 0.7, 5 * math.log(0.7), 0), atol=1e-7)


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_the_departure_from_normality_does_not_depend_on_the_size_of_the_jacobian(size):
    cell = vanilla(1, 3, activation="linear", dtype=jnp.float32)
    params = cell.init(KEY)._replace(W_hh=jnp.float32(size) * jnp.eye(3, k=1, dtype=jnp.float32))
    found = jacobian_numbers(cell, params, cell.start(params), jnp.zeros(1, jnp.float32))
    np.testing.assert_allclose(found.non_normality, 1, rtol=1e-6)


def test_layers_add_up_to_the_total_which_leaves_out_what_only_the_output_reads():
    cell = stack(gru(3, 3), residual(gru(3, 3)))
    params, xs = cell.init(KEY), jax.random.normal(KEY, (3, 3))
    found = lag_gradients(cell, params, cell.start(params), xs, jnp.sum)
    layers = jnp.stack(log_norms_of_layers(found))
    np.testing.assert_allclose(jnp.sum(jnp.exp(2 * layers), axis=0), jnp.exp(2 * found.log_norm), rtol=1e-12)
    both = jax.tree.map(lambda a: jnp.stack([a, a]), found)  # as vmap over seeds returns them
    np.testing.assert_array_equal(jnp.stack(log_norms_of_layers(both))[:, 1], layers)


def test_no_step_has_one_lag_and_no_probe(deep):
    cell, params, h0, xs = deep
    found = state_gradients(cell, params, h0, xs[:0], loss_of_each).log_norm
    np.testing.assert_array_equal(found, np.full((1, B), -np.inf))
    assert log_norms_of_probes(cell, params, xs[:0], zero_probes(h0, 0)).shape == (0, B)
    refused(lambda: lag_contributions(cell, params, h0, xs[:0], (), squares), "xs got 0 steps; want at least one")


@pytest.mark.parametrize(
    ("activation", "share"), [("tanh", 0.5), ("relu", 0.5), ("sigmoid", 0.25), ("linear", math.nan)]
)
def test_units_without_a_slope_are_saturated(activation, share):
    cell = vanilla(4, 4, activation=activation)
    params = cell.init(KEY)._replace(W_xh=jnp.eye(4))
    x = jnp.array([1.0, -2.5, -9.0, 0.5])  # tanh: −2.5 and −9; relu: both negative ones; σ: −9 alone
    np.testing.assert_allclose(saturation(cell, params, cell.start(params), x), share)
    assert np.isnan(saturation(cell, params, cell.start(params), x.at[0].set(jnp.nan)))


def test_gates_that_are_shut_are_saturated():
    cell = lstm(2, 3)
    params = jax.tree.map(jnp.zeros_like, cell.init(KEY))
    shut = params._replace(b_h=params.b_h.at[:6].set(-20.0))  # i and f of 3 units; o, g and tanh c are at 0
    np.testing.assert_allclose(saturation(cell, shut, cell.start(shut, (B,)), jnp.zeros((B, 2))), 6 / 15)


def test_a_slice_of_the_loss_contains_the_loss_and_directions_have_the_norms_of_the_params():
    cell = vanilla(1, 3)
    params = cell.init(KEY)
    first, second = (random_direction(key, params) for key in jax.random.split(KEY))
    for d, p in zip(jax.tree.leaves(first), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(jnp.linalg.norm(d), jnp.linalg.norm(p), rtol=1e-12)
    loss = lambda params: jnp.sum(rollout(cell, params, cell.start(params), jnp.ones((4, 1)))[0])  # noqa: E731
    found = loss_surface(loss, params, first, second, radius=0.5, points=5)
    np.testing.assert_allclose(found.losses[2, 2], loss(params), rtol=1e-12)
    moved = jax.tree.map(lambda p, d, e: p - 0.5 * d + 0.25 * e, params, first, second)
    np.testing.assert_allclose(found.losses[0, 3], loss(moved), rtol=1e-12)


def test_wrong_arguments_are_refused_in_one_line(deep):
    cell, params, h0, xs = deep
    contributions = partial(lag_contributions, cell, params, h0, xs, jnp.zeros((T, B, 2)), squares)
    refused(lambda: contributions(lags=T + 1), "lags got 8; want at most 7")
    refused(lambda: contributions(lags=0), "lags got 0")
    broken = lag_contributions, cell, params, h0, xs.at[2].set(jnp.nan), jnp.zeros((T, B, 2)), squares
    refused(partial(*broken), "state got numbers that are not finite at step 3")
    of_each = partial(lag_contributions, cell, params, h0, xs)
    refused(lambda: of_each((), lambda ys, _: ys[-1]), "loss got shape")
    refused(lambda: of_each(jnp.zeros(T - 1), squares), "targets got shape")
    refused(lambda: log_norms_of_layers(lag_gradients(*random_example("gru", 3, ()), loss=jnp.sum)), "found got")
    refused(lambda: loss_surface(lambda w: jnp.ones(2), 1.0, 1.0, 1.0), "loss got shape (2,)")
    refused(lambda: state_gradients(cell, params, h0, xs, jnp.sum), "loss got shape ()")
    refused(lambda: state_gradients(cell, params, h0, xs, loss_of_each, lengths=np.array([9, 1])), "lengths got")
    last = lambda y: jnp.sum(y, -1)  # noqa: E731
    wrong: list[Any] = [[2], [8], [], [4.5], 5, [[1, 2], [3]]]
    for steps in wrong:
        refused(lambda steps=steps: probe_gradients(cell, params, h0, xs, last, steps=steps, lags=4), "steps got")
    refused(lambda: saturation(cell, params, h0, xs[0], slope=0), "slope got 0")
    refused(lambda: saturation(cell, params, h0, xs[0, :1]), "xs got shape (1, 1, 2), h0 the batch axes (2,)")
    for measure in (step_jacobian, leading_gain, jacobian_numbers):
        refused(lambda of=measure: of(cell, params, h0, xs[0]), "h got batch axes (2,); want the state of one example")
    ones = jnp.ones(2)
    for unlike in (jnp.ones((3, 2)), [ones]):
        refused(lambda d=unlike: loss_surface(jnp.sum, ones, d, ones), "first got ")
        refused(lambda d=unlike: loss_surface(jnp.sum, ones, ones, d), "second got ")
    refused(lambda: loss_surface(lambda w: w, jnp.zeros(()), 1.0, 1.0, radius=-1.0), "radius got -1")
    refused(lambda: loss_surface(lambda w: w, jnp.zeros(()), 1.0, 1.0, points=0), "points got 0")
