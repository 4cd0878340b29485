"""Recurrent cells of other libraries beside the cells that the adapters make of them, and two laws of both."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rnn_jax import Cell, lag_gradients, outputs, rollout
from tests.laboratory import as_a_user_has_it

T, B, I, H = 4, 2, 3, 4


class Theirs(NamedTuple):
    """A cell, and the functions of the library from which it comes."""

    cell: Cell
    unroll: Callable[..., Any]
    """``(params, xs (T, B, …)) -> (carry, ys)``, by the library, from its own start."""
    step: Callable[..., Any]
    """``(params, carry, x) -> (carry, y)``, by the library, for one example."""
    x: tuple[int, ...] = (I,)
    """The shape of one input."""
    beside: bool = False
    """Whether the output is kept beside the carry."""


def allowing(f):
    """A function of another library under the rules of promotion that JAX has by default."""

    @functools.wraps(f)
    def call(*args, **kwargs):
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return f(*args, **kwargs)

    return call


def random_params(cell):
    """Params with random numbers everywhere: biases of zero would hide one in the wrong place."""
    row, restored = ravel_pytree(cell.init(jax.random.key(0)))
    assert row.dtype == jnp.float64
    return restored(row + 0.3 * jax.random.normal(jax.random.key(1), row.shape))


def carry_of(theirs, h):
    return h.state if theirs.beside else h


def require_equal_rollouts(theirs: Theirs):
    """Last states, outputs and gradients of params and inputs of both schedules equal those of the library."""
    cell, params = theirs.cell, random_params(theirs.cell)
    xs = jax.random.normal(jax.random.key(2), (T, B, *theirs.x))

    def ours(schedule, params, xs):
        h_T, hs = rollout(cell, params, cell.start(params, (B,)), xs, schedule=schedule)
        return carry_of(theirs, h_T), outputs(cell, params, hs)

    def loss(run, params, xs):
        h_T, ys = run(params, xs)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((h_T, ys))), (h_T, ys)

    @jax.jit
    def measure(params, xs):
        runs = allowing(theirs.unroll), lambda *args: ours("scan", *args), lambda *args: ours("adjoint", *args)
        return [jax.value_and_grad(loss, (1, 2), has_aux=True)(run, params, xs) for run in runs]

    own, *adapted = measure(params, xs)
    chex.assert_shape(jax.tree.leaves(own[0][1][1])[0], (T, B, ...))
    for run in adapted:
        chex.assert_trees_all_close(run, own, rtol=1e-12, atol=1e-12)


def require_equal_lags(theirs: Theirs):
    """Lag gradients equal products of Jacobians of the library's step, for each part of the carry."""
    cell, params = theirs.cell, random_params(theirs.cell)
    xs = jax.random.normal(jax.random.key(2), (T, *theirs.x))

    def loss(y):
        seen = ravel_pytree(y)[0]
        return jnp.linspace(1, 2, seen.size) @ jnp.sin(seen)

    def measure(params, xs):
        h = carry_of(theirs, cell.start(params))
        jacobians, adjoint, (_, restored) = [], None, ravel_pytree(h)
        for x in xs:
            flat = ravel_pytree(h)[0]
            jacobians.append(jax.jacfwd(lambda h, x=x: ravel_pytree(theirs.step(params, restored(h), x)[0])[0])(flat))
            adjoint = jax.grad(lambda h, x=x: loss(theirs.step(params, restored(h), x)[1]))(flat)
            h = theirs.step(params, h, x)[0]
        adjoints = [adjoint]  # of the state one step before the last
        for J in jacobians[-2::-1]:
            adjoints.append(J.T @ adjoints[-1])
        return [restored(adjoint) for adjoint in adjoints]

    lags = lag_gradients(cell, params, cell.start(params), xs, loss)
    norms = jax.tree.map(
        lambda *parts: jnp.stack([jnp.linalg.norm(a) for a in parts]), *jax.jit(allowing(measure))(params, xs)
    )
    parts = [np.exp(part[1:]) for part in jax.tree.leaves(carry_of(theirs, lags.log_norm_of))]
    chex.assert_trees_all_close(parts, jax.tree.leaves(norms), rtol=1e-11, atol=1e-15)
    whole = jnp.sqrt(sum(part**2 for part in jax.tree.leaves(norms)))
    np.testing.assert_allclose(np.exp(lags.log_norm[1:]), whole, rtol=1e-11)
    assert float(whole.min()) > 1e-6


def require_one_line(call: Callable[[], Any], message: str) -> None:
    """A call raises a ValueError with this message, which has one line."""
    with as_a_user_has_it(), pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert "; want " in str(caught.value)
