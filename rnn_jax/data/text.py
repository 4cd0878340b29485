"""Text as numbers: a vocabulary of characters, one-hot vectors, lanes, and streams of windows."""

from collections.abc import Iterable
from typing import NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Integer

from rnn_jax.data.batches import windows
from rnn_jax.machinery.checks import in_one_line, is_inside, one_axis, require_id, require_integers, require_positive

INT32 = 2**31
"""Ids are smaller: JAX keeps them in 32 bits."""


class Vocabulary(NamedTuple):
    """The V characters of a text; the id of a character is its index."""

    characters: str
    """Sorted by code point, each once."""

    @property
    def size(self) -> int:
        """V, the number of characters."""
        return len(self.characters)

    def encode(self, text: str) -> Int[np.ndarray, " N"]:
        """Ids of the characters of a text.

        Raises:
            ValueError: when the text has characters outside the vocabulary, with the first few. For a vocabulary that
                is not sorted, or has a character twice.
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
            ValueError: for numbers that are not integers, an id outside the vocabulary, or more than one axis.
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
    """One-hot vectors of ids: 1 at the index of the id and 0 elsewhere; NaN for an id outside the vocabulary.

    Args:
        ids: of any shape.
        size: V.
        dtype: of the vectors, floating.

    Raises:
        ValueError: for ids that are not integers, a size below 1, or a type without NaN.

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


def lanes(
    ids: Integer[ArrayLike, " N"], batch_size: int
) -> tuple[Integer[np.ndarray, "T B"], Integer[np.ndarray, "T B"]]:
    """A text as B lanes side by side, each one contiguous stretch of it, with the next character as target.

    The characters that do not fill a step of every lane, at the end of the text, are left out.

    Args:
        ids: the text, ``(N,)``.
        batch_size: B, the number of lanes.

    Returns:
        ``(xs, targets)``, each ``(T, B)`` with T = ⌊(N − 1) / B⌋: views, which need no memory.

    Raises:
        ValueError: for a size below 1, a text of fewer than B + 1 characters, or ids that no vocabulary has: negative
            ones, or numbers that are not integers.

    >>> xs, targets = lanes(np.arange(8), batch_size=2)
    >>> xs.T.tolist(), targets.T.tolist()
    ([[0, 1, 2], [3, 4, 5]], [[1, 2, 3], [4, 5, 6]])
    """
    require_positive(batch_size=batch_size)
    ids, batch_size = one_axis("ids", ids), int(batch_size)
    require_id(INT32, ids=ids)
    T = (len(ids) - 1) // batch_size
    if T < 1:
        raise ValueError(f"text got {len(ids)} characters; want at least {batch_size + 1} for {batch_size} lanes")
    xs, targets = (ids[first : first + batch_size * T].reshape(batch_size, T).T for first in (0, 1))
    return xs, targets


def streams(
    ids: Integer[ArrayLike, " N"], batch_size: int, window: int, k1: int | None = None
) -> tuple[Integer[np.ndarray, "W K B"], Integer[np.ndarray, "W K1 B"]]:
    """Windows of a text in B lanes, for training with a carried state: the ``windows`` of its ``lanes``.

    Lane b of window w + 1 continues lane b of window w. The target of each character is the next one of the text. The
    characters that do not fill a window of every lane are left out.

    Args:
        ids: the text, ``(N,)``.
        batch_size: B, the number of lanes.
        window: K, the characters of a window (k2).
        k1: characters from one window to the next. Below ``window``, windows overlap, and have targets for their last
            k1 characters only, as ``gradients.streaming`` needs them. Without it, ``window``.

    Returns:
        ``(xs, targets)``: characters ``(W, K, B)`` and targets ``(W, K1, B)`` of W windows. Both are views, which need
        no memory, even if windows overlap.

    Raises:
        ValueError: for a size below 1, k1 above window, a text shorter than one window of every lane, or ids that no
            vocabulary has: negative ones, or numbers that are not integers.

    >>> xs, targets = streams(np.arange(9), batch_size=2, window=2)
    >>> xs[:, :, 0].tolist(), xs[:, :, 1].tolist(), targets[:, :, 1].tolist()
    ([[0, 1], [2, 3]], [[4, 5], [6, 7]], [[5, 6], [7, 8]])
    >>> xs, targets = streams(np.arange(9), batch_size=1, window=4, k1=2)
    >>> xs[:, :, 0].tolist(), targets[:, :, 0].tolist()
    ([[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]], [[3, 4], [5, 6], [7, 8]])
    """
    k1 = window if k1 is None else k1
    require_positive(batch_size=batch_size, window=window, k1=k1)
    batch_size, window, k1 = int(batch_size), int(window), int(k1)
    ids = one_axis("ids", ids)
    if len(ids) < batch_size * window + 1:
        raise ValueError(
            f"text got {len(ids)} characters; want at least {batch_size * window + 1} for {batch_size} lanes of one "
            f"window of {window}: give a longer text, or a smaller batch_size or window"
        )
    xs, targets = lanes(ids, batch_size)
    return windows(xs, window, k1), windows(targets, window, k1)[:, -k1:]
