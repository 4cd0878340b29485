"""Weights of PyTorch: state dicts of ``nn.RNN``, ``nn.GRU`` and ``nn.LSTM``, alone or with an embedding and a readout.

One layer of PyTorch has a matrix with its gates along the first axis, i f g o or r z n, and two biases, of which only
the candidate's of a GRU act differently.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from rnn_jax.cells import GRUParams, LSTMParams, ProjectedLSTMParams, VanillaParams
from rnn_jax.interop.models import Network, Part, gates_of, put_together, reordered, taken_apart, uncoupled
from rnn_jax.interop.weight_files import array_of, read_weights
from rnn_jax.lab.files import FilePath
from rnn_jax.layers import Model
from rnn_jax.types import Params

__all__ = ["from_torch", "to_torch"]

NAME = re.compile(r"((?:.+\.)?)(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)((?:_l\d+(?:_reverse)?)?)")
"""A name of a recurrent module: its prefix, what it is, and its layer and direction, which a cell has not."""
NUMBERED = re.compile(r"((?:.+\.)?)(\d+)\.")
"""The prefix of a module of an ``nn.ModuleList``: its stem, and its number."""
ORDERS = {1: ("n", "n"), 3: ("rzn", "rzn"), 4: ("ifgo", "ifog")}
"""Order of the gates, theirs and ours, by their number."""
KINDS = {"vanilla": "RNN", "gru": "GRU", "lstm": "LSTM", "projected_lstm": "LSTM"}
MISSING = {
    "gru_reset_before": "want gru: the GRU of PyTorch resets after the recurrent product",
    "peephole_lstm": "want lstm: that of PyTorch has no peepholes",
    "clipped_lstm": "want lstm: that of PyTorch clips nothing",
    "general_lstm": "want lstm or projected_lstm: that of PyTorch has no other option",
}
"""Why a cell has no place in PyTorch."""


class Way(NamedTuple):
    """The arrays of one direction of one layer, with the names of PyTorch; G gates."""

    weight_ih: Float[np.ndarray, "GH I"]
    weight_hh: Float[np.ndarray, "GH P"]
    bias_ih: Float[np.ndarray, " GH"]
    bias_hh: Float[np.ndarray, " GH"]
    weight_hr: Float[np.ndarray, "P H"] | None = None


def from_torch(
    state_dict: Mapping[str, Any] | FilePath, *, activation: str | None = None, gates: str | None = None
) -> tuple[Model, Params]:
    """The model and the params of a state dict of PyTorch.

    The recurrent module may have any prefix: an ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM`` of any layers and directions, a
    cell such as ``nn.LSTMCell``, or several modules with numbers, as those of an ``nn.ModuleList``, from the bottom up.
    Beside it may be an ``nn.Embedding`` in front and an ``nn.Linear`` behind; they are recognised by their shapes. The
    two biases become their sum, except for the candidate of a GRU, whose second bias is ``b_n``; missing biases are
    zeros. Time leads, so a module with ``batch_first=True`` needs ``xs`` and ``ys`` with two axes exchanged. float64
    needs ``jax_enable_x64``, as everywhere in JAX.

    Args:
        state_dict: tensors of PyTorch or arrays, or the path of a safetensors file of them. Pickles are not read.
        activation: of an ``nn.RNN``, which its state dict does not tell: ``"tanh"`` or ``"relu"``. When None, that of
            a file which ``write_weights`` wrote with this text, else tanh.
        gates: the order of the gates in the arrays, if it is not PyTorch's ``"ifgo"`` or ``"rzn"``.

    Returns:
        A model such as ``readout(embedding(stack(…), V, E), O)``, with as much of this as the state dict has, and its
        params.

    Raises:
        ValueError: for names that are missing, that are not of such a model, or whose place is not clear; for shapes
            that do not fit; for an unknown order of gates; for a pickle.

    Example: a state dict as ``nn.LSTM(3, 5).state_dict()`` has it.

    >>> from rnn_jax import rollout
    >>> weights = {"weight_ih_l0": np.ones((20, 3)), "weight_hh_l0": np.ones((20, 5)), "bias_ih_l0": np.ones(20)}
    >>> model, params = from_torch(weights | {"bias_hh_l0": np.ones(20)})
    >>> model, params.b_h[0].item()
    (lstm(input_size=3, hidden_size=5), 2.0)
    """
    texts = {}
    if not isinstance(state_dict, Mapping):
        state_dict, texts = read_weights(state_dict)
    activation = activation or texts.get("activation", "tanh")
    arrays = {name: array_of(name, value) for name, value in state_dict.items()}
    types = sorted({str(array.dtype) for array in arrays.values()})
    if len(types) > 1:
        raise ValueError(f"state_dict got {' and '.join(types)}; want one floating type")
    layers = [layer for prefix in prefixes_of(arrays) for layer in layers_of(arrays, prefix)]
    for below, layer in itertools.pairwise(layers):
        (name, way), width = layer[0], width_of(below)
        if way.weight_ih.shape[1] != width:
            raise ValueError(
                f"{name} got {list(way.weight_ih.shape)}; want {width} columns, outputs of the layer below"
            )
    embedding, readout = around(arrays, layers[0][0][1].weight_ih.shape[1], width_of(layers[-1]))
    parts = (
        tuple(part_of(way, activation, gates)._replace(reverse=number > 0) for number, (_, way) in enumerate(layer))
        for layer in layers
    )
    return put_together(Network(tuple(parts), embedding=embedding, readout=readout))


def prefixes_of(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The prefixes of the recurrent modules, from the bottom up: one, or numbered ones."""
    prefixes = {found[1] for name in arrays if (found := NAME.fullmatch(name))}
    if not prefixes:
        raise ValueError(
            f"state_dict got {listed(arrays) or 'nothing'}; want weight_ih_l0, weight_hh_l0 …, with any prefix"
        )
    if len(prefixes) == 1:
        return [*prefixes]
    numbers = {prefix: NUMBERED.fullmatch(prefix) for prefix in prefixes}
    if len({found and found[1] for found in numbers.values()}) > 1 or None in numbers.values():
        wanted = "one, or numbered ones, from the bottom up: of others convert each alone, then stack"
        raise ValueError(
            f"state_dict got the recurrent modules {listed(p or 'without a prefix' for p in prefixes)}; want {wanted}"
        )
    return sorted(prefixes, key=lambda prefix: int(prefix.split(".")[-2]))


