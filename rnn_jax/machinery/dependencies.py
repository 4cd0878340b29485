"""Keys of functions and of the values that they read beside their arguments; two functions with one key are equal."""

import functools
import types
from collections.abc import Hashable
from typing import Any

import jax
import numpy as np

from rnn_jax.machinery.factories import Made

__all__ = ["dependency_key"]

LIBRARIES = ("rnn_jax", "jax", "jaxlib", "optax", "numpy", "flax", "chex")
"""Packages whose functions read only values that do not change."""


def dependency_key(value: Any, held: dict[int, Any]) -> Hashable:
    """A key of a value and of all values that functions in it read: globals, closures, defaults.

    Functions are compared by their code; numbers, texts and arrays of NumPy by value; arrays of JAX by identity.

    Args:
        value: such as a cell, or a loss.
        held: receives every object that the key identifies by its address; the key is valid while they are alive.

    Raises:
        TypeError: for a value whose changes cannot be found, such as an object of your own class.
    """
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return type(value), repr(value)
    if id(value) in held:
        return "repeated", list(held).index(id(value))
    held[id(value)] = value
    read = functools.partial(dependency_key, held=held)
    if isinstance(value, Made):
        make, args, kwargs, path = value.recipe
        return id(make), path, read(args), read(kwargs)
    if isinstance(value, tuple) or type(value) is list:
        return type(value), tuple(map(read, value))
    if type(value) is dict:
        return dict, tuple((name, read(part)) for name, part in value.items())
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, functools.partial):
        return functools.partial, read(value.func), read(value.args), read(value.keywords)
    if isinstance(value, types.FunctionType) and not is_library(value):
        return value.__code__, *map(read, dependencies_of(value))
    fixed = jax.Array, np.generic, np.dtype, np.ufunc, type, types.ModuleType, types.BuiltinFunctionType
    if isinstance(value, fixed) or is_library(value):
        return id(value)
    raise TypeError(f"{type(value).__name__} has no key")


def is_library(value: Any) -> bool:
    """Whether a function, or the class of another object, belongs to one of ``LIBRARIES``."""
    of = value if isinstance(value, types.FunctionType) else type(value)
    return str(getattr(of, "__module__", "")).partition(".")[0] in LIBRARIES


def dependencies_of(function: types.FunctionType) -> list[Any]:
    """The values that a function reads: globals, closures, defaults."""
    lookup = function.__globals__
    looked_up = [(name, lookup[name]) for name in names_in(function.__code__) if name in lookup]
    closed_over = [cell.cell_contents for cell in function.__closure__ or ()]
    return [looked_up, closed_over, function.__defaults__, function.__kwdefaults__]


def names_in(code: types.CodeType) -> list[str]:
    """The names that code, and code inside it, looks up outside of functions."""
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return sorted({*code.co_names}.union(*inner))
