"""Truncated back-propagation through time as an operator: four programs for the loss of a sequence.

A program returns the loss, the same as without truncation, and ``jax.grad`` of it is the truncated gradient: the losses
of every ``k1`` steps go back no further than to the beginning of the window of ``k2`` steps that ends with them.

=========  =================  =========================  ============================================
program    depth, in steps    memory                     gradient
=========  =================  =========================  ============================================
cut        2 T                every step's residuals     the definition; k1 = k2, which may be traced
chunked    2 (T + overlap)    one window's residuals     the same; also k1 < k2
parallel   T + 2 k2           every window's residuals   the same; also k1 < k2
streaming  2 k2 an update     one window's residuals     of one window, at the params of that moment
=========  =================  =========================  ============================================

The overlap is (T / k1)(k2 − k1), which is 0 for k1 = k2. The depth counts steps that must run one after another,
forward and back. Memory is that of a compiled gradient beside its arguments and results, which are O(T) themselves. A
window of at least T is full back-propagation; for k1 < k2, one of at least T rounded up to a multiple of k1. For all
four programs:

- the gradient is exactly zero past a border, and values do not change at a window's border;
- the state before the first step has no border, so a learned start keeps its gradient: call ``cell.start(params)``
  inside the function that is differentiated;
- masks and resets are those of ``rollout``; the loss itself decides what a masked step costs, and its targets may hold
  the mask: ``lambda ys, targets: cross_entropy(ys, *targets)``;
- the last state is returned without a gradient;
- the loss is a sum over time, so the loss of a sequence is the sum of the losses of its windows.

Reference: Williams, Peng. An efficient gradient-based algorithm for on-line training of recurrent network trajectories.
1990, where this is BPTT(h; h') with h = k2 and h' = k1; Sutskever. Training recurrent neural networks. 2013.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Integer, PyTree

from rnn_jax.gradients.windows import (
    Ends,
    Loss,
    Plan,
    Steps,
    Windows,
    combine,
    partition,
    plan_windows,
    require_floating,
    require_scalar,
    require_steps,
    window_loss,
    window_steps,
    with_constants_as_argument,
)
from rnn_jax.machinery.checks import require_sequence
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.precision import narrowed, widened
from rnn_jax.machinery.sharding import common_number, laid_out, scan, varying_axes, varying_over
from rnn_jax.schedules.driver import outputs, rollout, run_schedule
from rnn_jax.schedules.scan import where
from rnn_jax.sequences import require_lengths, window_cuts
from rnn_jax.types import Cell, Params, State

__all__ = ["chunked", "cut", "parallel"]


def cut(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    *,
    window: int | Int[Array, ""],
    mask: Bool[ArrayLike, "T ..."] | None = None,
    lengths: Integer[ArrayLike, "..."] | None = None,
    resets: Bool[ArrayLike, "T ..."] | None = None,
    schedule: str = "auto",
) -> tuple[Float[Array, ""], State]:
    """The loss of one rollout whose gradient is cut at the beginning of every window: it defines the other programs.

    Args:
        cell, params, h0, xs, mask, lengths, resets, schedule: as in ``rollout``.
        targets: any pytree of arrays with time leading, or ``()``.
        loss: ``(ys, targets) -> scalar``, a sum over time.
        window: number of steps from one border to the next, k1 = k2; may be traced.

    Returns:
        ``(loss, h_T)``: the loss of the whole sequence, whose gradient is the truncated one, and the last state.

    Raises:
        ValueError: for a window below 1, targets of another length, a loss that is not a scalar, or arguments that
            ``rollout`` refuses.

    Example: with x_t = w·x_{t−1}, w = 0.2 and x_0 = 0.9, dx_3/dw = 3 w² x_0 = 0.108. If the gradient goes one step
    back, x_2 is a constant: dx_3/dw = x_2 = w² x_0 = 0.036.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import cell_from_step
    >>> from rnn_jax.gradients import cut
    >>> power = cell_from_step(lambda key: 0.2, lambda w, batch_shape=(): jnp.full((*batch_shape, 1), 0.9),
    ...                        lambda w, x, u: w * x)
    >>> def x_3(w, window):
    ...     u, is_last = jnp.zeros((3, 1)), jnp.array([0.0, 0.0, 1.0])
    ...     return cut(power, w, power.start(w), u, is_last, lambda xs, of: xs[:, 0] @ of, window=window)[0]
    >>> [round(float(jax.grad(x_3)(0.2, window)), 3) for window in (3, 1)]
    [0.108, 0.036]
    """
    T = require_sequence(xs)
    require_lengths(lengths, T)
    return _cut(cell, params, h0, xs, targets, loss, mask, lengths, resets, window_cuts(T, window), schedule)


@compiled("cell", "loss", "schedule")
def _cut(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    mask: Any,
    lengths: Any,
    resets: Any,
    cuts: Array,
    schedule: str,
) -> tuple[Float[Array, ""], State]:
    require_steps(len(cuts), targets=targets)
    h_T, hs = rollout(cell, params, h0, xs, mask=mask, lengths=lengths, resets=resets, cuts=cuts, schedule=schedule)
    return require_scalar(loss(outputs(cell, params, hs), targets)), jax.lax.stop_gradient(h_T)


def chunked(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    *,
    window: int,
    k1: int | None = None,
    mask: Bool[ArrayLike, "T ..."] | None = None,
    lengths: Integer[ArrayLike, "..."] | None = None,
    resets: Bool[ArrayLike, "T ..."] | None = None,
    schedule: str = "auto",
) -> tuple[Float[Array, ""], State]:
    """The loss of ``cut``, with a gradient that is summed window by window: memory does not grow with T.

    Only reverse mode works on it. Arrays that ``cell`` and ``loss`` close over may be traced and differentiated.

    Args:
        cell, params, h0, xs, targets, loss, mask, lengths, resets, schedule: as in ``cut``.
        window: k2, number of steps that the gradient goes back from the end of a window.
        k1: number of steps from the beginning of one window to the next, at most ``window``; by default k1 = k2, as in
            ``cut``. Each window counts the losses of its last k1 steps; the last window may be shorter.

    Returns:
        ``(loss, h_T)``, as ``cut``.

    Raises:
        ValueError: for a size below 1, k1 above window, a loss ``per_step``, or arguments that ``cut`` refuses.

    Example: the gradient of every loss goes back at least 3 steps, and at most 4.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru
    >>> from rnn_jax.gradients import chunked
    >>> cell, xs = gru(input_size=1, hidden_size=2), jnp.ones((100, 1))
    >>> def squares(params):
    ...     h0 = cell.start(params)
    ...     return chunked(cell, params, h0, xs, (), lambda hs, _: jnp.sum(hs**2), window=4, k1=2)[0]
    >>> jax.grad(squares)(cell.init(jax.random.key(0))).W_hh.shape
    (2, 6)
    """
    plan, steps = plan_windows(cell, params, h0, xs, targets, loss, window, k1, mask, lengths, resets, schedule)
    if plan.windows.T == 0:
        return cut(cell, params, h0, xs, targets, loss, window=1)
    return _by_windows(plan, params, h0, steps)


@compiled("plan")
def _by_windows(plan: Plan, params: Params, h0: State, steps: Steps) -> tuple[Float[Array, ""], State]:
    # each device has a gradient of its own until JAX sums them, as the losses of each may have another weight
    floats, others = partition((params, h0, steps))
    params, h0, steps = combine(varying_over(floats, varying_axes((floats, others))), others)
    windows, programs, closed_over = plan.windows, {}, {}
    for losses in filter(None, {windows.k1, windows.T % windows.k1}):
        example = jax.eval_shape(lambda steps, losses=losses: window_steps(windows, steps, 0, losses), steps)
        programs[losses], closed_over[losses] = with_constants_as_argument(
            partial(window_loss, plan, losses=losses), params, h0, example
        )
    floats, others = partition((Weights(params, closed_over), h0, steps))
    result: Any = _chunked(windows, programs, floats, others)
    return result[0], jax.lax.stop_gradient(result[1])


class Weights(NamedTuple):
    """Arrays that all windows of a sequence share."""

    params: Params
    closed_over: dict[int, list[Any]]
    """Arrays that cell and loss close over, by the number of losses of a window."""


Programs = dict[int, Callable[..., tuple[Float[Array, ""], Ends]]]
"""``window_loss`` by the number of losses of a window, as ``(closed_over, params, h, steps) -> (value, ends)``."""


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked(windows: Windows, programs: Programs, floats: PyTree, others: PyTree) -> tuple[Float[Array, ""], State]:
    """The loss without its gradient, as a function of weights, first state and steps, partitioned into two trees."""
    weights, h0, steps = combine(floats, others)

    def on(ends: Ends, number: int | Array, losses: int) -> tuple[Ends, Float[Array, ""]]:
        inside = window_steps(windows, steps, number, losses)
        value, ends = programs[losses](weights.closed_over[losses], weights.params, ends.begin, inside)
        return ends, value

    ends, values = scan(partial(on, losses=windows.k1), Ends(h0, h0), jnp.arange(windows.T // windows.k1))
    total = values.sum()
    if rest := windows.T % windows.k1:
        ends, value = on(ends, windows.T // windows.k1, rest)
        total += value
    return total, ends.last


class Sums(NamedTuple):
    """The sums over windows that ``chunked`` keeps."""

    value: Float[Array, ""]
    """Of the losses, in at least 32 bits."""
    grads: tuple[PyTree, PyTree, PyTree]
    """Of the weights, of the first state, and of the steps; in at least 32 bits."""


def _chunked_forward(windows: Windows, programs: Programs, floats: PyTree, others: PyTree) -> tuple[Any, PyTree]:
    """The loss, and its gradient as the residual of reverse mode."""
    weights, h0, steps = combine(floats, others)

    def on(carry: tuple[Ends, Sums], number: int | Array, losses: int) -> tuple[tuple[Ends, Sums], None]:
        ends, sums = carry
        floats, others = partition((weights, ends.begin, window_steps(windows, steps, number, losses)))

        def of_window(floats: PyTree) -> tuple[Float[Array, ""], Ends]:
            weights, h, inside = combine(floats, others)
            return programs[losses](weights.closed_over[losses], weights.params, h, inside)

        (value, ends), grads = jax.value_and_grad(of_window, has_aux=True)(floats)
        return (ends, with_window(windows, sums, value, grads, number, losses)), None

    value = require_floating(jax.eval_shape(partial(_chunked, windows, programs), floats, others)[0])
    carry = Ends(h0, h0), Sums(widened(jnp.zeros((), value.dtype)), jax.tree.map(jnp.zeros_like, widened(floats)))
    carry, _ = scan(partial(on, losses=windows.k1), carry, jnp.arange(windows.T // windows.k1))
    if rest := windows.T % windows.k1:
        carry, _ = on(carry, windows.T // windows.k1, rest)
    ends, sums = carry
    return (sums.value.astype(value.dtype), ends.last), laid_out(narrowed(sums.grads, floats), like=floats)


def with_window(
    windows: Windows, sums: Sums, value: Array, grads: tuple[Any, ...], number: int | Array, losses: int
) -> Sums:
    """The sums with one window added: gradients of the weights, of h0 if no border separates it, and of the inputs."""
    of_weights, of_h0, of_steps = sums.grads
    to_weights, to_h, to_steps = widened(grads)
    uncut, t = jnp.asarray(windows.first_step(number) <= 0), windows.step_indices(number, losses)

    def add_at_its_steps(total: Array, g: Array) -> Array:
        return total.at[jnp.maximum(t[len(t) - len(g) :], 0)].add(g)

    return Sums(
        sums.value + widened(value),
        (
            jax.tree.map(jnp.add, of_weights, to_weights),
            jax.tree.map(lambda total, g: total + jnp.where(uncut, g, jnp.zeros_like(g)), of_h0, to_h),
            of_steps._replace(  # inputs that replace masked ones have no gradient
                xs=jax.tree.map(add_at_its_steps, of_steps.xs, to_steps.xs),
                targets=jax.tree.map(add_at_its_steps, of_steps.targets, to_steps.targets),
            ),
        ),
    )


def _chunked_backward(
    windows: Windows, programs: Programs, grads: PyTree, to_results: tuple[Array, State]
) -> tuple[Any, ...]:
    """The gradient, times the cotangent of the loss."""
    to_loss, _ = to_results
    return jax.tree.map(lambda g: g * common_number(to_loss, like=g).astype(g.dtype), grads), None


_chunked.defvjp(_chunked_forward, _chunked_backward)


def parallel(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    *,
    window: int,
    k1: int | None = None,
    mask: Bool[ArrayLike, "T ..."] | None = None,
    lengths: Integer[ArrayLike, "..."] | None = None,
    resets: Bool[ArrayLike, "T ..."] | None = None,
    schedule: str = "auto",
) -> tuple[Float[Array, ""], State]:
    """The loss of ``cut``, whose gradient runs through all windows at once, after a rollout without gradient.

    Args:
        cell, params, h0, xs, targets, loss, window, k1, mask, lengths, resets, schedule: as in ``chunked``.

    Returns:
        ``(loss, h_T)``, as ``cut``.

    Raises:
        ValueError: as in ``chunked``.
    """
    plan, steps = plan_windows(cell, params, h0, xs, targets, loss, window, k1, mask, lengths, resets, schedule)
    if plan.windows.T == 0:
        return cut(cell, params, h0, xs, targets, loss, window=1)
    return _in_parallel(plan, params, h0, steps)


@compiled("plan")
def _in_parallel(plan: Plan, params: Params, h0: State, steps: Steps) -> tuple[Float[Array, ""], State]:
    windows = plan.windows
    constant_params, constant_steps = jax.lax.stop_gradient((params, steps))

    def on(h: State, number: Array) -> tuple[State, State]:
        all_steps = window_steps(windows, constant_steps, number, windows.k1)
        xs, flags = jax.tree.map(lambda a: a[: windows.k1], (all_steps.xs, all_steps.flags))
        return run_schedule(plan.cell, constant_params, h, xs, flags, all_steps.idle, loops=plan.loops)[0], h

    numbers = jnp.arange(windows.T // windows.k1)
    begin, begins = scan(on, jax.lax.stop_gradient(h0), numbers)
    uncut = jnp.asarray(windows.first_step(numbers) <= 0)
    begins = where(uncut, jax.tree.map(lambda h: jnp.broadcast_to(h, (len(numbers), *h.shape)), h0), begins)

    def loss_of(h: State, number: int | Array, losses: int) -> tuple[Float[Array, ""], Ends]:
        return window_loss(plan, params, h, window_steps(windows, steps, number, losses), losses)

    values, ends = jax.vmap(partial(loss_of, losses=windows.k1))(begins, numbers)
    total, last = values.sum(), jax.tree.map(lambda h: h[-1], ends.last)
    if rest := windows.T % windows.k1:
        number = windows.T // windows.k1
        begin = h0 if windows.first_step(number) <= 0 else begin
        value, (_, last) = loss_of(begin, number, rest)
        total += value
    return total, last
