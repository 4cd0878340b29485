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

from rnn_jax.checkpoints import onto_disk
from rnn_jax.environment import environment

Config = TypeVar("Config")

WRITTEN_ALWAYS = {"config.json", "env.json", "metrics.jsonl"}
WRITTEN_WHERE_IT_APPLIES = {"timings.jsonl", "summary.json", "report.html", "vocab.json", "samples.txt"}
WRITTEN_WHERE_IT_APPLIES |= {"params.safetensors", "figures", "cells", "checkpoints"}
LOCK = ".lock"
GROWING = ("metrics.jsonl", "timings.jsonl", "samples.txt")
"""Files that are appended to."""
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

    def append(self, name: str, text: str) -> None:
        """Appends to a text file."""
        with (self.folder / name).open("a", encoding="utf-8") as file:
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

    def write(self, name: str, text: str) -> None:
        """Writes a text file whole or not at all."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".part")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a value as indented JSON; a number that is not finite becomes null."""
        self.write(name, json.dumps(_jsonable(value), indent=2, allow_nan=False) + "\n")

    def draw(self, name: str, figure: Figure, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Writes ``figures/<name>`` as PNG and SVG, with the numbers it shows as CSV."""
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([columns, *rows])
        self.write(f"figures/{name}.csv", table.getvalue())
        with matplotlib.rc_context({"svg.fonttype": "none"}):  # letters as letters: a tenth of the size
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once, for both
            for kind in ("png", "svg"):
                figure.savefig(self.folder / "figures" / f"{name}.{kind}", dpi=150)


def open_run(
    folder: Path, config: Any, *, facts: Mapping[str, Any] | None = None, resume: bool = False, overwrite: bool = False
) -> Run:
    """Makes the run folder, or goes on in an old one.

    Args:
        folder: where; nothing outside it is written.
        config: a dataclass, kept as ``config.json``. Fields in ``NOT_KEPT`` say where and how to write, not what, and
            are left out.
        facts: more that must be the same for a run to go on, such as the checksum of its text.
        resume: go on in a folder of the same configuration.
        overwrite: delete what an earlier run left in the folder.

    Raises:
        ValueError: when the folder holds something and neither resume nor overwrite is given, when both are, when the
            configurations differ (it names the fields), when the folder holds what no run wrote, or when another
            process is at work in it.
    """
    wanted = {k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_KEPT}
    wanted = json.loads(json.dumps({**wanted, **(facts or {})}, default=str))
    if resume and overwrite:
        raise ValueError("--resume and --overwrite got both; want one of them")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out got {folder}, which is a file; want a folder: choose another name")
    starts, old = [], folder.is_dir() and any(path.name != LOCK for path in folder.iterdir())
    if old:
        _check_old_run(folder, wanted, resume, overwrite)
    _claim(folder)
    if old:
        if overwrite:
            _delete_run(folder)
        elif (folder / "env.json").is_file():  # a start may have been killed before it was written
            starts = json.loads((folder / "env.json").read_text(encoding="utf-8"))
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
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)  # never closed, which would give the folder back
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise ValueError(f"--out got {folder}, where another process is at work; want another folder") from None


def _check_old_run(folder: Path, wanted: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Raises a ValueError unless this is a run's folder that may be resumed or overwritten."""
    if not (resume or overwrite):
        raise ValueError(f"--out got {folder}, which is not empty; want --resume, --overwrite or another folder")
    found = {path.name.removesuffix(".part") for path in folder.iterdir() if path.name != LOCK}
    killed_at_once = found <= WRITTEN_ALWAYS and not (folder / "config.json").exists()  # which is written last
    foreign = sorted(found - WRITTEN_ALWAYS - WRITTEN_WHERE_IT_APPLIES) or sorted(WRITTEN_ALWAYS - found)
    if foreign and not killed_at_once:
        raise ValueError(f"--out got {folder}, which no run wrote (see {foreign[0]}); want another folder")
    if killed_at_once:
        return
    before = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    differ = sorted(k for k in (before.keys() | wanted.keys()) - set(MAY_CHANGE) if before.get(k) != wanted.get(k))
    if resume and differ:
        named = ", ".join(f"{k} was {before.get(k)!r}, now {wanted.get(k)!r}" for k in differ)
        raise ValueError(f"--resume got another configuration ({named}); want the same, or another folder")


def _delete_run(folder: Path) -> None:
    """Deletes what a run wrote, and nothing else; in an order that, if it is killed, leaves what may be overwritten."""
    last = sorted(WRITTEN_ALWAYS, key="config.json".__ne__)
    rest = [path for path in folder.iterdir() if path.name not in (*last, LOCK)]
    for path in [*rest, *(folder / name for name in last if (folder / name).exists())]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


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


def read_json(file: Path) -> Any:
    """What a run wrote into one of its files.

    Raises:
        ValueError: when the file is missing or no JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"run got {file}, which cannot be read ({error}); want the folder of a run") from None


def read_metrics(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The rows of a file of them; a last line that an interruption left half written is dropped."""
    rows = []
    for line in (folder / name).read_text(encoding="utf-8").splitlines():
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

    Memory that runs out there ends with exit code 1, and Ctrl-C with 130.
    """
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
