"""The cost of the four programs of truncated back-propagation against full back-propagation."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.report import command
from benchmarks.timing import Record, compare, compile_program, require_equal
from rnn_jax import lstm, outputs, rollout
from rnn_jax.counting import sequential_depth
from rnn_jax.gradients import PROGRAMS, streaming
from rnn_jax.gradients.windows import Loss
from rnn_jax.lab.environment import environment
from rnn_jax.types import Cell, Params

I, H, B, WINDOW = 64, 128, 1, 64
TOLERANCE = {"cpu": 1e-4, "elsewhere": 1e-2}
"""Relative, of the loss, which truncation does not change."""

Gradient = Callable[[Params, Array, Array], tuple[Array, Params]]
"""``(params, xs (T, B, I), targets (T, B, H)) -> (loss, gradient)``."""


def squares(ys: Array, targets: Array) -> Array:
    """Σ_t ‖y_t − target_t‖²."""
    return jnp.sum((ys - targets) ** 2)


def full(cell: Cell, loss: Loss, schedule: str = "auto") -> Gradient:
    """Back-propagation through the whole sequence."""

    def value(params: Params, xs: Array, targets: Array) -> Array:
        _, hs = rollout(cell, params, cell.start(params, xs.shape[1:2]), xs, schedule=schedule)
        return loss(outputs(cell, params, hs), targets)

    return jax.value_and_grad(value)


def truncated(program: Callable[..., Any], cell: Cell, loss: Loss, window: int = WINDOW) -> Gradient:
    """Truncated back-propagation by one of the programs for whole sequences."""

    def value(params: Params, xs: Array, targets: Array) -> Array:
        return program(cell, params, cell.start(params, xs.shape[1:2]), xs, targets, loss, window=window)[0]

    return jax.value_and_grad(value)


def by_updates(cell: Cell, loss: Loss) -> Gradient:
    """An update after each of the windows (W, K, B, …), so small that the loss does not change.

    The last params are returned in place of the gradient.
    """

    def run(params: Params, xs: Array, targets: Array) -> tuple[Array, Params]:
        def update(carry: tuple[Any, Params], window: tuple[Array, Array]) -> tuple[tuple[Any, Params], Array]:
            h, params = carry
            differentiated = jax.value_and_grad(streaming, argnums=1, has_aux=True)
            (value, h), grads = differentiated(cell, params, h, *window, loss)
            return (h, jax.tree.map(lambda p, g: p - 1e-12 * g, params, grads)), value

        h0 = cell.start(params, xs.shape[2:3])
        (_, params), values = jax.lax.scan(update, (h0, params), (xs, targets))
        return values.sum(), params

    return run


def run(quick: bool = False) -> Iterator[Record]:
    """Records, one for each program and length T: LSTM, H 128, B 1, windows of 64, 64 input features of float32.

    Args:
        quick: a short sequence, for a tenth of a second each.

    Raises:
        AssertionError: when the loss of a program is not that of the whole sequence.
    """
    here = environment()
    tolerance = TOLERANCE.get(here.platform, TOLERANCE["elsewhere"])
    cell = lstm(I, H, dtype=jnp.float32)
    params = cell.init(jax.random.key(0))
    programs = {name: truncated(program, cell, squares) for name, program in PROGRAMS.items()}
    programs["streaming"] = by_updates(cell, squares)
    for T in (256,) if quick else (4096, 65_536):
        xs, targets = jax.random.normal(jax.random.key(1), (T, B, I)), jnp.zeros((T, B, H))
        windows = tuple(a.reshape(-1, WINDOW, *a.shape[1:]) for a in (xs, targets))
        baseline = compile_program(full(cell, squares), params, xs, targets)
        for name, program in programs.items():
            given = windows if name == "streaming" else (xs, targets)
            ours = compile_program(program, params, *given)
            require_equal(ours.run()[0], baseline.run()[0], tolerance)
            figures = compare(ours, baseline, seconds=0.1 if quick else 20.0, min_pairs=3)
            depth = sequential_depth(program, params, *given)
            case: dict[str, str | int] = {"program": name, "T": T, "window": WINDOW, "depth": depth, "B": B, "H": H}
            yield Record("truncation", "full back-propagation", case, quick, figures, here)


if __name__ == "__main__":
    command(run)
