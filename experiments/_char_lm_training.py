"""The loop of ``char_lm.py``: chunks of windows on the device, and between them scores, samples and a checkpoint."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _cells import short
from _study import LARGEST, compiled, progress_of
from _text import writer

from rnn_jax import Cell
from rnn_jax.data.text import Vocabulary
from rnn_jax.lab.checkpoints import Checkpoints, load_params, save_params
from rnn_jax.lab.runs import Run, read_metrics, uninterrupted
from rnn_jax.losses import bits_per_char, cross_entropy, per_step, perplexity
from rnn_jax.training import Learner, LearnerInfo, LearnerState, evaluate, fit, require_finite
from rnn_jax.types import Params


class Job(NamedTuple):
    """What is trained on what."""

    model: Cell
    learner: Callable[[int], tuple[Learner, optax.Schedule]]
    """``(looks) -> (learner, learning rate)``: the schedule ends with the last look."""
    windows: tuple[np.ndarray, np.ndarray]
    """Letters ``(W, K, B)`` and targets ``(W, K1, B)``; at the end the text begins anew, with the state carried on."""
    validation: np.ndarray
    test: np.ndarray
    letters: Vocabulary
    prompt: str
    facts: Mapping[str, Any]
    """What stands on every row of the metrics."""


class Programs(NamedTuple):
    """What is compiled once."""

    learn: Callable  # (state, windows) -> (state, info)
    score: Callable  # (params) -> nats a letter on the whole validation part
    write: Callable  # (params, key, temperature) -> ids
    compile_s: float


def train(config: Any, run: Run, job: Job) -> None:
    """Trains from the last checkpoint that is whole, or from the beginning.

    Raises:
        FloatingPointError: when loss or gradient are not finite and the configuration says stop.
        OSError: when the disk is full; the last checkpoint stays.
    """
    name = short(config.cell)
    with progress_of([name], None) as bars:
        bars.tick(name, "compiling")
        kept = Checkpoints(run.folder / "checkpoints")
        state, seconds, looks = go_on(config, run, job, kept, bars.say)
        learner, rate = job.learner(looks)
        programs = compile_programs(config, job, learner, state)
        first = int(state.cursor) // config.updates
        bars.progress.update(bars.tasks[name], total=looks, completed=first)
        for look in range(first, looks):
            if is_stale(run, config.patience):
                bars.say(f"no better validation score in {config.patience} looks: training ends")
                break
            with uninterrupted(), naming_the_last_of(kept):  # Ctrl-C waits for the checkpoint
                begin = time.perf_counter()
                learned = programs.learn(state, chunk(job, look, config.updates))
                state, info = jax.block_until_ready(learned)
                seconds += time.perf_counter() - begin
                if config.on_nonfinite == "stop":
                    require_finite(state, info)
                nats = look_at(run, config, job, programs, rate, state, info, seconds)
                facts = {"lengths": run.lengths(), "seconds": seconds, "looks": looks, "best": best_file(run).is_file()}
                kept.save(int(state.cursor), state, facts)
            bars.tick(name, f"loss {nats:.3f} nats", 1)
        score_on_test(run, config, job, seconds)


def go_on(
    config: Any, run: Run, job: Job, kept: Checkpoints, tell: Callable[[str], None]
) -> tuple[LearnerState, float, int]:
    """Where the last checkpoint that is whole stands, or the beginning, with the files cut back to it.

    Returns:
        ``(state, seconds, looks)``: the state, how long it took to come so far, and how many looks there are.

    Raises:
        ValueError: when no checkpoint is whole, or another file of the run is not what it was then.
    """
    learner, _ = job.learner(config.looks)  # the schedule does not change what its state is made of
    state = jax.jit(partial(learner.init, batch_shape=(config.batch_size,)))(jax.random.key(config.seed))
    found = kept.restore(state, tell)
    if found is None:
        run.cut_back({})
        return state, 0.0, planned_looks(config, job, state) if config.minutes else config.looks
    if found.facts["best"] and not best_file(run).is_file():
        raise ValueError(f"{best_file(run)} is gone; want it back, or --overwrite to begin anew")
    run.cut_back(found.facts["lengths"])
    tell(f"going on from checkpoint {found.step}")
    return found.state, found.facts["seconds"], found.facts["looks"]


def planned_looks(config: Any, job: Job, state: LearnerState) -> int:
    """As many looks as take ``--minutes``, by the best time of a few updates."""
    learner, _ = job.learner(config.looks)
    few = min(config.updates, 20)
    windows = chunk(job, 0, few)
    learn = compiled(config, partial(fit, learner), state, windows)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        jax.block_until_ready(learn(state, windows))
        seconds.append(time.perf_counter() - begin)
    return min(LARGEST // config.updates, max(1, round(60 * config.minutes / (min(seconds) * config.updates / few))))


def chunk(job: Job, look: int, updates: int) -> tuple[np.ndarray, ...]:
    """The windows from one look to the next."""
    which = (look * updates + np.arange(updates)) % len(job.windows[0])
    return tuple(part[which] for part in job.windows)


def nats_of(model: Cell, params: Params, ids: np.ndarray) -> jax.Array:
    """Nats a letter of one stream, read from its first letter to its last with the state carried."""
    xs, targets = ids[:-1, None], ids[1:, None]
    return evaluate(model, params, xs, targets, per_step(cross_entropy))


def compile_programs(config: Any, job: Job, learner: Learner, state: LearnerState) -> Programs:
    """Compiles everything, and says how long it took."""
    begin, write = time.perf_counter(), writer(job.model, job.letters.encode(job.prompt), config.letters)
    return Programs(
        learn=compiled(config, partial(fit, learner), state, chunk(job, 0, config.updates)),
        score=compiled(config, lambda params: nats_of(job.model, params, job.validation), state.params),
        write=compiled(config, write, state.params, state.key, jnp.float32(1.0)),
        compile_s=round(time.perf_counter() - begin, 2),
    )


@contextlib.contextmanager
def naming_the_last_of(kept: Checkpoints) -> Iterator[None]:
    """Adds the last good checkpoint to what ends a run: numbers that are not finite, a full disk."""
    try:
        yield
    except (FloatingPointError, OSError) as error:
        steps = kept.steps()
        good = f"the last good checkpoint is {steps[-1]}" if steps else "there is no checkpoint yet"
        skip = ", or --resume --on-nonfinite skip" if isinstance(error, FloatingPointError) else ""
        raise type(error)(f"{error}{skip}; {good}") from None


def look_at(
    run: Run,
    config: Any,
    job: Job,
    programs: Programs,
    rate: optax.Schedule,
    state: LearnerState,
    info: LearnerInfo,
    seconds: float,
) -> float:
    """Writes the rows of one look, the samples, and the params when they are the best so far; returns the score."""
    best = min(validation_nats(run), default=float("inf"))
    seen = int(state.cursor) * config.batch_size * (config.k1 or config.window)
    row = {**job.facts, "step": int(state.step), "batches": int(state.cursor), "tokens": seen}
    row |= {"learning_rate": float(np.asarray(rate(int(state.step) - 1)))}
    row |= {"wall_s": round(seconds, 3), "tokens_per_s": round(seen / seconds), "compile_s": programs.compile_s}
    good = np.asarray(info.broken) < 0
    means = {name: float(np.mean(np.asarray(getattr(info, name))[good])) for name in ("loss", *MEANS) if good.any()}
    log_nats(run, row | {"split": "train", "skipped": int(state.cursor - state.step)}, **means)
    nats = float(programs.score(state.params))
    log_nats(run, row | {"split": "validation"}, loss=nats)
    if nats < best:
        save_params(run.path(best_file(run).name), state.params)
    for number, temperature in enumerate(config.temperatures):
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.cursor), number)
        ids = np.asarray(programs.write(state.params, key, jnp.float32(temperature)))
        title = f"== batch {int(state.cursor)}, {nats:.3f} nats, temperature {temperature:g}"
        run.append("samples.txt", f"{title}\n{job.prompt}{job.letters.decode(ids)}\n\n")
    return nats


MEANS = ("grad_norm", "clipped_norm", "clipped", "update_ratio")


def log_nats(run: Run, row: dict[str, Any], loss: float = float("nan"), **scores: float) -> None:
    """A row of the metrics: the loss in nats, in bits and as perplexity."""
    run.log(**row, loss=loss, bits_per_char=bits_per_char(loss), perplexity=perplexity(loss), **scores)


def validation_nats(run: Run) -> list[float]:
    """The scores of every look so far; one that is not finite counts as infinite."""
    rows = (row for row in read_metrics(run.folder) if row["split"] == "validation")
    return [float("inf") if row["loss"] is None else row["loss"] for row in rows]


def is_stale(run: Run, patience: int) -> bool:
    """Whether the last ``patience`` looks brought nothing better."""
    nats = validation_nats(run)
    return 0 < patience < len(nats) and min(nats[-patience:]) >= min(nats[:-patience])


def score_on_test(run: Run, config: Any, job: Job, seconds: float) -> None:
    """The row of the test part: looked at once, by the params that were best on the validation part."""
    if not len(job.test) or not best_file(run).is_file():
        return
    params = best_params(run, job)
    nats = float(compiled(config, lambda params: nats_of(job.model, params, job.test), params)(params))
    log_nats(run, {**job.facts, "split": "test", "wall_s": round(seconds, 3)}, loss=nats)


def best_file(run: Run) -> Path:
    """Where the params are that were best on the validation part."""
    return run.folder / "params.safetensors"


def best_params(run: Run, job: Job) -> Params:
    """The params that were best on the validation part."""
    return load_params(best_file(run), jax.eval_shape(job.model.init, jax.random.key(0)))
