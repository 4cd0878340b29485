"""Estimators of the gradient against back-propagation, and SnAp against a plain loop."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rnn_jax import (
    bidirectional,
    cell_from_step,
    dense_input,
    diagonal,
    gru,
    gru_reset_before,
    keyed,
    linear_cell,
    lru,
    lstm,
    min_gru,
    min_lstm,
    mixed_precision,
    readout,
    residual,
    vanilla,
    variational_dropout,
    zoneout,
)
from rnn_jax.diagnostics.states import layout_of
from rnn_jax.gradients.estimators import ESTIMATORS, artbp, bptt, compare_estimator, truncated
from rnn_jax.gradients.influence import rtrl, rtrl_diagonal, snap, uoro
from rnn_jax.gradients.patterns import influence_pattern, step_dependencies
from rnn_jax.losses import per_step, squared_error
from tests.cases import CASES
from tests.laboratory import any_nonzero, random_params, refused

STEPS = 5


def squares(ys, targets):
    """Σ_t w_t ‖y_t‖², with a weight for every step and example."""
    return jnp.sum(targets * jnp.sum(ys**2, axis=range(targets.ndim, ys.ndim)))


def weights(*shape):
    return jnp.linspace(0.5, 1.5, int(np.prod(shape))).reshape(shape)


def flat(tree):
    """All numbers of a pytree in a row, as NumPy has them, which compiles nothing."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def problem(cell, steps=STEPS, batch=(), x=(2,), seed=0):
    """``(cell, params, h0, xs, targets, loss)`` with random weights and a start that is not zero."""
    params = random_params(cell, seed, scale=0.7)
    rng = np.random.default_rng(seed)
    like = jax.eval_shape(lambda params: cell.start(params, batch), params)
    h0 = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), like)
    return cell, params, h0, jnp.asarray(rng.normal(size=(steps, *batch, *x))), weights(steps, *batch), squares


def assert_same(estimate, exact, rtol=1e-10):
    """The same loss, and gradients whose difference is small beside the whole gradient."""
    chex.assert_trees_all_equal_shapes_and_dtypes(estimate, exact)
    assert any_nonzero(exact[1])
    np.testing.assert_allclose(estimate[0], exact[0], rtol=1e-12)
    g, g_exact = flat(estimate[1]), flat(exact[1])
    assert np.isfinite(g_exact).all()
    np.testing.assert_allclose(g, g_exact, rtol=0, atol=rtol * float(np.linalg.norm(g_exact)))


@pytest.mark.parametrize("name", list(CASES))
def test_rtrl_is_back_propagation_for_every_cell(name):
    given = problem(CASES[name].cell, batch=(2,), x=CASES[name].x)
    assert_same(rtrl(*given), bptt(*given, schedule="scan"))


@pytest.mark.parametrize(
    "cell",
    [
        diagonal(2, 3),
        lru(2, 3, output_size=2),
        min_gru(2, 3),
        min_lstm(2, 3),
        readout(residual(lru(2, 3, output_size=2)), 2),
    ],
    ids=["diagonal", "lru", "min gru", "min lstm", "lru in wrappers"],
)
def test_rtrl_of_a_diagonal_cell_is_back_propagation_and_so_is_snap_1(cell):
    given = problem(cell, batch=(2,))
    exact = bptt(*given, schedule="scan")
    assert_same(rtrl_diagonal(*given), exact)
    assert_same(snap(*given, order=1), exact)


def test_what_a_param_does_beyond_a_threshold_is_found_wherever_the_threshold_is():
    # Neither d < 0 nor w x > 20 is met at random params and inputs.
    cell = linear_cell(
        init=lambda key: (-jnp.ones(2), jnp.ones(2), jnp.ones(2), jnp.ones(2)),
        start=lambda params, batch_shape=(): jnp.ones((*batch_shape, 2)),
        coefficients=lambda p, x: (jnp.exp(-jax.nn.relu(-p[0])), jax.nn.relu(p[1] * x - 20) * p[2] + p[3]),
    )
    params = cell.init(jax.random.key(0))
    given = cell, params, cell.start(params), jnp.full((STEPS, 2), 30.0), weights(STEPS), squares
    exact = bptt(*given, schedule="scan")
    assert all(np.all(leaf != 0) for leaf in exact[1])
    assert_same(rtrl_diagonal(*given), exact)
    assert_same(snap(*given), exact)


