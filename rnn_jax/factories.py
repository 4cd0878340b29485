"""Factories of functions: equal calls return equal, hashable and picklable cells, layers and initialisers."""

import functools
import inspect
import weakref
from collections.abc import Callable, Hashable
from types import CodeType, FunctionType
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax.core import Tracer

P = ParamSpec("P")
R = TypeVar("R")


class Made:
    """A function that a factory made. There is one for equal calls of the factory, so it is equal to itself alone.

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
        given = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
        return f"{make.__name__}({given}){jax.tree_util.keystr(path)}"

    def __reduce__(self) -> tuple[Any, ...]:
        return remade, self.recipe


KNOWN: weakref.WeakValueDictionary[Hashable, Made] = weakref.WeakValueDictionary()
"""Every function that is alive and was made by a factory, by the factory, its arguments and its place."""


def factory(make: Callable[P, R]) -> Callable[P, R]:
    """A function whose result is one function or a ``NamedTuple`` of them, the same for equal arguments.

    Arguments are equal by value, arrays too. A call with traced arrays, or with anything that has no hash, makes
    functions that are equal to themselves alone.

    >>> from rnn_jax import lstm
    >>> lstm(3, 5) == lstm(input_size=3, hidden_size=5, forget_bias=1.0), lstm(3, 5) == lstm(3, 4)
    (True, False)
    """
    signature = inspect.signature(make)

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> R:
        result = make(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            call = (make, frozen(bound.arguments))
        except TypeError:
            return result

        def known(path: tuple[Any, ...], part: Any) -> Any:
            if not callable(part) or isinstance(part, Made):
                return part
            return KNOWN.setdefault((*call, path), Made(part, (made, args, kwargs, path)))

        return jax.tree.map_with_path(known, result)

    return made


FUNCTIONS: weakref.WeakValueDictionary[Hashable, FunctionType] = weakref.WeakValueDictionary()
"""Functions that are alive, by their code and all that it reads."""
READ: dict[Hashable, list[Any]] = {}
"""What each of them reads, so that nothing else can take its place in memory."""


def same_function(value: Any) -> Any:
    """The first function alive of equal code that reads the same objects, such as a ``lambda`` that is written once and
    made at every call; anything else as it is.

    >>> make = lambda scale: lambda y: scale * y
    >>> same_function(make("a")) is same_function(make("b"))
    False
    >>> first = same_function(make("a"))
    >>> same_function(make("a")) is first
    True
    """
    if not isinstance(value, FunctionType):
        return value
    looked_up = [value.__globals__[name] for name in names_in(value.__code__) if name in value.__globals__]
    defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    try:
        closed_over = [cell.cell_contents for cell in value.__closure__ or ()]
    except ValueError:  # of a function that is not complete yet
        return value
    reads = [value.__globals__, *looked_up, *defaults, *closed_over]
    key = (value.__code__, len(looked_up), len(defaults), *map(identity, reads))
    first = FUNCTIONS.setdefault(key, value)
    if first is value and key not in READ:
        READ[key] = reads
        weakref.finalize(value, READ.pop, key, None)
    return first


def identity(value: Any) -> Hashable:
    """What tells a value from others that are alive: numbers and texts by what they are, anything else by its place."""
    plain = isinstance(value, bool | int | float | complex | str | bytes)
    return (type(value), repr(value)) if plain else id(value)


def names_in(code: CodeType) -> list[str]:
    """The names that code, and code inside it, looks up outside of functions."""
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return sorted({*code.co_names}.union(*inner))


def remade(make: Callable, args: tuple[Any, ...], kwargs: dict[str, Any], path: tuple[Any, ...]) -> Made:
    """The function at this place of what a factory makes, for a pickle that is read."""
    return next(part for place, part in jax.tree.leaves_with_path(make(*args, **kwargs)) if place == path)


def frozen(value: Any) -> Hashable:
    """Arguments as what can be compared by value; a TypeError for what is traced or has no hash.

    >>> frozen({"mask": np.array([1.0]), "sizes": [2, 3]}) == frozen({"mask": np.array([1.0]), "sizes": [2, 3]})
    True
    """
    if isinstance(value, Tracer):
        raise TypeError("a traced array has no value")
    if isinstance(value, np.ndarray | jax.Array):
        return str(value.dtype), value.shape, np.asarray(value).tobytes()
    if isinstance(value, dict):
        return frozenset((name, frozen(part)) for name, part in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(map(frozen, value))
    hash(value)
    value = same_function(value)
    return (bool, value) if isinstance(value, bool) else value  # True is equal to 1
