"""Files that others have published: downloaded once, kept, and compared with a checksum."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from rnn_jax.data.parts import extra_package

__all__ = ["PublishedFile", "published_file"]


class PublishedFile(NamedTuple):
    """A published file: its name, address and checksum."""

    file: str
    url: str
    sha256: str


def published_file(name: str, published: PublishedFile) -> Path:
    """The path of a file in the folder ``RNN_JAX_DATA``, an environment variable, or downloaded once and kept.

    Without that variable, downloads are kept in the user's cache. The checksum is compared in every call.

    Args:
        name: of the data, for error messages.
        published: the file.

    Raises:
        ValueError: when pooch is missing; when the download fails; or when a file's checksum differs. A download with
            another checksum is removed.
    """
    file, url, sha256 = published
    folder = os.environ.get("RNN_JAX_DATA")
    kept = Path(folder or "") / file
    if folder and kept.is_file():
        found = hashlib.sha256(kept.read_bytes()).hexdigest()
        if found != sha256:
            raise ValueError(f"data got {kept}, whose SHA-256 is {found}; want {sha256}: remove it")
        return kept
    pooch = extra_package("pooch", "pooch")
    pooch.get_logger().setLevel("WARNING")
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", fname=file, path=folder or pooch.os_cache("rnn_jax")))
    except (OSError, ValueError) as error:  # no network; another checksum
        raise ValueError(
            f"data got no {name} from {url} ({' '.join(str(error).split())}); want it with SHA-256 {sha256}: "
            f"put it as {file} into a folder named by RNN_JAX_DATA"
        ) from error
