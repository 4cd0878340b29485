"""Programs of JAX as nodes of ONNX: a table of primitives, for steps of cells and for layers around them.

What depends on params alone is computed when the graph is made and becomes a constant. Sizes may be symbols: a bias is
not repeated over a batch of unknown size, because elementwise operators of ONNX do so by themselves.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxprs_in_params

from rnn_jax.interop.onnx_graphs import (
    Graph,
    Tensor,
    array_tensor,
    constant,
    data_type,
    integers,
    is_fixed,
    is_known,
    named,
    node,
    shape_name,
    whole,
)
from rnn_jax.machinery.programs import type_of

__all__ = ["PRIMITIVES", "as_nodes", "nodes_of_function"]

CALLS = {"jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"}
"""Primitives that run one inner program as it stands."""

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


def nodes_of_function(graph: Graph, f: Callable[..., Any], *args: Any) -> Any:
    """The results of a function as tensors, after its program has been added to a graph.

    Args:
        graph: receives the nodes.
        f: a function of pytrees of arrays.
        args: pytrees of ``Tensor``.

    Raises:
        ValueError: for a primitive that has no place in the table; its name is in the message.
    """
    flat, tree = jax.tree.flatten(args, is_leaf=lambda leaf: isinstance(leaf, Tensor))
    shapes = [jax.ShapeDtypeStruct(tensor.shape, tensor.dtype) for tensor in flat]
    closed, out = jax.make_jaxpr(lambda *leaves: f(*jax.tree.unflatten(tree, leaves)), return_shape=True)(*shapes)
    made = as_nodes(graph, closed.jaxpr, [*map(array_tensor, closed.consts), *flat])
    results = [whole(graph, tensor, type_of(v).shape) for tensor, v in zip(made, closed.jaxpr.outvars, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(out), results)


def as_nodes(graph: Graph, program: Jaxpr, args: Sequence[Tensor]) -> list[Tensor]:
    """The results of a program, whose constants are its first arguments."""
    values = dict(zip([*program.constvars, *program.invars], args, strict=True))

    def read(atom: Any) -> Tensor:
        return array_tensor(atom.val, type_of(atom).dtype) if isinstance(atom, Literal) else values[atom]

    for eqn in program.eqns:
        made = results_of(graph, eqn, [*map(read, eqn.invars)])
        values.update(zip(eqn.outvars, made, strict=True))
    return [*map(read, program.outvars)]


def results_of(graph: Graph, eqn: JaxprEqn, given: list[Tensor]) -> list[Tensor]:
    """The results of one equation."""
    name = eqn.primitive.name
    if name in CALLS:
        inner = next(iter(jaxprs_in_params(eqn.params)))
        closed = next((p for p in eqn.params.values() if isinstance(p, ClosedJaxpr)), None)
        consts = [*map(array_tensor, closed.consts)] if closed is not None else []
        return as_nodes(graph, inner, [*consts, *given])
    if name == "broadcast_in_dim":
        return [with_axes(graph, eqn, given[0])]
    if all(map(is_known, given)) and all(is_fixed(type_of(v).shape) for v in (*eqn.invars, *eqn.outvars)):
        return computed(eqn, [whole(graph, a, type_of(v).shape) for a, v in zip(given, eqn.invars, strict=True)])
    if name not in PRIMITIVES:
        raise ValueError(f"cell got the primitive {name}; ONNX takes {', '.join(sorted(PRIMITIVES))}")
    spread = name in ELEMENTWISE or name in SPREAD
    if spread and all(map(is_known, given)):
        shape = np.broadcast_shapes(*(tensor.shape for tensor in given))
        return computed(eqn, [array_tensor(np.broadcast_to(tensor.what, shape)) for tensor in given])
    if not spread:
        given = [whole(graph, a, type_of(v).shape) for a, v in zip(given, eqn.invars, strict=True)]
    made = PRIMITIVES[name](graph, eqn, [named(graph, tensor) for tensor in given])
    made = [made] if isinstance(made, str) else made
    shape = common_shape(*(tensor.shape for tensor in given)) if spread else ()
    types = map(type_of, eqn.outvars)
    return [Tensor(n, shape if spread else tuple(t.shape), t.dtype) for n, t in zip(made, types, strict=True)]


def computed(eqn: JaxprEqn, given: list[Tensor]) -> list[Tensor]:
    """The results of an equation whose operands are known."""
    arrays = [jnp.asarray(tensor.what, tensor.dtype) for tensor in given]
    with jax.default_matmul_precision("highest"):
        made = eqn.primitive.bind(*arrays, **eqn.params)
    return [*map(array_tensor, made)] if eqn.primitive.multiple_results else [array_tensor(made)]


def common_shape(*shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shape of an elementwise operator's output, of operands that may have axes of size 1, or none at all."""
    rank = max(map(len, shapes))
    full = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    along = zip(*full, strict=True)
    return tuple(next((size for size in sizes if not is_fixed((size,)) or size != 1), 1) for sizes in along)


