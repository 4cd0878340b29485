"""Williams and Peng's truncated back-propagation BPTT(k2; k1), by brute force: products of Jacobians, written out.

The truncated gradient is Σ_t Σ_s (∂ℓ_t/∂h_t) J_t J_{t−1} … J_{s+1} (∂h_s/∂θ), where s goes back to the beginning of the
window of k2 steps that ends a block of k1 losses. Only the Jacobians of single steps come from JAX; the sums are those
of the definition, with none of the library's rollouts, windows or cuts.
"""

from collections.abc import Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from rnn_jax import Cell, gru, lstm, vanilla
from rnn_jax.gradients import chunked, cut, parallel
from rnn_jax.gradients.one_window import streaming
from tests.conformance.cases import DIRECTLY, Case, Suite, error_of

NAME = "Truncated back-propagation"
TOLERANCE = 1e-12
T, I, H = 7, 2, 3

CELLS = {"vanilla": vanilla(I, H), "gru": gru(I, H), "lstm": lstm(I, H)}
WINDOWS = {
    "vanilla": ((1, 4), (2, 5), (3, 3), (4, 9)),  # (k1, k2)
    "gru": ((3, 3),),
    "lstm": ((2, 5),),
}


class Task(NamedTuple):
    """A cell with random weights, inputs and targets."""

    cell: Cell
    params: Any
    h0: Any
    xs: Any
    targets: Any


def loss(ys: Any, targets: Any) -> Any:
    """Σ y²/2 + y · target, whose gradient is y + target."""
    return jnp.sum(0.5 * ys**2 + ys * targets)


def task_of(name: str) -> Task:
    """One example, without batch axes."""
    cell, draws = CELLS[name], np.random.default_rng(3)
    random = partial(jax.tree.map, lambda a: jnp.asarray(0.8 * draws.standard_normal(a.shape)))
    params = random(jax.eval_shape(cell.init, jax.random.key(0)))
    xs, targets = (jnp.asarray(draws.standard_normal((T, size))) for size in (I, H))
    return Task(cell, params, random(cell.start(params)), xs, targets)


@cache
def pieces(name: str) -> tuple[np.ndarray, ...]:
    """∂ℓ_t/∂h_t ``(T, S)``, J_t ``(T, S, S)``, ∂h_t/∂θ ``(T, S, P)`` of one step each, and the loss."""
    cell, params, h0, xs, targets = task_of(name)
    row, to_state = ravel_pytree(h0)
    theta, to_params = ravel_pytree(params)

    def step(theta: Any, row: Any, x: Any) -> Any:
        return ravel_pytree(cell.step(to_params(theta), to_state(row), x))[0]

    def cost(row: Any, target: Any) -> Any:
        return loss(cell.output(params, to_state(row)), target)

    one_step, parts = jax.jit(step), jax.jit(jax.jacfwd(step, argnums=(0, 1)))
    priced = jax.jit(jax.value_and_grad(cost))
    found, total = [], 0.0
    for x, target in zip(xs, targets, strict=True):
        D, J = parts(theta, row, x)
        row = one_step(theta, row, x)
        value, g = priced(row, target)
        total += value
        found.append((g, J, D))
    return *(np.stack(part) for part in zip(*found, strict=True)), np.asarray(total)


def by_brute_force(name: str, k1: int, k2: int) -> tuple[Any, Any]:
    """The loss, and the gradient of BPTT(k2; k1); the last block of losses may be shorter."""
    g, J, D, total = pieces(name)
    gradient = np.zeros(D.shape[-1])
    for t in range(T):
        begin = max((t // k1 + 1) * k1 - k2, 0)
        adjoint = g[t]
        for s in range(t, begin - 1, -1):
            gradient += adjoint @ D[s]
            adjoint = adjoint @ J[s]
    return total, gradient


def of_program(program: Any, task: Task, **options: Any) -> tuple[Any, Any]:
    """Loss and gradient of one of the library's programs."""
    cell, params, h0, xs, targets = task
    run = lambda params: program(cell, params, h0, xs, targets, loss, **options)[0]  # noqa: E731
    value, gradient = jax.value_and_grad(run)(params)
    return value, ravel_pytree(gradient)[0]


def of_streaming(task: Task, window: int) -> tuple[Any, Any]:
    """The sum over windows of the program that computes one at a time, at params that stay."""
    cell, params, h, xs, targets = task
    total, gradient = 0.0, 0.0
    for begin in range(0, T, window):
        rows = slice(begin, begin + window)

        def run(params: Any, h: Any = h, rows: slice = rows) -> Any:
            return streaming(cell, params, h, xs[rows], targets[rows], loss)

        (value, h), g = jax.value_and_grad(run, has_aux=True)(params)
        total, gradient = total + value, gradient + ravel_pytree(g)[0]
    return total, gradient


def compared(title: str, found: Any, wanted: Any) -> Iterator[Case]:
    """A case for the loss, and one for the gradient."""
    for what, got, exact in zip(("loss", "gradient"), found, wanted, strict=True):
        yield Case(NAME, f"{title}, {what}", DIRECTLY, error_of(got, exact), TOLERANCE)


def cases() -> Iterator[Case]:
    """``cut`` at every window, its window traced; the others at pairs of k1 and k2."""
    for name in CELLS:
        task = task_of(name)
        whole = jax.jit(lambda window, task=task: of_program(cut, task, window=window))
        for window in range(1, T + 2):
            found = whole(jnp.asarray(window))
            yield from compared(f"{name}, cut, {window}", found, by_brute_force(name, window, window))
        for k1, k2 in WINDOWS[name]:
            wanted = by_brute_force(name, k1, k2)
            for program in (chunked, parallel):
                found = jax.jit(lambda k1=k1, k2=k2, p=program, t=task: of_program(p, t, window=k2, k1=k1))()
                yield from compared(f"{name}, {program.__name__}, k1 {k1}, k2 {k2}", found, wanted)
    for window in (2, 3, 5):
        task, wanted = task_of("vanilla"), by_brute_force("vanilla", window, window)
        yield from compared(f"vanilla, streaming, {window}", of_streaming(task, window), wanted)


SUITE = Suite(
    NAME,
    "Williams, Peng 1990, the definition of BPTT(h; h′), by brute force",
    "loss and gradient of `cut`, `chunked`, `parallel` and `streaming` against products of the Jacobians of single "
    "steps; vanilla, GRU, LSTM",
    cases,
)
