"""The run folder that every experiment writes, and the command line that opens it.

``config.json``, ``env.json`` and ``metrics.jsonl`` come first and always; ``summary.json``, ``figures/`` and
``report.html`` when there is something to show. ``metrics.jsonl`` is append-only and the source of truth.
"""

import contextlib
import csv
import dataclasses
import io
import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import matplotlib
from matplotlib.figure import Figure

Config = TypeVar("Config")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect; 0 is done, 1 failed, 2 wrong use."""


class Run(NamedTuple):
    """An open run folder."""

    folder: Path

    def log(self, **row: Any) -> None:
        """Appends one row to ``metrics.jsonl``; a number that is not finite becomes null."""
        row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def write(self, name: str, text: str) -> None:
        """Writes a text file whole or not at all."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".part")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a value as indented JSON."""
        self.write(name, json.dumps(value, indent=2) + "\n")

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


def open_run(folder: Path, config: Any, *, resume: bool = False, overwrite: bool = False) -> Run:
    """Makes the run folder, or goes on in an old one.

    Args:
        folder: where; nothing outside it is written.
        config: a dataclass, kept as ``config.json``. Fields named out, resume and overwrite say where and how to
            write, not what, and are left out.
        resume: go on in a folder of the same configuration.
        overwrite: delete what an earlier run left in the folder.

    Raises:
        ValueError: when the folder holds something and neither resume nor overwrite is given, when both are, when the
            configurations differ (it names the fields), or when overwriting would delete what no run wrote.
    """
    wanted = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("out", "resume", "overwrite")}
    wanted = json.loads(json.dumps(wanted, default=str))
    if resume and overwrite:
        raise ValueError("--resume and --overwrite got both; want one of them")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out got {folder}, which is a file; want a folder: choose another name")
    if folder.is_dir() and any(folder.iterdir()):
        _settle_with_old_run(folder, wanted, resume, overwrite)
    run = Run(folder)
    run.write_json("config.json", wanted)
    run.write_json("env.json", _environment())
    (folder / "metrics.jsonl").touch()
    return run


def _settle_with_old_run(folder: Path, wanted: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Checks that an old run may be resumed, or deletes one that may be overwritten."""
    if not (resume or overwrite):
        raise ValueError(f"--out got {folder}, which is not empty; want --resume, --overwrite or another folder")
    if not (folder / "config.json").is_file():
        raise ValueError(f"--out got {folder}, which no run wrote (it has no config.json); want another folder")
    if overwrite:
        shutil.rmtree(folder)
        return
    before = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    differ = sorted(k for k in before.keys() | wanted.keys() if before.get(k) != wanted.get(k))
    if differ:
        named = ", ".join(f"{k} was {before.get(k)!r}, now {wanted.get(k)!r}" for k in differ)
        raise ValueError(f"--resume got another configuration ({named}); want the same, --overwrite or another folder")


def _environment() -> Mapping[str, Any]:
    """Versions, device and commit, and the command's own words."""
    from rnn_jax.environment import environment

    return {**environment()._asdict(), "argv": sys.argv}


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``; a last line that an interruption left half written is dropped."""
    rows = []
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def parse(config_type: type[Config], argv: Sequence[str] | None = None) -> Config:
    """Reads the command line into a frozen dataclass; ``--help`` prints its comments.

    Raises:
        ValueError: on wrong use, with tyro's whole answer in one line.
    """
    import tyro

    answer = io.StringIO()
    try:
        with contextlib.redirect_stderr(answer):
            return tyro.cli(config_type, args=argv, prog=Path(sys.argv[0]).name)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    words = [line.strip(" │╭╮╰╯─-") for line in answer.getvalue().splitlines()]
    raise ValueError("; ".join(word for word in words if word))


@contextlib.contextmanager
def wrong_use() -> Iterator[None]:
    """Turns a ValueError or OSError into one line on stderr and exit code 2: put the checks of a command inside."""
    try:
        yield
    except (ValueError, OSError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None
