"""Texts: by name, from a file, or the language reference in CPython; as numbers, in parts cut by position."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from rnn_jax.data.downloads import PublishedFile, published_file
from rnn_jax.data.parts import Parts
from rnn_jax.data.text import Vocabulary, vocabulary
from rnn_jax.machinery.checks import in_one_line, require_positive

__all__ = ["TEXTS", "Text", "load_text", "named_text", "python_reference", "read_text", "text_parts"]


class Text(NamedTuple):
    """A text as numbers."""

    ids: Int[np.ndarray, " N"]
    vocabulary: Vocabulary
    name: str
    """The file, the name in ``TEXTS``, or "the Python language reference"."""
    sha256: str
    """Of the characters in UTF-8, to compare the texts of two runs."""


def load_text(file: str | os.PathLike[str] | None = None, name: str = "") -> Text:
    """The text of a file, or a named text; without either, the Python language reference in CPython.

    Args:
        file: UTF-8.
        name: a key of ``TEXTS``.

    Raises:
        ValueError: for both a file and a name; when there is no such text; when the text has one distinct character.

    >>> text = load_text()
    >>> text.vocabulary.decode(text.ids[:15])
    'The "assert" st'
    """
    if file and name:
        raise ValueError(f"file and name got {file} and {name}; want one of them")
    text = read_text(file) if file else named_text(name) if name else python_reference()
    characters = vocabulary(text)
    if characters.size < 2:
        raise ValueError("text got one distinct character; want at least two, so that there is something to predict")
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Text(characters.encode(text), characters, str(file or name or "the Python language reference"), sha256)


def text_parts(text: Text, split: str = "90/5/5", *, at_most: int | None = None, at_least: int = 2) -> Parts:
    """The ids of a text in parts cut by position, each ``(n,)``: first training, then validation, then test.

    Args:
        text: as ``load_text`` returns it.
        split: percent of the three parts, such as ``"90/5/5"``; with two, such as ``"90/10"``, the test part is empty.
        at_most: characters of the validation and of the test part; the training part gets the rest.
        at_least: characters that each part must have.

    Raises:
        ValueError: for a split that is not two or three positive percentages of sum 100, or a text too short for it.

    >>> text = load_text()
    >>> parts = text_parts(text, "90/5/5", at_most=10_000)
    >>> len(parts.validation), len(parts.test), len(parts.train) + 20_000 == len(text.ids)
    (10000, 10000, True)
    """
    shares = split.split("/")
    if not all(share.isdecimal() and int(share) > 0 for share in shares) or len(shares) not in (2, 3):
        raise ValueError(f"split got {in_one_line(split)}; want percent such as 90/5/5 or 90/10")
    if sum(map(int, shares)) != 100:
        raise ValueError(f"split got {split!r}, {sum(map(int, shares))} percent; want 100")
    require_positive(at_least=at_least, at_most=len(text.ids) if at_most is None else at_most)
    ends = np.cumsum([0, *map(int, shares)]) * len(text.ids) // 100
    held_out = np.minimum(np.diff(ends)[1:], at_most or len(text.ids))
    sizes = [len(text.ids) - held_out.sum(), *held_out]
    if min(sizes) < at_least:
        raise ValueError(f"text got {len(text.ids)} characters; want at least {at_least} in each part of {split}")
    train, validation, test = np.split(text.ids, np.cumsum(sizes))[:3]
    return Parts(train, validation, test)


TEXTS = {
    "tiny_shakespeare": PublishedFile(
        "tiny_shakespeare.txt",
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}
"""Texts by name. tiny_shakespeare: 1.1 million characters of plays; Karpathy. The unreasonable effectiveness of
recurrent neural networks. 2015."""


def named_text(name: str) -> str:
    """A text by its name: from the folder in the environment variable ``RNN_JAX_DATA``, or downloaded once and kept.

    Without that variable, downloads are kept in the user's cache. The checksum is compared in every call.

    Args:
        name: a key of ``TEXTS``.

    Raises:
        ValueError: for an unknown name; when pooch is missing; when the download fails; or when a file's checksum
            differs. A download with another checksum is removed.
    """
    if name not in TEXTS:
        raise ValueError(f"data got {name!r}; want one of {', '.join(TEXTS)}, or your own text file")
    return read_text(published_file(name, TEXTS[name]))


def python_reference() -> str:
    """The Python language reference, a part of every CPython: about 465,000 characters, no download.

    Its wording, and so its length, depend on the Python version.
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
        text = path.read_text(encoding="utf-8-sig")  # the byte order mark is not a character
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text got {path}, which is not UTF-8 at byte {error.start}; want UTF-8: convert it, for example with iconv"
        ) from None
    if not text:
        raise ValueError(f"text got {path}, which is empty; want a UTF-8 text file with something to learn from")
    return text
