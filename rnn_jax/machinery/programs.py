"""The program of a function as a list of equations (a jaxpr), and parts of it that run alone."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

__all__ = ["Equations", "dependent", "equations_of", "interpret", "is_variable", "needed", "run"]

Equations = Sequence[JaxprEqn]

CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2"}
"""Primitives that run one inner program as it stands."""


def interpret(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], apply: Callable[..., Sequence[Any]]) -> list:
    """The results of a program whose equations are computed by ``apply(eqn, *values)``; calls are opened."""
    values = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name in CALLS:
            inner = eqn.params["jaxpr"]
            inner, consts = (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, ())
            results = interpret(inner, consts, given, apply)
        else:
            results = apply(eqn, *given)
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def equations_of(f: Callable[..., Any], *args: Any, apply: Callable[..., Sequence[Any]] | None = None) -> Jaxpr:
    """The program of ``f``, which closes over no array, without calls inside.

    Args:
        f: a function of pytrees of arrays.
        args: arrays, or their shapes and types.
        apply: computes an equation in another way, as in ``interpret``.
    """
    closed = jax.make_jaxpr(f)(*args)
    if closed.consts:
        raise ValueError("f got arrays that it closes over; want them as arguments")
    compute = apply or apply_equation
    return jax.make_jaxpr(lambda *args: interpret(closed.jaxpr, (), args, compute))(*closed.in_avals).jaxpr


def apply_equation(eqn: JaxprEqn, *values: Any) -> Sequence[Any]:
    """The results of one equation; None for those that nothing reads."""
    given = {v: value for v, value in zip(eqn.invars, values, strict=True) if is_variable(v)}
    made = run([eqn], given)
    return [made.get(v) for v in eqn.outvars]


def run(eqns: Equations, values: dict[Var, Any]) -> dict[Var, Any]:
    """``values`` by variable, with those that the equations compute."""
    if not eqns:
        return values
    made = [v for eqn in eqns for v in eqn.outvars if not isinstance(v, DropVar)]
    own = set(made)
    read = [v for v in dict.fromkeys(v for eqn in eqns for v in eqn.invars if is_variable(v)) if v not in own]
    jaxpr = Jaxpr((), read, made, eqns, debug_info=NO_NAMES)
    return values | dict(zip(made, jaxpr_as_fun(ClosedJaxpr(jaxpr, ()))(*(values[v] for v in read)), strict=True))


def dependent(eqns: Equations, on: Iterable[Var]) -> set[Var]:
    """The variables that depend on any of ``on``, these included."""
    found = set(on)
    for eqn in eqns:
        if any(is_variable(v) and v in found for v in eqn.invars):
            found.update(eqn.outvars)
    return found


def needed(eqns: Equations, results: Iterable[Any]) -> list[JaxprEqn]:
    """The equations without which these results cannot be computed, in order."""
    wanted, kept = {v for v in results if is_variable(v)}, []
    for eqn in reversed(eqns):
        if any(v in wanted for v in eqn.outvars):
            kept.append(eqn)
            wanted.update(v for v in eqn.invars if is_variable(v))
    return kept[::-1]


def is_variable(atom: Any) -> bool:
    """Whether an operand of an equation is a variable, not a number."""
    return not isinstance(atom, Literal)


NO_NAMES = jax.make_jaxpr(lambda: ())().jaxpr.debug_info._replace(arg_names=None, result_paths=None)
