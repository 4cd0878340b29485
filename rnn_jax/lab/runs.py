"""The run folder that every experiment writes, and the command line that opens it.

``config.json``, ``env.json`` (one entry for each start) and ``metrics.jsonl`` come first and always; ``summary.json``,
``figures/`` and ``report.html`` when there is something to show. ``metrics.jsonl`` is the source of truth: appended to,
or cut back to where a run goes on, and the same run on the same machine writes it again bit for bit; times stand in
``timings.jsonl``. One process at a time works in a folder.
"""

import contextlib
import csv
import dataclasses
import errno
import io
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from matplotlib.figure import Figure

from rnn_jax.lab.checkpoints import drafts
from rnn_jax.lab.commands import run_begins
from rnn_jax.lab.environment import environment
from rnn_jax.lab.figures import images_of
from rnn_jax.lab.files import LISTING, FilePath, delete_listed, listed_files, onto_disk, path_inside, write_file

__all__ = ["Run", "open_run", "read_json", "read_metrics"]

WRITTEN_ALWAYS = {"config.json", "env.json", "metrics.jsonl"}
LOCK = ".lock"
GROWING = ("metrics.jsonl", "timings.jsonl", "samples.txt")
"""Files that are appended to."""
UNLISTED = {*WRITTEN_ALWAYS, *GROWING, LISTING}
"""Files of a run that are not in ``files.json``."""
FOLDERS = ("figures", "cells", "checkpoints")
TIMES = ("wall_s", "compile_s", "tokens_per_s")
"""Fields of a row that a second run does not repeat."""
IDENTITY = ("cell", "seed", "split", "step", "batches")
"""Fields that identify a row."""
NOT_KEPT = ("out", "resume", "extend", "overwrite", "workers", "questions")
NOT_KEPT += ("devices", "distributed", "coordinator", "processes", "process", "timeout", "start_timeout")
"""Options of where and how a run writes, which its numbers do not depend on."""
MAY_CHANGE = (*NOT_KEPT, "on_nonfinite", "patience")
"""Options that may change when a run goes on."""


