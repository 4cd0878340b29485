"""Numbers of parameters, sizes of cells with equal numbers of parameters, and the sequential depth of programs."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from rnn_jax.machinery.checks import require_positive
from rnn_jax.types import Cell

__all__ = ["matching_size", "parameter_count", "sequential_depth"]


def parameter_count(model: Any) -> int:
    """The number of parameters of a cell or a layer, or of anything else with an ``init(key)``, without computing them.

    >>> from rnn_jax import lstm
    >>> parameter_count(lstm(input_size=3, hidden_size=5))  # 4·(3·5 + 5·5 + 5)
    180
    """
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))


def matching_size(make: Callable[[int], Cell], parameters: int) -> int:
    """The hidden size at which ``make(hidden_size)`` comes closest to a number of parameters.

    Args:
        make: a cell of any hidden size from 1; more units must mean more parameters.
        parameters: the number wanted.

    Raises:
        ValueError: for a number below 1, or when more units do not mean more parameters.

    >>> from rnn_jax import gru
    >>> matching_size(lambda H: gru(3, H), parameters=180)
    6
    """
    require_positive(parameters=parameters)
    count = functools.cache(lambda size: parameter_count(make(size)))
    low, high = 1, 2
    while count(high) < parameters:
        low, high = high, 2 * high
        if count(high) <= count(low):
            raise ValueError(
                f"make got a model of {count(low)} parameters with {low} units and {count(high)} with {high}; "
                "want more parameters with more units: let hidden_size be the size of its state"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= parameters else (low, middle)
    return min((low, high), key=lambda size: abs(count(size) - parameters))


def sequential_depth(f: Callable, *args: Any) -> int:
    """The sequential depth of a program: the longest chain of steps of scans from its arguments to its results.

    A scan of T steps around a body of depth d counts T · max(d, 1), operations outside scans count nothing, and a
    ``cond`` its longest branch. A ``while``, whose number of steps is not in the program, raises an error.

    Args:
        f: a function of arrays, such as ``jax.grad(loss)``.
        args: arrays, or their shapes and types.

    Raises:
        ValueError: for a program with a while loop.

    >>> import jax, jax.numpy as jnp
    >>> def power(w):
    ...     return jax.lax.scan(lambda h, _: (w * h, None), 1.0, length=5)[0]
    >>> sequential_depth(power, 2.0), sequential_depth(jax.grad(power), 2.0)
    (5, 10)
    """
    closed = jax.make_jaxpr(f)(*args)
    return max(_depths(closed.jaxpr, [0] * len(closed.jaxpr.invars)), default=0)


def _depths(jaxpr: Any, begin: list[int]) -> list[int]:
    """The depth of each result of a jaxpr whose arguments have these."""
    depth = dict(zip(jaxpr.invars, begin, strict=True))

    def of(atom: Any) -> int:
        return 0 if hasattr(atom, "val") else depth.get(atom, 0)  # a literal has no depth

    for eqn in jaxpr.eqns:
        before = [of(atom) for atom in eqn.invars]
        inner = [getattr(p, "jaxpr", p) for p in jax.tree.leaves(list(eqn.params.values())) if hasattr(p, "eqns")]
        if eqn.primitive.name == "scan":
            body = max(_depths(inner[0], [0] * len(inner[0].invars)), default=0)
            after = [max(before, default=0) + eqn.params["length"] * max(body, 1)] * len(eqn.outvars)
        elif eqn.primitive.name == "while":
            raise ValueError("sequential_depth got a while loop; want scans, whose lengths are known")
        elif eqn.primitive.name == "cond":
            which, *given = before
            branches = [_depths(branch, [max(which, d) for d in given]) for branch in inner]
            after = [max(which, *depths) for depths in zip(*branches, strict=True)]
        elif len(inner) == 1 and len(inner[0].invars) == len(before):
            after = _depths(inner[0], before)
        else:
            after = [max(before, default=0)] * len(eqn.outvars)
        depth.update(zip(eqn.outvars, after, strict=True))
    return [of(atom) for atom in jaxpr.outvars]
