"""Recurrent cells of other libraries beside the cells that the adapters make of them, and one law of both."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rnn_jax import Cell, LagGradients, lag_gradients, outputs, rollout
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


def random_params(cell, seed=0):
    """Params of random numbers alone: biases of zero would hide one in the wrong place."""
    shapes, tree = jax.tree.flatten(jax.eval_shape(cell.init, jax.random.key(0)))
    assert {a.dtype for a in shapes} == {jnp.dtype("float64")}
    return jax.tree.unflatten(tree, [0.5 * random_array(n, a.shape) for n, a in enumerate(shapes, seed)])


def carry_of(theirs, h):
    return h.state if theirs.beside else h


def require_equal_to_theirs(theirs: Theirs):
    """Rollouts and lag gradients equal those of the library, in one program.

    Last states, outputs and gradients of params and inputs are those of its own unroll. Norms at every lag are products
    of Jacobians of its own step, for each part of the carry.
    """
    cell, params = theirs.cell, random_params(theirs.cell)
    xs, of_one = (random_array(99, (T, *batch, *theirs.x)) for batch in ((B,), ()))

    def ours(params, xs):
        h_T, hs = rollout(cell, params, cell.start(params, (B,)), xs)
        return carry_of(theirs, h_T), outputs(cell, params, hs)

    def summed(run, params, xs):
        h_T, ys = run(params, xs)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((h_T, ys))), (h_T, ys)

    @jax.jit
    def measure(params, xs, of_one):
        runs = allowing(theirs.unroll), ours
        grads = [jax.value_and_grad(summed, (1, 2), has_aux=True)(run, params, xs) for run in runs]
        lags = lag_gradients(cell, params, cell.start(params), of_one, loss_of_one)
        return grads, norms_at_lags(theirs, params, of_one), lags

    (own, adapted), norms, lags = measure(params, xs, of_one)
    chex.assert_shape(jax.tree.leaves(own[0][1][1])[0], (T, B, ...))
    chex.assert_trees_all_close(adapted, own, rtol=1e-12, atol=1e-12)
    require_equal_lags(theirs, norms, lags)


def require_equal_lags(theirs: Theirs, norms: Any, lags: LagGradients):
    """Norms in log space are those of adjoints, and at lag 0 those of the output alone where it is kept."""
    of_parts, of_output, chained = norms
    chex.assert_trees_all_close(*chained, rtol=1e-12, atol=1e-15)
    parts = [np.exp(part) for part in jax.tree.leaves(carry_of(theirs, lags.log_norm_of))]
    chex.assert_trees_all_close(parts, of_parts, rtol=1e-11, atol=1e-15)
    whole = np.linalg.norm(of_parts, axis=0)
    np.testing.assert_allclose(np.exp(lags.log_norm), whole, rtol=1e-11)
    assert whole[int(theirs.beside) :].min() > 1e-6
    if theirs.beside:
        assert np.isneginf(lags.log_norm[0])
        found = [np.exp(part[0]) for part in jax.tree.leaves(lags.log_norm_of.output)]
        chex.assert_trees_all_close(found, of_output, rtol=1e-12)


def loss_of_one(y: Any) -> jax.Array:
    """A loss of the last output of one example."""
    seen = ravel_pytree(y)[0]
    return jnp.linspace(1, 2, seen.size) @ jnp.sin(seen)


@allowing
def norms_at_lags(theirs: Theirs, params: Any, xs: jax.Array) -> Any:
    """Norms of the adjoints of the carry at lags 0 … T, a list of parts; of the loss with respect to y_T; and a pair.

    The pair is twice the adjoint one step before the last: by the library's own y_T, and by its Jacobian and the
    adjoint of the last carry, which reads the cell's ``output``.
    """
    first, restored = ravel_pytree(carry_of(theirs, theirs.cell.start(params)))

    def step(row, x):
        """The next carry in a row, and the loss of its output."""
        h, y = theirs.step(params, restored(row), x)
        return ravel_pytree(h)[0], loss_of_one(y)

    h_T, rows = jax.lax.scan(lambda row, x: (step(row, x)[0], row), first, xs)
    jacobians, slopes = jax.vmap(jax.jacfwd(step))(rows, xs)
    adjoints, of_output = [jnp.zeros_like(h_T), slopes[-1]], []
    if theirs.beside:
        of_output = jax.tree.leaves(jax.grad(loss_of_one)(theirs.step(params, restored(rows[-1]), xs[-1])[1]))
    else:
        adjoints[0] = jax.grad(lambda row: loss_of_one(theirs.cell.output(params, restored(row))))(h_T)
    chained = slopes[-1], slopes[-1] if theirs.beside else jacobians[-1].T @ adjoints[0]
    for J in jacobians[-2::-1]:
        adjoints.append(J.T @ adjoints[-1])
    parts = jax.vmap(restored)(jnp.stack(adjoints))
    norms = [jnp.linalg.norm(part.reshape(T + 1, -1), axis=-1) for part in jax.tree.leaves(parts)]
    return norms, [jnp.linalg.norm(part) for part in of_output], chained


def cells_in(module: Any, base: type) -> set[str]:
    """Names of the public classes of cells in a library."""
    classes = {name: of for name, of in vars(module).items() if isinstance(of, type) and issubclass(of, base)}
    return {name for name, of in classes.items() if of is not base}


def require_one_line(call: Callable[[], Any], message: str) -> None:
    """A call raises a ValueError with this message, which has one line."""
    with as_a_user_has_it(), pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert "; want " in str(caught.value)
