"""Networks trained side by side: every kind from several seeds, scored while learning, and once at the end."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _study import Study, Tick, compiled, learning_rate, numbers_of, require_room, side_by_side

from rnn_jax.lab.checkpoints import load_params, save_params
from rnn_jax.lab.runs import Run, open_run, read_metrics
from rnn_jax.losses import next_token_nats
from rnn_jax.training import Learner, fit
from rnn_jax.types import Params

Networks = dict[str, dict[int, Params]]
"""``{kind: {seed: params}}``: what is trained so far."""


class Task(NamedTuple):
    """What networks of one kind learn, and how they are scored."""

    learner: Learner
    batches: Callable[[np.random.Generator, int], tuple[Any, ...]]
    """``(rng, look) -> batches``: those between one look and the next, with a leading axis of updates."""
    score: Callable[..., dict[str, jax.Array]]
    """``(params, *part) -> {name: score}``, among them ``loss`` in nats."""
    validation: tuple[Any, ...]
    """Looked at while learning."""
    test: tuple[Any, ...]
    """Looked at once, by trained networks."""
    lanes: tuple[int, ...] = ()
    """The batch axes of a state that is carried from batch to batch."""
    facts: Mapping[str, Any] = {}
    """What stands on every row of the metrics: hidden size, number of parameters."""
    needs: Mapping[str, float] = {}
    """Bytes that one network holds while it is trained, by the option that decides them (``needs_of``)."""


class Programs(NamedTuple):
    """A task, compiled once for all of its seeds."""

    init: Callable
    learn: Callable
    validate: Callable
    test: Callable
    compile_s: float


def needs_of(config: Study, model: Any, *, steps: int, outputs: int, numbers: int, scored: int) -> dict[str, float]:
    """About how many bytes a network holds while it is trained, by the option that decides them.

    Args:
        config: the options.
        model: has ``init`` and ``start``.
        steps: of one example in an update.
        outputs: numbers that come out at each step.
        numbers: that one example is made of.
        scored: steps of all examples of the part that is scored at once.
    """
    params = jax.eval_shape(model.init, jax.random.key(0))
    state = numbers_of(jax.eval_shape(model.start, params))
    kept = steps * (4 * state + 2 * outputs) + numbers  # for the gradient: gates and states; logits
    needs: dict[str, float] = {
        "seeds": 4 * numbers_of(params),  # of each network that is finished
        "hidden_size": 4 * (4 * numbers_of(params) + 2 * scored * (state + outputs)),  # gradient and Adam's two moments
        "batch_size": 4 * config.batch_size * kept,
        "updates": 0,
    }
    needs[max("batch_size", "updates", key=lambda option: getattr(config, option))] += (
        8 * config.updates * config.batch_size * numbers
    )
    return needs


def open_study(config: Study, tasks: Mapping[str, Task], facts: Mapping[str, Any] | None = None) -> Run:
    """Opens the run folder, where what is to be trained has room in the machine; a ValueError otherwise.

    Args:
        config: the options.
        tasks: what is trained.
        facts: of the data, so that a run goes on only with the same; by default the SHA-256 of what is scored.
    """
    options = {option for task in tasks.values() for option in task.needs}
    needs = {option: max(task.needs.get(option, 0) for task in tasks.values()) for option in options}
    finished = config.seeds * len(tasks) * needs.pop("seeds", 0)
    require_room(config, **needs)
    require_room(config, seeds=finished, workers=min(config.workers, config.seeds * len(tasks)) * sum(needs.values()))
    if facts is None:
        scored = [np.asarray(leaf).tobytes() for task in tasks.values() for leaf in (*task.validation, *task.test)]
        facts = {"data_sha256": hashlib.sha256(b"".join(scored)).hexdigest()}
    return open_run(config.out, config, facts=facts, resume=config.resume, overwrite=config.overwrite)


def classify(logits: jax.Array, classes: jax.Array) -> dict[str, jax.Array]:
    """Scores of a classifier: ``logits (N, C)`` against the truth ``(N,)``."""
    right = logits.argmax(axis=-1) == classes
    return {"accuracy": jnp.mean(right), "loss": jnp.mean(next_token_nats(logits, classes))}


def first_of(networks: Networks, kind: str) -> Params:
    """The network of a kind whose seed is the lowest of those that are finished."""
    return networks[kind][min(networks[kind])]


def finished(config: Study, run: Run, tasks: Mapping[str, Task]) -> Networks:
    """What an earlier start of the run has finished; the metrics of what it has not are dropped."""
    networks: Networks = {}
    rows = read_metrics(run.folder)
    tested = {(row["cell"], row["seed"]) for row in rows if row["split"] == "test"}
    for kind, task in tasks.items():
        for seed in range(config.seeds):
            if (kind, seed) in tested and (file := run.folder / _name(kind, seed)).is_file():
                like = jax.eval_shape(task.learner.init, jax.random.key(0)).params
                networks.setdefault(kind, {})[seed] = load_params(file, like)
    kept = [row for row in rows if row["seed"] in networks.get(row["cell"], {})]
    run.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))
    return networks


def learn_all(config: Study, run: Run, tasks: Mapping[str, Task], networks: Networks) -> None:
    """Trains every kind of network from every seed, except those that are finished.

    Each is kept in the run folder and added to ``networks`` as it ends, and only then has its row of the test part.
    """
    wanted = {
        f"{kind} {seed}": (kind, seed)
        for seed in range(config.seeds)
        for kind in tasks
        if seed not in networks.get(kind, {})
    }
    programs, locks = {}, {kind: threading.Lock() for kind in tasks}

    def job(kind: str, seed: int, tick: Tick) -> tuple[Params, dict[str, Any]]:
        tick("compiling")
        with locks[kind]:
            if kind not in programs:
                programs[kind] = _compile(config, tasks[kind])
        return _train(config, run, kind, seed, tasks[kind], programs[kind], tick)

    def done(name: str, result: tuple[Params, dict[str, Any]]) -> None:
        (kind, seed), (params, tested) = wanted[name], result
        save_params(run.path(_name(kind, seed)), params)
        run.log(**tested)
        networks.setdefault(kind, {})[seed] = params

    side_by_side(config, {name: partial(job, *which) for name, which in wanted.items()}, done)


def _compile(config: Study, task: Task) -> Programs:
    begin, key = time.perf_counter(), jax.random.key(0)
    init = compiled(config, lambda key: task.learner.init(key, task.lanes), key)
    state = init(key)
    learn = compiled(config, partial(fit, task.learner), state, task.batches(np.random.default_rng(0), 0))
    validate, test = (compiled(config, task.score, state.params, *part) for part in (task.validation, task.test))
    return Programs(init, learn, validate, test, round(time.perf_counter() - begin, 2))


def _train(
    config: Study, run: Run, kind: str, seed: int, task: Task, programs: Programs, tick: Tick
) -> tuple[Params, dict[str, Any]]:
    """Trains one network and writes its rows of the metrics, except that of the test part, which it returns."""
    row: dict[str, Any] = {}
    state = programs.init(jax.random.fold_in(jax.random.key(config.seed), seed))
    rng, seconds, rate = np.random.default_rng((config.seed, seed)), 0.0, learning_rate(config)
    facts = {"cell": kind, "seed": seed, **task.facts, "compile_s": programs.compile_s}
    for look in range(config.looks):
        batches, begin = task.batches(rng, look), time.perf_counter()
        state, info = jax.block_until_ready(programs.learn(state, batches))
        seconds += time.perf_counter() - begin
        read, made = int(state.cursor), int(state.step)
        row = {**facts, "step": made, "skipped": read - made, "examples": read * config.batch_size}
        row |= {"learning_rate": float(np.asarray(rate(made - 1))), "wall_s": round(seconds, 3)}
        run.log(**row, split="train", loss=float(info.loss.mean()), grad_norm=float(info.grad_norm.mean()))
        scores = _numbers(programs.validate(state.params, *task.validation))
        run.log(**row, split="validation", **scores)
        tick(", ".join(f"{name} {value:.3f}" for name, value in scores.items()), 1)
    return state.params, {**row, "split": "test", **_numbers(programs.test(state.params, *task.test))}


def _numbers(scores: dict[str, jax.Array]) -> dict[str, float]:
    return {name: float(value) for name, value in scores.items()}


def _name(kind: str, seed: int) -> str:
    return f"cells/{kind}-{seed}.safetensors"