def with_axes(graph: Graph, eqn: JaxprEqn, tensor: Tensor) -> Tensor:
    """``broadcast_in_dim`` that only adds axes of size 1."""
    shape: list[Any] = [1] * len(eqn.params["shape"])
    for axis, size in zip(eqn.params["broadcast_dimensions"], tensor.shape, strict=True):
        shape[axis] = size
    if tuple(shape) == tensor.shape:
        return tensor
    if is_known(tensor):
        return array_tensor(np.reshape(tensor.what, shape))
    return Tensor(reshaped(graph, named(graph, tensor), tuple(shape)), tuple(shape), tensor.dtype)


def reshaped(graph: Graph, name: str, shape: tuple[Any, ...]) -> str:
    """A tensor in another shape, with at most one size that is no whole number left to ONNX."""
    if sum(not is_fixed((size,)) for size in shape) == 1 and 0 not in shape:
        return node(graph, "Reshape", [name, integers(graph, *(s if is_fixed((s,)) else -1 for s in shape))])
    return node(graph, "Reshape", [name, shape_name(graph, shape)], allowzero=1)


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
    power = eqn.params["y"]
    if power == 2:
        return node(graph, "Mul", [names[0], names[0]])
    return node(graph, "Pow", [names[0], like(graph, eqn, power)])


def round_(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    if eqn.params["rounding_method"] != lax.RoundingMethod.TO_NEAREST_EVEN:
        raise ValueError("cell got the primitive round away from zero; ONNX rounds to the nearest even number")
    return node(graph, "Round", names)


def is_finite(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    return node(graph, "Not", [node(graph, "Or", [node(graph, op, names) for op in ("IsNaN", "IsInf")])])


def select_n(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    which, *cases = names
    if len(cases) != 2 or type_of(eqn.invars[0]).dtype != jnp.bool_:
        raise ValueError(f"cell got the primitive select_n of {len(cases)} cases; ONNX takes two, by True or False")
    return node(graph, "Where", [which, cases[1], cases[0]])


def clamp(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    low, x, high = names
    return node(graph, "Min", [node(graph, "Max", [x, low]), high])


def convert(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
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
    marks = iter("abcdefghijklmnopqrstuvwxyz")
    left, right = [next(marks) for _ in a.shape], [next(marks) for _ in b.shape]
    for n, m in zip((*one, *of_one), (*other, *of_other), strict=True):
        right[m] = left[n]
    free = [left[n] for n in range(len(left)) if n not in (*one, *of_one)]
    free += [right[m] for m in range(len(right)) if m not in (*other, *of_other)]
    result = [left[n] for n in of_one] + free
    return node(graph, "Einsum", names, equation=f"{''.join(left)},{''.join(right)}->{''.join(result)}")


def gather(graph: Graph, eqn: JaxprEqn, names: Sequence[str]) -> str:
    """Rows of a table; NaN, or the fill value, for an index outside of it."""
    table, where = (type_of(v) for v in eqn.invars)
    numbers, mode = eqn.params["dimension_numbers"], eqn.params["mode"]
    lead = len(where.shape) - 1
    rows = (
        (tuple(numbers.start_index_map), tuple(numbers.collapsed_slice_dims)) == ((0,), (0,))
        and tuple(eqn.params["slice_sizes"]) == (1, *table.shape[1:])
        and tuple(numbers.offset_dims) == tuple(range(lead, lead + len(table.shape) - 1))
        and not numbers.operand_batching_dims
    )
    if not rows:
        raise ValueError("cell got the primitive gather of other things than rows; ONNX takes rows by their ids")
    ids = reshaped(graph, names[1], tuple(where.shape[:-1]))
    low, high = (constant(graph, np.asarray(n, where.dtype)) for n in (0, table.shape[0] - 1))
    inside = node(graph, "Min", [node(graph, "Max", [ids, low]), high])
    made = node(graph, "Gather", [names[0], inside], axis=0)
    if mode != lax.GatherScatterMode.FILL_OR_DROP:
        return made
    valid = node(graph, "Equal", [ids, inside])
    valid = reshaped(graph, valid, (*where.shape[:-1], *(1,) * (len(table.shape) - 1)))
    fill = eqn.params["fill_value"]
    fill = fill if fill is not None else np.nan if jnp.issubdtype(table.dtype, jnp.inexact) else 0
    return node(graph, "Where", [valid, made, constant(graph, np.asarray(fill, table.dtype))])


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
    "pad": pad,
    "cumsum": cumsum,
    **{f"reduce_{name}": reduced(f"Reduce{name.title()}") for name in ("sum", "max", "min", "prod")},
    "reduce_or": reduced_logic("ReduceMax"),
    "reduce_and": reduced_logic("ReduceMin"),
    "argmax": arg_of("ArgMax"),
    "argmin": arg_of("ArgMin"),
    "dot_general": dot_general,
    "gather": gather,
    "optimization_barrier": lambda graph, eqn, names: [*names],
}
"""What becomes of each primitive: a function of the graph, the equation and the names of its operands."""
