"""Batches: examples drawn at random, sequences of many lengths as one array, and windows for a carried state."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer, Shaped

from rnn_jax.machinery.checks import in_one_line, is_whole, one_axis, require_number, require_positive

__all__ = ["Bucket", "bucket_batches", "consecutive_batches", "draw_batches", "pad", "windows"]

Part = TypeVar("Part", bound=tuple)


def draw_batches(
    part: Part, rng: np.random.Generator, updates: int, batch_size: int, *, axes: Sequence[int] | None = None
) -> Part:
    """Random batches of the examples of a part, one for each update; examples are drawn with replacement.

    Args:
        part: a tuple of arrays with N examples each: time-leading ones ``(T, N, …)``, others ``(N, …)``.
        rng: NumPy's random generator; updates · batch_size integers are drawn from it.
        updates: U.
        batch_size: B.
        axes: for each array, the axis of the examples: 1 where time leads, otherwise 0. Parts of the loaders have
            them in ``part.example_axes``.

    Returns:
        A tuple of the same type, its arrays ``(U, T, B, …)`` and ``(U, B, …)``.

    Raises:
        ValueError: for a size below 1; without axes; for arrays with different numbers of examples, or none.

    >>> from rnn_jax.data import language_words
    >>> rng = np.random.default_rng(0)
    >>> draw_batches(language_words().train, rng, updates=5, batch_size=32).ids.shape
    (5, 23, 32)
    >>> xs, ys = draw_batches((np.zeros((7, 100, 2)), np.zeros(100)), rng, updates=5, batch_size=32, axes=(1, 0))
    >>> xs.shape, ys.shape
    ((5, 7, 32, 2), (5, 32))
    """
    require_positive(updates=updates, batch_size=batch_size)
    axes = getattr(part, "example_axes", None) if axes is None else axes
    if axes is None or len(axes) != len(part):
        raise ValueError(f"axes got {axes}; want the axis of the examples in each array, such as axes=(1, 0)")
    counts = {np.shape(array)[axis] for array, axis in zip(part, axes, strict=True)}
    if len(counts) > 1 or 0 in counts:
        raise ValueError(f"part got {sorted(counts)} examples on axes {tuple(axes)}; want the same number, at least 1")
    chosen = rng.integers(counts.pop(), size=(updates, batch_size))
    drawn = [
        np.moveaxis(np.take(np.asarray(array), chosen, axis), axis, 0) for array, axis in zip(part, axes, strict=True)
    ]
    return part._make(drawn) if hasattr(part, "_make") else type(part)(drawn)  # type: ignore[attr-defined]


def consecutive_batches(batches: Any, first: int, count: int) -> Any:
    """The batches first … first + count − 1, in order; after the last one comes the first one again.

    Args:
        batches: a tuple, or another pytree, of arrays ``(W, …)``, such as the windows of ``streams``.
        first: the number of batches used before, from 0 on.
        count: C.

    Returns:
        The same pytree of arrays ``(C, …)``.

    Raises:
        ValueError: for a negative ``first``, or a count below 1.

    >>> consecutive_batches(np.array(["a", "b", "c"]), first=2, count=5).tolist()
    ['c', 'a', 'b', 'c', 'a']
    """
    require_positive(count=count)
    if not is_whole(first) or first < 0:
        raise ValueError(f"first got {in_one_line(first)}; want a whole number of at least 0")
    chosen = int(first) + np.arange(int(count))
    return jax.tree.map(lambda array: array[chosen % len(array)], batches)


def windows(xs: Shaped[Array | np.ndarray, "T *rest"], window: int, k1: int | None = None) -> Shaped[Any, "W K *rest"]:
    """Windows of a sequence, for training with a state that is carried from one window to the next.

    Window w holds the steps w · k1 … w · k1 + K − 1. The steps after the last whole window, k1 − 1 at most, are left
    out. To use them too, pad the sequence and mask the padding.

    Args:
        xs: ``(T, *batch, …)`` of any type, time leading. For several arrays, such as observations, actions and
            rewards, map over them: ``jax.tree.map(lambda a: windows(a, 20), data)``.
        window: K, the steps of a window (k2).
        k1: steps from one window to the next. Below ``window``, windows overlap, so that the first K − k1 steps can
            warm the state up; the losses are then of the last k1 steps, ``windows(targets, window, k1)[:, -k1:]``.
            Without it, ``window``.

    Returns:
        ``(W, K, *batch, …)``. Of a NumPy array it is a view, which needs no memory.

    Raises:
        ValueError: for a size below 1, k1 above window, or a sequence shorter than a window.

    >>> windows(np.arange(7), 3).tolist(), windows(np.arange(7), 4, k1=2).tolist()
    ([[0, 1, 2], [3, 4, 5]], [[0, 1, 2, 3], [2, 3, 4, 5]])
    >>> windows(jnp.zeros((100, 8, 3)), 20).shape
    (5, 20, 8, 3)
    """
    k1 = window if k1 is None else k1
    require_positive(window=window, k1=k1)
    window, k1 = int(window), int(k1)
    if k1 > window:
        raise ValueError(f"k1 got {k1}, window (k2) {window}; want k1 <= k2, as each window counts its last k1 losses")
    if len(xs) < window:
        raise ValueError(f"xs got {len(xs)} steps; want at least one window of {window}")
    if isinstance(xs, np.ndarray):
        return np.moveaxis(np.lib.stride_tricks.sliding_window_view(xs, window, axis=0)[::k1], -1, 1)
    return xs[np.arange(0, len(xs) - window + 1, k1)[:, None] + np.arange(window)]


def pad(
    sequences: Sequence[Any], *, value: Any = 0, steps: int | None = None
) -> tuple[Shaped[np.ndarray, "T N *features"], Int[np.ndarray, " N"]]:
    """Sequences of many lengths as one array, padded at their ends: ``(padded, lengths)``, time leading.

    Integers become int32. Floating numbers keep the widest type among them. Other types, such as bool, stay.

    Args:
        sequences: at least one, each ``(length, *features)``; those without features may be lists.
        value: of the padding.
        steps: T, for a fixed shape; without it, the length of the longest sequence.

    Raises:
        ValueError: for no sequence, different features, types that do not go together, fewer ``steps`` than a sequence
            has, or a number that the common type does not hold: one beyond int32, or a large integer among floating
            numbers.

    >>> ids, lengths = pad([[1, 2, 3], [4]], value=-1)
    >>> ids.T.tolist(), lengths.tolist()
    ([[1, 2, 3], [4, -1, -1]], [3, 1])
    >>> pad([np.ones((2, 88), bool), np.ones((5, 88), bool)])[0].shape
    (5, 2, 88)
    """
    arrays = [_sequence(sequence) for sequence in sequences]
    if not arrays:
        raise ValueError("sequences got none; want at least one")
    features = {array.shape[1:] for array in arrays}
    if len(features) > 1:
        raise ValueError(f"sequences got features {sorted(features)}; want the same of all, (length, *features)")
    lengths = np.array([len(array) for array in arrays], np.int32)
    steps = int(lengths.max()) if steps is None else steps
    if not is_whole(steps) or steps < lengths.max():
        raise ValueError(f"steps got {in_one_line(steps)}; want at least {lengths.max()}, the longest sequence")
    dtype = _common_type({array.dtype for array in arrays if array.size})
    padded = np.full((steps, len(arrays), *features.pop()), _exactly(np.asarray(value), dtype, "value"))
    for n, array in enumerate(arrays):
        padded[: len(array), n] = _exactly(array, dtype, "sequences")
    return padded, lengths


def _sequence(sequence: Any) -> np.ndarray:
    array = np.asarray(sequence) if hasattr(sequence, "shape") else one_axis("sequences", sequence)
    if not array.ndim or array.dtype.kind in "USO":
        kind = f"{array.dtype}{list(array.shape)}"
        raise ValueError(f"sequences got {kind}; want arrays of numbers, (length, *features): encode text as ids")
    return array


def _common_type(kinds: set[Any]) -> np.dtype:
    """int32 for integers and for no type; the widest type of floating numbers; any other type alone."""
    if any(not jnp.issubdtype(kind, jnp.number) for kind in kinds):
        if len(kinds) > 1:
            raise ValueError(f"sequences got {', '.join(sorted(map(str, kinds)))}; want types that go together")
        return kinds.pop()
    floating = [kind for kind in kinds if jnp.issubdtype(kind, jnp.inexact)]
    return np.result_type(*floating) if floating else np.dtype(np.int32)


def _exactly(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """An array as another type; a ValueError that names the first number which that type does not hold."""
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
        changed = array[(cast.astype(array.dtype) != array) & (array == array)]  # NaN equals nothing
    if changed.size:
        raise ValueError(f"{name} got {changed[0]}; want numbers that {dtype} holds exactly")
    return cast


class Bucket(NamedTuple):
    """A batch of sequences of similar lengths."""

    indices: Int[np.ndarray, " b"]
    """Of the sequences."""
    steps: int
    """To pad them to: one size for each range of lengths, so that few shapes are compiled."""


def bucket_batches(
    lengths: Integer[np.ndarray, " N"], rng: np.random.Generator, batch_size: int, *, waste: float = 0.1
) -> list[Bucket]:
    """Batches of sequences of similar lengths, in random order; every sequence is in one batch.

    Lengths are cut into ranges whose shortest is at least (1 − waste) times the longest. So at most the share
    ``waste`` of all padded steps is padding. The last batch of a range is smaller than the others.

    Args:
        lengths: of the sequences, from 1 on.
        rng: NumPy's random generator, for the order.
        batch_size: sequences of a batch, at most.
        waste: from 0, at which a batch has sequences of one length, up to less than 1.

    Raises:
        ValueError: for a length or size below 1, or a waste outside [0, 1).

    Sequences with lengths of mean 50 in batches of 32, padded: the share of padding at random, and in buckets.

    >>> rng = np.random.default_rng(0)
    >>> lengths = rng.geometric(1 / 50, size=10_000)
    >>> at_random = [lengths[i] for i in np.split(rng.permutation(9984), 312)]
    >>> print(f"{1 - sum(of.sum() for of in at_random) / sum(of.max() * 32 for of in at_random):.2f}")
    0.75
    >>> batches = bucket_batches(lengths, rng, batch_size=32)
    >>> print(f"{1 - lengths.sum() / sum(steps * len(indices) for indices, steps in batches):.2f}")
    0.05
    >>> len({steps for _, steps in batches})  # shapes, but for the smaller last batches
    40

    To use one: ``xs, lengths = pad([sequences[i] for i in indices], steps=steps)``.
    """
    require_positive(batch_size=batch_size)
    require_number("waste", waste, lambda share: 0 <= share < 1, "at least 0 and less than 1")
    lengths = one_axis("lengths", lengths)
    if not np.issubdtype(lengths.dtype, np.integer) or lengths.min(initial=1) < 1:
        raise ValueError(f"lengths got {in_one_line(lengths.min(initial=1))}; want integers of at least 1")
    order = rng.permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    batches = []
    while len(order):
        inside = (1 - waste) * lengths[order] <= lengths[order[0]]
        bucket, order = rng.permutation(order[inside]), order[~inside]
        longest = int(lengths[bucket].max())
        batches += [Bucket(bucket[i : i + batch_size], longest) for i in range(0, len(bucket), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]
