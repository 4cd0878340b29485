"""A model as layers of cells with their weights, and such layers as a model.

Every format of another library is a map between its arrays and the parts of a ``Network``.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rnn_jax.cells import (
    ACTIVATIONS,
    CIFGParams,
    LSTMParams,
    PeepholeLSTMParams,
    ProjectedLSTMParams,
    cifg_lstm,
    clipped_lstm,
    general_lstm,
    gru,
    gru_reset_before,
    lstm,
    peephole_lstm,
    projected_lstm,
    vanilla,
)
from rnn_jax.input_layers import EmbeddingParams, embedding
from rnn_jax.lab.checkpoints import leaves_by_name
from rnn_jax.layers import BothWays, Model, as_layer, bidirectional, require_model, stack
from rnn_jax.machinery.reprs import repr_of_arrays, short_text
from rnn_jax.readouts import ReadoutParams, readout
from rnn_jax.types import Cell, Params

__all__ = ["CELLS", "Network", "Part", "model_of_network", "network_of_model", "reordered", "uncoupled"]

CELLS: dict[str, Callable[..., Cell]] = {
    cell.__name__: cell
    for cell in (
        *(vanilla, gru, gru_reset_before, lstm),
        *(projected_lstm, clipped_lstm, peephole_lstm, cifg_lstm, general_lstm),
    )
}
"""The cells that other libraries have, by the name of their factory."""

NOT_OF_A_CELL = frozenset(("input_size", "hidden_size", "forget_bias", "dtype"))
"""Arguments of a factory that its params show, or that act at initialisation alone; so do all initialisers."""


class Part(NamedTuple):
    """One cell, in one direction, with its weights."""

    name: str
    """Of its factory, a name in ``CELLS``."""
    options: dict[str, Any]
    """What the factory was given beside sizes, initialisers and dtype, without defaults, such as the activation.

    Activations of ``ACTIVATIONS`` are names."""
    params: Params
    """As the factory makes them, with NumPy arrays."""
    reverse: bool = False
    """Whether it reads from the last step to the first."""

    __repr__ = repr_of_arrays


class Network(NamedTuple):
    """What formats of other libraries can hold: layers of cells, and linear layers around them."""

    layers: tuple[tuple[Part, ...], ...]
    """From the bottom up; a layer has one direction, or two (forward, backward)."""
    merge: str = "concatenate"
    """How the outputs of two directions become one: ``"concatenate"`` or ``"sum"``."""
    embedding: Float[np.ndarray, "V E"] | None = None
    readout: tuple[Float[np.ndarray, "H O"], Float[np.ndarray, " O"]] | None = None
    """``W_hy (H, O)`` and ``b_y (O,)``."""

    __repr__ = repr_of_arrays


def network_of_model(model: Model, params: Params, target: str = "another library") -> Network:
    """The layers of a model with their weights.

    A ``general_lstm`` with no more options than another LSTM of ``CELLS`` becomes that one. Initialisers are not kept.

    Args:
        model: a cell of ``CELLS``, a ``stack`` of them, ``bidirectional`` layers, with an ``embedding`` in front and a
            linear ``readout`` behind.
        params: its params.
        target: in error messages, the library that the model is for.

    Returns:
        A ``Network`` with the params of each cell as arrays of NumPy, in the shapes that the cell gives them, such as
        ``W_xh (I, G·H)`` with G gates.

    Raises:
        ValueError: for a part that has no place in such a network, such as a head with hidden layers; its name is in
            the message. For params that are not those of the model, or not of one floating type.

    >>> from rnn_jax import bidirectional, lstm, readout, stack
    >>> model = readout(stack(bidirectional(lstm(3, 4), lstm(3, 4)), lstm(8, 5)), 2)
    >>> network = network_of_model(model, model.init(jax.random.key(0)))
    >>> [[part.name for part in layer] for layer in network.layers], network.readout[0].shape
    ([['lstm', 'lstm'], ['lstm']], (5, 2))
    """
    require_model("model", model)
    require_params(model, params)
    return parts_of_model(model, jax.tree.map(np.asarray, params), target)


def require_params(model: Model, params: Params) -> None:
    """Raises a ValueError unless params are floating arrays of one type, as ``model.init`` makes them."""
    made = jax.eval_shape(model.init, jax.random.key(0))
    if jax.tree.structure(params) != jax.tree.structure(made):
        got = repr(params) if hasattr(params, "_fields") else type(params).__name__
        raise ValueError(f"params got {got}; want those of {model!r}")
    found = leaves_by_name(params)
    for name, leaf in leaves_by_name(made).items():
        if np.shape(found[name]) != leaf.shape:
            raise ValueError(f"params got {list(np.shape(found[name]))} as {name}; want {list(leaf.shape)}")
    types = sorted({str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(params)})
    if len(types) > 1 or not jnp.issubdtype(jnp.dtype(types[0]), jnp.floating):
        raise ValueError(f"params got {' and '.join(types)}; want arrays of one floating type")


def parts_of_model(model: Model, params: Any, target: str) -> Network:
    """``network_of_model`` of a model whose params fit."""
    make, given = call_of(model, target)
    name = make.__name__
    if name == "readout":
        if not isinstance(params, ReadoutParams):
            raise ValueError(
                f"model got a readout with the heads {short_text(given['output_size'])}; want a linear one for {target}"
            )
        network = parts_of_model(given["model"], params.cell, target)
        require_none("readout", network.readout, target)
        return network._replace(readout=(params.W_hy, params.b_y))
    if name == "embedding":
        network = parts_of_model(given["model"], params.cell, target)
        require_none("embedding", network.embedding, target)
        return network._replace(embedding=params.E)
    if name == "stack":
        return network_of_stack(
            [parts_of_model(m, p, target) for m, p in zip(given["models"], params, strict=True)], target
        )
    if name == "bidirectional":
        return network_of_directions(given, params, target)
    if make is FACTORY_OF_LAYERS:
        network = parts_of_model(given["cell"], params, target)
        layers = [[part._replace(reverse=given["reverse"]) for part in layer] for layer in network.layers]
        return network._replace(layers=tuple(map(tuple, layers)))
    if name not in CELLS:
        raise ValueError(f"model got {model!r}; want parts that {target} may have: {', '.join(CELLS)}")
    return Network(layers=((simplified(Part(name, options_of(make, given), params)),),))


def network_of_directions(given: dict[str, Any], params: Any, target: str) -> Network:
    """The network of one bidirectional layer."""
    if given["merge"] not in ("concatenate", "sum"):
        raise ValueError(f"merge got {short_text(given['merge'])}; want 'concatenate' or 'sum', as {target} takes")
    parts = []
    for cell, own, reverse in zip((given["forward"], given["backward"]), params, (False, True), strict=True):
        network = parts_of_model(cell, own, target)
        (layer,) = network.layers if len(network.layers) == 1 else (None,)
        if layer is None or network.embedding is not None or network.readout is not None:
            raise ValueError(
                f"model got {cell!r} in a bidirectional layer; want one cell in each direction for {target}"
            )
        parts.append(layer[0]._replace(reverse=reverse))
    return Network((tuple(parts),), given["merge"])


def network_of_stack(networks: list[Network], target: str) -> Network:
    """The network of a stack."""
    layers = tuple(layer for network in networks for layer in network.layers)
    for network in networks[1:]:
        require_none("embedding between layers", network.embedding, target)
    for network in networks[:-1]:
        require_none("readout between layers", network.readout, target)
    merges = {network.merge for network in networks if any(len(layer) > 1 for layer in network.layers)}
    if len(merges) > 1:
        raise ValueError(f"model got layers with the merges {', '.join(sorted(merges))}; want one of them for {target}")
    merge = merges.pop() if merges else "concatenate"
    return Network(layers, merge, networks[0].embedding, networks[-1].readout)


def require_none(name: str, found: Any, target: str) -> None:
    """Raises a ValueError where a network has a part twice, or where it has no place."""
    if found is not None:
        raise ValueError(f"model got a {name}; want one embedding in front and one readout behind for {target}")


def call_of(model: Model, target: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The factory that made the recurrence of a model, and the arguments it was given."""
    recipe = getattr(model.advance if isinstance(model, Cell) else model.rollout, "recipe", None)
    if recipe is None:
        raise ValueError(f"model got {model!r}, a cell of your own; want one for {target}: {', '.join(CELLS)}")
    make, args, kwargs, _ = recipe
    if make(*args, **kwargs)._replace(init=None) != model._replace(init=None):
        raise ValueError(
            f"model got {make.__name__}(…) with a function of your own; want it as it is made for {target}"
        )
    bound = inspect.signature(make).bind(*args, **kwargs)
    bound.apply_defaults()
    given = dict(bound.arguments)
    for name, parameter in inspect.signature(make).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            given |= given.pop(name)
    return make, given


