"""Text as numbers: a vocabulary of characters, one-hot vectors, and contiguous streams of windows."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, SupportsIndex

import numpy as np
from jax.nn import one_hot
from jaxtyping import Int

from rnn_jax.checks import require_positive

__all__ = ["Vocabulary", "one_hot", "pad", "streams", "vocabulary"]


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
            ValueError: when the text has characters outside the vocabulary; it names the first few.
        """
        if not self.characters:
            raise ValueError("vocabulary got no characters; want those of a text: make it with vocabulary(text)")
        known, wanted = _code_points(self.characters), _code_points(text)
        ids = np.searchsorted(known, wanted)
        outside = wanted[known[np.minimum(ids, len(known) - 1)] != wanted]
        if len(outside):
            named = " ".join(repr(chr(c)) for c in np.unique(outside)[:5])
            raise ValueError(
                f"text got characters outside the vocabulary, such as {named}; want only the {self.size} known"
            )
        return ids.astype(np.int32)

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of these ids."""
        return "".join(self.characters[i] for i in ids)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def vocabulary(text: str) -> Vocabulary:
    """The vocabulary of a text: its distinct characters.

    >>> v = vocabulary("hello")
    >>> v.characters, v.encode("hello").tolist(), v.decode([1, 0, 2, 2, 3])
    ('ehlo', [1, 0, 2, 2, 3], 'hello')
    """
    return Vocabulary("".join(sorted(set(text))))


def pad(sequences: Sequence[Int[np.ndarray, " _"]]) -> tuple[Int[np.ndarray, "T N"], Int[np.ndarray, " N"]]:
    """Sequences of many lengths as one array, filled up with zeros: ``(ids, lengths)``, time leading.

    Args:
        sequences: ids of each, at least one sequence.

    >>> ids, lengths = pad([np.array([1, 2, 3]), np.array([4])])
    >>> ids.T.tolist(), lengths.tolist()
    ([[1, 2, 3], [4, 0, 0]], [3, 1])
    """
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    ids = np.zeros((lengths.max(), len(sequences)), np.int32)
    for n, sequence in enumerate(sequences):
        ids[: len(sequence), n] = sequence
    return ids, lengths


def streams(
    ids: Int[np.ndarray, " N"], batch_size: int, window: int, k1: int | None = None
) -> tuple[Int[np.ndarray, "W K B"], Int[np.ndarray, "W K1 B"]]:
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
        ValueError: for a size below 1, k1 above window, or a text shorter than one window of every lane.

    >>> xs, ys = streams(np.arange(9), batch_size=2, window=2)
    >>> xs[:, :, 0].tolist(), xs[:, :, 1].tolist(), ys[:, :, 1].tolist()
    ([[0, 1], [2, 3]], [[4, 5], [6, 7]], [[5, 6], [7, 8]])
    >>> xs, ys = streams(np.arange(9), batch_size=1, window=4, k1=2)
    >>> xs[:, :, 0].tolist(), ys[:, :, 0].tolist()
    ([[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]], [[3, 4], [5, 6], [7, 8]])
    """
    k1 = window if k1 is None else k1
    require_positive(batch_size=batch_size, window=window, k1=k1)
    if k1 > window:
        raise ValueError(f"k1 got {k1}, window (k2) {window}; want k1 <= k2, or some letters would teach nothing")
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
