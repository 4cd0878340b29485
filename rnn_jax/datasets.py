"""Data to learn from: texts, images of digits, words and dates of many languages."""

import datetime
import hashlib
import importlib
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rnn_jax.checks import in_one_line, is_whole, require_numbers

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
    found = _package("sklearn.datasets", "scikit-learn").load_digits()
    return Digits((found.images / 16).astype(np.float32), found.target.astype(np.int32))


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
    data = _package("babel", "babel").Locale.parse(locale)
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
    return _package("babel.dates", "babel").format_date(day, style, locale)


def require_locales(locales: Iterable[str]) -> None:
    """Raises a ValueError that lists the known locales, unless all of these are."""
    for locale in locales:
        if locale not in LOCALES:
            raise ValueError(f"locale got {locale!r}; want one of {', '.join(LOCALES)}")


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


class TextFile(NamedTuple):
    """A text that others have published."""

    file: str
    url: str
    sha256: str


TEXTS = {
    "tiny_shakespeare": TextFile(
        "tiny_shakespeare.txt",
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}
"""Texts by name. tiny_shakespeare: 1.1 million letters of plays; Karpathy. The unreasonable effectiveness of recurrent
neural networks. 2015."""


def named_text(name: str) -> str:
    """A text by its name: from the folder that the variable ``RNN_JAX_DATA`` names, or downloaded once and kept.

    A download goes to that folder, or without it to the user's cache. The checksum is asked for every time.

    Args:
        name: a key of ``TEXTS``.

    Raises:
        ValueError: for an unknown name; when pooch is missing; when it cannot be downloaded; or when a file's checksum
            differs, a download being removed.
    """
    if name not in TEXTS:
        raise ValueError(f"data got {name!r}; want one of {', '.join(TEXTS)}, or a text file of your own")
    text, folder = TEXTS[name], os.environ.get("RNN_JAX_DATA")
    kept = Path(folder or "") / text.file
    if folder and kept.is_file():
        found = hashlib.sha256(kept.read_bytes()).hexdigest()
        if found != text.sha256:
            raise ValueError(f"data got {kept}, whose SHA-256 is {found}; want {text.sha256}: remove it")
        return read_text(kept)
    pooch = _package("pooch", "pooch")
    pooch.get_logger().setLevel("WARNING")
    try:
        fetched = pooch.retrieve(
            text.url, f"sha256:{text.sha256}", fname=text.file, path=folder or pooch.os_cache("rnn_jax")
        )
    except (OSError, ValueError) as error:  # no network; another checksum
        raise ValueError(
            f"data got no {name} from {text.url} ({' '.join(str(error).split())}); want it with SHA-256 {text.sha256}: "
            f"put it as {text.file} into a folder named by RNN_JAX_DATA"
        ) from error
    return read_text(Path(fetched))


def python_reference() -> str:
    """The Python language reference that every CPython carries: about 465,000 characters, no download.

    Its wording, and so its length, belong to the running Python version.
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file.

    Raises:
        ValueError: when the file is missing, is no file, is empty, or is not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"text got {path}, which is no file; want a UTF-8 text file: check the path")
    try:
        text = path.read_text(encoding="utf-8-sig")  # a byte order mark is no letter
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text got {path}, which is not UTF-8 at byte {error.start}; want UTF-8: convert it, for example with iconv"
        ) from None
    if not text:
        raise ValueError(f"text got {path}, which is empty; want a UTF-8 text file with something to learn from")
    return text


def _package(module: str, name: str) -> Any:
    """A module of an extra package; a ValueError when it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"this data got no {name}, which carries it; want it: pip install 'rnn-jax-lab[data]'"
        ) from error
