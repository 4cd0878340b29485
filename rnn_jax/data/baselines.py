"""Predictions of the next character without a network."""

import numpy as np
from jaxtyping import Integer

from rnn_jax.machinery.checks import require_id, require_positive

__all__ = ["bigram_baselines"]


def bigram_baselines(
    train: tuple[Integer[np.ndarray, "*train"], Integer[np.ndarray, "*train"]],
    test: tuple[Integer[np.ndarray, "*test"], Integer[np.ndarray, "*test"]],
    vocabulary_size: int,
) -> dict[str, dict[str, float]]:
    """Accuracy and cross-entropy of counts: of each character, and of each character after each.

    p(x | c) = (count(c x) + 1) / (count(c) + V), the estimate of Laplace, and p(x) from the same counts summed over c.
    The guess is the commonest character, or the commonest after c.

    Args:
        train: characters and those that follow, to count; of any equal shape.
        test: characters and those that follow, to predict.
        vocabulary_size: V.

    Returns:
        ``{"accuracy": {label: share}, "loss": {label: nats}}`` for the labels ``commonest character`` and
        ``commonest after each``.

    Raises:
        ValueError: for a vocabulary below 1, or an id outside it.

    Example: in "aabaab", a follows a twice of four times and b as often, so p(b | a) = (2 + 1) / (4 + 2).

    >>> ids = np.array([0, 0, 1, 0, 0, 1, 0])
    >>> found = bigram_baselines((ids[:-1], ids[1:]), (np.array([0]), np.array([1])), 2)
    >>> bool(np.isclose(found["loss"]["commonest after each"], np.log(2)))
    True
    """
    require_positive(vocabulary_size=vocabulary_size)
    require_id(vocabulary_size, train=np.concatenate(train, None), test=np.concatenate(test, None))
    V, (xs, targets), (test_xs, test_targets) = vocabulary_size, train, test
    pairs = np.bincount(xs.ravel() * V + targets.ravel(), minlength=V * V).reshape(V, V) + 1.0
    found: dict[str, dict[str, float]] = {"accuracy": {}, "loss": {}}
    for label, counts in {"commonest character": np.tile(pairs.sum(0), (V, 1)), "commonest after each": pairs}.items():
        p = counts / counts.sum(axis=1, keepdims=True)
        found["accuracy"][label] = float(np.mean(p.argmax(axis=1)[test_xs] == test_targets))
        found["loss"][label] = float(-np.mean(np.log(p[test_xs, test_targets])))
    return found
