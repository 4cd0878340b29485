"""The cost of a mask, of resets and of cuts in a rollout, against the same rollout without them."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from benchmarks.bench_rollout import CELLS, MODES, TOLERANCE, I, T
from benchmarks.report import command
from benchmarks.timing import Record, compare, compile_program, require_equal
from rnn_jax import outputs, rollout
from rnn_jax.lab.environment import environment
from rnn_jax.types import Cell, Params

FLAGS = {"mask": True, "resets": False, "cuts": False}
"""Values with which a rollout computes the same as without the flag, which its program cannot know."""


def flagged(cell: Cell, mode: str) -> Callable[[Params, Array, dict[str, Any]], Any]:
    """``(params, xs, flags)`` -> the rollout or the gradient, by a name in ``MODES``."""

    def compute(params: Params, xs: Array, flags: dict[str, Any]) -> Any:
        def roll(params: Params, xs: Array) -> tuple[PyTree, Array]:
            h_T, hs = rollout(cell, params, cell.start(params, (xs.shape[1],)), xs, **flags)
            return h_T, outputs(cell, params, hs)

        return MODES[mode](roll)(params, xs)

    return compute


def run(quick: bool = False) -> Iterator[Record]:
    """Records, one for each cell, mode, size and flag; each step of each example has its flag, ``(T, B)``.

    Args:
        quick: one cell and size, for a tenth of a second each instead of three.

    Raises:
        AssertionError: when the flag changes a number.
    """
    here = environment()
    tolerance = TOLERANCE.get(here.platform, TOLERANCE["elsewhere"])
    sizes = [(1, 64)] if quick else [(1, 128), (32, 256)]
    for name, mode, (B, H) in product(("lstm",) if quick else ("lstm", "gru"), MODES, sizes):
        cell = CELLS[name].cell(I, H, dtype=jnp.float32)
        params = cell.init(jax.random.key(0))
        xs = jax.random.normal(jax.random.key(1), (T, B, I), jnp.float32)
        baseline = compile_program(flagged(cell, mode), params, xs, {})
        for flag, value in FLAGS.items():
            ours = compile_program(flagged(cell, mode), params, xs, {flag: jnp.full((T, B), value)})
            require_equal(ours.run(), baseline.run(), tolerance)
            figures = compare(ours, baseline, seconds=0.1 if quick else 3.0, min_pairs=3 if quick else 9)
            case: dict[str, str | int] = {"cell": name, "mode": mode, "flag": flag, "B": B, "H": H, "T": T, "I": I}
            yield Record("flags", "no flags", case, quick, figures, here)


if __name__ == "__main__":
    command(run)
