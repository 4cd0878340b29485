"""The run folder that every experiment writes, and the command line that opens it.

``config.json``, ``env.json`` (one entry for each start) and ``metrics.jsonl`` come first and always; ``summary.json``,
``figures/`` and ``report.html`` when there is something to show. ``metrics.jsonl`` is the source of truth: appended to,
or cut back to where a run goes on, and holding what the same run on the same machine writes again bit for bit; what the
clock said stands in ``timings.jsonl``. One process at a time works in a folder.
"""

import contextlib
import csv
import dataclasses
import errno
import io
import itertools
import json
import math
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import matplotlib
from matplotlib.figure import Figure

from rnn_jax.lab.checkpoints import drafts
from rnn_jax.lab.environment import environment
from rnn_jax.lab.files import LISTING, FilePath, delete_listed, inside, listed, onto_disk, write_file
from rnn_jax.lab.plots import with_fonts

__all__ = ["INTERRUPTED", "Run", "command_line", "open_run", "read_metrics"]

Config = TypeVar("Config")

WRITTEN_ALWAYS = {"config.json", "env.json", "metrics.jsonl"}
LOCK = ".lock"
GROWING = ("metrics.jsonl", "timings.jsonl", "samples.txt")
"""Files that are appended to."""
UNLISTED = {*WRITTEN_ALWAYS, *GROWING, LISTING}
"""What a run writes without its name in ``files.json``."""
FOLDERS = ("figures", "cells", "checkpoints")
BY_THE_CLOCK = ("wall_s", "compile_s", "tokens_per_s")
"""Fields of a row that no second run repeats."""
NOT_KEPT = ("out", "resume", "overwrite", "workers", "ask")
"""Options that say where and how to write, not what."""
MAY_CHANGE = (*NOT_KEPT, "on_nonfinite", "patience")
"""Options that may change when a run goes on."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect; 0 is done, 1 failed, 2 wrong use."""


