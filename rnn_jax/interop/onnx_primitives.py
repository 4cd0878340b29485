"""A table of primitives of JAX: the nodes of ONNX that each becomes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from rnn_jax.interop.onnx_graphs import (
    Graph,
    constant,
    data_type,
    integers,
    is_fixed,
    node,
    reshaped,
)
from rnn_jax.machinery.programs import type_of

__all__ = ["ELEMENTWISE", "PRIMITIVES", "SPREAD"]

ELEMENTWISE = {
    **{name: name.title() for name in ("add", "sub", "mul", "div", "max", "min", "neg", "exp", "log", "tanh", "sqrt")},
    **{name: name.title() for name in ("abs", "sign", "floor", "ceil", "sin", "cos", "tan", "sinh", "cosh", "pow")},
    "logistic": "Sigmoid",
    "erf": "Erf",
    "not": "Not",
    "and": "And",
    "or": "Or",
    "xor": "Xor",
    "copy": "Identity",
    "stop_gradient": "Identity",
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "copy_p": "Identity",
    "add_any": "Add",
    "asin": "Asin",
    "acos": "Acos",
    "atan": "Atan",
}
"""Operators of ONNX that are the primitive."""

Handler = Callable[[Graph, JaxprEqn, Sequence[str]], Any]


def like(graph: Graph, eqn: JaxprEqn, value: Any) -> str:
    """A number of the type of an equation's first operand."""
    return constant(graph, np.asarray(value, type_of(eqn.invars[0]).dtype))


def handler_of(op: str) -> Handler:
    """The handler of a primitive that is one operator."""
    return lambda graph, eqn, names: node(graph, op, names, len(eqn.outvars))


