"""Short texts for models and weights: the call of a factory, and names with types and shapes."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

__all__ = ["repr_of_arrays", "repr_of_call"]


def repr_of_arrays(self: Any) -> str:
    """A ``__repr__`` for named tuples of arrays: the type and shape of each field, in the place of all its numbers.

    >>> import jax
    >>> from rnn_jax import gru
    >>> gru(input_size=3, hidden_size=4, dtype="float32").init(jax.random.key(0))
    GRUParams(W_xh=float32[3,12], W_hh=float32[4,12], b_h=float32[12], b_n=float32[4])
    """
    return f"{type(self).__name__}({_fields(self)})"


def repr_of_call(self: Any) -> str:
    """A ``__repr__`` for named tuples of functions: the call of the factory that makes them.

    Where no call makes them all, as after ``_replace``, each field is named by its function.

    >>> from rnn_jax import gru, readout
    >>> readout(gru(3, 4), output_size=2)
    readout(gru(input_size=3, hidden_size=4), output_size=2)
    >>> gru(3, 4)._replace(output=lambda params, h: -h)
    Cell(init=gru.init, start=gru.start, project=gru.project, advance=gru.advance, output=<lambda>, ...)
    """
    recipes = {id(part.recipe[0]): part.recipe for part in self if hasattr(part, "recipe")}
    for make, args, kwargs, _ in recipes.values():
        if make(*args, **kwargs) == self:
            return call_text(make, args, kwargs)
    return f"{type(self).__name__}({_fields(self)})"


def call_text(make: Callable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The call of a function as a short text; models stand first, everything else has its name."""
    texts, kinds = [], inspect.signature(make).parameters
    for name, value in inspect.signature(make).bind(*args, **kwargs).arguments.items():
        if kinds[name].kind is inspect.Parameter.VAR_POSITIONAL:
            texts += map(short_text, value)
        elif kinds[name].kind is inspect.Parameter.VAR_KEYWORD:
            texts += [f"{option}={short_text(given)}" for option, given in value.items()]
        else:
            texts.append(short_text(value) if hasattr(value, "start") else f"{name}={short_text(value)}")
    return f"{make.__name__}({', '.join(texts)})"


def short_text(value: Any) -> str:
    """The text of a value, without numbers of arrays and without addresses of functions.

    >>> short_text({"weights": np.zeros((2, 3)), "sizes": (1, 2), "phi": np.tanh, "rate": np.float32(0.5)})
    "{'weights': float64[2,3], 'sizes': (1, 2), 'phi': tanh, 'rate': 0.5}"
    """
    if isinstance(value, np.generic):
        return repr(value.item())
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name!r}: {short_text(part)}' for name, part in value.items())}}}"
    if type(value) in (tuple, list):
        texts = ", ".join(map(short_text, value))
        return f"[{texts}]" if isinstance(value, list) else f"({texts},)" if len(value) == 1 else f"({texts})"
    if isinstance(value, tuple) and type(value).__repr__ in (repr_of_arrays, repr_of_call):
        return repr(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return f"{type(value).__name__}({_fields(value)})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field for field in dataclasses.fields(value) if field.repr]
        given = {field.name: (getattr(value, field.name), field.default) for field in fields}
        texts = [f"{name}={short_text(own)}" for name, (own, default) in given.items() if own is not default]
        return f"{type(value).__name__}({', '.join(texts)})"
    return (
        value.__name__
        if callable(value) and hasattr(value, "__name__") and not hasattr(value, "recipe")
        else repr(value)
    )


def _fields(value: Any) -> str:
    return ", ".join(f"{name}={_field(part)}" for name, part in value._asdict().items())


def _field(part: Any) -> str:
    """A field, whose text is short where it is a function that a factory made."""
    if hasattr(part, "recipe"):
        return f"{part.recipe[0].__name__}{jax.tree_util.keystr(part.recipe[3])}"
    return short_text(part)
