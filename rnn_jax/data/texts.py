"""Texts: by name, from a file, or the one that CPython carries."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from rnn_jax.data.parts import extra_package

__all__ = ["TEXTS", "TextFile", "named_text", "python_reference", "read_text"]


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
    pooch = extra_package("pooch", "pooch")
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
