"""Weights of haiku: of ``hk.VanillaRNN``, ``hk.GRU`` and ``hk.LSTM``, alone or in an ``hk.DeepRNN``.

The LSTM of haiku has one matrix for [x, h] and adds 1 to the sum of its forget gate, gates i g f o. Its GRU, gates
z r n, resets before the product and writes with z, so that its z is our 1 − z. Its vanilla cell is a ReLU.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rnn_jax.cells import GRUResetBeforeParams, LSTMParams, VanillaParams
from rnn_jax.interop.adapters import library
from rnn_jax.interop.models import Network, Part, reordered
from rnn_jax.interop.named_layers import Layers, in_order, listed, model_of_layers, network_for
from rnn_jax.interop.weight_trees import (
    arrays_by_path,
    is_in_front,
    one_path,
    require_names,
    require_paths,
    require_shape,
)
from rnn_jax.layers import Model
from rnn_jax.machinery.checks import require_switch
from rnn_jax.types import Params

__all__ = ["from_haiku", "haiku_function", "to_haiku"]

KINDS = {"vanilla": "vanilla_rnn", "gru_reset_before": "gru", "lstm": "lstm"}
"""The name that haiku gives to a cell; the second is ``lstm_1``."""
THEIRS = {"vanilla": "VanillaRNN", "gru_reset_before": "GRU", "lstm": "LSTM"}
NAME = re.compile(r"(?:.*/)?(?:lstm|vanilla_rnn|layer)(?:_\d+)?")
"""The path of a cell that is recognised by its name; of a GRU, its arrays tell."""
MISSING = {"gru": "want gru_reset_before: the GRU of haiku resets before the recurrent product"}
"""Why a cell has no place in haiku."""
REST = "b_rest"
"""The name of what an LSTM's ``b_f − 1`` rounds away."""


def from_haiku(params: Any, *, layers: Sequence[str] | None = None) -> tuple[Model, Params]:
    """The model and the params of weights of haiku, ``{module: {name: array}}``.

    Cells are recognised by the names that haiku gives them, under any module: ``lstm/linear``, ``gru``,
    ``vanilla_rnn/linear`` and ``vanilla_rnn/linear_1``. Numbers tell their order, ``lstm``, ``lstm_1``, …; the names of
    a stack of several kinds do not, unless they are ``layer_0``, ``layer_1``, …, as ``to_haiku`` writes them. Beside
    them may be an ``hk.Embed`` in front and an ``hk.Linear``, which is read as the readout behind: names do not tell
    its place, but the order in which ``init`` makes modules does. Weights that are sorted by name, as those of files
    and of ``jax.tree.map``, have no such order: there one in front with ``w (H, I)`` would become another network. What
    the function computes between its modules is not read: parallel cells become a stack. Two biases of a vanilla cell
    become their sum. The forget gate's bias is that of haiku plus the 1 that it adds itself, plus ``b_rest`` where
    ``to_haiku(…, exact=True)`` wrote one.

    Args:
        params: as ``init`` of haiku makes them; or the path of a safetensors file, whose names are paths such as
            ``lstm/linear/w``. float64 needs ``jax_enable_x64``.
        layers: the paths of the cells from the bottom up, where names do not tell, such as ``("encoder", "lstm")``.

    Returns:
        A model such as ``readout(embedding(stack(…), V, E), O)``, with as much of this as there is, and its params.

    Raises:
        ValueError: for names that are missing, that are not of such a model, or whose order is not clear; for shapes
            that do not fit.

    >>> model, params = from_haiku({"lstm/linear": {"w": np.ones((8, 20)), "b": np.zeros(20)}})
    >>> model, params.b_h.reshape(4, 5)[:, 0].tolist()
    (lstm(input_size=3, hidden_size=5), [0.0, 1.0, 0.0, 0.0])
    """
    require_paths(layers)
    modules: dict[str, dict[str, np.ndarray]] = {}
    for path, array in arrays_by_path("params", params, "those of haiku, {module: {name: array}}").items():
        module, _, name = path.replace(".", "/").rpartition("/")
        if not module:
            raise ValueError(f"params got {name} outside a module; want {{module: {{name: array}}}}")
        modules.setdefault(module, {})[name] = array
    cells = cells_among(modules, layers)
    if not cells:
        wanted = "a cell with the name lstm, gru or vanilla_rnn, or layers"
        raise ValueError(f"params got {listed(modules) or 'nothing'}; want {wanted}")
    recurrent = [(path, (part_of(path, cells[path]),)) for path in in_order("params", cells, layers)]
    taken = {module for path in cells for module in (path, f"{path}/linear", f"{path}/linear_1")} & modules.keys()
    others = {path: modules[path] for path in sorted(modules.keys() - taken)}
    for path, module in others.items():
        if module.keys() not in ({"embeddings"}, {"w"}, {"w", "b"}):
            wanted = "cells, an Embed and a Linear alone"
            raise ValueError(f"{path} got {listed(sorted(module))}; want {wanted}")
    embedding = readout = None
    if path := one_path("params", "an embedding", [path for path in others if "embeddings" in others[path]]):
        embedding = path, require_shape(f"{path}/embeddings", others[path]["embeddings"], None, None)
    if path := one_path("params", "a linear layer", [path for path in others if "w" in others[path]]):
        W = require_shape(f"{path}/w", others[path]["w"], None, None)
        if len(recurrent[0][1][0].params.W_xh) == W.shape[1] and is_in_front(path, taken, modules, [*modules]):
            raise ValueError(f"params got a linear layer, {path}, before the cells; want it behind all cells")
        b = others[path].get("b", np.zeros(W.shape[1], W.dtype))
        readout = path, (W, require_shape(f"{path}/b", b, W.shape[1]))
    return model_of_layers("params", Layers(recurrent, embedding, readout))


