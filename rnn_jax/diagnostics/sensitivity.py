"""The sensitivity of a state to the params, which grows with memory even where no gradient explodes."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnn_jax.diagnostics.frames import of_each_example
from rnn_jax.diagnostics.states import Layout, layout_of, require_steps
from rnn_jax.keys import one_key
from rnn_jax.machinery.checks import require_positive
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.sharding import scan
from rnn_jax.schedules.driver import batch_shape, require_fit
from rnn_jax.types import Cell, Params, State

__all__ = ["parameter_sensitivity", "sampled_sensitivity"]


class Sized(NamedTuple):
    """Numbers of any size, numbers · e^log_size, with one common scale."""

    numbers: Float[Array, "..."]
    """The largest is 1 in absolute value; all are 0 where the size is 0."""
    log_size: Float[Array, ""]
    """−∞ for zeros."""


@compiled("cell")
def parameter_sensitivity(cell: Cell, params: Params, h0: State, xs: PyTree) -> Float[Array, "T *batch"]:
    """ln‖∂state_t/∂params‖ at every step t = 1 … T, the Frobenius norm, for each example of a batch.

    M_t = ∂state_t/∂params follows M_t = J_t M_{t−1} + ∂F/∂params with the Jacobian J_t of one step F, and M_0 = 0: the
    state before the first step is a constant. It is exact, with one common scale for all numbers of M, so it neither
    under- nor overflows. Memory and time are those of S · P numbers, S of the state and P of the params, at each step
    and for each example; ``sampled_sensitivity`` is for large networks.

    Args:
        cell: any cell.
        params: its weights. All floating ones count.
        h0: the state before the first step, with the batch axes of ``xs``.
        xs: ``(T, *batch, I)`` or ids ``(T, *batch)``.

    Returns:
        Norms over all parts of the state in nats; −∞ where the state does not depend on the params.

    Raises:
        ValueError: for a layer, a state that is not floating, params without floating numbers, or xs or h0 that do not
            fit the cell.

    Example: of h_t = λ h_{t−1} + x_t and x_t = 1 from h_0 = 0 the derivatives to λ are 0, 1, 1 + 2λ.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import cell_from_step
    >>> leaky = cell_from_step(lambda key: jnp.array(0.9), lambda p, batch_shape=(): jnp.zeros((*batch_shape, 1)),
    ...                        lambda λ, h, x: λ * h + x)
    >>> norms = parameter_sensitivity(leaky, jnp.array(0.9), jnp.zeros(1), jnp.ones((3, 1)))
    >>> print(jnp.exp(norms).round(4))
    [0.  1.  2.8]

    Reference: Zucchet, Orvieto. Recurrent neural networks: vanishing and exploding gradients are not the end of the
    story. 2024, where this growth is the curse of memory.
    """
    layout, row_of, flat = _flattened(cell, params, h0, xs)

    def step(carry: tuple[State, Sized], x: PyTree) -> tuple[tuple[State, Sized], Array]:
        h, M = carry
        to_params, J = jax.jacrev(row_of, argnums=(0, 1))(flat, layout.row(h), x)
        carried = sized(widened(J) @ M.numbers, M.log_size)
        M = sized_sum(carried, sized(widened(to_params)))
        return (cell.step(params, h, x), M), log_norm(M)

    def of_one(h0: State, xs: PyTree) -> Float[Array, " T"]:
        row = layout.row(h0)
        M_0 = sized(widened(jnp.zeros((row.size, flat.size), row.dtype)))
        return scan(step, (h0, M_0), xs)[1]

    with jax.default_matmul_precision("highest"):
        return of_each_example(of_one, len(batch_shape(cell, params, h0)))(h0, xs)


def sampled_sensitivity(
    cell: Cell, params: Params, key: PRNGKeyArray, h0: State, xs: PyTree, *, probes: int
) -> Float[Array, "T *batch"]:
    """An estimate of ``parameter_sensitivity`` by random directions, for large networks.

    For a vector v of random signs, E ‖M_t v‖² = ‖M_t‖². The products M_t v need one derivative of the step along v and
    along M_{t−1} v, so each probe costs about as much as the rollout. The mean of ‖M_t v‖² over the probes has no bias;
    its logarithm, which is returned, has one of about half the relative variance of that mean.

    Args:
        cell, params, h0, xs: as in ``parameter_sensitivity``.
        key: of the random signs, which are the same at each step and for each example.
        probes: how many directions.

    Returns:
        ½ ln of the mean of ‖M_t v‖² at every step, in nats.

    Raises:
        ValueError: as ``parameter_sensitivity``, and for probes below 1.

    Reference: Hutchinson. A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines.
    1990.
    """
    require_positive(probes=probes)
    return _sampled(cell, params, one_key(key), h0, xs, int(probes))


@compiled("cell", "probes")
def _sampled(
    cell: Cell, params: Params, key: PRNGKeyArray, h0: State, xs: PyTree, probes: int
) -> Float[Array, "T *batch"]:
    layout, row_of, flat = _flattened(cell, params, h0, xs)
    signs = jax.random.rademacher(key, (probes, flat.size), flat.dtype)

    def along(v: Array, h: State, x: PyTree, M_v: Sized) -> Sized:
        """M_t v, at a scale at which neither v nor M_{t−1} v is too large."""
        top = jnp.maximum(M_v.log_size, 0)
        now = (v * jnp.exp(-top).astype(v.dtype), (M_v.numbers * jnp.exp(M_v.log_size - top)).astype(layout.dtype))
        moved = jax.jvp(lambda flat, row: row_of(flat, row, x), (flat, layout.row(h)), now)[1]
        return sized(widened(moved), top)

    def step(carry: tuple[State, Sized], x: PyTree) -> tuple[tuple[State, Sized], Array]:
        h, M_v = carry
        M_v = jax.vmap(along, in_axes=(0, None, None, 0))(signs, h, x, M_v)
        square = jax.nn.logsumexp(2 * jax.vmap(log_norm)(M_v)) - math.log(probes)
        return (cell.step(params, h, x), M_v), 0.5 * square

    def of_one(h0: State, xs: PyTree) -> Float[Array, " T"]:
        row = layout.row(h0)
        return scan(step, (h0, jax.vmap(sized)(widened(jnp.zeros((probes, row.size), row.dtype)))), xs)[1]

    with jax.default_matmul_precision("highest"):
        return of_each_example(of_one, len(batch_shape(cell, params, h0)))(h0, xs)


def _flattened(
    cell: Cell, params: Params, h0: State, xs: PyTree
) -> tuple[Layout, Callable[[Array, Array, PyTree], Array], Array]:
    """The layout of a state, the step of rows ``(flat params, row, x) -> row``, and the floating params in one row."""
    require_steps(xs)
    layout = layout_of(cell, params, h0)
    require_fit(cell, params, h0, xs)
    leaves, tree = jax.tree.flatten(params)
    moving = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]
    if not any(moving):
        raise ValueError("params got no floating numbers; want some: only they have a derivative")
    flat, unravel = ravel_pytree([jnp.asarray(leaf) for leaf, moves in zip(leaves, moving, strict=True) if moves])

    def row_of(flat: Array, row: Array, x: PyTree) -> Array:
        given = iter(unravel(flat))
        now = [next(given) if moves else leaf for leaf, moves in zip(leaves, moving, strict=True)]
        return layout.row(cell.step(jax.tree.unflatten(tree, now), layout.state(row), x))

    return layout, row_of, flat


def sized(numbers: Float[Array, "..."], log_size: Array | float = 0.0) -> Sized:
    """numbers · e^log_size, with its own scale."""
    top = jnp.max(jnp.abs(numbers))
    return Sized(numbers / jnp.where(top > 0, top, 1), log_size + jnp.log(top))


def sized_sum(a: Sized, b: Sized) -> Sized:
    """a + b."""
    top = jnp.maximum(a.log_size, b.log_size)
    top = jnp.where(jnp.isneginf(top), 0, top)
    return sized(a.numbers * jnp.exp(a.log_size - top) + b.numbers * jnp.exp(b.log_size - top), top)


def log_norm(a: Sized) -> Float[Array, ""]:
    """ln of the norm of all numbers."""
    return a.log_size + 0.5 * jnp.log(jnp.sum(jnp.square(a.numbers)))
