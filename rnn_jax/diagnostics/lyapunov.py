"""Lyapunov exponents: the mean growth, in nats a step, of small differences between trajectories."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

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
from rnn_jax.diagnostics.states import require_some_steps
from rnn_jax.machinery.checks import is_whole, require_number, require_positive
from rnn_jax.machinery.compiling import compiled
from rnn_jax.schedules.driver import batch_shape
from rnn_jax.types import Cell, Params, State

__all__ = ["LyapunovSpectrum", "entropy_rate", "kaplan_yorke_dimension", "lyapunov_spectrum"]


class LyapunovSpectrum(NamedTuple):
    """Lyapunov exponents along one trajectory for each example."""

    exponents: Float[Array, "K *batch"]
    """λ_1 … λ_K in nats a step, the largest first. For a direction that a step maps to zero it is −∞, or as negative as
    rounding allows."""
    standard_error: Float[Array, "K *batch"]
    """Of each exponent, from the means of blocks of steps; NaN where there are fewer than two blocks."""
    growth: Float[Array, "N K *batch"]
    """ln of the factor by which each step after the warm-up stretches direction k, in the order of directions."""

    @property
    def finite_time(self) -> Float[Array, "N K *batch"]:
        """The exponents of the first n steps after the warm-up, for n = 1 … N, in the order of directions."""
        steps = jnp.arange(1, 1 + len(self.growth), dtype=self.growth.dtype)
        return jnp.cumsum(self.growth, axis=0) / steps.reshape(-1, *[1] * (self.growth.ndim - 1))


def lyapunov_spectrum(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    *,
    count: int | None = None,
    warmup: int | None = None,
    blocks: int = 10,
) -> LyapunovSpectrum:
    """The Lyapunov exponents of a network that is driven by a sequence, the largest ``count`` of them.

    K orthonormal vectors, the frame, are multiplied by the Jacobian of each step and made orthonormal again (QR). The
    mean of ln R_kk is the exponent λ_k. Above 0, small differences between two trajectories grow, and so does the
    gradient back through time. The spectrum can be differentiated, so ``flossing`` is a penalty on it.

    The state is the full carry (h and c of an LSTM); parts on which later states do not depend are left out, as in
    ``step_jacobian``.

    Args:
        cell, params: any cell and its weights.
        h0: the state before the first step, with the batch axes of ``xs``.
        xs: ``(T, *batch, I)`` or ids ``(T, *batch)``.
        count: K, at most the number S of numbers in the recurrent parts of the state; by default all.
        warmup: steps at the beginning in which state and frame run along and nothing is measured, fewer than T; by
            default a fifth of T. Without them, the exponents would contain the time that the frame needs to turn into
            the directions of largest growth.
        blocks: of steps, from whose means the standard errors are computed; fewer where fewer steps are measured.

    Returns:
        Exponents, their standard errors, and the growth of each step.

    Raises:
        ValueError: for a layer, a state that is not floating, xs or h0 that do not fit the cell, a count above S, a
            warm-up of T steps or more, no step, or a state or Jacobian that is not finite (the step is named, unless
            this is traced).

    Example: a linear network whose recurrent matrix is 0.5·Q.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import initializers, vanilla
    >>> cell = vanilla(2, 8, activation="linear", recurrent_init=initializers.orthogonal(0.5))
    >>> params = cell.init(jax.random.key(0))
    >>> found = lyapunov_spectrum(cell, params, cell.start(params), jnp.ones((100, 2)), count=2)
    >>> print(found.exponents.round(4))
    [-0.6931 -0.6931]

    Reference: Benettin, Galgani, Giorgilli, Strelcyn. Lyapunov characteristic exponents for smooth dynamical systems.
    1980; of driven networks: Engelken, Wolf, Abbott. Lyapunov spectra of chaotic recurrent neural networks. 2023.
    """
    S, T = state_size(cell, params, h0, xs), require_some_steps(xs)
    count, warmup = S if count is None else count, T // 5 if warmup is None else warmup
    require_positive(count=count, blocks=blocks)
    if count > S:
        raise ValueError(f"count got {count}; want at most {S}, the numbers in the recurrent parts of the state")
    require_number("warmup", warmup, lambda n: is_whole(n) and 0 <= n < T, f"a whole number of steps in [0, {T})")
    growth, finite = _growth(cell, params, h0, xs, int(count), int(warmup))
    require_finite_steps(finite)
    return spectrum_of(growth, int(blocks))


@compiled("cell", "count", "warmup")
def _growth(
    cell: Cell, params: Params, h0: State, xs: PyTree, count: int, warmup: int
) -> tuple[Float[Array, "N K *batch"], FiniteSteps]:
    """ln R_kk of each step after the warm-up, and what is finite at each step."""
    axes = len(batch_shape(cell, params, h0))
    tangents = tangents_of(cell, params, one_example(h0, axes), first_input(xs, axes))

    def on(carry: tuple[State, Array], x: PyTree) -> tuple[tuple[State, Array], tuple[Array, FiniteSteps]]:
        h, frame = carry
        h, vectors = tangents.push(h, x, frame)
        frame, R = orthonormal(vectors)
        return (h, frame), (jnp.log(jnp.diagonal(R)), FiniteSteps(is_finite(h), is_finite(vectors)))

    def along(h: State, xs: PyTree) -> tuple[Array, FiniteSteps]:
        frame = first_frame(tangents.size, count, tangents.dtype)
        _, (growth, finite) = jax.lax.scan(on, (h, frame), xs)
        return growth[warmup:], finite

    with jax.default_matmul_precision("highest"):
        return of_each_example(along, axes)(h0, xs)


@compiled("blocks")
def spectrum_of(growth: Float[Array, "N K *batch"], blocks: int) -> LyapunovSpectrum:
    """The exponents, sorted, with standard errors from the means of blocks of equal length."""
    mean, steps = growth.mean(axis=0), len(growth)
    blocks = min(blocks, steps)
    length = steps // blocks
    means = growth[steps - blocks * length :].reshape(blocks, length, *growth.shape[1:]).mean(axis=1)
    error = jnp.std(means, axis=0, ddof=1) / blocks**0.5 if blocks > 1 else jnp.full_like(mean, jnp.nan)
    order = jnp.argsort(-mean, axis=0)
    return LyapunovSpectrum(jnp.take_along_axis(mean, order, axis=0), jnp.take_along_axis(error, order, axis=0), growth)


def kaplan_yorke_dimension(exponents: Float[ArrayLike, "K *batch"] | Sequence[float]) -> Float[Array, "*batch"]:
    """The Kaplan–Yorke dimension of an attractor, j + Σ_{k≤j} λ_k / |λ_{j+1}|, where j exponents add up to at least 0.

    Args:
        exponents: in nats, in any order. If all given ones add up to at least 0, the result is their number K: the
            true dimension is then at least K.

    The Hénon map has the exponents 0.419 and −1.623.

    >>> print(kaplan_yorke_dimension(jnp.array([0.4192, -1.6232])).round(3))
    1.258

    Reference: Kaplan, Yorke. Chaotic behavior of multidimensional difference equations. 1979.
    """
    exponents = -jnp.sort(-jnp.asarray(exponents), axis=0)
    sums = jnp.cumsum(exponents, axis=0)
    j, last = jnp.sum(jnp.cumprod(sums >= 0, axis=0), axis=0), len(exponents) - 1

    def at(values: Array, k: Array) -> Array:
        return jnp.take_along_axis(values, k[None], axis=0)[0]

    total = jnp.where(j == 0, 0, at(sums, jnp.maximum(j - 1, 0)))
    rest = jnp.where(j > last, 0, total / jnp.abs(at(exponents, jnp.minimum(j, last))))
    return j.astype(exponents.dtype) + rest


def entropy_rate(exponents: Float[ArrayLike, "K *batch"] | Sequence[float]) -> Float[Array, "*batch"]:
    """The sum of the positive exponents, in nats a step: an upper bound of the entropy rate, which it often equals.

    Args:
        exponents: in nats; at least all that are positive.

    >>> print(entropy_rate(jnp.array([0.5, 0.25, -1.0])))
    0.75

    Reference: Pesin. Characteristic Lyapunov exponents and smooth ergodic theory. 1977.
    """
    return jnp.sum(jnp.maximum(jnp.asarray(exponents), 0), axis=0)
