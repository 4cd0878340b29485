"""Numbers of any size, and linear maps that do not lose a small number beside a large one."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Integer

from rnn_jax.machinery.precision import widened

__all__ = []


class Scaled(NamedTuple):
    """Numbers of any size, mantissa · 2^exponent, each with a separate exponent."""

    mantissa: Float[Array, "*batch S"]
    """0, or in [1/2, 1) in absolute value."""
    exponent: Integer[Array, "*batch S"]
    """``ZERO`` for the number 0."""


ZERO = -(2**30)
"""The exponent of 0, below that of any other number."""


def scaled(numbers: Float[Array, "*batch S"], exponent: ArrayLike = 0) -> Scaled:
    """numbers · 2^exponent, with mantissas of at least float32."""
    mantissa, own = jnp.frexp(widened(numbers))
    return Scaled(mantissa, jnp.where(mantissa == 0, ZERO, own + exponent))


def map_in_bands(linear: Callable[[Array], Array], numbers: Scaled, width: int) -> Scaled:
    """A linear map of numbers of any size: the sum over bands of similar size, each mapped on its own scale.

    Numbers within one band cost one call of the map. A number far smaller than the largest is mapped in a later band,
    so it is rounded beside a larger one only where the map itself adds the two.

    Args:
        linear: maps rows ``(*batch, S)`` to rows of the same shape.
        numbers: its argument; each example has its own bands.
        width: of a band, in powers of 2. All arguments of the map are below 2^width.
    """

    def numbers_are_left(carry: tuple[Scaled, Scaled]) -> Bool[Array, ""]:
        return jnp.any(carry[0].mantissa != 0)

    def map_largest_band(carry: tuple[Scaled, Scaled]) -> tuple[Scaled, Scaled]:
        left, mapped = carry
        floor = jnp.max(left.exponent, axis=-1, keepdims=True) - width
        taken = left.exponent > floor
        band = linear(jnp.where(taken, _scaled_down(left, floor), 0))
        unfinished = jnp.any(left.mantissa != 0, axis=-1, keepdims=True)  # other examples may have more bands
        left = Scaled(jnp.where(taken, 0, left.mantissa), jnp.where(taken, ZERO, left.exponent))
        return left, add(mapped, scaled(jnp.where(unfinished, band, 0), floor))

    nothing = Scaled(jnp.zeros_like(numbers.mantissa), jnp.full_like(numbers.exponent, ZERO))
    return jax.lax.while_loop(numbers_are_left, map_largest_band, (numbers, nothing))[1]


def log_norm_of(numbers: Scaled) -> Float[Array, "*batch"]:
    """ln of the norm over the last axis; −∞ where all are 0."""
    top = jnp.max(numbers.exponent, axis=-1, keepdims=True)
    square = jnp.sum(jnp.square(_scaled_down(numbers, top)), axis=-1)
    return top[..., 0].astype(square.dtype) * math.log(2) + 0.5 * jnp.log(square)


def add(a: Scaled, b: Scaled) -> Scaled:
    """The sum of two rows of numbers."""
    top = jnp.maximum(a.exponent, b.exponent)
    return scaled(_scaled_down(a, top) + _scaled_down(b, top), top)


def _scaled_down(numbers: Scaled, exponent: Integer[Array, "..."]) -> Float[Array, "*batch S"]:
    """numbers / 2^exponent; 0 where the result would be below the smallest normal number."""
    info, n = jnp.finfo(numbers.mantissa.dtype), numbers.exponent - exponent
    bits = (n + (info.maxexp - 1)).astype(f"int{info.bits}") << info.nmant  # of 2^n: exact, and cheaper than exp2
    return jnp.where(n < info.minexp, 0, numbers.mantissa * jax.lax.bitcast_convert_type(bits, numbers.mantissa.dtype))
