"""The reference schedule: one step after another inside ``jax.lax.scan``."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from rnn_jax.types import Cell, Params, State


def scan(cell: Cell, params: Params, h0: State, xs: PyTree, cuts: Bool[Array, "T ..."] | None) -> tuple[State, State]:
    """h_t = f_W(h_{t−1}, x_t) for t = 1 … T; every JAX transformation works on it."""

    def step(h: State, x_and_cut: tuple[PyTree, Bool[Array, "..."] | None]) -> tuple[State, State]:
        x, cut = x_and_cut
        if cut is not None:
            h = stop_gradient_where(cut, h)
        h = cell.step(params, h, x)
        return h, h

    return jax.lax.scan(step, h0, (xs, cuts))


def stop_gradient_where(cut: Bool[Array, "..."], h: State) -> State:
    """The same values; where ``cut`` is True, no gradient flows back through them."""

    def leaf(a: Array) -> Array:
        here = jnp.expand_dims(cut, range(cut.ndim, a.ndim))
        return jnp.where(here, jax.lax.stop_gradient(a), a)

    return jax.tree.map(leaf, h)
