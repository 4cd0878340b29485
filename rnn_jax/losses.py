"""Losses of sequences: sums over time, means over the batch. Cross-entropies are in nats.

Every loss is a function ``(outputs, targets, mask=None) -> scalar``. A mask is applied before the nonlinearity, so the
numbers at a masked step, NaN too, change neither value nor gradient. Numbers of fewer than 32 bits are summed in
float32. ``per_step`` makes a loss a mean over the steps that count.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Integer, Num, PyTree

from rnn_jax.machinery.checks import is_inside, require_integers
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.sharding import where

__all__ = [
    "PerStep",
    "binary_cross_entropy",
    "bits_per_char",
    "cross_entropy",
    "masked_mean",
    "next_token_nats",
    "per_step",
    "perplexity",
    "squared_error",
]


def next_token_nats(
    logits: Float[Array, "*shape V"],
    targets: Integer[ArrayLike, "*shape"],
    mask: Bool[ArrayLike, "*shape"] | None = None,
) -> Float[Array, "*shape"]:
    """−ln p(target) at every position: the surprise at each token, in nats, in float32 or more.

    A target outside [0, V) has no probability: its value and its gradient are NaN, unless it is masked.

    Args:
        logits: scores of the V ids.
        targets: the id that follows, of any integer type.
        mask: where False, a position is not counted; its content is ignored, and no gradient reaches its logits. A mask
            that is applied to the result instead comes too late for the gradient.

    Raises:
        ValueError: for logits that are not floating, targets that are not integers, or shapes that do not match.

    >>> import jax.numpy as jnp
    >>> print(next_token_nats(jnp.zeros((3, 2)), jnp.array([0, 2, -1]), jnp.array([True, True, False])).round(2))
    [0.69  nan 0.  ]
    """
    require_logits(logits)
    ids: Any = _array(targets)
    require_integers("targets", ids.dtype, logits.shape[-1])
    targets, mask = ids, None if mask is None else _array(mask)
    require_shapes(logits.shape[:-1], targets, mask)
    if mask is not None:  # before the logarithm, so that no gradient becomes NaN
        logits, targets = where(jnp.expand_dims(mask, -1), logits, 0), where(mask, targets, 0)
    inside = is_inside(targets, logits.shape[-1])
    nats = optax.softmax_cross_entropy_with_integer_labels(widened(logits), jnp.where(inside, targets, 0))
    nats = nats * jnp.where(inside, 1, jnp.nan).astype(nats.dtype)  # as a factor it reaches the gradient
    return nats if mask is None else where(mask, nats, 0)


def cross_entropy(
    logits: Float[Array, "T *batch V"],
    targets: Integer[ArrayLike, "T *batch"],
    mask: Bool[ArrayLike, "T *batch"] | None = None,
) -> Float[Array, ""]:
    """L = mean over the batch of Σ_t −ln softmax(y_t)[target_t], in nats; ``per_step(cross_entropy)`` is nats a step.

    Args:
        logits, targets, mask: as in ``next_token_nats``, with time leading.

    Raises:
        ValueError: as ``next_token_nats``.

    >>> import jax.numpy as jnp
    >>> print(cross_entropy(jnp.zeros((3, 2, 4)), jnp.zeros((3, 2), int)).round(4), 3 * jnp.log(4.0).round(4))
    4.1589 4.1589
    """
    return _sum_over_time(next_token_nats(logits, targets, mask))


def binary_cross_entropy(
    logits: Float[Array, "T *batch O"],
    targets: Num[ArrayLike, "T *batch O"] | Bool[ArrayLike, "T *batch O"],
    mask: Bool[ArrayLike, "T *batch"] | None = None,
) -> Float[Array, ""]:
    """L = mean over the batch of Σ_t Σ_o −ln p(target_to), of O independent Bernoulli variables with p = sigmoid(y).

    In nats. For steps at which several things may be present at once, such as the notes of a piano roll.

    Args:
        logits: log-odds of each variable.
        targets: 0 or 1, or a probability between them; a target outside [0, 1] that is not masked gives NaN.
        mask: where False, a step is not counted; its content is ignored.

    Raises:
        ValueError: for logits that are not floating, or shapes that do not match.

    >>> import jax.numpy as jnp
    >>> print(binary_cross_entropy(jnp.zeros((3, 2, 88)), jnp.ones((3, 2, 88))).round(2), (264 * jnp.log(2.0)).round(2))
    182.99 182.99

    Reference: Boulanger-Lewandowski, Bengio, Vincent. Modeling temporal dependencies in high-dimensional sequences:
    application to polyphonic music generation and transcription. 2012.
    """
    require_logits(logits)
    logits, targets = _with_mask(logits, targets, mask)
    nats = optax.sigmoid_binary_cross_entropy(logits, targets)
    nats = nats * jnp.where((targets >= 0) & (targets <= 1), 1, jnp.nan).astype(nats.dtype)
    return _sum_over_time(_zero_where_masked(jnp.sum(nats, axis=-1), mask))


def squared_error(
    ys: Float[Array, "T *batch O"],
    targets: Num[ArrayLike, "T *batch O"],
    mask: Bool[ArrayLike, "T *batch"] | None = None,
) -> Float[Array, ""]:
    """L = mean over the batch of Σ_t ‖y_t − target_t‖².

    Args:
        ys: outputs with O features.
        targets: of the same shape.
        mask: where False, a step is not counted; its content is ignored, such as NaN in a gap of a time series.

    Raises:
        ValueError: for shapes that do not match.

    >>> import jax.numpy as jnp
    >>> ys, targets = jnp.array([[[1.0]], [[5.0]], [[2.0]]]), jnp.array([[[0.0]], [[jnp.nan]], [[4.0]]])
    >>> print(squared_error(ys, targets, jnp.array([[True], [False], [True]])))
    5.0
    """
    ys, targets = _with_mask(ys, targets, mask)
    return _sum_over_time(_zero_where_masked(jnp.sum(jnp.square(ys - targets), axis=-1), mask))


def masked_mean(values: Float[Array, "..."], mask: Bool[ArrayLike, "..."]) -> Float[Array, ""]:
    """Mean of the values where the mask is True, in float32 or more; 0 where it is False everywhere.

    A masked value, NaN too, does not count. A function that computed it, such as the logarithm of 0, may still have a
    gradient of NaN there; the other losses of this module apply their mask before the nonlinearity.

    Args:
        values: with the axes of the mask leading.
        mask: of the leading axes.

    Raises:
        ValueError: for a mask that is not boolean, or whose shape is not that of the leading axes.

    >>> import jax.numpy as jnp
    >>> print(masked_mean(jnp.array([1.0, jnp.nan, 3.0]), jnp.array([True, False, True])))
    2.0
    """
    flags: Any = _array(mask)
    require_mask(values.shape[: flags.ndim], flags)
    counted = jnp.broadcast_to(jnp.expand_dims(flags, range(flags.ndim, values.ndim)), values.shape)
    total = jnp.sum(where(counted, widened(values), 0))
    return total / jnp.maximum(jnp.sum(counted, dtype=total.dtype), 1)


class PerStep(NamedTuple):
    """A loss divided by the number of steps that count, which ``per_step`` makes; it is called as the loss itself."""

    loss: Callable[..., Float[Array, ""]]
    """``(ys, targets) -> scalar`` or ``(ys, targets, mask) -> scalar``: a sum over time, mean over the batch."""

    def __call__(self, ys: PyTree, targets: PyTree, mask: Bool[ArrayLike, "..."] | None = None) -> Float[Array, ""]:
        """The loss for each step; with a mask, for each step that is not masked."""
        total = self.loss(ys, targets) if mask is None else self.loss(ys, targets, mask)
        return total / counted_steps(len(jax.tree.leaves(ys)[0]), mask).astype(total.dtype)


def per_step(loss: Callable[..., Float[Array, ""]]) -> PerStep:
    """A loss for each step: that of the sequence divided by T, or by the mean number of unmasked steps of an example.

    Give it to ``window_learner``, to the loss of a ``batch_learner``, and to ``evaluate``, which divides once, by the
    steps of all windows. ``gradients.chunked`` and ``gradients.parallel`` refuse it: they add up the losses of windows,
    and means do not add up.

    Args:
        loss: a sum over time and mean over the batch, such as ``cross_entropy``.

    >>> import jax.numpy as jnp
    >>> logits, ids = jnp.zeros((3, 2, 4)), jnp.zeros((3, 2), int)
    >>> mask = jnp.array([[True, True], [True, False], [True, False]])
    >>> nats = per_step(cross_entropy)
    >>> print(nats(logits, ids).round(4), nats(logits, ids, mask).round(4), jnp.log(4.0).round(4))
    1.3863 1.3863 1.3863
    """
    return PerStep(loss)


def counted_steps(T: int, mask: Any = None) -> Float[Array, ""]:
    """Steps that count, in the mean over the examples, and at least a small positive number: the divisor of a mean."""
    if mask is None:
        return jnp.asarray(max(T, 1), float)
    mask = jnp.asarray(mask)
    examples = max(mask[:1].size, 1)
    return jnp.maximum(jnp.sum(mask, dtype=float), 1) / examples


def bits_per_char(nats: float) -> float:
    """Nats for each character, as bits for each character."""
    return nats / math.log(2)


def perplexity(nats: float) -> float:
    """The number of equally likely tokens of which each costs so many nats; NaN for NaN."""
    return math.inf if nats >= 700 else math.exp(nats)  # e^709 is the largest float


def require_logits(logits: Array) -> None:
    """Raises a ValueError unless logits are floating."""
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"logits got {logits.dtype}; want floating ones, the outputs of a model")


def require_shapes(shape: tuple[int, ...], targets: Any, mask: Any) -> None:
    """Raises a ValueError unless targets have this shape, and so has the mask if there is one."""
    if targets.shape != tuple(shape):
        raise ValueError(f"targets got shape {targets.shape}; want {tuple(shape)}, one for each of the outputs")
    if mask is not None:
        require_mask(shape, mask)


def require_mask(shape: tuple[int, ...], mask: Any) -> None:
    """Raises a ValueError unless a mask is boolean, and of this shape."""
    if mask.dtype != bool or mask.shape != tuple(shape):
        raise ValueError(f"mask got {mask.dtype} {mask.shape}; want bool {tuple(shape)}, one for each target")


def _array(given: Any) -> Any:
    """An array of JAX as it is, anything else as one of NumPy's, in which no id is wrapped round to another."""
    return given if isinstance(given, jax.Array) else np.asarray(given)


def _with_mask(ys: Array, targets: Any, mask: Any) -> tuple[Array, Array]:
    """Outputs and targets in float32 or more, both 0 where a step is masked."""
    targets, mask = _array(targets), None if mask is None else _array(mask)
    require_shapes(ys.shape, targets, None)
    if mask is not None:
        require_mask(ys.shape[:-1], mask)
    ys = widened(ys)
    targets = jnp.asarray(targets).astype(ys.dtype)
    if mask is None:
        return ys, targets
    counted = jnp.expand_dims(mask, -1)
    return where(counted, ys, 0), where(counted, targets, 0)


def _zero_where_masked(losses: Float[Array, "T *batch"], mask: Any) -> Float[Array, "T *batch"]:
    return losses if mask is None else where(_array(mask), losses, 0)


def _sum_over_time(losses: Float[Array, "T *batch"]) -> Float[Array, ""]:
    """The sum over time, and its mean over the batch."""
    return jnp.mean(jnp.sum(losses, axis=0))
