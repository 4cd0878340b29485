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


def quantities(run: Run, arguments: Any, seen: Any, weigh: Any) -> Any:
    """What ``QUANTITIES`` names; the loss is a weighted sum of outputs and last states."""

    def loss(weights: Any, states: Any, xs: Any) -> Any:
        ys, last = run(weights, states, xs)
        ys = jnp.where(seen.reshape(*seen.shape, *[1] * (ys.ndim - 2)), ys, 0)
        terms = zip(weigh, [ys, *jax.tree.leaves(last)], strict=True)
        return sum(jnp.sum(jnp.resize(jnp.asarray(w), a.shape) * a) for w, a in terms), (ys, last)

    (_, (ys, last)), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*arguments)
    return ys, last, *gradients


def compared(suite: str, peer: Peer, seed: int) -> Iterator[Case]:
    """A case for each quantity."""
    draws = np.random.default_rng(seed)
    arguments = drawn(peer.weights, draws, 0.6), drawn(peer.states, draws, 1.0)
    arguments = *arguments, jnp.asarray(draws.standard_normal((T, B, *peer.space, I)))
    lengths = np.full(B, T) if peer.lengths is None else peer.lengths
    seen = jnp.asarray(np.arange(T)[:, None] < lengths)
    weigh = [draws.standard_normal(97) for _ in range(1 + len(jax.tree.leaves(peer.states)))]
    got = quantities(peer.ours, arguments, seen, weigh)
    with lenient():
        wanted = quantities(peer.theirs, arguments, seen, weigh)
    for what, mine, yours in zip(QUANTITIES, got, wanted, strict=True):
        yield Case(suite, f"{peer.name}, {what}", peer.how, error_of(mine, yours), TOLERANCE)


__all__ = ["LENGTHS", "B", "H", "I", "Peer", "T", "compared", "lenient"]
