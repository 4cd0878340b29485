"""Weights of flax, of linen and of nnx: of ``SimpleCell``, ``GRUCell`` and the LSTM cells, alone or in a network.

Cells of linen, and the ``LSTMCell`` of nnx, have one module for each gate, i… on the input and h… on the state. The
other cells of nnx have all gates side by side, r z n or i f g o. One of two biases that would be added is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.cells import GRUParams, LSTMParams, VanillaParams
from rnn_jax.cells.activations import ACTIVATIONS, Activation
from rnn_jax.interop.adapters import library
from rnn_jax.interop.models import Network, Part, reordered
from rnn_jax.interop.named_layers import Layers, in_order, listed, model_of_layers, network_for, numbered
from rnn_jax.interop.weight_files import array_of
from rnn_jax.layers import Model
from rnn_jax.types import Params

__all__ = ["from_flax", "to_flax"]

GATES = {"vanilla": ("",), "gru": ("r", "z", "n"), "lstm": ("i", "f", "o", "g")}
"""The gates of a cell in our order, as the names of modules end."""
BIASED = {"vanilla": ("i",), "gru": ("ir", "iz", "in", "hn"), "lstm": ("hi", "hf", "ho", "hg")}
"""The modules with a bias."""
MODULES = {name: {f"{side}{gate}" for gate in gates for side in "ih"} for name, gates in GATES.items()}
FUSED = {1: ("vanilla", "n", "n"), 3: ("gru", "rzn", "rzn"), 4: ("lstm", "ifgo", "ifog")}
"""Cells with all gates side by side, by the number of blocks: the order of these, theirs and ours."""
THEIRS = {"vanilla": "SimpleCell", "gru": "GRUCell", "lstm": "LSTMCell"}
REFUSED = {
    frozenset(("if", "in", "hf", "hn")): "an MGUCell, whose gate keeps the state and resets after the product",
    frozenset(("ih", "hh")): "a ConvLSTMCell, which has kernels of images",
}
"""Cells without a counterpart here, with the reason; of an ``MGUCell`` it is that ``mgu`` writes, and resets before."""
MISSING = {
    "gru_reset_before": "want gru: the GRUCell of flax resets after the recurrent product",
    "projected_lstm": "want lstm: that of flax has no projection",
    "peephole_lstm": "want lstm: that of flax has no peepholes",
    "clipped_lstm": "want lstm: that of flax clips nothing",
    "general_lstm": "want lstm: that of flax has no other option",
}
"""Why a cell has no place in flax."""


def from_flax(
    variables: Any,
    *,
    activation: str | Activation | None = None,
    gate_activation: str | Activation | None = None,
    merge: str | None = None,
    layers: Sequence[str] | None = None,
    pairs: bool = False,
) -> tuple[Model, Params]:
    """The model and the params of weights of flax, of linen or of nnx.

    Recurrent cells are recognised by the names of their arrays, at any depth: ``SimpleCell``, ``GRUCell``, ``LSTMCell``
    and ``OptimizedLSTMCell``, under ``RNN`` and ``Bidirectional`` or not. Numbers in their paths tell their order, as
    in ``layers_0/cell``. An ``Embed`` may be in front and one ``Dense`` or ``Linear`` module behind. Biases that a cell
    of nnx does not have are zeros. Time leads, so a module without ``time_major=True`` needs ``xs`` and ``ys`` with two
    axes exchanged. A carry ``(c, h)`` of an LSTM is our ``LSTMState(h, c)``. float64 needs ``jax_enable_x64``, as
    everywhere in JAX.

    Args:
        variables: of linen, ``{"params": …}``, or these params; of nnx, ``nnx.state(module)`` or a live module.
        activation, gate_activation: ``activation_fn`` and ``gate_fn`` of all cells, names or functions, which weights
            do not tell. When None, those of a live module of nnx, else tanh and σ.
        merge: ``"concatenate"`` or ``"sum"``, of ``Bidirectional`` layers. When None, that of a live module of nnx,
            else ``"concatenate"``.
        layers: the paths of the cells from the bottom up, where numbers do not tell, such as ``("first", "second")``;
            of a ``Bidirectional`` layer, that without ``forward_rnn``.
        pairs: whether the cells are forward and backward in turn. linen names them ``LSTMCell_0`` and ``LSTMCell_1``
            where they are made in a compact method.

    Returns:
        A model such as ``readout(embedding(stack(…), V, E), O)``, with as much of this as there is, and its params.

    Raises:
        ValueError: for names that are missing or not of such a model, shapes that do not fit, cells without a
            counterpart (``MGUCell``, ``ConvLSTMCell``, a residual ``SimpleCell``), or an unknown activation.

    >>> kernels = {"i": {"kernel": np.ones((3, 5)), "bias": np.ones(5)}, "h": {"kernel": np.ones((5, 5))}}
    >>> from_flax({"params": {"cell": kernels}}, activation="relu")[0]
    vanilla(input_size=3, hidden_size=5, activation='relu')

    Reference: Heek, Levskaya, Oliver, Ritter, Rondepierre, Steiner, van Zee. Flax: a neural network library and
    ecosystem for JAX. 2024.
    """
    own: dict[str, dict[str, Any]] = {}
    if not isinstance(variables, Mapping):
        variables, own = state_of_module(variables)
    tree = params_of(variables)
    options = {"activation": activation, "gate_activation": gate_activation, "merge": merge}
    cells: dict[str, Part] = {}
    around: dict[str, tuple[str, dict[str, np.ndarray]]] = {}
    for kind, path, node in modules_in(tree):
        if kind == "cell":
            given = {"activation": "tanh", "gate_activation": "sigmoid"} | own.get(path, {})
            given |= {name: value for name, value in options.items() if value is not None}
            cells[path] = part_of(path, node, given)
        elif kind in around:
            raise ValueError(f"variables got {around[kind][0]} and {path}; want one {kind} alone")
        else:
            around[kind] = path, node
    recurrent = paired(cells, layers, pairs)
    embedding = readout = None
    if "embedding" in around:
        path, node = around["embedding"]
        embedding = path, checked(path, node, {"embedding": 2})["embedding"]
    if "readout" in around:
        path, node = around["readout"]
        require_behind(path, [name for name, _ in recurrent])
        W = checked(path, {"bias": node.get("bias", np.zeros(node["kernel"].shape[-1:], node["kernel"].dtype))} | node,
                    {"kernel": 2, "bias": 1})  # fmt: skip
        readout = path, (W["kernel"], W["bias"])
    merges = {found["merge"] for found in own.values() if "merge" in found}
    return model_of_layers("variables", Layers(recurrent, embedding, readout), merge or (*merges, "concatenate")[0])


def params_of(variables: Mapping[Any, Any]) -> dict[str, Any]:
    """The params among variables, as nested dicts of arrays of NumPy."""
    if isinstance(variables.get("params"), Mapping):
        others = [name for name, value in variables.items() if name != "params" and value]
        if others:
            raise ValueError(f"variables got the collections {listed(others)} beside params; want params alone")
        variables = variables["params"]

    def arrays(path: str, node: Any) -> Any:
        if isinstance(node, Mapping):
            inner = {str(name): value for name, value in node.items() if name != "rngs"}
            return {name: arrays(f"{path}/{name}".lstrip("/"), value) for name, value in inner.items()}
        return array_of(path, node.unbox() if hasattr(node, "unbox") else node)

    return arrays("", variables)


def modules_in(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, Any]]:
    """The cells, embeddings and readouts in a tree: what it is, its path, and its arrays."""
    names = {*node}
    if any(not isinstance(value, Mapping) for value in node.values()):
        kind = "embedding" if "embedding" in names else "readout"
        if names - ({"embedding"} if kind == "embedding" else {"kernel", "bias"}) or names == {"bias"}:
            wanted = "kernel and bias, or embedding"
            raise ValueError(f"{path or 'variables'} got {listed(sorted(names))}; want {wanted}")
        yield kind, path, node
    elif is_cell(node):
        yield "cell", path, node
    else:
        for name, value in node.items():
            yield from modules_in(value, f"{path}/{name}".lstrip("/"))


def is_cell(node: dict[str, Any]) -> bool:
    """Whether the modules of a node are those of a cell, perhaps with one too many or too few."""
    if not node or any(isinstance(leaf, Mapping) for module in node.values() for leaf in module.values()):
        return False
    names = {name.removesuffix("_") for name in node}
    known = [*MODULES.values(), {"dense_i", "dense_h"}, *REFUSED]
    return any(names <= each or len(names & each) > 1 for each in known)


def part_of(path: str, node: dict[str, Any], options: Mapping[str, Any]) -> Part:
    """The cell of a node."""
    modules = {name.removesuffix("_"): value for name, value in node.items()}
    where = path or "variables"
    for names, reason in REFUSED.items():
        if modules.keys() == names:
            raise ValueError(f"{where} got {reason}; want a SimpleCell, a GRUCell or an LSTM cell")
    if options.get("residual"):
        raise ValueError(f"{where} got a residual SimpleCell; want one that adds no state to its sum")
    if modules.keys() & {"dense_i", "dense_h"}:
        modules = separated(where, modules)
    name = max(MODULES, key=lambda kind: (len(modules.keys() & MODULES[kind]), -len(MODULES[kind])))
    require_names(where, modules, MODULES[name])
    for module, found in modules.items():
        require_names(f"{where}/{module}", found, {"kernel", "bias"} if module in BIASED[name] else {"kernel"})
    (I, *_), (H, *_) = (modules[f"{side}{GATES[name][0]}"]["kernel"].shape or (0,) for side in "ih")
    for module, found in modules.items():
        for leaf, wanted in {"kernel": (I if module[0] == "i" else H, H), "bias": (H,)}.items():
            if leaf in found and found[leaf].shape != wanted:
                raise ValueError(f"{where}/{module}/{leaf} got {list(found[leaf].shape)}; want {list(wanted)}")
    gates = GATES[name]
    biases = [modules[module]["bias"] for module in BIASED[name]]
    whole: Any = [np.concatenate([modules[f"{side}{g}"]["kernel"] for g in gates], -1) for side in "ih"]
    whole.append(np.concatenate(biases[:3] if name == "gru" else biases))
    defaults = {"activation": "tanh"} | ({} if name == "vanilla" else {"gate_activation": "sigmoid"})
    kept = {option: options[option] for option, usual in defaults.items() if options[option] != usual}
    whole += biases[3:] if name == "gru" else []
    make: Any = {"vanilla": VanillaParams, "gru": GRUParams, "lstm": LSTMParams}[name]
    return Part(name, kept, make(*whole))


def separated(where: str, modules: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """The modules of each gate of a cell of nnx whose gates stand side by side."""
    require_names(where, modules, {"dense_i", "dense_h"})
    shape = np.shape(modules["dense_h"].get("kernel", ()))
    if len(shape) != 2 or shape[1] not in (shape[0], 3 * shape[0], 4 * shape[0]):
        wanted = "1, 3 or 4 times as many columns as rows, of a SimpleCell, a GRUCell or an OptimizedLSTMCell"
        raise ValueError(f"{where}/dense_h/kernel got {list(shape)}; want {wanted}")
    H, columns = shape
    name, theirs, _ = FUSED[columns // H]
    biased = "dense_h" if name == "lstm" else "dense_i"
    found: dict[str, dict[str, np.ndarray]] = {}
    for module, side in (("dense_i", "i"), ("dense_h", "h")):
        leaves = modules[module]
        require_names(f"{where}/{module}", leaves, {"kernel", "bias"} if module == biased else {"kernel"})
        for leaf, array in leaves.items():
            if array.shape[-1:] != (columns,):
                raise ValueError(f"{where}/{module}/{leaf} got {list(array.shape)}; want {columns} columns")
            for gate, block in zip(theirs, np.split(array, len(theirs), -1), strict=True):
                found.setdefault(f"{side}{gate if name != 'vanilla' else ''}", {})[leaf] = block
    if name == "gru":
        found["hn"]["bias"] = np.zeros_like(found["in"]["bias"])
    return found


def require_names(where: str, found: Mapping[str, Any], wanted: set[str]) -> None:
    """Raises a ValueError unless a node has these names."""
    if missing := sorted(wanted - found.keys()):
        raise ValueError(f"{where} got no {listed(missing)}; want it beside {listed(sorted(found)) or 'nothing'}")
    if extra := sorted(found.keys() - wanted):
        raise ValueError(f"{where} got {listed(extra)}; want {', '.join(sorted(wanted))} alone")


def checked(path: str, node: dict[str, np.ndarray], axes: dict[str, int]) -> dict[str, np.ndarray]:
    """The arrays of a node, each with its number of axes, and as many columns as the first."""
    columns = node[next(iter(axes))].shape[-1:]
    for name, count in axes.items():
        if node[name].ndim != count or node[name].shape[-1:] != columns:
            wanted = f"{count} axes" if node[name].ndim != count else f"{columns[0]} columns"
            raise ValueError(f"{path}/{name} got {list(node[name].shape)}; want {wanted}")
    return node


def paired(cells: dict[str, Part], layers: Sequence[str] | None, pairs: bool) -> list[tuple[str, tuple[Part, ...]]]:
    """The cells of each layer, from the bottom up: two of a bidirectional one."""
    if pairs:
        paths = in_order("variables", cells, layers)
        if len(paths) % 2:
            raise ValueError(f"pairs got {len(paths)} cells; want an even number, forward and backward in turn")
        found = [(there, cells[there], cells[back]) for there, back in zip(paths[::2], paths[1::2], strict=True)]
        return [(path, (there, back._replace(reverse=True))) for path, there, back in found]
    ways: dict[str, dict[str, Part]] = {}
    for path, part in cells.items():
        components = path.split("/")
        direction = next((d for d in ("forward", "backward") if f"{d}_rnn" in components), "")
        above = "/".join(component for component in components if component != f"{direction}_rnn")
        ways.setdefault(above, {})[direction] = part._replace(reverse=direction == "backward")
    for path, found in ways.items():
        if found.keys() not in ({""}, {"forward", "backward"}):
            got = listed(f"{direction}_rnn" if direction else "a cell" for direction in found)
            raise ValueError(f"{path or 'variables'} got {got}; want forward_rnn and backward_rnn")
    ordered = in_order("variables", ways, layers)
    return [
        (path, tuple(ways[path][way] for way in ("", "forward", "backward") if way in ways[path])) for path in ordered
    ]


def require_behind(path: str, recurrent: list[str]) -> None:
    """Raises a ValueError where the number of a readout puts it before a recurrent layer."""
    ordered = numbered([*recurrent, path])
    if ordered is not None and ordered[-1] != path:
        raise ValueError(f"variables got a linear layer, {path}, before {ordered[-1]}; want it behind all others")


def state_of_module(module: Any) -> tuple[Any, dict[str, dict[str, Any]]]:
    """The weights of a live module of nnx, and what they do not tell, by the paths of cells and of directions."""
    wanted = "variables of linen, a state of nnx, or a module of nnx"
    nnx = library("flax.nnx", "flax")
    if not isinstance(module, nnx.Module):
        raise ValueError(f"variables got {type(module).__name__}; want {wanted}")
    names: dict[Any, str] = {function: name for name, function in ACTIVATIONS.items()}
    merges = {jnp.add: "sum", nnx.Bidirectional.merge_fn: "concatenate"}
    own: dict[str, dict[str, Any]] = {}
    for path, inner in nnx.iter_modules(module):
        where = "/".join(map(str, path))
        if isinstance(inner, nnx.Bidirectional):
            own[where] = {"merge": merges.get(inner.merge_fn, inner.merge_fn)}
        elif isinstance(inner, nnx.RNN) and inner.reverse and path[-1:] != ("backward_rnn",):
            raise ValueError(f"{where or 'variables'} got an RNN with reverse=True; want a Bidirectional layer")
        elif hasattr(inner, "activation_fn"):
            own[where] = {"activation": inner.activation_fn, "gate_activation": getattr(inner, "gate_fn", "sigmoid")}
            own[where] = {option: names.get(value, value) for option, value in own[where].items()}
            own[where]["residual"] = getattr(inner, "residual", False)
    return nnx.state(module, nnx.Param), own


def to_flax(model: Model, params: Params, *, api: str = "linen", optimized: bool = True) -> dict[str, Any]:
    """The weights of flax of a model, as nested dicts of arrays: variables of linen, or a state of nnx.

    One recurrent layer alone has the names of ``RNN(cell)``, ``{"cell": …}``, or of ``Bidirectional``,
    ``{"forward_rnn": {"cell": …}, "backward_rnn": {"cell": …}}``. A network has those of a ``Sequential`` of an
    ``Embed``, these layers, and a ``Dense`` or ``Linear`` module, as far as the model has them: ``layers_0``,
    ``layers_1``, … in linen, and ``{"layers": {0: …, 1: …}}`` in nnx. ``linen_module`` and ``nnx_module`` make the
    module of any of them; your own of the same names takes them by

        module.apply(to_flax(model, params), xs)  # linen
        nnx.update(module, to_flax(model, params, api="nnx"))

    A ``cifg_lstm`` becomes an LSTM with the negated weights of the forget gate in its input gate: equal outputs, but
    training no longer couples them. Activations, and how both directions are merged, are not in the weights.

    Args:
        model: of ``vanilla``, ``gru``, ``lstm`` or ``cifg_lstm`` cells, their stacks, ``bidirectional`` layers, with a
            linear ``readout`` and an ``embedding``. The ``GRUCell`` of nnx has no ``b_n``, so it must be 0 there.
        params: its params.
        api: ``"linen"`` or ``"nnx"``.
        optimized: whether an LSTM of nnx is an ``OptimizedLSTMCell`` or an ``LSTMCell``; in linen they are the same.

    Raises:
        ValueError: for a part that flax does not have, with the reason; for params that are not those of the model.

    >>> import jax
    >>> from rnn_jax import readout, vanilla
    >>> model = readout(vanilla(3, 5), 2)
    >>> jax.tree.map(jnp.shape, to_flax(model, model.init(jax.random.key(0)), api="nnx"))
    {'layers': {0: {'cell': {'dense_h': {'kernel': (5, 5)}, 'dense_i': {'bias': (5,), 'kernel': (3, 5)}}},
                1: {'bias': (2,), 'kernel': (5, 2)}}}
    """
    network = checked_network(model, params, api)
    whole: list[Any] = [] if network.embedding is None else [{"embedding": network.embedding}]
    for layer in network.layers:
        cells = [{"cell": weights_of_part(part, api, optimized)} for part in layer]
        whole.append(cells[0] if len(cells) == 1 else dict(zip(("forward_rnn", "backward_rnn"), cells, strict=True)))
    if network.readout is not None:
        whole.append({"kernel": network.readout[0], "bias": network.readout[1]})
    if len(whole) == 1:
        named = whole[0]
    elif api == "nnx":
        named = {"layers": dict(enumerate(whole))}
    else:
        named = {f"layers_{number}": weights for number, weights in enumerate(whole)}
    named = jax.tree.map(jnp.array, named)
    return {"params": named} if api == "linen" else named


def checked_network(model: Model, params: Params, api: str) -> Network:
    """The network of a model, with cells that flax has; a ValueError for others."""
    if api not in ("linen", "nnx"):
        raise ValueError(f"api got {api!r}; want 'linen' or 'nnx'")
    network = network_for("flax", model, params, THEIRS, MISSING, both_ways=True)
    for part in (part for layer in network.layers for part in layer):
        phi = part.options.get("activation", "tanh")
        if part.options.get("memory_activation", phi) != phi:
            raise ValueError(f"memory_activation got {part.options['memory_activation']!r}; want {phi!r}: flax has one")
        if api == "nnx" and part.name == "gru" and np.any(part.params.b_n):
            raise ValueError(
                "b_n got numbers beside 0; want zeros: the GRUCell of nnx has no such bias, that of linen has"
            )
    return network


def weights_of_part(part: Part, api: str, optimized: bool) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of flax of a cell, by the names of its modules."""
    p = part.params
    if api == "nnx" and (optimized or part.name != "lstm"):
        theirs, ours = next((theirs, ours) for name, theirs, ours in FUSED.values() if name == part.name)
        kernels: Any = [{"kernel": reordered(W, ours, theirs)} for W in (p.W_xh, p.W_hh)]
        kernels[part.name == "lstm"]["bias"] = reordered(p.b_h, ours, theirs)
        return {"dense_i": kernels[0], "dense_h": kernels[1]}
    gates = GATES[part.name]
    found: dict[str, dict[str, np.ndarray]] = {}
    for side, W in (("i", p.W_xh), ("h", p.W_hh)):
        found |= {f"{side}{g}": {"kernel": w} for g, w in zip(gates, np.split(W, len(gates), -1), strict=True)}
    biases = [*np.split(p.b_h, len(gates)), *([p.b_n] if part.name == "gru" else [])]
    for module, bias in zip(BIASED[part.name], biases, strict=True):
        found[module]["bias"] = bias
    return {"if_" if name == "if" and api == "nnx" else name: leaves for name, leaves in found.items()}
