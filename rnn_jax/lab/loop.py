"""The one training loop of all experiments: updates on the device, then an evaluation, again and again."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from rnn_jax.lab.options import Options
from rnn_jax.lab.own_cells import own_function
from rnn_jax.parallel import one_copy
from rnn_jax.training import Learner, LearnerInfo, LearnerState, fit
from rnn_jax.types import Params

__all__ = ["Evaluation", "Task", "compile_program", "evaluations", "learning_rate", "optimizer_of"]

QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
OPTIMIZERS = {name: getattr(optax, name) for name in ("adam", "adamw", "sgd", "rmsprop", "lion")}
MEANS = ("loss", "grad_norm", "clipped_norm", "clipped", "update_ratio")
"""Means over the updates between two evaluations, in the rows of training."""


class Task(NamedTuple):
    """The training and evaluation of one kind of network."""

    learner: Learner
    batches: Callable[[np.random.Generator, int], tuple[Any, ...]]
    """``(rng, number) -> batches``: those before evaluation ``number``, with a leading axis of updates."""
    score: Callable[..., Mapping[str, jax.Array]]
    """``(params, *part) -> {name: score}``, among them ``loss`` in nats."""
    validation: tuple[Any, ...]
    """The part for evaluations while the network is trained."""
    test: tuple[Any, ...] | None
    """The part on which the trained network is evaluated once; None where there is none."""
    lanes: tuple[int, ...] = ()
    """Batch axes of a state that is carried from batch to batch."""
    tokens: int = 0
    """Characters in a batch, for tasks that count them."""
    facts: Mapping[str, Any] = {}
    """Fields of every row of the metrics: hidden size, number of parameters."""
    options: Options | None = None
    """The options of this task, where they differ from those of the study in updates, batch size or learning rate."""
    memory: Mapping[str, float] = {}
    """Bytes that one network needs while it is trained, by option (``memory_of_training``)."""

    def state_shapes(self) -> LearnerState:
        """Shapes and types of a state of the learner."""
        return jax.eval_shape(partial(self.learner.init, batch_shape=self.lanes), jax.random.key(0))


class Updates(NamedTuple):
    """The compiled programs of the training of a task."""

    init: Callable[[jax.Array], LearnerState]
    learn: Callable[[LearnerState, tuple[Any, ...]], tuple[LearnerState, LearnerInfo]]
    example: LearnerState
    """A first state, of key 0."""


class Programs(NamedTuple):
    """The compiled programs of a task, shared by all seeds."""

    init: Callable[[jax.Array], LearnerState]
    learn: Callable[[LearnerState, tuple[Any, ...]], tuple[LearnerState, LearnerInfo]]
    validate: Callable[[Params], Mapping[str, jax.Array]]
    compile_s: float


class Evaluation(NamedTuple):
    """The state of training at an evaluation."""

    number: int
    """From 0 on."""
    state: LearnerState
    info: LearnerInfo
    """Of every update since the evaluation before."""
    row: Mapping[str, Any]
    """Fields of the metrics: the progress so far, and means over ``info``."""
    scores: Mapping[str, float]
    """On the validation part."""
    seconds: float
    """Of training so far, without compilation and evaluation."""


def learning_rate(options: Options) -> optax.Schedule:
    """The learning rate at every update: a linear rise over the first sixth, then half a cosine down to a twentieth."""
    total = options.evaluations * options.updates
    warm = -(-total // 6)
    return optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, warm, max(total, warm + 1), options.learning_rate / 20
    )


def optimizer_of(options: Options, **arguments: Any) -> optax.GradientTransformation:
    """The optimizer that ``--optimizer`` names, with the schedule of these options.

    Args:
        options: of the run.
        **arguments: more for an optimizer of optax, such as ``weight_decay``.

    Raises:
        ValueError: for an unknown name, or a file whose function makes no optimizer.
    """
    name = options.optimizer
    if ":" in name:
        made = own_function(name, "--optimizer", ["learning_rate"])(learning_rate(options))
    elif name in OPTIMIZERS:
        made = OPTIMIZERS[name](learning_rate(options), **arguments)
    else:
        raise ValueError(f"--optimizer got {name!r}; want one of {', '.join(OPTIMIZERS)}, or FILE.py:function")
    if not isinstance(made, optax.GradientTransformation | optax.GradientTransformationExtraArgs):
        raise ValueError(f"--optimizer got {name!r}, which returned {type(made).__name__}; want an optax optimizer")
    return made


def compile_program(options: Options, f: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """The program of ``f`` for such arguments; a smoke run compiles it without most optimisations."""
    return jax.jit(f, compiler_options=QUICK_COMPILE if options.smoke else None).lower(*args).compile()


def compile_task(options: Options, task: Task) -> Programs:
    """Compiles the programs for the training of a task."""
    begin, (init, learn, example) = time.perf_counter(), compile_updates(options, task)
    validate = score_program(options, task, example.params, task.validation)
    return Programs(init, learn, validate, round(time.perf_counter() - begin, 2))


def compile_updates(options: Options, task: Task) -> Updates:
    """Compiles the programs of a task without that for its evaluation."""
    key = jax.random.key(0)
    init = compile_program(options, lambda key: task.learner.init(key, task.lanes), key)
    example, batches = init(key), task.batches(np.random.default_rng(0), 0)
    return Updates(init, compile_program(options, partial(fit, task.learner), example, batches), example)


def score_program(options: Options, task: Task, params: Params, part: tuple[Any, ...]) -> Callable[[Params], Any]:
    """The program ``(params) -> scores`` on a part of the data, on one device of this process."""
    program = compile_program(options, task.score, one_copy(params), *part)
    return lambda params: program(one_copy(params), *part)


def evaluations(
    options: Options,
    task: Task,
    programs: Programs,
    state: LearnerState,
    rng: np.random.Generator,
    *,
    first: int = 0,
    last: int | None = None,
    seconds: float = 0.0,
) -> Iterator[Evaluation]:
    """Trains a network, and yields at each evaluation.

    Args:
        options: ``evaluations`` and ``updates`` give the length; the learning rate follows their schedule.
        task, programs: as compiled by ``compile_task``.
        state: the state before evaluation ``first``.
        rng: of the batches.
        first: evaluations that were made before.
        last: evaluations in all, if not ``options.evaluations``; beyond these the learning rate stays at its end.
        seconds: of training until then.

    >>> import jax.numpy as jnp
    >>> from rnn_jax.training import batch_learner
    >>> def score(params, x):
    ...     return {"loss": (params - x) ** 2}
    >>> learner = batch_learner(lambda key: jnp.zeros(()), lambda p, x: score(p, x)["loss"], optax.sgd(0.1))
    >>> task = Task(learner, lambda rng, number: (jnp.full(20, 3.0),), score, (jnp.array(3.0),), None)
    >>> options = Options(evaluations=2, updates=20)
    >>> programs = compile_task(options, task)
    >>> state = programs.init(jax.random.key(0))
    >>> [e.row["step"] for e in evaluations(options, task, programs, state, np.random.default_rng(0))]
    [20, 40]
    """
    own = task.options or options
    rate = learning_rate(own)
    for number in range(first, options.evaluations if last is None else last):
        batches, begin = task.batches(rng, number), time.perf_counter()
        state, info = jax.block_until_ready(programs.learn(state, batches))
        seconds += time.perf_counter() - begin
        read, made = int(state.cursor), int(state.step)
        row = {
            **task.facts,
            "step": made,
            "batches": read,
            "skipped": read - made,
            "examples": read * own.batch_size,
        }
        row |= {"learning_rate": float(np.asarray(rate(made - 1)))}
        row |= {"wall_s": round(seconds, 3), "compile_s": programs.compile_s}
        if task.tokens:
            row |= {"tokens": read * task.tokens, "tokens_per_s": round(read * task.tokens / seconds)}
        yield Evaluation(number, state, info, row, floats(programs.validate(state.params)), seconds)


def means_of(info: LearnerInfo) -> dict[str, float]:
    """Means over the updates that were made; NaN where every one was skipped."""
    made = np.asarray(info.broken) < 0
    return {n: float(np.mean(np.asarray(getattr(info, n))[made])) if made.any() else float("nan") for n in MEANS}


def floats(scores: Mapping[str, Any]) -> dict[str, float]:
    """Scores as Python numbers."""
    return {name: float(np.asarray(value)) for name, value in scores.items()}
