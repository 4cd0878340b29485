"""Weights of Keras: of ``SimpleRNN``, ``GRU`` and ``LSTM``, in both directions, with an embedding and a readout.

A kernel of Keras has its gates along the last axis, i f c o or z r h. A GRU that resets after the product has a second
row in its bias, of which only the candidate's part acts differently.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnn_jax.cells import GRUParams, GRUResetBeforeParams, LSTMParams, VanillaParams
from rnn_jax.interop.keras_files import model_of_file
from rnn_jax.interop.keras_layers import Group, chain_of_model
from rnn_jax.interop.keras_paths import layers_of_groups
from rnn_jax.interop.models import Network, Part, gates_of, reordered
from rnn_jax.interop.named_layers import (
    Layers,
    Linear,
    given_order,
    linear_places,
    listed,
    model_of_layers,
    network_for,
    option_of_layers,
)
from rnn_jax.interop.weight_files import array_of, is_path, read_weights
from rnn_jax.layers import Model
from rnn_jax.machinery.checks import in_one_line
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
LEAVES = ("kernel", "recurrent_kernel", "bias", "embeddings")
DEFAULTS = {"activation": "tanh", "gate_activation": "sigmoid"}


def from_keras(
    source: Any,
    *,
    activation: str | Sequence[str] | None = None,
    gate_activation: str | Sequence[str] | None = None,
    merge: str | None = None,
    reset_after: bool | None = None,
    gates: str | None = None,
    layers: Sequence[str] | None = None,
    pairs: bool | None = None,
) -> tuple[Model, Params]:
    """The model and the params of a model of Keras, of a file of it, or of its weights by their paths.

    It may be an ``Embedding``, ``SimpleRNN``, ``GRU``, ``LSTM``, ``RNN`` of their cells, ``Bidirectional`` layers and a
    linear ``Dense`` layer, one after the other, in a ``Sequential`` or functional model. Dropout acts in training alone
    and is left out. Of a layer without ``return_sequences``, the output is ``model.output(params, h_T)``.

    Arrays have paths that end in ``kernel``, ``recurrent_kernel``, ``bias`` or ``embeddings``. Numbers in the paths
    tell the order of the layers, as in ``lstm`` and ``lstm_1``, or else the order in which they are given, unless they
    are sorted by name, as files and ``jax.tree.map`` sort them. Both directions of a ``Bidirectional`` layer have one
    path in front of ``forward_…`` and ``backward_…``.

    The two rows in the bias of a GRU that resets after the product become their sum, except for the candidate, whose
    second bias is ``b_n``; missing biases are zeros. Time leads, so ``xs`` and ``ys`` have two axes exchanged.

    Args:
        source: a live layer or model that is built, so that it has weights; the path of a ``.keras`` file, which Keras
            reads on the backend that the variable ``KERAS_BACKEND`` or its own settings name; the path of a safetensors
            file of arrays; or arrays by path, ``{w.path: w for w in model.weights}``. With G gates, H units and I
            inputs, a kernel is ``(I, G·H)``, a recurrent kernel ``(H, G·H)``, a bias ``(G·H,)``, or ``(2, G·H)`` in a
            GRU that resets after the product.
        activation, gate_activation: of the recurrent layers, names: one for all of them, or one for each layer from the
            bottom up. When None, those of a model, or of a file that ``write_weights`` wrote with these texts, else
            tanh and sigmoid.
        merge: ``"concatenate"`` or ``"sum"``, of bidirectional layers. When None, that of a model or of a text of the
            file, else ``"concatenate"``.
        reset_after: whether a GRU without biases resets after the product; with biases, their shape tells.
        gates: the order of the gates in the arrays, if it is not Keras's ``"ifco"`` or ``"zrh"``; c is also named g,
            and h is also named n.
        layers: the paths of the layers from the bottom up, without the names of arrays, where nothing tells their
            order; of a bidirectional layer, the path before ``forward_…``.
        pairs: whether the recurrent layers are forward and backward in turn, where names do not tell; ``layers`` has
            both of them then.

    Returns:
        A model such as ``readout(embedding(stack(…), V, E), O)``, with as much of this as there is, and its params, of
        the same type: ``W_xh (I, G·H)``, ``W_hh (H, G·H)``, ``b_h (G·H,)``, with the gates r z n or i f o g.

    Raises:
        ValueError: for names that are missing, not of such a model, or whose order is not clear; for shapes that do not
            fit; for a layer without a counterpart, such as a ``Dense`` with a softmax, a mask of ids, or
            ``go_backwards``; for an option that the model itself has, or an unknown one; for float64 without
            ``jax_enable_x64``; for a file that is none of Keras, names other classes, or is ``.h5``.

    >>> W = {"lstm/kernel": np.ones((3, 20)), "lstm/recurrent_kernel": np.ones((5, 20)), "lstm/bias": np.ones(20)}
    >>> model, params = from_keras(W)
    >>> model, params.W_xh.shape
    (lstm(input_size=3, hidden_size=5), (3, 20))

    Reference: Chollet and others. Keras. https://keras.io/api/layers/recurrent_layers/.
    """
    options = {"activation": activation, "gate_activation": gate_activation, "merge": merge}
    more = {"reset_after": reset_after, "gates": gates, "layers": layers, "pairs": pairs}
    if isinstance(source, Mapping):
        return model_of_arrays(source, options, **more)
    if is_path(source) and not str(source).endswith((".keras", ".h5", ".hdf5")):
        weights, texts = read_weights(source)
        for name, text in texts.items():
            if name in options and options[name] is not None:
                raise ValueError(f"{name} got {in_one_line(options[name])}; want None: the file has its own")
            if name in options:
                options[name] = text.split(",") if "," in text else text
        return model_of_arrays(weights, options, **more)
    for name, value in (options | more).items():
        if value is not None:
            raise ValueError(f"{name} got {in_one_line(value)}; want None: a model of Keras has its own")
    chain = chain_of_model(model_of_file(source) if is_path(source) else source)
    kinds = [kind_of(group) for group, *_ in chain.layers]
    wanted = [kind for kind in ("embedding", "dense") if kind in kinds]
    inner = kinds[kinds[:1] == ["embedding"] : len(kinds) - (kinds[-1:] == ["dense"])]
    if not inner or {*inner} != {"recurrent"} or len(wanted) + len(inner) < len(kinds):
        got = ", ".join(kinds) or "none"
        raise ValueError(f"source got the layers {got}; want recurrent ones, an embedding first and a dense one last")
    found = {kind: chain.layers[-(kind == "dense")][0] for kind in wanted}
    layers_found = [layer for layer, kind in zip(chain.layers, kinds, strict=True) if kind == "recurrent"]
    return model_of_groups([(layer[0].path, layer) for layer in layers_found], found, chain.merge)


def model_of_arrays(
    weights: Mapping[Any, Any],
    options: Mapping[str, Any],
    reset_after: bool | None,
    gates: str | None,
    layers: Sequence[str] | None,
    pairs: bool | None,
) -> tuple[Model, Params]:
    """``from_keras`` of arrays by path."""
    if not all(isinstance(path, str) for path in weights):
        raise ValueError(f"source got {listed(map(repr, weights))} as paths; want texts, such as lstm/lstm_cell/kernel")
    groups: dict[str, Group] = {}
    for path, value in weights.items():
        above, _, leaf = path.removesuffix(":0").rpartition("/")
        if leaf not in LEAVES:
            raise ValueError(f"source got {path}; want paths that end in {', '.join(LEAVES)}")
        groups.setdefault(above, Group(above, {}, {})).arrays[leaf] = array_of(path, value)
    kinds = {path: kind_of(group) for path, group in groups.items()}
    recurrent = {path: group for path, group in groups.items() if kinds[path] == "recurrent"}
    order = [*groups] if given_order(weights) else None
    ordered = layers_of_groups(recurrent, order, layers, pairs)
    values = {name: option_of_layers(name, options[name], len(ordered), usual) for name, usual in DEFAULTS.items()}
    require_needed(options, [group for _, layer in ordered for group in layer])
    whole = [
        (path, tuple(group._replace(options={name: values[name][n] for name in DEFAULTS} | {"reset_after": reset_after})
                     for group in layer))
        for n, (path, layer) in enumerate(ordered)
    ]  # fmt: skip
    linear = {path: linear_of(groups[path], kind) for path, kind in kinds.items() if kind != "recurrent"}
    sizes = whole[0][1][0].arrays["kernel"].shape[0], outputs_of(whole[-1][1], options["merge"])
    place = linear_places("source", linear, [*recurrent], sizes, order)
    around = {{"readout": "dense"}.get(kind, kind): groups[path] for kind, path in place.items()}
    return model_of_groups(whole, around, options["merge"] or "concatenate", gates)


def require_needed(options: Mapping[str, Any], groups: list[Group]) -> None:
    """Raises a ValueError for an option that no layer has."""
    if options["gate_activation"] is not None and all(gates_in(group) == 1 for group in groups):
        got = in_one_line(options["gate_activation"])
        raise ValueError(f"gate_activation got {got}; want None: the source has no GRU or LSTM")


def gates_in(group: Group) -> int:
    """The number of gates of a recurrent group, whose kernels have two axes and at least one unit."""
    for name in ("kernel", "recurrent_kernel"):
        if group.arrays[name].ndim != 2 or not group.arrays[name].size:
            shape = list(group.arrays[name].shape)
            raise ValueError(f"{group.path}/{name} got {shape}; want two axes and at least one unit")
    H, GH = group.arrays["recurrent_kernel"].shape
    if GH not in (H, 3 * H, 4 * H):
        where = f"{group.path}/recurrent_kernel"
        raise ValueError(f"{where} got {[H, GH]}; want 1, 3 or 4 times {H} columns: SimpleRNN, GRU, LSTM")
    return GH // H


def outputs_of(layer: tuple[Group, ...], merge: str | None) -> int:
    """The number of outputs of a layer."""
    widths = [len(group.arrays["recurrent_kernel"]) for group in layer]
    return widths[0] if merge == "sum" else sum(widths)


def linear_of(group: Group, kind: str) -> Linear:
    """An embedding or a dense layer, of which the kernel has its outputs along the last axis."""
    if kind == "embedding":
        return Linear(checked_arrays(group, {"embeddings": 2})["embeddings"], None, "embedding")
    arrays = checked_arrays(group, {"kernel": 2, "bias": 1})
    return Linear(arrays["kernel"].T, arrays.get("bias"), "linear")


def model_of_groups(
    layers: list[tuple[str, tuple[Group, ...]]], around: Mapping[str, Group], merge: str, gates: str | None = None
) -> tuple[Model, Params]:
    """The model and the params of recurrent layers from the bottom up, with an embedding and a dense layer."""
    recurrent = [
        (f"{path}/kernel", tuple(part_of(group, gates)._replace(reverse=n > 0) for n, group in enumerate(layer)))
        for path, layer in layers
    ]
    embedding = readout = None
    if "embedding" in around:
        group = around["embedding"]
        embedding = f"{group.path}/embeddings", checked_arrays(group, {"embeddings": 2})["embeddings"]
    if "dense" in around:
        found = checked_arrays(around["dense"], {"kernel": 2, "bias": 1})
        W = found["kernel"]
        readout = f"{around['dense'].path}/kernel", (W, found.get("bias", np.zeros(W.shape[1], W.dtype)))
    return model_of_layers("source", Layers(recurrent, embedding, readout), merge)


def kind_of(group: Group) -> str:
    """What a group is, by the names of its arrays."""
    names = {*group.arrays} - {"bias"}
    kinds = {("kernel", "recurrent_kernel"): "recurrent", ("kernel",): "dense", ("embeddings",): "embedding"}
    kind = kinds.get(tuple(sorted(names)))
    if kind is None:
        wanted = "kernel and recurrent_kernel, kernel, or embeddings"
        raise ValueError(f"{group.path or 'source'} got {', '.join(sorted(group.arrays))}; want {wanted}")
    return kind


def checked_arrays(group: Group, axes: dict[str, int]) -> dict[str, np.ndarray]:
    """The arrays of a group, each with its number of axes and columns as the kernel has."""
    for name, array in group.arrays.items():
        if array.ndim != axes.get(name, array.ndim):
            raise ValueError(f"{group.path}/{name} got {list(array.shape)}; want {axes[name]} axes")
        columns = group.arrays.get("kernel", array).shape[-1:]
        if array.shape[-1:] != columns:
            raise ValueError(f"{group.path}/{name} got {list(array.shape)}; want {columns[0]} columns")
    return group.arrays


def part_of(group: Group, gates: str | None) -> Part:
    """The cell of a group."""
    G, arrays = gates_in(group), checked_arrays(group, {})
    H, GH = arrays["recurrent_kernel"].shape
    bias = arrays.get("bias")
    after = group.options["reset_after"] is not False if bias is None else bias.ndim == 2
    wanted = (GH,) if G != 3 or not after else (2, GH)
    bias = np.zeros(wanted, arrays["kernel"].dtype) if bias is None else bias
    if bias.shape != wanted:
        raise ValueError(f"{group.path}/bias got {list(bias.shape)}; want {list(wanted)}")
    theirs, ours = ORDERS[G]
    order = theirs if gates is None else gates
    plain = order.replace("c", "g").replace("h", "n") if isinstance(order, str) else ""  # c and h are Keras's words
    order = plain if sorted(plain) == sorted(theirs) else order
    blocks: Any = [reordered(a, order, ours) for a in (arrays["kernel"], arrays["recurrent_kernel"], bias)]
    W_xh, W_hh, b = blocks
    names = ["activation"] if G == 1 else [*DEFAULTS]
    options = {name: group.options[name] for name in names if group.options[name] != DEFAULTS[name]}
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
    """The weights of Keras of a model by their paths, in the order of ``model.weights`` of Keras.

    The paths are those of a ``Sequential`` model without its own name: ``lstm/lstm_cell/kernel``, then
    ``lstm_1/lstm_cell/kernel``; ``bidirectional/forward_lstm/lstm_cell/kernel``; ``layer_0``, ``layer_1``, … where the
    layers are of several kinds; ``embedding/embeddings``, ``readout/kernel`` and ``readout/bias``. ``keras_model``
    makes that model; your own of the same layers takes the weights by
    ``model.set_weights([*to_keras(ours, params).values()])``.

    Where Keras has two biases they are (b, 0), and (b, b_n) in the candidate of a GRU. A ``cifg_lstm`` becomes
    an LSTM with the negated weights of the forget gate in its input gate: equal outputs, but training no longer couples
    them. Activations, and how both directions are merged, are not in the weights.

    Args:
        model: of ``vanilla``, ``gru``, ``gru_reset_before``, ``lstm`` or ``cifg_lstm`` cells with activations by name,
            their stacks, ``bidirectional`` layers, with a linear ``readout`` and an ``embedding``.
        params: its params.

    Returns:
        Arrays of NumPy by path, of the type of the params: ``kernel (I, G·H)``, ``recurrent_kernel (H, G·H)`` and
        ``bias (G·H,)`` with the G gates z r h or i f c o, ``(2, G·H)`` of a GRU that resets after the product,
        ``embeddings (V, E)``, of the readout ``kernel (H, O)`` and ``bias (O,)``.

    Raises:
        ValueError: for a part that Keras does not have, with the reason; for params that are not those of the model.

    >>> import jax
    >>> from rnn_jax import gru, readout
    >>> model = readout(gru(3, 5), 2)
    >>> {path: W.shape for path, W in to_keras(model, model.init(jax.random.key(0))).items()}
    {'gru/gru_cell/kernel': (3, 15), 'gru/gru_cell/recurrent_kernel': (5, 15), 'gru/gru_cell/bias': (2, 15),
     'readout/kernel': (5, 2), 'readout/bias': (2,)}

    Reference: Chollet and others. Keras. https://keras.io/api/layers/recurrent_layers/.
    """
    network = checked_network(model, params)
    named: dict[str, np.ndarray] = {} if network.embedding is None else {"embedding/embeddings": network.embedding}
    for above, layer in zip(names_of_layers(network), network.layers, strict=True):
        for part, direction in zip(layer, ("forward_", "backward_"), strict=False):
            kind = KINDS[part.name][1]
            inner = f"{direction}{kind}/" if len(layer) == 2 else ""
            named |= {f"{above}/{inner}{kind}_cell/{name}": W for name, W in arrays_of_part(part).items()}
    if network.readout is not None:
        named |= {"readout/kernel": network.readout[0], "readout/bias": network.readout[1]}
    return {path: np.array(W, order="C") for path, W in named.items()}


def names_of_layers(network: Network) -> list[str]:
    """The names of the recurrent layers from the bottom up: those of Keras where they tell the order."""
    kinds = ["bidirectional" if len(layer) == 2 else KINDS[layer[0].name][1] for layer in network.layers]
    if len({*kinds}) > 1:
        return [f"layer_{number}" for number in range(len(kinds))]
    return [f"{kind}_{number}" if number else kind for number, kind in enumerate(kinds)]


def checked_network(model: Model, params: Params) -> Network:
    """The network of a model, with cells that Keras has; a ValueError for others."""
    network = network_for("Keras", model, params, KINDS, {}, both_ways=True)
    for layer in network.layers:
        widths = [len(part.params.W_hh) for part in layer]
        if len({*widths}) > 1:
            raise ValueError(f"model got {widths} units in two directions; want equal numbers, as Keras has")
        for part in layer:
            require_part(part)
    return network


def require_part(part: Part) -> None:
    """Raises a ValueError unless Keras has the options of a cell, with the reason."""
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
