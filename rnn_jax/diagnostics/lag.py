"""The norm of the gradient at every lag, from one backward pass, in log space."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Integer, PyTree

from rnn_jax.diagnostics.scaled import Scaled, add, log_norm_of, map_in_bands, scaled
from rnn_jax.diagnostics.states import Layout, layout_of, recurrent_parts, require_steps
from rnn_jax.machinery.checks import require_numbers, require_sequence
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.sharding import laid_out, scan
from rnn_jax.schedules.driver import Loops, batch_shape, flag_arrays, rollout, step_flags
from rnn_jax.schedules.scan import RolloutTask, StepFlags, flagged_step, idle_inputs
from rnn_jax.sequences import require_lengths
from rnn_jax.types import Cell, Params, State

__all__ = ["LagGradients", "LagSummary", "lag_gradients", "summarise_lags"]


class LagGradients(NamedTuple):
    """ln‖∂L_T/∂state_{T−k}‖ in nats, for every lag k = 0 … T and every example; K = T + 1."""

    log_norm: Float[Array, "K *batch"]
    """Of all recurrent parts of the state together; −∞ where the gradient is exactly zero."""
    log_norm_of: PyTree
    """Of each part of the state alone, such as ``LSTMState(h, c)``; each ``(K, *batch)``."""
    recurrent: PyTree
    """Whether each part of the state counts in the total, at each lag the same; each ``(K, *batch)``."""


class LagSummary(NamedTuple):
    """Statistics of curves of gradient against lag."""

    slope: Float[Array, "*batch"]
    """Nats a step, by least squares over the lags with a gradient: negative if it vanishes, positive if it explodes."""
    half_life: Float[Array, "*batch"]
    """Number of steps in which the gradient halves, ln 2 / −slope; ∞ where it does not shrink."""
    quantiles: Float[Array, "Q K"]
    """Quantiles of ln‖∂L_T/∂state_{T−k}‖ over all examples, a row for each q."""


def lag_gradients(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    loss: Callable[[Any], Float[Array, "*batch"]],
    *,
    mask: Bool[ArrayLike, "T ..."] | None = None,
    lengths: Integer[ArrayLike, "..."] | None = None,
    resets: Bool[ArrayLike, "T ..."] | None = None,
) -> LagGradients:
    """The norm of ∂L_T/∂state_{T−k} for every lag k = 0 … T, for each example of a batch.

    The adjoint a_t = ∂L_T/∂state_t is computed in one backward pass, a_{t−1} = (∂state_t/∂state_{t−1})ᵀ a_t. Each of
    its numbers has its own exponent, so a gradient of e^−2000 is as exact in float32 as one of 1, even beside one of
    e^2000, and −∞ means exactly zero. Numbers of similar size are multiplied together: ordinary adjoints cost one
    product a step, others one for each factor of 2^32 between their sizes. Underflow inside a single step remains: a
    step that shrinks by more than 10^38, or the derivative of a gate that is 0 or 1 to all digits.

    The total is over the recurrent parts of the state, those on which later states depend. A part that only the output
    uses, such as the input that ``residual`` adds, has a curve of its own and no share in the total: a wrapped cell has
    the totals of the cell inside.

    Args:
        cell: any cell.
        params: its weights.
        h0: the state before the first step, with the batch axes of ``xs``.
        xs: ``(T, *batch, I)`` or ids ``(T, *batch)``.
        loss: ``(y_T) -> L_T (*batch,)``: a loss of the last output, one number for each example.
        mask, lengths, resets: as in ``rollout``. A masked step keeps the gradient: an example that ends early has the
            same norm at all lags of its padding. Before a reset the gradient is exactly zero.

    Returns:
        Norms in log space; the index k along the leading axis is the lag. They cannot be differentiated.

    Raises:
        ValueError: for a layer, a state that is not floating, xs or h0 that do not fit the cell, a loss that is not one
            number for each example, or flags that ``rollout`` refuses.

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
    require_steps(xs)
    T = require_sequence(xs)
    require_lengths(lengths, T)
    mask, lengths, resets = flag_arrays(mask=mask, lengths=lengths, resets=resets)
    return _lag_gradients(cell, params, h0, xs, loss, mask, lengths, resets, T)


