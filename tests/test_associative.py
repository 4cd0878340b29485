"""The schedule ``associative``: the same numbers as ``scan``, derivatives of every kind, on every device."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import rnn_jax as rnn
from rnn_jax import outputs, rollout, window_cuts
from rnn_jax.schedules import associative as associative_file
from rnn_jax.schedules.associative import as_a_tree, one_by_one
from rnn_jax.schedules.driver import Loops, run_schedule
from rnn_jax.schedules.scan import StepFlags, idle_inputs
from tests.cases import CASES, schedules_of
from tests.laboratory import B, T, any_nonzero, example, lab, random_params, refused

LINEAR = [name for name in CASES if "associative" in schedules_of(name)]
ONES_OWN = "linear cell of one's own"
BOTH = "scan", "associative"


def pulses(**flags):
    """``(…, T, B)``: each flag at each step of the first example alone."""
    return {name: np.eye(T, dtype=bool)[step][:, None] & (np.arange(B) == 0) for name, step in flags.items()}


@pytest.mark.parametrize("steps", [3, 5])  # as many as the state has rows, and others
@pytest.mark.parametrize("complex_state", [False, True])
def test_coefficients_are_broadcast_to_the_state_at_each_step(steps, complex_state):
    def start(params, batch_shape=()):
        zeros = jnp.zeros((*batch_shape, 3, 2))
        return rnn.types.ComplexState(zeros, zeros) if complex_state else zeros

    def coefficients(w, u):  # (2,) and (), for a state (3, 2)
        b = jnp.sin(u)
        if not complex_state:
            return w * b[0], b
        both = rnn.types.ComplexState(w * b, b[0])
        return both, both

    cell = rnn.linear_cell(lambda key: jnp.ones(()), start, coefficients)
    xs = jnp.arange(1.0, 2 * steps + 1).reshape(steps, 2)

    def value(schedule, w):
        _, hs = rollout(cell, w, cell.start(w), xs, schedule=schedule)
        return sum(jnp.sum(jnp.cos(h + jnp.arange(6.0).reshape(1, 3, 2))) for h in jax.tree.leaves(hs)), hs

    wanted, found = (
        jax.value_and_grad(functools.partial(value, s), has_aux=True)(jnp.asarray(0.7)) for s in ("scan", "associative")
    )
    chex.assert_trees_all_close(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_values_and_gradients_are_those_of_scan_with_borders_at_every_step_in_both_directions(name):
    scan, associative = (lab(name, schedule) for schedule in BOTH)
    mask = np.arange(T)[:, None] != np.array([2, T - 1])
    for step in range(T):
        for flags in ({"resets": step}, {"cuts": step}, {"resets": step, "cuts": (step + 2) % T}):
            question = pulses(**flags) | {"mask": mask, "seen": 1.0, "reverse": step % 2 == 1}
            wanted, found = scan.ask(**question), associative.ask(**question)
            for part, of in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
                np.testing.assert_allclose(part, of, rtol=1e-12, atol=1e-12 * np.max(np.abs(of), initial=0))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["lru", "linear cell in wrappers"])
def test_blocks_of_any_length_give_the_values_and_derivatives_of_one(name, reverse, monkeypatch):
    cell, params, h0, xs = example(name)
    rng = np.random.default_rng(0)
    flags = StepFlags(*(jnp.asarray(rng.random((T, B)) < rate) for rate in (0.8, 0.2, 0.2)))
    found = []
    for length in (T, 1, 2, 4):
        monkeypatch.setattr(associative_file, "block_length", lambda *_, length=length: length)

        def loss(params, h0, xs):
            idle = idle_inputs(flags.mask, xs)
            h_T, hs = run_schedule(cell, params, h0, xs, flags, idle, reverse, Loops("associative"))
            flat, _ = ravel_pytree((h_T, hs))
            return jnp.sum(jnp.sin(flat) * jnp.linspace(1, 2, flat.size)), hs

        found.append(jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(params, h0, xs))
    for other in found[1:]:
        chex.assert_trees_all_close(other, found[0], rtol=1e-12, atol=1e-13)


def numbers(name: str, steps: int = T, batch: tuple[int, ...] = (B,)) -> tuple[Callable[..., Any], Any, Any, Any]:
    """``(loss, params, h0, xs)``, a loss of ``(params, h0, xs, schedule)`` that has no simple second derivative."""
    cell, params, h0, xs = example(name, steps, batch)

    def loss(params, h0, xs, schedule, **flags):
        h_T, hs = rollout(cell, params, h0, xs, schedule=schedule, **flags)
        flat, _ = ravel_pytree((h_T, outputs(cell, params, hs)))
        return jnp.sum(jnp.sin(flat) * jnp.linspace(1, 2, flat.size))

    return loss, params, h0, xs


@pytest.mark.parametrize("name", ["min gru", "lru"])
def test_second_derivatives_are_those_of_scan_across_resets_and_cuts(name):
    loss, params, h0, xs = numbers(name, 4, ())
    flat, unravel = ravel_pytree((params, h0, xs))
    flags = {"mask": np.arange(4) != 1, "resets": np.arange(4) == 3, "cuts": np.arange(4) == 2}

    @functools.partial(jax.jit, static_argnums=1)
    def hessian(flat, schedule):
        return jax.hessian(lambda flat: loss(*unravel(flat), schedule, **flags))(flat)

    wanted, found = (hessian(flat, schedule) for schedule in BOTH)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13 * np.max(np.abs(wanted)))
    assert np.max(np.abs(wanted)) > 0.1


@pytest.mark.parametrize("name", ["min gru", "lru", ONES_OWN])
def test_forward_mode_and_vmap_over_params_are_those_of_scan(name):
    loss, params, h0, xs = numbers(name)
    many = jax.tree.map(lambda a: jnp.stack([a, -a, a / 2]), params)
    cuts = window_cuts(T, 2)

    @functools.partial(jax.jit, static_argnums=1)
    def derivatives(many, schedule):
        def of(params):
            run = functools.partial(loss, schedule=schedule, cuts=cuts)
            return jax.jvp(run, (params, h0, xs), (params, h0, xs)), jax.grad(run)(params, h0, xs)

        return jax.vmap(of)(many), jax.lax.map(of, many)

    (wanted, _), found = derivatives(many, "scan"), derivatives(many, "associative")
    for way in found:
        chex.assert_trees_all_close(way, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", LINEAR)
def test_gradients_of_ten_thousand_steps_are_those_of_scan(name):
    loss, params, h0, xs = numbers(name, 10_000, (2,))  # in more than one block
    params = random_params(CASES[name].cell, scale=2.0)  # decays near 1, and those that underflow in a few steps
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), static_argnums=3)
    wanted, found = (gradient(params, h0, xs, schedule) for schedule in BOTH)
    for part, of in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(part, of, rtol=0, atol=1e-12 * np.max(np.abs(of), initial=0))


def coefficients(steps, parts, seed=0):
    """Random ``(a, b, stops)``, ``(T, 2, 3)``; decays reach from 1 to what underflows in a few steps, and 0."""
    rng = np.random.default_rng(seed)
    a, b = np.exp(-(10 ** rng.uniform(-3, 2.5, (steps, 2, 3)))), rng.normal(size=(steps, 2, 3))
    a[rng.random(a.shape) < 0.02] = 0
    stops = rng.random((steps, 2, 1)) < 0.05
    return jnp.asarray(a * parts), jnp.asarray(b + 0 * parts), jnp.asarray(stops)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("parts", [1.0, 0.6 - 0.8j])
def test_the_tree_of_accelerators_is_the_recurrence_step_by_step(parts, reverse):
    for steps in (1, 2, 300):
        a, b, stops = coefficients(steps, parts)
        for given in (stops, None):
            ways = [jax.jit(functools.partial(way, reverse=reverse))(a, b, given) for way in (as_a_tree, one_by_one)]
            np.testing.assert_allclose(*ways, rtol=1e-12, atol=1e-14)


def test_in_the_tree_too_nothing_passes_a_stop():
    a, b, stops = coefficients(50, 1.0)
    broken = b.at[::7].set(jnp.nan)
    found, wanted = (
        jax.jit(functools.partial(way, reverse=False))(a, broken, stops) for way in (as_a_tree, one_by_one)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)
    assert 10 < np.isfinite(wanted).sum() < wanted.size


def test_an_accelerator_is_given_the_tree_and_a_cpu_the_scan():
    cell, params, h0, xs = example("min gru")
    program = jax.jit(jax.grad(lambda p: rollout(cell, p, h0, xs, schedule="associative")[0].sum())).trace(params)
    texts = {device: program.lower(lowering_platforms=(device,)).as_text() for device in ("cpu", "cuda", "tpu")}
    assert {device: text.count("stablehlo.while") for device, text in texts.items()} == {"cpu": 2, "cuda": 0, "tpu": 0}


def test_parts_that_the_recurrence_does_not_read_keep_nothing_of_the_step_before():
    cell = rnn.residual(rnn.linear_cell(lambda key: 0.5, start, lambda p, u: (p, u), project=lambda p, x: 0 * u_of(x)))
    xs = jnp.ones((4, 2)).at[1].set(jnp.nan)
    _, hs = rollout(cell, jnp.asarray(0.5), cell.start(jnp.asarray(0.5)), xs, schedule="associative")
    chex.assert_trees_all_equal(hs.x, xs)
    assert not any_nonzero(hs.cell)


def start(params, batch_shape=()):
    return jnp.zeros((*batch_shape, 2))


def u_of(x):
    """Numbers that are finite whatever x is."""
    return jnp.where(jnp.isfinite(x), x, 0.0)


def test_dropout_of_the_output_draws_the_masks_of_scan():
    cell = rnn.output_dropout(rnn.input_dropout(rnn.lru(3, 4), 0.4), 0.4)
    params, xs = cell.init(jax.random.key(0)), jnp.ones((5, 2, 3))
    for given in (xs, rnn.keyed(jax.random.key(1), xs, (2,))):
        wanted, found = (rollout(cell, params, cell.start(params, (2,)), given, schedule=s)[1] for s in BOTH)
        chex.assert_trees_all_close(found, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["diagonal", "lru", "min gru"])
@pytest.mark.parametrize("mixed", [False, True])
def test_in_half_precision_gradients_of_long_sequences_are_summed_in_32_bits(name, mixed):
    cell, params, h0, xs = example(name, 4096, (2,), jnp.float32)
    xs = jnp.abs(xs)  # so that the terms of a sum have the same sign
    if name != "min gru":  # λ near ½, as 1 − λ of a λ near 1 has few bits left in 16
        params = params._replace(log_nu=jnp.full_like(params.log_nu, -0.375))
    low = functools.partial(jax.tree.map, lambda a: a.astype(jnp.bfloat16))
    of = rnn.mixed_precision(cell, jnp.bfloat16) if mixed else cell

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(cell, params, h0, xs):
        def loss(params):
            hs = rollout(cell, params, h0, xs, schedule="associative")[1]
            return 1e-3 * jnp.sum(outputs(cell, params, hs).astype(jnp.float32))

        return jax.grad(loss)(params)

    wanted = gradient(cell, params, h0, xs)
    found = gradient(of, params if mixed else low(params), low(h0), low(xs))
    for part, exact in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert part.dtype == (jnp.float32 if mixed else jnp.bfloat16)
        assert np.linalg.norm(part.astype(jnp.float32) - exact) < 0.05 * np.linalg.norm(exact)


def test_cells_that_are_not_linear_are_refused_in_one_line():
    for cell in (rnn.gru(3, 4), rnn.variational_dropout(CASES["min gru"].cell), rnn.zoneout(rnn.lru(3, 4), 0.1)):
        params = cell.init(jax.random.key(0))
        run = functools.partial(rollout, cell, params, cell.start(params), jnp.ones((5, 3)), schedule="associative")
        if cell.coefficients:
            run()
        else:
            refused(run, "schedule got 'associative' for ")
