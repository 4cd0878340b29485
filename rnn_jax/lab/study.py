"""A study: several kinds of networks, each trained from several seeds, side by side, and evaluated once at the end."""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.lab.checkpoints import load_params, save_params
from rnn_jax.lab.commands import EXIT_CODES, finishing
from rnn_jax.lab.loop import Programs, Task, compile_task, evaluations, floats, means_of, score_program
from rnn_jax.lab.memory import require_memory
from rnn_jax.lab.options import StudyOptions
from rnn_jax.lab.own_cells import digests_of
from rnn_jax.lab.progress import Report, finished_jobs
from rnn_jax.lab.runs import Run, open_run, read_json
from rnn_jax.losses import next_token_nats
from rnn_jax.types import Params

__all__ = ["Networks", "Scores", "Trained", "class_scores", "first_network", "initial_params", "open_study", "train"]

Networks = dict[str, dict[int, Params]]
"""``{kind: {seed: params}}``."""
Scores = dict[str, dict[str, np.ndarray]]
"""``{kind: {score: (S,)}}`` on the test part, one for each seed."""
Row = dict[str, Any]


class Trained(NamedTuple):
    """The results of a study so far."""

    networks: Networks
    scores: Scores


def open_study(
    options: StudyOptions,
    tasks: Mapping[str, Task],
    *,
    facts: Mapping[str, Any] | None = None,
    needs: Mapping[str, float] | None = None,
) -> Run:
    """The run folder of a study, opened for ``train``.

    Args:
        options: of the study.
        tasks: ``{kind: task}``.
        facts: of the data and cells; a run goes on only with equal ones. By default the SHA-256 of the parts for
            validation and test.
        needs: more bytes that the run needs, by option.

    Raises:
        ValueError: if the networks do not fit into the memory of the machine; for a folder that ``open_run`` refuses.
    """
    names = {option for task in tasks.values() for option in task.memory}
    of_one = {option: max(task.memory.get(option, 0) for task in tasks.values()) for option in names}
    finished = options.seeds * len(tasks) * of_one.pop("seeds", 0)
    needs = needs or {}
    require_memory(options, **{option: of_one.get(option, 0) + needs.get(option, 0) for option in {**of_one, **needs}})
    at_once = min(options.workers, options.seeds * len(tasks))
    require_memory(options, seeds=finished, workers=at_once * sum(of_one.values()))
    if facts is None:
        digests = sorted({_digest((task.validation, task.test)) for task in tasks.values()})
        facts = {"data_sha256": digests[0] if len(digests) == 1 else digests}
    facts = {**facts, **digests_of([options.optimizer], "optimizer_sha256")}
    extend = ("seeds", "cells") if options.extend else ()
    return open_run(
        options.out, options, facts=facts, resume=options.resume, extend=extend, overwrite=options.overwrite
    )


def _digest(parts: Any) -> str:
    """The SHA-256 of all arrays of these parts."""
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(parts))).hexdigest()


def train(
    options: StudyOptions,
    run: Run,
    tasks: Mapping[str, Task],
    *,
    on_row: Callable[[Row], None] | None = None,
) -> Trained:
    """Trains every kind of network from every seed, except those that the run folder holds already.

    Each network is kept in the run folder as soon as it is finished, ``metrics.jsonl`` holds the rows of finished
    networks in the order of ``tasks`` and seeds, whichever ends first, and ``summary.json`` their scores. After Ctrl-C,
    or an error that a run can meet, the networks that are finished are returned; a command ends if there are none.

    Args:
        options, run, tasks: as opened by ``open_study``.
        on_row: called with each row of the metrics as soon as it is computed, for another logger. A row is a dict with
            cell, seed, split, step, and loss or scores. Calls come from the thread of each network, so with several
            workers two of them can be made at the same time.

    Returns:
        ``(networks, scores)`` of the finished networks, in the order of ``tasks``.

    >>> import contextlib, io, optax, pathlib, tempfile
    >>> from rnn_jax.training import batch_learner
    >>> def score(params, x):
    ...     return {"loss": (params - x) ** 2}
    >>> part = (jnp.array(3.0),)
    >>> learner = batch_learner(lambda key: jnp.zeros(()), lambda p, x: score(p, x)["loss"], optax.sgd(0.5))
    >>> task = Task(learner, lambda rng, number: (jnp.full(2, 3.0),), score, part, part)
    >>> out = pathlib.Path(tempfile.mkdtemp()) / "run"
    >>> options = StudyOptions(seeds=2, evaluations=1, updates=2, out=out)
    >>> run = open_study(options, {"point": task})
    >>> with contextlib.redirect_stdout(io.StringIO()):  # one line at each evaluation
    ...     networks, scores = train(options, run, {"point": task})
    >>> networks["point"][1].item(), scores["point"]["loss"].tolist()
    (3.0, [0.0, 0.0])
    """
    networks, rows = _finished(options, run, tasks)
    jobs = {
        f"{kind} {seed}": (kind, seed)
        for seed in range(options.seeds)
        for kind in tasks
        if seed not in networks.get(kind, {})
    }
    programs: dict[str, tuple[Programs, Callable[[Params], Any]]] = {}
    locks = {kind: threading.Lock() for kind in tasks}

    def job(kind: str, seed: int, report: Report) -> tuple[Params, list[Row]]:
        report("compiling")
        with locks[kind]:
            if kind not in programs:
                programs[kind] = _compile(options, tasks[kind])
        return _train_one(options, kind, seed, tasks[kind], *programs[kind], report, on_row or (lambda row: None))

    with finishing(run) as ending:
        work = {name: partial(job, *which) for name, which in jobs.items()}
        for name, (params, of_one) in finished_jobs(work, options.workers, options.evaluations):
            kind, seed = jobs[name]
            save_params(run.path(_file_of(kind, seed)), params)
            networks.setdefault(kind, {})[seed], rows[kind, seed] = params, of_one
            run.write_rows(_in_order(options, tasks, rows))
    ordered = {kind: dict(sorted(networks[kind].items())) for kind in tasks if kind in networks}
    scores = _scores_of(options, tasks, rows)
    _write_summary(run, ending.status, scores)
    if not ordered:
        ending.end_without("network")
    return Trained(ordered, scores)


