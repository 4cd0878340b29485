"""What the experiments share: the options of every study, jobs side by side, and a run that ends in good order."""

import contextlib
import dataclasses
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import numpy as np
import optax
from _own import raised_in_own
from jax.errors import JaxRuntimeError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from rnn_jax.data.text import Vocabulary
from rnn_jax.lab.runs import INTERRUPTED, Run, parse, read_metrics, uninterrupted

EXIT_CODES = {"done": 0, "failed": 1, "interrupted": INTERRUPTED}
FAULTS = (FloatingPointError, OSError, ValueError)
"""What a run can meet, besides memory that runs out: numbers that are not finite, a full disk, a damaged file."""
LARGEST = 2**31 - 1
"""Of an integer: what counts updates and places on a device has 32 bits."""
FLOAT32 = np.finfo(np.float32)
MOST = {"seeds": 10_000, "workers": 256, "layers": 100, "minutes": 525_600, "hidden_size": 2**24, "decoder_size": 2**24}
"""The largest value of an option, where it is below that of its type."""
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
    """Networks of each kind, at most 10,000."""
    workers: int = 2
    """Jobs at the same time, at most 256, each on a core of its own as far as there are cores."""


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
        ValueError: on wrong use, or for a number outside its range.
    """
    default = kind()
    if parse(kind, argv).smoke:
        default = dataclasses.replace(default, **smoke)
    config = parse(kind, argv, default)
    require_representable(config)
    require_positive(config, "batch_size", "looks", "updates")
    require_positive(config, "learning_rate", "clip", kind="number")
    if config.looks * config.updates > LARGEST:
        raise ValueError(
            f"--looks and --updates got {config.looks} times {config.updates} updates; want at most {LARGEST:,} in all"
        )
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


def require_representable(config: Any) -> None:
    """Raises a ValueError that names the first option whose number is too large, or too small for float32."""
    for field in dataclasses.fields(config):
        option, value = f"--{field.name.replace('_', '-')}", getattr(config, field.name)
        if field.name == "seed":
            if not 0 <= value < 2**32:
                raise ValueError(f"--seed got {value}; want an integer in [0, 2³²)")
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) or (isinstance(number, float) and np.isfinite(number)):
                most = MOST.get(field.name, LARGEST if isinstance(number, int) else float(FLOAT32.max))
                if abs(number) > most:
                    shown = f"{most:,}" if isinstance(most, int) else f"{most:.3g}"
                    raise ValueError(f"{option} got {number}; want at most {shown}")
                if 0 < abs(number) < FLOAT32.tiny:
                    raise ValueError(f"{option} got {number}; want 0 or at least {FLOAT32.tiny:.2g}, as float32 has it")


def require_room(config: Any, **needed: float) -> None:
    """Raises a ValueError when what a run holds at once is more than the memory of the machine.

    Args:
        config: the options.
        **needed: bytes, by the option that decides them; estimates will do.
    """
    has, needs = machine_memory(), sum(needed.values())
    if needs > has:
        option = max(needed, key=needed.__getitem__)
        raise ValueError(
            f"--{option.replace('_', '-')} got {getattr(config, option)}, with which the run needs about "
            f"{needs / 2**30:,.1f} GiB, this machine has {has / 2**30:,.1f} GiB; want less"
        )


def machine_memory() -> float:
    """Bytes that arrays may take: those of the accelerator, or of the machine, or of the group of processes in it."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    known = [float("inf")]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # no such figures on every system
        known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        known.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))  # "max" where there is no limit
    return min(known)


