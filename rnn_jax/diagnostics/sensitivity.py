"""The sensitivity of a state to the params, which grows with memory even where no gradient explodes."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnn_jax.diagnostics.frames import of_each_example
from rnn_jax.diagnostics.scaled import (
    Scaled,
    ScaledRows,
    add,
    log_norm_of,
    map_in_bands,
    scaled,
    sum_of_rows,
    times,
    with_norms,
    zeros,
)
from rnn_jax.diagnostics.states import Layout, layout_of, params_row, require_steps
from rnn_jax.keys import one_key
from rnn_jax.machinery.checks import require_positive
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.sharding import scan
from rnn_jax.schedules.driver import batch_shape, require_fit
from rnn_jax.types import Cell, Params, State

__all__ = ["parameter_sensitivity", "sampled_sensitivity"]


@compiled("cell")
def parameter_sensitivity(cell: Cell, params: Params, h0: State, xs: PyTree) -> Float[Array, "T *batch"]:
    """ln‖∂state_t/∂params‖ at every step t = 1 … T, the Frobenius norm, for each example of a batch.

    M_t = ∂state_t/∂params follows M_t = J_t M_{t−1} + ∂F/∂params with the Jacobian J_t of one step F, and M_0 = 0: the
    state before the first step is a constant. It is exact, and each row of M, one for each number of the state, has its
    own scale, so nothing under- or overflows. Memory and time are those of S · P numbers, S of the state and P of the
    params, at each step and for each example; ``sampled_sensitivity`` is for large networks.

    Args:
        cell: any cell.
        params: its weights. All floating ones count; a complex number counts as two real ones.
        h0: the state before the first step, with the batch axes of ``xs``.
        xs: ``(T, *batch, I)`` or ids ``(T, *batch)``.

    Returns:
        Norms over all parts of the state in nats; −∞ where the state does not depend on the params, NaN from
        the first step whose state is not finite.

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
    layout, row_of, theta = _in_rows(cell, params, h0, xs)

    def step(carry: tuple[State, ScaledRows], x: PyTree) -> tuple[tuple[State, ScaledRows], Array]:
        h, M = carry
        derivatives = jax.jacrev(row_of, argnums=(0, 1))(theta, layout.row(h), x)
        to_params, J = (widened(a).astype(theta.dtype) for a in derivatives)
        M = sum_of_rows(times(J, M), with_norms(to_params, jnp.zeros(len(J), theta.dtype)))
        return (cell.step(params, h, x), M), 0.5 * jax.nn.logsumexp(2 * M.log_norm)

    def of_one(h0: State, xs: PyTree) -> Float[Array, " T"]:
        M_0 = jnp.zeros((layout.row(h0).size, theta.size), theta.dtype)
        return scan(step, (h0, with_norms(M_0, M_0[:, 0])), xs)[1]

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
    layout, row_of, theta = _in_rows(cell, params, h0, xs)
    signs = jax.random.rademacher(key, (probes, theta.size), theta.dtype)

    def step(carry: tuple[State, Scaled], x: PyTree) -> tuple[tuple[State, Scaled], Array]:
        h, M_v = carry
        row = layout.row(h)
        along_state = jax.vmap(lambda v: jax.jvp(lambda row: row_of(theta, row, x), (row,), (v.astype(row.dtype),))[1])
        along_params = jax.vmap(lambda v: jax.jvp(lambda theta: row_of(theta, row, x), (theta,), (v,))[1])
        added = scaled(widened(along_params(signs)).astype(theta.dtype))
        M_v = add(map_in_bands(along_state, M_v, layout.maxexp // 4), added)
        square = jax.nn.logsumexp(2 * log_norm_of(M_v)) - math.log(probes)
        return (cell.step(params, h, x), M_v), 0.5 * square

    def of_one(h0: State, xs: PyTree) -> Float[Array, " T"]:
        return scan(step, (h0, zeros((probes, layout.row(h0).size), theta.dtype)), xs)[1]

    with jax.default_matmul_precision("highest"):
        return of_each_example(of_one, len(batch_shape(cell, params, h0)))(h0, xs)


def _in_rows(
    cell: Cell, params: Params, h0: State, xs: PyTree
) -> tuple[Layout, Callable[[Array, Array, PyTree], Array], Array]:
    """The layout of a state, the step of rows ``(theta, row, x) -> row``, and theta, the floating params in one row.

    The type of theta holds the numbers of the state too.
    """
    require_steps(xs)
    layout = layout_of(cell, params, h0)
    require_fit(cell, params, h0, xs)
    theta, params_of = params_row(params)

    def row_of(theta: Array, row: Array, x: PyTree) -> Array:
        return layout.row(cell.step(params_of(theta), layout.state(row), x))

    return layout, row_of, theta.astype(jnp.promote_types(theta.dtype, layout.dtype))