@compiled("cell", "loss", "T")
def _lag_gradients(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    loss: Callable[[Any], Float[Array, "*batch"]],
    mask: Array | None,
    lengths: Array | None,
    resets: Array | None,
    T: int,
) -> LagGradients:
    """``lag_gradients`` of checked arguments."""
    layout, batch = layout_of(cell, params, h0), batch_shape(cell, params, h0)
    flags = step_flags(T, batch, mask, lengths, resets)
    with jax.default_matmul_precision("highest"):  # the fast modes of accelerators round more
        h_T, hs = rollout(cell, params, h0, xs, mask=flags.mask, resets=flags.resets)
        h0 = laid_out(h0, like=h_T)
        L_T, loss_pullback = jax.vjp(lambda h: loss(cell.output(params, h)), h_T)
        require_one_for_each(L_T, batch)
        last = scaled(layout.row(loss_pullback(jnp.ones_like(L_T))[0]))
        step, inputs = flagged_recurrence(cell, params, h0, xs, flags)
        recurrent = recurrent_of(cell, params, h0, xs)
        return norms_back(step, layout, recurrent, last, states_before(h0, hs), inputs)


def flagged_recurrence(
    cell: Cell, params: Params, h0: State, xs: PyTree, flags: StepFlags
) -> tuple[Callable[[State, PyTree], State], tuple[PyTree, StepFlags]]:
    """One step ``(h, (u, flags)) -> h`` with its mask and reset, and the u and the flags of every step."""
    us = projections(cell, params, xs)
    fresh = None if flags.resets is None else cell.start(params, batch_shape(cell, params, h0))
    projected = cell._replace(project=lambda _, u: u)
    task = RolloutTask(projected, params, h0, us, flags, fresh, idle_inputs(flags.mask, us), False, Loops())
    return flagged_step(task), (us, flags)


def norms_back(
    step: Callable[[State, PyTree], State],
    layout: Layout,
    recurrent: Sequence[bool],
    last: Scaled,
    before: State,
    inputs: PyTree,
    direct: Float[Array, "T *batch S"] | None = None,
) -> LagGradients:
    """The norm of the adjoint at every lag, from that of the last state.

    Args:
        step: ``(h, input) -> h``.
        layout: of the state.
        recurrent: whether each part of the state counts in the total.
        last: the adjoint of the last state.
        before, inputs: the state before each step, and its input.
        direct: rows of the gradients of losses with respect to the states ``before``, which are added on the way; None
            where only the last state has a loss.
    """

    def back(adjoint: Scaled, now: tuple[State, PyTree, Array | None]) -> tuple[Scaled, list[Array]]:
        h, x, added = now
        _, pullback = jax.vjp(lambda h: step(h, x), h)
        earlier = map_in_bands(lambda row: layout.row(pullback(layout.state(row))[0]), adjoint, layout.maxexp // 4)
        earlier = earlier if added is None else add(earlier, scaled(added))
        return earlier, log_norms(layout, earlier)

    _, norms = scan(back, last, (before, inputs, direct), reverse=True)
    parts = [
        jnp.concatenate([at_T[None], earlier[::-1]])
        for at_T, earlier in zip(log_norms(layout, last), norms, strict=True)
    ]
    flags = [jnp.full_like(part, counts, bool) for part, counts in zip(parts, recurrent, strict=True)]
    in_tree = partial(jax.tree.unflatten, layout.tree)
    return LagGradients(together(parts, recurrent), in_tree(parts), in_tree(flags))


def log_norms(layout: Layout, rows: Scaled) -> list[Float[Array, "*batch"]]:
    """ln of the norm of each part of a state."""
    return [log_norm_of(Scaled(*part)) for part in zip(*map(layout.split, rows), strict=True)]


def together(log_norms: Sequence[Array], recurrent: Sequence[Any]) -> Array:
    """ln of the norm of all recurrent parts, from that of each part; −∞ where none is recurrent."""
    counted = [jnp.where(counts, part, -jnp.inf) for part, counts in zip(log_norms, recurrent, strict=True)]
    return 0.5 * jax.nn.logsumexp(2 * jnp.stack(counted), axis=0)


def projections(cell: Cell, params: Params, xs: PyTree) -> PyTree:
    """The part of each step that depends on the input alone, of all steps at once."""
    return jax.vmap(cell.project, (None, 0))(params, xs)


def recurrent_of(cell: Cell, params: Params, h0: State, xs: PyTree) -> list[bool]:
    """Whether each part of a state is recurrent."""
    return recurrent_parts(cell, params, h0, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs))


