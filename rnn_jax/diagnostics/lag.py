"""How far back does the gradient reach? Its norm at every lag, from one backward pass, in log space."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rnn_jax.checks import require_numbers
from rnn_jax.rollout import batch_shape, rollout
from rnn_jax.sharding import laid_out, scan
from rnn_jax.types import Cell, Params, State


class LagGradients(NamedTuple):
    """ln‖∂L_T/∂state_{T−k}‖ in nats, for every lag k = 0 … T and every example; K = T + 1."""

    log_norm: Float[Array, "K *batch"]
    """Of the full state; −∞ where the gradient is exactly zero."""
    log_norm_of: PyTree
    """Of each part of the state apart: ``LSTMState(h, c)``, each ``(K, *batch)``."""


class LagSummary(NamedTuple):
    """What is read off a gradient-against-lag curve."""

    slope: Float[Array, "*batch"]
    """Nats a step, by least squares over all lags: below 0 the gradient vanishes, above 0 it explodes."""
    half_life: Float[Array, "*batch"]
    """Steps in which the gradient halves, ln 2 / −slope; ∞ where it does not shrink."""
    quantiles: Float[Array, "Q K"]
    """Quantiles of ln‖∂L_T/∂state_{T−k}‖ over all examples, a row for each q."""


def lag_gradients(
    cell: Cell, params: Params, h0: State, xs: PyTree, loss: Callable[[Any], Float[Array, "*batch"]]
) -> LagGradients:
    """The norm of ∂L_T/∂state_{T−k} for every lag k = 0 … T, for each example of a batch.

    The adjoint a_t = ∂L_T/∂state_t of the full state runs back once, a_{t−1} = (∂state_t/∂state_{t−1})ᵀ a_t. It is
    divided by its largest entry at every step and the logarithms of these scales are summed, so a norm of e^−400 or
    e^+400 is as exact in float32 as one of 1. (A single step that shrinks by more than 10^38 still underflows.)

    Args:
        cell: any cell.
        params: its weights.
        h0: the state before the first step, with the batch axes of ``xs``.
        xs: ``(T, *batch, I)`` or ids ``(T, *batch)``.
        loss: ``(y_T) -> L_T (*batch,)``: a loss of the last output, for each example alone.

    Returns:
        Norms in log space; index k along the leading axis is the lag.

    Raises:
        ValueError: when xs or h0 do not fit the cell, or the loss is not one number for each example.

    Example: a linear network whose recurrent matrix is 0.5·Q halves the gradient at every step.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import initializers, lag_gradients, vanilla
    >>> cell = vanilla(2, 8, activation="linear", recurrent_init=initializers.orthogonal(0.5))
    >>> params = cell.init(jax.random.key(0))
    >>> lags = lag_gradients(cell, params, cell.start(params), jnp.ones((1000, 2)), loss=jnp.sum)
    >>> summary = summarise_lags(lags.log_norm)
    >>> print(f"{summary.slope:.4f} nats a step, half-life {summary.half_life:.3f} steps")
    -0.6931 nats a step, half-life 1.000 steps

    Reference: Hochreiter. Untersuchungen zu dynamischen neuronalen Netzen. 1991; Bengio, Simard, Frasconi. Learning
    long-term dependencies with gradient descent is difficult. 1994.
    """
    batch_ndim = len(batch_shape(cell, params, h0))

    with jax.default_matmul_precision("highest"):  # fast modes of accelerators would blur the norms
        h_T, hs = rollout(cell, params, h0, xs)
        h0 = laid_out(h0, like=h_T)
        L_T, loss_pullback = jax.vjp(lambda h: loss(cell.output(params, h)), h_T)
        if L_T.shape != jax.tree.leaves(h0)[0].shape[:batch_ndim]:
            raise ValueError(f"loss got shape {L_T.shape}; want one number for each example: sum over features only")
        last = _measure(loss_pullback(jnp.ones_like(L_T))[0], batch_ndim)

        def back(adjoint: State, h_and_x: tuple[State, PyTree]) -> tuple[State, tuple[Array, State]]:
            h, x = h_and_x
            _, pullback = jax.vjp(lambda h: cell.step(params, h, x), h)
            measured = _measure(pullback(adjoint)[0], batch_ndim)
            return measured[0], measured[1:]

        h_before = jax.tree.map(lambda first, later: jnp.concatenate([first[None], later])[:-1], h0, hs)
        _, before = scan(back, last[0], (h_before, xs), reverse=True)

    log_scales, log_parts = jax.tree.map(
        lambda at_T, earlier: jnp.concatenate([at_T[None], earlier[::-1]]), last[1:], before
    )
    log_norm_of = jax.tree.map(lambda part: jnp.cumsum(log_scales, axis=0) + part, log_parts)
    log_norm = 0.5 * jax.nn.logsumexp(2 * jnp.stack(jax.tree.leaves(log_norm_of)), axis=0)
    return LagGradients(log_norm, log_norm_of)


def _measure(adjoint: State, batch_ndim: int) -> tuple[State, Float[Array, "*batch"], State]:
    """Divides an adjoint by its largest entry: ``(a / s, ln s, ln‖each part of a / s‖)``, s = 1 for an adjoint of 0."""

    def top(a: Array) -> Float[Array, "*batch"]:
        return jnp.max(jnp.abs(_at_least_float32(a)), axis=tuple(range(batch_ndim, a.ndim)))

    def divided(a: Array, scale: Array) -> Array:
        return a / jnp.expand_dims(scale.astype(a.dtype), range(batch_ndim, a.ndim))

    def log_norm(a: Array) -> Float[Array, "*batch"]:  # by its own largest entry: a small part must not underflow
        scale = _or_one(top(a))
        unit = _at_least_float32(divided(a, scale))
        square = jnp.sum(jnp.square(jnp.abs(unit)), axis=tuple(range(batch_ndim, a.ndim)))
        return jnp.log(scale) + 0.5 * jnp.log(square)

    scale = _or_one(jnp.max(jnp.stack([top(a) for a in jax.tree.leaves(adjoint)]), axis=0))
    adjoint = jax.tree.map(lambda a: divided(a, scale), adjoint)
    return adjoint, jnp.log(scale), jax.tree.map(log_norm, adjoint)


def _or_one(scale: Array) -> Array:
    return jnp.where(scale == 0, 1, scale)


def _at_least_float32(a: Array) -> Array:
    return a if jnp.finfo(a.dtype).bits >= 32 else a.astype(jnp.float32)


def summarise_lags(log_norm: Float[Array, "K *batch"], q: tuple[float, ...] = (0.1, 0.5, 0.9)) -> LagSummary:
    """Slope, half-life and quantiles of gradient-against-lag curves.

    Args:
        log_norm: ``(K, *batch)`` nats, as in ``LagGradients``.
        q: the quantiles wanted, each in [0, 1], taken at the nearest example; examples that are NaN are left out.

    Returns:
        The slope of each example, its half-life, and quantiles over all examples. A gradient that dies on the way, to
        exactly zero, has slope −∞ and half-life 0; slope and half-life are NaN where there is no gradient to begin
        with, where the state has overflowed, and with fewer than two lags.
    """
    require_numbers("q", q, lambda level: 0 <= level <= 1, "quantiles in [0, 1]")
    slope = _slope(_at_least_float32(log_norm))
    half_life = jnp.where(slope >= 0, jnp.inf, jnp.log(2.0).astype(slope.dtype) / -slope)
    levels = jnp.asarray(q, log_norm.dtype)
    rows = jnp.nanquantile(log_norm.reshape(len(log_norm), -1), levels, axis=1, method="nearest")
    return LagSummary(slope, half_life, rows)


def _slope(log_norm: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
    """Σ (k − k̄)(y_k − ȳ) / Σ (k − k̄)²; −∞ for a gradient that dies, NaN where there is none or it is not a number."""
    K = len(log_norm)
    k = jnp.arange(K, dtype=log_norm.dtype) - (K - 1) / 2
    alive = jnp.isfinite(log_norm)
    y = jnp.where(alive, log_norm, 0)
    fitted = jnp.tensordot(k, y - jnp.mean(y, axis=0, keepdims=True), axes=1) / jnp.sum(k * k)
    dies = jnp.any(jnp.isneginf(log_norm), axis=0)
    unknown = jnp.any(~alive & ~jnp.isneginf(log_norm), axis=0) | ~jnp.all(alive[:1], axis=0)
    return jnp.where(unknown | (K < 2), jnp.nan, jnp.where(dies, -jnp.inf, fitted))
