"""What does a call outside ``jit`` cost, as in a notebook, beside a hand-written ``lax.scan`` called so?

Every call makes its cell anew. Memory is that of the process after 200 calls, less that before.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.report import command
from benchmarks.timing import Program, Record, compare
from rnn_jax import Cell, gru, lag_gradients, readout, rollout
from rnn_jax.decoding import beam_search, greedy, sample
from rnn_jax.gradients import chunked
from rnn_jax.lab.environment import environment
from rnn_jax.losses import cross_entropy
from rnn_jax.training import evaluate

V, H, T, B, CALLS = 32, 64, 100, 8, 200


def model() -> Cell:
    """A cell that reads ids and predicts the next one."""
    return readout(gru(V, H), V)


def called(call: Callable[[], Any]) -> Program:
    """A call as a program; the first call is what it costs to compile."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return Program(lambda: jax.block_until_ready(call()), time.perf_counter() - begin, None, None)


def grown_kib(call: Callable[[], Any]) -> int:
    """KiB of the process after 200 more calls, less those before; 0 where the system does not report them."""
    before = resident_kib()
    for _ in range(CALLS):
        jax.block_until_ready(call())
    return max(resident_kib() - before, 0)


def resident_kib() -> int:
    """KiB that the process holds, as Linux reports them."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def run(quick: bool) -> Iterator[Record]:
    """Yields a record for each function."""
    key = jax.random.key(0)
    params = model().init(key)
    xs, first, h0 = jnp.ones((T, B), int), jnp.ones(B, int), model().start(params, (B,))
    cell = model()

    def step(h: Any, x: Any) -> tuple[Any, Any]:
        h = cell.step(params, h, x)
        return h, h

    def nats(params: Any) -> Any:
        return chunked(model(), params, h0, xs, xs, cross_entropy, window=20)[0]

    by_hand = called(lambda: jax.lax.scan(step, h0, xs))
    calls: dict[str, Callable[[], Any]] = {
        "rollout": lambda: rollout(model(), params, h0, xs),
        "gradient of rollout": lambda: jax.grad(lambda p: jnp.sum(rollout(model(), p, h0, xs)[0]))(params),
        "gradient of chunked": lambda: jax.grad(nats)(params),
        "lag_gradients": lambda: lag_gradients(model(), params, h0, xs, of_each),
        "greedy": lambda: greedy(model(), params, h0, first, length=T),
        "sample": lambda: sample(model(), params, key, h0, first, length=T, temperature=0.5, top_k=5),
        "beam_search": lambda: beam_search(model(), params, h0, first, length=T, width=4),
        "evaluate": lambda: evaluate(model(), params, xs, xs, cross_entropy),
    }
    for name, call in calls.items():
        ours = called(call)
        figures = compare(ours, by_hand, seconds=0.2 if quick else 3.0, min_pairs=3)
        case: dict[str, str | int] = {"call": name, "T": T, "B": B, "H": H}
        if not quick:
            case[f"KiB after {CALLS} calls"] = grown_kib(call)
        yield Record(
            "eager", "a hand-written lax.scan of the states, called outside jit", case, quick, figures, environment()
        )


def of_each(y: Any) -> Any:
    """A loss of the last output of each example."""
    return jnp.sum(y, axis=-1)


if __name__ == "__main__":
    command(run)
