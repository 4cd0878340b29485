"""Words and dates of twelve languages."""

import datetime
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from rnn_jax.data.batches import pad
from rnn_jax.data.parts import extra_package, split
from rnn_jax.data.text import Vocabulary, vocabulary
from rnn_jax.machinery.checks import require_positive

LOCALES = {
    "da": "Danish",
    "de": "German",
    "en_GB": "English",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "it": "Italian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "sv": "Swedish",
    "tr": "Turkish",
}
"""Twelve languages in Latin script. No written date stands for different days in two of them."""
STYLES = ("short", "medium", "long", "full")
"""Lengths of a written date, in the terms of the Unicode CLDR."""
FIRST_DAY = datetime.date(1969, 1, 1)
"""The earliest of the days that ``written_dates`` draws: two digits of a year then mean one year (POSIX)."""
DAYS = 36_525
"""Days from ``FIRST_DAY`` on, a hundred years."""


class Words(NamedTuple):
    """Words and their languages."""

    ids: Int[np.ndarray, "*U T N"]
    """Their characters, padded with zeros to the longest word."""
    lengths: Int[np.ndarray, "*U N"]
    classes: Int[np.ndarray, "*U N"]
    """The index of the language in ``LOCALES``."""

    example_axes = (1, 0, 0)


class LanguageWords(NamedTuple):
    """The words of twelve languages, in parts that share no word."""

    train: Words
    validation: Words
    test: Words
    vocabulary: Vocabulary
    """Of all parts."""


class Dates(NamedTuple):
    """Written dates and their ISO form."""

    sources: Int[np.ndarray, "*U T N"]
    """The written dates, padded with zeros to the longest."""
    lengths: Int[np.ndarray, "*U N"]
    """Of the sources."""
    targets: Int[np.ndarray, "*U 11 N"]
    """``YYYY-MM-DD`` and the end."""
    locales: Int[np.ndarray, "*U N"]
    """The index of the language in ``WrittenDates.locales``."""

    example_axes = (1, 0, 1, 0)


class WrittenDates(NamedTuple):
    """Dates as several languages write them, in parts that share no day."""

    train: Dates
    validation: Dates
    test: Dates
    source_vocabulary: Vocabulary
    """Of all parts."""
    target_vocabulary: Vocabulary
    """The ten digits, the hyphen, and the end."""
    end: int
    """The target id that ends each date; a decoder also gets it as its first input."""
    locales: tuple[str, ...]


def language_words() -> LanguageWords:
    """The words of twelve languages, to classify by language: 70 % to train on, 10 % validation, 20 % test.

    These are the words of ``locale_words``, without those that two of the languages share, so each word has one class.
    The cut is random and always the same.

    Raises:
        ValueError: when babel is missing.

    >>> words = language_words()
    >>> ids, lengths, classes = words.test
    >>> words.vocabulary.decode(ids[: lengths[0], 0]), list(LOCALES.values())[classes[0]]
    ('arawakiska', 'Swedish')
    """
    words = {locale: locale_words(locale) for locale in LOCALES}
    languages_of = Counter(word for of_locale in words.values() for word in of_locale)
    pairs = [(w, c) for c, of_locale in enumerate(words.values()) for w in of_locale if languages_of[w] == 1]
    characters = vocabulary("".join(word for word, _ in pairs))
    ids, lengths = pad([characters.encode(word) for word, _ in pairs])
    classes = np.array([c for _, c in pairs], np.int32)
    train, validation, test = (Words(ids[:, i], lengths[i], classes[i]) for i in split(len(pairs), (0.1, 0.2)))
    return LanguageWords(train, validation, test, characters)


