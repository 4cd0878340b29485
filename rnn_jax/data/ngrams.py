"""A baseline without a neural network: interpolated n-grams of characters."""

import numpy as np
from jaxtyping import ArrayLike, Float, Int, Integer

from rnn_jax.machinery.checks import one_axis, require_id, require_positive

__all__ = ["witten_bell"]


def witten_bell(
    train: Integer[ArrayLike, " N"], text: Integer[ArrayLike, " M"], vocabulary_size: int, order: int
) -> Float[np.ndarray, "order M"]:
    """−ln p of every character of a text under n-grams of 1 … ``order`` characters, in nats.

    p_n(x | c) = (count(c x) + u(c) p_{n−1}(x | c')) / (count(c) + u(c)), where c are the n − 1 characters before x, c'
    the last n − 2 of them, u(c) the number of different characters after c in ``train``, and p_0 = 1 / V. For a context
    that does not occur in ``train``, p_n is p_{n−1}. At the beginning of the text, contexts are shorter.

    Args:
        train: the ids whose n-grams are counted.
        text: the ids to predict, such as a validation text.
        vocabulary_size: V.
        order: characters of the longest n-gram, with the predicted one.

    Returns:
        One row for each order, from 1 up.

    Raises:
        ValueError: for an order or a vocabulary below 1, an id outside the vocabulary, or ids that are not integers.

    Example: of "aab", p_1(b) = (1 + 2 · ½) / (3 + 2). After a, there is once a and once b, so p_2(b | a) =
    (1 + 2 · 2/5) / (2 + 2).

    >>> ids = np.array([0, 0, 1])
    >>> np.exp(-witten_bell(ids, np.array([0, 1]), 2, order=2))[:, 1].tolist()
    [0.4, 0.45]

    Reference: Witten, Bell. The zero-frequency problem. 1991; Chen, Goodman. An empirical study of smoothing techniques
    for language modeling. 1999.
    """
    require_positive(vocabulary_size=vocabulary_size, order=order)
    train, text = one_axis("train", train), one_axis("text", text)
    vocabulary_size, order = int(vocabulary_size), int(order)
    require_id(vocabulary_size, train=train, text=text)
    p, rows = np.full(len(text), 1 / vocabulary_size), []
    contexts, contexts_of_text = np.zeros(len(train), np.int64), np.zeros(len(text), np.int64)
    for n in range(1, order + 1):
        grams = contexts * vocabulary_size + train[n - 1 :]
        grams_of_text = contexts_of_text * vocabulary_size + text[n - 1 :]
        kept, counts = np.unique(grams, return_counts=True)
        count = looked_up(kept, counts, grams_of_text)
        total = looked_up(*np.unique(contexts, return_counts=True), contexts_of_text)
        kinds = looked_up(*np.unique(kept // vocabulary_size, return_counts=True), contexts_of_text)
        known, p = total > 0, p.copy()
        shorter = p[n - 1 :][known]
        p[n - 1 :][known] = (count[known] + kinds[known] * shorter) / (total + kinds)[known]
        rows.append(-np.log(p))
        contexts, contexts_of_text = numbered(grams[:-1], grams_of_text[:-1])
    return np.stack(rows)


def looked_up(keys: Int[np.ndarray, " K"], values: np.ndarray, wanted: Int[np.ndarray, " M"]) -> np.ndarray:
    """The value of each wanted key, or 0 where it is not among the sorted keys."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def numbered(a: Int[np.ndarray, " N"], b: Int[np.ndarray, " M"]) -> tuple[np.ndarray, np.ndarray]:
    """The keys renumbered from 0, equal where keys are equal, so that long contexts do not overflow."""
    _, numbers = np.unique(np.concatenate([a, b]), return_inverse=True)
    return numbers[: len(a)], numbers[len(a) :]
