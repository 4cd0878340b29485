"""Models as files of ONNX: whole models of sequences, or one step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from rnn_jax.combinators import params_name
from rnn_jax.interop.onnx_graphs import (
    Graph,
    Tensor,
    array_tensor,
    broadcast_to,
    constant,
    data_type,
    empty_graph,
    is_tensor,
    model_of,
    node,
    require_types,
)
from rnn_jax.interop.onnx_layers import Setting, run_model
from rnn_jax.interop.onnx_programs import nodes_of_function
from rnn_jax.interop.signatures import input_of, named_by_path, require_params
from rnn_jax.layers import Model, require_model
from rnn_jax.machinery.checks import require_switch
from rnn_jax.types import Cell, Params, State, require_cell

__all__ = ["step_to_onnx", "to_onnx"]


def to_onnx(
    model: Model,
    params: Params,
    *,
    ids: bool | str | None = None,
    lengths: bool = False,
    initial_states: bool = False,
    input_shape: tuple[int, ...] | None = None,
) -> Any:
    """The ONNX model of a network, for any T and B from 1 on; ``onnx.save`` writes it into a file.

    A layer of ``vanilla``, ``gru``, ``gru_reset_before``, ``lstm``, ``peephole_lstm``, ``cifg_lstm`` or of a
    ``general_lstm`` without layer norm, projection and clips is one node RNN, GRU or LSTM, and so are the two
    directions of a bidirectional layer of them. Every other cell, one of your own too, becomes a ``Scan`` of its step.
    Readouts and input layers are nodes beside them.

    The file computes what the model computes. At padded steps the state is held; the node alone would write zeros.
    ONNX Runtime has the three nodes in float32 and float16 alone: cast params of float64 before they are exported for
    it. With a batch of no examples it ends the whole process. Lengths are from 0 to T, one for each example: ONNX
    Runtime refuses others where the file holds nodes, but not where it holds a ``Scan``, which takes more than T as T.

    Inputs are ``xs (T, B, I)``, or ids ``(T, B)``; ``lengths (B,)`` of int32; the state ``h_0``. Outputs are ``ys
    (T, B, O)`` and the last state ``h_T``. A state of several arrays has one tensor for each, with its path in the
    name: ``h_0.h`` and ``h_0.c`` of an LSTM, ``h_0.1.forward.h`` in a stack. Several heads are ``ys.policy`` and so on.

    Args:
        model: a cell or a layer.
        params: its weights, of float32, float64 or float16.
        ids: whether the input is ids: the type "int32" or "int64", or True for the first; by default where the model
            begins with an embedding. Ids without an embedding become one-hot vectors in front of a node. An id outside
            the vocabulary becomes NaN, as in JAX; but the nodes LSTM and GRU of ONNX Runtime make it a finite number.
        lengths: whether ``lengths`` is an input.
        initial_states: whether the state before the first step is an input; without it the file holds ``model.start``.
        input_shape: the shape of one example's input at one step, for a cell of your own that holds no ``W_xh``.

    Returns:
        An ``onnx.ModelProto``, which has passed ``onnx.checker``.

    Raises:
        ValueError: for params that are not those of the model, are of several types or of another one, another shape of
            the input than that of the weights, a layer of your own, a cell whose step has a primitive of JAX without a
            counterpart or computes with bfloat16, or where the package onnx is not installed.

    >>> from rnn_jax import bidirectional, lstm, readout
    >>> model = readout(bidirectional(lstm(3, 4), lstm(3, 4)), output_size=2)
    >>> file = to_onnx(model, model.init(jax.random.key(0)))
    >>> [node.op_type for node in file.graph.node if node.op_type in ("LSTM", "MatMul", "Add")]
    ['LSTM', 'MatMul', 'Add']
    >>> [output.name for output in file.graph.output]
    ['ys', 'h_T.forward.h', 'h_T.forward.c', 'h_T.backward.h', 'h_T.backward.c']

    Reference: ONNX. Operators LSTM, GRU, RNN and Scan. https://onnx.ai/onnx/operators/.
    """
    require_model("model", model)
    require_switch(lengths=lengths, initial_states=initial_states)
    graph, (T, B) = graph_of(model, params), export.symbolic_shape("T, B")
    xs = Tensor("xs", *input_of(params, ids, input_shape, (T, B)))
    graph.sizes.update({str(size): node(graph, "Shape", ["xs"], start=n, end=n + 1) for n, size in enumerate((T, B))})
    given = Tensor("lengths", (B,), np.dtype(np.int32)) if lengths else None
    one = jax.eval_shape(model.start, params)
    if initial_states:
        h_0: Any = jax.tree.map(Tensor, paths("h_0", one), jax.tree.map(lambda h: (B, *h.shape), one), types(one))
    else:
        h_0 = jax.tree.map(lambda h: array_tensor(np.asarray(h)[None]), model.start(params))
    ys, h_T = run_model(Setting(graph, T, B, given), model, params, narrowed(graph, xs), h_0)
    inputs = [xs, *([given] if given else []), *(tensors(h_0) if initial_states else [])]
    h_T = jax.tree.map(lambda a: broadcast_to(graph, a, (B, *a.shape[1:])), h_T, is_leaf=is_tensor)
    outputs = named_by_path("ys", ys, is_tensor) | named_by_path("h_T", h_T, is_tensor)
    return model_of(graph, inputs, outputs, f"{params_name(params)} of rnn_jax")


def step_to_onnx(
    cell: Cell, params: Params, *, ids: bool | str | None = None, input_shape: tuple[int, ...] | None = None
) -> Any:
    """The ONNX model of one step, for a device that reads one input at a time and keeps the state.

    It is made of elementary operators alone (MatMul, Sigmoid, Tanh, …), for every cell. Inputs are ``x (B, I)``, or ids
    ``(B,)``, and the state ``h_0``; outputs are ``y (B, O)`` and the state after the step, ``h_1``, with names as in
    ``to_onnx``.

    Args:
        cell: any cell, also a stack with a readout.
        params, ids, input_shape: as in ``to_onnx``.

    Returns:
        An ``onnx.ModelProto``, which has passed ``onnx.checker``.

    Raises:
        ValueError: as ``to_onnx``, and for a layer, which has no step.

    >>> from rnn_jax import lstm, readout
    >>> cell = readout(lstm(3, 4), output_size=2)
    >>> file = step_to_onnx(cell, cell.init(jax.random.key(0)))
    >>> [tensor.name for tensor in (*file.graph.input, *file.graph.output)]
    ['x', 'h_0.h', 'h_0.c', 'y', 'h_1.h', 'h_1.c']
    """
    require_cell("cell", cell)
    graph, (B,) = graph_of(cell, params), export.symbolic_shape("B")
    x = Tensor("x", *input_of(params, ids, input_shape, (B,)))
    graph.sizes["B"] = node(graph, "Shape", ["x"], start=0, end=1)
    one = jax.eval_shape(cell.start, params)
    h_0: Any = jax.tree.map(Tensor, paths("h_0", one), jax.tree.map(lambda h: (B, *h.shape), one), types(one))

    def step(h: State, x: Any) -> tuple[Any, State]:
        h = cell.step(params, h, x)
        return cell.output(params, h), h

    y, h_1 = nodes_of_function(graph, step, h_0, narrowed(graph, x))
    outputs = named_by_path("y", y, is_tensor) | named_by_path("h_1", h_1, is_tensor)
    return model_of(graph, [x, *tensors(h_0)], outputs, f"{params_name(params)} of rnn_jax, one step")


def graph_of(model: Model, params: Params) -> Graph:
    """A graph that holds params as constants with their paths as names."""
    require_params(model, params)
    require_types(params)
    graph = empty_graph()
    for name, array in named_by_path("params", params).items():
        constant(graph, array, name)
    return graph


def tensors(tree: Any) -> list[Tensor]:
    """The tensors of a pytree."""
    return jax.tree.leaves(tree, is_leaf=is_tensor)


def types(tree: Any) -> Any:
    """The types of arrays."""
    return jax.tree.map(lambda leaf: np.dtype(leaf.dtype), tree)


def paths(name: str, tree: Any) -> Any:
    """A pytree of the paths of its leaves, such as h_0.1.forward.h."""
    names = named_by_path(name, tree)
    return jax.tree.unflatten(jax.tree.structure(tree), names)


def narrowed(graph: Graph, xs: Tensor) -> Tensor:
    """Ids in the type that JAX has for them; those outside of it become others that are outside the vocabulary."""
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(xs.dtype))
    if dtype == xs.dtype or not jnp.issubdtype(dtype, jnp.integer):
        return xs
    bounds = [constant(graph, np.asarray(bound, xs.dtype)) for bound in (-1, np.iinfo(dtype).max)]
    inside = node(graph, "Min", [node(graph, "Max", [xs.what, bounds[0]]), bounds[1]])
    return Tensor(node(graph, "Cast", [inside], to=data_type(dtype)), xs.shape, dtype)
