"""The list of data sets by name.

>>> DATA_SETS["digits"].load().test.classes.shape
(359,)
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from rnn_jax.data.images import digits
from rnn_jax.data.languages import language_words, written_dates
from rnn_jax.data.music import chorales
from rnn_jax.data.texts import TEXTS, load_text

__all__ = ["DATA_SETS", "DataSet"]


class DataSet(NamedTuple):
    """A data set and its requirements."""

    load: Callable[[], Any]
    """Returns it; in parts, or for a text as one ``Text``, to be cut by ``text_parts``."""
    description: str
    package: str
    """The optional package that carries or loads it, of the extra ``data``; empty for none."""
    downloaded: bool
    """Whether the first call needs a network, without the file in the folder ``RNN_JAX_DATA``."""


DATA_SETS = {
    "digits": DataSet(digits, "1,797 images of handwritten digits, 8 × 8 pixels", "scikit-learn", False),
    "language_words": DataSet(language_words, "about 4,750 words of twelve languages", "babel", False),
    "written_dates": DataSet(written_dates, "dates in twelve languages and as YYYY-MM-DD", "babel", False),
    "python_reference": DataSet(load_text, "the Python language reference, 465,000 characters", "", False),
    "chorales": DataSet(chorales, "382 chorales of J. S. Bach as piano rolls", "scikit-learn", True),
} | {name: DataSet(partial(load_text, name=name), f"the text {name}", "pooch", True) for name in TEXTS}
"""Data sets by name. Synthetic tasks are in ``data.tasks``."""
