"""The two ends of a run of a file of ONNX: the embedding in front of its layers, the readout and the outputs behind."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from rnn_jax.interop.onnx_graphs import onnx_package
from rnn_jax.interop.onnx_runs import (
    RECURRENT,
    Layer,
    Plan,
    Run,
    above,
    between,
    changing,
    evaluate,
    misplaced,
    started,
)

__all__ = ["equals", "merges_of", "table_of", "top_of"]

SUMS = ("Add", "Sum", "ReduceSum")
"""Operators that add two directions."""

ON_IDS = frozenset(
    (
        *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not", "Where"),
        *("Max", "Min", "Add", "Sub", "Mul", "OneHot"),
    )
)
"""Operators that compute with each id alone, such as those of an embedding that gives NaN outside the vocabulary."""

PRODUCTS = ("MatMul", "Gemm")

KEEPING = frozenset(("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Gather"))
"""Operators that may stand beside them, because each position keeps its id."""


def equals(got: np.ndarray, wanted: np.ndarray, tolerance: float = 0.0) -> bool:
    """Whether an array holds the wanted numbers in their order, where these are not NaN.

    Args:
        got, wanted: the arrays.
        tolerance: relative to the largest number; 0 for numbers that are only moved.
    """
    if got.shape != wanted.shape or not np.issubdtype(got.dtype, np.floating):
        return False
    given = ~np.isnan(wanted)
    got, wanted = got[given].astype(float), wanted[given].astype(float)
    return bool(wanted.size) and bool(np.all(np.abs(got - wanted) <= tolerance * np.abs(wanted).max()))


def is_moved(got: np.ndarray, wanted: np.ndarray, tolerance: float = 0.0) -> bool:
    """Whether an array holds the wanted numbers with the axes in any order.

    Axes may have become one, as ``(T·B, O)``, where the last one stays the last.
    """
    if got.size != wanted.size:
        return False
    for order in itertools.permutations(range(wanted.ndim)):
        moved = wanted.transpose(order)
        whole, last = without_ones(got) == without_ones(moved), order[-1] == wanted.ndim - 1
        if (whole or (last and are_joined(without_ones(moved), without_ones(got)))) and equals(
            np.ravel(got), np.ravel(moved), tolerance
        ):
            return True
    return False


def without_ones(array: np.ndarray) -> list[int]:
    """The sizes of an array other than 1."""
    return [size for size in array.shape if size != 1]


def are_joined(sizes: list[int], wanted: list[int]) -> bool:
    """Whether neighbouring axes become the wanted ones.

    >>> are_joined([5, 3, 4], [15, 4]), are_joined([5, 3, 4], [3, 20])
    (True, False)
    """
    left = iter(sizes)
    for size in wanted:
        while size > 1:
            size, rest = divmod(size, next(left, size + 1))
            if rest or not size:
                return False
    return next(left, None) is None


def merges_of(Ys: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """What a layer gives to the layer above, by the merge of its directions."""
    together = np.concatenate(Ys, axis=-1)
    if len(Ys) == 1:
        return {"concatenate": together}
    return {"concatenate": together} | ({"sum": Ys[0] + Ys[1]} if Ys[0].shape == Ys[1].shape else {})


def table_of(run: Run) -> np.ndarray | None:
    """The embedding in front of the first layer; None for features, or ids as one-hot vectors."""
    first = next(each for each in run.file.graph.node if each.op_type in RECURRENT)
    wrong, x = misplaced(run, first.input[0], f"in front of {first.op_type}"), run.layers[0].x
    computed = [each.op_type for each in changing(run, first.input[0])]
    if not run.ids:
        if computed or not any(np.array_equal(x, given) for given in time_major(run)):
            raise wrong
        return None
    found, table = table_in(run, first, x)
    if not found or not {*computed} <= ON_IDS:
        raise wrong
    tables = [each for each in between(run, first.input[0]) if each.op_type == "Gather" and run.roots[each.input[1]]]
    if computed or len(tables) != 1 - (table is None):
        others = [each.op_type for each in between(run, first.input[0])]
        V = x.shape[-1] if table is None else len(table)
        if not {*others} <= ON_IDS | KEEPING or not is_right_for_every_id(run, first, V):
            raise wrong
    return table


def time_major(run: Run) -> list[np.ndarray]:
    """What the file was given, with either axis as that of time."""
    given = run.values[run.main]
    return [given, np.swapaxes(given, 0, 1)] if given.ndim > 1 else [given]


def table_in(run: Run, first: Any, x: np.ndarray) -> tuple[bool, np.ndarray | None]:
    """Whether x is the rows of a table or one-hot vectors of the ids; and the table."""
    ids, in_front = [given.astype(np.int64) for given in time_major(run)], above(first.input[0], run.makers)
    for each in run.file.graph.node:
        table = run.values[each.input[0]] if each.op_type == "Gather" and {*each.output} & in_front else np.zeros(0)
        if table.ndim == 2 and not run.roots[each.input[0]] and any(is_rows(x, table, given) for given in ids):
            return True, table
    ones = np.eye(x.shape[-1], dtype=x.dtype)
    return any(is_rows(x, ones, given) for given in ids), None


def is_rows(x: np.ndarray, table: np.ndarray, ids: np.ndarray) -> bool:
    """Whether x holds the rows of a table."""
    return bool(np.all(ids < len(table))) and np.array_equal(x, table[ids], equal_nan=True)


def is_right_for_every_id(run: Run, first: Any, V: int) -> bool:
    """Whether the first layer reads the row of each id of a vocabulary, in a run that gives all of them."""
    other = started(run.file, Plan(T=-(-V // 3), B=3, every_id=True))
    if np.unique(other.values[other.main]).size < V:
        return False
    for each in other.file.graph.node:
        if each.op_type in RECURRENT:
            break
        evaluate(other, each)
    x, layout = other.values[first.input[0]], [a.i for a in first.attribute if a.name == "layout"]
    return table_in(other, first, np.swapaxes(x, 0, 1) if layout == [1] else x)[0]


Readout = tuple[np.ndarray, np.ndarray]


def top_of(run: Run) -> tuple[str | None, Readout | None]:
    """The merge of the last layer, and the readout; a ValueError for outputs that are neither theirs nor states."""
    top, names = run.layers[-1], [each.name for each in run.file.graph.output]
    names.sort(key=lambda name: not any(maker.op_type in PRODUCTS for maker in between(run, name)))
    for merge, merged in merges_of(top.Ys).items():
        for name in names:
            found, head = readout_of(run, name, may_add=len(top.parts) == 2 and merge == "sum")
            if not found or (head is not None and head[0].shape[0] != merged.shape[-1]):
                continue
            if is_step(run, name, merge, head):
                require_states(run, [each for each in names if not is_step(run, each, merge, head)])
                return merge, head
    if not {*range(len(top.parts))} <= {d for name in names for d in directions_in(run, top, name)}:
        raise misplaced(run, names[0], f"in front of the output {names[0]!r}")
    require_states(run, names)
    return None, None


def is_step(run: Run, name: str, merge: str, head: Readout | None) -> bool:
    """Whether an output of a file is that of a model: every step, or the last one."""
    top, got = run.layers[-1], run.values[name]
    _, own = readout_of(run, name, may_add=len(top.parts) == 2 and merge == "sum")
    if (own is None) != (head is None) or (own and head and not all(map(np.array_equal, own, head))):
        return False
    y, ends = (applied(head, merges_of(tuple(Ys))[merge]) for Ys in (top.Ys, top.states[0]))
    tolerance = 0.0 if head is None else 64 * float(np.finfo(got.dtype).eps)
    if is_moved(got, y, tolerance) or is_moved(got, y[-1], tolerance):
        return True
    if head is None or not is_moved(got, ends, tolerance):
        return False
    if [part.reverse for part in top.parts] == [False]:  # the model holds the state at padded steps
        return True
    kind = "two directions" if len(top.parts) == 2 else "a reversed layer"
    raise ValueError(
        f"file got the output {name!r}, a readout of the last states of {kind}, which are no step of a model; want a "
        "readout of every step, as of return_sequences=True in Keras"
    )


def applied(head: Readout | None, y: np.ndarray) -> np.ndarray:
    """The output of a readout, in 64 bits."""
    return y if head is None else y.astype(float) @ head[0].astype(float) + head[1]


def readout_of(run: Run, name: str, *, may_add: bool) -> tuple[bool, Readout | None]:
    """Whether there is nothing but a readout in front of an output, or nothing; and its weights and bias.

    Args:
        run: of the file.
        name: of the output.
        may_add: whether two directions may be added in front of it.
    """
    computed = changing(run, name)
    products = [each for each in computed if each.op_type in PRODUCTS]
    biases = [each for each in computed if each.op_type == "Add" and not all(run.roots[n] for n in each.input)]
    sums = [each for each in computed if each.op_type in SUMS and each not in biases]
    if len(products) > 1 or len(biases) > len(products) or len(sums) > may_add:
        return False, None
    if len(computed) > len(products) + len(biases) + len(sums):
        return False, None
    if not products:
        return True, None
    head = weights_of(run, products[0], biases)
    return head is not None, head


def weights_of(run: Run, product: Any, biases: list[Any]) -> Readout | None:
    """The weights and the bias of a product and a sum behind it; None for another product."""
    given = {a.name: onnx_package().helper.get_attribute_value(a) for a in product.attribute}
    terms = [name for each in biases for name in each.input if not run.roots[name]] + [*product.input[2:]]
    W, first = run.values[product.input[1]], product.input[0]
    if run.roots[product.input[1]] or not run.roots[first] or W.ndim != 2 or len(terms) > 1:
        return None
    if given.get("transA") or given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1:
        return None
    if biases and product not in [*between(run, biases[0].output[0])]:
        return None
    W = W.T if given.get("transB") else W
    b = run.values[terms[0]].reshape(-1) if terms else np.zeros(W.shape[1], W.dtype)
    if any(run.roots[name] for name in terms) or b.size not in (1, W.shape[1]):
        return None
    finite = bool(np.all(np.isfinite(W)) and np.all(np.isfinite(b)))  # NaN would equal all numbers of the run
    return (W, np.ascontiguousarray(np.broadcast_to(b, W.shape[1:]))) if finite else None


def directions_in(run: Run, layer: Layer, name: str) -> list[int]:
    """The directions of a layer whose last states an output holds, or whose sequences."""
    if changing(run, name):
        return []
    got, every = run.values[name], [*range(len(layer.parts))]
    if any(is_moved(got, each) for each in wholes_in(run, layer)):
        return every
    return [d for d in every if is_moved(got, layer.states[0][d]) or is_moved(got, layer.Ys[d])]


def wholes_in(run: Run, layer: Layer) -> Iterator[np.ndarray]:
    """What outputs may hold of a layer, or of all layers: all directions of a state, or of the sequences."""
    for number, state in enumerate(layer.states):
        of_all = [other.states[number] for other in run.layers if number < len(other.states)]
        for ways in (state, [way for states in of_all for way in states]):
            if len({way.shape for way in ways}) == 1:
                yield np.stack([*ways])
    yield np.concatenate([*layer.states[0]], axis=-1)
    yield merges_of(layer.Ys)["concatenate"]
    if len({Y.shape for Y in layer.Ys}) == 1:
        yield np.stack([*layer.Ys], axis=1)


def require_states(run: Run, names: list[str]) -> None:
    """Raises a ValueError for an output that holds neither states nor sequences of layers, as they are."""
    for name in names:
        states = [state for layer in run.layers for state in layer.states]
        single = [way for state in states for way in state]
        right = any(directions_in(run, layer, name) for layer in run.layers)
        if not right and (changing(run, name) or not any(is_moved(run.values[name], way) for way in single)):
            raise misplaced(run, name, f"in front of the output {name!r}")