@pytest.mark.parametrize(("cell", "most"), [(min_lstm(20, 30), 1), (lru(20, 30), 2)], ids=["min lstm", "lru"])
def test_the_influence_of_a_diagonal_cell_is_one_number_for_each_param_or_a_complex_one(cell, most):
    given = problem(cell, x=(20,))
    P = ravel_pytree(given[1])[0].size
    program = str(jax.make_jaxpr(partial(rtrl_diagonal, cell, loss=squares))(*given[1:5]))
    assert f"f64[{P},{most}]" in program
    assert f"f64[{30 * most},{P}]" not in program
    assert f"f64[{30 * most},{30 * most}]" not in program


def test_ids_are_as_one_hot_vectors():
    cell = min_gru(3, 4)
    params, ids = random_params(cell), jnp.array([[0, 2], [1, 1], [2, 0]])
    given = cell, params, cell.start(params, (2,))
    exact = bptt(*given, jax.nn.one_hot(ids, 3), weights(3, 2), squares)
    for estimator in (rtrl_diagonal, snap):
        assert_same(estimator(*given, ids, weights(3, 2), squares), exact)


@pytest.mark.parametrize("cell", [gru(2, 4), lstm(2, 4)], ids=["gru", "lstm"])
def test_snap_with_the_full_pattern_is_rtrl(cell):
    given = problem(cell, batch=(2,))
    assert_same(snap(*given, order=2), rtrl(*given))  # every unit reaches every other in one step


def by_loop(mask, cell, params, h0, xs, targets, loss):
    """RTRL in a Python loop, whose influence matrix is multiplied by a mask after every step."""
    layout, (theta, unravel) = layout_of(cell, params, h0), ravel_pytree(params)

    @jax.jit
    def jacobians(theta, s, x, target):
        def loss_of(theta, s):
            return loss(cell.output(unravel(theta), layout.state(s))[None], target[None])

        def step(theta, s):
            return layout.row(cell.step(unravel(theta), layout.state(s), x))

        s_after = step(theta, s)
        return s_after, *jax.jacfwd(step, (0, 1))(theta, s), *jax.grad(loss_of, (0, 1))(theta, s_after)

    s, gradient = layout.row(h0), np.zeros(theta.size)
    M = np.zeros((s.size, theta.size))
    for x, target in zip(xs, targets, strict=True):
        s, D, J, direct, adjoint = jacobians(theta, s, x, target)
        M = mask * (np.asarray(J) @ M + np.asarray(D))
        gradient += np.asarray(direct) + np.asarray(adjoint) @ M
    return gradient


