"""Training of a character model with the schedule that ``rollout`` chooses, against training with a plain scan."""

from collections.abc import Iterator
from functools import partial

import jax
import numpy as np

from benchmarks.report import command
from benchmarks.timing import Program, Record, compare, compile_program, require_equal
from rnn_jax.lab.environment import environment
from rnn_jax.lab.loop import optimizer_of
from rnn_jax.lab.named_cells import make_model
from rnn_jax.lab.options import Options
from rnn_jax.losses import cross_entropy, per_step
from rnn_jax.training import fit, window_learner

CHARACTERS = 65
"""Different ones, as in tiny Shakespeare."""
TOLERANCE = 1e-3
"""Of the losses, relative; they drift apart by rounding."""


def updates_of_char_lm(schedule: str, cell: str, B: int, H: int, T: int, updates: int) -> Program:
    """Updates as between two evaluations of ``char_lm.py``: one layer, windows of T characters, B lanes of text."""
    options = Options(batch_size=B, evaluations=12, updates=updates, learning_rate=4e-3, optimizer="adamw")
    optimizer = optimizer_of(options, weight_decay=0.0)
    model = make_model(cell, CHARACTERS, H)
    learner = window_learner(model, per_step(cross_entropy), optimizer, clip=options.clip, schedule=schedule)
    ids = np.random.default_rng(0).integers(CHARACTERS, size=(updates, T, B), dtype=np.int32)
    return compile_program(partial(fit, learner), learner.init(jax.random.key(0), (B,)), (ids, ids))


def run(quick: bool = False) -> Iterator[Record]:
    """Records, one for each cell: B 32, H 256, windows of 64, 20 updates in one call.

    Args:
        quick: tiny sizes, one cell.

    Raises:
        AssertionError: when the losses differ by more than rounding makes them.
    """
    for cell in ("lstm",) if quick else ("lstm", "gru", "tanh"):
        sizes = {"B": 2, "H": 8, "T": 5, "updates": 3} if quick else {"B": 32, "H": 256, "T": 64, "updates": 20}
        ours, scan = (updates_of_char_lm(schedule, cell, **sizes) for schedule in ("auto", "scan"))
        require_equal(ours.run()[1].loss, scan.run()[1].loss, TOLERANCE)
        figures = compare(ours, scan, seconds=0.1 if quick else 30.0, min_pairs=3)
        yield Record("training", 'schedule="scan"', {"cell": cell, **sizes}, quick, figures, environment())


if __name__ == "__main__":
    command(run)
