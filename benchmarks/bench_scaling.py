"""How the time and the memory of a gradient grow with T, B and H: each schedule, and each program of truncation."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.bench_truncation import Gradient, I, by_updates, full, squares, truncated
from benchmarks.report import command
from benchmarks.timing import compile_program, seconds_of
from rnn_jax import diagonal, lstm
from rnn_jax.gradients import PROGRAMS
from rnn_jax.lab.environment import Environment, environment
from rnn_jax.schedules import SCHEDULES
from rnn_jax.types import Cell

CELLS: dict[str, Callable[..., Cell]] = {"lstm": lstm, "diagonal": diagonal}
"""One cell with products and gates in its recurrence, and one that is linear in its state."""
WINDOW = 50
"""Of the programs of truncation."""
FITTED = 3
"""The last points of a curve, through which its exponent is fitted."""
LARGEST = 4e9
"""Bytes of temporaries; a program that needs more is compiled, but not run."""

Sizes = dict[str, int]
"""T, B and H."""
GRID: dict[str, list[Sizes]] = {
    "T": [{"T": T, "B": 1, "H": 64} for T in (100, 1000, 10_000, 100_000)],
    "B": [{"T": 1000, "B": B, "H": 64} for B in (1, 8, 64, 512)],
    "H": [{"T": 1000, "B": 1, "H": H} for H in (32, 64, 128, 256, 512, 1024)],
}
QUICK: dict[str, list[Sizes]] = {"T": [{"T": T, "B": 1, "H": 4} for T in (50, 100)]}


class ScalingPoint(NamedTuple):
    """The cost of one gradient."""

    size: int
    seconds: float | None
    """The median of one run; None where it was skipped."""
    minimum: float | None
    temp_bytes: int | None
    """Size of the temporaries; None where the backend does not report it."""
    skipped: str | None
    """The reason why it was not run."""


class ScalingRecord(NamedTuple):
    """One line of the results: a curve over one of T, B and H."""

    benchmark: str
    case: dict[str, str | int]
    quick: bool
    points: list[ScalingPoint]
    time_exponent: float | None
    """p of seconds ∝ size^p, by least squares of the logarithms of the last three points; None for fewer than two."""
    memory_exponent: float | None
    """The same of the temporaries."""
    environment: Environment

    def __str__(self) -> str:
        last = self.points[-1]
        took = last.skipped or f"{last.seconds:.3g} s"
        time_, memory = ("?" if p is None else f"{p:.2f}" for p in (self.time_exponent, self.memory_exponent))
        of = " ".join(str(self.case[name]) for name in ("cell", "kind", "program", "axis"))
        return f"{of}: time^{time_}, memory^{memory}; {took} at {last.size:,}"


def gradients() -> Iterator[tuple[dict[str, str], Callable[[Cell], Gradient]]]:
    """The gradients that are measured, each with its case: cell, kind and program."""
    for (name, make), schedule in ((pair, schedule) for pair in CELLS.items() for schedule in SCHEDULES):
        if takes(make(I, 4, dtype=jnp.float32), schedule):
            case = {"cell": name, "kind": "schedule", "program": schedule}
            yield case, lambda cell, schedule=schedule: full(cell, squares, schedule)
    for name, program in PROGRAMS.items():
        case = {"cell": "lstm", "kind": "truncation", "program": name}
        yield case, lambda cell, program=program: truncated(program, cell, squares, WINDOW)
    yield {"cell": "lstm", "kind": "truncation", "program": "streaming"}, lambda cell: by_updates(cell, squares)


def takes(cell: Cell, schedule: str) -> bool:
    """Whether a schedule computes this cell; one that needs coefficients refuses others with a ValueError."""
    try:
        jax.eval_shape(full(cell, squares, schedule), *arguments(cell, {"T": 2, "B": 1, "H": 4}))
    except ValueError:
        return False
    return True


def arguments(cell: Cell, sizes: Sizes) -> tuple[Any, jax.Array, jax.Array]:
    """Params, inputs ``(T, B, I)`` and targets ``(T, B, H)`` in float32."""
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    xs = jax.random.normal(jax.random.key(1), (T, B, I), jnp.float32)
    return cell.init(jax.random.key(0)), xs, jnp.zeros((T, B, H), jnp.float32)


def measure(gradient: Gradient, args: tuple[Any, ...], size: int, seconds: float) -> ScalingPoint:
    """The cost of a gradient, in at least three runs and these seconds."""
    program = compile_program(gradient, *args)
    if (program.temp_bytes or 0) > LARGEST:
        reason = f"the program wants {program.temp_bytes} bytes of temporaries, more than {LARGEST:.0f}"
        return ScalingPoint(size, None, None, program.temp_bytes, reason)
    program.run()
    taken, begin = [], time.perf_counter()
    while len(taken) < 3 or time.perf_counter() - begin < seconds:
        taken.append(seconds_of(program))
    return ScalingPoint(size, float(np.median(taken)), min(taken), program.temp_bytes, None)


def exponent(sizes: list[int], values: list[float | None]) -> float | None:
    """p of values ∝ sizes^p, by least squares of the logarithms of the last points that have a value above 0.

    None where fewer than two have one.
    """
    known = [(math.log(size), math.log(value)) for size, value in zip(sizes, values, strict=True) if value]
    if len(known) < 2:
        return None
    x, y = np.asarray(known[-FITTED:]).T
    return float(np.polyfit(x, y, 1)[0])


def run(quick: bool = False) -> Iterator[ScalingRecord]:
    """Records, one for each gradient and axis: T with B 1 and H 64, B with T 1,000 and H 64, H with T 1,000 and B 1.

    Args:
        quick: two short lengths instead of fourteen sizes, three runs each.
    """
    here = environment()
    for (of, make), (axis, grid) in ((g, a) for g in gradients() for a in (QUICK if quick else GRID).items()):
        points = []
        for sizes in grid:
            cell = CELLS[of["cell"]](I, sizes["H"], dtype=jnp.float32)
            params, xs, targets = arguments(cell, sizes)
            if of["program"] == "streaming":
                xs, targets = (a.reshape(-1, WINDOW, *a.shape[1:]) for a in (xs, targets))
            points.append(measure(make(cell), (params, xs, targets), sizes[axis], 0.0 if quick else 2.0))
        at = [point.size for point in points]
        yield ScalingRecord(
            benchmark="scaling",
            case={**of, "axis": axis, **{name: size for name, size in grid[0].items() if name != axis}},
            quick=quick,
            points=points,
            time_exponent=exponent(at, [point.seconds for point in points]),
            memory_exponent=exponent(at, [point.temp_bytes for point in points]),
            environment=here,
        )


if __name__ == "__main__":
    command(run)
