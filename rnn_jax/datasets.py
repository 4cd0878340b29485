"""Texts to learn from."""

from pathlib import Path


def python_reference() -> str:
    """The Python language reference that every CPython carries: about 465,000 characters, no download.

    Its wording, and so its length, belong to the running Python version.
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        ValueError: when the file is missing, is no file, is empty, or is not UTF-8.
    """
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
