"""Weights of flax, of linen and of nnx: of ``SimpleCell``, ``GRUCell`` and the LSTM cells, alone or in a network.

Cells of linen, and the ``LSTMCell`` of nnx, have one module for each gate, i… on the input and h… on the state. The
other cells of nnx have all gates side by side, r z n or i f g o. One of two biases that would be added is left out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.cells import GRUParams, LSTMParams, VanillaParams
from rnn_jax.interop.flax_options import Activations, is_before, merge_of, options_of, state_of_module
from rnn_jax.interop.models import Network, Part, reordered
from rnn_jax.interop.named_layers import Layers, in_order, listed, model_of_layers, network_for, numbered
from rnn_jax.interop.weight_files import is_path
from rnn_jax.interop.weight_trees import (
    arrays_by_path,
    is_in_front,
    nested,
    one_path,
    require_names,
    require_paths,
    require_shape,
)
from rnn_jax.layers import Model
from rnn_jax.machinery.checks import in_one_line, require_switch
from rnn_jax.machinery.reprs import short_text
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
MISSING = {"gru_reset_before": "want gru: the GRUCell of flax resets after the recurrent product"}
"""Why a cell has no place in flax."""


def from_flax(
    variables: Any,
    *,
    activation: Activations = None,
    gate_activation: Activations = None,
    merge: str | None = None,
    layers: Sequence[str] | None = None,
    pairs: bool = False,
) -> tuple[Model, Params]:
    """The model and the params of weights of flax, of linen or of nnx.

    Recurrent cells are recognised by the names of their arrays, at any depth: ``SimpleCell``, ``GRUCell``, ``LSTMCell``
    and ``OptimizedLSTMCell``, under ``RNN`` and ``Bidirectional`` or not. Numbers in their paths tell their order, as
    in ``layers_0/cell``. An ``Embed`` may be in front and one ``Dense`` or ``Linear`` module behind; a linear module is
    read as the one behind, unless its number, the order of attributes of a live module, or that of variables as
    ``init`` makes them, puts it in front. Weights that are sorted by name, as those of files, of ``nnx.state`` and of
    ``jax.tree.map``, do not tell: there one in front with a kernel ``(H, I)`` would be read as the one behind, another
    network. What the module computes between its parts, such as dropout or a sum, is not read: parallel cells become a
    stack. Biases that a cell of nnx does not have are zeros. Time leads, so a module without ``time_major=True`` needs
    ``xs`` and ``ys`` with two axes exchanged. A carry ``(c, h)`` of an LSTM is our ``LSTMState(h, c)``.

    Args:
        variables: of linen, ``{"params": …}``, or these params; of nnx, ``nnx.state(module)`` or a live module; or the
            path of a safetensors file, whose names are paths such as ``params/layers_0/cell/i/kernel``. float64 needs
            ``jax_enable_x64``.
        activation, gate_activation: ``activation_fn`` and ``gate_fn``, names or functions, which weights do not tell:
            one for all cells, or a sequence with one for each cell from the bottom up, forward before backward. When
            None, tanh and σ. A live module of nnx has its own, so they must be None there.
        merge: ``"concatenate"`` (when None) or ``"sum"``, of all ``Bidirectional`` layers; None for a live module.
        layers: the paths of the cells from the bottom up, where numbers do not tell, such as ``("first", "second")``;
            of a ``Bidirectional`` layer, that without ``forward_rnn``.
        pairs: whether the cells are forward and backward in turn. linen names them ``LSTMCell_0`` and ``LSTMCell_1``
            where they are made in a compact method.

    Returns:
        A model such as ``readout(embedding(stack(…), V, E), O)``, with as much of this as there is, and its params.

    Raises:
        ValueError: for names that are missing or not of such a model, shapes that do not fit, cells without a
            counterpart (``MGUCell``, ``ConvLSTMCell``, a residual ``SimpleCell``), an unknown activation, or options
            that have no place in the model.

    >>> kernels = {"i": {"kernel": np.ones((3, 5)), "bias": np.ones(5)}, "h": {"kernel": np.ones((5, 5))}}
    >>> from_flax({"params": {"cell": kernels}}, activation="relu")[0]
    vanilla(input_size=3, hidden_size=5, activation='relu')

    Reference: Heek, Levskaya, Oliver, Ritter, Rondepierre, Steiner, van Zee. Flax: a neural network library and
    ecosystem for JAX. 2024.
    """
    require_paths(layers)
    require_switch(pairs=pairs)
    own, module = None, None if isinstance(variables, Mapping) or is_path(variables) else variables
    if module is not None or variables is None:
        variables, own = state_of_module(variables)
    found: dict[str, dict[str, Any]] = {"cell": {}, "embedding": {}, "readout": {}}
    weights = params_of(variables)
    for kind, path, node in (modules := [*modules_in(weights)]):
        found[kind][path] = node
    order = directions(found["cell"], layers, pairs)
    cells = [path for _, paths in order for path in paths]
    options = options_of(cells, own, {"activation": activation, "gate_activation": gate_activation})
    parts = {path: part_of(path, found["cell"][path], options[path]) for path in cells}
    if gate_activation is not None and all(part.name == "vanilla" for part in parts.values()):
        raise ValueError(f"gate_activation got {short_text(gate_activation)}; want None: no cell has gates")
    recurrent = [
        (path, tuple(parts[each]._replace(reverse=way > 0) for way, each in enumerate(paths))) for path, paths in order
    ]
    I, outermost = parts[cells[0]].params.W_xh.shape[0], [path for path, _ in order]

    def is_first(path: str) -> bool:
        if module is not None:
            return is_before(module, path, outermost)
        return is_in_front(path, cells, weights, [each for _, each, _ in modules])

    around = embedding_of(found["embedding"]), readout_of(found["readout"], outermost, is_first, I)
    both = any(len(paths) == 2 for _, paths in order)
    return model_of_layers("variables", Layers(recurrent, *around), merge_of(own, merge, both))


def params_of(variables: Any) -> dict[str, Any]:
    """The params among variables, as nested dicts of arrays of NumPy."""
    wanted = "variables of linen, a state of nnx, a module of nnx"
    tree = nested("variables", arrays_by_path("variables", variables, wanted, without={"rngs"}))
    if isinstance(tree.get("params"), Mapping):
        if others := sorted(tree.keys() - {"params"}):
            raise ValueError(f"variables got the collections {listed(others)} beside params; want params alone")
        return tree["params"]
    return tree


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


def directions(
    cells: Mapping[str, Any], layers: Sequence[str] | None, pairs: bool
) -> list[tuple[str, tuple[str, ...]]]:
    """The layers from the bottom up: a path, and the paths of their cells, two of a bidirectional layer."""
    if pairs:
        paths = in_order("variables", cells, layers)
        if len(paths) % 2:
            raise ValueError(f"pairs got {len(paths)} cells; want an even number, forward and backward in turn")
        return [(forward, (forward, backward)) for forward, backward in zip(paths[::2], paths[1::2], strict=True)]
    found: dict[str, dict[str, str]] = {}
    for path in cells:
        components = path.split("/")
        direction = next((d for d in ("forward_rnn", "backward_rnn") if d in components), "a cell")
        above = "/".join(component for component in components if component != direction)
        found.setdefault(above, {})[direction] = path
    for path, ways in found.items():
        if ways.keys() not in ({"a cell"}, {"forward_rnn", "backward_rnn"}):
            raise ValueError(f"{path or 'variables'} got {listed(ways)}; want forward_rnn and backward_rnn")
    ordered = in_order("variables", found, layers)
    return [(path, tuple(found[path][way] for way in sorted(found[path], reverse=True))) for path in ordered]


def part_of(path: str, node: dict[str, Any], options: Mapping[str, Any]) -> Part:
    """The cell of a node."""
    modules = {name.removesuffix("_"): value for name, value in node.items()}
    where = path or "variables"
    for names, reason in REFUSED.items():
        if modules.keys() == names:
            raise ValueError(f"{where} got {reason}; want a SimpleCell, a GRUCell or an LSTM cell")
    if modules.keys() & {"dense_i", "dense_h"}:
        modules = separated(where, modules)
    name = max(MODULES, key=lambda kind: (len(modules.keys() & MODULES[kind]), -len(MODULES[kind])))
    require_names(where, modules, MODULES[name])
    for module, found in modules.items():
        require_names(f"{where}/{module}", found, {"kernel", "bias"} if module in BIASED[name] else {"kernel"})
    gates = GATES[name]
    H = (*modules[f"h{gates[0]}"]["kernel"].shape, 0)[0]
    I = (*modules[f"i{gates[0]}"]["kernel"].shape, 0)[0]
    for module, found in modules.items():
        for leaf, shape in {"kernel": (I if module[0] == "i" else H, H), "bias": (H,)}.items():
            if leaf in found:
                require_shape(f"{where}/{module}/{leaf}", found[leaf], *(size or 1 for size in shape))
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
    if len(shape) != 2 or not shape[0] or shape[1] not in (shape[0], 3 * shape[0], 4 * shape[0]):
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


def embedding_of(found: Mapping[str, Any]) -> tuple[str, np.ndarray] | None:
    """The embedding in front, and its path."""
    path = one_path("variables", "an embedding", found)
    return None if path is None else (path, require_shape(f"{path}/embedding", found[path]["embedding"], None, None))


def readout_of(
    found: Mapping[str, Any], recurrent: list[str], is_first: Callable[[str], bool], I: int
) -> tuple[str, tuple[np.ndarray, np.ndarray]] | None:
    """The linear layer behind the recurrent ones, and its path; a ValueError where it is before one.

    Its number tells, or, where it could make the I inputs of the first cell, the order of attributes or of weights.
    """
    path = one_path("variables", "a linear layer", found)
    if path is None:
        return None
    ordered = numbered([*recurrent, path])
    if ordered is not None and ordered[-1] != path:
        raise ValueError(f"variables got a linear layer, {path}, before {ordered[-1]}; want it behind all others")
    W = require_shape(f"{path}/kernel", found[path]["kernel"], None, None)
    if ordered is None and W.shape[1] == I and is_first(path):
        raise ValueError(f"variables got a linear layer, {path}, before the cells; want it behind all cells")
    b = found[path].get("bias", np.zeros(W.shape[1], W.dtype))
    return path, (W, require_shape(f"{path}/bias", b, W.shape[1]))


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

    Returns:
        Arrays in the order of flax. Of each gate ``kernel (I, H)`` under ``i…``, ``kernel (H, H)`` under ``h…``, and
        ``bias (H,)`` in one of both; of nnx, G gates side by side, ``kernel (I, G H)`` and ``kernel (H, G H)``, r z n
        or i f g o. ``embedding (V, E)``; of the readout ``kernel (H, O)`` and ``bias (O,)``.

    Raises:
        ValueError: for a part that flax does not have, with the reason; for params that are not those of the model.

    >>> import jax
    >>> from rnn_jax import readout, vanilla
    >>> model = readout(vanilla(3, 5), 2)
    >>> jax.tree.map(jnp.shape, to_flax(model, model.init(jax.random.key(0)), api="nnx"))
    {'layers': {0: {'cell': {'dense_h': {'kernel': (5, 5)}, 'dense_i': {'bias': (5,), 'kernel': (3, 5)}}},
                1: {'bias': (2,), 'kernel': (5, 2)}}}
    """
    require_switch(optimized=optimized)
    return weights_of_network(checked_network(model, params, api), api, optimized)


def weights_of_network(network: Network, api: str, optimized: bool = True) -> dict[str, Any]:
    """The weights of flax of a network that it has."""
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
        raise ValueError(f"api got {in_one_line(api)}; want 'linen' or 'nnx'")
    network = network_for("flax", model, params, THEIRS, MISSING, both_ways=True)
    for part in (part for layer in network.layers for part in layer):
        phi = part.options.get("activation", "tanh")
        if part.options.get("memory_activation", phi) != phi:
            got, wanted = short_text(part.options["memory_activation"]), short_text(phi)
            raise ValueError(f"memory_activation got {got}; want {wanted}: flax has one")
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
