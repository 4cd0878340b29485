"""The cost of calls outside ``jit``, as in a notebook, against a hand-written ``lax.scan`` outside ``jit``.

Every call makes its cell again. Memory is that of the process after 200 calls, less that before.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.report import command
from benchmarks.timing import Program, Record, compare, kib_of_process
from rnn_jax import Cell, gru, lag_gradients, readout, rollout
from rnn_jax.decoding import beam_search, greedy, sample
from rnn_jax.gradients import chunked
from rnn_jax.lab.environment import environment
from rnn_jax.losses import cross_entropy
from rnn_jax.training import evaluate

V, H, T, B, CALLS = 32, 64, 100, 8, 200


def model() -> Cell:
    """A cell whose inputs are ids and whose outputs are logits of the next id."""
    return readout(gru(V, H), V)


def eager_program(call: Callable[[], Any]) -> Program:
    """A call outside ``jit`` as a program; its seconds of compilation are those of the first call."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return Program(lambda: jax.block_until_ready(call()), time.perf_counter() - begin, None, None)


def growth_in_kib(call: Callable[[], Any]) -> int:
    """Growth of the process in KiB over 200 more calls; 0 where the system does not report it."""
    before = kib_of_process("VmRSS")
    for _ in range(CALLS):
        jax.block_until_ready(call())
    return max(kib_of_process("VmRSS") - before, 0)


def run(quick: bool) -> Iterator[Record]:
    """Records, one for each function.

    Args:
        quick: a few calls each, without the measurement of memory.
    """
    key = jax.random.key(0)
    params = model().init(key)
    xs, first, h0 = jnp.ones((T, B), int), jnp.ones(B, int), model().start(params, (B,))
    cell = model()

    def step(h: Any, x: Any) -> tuple[Any, Any]:
        h = cell.step(params, h, x)
        return h, h

    def nats(params: Any) -> Any:
        return chunked(model(), params, h0, xs, xs, cross_entropy, window=20)[0]

    by_hand = eager_program(lambda: jax.lax.scan(step, h0, xs))
    calls: dict[str, Callable[[], Any]] = {
        "rollout": lambda: rollout(model(), params, h0, xs),
        "gradient of rollout": lambda: jax.grad(lambda p: jnp.sum(rollout(model(), p, h0, xs)[0]))(params),
        "gradient of chunked": lambda: jax.grad(nats)(params),
        "lag_gradients": lambda: lag_gradients(model(), params, h0, xs, sum_of_each),
        "greedy": lambda: greedy(model(), params, h0, first, length=T),
        "sample": lambda: sample(model(), params, key, h0, first, length=T, temperature=0.5, top_k=5),
        "beam_search": lambda: beam_search(model(), params, h0, first, length=T, width=4),
        "evaluate": lambda: evaluate(model(), params, xs, xs, cross_entropy),
    }
    for name, call in calls.items():
        ours = eager_program(call)
        figures = compare(ours, by_hand, seconds=0.05 if quick else 3.0, min_pairs=3)
        case: dict[str, str | int] = {"call": name, "T": T, "B": B, "H": H}
        if not quick:
            case[f"KiB after {CALLS} calls"] = growth_in_kib(call)
        yield Record(
            "eager", "a hand-written lax.scan of the states, called outside jit", case, quick, figures, environment()
        )


def sum_of_each(y: Any) -> Any:
    """A loss of the last output of each example."""
    return jnp.sum(y, axis=-1)


if __name__ == "__main__":
    command(run)
