"""Words and dates of twelve languages."""

import datetime
import re
from collections.abc import Iterable

from rnn_jax.data.parts import extra_package

__all__ = ["LOCALES", "STYLES", "locale_words", "write_date"]

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
"""Twelve languages in Latin script; no two of them read one written date as two days."""
STYLES = ("short", "medium", "long", "full")
"""How long a locale writes a date, in the terms of the Unicode CLDR."""


def locale_words(locale: str) -> list[str]:
    """The words that name months, days, languages and territories in a language: about 1,000, in lower case.

    From the Unicode CLDR that babel carries; accents are kept, phrases are split into words of three letters or more.

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
    """A date as a locale writes it.

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
    """Raises a ValueError that lists the known locales, unless all of these are."""
    for locale in locales:
        if locale not in LOCALES:
            raise ValueError(f"locale got {locale!r}; want one of {', '.join(LOCALES)}")
