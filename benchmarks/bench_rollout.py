"""The cost of ``rollout`` against a hand-written ``lax.scan``."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from benchmarks.report import command
from benchmarks.timing import Record, compare, compile_program, require_equal
from rnn_jax import gru, lstm, outputs, rollout, vanilla
from rnn_jax.lab.environment import environment
from rnn_jax.types import Cell, Params

I, T = 64, 100
TOLERANCE = {"cpu": 1e-4, "elsewhere": 1e-2}
"""Relative; accelerators multiply float32 in fewer bits by default, and a wrong equation differs by far more."""

Roll = Callable[[Any, Array], tuple[PyTree, Array]]
"""``(params, xs (T, B, I)) -> (last state, hidden outputs (T, B, H))``."""


def vanilla_step(params: Any, h: Array, x: Array) -> Array:
    """h_t ``(B, H)`` of h_{t−1} and x_t ``(B, I)``; the params are ``(W_xh, W_hh, b_h)``."""
    W_xh, W_hh, b_h = params
    return jnp.tanh(x @ W_xh + h @ W_hh + b_h)


def gru_step(params: Any, h: Array, x: Array) -> Array:
    """h_t ``(B, H)``; gates r z n, reset after product; the params are ``(W_xh, W_hh, b_h, b_n)``."""
    W_xh, W_hh, b_h, b_n = params
    x_r, x_z, x_n = jnp.split(x @ W_xh + b_h, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h @ W_hh, 3, axis=-1)
    r = jax.nn.sigmoid(x_r + h_r)
    z = jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * (h_n + b_n))
    return (1 - z) * n + z * h


def lstm_step(params: Any, state: tuple[Array, Array], x: Array) -> tuple[Array, Array]:
    """``(h_t, c_t)``, each ``(B, H)``; gates i f o g; the params are ``(W_xh, W_hh, b_h)``."""
    W_xh, W_hh, b_h = params
    h, c = state
    i, f, o, g = jnp.split(x @ W_xh + h @ W_hh + b_h, 4, axis=-1)
    i = jax.nn.sigmoid(i)
    f = jax.nn.sigmoid(f)
    o = jax.nn.sigmoid(o)
    g = jnp.tanh(g)
    c = f * c + i * g
    return o * jnp.tanh(c), c


class Pair(NamedTuple):
    """One cell of the library, and the same step by hand."""

    cell: Callable[..., Cell]
    step: Callable[[Any, Any, Array], Any]
    gates: int
    states: int
    """Number of arrays ``(B, H)`` in the state; the first of several is the output."""


CELLS = {
    "vanilla": Pair(vanilla, vanilla_step, gates=1, states=1),
    "gru": Pair(gru, gru_step, gates=3, states=1),
    "lstm": Pair(lstm, lstm_step, gates=4, states=2),
}


def zero_state(pair: Pair, params: Any, batch_shape: tuple[int, ...] = ()) -> Any:
    """The state of zeros of a step by hand."""
    zeros = jnp.zeros((*batch_shape, params[1].shape[0]), params[1].dtype)
    return zeros if pair.states == 1 else (zeros,) * pair.states


def by_hand(pair: Pair, unroll: int = 1) -> Roll:
    """The step by hand inside ``lax.scan``."""

    def roll(params: Any, xs: Array) -> tuple[PyTree, Array]:
        def step(state: Any, x: Array) -> tuple[Any, Array]:
            state = pair.step(params, state, x)
            return state, jax.tree.leaves(state)[0]

        return lax.scan(step, zero_state(pair, params, (xs.shape[1],)), xs, unroll=unroll)

    return roll


def by_rollout(cell: Cell, schedule: str = "scan") -> Roll:
    """A roll by ``rollout``."""

    def roll(params: Params, xs: Array) -> tuple[PyTree, Array]:
        h_T, hs = rollout(cell, params, cell.start(params, (xs.shape[1],)), xs, schedule=schedule)
        return h_T, outputs(cell, params, hs)

    return roll


def forward(roll: Roll) -> Roll:
    """The rollout itself."""
    return roll


def forward_and_backward(roll: Roll) -> Callable[[Any, Array], Any]:
    """The gradient of the sum of squares of the hidden outputs with respect to the params."""
    return jax.grad(lambda params, xs: jnp.sum(roll(params, xs)[1] ** 2))


MODES = {"forward": forward, "forward+backward": forward_and_backward}


def run(quick: bool = False) -> Iterator[Record]:
    """Records, one for each cell, mode, batch size B and hidden size H; T is 100, the input has 64 features.

    Args:
        quick: one size instead of nine, for a tenth of a second each instead of four.

    Raises:
        AssertionError: when the two programs compute different numbers.
    """
    sizes = [(1, 64)] if quick else list(product((1, 32, 128), (64, 128, 256)))
    here = environment()
    tolerance = TOLERANCE.get(here.platform, TOLERANCE["elsewhere"])
    compile_program(lambda x: x + 1, jnp.zeros(())).run()  # the first compilation of a process takes longer
    for name, mode, (B, H) in product(CELLS, MODES, sizes):
        cell = CELLS[name].cell(I, H, bias_init=jax.nn.initializers.normal(0.1), dtype=jnp.float32)
        params = cell.init(jax.random.key(0))
        xs = jax.random.normal(jax.random.key(1), (T, B, I), jnp.float32)
        ours = compile_program(MODES[mode](by_rollout(cell)), params, xs)
        baseline = compile_program(MODES[mode](by_hand(CELLS[name])), tuple(params), xs)
        require_equal(ours.run(), baseline.run(), tolerance)
        figures = compare(ours, baseline, seconds=0.1 if quick else 4.0, min_pairs=3 if quick else 9)
        case: dict[str, str | int] = {"cell": name, "mode": mode, "B": B, "H": H, "T": T, "I": I}
        yield Record("rollout", "lax.scan by hand", case, quick, figures, here)


if __name__ == "__main__":
    command(run)
