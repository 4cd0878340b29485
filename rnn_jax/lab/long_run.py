"""One network that is trained for a long time: checkpoints, resumption bit for bit, and when training ends."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from rnn_jax.lab.checkpoints import Checkpoints
from rnn_jax.lab.loop import Task, compile_program
from rnn_jax.lab.options import LARGEST, Options
from rnn_jax.lab.runs import Run
from rnn_jax.training import LearnerState, fit

__all__ = [
    "Progress",
    "is_stale",
    "naming_last_checkpoint",
    "planned_evaluations",
    "require_more_evaluations",
    "restore_progress",
    "save_progress",
]


class Progress(NamedTuple):
    """The progress of the training of a run."""

    state: LearnerState
    seconds: float
    """Of training so far."""
    schedule: int
    """Evaluations of the learning rate's schedule."""
    evaluations: int
    """Evaluations in all; more than the schedule has if a finished run is extended."""


def save_progress(run: Run, checkpoints: Checkpoints, progress: Progress, best: Path) -> None:
    """Writes a checkpoint, with the lengths of the files of the run that grow.

    Args:
        run, checkpoints: the run folder, and its checkpoints.
        progress: of the run.
        best: the file of the best params, which may not exist yet.

    Raises:
        OSError: if it cannot be written; the checkpoints before stay.
    """
    facts = {**progress._asdict(), "lengths": run.lengths(), "best": best.is_file()}
    state = facts.pop("state")
    checkpoints.save(int(state.cursor), state, facts)


def restore_progress(run: Run, checkpoints: Checkpoints, task: Task, best: Path) -> Progress | None:
    """The progress of the last whole checkpoint; the files of the run are cut back to it.

    Args:
        run, checkpoints, best: as in ``save_progress``.
        task: of the run; its state has the shapes of the checkpoint.

    Returns:
        None if there is no checkpoint: the run starts again, with empty files.

    Raises:
        ValueError: if every checkpoint is damaged, has other shapes, or if the file of the best params is gone.
    """
    found = checkpoints.restore(task.state_shapes(), print)
    if found is None:
        run.cut_back({})
        return None
    if found.facts["best"] and not best.is_file():
        raise ValueError(f"{best} is gone; want it back, or --overwrite to start again")
    run.cut_back(found.facts["lengths"])
    return Progress(found.state, *(found.facts[name] for name in Progress._fields[1:]))


def require_more_evaluations(options: Options, checkpoints: Checkpoints) -> None:
    """Raises a ValueError unless a run that is to be extended gets more evaluations than it has."""
    made = (checkpoints.steps() or [0])[-1] // options.updates
    if options.evaluations <= made:
        raise ValueError(f"--extend got --evaluations {options.evaluations}; want more than the {made} of the run")


def planned_evaluations(
    options: Options, task: Task, progress: Progress | None, minutes: float = 0.0
) -> tuple[int, int]:
    """The evaluations of the learning rate's schedule, and all evaluations of a run.

    Args:
        options: ``evaluations`` is their number, unless the run has a length in minutes and is not extended.
        task: of the run.
        progress: of the last checkpoint, whose schedule goes on; None if the run begins.
        minutes: if positive, as many evaluations as take this long in training, measured at the beginning of the run.
    """
    if progress is not None:
        return progress.schedule, progress.evaluations if minutes and not options.extend else options.evaluations
    count = _evaluations_in(minutes, options, task) if minutes else options.evaluations
    return count, count


def _evaluations_in(minutes: float, options: Options, task: Task) -> int:
    """The number of evaluations in a number of minutes of training, by the shortest time of a few updates."""
    few = min(options.updates, 20)
    batches = jax.tree.map(lambda a: a[:few], task.batches(np.random.default_rng(0), 0))
    state = jax.jit(partial(task.learner.init, batch_shape=task.lanes))(jax.random.key(0))
    learn = compile_program(options, partial(fit, task.learner), state, batches)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        jax.block_until_ready(learn(state, batches))
        seconds.append(time.perf_counter() - begin)
    count = 60 * minutes / (min(seconds) * options.updates / few)
    return min(LARGEST // options.updates, max(1, round(count)))


def is_stale(losses: Sequence[float], patience: int) -> bool:
    """Whether none of the last evaluations was better than the best before; never for a patience of 0.

    >>> is_stale([3.0, 2.0, 2.5, 2.0], patience=2), is_stale([3.0, 2.0, 2.5], patience=2)
    (True, False)
    """
    return 0 < patience < len(losses) and min(losses[-patience:]) >= min(losses[:-patience])


@contextlib.contextmanager
def naming_last_checkpoint(checkpoints: Checkpoints) -> Iterator[None]:
    """A context that adds the last good checkpoint to the message of a FloatingPointError or OSError."""
    try:
        yield
    except (FloatingPointError, OSError) as error:
        steps = checkpoints.steps()
        good = f"the last good checkpoint is {steps[-1]}" if steps else "there is no checkpoint yet"
        skip = ", or --resume --on-nonfinite skip" if isinstance(error, FloatingPointError) else ""
        raise type(error)(f"{error}{skip}; {good}") from None
