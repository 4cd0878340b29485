"""What weights of flax do not tell: the activations of cells, and how both directions become one output."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.cells.activations import ACTIVATIONS, Activation, activation_named
from rnn_jax.interop.adapters import library
from rnn_jax.interop.named_layers import listed
from rnn_jax.machinery.checks import in_one_line
from rnn_jax.machinery.reprs import short_text

__all__ = ["Activations", "is_before", "merge_of", "options_of", "state_of_module"]

Activations = str | Activation | Sequence[str | Activation | None] | None
"""One activation for all cells, one for each, or None for the usual one."""


def options_of(
    cells: list[str], own: Mapping[str, Mapping[str, Any]] | None, given: Mapping[str, Activations]
) -> dict[str, dict[str, Any]]:
    """The activations of each cell: of a live module, as they are given, or those of flax."""
    found = {
        path: {"activation": "tanh", "gate_activation": "sigmoid"} | dict((own or {}).get(path, {})) for path in cells
    }
    for name, value in given.items():
        if value is None:
            continue
        if own is not None:
            raise ValueError(f"{name} got {short_text(value)}; want None: a live module has its own")
        values = [*value] if isinstance(value, list | tuple) else [value] * len(cells)
        if len(values) != len(cells):
            raise ValueError(f"{name} got {len(values)} activations; want 1, or {len(cells)}, one for each cell")
        for path, each in zip(cells, values, strict=True):
            if each is not None:
                found[path][name] = name_of(activation_named(each, name))
    return found


def merge_of(own: Mapping[str, Mapping[str, Any]] | None, merge: str | None, both: bool) -> str:
    """How both directions of all layers become one output."""
    if merge is not None and (own is not None or not both):
        reason = "a live module has its own" if own is not None else "no layer has two directions"
        raise ValueError(f"merge got {in_one_line(merge)}; want None: {reason}")
    merges = sorted({each["merge"] for each in (own or {}).values() if "merge" in each})
    if len(merges) > 1:
        raise ValueError(f"variables got Bidirectional layers that {' and '.join(merges)}; want one merge_fn in all")
    return next(iter(merges), "concatenate") if merge is None else merge


def state_of_module(module: Any) -> tuple[Any, dict[str, dict[str, Any]]]:
    """The weights of a live module of nnx, and what they do not tell, by the paths of cells and of directions."""
    wanted = "variables of linen, a state of nnx, a module of nnx, or the path of a safetensors file"
    nnx = library("flax.nnx", "flax")
    if not isinstance(module, nnx.Module):
        raise ValueError(f"variables got {type(module).__name__}; want {wanted}")
    merges = {jnp.add: "sum", nnx.Bidirectional.merge_fn: "concatenate"}
    own: dict[str, dict[str, Any]] = {}
    for path, inner in nnx.iter_modules(module):
        where, name = "/".join(map(str, path)), "/".join(map(str, path)) or "variables"
        if isinstance(inner, nnx.Bidirectional):
            known = [merge for function, merge in merges.items() if function is inner.merge_fn]
            if not known:
                wanted = "jnp.add, or that of flax, which concatenates"
                raise ValueError(f"{name} got the merge_fn {short_text(inner.merge_fn)}; want {wanted}")
            own[where] = {"merge": known[0]}
        elif isinstance(inner, nnx.Sequential):
            if functions := [each for each in inner.layers if not isinstance(each, nnx.Module)]:
                raise ValueError(f"{name} got {listed(map(short_text, functions))} in a Sequential; want modules alone")
        elif isinstance(inner, nnx.RNN) and inner.reverse and path[-1:] != ("backward_rnn",):
            raise ValueError(f"{name} got an RNN with reverse=True; want a Bidirectional layer")
        elif hasattr(inner, "activation_fn"):
            if getattr(inner, "residual", False):
                raise ValueError(f"{name} got a residual SimpleCell; want one that adds no state to its sum")
            if getattr(inner, "carry_init", None) not in (None, jax.nn.initializers.zeros):
                raise ValueError(f"{name} got the carry_init {short_text(inner.carry_init)}; want a start of zeros")
            functions = {
                "activation": inner.activation_fn,
                "gate_activation": getattr(inner, "gate_fn", jax.nn.sigmoid),
            }
            own[where] = {option: name_of(function) for option, function in functions.items()}
    return nnx.state(module, nnx.Param), own


def is_before(module: Any, path: str, others: list[str]) -> bool:
    """Whether the attributes of a live module have a path before all others."""
    paths = [each.split("/") for each in (path, *others)]
    alike = (len({*names}) == 1 for names in zip(*paths, strict=False))
    depth = sum(itertools.takewhile(bool, alike))
    for name in paths[0][:depth]:
        module = module[int(name)] if name.isdigit() else getattr(module, name)
    order = [*vars(module)]
    found = [order.index(each[depth]) for each in paths if each[depth:] and each[depth] in order]
    return len(found) == len(paths) and found[0] < min(found[1:])


def name_of(activation: Activation) -> str | Activation:
    """The name of a function in ``ACTIVATIONS``; others are returned unchanged."""
    return next((name for name, function in ACTIVATIONS.items() if function is activation), activation)
