"""Progress of several jobs: bars on a terminal or in a notebook, elsewhere one plain line for each evaluation."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from functools import partial
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from rnn_jax.lab.commands import uninterrupted

__all__ = ["Bars", "Report", "finished_jobs", "print_table", "progress_bars"]

Result = TypeVar("Result")


@runtime_checkable
class Report(Protocol):
    """Reports the progress of a job: ``(doing, evaluations=0)``."""

    def __call__(self, doing: str, evaluations: int = 0) -> None:
        """Shows the current step of the job, and adds its evaluations since the last report to the bar.

        Raises:
            CancelledError: when the job is to stop.
        """
        ...


class Bars(NamedTuple):
    """Progress bars with names."""

    progress: Progress
    tasks: dict[str, TaskID]

    def report(self, name: str, doing: str, evaluations: int = 0) -> None:
        """Shows the current step of a job, and adds its evaluations since the last report to its bar."""
        task = self.tasks[name]
        self.progress.start_task(task)
        self.progress.update(task, doing=doing, advance=evaluations)
        if evaluations and self.progress.disable:
            bar = next(bar for bar in self.progress.tasks if bar.id == task)
            self.print(f"{time.strftime('%H:%M:%S')} {name}: evaluation {bar.completed:.0f} of {bar.total}, {doing}")

    def print(self, line: str) -> None:
        """Prints one line above the bars; if the output is closed, the run goes on without it."""
        if not self.progress.disable:
            self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
            return
        encoding = sys.stdout.encoding or "utf-8"
        with contextlib.suppress(OSError):
            sys.stdout.write(line.encode(encoding, "replace").decode(encoding) + "\n")
            sys.stdout.flush()


@contextlib.contextmanager
def progress_bars(names: Iterable[str], evaluations: int | None) -> Iterator[Bars]:
    """A context with ``Bars`` for jobs of these names, each with this number of evaluations."""
    texts = [TextColumn(text, markup=False) for text in ("{task.description:<14}", "{task.fields[doing]}")]
    columns = texts[0], BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), texts[1]
    with Progress(*columns, disable=not (sys.stdout.isatty() or Console().is_jupyter)) as progress:
        tasks = {name: progress.add_task(name, total=evaluations, doing="waiting", start=False) for name in names}
        yield Bars(progress, tasks)


def finished_jobs(
    jobs: Mapping[str, Callable[[Report], Result]], workers: int, evaluations: int
) -> Iterator[tuple[str, Result]]:
    """Runs jobs in threads; yields the name and the result of each as it ends.

    Args:
        jobs: ``{name: job}``; a job is called with its ``Report``.
        workers: jobs at the same time.
        evaluations: length of each bar.

    While a result is used Ctrl-C is held back. After Ctrl-C, or when a job raises, every other job stops at its next
    report.
    """
    stop = threading.Event()
    with progress_bars(jobs, evaluations) as bars, ThreadPoolExecutor(workers) as pool:

        def report(name: str, doing: str, evaluations: int = 0) -> None:
            if stop.is_set():
                raise CancelledError
            bars.report(name, doing, evaluations)

        futures = {pool.submit(job, partial(report, name)): name for name, job in jobs.items()}
        try:
            for future in as_completed(futures):
                name, result = futures[future], future.result()
                with uninterrupted():
                    yield name, result
                bars.report(name, "done")
                bars.progress.stop_task(bars.tasks[name])
        except BaseException:  # Ctrl-C too
            stop.set()
            bars.print("stopping: each job ends its current step")
            pool.shutdown(cancel_futures=True)
            raise


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]], legend: str, *lines: str) -> None:
    """Prints a table and the lines below it, without any markup in names that a user chose."""
    grid = RichTable(*columns, title=title, caption=legend, caption_style="dim")
    for row in rows:
        grid.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 140, markup=False, highlight=False, emoji=False)
    console.print(grid, *lines, sep="\n")
