"""Truncated back-propagation: four programs, one gradient, and its bias."""

from functools import cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax import cell_from_step, gru, keyed, output_dropout, outputs, rollout
from rnn_jax.counting import sequential_depth
from rnn_jax.gradients import PROGRAMS, chunked, cut, parallel, streaming
from rnn_jax.training import window_learner
from tests.cases import A_FEW, BY_STRUCTURE
from tests.laboratory import B, any_nonzero, example, refused

STEPS = 8  # and windows of 3: the last one is shorter


def squares(ys, targets):
    """Σ_t w_t ‖y_t‖², with a weight for every step and example."""
    return jnp.sum(targets * jnp.sum(ys**2, axis=range(targets.ndim, ys.ndim)))


def of_last(states, is_last):
    """The first unit's state at the last step."""
    return jnp.vdot(states[:, 0], is_last)


def ragged(seed=0, steps=STEPS):
    """Weights, and flags that differ by example: held steps, resets, one at a border and one at the first step."""
    rng = np.random.default_rng(seed)
    mask, resets = rng.random((steps, B)) < 0.8, rng.random((steps, B)) < 0.2
    resets[3, 0], resets[0, 1], mask[5, :] = True, True, [True, False]
    return jnp.asarray(rng.random((steps, B))), {"mask": jnp.asarray(mask), "resets": jnp.asarray(resets)}


def gradients(program, cell, params, h0, xs, weights, loss=squares, **options):
    """``(loss, h_T)`` and the gradients of params, h0 and xs."""
    flags = {name: options.pop(name) for name in ("mask", "resets", "lengths") if name in options}
    has_gradient = not isinstance(xs, tuple) and bool(jnp.issubdtype(xs.dtype, jnp.floating))
    return compiled_gradients(program, cell, loss, has_gradient, **options)(params, h0, xs, weights, flags)


@cache
def compiled_gradients(program, cell, loss, has_gradient, **sizes):
    """``gradients`` of a program, compiled once for all weights and flags."""

    def f(params, h0, xs, weights, flags):
        return program(cell, params, h0, xs, weights, loss, **flags, **sizes)

    return jax.jit(jax.value_and_grad(f, (0, 1, 2) if has_gradient else (0, 1), has_aux=True))


def by_blocks(cell, params, h0, xs, weights, loss, *, window, k1, mask, resets):
    """The definition of overlapping windows: a rollout for every k1 losses, cut ``window`` steps before their end."""
    steps = jnp.arange(len(xs))
    roll = partial(rollout, cell, params, h0, xs, mask=mask, resets=resets)

    def of_block(begin):
        _, hs = roll(cuts=(steps == begin + k1 - window) & (steps > 0))
        in_block = (steps >= begin) & (steps < begin + k1)
        return loss(outputs(cell, params, hs), jnp.where(in_block[:, None], weights, 0.0))

    return jnp.sum(jax.vmap(of_block)(steps[::k1])), roll()[0]


@pytest.mark.parametrize(
    ("name", "schedule"),
    [*((name, "auto") for name in BY_STRUCTURE), ("lstm", "scan"), ("min gru", "scan"), ("min gru", "associative")],
)
def test_three_programs_compute_one_gradient_with_ragged_masks_and_resets(name, schedule):
    steps = STEPS if name in A_FEW else 6  # a shorter last window is compiled apart
    cell, params, h0, xs = example(name, steps=steps)
    weights, flags = ragged(steps=steps)
    wanted = gradients(cut, cell, params, h0, xs, weights, window=3, **flags)
    assert any_nonzero(wanted[1][0])
    for program in (chunked, parallel):
        found = gradients(program, cell, params, h0, xs, weights, window=3, schedule=schedule, **flags)
        chex.assert_trees_all_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("k1", "window"), [(1, 3), (2, 3), (3, 5), (2, 8), (5, 9), (3, 20)])
