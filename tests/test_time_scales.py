"""Forget factors and time scales of gates against the equations of the cells."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import sigmoid

import rnn_jax as rnn
from rnn_jax import ComplexState, cell_from_step, rollout
from rnn_jax.diagnostics import retention
from rnn_jax.diagnostics.retention import chrono_target, direct_path, forget_factors, time_scales
from tests.cases import CASES
from tests.laboratory import example, refused


def gates(params, h, x):
    return jnp.split(x @ params.W_xh + params.b_h + h @ params.W_hh, params.W_xh.shape[-1] // 4, axis=-1)


def of_indrnn(params, h, x):
    return params.w_hh * (1 - jnp.tanh(x @ params.W_xh + params.b_h + params.w_hh * h) ** 2)


def of_antisymmetric(params, h, x, step_size=0.1, damping=0.01):
    a = x @ params.W_xh + params.b_h + h @ (params.W_hh - params.W_hh.T) - damping * h
    return 1 - step_size * damping * (1 - jnp.tanh(a) ** 2)


def of_lru(params, h, x):
    size, angle = jnp.exp(-jnp.exp(params.log_nu)), jnp.exp(params.log_theta)
    return ComplexState(size * jnp.cos(angle), size * jnp.sin(angle))


def of_peephole(params, h, x):
    # c_{t−1} is read by its own gates too: ∂c_t/∂c_{t−1} = f + c w_cf f(1 − f) + g w_ci i(1 − i) on the direct path.
    i, f, _, g = gates(params, h.h, x)
    w_ci, w_cf, _ = jnp.split(params.w_ch, 3)
    i, f, g = sigmoid(i + w_ci * h.c), sigmoid(f + w_cf * h.c), jnp.tanh(g)
    return h._replace(h=jnp.zeros(4), c=f + h.c * w_cf * f * (1 - f) + g * w_ci * i * (1 - i))


FACTORS = {
    "vanilla tanh": lambda params, h, x: jnp.zeros(4),
    "indrnn": of_indrnn,
    "antisymmetric": of_antisymmetric,
    "ctrnn": lambda params, h, x: jnp.full(4, 2 / 3),  # 1 − Δt/τ, τ = 3
    "cornn": lambda params, h, x: rnn.CoRNNState(h=jnp.full(4, 1 - 0.05**2 * 2), z=jnp.full(4, 1 - 0.05 * 4)),
    "gru": lambda params, h, x: sigmoid(gates(params, h, x)[1]),
    "lstm": lambda params, h, x: rnn.LSTMState(h=jnp.zeros(4), c=sigmoid(gates(params, h.h, x)[1])),
    "lstm peephole": of_peephole,
    "diagonal": lambda params, h, x: jnp.exp(-jnp.exp(params.log_nu)),
    "lru": of_lru,
    "residual": lambda params, h, x: h._replace(
        cell=sigmoid((x @ params.W_xh + params.b_h + h.cell @ params.W_hh)[3:6]), x=jnp.zeros(3)
    ),
    "zoneout": lambda params, h, x: rnn.LSTMState(h=jnp.full(4, 0.3), c=0.3 + 0.7 * sigmoid(gates(params, h.h, x)[1])),
    "cell from step": lambda params, h, x: jnp.full(4, 0.5),
}
"""Of the equations in docs/cells.md, differentiated by hand with each product held constant."""


@pytest.mark.parametrize("name", FACTORS)
def test_forget_factors_are_those_of_the_equations(name):
    cell, params, h, xs = example(name, 1, ())
    factors = forget_factors(cell, params, h, xs[0])
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15),
        factors,
        FACTORS[name](params, h, xs[0]),
    )


@pytest.mark.parametrize("name", ["gru", "lstm peephole", "lstm layer norm", "slstm", "lru", "conv lstm 2d", "stack"])
def test_the_direct_path_is_elementwise(monkeypatch, name):
    # One derivative along a vector of ones equals the derivatives of the numbers, each to itself alone.
    cell, params, h, xs = example(name, 1, ())
    at_once, one_by_one = [], []
    monkeypatch.setattr(retention, "_one_by_one", lambda *_: one_by_one.append(1))
    at_once = retention._factors(cell, params, h, xs[0])
    assert not one_by_one
    monkeypatch.undo()
    monkeypatch.setattr(retention, "ELEMENTWISE", frozenset())
    alone = jax.jit(lambda h, x: retention._factors(cell, params, h, x))(h, xs[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), alone, at_once)
    assert jax.tree.structure(at_once) == jax.tree.structure(h)


def test_a_state_whose_parts_lie_in_one_array_has_the_factors_of_its_own_numbers():
    # (a, b)ₜ = (½ a + b, ¼ b + tanh a): a derivative along ones would add the two.
    cell = cell_from_step(
        init=lambda key: (),
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 2)),
        step=lambda params, h, x: jnp.stack([0.5 * h[..., 0] + h[..., 1], 0.25 * h[..., 1] + jnp.tanh(h[..., 0])], -1),
    )
    factors = forget_factors(cell, (), jnp.ones((3, 2)), jnp.zeros((3, 1)))
    np.testing.assert_allclose(factors, [[0.5, 0.25]] * 3, rtol=1e-14)


def test_a_complex_state_of_ones_own_has_its_complex_factor_and_the_time_scale_of_its_size():
    cell = cell_from_step(
        init=lambda key: jnp.array([0.9 * np.exp(0.3j), 0.5j]),
        start=lambda λ, batch_shape=(): jnp.zeros((*batch_shape, 2), complex),
        step=lambda λ, h, x: λ * h + x,
    )
    λ = cell.init(jax.random.key(0))
    np.testing.assert_allclose(forget_factors(cell, λ, cell.start(λ), jnp.ones(2, complex)), λ, rtol=1e-14)
    scales = time_scales(cell, λ, cell.start(λ), jnp.ones((3, 2), complex))
    np.testing.assert_allclose(scales, [-1 / np.log([0.9, 0.5])] * 3, rtol=1e-12)


def test_a_product_inside_a_loop_of_a_step_ends_the_direct_path():
    W = jnp.array([[0.3, 1.0], [0.2, 0.4]])
    cell = cell_from_step(
        init=lambda key: W,
        start=lambda W, batch_shape=(): jnp.zeros((*batch_shape, 2)),
        step=lambda W, h, x: 0.9 * h + jax.lax.fori_loop(0, 3, lambda _, a: jnp.tanh(a @ W), h),
    )
    np.testing.assert_allclose(forget_factors(cell, W, jnp.ones(2), jnp.zeros(1)), [0.9, 0.9], rtol=1e-14)


def test_time_scales_and_direct_paths_are_logarithms_of_the_factors_of_every_step_and_example():
    cell, params, h0, xs = example("lstm", 5, (2,))
    scales, path = time_scales(cell, params, h0, xs), direct_path(cell, params, h0, xs)
    _, hs = rollout(cell, params, h0, xs)
    h_before = jnp.concatenate([h0.h[None], hs.h])[:-1]
    f = np.asarray(sigmoid(jax.vmap(jax.vmap(lambda h, x: gates(params, h, x)[1]))(h_before, xs)))
    np.testing.assert_array_equal(scales.h, np.zeros((5, 2, 4)))
    np.testing.assert_allclose(scales.c, -1 / np.log(f), rtol=1e-12)
    assert path.c.shape == (6, 2, 4)
    for k in range(6):
        np.testing.assert_allclose(path.c[k], np.sum(np.log(f[5 - k :]), axis=0), rtol=1e-12, atol=1e-15)
    assert not path.h[0].any()
    assert np.all(np.isneginf(path.h[1:]))


def test_the_direct_path_of_an_lstm_without_weights_is_its_whole_gradient():
    cell = rnn.lstm(2, 3, forget_bias=2.0, recurrent_init=rnn.initializers.zeros, dtype=jnp.float32)
    cell = cell._replace(output=lambda params, state: state.c)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (1000, 2), jnp.float32)
    lags = rnn.lag_gradients(cell, params, cell.start(params), xs, lambda c: c[0])
    path = direct_path(cell, params, cell.start(params), xs).c[:, 0]
    assert path[-1] < -100  # a product of factors would underflow
    np.testing.assert_allclose(path, lags.log_norm, rtol=1e-4, atol=1e-4)


def test_a_copied_state_has_an_infinite_time_scale_and_a_complex_one_that_of_its_modulus():
    cell = cell_from_step(lambda key: (), lambda _, batch_shape=(): jnp.zeros((*batch_shape, 1)), lambda _, h, x: h + x)
    np.testing.assert_array_equal(time_scales(cell, (), jnp.zeros(1), jnp.ones((2, 1))), [[np.inf]] * 2)
    cell, params, h0, xs = example("lru", 2, ())
    scales = time_scales(cell, params, h0, xs)
    np.testing.assert_allclose(scales, [np.exp(-params.log_nu)] * 2, rtol=1e-9)  # |λ| = exp(−ν): τ = 1/ν


@pytest.mark.parametrize("make", [rnn.chrono_lstm, rnn.chrono_gru])
def test_time_scales_of_chrono_cells_have_the_quantiles_of_their_target(make):
    max_lag, seeds = 100.0, jax.random.split(jax.random.key(0), 100)
    cell = make(1, 40, max_lag=max_lag, recurrent_init=rnn.initializers.zeros)

    def at_rest(key):
        params = cell.init(key)
        return time_scales(cell, params, cell.start(params), jnp.zeros((1, 1)))

    scales = jax.tree.leaves(jax.jit(jax.vmap(at_rest))(seeds))[-1]  # c of the LSTM, h of the GRU
    q = np.array([0.1, 0.5, 0.9])
    errors = np.sqrt(q * (1 - q) / scales.size) * (max_lag - 2)  # of quantiles of u, and dτ/du is at most 1.05
    found = np.quantile(scales, q)
    assert np.all(np.abs(found - chrono_target(max_lag, q=tuple(q))) < 4 * errors)


def test_the_target_of_chrono_is_the_time_scale_of_the_sigmoid_of_its_bias():
    q = np.linspace(0, 1, 7)
    bias = np.log(1 + q * 98)
    np.testing.assert_allclose(chrono_target(100, q=tuple(q)), -1 / np.log(1 / (1 + np.exp(-bias))), rtol=1e-10)


def test_factors_are_the_same_for_seeds_together():
    cell, _, h0, xs = example("gru", 3, ())
    params = jax.vmap(cell.init)(jax.random.split(jax.random.key(0), 2))
    together = jax.vmap(lambda p: time_scales(cell, p, h0, xs))(params)
    alone = time_scales(cell, jax.tree.map(lambda a: a[1], params), h0, xs)
    np.testing.assert_allclose(together[1], alone, rtol=1e-12)


def test_what_has_no_time_scale_is_refused():
    cell, params, h0, xs = example("gru", 3, ())
    for measure in (time_scales, direct_path):
        refused(lambda measure=measure: measure(rnn.bidirectional(cell, cell), params, h0, xs), "cell got a Layer")
        refused(lambda measure=measure: measure(cell, params, h0, None), "xs got None")
    refused(lambda: forget_factors(cell, params, cell.start(params, (4,)), jnp.ones((3, 3))), "xs got shape (1, 3, 3)")
    assert direct_path(cell, params, h0, xs[:0]).shape == (1, 4)
    counter = cell_from_step(
        lambda key: (), lambda _, batch_shape=(): jnp.zeros(batch_shape, int), lambda _, h, x: h + 1
    )
    refused(lambda: forget_factors(counter, (), jnp.zeros((), int), jnp.zeros(1)), "state got int64; want floating")
    for wrong in (2, -1.0, math.inf, math.nan, "3", None):
        refused(lambda wrong=wrong: chrono_target(wrong), "max_lag got ")
    refused(lambda: chrono_target(10.0, q=(0.5, 1.1)), "q got 1.1; want quantiles in [0, 1]")


def test_every_case_has_factors_of_the_form_of_its_state():
    for name in ("embedding", "mixed precision", "output dropout", "linear cell of one's own"):
        cell, params, h, xs = example(name, 1, ())
        factors = forget_factors(cell, params, h, xs[0])
        assert jax.tree.map(jnp.shape, factors) == jax.tree.map(jnp.shape, h), name
    assert set(FACTORS) <= set(CASES)
