"""The cost of instruments, in gradients: of the same loss, and of a training step without a profile of lags."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.report import command
from benchmarks.timing import Program, Record, compare, compile_program
from rnn_jax import gru, lag_gradients, lstm, readout, rollout, vanilla
from rnn_jax.diagnostics import lag_contributions, lyapunov_spectrum, product_spectrum
from rnn_jax.gradients import bptt
from rnn_jax.lab.environment import environment
from rnn_jax.losses import cross_entropy, per_step
from rnn_jax.training import window_learner
from rnn_jax.types import Cell

CELLS = {"vanilla": vanilla, "gru": gru, "lstm": lstm}
V = 65
"""Different characters of the training step."""


def squares(ys: jax.Array, targets: Any) -> jax.Array:
    """A loss of all steps."""
    return jnp.sum(jnp.square(ys))


def programs(instrument: str, cell: Cell, H: int, B: int, T: int) -> tuple[Program, Program]:
    """The instrument, and the gradient that it is compared with."""
    if instrument == "lag profile in training":
        model = readout(cell, V)
        learners = [
            window_learner(model, per_step(cross_entropy), optax.adam(4e-3), clip=1.0, lag_profile=on)
            for on in (True, False)
        ]
        ids = jax.random.randint(jax.random.key(1), (T, B), 0, V)
        state = learners[0].init(jax.random.key(0), (B,))
        ours, baseline = (compile_program(learner.update, state, (ids, ids)) for learner in learners)
        return ours, baseline
    params = cell.init(jax.random.key(0))
    h0, xs = cell.start(params, (B,)), jax.random.normal(jax.random.key(1), (T, B, H), jnp.float32)
    calls = {
        "lag profile": lambda params: lag_gradients(cell, params, h0, xs, lambda y: jnp.sum(y, axis=-1)),
        "8 exponents": lambda params: lyapunov_spectrum(cell, params, h0, xs, count=min(8, H)).exponents,
        "product spectrum": lambda params: product_spectrum(cell, params, h0, xs).log_values,
        "contributions, 20 lags": lambda params: lag_contributions(cell, params, h0, xs, (), squares, lags=min(20, T)),
    }

    def of_last(params: Any) -> jax.Array:
        return jnp.sum(cell.output(params, rollout(cell, params, h0, xs)[0]))

    whole = partial(bptt, cell, h0=h0, xs=xs, targets=(), loss=squares)
    gradient = jax.grad(of_last) if instrument == "lag profile" else lambda params: whole(params)
    return compile_program(calls[instrument], params), compile_program(gradient, params)


def run(quick: bool = False) -> Iterator[Record]:
    """Records, one for each instrument and cell.

    Args:
        quick: tiny sizes, one cell.
    """
    here = environment()
    sizes: dict[str, tuple[int, int, int]] = {  # H, B, T
        "lag profile in training": (256, 32, 64),
        "lag profile": (128, 32, 200),
        "contributions, 20 lags": (128, 32, 100),
        "8 exponents": (256, 1, 1000),
        "product spectrum": (128, 1, 500),
    }
    for instrument, (H, B, T) in sizes.items():
        for name in ("vanilla",) if quick else CELLS:
            size = (4, 2, 6) if quick else (H, B, T)
            inputs = V if instrument == "lag profile in training" else size[0]
            cell = CELLS[name](inputs, size[0], dtype=jnp.float32)
            ours, baseline = programs(instrument, cell, *size)
            figures = compare(ours, baseline, seconds=0.1 if quick else 8.0, min_pairs=3)
            case: dict[str, str | int] = {
                "instrument": instrument,
                "cell": name,
                "H": size[0],
                "B": size[1],
                "T": size[2],
            }
            yield Record("instruments", "one gradient", case, quick, figures, here)


if __name__ == "__main__":
    command(run)
