"""Weights of Keras: of ``SimpleRNN``, ``GRU`` and ``LSTM``, in both directions, with an embedding and a readout.

A kernel of Keras has its gates along the last axis, i f c o or z r h. A GRU that resets after the product has a second
row in its bias, of which only the candidate's part acts differently.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike

from rnn_jax.cells import GRUParams, GRUResetBeforeParams, LSTMParams, VanillaParams
from rnn_jax.interop.models import Network, Part, gates_of, put_together, reordered, taken_apart, uncoupled
from rnn_jax.interop.weight_files import array_of
from rnn_jax.layers import Model
from rnn_jax.types import Params

__all__ = ["from_keras", "to_keras"]

ORDERS = {1: ("n", "n"), 3: ("zrn", "rzn"), 4: ("ifgo", "ifog")}
"""Order of the gates, theirs and ours, by their number."""
KINDS = {
    "vanilla": ("SimpleRNN", "simple_rnn"),
    "gru": ("GRU", "gru"),
    "gru_reset_before": ("GRU", "gru"),
    "lstm": ("LSTM", "lstm"),
}
"""Their layer of a cell, and its name in a path."""
MISSING = {
    "projected_lstm": "want lstm: that of Keras has no projection",
    "peephole_lstm": "want lstm: that of Keras has no peepholes",
    "clipped_lstm": "want lstm: that of Keras clips nothing",
    "general_lstm": "want lstm: that of Keras has no other option",
}
"""Why a cell has no place in Keras."""
LEAVES = ("kernel", "recurrent_kernel", "bias", "embeddings")


class Group(NamedTuple):
    """The arrays of one part of Keras."""

    path: str
    """Of the part: that of its arrays without their last name."""
    arrays: dict[str, np.ndarray]
    """By their last name, such as ``kernel``."""
    options: dict[str, Any]
    """``activation``, ``gate_activation`` and ``reset_after``, as far as they are known."""


def from_keras(
    weights: Mapping[str, ArrayLike],
    *,
    activation: str = "tanh",
    gate_activation: str = "sigmoid",
    merge: str = "concatenate",
    reset_after: bool = True,
    gates: str | None = None,
) -> tuple[Model, Params]:
    """The model and the params of weights of Keras by their paths, ``{w.path: w for w in model.weights}``.

    The last part of a path is the name of an array: ``kernel``, ``recurrent_kernel``, ``bias`` or ``embeddings``. The
    order is that of Keras, from the bottom up. An ``Embedding`` may come first and a ``Dense`` layer last. The two rows
    in the bias of a GRU that resets after the product become their sum, except for the candidate, whose second bias is
    ``b_n``; missing biases are zeros. Time leads, so ``xs`` and ``ys`` have two axes exchanged. Of a layer without
    ``return_sequences``, the output is ``model.output(params, h_T)``. ``from_keras_model`` reads live models and files,
    whose activations it knows. float64 needs ``jax_enable_x64``, as everywhere in JAX.

    Args:
        weights: arrays, or variables of Keras.
        activation, gate_activation: those of all recurrent layers, which arrays do not tell; names.
        merge: ``"concatenate"`` or ``"sum"``, of bidirectional layers.
        reset_after: whether a GRU without biases resets after the product; with biases, their shape tells.
        gates: the order of the gates in the arrays, if it is not Keras's ``"ifgo"`` (its c is g) or ``"zrn"`` (its h is
            n).

    Returns:
        A model such as ``readout(embedding(stack(…), V, E), O)``, with as much of this as there is, and its params.

    Raises:
        ValueError: for names that are missing or not of such a model, shapes that do not fit, an unknown order of
            gates, or an unknown activation.

    >>> W = {"lstm/kernel": np.ones((3, 20)), "lstm/recurrent_kernel": np.ones((5, 20)), "lstm/bias": np.ones(20)}
    >>> from_keras(W)[0]
    lstm(input_size=3, hidden_size=5)
    """
    options = {"activation": activation, "gate_activation": gate_activation, "reset_after": reset_after}
    groups: dict[str, Group] = {}
    for path, value in weights.items():
        above, _, leaf = path.removesuffix(":0").rpartition("/")
        if leaf not in LEAVES:
            raise ValueError(f"weights got {path}; want paths that end in {', '.join(LEAVES)}")
        groups.setdefault(above, Group(above, {}, options)).arrays[leaf] = array_of(path, value)
    return model_of_groups(paired([*groups.values()]), merge, gates)


def paired(groups: list[Group]) -> list[tuple[Group, ...]]:
    """The groups of each layer: two of a bidirectional one, which share the path before ``forward_…``."""
    layers, waiting = [], groups
    while waiting:
        group, *waiting = waiting
        forward = re.match(r"((?:.*/)?)forward_", group.path)
        if forward is None:
            layers.append((group,))
        elif not waiting or not waiting[0].path.startswith(forward[1]):
            raise ValueError(f"weights got {group.path} alone; want its other direction right behind it")
        else:
            backward, *waiting = waiting
            layers.append((group, backward))
    return layers


def model_of_groups(layers: list[tuple[Group, ...]], merge: str, gates: str | None = None) -> tuple[Model, Params]:
    """The model and the params of layers of Keras, from the bottom up."""
    types = sorted({str(array.dtype) for layer in layers for group in layer for array in group.arrays.values()})
    if len(types) > 1:
        raise ValueError(f"weights got {' and '.join(types)}; want one floating type")
    if merge not in ("concatenate", "sum"):
        raise ValueError(f"merge got {merge!r}; want 'concatenate' or 'sum'")
    embedding = readout = None
    kinds = [kind_of(group) for group, *_ in layers]
    if kinds and kinds[0] == "embedding":
        embedding, layers, kinds = checked_arrays(layers[0][0], {"embeddings": 2})["embeddings"], layers[1:], kinds[1:]
    if kinds and kinds[-1] == "dense":
        found, layers, kinds = checked_arrays(layers[-1][0], {"kernel": 2, "bias": 1}), layers[:-1], kinds[:-1]
        W = found["kernel"]
        readout = W, found.get("bias", np.zeros(W.shape[1], W.dtype))
    if not kinds or {*kinds} != {"recurrent"}:
        got = ", ".join(kinds) or "none"
        raise ValueError(f"weights got the layers {got}; want recurrent ones, an embedding first and a dense one last")
    parts = [
        tuple(part_of(group, gates)._replace(reverse=number > 0) for number, group in enumerate(layer))
        for layer in layers
    ]
    require_fit(layers, parts, merge, embedding, readout)
    return put_together(Network(tuple(parts), merge, embedding, readout))


def require_fit(layers: list[Any], parts: list[Any], merge: str, embedding: Any, readout: Any) -> None:
    """Raises a ValueError unless each layer reads as many numbers as the one below it has."""
    sizes = [
        (f"{layer[0].path}/kernel", part[0].params.W_xh.shape[0]) for layer, part in zip(layers, parts, strict=True)
    ]
    widths = [[part.params.W_hh.shape[0] for part in layer] for layer in parts]
    below = [width[0] if merge == "sum" else sum(width) for width in widths]
    if readout is not None:
        sizes.append(("kernel of the dense layer", readout[0].shape[0]))
    pairs = [*zip(sizes[1:], below, strict=False)]
    if embedding is not None:
        pairs.append((sizes[0], embedding.shape[1]))
    for (name, size), width in pairs:
        if size != width:
            raise ValueError(f"{name} got {size} rows; want {width}, outputs of the layer below")
    for group, width in zip(layers, widths, strict=True):
        if merge == "sum" and len({*width}) > 1:
            raise ValueError(
                f"{group[0].path} got {width} units in its directions; want equal numbers, as they are added"
            )


def kind_of(group: Group) -> str:
    """What a group is, by the names of its arrays."""
    names = {*group.arrays} - {"bias"}
    kinds = {("kernel", "recurrent_kernel"): "recurrent", ("kernel",): "dense", ("embeddings",): "embedding"}
    kind = kinds.get(tuple(sorted(names)))
    if kind is None:
        wanted = "kernel and recurrent_kernel, kernel, or embeddings"
        raise ValueError(f"{group.path} got {', '.join(sorted(group.arrays))}; want {wanted}")
    return kind


def checked_arrays(group: Group, axes: dict[str, int]) -> dict[str, np.ndarray]:
    """The arrays of a group, each with its number of axes and columns as the kernel has."""
    for name, array in group.arrays.items():
        if array.ndim != axes.get(name, array.ndim):
            raise ValueError(f"{group.path}/{name} got {list(array.shape)}; want {axes[name]} axes")
        columns = group.arrays.get("kernel", array).shape[-1]
        if array.shape[-1] != columns:
            raise ValueError(f"{group.path}/{name} got {list(array.shape)}; want {columns} columns")
    return group.arrays


def part_of(group: Group, gates: str | None) -> Part:
    """The cell of a group."""
    arrays = checked_arrays(group, {"kernel": 2, "recurrent_kernel": 2})
    H, GH = arrays["recurrent_kernel"].shape
    if GH not in (H, 3 * H, 4 * H):
        raise ValueError(
            f"{group.path}/recurrent_kernel got {[H, GH]}; want 1, 3 or 4 times {H} columns: RNN, GRU, LSTM"
        )
    bias = arrays.get("bias")
    G, after = GH // H, bool(group.options["reset_after"]) if bias is None else bias.ndim == 2
    wanted = (GH,) if G != 3 or not after else (2, GH)
    bias = np.zeros(wanted, arrays["kernel"].dtype) if bias is None else bias
    if bias.shape != wanted:
        raise ValueError(f"{group.path}/bias got {list(bias.shape)}; want {list(wanted)}")
    theirs, ours = ORDERS[G]
    blocks: Any = [reordered(a, gates or theirs, ours) for a in (arrays["kernel"], arrays["recurrent_kernel"], bias)]
    W_xh, W_hh, b = blocks
    defaults = {"activation": "tanh"} | ({} if G == 1 else {"gate_activation": "sigmoid"})
    options = {name: group.options[name] for name, default in defaults.items() if group.options[name] != default}
    if G == 3 and after:
        b_h: Any = np.concatenate([b[0, : 2 * H] + b[1, : 2 * H], b[0, 2 * H :]])
        return Part("gru", options, GRUParams(W_xh, W_hh, b_h, b[1, 2 * H :]))
    name, params = {
        1: ("vanilla", VanillaParams),
        3: ("gru_reset_before", GRUResetBeforeParams),
        4: ("lstm", LSTMParams),
    }[G]
    return Part(name, options, params(W_xh, W_hh, b))


def to_keras(model: Model, params: Params) -> dict[str, np.ndarray]:
    """The weights of Keras of a model by their paths, with arrays of NumPy.

    They have the order of ``get_weights`` of a ``Sequential`` of an ``Embedding``, one recurrent layer for each layer,
    and a ``Dense`` layer, as far as the model has them. ``keras_model`` makes it; your own, or one layer, takes them by

        model.set_weights([*to_keras(model, params).values()])

    The second bias of a GRU that resets after the product is 0, and ``b_n`` in its candidate. A ``cifg_lstm`` becomes
    an LSTM with the negated weights of the forget gate in its input gate: equal outputs, but training no longer couples
    them. Activations, and how both directions are merged, are not in the weights.

    Args:
        model: of ``vanilla``, ``gru``, ``gru_reset_before``, ``lstm`` or ``cifg_lstm`` cells with activations by name,
            their stacks, ``bidirectional`` layers, with a linear ``readout`` and an ``embedding``.
        params: its params.

    Raises:
        ValueError: for a part that Keras does not have, with the reason; for params that are not those of the model.

    >>> import jax
    >>> from rnn_jax import gru, readout
    >>> model = readout(gru(3, 5), 2)
    >>> {path: W.shape for path, W in to_keras(model, model.init(jax.random.key(0))).items()}
    {'gru/gru_cell/kernel': (3, 15), 'gru/gru_cell/recurrent_kernel': (5, 15), 'gru/gru_cell/bias': (2, 15),
     'dense/kernel': (5, 2), 'dense/bias': (2,)}
    """
    network = checked_network(model, params)
    named: dict[str, np.ndarray] = {} if network.embedding is None else {"embedding/embeddings": network.embedding}
    numbers: dict[str, Any] = {}
    for layer in network.layers:
        kinds = [KINDS[part.name][1] for part in layer]
        above = numbered("bidirectional", numbers) + "/" if len(layer) == 2 else ""
        directions = ("forward_", "backward_") if above else ("",)
        for part, kind, direction in zip(layer, kinds, directions, strict=True):
            path = f"{above}{direction}{numbered(f'{above}{kind}', numbers).removeprefix(above)}/{kind}_cell"
            named |= {f"{path}/{name}": W for name, W in arrays_of_part(part).items()}
    if network.readout is not None:
        named |= {"dense/kernel": network.readout[0], "dense/bias": network.readout[1]}
    return {path: np.array(W, order="C") for path, W in named.items()}


def numbered(name: str, numbers: dict[str, Any]) -> str:
    """A name as Keras makes it: ``lstm``, then ``lstm_1``."""
    count = numbers.setdefault(name, itertools.count())
    number = next(count)
    return f"{name}_{number}" if number else name


def checked_network(model: Model, params: Params) -> Network:
    """The network of a model, with cells that Keras has; a ValueError for others."""
    network = taken_apart(model, params, "Keras")
    layers = tuple(tuple(uncoupled(part) for part in layer) for layer in network.layers)
    for layer in layers:
        if len(layer) == 1 and layer[0].reverse:
            raise ValueError(
                "model got a layer that only reads backward; want bidirectional: Keras reverses its outputs"
            )
        for part in layer:
            require_part(part)
    return network._replace(layers=layers)


def require_part(part: Part) -> None:
    """Raises a ValueError unless Keras has a cell, with the reason."""
    if part.name not in KINDS:
        raise ValueError(f"model got {part.name}; {MISSING[part.name]}")
    for name, value in part.options.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} got {value!r}; want the name of an activation, for Keras")
    phi = part.options.get("activation", "tanh")
    if part.options.get("memory_activation", phi) != phi:
        raise ValueError(f"memory_activation got {part.options['memory_activation']!r}; want {phi!r}, as Keras has one")


def arrays_of_part(part: Part) -> dict[str, np.ndarray]:
    """The arrays of Keras of a cell, by their last names."""
    p = part.params
    theirs, ours = ORDERS[gates_of(part)]
    kernel, recurrent_kernel, bias = (reordered(W, ours, theirs) for W in (p.W_xh, p.W_hh, p.b_h))
    if part.name == "gru":
        second = np.zeros_like(bias)
        second[-p.b_n.size :] = p.b_n
        bias = np.stack([bias, second])
    return {"kernel": kernel, "recurrent_kernel": recurrent_kernel, "bias": bias}
