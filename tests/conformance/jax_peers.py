"""How cells of other JAX libraries are compared: both are functions of the same arrays, differentiated by them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.conformance.cases import DIRECTLY, Case, error_of

T, B, I, H = 5, 3, 2, 3
LENGTHS = np.array([5, 2, 4], np.int32)
TOLERANCE = 1e-12
QUANTITIES = ("outputs", "last states", "gradients of weights", "gradients of states", "gradients of inputs")

Run = Callable[[Any, Any, Any], tuple[Any, Any]]
"""``(weights, states, xs) -> (ys, last states)``, of the weights and states of the other library; time leads."""


class Peer(NamedTuple):
    """A cell or layer of another library."""

    name: str
    weights: Any
    """Its arrays, of which shapes are read."""
    states: Any
    """The state before the first step, of which shapes are read."""
    theirs: Run
    ours: Run
    how: str = DIRECTLY
    lengths: np.ndarray | None = None
    """Where outputs are compared; everywhere without them."""
    space: tuple[int, ...] = ()


def lenient() -> ExitStack:
    """The promotions of ranks and types that other libraries rely on, which our tests forbid."""
    with ExitStack() as stack:
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        return stack.pop_all()


def drawn(tree: Any, draws: np.random.Generator, scale: float) -> Any:
    """Random numbers in the shapes of a pytree; biases of zero would hide one in the wrong place."""
    return jax.tree.map(lambda a: jnp.asarray(scale * draws.standard_normal(a.shape)), tree)


def quantities(run: Run) -> Callable[..., Any]:
    """What ``QUANTITIES`` names, compiled; the loss is a weighted sum of outputs and last states."""

    def loss(weights: Any, states: Any, xs: Any, seen: Any, weigh: Any) -> Any:
        ys, last = run(weights, states, xs)
        ys = jnp.where(seen.reshape(*seen.shape, *[1] * (ys.ndim - 2)), ys, 0)
        terms = zip(weigh, [ys, *jax.tree.leaves(last)], strict=True)
        return sum(jnp.sum(jnp.resize(w, a.shape) * a) for w, a in terms), (ys, last)

    program = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))

    def measured(*arguments: Any) -> Any:
        (_, (ys, last)), gradients = program(*arguments)
        return ys, last, *gradients

    return measured


def compared(suite: str, peer: Peer, seed: int) -> Iterator[Case]:
    """A case for each quantity, of two draws of all numbers."""
    draws = np.random.default_rng(seed)
    mine, yours = map(quantities, (peer.ours, peer.theirs))
    lengths = np.full(B, T) if peer.lengths is None else peer.lengths
    seen = jnp.asarray(np.arange(T)[:, None] < lengths)
    for draw in range(2):
        arguments = drawn(peer.weights, draws, 0.6), drawn(peer.states, draws, 1.0)
        xs = jnp.asarray(draws.standard_normal((T, B, *peer.space, I)))
        weigh = [jnp.asarray(draws.standard_normal(97)) for _ in range(1 + len(jax.tree.leaves(peer.states)))]
        got = mine(*arguments, xs, seen, weigh)
        with lenient():
            wanted = yours(*arguments, xs, seen, weigh)
        for what, number, exact in zip(QUANTITIES, got, wanted, strict=True):
            yield Case(suite, f"{peer.name}, {draw}, {what}", peer.how, error_of(number, exact), TOLERANCE)


__all__ = ["LENGTHS", "B", "H", "I", "Peer", "T", "compared", "lenient"]