def states_before(h0: State, hs: State) -> State:
    """The state before each step."""
    return jax.tree.map(lambda first, later: jnp.concatenate([first[None], later])[:-1], h0, hs)


def require_one_for_each(loss: Array, batch: tuple[int, ...]) -> None:
    """Raises a ValueError unless a loss is one number for each example."""
    if loss.shape != batch:
        raise ValueError(f"loss got shape {loss.shape}; want one number for each example: sum over features only")


def summarise_lags(log_norm: Float[Array, "K *batch"], q: tuple[float, ...] = (0.1, 0.5, 0.9)) -> LagSummary:
    """Slope, half-life and quantiles of gradient-against-lag curves.

    Args:
        log_norm: ``(K, *batch)`` nats, as in ``LagGradients``.
        q: the quantiles, each in [0, 1], at the nearest example; examples that are NaN are left out.

    Returns:
        The slope of each example, its half-life, and quantiles over all examples. Lags of −∞ are left out of the fit:
        c of an LSTM that is not part of the output has no gradient at lag 0, but has one later. A gradient of −∞ at the
        last lag has slope −∞ and half-life 0. Both are NaN where no lag has a gradient, where only one lag has one and
        the last is not −∞, and where the state has overflowed.

    Raises:
        ValueError: for a q outside [0, 1].
    """
    require_numbers("q", q, lambda level: 0 <= level <= 1, "quantiles in [0, 1]")
    slope = _slope(widened(log_norm))
    half_life = jnp.where(slope >= 0, jnp.inf, jnp.log(2.0).astype(slope.dtype) / -slope)
    levels = jnp.asarray(q, log_norm.dtype)
    rows = jnp.nanquantile(log_norm.reshape(len(log_norm), -1), levels, axis=1, method="nearest")
    return LagSummary(slope, half_life, rows)


def _slope(log_norm: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
    """Σ (k − k̄)(y_k − ȳ) / Σ (k − k̄)² over finite lags; −∞ if the gradient is zero at the last lag."""
    finite = jnp.isfinite(log_norm)
    count = jnp.sum(finite, axis=0, keepdims=True, dtype=log_norm.dtype)

    def centred(values: Array) -> Array:
        values = jnp.where(finite, values, 0)
        return jnp.where(finite, values - jnp.sum(values, axis=0, keepdims=True) / count, 0)

    k = centred(jnp.expand_dims(jnp.arange(len(log_norm), dtype=log_norm.dtype), range(1, log_norm.ndim)))
    fitted = jnp.sum(k * centred(log_norm), axis=0) / jnp.sum(k * k, axis=0)
    zero = jnp.isneginf(log_norm)
    unknown = jnp.any(~finite & ~zero, axis=0) | (count[0] == 0)
    return jnp.where(unknown, jnp.nan, jnp.where(zero[-1], -jnp.inf, fitted))
