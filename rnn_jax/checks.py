"""Errors that say got, wanted, and the fix."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import dtypes
from jax.core import Tracer
from jaxtyping import ArrayLike, DTypeLike

LARGEST_SIZE = 2**31 - 1


def require_positive(**sizes: int) -> None:
    """Raises a ValueError that names the first size which is not a positive integer.

    >>> require_positive(input_size=3, hidden_size=0)
    Traceback (most recent call last):
    ValueError: hidden_size got 0; want a positive integer, for example hidden_size=128
    """
    for name, size in sizes.items():
        if not is_whole(size) or size < 1:
            raise ValueError(f"{name} got {in_one_line(size)}; want a positive integer, for example {name}=128")
        if size > LARGEST_SIZE:
            raise ValueError(f"{name} got {size}; want at most {LARGEST_SIZE}, for example {name}=128")


def is_whole(value: Any) -> bool:
    """Whether a value is a Python or NumPy integer; a bool is none, nor is a float such as 3.0.

    >>> [is_whole(value) for value in (3, np.uint8(3), 3.0, True)]
    [True, True, False, False]
    """
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def require_number(
    name: str, value: Any, holds: Callable[[Any], Any], wanted: str, *, may_be_traced: bool = False
) -> None:
    """Raises a ValueError unless a value is one real number of which ``holds`` is true, which it is not of NaN.

    Args:
        name: of the argument.
        value: a Python number, or an array of one number; a bool is none.
        holds: the condition, such as ``lambda rate: 0 <= rate < 1``.
        wanted: the condition in words, with the fix.
        may_be_traced: whether a traced number passes, as its value cannot be checked.

    >>> require_number("clip", -1.0, lambda clip: clip > 0, "a positive norm")
    Traceback (most recent call last):
    ValueError: clip got -1.0; want a positive norm
    """
    if isinstance(value, Tracer):
        good = may_be_traced and value.ndim == 0
    else:
        array = np.asarray(value)
        real = jnp.issubdtype(array.dtype, jnp.integer) or jnp.issubdtype(array.dtype, jnp.floating)
        good = real and array.ndim == 0 and bool(holds(value))
    if not good:
        raise ValueError(f"{name} got {in_one_line(value)}; want {wanted}")


def require_finite_number(**numbers: Any) -> None:
    """Raises a ValueError that names the first which is not one finite number, in every type from float32 upwards."""
    for name, number in numbers.items():
        require_number(
            name, number, lambda n: abs(n) <= float(np.finfo(np.float32).max), "a finite number", may_be_traced=True
        )


def require_dtype(dtype: DTypeLike) -> None:
    """Raises a ValueError unless params and states can be of this type.

    >>> require_dtype("int8")
    Traceback (most recent call last):
    ValueError: dtype got 'int8'; want float64, float32, bfloat16 or float16
    """
    try:
        fits = dtypes.canonicalize_dtype(dtype).name in ("float64", "float32", "bfloat16", "float16")
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"dtype got {dtype!r}; want float64, float32, bfloat16 or float16")


def require_batch_shape(batch_shape: Any) -> None:
    """Raises a ValueError unless a batch_shape is a tuple of sizes.

    >>> require_batch_shape(32)
    Traceback (most recent call last):
    ValueError: batch_shape got 32; want a tuple of sizes, such as (32,), or () for a single example
    """
    if not isinstance(batch_shape, tuple | list) or not all(is_whole(size) and size >= 0 for size in batch_shape):
        such = (int(batch_shape),) if is_whole(batch_shape) else (32,)  # type: ignore[arg-type]
        got = in_one_line(batch_shape)
        raise ValueError(f"batch_shape got {got}; want a tuple of sizes, such as {such}, or () for a single example")


def require_id(vocabulary_size: int, **ids: ArrayLike | None) -> None:
    """Raises a ValueError that names the first id outside the vocabulary; None and traced ids pass.

    >>> require_id(3, first=2, end=3)
    Traceback (most recent call last):
    ValueError: end got 3; want ids in [0, 3), the vocabulary
    """
    for name, given in ids.items():
        if given is None or isinstance(given, Tracer):
            continue
        known = np.ravel(given)
        outside = known[(known < 0) | (known >= vocabulary_size)]
        if outside.size:
            raise ValueError(f"{name} got {outside[0]}; want ids in [0, {vocabulary_size}), the vocabulary")


def in_one_line(value: Any) -> str:
    """What an error calls a wrong value.

    >>> in_one_line("relu"), in_one_line(np.zeros((2, 2)))
    ("'relu'", '[[0. 0.] [0. 0.]]')
    """
    said = " ".join((repr(value) if isinstance(value, str) else str(value)).split())
    return said if len(said) <= 80 else f"{said[:80]}…"