def _compile(options: StudyOptions, task: Task) -> tuple[Programs, Callable[[Params], Any]]:
    programs = compile_task(options, task)
    params = programs.init(jax.random.key(0)).params
    return programs, score_program(options, task, params, task.test or task.validation)


def _train_one(
    options: StudyOptions,
    kind: str,
    seed: int,
    task: Task,
    programs: Programs,
    test: Callable[[Params], Any],
    report: Report,
    on_row: Callable[[Row], None],
) -> tuple[Params, list[Row]]:
    """The params of one network, and its rows."""
    rows: list[Row] = []

    def log(row: Mapping[str, Any], **more: Any) -> None:
        rows.append({"cell": kind, "seed": seed, **row, **more})
        on_row(rows[-1])

    state, rng = programs.init(seed_key(options, seed)), np.random.default_rng((options.seed, seed))
    row: Mapping[str, Any] = {}
    for evaluation in evaluations(options, task, programs, state, rng):
        state, row = evaluation.state, evaluation.row
        log(row, split="train", **means_of(evaluation.info))
        log(row, split="validation", **evaluation.scores)
        report(", ".join(f"{name} {value:.3f}" for name, value in evaluation.scores.items()), 1)
    log(row, split="test", **floats(test(state.params)))
    return state.params, rows


def seed_key(options: StudyOptions, seed: int) -> jax.Array:
    """The key of a network."""
    return jax.random.fold_in(jax.random.key(options.seed), seed)


def initial_params(options: StudyOptions, task: Task, seed: int = 0) -> Params:
    """The params with which the network of this seed begins."""
    return task.learner.init(seed_key(options, seed), task.lanes).params


def first_network(networks: Networks, kind: str) -> Params:
    """The params of a kind of network from the lowest seed that is finished."""
    return networks[kind][min(networks[kind])]


def class_scores(logits: jax.Array, classes: jax.Array) -> dict[str, jax.Array]:
    """Accuracy and loss of a classifier: ``logits (N, C)`` against true classes ``(N,)``."""
    right = logits.argmax(axis=-1) == classes
    return {"accuracy": jnp.mean(right), "loss": jnp.mean(next_token_nats(logits, classes))}


def _finished(
    options: StudyOptions, run: Run, tasks: Mapping[str, Task]
) -> tuple[Networks, dict[tuple[str, int], list[Row]]]:
    """The networks that an earlier start of the run has finished, and their rows; rows of others are dropped."""
    networks: Networks = {}
    rows: dict[tuple[str, int], list[Row]] = {}
    for row in run.rows():
        rows.setdefault((row["cell"], row["seed"]), []).append(row)
    for kind, seed in [*rows]:
        file = run.folder / _file_of(kind, seed)
        done = rows[kind, seed][-1]["split"] == "test" and file.is_file()
        if kind in tasks and seed < options.seeds and done:
            like = jax.eval_shape(tasks[kind].learner.init, jax.random.key(0), tasks[kind].lanes).params
            networks.setdefault(kind, {})[seed] = load_params(file, like)
        else:
            del rows[kind, seed]
    run.write_rows(_in_order(options, tasks, rows))
    return networks, rows


def _in_order(
    options: StudyOptions, tasks: Mapping[str, Task], rows: Mapping[tuple[str, int], Sequence[Row]]
) -> list[Row]:
    order = [(kind, seed) for kind in tasks for seed in range(options.seeds)]
    return [row for network in order for row in rows.get(network, ())]


def _scores_of(
    options: StudyOptions, tasks: Mapping[str, Task], rows: Mapping[tuple[str, int], Sequence[Row]]
) -> Scores:
    """The scores on the test part, by kind."""
    scores: dict[str, dict[str, list[float]]] = {}
    for kind in tasks:
        for of_one in (rows[kind, seed] for seed in range(options.seeds) if (kind, seed) in rows):
            facts = of_one[0].keys() - {"loss"}  # fields of every row are no scores
            for name, value in of_one[-1].items():
                if name not in facts:
                    number = float("nan") if value is None else value
                    scores.setdefault(kind, {}).setdefault(name, []).append(number)
    return {kind: {name: np.array(values, float) for name, values in of.items()} for kind, of in scores.items()}


def _write_summary(run: Run, status: str, scores: Scores) -> None:
    networks = {
        kind: {name: {"mean": values.mean(), "of_seeds": values.tolist()} for name, values in of.items()}
        for kind, of in scores.items()
    }
    run.write_json("summary.json", {"status": status, "networks": networks})


def status_of(run: Run) -> str:
    """The status at the end of the run: a key of ``EXIT_CODES``."""
    status = read_json(run.folder / "summary.json")["status"]
    if status not in EXIT_CODES:
        raise ValueError(f"run got the status {status!r}; want one of {', '.join(EXIT_CODES)}")
    return status


def _file_of(kind: str, seed: int) -> str:
    return f"cells/{kind}-{seed}.safetensors"
