"""Compiled calls: what is called again and again outside of ``jit``, as in a notebook, is compiled once."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

from rnn_jax.factories import same_function

P = ParamSpec("P")
R = TypeVar("R")


def compiled(*static: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: ``jax.jit`` with these arguments static, for functions of cells.

    Equal calls of a factory return equal cells, so a cell that is built anew costs no compilation, nor does a loss that
    is written as a ``lambda`` in the call. With a static argument that has no hash, the function is called as it is.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        jitted: Callable[P, R] = jax.jit(function, static_argnames=static)
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs)
            for name in given.arguments.keys() & set(static):
                given.arguments[name] = same_function(given.arguments[name])
            try:
                hash(tuple(given.arguments.get(name) for name in static))
            except TypeError:
                return function(*args, **kwargs)
            return jitted(*given.args, **given.kwargs)

        return call

    return decorate
