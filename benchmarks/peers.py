"""``rollout`` against all that a user might take instead, interleaved in one process.

``python -m benchmarks.peers [--quick] [--out FILE] [--cells …] [--modes …] [--schedule NAME] [--seconds 2.5]``.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.bench_rollout import CELLS, MODES, TOLERANCE, I, by_hand
from benchmarks.contenders import Contender, Point, contenders_of, order
from benchmarks.floor import product_flops, product_rate
from benchmarks.report import Options, show
from benchmarks.timing import Memory, Program, append, memory_settings, require_equal, seconds_of
from rnn_jax.lab.commands import parse, wrong_use
from rnn_jax.lab.environment import Environment, environment
from rnn_jax.schedules import SCHEDULES

SHORT = 0.02
"""Seconds of a run that is repeated at once: what the program before left in caches and threads would be much of it."""
DISTRIBUTIONS = ("flax", "dm-haiku", "equinox", "keras", "torch")


@dataclasses.dataclass(frozen=True)
class PeersOptions(Options):
    """Times rollout against other libraries and programs by hand, and appends the results as JSON lines."""

    cells: tuple[Literal["vanilla", "gru", "lstm"], ...] = ("vanilla", "gru", "lstm")
    """The kinds of cells."""
    modes: tuple[Literal["forward", "forward+backward"], ...] = ("forward", "forward+backward")
    """The rollout, and the gradient."""
    schedule: str = "auto"
    """The schedule of our rollouts."""
    seconds: float = 2.5
    """Seconds for the rounds of one point and mode, without compilation."""


class Times(NamedTuple):
    """The cost of one contender."""

    median: float
    """Seconds of one run."""
    minimum: float
    """Seconds of one run."""
    ratio: float
    """Seconds of ours over seconds of this contender, the median over the rounds: above 1, ours is slower."""
    compile_seconds: float
    """Tracing, lowering and compiling; of calls that are not compiled, the seconds of the first."""
    temp_bytes: int | None
    """Size of the temporaries; None where it is not reported."""


class PeersRecord(NamedTuple):
    """One line of the results: one point of the grid in one mode."""

    benchmark: str
    case: dict[str, str | int]
    quick: bool
    contenders: dict[str, Times]
    missing: dict[str, str]
    """The reasons why contenders are missing."""
    own_cell_ratio: float
    """Seconds of ``rollout`` of a user's own cell over those of ``lax.scan`` of the same step, as ``Times.ratio``."""
    rounds: int
    flops: int
    """Of the products of the program by hand, which computes nothing twice."""
    flops_per_second: float
    """Of a product of 1,024³ in float32, the best so far in this process."""
    floor_seconds: float
    """The quotient of the two."""
    memory: Memory
    versions: dict[str, str]
    """Of the other libraries."""
    environment: Environment

    def __str__(self) -> str:
        ours = self.contenders["ours"].median
        case = " ".join(str(v) if isinstance(v, str) else f"{k} {v}" for k, v in self.case.items())
        ratios = ", ".join(f"{name} {times.ratio:.2f}" for name, times in self.contenders.items() if name != "ours")
        return f"{case}: {1e3 * ours:.3g} ms, {ours / self.floor_seconds:.3g} floors; ours over {ratios}"


def run(
    quick: bool = False,
    cells: Sequence[str] = (),
    modes: Sequence[str] = tuple(MODES),
    schedule: str = "auto",
    seconds: float = 2.5,
) -> Iterator[PeersRecord]:
    """Records, one for each kind of cell, size and mode; the input has 64 features.

    Args:
        quick: one tiny size instead of thirteen, a few rounds.
        cells: names in ``CELLS``; by default all, of which the quick run takes the LSTM.
        modes: names in ``MODES``.
        schedule: that of our rollouts.
        seconds: of the rounds of one point and mode.

    Raises:
        AssertionError: when a contender computes other numbers than ours, where its equations are the same; other
            shapes; or gradients that are not finite or zero.
    """
    here, rate = environment(), product_rate()
    memory, versions = memory_settings(), versions_of(DISTRIBUTIONS)
    for kind, (B, H, T) in product(cells or (("lstm",) if quick else tuple(CELLS)), sizes(quick, here.platform)):
        point = point_of(kind, B, H, T, schedule)
        contenders, missing = contenders_of(point)
        for mode in modes:
            programs = {name: contender.program(mode) for name, contender in contenders.items()}
            results = {name: arrays_of(mode, contenders[name], program.run()) for name, program in programs.items()}
            require_sound(mode, contenders, results, TOLERANCE.get(here.platform, TOLERANCE["elsewhere"]))
            rounds = time_rounds(list(programs.values()), 0.05 if quick else seconds, 2 if quick else 5)
            rate = max(rate, product_rate())
            flops = product_flops(MODES[mode](by_hand(CELLS[kind])), tuple(point.params), point.xs)
            case: dict[str, str | int] = {"cell": kind, "mode": mode, "B": B, "H": H, "T": T, "I": I}
            yield PeersRecord(
                *("peers", case | {"schedule": schedule}, quick, times_of(programs, rounds), missing),
                own_cell_ratio=ratio(rounds, list(programs), "own cell", "lax.scan"),
                rounds=len(rounds),
                flops=flops,
                flops_per_second=rate,
                floor_seconds=flops / rate,
                memory=memory,
                versions=versions,
                environment=here,
            )


