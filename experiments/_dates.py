"""Dates as twelve languages write them, cut into parts that have no day in common."""

import datetime
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rnn_jax.data.languages import STYLES, write_date
from rnn_jax.data.parts import split
from rnn_jax.data.text import Vocabulary, pad, vocabulary

FIRST_DAY = datetime.date(1969, 1, 1)
DAYS = 36_525  # a hundred years
ANSWER = vocabulary("0123456789-\n")  # an end closes every answer, and opens it: what the decoder reads first
END = int(ANSWER.encode("\n")[0])
LENGTH = len("YYYY-MM-DD\n")
DAYS_TESTED = 2400


class Part(NamedTuple):
    """Dates as numbers."""

    sources: np.ndarray
    """``(S, N)``: the letters that are read, filled up to the longest."""
    lengths: np.ndarray
    """``(N,)``."""
    targets: np.ndarray
    """``(LENGTH, N)``: the letters that are to be written."""
    locales: np.ndarray
    """``(N,)``: the place of the language among ``Dates.locales``."""


class Dates(NamedTuple):
    """Dates cut into parts that have no day in common."""

    letters: Vocabulary
    """Of the sources."""
    locales: Sequence[str]
    train: Part
    validation: Part
    test: Part


def draw_dates(locales: Sequence[str], examples: int) -> Dates:
    """Days, languages and lengths drawn at random: a part to learn from, and others to validate and to test on."""
    rng = np.random.default_rng(0)
    written: list[tuple] = []
    for days, count in zip(split(DAYS, (0.05, 0.1)), (examples, DAYS_TESTED // 4, DAYS_TESTED), strict=True):
        day = [FIRST_DAY + datetime.timedelta(int(d)) for d in rng.choice(days, count)]
        locale, style = rng.integers(len(locales), size=count), rng.integers(len(STYLES), size=count)
        ways = zip(day, locale.tolist(), style.tolist(), strict=True)
        lines = [write_date(d, str(locales[i]), STYLES[j]) for d, i, j in ways]
        targets = np.stack([ANSWER.encode(d.isoformat() + "\n") for d in day], axis=1)
        written.append((lines, targets, locale))
    letters = vocabulary("".join(line for lines, *_ in written for line in lines))
    return Dates(
        letters, locales, *(Part(*pad([letters.encode(line) for line in lines]), *rest) for lines, *rest in written)
    )
