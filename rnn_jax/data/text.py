"""Text as numbers: a vocabulary of characters, one-hot vectors, and contiguous streams of windows."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Integer, Num

from rnn_jax.machinery.checks import in_one_line, is_inside, one_axis, require_id, require_integers, require_positive

__all__ = ["Vocabulary", "one_hot", "pad", "streams", "vocabulary"]

INT32 = 2**31
"""Ids are below: no vocabulary is larger, and JAX keeps ids in 32 bits."""


class Vocabulary(NamedTuple):
    """The V characters of a text; a character's id is its place."""

    characters: str
    """Sorted by code point, each once."""

    @property
    def size(self) -> int:
        """V, the number of characters."""
        return len(self.characters)

    def encode(self, text: str) -> Int[np.ndarray, " N"]:
        """Ids of the characters of a text.

        Raises:
            ValueError: when the text has characters outside the vocabulary; it names the first few. For a vocabulary
                that is not sorted, or names a character twice.
        """
        if not self.characters:
            raise ValueError("vocabulary got no characters; want those of a text: make it with vocabulary(text)")
        known, wanted = _code_points(self.characters), _code_points(text)
        if np.any(known[1:] <= known[:-1]):
            named = in_one_line(self.characters)
            raise ValueError(f"characters got {named}; want each once, sorted: make it with vocabulary(text)")
        ids = np.searchsorted(known, wanted)
        outside = wanted[known[np.minimum(ids, len(known) - 1)] != wanted]
        if len(outside):
            named = " ".join(repr(chr(c)) for c in np.unique(outside)[:5])
            raise ValueError(
                f"text got characters outside the vocabulary, such as {named}; want only the {self.size} known"
            )
        return ids.astype(np.int32)

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of these ids.

        Raises:
            ValueError: for what is no integer, an id outside the vocabulary, or more than one axis.
        """
        known = one_axis("ids", ids)
        if len(known):
            require_id(self.size, ids=known)
        return "".join(self.characters[i] for i in known.tolist())


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def vocabulary(text: str) -> Vocabulary:
    """The vocabulary of a text: its distinct characters.

    >>> v = vocabulary("hello")
    >>> v.characters, v.encode("hello").tolist(), v.decode([1, 0, 2, 2, 3])
    ('ehlo', [1, 0, 2, 2, 3], 'hello')
    """
    return Vocabulary("".join(sorted(set(text))))


def one_hot(ids: Integer[ArrayLike, "*shape"], size: int, *, dtype: DTypeLike = float) -> Float[Array, "*shape V"]:
    """1 at each id's place and 0 elsewhere; a vector of NaN for an id outside the vocabulary.

    Args:
        ids: of any shape.
        size: V.
        dtype: floating, of the vectors.

    Raises:
        ValueError: for ids that are no integers, a size below 1, or a type that has no NaN.

    >>> one_hot(np.array([1, 3]), 3).tolist()
    [[0.0, 1.0, 0.0], [nan, nan, nan]]
    """
    require_positive(size=size)
    size = int(size)
    ids = ids if isinstance(ids, jax.Array) else np.asarray(ids)
    require_integers("ids", ids.dtype, size)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype got {jnp.dtype(dtype)}; want a floating type, in which an id outside is NaN")
    inside = is_inside(ids, size)
    return jnp.where(inside[..., None], jax.nn.one_hot(jnp.where(inside, ids, 0), size, dtype=dtype), jnp.nan)


def pad(sequences: Sequence[Num[ArrayLike, " _"]]) -> tuple[Num[np.ndarray, "T N"], Int[np.ndarray, " N"]]:
    """Sequences of many lengths as one array, filled up with zeros: ``(padded, lengths)``, time leading.

    Integers become int32; floating numbers keep the widest type among them.

    Args:
        sequences: ids or numbers of each ``(length,)``, at least one sequence.

    Raises:
        ValueError: for no sequence, more than one axis, what are no numbers, or a number that the common type would
            change: one beyond int32, or a large integer among floating numbers.

    >>> ids, lengths = pad([np.array([1, 2, 3]), np.array([4])])
    >>> ids.T.tolist(), lengths.tolist()
    ([[1, 2, 3], [4, 0, 0]], [3, 1])
    """
    arrays = [one_axis("sequences", sequence) for sequence in sequences]
    if not arrays:
        raise ValueError("sequences got none; want at least one")
    kinds = {array.dtype for array in arrays if array.size}
    if not all(jnp.issubdtype(kind, jnp.integer) or jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise ValueError(f"sequences got {', '.join(sorted(map(str, kinds)))}; want ids or numbers: encode the text")
    floating = [kind for kind in kinds if jnp.issubdtype(kind, jnp.floating)]
    lengths = np.array([len(array) for array in arrays], np.int32)
    padded = np.zeros((lengths.max(), len(arrays)), np.result_type(*floating) if floating else np.int32)
    for n, array in enumerate(arrays):
        padded[: len(array), n] = array.astype(padded.dtype)
        changed = array[(padded[: len(array), n].astype(array.dtype) != array) & (array == array)]  # NaN equals nothing
        if changed.size:
            raise ValueError(f"sequences got {changed[0]}; want numbers that {padded.dtype} holds exactly")
    return padded, lengths


def streams(
    ids: Integer[ArrayLike, " N"], batch_size: int, window: int, k1: int | None = None
) -> tuple[Integer[np.ndarray, "W K B"], Integer[np.ndarray, "W K1 B"]]:
    """Cuts a text into B lanes that each advance by one window, so a carried state stays meaningful.

    Lane b reads one contiguous stretch of the text; lane b of window w + 1 goes on where lane b of window w ended. The
    target of each letter is the next letter of the text. A remainder that fills no window of every lane is left out.

    Args:
        ids: the text, ``(N,)``.
        batch_size: B, lanes.
        window: K, letters of a window (k2).
        k1: letters that each lane advances; below ``window``, windows overlap, and have targets for their last k1
            letters alone, as ``gradients.streaming`` wants them. Without it, all.

    Returns:
        ``(xs, ys)``: letters ``(W, K, B)`` and targets ``(W, K1, B)``, of W windows.

    Raises:
        ValueError: for a size below 1, k1 above window, a text shorter than one window of every lane, or ids that no
            vocabulary has: negative ones, or numbers that are no integers.

    >>> xs, ys = streams(np.arange(9), batch_size=2, window=2)
    >>> xs[:, :, 0].tolist(), xs[:, :, 1].tolist(), ys[:, :, 1].tolist()
    ([[0, 1], [2, 3]], [[4, 5], [6, 7]], [[5, 6], [7, 8]])
    >>> xs, ys = streams(np.arange(9), batch_size=1, window=4, k1=2)
    >>> xs[:, :, 0].tolist(), ys[:, :, 0].tolist()
    ([[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]], [[3, 4], [5, 6], [7, 8]])
    """
    k1 = window if k1 is None else k1
    require_positive(batch_size=batch_size, window=window, k1=k1)
    batch_size, window, k1 = int(batch_size), int(window), int(k1)
    if k1 > window:
        raise ValueError(f"k1 got {k1}, window (k2) {window}; want k1 <= k2, or some letters would teach nothing")
    ids = one_axis("ids", ids)
    require_id(INT32, ids=ids)
    lane = (len(ids) - 1) // batch_size
    count = (lane - window) // k1 + 1
    if count < 1:
        raise ValueError(
            f"text got {len(ids)} characters; want at least {batch_size * window + 1} for {batch_size} lanes of one "
            f"window of {window}: give a longer text, or a smaller batch_size or window"
        )

    def windows(first: int, length: int) -> np.ndarray:  # a view, however much windows overlap
        lanes = ids[first : first + (batch_size - 1) * lane + length + (count - 1) * k1]
        stride = lanes.strides[0]
        shape, strides = (count, length, batch_size), (k1 * stride, stride, lane * stride)
        return np.lib.stride_tricks.as_strided(lanes, shape, strides, writeable=False)

    return windows(0, window), windows(1 + window - k1, k1)
