"""What the experiments share: the options of every study, jobs side by side, and a run that ends in good order."""

import contextlib
import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import optax
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rnn_jax.runs import INTERRUPTED, Run, parse, read_metrics, uninterrupted
from rnn_jax.text import Vocabulary

EXIT_CODES = {"done": 0, "failed": 1, "interrupted": INTERRUPTED}
FAULTS = (FloatingPointError, OSError, ValueError)
"""What a run can meet: numbers that are not finite, a full disk, a damaged file."""
QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclasses.dataclass(frozen=True)
class Options:
    """What every experiment can be told; each adds its own and sets the defaults."""

    seed: int = 0
    """The one source of randomness, of networks and batches; how data is cut is the same in every run."""
    batch_size: int = 64
    """Examples, or lanes of text, read side by side."""
    looks: int = 10
    """Times that training pauses for a look at the scores."""
    updates: int = 100
    """Optimizer steps from one look to the next."""
    learning_rate: float = 5e-3
    """The highest of Adam: up to it over the first sixth of the updates, then down along a cosine."""
    clip: float = 1.0
    """Largest global norm of a gradient."""
    smoke: bool = False
    """A run of seconds, to see that everything works."""
    out: Path = Path("runs/study")
    """The run folder."""
    resume: bool = False
    """Go on in the run folder, keeping what is finished."""
    overwrite: bool = False
    """Delete what is in the run folder."""


@dataclasses.dataclass(frozen=True)
class Study(Options):
    """What a study of many networks can be told."""

    seeds: int = 3
    """Networks of each kind."""
    workers: int = 2
    """Jobs at the same time, each on a core of its own as far as there are cores."""


Config = TypeVar("Config", bound=Options)
Result = TypeVar("Result")


class Tick(Protocol):
    """Tells the progress bar of a job what it is doing and how many looks are behind it."""

    def __call__(self, doing: str, looks: int = 0) -> None:
        """Raises ``CancelledError`` when the job is to stop."""
        ...


def read_options(kind: type[Config], smoke: Mapping[str, Any], argv: list[str] | None) -> tuple[Config, Config]:
    """The configuration that the command line asks for, and the defaults it was read against.

    Args:
        kind: the experiment's configuration.
        smoke: its fields in a run of seconds.
        argv: words after the command's name; those of this process when None.

    Raises:
        ValueError: on wrong use, or for a field that must be positive and is not.
    """
    default = kind()
    if parse(kind, argv).smoke:
        default = dataclasses.replace(default, **smoke)
    config = parse(kind, argv, default)
    require_positive(config, "batch_size", "looks", "updates")
    require_positive(config, "learning_rate", "clip", kind="number")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"--seed got {config.seed}; want an integer in [0, 2³²)")
    if isinstance(config, Study):
        require_positive(config, "seeds", "workers")
        # XLA's threads on a CPU. With one a core, jobs side by side can take them all, each waiting for the other.
        os.environ.setdefault("NPROC", str((os.cpu_count() or 1) + 2 * config.workers))
    return config, default


def require_positive(config: Options, *names: str, kind: str = "integer") -> None:
    """Raises a ValueError that names the first of these options which is not positive."""
    for name in names:
        value = getattr(config, name)
        if not 0 < value < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} got {value}; want a positive {kind}")


def require_known(letters: Vocabulary, option: str, lines: Iterable[str]) -> None:
    """Raises a ValueError that names the option if a line is empty, or has letters outside the vocabulary."""
    for line in lines:
        if not line:
            raise ValueError(f"--{option} got an empty source; want at least one letter")
        try:
            letters.encode(line)
        except ValueError as error:
            raise ValueError(f"--{option} got {line!r}: {error}") from None


def learning_rate(config: Options) -> optax.Schedule:
    """The rate at every update: ReLU needs the gentle beginning, and all get the same."""
    total = config.looks * config.updates
    warm = -(-total // 6)
    return optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warm, max(total, warm + 1), config.learning_rate / 20
    )


