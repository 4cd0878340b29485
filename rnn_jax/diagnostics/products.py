"""The singular values of long products of Jacobians, J_T … J_1, which are never formed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from rnn_jax.diagnostics.frames import (
    FiniteSteps,
    first_frame,
    first_input,
    is_finite,
    of_each_example,
    one_example,
    orthonormal,
    require_finite_steps,
    state_size,
    tangents_of,
)
from rnn_jax.diagnostics.scaled import ScaledRows, times, with_norms
from rnn_jax.machinery.checks import require_sequence
from rnn_jax.machinery.compiling import compiled
from rnn_jax.schedules.driver import batch_shape
from rnn_jax.types import Cell, Params, State

__all__ = ["ProductSpectrum", "product_spectrum"]

SWEEPS = 30
"""The largest number of sweeps; about 8 are needed."""


class ProductSpectrum(NamedTuple):
    """The singular values of ∂state_T/∂state_0, in log space."""

    log_values: Float[Array, "S *batch"]
    """ln σ_1 … ln σ_S in nats, the largest first. For 0 it is −∞, or as negative as rounding allows."""

    @property
    def log_condition(self) -> Float[Array, "*batch"]:
        """ln of the condition number, σ_1/σ_S; ∞ where σ_S is 0."""
        last = self.log_values[-1]
        return jnp.where(jnp.isneginf(last), jnp.inf, self.log_values[0] - last)


def product_spectrum(cell: Cell, params: Params, h0: State, xs: PyTree) -> ProductSpectrum:
    """All singular values of ∂state_T/∂state_0 = J_T … J_1: how the gradient of any direction vanishes or explodes.

    The product is never formed, as its small singular values would be lost beside the large ones. J_t … J_1 = Q_t R_t
    with orthonormal Q_t and a triangular R_t whose rows have exponents of their own; at the end a one-sided Jacobi
    iteration on these rows, in log space, finds the singular values of R_T. They are right at any size, as long as each
    single Jacobian is: where the condition number of one step is beyond the precision of its type, above 10⁷ in
    float32, as with gates that are shut, the smallest values are lost in rounding.

    Args:
        cell, params: any cell and its weights.
        h0: the state before the first step, with the batch axes of ``xs``.
        xs: ``(T, *batch, I)`` or ids ``(T, *batch)``.

    Returns:
        ln σ_1 … ln σ_S, where S counts the numbers in the recurrent parts of the state, as in ``step_jacobian``.

    Raises:
        ValueError: for a layer, a state that is not floating, xs or h0 that do not fit the cell, or a state or Jacobian
            that is not finite (the step is named, unless this is traced).

    Example: after 1,000 steps one unit has kept e^−1 of its gradient, the other one e^−2000.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import vanilla
    >>> cell = vanilla(1, 2, activation="linear")
    >>> params = cell.init(jax.random.key(0))._replace(W_hh=jnp.diag(jnp.exp(jnp.array([-0.001, -2.0]))))
    >>> found = product_spectrum(cell, params, cell.start(params), jnp.zeros((1000, 1)))
    >>> print(*found.log_values.round(2))
    -1.0 -2000.0

    Reference: Stewart. On graded QR decompositions of products of matrices. 1995; Demmel, Veselić. Jacobi's method is
    more accurate than QR. 1992.
    """
    require_sequence(xs)
    state_size(cell, params, h0, xs)
    log_values, finite = _log_values(cell, params, h0, xs)
    require_finite_steps(finite)
    return ProductSpectrum(log_values)


@compiled("cell")
def _log_values(cell: Cell, params: Params, h0: State, xs: PyTree) -> tuple[Float[Array, "S *batch"], FiniteSteps]:
    """ln of the singular values, and what is finite at each step."""
    axes = len(batch_shape(cell, params, h0))
    tangents = tangents_of(cell, params, one_example(h0, axes), first_input(xs, axes))
    eye = jnp.eye(tangents.size, dtype=tangents.dtype)

    def on(carry: tuple[State, Array, ScaledRows], x: PyTree) -> tuple[tuple[State, Array, ScaledRows], FiniteSteps]:
        h, frame, rows = carry
        h, vectors = tangents.push(h, x, frame)
        frame, R = orthonormal(vectors)
        return (h, frame, times(R, rows)), FiniteSteps(is_finite(h), is_finite(vectors))

    def along(h: State, xs: PyTree) -> tuple[Array, FiniteSteps]:
        frame = first_frame(tangents.size, tangents.size, tangents.dtype)
        (_, _, rows), finite = jax.lax.scan(on, (h, frame, ScaledRows(eye, jnp.zeros_like(eye[0]))), xs)
        return -jnp.sort(-orthogonal_rows(rows).log_norm), finite

    with jax.default_matmul_precision("highest"):
        return of_each_example(along, axes)(h0, xs)


def orthogonal_rows(rows: ScaledRows) -> ScaledRows:
    """Orthogonal rows, by rotations of two at a time (one-sided Jacobi): their lengths are the singular values."""
    pairs = jnp.asarray(pairs_of(len(rows.log_norm)))
    tolerance = len(rows.log_norm) * jnp.finfo(rows.unit.dtype).eps

    def sweep(carry: tuple[ScaledRows, Array, Array]) -> tuple[ScaledRows, Array, Array]:
        rows, sweeps, _ = carry
        rows, cosines = jax.lax.scan(rotated, rows, pairs)
        return rows, sweeps + 1, jnp.max(cosines, initial=0)

    def unfinished(carry: tuple[ScaledRows, Array, Array]) -> Array:
        _, sweeps, cosine = carry
        return (cosine > tolerance) & (sweeps < SWEEPS)

    start = rows, jnp.asarray(0), jnp.asarray(jnp.inf, rows.unit.dtype)
    return jax.lax.while_loop(unfinished, sweep, start)[0]


def rotated(rows: ScaledRows, pairs: Int[Array, "N 2"]) -> tuple[ScaledRows, Float[Array, ""]]:
    """Rows after N rotations of different pairs, and the largest cosine between the two rows of a pair before them.

    Of a pair, let r ≤ 1 be the ratio of the lengths and c the cosine. The rotation by θ, tan 2θ = 2rc/(1 − r²), makes
    the two orthogonal; sin θ/r is computed without a division by r, so a pair of any two lengths is right.
    """
    p, q = jnp.moveaxis(pairs, 1, 0)
    p, q = (jnp.where(rows.log_norm[p] >= rows.log_norm[q], a, b) for a, b in ((p, q), (q, p)))
    x, y, log_x, log_y = rows.unit[p], rows.unit[q], rows.log_norm[p], rows.log_norm[q]
    r = jnp.where(jnp.isneginf(log_y), 0, jnp.exp(log_y - log_x))
    c = jnp.sum(x * y, axis=1)
    below = (1 - r) * (1 + r) + jnp.sqrt(jnp.square((1 - r) * (1 + r)) + jnp.square(2 * r * c))
    tangent_over_r = jnp.where(below == 0, 0, 2 * c / jnp.where(below == 0, 1, below))
    cosine = 1 / jnp.sqrt(1 + jnp.square(r * tangent_over_r))
    sine_over_r = (cosine * tangent_over_r)[:, None]
    longer = with_norms(cosine[:, None] * x + jnp.square(r)[:, None] * sine_over_r * y, log_x)
    shorter = with_norms(cosine[:, None] * y - sine_over_r * x, log_y)
    units = rows.unit.at[p].set(longer.unit).at[q].set(shorter.unit)
    norms = rows.log_norm.at[p].set(longer.log_norm).at[q].set(shorter.log_norm)
    return ScaledRows(units, norms), jnp.max(jnp.abs(c), initial=0)


def pairs_of(size: int) -> Int[np.ndarray, "rounds N 2"]:
    """Every pair of numbers below ``size`` once, in rounds in which no number occurs twice, as in a tournament.

    >>> pairs_of(3).tolist()
    [[[1, 2]], [[0, 2]], [[0, 1]]]
    """
    even, rounds = size + size % 2, []
    ring = list(range(1, even))
    for _ in range(even - 1):
        order = [0, *ring]
        pairs = [tuple(sorted((order[i], order[-1 - i]))) for i in range(even // 2)]
        rounds.append(sorted(pair for pair in pairs if pair[1] < size))
        ring = [ring[-1], *ring[:-1]]
    return np.array(rounds, int).reshape(len(rounds), -1, 2)
