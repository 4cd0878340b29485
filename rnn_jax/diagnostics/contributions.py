"""The gradient of the params by lag: how much of it flows through exactly k steps, and what truncation leaves out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from rnn_jax.diagnostics.frames import is_finite_state, require_finite_steps
from rnn_jax.diagnostics.lag import states_before
from rnn_jax.diagnostics.scaled import log_norm_of, scaled
from rnn_jax.diagnostics.states import layout_of, require_steps
from rnn_jax.machinery.checks import require_positive, require_sequence
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.precision import narrowed, widened
from rnn_jax.schedules.driver import outputs, require_fit, rollout
from rnn_jax.types import Cell, Params, State

__all__ = ["LagContributions", "lag_contributions"]


class LagContributions(NamedTuple):
    """The gradient of the params, g = Σ_k g⁽ᵏ⁾, by the number of steps k through which it flows."""

    log_norm: Float[Array, " K"]
    """ln‖g⁽ᵏ⁾‖ for k = 0 … K − 1; −∞ where it is exactly zero."""
    bias: Float[Array, " K"]
    """‖g_n − g‖/‖g‖ for the truncated gradient g_n = Σ_{k<n} g⁽ᵏ⁾ of a window of n = 1 … K steps."""
    cosine: Float[Array, " K"]
    """The cosine of the angle between g_n and g, for n = 1 … K."""
    share: Float[Array, " K"]
    """‖g_n‖/‖g‖ for n = 1 … K."""


class Lagged(NamedTuple):
    """The adjoint of every state of a loss k steps later, times e^−log_scale."""

    adjoint: State
    log_scale: Float[Array, ""]
    so_far: Params
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
    much as K gradients. The gradient of what only the output reads, such as W_hy, is part of g⁽⁰⁾.

    Args:
        cell, params: any cell and its weights.
        h0: the state before the first step, with the batch axes of ``xs``.
        xs: ``(T, *batch, I)`` or ids ``(T, *batch)``.
        targets: of each step, any pytree with time leading.
        loss: ``(ys, targets) -> scalar``, of the outputs of all steps; a sum or mean over time and batch.
        lags: K, at most T; by default all T.

    Returns:
        Norms, bias, cosine and share for each lag. Each adjoint has its own scale, so norms do not underflow.

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
    T = require_sequence(xs)
    lags = T if lags is None else lags
    require_positive(lags=lags)
    if lags > T:
        raise ValueError(f"lags got {lags}; want at most {T}, the steps of xs")
    for leaf in jax.tree.leaves(targets):
        if jnp.shape(leaf)[:1] != (T,):
            raise ValueError(f"targets got shape {jnp.shape(leaf)}; want {T} steps leading, one for each of xs")
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
) -> tuple[LagContributions, Bool[Array, " T"]]:
    """``lag_contributions`` of checked arguments, and whether the state after each step is finite."""
    like, wide = params, widened(params)
    _, hs = rollout(cell, params, h0, xs)
    before = states_before(h0, hs)

    def of_outputs(wide: Params, hs: State) -> Float[Array, ""]:
        return loss(outputs(cell, narrowed(wide, like), hs), targets)

    def whole(wide: Params) -> Float[Array, ""]:
        params = narrowed(wide, like)
        return of_outputs(wide, rollout(cell, params, h0, xs)[1])

    def steps(wide: Params, before: State) -> State:
        return jax.vmap(cell.step, (None, 0, 0))(narrowed(wide, like), before, xs)

    with jax.default_matmul_precision("highest"):
        to_output, direct = jax.grad(of_outputs, argnums=(0, 1))(wide, hs)
        first = largest_of(direct)  # all that follows is relative to it
        to_output, direct, g = jax.tree.map(
            lambda a: a / first.astype(a.dtype), (to_output, direct, jax.grad(whole)(wide))
        )
        _, pullback = jax.vjp(steps, wide, before)

        def on(lagged: Lagged, is_first: Array) -> tuple[Lagged, LagContributions]:
            to_params, earlier = pullback(lagged.adjoint)
            part = jax.tree.map(lambda a, b: a + jnp.where(is_first, b, 0), to_params, to_output)
            scale = jnp.exp(lagged.log_scale)
            so_far = jax.tree.map(lambda total, a: total + scale.astype(a.dtype) * a, lagged.so_far, part)
            after = one_step_back(earlier, lagged.log_scale)
            return Lagged(*after, so_far), compared(so_far, g, log_norm(part) + lagged.log_scale + jnp.log(first))

        start = Lagged(direct, jnp.zeros_like(first), jax.tree.map(jnp.zeros_like, wide))
        return jax.lax.scan(on, start, jnp.arange(lags) == 0)[1], jax.vmap(is_finite_state)(hs)


def one_step_back(adjoint: State, log_scale: Float[Array, ""]) -> tuple[State, Float[Array, ""]]:
    """Adjoints of the states before each step, in the places of the states after them, at the scale of the largest."""
    moved = jax.tree.map(lambda a: jnp.concatenate([a[1:], jnp.zeros_like(a[:1])]), adjoint)
    scale = largest_of(moved)
    return jax.tree.map(lambda a: a / scale.astype(a.dtype), moved), log_scale + jnp.log(scale)


def compared(truncated: Params, g: Params, log_norm_of_part: Float[Array, ""]) -> LagContributions:
    """A truncated gradient compared with the whole one."""
    size, whole = log_norm(truncated), log_norm(g)
    bias = jnp.exp(log_norm(jax.tree.map(jnp.subtract, truncated, g)) - whole)
    one, other = (
        jax.tree.map(lambda a, tree=tree: a / largest_of(tree).astype(a.dtype), tree) for tree in (truncated, g)
    )
    product = sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    cosine = product / jnp.exp(log_norm(one) + log_norm(other))
    return LagContributions(log_norm_of_part, bias, cosine, jnp.exp(size - whole))


def largest_of(tree: PyTree) -> Float[Array, ""]:
    """The largest absolute value of all numbers, in at least 32 bits; 1 where all are 0."""
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(a), initial=0) for a in jax.tree.leaves(widened(tree))]))
    return jnp.where(largest > 0, largest, 1)


def log_norm(tree: PyTree) -> Float[Array, ""]:
    """ln of the norm over all numbers; −∞ where all are 0."""
    return log_norm_of(scaled(jnp.concatenate([jnp.ravel(a) for a in jax.tree.leaves(tree)])))
