"""Timings of two programs in pairs of runs, and results as JSON lines."""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import numpy as np

from rnn_jax.lab.environment import Environment

ROOT = Path(__file__).resolve().parent.parent


class AnyRecord(Protocol):
    """One line of any benchmark's results: a NamedTuple with at least these fields."""

    @property
    def benchmark(self) -> str: ...

    @property
    def environment(self) -> Environment: ...


Line = TypeVar("Line", bound=AnyRecord)


class Spread(NamedTuple):
    """The distribution of a repeated measurement, in its unit."""

    median: float
    minimum: float
    lower_quartile: float
    upper_quartile: float
    """The interquartile range is from ``lower_quartile`` to ``upper_quartile``."""


class Program(NamedTuple):
    """A compiled program, ready to run."""

    run: Callable[[], Any]
    """Runs it once and waits for its result."""
    compile_seconds: float
    temp_bytes: int | None
    held_bytes: int | None


class Side(NamedTuple):
    """The cost of one of the two programs."""

    seconds: Spread
    """Of one run."""
    compile_seconds: float
    """Tracing, lowering and compiling, once."""
    temp_bytes: int | None
    """Size of the temporaries; None where the backend does not report it."""
    held_bytes: int | None
    """Size of arguments, outputs and temporaries, shared buffers once; None where the backend does not report it."""


class Comparison(NamedTuple):
    """Our program against a baseline."""

    ours: Side
    baseline: Side
    ratio: Spread
    """Seconds of ours over seconds of the baseline, taken within each pair: above 1, ours is slower."""
    pairs: int


class Record(NamedTuple):
    """One line of the results."""

    benchmark: str
    baseline: str
    """Name of the baseline."""
    case: dict[str, str | int]
    quick: bool
    figures: Comparison
    environment: Environment


def compile_program(f: Callable[..., Any], *args: Any) -> Program:
    """``f`` compiled for these arguments, with the time that compilation took.

    Args:
        f: a function of arrays.
        args: pytrees of arrays, the arguments of every run.
    """
    begin = time.perf_counter()
    compiled = jax.jit(f).lower(*args).compile()
    compile_seconds = time.perf_counter() - begin
    temp_bytes, held_bytes = memory_bytes(compiled)
    return Program(
        run=lambda: jax.block_until_ready(compiled(*args)),
        compile_seconds=compile_seconds,
        temp_bytes=temp_bytes,
        held_bytes=held_bytes,
    )


def memory_bytes(compiled: jax.stages.Compiled) -> tuple[int | None, int | None]:
    """Bytes of temporaries, and of all buffers at once; None, None where the backend does not report them."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None, None
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return memory.temp_size_in_bytes, held - memory.alias_size_in_bytes


def require_equal(ours: Any, baseline: Any, tolerance: float) -> None:
    """Raises an AssertionError unless two pytrees have the same numbers.

    Args:
        ours, baseline: pytrees with leaves of equal shapes in equal order; the containers may differ.
        tolerance: the greatest difference allowed in a leaf, as a fraction of the leaf's greatest magnitude.
    """
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(baseline), strict=True)
    for index, (a, b) in enumerate((np.asarray(a), np.asarray(b)) for a, b in pairs):
        if a.shape != b.shape:
            raise AssertionError(f"leaf {index} got shape {a.shape} of ours; want the baseline's {b.shape}")
        error, scale = np.max(np.abs(a - b), initial=0.0), np.max(np.abs(b), initial=0.0)
        if not error <= tolerance * scale:
            raise AssertionError(f"leaf {index} differs by {error:.2g}; want at most {tolerance} of {scale:.2g}")


def compare(
    ours: Program, baseline: Program, *, seconds: float, min_pairs: int = 9, max_pairs: int = 1000
) -> Comparison:
    """The times of two programs, run in pairs; each is the first in every other pair.

    Args:
        ours, baseline: compiled, and run at least once before.
        seconds: no pair begins after this time, unless there are fewer than ``min_pairs``.
        min_pairs, max_pairs: bounds on the number of pairs.
    """
    times: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while len(times) < max_pairs and (len(times) < min_pairs or time.perf_counter() - begin < seconds):
        if len(times) % 2 == 0:
            a, b = seconds_of(ours), seconds_of(baseline)
        else:
            b, a = seconds_of(baseline), seconds_of(ours)
        times.append((a, b))
    A, B = np.asarray(times).T
    return Comparison(
        ours=Side(spread(A), *ours[1:]),
        baseline=Side(spread(B), *baseline[1:]),
        ratio=spread(A / B),
        pairs=len(A),
    )


def seconds_of(program: Program) -> float:
    """Wall-clock seconds of one run."""
    begin = time.perf_counter()
    program.run()
    return time.perf_counter() - begin


def kib_of_process(name: str) -> int:
    """Memory of this process in KiB, ``VmRSS`` now or ``VmHWM`` at most so far; 0 where the system has no such file."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def spread(samples: np.ndarray) -> Spread:
    """The spread of ``(n,)`` samples, n at least 1."""
    lower, median, upper = np.quantile(samples, [0.25, 0.5, 0.75]).tolist()
    return Spread(median, float(samples.min()), lower, upper)


class Memory(NamedTuple):
    """How the process allocates memory, on which the times of programs with large temporaries depend."""

    settings: dict[str, str]
    """The variables ``MALLOC_*`` and ``GLIBC_TUNABLES`` of the environment."""
    keeps_freed: bool | None
    """Whether an array of 64 MiB that is freed stays with the process; None where the system does not report it."""


def memory_settings() -> Memory:
    """The settings of the allocator of this process, and what it does with freed memory."""
    named = {k: v for k, v in sorted(os.environ.items()) if k.startswith("MALLOC_") or k == "GLIBC_TUNABLES"}
    array = np.ones(2**23)
    before = kib_of_process("VmRSS")
    del array
    return Memory(named, before - kib_of_process("VmRSS") < 2**15 if before else None)


def results_file(record: AnyRecord) -> Path:
    """The file of a record by default: ``benchmarks/results/<benchmark>-<device kind>.jsonl``."""
    kind = re.sub(r"[^a-z0-9]+", "-", record.environment.device_kind.lower()).strip("-")
    return ROOT / "benchmarks" / "results" / f"{record.benchmark}-{kind}.jsonl"


def append(records: Iterable[Line], out: Path | None = None) -> Iterator[Line]:
    """The same records one by one, each appended to its file as a line of JSON.

    Args:
        records: of a benchmark's ``run``.
        out: one file for all records; without it, each has its ``results_file``.
    """
    for record in records:
        path = out or results_file(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json_line(record))
        yield record


def json_line(record: AnyRecord) -> str:
    """A record as one line of JSON with a newline at its end; named tuples become objects."""
    return json.dumps(as_dict(record), allow_nan=False) + "\n"


def as_dict(value: Any) -> Any:
    """A value in which every NamedTuple is replaced by a dict."""
    fields = value._asdict() if hasattr(value, "_asdict") else value
    if isinstance(fields, dict):
        return {name: as_dict(field) for name, field in fields.items()}
    return [as_dict(item) for item in fields] if isinstance(fields, list) else fields