def numbers_of(tree: Any) -> int:
    """How many numbers there are in a tree of arrays, or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def show_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]], legend: str, *lines: str) -> None:
    """Prints a table and the lines below it; whatever a user named is printed as it is, no markup."""
    grid = Table(*columns, title=title, caption=legend, caption_style="dim")
    for row in rows:
        grid.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 140, markup=False, highlight=False, emoji=False)
    console.print(grid, *lines, sep="\n")


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


class Bars(NamedTuple):
    """The progress of several jobs: a bar for each on a terminal, elsewhere a plain line for each evaluation."""

    progress: Progress
    tasks: dict[str, TaskID]

    def tick(self, name: str, doing: str, looks: int = 0) -> None:
        """Says what a job is doing, and how many evaluations are behind it since it last said so."""
        task = self.tasks[name]
        self.progress.start_task(task)
        self.progress.update(task, doing=doing, advance=looks)
        if looks and self.progress.disable:
            known = next(known for known in self.progress.tasks if known.id == task)
            self.say(f"{time.strftime('%H:%M:%S')} {name}: evaluation {known.completed:.0f} of {known.total}, {doing}")

    def say(self, line: str) -> None:
        """Prints one line; lost where nobody reads it any more, which is no reason to end a run."""
        if not self.progress.disable:
            self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
            return
        encoding = sys.stdout.encoding or "utf-8"
        with contextlib.suppress(OSError):
            sys.stdout.write(line.encode(encoding, "replace").decode(encoding) + "\n")
            sys.stdout.flush()


@contextlib.contextmanager
def progress_of(names: Iterable[str], looks: int | None) -> Iterator[Bars]:
    """``Bars`` of jobs with these names, of so many evaluations each, for as long as the context lasts."""
    texts = [TextColumn(text, markup=False) for text in ("{task.description:<14}", "{task.fields[doing]}")]
    columns = texts[0], BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), texts[1]
    with Progress(*columns, disable=not (sys.stdout.isatty() or Console().is_jupyter)) as progress:
        tasks = {name: progress.add_task(name, total=looks, doing="waiting", start=False) for name in names}
        yield Bars(progress, tasks)


def side_by_side(
    config: Study, jobs: Mapping[str, Callable[[Tick], Result]], done: Callable[[str, Result], None]
) -> None:
    """Does several jobs at a time, and shows the progress of each.

    Args:
        config: says how many, and how many looks a bar is long.
        jobs: ``{name: job}``; a job is given its ``Tick``.
        done: takes the name and the result of each job as it ends; Ctrl-C waits for it.
    """
    stop = threading.Event()
    with progress_of(jobs, config.looks) as bars, ThreadPoolExecutor(config.workers) as pool:

        def tick(name: str, doing: str, looks: int = 0) -> None:
            if stop.is_set():
                raise CancelledError
            bars.tick(name, doing, looks)

        futures = {pool.submit(job, partial(tick, name)): name for name, job in jobs.items()}
        try:
            for future in as_completed(futures):
                name, result = futures[future], future.result()
                with uninterrupted():
                    done(name, result)
                bars.tick(name, "done")
                bars.progress.stop_task(bars.tasks[name])
        except BaseException:  # Ctrl-C too
            stop.set()
            bars.say("stopping: each job ends the step it is at")
            pool.shutdown(cancel_futures=True)
            raise


def of_skipped(run: Run) -> str:
    """What is to be said of updates that were skipped; nothing where there were none."""
    rows = (row for row in read_metrics(run.folder) if row["split"] == "train")
    return about_skipped(list(rows))


def about_skipped(rows: Sequence[Mapping[str, Any]]) -> str:
    """The sentence on skipped updates, of the metrics of training; each row counts them from the first update on."""
    last = {(row["cell"], row["seed"]): row for row in rows}
    counts = {cell: sum(row.get("skipped", 0) for (of, _), row in last.items() if of == cell) for cell, _ in last}
    told = ", ".join(f"{count:,} of {cell}" for cell, count in counts.items() if count)
    never = [cell for (cell, _), row in last.items() if row.get("skipped") and row.get("step") == 0]
    cause = (
        f" With {', '.join(dict.fromkeys(never))} none was made, of which no learning rate is the cause: its first "
        "params, its inputs, or an id outside the cell's vocabulary are."
    )
    said = f" Updates that were skipped, as something was not finite: {told}." if told else ""
    return said + cause if never else said


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
    except Exception as error:
        told = tell(error)
    finally:
        try:
            with contextlib.suppress(KeyboardInterrupt), uninterrupted():
                publish(status)
        except Exception as error:
            status, told = "failed", (told and isinstance(error, (*FAULTS, MemoryError))) or tell(error)
    return EXIT_CODES[status]


def tell(error: Exception) -> bool:
    """Says an error in one line on stderr, and returns True; raises it where it is none that a run can meet."""
    said = " ".join(str(error).split())
    line = raised_in_own(error)
    full = isinstance(error, JaxRuntimeError) and re.search("out of memory|resource_exhausted|bad_alloc", said, re.I)
    if full or isinstance(error, MemoryError):
        line = f"out of memory ({said[:200]}); want a smaller network, batch or window"
    elif line is None and isinstance(error, FAULTS):
        line = said
    if line is None:
        raise error
    print(f"error: {line}", file=sys.stderr)
    return True