FACTORY_OF_LAYERS, _ = call_of(as_layer(vanilla(1, 1)), "")
"""What ``as_layer`` calls for a cell."""


def options_of(make: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a factory that its params do not show and that are not its defaults."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(make).parameters.items()}
    names: dict[Any, str] = {function: name for name, function in ACTIVATIONS.items()}
    named = {name: names.get(value, value) if callable(value) else value for name, value in given.items()}
    return {
        name: value
        for name, value in named.items()
        if name not in NOT_OF_A_CELL and not name.endswith("_init") and value != defaults.get(name)
    }


def simplified(part: Part) -> Part:
    """A ``general_lstm`` as the LSTM with the same equations, where one of ``CELLS`` has them."""
    if part.name != "general_lstm":
        return part
    p, left = part.params, {name: value for name, value in part.options.items() if value is not False}
    kinds = {
        frozenset(): ("lstm", LSTMParams, ("activation", "gate_activation", "memory_activation")),
        frozenset({"cell_clip"}): ("clipped_lstm", LSTMParams, ()),
        frozenset({"coupled"}): ("cifg_lstm", CIFGParams, ()),
        frozenset({"peepholes"}): (
            *("peephole_lstm", PeepholeLSTMParams),
            ("activation", "gate_activation", "memory_activation"),
        ),
        frozenset({"projection_size"}): ("projected_lstm", ProjectedLSTMParams, ("cell_clip", "projection_clip")),
    }
    for switches, (name, params, may_have) in kinds.items():
        if switches <= left.keys() and left.keys() - switches <= {*may_have}:
            kept = {option: value for option, value in left.items() if value is not True}
            return part._replace(
                name=name, options=kept, params=params(**{field: getattr(p, field) for field in params._fields})
            )
    return part


def uncoupled(part: Part) -> Part:
    """A ``cifg_lstm`` as an ``lstm``: its input gate 1 − σ(a) = σ(−a) has the negated weights of the forget gate.

    The outputs are equal, but in training an LSTM no longer couples the gates. Other parts are returned as they are.

    >>> b_h = np.array([1.0, 2.0, 3.0])
    >>> uncoupled(Part("cifg_lstm", {}, CIFGParams(np.zeros((1, 3)), np.zeros((1, 3)), b_h))).params.b_h.tolist()
    [-1.0, 1.0, 2.0, 3.0]
    """
    if part.name != "cifg_lstm":
        return part
    whole: Any = (np.concatenate([-np.split(np.asarray(W), 3, -1)[0], W], -1) for W in part.params)
    return part._replace(name="lstm", params=LSTMParams(*whole))


def model_of_network(network: Network) -> tuple[Model, Params]:
    """The model and the params of a network: a cell where every layer has one direction, forward; else a layer.

    Args:
        network: its arrays are those of NumPy or of JAX.

    Returns:
        A model such as ``readout(embedding(stack(…), V, E), O)``, with as much of this as the network has, and its
        params as arrays of JAX of the same types.

    Raises:
        ValueError: for parts whose sizes do not fit, and for float64 without ``jax_enable_x64``.

    >>> from rnn_jax import gru
    >>> cell = gru(3, 4)
    >>> model, params = model_of_network(network_of_model(cell, cell.init(jax.random.key(0))))
    >>> model
    gru(input_size=3, hidden_size=4)
    """
    if network.layers[0][0].params.W_xh.dtype == np.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError("weights got float64; want jax_enable_x64, or arrays of float32")
    return shape_of_model(network), jax.tree.map(jnp.array, params_of_network(network))


def shape_of_model(network: Network) -> Model:
    """The model of a network, of which it needs no more than the shapes and types of arrays."""
    layers = []
    for parts in network.layers:
        cells, merge = [cell_of(part) for part in parts], network.merge
        if len(cells) == 2:
            layers.append(bidirectional(*cells) if merge == "concatenate" else bidirectional(*cells, merge=merge))
        else:
            layers.append(as_layer(cells[0], reverse=True) if parts[0].reverse else cells[0])
    model = layers[0] if len(layers) == 1 else stack(*layers)
    if network.embedding is not None:
        model = embedding(model, *network.embedding.shape)
    return model if network.readout is None else readout(model, network.readout[1].size)


def params_of_network(network: Network) -> Params:
    """The params of the model of a network, with its own arrays."""
    layers = [
        BothWays(*(part.params for part in parts)) if len(parts) == 2 else parts[0].params for parts in network.layers
    ]
    params: Any = layers[0] if len(layers) == 1 else tuple(layers)
    E: Any = network.embedding
    linear: Any = network.readout
    params = params if E is None else EmbeddingParams(params, E)
    return params if linear is None else ReadoutParams(params, *linear)


def cell_of(part: Part) -> Cell:
    """The cell of a part: its sizes are those of its weights."""
    I, columns = part.params.W_xh.shape
    own = {} if (dtype := part.params.W_xh.dtype) == jnp.zeros(0).dtype else {"dtype": str(dtype)}
    return CELLS[part.name](input_size=I, hidden_size=columns // gates_of(part), **part.options, **own)


GATES = {"vanilla": 1, "gru": 3, "gru_reset_before": 3, "cifg_lstm": 3}
"""Blocks of ``W_xh``; 4 for the others."""


def gates_of(part: Part) -> int:
    """The number of blocks of a cell's ``W_xh``."""
    return 3 if part.options.get("coupled") else GATES.get(part.name, 4)


def reordered(W: Any, order: str, wanted: str, axis: int = -1) -> np.ndarray:
    """An array with its blocks along an axis in another order, each named by a character.

    Raises:
        ValueError: for an order that does not have the same characters.

    >>> reordered(np.array([1, 2, 3, 4]), "ifgo", "ifog").tolist()
    [1, 2, 4, 3]
    """
    if not isinstance(order, str) or sorted(order) != sorted(wanted):
        raise ValueError(f"gates got {order!r}; want the characters {' '.join(wanted)} in another order")
    blocks = dict(zip(order, np.split(np.asarray(W), len(order), axis), strict=True))
    return np.concatenate([blocks[gate] for gate in wanted], axis)
