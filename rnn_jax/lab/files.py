"""Files that are written whole or not at all, under any name, and the list of those that may be deleted."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "LISTING",
    "FilePath",
    "delete_listed",
    "linked_path",
    "list_files",
    "listed_files",
    "onto_disk",
    "path_inside",
    "write_file",
]

FilePath = str | os.PathLike[str]
LISTING = "files.json"
"""The file that lists the files of a folder that may be deleted."""


def write_file(file: Path, data: bytes) -> None:
    """Writes a file whole or not at all; a link that stands in its place is replaced, not followed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(file.name + ".part")
    draft.unlink(missing_ok=True)
    try:
        draft.write_bytes(data)
        onto_disk(draft)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    draft.replace(file)


def onto_disk(file: Path) -> None:
    """Waits until a file is on the disk, so that it is whole even after a crash of the machine."""
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())


@contextlib.contextmanager
def linked_path(path: Path) -> Iterator[Path]:
    """A context with a link to a path; the link has a simple name, for libraries that cannot read every name.

    Orbax takes brackets in a path for a pattern, tensorstore takes a backslash for a slash, both take some names for
    addresses on the network, and neither reads names that are not UTF-8.
    """
    with tempfile.TemporaryDirectory(prefix="rnn_jax_") as folder:
        link = Path(folder) / "link"
        link.symlink_to(path.absolute(), target_is_directory=path.is_dir())
        yield link


def listed_files(folder: Path) -> set[str]:
    """The names of the files in the ``files.json`` of a folder; none if it is damaged."""
    try:
        names = json.loads((folder / LISTING).read_text(encoding="utf-8"))
        return {name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts}
    except (OSError, ValueError, TypeError):
        return set()


def list_files(folder: Path) -> None:
    """Writes the names of all files of a folder into its ``files.json``."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_file(folder / LISTING, json.dumps(names).encode())


def delete_listed(folder: Path) -> None:
    """Deletes the files that ``files.json`` lists, and folders that are empty then; all other files stay."""
    names = listed_files(folder)
    for name in (*names, LISTING) if names else ():
        (folder / name).unlink(missing_ok=True)
        (folder / f"{name}.part").unlink(missing_ok=True)
    parents = {parent for name in names for parent in Path(name).parents} | {Path()}
    for parent in sorted(parents, key=lambda path: -len(path.parts)):
        with contextlib.suppress(OSError):  # not empty, or gone
            (folder / parent).rmdir()


def path_inside(folder: Path, name: str) -> Path:
    """The path of this name in a run folder; a ValueError if it leads outside the folder."""
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        raise ValueError(f"name got {name!r}; want a path inside the run folder {folder}")
    return folder / name
