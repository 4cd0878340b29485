"""Weights of equinox: of ``nn.GRUCell`` and ``nn.LSTMCell``, alone or in a network.

A cell has its gates along the first axis, r z n or i f g o, and one bias; that of a GRU has ``bias_n`` besides.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rnn_jax.cells import GRUParams, LSTMParams
from rnn_jax.interop.adapters import library
from rnn_jax.interop.models import Network, Part, gates_of, reordered
from rnn_jax.interop.named_layers import Layers, in_order, listed, model_of_layers, network_for
from rnn_jax.interop.weight_files import array_of
from rnn_jax.layers import Model
from rnn_jax.types import Params

__all__ = ["equinox_module", "from_equinox", "to_equinox"]

ORDERS = {3: ("rzn", "rzn"), 4: ("ifgo", "ifog")}
"""Order of the gates, theirs and ours, by their number."""
KINDS = {"gru": "GRUCell", "lstm": "LSTMCell"}
MISSING = {
    "vanilla": "want gru or lstm: equinox has no vanilla cell",
    "gru_reset_before": "want gru: the GRUCell of equinox resets after the recurrent product",
    "projected_lstm": "want lstm: that of equinox has no projection",
    "peephole_lstm": "want lstm: that of equinox has no peepholes",
    "clipped_lstm": "want lstm: that of equinox clips nothing",
    "general_lstm": "want lstm: that of equinox has no other option",
}
"""Why a cell has no place in equinox."""
CELL = ("weight_ih", "weight_hh", "bias", "bias_n")


def from_equinox(module: PyTree, *, layers: Sequence[str] | None = None) -> tuple[Model, Params]:
    """The model and the params of a module of equinox, or of its arrays by their paths.

    It may be a ``GRUCell`` or an ``LSTMCell``, or any module that holds them, whose numbers tell their order, as in
    ``self.layers = [cell, cell]``. An ``nn.Embedding`` may be in front and an ``nn.Linear`` behind: their shapes tell,
    and where they do not, the names ``embedding`` and ``readout``. Missing biases are zeros. Equinox reads one example;
    here batch axes stand behind time.

    Args:
        module: a module, or arrays by path, such as ``{"layers.0.weight_ih": …}``.
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
    groups: dict[str, dict[str, np.ndarray]] = {}
    for path, value in arrays_by_path(module).items():
        above, _, name = path.rpartition(".")
        groups.setdefault(above, {})[name] = array_of(path or "module", value)
    cells = {path: group for path, group in groups.items() if group.keys() & {"weight_ih", "weight_hh", "bias_n"}}
    order = in_order("module", cells, layers)
    recurrent = [(path, (part_of(path, cells[path]),)) for path in order]
    I, H = recurrent[0][1][0].params.W_xh.shape[0], recurrent[-1][1][0].params.W_hh.shape[0]
    place: dict[str, str] = {}
    others = {path: group for path, group in groups.items() if path not in cells}
    possible = {path: places_of(path, group, I, H) for path, group in others.items()}
    for path, places in sorted(possible.items(), key=lambda pair: len(pair[1])):
        left = [each for each in places if len(places) == 1 or each not in place]
        if len(left) != 1 or left[0] in place:
            wanted = "one embedding and one readout, with these names where shapes do not tell"
            raise ValueError(f"module got {listed(sorted(others))}; want {wanted}")
        place[left[0]] = path
    embedding = readout = None
    if "embedding" in place:
        embedding = place["embedding"], others[place["embedding"]]["weight"]
    if "readout" in place:
        group = others[place["readout"]]
        W = group["weight"]
        readout = place["readout"], (W.T, group.get("bias", np.zeros(len(W), W.dtype)))
    return model_of_layers("module", Layers(recurrent, embedding, readout))


