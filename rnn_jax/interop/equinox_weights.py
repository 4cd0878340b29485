"""Weights of equinox: of ``nn.GRUCell`` and ``nn.LSTMCell``, alone or in a network.

A cell has its gates along the first axis, r z n or i f g o, and one bias; that of a GRU has ``bias_n`` besides.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.cells import GRUParams, LSTMParams
from rnn_jax.interop.adapters import library
from rnn_jax.interop.models import Network, Part, gates_of, reordered
from rnn_jax.interop.named_layers import (
    HEADS,
    USUAL_HEADS,
    Layers,
    given_order,
    in_order,
    listed,
    model_of_layers,
    network_for,
    numbered,
)
from rnn_jax.interop.weight_files import is_path, read_weights
from rnn_jax.interop.weight_trees import (
    one_path,
    require_paths,
    require_shape,
    usable_array,
)
from rnn_jax.layers import Model
from rnn_jax.types import Params

__all__ = ["equinox_module", "from_equinox", "to_equinox"]

ORDERS = {3: ("rzn", "rzn"), 4: ("ifgo", "ifog")}
"""Order of the gates, theirs and ours, by their number."""
KINDS = {"gru": "GRUCell", "lstm": "LSTMCell"}
MISSING = {
    "vanilla": "want gru or lstm: equinox has no vanilla cell",
    "gru_reset_before": "want gru: the GRUCell of equinox resets after the recurrent product",
}
"""Why a cell has no place in equinox."""
PLACES = {"embedding": "front", "readout": "behind", "linear layer in front": "front"}
"""What a module with ``weight`` may be, and its side of the cells; a linear layer in front has no place here."""
CELL = ("weight_ih", "weight_hh", "bias", "bias_n")


def from_equinox(module: Any, *, layers: Sequence[str] | None = None) -> tuple[Model, Params]:
    """The model and the params of a module of equinox, or of its arrays by their paths.

    It may be a ``GRUCell`` or an ``LSTMCell``, or any module that holds them, whose numbers tell their order, as in
    ``self.layers = [cell, cell]``. An ``nn.Embedding`` may be in front and an ``nn.Linear`` behind. A live module tells
    which is which, and by numbers, or by the order of its fields, where a linear layer is. Of arrays alone numbers,
    shapes and their order tell, unless they are sorted by name; where they fit several places, the name ``embedding``
    is needed, or ``readout`` or another usual name of one, such as ``head``, ``fc`` and ``linear``. A field ``bias``
    beside a linear layer without its own is that of the readout. Missing biases are zeros. What is no floating array,
    such as sizes and functions, is left out. What the module computes between its parts is not read: parallel cells
    become a stack. Equinox reads one example; here batch axes stand behind time.

    Args:
        module: a module, arrays by path, such as ``{"layers.0.weight_ih": …}``, or the path of a safetensors file with
            these names. float64 needs ``jax_enable_x64``.
        layers: the paths of the cells from the bottom up, where numbers do not tell, such as ``("first", "second")``.

    Returns:
        A model such as ``readout(embedding(stack(…), V, E), O)``, with as much of this as there is, and its params.

    Raises:
        ValueError: for names that are missing or not of such a model, whose order or place is not clear, or shapes that
            do not fit.

    >>> arrays = {"weight_ih": np.ones((20, 3)), "weight_hh": np.ones((20, 5)), "bias": np.ones(20)}
    >>> from_equinox(arrays)[0]
    lstm(input_size=3, hidden_size=5)
    """
    require_paths(layers)
    groups, kinds = groups_of(module)
    cells = {path: group for path, group in groups.items() if group.keys() & {"weight_ih", "weight_hh", "bias_n"}}
    order = in_order("module", cells, layers)
    recurrent = [(path, (part_of(path, cells[path]),)) for path in order]
    sizes = recurrent[0][1][0].params.W_xh.shape[0], recurrent[-1][1][0].params.W_hh.shape[0]
    others = with_lone_bias({path: group for path, group in groups.items() if path not in cells}, kinds)
    fields = order_of_fields(module, [*groups])
    found: dict[str, list[str]] = {"embedding": [], "readout": []}
    for path, group in others.items():
        sides = side_of(path, order, numbered([*order, path]) or []), side_of(path, order, fields)
        found[place_of(path, group, kinds[path], sides, sizes)].append(path)
    embedding = readout = None
    if (path := one_path("module", "an embedding", found["embedding"])) is not None:
        embedding = path, others[path]["weight"]
    if (path := one_path("module", "a readout", found["readout"])) is not None:
        W = others[path]["weight"]
        readout = path, (W.T, others[path].get("bias", np.zeros(len(W), W.dtype)))
    return model_of_layers("module", Layers(recurrent, embedding, readout))


def groups_of(module: Any) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, str]]:
    """The arrays of each module by its path, in the order of fields, and the class of equinox that each has, or ""."""
    if is_path(module):
        module, _ = read_weights(module)
    if isinstance(module, Mapping) and not all(isinstance(path, str) for path in module):
        raise ValueError(f"module got the keys {listed(module)}; want paths, such as layers.0.weight_ih")
    groups: dict[str, dict[str, np.ndarray]] = {}
    kinds: dict[str, str] = {}
    try:
        leaves = jax.tree.leaves_with_path(module)
    except ValueError as error:
        raise ValueError(f"module got no pytree ({' '.join(str(error).split())[:100]}); want a module") from None
    for path, leaf in leaves:
        whole = jax.tree_util.keystr(path, simple=True, separator=".").replace("/", ".")
        above, _, name = whole.rpartition(".")
        is_array = isinstance(leaf, np.ndarray | jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)
        if is_array or name in (*CELL, "weight"):
            groups.setdefault(above, {})[name] = usable_array(whole or "module", leaf)
            kinds[above] = class_at(module, path[:-1])
    return groups, kinds


def order_of_fields(module: Any, paths: list[str]) -> list[str]:
    """The paths of modules in the order of fields: of a live module, or of arrays that are not sorted; else none."""
    if isinstance(module, Mapping):
        names = [path.replace("/", ".") for path in given_order(module) or ()]
        return [*dict.fromkeys(name.rpartition(".")[0] for name in names)]
    return [] if is_path(module) else paths


def class_at(tree: Any, path: Sequence[Any]) -> str:
    """The class of equinox of what lies at a path, or "" where it is of no such class."""
    for entry in path:
        if isinstance(entry, jax.tree_util.GetAttrKey):
            tree = getattr(tree, entry.name)
        elif isinstance(entry, jax.tree_util.SequenceKey | jax.tree_util.DictKey):
            tree = tree[entry.idx if isinstance(entry, jax.tree_util.SequenceKey) else entry.key]
        else:
            return ""
    return next((kind.__name__ for kind in type(tree).__mro__ if kind.__module__.startswith("equinox.nn")), "")


def with_lone_bias(groups: dict[str, dict[str, np.ndarray]], kinds: dict[str, str]) -> dict[str, dict[str, np.ndarray]]:
    """The modules, where a bias alone is that of the only linear layer beside it that has none."""
    for above in [path for path, group in groups.items() if group.keys() == {"bias"}]:
        without = [path for path, group in groups.items() if group.keys() == {"weight"} and kinds[path] != "Embedding"]
        fit = [path for path in without if path.rpartition(".")[0] == above
               and groups[path]["weight"].shape[:1] == groups[above]["bias"].shape]  # fmt: skip
        if len(fit) == 1:
            groups = groups | {fit[0]: groups[fit[0]] | groups[above]}
            del groups[above]
    return groups


def part_of(path: str, group: dict[str, np.ndarray]) -> Part:
    """The cell with these arrays."""
    where = f"{path}." if path else ""
    shape = np.shape(group.get("weight_hh", ()))
    wanted = ["weight_ih", "weight_hh", *(["bias"] if group.keys() & {"bias", "bias_n"} else [])]
    is_gru = len(shape) == 2 and shape[0] == 3 * shape[1]
    wanted += ["bias_n"] if is_gru and "bias" in wanted else []
    if missing := [f"{where}{name}" for name in wanted if name not in group]:
        raise ValueError(f"module got no {listed(missing)}; want it beside {listed(f'{where}{n}' for n in group)}")
    if extra := [f"{where}{name}" for name in group if name not in wanted]:
        raise ValueError(
            f"module got {listed(extra)}; want {', '.join(CELL)} of a GRUCell, or the first 3 of an LSTMCell"
        )
    if len(shape) != 2 or not shape[1] or shape[0] not in (3 * shape[1], 4 * shape[1]):
        want = "3 or 4 times as many rows as columns, of a GRUCell or an LSTMCell"
        raise ValueError(f"{where}weight_hh got {list(shape)}; want {want}")
    GH, H = shape
    for name, wanted in {"weight_ih": (GH, None), "bias": (GH,), "bias_n": (H,)}.items():
        if name in group:
            require_shape(f"{where}{name}", group[name], *wanted)
    zeros = {"bias": np.zeros(GH, group["weight_hh"].dtype), "bias_n": np.zeros(H, group["weight_hh"].dtype)}
    group = zeros | group
    whole: list[Any] = [reordered(group[name], *ORDERS[GH // H], axis=0).T for name in CELL[:3]]
    if is_gru:
        whole.append(group["bias_n"])
        return Part("gru", {}, GRUParams(*whole))
    return Part("lstm", {}, LSTMParams(*whole))


def side_of(path: str, cells: list[str], ordered: list[str]) -> str:
    """Where a module is in an order of paths: in ``"front"`` of the cells, ``"behind"`` or ``"between"`` them.

    It is "" for a module with the name of its place, and where the cells have another order.
    """
    inside = [each for each in ordered if each in (path, *cells)]
    if path.rpartition(".")[2] in PLACES or [each for each in inside if each != path] != cells:
        return ""
    return {0: "front", len(cells): "behind"}.get(inside.index(path), "between")


def place_of(path: str, group: dict[str, np.ndarray], kind: str, sides: tuple[str, str], sizes: tuple[int, int]) -> str:
    """The place of a module around the cells, ``"embedding"`` or ``"readout"``.

    Args:
        path, group: where it is, and its arrays.
        kind: its class of equinox, if it is known.
        sides: where it is by its number, and by the order of fields, which counts where the shape fits several places.
        sizes: I of the first cell and H of the last.
    """
    W, b, (I, H) = group.get("weight"), group.get("bias"), sizes
    known = kind in ("", "Embedding", "Linear")
    if W is None or group.keys() - {"weight", "bias"} or not known:
        got = listed(sorted(group)) if known else f"the arrays of a {kind}"
        raise ValueError(f"{path or 'module'} got {got}; want cells, an Embedding and a Linear alone")
    linear = W.ndim == 2 and (b is None or b.shape == W.shape[:1]) and kind != "Embedding"
    fits = {
        "embedding": W.ndim == 2 and b is None and kind != "Linear" and W.shape[1] == I,
        "readout": linear and W.shape[1] == H,
        "linear layer in front": linear and W.shape[0] == I,
    }
    places, own = (
        [place for place, fit in fits.items() if fit and sides[0] in ("", PLACES[place])],
        path.rpartition(".")[2],
    )
    if own in places:
        return own
    if len(places) > 1 and sides[1]:
        places = [place for place in places if PLACES[place] == sides[1]]
    if len(places) > 1 and "readout" in places and own in HEADS + USUAL_HEADS:
        return "readout"
    if len(places) > 1:
        wanted = "one of the names embedding and readout"
        raise ValueError(f"{path}.weight got {list(W.shape)}, which fits as {' or '.join(places)}; want {wanted}")
    if not places and not any(fits.values()):
        shapes = f"{list(W.shape)}" if b is None else f"{list(W.shape)} and bias {list(b.shape)}"
        raise ValueError(f"{path}.weight got {shapes}; want an Embedding [V, {I}] or a Linear [O, {H}]")
    if places in ([], ["linear layer in front"]):
        raise ValueError(f"module got a linear layer, {path}, before a cell; want it behind all cells")
    return places[0]


def to_equinox(model: Model, params: Params) -> dict[str, Any]:
    """The arrays of equinox of a model by their paths, such as ``layers.0.weight_ih``.

    They are those of the module that ``equinox_module`` makes: ``layers.0``, ``layers.1``, … are its cells, with
    ``embedding.weight``, ``readout.weight`` and ``readout.bias`` as far as the model has them. A ``cifg_lstm`` becomes
    an LSTM with the negated weights of the forget gate in its input gate: equal outputs, but training no longer couples
    them.

    Args:
        model: of ``gru``, ``lstm`` or ``cifg_lstm`` cells, their stacks, a linear ``readout`` and an ``embedding``.
        params: its params.

    Returns:
        Arrays in the order of equinox: of each cell ``weight_ih (G H, I)``, ``weight_hh (G H, H)`` and ``bias (G H,)``,
        gates r z n or i f g o, and ``bias_n (H,)`` of a GRU; ``embedding.weight (V, E)``; ``readout.weight (O, H)`` and
        ``readout.bias (O,)``.

    Raises:
        ValueError: for a part that equinox does not have, with the reason; for params that are not those of the model.

    >>> from rnn_jax import gru
    >>> model = gru(3, 5)
    >>> {path: W.shape for path, W in to_equinox(model, model.init(jax.random.key(0))).items()}
    {'layers.0.weight_ih': (15, 3), 'layers.0.weight_hh': (15, 5), 'layers.0.bias': (15,), 'layers.0.bias_n': (5,)}

    Reference: Kidger, Garcia. Equinox: neural networks in JAX via callable PyTrees and filtered transformations. 2021.
    """
    return weights_of_network(checked_network(model, params))


def weights_of_network(network: Network) -> dict[str, Any]:
    """The arrays of equinox of a network that it has."""
    found: dict[str, Any] = {}
    for number, (part,) in enumerate(network.layers):
        p, (theirs, ours) = part.params, ORDERS[gates_of(part)]
        arrays = [reordered(W.T, ours, theirs, axis=0) for W in (p.W_xh, p.W_hh, p.b_h)]
        arrays += [p.b_n] if part.name == "gru" else []
        found |= {f"layers.{number}.{name}": W for name, W in zip(CELL, arrays, strict=False)}
    if network.embedding is not None:
        found["embedding.weight"] = network.embedding
    if network.readout is not None:
        found |= {"readout.weight": network.readout[0].T, "readout.bias": network.readout[1]}
    return {path: jnp.array(W) for path, W in found.items()}


def checked_network(model: Model, params: Params) -> Network:
    """The network of a model, with cells that equinox has; a ValueError for others."""
    network = network_for("equinox", model, params, KINDS, MISSING)
    for (part,) in network.layers:
        for name, value in part.options.items():
            raise ValueError(f"{name} got {value!r}; want its default: the {KINDS[part.name]} of equinox has no other")
    return network


def equinox_module(model: Model, params: Params) -> Any:
    """A module of equinox with the weights of a model: ``module(xs (T, I)) -> ys (T, O)`` for one example.

    Its parts are ``module.layers``, a tuple of ``GRUCell`` and ``LSTMCell``, ``module.embedding`` and
    ``module.readout``, which are None where the model has none. Ids ``(T,)`` go in where it has an embedding, else
    vectors.

    Args:
        model, params: as in ``to_equinox``.

    Returns:
        The module; ``from_equinox`` reads it.

    Raises:
        ValueError: as in ``to_equinox``, and where equinox is not installed.

    >>> from rnn_jax import lstm, readout
    >>> model = readout(lstm(3, 4), 2)
    >>> module = equinox_module(model, model.init(jax.random.key(0)))
    >>> jax.vmap(module, in_axes=1, out_axes=1)(jnp.ones((7, 2, 3))).shape
    (7, 2, 2)
    """
    eqx = library("equinox", "equinox")
    network = checked_network(model, params)
    weights = weights_of_network(network)

    def blank() -> Any:
        more: dict[str, Any] = {"dtype": next(iter(weights.values())).dtype, "key": jax.random.key(0)}
        cells = tuple(
            getattr(eqx.nn, KINDS[part.name])(part.params.W_xh.shape[0], len(part.params.W_hh), **more)
            for (part,) in network.layers
        )
        embedding = None if network.embedding is None else eqx.nn.Embedding(*network.embedding.shape, **more)
        readout = None if network.readout is None else eqx.nn.Linear(*network.readout[0].shape, **more)
        return network_class()(cells, embedding, readout)

    leaves, tree = jax.tree.flatten_with_path(jax.eval_shape(blank))
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return jax.tree.unflatten(tree, [weights[path] for path in paths])


@functools.cache
def network_class() -> Any:
    """The module of an embedding, cells and a readout."""
    eqx = library("equinox", "equinox")

    def outputs_of(cell: Any, start: Any, xs: Any) -> Any:
        def step(state: Any, x: Any) -> tuple[Any, Any]:
            state = cell(x, state)
            return state, state[0] if isinstance(cell, eqx.nn.LSTMCell) else state

        return jax.lax.scan(step, start, xs)[1]

    class RecurrentNetwork(eqx.Module):
        """One example, time leads."""

        layers: tuple[Any, ...]
        embedding: Any = None
        readout: Any = None

        def __call__(self, xs: Any) -> Any:
            ys = xs if self.embedding is None else jax.vmap(self.embedding)(xs)
            for cell in self.layers:
                zeros = jnp.zeros(cell.hidden_size, ys.dtype)
                start = (zeros, zeros) if isinstance(cell, eqx.nn.LSTMCell) else zeros
                ys = outputs_of(cell, start, ys)
            return ys if self.readout is None else jax.vmap(self.readout)(ys)

    return RecurrentNetwork
