"""Half precision: gradients are sums over time in 32 bits, and params in 32 bits go with products in 16."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rnn_jax import (
    gru,
    initializers,
    learned_start,
    linear_cell,
    lstm,
    mixed_precision,
    outputs,
    readout,
    rollout,
    vanilla,
)
from rnn_jax.cells import VanillaParams
from rnn_jax.gradients import PROGRAMS, chunked, cut, parallel, streaming
from rnn_jax.schedules.driver import SCHEDULES
from tests.cases import CASES
from tests.laboratory import random_params

T = 4096
MODELS = {
    "gru": readout(gru(3, 4, bias_init=initializers.scaled_normal()), 2),
    "lstm": readout(lstm(3, 4, bias_init=initializers.scaled_normal()), 2),
}


def squares(ys, _):
    return jnp.sum(jnp.square(ys.astype(jnp.float32) - 1))


def cast(tree, dtype):
    return jax.tree.map(lambda a: a.astype(dtype), tree)


def relative(found, wanted):
    found, wanted = (np.asarray(ravel_pytree(cast(tree, jnp.float64))[0]) for tree in (found, wanted))
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def whole(cell, params, h0, xs, targets, loss, **_):
    return loss(outputs(cell, params, rollout(cell, params, h0, xs)[1]), targets), ()


def numbers(model):
    xs = jax.random.normal(jax.random.key(1), (T, 2, 3), jnp.float32)
    return cast(MODELS[model].init(jax.random.key(0)), jnp.float32), xs


def gradient(model, program):
    """The compiled gradient ``(params, xs)``, in windows of 64 where the program has any."""
    cell, window = MODELS[model], {} if program is streaming else {"window": 64}

    def loss(params, xs):
        return program(cell, params, cell.start(params, (2,)), xs, (), lambda ys, t: 1e-3 * squares(ys, t), **window)[0]

    return jax.jit(jax.grad(loss))


@functools.cache
def in_32_bits(model, program):
    return gradient(model, program)(*numbers(model))


@pytest.mark.parametrize(
    ("model", "program", "dtype"),
    [
        *[("gru", program, jnp.bfloat16) for program in (whole, cut, chunked, parallel, streaming)],
        *[("lstm", whole, jnp.bfloat16), ("lstm", chunked, jnp.bfloat16), ("gru", cut, jnp.float16)],
    ],
)
def test_gradients_of_long_sequences_are_as_exact_as_half_precision_allows(model, program, dtype):
    params, xs = numbers(model)
    found = gradient(model, program)(cast(params, dtype), cast(xs, dtype))
    wanted = in_32_bits(model, whole if program in (whole, streaming) else cut)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
    for part, of in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert relative(part, of) < 0.02


OF_ONE_PRODUCT = ["vanilla tanh", "antisymmetric", "cornn", "gru reset before", "mgu", "lstm projected", "lru"]


@pytest.mark.parametrize("name", [*OF_ONE_PRODUCT, "conv lstm 1d"])
def test_products_are_summed_over_a_large_batch_in_32_bits(name):
    cell, x, _ = CASES[name]
    params = cast(random_params(cell, scale=0.5), jnp.bfloat16)  # the same numbers in both types
    xs = jax.random.uniform(jax.random.key(1), (2, 4096, *x)).astype(jnp.bfloat16)

    @jax.jit
    def gradient(params, xs):
        def mean(params):
            hs = rollout(cell, params, cell.start(params, xs.shape[1:2]), xs)[1]
            return jnp.mean(outputs(cell, params, hs).astype(jnp.float32) ** 2)

        return jax.grad(mean)(params)

    found, wanted = gradient(params, xs), gradient(cast(params, jnp.float32), cast(xs, jnp.float32))
    assert relative(found, wanted) < 0.02


@pytest.mark.parametrize("program", PROGRAMS)
def test_many_short_windows_are_summed_in_32_bits(program):
    cell = vanilla(1, 1, activation="linear")
    params = VanillaParams(jnp.ones((1, 1), jnp.bfloat16), jnp.zeros((1, 1), jnp.bfloat16), jnp.zeros(1, jnp.bfloat16))
    xs = jnp.ones((T, 1), jnp.bfloat16)
    loss = lambda ys, _: jnp.sum(ys.astype(jnp.float32))  # noqa: E731
    grads = jax.grad(lambda p: PROGRAMS[program](cell, p, cell.start(p), xs, (), loss, window=1)[0])(params)
    assert grads.b_h.tolist() == [T]
    assert grads.W_xh.tolist() == [[T]]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_learned_start_that_resets_put_back_is_summed_in_32_bits(schedule):
    def zeros(params, batch_shape=()):
        return jnp.zeros((*batch_shape, 1), jnp.bfloat16)

    cell = learned_start(linear_cell(lambda key: (), zeros, lambda params, x: (jnp.ones_like(x), x)))
    params = cell.init(jax.random.key(0))
    xs, resets = jnp.zeros((T, 1), jnp.bfloat16), jnp.ones(T, bool)

    def total(params):
        hs = rollout(cell, params, cell.start(params), xs, resets=resets, schedule=schedule)[1]
        return jnp.sum(hs.astype(jnp.float32))

    assert jax.grad(total)(params).h_0.tolist() == [T]


def test_mixed_precision_keeps_params_and_losses_in_32_bits_and_its_state_in_16():
    plain = MODELS["lstm"]
    cell = mixed_precision(plain, jnp.bfloat16)
    params, xs = numbers("lstm")
    xs = xs[:64]
    h_T, hs = rollout(cell, params, cell.start(params, (2,)), xs)
    ys = outputs(cell, params, hs)
    assert {leaf.dtype for leaf in jax.tree.leaves((h_T, hs))} == {jnp.dtype(jnp.bfloat16)}
    assert ys.dtype == jnp.float32
    found = jax.jit(jax.grad(lambda p: whole(cell, p, cell.start(p, (2,)), xs, (), squares)[0]))(params)
    wanted = jax.jit(jax.grad(lambda p: whole(plain, p, plain.start(p, (2,)), xs, (), squares)[0]))(params)
    chex.assert_trees_all_equal_dtypes(found, wanted)
    assert relative(found, wanted) < 0.02
    assert relative(found, wanted) > 1e-6  # its products are indeed in few bits


def test_mixed_precision_reads_ids_and_bare_numbers():
    cell = mixed_precision(gru(5, 4), jnp.bfloat16)
    params = cell.init(jax.random.key(0))
    h_T, _ = rollout(cell, params, cell.start(params), jnp.array([0, 4, 2]))
    assert h_T.dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"^dtype got"):
        mixed_precision(gru(5, 4), jnp.int8)
