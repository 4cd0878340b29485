# %% [markdown]
# # A study of seconds
#
# An experiment for tests: networks of three params learn a point. It runs as a command, as the scripts of experiments/
# do. Its faults are planned by the environment variable TINY_FAULT: the kind of a network and what happens before its
# second evaluation, such as "far OSError".

# %%
import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from rnn_jax.lab.loop import Task, optimizer_of
from rnn_jax.lab.options import StudyOptions, read_options
from rnn_jax.lab.page import learning_curves, publish, score_table
from rnn_jax.lab.study import open_study, train
from rnn_jax.training import batch_learner


@dataclasses.dataclass(frozen=True)
class Options(StudyOptions):
    """Two kinds of networks of three params, near and far."""

    cells: tuple[str, ...] = ("near", "far")
    """Kinds of networks."""
    seeds: int = 1
    """Networks of each kind."""
    evaluations: int = 2
    """Evaluations of each network."""
    updates: int = 5
    """Updates from one evaluation to the next."""
    workers: int = 1
    """Networks at the same time."""
    out: Path = Path("runs/tiny_study")
    """The run folder."""
    point: float = 1.0
    """Where the data lie."""


def press_ctrl_c():
    """Sends Ctrl-C to this process."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)


GATE = threading.Event()
FAULTS = {"wait": lambda: GATE.wait(60), "ctrl_c": press_ctrl_c}
ERRORS = {"OSError": OSError("no space left"), "MemoryError": MemoryError("bad_alloc"), "KeyError": KeyError("x")}


# %%
def score(params, x):
    """The squared distance to a point, and whether it is below 1."""
    distance = jnp.sum((params - jnp.broadcast_to(x, (3,))) ** 2)
    return {"accuracy": distance < 1.0, "loss": distance}


def make_task(options: Options, kind: str) -> Task:
    """A task that moves three params to a point."""

    def batches(rng, number):
        name, _, fault = os.environ.get("TINY_FAULT", "").partition(" ")
        if number and kind == name:
            if fault in ERRORS:
                raise ERRORS[fault]
            FAULTS[fault]()
        return (rng.normal(options.point, size=options.updates).astype(jnp.zeros(()).dtype),)

    def loss(params, x):
        return score(params, x)["loss"]

    learner = batch_learner(lambda key: jax.random.normal(key, (3,)), loss, optimizer_of(options), clip=options.clip)
    part = (jnp.asarray(options.point),)
    return Task(learner, batches, score, part, part, facts={"hidden_size": 3, "parameters": 3})


def make_tasks(options: Options) -> dict[str, Task]:
    """The task of each kind."""
    return {kind: make_task(options, kind) for kind in options.cells}


# %%
if __name__ == "__main__":
    options = read_options(Options)
    tasks = make_tasks(options)
    run = open_study(options, tasks)
    networks, scores = train(options, run, tasks)
    publish(
        run,
        options,
        script="tests/tiny_study.py",
        title="A study of seconds",
        question="",
        answer=f"Finished: {', '.join(networks)}.",
        sections=[learning_curves(run, "accuracy", y="points", baselines={})],
        table=score_table(run, scores, legend=""),
    )
