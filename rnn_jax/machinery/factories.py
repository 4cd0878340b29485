"""Factories of functions: equal calls return equal, hashable and picklable cells, layers and initialisers."""

import functools
import inspect
import weakref
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax.core import Tracer

from rnn_jax.machinery.reprs import call_text

__all__ = ["Made", "factory"]

P = ParamSpec("P")
R = TypeVar("R")


class Made:
    """A function that a factory made; equal calls of the factory return the same object.

    The one class of the library that is neither a ``NamedTuple`` nor a ``Protocol``: a closure cannot be pickled.
    """

    def __init__(self, function: Callable, recipe: tuple[Any, ...]) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.recipe = recipe

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        make, args, kwargs, path = self.recipe
        return f"{call_text(make, args, kwargs)}{jax.tree_util.keystr(path)}"

    def __reduce__(self) -> tuple[Any, ...]:
        return made_again, self.recipe


KNOWN: weakref.WeakValueDictionary[Hashable, Made] = weakref.WeakValueDictionary()
"""Every living function made by a factory; the key is the factory, its arguments, and the place in its result."""


def factory(make: Callable[P, R]) -> Callable[P, R]:
    """A function whose result is one function or a ``NamedTuple`` of them, the same for equal arguments.

    Arguments are equal by value, arrays too. A call with traced arrays, or with values without a hash, returns
    functions that are equal only to themselves.

    >>> from rnn_jax import lstm
    >>> lstm(3, 5) == lstm(input_size=3, hidden_size=5, forget_bias=1.0), lstm(3, 5) == lstm(3, 4)
    (True, False)
    """
    signature = inspect.signature(make)

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> R:
        args, kwargs = jax.tree.map(lambda a: a.copy() if isinstance(a, np.ndarray) else a, (args, kwargs))
        result = make(*args, **kwargs)  # with copies of arrays, which the caller cannot change
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            call = (make, hashable_form(bound.arguments))
        except TypeError:
            return result

        def known(path: tuple[Any, ...], part: Any) -> Any:
            if not callable(part) or isinstance(part, Made):
                return part
            return KNOWN.setdefault((*call, path), Made(part, (made, args, kwargs, path)))

        return jax.tree.map_with_path(known, result)

    return made


def made_again(make: Callable, args: tuple[Any, ...], kwargs: dict[str, Any], path: tuple[Any, ...]) -> Made:
    """The function at this place of the result of a factory, for unpickling."""
    return next(part for place, part in jax.tree.leaves_with_path(make(*args, **kwargs)) if place == path)


def hashable_form(value: Any) -> Hashable:
    """Arguments in a form that is compared by value; a TypeError for traced arrays and values without a hash.

    >>> hashable_form({"mask": np.array([1.0]), "n": [2]}) == hashable_form({"mask": np.array([1.0]), "n": [2]})
    True
    """
    if isinstance(value, Tracer):
        raise TypeError("a traced array has no value")
    if isinstance(value, np.ndarray | jax.Array):
        return str(value.dtype), value.shape, np.asarray(value).tobytes()
    if isinstance(value, dict):
        return frozenset((name, hashable_form(part)) for name, part in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(map(hashable_form, value))
    hash(value)
    return (bool, value) if isinstance(value, bool) else value  # True is equal to 1
