"""Synthetic tasks: each obeys its definition, whatever the key, compiled or not."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.data.tasks import (
    ADDING_BASELINE,
    adding,
    copying,
    copying_baseline,
    flip_flop,
)
from tests.laboratory import as_a_user_has_it, refused

KEY = jax.random.key(3)


@pytest.mark.parametrize("T", [2, 7])
def test_adding_marks_one_step_in_each_half_and_the_target_is_their_sum(T):
    xs, targets = adding(KEY, T, 200)
    values, marks = np.moveaxis(np.asarray(xs), -1, 0)
    assert xs.shape == (T, 200, 2)
    assert set(np.unique(marks)) <= {0, 1}
    assert np.all(marks[: T // 2].sum(axis=0) == 1)
    assert np.all(marks[T // 2 :].sum(axis=0) == 1)
    np.testing.assert_array_equal(targets, (values * marks).sum(axis=0))  # two numbers and zeros: no rounding
    assert values.min() >= 0
    assert values.max() < 1


def test_steps_of_a_half_are_marked_equally_often_and_the_best_constant_guess_has_the_error_of_the_closed_form():
    N = 20_000
    xs, targets = map(np.asarray, adding(KEY, 9, N))
    p = np.repeat([1 / 4, 1 / 5], [4, 5])
    assert np.all(np.abs(xs[..., 1].mean(axis=1) - p) < 4 * np.sqrt(p * (1 - p) / N))
    # Each value has mean 1/2 and variance 1/12; the fourth central moment of their sum, a triangle on [−1, 1], is 1/15.
    assert abs(np.mean((targets - 1) ** 2) - ADDING_BASELINE) < 4 * np.sqrt((1 / 15 - ADDING_BASELINE**2) / N)
    assert abs(targets.mean() - 1) < 4 * np.sqrt(ADDING_BASELINE / N)


@pytest.mark.parametrize(("T", "length", "symbols"), [(1, 10, 8), (30, 1, 1), (7, 2, 20)])
def test_copying_repeats_its_symbols_after_the_delay_and_is_blank_elsewhere(T, length, symbols):
    xs, targets, mask = map(np.asarray, copying(KEY, T, 50, length=length, symbols=symbols))
    blank, go = symbols, symbols + 1
    assert xs.shape == targets.shape == mask.shape == (T + 2 * length, 50)
    assert set(np.unique(xs[:length])) == set(range(symbols))
    np.testing.assert_array_equal(targets[T + length :], xs[:length])
    assert np.all(targets[: T + length] == blank)
    assert np.all(xs[T + length - 1] == go)
    assert np.all(np.delete(xs[length:], T - 1, axis=0) == blank)
    np.testing.assert_array_equal(mask, np.arange(T + 2 * length)[:, None] >= T + np.full((1, 50), length))


def test_the_memoryless_model_of_copying_has_the_cross_entropy_of_the_closed_form():
    T, length, symbols = 7, 2, 20
    _, targets, mask = map(np.asarray, copying(KEY, T, 50, length=length, symbols=symbols))
    guess = np.where(mask, 1 / symbols, 1.0)  # of each target: symbols all alike where they are recalled, or the blank
    assert np.all(targets[~mask] == symbols)
    np.testing.assert_allclose(-np.log(guess).mean(), copying_baseline(T, length=length, symbols=symbols), rtol=1e-12)
    np.testing.assert_allclose(copying_baseline(100), 10 * np.log(8) / 120, rtol=1e-15)


@pytest.mark.parametrize("rate", [0.0, 0.15, 1.0])
def test_flip_flop_holds_the_last_pulse_of_each_channel(rate):
    xs, targets = map(np.asarray, flip_flop(KEY, 40, 6, bits=4, rate=rate))
    assert xs.shape == (40, 6, 4)
    held = np.zeros((6, 4))
    for t in range(40):
        for b in range(6):
            for i in range(4):
                if xs[t, b, i] != 0:
                    held[b, i] = xs[t, b, i]
        np.testing.assert_array_equal(targets[t], held)


def test_pulses_come_at_their_rate_with_both_signs_alike():
    xs = np.asarray(flip_flop(KEY, 100, 100, rate=0.2).xs)
    assert set(np.unique(xs)) == {-1, 0, 1}
    for sign in (-1, 1):
        assert abs(np.mean(xs == sign) - 0.1) < 4 * np.sqrt(0.1 * 0.9 / xs.size)


FLIP = partial(flip_flop, T=6, batch_size=3, rate=0.5)
TASKS = {
    "adding": lambda key: adding(key, 6, 3),
    "copying": lambda key: copying(key, 5, 3, length=2),
    "flip_flop": FLIP,
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_the_same_under_jit_and_vmap_and_outside_and_another_one_for_another_key(name):
    keys = jnp.stack([KEY, jax.random.key(4)])
    outside = [TASKS[name](key) for key in keys]
    batched = jax.vmap(TASKS[name])(keys)
    compiled = jax.jit(TASKS[name])(keys[0])
    for one, other, many, inside in zip(*outside, batched, compiled, strict=True):
        np.testing.assert_array_equal(one, inside)
        np.testing.assert_array_equal(np.stack([one, other]), many)
        assert one.dtype == inside.dtype == many.dtype
    assert not np.array_equal(outside[0].xs, outside[1].xs)


def test_marks_and_pulses_do_not_depend_on_the_type_of_the_numbers():
    for task, narrow in (
        ("adding", adding(KEY, 6, 3, dtype=jnp.float32)),
        ("flip_flop", FLIP(KEY, dtype=jnp.bfloat16)),
    ):
        assert narrow.xs.dtype == narrow.targets.dtype != np.float64
        np.testing.assert_array_equal(np.asarray(narrow.xs[..., -1], float), TASKS[task](KEY).xs[..., -1])


def test_too_few_steps_and_wrong_sizes_are_refused():
    refused(lambda: adding(KEY, 1, 2), "T got 1; want at least 2: a step to mark in each half")
    refused(lambda: copying(KEY, 0, 2), "T got 0; want a positive integer")
    for T in (0, -1, 2.5, "3", None, np.ones(2), True):
        for task in (adding, copying, flip_flop):
            refused(lambda task=task, T=T: task(KEY, T, 2), "T got ")
            refused(lambda task=task, n=T: task(KEY, 4, n), "batch_size got ")
    refused(lambda: copying(KEY, 4, 2, length=0), "length got 0; want a positive integer")
    refused(lambda: copying(KEY, 4, 2, symbols=0), "symbols got 0; want a positive integer")
    refused(lambda: flip_flop(KEY, 4, 2, bits=0), "bits got 0; want a positive integer")
    for task in TASKS.values():
        with as_a_user_has_it(), pytest.raises(ValueError, match=r"^key got \[2\] keys; want one"):
            task(jax.random.split(KEY, 2))
    for task in (adding, flip_flop):
        refused(lambda task=task: task(KEY, 4, 2, dtype=int), "dtype got <class 'int'>; want float64, float32")
    for rate in (-0.1, 1.1, float("nan"), "a", True, [0.5]):
        refused(lambda rate=rate: flip_flop(KEY, 4, 2, rate=rate), "rate got ")
