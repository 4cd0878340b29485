"""Weights of PyTorch: state dicts of ``nn.RNN``, ``nn.GRU`` and ``nn.LSTM``, alone or with an embedding and a readout.

One layer of PyTorch has a matrix with its gates along the first axis, i f g o or r z n, and two biases, of which only
the candidate's of a GRU act differently.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from rnn_jax.cells import GRUParams, LSTMParams, ProjectedLSTMParams, VanillaParams
from rnn_jax.interop.adapters import library
from rnn_jax.interop.models import Network, Part, gates_of, reordered
from rnn_jax.interop.named_layers import (
    Layers,
    Linear,
    given_order,
    linear_places,
    listed,
    model_of_layers,
    network_for,
    numbered,
    option_of_layers,
    ordered_paths,
)
from rnn_jax.interop.weight_files import array_of, is_path, read_weights
from rnn_jax.layers import Model
from rnn_jax.machinery.checks import in_one_line
from rnn_jax.types import Params

__all__ = ["from_torch", "to_torch"]

NAME = re.compile(r"((?:.+\.)?)(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)((?:_l\d+(?:_reverse)?)?)")
"""A name of a recurrent module: its prefix, what it is, and its layer and direction, which a cell has not."""
ORDERS = {1: ("n", "n"), 3: ("rzn", "rzn"), 4: ("ifgo", "ifog")}
"""Order of the gates, theirs and ours, by their number."""
KINDS = {"vanilla": "RNN", "gru": "GRU", "lstm": "LSTM", "projected_lstm": "LSTM"}
MISSING = {
    "gru_reset_before": "want gru: the GRU of PyTorch resets after the recurrent product",
    "general_lstm": "want lstm or projected_lstm: that of PyTorch has no other option",
}
"""Why a cell has no place in PyTorch, beside the usual reasons."""


class Direction(NamedTuple):
    """The arrays of one direction of one layer, with the names of PyTorch; G gates."""

    weight_ih: Float[np.ndarray, "GH I"]
    weight_hh: Float[np.ndarray, "GH P"]
    bias_ih: Float[np.ndarray, " GH"]
    bias_hh: Float[np.ndarray, " GH"]
    weight_hr: Float[np.ndarray, "P H"] | None = None


def from_torch(
    source: Any,
    *,
    activation: str | Sequence[str] | None = None,
    gates: str | None = None,
    layers: Sequence[str] | None = None,
) -> tuple[Model, Params]:
    """The model and the params of a module of PyTorch, of its state dict, or of a file of it.

    The recurrent module may have any name: an ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM`` of any layers and directions, a
    cell such as ``nn.LSTMCell``, or several modules with numbers, such as ``lstm1`` and ``lstm2`` or ``blocks.0.rnn``
    and ``blocks.1.rnn``, from the bottom up. Beside it may be an ``nn.Embedding`` in front and an ``nn.Linear`` behind;
    they are recognised by their shapes, by numbers, by the order of the state dict, and by names such as ``embedding``,
    ``readout`` and ``fc``. What ``forward`` computes between them is not read: parallel modules become a stack.

    The two biases become their sum, except for the candidate of a GRU, whose second bias is ``b_n``; missing biases are
    zeros. Time leads, so a module with ``batch_first=True`` needs ``xs`` and ``ys`` with two axes exchanged.

    Args:
        source: a live module; its state dict, of tensors or arrays; or the path of a safetensors file. No pickle is
            read. A file has no order, so there ``fc`` is a readout. With G gates, H units and I inputs,
            ``weight_ih_l0`` is ``(G·H, I)``, ``weight_hh_l0`` ``(G·H, H)``, or ``(G·H, P)`` beside
            ``weight_hr_l0 (P, H)``, and a bias ``(G·H,)``.
        activation: of ``nn.RNN``, which arrays do not tell: ``"tanh"`` or ``"relu"``, or one for each layer from the
            bottom up. When None, that of a live module, or of a file that ``write_weights`` wrote with this text, else
            tanh.
        gates: the order of the gates in the arrays, if it is not PyTorch's ``"ifgo"`` or ``"rzn"``.
        layers: the paths of the recurrent modules from the bottom up, where numbers do not tell, such as
            ``("encoder", "decoder")``.

    Returns:
        A model such as ``readout(embedding(stack(…), V, E), O)``, with as much of this as the source has, and its
        params, of the same type. ``W_xh`` is ``(I, G·H)``, ``W_hh (H, G·H)``, ``b_h (G·H,)``, with the gates r z n or
        i f o g.

    Raises:
        ValueError: for names that are missing, that are not of such a model, or whose place is not clear, such as a
            linear layer in front; for shapes that do not fit; for an activation that nothing needs; for an unknown
            order of gates; for float64 without ``jax_enable_x64``; for a pickle.

    Example: a state dict as ``nn.LSTM(3, 5).state_dict()`` has it.

    >>> weights = {"weight_ih_l0": np.ones((20, 3)), "weight_hh_l0": np.ones((20, 5)), "bias_ih_l0": np.ones(20)}
    >>> model, params = from_torch(weights | {"bias_hh_l0": np.ones(20)})
    >>> model, params.W_xh.shape, params.b_h[0].item()
    (lstm(input_size=3, hidden_size=5), (3, 20), 2.0)

    Reference: PyTorch documentation. LSTM. https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html.
    """
    state_dict, facts = weights_of(source)
    if not all(isinstance(name, str) for name in state_dict):
        raise ValueError(f"source got {listed(map(repr, state_dict))} as names; want texts, as in a state dict")
    require_names_of_modules(state_dict)
    arrays = {name: array_of(name, value) for name, value in state_dict.items()}
    prefixes = {found[1].rstrip("."): found[1] for name in arrays if (found := NAME.fullmatch(name))}
    order = [*dict.fromkeys(path_of(name) for name in arrays)] if given_order(arrays) else None
    from_bottom = ordered_paths([*prefixes], order if numbered(prefixes) else None, layers)
    modules = [layers_of(arrays, prefixes[path]) for path in from_bottom]
    found = [layer for module in modules for layer in module]
    activations = activations_of(found, activation, facts.activations)
    recurrent = [
        (layer[0][0], tuple(part_of(way, phi, gates)._replace(reverse=n > 0) for n, (_, way) in enumerate(layer)))
        for layer, phi in zip(found, activations, strict=True)
    ]
    sizes = found[0][0][1].weight_ih.shape[1], sum(way.weight_hh.shape[1] for _, way in found[-1])
    linear = linear_modules(arrays, facts.kinds)
    place = linear_places("source", linear, [*prefixes], sizes, order)
    embedding = readout = None
    if "embedding" in place:
        embedding = place["embedding"], linear[place["embedding"]].weight
    if "readout" in place:
        W, b, _ = linear[place["readout"]]
        readout = place["readout"], (W.T, np.zeros(len(W), W.dtype) if b is None else b)
    return model_of_layers("source", Layers(recurrent, embedding, readout))


class Facts(NamedTuple):
    """What is known of a module beside its arrays."""

    activations: Any = None
    """Of each recurrent module by its path, in a dict; or the text of a file."""
    kinds: dict[str, str] = {}  # noqa: RUF012
    """``"embedding"`` or ``"linear"``, by the path of a module."""


def weights_of(source: Any) -> tuple[Mapping[Any, Any], Facts]:
    """The state dict of a source, and what else is known of it.

    ``save_model`` of safetensors writes tied weights once, and a text with the name that each of the others shares.
    """
    if isinstance(source, Mapping):
        return source, Facts()
    if is_path(source):
        weights, texts = read_weights(source)
        tied = {name: weights[other] for name, other in texts.items() if name not in weights and other in weights}
        return dict(sorted((weights | tied).items())), Facts(texts.get("activation"))
    if isinstance(source, type) or not hasattr(source, "state_dict") or not hasattr(source, "named_modules"):
        got = "a class" if isinstance(source, type) else type(source).__name__
        raise ValueError(f"source got {got}; want a module of PyTorch, its state dict, or a path of safetensors")
    nn, modules = library("torch", "torch").nn, dict(source.named_modules())
    activations = {path: m.nonlinearity for path, m in modules.items() if isinstance(m, (nn.RNN, nn.RNNCell))}
    kinds = {path: "embedding" for path, m in modules.items() if isinstance(m, nn.Embedding)}
    kinds |= {path: "linear" for path, m in modules.items() if isinstance(m, nn.Linear)}
    return source.state_dict(), Facts(activations, kinds)


def activations_of(layers: list[Any], given: str | Sequence[str] | None, known: Any) -> list[str]:
    """The activation of each layer: as it is given, or as a module or a file has it."""
    is_vanilla = [way.weight_hh.shape[0] == way.weight_hh.shape[1] for ((_, way), *_) in layers]
    if given is not None and (known is not None or not any(is_vanilla)):
        why = "the source has its own" if known is not None else "the source has no nn.RNN"
        raise ValueError(f"activation got {in_one_line(given)}; want None: {why}")
    if isinstance(known, Mapping):
        return [known.get(path_of(layer[0][0]), "tanh") for layer in layers]
    if isinstance(known, str):
        given = known.split(",") if "," in known else known
    values = option_of_layers("activation", given, len(layers), "tanh")
    for value in values:
        if value not in ("tanh", "relu"):
            raise ValueError(f"activation got {value!r}; want 'tanh' or 'relu', as nn.RNN has")
    return values


def path_of(name: str) -> str:
    """The path of the module of an array: its name without the last part."""
    return name.rpartition(".")[0]


def linear_modules(arrays: Mapping[str, np.ndarray], kinds: Mapping[str, str]) -> dict[str, Linear]:
    """The modules beside the recurrent ones, by path."""
    named = {path: f"{path}." if path else "" for path in paths_beside(arrays)}
    return {
        path: Linear(arrays[f"{prefix}weight"], arrays.get(f"{prefix}bias"), kinds.get(path))
        for path, prefix in named.items()
    }


def paths_beside(names: Iterable[str]) -> list[str]:
    """The paths of the modules beside the recurrent ones, which have a ``weight``."""
    others = [name.rpartition(".") for name in names if not NAME.fullmatch(name)]
    return [*dict.fromkeys(path for path, _, leaf in others if leaf == "weight")]


def require_names_of_modules(state_dict: Mapping[str, Any]) -> None:
    """Raises a ValueError for names without a recurrent module, and for those of other modules and of buffers."""
    for name, value in state_dict.items():
        if isinstance(value, Mapping) and any(NAME.fullmatch(str(key)) for key in value):
            raise ValueError(f"source got the state dict {name} in a dict; want it alone: source[{name!r}]")
    if not any(map(NAME.fullmatch, state_dict)):
        got = listed(state_dict) or "nothing"
        raise ValueError(f"source got {got}; want weight_ih_l0, weight_hh_l0 …, with any prefix")
    wanted = {f"{path}.{leaf}".lstrip(".") for path in paths_beside(state_dict) for leaf in ("weight", "bias")}
    if extra := [name for name in state_dict if not NAME.fullmatch(name) and name not in wanted]:
        raise ValueError(
            f"source got {listed(extra)}; want a recurrent module, an embedding and a linear readout alone: leave out "
            "of the state dict what outputs do not need"
        )


def layers_of(arrays: Mapping[str, np.ndarray], prefix: str) -> list[list[tuple[str, Direction]]]:
    """The layers of a recurrent module, from the bottom up, each with one direction or two, and their names."""
    suffixes = {found[3] for name in arrays if (found := NAME.fullmatch(name)) and found[1] == prefix}
    if suffixes == {""}:
        return [[direction_of(arrays, prefix, "")]]
    if "" in suffixes:
        raise ValueError(f"source got names with and without a layer after {prefix!r}; want one kind of them")
    ways = ["", "_reverse"] if any(suffix.endswith("_reverse") for suffix in suffixes) else [""]
    count = 1 + max(int(suffix.removeprefix("_l").removesuffix("_reverse") or 0) for suffix in suffixes)
    return [[direction_of(arrays, prefix, f"_l{k}{way}") for way in ways] for k in range(count)]


def direction_of(arrays: Mapping[str, np.ndarray], prefix: str, suffix: str) -> tuple[str, Direction]:
    """The arrays of one direction of one layer, and the name of the first of them."""
    names = {kind: f"{prefix}{kind}{suffix}" for kind in Direction._fields}
    found = {kind: arrays[name] for kind, name in names.items() if name in arrays}
    biased = {"bias_ih", "bias_hh"} if {"bias_ih", "bias_hh"} & found.keys() else set()
    missing = [
        names[kind] for kind in Direction._fields if kind in {"weight_ih", "weight_hh"} | biased and kind not in found
    ]
    if missing:
        beside = f"it beside {listed(map(names.get, found))}" if found else "every layer and direction up to the last"
        raise ValueError(f"source got no {listed(missing)}; want {beside}")
    for kind, array in found.items():
        if array.ndim != (1 if kind in biased else 2):
            raise ValueError(
                f"{names[kind]} got {list(array.shape)}; want {'one axis' if kind in biased else 'two axes'}"
            )
    GH, P = found["weight_hh"].shape
    H = found["weight_hr"].shape[1] if "weight_hr" in found else P
    if 0 in (GH, P, H):
        raise ValueError(f"{names['weight_hh']} got {[GH, P]}; want at least one unit")
    if GH not in ((4 * H,) if "weight_hr" in found else (H, 3 * H, 4 * H)):
        gates = "4" if "weight_hr" in found else "1, 3 or 4"
        raise ValueError(
            f"{names['weight_hh']} got {[GH, P]}; want {gates} times {H} rows, of an RNN, a GRU or an LSTM"
        )
    wanted = {"weight_ih": (GH, found["weight_ih"].shape[1]), "weight_hr": (P, H), "bias_ih": (GH,), "bias_hh": (GH,)}
    for kind in wanted.keys() & found.keys():
        if found[kind].shape != wanted[kind]:
            raise ValueError(f"{names[kind]} got {list(found[kind].shape)}; want {list(wanted[kind])}")
    zeros = dict.fromkeys(("bias_ih", "bias_hh"), np.zeros(GH, found["weight_hh"].dtype))
    return names["weight_ih"], Direction(**zeros | found)


def part_of(way: Direction, activation: str, gates: str | None) -> Part:
    """The cell with the weights of one direction of one layer."""
    (GH, P), H = way.weight_hh.shape, way.weight_hh.shape[1] if way.weight_hr is None else way.weight_hr.shape[1]
    theirs, ours = ORDERS[GH // H]
    arrays: Any = [reordered(array, theirs if gates is None else gates, ours, axis=0) for array in way[:4]]
    W_xh, W_hh, b_ih, b_hh = arrays
    if GH == H:
        options = {} if activation == "tanh" else {"activation": activation}
        return Part("vanilla", options, VanillaParams(W_xh.T, W_hh.T, b_ih + b_hh))
    if GH == 3 * H:
        b_h: Any = np.concatenate([b_ih[: 2 * H] + b_hh[: 2 * H], b_ih[2 * H :]])
        return Part("gru", {}, GRUParams(W_xh.T, W_hh.T, b_h, b_hh[2 * H :]))
    if way.weight_hr is None:
        return Part("lstm", {}, LSTMParams(W_xh.T, W_hh.T, b_ih + b_hh))
    W_hp: Any = way.weight_hr.T
    params = ProjectedLSTMParams(W_xh.T, W_hh.T, b_ih + b_hh, W_hp)
    return Part("projected_lstm", {"projection_size": P}, params)


def to_torch(model: Model, params: Params) -> dict[str, np.ndarray]:
    """The state dict of PyTorch of a model.

    A recurrent part alone has the names of ``nn.LSTM`` and the like, such as ``weight_ih_l0``. With an embedding or a
    readout it is ``rnn.weight_ih_l0`` beside ``embedding.weight``, ``readout.weight`` and ``readout.bias``. Layers that
    one module of PyTorch cannot hold, as of different sizes, are a ``ModuleList``: ``rnn.0.weight_ih_l0``,
    ``rnn.1.weight_ih_l0``. ``torch_module`` makes the module of any of them; your own of the same names takes them by

        module.load_state_dict({name: torch.tensor(W) for name, W in to_torch(model, params).items()})

    and bfloat16 by ``torch.tensor(W.astype("float32"))``. Where PyTorch has two biases they are (b, 0), and (b, b_n)
    in the candidate of a GRU. A ``cifg_lstm`` becomes an LSTM with the negated weights of the forget gate in its input
    gate: equal outputs, but training no longer couples them. An activation is not in a state dict.

    Args:
        model: of ``vanilla`` (tanh, ReLU), ``gru``, ``lstm``, ``projected_lstm`` or ``cifg_lstm`` cells, their stacks,
            ``bidirectional`` layers (concatenated), with a linear ``readout`` and an ``embedding``.
        params: its params.

    Returns:
        Arrays of NumPy by name, of the type of the params: ``weight_ih_l0 (G·H, I)``, ``weight_hh_l0 (G·H, H)``,
        ``bias_ih_l0`` and ``bias_hh_l0 (G·H,)`` with the G gates r z n or i f g o, ``weight_hr_l0 (P, H)`` of a
        projection, ``embedding.weight (V, E)``, ``readout.weight (O, H)``, ``readout.bias (O,)``.

    Raises:
        ValueError: for a part that PyTorch does not have, with the reason; for params that are not those of the model.

    >>> import jax
    >>> from rnn_jax import lstm, readout
    >>> model = readout(lstm(3, 5), 2)
    >>> {name: W.shape for name, W in to_torch(model, model.init(jax.random.key(0))).items()}
    {'rnn.weight_ih_l0': (20, 3), 'rnn.weight_hh_l0': (20, 5), 'rnn.bias_ih_l0': (20,), 'rnn.bias_hh_l0': (20,),
     'readout.weight': (2, 5), 'readout.bias': (2,)}

    Reference: PyTorch documentation. LSTM. https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html.
    """
    network = checked_network(model, params)
    named = {}
    for prefix, layers in modules_of(network).items():
        for k, layer in enumerate(layers):
            for part, direction in zip(layer, ("", "_reverse"), strict=False):
                way = arrays_of_part(part)
                named |= {f"{prefix}{kind}_l{k}{direction}": W for kind, W in way._asdict().items() if W is not None}
    if network.embedding is not None:
        named["embedding.weight"] = network.embedding
    if network.readout is not None:
        named |= {"readout.weight": network.readout[0].T, "readout.bias": network.readout[1]}
    return {name: np.array(W, order="C") for name, W in named.items()}


def checked_network(model: Model, params: Params) -> Network:
    """The network of a model, with cells that PyTorch has; a ValueError for others."""
    network = network_for("PyTorch", model, params, KINDS, MISSING, both_ways=True)
    for layer in network.layers:
        if len(layer) == 2 and network.merge != "concatenate":
            raise ValueError(f"merge got {network.merge!r}; want 'concatenate', as PyTorch does")
        if len(layer) == 2 and shape_of(layer[0]) != shape_of(layer[1]):
            raise ValueError(
                f"model got {layer[0].name} forward, {layer[1].name} backward; want equal directions, as PyTorch has"
            )
        require_part(layer[0])
    return network


def require_part(part: Part) -> None:
    """Raises a ValueError unless PyTorch has the options of a cell, with the reason."""
    may_be = {"activation": ("tanh", "relu")} if part.name == "vanilla" else {}
    for name, value in part.options.items():
        if name != "projection_size" and value not in may_be.get(name, ()):
            own = " or ".join(may_be.get(name, ("its default",)))
            raise ValueError(f"{name} got {value!r}; want {own}: nn.{KINDS[part.name]} has no other")
    H, P = sizes_of(part)
    if part.name == "projected_lstm" and H == P:
        raise ValueError(f"projection_size got {P}; want fewer than hidden_size {H}, as nn.LSTM does")


def sizes_of(part: Part) -> tuple[int, int]:
    """H and P of a cell."""
    return part.params.W_xh.shape[1] // gates_of(part), part.params.W_hh.shape[0]


def shape_of(part: Part) -> tuple[Any, ...]:
    """What all layers of one module of PyTorch share."""
    return part.name, part.options, sizes_of(part)


def modules_of(network: Network) -> dict[str, list[tuple[Part, ...]]]:
    """The layers of each recurrent module, by its prefix in the state dict."""
    first = network.layers[0]
    if all(len(layer) == len(first) and shape_of(layer[0]) == shape_of(first[0]) for layer in network.layers):
        alone = network.embedding is None and network.readout is None
        return {"" if alone else "rnn.": [*network.layers]}
    return {f"rnn.{number}.": [layer] for number, layer in enumerate(network.layers)}


def arrays_of_part(part: Part) -> Direction:
    """The arrays of PyTorch of a cell."""
    p = part.params
    theirs, ours = ORDERS[gates_of(part)]
    W_ih, W_hh, b_ih = (reordered(W.T, ours, theirs, axis=0) for W in (p.W_xh, p.W_hh, p.b_h))
    b_hh = np.zeros_like(b_ih)
    if part.name == "gru":
        b_hh[-p.b_n.size :] = p.b_n
    return Direction(W_ih, W_hh, b_ih, b_hh, p.W_hp.T if part.name == "projected_lstm" else None)