def cells_among(
    modules: Mapping[str, dict[str, np.ndarray]], layers: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """The arrays of each cell, by its path: of its own, or those of its modules ``linear`` and ``linear_1``."""
    cells: dict[str, dict[str, Any]] = {}
    for path, module in modules.items():
        above, _, last = path.rpartition("/")
        if module.keys() & {"w_i", "w_h"}:
            cells[path] = dict(module)
        elif last in ("linear", "linear_1") and (above in layers if layers is not None else NAME.fullmatch(above)):
            cells.setdefault(above, {}).update({f"{last}/{name}": array for name, array in module.items()})
    return cells


def part_of(path: str, arrays: dict[str, Any]) -> Part:
    """The cell with these arrays."""
    if "w_i" in arrays or "w_h" in arrays:
        require_names(path, arrays, {"w_i", "w_h", "b"})
        H = arrays["b"].size // 3
        w_i, w_h, b = (require_shape(f"{path}/{name}", arrays[name], *shape)
                       for name, shape in (("w_i", (None, 3 * H)), ("w_h", (H, 3 * H)), ("b", (3 * H,))))  # fmt: skip
        blocks: Any = (negated(reordered(W, "zrn", "rzn")) for W in (w_i, w_h, b))
        return Part("gru_reset_before", {}, GRUResetBeforeParams(*blocks))
    if any(name.startswith("linear_1/") for name in arrays):
        require_names(path, arrays, {"linear/w", "linear/b", "linear_1/w"}, {"linear_1/b"})
        H = arrays["linear/b"].size
        arrays = {"linear_1/b": np.zeros_like(arrays["linear/b"])} | arrays
        shapes = {"linear/w": (None, H), "linear_1/w": (H, H), "linear/b": (H,), "linear_1/b": (H,)}
        w_i, w_h, b, b_2 = (require_shape(f"{path}/{name}", arrays[name], *shape) for name, shape in shapes.items())
        return Part("vanilla", {"activation": "relu"}, VanillaParams(w_i, w_h, b + b_2))
    require_names(path, arrays, {"linear/w", "linear/b"}, {f"linear/{REST}"})
    H = arrays["linear/b"].size // 4
    w: Any = require_shape(f"{path}/linear/w", arrays["linear/w"], None, 4 * H)
    if not len(w) > H:
        raise ValueError(f"{path}/linear/w got {list(w.shape)}; want more than {H} rows, of inputs and of the state")
    b: Any = reordered(require_shape(f"{path}/linear/b", arrays["linear/b"], 4 * H), "igfo", "ifog")
    rest = require_shape(f"{path}/linear/{REST}", arrays.get(f"linear/{REST}", np.zeros(H, b.dtype)), H)
    b[H : 2 * H] = (b[H : 2 * H] + b.dtype.type(1)) + rest
    W: Any = reordered(w, "igfo", "ifog")
    return Part("lstm", {}, LSTMParams(W[:-H], W[-H:], b))


def negated(W: np.ndarray) -> np.ndarray:
    """The weights of gates r z n with those of z negated: σ(−a) = 1 − σ(a)."""
    r, z, n = np.split(W, 3, -1)
    return np.concatenate([r, -z, n], -1)


def to_haiku(model: Model, params: Params, *, exact: bool = False) -> dict[str, dict[str, Any]]:
    """The weights of haiku of a model, ``{module: {name: array}}``.

    The modules have the names that haiku gives to those of an ``hk.DeepRNN``: ``lstm/linear``, ``lstm_1/linear``,
    ``gru``, ``vanilla_rnn/linear``, with ``embed`` in front and ``linear`` behind. Cells of several kinds are
    ``layer_0``, ``layer_1``, …, as ``hk.LSTM(4, name="layer_0")`` has them. The second bias of a vanilla cell is 0.
    A ``cifg_lstm`` becomes an LSTM with the negated weights of the forget gate in its input gate: equal outputs, but
    training no longer couples them.

    Args:
        model: of ``vanilla`` (ReLU), ``gru_reset_before``, ``lstm`` or ``cifg_lstm`` cells, their stacks, with a linear
            ``readout`` and an ``embedding``.
        params: its params.
        exact: whether ``from_haiku`` gets back every bit. haiku adds 1 to the forget gate, so its bias is b_f − 1. It
            has fewer digits than b_f where that is small: in float32 up to 6e-8 is lost for |b_f| ≤ 1. With True
            this is kept as ``b_rest`` beside ``w`` and ``b``, where it is not 0; ``apply`` of haiku does not read it,
            and it belongs to these weights, not to those after more training. Without it the tree is that of ``init``
            of haiku, as optimizers and checkpoints need it.

    Returns:
        Arrays in the order of haiku: of an LSTM ``w (I + H, 4 H)`` and ``b (4 H,)``, gates i g f o; of a GRU
        ``w_i (I, 3 H)``, ``w_h (H, 3 H)`` and ``b (3 H,)``, gates z r n; of a vanilla cell ``w (I, H)`` and ``b (H,)``,
        then ``w (H, H)`` and ``b (H,)``; ``embeddings (V, E)``; of the readout ``w (H, O)`` and ``b (O,)``.

    Raises:
        ValueError: for a part that haiku does not have, with the reason; for params that are not those of the model.

    >>> from rnn_jax import lstm, readout
    >>> model = readout(lstm(3, 5), 2)
    >>> jax.tree.map(jnp.shape, to_haiku(model, model.init(jax.random.key(0))))
    {'linear': {'b': (2,), 'w': (5, 2)}, 'lstm/linear': {'b': (20,), 'w': (8, 20)}}

    Reference: Hennigan, Cai, Norman, Martens, Babuschkin. Haiku: sonnet for JAX. 2020.
    """
    require_switch(exact=exact)
    return weights_of_network(checked_network(model, params), exact)


def weights_of_network(network: Network, exact: bool = False) -> dict[str, dict[str, Any]]:
    """The weights of haiku of a network that it has."""
    found: dict[str, dict[str, np.ndarray]] = {}
    if network.embedding is not None:
        found["embed"] = {"embeddings": network.embedding}
    for name, (part,) in zip(names_of(network), network.layers, strict=True):
        for module, arrays in modules_of_part(part, exact).items():
            found[f"{name}{module}"] = arrays
    if network.readout is not None:
        found["linear"] = dict(zip("wb", network.readout, strict=True))
    return jax.tree.map(jnp.array, found)


def checked_network(model: Model, params: Params) -> Network:
    """The network of a model, with cells that haiku has; a ValueError for others."""
    network = network_for("haiku", model, params, KINDS, MISSING)
    for (part,) in network.layers:
        usual = {"activation": "relu"} if part.name == "vanilla" else {}
        for name, value in ({"activation": "tanh"} | part.options if part.name == "vanilla" else part.options).items():
            if value != usual.get(name):
                want = repr(usual[name]) if name in usual else "its default"
                raise ValueError(f"{name} got {value!r}; want {want}: {THEIRS[part.name]} of haiku has no other")
    return network


def names_of(network: Network) -> list[str]:
    """The names of the cells, from the bottom up: those of haiku where they tell the order."""
    kinds = {KINDS[part.name] for (part,) in network.layers}
    numbers = range(len(network.layers))
    if len(kinds) > 1:
        return [f"layer_{number}" for number in numbers]
    (kind,) = kinds
    return [f"{kind}_{number}" if number else kind for number in numbers]


def modules_of_part(part: Part, exact: bool) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of haiku of a cell, by the end of the path of their module."""
    p = part.params
    if part.name == "gru_reset_before":
        W = (reordered(negated(W), "rzn", "zrn") for W in p)
        return {"": dict(zip(("w_i", "w_h", "b"), W, strict=True))}
    if part.name == "vanilla":
        second = {"w": p.W_hh, "b": np.zeros_like(p.b_h)}
        return {"/linear": {"w": p.W_xh, "b": p.b_h}, "/linear_1": second}
    H = len(p.W_hh)
    b, one = np.array(p.b_h), p.b_h.dtype.type(1)
    b_f = b[H : 2 * H] - one
    with np.errstate(invalid="ignore"):
        rest = b[H : 2 * H] - (b_f + one)
    rest = np.where(np.isfinite(rest), rest, np.zeros_like(rest))  # of an infinite bias
    b[H : 2 * H] = b_f
    module = {"w": reordered(np.concatenate([p.W_xh, p.W_hh]), "ifog", "igfo"), "b": reordered(b, "ifog", "igfo")}
    return {"/linear": module | ({REST: rest} if exact and np.any(rest) else {})}


def haiku_function(model: Model, params: Params) -> tuple[Callable[[Any, PyTree], Any], dict[str, dict[str, Any]]]:
    """A function of haiku for a model, and its params: ``apply(params, xs (T, B, I)) -> ys (T, B, O)``.

    It unrolls an ``hk.DeepRNN`` of the cells and the ``hk.Linear``, behind the ``hk.Embed``. Ids ``(T, B)`` go in where
    it has an embedding, else vectors; without a batch, ``(T, I)`` or ``(T,)``.

    Args:
        model, params: as in ``to_haiku``.

    Returns:
        The function, and the weights of ``to_haiku``, whose tree is that of ``init`` of haiku.

    Raises:
        ValueError: as in ``to_haiku``, and where haiku is not installed.

    >>> from rnn_jax import lstm, readout
    >>> model = readout(lstm(3, 4), 2)
    >>> apply, weights = haiku_function(model, model.init(jax.random.key(0)))
    >>> with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # as JAX is without settings
    ...     apply(weights, jnp.ones((7, 2, 3))).shape
    (7, 2, 2)
    """
    hk = library("haiku", "dm-haiku")
    network = checked_network(model, params)

    def unrolled(xs: PyTree) -> Any:
        if network.embedding is not None:
            xs = hk.Embed(*network.embedding.shape)(xs)
        layers = [
            getattr(hk, THEIRS[part.name])(len(part.params.W_hh), name=name)
            for name, (part,) in zip(names_of(network), network.layers, strict=True)
        ]
        if network.readout is not None:
            layers.append(hk.Linear(network.readout[1].size))
        core = hk.DeepRNN(layers)
        start = core.initial_state(xs.shape[1] if xs.ndim == 3 else None)
        return hk.dynamic_unroll(core, xs, jax.tree.map(lambda h: h.astype(xs.dtype), start))[0]

    return hk.without_apply_rng(hk.transform(unrolled)).apply, weights_of_network(network)
