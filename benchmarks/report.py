"""The command line of benchmarks, and its output: a table, and a last line with the median and the worst ratio."""

import dataclasses
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.timing import Record, Side, Spread, append
from rnn_jax.lab.commands import parse, wrong_use

LOSING = 1.05
"""A case loses when the ratio, seconds of ours over seconds of the baseline, is above this number."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Times the library against baselines on the device that jax finds, and appends the results as JSON lines."""

    quick: bool = False
    """Few cases, few repetitions."""
    out: Path | None = None
    """The file to which results are appended; by default one in benchmarks/results/ for each benchmark."""


def command(*runs: Callable[[bool], Iterable[Any]]) -> None:
    """The command line of these benchmarks, ``[--quick] [--out FILE]``; exits with 2 on wrong use."""
    with wrong_use():
        options = parse(Options)
    for run in runs:
        show(append(run(options.quick), options.out))


def show(records: Iterable[Any]) -> None:
    """Prints the records of one benchmark.

    Records of pairs become a table that grows with each record, and a summary below it; others are printed one by one.
    """
    console = Console(width=None if sys.stdout.isatty() else 130)
    shown: list[Record] = []
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for record in records:
            if isinstance(record, Record):
                shown.append(record)
                live.update(table(shown), refresh=True)
            else:
                console.print(str(record), highlight=False, soft_wrap=True)
    if shown:
        console.print(table(shown))
        console.print(summary(shown), highlight=False, soft_wrap=True)


def table(records: list[Record]) -> Table:
    """A table with a row for each record; cases that lose are red, with the word loses in the last column."""
    first = records[0]
    where = f"{first.environment.device_kind}, jax {first.environment.jax}"
    grid = Table(
        title=f"{first.benchmark}: ours against {first.baseline} ({where})",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    grid.add_column("case")
    for name in ("ours ms", "baseline ms", "ratio", "quartiles", "compile s", "temp MiB", ""):
        grid.add_column(name, justify="right")
    for record in records:
        losing = is_losing(record)
        grid.add_row(*cells(record), "loses" if losing else "", style="red" if losing else None)
    return grid


def cells(record: Record) -> list[str]:
    """The cells of a record's row; where there are two numbers, ours is the first."""
    ours, baseline, ratio, _ = record.figures
    return [
        case_name(record),
        milliseconds(ours.seconds),
        milliseconds(baseline.seconds),
        f"{ratio.median:.2f}",
        f"{ratio.lower_quartile:.2f}–{ratio.upper_quartile:.2f}",
        f"{ours.compile_seconds:.2f} {baseline.compile_seconds:.2f}",
        f"{mebibytes(ours)} {mebibytes(baseline)}",
    ]


def case_name(record: Record) -> str:
    """The case of a record in one line: texts, and numbers after their names."""
    case = record.case.items()
    return " ".join(value if isinstance(value, str) else f"{name} {value}" for name, value in case)


def milliseconds(seconds: Spread) -> str:
    """The median, in milliseconds."""
    return f"{1e3 * seconds.median:.3g}"


def mebibytes(side: Side) -> str:
    """The temporaries in MiB; ? where the backend does not report them."""
    return "?" if side.temp_bytes is None else f"{side.temp_bytes / 2**20:.2f}"


def is_losing(record: Record) -> bool:
    """Whether the median of the ratio over the pairs is above ``LOSING``."""
    return record.figures.ratio.median > LOSING


def summary(records: list[Record]) -> str:
    """One line: the number of cases that lose, the median ratio over the cases, and the worst case."""
    worst = max(records, key=lambda record: record.figures.ratio.median)
    median = np.median([record.figures.ratio.median for record in records])
    losing = sum(map(is_losing, records))
    return (
        f"{worst.benchmark}: {losing} of {len(records)} cases lose by more than {LOSING - 1:.0%}; "
        f"median ratio {median:.2f}, worst {worst.figures.ratio.median:.2f} ({case_name(worst)})"
    )
