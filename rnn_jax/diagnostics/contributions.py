"""The gradient of the params by lag: how much of it flows through exactly k steps, and what truncation leaves out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rnn_jax.diagnostics.frames import FiniteSteps, is_finite, require_finite_steps
from rnn_jax.diagnostics.lag import states_before
from rnn_jax.diagnostics.scaled import Scaled, add, cosine_of, log_norm_of, map_in_bands, scaled, zeros
from rnn_jax.diagnostics.states import layout_of, params_row, require_some_steps, require_steps, require_targets
from rnn_jax.machinery.checks import require_positive
from rnn_jax.machinery.compiling import compiled
from rnn_jax.schedules.driver import outputs, require_fit, rollout
from rnn_jax.types import Cell, Params, State

__all__ = ["LagContributions", "lag_contributions"]


class LagContributions(NamedTuple):
    """The gradient of the params, g = Σ_k g⁽ᵏ⁾, by the number of steps k through which it flows."""

    log_norm: Float[Array, " K"]
    """ln‖g⁽ᵏ⁾‖ for k = 0 … K − 1; −∞ where it is exactly zero."""
    bias: Float[Array, " K"]
    """‖g_n − g‖/‖g‖ for the truncated gradient g_n = Σ_{k<n} g⁽ᵏ⁾ of a window of n = 1 … K steps; where g is exactly
    zero, NaN if g_n is zero too, and ∞ otherwise."""
    cosine: Float[Array, " K"]
    """The cosine of the angle between g_n and g, for n = 1 … K; NaN where one of them is exactly zero."""
    share: Float[Array, " K"]
    """‖g_n‖/‖g‖ for n = 1 … K, the exponential of a difference of logarithms; NaN or ∞ where the bias is."""


class Lagged(NamedTuple):
    """What is carried from lag to lag."""

    adjoint: Scaled
    """Of the losses k steps later, with respect to every state."""
    to_output: Scaled
    """The gradient of what only the output reads, which is added at lag 0."""
    so_far: Scaled
    """g_n, the gradient through fewer steps."""


def lag_contributions(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Callable[[PyTree, PyTree], Float[Array, ""]],
    *,
    lags: int | None = None,
) -> LagContributions:
    """Norms of the parts of a gradient that flow through exactly k steps, and the bias of every truncated gradient.

    g⁽ᵏ⁾ adds up, over the losses L_t of all steps, what reaches the params at step t − k through the k steps between.
    A window of n steps, from which each loss goes back, keeps the first n parts: it is the gradient of
    ``rnn_jax.gradients.chunked`` with ``window=n, k1=1``. All windows are computed in one pass, which costs about as
    much as K gradients; g itself is one more. The gradient of what only the output reads, such as W_hy, is part of
    g⁽⁰⁾.

    Args:
        cell: any cell.
        params: its weights. A complex number counts as two real ones, and integers are constants.
        h0: the state before the first step, with the batch axes of ``xs``.
        xs: ``(T, *batch, I)`` or ids ``(T, *batch)``.
        targets: of each step, any pytree with time leading.
        loss: ``(ys, targets) -> scalar``, of the outputs of all steps; a sum or mean over time and batch.
        lags: K, at most T; by default all T.

    Returns:
        Norms, bias, cosine and share for each lag. Each number of an adjoint and of a gradient has its own exponent, as
        in ``lag_gradients``, so nothing under- or overflows. They cannot be differentiated.

    Raises:
        ValueError: for a layer, a state that is not floating, arguments that do not fit, lags below 1 or above T, or a
            state that is not finite (the step is named, unless this is traced).

    Example: h_t = ½ h_{t−1} + x_t at a constant input: each step back halves the gradient.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import vanilla
    >>> cell = vanilla(1, 1, activation="linear")
    >>> params = cell.init(jax.random.key(0))._replace(W_hh=jnp.full((1, 1), 0.5))
    >>> last = lambda ys, _: ys[-1, 0]
    >>> found = lag_contributions(cell, params, cell.start(params), jnp.ones((50, 1)), (), last, lags=5)
    >>> print(found.bias.round(4))
    [0.5    0.25   0.125  0.0625 0.0312]

    Reference: of the parts: Bengio, Simard, Frasconi. Learning long-term dependencies with gradient descent is
    difficult. 1994; of the bias: Aicher, Foti, Fox. Adaptively truncating backpropagation through time to control
    gradient bias. 2020.
    """
    require_steps(xs)
    layout_of(cell, params, h0)
    T = require_some_steps(xs)
    lags = T if lags is None else lags
    require_positive(lags=lags)
    if lags > T:
        raise ValueError(f"lags got {lags}; want at most {T}, the steps of xs")
    require_targets(targets, T)
    require_fit(cell, params, h0, xs)
    value = jax.eval_shape(lambda xs: loss(outputs(cell, params, rollout(cell, params, h0, xs)[1]), targets), xs)
    if value.shape:
        raise ValueError(f"loss got shape {value.shape}; want a scalar, the sum over time and batch")
    found, finite = _contributions(cell, params, h0, xs, targets, loss, int(lags))
    require_finite_steps(finite)
    return found


@compiled("cell", "loss", "lags")
def _contributions(
    cell: Cell, params: Params, h0: State, xs: PyTree, targets: PyTree, loss: Any, lags: int
) -> tuple[LagContributions, FiniteSteps]:
    """``lag_contributions`` of checked arguments, and what is finite at each step."""
    layout, (theta, params_of) = layout_of(cell, params, h0), params_row(params)
    dtype = jnp.promote_types(theta.dtype, layout.dtype)
    theta, width = theta.astype(dtype), layout.maxexp // 2  # numbers of very different sizes are rare here

    def of_outputs(theta: Float[Array, " P"], rows: Float[Array, "T *batch S"]) -> Float[Array, ""]:
        return loss(outputs(cell, params_of(theta), layout.state(rows)), targets)

    def step(theta: Float[Array, " P"], row: Float[Array, "*batch S"], x: PyTree) -> Float[Array, "*batch S"]:
        return layout.row(cell.step(params_of(theta), layout.state(row), x)).astype(dtype)

    def pullback_of(rows: Float[Array, "N *batch S"], xs: PyTree) -> Callable[[Scaled], tuple[Scaled, Scaled]]:
        """``adjoints after N steps -> (gradient of the params, adjoints before these steps)``, in flat rows."""
        _, pullback = jax.vjp(lambda theta, rows: jax.vmap(step, (None, 0, 0))(theta, rows, xs), theta, rows)

        def linear(adjoint: Float[Array, " S"]) -> Float[Array, " R"]:
            return jnp.concatenate([jnp.ravel(a) for a in pullback(adjoint.reshape(rows.shape))])

        return lambda adjoint: split_at(theta.size, map_in_bands(linear, adjoint, width, top=0))  # states may be large

    def one_step_back(carry: tuple[Scaled, Scaled], now: tuple[Array, PyTree, Scaled]) -> tuple[Any, None]:
        (adjoint, g), (row, x, direct) = carry, now
        part, adjoint = pullback_of(row[None], jax.tree.map(lambda a: a[None], x))(add(adjoint, direct))
        return (adjoint, add(g, part)), None

    with jax.default_matmul_precision("highest"):
        _, hs = rollout(cell, params, h0, xs)
        before = layout.row(states_before(h0, hs)).astype(dtype)
        to_output, direct = map(scaled, jax.grad(of_outputs, argnums=(0, 1))(theta, layout.row(hs).astype(dtype)))
        by_step = jax.tree.map(lambda a: a.reshape(len(a), -1), direct)
        nothing = zeros(by_step.mantissa.shape[1:], dtype)
        (_, g), _ = jax.lax.scan(one_step_back, (nothing, to_output), (before, xs, by_step), reverse=True)
        pullback = pullback_of(before, xs)

        def one_lag_more(lagged: Lagged, none: None) -> tuple[Lagged, LagContributions]:
            part, earlier = pullback(lagged.adjoint)
            part = add(part, lagged.to_output)
            so_far = add(lagged.so_far, part)
            moved = split_at(nothing.mantissa.size, earlier)[1]
            moved = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), moved, nothing)
            return Lagged(moved, zeros(theta.shape, dtype), so_far), compared(so_far, g, part)

        start = Lagged(jax.tree.map(jnp.ravel, direct), to_output, zeros(theta.shape, dtype))
        finite = FiniteSteps(jax.vmap(is_finite)(hs), jnp.ones(len(before), bool))
        return jax.lax.scan(one_lag_more, start, length=lags)[1], finite


def split_at(place: int, numbers: Scaled) -> tuple[Scaled, Scaled]:
    """The numbers of a row before a place, and the others."""
    return jax.tree.map(lambda a: a[:place], numbers), jax.tree.map(lambda a: a[place:], numbers)


def compared(truncated: Scaled, g: Scaled, part: Scaled) -> LagContributions:
    """A truncated gradient compared with the whole one, beside its latest part."""
    rest = add(truncated, g._replace(mantissa=-g.mantissa))
    size, left_out, whole = map(log_norm_of, (truncated, rest, g))
    return LagContributions(
        log_norm_of(part), jnp.exp(left_out - whole), cosine_of(truncated, g), jnp.exp(size - whole)
    )
