"""A masked step is harmless for any cell, and inputs have the batch axes of the state."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import Cell, cell_from_step, gru, input_dropout, keyed, length_mask, one_to_one, rollout, vanilla
from rnn_jax.data import pad
from rnn_jax.gradients import PROGRAMS, streaming
from tests.laboratory import refused

T, B, I, H = 5, 3, 3, 4
KEY = jax.random.key(0)


def reading(read) -> Cell:
    """h_t = tanh(W h_{t−1} + V read(x_t))."""
    return cell_from_step(
        init=lambda key: tuple(jax.random.normal(key, (2, H, H))),
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, H)),
        step=lambda params, h, x: jnp.tanh(h @ params[0] + read(x) @ params[1][:I]),
    )


HARMED = {
    "at zero": lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True),
    "at one": lambda x: 1 / (1 - x),
    "at zero and one": lambda x: jnp.log(x) - jnp.log1p(-x),
    "by equal features": lambda x: (x - x.mean(-1, keepdims=True)) / jnp.std(x, axis=-1, keepdims=True),
    "outside its own data": lambda x: jnp.log(x - 1000) - jnp.log(1001 - x),
}


def data(name):
    xs = jax.random.uniform(jax.random.key(1), (T, B, I), minval=0.2, maxval=0.8)
    return xs + 1000 if name == "outside its own data" else xs


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", HARMED)
def test_a_cell_that_no_constant_suits_has_the_gradient_of_each_example_alone(name, reverse):
    cell, xs, lengths = reading(HARMED[name]), data(name), [5, 2, 4]
    params = cell.init(KEY)

    def loss(params, xs):
        h_T, _ = rollout(cell, params, cell.start(params, (B,)), xs, lengths=jnp.array(lengths), reverse=reverse)
        return jnp.sum(h_T**2)

    def each_alone(params, xs):
        total = 0.0
        for b, n in enumerate(lengths):
            h = cell.start(params)
            for x in xs[:n, b][:: -1 if reverse else 1]:
                h = cell.step(params, h, x)
            total += jnp.sum(h**2)
        return total

    padding = np.arange(T).reshape(T, 1, 1) >= np.array(lengths).reshape(1, B, 1)
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    wanted = jax.jit(jax.grad(each_alone, argnums=(0, 1)))(params, xs)
    for nothing in (0.0, 1.0, np.nan):
        found = gradients(params, jnp.where(padding, nothing, xs))
        chex.assert_trees_all_close(found, wanted, rtol=1e-10, atol=1e-12)
        assert not np.any(found[1], where=padding)


@pytest.mark.parametrize("name", ["at zero", "at one", "at zero and one", "by equal features"])
def test_an_example_without_a_step_is_harmless_too(name):
    cell, xs = reading(HARMED[name]), data(name)
    params = cell.init(KEY)

    def loss(params, xs, lengths):
        return jnp.sum(rollout(cell, params, cell.start(params, (B,)), xs, lengths=lengths)[0] ** 2)

    gradient = jax.jit(jax.grad(loss))
    grads = gradient(params, jnp.zeros_like(xs), jnp.array([0, 0, 0]))
    assert not any(leaf.any() for leaf in grads)
    some = gradient(params, xs.at[:, 1].set(0.0), jnp.array([5, 0, 5]))
    assert all(np.isfinite(leaf).all() for leaf in some)


@pytest.mark.parametrize("program", PROGRAMS)
def test_windows_that_wait_before_the_first_step_are_harmless(program):
    cell, xs = reading(HARMED["outside its own data"]), data("outside its own data")
    params = cell.init(KEY)
    k1 = {} if program == "cut" else {"k1": 2}
    loss = lambda hs, _: jnp.sum(hs**2)  # noqa: E731

    @jax.jit
    @jax.grad
    def gradient(p):
        return PROGRAMS[program](
            cell, p, cell.start(p, (B,)), xs, (), loss, window=4, lengths=jnp.array([5, 2, 4]), **k1
        )[0]

    grads = gradient(params)
    assert all(np.isfinite(leaf).all() for leaf in grads)


@pytest.mark.parametrize("names", [("lengths", "resets"), ("mask", "resets"), ("lengths", "cuts")])
def test_flags_of_numpy_equal_those_of_jax(names):
    cell = vanilla(2, H)
    params = cell.init(KEY)
    padded, lengths = pad([[0, 1, 1], [1]])
    ids = jnp.asarray(padded)
    given = {"lengths": lengths, "mask": np.asarray(length_mask(lengths, 3)), "resets": np.array([False, True, False])}
    flags: dict[str, Any] = {name: given.get(name, given["resets"]) for name in names}

    def states(flags):
        return rollout(cell, params, cell.start(params, (2,)), ids, **flags)

    chex.assert_trees_all_equal(states(flags), states(jax.tree.map(jnp.asarray, flags)))
    if "cuts" not in flags:  # which the programs make themselves
        loss = streaming(cell, params, cell.start(params, (2,)), ids, (), lambda hs, _: jnp.sum(hs**2), **flags)[0]
        np.testing.assert_allclose(loss, jnp.sum(states(flags)[1] ** 2), rtol=1e-12)


def test_ids_and_keys_stand_by_too():
    cell = gru(2, H)
    params = cell.init(KEY)
    ids = jnp.array([[1, 1, 7], [0, 9, 9], [1, -3, 9]])
    h_T, _ = rollout(cell, params, cell.start(params, (3,)), ids, lengths=jnp.array([3, 1, 0]))
    alone, _ = rollout(cell, params, cell.start(params), ids[:1, 1])
    np.testing.assert_allclose(h_T[1], alone, rtol=1e-12)
    dropped = input_dropout(reading(HARMED["at one"]), 0.5)
    xs = keyed(KEY, data(""), (B,))
    assert np.isfinite(
        rollout(dropped, dropped.init(KEY), jnp.zeros((B, H)), xs, lengths=jnp.array([3, 1, 0]))[0]
    ).all()


@pytest.mark.parametrize("xs", [(5, 3), (5, 3, 2, 3), (5, 1, 3), (5, 2)])
def test_inputs_without_the_batch_axes_of_the_state_are_refused(xs):
    cell = vanilla(3 if xs[-1] == 3 else 2, H)
    params = cell.init(KEY)
    refused(lambda: rollout(cell, params, cell.start(params, (2,)), jnp.ones(xs)), "xs got shape")
    refused(lambda: one_to_one(cell, params, cell.start(params, (2,)), jnp.ones(xs[1:])), "x")


def test_inputs_whose_features_are_as_many_as_the_batch_are_refused_too():
    cell = vanilla(2, 2)
    params = cell.init(KEY)
    refused(
        lambda: rollout(cell, params, cell.start(params, (2,)), jnp.ones((5, 2))), "xs got shape (5, 2), h0 the batch"
    )
    assert rollout(cell, params, cell.start(params, (2,)), jnp.ones((5, 2, 2)))[0].shape == (2, 2)
    assert rollout(cell, params, cell.start(params, (2,)), jnp.ones((5, 2), int))[0].shape == (2, 2)


def test_a_network_without_inputs_has_steps_of_no_features():
    cell = cell_from_step(
        init=lambda key: jnp.asarray(0.5),
        start=lambda params, batch_shape=(): jnp.ones((*batch_shape, 1)),
        step=lambda params, h, x: params * h,
    )
    params = cell.init(KEY)
    h_T, _ = rollout(cell, params, cell.start(params, (B,)), jnp.zeros((T, B, 0)))
    np.testing.assert_allclose(h_T, 0.5**T)
    refused(lambda: rollout(cell, params, cell.start(params, (B,)), None), "xs got NoneType; want arrays")