@pytest.mark.parametrize("cell", [vanilla(2, 4), gru(2, 4), lstm(2, 4)], ids=["vanilla", "gru", "lstm"])
def test_snap_1_keeps_the_action_of_each_param_on_its_own_unit(cell):
    # The columns of W_xh, W_hh and b_h are units, gate after gate. An LSTM has two numbers, h and c, for each unit; its
    # output gate, the third of four, acts on h alone.
    given = problem(cell)
    S = layout_of(*given[:3]).row(given[2]).size
    unit_of = flat(jax.tree.map(lambda a: np.broadcast_to(np.arange(a.shape[-1]) % 4, a.shape), given[1]))
    mask = (np.arange(S) % 4)[:, None] == unit_of
    if S == 8:
        gate_of = flat(jax.tree.map(lambda a: np.broadcast_to(np.arange(16) // 4, a.shape), given[1]))
        mask &= (np.arange(S) < 4)[:, None] | (gate_of != 2)
    _, estimate = snap(*given, order=1)
    np.testing.assert_allclose(flat(estimate), by_loop(mask, *given), rtol=1e-10, atol=1e-13)
    assert np.linalg.norm(flat(estimate) - flat(bptt(*given)[1])) > 1e-3


def ring(size, reach=1):
    """A network whose units read their neighbours on a ring; the weights of all others are masked."""
    near = jnp.asarray(sum(np.roll(np.eye(size), by, axis=0) for by in range(-reach, reach + 1)))
    return cell_from_step(
        init=lambda key: jax.random.normal(key, (size, size)),
        start=lambda params, batch_shape=(): jnp.full((*batch_shape, size), 0.5),
        step=lambda W, h, x: jnp.tanh(h @ (near * W) + x),
    )


def test_snap_n_is_exact_over_n_steps_and_not_over_more():
    cell, params, h0, xs, _, _ = problem(ring(8), steps=3, x=(8,))
    for steps, is_exact in ((2, True), (3, False)):
        last = cell, params, h0, xs[:steps], jnp.zeros(steps).at[-1].set(1.0), squares
        difference = snap(*last, order=2)[1] - bptt(*last, schedule="scan")[1]
        assert (abs(difference).max() < 1e-12) == is_exact


def test_the_pattern_is_that_of_the_equations():
    # In a GRU that resets before the product, a reset gate of one unit acts on all candidates.
    for cell, of_reset in ((gru(2, 4), 1), (gru_reset_before(2, 4), 4)):
        params = random_params(cell)
        on = step_dependencies(cell, params, layout_of(cell, params, jnp.zeros(4)), jnp.zeros(2))
        counts = ravel_pytree(params)[1](jnp.asarray(on.on_params.sum(axis=0), float))
        expected = np.repeat([of_reset, 1, 1], 4)
        for leaf in counts[:3]:
            np.testing.assert_array_equal(leaf, np.broadcast_to(expected, leaf.shape))
        assert on.on_state.all()
        assert influence_pattern(on, 2).all()


def test_a_window_of_the_whole_sequence_is_back_propagation():
    given = problem(gru(2, 3), batch=(2,))
    exact = bptt(*given)
    assert_same(truncated(*given, window=STEPS), exact)
    biased = truncated(*given, window=2)
    np.testing.assert_allclose(biased[0], exact[0], rtol=1e-12)
    assert abs(biased[1].W_hh - exact[1].W_hh).max() > 1e-3


EVERY = {
    "truncated": {"window": 3},
    "artbp": {"mean_window": 3.0, "key": jax.random.key(0)},
    "snap": {"order": 1},
    "uoro": {"key": jax.random.key(0)},
}


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_every_estimator_runs_under_jit_and_vmap_over_params_and_in_float32(name):
    cell, params, h0, xs, targets, loss = problem(min_gru(2, 3), batch=(2,))
    estimate = partial(ESTIMATORS[name], cell, loss=loss, **EVERY.get(name, {}))
    other = jax.tree.map(lambda a: 0.5 * a, params)
    stacked = jax.tree.map(lambda *a: jnp.stack(a), params, other)
    both = jax.jit(jax.vmap(lambda params: estimate(params, h0, xs, targets)))(stacked)
    for i, given in enumerate((params, other)):
        value, g = estimate(*jax.tree.map(lambda a: a.astype(jnp.float32), (given, h0, xs, targets)))
        assert {leaf.dtype for leaf in (value, *g)} == {np.dtype("float32")}
        wanted = jax.tree.map(lambda a, i=i: a[i], both)
        np.testing.assert_allclose(value, wanted[0], rtol=1e-6)
        atol = 1e-6 * float(np.linalg.norm(flat(wanted[1])))
        np.testing.assert_allclose(flat(g), flat(wanted[1]), rtol=0, atol=atol)
    if name in ("bptt", "rtrl", "rtrl_diagonal", "snap"):
        last = jax.tree.map(lambda a: a[1], both)
        assert_same(last, bptt(cell, other, h0, xs, targets, loss, schedule="scan"))


@pytest.mark.parametrize("name", ["rtrl", "snap", "rtrl_diagonal"])
def test_a_batch_has_the_sum_of_the_gradients_of_its_examples(name):
    cell, params, h0, xs, targets, loss = problem(min_gru(2, 3), batch=(2, 2))
    value, together = ESTIMATORS[name](cell, params, h0, xs, targets, loss)
    alone = [
        ESTIMATORS[name](cell, params, h0[i, j], xs[:, i, j], targets[:, i, j], loss) for i in (0, 1) for j in (0, 1)
    ]
    assert_same((value, together), jax.tree.map(lambda *a: sum(a), *alone))


def test_a_mean_over_the_batch_is_taken_as_it_is():
    cell = readout(lstm(2, 3), 2)
    params, h0, xs = problem(cell, batch=(3,))[1:4]
    targets = jnp.ones((STEPS, 3, 2))
    given = cell, params, h0, xs, targets, squared_error
    assert_same(rtrl(*given), bptt(*given))


def test_a_cell_that_draws_has_the_gradient_of_its_draws():
    cell, params, h0, xs, targets, loss = problem(zoneout(gru(2, 3), 0.4), batch=(2,))
    given = cell, params, h0, keyed(jax.random.key(1), xs, (2,)), targets, loss
    assert_same(snap(*given, order=2), bptt(*given, schedule="scan"))


def test_half_precision_is_summed_in_float32():
    # In bfloat16 a sum of ones stops at 256. Here ∂h_t/∂b = 1 at every step, and L = Σ h_t.
    cell = mixed_precision(vanilla(1, 1), jnp.bfloat16)
    params = jax.tree.map(lambda a: jnp.zeros_like(a, jnp.float32), cell.init(jax.random.key(0)))
    given = cell, params, cell.start(params), jnp.ones((300, 1), jnp.float32), (), lambda ys, _: jnp.sum(ys)
    np.testing.assert_array_equal(rtrl(*given)[1].b_h, [300])
    cell = vanilla(1, 1, dtype=jnp.bfloat16)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0)))._replace(b_h=jnp.full(1, 9, jnp.bfloat16))
    given = cell, params, cell.start(params), jnp.ones((600, 1), jnp.bfloat16), (), lambda ys, _: jnp.sum(ys)
    for estimate in (bptt(*given), rtrl(*given), truncated(*given, window=1)):  # tanh 9 = 1 in bfloat16
        assert estimate[0] == 600