def arrays_by_path(module: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as ``layers.0.weight_ih``."""
    leaves, _ = jax.tree.flatten_with_path(module)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


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
    if not is_gru and (len(shape) != 2 or shape[0] != 4 * shape[1]):
        want = "3 or 4 times as many rows as columns, of a GRUCell or an LSTMCell"
        raise ValueError(f"{where}weight_hh got {list(shape)}; want {want}")
    GH, H = shape
    I = (*group["weight_ih"].shape, 1, 1)[1]
    for name, expected in {"weight_ih": (GH, I), "bias": (GH,), "bias_n": (H,)}.items():
        if name in group and group[name].shape != expected:
            raise ValueError(f"{where}{name} got {list(group[name].shape)}; want {list(expected)}")
    zeros = {"bias": np.zeros(GH, group["weight_hh"].dtype), "bias_n": np.zeros(H, group["weight_hh"].dtype)}
    group = zeros | group
    whole: list[Any] = [reordered(group[name], *ORDERS[GH // H], axis=0).T for name in CELL[:3]]
    if is_gru:
        whole.append(group["bias_n"])
        return Part("gru", {}, GRUParams(*whole))
    return Part("lstm", {}, LSTMParams(*whole))


def places_of(path: str, group: dict[str, np.ndarray], I: int, H: int) -> list[str]:
    """The places that a module with these arrays may have: embedding, readout, or either."""
    W, b = group.get("weight"), group.get("bias")
    if W is None or group.keys() - {"weight", "bias"}:
        raise ValueError(f"{path or 'module'} got {listed(group)}; want weight and bias, of an Embedding or a Linear")
    fits = W.ndim == 2 and (b is None or b.shape == W.shape[:1])
    places = ["embedding"] if fits and b is None and W.shape[1] == I else []
    places += ["readout"] if fits and W.shape[1] == H else []
    if not places:
        shapes = f"{list(W.shape)}" if b is None else f"{list(W.shape)} and bias {list(b.shape)}"
        raise ValueError(f"{path}.weight got {shapes}; want an Embedding [V, {I}] or a Linear [O, {H}]")
    own = path.rpartition(".")[2]
    return [own] if own in places else places


def to_equinox(model: Model, params: Params) -> dict[str, Any]:
    """The arrays of equinox of a model by their paths, such as ``layers.0.weight_ih``.

    They are those of the module that ``equinox_module`` makes: ``layers.0``, ``layers.1``, … are its cells, with
    ``embedding.weight``, ``readout.weight`` and ``readout.bias`` as far as the model has them. A ``cifg_lstm`` becomes
    an LSTM with the negated weights of the forget gate in its input gate: equal outputs, but training no longer couples
    them.

    Args:
        model: of ``gru``, ``lstm`` or ``cifg_lstm`` cells, their stacks, a linear ``readout`` and an ``embedding``.
        params: its params.

    Raises:
        ValueError: for a part that equinox does not have, with the reason; for params that are not those of the model.

    >>> from rnn_jax import gru
    >>> model = gru(3, 5)
    >>> {path: W.shape for path, W in to_equinox(model, model.init(jax.random.key(0))).items()}
    {'layers.0.weight_ih': (15, 3), 'layers.0.weight_hh': (15, 5), 'layers.0.bias': (15,), 'layers.0.bias_n': (5,)}

    Reference: Kidger, Garcia. Equinox: neural networks in JAX via callable PyTrees and filtered transformations. 2021.
    """
    network = checked_network(model, params)
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
    """A module of equinox with the weights of a model: ``module(xs) -> ys`` for one example, time leading.

    Its parts are ``module.layers``, a tuple of ``GRUCell`` and ``LSTMCell``, ``module.embedding`` and
    ``module.readout``, which are None where the model has none. Ids go in where it has an embedding, else vectors.

    Args:
        model, params: as in ``to_equinox``.

    Raises:
        ValueError: as in ``to_equinox``, and where equinox is not installed.

    Example, where equinox is installed:

        module = equinox_module(model, params)
        ys = jax.vmap(module, in_axes=1, out_axes=1)(jnp.ones((7, 2, 3)))
    """
    eqx = library("equinox", "equinox")
    network, weights = checked_network(model, params), to_equinox(model, params)

    def blank() -> Any:
        more: dict[str, Any] = {"dtype": next(iter(weights.values())).dtype, "key": jax.random.key(0)}
        cells = tuple(
            getattr(eqx.nn, KINDS[part.name])(part.params.W_xh.shape[0], len(part.params.W_hh), **more)
            for (part,) in network.layers
        )
        embedding = None if network.embedding is None else eqx.nn.Embedding(*network.embedding.shape, **more)
        readout = None if network.readout is None else eqx.nn.Linear(*network.readout[0].shape, **more)
        return network_class()(cells, embedding, readout)

    module = jax.eval_shape(blank)
    return jax.tree.unflatten(jax.tree.structure(module), [weights[path] for path in arrays_by_path(module)])


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
