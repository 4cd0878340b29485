"""Contributions to the gradient by lag, and the bias of truncation, against windows and closed forms."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rnn_jax import cell_from_step, gru, rollout, vanilla
from rnn_jax.diagnostics import lag_contributions
from rnn_jax.gradients import chunked
from tests.laboratory import example

KEY = jax.random.key(0)
T = 5


def squares(ys, targets):
    return jnp.sum(jnp.square(ys - targets))


def rollout_outputs(cell, params, h0, xs, **flags):
    return cell.output(params, rollout(cell, params, h0, xs, **flags)[1])


@pytest.mark.parametrize("name", ["lstm", "stack"])
def test_truncation_leaves_out_what_lies_past_the_border_of_each_window(name):
    cell, params, h0, xs = example(name, T)
    targets = jax.random.normal(KEY, rollout_outputs(cell, params, h0, xs).shape)
    found = lag_contributions(cell, params, h0, xs, targets, squares)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    @partial(jax.vmap, in_axes=(None, 0))
    def of_step(n, t):
        # of the loss of step t, with a border n steps before its end
        def loss(params):
            ys = rollout_outputs(cell, params, h0, xs, cuts=jnp.arange(T) == t - n + 1)
            return squares(ys[t], targets[t])

        return flat(jax.grad(loss)(params))

    of_window = np.asarray(of_step(jnp.arange(1, T + 1), jnp.arange(T)).sum(axis=1))
    full = of_window[-1]
    size, sizes = np.linalg.norm(full), np.linalg.norm(of_window, axis=1)
    bias = np.linalg.norm(of_window - full, axis=1) / size
    np.testing.assert_allclose(found.bias, bias, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.cosine, of_window @ full / sizes / size, rtol=1e-9)
    np.testing.assert_allclose(found.share, sizes / size, rtol=1e-9)
    parts = np.diff(of_window, axis=0, prepend=np.zeros((1, full.size)))
    np.testing.assert_allclose(np.exp(found.log_norm), np.linalg.norm(parts, axis=1), rtol=1e-8)
    if name == "lstm":
        of_program = jax.grad(lambda p: chunked(cell, p, h0, xs, targets, squares, window=2, k1=1)[0])(params)
        np.testing.assert_allclose(of_window[1], flat(of_program), rtol=1e-9, atol=1e-12)


def test_contributions_of_ids_are_those_of_one_hot_vectors_and_of_seeds_those_of_each_alone():
    cell, ids = gru(3, 2), jnp.array([0, 2, 1])
    params = jax.vmap(cell.init)(jax.random.split(KEY, 2))
    contributions = lambda p, xs: lag_contributions(cell, p, cell.start(p), xs, (), lambda ys, _: jnp.sum(ys))  # noqa: E731
    together = jax.vmap(lambda p: contributions(p, ids))(params)
    alone = contributions(jax.tree.map(lambda a: a[1], params), jax.nn.one_hot(ids, 3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-9, atol=1e-12), together, alone)


def flat(tree):
    return ravel_pytree(tree)[0]


def test_contributions_that_float32_could_not_hold_are_measured():
    cell = vanilla(1, 1, activation="linear", dtype=jnp.float32)
    params = cell.init(KEY)._replace(W_hh=jnp.full((1, 1), 0.01, jnp.float32))
    xs = jnp.ones((60, 1), jnp.float32)
    found = lag_contributions(cell, params, cell.start(params), xs, (), lambda ys, _: ys[-1, 0])
    slope = np.diff(found.log_norm[:-2])
    np.testing.assert_allclose(slope, math.log(0.01), atol=1e-3)  # down to e^−270


@pytest.mark.parametrize(
    ("w", "size", "x", "steps"), [(0.1, 1e-25, 1.0, 60), (3.0, 1.0, 1.0, 60), (3.0, 1.0, 0.0, 120)]
)
def test_gradients_whose_squares_float32_could_not_hold_have_a_bias(w, size, x, steps):
    # h_T = Σ w^(T−t) x_t: the window of n steps keeps 1 − w^n of the gradient of W_xh and b, for w < 1;
    # without inputs, b is left, of whose gradient (w^n − 1)/(w^T − 1) is kept
    cell = vanilla(1, 1, activation="linear", dtype=jnp.float32)
    params = cell.init(KEY)._replace(W_hh=jnp.full((1, 1), w, jnp.float32))
    xs, last = jnp.full((steps, 1), x, jnp.float32), lambda ys, _: jnp.float32(size) * ys[-1, 0]
    found = lag_contributions(cell, params, cell.start(params), xs, (), last)
    wide = vanilla(1, 1, activation="linear")
    exact = jax.tree.map(lambda a: a.astype(float), params)
    wanted = lag_contributions(wide, exact, wide.start(exact), xs.astype(float), (), lambda ys, _: size * ys[-1, 0])
    np.testing.assert_allclose(found.log_norm, wanted.log_norm, atol=1e-3)
    for one, other in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    if x == 0:
        np.testing.assert_allclose(found.share[-5:], 3.0 ** -np.arange(4.0, -1, -1), rtol=3e-5)


def test_losses_whose_adjoints_differ_by_more_than_float32_do_not_hide_each_other():
    # h_t = a_t h_{t−1} + w: an early loss explodes, a late one vanishes, and only the late ones are left at long lags
    cell = cell_from_step(
        init=lambda key: jnp.ones((), jnp.float32),
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 1), jnp.float32),
        step=lambda w, h, a: a * h + w,
    )
    a, lags = np.where(np.arange(130) < 50, 3.0, 0.1), (60, 80, 100)
    found = lag_contributions(
        cell,
        jnp.float32(1),
        jnp.zeros(1, jnp.float32),
        jnp.asarray(a[:, None], jnp.float32),
        (),
        lambda ys, _: ys.sum(),
    )
    wanted = [math.log(sum(math.prod(a[t - k + 1 : t + 1]) for t in range(k, 130))) for k in lags]
    np.testing.assert_allclose(found.log_norm[np.array(lags)], wanted, rtol=1e-5)


def test_bias_and_cosine_of_complex_params_are_those_of_their_real_numbers_and_a_gradient_of_zero_has_none():
    complex_cell = cell_from_step(
        init=lambda key: {"λ": jnp.array(0.5 + 0.6j), "n": jnp.array(2)},
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 1), complex),
        step=lambda params, h, x: params["λ"] * h + params["n"].astype(complex) * x,
    )
    real_cell = cell_from_step(
        init=lambda key: jnp.array([0.5, 0.6]),
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 2)),
        step=lambda p, h, x: jnp.array([[p[0], -p[1]], [p[1], p[0]]]) @ h + jnp.array([2.0, 0.0]) * x,
    )
    xs = jnp.arange(1.0, 6.0)[:, None]
    args, real = (complex_cell, complex_cell.init(KEY), jnp.zeros(1, complex)), (real_cell, jnp.array([0.5, 0.6]))
    found = lag_contributions(*args, xs.astype(complex), (), lambda ys, _: jnp.sum(jnp.square(jnp.abs(ys))))
    wanted = lag_contributions(*real, jnp.zeros(2), xs, (), lambda ys, _: jnp.sum(jnp.square(ys)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, wanted)
    zero = lag_contributions(*args, 0 * xs.astype(complex), (), lambda ys, _: jnp.sum(ys.real))
    np.testing.assert_array_equal(zero.log_norm, -np.inf)
    for numbers in zero[1:]:
        assert np.all(np.isnan(numbers))
