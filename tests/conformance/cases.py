"""What a suite is: cases, each with the error of ours and the largest error that it may have."""

import importlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

DATA = Path(__file__).parent / "data"
DIRECTLY, OWN = "directly", "own cell"
"""How a case is expressed: by cells of the library alone, or by a cell that the suite writes itself."""


class Case(NamedTuple):
    """One quantity of theirs, compared with ours."""

    suite: str
    name: str
    how: str
    """``DIRECTLY`` or ``OWN``."""
    error: float
    """Largest difference, absolute for numbers below 1 and relative above, as ``error_of`` measures it."""
    tolerance: float

    @property
    def right(self) -> bool:
        """Whether the error is at most the tolerance; one that is not a number is not."""
        return self.error <= self.tolerance


class Suite(NamedTuple):
    """Numbers of one source."""

    name: str
    source: str
    """Whose numbers they are, and which commit, in Markdown."""
    what: str
    cases: Callable[[], Iterator[Case]]
    needs: tuple[str, ...] = ()
    """Modules of the outside libraries; none where the numbers are stored, or worked out by the suite."""
    cells: tuple[str, ...] = ()
    """The cells and combinators whose equations it checks, for docs/cells.md."""


def error_of(got: Any, wanted: Any) -> float:
    """The largest |got − wanted| / max(1, |wanted|) of two pytrees; infinite where shapes differ or one is not finite.

    >>> error_of([1.5, 300.0], [1.0, 100.0])
    2.0
    """
    ours, theirs = jax.tree.leaves(got), jax.tree.leaves(wanted)
    if [np.shape(a) for a in ours] != [np.shape(a) for a in theirs]:
        return float("inf")
    pairs = [(np.asarray(a, float), np.asarray(b, float)) for a, b in zip(ours, theirs, strict=True)]
    errors = [np.max(np.abs(a - b) / np.maximum(1, np.abs(b)), initial=0) for a, b in pairs]
    worst = float(max(errors, default=0.0))
    return worst if np.isfinite(worst) else float("inf")


def refusal_of(call: Callable[[], Any]) -> float:
    """The error of a case that must be refused: 0 where ``call`` raises a ValueError, else infinite."""
    try:
        call()
    except ValueError:
        return 0.0
    return float("inf")


def stored(name: str) -> Any:
    """The nested lists and objects of a file of numbers, its floating arrays in float64; see data/README.md."""
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}

    def filled(node: Any) -> Any:
        if isinstance(node, dict):
            if node.keys() == {"$"}:
                array = arrays[f"a{node['$']}"]
                return array.astype(float) if np.issubdtype(array.dtype, np.floating) else array
            return {key: filled(value) for key, value in node.items()}
        return [filled(value) for value in node] if isinstance(node, list) else node

    return filled(json.loads(str(arrays["index"])))


def peer(module: str) -> Any:
    """An outside library; Keras computes by JAX, and writes its settings into a folder that is deleted at the end."""
    if module == "keras":
        os.environ.setdefault("KERAS_BACKEND", "jax")
        os.environ.setdefault("KERAS_HOME", tempfile.gettempdir())
    return importlib.import_module(module)


def gates(W: Any, order: str, wanted: str, axis: int = -1) -> Any:
    """The gate blocks of an axis, named by the characters of ``order``, in another order, or fewer of them.

    >>> gates(np.arange(6), "zrh", "rzh").tolist()
    [2, 3, 0, 1, 4, 5]
    """
    numpy = np if isinstance(W, np.ndarray) else jax.numpy
    blocks = dict(zip(order, numpy.split(W, len(order), axis=axis), strict=True))
    return numpy.concatenate([blocks[gate] for gate in wanted], axis=axis)


__all__ = ["DIRECTLY", "OWN", "Case", "Suite", "error_of", "gates", "peer", "refusal_of", "stored"]