def layers_of(arrays: Mapping[str, np.ndarray], prefix: str) -> list[list[tuple[str, Way]]]:
    """The layers of a recurrent module, from the bottom up, each with one direction or two, and their names."""
    suffixes = {found[3] for name in arrays if (found := NAME.fullmatch(name)) and found[1] == prefix}
    if suffixes == {""}:
        return [[way_of(arrays, prefix, "")]]
    if "" in suffixes:
        raise ValueError(f"state_dict got names with and without a layer after {prefix!r}; want one kind of them")
    ways = ["", "_reverse"] if any(suffix.endswith("_reverse") for suffix in suffixes) else [""]
    count = 1 + max(int(suffix.removeprefix("_l").removesuffix("_reverse") or 0) for suffix in suffixes)
    return [[way_of(arrays, prefix, f"_l{k}{way}") for way in ways] for k in range(count)]


def way_of(arrays: Mapping[str, np.ndarray], prefix: str, suffix: str) -> tuple[str, Way]:
    """The arrays of one direction of one layer, and the name of the first of them."""
    names = {kind: f"{prefix}{kind}{suffix}" for kind in Way._fields}
    found = {kind: arrays[name] for kind, name in names.items() if name in arrays}
    biased = {"bias_ih", "bias_hh"} if {"bias_ih", "bias_hh"} & found.keys() else set()
    missing = [names[kind] for kind in Way._fields if kind in {"weight_ih", "weight_hh"} | biased and kind not in found]
    if missing:
        beside = f"it beside {listed(map(names.get, found))}" if found else "every layer and direction up to the last"
        raise ValueError(f"state_dict got no {listed(missing)}; want {beside}")
    for kind, array in found.items():
        if array.ndim != (1 if kind in biased else 2):
            raise ValueError(
                f"{names[kind]} got {list(array.shape)}; want {'one axis' if kind in biased else 'two axes'}"
            )
    GH, P = found["weight_hh"].shape
    H = found["weight_hr"].shape[1] if "weight_hr" in found else P
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
    return names["weight_ih"], Way(**zeros | found)


def width_of(layer: list[tuple[str, Way]]) -> int:
    """Outputs of a layer: those of both directions, one after the other."""
    return sum(way.weight_hh.shape[1] for _, way in layer)


def around(arrays: Mapping[str, np.ndarray], I: int, H: int) -> tuple[Any, Any]:
    """The embedding in front of the recurrent module and the readout behind it, or None.

    Args:
        arrays: all of the state dict.
        I, H: inputs of the lowest layer, and outputs of the top.

    Raises:
        ValueError: for names of neither, for shapes that do not fit, and where one could be either.
    """
    others = [name for name in arrays if not NAME.fullmatch(name)]
    modules = {name.removesuffix("weight") for name in others if name == "weight" or name.endswith(".weight")}
    extra = [name for name in others if name.removesuffix("weight").removesuffix("bias") not in modules]
    if extra:
        raise ValueError(
            f"state_dict got {listed(extra)}; want a recurrent module, an embedding and a linear readout alone"
        )
    may_be = {module: places_of(arrays, module, I, H) for module in sorted(modules)}
    taken = {places[0] for places in may_be.values() if len(places) == 1}
    may_be = {module: [p for p in places if len(places) == 1 or p not in taken] for module, places in may_be.items()}
    unclear = [f"{module}weight" for module, places in may_be.items() if len(places) != 1]
    if unclear:
        wanted = "one embedding and one readout, named embedding.weight and readout.weight where shapes do not tell"
        raise ValueError(f"state_dict got {listed(unclear)}; want {wanted}")
    place = {places[0]: module for module, places in may_be.items()}
    if len(place) < len(may_be):
        raise ValueError(
            f"state_dict got {listed(may_be)}, of which two are for one place; want one embedding, one readout"
        )
    E = arrays[f"{place['embedding']}weight"] if "embedding" in place else None
    if "readout" not in place:
        return E, None
    W = arrays[f"{place['readout']}weight"]
    return E, (W.T, arrays.get(f"{place['readout']}bias", np.zeros(len(W), W.dtype)))


