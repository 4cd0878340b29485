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


def random_array(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def random_params(cell):
    """Params of random numbers alone: biases of zero would hide one in the wrong place."""
    shapes, tree = jax.tree.flatten(jax.eval_shape(cell.init, jax.random.key(0)))
    assert {a.dtype for a in shapes} == {jnp.dtype("float64")}
    return jax.tree.unflatten(tree, [0.5 * random_array(n, a.shape) for n, a in enumerate(shapes)])


def carry_of(theirs, h):
    return h.state if theirs.beside else h


def require_equal_rollouts(theirs: Theirs):
    """Last states, outputs and gradients of params and inputs equal those of the library, and ``scan`` agrees."""
    cell, params = theirs.cell, random_params(theirs.cell)
    xs = random_array(99, (T, B, *theirs.x))

    def ours(schedule, params, xs):
        h_T, hs = rollout(cell, params, cell.start(params, (B,)), xs, schedule=schedule)
        return carry_of(theirs, h_T), outputs(cell, params, hs)

    def loss(run, params, xs):
        h_T, ys = run(params, xs)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((h_T, ys))), (h_T, ys)

    @jax.jit
    def measure(params, xs):
        runs = allowing(theirs.unroll), lambda *args: ours("adjoint", *args)
        return [jax.value_and_grad(loss, (1, 2), has_aux=True)(run, params, xs) for run in runs], ours(
            "scan", params, xs
        )

    (own, adapted), scanned = measure(params, xs)
    chex.assert_shape(jax.tree.leaves(scanned[1])[0], (T, B, ...))
    chex.assert_trees_all_close(adapted, own, rtol=1e-12, atol=1e-12)
    chex.assert_trees_all_close(scanned, own[0][1], rtol=1e-12, atol=1e-12)


def require_equal_lags(theirs: Theirs):
    """Lag gradients equal products of Jacobians of the library's step, for each part of the carry."""
    cell, params = theirs.cell, random_params(theirs.cell)
    xs = random_array(99, (T, *theirs.x))

    def loss(y):
        seen = ravel_pytree(y)[0]
        return jnp.linspace(1, 2, seen.size) @ jnp.sin(seen)

    @allowing
    def norms(params, xs):
        h0 = carry_of(theirs, cell.start(params))
        before = jax.lax.scan(lambda h, x: (theirs.step(params, h, x)[0], h), h0, xs)[1]
        rows, restored = jax.vmap(lambda h: ravel_pytree(h)[0])(before), ravel_pytree(h0)[1]
        last = jax.grad(lambda h: loss(theirs.step(params, restored(h), xs[-1])[1]))(rows[-1])
        step = jax.vmap(jax.jacfwd(lambda h, x: ravel_pytree(theirs.step(params, restored(h), x)[0])[0]))
        adjoints = [last]  # of the state one step before the last
        for J in step(rows, xs)[-2::-1]:
            adjoints.append(J.T @ adjoints[-1])
        parts = jax.vmap(restored)(jnp.stack(adjoints))
        return [jnp.linalg.norm(part.reshape(T, -1), axis=-1) for part in jax.tree.leaves(parts)]

    @jax.jit
    def measure(params, xs):
        return norms(params, xs), lag_gradients(cell, params, cell.start(params), xs, loss)

    of_parts, lags = measure(params, xs)
    parts = [np.exp(part[1:]) for part in jax.tree.leaves(carry_of(theirs, lags.log_norm_of))]
    chex.assert_trees_all_close(parts, of_parts, rtol=1e-11, atol=1e-15)
    whole = np.linalg.norm(of_parts, axis=0)
    np.testing.assert_allclose(np.exp(lags.log_norm[1:]), whole, rtol=1e-11)
    assert whole.min() > 1e-6


def require_one_line(call: Callable[[], Any], message: str) -> None:
    """A call raises a ValueError with this message, which has one line."""
    with as_a_user_has_it(), pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert "; want " in str(caught.value)
