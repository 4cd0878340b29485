"""Loops over time in blocks of steps, of which the last in the order of reading may be shorter."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from rnn_jax.machinery import sharding

__all__ = ["cut_in_blocks", "joined", "scan_in_blocks"]


def scan_in_blocks(
    on_block: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: PyTree, block: int, reverse: bool
) -> tuple[Any, Any]:
    """``jax.lax.scan`` of a function that takes blocks ``(block, …)`` of xs and returns such blocks of results.

    For the gradient only the carry between blocks is kept, and each block is computed again.
    """
    on_block = jax.checkpoint(on_block, prevent_cse=False)
    whole, rest = cut_in_blocks(xs, block, reverse)
    carry, ys = sharding.scan(on_block, carry, whole, reverse)
    return joined(carry, ys, on_block, rest, reverse)


def joined(
    carry: Any, ys: PyTree, on_block: Callable[[Any, Any], tuple[Any, Any]], rest: PyTree, reverse: bool
) -> tuple[Any, Any]:
    """The results of whole blocks ``(n, block, …)``, with those of the rest, as ``(T, …)``."""
    ys = jax.tree.map(lambda y: y.reshape(y.shape[0] * y.shape[1], *y.shape[2:]), ys)
    if len(jax.tree.leaves(rest)[-1]) == 0:
        return carry, ys
    carry, more = on_block(carry, rest)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *((more, ys) if reverse else (ys, more)))


def cut_in_blocks(xs: PyTree, block: int, reverse: bool) -> tuple[PyTree, PyTree]:
    """Arrays ``(T, …)`` as whole blocks ``(n, block, …)``, and the rest, which is read last."""

    def whole(x: Any) -> Any:
        n, rest = divmod(len(x), block)
        return (x[rest:] if reverse else x[: n * block]).reshape(n, block, *x.shape[1:])

    def last(x: Any) -> Any:
        rest = len(x) % block
        return x[:rest] if reverse else x[len(x) - rest :]

    return jax.tree.map(whole, xs), jax.tree.map(last, xs)
