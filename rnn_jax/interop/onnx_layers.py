"""Layers of a model as nodes of ONNX: native nodes where there are such, a Scan of the step for every other cell."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnn_jax.cells.activations import activation_named
from rnn_jax.cells.affine import affine, project_input, rows_or_product
from rnn_jax.interop.models import CELLS, FACTORY_OF_LAYERS, Part, call_of, options_of, simplified
from rnn_jax.interop.onnx_graphs import (
    Graph,
    Tensor,
    array_tensor,
    broadcast_to,
    constant,
    data_type,
    info,
    integers,
    is_known,
    is_tensor,
    named,
    node,
    onnx_package,
    subgraph,
)
from rnn_jax.interop.onnx_nodes import Native, function_attributes, native_of
from rnn_jax.interop.onnx_programs import nodes_of_function
from rnn_jax.layers import MERGES, BothWays, Model
from rnn_jax.machinery.checks import is_inside
from rnn_jax.machinery.sharding import where_leading
from rnn_jax.readouts import Head, ReadoutParams, linear_head
from rnn_jax.types import Cell, Params, State

__all__ = ["Setting", "run_model"]


class Setting(NamedTuple):
    """What all layers of a file share."""

    graph: Graph
    T: Any
    B: Any
    """Symbols."""
    lengths: Tensor | None
    """``(B,)``."""


def run_model(
    setting: Setting, model: Model, params: Params, x: Tensor, h: State, reverse: bool = False
) -> tuple[Any, State]:
    """The outputs ``(T, B, …)`` and the last state of a model, as tensors.

    Args:
        setting: the graph, and what all layers read.
        model, params: the model and its weights.
        x: its inputs ``(T, B, …)``.
        h: the state before the first step, tensors ``(B, …)``, or arrays ``(1, …)``.
        reverse: whether a cell reads from the last step to the first.
    """
    name, given = factory_of(model)
    graph = setting.graph
    if name == "readout":
        y, h_T = run_model(setting, given["model"], params.cell, x, h, reverse)
        return nodes_of_function(graph, head_of(given["output_size"], params), y), h_T
    if name in ("embedding", "dense_input"):
        x = nodes_of_function(graph, front_of(name, given, params), x)
        return run_model(setting, given["model"], params.cell, x, h, reverse)
    if name == "learned_start":
        return run_model(setting, given["cell"], params.cell, x, h, reverse)
    if name == "stack":
        last = []
        for each, p, h_0 in zip(given["models"], params, h, strict=True):
            x, h_T = run_model(setting, each, p, x, h_0, reverse)
            last.append(h_T)
        return x, tuple(last)
    if name == "bidirectional":
        return run_both_ways(setting, given, params, x, h)
    if name == FACTORY_OF_LAYERS.__name__:
        return run_model(setting, given["cell"], params, x, h, given["reverse"])
    if not isinstance(model, Cell):
        raise ValueError(
            f"model got {model!r}, a layer of your own; ONNX takes cells, bidirectional, stack and readout"
        )
    native = native_of_cell(name, given, params)
    if native is None:
        return run_scan(setting, model, params, x, h, reverse)
    Y, (h_T,) = run_native(setting, [native], x, [h], [reverse])
    return squeezed(graph, Y, 1), h_T


def factory_of(model: Model) -> tuple[str, dict[str, Any]]:
    """The name of the factory that made a model, and what it was given; an empty name for a model of your own."""
    try:
        make, given = call_of(model, "ONNX")
    except ValueError:
        return "", {}
    return make.__name__, given


def native_of_cell(name: str, given: dict[str, Any], params: Params) -> Native | None:
    """A cell as one direction of a native node, or None; name and arguments are those of its factory."""
    if name not in CELLS:
        return None
    return native_of(simplified(Part(name, options_of(CELLS[name], given), jax.tree.map(np.asarray, params))))


def head_of(output_size: Any, params: Any) -> Callable[[Any], Any]:
    """The function of a readout."""
    if isinstance(params, ReadoutParams):
        return lambda y: affine(y, params.W_hy, params.b_y)
    if isinstance(output_size, Head):
        return lambda y: output_size.apply(params.head, y)
    heads: Mapping[str, Any] = output_size
    made = {name: head if isinstance(head, Head) else linear_head(head) for name, head in heads.items()}
    return lambda y: {name: head.apply(params.head[name], y) for name, head in made.items()}


def front_of(name: str, given: dict[str, Any], params: Any) -> Callable[[Array], Array]:
    """The function of an input layer."""
    if name == "embedding":
        return lambda x: rows_or_product(x, params.E, "E")
    phi = activation_named(given["activation"])
    return lambda x: phi(project_input(x, params.W, params.b, "W"))


def run_both_ways(setting: Setting, given: dict[str, Any], params: Any, x: Tensor, h: Any) -> tuple[Any, BothWays]:
    """A bidirectional layer: one node where both cells are directions of it."""
    graph, cells, merge = setting.graph, (given["forward"], given["backward"]), given["merge"]
    natives = [native_of_cell(*factory_of(cell), p) for cell, p in zip(cells, params, strict=True)]
    if not one_node(natives):
        ways = zip(cells, params, h, (False, True), strict=True)
        (y, h_f), (y_back, h_b) = (run_model(setting, cell, p, x, h_0, back) for cell, p, h_0, back in ways)
        return nodes_of_function(graph, merge if callable(merge) else MERGES[merge], y, y_back), BothWays(h_f, h_b)
    Y, last = run_native(setting, natives, x, [*h], [False, True])
    T, _, B, H = Y.shape
    if merge == "concatenate":
        beside = node(graph, "Transpose", [Y.what], perm=[0, 2, 1, 3])
        y = Tensor(node(graph, "Reshape", [beside, integers(graph, 0, 0, 2 * H)]), (T, B, 2 * H), Y.dtype)
    elif merge == "sum":
        y = Tensor(node(graph, "ReduceSum", [Y.what, integers(graph, 1)], keepdims=0), (T, B, H), Y.dtype)
    else:
        ways = (
            Tensor(name, (T, 1, B, H), Y.dtype) for name in node(graph, "Split", [Y.what], 2, axis=1, num_outputs=2)
        )
        y = nodes_of_function(graph, merge, *(squeezed(graph, way, 1) for way in ways))
    return y, BothWays(*last)


def one_node(natives: Any) -> bool:
    """Whether two cells are the two directions of one node."""
    if None in natives:
        return False
    one, other = natives
    return (one.op, one.attributes, one.P is None) == (other.op, other.attributes, other.P is None)


def squeezed(graph: Graph, tensor: Tensor, axis: int) -> Tensor:
    """A tensor without an axis of size 1."""
    shape = tensor.shape[:axis] + tensor.shape[axis + 1 :]
    return Tensor(node(graph, "Squeeze", [named(graph, tensor), integers(graph, axis)]), shape, tensor.dtype)


def run_native(
    setting: Setting, natives: list[Any], x: Tensor, h: list[Any], reverse: list[bool]
) -> tuple[Tensor, list[Any]]:
    """The outputs ``(T, D, B, H)`` of a node, and the last state of each direction."""
    graph, first, D, H = setting.graph, natives[0], len(natives), natives[0].R.shape[1]
    x = one_hot(graph, x, first) if jnp.issubdtype(x.dtype, jnp.integer) else x
    functions = tuple(function for native in natives for function in native.functions)
    attributes = first.attributes | function_attributes(first.op, functions)
    attributes["direction"] = "bidirectional" if D == 2 else "reverse" if reverse[0] else "forward"
    weights = [constant(graph, np.stack([getattr(n, name) for n in natives]), name) for name in "WRB"]
    parts = [
        stacked_starts(setting, [*each])
        for each in zip(*(jax.tree.leaves(s, is_leaf=is_tensor) for s in h), strict=True)
    ]
    lengths = setting.lengths.what if setting.lengths else ""
    inputs = [named(graph, x), *weights, str(lengths), *("" if is_zero(a) else named(graph, a) for a in parts)]
    if first.P is not None:
        inputs += [constant(graph, np.stack([native.P for native in natives]), "P")]
    while not inputs[-1]:
        inputs.pop()
    names = node(graph, first.op, inputs, 1 + len(parts), **attributes)
    dtype = first.W.dtype
    Y = Tensor(names[0], (setting.T, D, setting.B, H), dtype)
    last = [Tensor(name, (D, setting.B, H), dtype) for name in names[1:]]
    if setting.lengths:
        Y, last = with_held_padding(setting, Y, last, parts, reverse)
    ways = [[a] if D == 1 else split_ways(graph, a) for a in last]
    ends = [[squeezed(graph, way, 0) for way in each] for each in ways]
    trees = [jax.tree.structure(s, is_leaf=is_tensor) for s in h]
    return Y, [jax.tree.unflatten(tree, [each[n] for each in ends]) for n, tree in enumerate(trees)]


def split_ways(graph: Graph, tensor: Tensor) -> list[Tensor]:
    """The two directions of a state ``(2, B, H)``, each ``(1, B, H)``."""
    names = node(graph, "Split", [tensor.what], 2, axis=0, num_outputs=2)
    return [Tensor(name, (1, *tensor.shape[1:]), tensor.dtype) for name in names]


def is_zero(tensor: Tensor) -> bool:
    """Whether a state before the first step is known to be 0."""
    return is_known(tensor) and not np.any(tensor.what)


def stacked_starts(setting: Setting, parts: list[Tensor]) -> Tensor:
    """A part of the state before the first step, of all directions, ``(D, B, H)``; ``(D, 1, H)`` where it is 0."""
    graph = setting.graph
    if all(map(is_known, parts)):
        stacked = array_tensor(np.stack([part.what for part in parts]))
        return stacked if is_zero(stacked) else broadcast_to(graph, stacked, (len(parts), setting.B, stacked.shape[2]))
    full = [broadcast_to(graph, part, (setting.B, part.shape[1])) for part in parts]
    names = [node(graph, "Unsqueeze", [named(graph, part), integers(graph, 0)]) for part in full]
    name = names[0] if len(names) == 1 else node(graph, "Concat", names, axis=0)
    return Tensor(name, (len(parts), *full[0].shape), full[0].dtype)


def with_held_padding(
    setting: Setting, Y: Tensor, last: list[Tensor], parts: list[Tensor], reverse: list[bool]
) -> tuple[Tensor, list[Tensor]]:
    """The outputs with the held state at padded steps, and last states with that before a sequence of no steps.

    A forward direction holds its last state, and a backward direction, which comes to the padding first, the state
    before all steps.
    """
    graph = setting.graph
    column = node(graph, "Unsqueeze", ["lengths", integers(graph, 0, 2)])
    some = node(graph, "Greater", [column, constant(graph, np.int32(0))])
    last = [
        a if is_zero(h) else a._replace(what=node(graph, "Where", [some, a.what, named(graph, h)]))
        for a, h in zip(last, parts, strict=True)
    ]
    start = constant(graph, np.zeros((), Y.dtype)) if is_zero(parts[0]) else named(graph, parts[0])
    hold = start if all(reverse) else last[0].what
    if len(reverse) == 2:
        forward = constant(graph, ~np.array(reverse)[:, None, None])
        hold = node(graph, "Where", [forward, hold, start])
    steps = [constant(graph, np.int32(0)), node(graph, "Squeeze", [graph.sizes["T"]]), constant(graph, np.int32(1))]
    steps[1] = node(graph, "Cast", [steps[1]], to=data_type(np.int32))
    t = node(graph, "Unsqueeze", [node(graph, "Range", steps), integers(graph, 1, 2, 3)])
    valid = node(graph, "Less", [t, column])
    return Y._replace(what=node(graph, "Where", [valid, Y.what, hold])), last


def one_hot(graph: Graph, ids: Tensor, native: Native) -> Tensor:
    """Ids as one-hot vectors of the type of the weights, of NaN for an id outside the vocabulary."""
    V, dtype = native.W.shape[1], native.W.dtype

    def vectors(ids: Array) -> Array:
        ones = (ids[..., None] == jnp.arange(V, dtype=ids.dtype).reshape(1, 1, V)).astype(dtype)
        return jnp.where(is_inside(ids, V)[..., None], ones, jnp.asarray(jnp.nan, dtype))

    return nodes_of_function(graph, vectors, ids)


def run_scan(setting: Setting, cell: Cell, params: Params, x: Tensor, h: State, reverse: bool) -> tuple[Any, State]:
    """The outputs and the last state of any cell: a Scan whose body is the program of its step."""
    graph, helper, lengths = setting.graph, onnx_package().helper, setting.lengths
    body = subgraph(graph)
    h = jax.tree.map(lambda a: broadcast_to(graph, a, (setting.B, *a.shape[1:])), h, is_leaf=is_tensor)
    number = next(graph.numbers)
    leaves, tree = jax.tree.flatten(h, is_leaf=is_tensor)
    states = [a._replace(what=f"state_{number}_{n}") for n, a in enumerate(leaves)]
    read = [Tensor(f"x_{number}", x.shape[1:], x.dtype)]
    given = [named(graph, x)]
    if lengths:
        steps = [constant(graph, np.int64(0)), node(graph, "Squeeze", [graph.sizes["T"]]), constant(graph, np.int64(1))]
        given += [node(graph, "Cast", [node(graph, "Range", steps)], to=data_type(np.int32))]
        read += [Tensor(f"t_{number}", (), np.dtype(np.int32))]

    def step(h: State, x: Array, *flags: Array) -> tuple[State, Any]:
        after = cell.step(params, h, x)
        if flags:
            t, lengths = flags
            after = where_leading(t < lengths, after, h)
        return after, cell.output(params, after)

    after, y = nodes_of_function(body, step, jax.tree.unflatten(tree, states), *read, *([lengths] if lengths else []))
    flat, y_tree = jax.tree.flatten(y, is_leaf=is_tensor)
    ends = jax.tree.leaves(after, is_leaf=is_tensor)
    results = [Tensor(node(body, "Identity", [named(body, a)]), a.shape, a.dtype) for a in (*ends, *flat)]
    inner = helper.make_graph(body.nodes, f"step_{number}", [*map(info, (*states, *read))], [*map(info, results)])
    directions = (
        {"scan_input_directions": [1] * len(read), "scan_output_directions": [1] * len(flat)} if reverse else {}
    )
    names = node(
        graph,
        "Scan",
        [*(named(graph, a) for a in leaves), *given],
        len(results),
        body=inner,
        num_scan_inputs=len(read),
        **directions,
    )
    names = [names] if isinstance(names, str) else names
    last = [a._replace(what=name) for a, name in zip(ends, names, strict=False)]
    ys = [Tensor(n, (setting.T, *a.shape), a.dtype) for a, n in zip(flat, names[len(ends) :], strict=True)]
    return jax.tree.unflatten(y_tree, ys), jax.tree.unflatten(tree, last)
