"""The loss of whole sequences, in the memory of one window."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Integer, PyTree

from rnn_jax.gradients import chunked
from rnn_jax.losses import PerStep, counted_steps
from rnn_jax.machinery.checks import require_sequence
from rnn_jax.sequences import length_mask
from rnn_jax.types import Cell, Params, require_cell

__all__ = ["evaluate"]


def evaluate(
    cell: Cell,
    params: Params,
    xs: PyTree,
    targets: PyTree,
    loss: Callable[..., Float[Array, ""]],
    *,
    mask: Bool[ArrayLike, "T ..."] | None = None,
    lengths: Integer[ArrayLike, " B"] | None = None,
    window: int = 1024,
) -> Float[Array, ""]:
    """The loss of one rollout from the start state, in the memory of one window.

    Args:
        cell, params: a cell that draws uses the mean instead.
        xs, targets: time and one batch axis leading; a single sequence is a batch of 1.
        loss: a sum over time, ``(ys, targets) -> scalar``, or ``per_step`` of one, which is divided once, by the steps
            of all windows. With a mask or lengths it is called as ``loss(ys, targets, mask)``.
        mask, lengths: as in ``rollout``.
        window: number of steps whose states are kept in memory at once.

    Raises:
        ValueError: for xs without a batch axis, or arguments that ``chunked`` refuses.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru, readout
    >>> from rnn_jax.losses import cross_entropy, per_step
    >>> from rnn_jax.training import evaluate
    >>> model = readout(gru(input_size=4, hidden_size=3), output_size=4)
    >>> params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    >>> ids = jnp.zeros((10, 2), int)
    >>> print(evaluate(model, params, ids, ids, per_step(cross_entropy), lengths=jnp.array([10, 4])).round(4))
    1.3863
    """
    require_cell("cell", cell)
    T, first = require_sequence(xs), jax.tree.leaves(xs)[0]
    if first.ndim < 2:
        raise ValueError(f"xs got shape {first.shape}; want (T, B, …): a single sequence is a batch of 1, xs[:, None]")
    B = first.shape[1]
    total = loss.loss if isinstance(loss, PerStep) else loss
    counted = mask if lengths is None else length_mask(lengths, T)
    if counted is not None:
        counted = jnp.asarray(counted)
        counted = jnp.broadcast_to(counted[:, None] if counted.ndim == 1 else counted, (T, B))
        targets, total = (targets, counted), partial(masked_loss, total)
    flags: dict[str, Any] = {"mask": mask, "lengths": lengths}
    value = jnp.asarray(chunked(cell, params, cell.start(params, (B,)), xs, targets, total, **flags, window=window)[0])
    return value / counted_steps(T, counted).astype(value.dtype) if isinstance(loss, PerStep) else value


def masked_loss(
    loss: Callable[..., Float[Array, ""]], ys: PyTree, targets_and_mask: tuple[PyTree, Array]
) -> Float[Array, ""]:
    """The loss of targets that stand beside their mask."""
    return loss(ys, *targets_and_mask)