class Run(NamedTuple):
    """An open run folder."""

    folder: Path

    def log(self, **row: Any) -> None:
        """Appends one row to ``metrics.jsonl``; a number that is not finite becomes null.

        What the clock said goes to ``timings.jsonl``, with all that is no floating number to tell which row it is of.
        """
        clock = {name: value for name, value in row.items() if name in BY_THE_CLOCK}
        if clock:
            which = {name: value for name, value in row.items() if not isinstance(value, float)}
            self.append("timings.jsonl", json.dumps(_jsonable({**which, **clock}), allow_nan=False) + "\n")
        rest = {name: value for name, value in row.items() if name not in BY_THE_CLOCK}
        self.append("metrics.jsonl", json.dumps(_jsonable(rest), allow_nan=False) + "\n")

    def path(self, name: str) -> Path:
        """Where a file lies that the run writes; its name is kept in ``files.json``, or it would never be deleted.

        Raises:
            ValueError: for a name that leads outside the folder.
        """
        path = inside(self.folder, name)
        known = path.relative_to(self.folder).as_posix()
        if known not in UNLISTED and known not in (names := listed(self.folder)):
            write_file(self.folder / LISTING, (json.dumps(sorted({*names, known}), indent=2) + "\n").encode())
        return path

    def append(self, name: str, text: str) -> None:
        """Appends to a text file."""
        with self.path(name).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)

    def lengths(self) -> dict[str, int]:
        """Bytes of every file that grows, for ``cut_back``; they are on the disk, whatever befalls the machine."""
        files = {name: file for name in GROWING if (file := self.folder / name).is_file()}
        for file in files.values():
            onto_disk(file)
        return {name: file.stat().st_size for name, file in files.items()}

    def cut_back(self, lengths: Mapping[str, int]) -> None:
        """Drops what was appended to each file since it had these lengths; a file that had none is removed.

        Raises:
            ValueError: when a file is shorter.
        """
        now = self.lengths()
        for name in GROWING:
            file = self.folder / name
            if now.get(name, 0) < lengths.get(name, 0):
                raise ValueError(f"{file} got {now.get(name, 0)} bytes; want {lengths[name]}: what was written is gone")
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

    def draw(self, name: str, figure: Figure, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Writes ``figures/<name>`` as PNG and SVG, with the numbers it shows as CSV."""
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([columns, *rows])
        self.write(f"figures/{name}.csv", table.getvalue())
        with matplotlib.rc_context({"svg.fonttype": "none"}):  # characters as characters: a tenth of the size
            with_fonts(figure).draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once, for both
            for kind in ("png", "svg"):
                image = io.BytesIO()
                figure.savefig(image, format=kind, dpi=150)
                self.write(f"figures/{name}.{kind}", image.getvalue())


def open_run(
    folder: FilePath,
    config: Any,
    *,
    facts: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Makes the run folder, or goes on in an old one.

    Args:
        folder: where; nothing outside it is written.
        config: a dataclass, kept as ``config.json``. Fields in ``NOT_KEPT`` say where and how to write, not what, and
            are left out.
        facts: more that must be the same for a run to go on, such as the checksum of its text.
        resume: go on in a folder of the same configuration.
        overwrite: delete what an earlier run wrote into the folder.

    Raises:
        ValueError: when the folder holds something and neither resume nor overwrite is given, when both are, when the
            configurations differ (it names the fields), when no run wrote the folder or, to be overwritten, something
            in it, when a link stands where a run writes, or when another process is at work in it.
    """
    folder = Path(folder)
    wanted = {k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_KEPT}
    wanted = json.loads(json.dumps({**wanted, **(facts or {})}, default=str))
    if resume and overwrite:
        raise ValueError("--resume and --overwrite got both; want one of them")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out got {folder}, which is a file; want a folder: choose another name")
    for name in (*sorted(UNLISTED), LOCK, *FOLDERS):
        if (folder / name).is_symlink():
            raise ValueError(f"--out got {folder}, where {name} is a symbolic link; want files of its own: remove it")
    starts, old = [], folder.is_dir() and any(map(_counts, folder.iterdir()))
    if old:
        starts = _starts_of_old_run(folder, wanted, resume, overwrite)
    _claim(folder)
    if overwrite:
        _delete_run(folder)
    run = Run(folder)
    run.write_json("env.json", [*starts, {**environment()._asdict(), "argv": sys.argv}])
    (folder / "metrics.jsonl").touch()
    run.write_json("config.json", wanted)
    return run


def _claim(folder: Path) -> None:
    """Takes a folder for this process until it ends, even if the run is done; a ValueError when another has it."""
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
    """Whether a path in a run folder is anybody's: no hidden file, as systems leave them, and no empty one."""
    return not path.name.startswith(".") and (path.is_symlink() or not path.is_file() or path.stat().st_size > 0)


def _starts_of_old_run(folder: Path, wanted: dict[str, Any], resume: bool, overwrite: bool) -> list[dict[str, Any]]:
    """Its ``env.json``; a ValueError unless this is a run's folder that may be resumed or overwritten."""
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
        differ = sorted(k for k in (before.keys() | wanted.keys()) - set(MAY_CHANGE) if before.get(k) != wanted.get(k))
        if differ:
            named = ", ".join(f"{k} was {before.get(k)!r}, now {wanted.get(k)!r}" for k in differ)
            raise ValueError(f"--resume got another configuration ({named}); want the same, or another folder")
    return _read(folder / "env.json", list) if "env.json" not in missing else []  # killed before it was written


def _foreign(folder: Path) -> Iterator[str]:
    """The names of all that counts and that no run wrote, wherever it lies in the folder."""
    ours = listed(folder) | UNLISTED
    for checkpoint in (folder / "checkpoints").glob("*"):
        ours |= {f"checkpoints/{checkpoint.name}/{name}" for name in listed(checkpoint) | {LISTING}}
    written = {folder / name for name in ours} | {*drafts(folder / "checkpoints")}
    for top, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if Path(top, name) not in written)
        links = [name for name in folders if Path(top, name).is_symlink()]
        for path in (Path(top, name) for name in sorted([*files, *links])):
            if _counts(path) and path.with_name(path.name.removesuffix(".part")) not in written:
                yield path.relative_to(folder).as_posix()