def places_of(arrays: Mapping[str, np.ndarray], module: str, I: int, H: int) -> list[str]:
    """The places that a module with these shapes may have: embedding, readout, or either."""
    W, b = arrays[f"{module}weight"], arrays.get(f"{module}bias")
    fits = W.ndim == 2 and (b is None or b.shape == W.shape[:1])
    places = ["embedding"] if fits and b is None and W.shape[1] == I else []
    places += ["readout"] if fits and W.shape[1] == H else []
    if not places:
        shapes = f"{list(W.shape)}" if b is None else f"{list(W.shape)} and bias {list(b.shape)}"
        raise ValueError(f"{module}weight got {shapes}; want an embedding [V, {I}] or a readout [O, {H}]")
    own = module.rstrip(".").rpartition(".")[2]
    return [own] if own in places else places


def part_of(way: Way, activation: str, gates: str | None) -> Part:
    """The cell with the weights of one direction of one layer."""
    (GH, P), H = way.weight_hh.shape, way.weight_hh.shape[1] if way.weight_hr is None else way.weight_hr.shape[1]
    theirs, ours = ORDERS[GH // H]
    arrays: Any = [reordered(array, gates or theirs, ours, axis=0) for array in way[:4]]
    W_xh, W_hh, b_ih, b_hh = arrays
    if GH == H:
        if activation not in ("tanh", "relu"):
            raise ValueError(f"activation got {activation!r}; want 'tanh' or 'relu', as nn.RNN has")
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
    """The state dict of PyTorch of a model, with arrays of NumPy.

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

    Raises:
        ValueError: for a part that PyTorch does not have, with the reason; for params that are not those of the model.

    >>> import jax
    >>> from rnn_jax import lstm, readout
    >>> model = readout(lstm(3, 5), 2)
    >>> {name: W.shape for name, W in to_torch(model, model.init(jax.random.key(0))).items()}
    {'rnn.weight_ih_l0': (20, 3), 'rnn.weight_hh_l0': (20, 5), 'rnn.bias_ih_l0': (20,), 'rnn.bias_hh_l0': (20,),
     'readout.weight': (2, 5), 'readout.bias': (2,)}
    """
    network = checked_network(model, params)
    named = {}
    for prefix, layers in modules_of(network).items():
        for k, layer in enumerate(layers):
            for part, direction in zip(layer, ("", "_reverse"), strict=False):
                way = way_of_part(part)
                named |= {f"{prefix}{kind}_l{k}{direction}": W for kind, W in way._asdict().items() if W is not None}
    if network.embedding is not None:
        named["embedding.weight"] = network.embedding
    if network.readout is not None:
        named |= {"readout.weight": network.readout[0].T, "readout.bias": network.readout[1]}
    return {name: np.array(W, order="C") for name, W in named.items()}


def checked_network(model: Model, params: Params) -> Network:
    """The network of a model, with cells that PyTorch has; a ValueError for others."""
    network = taken_apart(model, params, "PyTorch")
    layers = tuple(tuple(uncoupled(part) for part in layer) for layer in network.layers)
    for layer in layers:
        if len(layer) == 2 and network.merge != "concatenate":
            raise ValueError(f"merge got {network.merge!r}; want 'concatenate', as PyTorch does")
        if len(layer) == 2 and shape_of(layer[0]) != shape_of(layer[1]):
            raise ValueError(
                f"model got {layer[0].name} forward, {layer[1].name} backward; want equal directions, as PyTorch has"
            )
        if len(layer) == 1 and layer[0].reverse:
            raise ValueError("model got a layer that only reads backward; want bidirectional: PyTorch has no other")
        require_part(layer[0])
    return network._replace(layers=layers)


def require_part(part: Part) -> None:
    """Raises a ValueError unless PyTorch has a cell, with the reason."""
    if part.name not in KINDS:
        raise ValueError(f"model got {part.name}; {MISSING[part.name]}")
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


def way_of_part(part: Part) -> Way:
    """The arrays of PyTorch of a cell."""
    p = part.params
    theirs, ours = ORDERS[gates_of(part)]
    W_ih, W_hh, b_ih = (reordered(W.T, ours, theirs, axis=0) for W in (p.W_xh, p.W_hh, p.b_h))
    b_hh = np.zeros_like(b_ih)
    if part.name == "gru":
        b_hh[-p.b_n.size :] = p.b_n
    return Way(W_ih, W_hh, b_ih, b_hh, p.W_hp.T if part.name == "projected_lstm" else None)


def listed(names: Any) -> str:
    """Names in a message, at most five."""
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