def test_overlapping_windows_reach_back_from_every_k1_losses(k1, window):
    cell, params, h0, xs = example("learned start", steps=STEPS)
    weights, ragged_flags = ragged()
    no_flags = {"mask": jnp.ones((STEPS, B), bool), "resets": jnp.zeros((STEPS, B), bool)}
    for flags in (ragged_flags, no_flags):
        wanted = gradients(by_blocks, cell, params, h0, xs, weights, window=window, k1=k1, **flags)
        for program in (chunked, parallel):
            found = gradients(program, cell, params, h0, xs, weights, window=window, k1=k1, **flags)
            chex.assert_trees_all_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_a_window_of_the_whole_sequence_is_full_back_propagation_with_its_learned_start():
    cell, params, _, xs = example("learned start", steps=STEPS)
    weights, _ = ragged()

    def full(params):
        _, hs = rollout(cell, params, cell.start(params, (B,)), xs)
        return squares(outputs(cell, params, hs), weights)

    wanted = jax.jit(jax.grad(full))(params)
    assert any_nonzero(wanted.h_0)
    for program in PROGRAMS.values():
        for window in (STEPS, 100):

            def truncated(params, of=program, window=window):
                return of(cell, params, cell.start(params, (B,)), xs, weights, squares, window=window)[0]

            chex.assert_trees_all_close(jax.jit(jax.grad(truncated))(params), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_gradient_is_exactly_zero_past_a_border(program):
    cell, params, h0, xs = example("lstm", steps=STEPS)
    last = jnp.zeros((STEPS, B)).at[-1].set(1.0)
    _, (_, to_h0, to_xs) = gradients(PROGRAMS[program], cell, params, h0, xs, last, window=3)
    assert not any_nonzero((to_h0, to_xs[:6])), "steps 6 and 7 are the last window"
    assert all(any_nonzero(x) for x in to_xs[6:])
    first = jnp.zeros((STEPS, B)).at[2].set(1.0)
    _, (_, to_h0, to_xs) = gradients(PROGRAMS[program], cell, params, h0, xs, first, window=3)
    assert any_nonzero(to_h0)
    assert not any_nonzero(to_xs[3:])


@pytest.mark.parametrize("program", PROGRAMS)
def test_lengths_ids_and_an_empty_sequence_are_defined(program):
    cell, params, h0, _ = example("lstm")
    ids, weights = jnp.array([[0, 1], [2, 0], [1, 1], [0, 2]]), jnp.ones((4, B))
    arguments = {"lengths": jnp.array([4, 1])}
    wanted = gradients(cut, cell, params, h0, ids, weights, window=2, **arguments)
    found = gradients(PROGRAMS[program], cell, params, h0, ids, weights, window=2, **arguments)
    chex.assert_trees_all_close(found, wanted, rtol=1e-12)
    value, h_T = PROGRAMS[program](cell, params, h0, ids[:0], weights[:0], squares, window=2)
    chex.assert_trees_all_equal((value, h_T), (jnp.zeros(()), h0))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_cell_that_draws_draws_the_same(program):
    cell = output_dropout(gru(3, 4), 0.5)
    params, xs = cell.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (STEPS, B, 3))
    keyed_xs = keyed(jax.random.key(2), xs, (B,))
    found, wanted = (
        gradients(f, cell, params, cell.start(params, (B,)), keyed_xs, jnp.ones((STEPS, B)), window=3)
        for f in (PROGRAMS[program], cut)
    )
    chex.assert_trees_all_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("program", PROGRAMS)
def test_low_precision_has_gradients_of_its_own_type(program):
    cell, params, h0, xs = example("gru", steps=STEPS, dtype=jnp.bfloat16)
    weights = jnp.ones((STEPS, B), jnp.bfloat16)
    (_, h_T), grads = gradients(PROGRAMS[program], cell, params, h0, xs, weights, window=3)
    assert {leaf.dtype for leaf in jax.tree.leaves((h_T, grads))} == {jnp.dtype("bfloat16")}
    cell, params, h0, xs = example("gru", steps=STEPS)
    _, wanted = gradients(cut, cell, params, h0, xs, jnp.ones((STEPS, B)), window=3)
    chex.assert_trees_all_close(jax.tree.map(lambda g: g.astype(float), grads), wanted, rtol=0.1, atol=0.1)


def test_programs_go_under_vmap_and_their_loss_may_be_scaled():
    cell, params, h0, xs = example("gru", steps=STEPS)
    weights, _ = ragged()

    def f(program, scale, xs):
        return jax.grad(lambda p: scale * program(cell, p, h0, xs, weights, squares, window=3)[0])(params)

    many, scales = jnp.stack([xs, 2 * xs, -xs]), jnp.array([1.0, -2.0, 0.5])
    wanted, *found = (jax.jit(jax.vmap(partial(f, program)))(scales, many) for program in (cut, chunked, parallel))
    for way in found:
        chex.assert_trees_all_close(way, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_loss_alone_is_that_of_the_whole_sequence(program):
    cell, params, h0, xs = example("lstm", steps=STEPS)
    weights, flags = ragged()
    h_T, hs = rollout(cell, params, h0, xs, mask=flags["mask"], resets=flags["resets"])
    wanted = squares(outputs(cell, params, hs), weights), h_T
    found = PROGRAMS[program](cell, params, h0, xs, weights, squares, window=3, **flags)
    chex.assert_trees_all_close(found, wanted, rtol=1e-12)


# x_t = w x_{t−1} with w = 0.2, x_0 = 0.9. The full derivative of x_3 = w³ x_0 is 3 w² x_0 = 0.108. A gradient that goes
# back n steps counts n of its three equal terms, w² x_0 = 0.036 each. Windows of 2 end with steps 2 and 4, so the last
# one holds step 3 alone; windows of 2 that move on by 1 hold steps 2 and 3.
power = cell_from_step(
    init=lambda key: jnp.asarray(0.2),
    start=lambda params, batch_shape=(): jnp.full((*batch_shape, 1), 0.9),
    step=lambda w, x, u: w * x,
)
WORKED = {
    (1, 1): 0.036,
    (2, 2): 0.036,
    (3, 3): 0.108,
    (9, 9): 0.108,
    (1, 2): 0.072,
    (1, 3): 0.108,
    (2, 3): 0.072,
    (2, 4): 0.108,
    (2, 100): 0.108,
}
"""``(k1, window)`` and dx_3/dw. Of (2, 3) the windows end with steps 2 and 4, and the last one begins with step 2."""


@pytest.mark.parametrize(("k1", "window"), WORKED)
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_worked_example(program, k1, window):
    if program == "cut" and k1 != window:
        with pytest.raises(TypeError, match="k1"):  # one rollout has no overlapping windows
            PROGRAMS[program](power, 0.2, jnp.array([0.9]), jnp.zeros((3, 1)), (), jnp.sum, window=window, k1=k1)
        return
    arguments = {"window": window} if program == "cut" else {"window": window, "k1": k1}
    is_third = jnp.array([0.0, 0.0, 1.0])

    def x_3(w):
        return PROGRAMS[program](power, w, power.start(w), jnp.zeros((3, 1)), is_third, of_last, **arguments)[0]

    np.testing.assert_allclose(x_3(0.2), 0.2**3 * 0.9, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(x_3)(0.2), WORKED[k1, window], rtol=1e-12)


# Influence balancing. s' = A s + θ b with A = ½ I + ½ U, U the superdiagonal, b = 1 for 10 units and −1 for 13. At rest
# s = (I − A)⁻¹ b θ = 2 (I − U)⁻¹ b θ, whose first entry is 2 θ Σ b = −6 θ: ds_1/dθ = −6. A gradient that goes n steps
# back counts Σ_{j<n} (A^j b)_1, which is positive for long: the influence of the 13 must first come all the way up.
SIGNS = np.repeat([1.0, -1.0], [10, 13])
BALANCE = 0.5 * np.eye(23) + 0.5 * np.eye(23, k=1)
balanced = cell_from_step(
    init=lambda key: jnp.asarray(0.5),
    start=lambda params, batch_shape=(): jnp.ones((*batch_shape, 23)),
    step=lambda theta, s, u: s @ BALANCE.T + theta * SIGNS,
)


def at_rest(theta):
    return jnp.asarray(np.linalg.solve(np.eye(23) - BALANCE, theta * SIGNS))


def test_truncation_states_its_own_bias_where_influences_balance():
    T, theta, rest = 400, jnp.asarray(0.5), at_rest(0.5)
    is_last = (jnp.arange(T) == T - 1).astype(float)

    def s_1(theta, program, **arguments):
        return program(balanced, theta, rest, jnp.zeros((T, 1)), is_last, of_last, **arguments)[0]

    np.testing.assert_allclose(s_1(theta, cut, window=T), -3.0, rtol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.grad(partial(s_1, program=cut, window=T)))(theta), -6.0, rtol=1e-9)
    for lags, wanted in {10: 10.0, 50: -4.75, 100: -6.0}.items():
        assert abs(jax.jit(jax.grad(partial(s_1, program=chunked, window=lags, k1=1)))(theta) - wanted) < 0.005
    by_lags = jax.jit(jax.vmap(lambda lags: jax.grad(s_1)(theta, cut, window=T - lags)))(jnp.arange(1, 101))
    series = np.cumsum([(np.linalg.matrix_power(BALANCE, j) @ SIGNS)[0] for j in range(100)])
    np.testing.assert_allclose(by_lags, series, rtol=1e-9)
    assert np.array_equal(series > 0, np.arange(1, 101) <= 40), "the sign is wrong up to a window of 40, right from 41"


