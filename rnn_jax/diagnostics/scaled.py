"""Numbers of any size, matrices of them, and linear maps that do not lose a small number beside a large one."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Integer

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


def zeros(shape: tuple[int, ...], dtype: DTypeLike) -> Scaled:
    """Numbers that are 0."""
    return Scaled(jnp.zeros(shape, dtype), jnp.full(shape, ZERO, jnp.int32))


def map_in_bands(linear: Callable[[Array], Array], numbers: Scaled, width: int, top: int | None = None) -> Scaled:
    """A linear map of numbers of any size: the sum over bands of similar size, each mapped on its own scale.

    Numbers within one band cost one call of the map. A number far smaller than the largest is mapped in a later band,
    so it is rounded beside a larger one only where the map itself adds the two.

    Args:
        linear: maps rows ``(*batch, S)`` to rows ``(*batch, R)``.
        numbers: its argument; each example has its own bands.
        width: of a band, in powers of 2.
        top: the largest argument of the map is below 2^top, by default 2^width.
    """
    top = width if top is None else top

    def numbers_are_left(carry: tuple[Scaled, Scaled]) -> Bool[Array, ""]:
        return jnp.any(carry[0].mantissa != 0)

    def map_largest_band(carry: tuple[Scaled, Scaled]) -> tuple[Scaled, Scaled]:
        left, mapped = carry
        largest = jnp.max(left.exponent, axis=-1, keepdims=True)
        taken = left.exponent > largest - width
        band = linear(jnp.where(taken, _scaled_down(left, largest - top), 0))
        unfinished = jnp.any(left.mantissa != 0, axis=-1, keepdims=True)  # other examples may have more bands
        left = Scaled(jnp.where(taken, 0, left.mantissa), jnp.where(taken, ZERO, left.exponent))
        return left, add(mapped, scaled(jnp.where(unfinished, band, 0), largest - top))

    like = linear(numbers.mantissa)  # of which only shape and layout are used
    nothing = Scaled(jnp.zeros_like(like, numbers.mantissa.dtype), jnp.full_like(like, ZERO, jnp.int32))
    return jax.lax.while_loop(numbers_are_left, map_largest_band, (numbers, nothing))[1]


def log_norm_of(numbers: Scaled) -> Float[Array, "*batch"]:
    """ln of the norm over the last axis; −∞ where all are 0."""
    relative, top = _relative_to_largest(numbers)
    square = jnp.sum(jnp.square(relative), axis=-1)
    return top.astype(square.dtype) * math.log(2) + 0.5 * jnp.log(square)


def cosine_of(a: Scaled, b: Scaled) -> Float[Array, "*batch"]:
    """The cosine of the angle between two rows; NaN where one of them is 0."""
    (one, _), (other, _) = map(_relative_to_largest, (a, b))
    return jnp.sum(one * other, axis=-1) / (jnp.linalg.norm(one, axis=-1) * jnp.linalg.norm(other, axis=-1))


def add(a: Scaled, b: Scaled) -> Scaled:
    """The sum of two rows of numbers."""
    top = jnp.maximum(a.exponent, b.exponent)
    return scaled(_scaled_down(a, top) + _scaled_down(b, top), top)


class ScaledRows(NamedTuple):
    """A matrix of any size of numbers: rows of length 1, times e^log_norm."""

    unit: Float[Array, "N S"]
    """Zero for a row of zeros."""
    log_norm: Float[Array, " N"]


def times(A: Float[Array, "M N"], rows: ScaledRows) -> ScaledRows:
    """A times a matrix of rows."""
    weights = jnp.log(jnp.abs(A)) + rows.log_norm[None]
    largest = jnp.max(weights, axis=1, keepdims=True)
    largest = jnp.where(jnp.isneginf(largest), 0, largest)
    return with_norms((jnp.sign(A) * jnp.exp(weights - largest)) @ rows.unit, largest[:, 0])


def with_norms(rows: Float[Array, "N S"], log_scale: Float[Array, " N"]) -> ScaledRows:
    """Rows times e^log_scale, with their lengths apart."""
    norm = norm_of(rows)
    return ScaledRows(rows / jnp.where(norm == 0, 1, norm)[:, None], log_scale + jnp.log(norm))


def sum_of_rows(a: ScaledRows, b: ScaledRows) -> ScaledRows:
    """The sum of two matrices."""
    largest = jnp.maximum(a.log_norm, b.log_norm)
    largest = jnp.where(jnp.isneginf(largest), 0, largest)
    one, other = (rows.unit * jnp.exp(rows.log_norm - largest)[:, None] for rows in (a, b))
    return with_norms(one + other, largest)


def norm_of(numbers: Float[Array, "*batch S"]) -> Float[Array, "*batch"]:
    """The norm over the last axis, also where squares would under- or overflow."""
    largest = jnp.max(jnp.abs(numbers), axis=-1, keepdims=True, initial=0)
    largest = jnp.where((largest > 0) & (largest < jnp.inf), largest, 1)
    return largest[..., 0] * jnp.linalg.norm(numbers / largest, axis=-1)


def _relative_to_largest(numbers: Scaled) -> tuple[Float[Array, "*batch S"], Integer[Array, "*batch"]]:
    """Numbers of a row relative to the power of 2 above the largest of them, and this power."""
    top = jnp.max(numbers.exponent, axis=-1, keepdims=True)
    return _scaled_down(numbers, top), top[..., 0]


def _scaled_down(numbers: Scaled, exponent: Integer[Array, "..."]) -> Float[Array, "*batch S"]:
    """numbers / 2^exponent; 0 where the result would be below the smallest normal number."""
    info, n = jnp.finfo(numbers.mantissa.dtype), numbers.exponent - exponent
    bits = (n + (info.maxexp - 1)).astype(f"int{info.bits}") << info.nmant  # of 2^n: exact, and cheaper than exp2
    return jnp.where(n < info.minexp, 0, numbers.mantissa * jax.lax.bitcast_convert_type(bits, numbers.mantissa.dtype))