def written_dates(
    locales: Sequence[str] = tuple(LOCALES), *, examples: int = 40_000, tested: int = 2400
) -> WrittenDates:
    r"""Dates as several languages write them, to translate into YYYY-MM-DD.

    Day, language and style of each example are drawn at random, always the same for the same arguments. The days lie
    within a hundred years: 85 % of them are drawn from for training, 5 % for validation and 10 % for the test.

    Args:
        locales: keys of ``LOCALES``.
        examples: in the training part.
        tested: examples in the test part; the validation part has a quarter as many.

    Raises:
        ValueError: for an unknown locale or none, for fewer than 1 example or 4 tested, or when babel is missing.

    >>> dates = written_dates(["fr", "de"], examples=3, tested=4)
    >>> sources, lengths, targets, locales = dates.train
    >>> dates.source_vocabulary.decode(sources[: lengths[0], 0]), dates.target_vocabulary.decode(targets[:, 0])
    ('12/12/1981', '1981-12-12\n')
    """
    require_locales(locales)
    require_positive(examples=examples, locales=len(locales), tested=tested)
    if tested < 4:
        raise ValueError(f"tested got {tested}; want at least 4, as the validation part has a quarter as many")
    target_vocabulary, rng = vocabulary("0123456789-\n"), np.random.default_rng(0)
    written: list[tuple] = []
    for days, count in zip(split(DAYS, (0.05, 0.1)), (examples, tested // 4, tested), strict=True):
        day = [FIRST_DAY + datetime.timedelta(int(d)) for d in rng.choice(days, count)]
        locale, style = rng.integers(len(locales), size=count), rng.integers(len(STYLES), size=count)
        ways = zip(day, locale.tolist(), style.tolist(), strict=True)
        lines = [write_date(d, locales[int(i)], STYLES[j]) for d, i, j in ways]
        targets = np.stack([target_vocabulary.encode(d.isoformat() + "\n") for d in day], axis=1)
        written.append((lines, targets, locale))
    characters = vocabulary("".join(line for lines, *_ in written for line in lines))
    train, validation, test = (Dates(*pad([characters.encode(s) for s in lines]), *rest) for lines, *rest in written)
    end = int(target_vocabulary.encode("\n")[0])
    return WrittenDates(train, validation, test, characters, target_vocabulary, end, tuple(locales))


def locale_words(locale: str) -> list[str]:
    """The words that name months, days, languages and territories in a language: about 1,000, in lower case, sorted.

    They come from the Unicode CLDR in babel. Accents are kept. Phrases are split, and words of one or two characters
    are left out.

    Args:
        locale: a key of ``LOCALES``.

    Raises:
        ValueError: for an unknown locale, or when babel is missing.

    >>> words = locale_words("fr")
    >>> [word in words for word in ("février", "jeudi", "suédois", "allemagne")]
    [True, True, True, True]
    """
    require_locales([locale])
    data = extra_package("babel", "babel").Locale.parse(locale)
    calendar = [data.months["format"]["wide"], data.months["stand-alone"]["wide"], data.days["format"]["wide"]]
    names = [name for table in (*calendar, data.languages, data.territories) for name in table.values()]
    lower = " ".join(names).lower().replace("i̇", "i")  # Turkish İ in lower case
    return sorted({word for word in re.findall(r"[^\W\d_]+", lower) if len(word) >= 3})


def write_date(day: datetime.date, locale: str, style: str) -> str:
    """A date as written in a language.

    Args:
        day: any day.
        locale: a key of ``LOCALES``.
        style: one of ``STYLES``.

    Raises:
        ValueError: for an unknown locale or style, or when babel is missing.

    >>> write_date(datetime.date(1979, 5, 3), "fr", "full"), write_date(datetime.date(1979, 5, 3), "de", "short")
    ('jeudi 3 mai 1979', '03.05.79')
    """
    require_locales([locale])
    if style not in STYLES:
        raise ValueError(f"style got {style!r}; want one of {', '.join(STYLES)}")
    return extra_package("babel.dates", "babel").format_date(day, style, locale)


def require_locales(locales: Iterable[str]) -> None:
    """Raises a ValueError that lists the known locales, for an unknown one."""
    for locale in locales:
        if locale not in LOCALES:
            raise ValueError(f"locale got {locale!r}; want one of {', '.join(LOCALES)}")