def test_no_steps_have_no_gradient():
    cell, params, h0, xs, targets, loss = problem(gru(2, 3))
    for name in ("bptt", "rtrl", "uoro"):
        value, gradient = ESTIMATORS[name](cell, params, h0, xs[:0], targets[:0], loss, **EVERY.get(name, {}))
        assert value == 0
        assert not any_nonzero(gradient)


def test_arguments_that_cannot_be_are_refused_in_one_line():
    given = problem(gru(2, 3))
    cell, params, _, _, targets, loss = given
    a_text: Any = "gru"
    refused(lambda: rtrl(a_text, *given[1:]), "cell got str; want a Cell")
    a_layer: Any = bidirectional(cell, cell)
    refused(lambda: rtrl(a_layer, *given[1:]), "cell got Layer; want a Cell")
    refused(lambda: rtrl(*given[:5], per_step(squares)), "loss got per_step(…); want the sum over time")
    refused(lambda: bptt(*given[:5], per_step(squares)), "loss got per_step(…); want the sum over time")
    refused(lambda: rtrl(*given[:5], lambda ys, _: ys), "loss got shape (1, 3); want a scalar")
    no_loss: Any = None
    refused(lambda: rtrl(*given[:5], no_loss), "loss got None; want a function (ys, targets) -> scalar")
    for estimator in (bptt, rtrl, partial(truncated, window=2), partial(artbp, mean_window=3, key=jax.random.key(0))):
        call = partial(estimator, *given[:5], lambda ys, _: jnp.sum(ys > 0))
        refused(call, "loss got int64; want a floating number")
    refused(lambda: rtrl(*given[:4], targets[1:], loss), "targets got shape (4,); want 5 steps leading")
    refused(
        lambda: rtrl(cell, params._replace(b_h=jnp.ones(9, int)), *given[2:]), "params.b_h got int64; want floating"
    )
    refused(lambda: snap(*given, order=0), "order got 0; want a positive integer")
    refused(lambda: truncated(*given, window=0), "window got 0; want a positive integer")
    refused(lambda: truncated(*given, window=2, k1=3), "k1 got 3, window (k2) 2; want k1 <= k2")
    for mean_window in (1, 0.5, float("inf"), float("nan")):
        call = partial(artbp, *given, mean_window=mean_window, key=jax.random.key(0))
        refused(call, f"mean_window got {mean_window}; want a number above 1")
    for estimator in (uoro, partial(artbp, mean_window=3)):
        no_key: Any = None
        refused(lambda estimator=estimator: estimator(*given, key=no_key), "key got NoneType; want a key")
        keys = jax.random.split(jax.random.key(0), 2)
        refused(lambda estimator=estimator: estimator(*given, key=keys), "key got [2] keys; want one")
    refused(lambda: compare_estimator(uoro, *given, keys=jax.random.key(0)), "keys got shape (); want at least 2 keys")
    keys, a_name = jax.random.split(jax.random.key(0), 2), "uoro"
    compare: Any = partial(compare_estimator, keys=keys)
    refused(lambda: compare(a_name, *given), "estimator got 'uoro'; want a function, such as ESTIMATORS['uoro']")
    refused(lambda: compare(uoro, *given, window=3), "options got {'window': 3}; want those of the estimator: got an")
    refused(lambda: compare(truncated, *given), "options got {}; want those of the estimator: missing a required")
    refused(lambda: rtrl_diagonal(*given), "cell got gru(input_size=2, hidden_size=3); want a cell with coefficients")
    mixed = dense_input(lru(2, 3), 2, 2)
    refused(lambda: rtrl_diagonal(*problem(mixed)), f"cell got {mixed}, a param of which acts on 6 numbers")


def test_a_cell_that_reads_traced_arrays_is_refused_where_its_step_must_be_tried():
    given: Any = problem(gru(2, 3))[1:]

    def estimate(mask):
        cell: Any = variational_dropout(gru(2, 3), state_mask=mask)
        return snap(cell, *given)[1].W_hh

    refused(lambda: jax.jit(estimate)(jnp.ones(3)), "cell got traced arrays; want a cell made outside jit")
    assert estimate(jnp.ones(3)).shape == (3, 9)