def _delete_run(folder: Path) -> None:
    """Deletes what a run wrote, and nothing else; in an order that, if it is killed, leaves what may be overwritten."""
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


def _jsonable(value: Any) -> Any:
    """The same value as plain Python, with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {k: _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def command_line(script: str, config: Any, default: Any) -> str:
    """The command that runs a script with this configuration anew, ready for a shell.

    Args:
        script: its path.
        config: a dataclass, as ``parse`` read it.
        default: what ``parse`` gives to options that are not given.
    """
    words = ["python", script]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("resume", "overwrite") or value == getattr(default, field.name):
            continue
        words.append("--" + field.name.replace("_", "-"))
        if value is not True:
            words += [str(v) for v in (value if isinstance(value, tuple) else (value,))]
    return shlex.join([*words, "--overwrite"])


UNTOUCHED = (signal.SIG_IGN, None)
"""What answers Ctrl-C where a process was started to ignore it, as by ``nohup``, or where no Python function does."""


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back while results are written; it takes effect when they are.

    Outside the main thread, which alone Ctrl-C interrupts, and in a process that ignores it, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) in UNTOUCHED:
        yield
        return
    pressed: list[tuple[Any, ...]] = []
    before = signal.signal(signal.SIGINT, lambda *args: pressed.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def read_json(file: FilePath) -> Any:
    """What a run wrote into one of its files.

    Raises:
        ValueError: when the file is missing or no JSON.
    """
    return _read(Path(file), object)


def _read(file: Path, kind: type) -> Any:
    """What a JSON file holds; a ValueError when it cannot be read, or is of another kind."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, kind):
            raise ValueError(f"it holds a {type(found).__name__}")
    except (OSError, ValueError) as error:
        raise ValueError(f"run got {file}, which cannot be read ({error}); want the folder of a run") from None
    return found


def read_metrics(folder: FilePath, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The rows of a file of them; a last line that an interruption left half written is dropped."""
    rows = []
    for line in (Path(folder) / name).read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def parse(config_type: type[Config], argv: Sequence[str] | None = None, default: Config | None = None) -> Config:
    """Reads the command line into a frozen dataclass; ``--help`` prints its comments.

    Args:
        config_type: the dataclass; every field has a default.
        argv: words after the command's name; those of this process when None.
        default: what options have that are not given, when not those of the dataclass.

    Raises:
        ValueError: on wrong use, with tyro's whole answer in one line; for an option that is given twice; for a path
            that is empty.
    """
    import tyro

    answer = io.StringIO()
    try:
        with contextlib.redirect_stderr(answer):
            preset = config_type() if default is None else default
            config = tyro.cli(config_type, args=argv, prog=Path(sys.argv[0]).name, default=preset)
        _check_words(sys.argv[1:] if argv is None else argv, config)
        return config
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    lines = (line.strip().strip("│╭╮╰╯─").strip() for line in answer.getvalue().splitlines())
    _title, *words = (line for line in lines if any(map(str.isalnum, line)))
    raise ValueError("; ".join(words))


def _check_words(words: Sequence[str], config: Any) -> None:
    """Raises a ValueError for an option that the words give twice, or a path that they leave empty."""
    given: dict[str, str] = {}
    for word, following in itertools.zip_longest(words, words[1:]):
        option, equals, value = word.partition("=")
        name = option.removeprefix("--no-").removeprefix("--").replace("-", "_")
        if not option.startswith("--") or not hasattr(config, name):
            continue
        if name in given:
            raise ValueError(f"{option} got two values; want it once")
        given[name] = value if equals else following
        if given[name] == "" and isinstance(getattr(config, name), Path):
            raise ValueError(f"{option} got an empty path; want a name")


@contextlib.contextmanager
def wrong_use() -> Iterator[None]:
    """Turns a ValueError or OSError into one line on stderr and exit code 2: put the checks of a command inside.

    Memory that runs out there ends with exit code 1, and Ctrl-C with 130. From then on what the terminal's encoding
    lacks is printed as an escape, and ends nothing.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except (ValueError, OSError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None
    except MemoryError as error:
        print("error: out of memory " + " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
