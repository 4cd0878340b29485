"""Errors that say got, wanted, and the fix."""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import ArrayLike, PyTree

from rnn_jax.types import Cell


class MisfitError(ValueError):
    """Inputs of another shape than a cell reads."""


def require_cell(name: str, given: Any) -> None:
    """Raises a ValueError that names what stands in the place of a cell.

    >>> require_cell("cell", "gru")
    Traceback (most recent call last):
    ValueError: cell got str; want a Cell, such as gru(3, 4) makes; a Layer has stack_layers, readout_layer and its ...
    """
    if not isinstance(given, Cell):
        raise ValueError(
            f"{name} got {type(given).__name__}; want a Cell, such as gru(3, 4) makes; a Layer has stack_layers, "
            "readout_layer and its own apply"
        )


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
        if not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{name} got {size}; want a positive integer, for example {name}=128")


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
