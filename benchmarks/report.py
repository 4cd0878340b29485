"""What a benchmark's command shows: a table, and one last line with the median and the worst ratio."""

import dataclasses
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.timing import Record, Side, Spread, append
from rnn_jax.lab.runs import parse, wrong_use

LOSING = 1.05
"""A case is marked as losing when ours takes more than this many times as long as the baseline."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Times ours against its baselines on whatever device jax finds, and keeps the figures as JSON lines."""

    quick: bool = False
    """Few cases, few repetitions."""
    out: Path | None = None
    """Append the JSON lines to this file; by default to benchmarks/results/."""


def command(*runs: Callable[[bool], Iterable[Record]]) -> None:
    """The command line of these benchmarks, ``[--quick] [--out FILE]``; exits with 2 on wrong use."""
    with wrong_use():
        options = parse(Options)
    for run in runs:
        show(append(run(options.quick), options.out))


def show(records: Iterable[Record]) -> None:
    """Prints the records of one benchmark as a table that grows as they come, and the summary below it."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    shown: list[Record] = []
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for record in records:
            shown.append(record)
            live.update(table(shown), refresh=True)
    console.print(table(shown))
    console.print(summary(shown), highlight=False, soft_wrap=True)


def table(records: list[Record]) -> Table:
    """A row for each record; cases that lose are red and say so."""
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
    """A record's row, as text; where there are two figures, ours comes first."""
    ours, baseline, ratio, _ = record.figures
    return [
        case_in_words(record),
        milliseconds(ours.seconds),
        milliseconds(baseline.seconds),
        f"{ratio.median:.2f}",
        f"{ratio.lower_quartile:.2f}–{ratio.upper_quartile:.2f}",
        f"{ours.compile_seconds:.2f} {baseline.compile_seconds:.2f}",
        f"{mebibytes(ours)} {mebibytes(baseline)}",
    ]


def case_in_words(record: Record) -> str:
    """A record's case: words stand alone, numbers behind their names."""
    case = record.case.items()
    return " ".join(value if isinstance(value, str) else f"{name} {value}" for name, value in case)


def milliseconds(seconds: Spread) -> str:
    """The median, in milliseconds."""
    return f"{1e3 * seconds.median:.3g}"


def mebibytes(side: Side) -> str:
    """The temporaries, in MiB; ? where they are not reported."""
    return "?" if side.temp_bytes is None else f"{side.temp_bytes / 2**20:.2f}"


def is_losing(record: Record) -> bool:
    """Whether ours takes more than ``LOSING`` times as long as the baseline, in the median of the pairs."""
    return record.figures.ratio.median > LOSING


def summary(records: list[Record]) -> str:
    """One line: how many cases lose, the median ratio over the cases, and the worst one."""
    worst = max(records, key=lambda record: record.figures.ratio.median)
    median = np.median([record.figures.ratio.median for record in records])
    losing = sum(map(is_losing, records))
    return (
        f"{worst.benchmark}: {losing} of {len(records)} cases lose by more than {LOSING - 1:.0%}; "
        f"median ratio {median:.2f}, worst {worst.figures.ratio.median:.2f} ({case_in_words(worst)})"
    )
