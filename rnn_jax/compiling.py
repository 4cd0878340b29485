"""Compiled calls: what is called again and again outside of ``jit``, as in a notebook, is compiled once."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")


def compiled(*static: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: ``jax.jit`` with these arguments static, for functions of cells.

    Equal calls of a factory return equal cells, so a cell that is built anew costs no compilation. With a static
    argument that has no hash, the function is called as it is.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        jitted: Callable[P, R] = jax.jit(function, static_argnames=static)
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            bound: dict[str, Any] = signature.bind(*args, **kwargs).arguments
            try:
                hash(tuple(bound[name] for name in static))
            except TypeError:
                return function(*args, **kwargs)
            return jitted(*args, **kwargs)

        return call

    return decorate
