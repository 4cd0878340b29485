"""Text as numbers: a vocabulary of characters, one-hot vectors, and contiguous streams of windows."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, SupportsIndex

import numpy as np
from jax.nn import one_hot
from jaxtyping import Int

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
    ids: Int[np.ndarray, " N"], batch_size: int, window: int
) -> tuple[Int[np.ndarray, "W K B"], Int[np.ndarray, "W K B"]]:
    """Cuts a text into B lanes that each advance by one window, so a carried state stays meaningful.

    Lane b reads one contiguous stretch of the text; lane b of window w + 1 goes on where lane b of window w ended. The
    target of each letter is the next letter of the text. A remainder that fills no window of every lane is left out.

    Args:
        ids: the text, ``(N,)``.
        batch_size: B, lanes.
        window: K, letters that each lane advances.

    Returns:
        ``(xs, ys)``: letters and their targets, each ``(W, K, B)`` with W windows.

    Raises:
        ValueError: for a size below 1, or a text shorter than one window of every lane.

    >>> xs, ys = streams(np.arange(9), batch_size=2, window=2)
    >>> xs[:, :, 0].tolist(), xs[:, :, 1].tolist(), ys[:, :, 1].tolist()
    ([[0, 1], [2, 3]], [[4, 5], [6, 7]], [[5, 6], [7, 8]])
    """
    if batch_size < 1 or window < 1:
        raise ValueError(f"batch_size and window got {batch_size} and {window}; want positive integers")
    lane = (len(ids) - 1) // batch_size
    count = lane // window
    if count < 1:
        raise ValueError(
            f"text got {len(ids)} characters; want at least {batch_size * window + 1} for {batch_size} lanes of one "
            f"window of {window}: give a longer text, or a smaller batch_size or window"
        )

    def lanes(first: int) -> np.ndarray:
        rows = ids[first : first + batch_size * lane].reshape(batch_size, lane)[:, : count * window]
        return rows.reshape(batch_size, count, window).transpose(1, 2, 0)

    return lanes(0), lanes(1)
