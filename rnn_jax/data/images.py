"""Images of handwritten digits."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rnn_jax.data.parts import extra_package

__all__ = ["Digits", "digits"]


class Digits(NamedTuple):
    """Images of handwritten digits."""

    images: Float[np.ndarray, "N 8 8"]
    """Ink, from 0 to 1."""
    classes: Int[np.ndarray, " N"]
    """The digit, 0 … 9."""


def digits() -> Digits:
    """The 1,797 handwritten digits of 8 × 8 pixels that scikit-learn carries.

    Raises:
        ValueError: when scikit-learn is missing.

    Reference: Alpaydin, Kaynak. Optical recognition of handwritten digits. 1998.
    """
    found = extra_package("sklearn.datasets", "scikit-learn").load_digits()
    return Digits((found.images / 16).astype(np.float32), found.target.astype(np.int32))