def test_descent_goes_the_wrong_way_for_windows_up_to_40():
    """From θ = 0.5 and s = 1, on the loss ½ (s_1 − 1)²: the optimum is θ = −1/6."""

    def end(window):
        learner = window_learner(balanced, lambda s, _: jnp.mean(0.5 * (s[:, 0] - 1) ** 2), sgd)
        state = learner.init(jax.random.key(0), ())
        xs, targets = jnp.zeros((30, window, 1)), jnp.zeros((30, window))
        return jax.lax.scan(learner.update, state, (xs, targets))[0].params

    sgd = optax.sgd(1e-3)
    assert end(10) > 0.5
    assert end(200) < 0.5


T, K1, K2 = 24, 3, 4
DEPTHS = {
    "cut": (cut, {"window": K2}, 2 * T),
    "chunked": (chunked, {"window": K2}, 2 * T),
    "parallel": (parallel, {"window": K2}, T + 2 * K2),
    "chunked, overlapping": (chunked, {"window": K2, "k1": K1}, 2 * (T + T // K1 * (K2 - K1))),
    "parallel, overlapping": (parallel, {"window": K2, "k1": K1}, T + 2 * K2),
    "streaming": (streaming, {}, 2 * T),  # one window of T steps
}


@pytest.mark.parametrize("case", DEPTHS)
def test_the_depth_of_each_program_is_that_of_its_table(case):
    cell, params, h0, xs = example("lstm", steps=T)
    program, arguments, depth = DEPTHS[case]

    def loss(params):
        return program(cell, params, h0, xs, jnp.ones((T, B)), squares, **arguments)[0]

    assert sequential_depth(jax.grad(loss), params) == depth


def test_streaming_window_by_window_adds_up_to_chunked_while_the_params_stay():
    cell, params, h0, xs = example("lstm", steps=9)
    weights, flags = ragged(steps=9)
    wanted, (to_params, *_) = gradients(chunked, cell, params, h0, xs, weights, window=3, **flags)
    total, h, grads = 0.0, h0, jax.tree.map(jnp.zeros_like, params)
    for rows in (slice(0, 3), slice(3, 6), slice(6, 9)):
        arguments = {name: flag[rows] for name, flag in flags.items()}
        (value, h), (g, *_) = gradients(streaming, cell, params, h, xs[rows], weights[rows], **arguments)
        total, grads = total + value, jax.tree.map(jnp.add, grads, g)
    chex.assert_trees_all_close(((total, h), grads), (wanted, to_params), rtol=1e-10)


def test_streaming_in_overlapping_windows_goes_back_k2_steps_from_k1_losses():
    cell, params, h0, xs = example("lstm", steps=5)
    weights = jnp.arange(1.0, 11.0).reshape(5, B)
    (_, h), _ = gradients(streaming, cell, params, h0, xs[:3], weights[1:3])
    (value, _), (grads, to_h, _) = gradients(streaming, cell, params, h, xs[2:], weights[3:])

    @jax.jit
    @jax.value_and_grad
    def by_hand(params):
        _, hs = rollout(cell, params, h0, xs, cuts=jnp.arange(5) == 2)
        return squares(outputs(cell, params, hs)[3:], weights[3:])

    chex.assert_trees_all_close((value, grads), by_hand(params), rtol=1e-10)
    assert any_nonzero(to_h)


def test_the_memory_of_chunked_does_not_grow_with_the_sequence():
    cell, params, h0, xs = example("lstm", steps=512)

    def temporaries(program, T):
        def loss(params, xs, weights):
            return program(cell, params, h0, xs, weights, squares, window=8)[0]

        given = params, xs[:T], jnp.ones((T, B))
        memory: Any = jax.jit(jax.grad(loss)).lower(*given).compile().memory_analysis()
        return memory.temp_size_in_bytes

    assert temporaries(chunked, 512) <= 1.1 * temporaries(chunked, 64)
    assert temporaries(cut, 512) > 4 * temporaries(cut, 64)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_state_may_hold_a_counter(program):
    leaky = cell_from_step(
        init=lambda key: jnp.asarray(0.5),
        start=lambda params, batch_shape=(): (jnp.ones((*batch_shape, 1)), jnp.zeros(batch_shape, int)),
        step=lambda w, h, x: (w * h[0] + x, h[1] + 1),
        output=lambda w, h: h[0],
    )

    def loss(w):
        xs, weights = jnp.ones((7, B, 1)), jnp.ones((7, B))
        value, h_T = PROGRAMS[program](leaky, w, leaky.start(w, (B,)), xs, weights, squares, window=3)
        return value, h_T[1]

    grad, counted = jax.jit(jax.grad(loss, has_aux=True))(0.5)
    np.testing.assert_array_equal(counted, 7)
    h, slope, total = 1.0, 0.0, 0.0  # by hand: in a window that begins with h, dh_t/dw = h_{t−1} + w dh_{t−1}/dw
    for t in range(7):
        slope = h + 0.5 * (slope if t % 3 else 0.0)
        h = 0.5 * h + 1
        total += 2 * h * slope * B
    np.testing.assert_allclose(grad, total, rtol=1e-12)


@pytest.mark.parametrize("program", PROGRAMS)
def test_params_may_hold_whole_numbers_and_be_left_out_of_the_gradient(program):
    power_of = cell_from_step(
        init=lambda key: {"w": jnp.asarray(0.5), "n": 2},
        start=lambda params, batch_shape=(): jnp.ones((*batch_shape, 1)),
        step=lambda params, h, x: params["w"] * h ** params["n"] + x,
    )

    def loss(xs, program):
        params = power_of.init(jax.random.key(0))
        return program(power_of, params, power_of.start(params), xs, (), lambda hs, _: jnp.sum(hs), window=2)[0]

    xs = jnp.linspace(0.0, 0.3, 5)[:, None]
    found, wanted = (jax.jit(jax.grad(partial(loss, program=of)))(xs) for of in (PROGRAMS[program], cut))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_a_gradient_by_windows_may_be_differentiated_again():
    def twice(program):
        def x_5(w):
            return program(power, w, power.start(w), jnp.zeros((5, 1)), jnp.eye(5)[4], of_last, window=3)[0]

        return jax.jit(jax.grad(jax.grad(x_5)))(0.2)

    x_3 = 0.2**3 * 0.9  # where the last window begins: x_5 = w² x_3
    np.testing.assert_allclose([twice(cut), twice(chunked), twice(parallel)], 2 * x_3, rtol=1e-12)


def test_an_unknown_schedule_is_refused_by_every_program_and_learner():
    cell, params, h0, xs = example("lstm", steps=STEPS)
    weights, _ = ragged()
    calls = [partial(PROGRAMS[name], cell, params, h0, xs, weights, squares, window=3) for name in PROGRAMS]
    calls += [partial(streaming, cell, params, h0, xs, weights, squares)]
    calls += [partial(window_learner, cell, squares, optax.sgd(0.1))]
    for call in calls:
        refused(partial(call, schedule="fast"), "schedule got 'fast'; want one of auto, scan")
