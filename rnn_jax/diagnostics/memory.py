"""Effective memory: how many steps back a state holds its input, and how many a prediction needs."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from rnn_jax.diagnostics.states import require_steps, require_targets
from rnn_jax.machinery.checks import is_whole, one_axis, require_number, require_positive, require_sequence
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.precision import widened
from rnn_jax.schedules.driver import describe_shapes, outputs, rollout
from rnn_jax.types import Cell, Params, State

__all__ = ["loss_by_context", "memory_capacity", "recall_scores"]


def recall_scores(
    hs: State, xs: Float[Array, "T *batch I"], delays: Sequence[int], *, ridge: float = 1e-6
) -> Float[Array, "K I"]:
    """R²(k) of the best linear readout of the input k steps ago, x_{t−k}, from the state h_t.

    The readout is fitted by ridge regression to the first half of the steps, over all examples. R² is 1 minus its mean
    squared error on the second half, divided by the variance there. Steps before the longest delay are left out, so
    that all delays are scored at the same steps. The input should be white noise: of correlated inputs, a readout also
    recalls what it can predict from later ones.

    Args:
        hs: states, or outputs, ``(T, *batch, H)``; an array or a pytree of them, such as ``LSTMState(h, c)``.
        xs: the inputs ``(T, *batch, I)``, floating.
        delays: k, each in [0, T).
        ridge: penalty of the squared weights, relative to the variance of a state; positive.

    Returns:
        A score in [0, 1] for each delay and each feature of the input: 0 where the readout is no better than the mean,
        NaN for an input that is constant.

    Raises:
        ValueError: for ids, hs of another length or batch than xs, a delay outside [0, T), a ridge that is not
            positive, or fewer examples in a half than numbers of the state (a complex number is two).

    Example: h_t = ½ h_{t−1} + x_t has the variance 4/3, of which x_{t−k} makes up ¼^k: R²(k) = ¾ ¼^k.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import cell_from_step, rollout
    >>> leaky = cell_from_step(lambda key: 0.5, lambda a, batch_shape=(): jnp.zeros((*batch_shape, 1)),
    ...                        lambda a, h, x: a * h + x)
    >>> xs = jax.random.normal(jax.random.key(0), (20_000, 1))
    >>> print(recall_scores(rollout(leaky, 0.5, jnp.zeros(1), xs)[1], xs, range(3))[:, 0].round(2))
    [0.75 0.19 0.05]

    Reference: Jaeger. Short term memory in echo state networks. 2001.
    """
    require_number("ridge", ridge, lambda r: 0 < r < math.inf, "a positive penalty, for example 1e-6")
    T = require_sequence(xs)
    if not isinstance(xs, jax.Array | np.ndarray) or not jnp.issubdtype(xs.dtype, jnp.floating) or xs.ndim < 2:
        raise ValueError(
            f"xs got {describe_shapes(xs)}; want floating inputs in one array, (T, *batch, I): ids as one-hot vectors"
        )
    delays = _whole_steps("delays", delays, 0, T - 1)
    batch = xs.shape[1:-1]
    for leaf in jax.tree.leaves(hs):
        if leaf.shape[: xs.ndim - 1] != xs.shape[:-1]:
            raise ValueError(f"hs got shape {leaf.shape}; want {xs.shape[:-1]} leading, the steps and examples of xs")
    sizes = [math.prod(leaf.shape[xs.ndim - 1 :]) * (1 + jnp.iscomplexobj(leaf)) for leaf in jax.tree.leaves(hs)]
    size = sum(sizes)
    examples = (T - max(delays)) // 2 * math.prod(batch)
    if examples <= size:
        raise ValueError(f"xs got {examples} examples for a fit; want more than {size}, the numbers of the state")
    return _scores(hs, xs, delays, float(ridge))


@compiled("delays", "ridge")
def _scores(hs: State, xs: Float[Array, "T *batch I"], delays: tuple[int, ...], ridge: float) -> Float[Array, "K I"]:
    xs, T, I = widened(xs), len(xs), xs.shape[-1]
    steps = np.arange(max(delays), T)
    half = len(steps) // 2
    parts = [leaf[steps].reshape(len(steps), math.prod(xs.shape[1:-1]), -1) for leaf in jax.tree.leaves(hs)]
    parts = [part for leaf in parts for part in ([leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf])]
    states = jnp.concatenate([widened(part).astype(xs.dtype) for part in parts], axis=-1)
    past = xs.reshape(T, -1, I)[steps[:, None] - np.asarray(delays)]  # (steps, K, B, I)
    wanted = jnp.moveaxis(past, 1, 2).reshape(*states.shape[:2], -1)
    h, y = (jnp.reshape(a[:half], (-1, a.shape[-1])) for a in (states, wanted))
    h_mean, y_mean = (jnp.mean(a, axis=0) for a in (h, y))
    scale = jnp.std(h, axis=0)
    scale = jnp.where(scale > 0, scale, 1)

    def whitened(a: Float[Array, "N S"]) -> Float[Array, "N S"]:
        return (a - h_mean[None]) / scale[None]

    with jax.default_matmul_precision("highest"):
        h = whitened(h)
        variance, axes = jnp.linalg.eigh(h.T @ h / len(h))  # rounding may make the smallest ones negative
        W = axes @ ((axes.T @ (h.T @ (y - y_mean[None]) / len(h))) / (jnp.maximum(variance, 0) + ridge)[:, None])
        h, y = (jnp.reshape(a[half:], (-1, a.shape[-1])) for a in (states, wanted))
        error = jnp.mean(jnp.square(y - y_mean[None] - whitened(h) @ W), axis=0)
    variance = jnp.var(y, axis=0)
    is_constant = variance <= jnp.square(16 * jnp.finfo(y.dtype).eps * jnp.mean(y, axis=0))
    return jnp.where(is_constant, jnp.nan, jnp.maximum(1 - error / variance, 0)).reshape(len(delays), I)


def memory_capacity(scores: Float[Array, "K I"]) -> Float[Array, ""]:
    """The memory capacity Σ_k R²(k), over the delays and features of ``recall_scores``.

    It counts how many past inputs a state holds. With independent inputs it is at most the number of the state's
    numbers, and a linear network reaches that; scores of delays that are left out are missing.

    Reference: Jaeger. Short term memory in echo state networks. 2001.
    """
    return jnp.sum(scores)


def loss_by_context(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Callable[[Any, PyTree], Float[Array, ""]],
    *,
    contexts: Sequence[int],
    stride: int | None = None,
) -> Float[Array, " N"]:
    """The loss of a step whose state has read exactly n inputs since ``h0``, for each n in ``contexts``.

    The sequence is cut into windows of max(contexts) steps. Each of them is read from ``h0``, so its step n has read n
    inputs, this step's input among them; the loss of this step is averaged over all windows. Where the curve stops
    falling, more context does not help the network.

    Args:
        cell, params: any cell and its weights.
        h0: the state before each window, ``cell.start(params, batch_shape)``.
        xs: ``(T, *batch, I)`` or ids ``(T, *batch)``.
        targets: any pytree of arrays ``(T, *batch, …)``, or ``()``.
        loss: ``(ys, targets) -> scalar`` of outputs with time leading: a sum over time, a mean over the batch, such as
            ``cross_entropy``. It is computed for each step alone; the windows are one more axis of the batch.
        contexts: n, each in [1, T].
        stride: steps from the beginning of one window to the next; by default the length of a window. A smaller one
            costs more and has a smaller error, as it averages more windows.

    Returns:
        The mean loss at each n, in the order of ``contexts``.

    Raises:
        ValueError: for a context outside [1, T], a stride below 1, targets of another length than xs, a loss that is no
            scalar, or arguments that ``rollout`` refuses.

    Example: a prediction by the input before the last needs two inputs.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import cell_from_step
    >>> from rnn_jax.losses import squared_error
    >>> two = cell_from_step(lambda key: (), lambda _, batch_shape=(): jnp.zeros((*batch_shape, 2)),
    ...                      lambda _, h, x: jnp.concatenate([x, h[..., :1]], axis=-1), lambda _, h: h[..., 1:])
    >>> xs, targets = jnp.ones((9, 1)), jnp.ones((9, 1))
    >>> print(loss_by_context(two, (), two.start(()), xs, targets, squared_error, contexts=(1, 2, 3)))
    [1. 0. 0.]

    Reference: Khandelwal, He, Qi, Jurafsky. Sharp nearby, fuzzy far away: how neural language models use context. 2018.
    """
    require_steps(xs)
    T = require_sequence(xs)
    contexts = _whole_steps("contexts", contexts, 1, T)
    stride = max(contexts) if stride is None else stride
    require_positive(stride=stride)
    require_targets(targets, T)
    return _by_context(cell, params, h0, xs, targets, loss, contexts, int(stride))


@compiled("cell", "loss", "contexts", "stride")
def _by_context(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Callable[[Any, PyTree], Float[Array, ""]],
    contexts: tuple[int, ...],
    stride: int,
) -> Float[Array, " N"]:
    length, T = max(contexts), require_sequence(xs)
    windows = np.arange(length)[:, None] + np.arange(0, T - length + 1, stride)  # (steps, windows)
    read = np.asarray(contexts) - 1

    def states(xs: PyTree) -> State:
        return jax.tree.map(lambda h: h[read], rollout(cell, params, h0, xs)[1])

    def of_step(y: Any, target: PyTree) -> Float[Array, ""]:
        value = loss(*jax.tree.map(lambda a: a[None], (y, target)))
        if jnp.shape(value):
            raise ValueError(f"loss got shape {jnp.shape(value)}; want a scalar, the sum over time and mean over batch")
        return value

    hs = jax.vmap(states, in_axes=1, out_axes=1)(jax.tree.map(lambda x: x[windows], xs))
    return jax.vmap(of_step)(outputs(cell, params, hs), jax.tree.map(lambda a: a[windows[read]], targets))


def _whole_steps(name: str, values: Sequence[int], first: int, last: int) -> tuple[int, ...]:
    """Whole numbers as a tuple; a ValueError unless there are some, all in [first, last]."""
    numbers: list[Any] = one_axis(name, values).tolist()
    for n in numbers or ["none"]:
        if not is_whole(n) or not first <= n <= last:
            raise ValueError(f"{name} got {n}; want whole numbers of steps in [{first}, {last}]")
    return tuple(numbers)
