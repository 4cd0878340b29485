"""The gradient of one window, at the params of its moment: the program for an update after each window."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, ArrayLike, Bool, Float, Integer, PyTree

from rnn_jax.gradients.windows import Plan, Steps, plan_windows, require_scalar, value_and_aux, window_outputs
from rnn_jax.machinery.checks import require_sequence
from rnn_jax.machinery.compiling import compiled
from rnn_jax.types import Cell, Params, State

__all__ = ["streaming"]


def streaming(
    cell: Cell,
    params: Params,
    h: State,
    xs: PyTree,
    targets: PyTree,
    loss: Callable[[PyTree, PyTree], Any],
    *,
    mask: Bool[ArrayLike, "T ..."] | None = None,
    lengths: Integer[ArrayLike, "..."] | None = None,
    resets: Bool[ArrayLike, "T ..."] | None = None,
    has_aux: bool = False,
    schedule: str = "auto",
) -> tuple[Float[Array, ""], Any]:
    """The loss of one window, for an update after each window.

    Args:
        cell, params, mask, lengths, resets, schedule: as in ``cut``.
        h: the state where the window begins: h_0, or the state that the call for the window before returned.
        xs: k2 steps.
        targets: of the last k1 of them; k1 = k2 unless windows overlap.
        loss: ``(ys, targets) -> scalar``, a sum over time or a mean ``per_step``; if has_aux, ``-> (scalar, aux)``.
        has_aux: whether the loss returns any pytree beside its value, as in ``jax.value_and_grad``.

    Returns:
        ``(loss, h)``: the loss of the last k1 steps, and the state after k1 steps, with which the next window begins;
        ``(loss, (h, aux))`` if has_aux.

    Raises:
        ValueError: for more targets than steps (k1 above k2), no targets, or arguments that ``cut`` refuses.

    Example: of windows of 3 steps, each begins 2 steps after the one before.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru, rollout
    >>> from rnn_jax.gradients import streaming
    >>> cell = gru(input_size=1, hidden_size=4)
    >>> params, xs, targets = cell.init(jax.random.key(0)), jnp.ones((3, 1)), jnp.zeros((2, 4))
    >>> squares = lambda ys, targets: jnp.sum((ys - targets) ** 2)
    >>> value, h = streaming(cell, params, cell.start(params), xs, targets, squares)
    >>> _, hs = rollout(cell, params, cell.start(params), xs)
    >>> bool(jnp.allclose(value, jnp.sum(hs[1:] ** 2)) and jnp.allclose(h, hs[1]))
    True
    """
    k2 = require_sequence(xs)
    k1 = next((len(leaf) for leaf in jax.tree.leaves(targets)), k2)
    plan, steps = plan_windows(
        cell, params, h, xs, targets, loss, k2, k1, mask, lengths, resets, schedule, counted_steps=k1
    )
    value, begin, aux = _one_window(plan, params, h, steps, k1, has_aux)
    return value, (begin, aux) if has_aux else begin


@compiled("plan", "losses", "has_aux")
def _one_window(
    plan: Plan, params: Params, h: State, steps: Steps, losses: int, has_aux: bool
) -> tuple[Float[Array, ""], State, PyTree]:
    ys, ends = window_outputs(plan, params, h, steps, losses)
    value, aux = value_and_aux(plan.loss(ys, steps.targets), has_aux)
    return require_scalar(value), ends.begin, aux