def optimizer(config: Options) -> optax.GradientTransformation:
    """Adam, for gradients that the learner has clipped."""
    return optax.adam(learning_rate(config))


def compiled(config: Options, f: Callable, *args: Any) -> Callable:
    """The program for these arguments; compiled in a hurry for a smoke run, which is nearly all compiling."""
    return jax.jit(f, compiler_options=QUICK_COMPILE if config.smoke else None).lower(*args).compile()


def side_by_side(
    config: Study, jobs: Mapping[str, Callable[[Tick], Result]], done: Callable[[str, Result], None]
) -> None:
    """Does several jobs at a time, with a progress bar for each.

    Args:
        config: says how many, and how many looks a bar is long.
        jobs: ``{name: job}``; a job is given its ``Tick``.
        done: takes the name and the result of each job as it ends; Ctrl-C waits for it.
    """
    stop = threading.Event()
    columns = TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TextColumn("{task.fields[doing]}")) as progress, ThreadPoolExecutor(config.workers) as pool:
        bars = {name: progress.add_task(name, total=config.looks, doing="waiting", start=False) for name in jobs}

        def tick(name: str, doing: str, looks: int = 0) -> None:
            if stop.is_set():
                raise CancelledError
            progress.start_task(bars[name])
            progress.update(bars[name], doing=doing, advance=looks)

        futures = {pool.submit(job, partial(tick, name)): name for name, job in jobs.items()}
        try:
            for future in as_completed(futures):
                name, result = futures[future], future.result()
                with uninterrupted():
                    done(name, result)
                progress.update(bars[name], doing="done")
                progress.stop_task(bars[name])
        except BaseException:  # Ctrl-C too
            stop.set()
            progress.console.print("stopping: each job ends the step it is at")
            pool.shutdown(cancel_futures=True)
            raise


def of_skipped(run: Run) -> str:
    """What is to be said of updates that were skipped; nothing where there were none."""
    rows = (row for row in read_metrics(run.folder) if row["split"] == "train")
    return about_skipped(list(rows))


def about_skipped(rows: Sequence[Mapping[str, Any]]) -> str:
    """The sentence on skipped updates, of the metrics of training; each row counts them from the first update on."""
    last = {(row["cell"], row["seed"]): row.get("skipped", 0) for row in rows}
    counts = {cell: sum(n for (of, _), n in last.items() if of == cell) for cell, _ in last}
    told = ", ".join(f"{count:,} of {cell}" for cell, count in counts.items() if count)
    return f" Updates that were skipped, as something was not finite: {told}." if told else ""


def of_smoke(run: Run) -> str:
    """The sentence on a run with ``--smoke``; nothing for another."""
    if not _is_smoke(run):
        return ""
    return " This is a smoke run of a few seconds, which shows that everything works; its numbers mean nothing."


def titled(run: Run, title: str) -> str:
    """The title of a page; that of a run with ``--smoke`` says so."""
    return f"{title} (smoke run)" if _is_smoke(run) else title


def _is_smoke(run: Run) -> bool:
    return json.loads((run.folder / "config.json").read_text(encoding="utf-8"))["smoke"]


def carry_out(work: Callable[[], None], publish: Callable[[str], None]) -> int:
    """Does the work, publishes what is finished whatever happens, and returns the exit code.

    Args:
        work: the run.
        publish: writes summary and report; its argument says how the run ended: done, failed, interrupted.
    """
    status, told = "failed", False
    try:
        work()
        status = "done"
    except KeyboardInterrupt:
        status = "interrupted"
    except FAULTS as error:
        told = tell(error)
    finally:
        try:
            with contextlib.suppress(KeyboardInterrupt), uninterrupted():
                publish(status)
        except FAULTS as error:
            status, told = "failed", told or tell(error)
    return EXIT_CODES[status]


def tell(error: Exception) -> bool:
    """Says an error in one line on stderr; returns True."""
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    return True
