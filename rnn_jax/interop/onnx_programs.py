"""Programs of JAX as nodes of ONNX, equation by equation.

What depends on params alone is computed when the graph is made and becomes a constant. Sizes may be symbols: a bias is
not repeated over a batch of unknown size, because elementwise operators of ONNX do so by themselves.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxprs_in_params

from rnn_jax.interop.onnx_graphs import Graph, Tensor, array_tensor, broadcast_to, is_fixed, is_known, named, reshaped
from rnn_jax.interop.onnx_primitives import ELEMENTWISE, PRIMITIVES, SPREAD
from rnn_jax.interop.signatures import with_symbols
from rnn_jax.machinery.programs import type_of

__all__ = ["nodes_of_function"]

CALLS = {"jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"}
"""Primitives that run one inner program as it stands."""


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
    with with_symbols():
        closed, out = jax.make_jaxpr(lambda *leaves: f(*jax.tree.unflatten(tree, leaves)), return_shape=True)(*shapes)
    made = as_nodes(graph, closed.jaxpr, [*map(array_tensor, closed.consts), *flat])
    results = [
        broadcast_to(graph, tensor, type_of(v).shape) for tensor, v in zip(made, closed.jaxpr.outvars, strict=True)
    ]
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
    if any(type_of(v).dtype == jnp.bfloat16 for v in (*eqn.invars, *eqn.outvars)):
        raise ValueError("cell got numbers of bfloat16; ONNX Runtime computes with float64, float32, float16")
    if name in CALLS:
        inner = next(iter(jaxprs_in_params(eqn.params)))
        closed = next((p for p in eqn.params.values() if isinstance(p, ClosedJaxpr)), None)
        consts = [*map(array_tensor, closed.consts)] if closed is not None else []
        return as_nodes(graph, inner, [*consts, *given])
    if name == "broadcast_in_dim":
        return [with_axes(graph, eqn, given[0])]
    if name == "scan" and is_short_loop(eqn):
        return unrolled(graph, eqn, given)
    if name == "dim_as_value":
        raise ValueError("cell got a number that is the size of the batch; ONNX takes steps of each example alone")
    if all(map(is_known, given)) and all(is_fixed(type_of(v).shape) for v in (*eqn.invars, *eqn.outvars)):
        return computed(eqn, [broadcast_to(graph, a, type_of(v).shape) for a, v in zip(given, eqn.invars, strict=True)])
    if name not in PRIMITIVES:
        raise ValueError(f"cell got the primitive {name}; ONNX takes {', '.join(sorted(PRIMITIVES))}")
    spread = name in ELEMENTWISE or name in SPREAD
    if spread and all(map(is_known, given)):
        shape = np.broadcast_shapes(*(tensor.shape for tensor in given))
        return computed(eqn, [array_tensor(np.broadcast_to(tensor.what, shape)) for tensor in given])
    if not spread:
        given = [broadcast_to(graph, a, type_of(v).shape) for a, v in zip(given, eqn.invars, strict=True)]
    made = PRIMITIVES[name](graph, eqn, [named(graph, tensor) for tensor in given])
    made = [made] if isinstance(made, str) else made
    shape = common_shape(*(tensor.shape for tensor in given)) if spread else ()
    types = map(type_of, eqn.outvars)
    return [Tensor(n, shape if spread else tuple(t.shape), t.dtype) for n, t in zip(made, types, strict=True)]


LONGEST = 32
"""Rounds of a loop inside a step that is written out."""


def is_short_loop(eqn: JaxprEqn) -> bool:
    """Whether a loop, such as ``lax.fori_loop`` makes, has few rounds and reads and writes nothing at each.

    What it reads or writes at each round has one axis more outside the loop than inside.
    """
    body = eqn.params["jaxpr"]
    inner = body.jaxpr if isinstance(body, ClosedJaxpr) else body
    pairs = zip((*eqn.invars, *eqn.outvars), (*inner.invars, *inner.outvars), strict=True)
    return eqn.params["length"] <= LONGEST and all(type_of(v).shape == type_of(w).shape for v, w in pairs)


def unrolled(graph: Graph, eqn: JaxprEqn, given: list[Tensor]) -> list[Tensor]:
    """The results of a loop, round after round."""
    body, count = eqn.params["jaxpr"], len(eqn.invars) - len(eqn.outvars)
    fixed, states = given[:count], given[count:]
    for _ in range(eqn.params["length"]):
        consts = map(array_tensor, body.consts) if isinstance(body, ClosedJaxpr) else ()
        inner = body.jaxpr if isinstance(body, ClosedJaxpr) else body
        states = as_nodes(graph, inner, [*consts, *fixed, *states])
    return states


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
