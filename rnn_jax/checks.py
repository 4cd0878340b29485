"""Errors that say got, wanted, and the fix."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import dtypes
from jax.core import Tracer
from jaxtyping import ArrayLike, DTypeLike

LARGEST = 2**31 - 1


def require_positive(**sizes: int) -> None:
    """Raises a ValueError that names the first size which is not a positive integer.

    >>> require_positive(input_size=3, hidden_size=0)
    Traceback (most recent call last):
    ValueError: hidden_size got 0; want a positive integer, for example hidden_size=128
    """
    for name, size in sizes.items():
        if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} got {_shown(size)}; want a positive integer, for example {name}=128")
        if size > LARGEST:
            raise ValueError(f"{name} got {size}; want at most {LARGEST}, for example {name}=128")


def require_number(wanted: str, within: Callable[[float], bool], **numbers: Any) -> None:
    """Raises a ValueError that names the first which is not one number ``within`` what is wanted; traced ones pass.

    >>> require_number("a positive time", lambda n: n > 0, tau=-1.0)
    Traceback (most recent call last):
    ValueError: tau got -1.0; want a positive time
    """
    for name, number in numbers.items():
        if isinstance(number, Tracer) and number.ndim == 0:
            continue
        try:
            fits = not isinstance(number, bool | str) and np.ndim(number) == 0 and within(float(number))
        except (TypeError, ValueError, OverflowError):  # None, a complex number, a list of unequal lists, 10**400
            fits = False
        if not fits:
            raise ValueError(f"{name} got {_shown(number)}; want {wanted}")


def require_finite_number(**numbers: Any) -> None:
    """Raises a ValueError that names the first which is not one finite number, in every type from float32 upwards."""
    require_number("a finite number", lambda n: abs(n) <= float(np.finfo(np.float32).max), **numbers)


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
    if not isinstance(batch_shape, tuple | list) or not all(
        isinstance(size, int | np.integer) and not isinstance(size, bool) and size >= 0 for size in batch_shape
    ):
        such = (batch_shape,) if isinstance(batch_shape, int | np.integer) and batch_shape > 0 else (32,)
        raise ValueError(
            f"batch_shape got {_shown(batch_shape)}; want a tuple of sizes, such as {such}, or () for a single example"
        )


def _shown(given: Any) -> str:
    """What was given, in one short line."""
    if getattr(given, "shape", ()):
        return f"an array of shape {given.shape}"
    line = str(given) if hasattr(given, "dtype") else repr(given)
    return line if len(line) <= 80 and "\n" not in line else f"{line.splitlines()[0][:77]}…"


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
