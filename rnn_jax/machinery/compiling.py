"""Compiled calls: a function that is called many times outside ``jit``, as in a notebook, is compiled once."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax.core import Tracer

from rnn_jax.machinery.checks import require_kept
from rnn_jax.machinery.dependencies import dependency_key

__all__ = ["compiled"]

P = ParamSpec("P")
R = TypeVar("R")


def compiled(*static: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: ``jax.jit`` with these arguments static, for functions of cells.

    Equal calls of a factory return equal cells, so a cell that is built again costs no compilation, nor does a loss
    that is written as a ``lambda`` in the call. The function is compiled again where a cell, a loss, or a value that
    they read has changed. It is called without compilation where changes cannot be found, as with an object of your
    own class, and inside another compiled program.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        changed_by_tracing: dict[
            Hashable, Fixed
        ] = {}  # functions that change a value which they read, such as a counter

        @functools.partial(jax.jit, static_argnums=0)
        def jitted(fixed: Fixed, others: dict[str, Any]) -> R:
            return function(**fixed.arguments, **others)  # type: ignore[call-arg]

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs).arguments
            others = {name: value for name, value in given.items() if name not in static}
            require_kept(**others)
            arguments, held = {name: given[name] for name in given if name in static}, {}
            try:
                fixed = Fixed(dependency_key(arguments, held), arguments, held)
            except (TypeError, ValueError):  # a value without a key; a function that is not complete yet
                return function(*args, **kwargs)
            if is_staged():
                return function(*args, **kwargs)
            fixed = changed_by_tracing.get(fixed.key, fixed)
            result = jitted(fixed, others)
            with contextlib.suppress(TypeError, ValueError):
                after = Fixed(dependency_key(arguments, held := {}), fixed.arguments, held)
                if after.key != fixed.key and after.key not in changed_by_tracing:
                    fixed.held = {**held, **fixed.held}  # as long as the key is good
                    changed_by_tracing[after.key] = fixed
            return result

        return call

    return decorate


class Fixed:
    """Static arguments, compared by a key of their values and of all that they read; these values are kept alive."""

    def __init__(self, key: Hashable, arguments: dict[str, Any], held: dict[int, Any]) -> None:
        self.key, self.arguments, self.held = key, arguments, held

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Fixed) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def is_staged() -> bool:
    """Whether operations become part of a program that another ``jit`` compiles."""
    return isinstance(jax.lax.neg(np.float32(0)), Tracer)