class Run(NamedTuple):
    """An open run folder."""

    folder: Path

    def log(self, **row: Any) -> None:
        """Appends one row to ``metrics.jsonl``; a number that is not finite becomes null.

        Times go to ``timings.jsonl``, with every field that is not a floating number, to identify the row.
        """
        for name, line in zip(("timings.jsonl", "metrics.jsonl"), _lines_of(row), strict=True):
            if line:
                self.append(name, line)

    def write_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replaces ``metrics.jsonl`` and ``timings.jsonl`` by files of these rows, in this order."""
        timings, metrics = ("".join(lines) for lines in zip(("", ""), *map(_lines_of, rows), strict=True))
        self.write("timings.jsonl", timings)
        self.write("metrics.jsonl", metrics)

    def rows(self) -> list[dict[str, Any]]:
        """All rows, with their times."""
        timed = {_identity(row): row for row in read_metrics(self.folder, "timings.jsonl")}
        return [{**row, **timed.get(_identity(row), {})} for row in read_metrics(self.folder)]

    def path(self, name: str) -> Path:
        """The path of a file that the run writes; its name is added to ``files.json``, so that it may be deleted.

        Raises:
            ValueError: for a name that leads outside the folder.
        """
        path = path_inside(self.folder, name)
        known = path.relative_to(self.folder).as_posix()
        if known not in UNLISTED and known not in (names := listed_files(self.folder)):
            write_file(self.folder / LISTING, (json.dumps(sorted({*names, known}), indent=2) + "\n").encode())
        return path

    def append(self, name: str, text: str) -> None:
        """Appends to a text file."""
        with self.path(name).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)

    def lengths(self) -> dict[str, int]:
        """Bytes of every file that grows, for ``cut_back``; they are on the disk, even after a crash of the machine."""
        files = {name: file for name in GROWING if (file := self.folder / name).is_file()}
        for file in files.values():
            onto_disk(file)
        return {name: file.stat().st_size for name, file in files.items()}

    def cut_back(self, lengths: Mapping[str, int]) -> None:
        """Cuts each growing file back to its length in ``lengths``; a file without one is removed.

        Raises:
            ValueError: when a file is shorter.
        """
        now = self.lengths()
        for name in GROWING:
            file = self.folder / name
            if now.get(name, 0) < lengths.get(name, 0):
                raise ValueError(
                    f"{file} got {now.get(name, 0)} bytes; want {lengths[name]}: a part of the file is gone"
                )
            if name in lengths:
                os.truncate(file, lengths[name])
            elif name not in WRITTEN_ALWAYS:
                file.unlink(missing_ok=True)
            else:
                os.truncate(file, 0)

    def write(self, name: str, content: str | bytes) -> None:
        """Writes a file whole or not at all; text in UTF-8."""
        data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
        write_file(self.path(name), data)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a value as indented JSON; a number that is not finite becomes null."""
        self.write(name, json.dumps(_jsonable(value), indent=2, allow_nan=False) + "\n")

    def record_status(self, status: str) -> None:
        """Writes a status into ``summary.json`` and keeps what else is there."""
        file = self.folder / "summary.json"
        self.write_json(file.name, {**(read_json(file) if file.is_file() else {}), "status": status})

    def draw(self, name: str, figure: Figure, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
        """Writes ``figures/<name>`` as PNG and SVG, and its numbers as CSV; returns the SVG."""
        self.write_csv(f"figures/{name}.csv", columns, rows)
        images = images_of(figure)
        for kind, image in images.items():
            self.write(f"figures/{name}.{kind}", image)
        return images["svg"].decode("utf-8")

    def write_csv(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Writes a table as CSV."""
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([columns, *rows])
        self.write(name, table.getvalue())


def open_run(
    folder: FilePath,
    config: Any,
    *,
    facts: Mapping[str, Any] | None = None,
    machines: Mapping[str, int] | None = None,
    resume: bool = False,
    extend: Sequence[str] = (),
    overwrite: bool = False,
) -> Run:
    """A new run folder, or an old one in which the run goes on.

    Args:
        folder: its path; nothing outside it is written.
        config: a dataclass, kept as ``config.json`` without the fields in ``NOT_KEPT``.
        facts: more that must be equal for a run to go on, such as the checksum of its text.
        machines: the numbers of devices and processes over which training is split, which may change when a run goes
            on; a line is then printed. Without it, the devices of JAX.
        resume: go on in a folder of the same configuration.
        extend: names of fields that may grow when the run goes on: numbers that become larger, or lists that become
            longer. If any is given, ``resume`` is meant, and facts that are mappings may get more entries.
        overwrite: delete the files that an earlier run wrote into the folder.

    Raises:
        ValueError: when the folder holds anything and neither resume nor overwrite is given, when both are, when the
            configurations differ (the message names the fields), when the folder, or to be overwritten a file in it,
            was not written by a run, when a link stands where a run writes, or when another process works in it.
    """
    folder = Path(folder)
    wanted = {k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_KEPT}
    wanted = json.loads(json.dumps({**wanted, **(facts or {})}, default=str))
    resume = resume or bool(extend)
    if resume and overwrite:
        raise ValueError("--resume and --overwrite got both; want one of them")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out got {folder}, which is a file; want a folder: choose another name")
    for name in (*sorted(UNLISTED), LOCK, *FOLDERS):
        if (folder / name).is_symlink():
            raise ValueError(f"--out got {folder}, where {name} is a symbolic link; want files of its own: remove it")
    starts, old = [], folder.is_dir() and any(map(_counts, folder.iterdir()))
    if old:
        starts = _starts_of_old_run(folder, wanted, resume, overwrite, extend)
    _claim(folder)
    if overwrite:
        _delete_run(folder)
    run = Run(folder)
    now = dict(machines or {"devices": jax.device_count()})
    run.write_json("env.json", [*starts, {**environment()._asdict(), **now, "argv": sys.argv}])
    was = {name: starts[-1].get(name, number) for name, number in now.items()} if starts and machines else now
    if was != now:
        print(f"the run goes on with {_listed(now)} instead of {_listed(was)}: its numbers are the same up to rounding")
    (folder / "metrics.jsonl").touch()
    run.write_json("config.json", wanted)
    run_begins(run)
    return run


def _listed(numbers: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def _claim(folder: Path) -> None:
    """Locks a folder for this process until it ends; a ValueError if another process has locked it."""
    try:
        import fcntl
    except ModuleNotFoundError:  # a system without such locks, as some file systems are
        return
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(
        folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644
    )  # never closed, which would give the folder back
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise ValueError(f"--out got {folder}, where another process is at work; want another folder") from None


def _counts(path: Path) -> bool:
    """Whether a path in a run folder counts as content: hidden files, which systems leave, and empty ones do not."""
    return not path.name.startswith(".") and (path.is_symlink() or not path.is_file() or path.stat().st_size > 0)


def _starts_of_old_run(
    folder: Path, wanted: dict[str, Any], resume: bool, overwrite: bool, extend: Sequence[str]
) -> list[dict[str, Any]]:
    """The ``env.json`` of an old run; a ValueError unless the run may be resumed or overwritten."""
    if not (resume or overwrite):
        raise ValueError(f"--out got {folder}, which is not empty; want --resume, --overwrite or another folder")
    missing = sorted(name for name in WRITTEN_ALWAYS if not (folder / name).is_file())
    killed_at_once = "config.json" in missing  # which is written last
    foreign = next(_foreign(folder), None) if overwrite or killed_at_once else None
    if foreign or (missing and not killed_at_once):
        raise ValueError(f"--out got {folder}, which no run wrote (see {foreign or missing[0]}); want another folder")
    if overwrite:
        return []
    if not killed_at_once:
        before = _read(folder / "config.json", dict)
        for name in before.keys() & {*extend}:
            was, now = before[name], wanted[name]
            if not ({*was} <= {*now} if isinstance(was, list) else was <= now):
                raise ValueError(f"--extend got {name} {now!r}, where the run has {was!r}; want at least these")
        same = (before.keys() | wanted.keys()) - {*MAY_CHANGE, *extend}
        differ = sorted(k for k in same if not _agree(before.get(k), wanted.get(k), may_grow=bool(extend)))
        if differ:
            option = "--extend" if extend else "--resume"
            named = ", ".join(f"{k} was {before.get(k)!r}, now {wanted.get(k)!r}" for k in differ)
            raise ValueError(f"{option} got another configuration ({named}); want the same, or another folder")
    return _read(folder / "env.json", list) if "env.json" not in missing else []  # killed before it was written


def _agree(was: Any, now: Any, *, may_grow: bool) -> bool:
    """Whether a field is the same as before; a mapping that may grow is if its old entries are."""
    return was == now or (may_grow and isinstance(now, dict) and (was or {}).items() <= now.items())


def _foreign(folder: Path) -> Iterator[str]:
    """The names of all files in a folder and below that count and that no run wrote."""
    ours = listed_files(folder) | UNLISTED
    for checkpoint in (folder / "checkpoints").glob("*"):
        ours |= {f"checkpoints/{checkpoint.name}/{name}" for name in listed_files(checkpoint) | {LISTING}}
    written = {folder / name for name in ours} | {*drafts(folder / "checkpoints")}
    for top, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if Path(top, name) not in written)
        links = [name for name in folders if Path(top, name).is_symlink()]
        for path in (Path(top, name) for name in sorted([*files, *links])):
            if _counts(path) and path.with_name(path.name.removesuffix(".part")) not in written:
                yield path.relative_to(folder).as_posix()


def _delete_run(folder: Path) -> None:
    """Deletes the files of a run, and nothing else, in an order after which a killed deletion may be repeated."""
    for draft in drafts(folder / "checkpoints"):
        shutil.rmtree(draft)
    for checkpoint in (folder / "checkpoints").glob("*"):
        delete_listed(checkpoint)
    delete_listed(folder)
    for name in sorted(UNLISTED, key=lambda name: (name in WRITTEN_ALWAYS, name)):  # config.json the first of the last
        (folder / name).unlink(missing_ok=True)
        (folder / f"{name}.part").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty, or never there
        (folder / "checkpoints").rmdir()


def _lines_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """The lines of a row in ``timings.jsonl``, empty if it has no times, and in ``metrics.jsonl``."""
    times = {name: value for name, value in row.items() if name in TIMES}
    rest = {name: value for name, value in row.items() if name not in TIMES}
    which = {name: value for name, value in rest.items() if name in IDENTITY}
    return _line({**which, **times}) if times else "", _line(rest)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(_jsonable(row), allow_nan=False) + "\n"


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in IDENTITY)


def _jsonable(value: Any) -> Any:
    """The same value as plain Python, with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {k: _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    if hasattr(value, "tolist"):
        return _jsonable(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(file: FilePath) -> Any:
    """The content of a JSON file of a run.

    Raises:
        ValueError: if the file is missing or is no JSON.
    """
    return _read(Path(file), object)


def _read(file: Path, kind: type) -> Any:
    """The content of a JSON file; a ValueError if it cannot be read, or has another type."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, kind):
            raise ValueError(f"it holds a {type(found).__name__}")
    except (OSError, ValueError) as error:
        raise ValueError(f"run got {file}, which cannot be read ({error}); want the folder of a run") from None
    return found


def read_metrics(folder: FilePath, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The rows of a file of metrics; none without the file, and no last line that an interruption cut in two."""
    rows, file = [], Path(folder) / name
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows
