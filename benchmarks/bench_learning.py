"""What networks learn over long lags, and what gradient flossing changes: adding, copying, delayed XOR."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.report import command
from rnn_jax import gru, irnn, lstm, outputs, readout, rollout, vanilla
from rnn_jax.data import ADDING_BASELINE, DELAYED_XOR_BASELINE, adding, copying, copying_baseline, delayed_xor
from rnn_jax.gradients import flossing
from rnn_jax.lab.environment import Environment, environment
from rnn_jax.losses import cross_entropy, per_step
from rnn_jax.training import batch_learner
from rnn_jax.types import Cell, Params

CHUNK = 100
"""Updates in one compiled call."""


class Case(NamedTuple):
    """One kind of network on one task, trained from several seeds."""

    task: str
    cell: str
    model: Cell
    draw: Callable[[jax.Array, int], tuple[Any, ...]]
    """``(key, batch_size) -> batch``."""
    loss: Callable[..., jax.Array]
    """``(params, *batch) -> scalar``."""
    baseline: float
    """The loss without memory."""
    goal: float
    """Training ends when the loss on new examples is below it."""
    updates: int
    learning_rate: float
    batch_size: int
    seeds: int
    hidden_size: int
    prepare: Callable[[Params, jax.Array], jax.Array] | None = None
    """A penalty ``(params, key) -> scalar`` that is minimised before the training."""
    prepared: int = 0
    """Updates on it, which count among ``updates``."""


class LearningRecord(NamedTuple):
    """One line of the results."""

    benchmark: str
    case: dict[str, str | int | float]
    quick: bool
    baseline: float
    losses: list[float]
    """On 1,000 new examples after the last update, for each seed; other examples decide when training ends."""
    updates: list[int]
    """Made until the goal was reached, for each seed; all of them where it was not."""
    seconds: float
    environment: Environment

    def __str__(self) -> str:
        losses = ", ".join(f"{loss:.3g}" for loss in self.losses)
        updates = ", ".join(f"{n:,}" for n in self.updates)
        return (
            f"{self.case['task']}, {self.case['cell']}: loss {losses} (without memory {self.baseline:.3g}) "
            f"after {updates} updates; {self.seconds:.0f} s"
        )


def adding_case(name: str, make: Callable[..., Cell], T: int, *, hidden_size: int, **training: Any) -> Case:
    """The adding problem with the error of the last output."""
    model = readout(make(2, hidden_size), 1)

    def loss(params: Params, xs: jax.Array, targets: jax.Array) -> jax.Array:
        h_T, _ = rollout(model, params, model.start(params, targets.shape), xs)
        return jnp.mean(jnp.square(model.output(params, h_T)[..., 0] - targets))

    draw = lambda key, size: tuple(adding(key, T, size))  # noqa: E731
    return Case(f"adding, T {T}", name, model, draw, loss, ADDING_BASELINE, 1e-3, hidden_size=hidden_size, **training)


def copying_case(
    name: str, make: Callable[..., Cell], T: int, length: int, *, hidden_size: int, **training: Any
) -> Case:
    """The copying problem with the cross-entropy of all steps."""
    model = readout(make(10, hidden_size), 9)

    def loss(params: Params, xs: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
        _, hs = rollout(model, params, model.start(params, xs.shape[1:2]), xs)
        return per_step(cross_entropy)(outputs(model, params, hs), targets)

    draw = lambda key, size: tuple(copying(key, T, size, length=length))  # noqa: E731
    floor = copying_baseline(T, length=length)
    return Case(f"copying, T {T}", name, model, draw, loss, floor, 0.1 * floor, hidden_size=hidden_size, **training)


def xor_case(flossed: bool, delay: int, T: int, prepared: int, *, hidden_size: int, **training: Any) -> Case:
    """Delayed XOR with a tanh network, with or without updates of gradient flossing before those of the task."""
    cell = vanilla(1, hidden_size)
    model = readout(cell, 1)

    def loss(params: Params, xs: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
        _, hs = rollout(model, params, model.start(params, xs.shape[1:2]), 2 * xs - 1)
        logits = outputs(model, params, hs)[..., 0]
        losses = optax.sigmoid_binary_cross_entropy(logits, targets[..., 0])
        return jnp.sum(mask * losses) / jnp.sum(mask)

    def penalty(params: Params, key: jax.Array) -> jax.Array:
        xs = 2 * delayed_xor(key, T, 1, delay=delay).xs - 1
        return flossing(cell, params.cell, cell.start(params.cell, (1,)), xs, count=hidden_size // 2)

    draw = lambda key, size: tuple(delayed_xor(key, T, size, delay=delay))  # noqa: E731
    name = "tanh, flossed first" if flossed else "tanh"
    task = f"delayed XOR, delay {delay}"
    training |= {"prepare": penalty, "prepared": prepared} if flossed else {}
    return Case(task, name, model, draw, loss, DELAYED_XOR_BASELINE, 0.05, hidden_size=hidden_size, **training)


def trained(case: Case, seed: int) -> tuple[float, int]:
    """The loss of one network on new examples, and the updates that it was given."""
    key = jax.random.key(seed)
    optimizer = optax.adam(case.learning_rate)
    learner = batch_learner(case.model.init, case.loss, optimizer, clip=1.0)
    state = learner.init(key)

    @jax.jit
    def chunk(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        def update(state: Any, key: jax.Array) -> tuple[Any, None]:
            return learner.update(state, case.draw(key, case.batch_size))[0], None

        return jax.lax.scan(update, state, jax.random.split(key, CHUNK))[0]

    score = jax.jit(lambda params, part: case.loss(params, *case.draw(jax.random.key(10_000 + part), 1000)))
    done = 0
    if case.prepare is not None:
        floss = batch_learner(case.model.init, case.prepare, optimizer, clip=1.0)
        prepared, keys = floss.init(key), jax.random.split(jax.random.fold_in(key, 1), case.prepared)
        prepared = jax.jit(lambda s, keys: jax.lax.scan(lambda s, k: (floss.update(s, (k,))[0], None), s, keys)[0])(
            prepared, keys
        )
        state, done = learner.init(key)._replace(params=prepared.params), case.prepared
    loss = math.inf
    while done < case.updates and not loss < case.goal:
        state = chunk(state, jax.random.fold_in(key, 2 + done))
        done += CHUNK
        loss = float(score(state.params, 0))
    return float(score(state.params, 1)), done


def cases(quick: bool) -> list[Case]:
    """All cases."""
    if quick:
        few = {"updates": CHUNK, "learning_rate": 1e-2, "batch_size": 2, "seeds": 1, "hidden_size": 4}
        return [adding_case("tanh", vanilla, 4, **few), xor_case(True, 2, 6, 2, **few)]
    long = {"updates": 6000, "learning_rate": 3e-3, "batch_size": 64, "seeds": 3}
    by_name = {"tanh": (vanilla, 128), "relu, identity": (irnn, 128), "gru": (gru, 64), "lstm": (lstm, 64)}
    copying_of = long | {"updates": 4000, "seeds": 1, "hidden_size": 128}
    xor = {"updates": 2000, "learning_rate": 1e-3, "batch_size": 32, "seeds": 3, "hidden_size": 80}
    return [
        *(adding_case(name, make, 100, **long, hidden_size=H) for name, (make, H) in by_name.items()),
        copying_case("gru", gru, 100, 10, **copying_of),
        *(xor_case(flossed, 20, 60, 300, **xor) for flossed in (False, True)),
    ]


def run(quick: bool = False) -> Iterator[LearningRecord]:
    """Records, one for each task and cell."""
    for case in cases(quick):
        begin = time.perf_counter()
        losses, updates = zip(*(trained(case, seed) for seed in range(case.seeds)), strict=True)
        names = ("hidden_size", "learning_rate", "batch_size", "updates", "prepared", "goal", "seeds")
        facts = {name: getattr(case, name) for name in names}
        yield LearningRecord(
            *("learning", {"task": case.task, "cell": case.cell, **facts}, quick, case.baseline),
            losses=[float(f"{loss:.6g}") for loss in losses],
            updates=[int(n) for n in np.asarray(updates)],
            seconds=round(time.perf_counter() - begin, 1),
            environment=environment(),
        )


if __name__ == "__main__":
    command(run)