def bool_only(op: str) -> Handler:
    """The handler of a primitive that is a logical operator where its operands are True or False."""

    def handle(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
        logical = type_of(eqn.invars[0]).dtype == jnp.bool_
        return node(graph, op if logical else f"Bitwise{op}", names)

    return handle


def log1p(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    """log(1 + x) = x log(u) / (u − 1) with u = 1 + x as it is rounded, or x where u is 1 (Kahan)."""
    (x,), one = names, like(graph, eqn, 1)
    u = node(graph, "Add", [x, one])
    small = node(graph, "Or", [node(graph, "Equal", [u, one]), node(graph, "IsInf", [u])])
    safe = node(graph, "Where", [small, like(graph, eqn, 2), u])
    ratio = node(graph, "Div", [node(graph, "Log", [safe]), node(graph, "Sub", [safe, one])])
    return node(graph, "Where", [small, x, node(graph, "Mul", [x, ratio])])


def expm1(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    """exp(x) − 1 = tanh(x / 2) (exp(x) + 1), exact to the last digits near 0 too."""
    half = node(graph, "Tanh", [node(graph, "Mul", [names[0], like(graph, eqn, 0.5)])])
    return node(graph, "Mul", [half, node(graph, "Add", [node(graph, "Exp", names), like(graph, eqn, 1)])])


def integer_pow(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    """A power with a whole exponent: ``Mul`` for squares, ``Pow`` for others."""
    power = eqn.params["y"]
    if power == 2:
        return node(graph, "Mul", [names[0], names[0]])
    return node(graph, "Pow", [names[0], like(graph, eqn, power)])


def round_(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    """Rounding: ``Round``, which rounds halves to the even number."""
    if eqn.params["rounding_method"] != lax.RoundingMethod.TO_NEAREST_EVEN:
        raise ValueError("cell got the primitive round away from zero; ONNX rounds to the nearest even number")
    return node(graph, "Round", names)


def is_finite(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    """A test for finite numbers: neither ``IsNaN`` nor ``IsInf``."""
    return node(graph, "Not", [node(graph, "Or", [node(graph, op, names) for op in ("IsNaN", "IsInf")])])


def select_n(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    """A choice of two arrays by a condition: ``Where``."""
    which, *cases = names
    if len(cases) != 2 or type_of(eqn.invars[0]).dtype != jnp.bool_:
        raise ValueError(f"cell got the primitive select_n of {len(cases)} cases; ONNX takes two, by True or False")
    return node(graph, "Where", [which, cases[1], cases[0]])


def clamp(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    """Numbers within two bounds: ``Max``, then ``Min``."""
    low, x, high = names
    return node(graph, "Min", [node(graph, "Max", [x, low]), high])


def convert(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    """Another type: ``Cast``."""
    return node(graph, "Cast", names, to=data_type(eqn.params["new_dtype"]))


def reshape(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    return reshaped(graph, names[0], tuple(type_of(eqn.outvars[0]).shape))


def transpose(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    return node(graph, "Transpose", names, perm=[*map(int, eqn.params["permutation"])])


def slice_(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    starts, ends = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    shape = type_of(eqn.invars[0]).shape
    axes = [n for n, size in enumerate(shape) if (starts[n], ends[n], strides[n]) != (0, size, 1)]
    if not is_fixed(value[n] for value in (starts, ends) for n in axes):
        raise ValueError("cell got the primitive slice of an axis of unknown size; ONNX takes a fixed one")
    numbers = [integers(graph, *(int(value[n]) for n in axes)) for value in (starts, ends)]
    return node(
        graph, "Slice", [*names, *numbers, integers(graph, *axes), integers(graph, *(strides[n] for n in axes))]
    )


def reverse(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    axes = eqn.params["dimensions"]
    numbers = [integers(graph, *(value,) * len(axes)) for value in (-1, -(2**62))]
    return node(graph, "Slice", [*names, *numbers, integers(graph, *axes), integers(graph, *(-1,) * len(axes))])


def split(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> Any:
    sizes = eqn.params["sizes"]
    return node(graph, "Split", [*names, integers(graph, *map(int, sizes))], len(sizes), axis=int(eqn.params["axis"]))


def concatenate(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    return node(graph, "Concat", names, axis=int(eqn.params["dimension"]))


def stack(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    axis = int(eqn.params["axis"])
    return node(graph, "Concat", [node(graph, "Unsqueeze", [n, integers(graph, axis)]) for n in names], axis=axis)


def tile(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    return node(graph, "Tile", [*names, integers(graph, *eqn.params["reps"])])


def pad(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    low, high, inner = zip(*eqn.params["padding_config"], strict=True)
    if any(inner) or min(*low, *high) < 0:
        raise ValueError("cell got the primitive pad with inner or negative padding; ONNX takes zeros or more outside")
    return node(graph, "Pad", [names[0], integers(graph, *low, *high), names[1]])


def reduced(op: str) -> Handler:
    """The handler of a sum, product, or extremum over axes."""

    def handle(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
        return node(graph, op, [*names, integers(graph, *eqn.params["axes"])], keepdims=0)

    return handle


def reduced_logic(op: str) -> Handler:
    """The handler of any or all over axes."""

    def handle(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
        whole_numbers = node(graph, "Cast", names, to=data_type(np.int32))
        made = node(graph, op, [whole_numbers, integers(graph, *eqn.params["axes"])], keepdims=0)
        return node(graph, "Cast", [made], to=data_type(np.bool_))

    return handle


def arg_of(op: str) -> Handler:
    """The handler of the place of an extremum."""

    def handle(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
        (axis,) = eqn.params["axes"]
        return node(
            graph, "Cast", [node(graph, op, names, axis=int(axis), keepdims=0)], to=data_type(eqn.params["index_dtype"])
        )

    return handle


def cumsum(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    axis = constant(graph, np.int64(eqn.params["axis"]))
    return node(graph, "CumSum", [*names, axis], reverse=int(eqn.params["reverse"]))


def dot_general(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    """A product: ``MatMul`` of the last axis with the first of a matrix, ``Einsum`` otherwise."""
    (one, other), (of_one, of_other) = eqn.params["dimension_numbers"]
    a, b = (type_of(v) for v in eqn.invars)
    wanted, kept = type_of(eqn.outvars[0]).dtype, names
    if wanted != a.dtype or wanted != b.dtype:
        names = [node(graph, "Cast", [name], to=data_type(wanted)) for name in kept]
    if tuple(one) == (len(a.shape) - 1,) and tuple(other) == (0,) and len(b.shape) == 2 and not of_one:
        return node(graph, "MatMul", names)
    axis_names = iter("abcdefghijklmnopqrstuvwxyz")
    left, right = [next(axis_names) for _ in a.shape], [next(axis_names) for _ in b.shape]
    for n, m in zip((*one, *of_one), (*other, *of_other), strict=True):
        right[m] = left[n]
    free = [left[n] for n in range(len(left)) if n not in (*one, *of_one)]
    free += [right[m] for m in range(len(right)) if m not in (*other, *of_other)]
    result = [left[n] for n in of_one] + free
    return node(graph, "Einsum", names, equation=f"{''.join(left)},{''.join(right)}->{''.join(result)}")


def convolution(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    """A convolution, in which ONNX has the axes of channels before those of space."""
    p = eqn.params
    if {*p["lhs_dilation"]} != {1} or p["batch_group_count"] != 1 or min(map(min, p["padding"])) < 0:
        raise ValueError("cell got the primitive conv_general_dilated with a dilated input; ONNX takes plain ones")
    axes = p["dimension_numbers"]
    x, W = (
        node(graph, "Transpose", [n], perm=[*a]) for n, a in zip(names, (axes.lhs_spec, axes.rhs_spec), strict=True)
    )
    low, high = zip(*p["padding"], strict=True)
    more = {"strides": p["window_strides"], "dilations": p["rhs_dilation"], "group": p["feature_group_count"]}
    y = node(graph, "Conv", [x, W], pads=[*low, *high], **more)
    return node(graph, "Transpose", [y], perm=[*map(int, np.argsort(axes.out_spec))])


def gather(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    """Entries along one axis, or a part of an array, as ``a[:, 1:3]`` is where the size of the first axis is free."""
    table, where = (type_of(v) for v in eqn.invars)
    numbers, sizes, mode = eqn.params["dimension_numbers"], eqn.params["slice_sizes"], eqn.params["mode"]
    axes, lead = tuple(numbers.start_index_map), tuple(where.shape[:-1])
    if not lead and (mode == lax.GatherScatterMode.PROMISE_IN_BOUNDS or names[1] in graph.constants):
        return part_of_array(graph, eqn, names)
    others = [(s, t) for axis, (s, t) in enumerate(zip(sizes, table.shape, strict=True)) if axis not in axes]
    if len(axes) != 1 or numbers.collapsed_slice_dims != axes or any(s != t for s, t in others):
        raise ValueError("cell got the primitive gather along several axes; ONNX takes one, such as a row for each id")
    k, last = axes[0], len(lead) + len(table.shape) - 1
    ids = reshaped(graph, names[1], lead)
    low, high = (constant(graph, np.asarray(n, where.dtype)) for n in (0, table.shape[k] - 1))
    inside = node(graph, "Min", [node(graph, "Max", [ids, low]), high])
    made = node(graph, "Gather", [names[0], inside], axis=k)
    if mode == lax.GatherScatterMode.FILL_OR_DROP:
        beside = (*(1,) * k, *lead, *(1,) * (len(table.shape) - 1 - k))
        valid = reshaped(graph, node(graph, "Equal", [ids, inside]), beside)
        fill = eqn.params["fill_value"]
        fill = fill if fill is not None else np.nan if jnp.issubdtype(table.dtype, jnp.inexact) else 0
        made = node(graph, "Where", [valid, made, constant(graph, np.asarray(fill, table.dtype))])
    moved = iter(range(k, k + len(lead)))
    kept = iter([axis for axis in range(last) if not k <= axis < k + len(lead)])
    order = [next(kept if axis in numbers.offset_dims else moved) for axis in range(last)]
    return made if order == [*range(last)] else node(graph, "Transpose", [made], perm=order)


def part_of_array(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    """The part of an array that begins at given indices."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    axes = tuple(numbers.start_index_map)
    starts = node(graph, "Cast", [names[1]], to=data_type(np.int64))
    ends = node(graph, "Add", [starts, integers(graph, *(sizes[axis] for axis in axes))])
    made = node(graph, "Slice", [names[0], starts, ends, integers(graph, *axes)])
    gone = numbers.collapsed_slice_dims
    return node(graph, "Squeeze", [made, integers(graph, *gone)]) if gone else made


SPREAD: dict[str, Handler] = {
    "ne": lambda graph, eqn, names: node(graph, "Not", [node(graph, "Equal", names)]),
    "rsqrt": lambda graph, eqn, names: node(graph, "Reciprocal", [node(graph, "Sqrt", names)]),
    "square": lambda graph, eqn, names: node(graph, "Mul", [*names, *names]),
    "rem": lambda graph, eqn, names: node(graph, "Mod", names, fmod=1),
    "exp2": lambda graph, eqn, names: node(graph, "Pow", [like(graph, eqn, 2), *names]),
    "round": round_,
    "log1p": log1p,
    "expm1": expm1,
    "integer_pow": integer_pow,
    "is_finite": is_finite,
    "select_n": select_n,
    "clamp": clamp,
    "convert_element_type": convert,
}
"""Elementwise primitives of several nodes, or with attributes."""

PRIMITIVES: dict[str, Handler] = {
    **{name: handler_of(op) for name, op in ELEMENTWISE.items()},
    **{name: bool_only(ELEMENTWISE[name]) for name in ("not", "and", "or", "xor")},
    **SPREAD,
    "reshape": reshape,
    "squeeze": reshape,
    "expand_dims": reshape,
    "transpose": transpose,
    "slice": slice_,
    "rev": reverse,
    "split": split,
    "concatenate": concatenate,
    "stack": stack,
    "tile": tile,
    "pad": pad,
    "cumsum": cumsum,
    **{f"reduce_{name}": reduced(f"Reduce{name.title()}") for name in ("sum", "max", "min", "prod")},
    "reduce_or": reduced_logic("ReduceMax"),
    "reduce_and": reduced_logic("ReduceMin"),
    "argmax": arg_of("ArgMax"),
    "argmin": arg_of("ArgMin"),
    "dot_general": dot_general,
    "gather": gather,
    "conv_general_dilated": convolution,
    "optimization_barrier": lambda graph, eqn, names: [*names],
}
"""What becomes of each primitive: a function of the graph, the equation and the names of its operands."""
