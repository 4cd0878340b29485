"""Sums in at least 32 bits, for arrays of 16 bits."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

__all__ = ["is_floating", "is_half", "narrowed", "widened"]


def is_floating(a: Any) -> bool:
    """Whether an array, or a number, is floating."""
    return jnp.issubdtype(a.dtype if hasattr(a, "dtype") else jnp.result_type(a), jnp.floating)


def is_half(a: Any) -> bool:
    """Whether an array is floating, in fewer than 32 bits."""
    return is_floating(a) and jnp.finfo(jnp.result_type(a)).bits < 32


def widened(tree: PyTree) -> PyTree:
    """A pytree whose floating arrays have at least 32 bits.

    A gradient is summed over time and batch in the type of its parameter; in bfloat16 a sum of ones stops growing at
    256.

    >>> widened({"b_h": jnp.ones(2, jnp.bfloat16), "ids": jnp.ones(2, jnp.int8)})["b_h"].dtype
    dtype('float32')
    """
    return jax.tree.map(lambda a: a.astype(jnp.float32) if is_half(a) else a, tree)


def narrowed(wide: PyTree, like: PyTree) -> PyTree:
    """A pytree that was ``widened``, in the types of ``like`` again."""
    return jax.tree.map(lambda w, a: w.astype(a.dtype) if is_half(a) else w, wide, like)
