"""The cost of the schedule ``associative`` against the schedule ``scan``, of cells that are linear in their state."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.report import command
from benchmarks.timing import Record, compare, compile_program, require_equal
from rnn_jax import lru, min_gru, outputs, rollout
from rnn_jax.lab.environment import environment
from rnn_jax.types import Cell, Params

I = 64
SIZES = [(100, 1, 64), (1000, 1, 64), (10_000, 1, 64), (100_000, 1, 64), (100, 32, 128), (1000, 32, 128)]
"""T, B and H."""
TOLERANCE = {"cpu": 1e-4, "elsewhere": 1e-2}
"""Relative; the sum over T of a gradient is added up in another order."""

CELLS = {"min_gru": min_gru, "lru": lru}


def squares(cell: Cell, schedule: str) -> Callable[[Params, Array], Array]:
    """Σ_t ‖y_t‖² as a function of the params and the sequence ``(T, B, I)``."""

    def value(params: Params, xs: Array) -> Array:
        _, hs = rollout(cell, params, cell.start(params, (xs.shape[1],)), xs, schedule=schedule)
        return jnp.sum(outputs(cell, params, hs) ** 2)

    return value


def states(cell: Cell, schedule: str) -> Callable[[Params, Array], Any]:
    """All states as a function of the params and the sequence ``(T, B, I)``."""

    def roll(params: Params, xs: Array) -> Any:
        return rollout(cell, params, cell.start(params, (xs.shape[1],)), xs, schedule=schedule)

    return roll


MODES: dict[str, Callable[[Cell, str], Any]] = {
    "forward": states,
    "forward+backward": lambda cell, schedule: jax.grad(squares(cell, schedule)),
}


def run(quick: bool = False) -> Iterator[Record]:
    """Records, one for each cell, mode and size; the input has 64 features of float32.

    Args:
        quick: one size instead of six, for a tenth of a second each instead of four.

    Raises:
        AssertionError: when the two schedules compute different numbers.
    """
    here = environment()
    tolerance = TOLERANCE.get(here.platform, TOLERANCE["elsewhere"])
    compile_program(lambda x: x + 1, jnp.zeros(())).run()  # the first compilation of a process takes longer
    for name, mode, (T, B, H) in product(CELLS, MODES, SIZES[:1] if quick else SIZES):
        cell = CELLS[name](I, H, dtype=jnp.float32)
        params = cell.init(jax.random.key(0))
        xs = jax.random.normal(jax.random.key(1), (T, B, I), jnp.float32)
        ours, baseline = (compile_program(MODES[mode](cell, way), params, xs) for way in ("associative", "scan"))
        require_equal(ours.run(), baseline.run(), tolerance)
        figures = compare(ours, baseline, seconds=0.1 if quick else 4.0, min_pairs=3 if quick else 9)
        case: dict[str, str | int] = {"cell": name, "mode": mode, "T": T, "B": B, "H": H, "I": I}
        yield Record("associative", "schedule scan", case, quick, figures, here)


if __name__ == "__main__":
    command(run)
