"""One network that is trained for a long time: where it goes on, and how far."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import optax

from rnn_jax.lab.checkpoints import Checkpoints
from rnn_jax.lab.long_run import Progress, planned_evaluations, restore_progress, save_progress
from rnn_jax.lab.loop import Task
from rnn_jax.lab.options import Options
from rnn_jax.lab.runs import Run
from rnn_jax.training import batch_learner
from tests.laboratory import refused


def read_rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def unit_task():
    learner = batch_learner(lambda key: jnp.zeros(3), lambda params, x: jnp.sum(params * x), optax.sgd(0.1))
    return Task(learner, lambda rng, number: (jnp.ones((2, 3)),), lambda params: {}, (), None)


def test_a_run_goes_on_only_with_the_files_that_it_had(tmp_path):
    run, kept, best, task = Run(tmp_path), Checkpoints(tmp_path / "checkpoints"), tmp_path / "best", unit_task()
    (tmp_path / "metrics.jsonl").touch()
    state = task.learner.init(jax.random.key(0))
    run.log(split="validation", loss=1.0)
    assert restore_progress(run, kept, task, best) is None
    assert read_rows(tmp_path) == [], "without a checkpoint the run begins anew"
    run.log(split="validation", loss=2.0)
    best.touch()
    save_progress(run, kept, Progress(state, 3.0, 4, 9), best)
    run.log(split="test", loss=3.0)
    best.unlink()
    refused(lambda: restore_progress(run, kept, task, best), f"{best} is gone; want it back, or --overwrite to")
    assert len(read_rows(tmp_path)) == 2, "nothing is lost"
    best.touch()
    progress = restore_progress(run, kept, task, best)
    assert progress is not None
    assert progress[1:] == (3.0, 4, 9)
    assert len(read_rows(tmp_path)) == 1


def test_the_schedule_is_that_of_the_beginning_and_minutes_are_measured_once():
    options, task = Options(evaluations=5, updates=2), unit_task()
    begun = Progress(task.learner.init(jax.random.key(0)), 3.0, 4, 9)
    assert planned_evaluations(options, task, None) == (5, 5)
    assert planned_evaluations(options, task, begun) == (4, 5)
    assert planned_evaluations(options, task, begun, minutes=1.0) == (4, 9)
    assert planned_evaluations(dataclasses.replace(options, extend=True), task, begun, minutes=1.0) == (4, 5)
    schedule, total = planned_evaluations(options, task, None, minutes=0.01)
    assert schedule == total > 5
