"""Parts of data: for training, validation and test; packages that carry data."""

import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from rnn_jax.machinery.checks import in_one_line, is_whole, require_numbers

__all__ = ["split"]


def split(count: int, parts: Sequence[float], seed: int = 0) -> list[Int[np.ndarray, " n"]]:
    """Cuts the numbers 0 … count − 1, in random order, into parts that have none in common.

    Args:
        count: of what is to be parted.
        parts: the share of each part after the first, which takes what is left.
        seed: of the order.

    Raises:
        ValueError: for a share below 0, or shares of more than everything; for a count or seed below 0.

    >>> [len(part) for part in split(100, (0.1, 0.2))]
    [70, 10, 20]
    """
    wanted = "shares of at least 0 that sum to at most 1"
    for name, number in {"count": count, "seed": seed}.items():
        if not is_whole(number) or number < 0:
            raise ValueError(f"{name} got {in_one_line(number)}; want a whole number of at least 0")
    require_numbers("parts", parts, math.isfinite, wanted)
    sizes = [round(count * share) for share in parts]
    if min(parts, default=0) < 0 or sum(sizes) > count:
        raise ValueError(f"parts got {tuple(parts)} of {count}; want {wanted}")
    order = np.random.default_rng(seed).permutation(count)
    return np.split(order, np.cumsum([count - sum(sizes), *sizes[:-1]]))


def extra_package(module: str, name: str) -> Any:
    """A module of an extra package; a ValueError when it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"this data got no {name}, which carries it; want it: pip install 'rnn-jax-lab[data]'"
        ) from error