def sizes(quick: bool, platform: str) -> list[tuple[int, int, int]]:
    """The sizes ``(B, H, T)``; on a GPU with one more, at which cuDNN is at its best."""
    if quick:
        return [(2, 8, 4)]
    grid = [(B, H, 100) for B, H in product((1, 32, 128), (64, 128, 256, 512))]
    return [*grid, (32, 256, 400), *([(16, 768, 1024)] if platform == "gpu" else [])]


def point_of(name: str, B: int, H: int, T: int, schedule: str) -> Point:
    """The task of a point: random weights and inputs in float32."""
    cell = CELLS[name].cell(I, H, bias_init=jax.nn.initializers.normal(0.1), dtype=jnp.float32)
    xs = jax.random.normal(jax.random.key(1), (T, B, I), jnp.float32)
    return Point(name, cell, cell.init(jax.random.key(0)), xs, schedule)


def versions_of(distributions: Sequence[str]) -> dict[str, str]:
    """The versions of those that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def arrays_of(mode: str, contender: Contender, result: Any) -> Any:
    """Hidden outputs ``(T, B, H)`` or gradients, as arrays of NumPy, from what the program of a contender returned."""
    arrays = jax.tree.map(
        lambda leaf: np.asarray(leaf.cpu() if hasattr(leaf, "cpu") else leaf),
        result[1] if mode == "forward" else result,
    )
    return np.swapaxes(arrays, 0, 1) if mode == "forward" and contender.batch_leads else arrays


def require_sound(mode: str, contenders: dict[str, Contender], results: dict[str, Any], tolerance: float) -> None:
    """Raises an AssertionError unless all contenders computed the same, as far as they have the same equations.

    Gradients in other layouts are compared by ``squares``, which no order of the gates changes.

    Args:
        mode: a name in ``MODES``.
        contenders: ours is the first.
        results: hidden outputs or gradients, by the same names.
        tolerance: relative.
    """
    ours = results["ours"]
    for name, contender in contenders.items():
        theirs = results[name]
        leaves = jax.tree.leaves(theirs)
        try:
            if not all(np.isfinite(leaf).all() for leaf in leaves) or not any(leaf.any() for leaf in leaves):
                raise AssertionError("got numbers that are not finite, or only zeros; want finite ones")
            if mode == "forward" and theirs.shape != ours.shape:
                raise AssertionError(f"got outputs of shape {theirs.shape}; want that of ours, {ours.shape}")
            if contender.same_params or (contender.same and mode == "forward"):
                require_equal(theirs, ours, tolerance)
            elif contender.same:
                require_equal(squares(theirs), squares(ours), 10 * tolerance)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def squares(grads: Any) -> np.ndarray:
    """The sum of squares of gradients with respect to weights; those of biases are left out, of which some have two."""
    weights = [leaf for leaf in jax.tree.leaves(grads) if leaf.ndim == 2 and min(leaf.shape) > 2]
    return np.asarray(sum(np.square(leaf, dtype=np.float64).sum() for leaf in weights))


def time_rounds(programs: Sequence[Program], seconds: float, min_rounds: int, max_rounds: int = 1000) -> np.ndarray:
    """Seconds of every program in every round, ``(rounds, programs)``; in each round every program is timed once.

    A training loop runs the same program again and again, so of short programs the second of two runs counts.

    Args:
        programs: run at least once before.
        seconds: no round begins after this time, unless there are fewer than ``min_rounds``.
        min_rounds, max_rounds: bounds on the number of rounds.
    """
    rounds: list[list[float]] = []
    begin = time.perf_counter()
    while len(rounds) < max_rounds and (len(rounds) < min_rounds or time.perf_counter() - begin < seconds):
        taken = {}
        for index in order(len(rounds), len(programs)):
            taken[index] = seconds_of(programs[index])
            if taken[index] < SHORT:
                taken[index] = seconds_of(programs[index])
        rounds.append([taken[index] for index in range(len(programs))])
    return np.asarray(rounds)


def times_of(programs: dict[str, Program], rounds: np.ndarray) -> dict[str, Times]:
    """The times of each program; ours is the first."""
    names = list(programs)
    return {
        name: Times(
            median=float(np.median(rounds[:, index])),
            minimum=float(rounds[:, index].min()),
            ratio=ratio(rounds, names, "ours", name),
            compile_seconds=programs[name].compile_seconds,
            temp_bytes=programs[name].temp_bytes,
        )
        for index, name in enumerate(names)
    }


def ratio(rounds: np.ndarray, names: list[str], above: str, below: str) -> float:
    """The median over the rounds of the seconds of one program over those of another."""
    return float(np.median(rounds[:, names.index(above)] / rounds[:, names.index(below)]))


def main() -> None:
    """The command line; exits with 2 on wrong use."""
    with wrong_use():
        options = parse(PeersOptions)
        if options.schedule not in ("auto", *SCHEDULES):
            raise ValueError(f"--schedule got {options.schedule}; want one of auto, {', '.join(SCHEDULES)}")
    records = run(options.quick, options.cells, options.modes, options.schedule, options.seconds)
    show(append(records, options.out))


if __name__ == "__main__":
    main()
