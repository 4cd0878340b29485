"""Checks of arguments; errors name the value, the wanted value, and the fix."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes
from jax.core import Tracer
from jaxtyping import ArrayLike, DTypeLike, PyTree

__all__ = ["MisfitError", "in_one_line", "is_inside", "is_whole", "one_axis"]

LARGEST_SIZE = 2**31 - 1


class MisfitError(ValueError):
    """Inputs of another shape than a cell reads."""


def require_batch_shape(batch_shape: Any, name: str = "batch_shape") -> None:
    """Raises a ValueError unless a shape is a tuple of sizes.

    >>> require_batch_shape(32)
    Traceback (most recent call last):
    ValueError: batch_shape got 32; want a tuple of sizes, such as (32,), or () for a single example
    """
    sizes: Any = batch_shape if isinstance(batch_shape, tuple | list) else (-1,)
    if not all(is_whole(size) and size >= 0 for size in sizes):
        got = in_one_line(batch_shape)
        raise ValueError(f"{name} got {got}; want a tuple of sizes, such as (32,), or () for a single example")


def require_sequence(xs: PyTree) -> int:
    """T, the number of steps; a ValueError unless xs holds arrays with the same T leading.

    >>> require_sequence([1.0, 2.0])
    Traceback (most recent call last):
    ValueError: xs got float; want arrays (T, *batch, …), time leading: of a list, ...
    """
    leaves = jax.tree.leaves(xs)
    for leaf in leaves or [xs]:
        if not getattr(leaf, "shape", ()):
            kind = f"{leaf.dtype}[]" if hasattr(leaf, "dtype") else type(leaf).__name__
            raise ValueError(
                f"xs got {kind}; want arrays (T, *batch, …), time leading: of a list, jnp.asarray; without inputs, "
                "zeros (T, *batch, I)"
            )
    steps = {leaf.shape[0] for leaf in leaves}
    if len(steps) > 1:
        raise ValueError(f"xs got arrays of {sorted(steps)} steps; want the same T of all, time leading")
    return steps.pop()


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
    """Whether a value is a Python or NumPy integer; a bool is not one, nor is a float such as 3.0.

    >>> [is_whole(value) for value in (3, np.uint8(3), 3.0, True)]
    [True, True, False, False]
    """
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def require_number(
    name: str, value: Any, holds: Callable[[Any], Any], wanted: str, *, may_be_traced: bool = False
) -> None:
    """Raises a ValueError unless a value is one real number for which ``holds`` is true (NaN never passes).

    Args:
        name: of the argument.
        value: a Python number, or an array of one number; a bool does not pass.
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


def require_numbers(name: str, values: Any, holds: Callable[[Any], Any], wanted: str) -> None:
    """Raises a ValueError unless values are a sequence of real numbers for which ``holds`` is true.

    >>> require_numbers("q", (0.5, 1.1), lambda q: 0 <= q <= 1, "quantiles in [0, 1]")
    Traceback (most recent call last):
    ValueError: q got 1.1; want quantiles in [0, 1]
    """
    if np.ndim(values) != 1:
        raise ValueError(f"{name} got {in_one_line(values)}; want {wanted}, a sequence")
    for value in values:
        require_number(name, value, holds, wanted)


def require_finite_number(**numbers: Any) -> None:
    """Raises a ValueError that names the first which is not one finite number, in every type from float32 upwards."""
    for name, number in numbers.items():
        require_number(
            name, number, lambda n: abs(n) <= float(np.finfo(np.float32).max), "a finite number", may_be_traced=True
        )


def require_switch(**switches: Any) -> None:
    """Raises a ValueError that names the first which is neither True nor False.

    >>> require_switch(peepholes=1)
    Traceback (most recent call last):
    ValueError: peepholes got 1; want True or False
    """
    for name, switch in switches.items():
        if not isinstance(switch, bool | np.bool_):
            raise ValueError(f"{name} got {in_one_line(switch)}; want True or False")


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
        require_integers(name, known.dtype, vocabulary_size)
        outside = known[~is_inside(known, vocabulary_size)]
        if outside.size:
            raise ValueError(f"{name} got {outside[0]}; want ids in [0, {vocabulary_size}), the vocabulary")


def require_kept(**trees: Any) -> None:
    """Raises a ValueError for an integer of NumPy or Python that JAX would change, because its type has fewer bits.

    >>> with jax.enable_x64(False):
    ...     require_kept(first=np.int64(2**40))
    Traceback (most recent call last):
    ValueError: first got 1099511627776; want integers that int32 holds
    """
    for name, tree in trees.items():
        for leaf in jax.tree.leaves(tree):
            known = leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf) if is_whole(leaf) else np.zeros(0)
            if not known.size or not np.issubdtype(known.dtype, np.integer):
                continue
            kept = jnp.iinfo(jax.dtypes.canonicalize_dtype(known.dtype))
            for number in (int(known.min()), int(known.max())):
                if not kept.min <= number <= kept.max:
                    raise ValueError(f"{name} got {number}; want integers that {kept.dtype} holds")


def require_integers(name: str, dtype: Any, vocabulary_size: int) -> None:
    """Raises a ValueError unless a type is one of integers: a bool is not an id, nor is a float such as 1.0."""
    if not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"{name} got {dtype}; want integer ids in [0, {vocabulary_size})")


def is_inside(ids: Any, vocabulary_size: int) -> Any:
    """Where ids are in [0, V), for any integer type, also one that cannot hold V.

    >>> is_inside(jnp.array([0, 255], jnp.uint8), 300).tolist(), is_inside(np.array([-1, 2**40]), 300).tolist()
    ([True, True], [False, False])
    """
    if not isinstance(ids, np.ndarray) and jnp.iinfo(ids.dtype).bits < 32:  # NumPy compares by value as it is
        ids = ids.astype(jnp.int32)
    return (ids >= 0) & (ids < vocabulary_size)


def one_axis(name: str, numbers: Any) -> np.ndarray:
    """An array ``(N,)`` made of an array, a list, or another iterable; a ValueError where it has another shape.

    >>> one_axis("ids", (n * n for n in range(3)))
    array([0, 1, 4])
    """
    plain = isinstance(numbers, Iterable) and not isinstance(numbers, str) and not hasattr(numbers, "dtype")
    array = np.asarray([*numbers] if plain else numbers)
    if array.ndim != 1:
        raise ValueError(f"{name} got shape {array.shape}; want one axis, (N,)")
    return array


def in_one_line(value: Any) -> str:
    """A wrong value as a short text in one line, for an error.

    >>> in_one_line("relu"), in_one_line(np.zeros((2, 2)))
    ("'relu'", '[[0. 0.] [0. 0.]]')
    """
    text = " ".join((repr(value) if isinstance(value, str) else str(value)).split())
    return text if len(text) <= 80 else f"{text[:80]}…"
