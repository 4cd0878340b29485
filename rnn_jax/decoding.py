"""Writing on: letters drawn one after another from a model's own predictions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rnn_jax.types import Cell, Params, State


def sample(
    cell: Cell,
    params: Params,
    key: PRNGKeyArray,
    h: State,
    first: Int[Array, "*batch"],
    length: int,
    temperature: float | Float[Array, ""] = 1.0,
) -> Int[Array, "length *batch"]:
    """Draws ids x_{t+1} ~ softmax(y_t / temperature), each fed back as the next input.

    Args:
        cell, params: a model whose outputs are logits ``(*batch, V)`` and whose inputs are ids.
        key: all the randomness there is.
        h: the state before ``first`` is read.
        first: the id to begin with, which is not returned.
        length: ids to draw.
        temperature: above 0; below 1 the likeliest letters are favoured.
    """

    def step(carry: tuple[State, Array], key: PRNGKeyArray) -> tuple[tuple[State, Array], Array]:
        h, x = carry
        h = cell.step(params, h, x)
        x = jax.random.categorical(key, cell.output(params, h) / temperature).astype(first.dtype)
        return (h, x), x

    return jax.lax.scan(step, (h, jnp.asarray(first)), jax.random.split(key, length))[1]
