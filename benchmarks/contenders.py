"""The contenders: the same rollout by hand, by a cell of one's own, and by other libraries, each in its usual form.

The weights of ours are copied into each whose equations are the same, so that the numbers must be equal. Libraries are
imported when they are needed; those that are not installed are left out.
"""

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, PyTree

from benchmarks.bench_eager import eager_program
from benchmarks.bench_rollout import CELLS, MODES, Roll, by_hand, by_rollout, zero_state
from benchmarks.timing import Program, compile_program
from rnn_jax import cell_from_step
from rnn_jax.types import Cell

GATES = {"vanilla": "h", "gru": "rzn", "lstm": "ifog"}
"""The gates of our cells in the order of the columns of their weights."""


class Point(NamedTuple):
    """The task of one point of the grid."""

    name: str
    """A name in ``CELLS``."""
    cell: Cell
    params: Any
    xs: Array
    """``(T, B, I)``."""
    schedule: str


class Contender(NamedTuple):
    """One of those that are timed: a function from a mode, a name in ``MODES``, to a program."""

    program: Callable[[str], Program]
    """Its result is ``(last state, hidden outputs)``, or the gradient of the params."""
    same: bool = True
    """Whether its equations and weights are ours, and so its numbers."""
    same_params: bool = False
    """Whether its params are also the same arrays in the same order."""
    batch_leads: bool = False
    """Whether its inputs and hidden outputs are ``(B, T, …)``."""


class MissingError(Exception):
    """A contender that this process cannot have; the message is the reason."""


def compiled(roll: Roll, params: Any, xs: Array) -> Callable[[str], Program]:
    """The programs of a roll of JAX."""
    return lambda mode: compile_program(MODES[mode](roll), params, xs)


def ours(point: Point) -> Contender:
    """``rollout`` inside ``jit``."""
    return Contender(compiled(by_rollout(point.cell, point.schedule), point.params, point.xs), same_params=True)


def eager(point: Point) -> Contender:
    """``rollout`` and its gradient called outside ``jit``."""
    roll = by_rollout(point.cell, point.schedule)
    return Contender(lambda mode: eager_program(lambda: MODES[mode](roll)(point.params, point.xs)), same_params=True)


def own_cell(point: Point) -> Contender:
    """``rollout`` of the step by hand, as a user would write it, with a tuple of params."""
    pair = CELLS[point.name]

    def start(params: Any, batch_shape: tuple[int, ...] = ()) -> Any:
        return zero_state(pair, params, batch_shape)

    cell = cell_from_step(
        lambda key: tuple(point.cell.init(key)), start, pair.step, lambda params, h: jax.tree.leaves(h)[0]
    )
    return Contender(compiled(by_rollout(cell, point.schedule), tuple(point.params), point.xs), same_params=True)


def scan_by_hand(unroll: int) -> Callable[[Point], Contender]:
    """The step by hand in ``lax.scan``, so many steps in one iteration."""
    return lambda point: Contender(
        compiled(by_hand(CELLS[point.name], unroll), tuple(point.params), point.xs), same_params=True
    )


def blocks(W: Array, gates: str) -> dict[str, Array]:
    """The columns of each gate, by its letter."""
    return dict(zip(gates, jnp.split(W, len(gates), axis=-1), strict=True))


def columns(point: Point, gates: str) -> tuple[Array, Array, Array, Array]:
    """W_xh, W_hh, b_h and, of a GRU, the bias of n after the product, with the gates in another order."""
    W_xh, W_hh, b_h, *b_n = point.params
    ordered = [jnp.concatenate([blocks(W, GATES[point.name])[g] for g in gates], axis=-1) for W in (W_xh, W_hh, b_h)]
    after = jnp.zeros_like(ordered[2])
    if b_n:
        after = jnp.concatenate([b_n[0] if g == "n" else jnp.zeros_like(b_n[0]) for g in gates])
    return ordered[0], ordered[1], ordered[2], after


def library(name: str) -> Any:
    """A module by its name; ``MissingError`` where it is not installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingError(f"{error.name} is not installed") from error


def flax_nnx(point: Point) -> Contender:
    """``flax.nnx.RNN`` over its cells; its GRU has no bias after the product."""
    nnx: Any = library("flax.nnx")
    I, H = point.params.W_xh.shape[0], point.params.W_hh.shape[0]
    make = {"vanilla": nnx.SimpleCell, "gru": nnx.GRUCell, "lstm": nnx.OptimizedLSTMCell}[point.name]
    cell = make(I, H, rngs=nnx.Rngs(0))
    W_xh, W_hh, b_h, _ = columns(point, {"vanilla": "h", "gru": "rzn", "lstm": "ifgo"}[point.name])
    cell.dense_i.kernel[...], cell.dense_h.kernel[...] = W_xh, W_hh
    (cell.dense_h if point.name == "lstm" else cell.dense_i).bias[...] = b_h
    graph, params = nnx.split(nnx.RNN(cell, time_major=True, rngs=False))
    zeros = jnp.zeros((point.xs.shape[1], H), jnp.float32)

    def roll(params: Any, xs: Array) -> tuple[PyTree, Array]:
        return (), nnx.merge(graph, params)(xs, initial_carry=(zeros, zeros) if point.name == "lstm" else zeros)

    return Contender(compiled(roll, params, point.xs), same=point.name != "gru")


def flax_linen(point: Point) -> Contender:
    """``flax.linen.RNN`` over its cells."""
    nn: Any = library("flax.linen")
    H = point.params.W_hh.shape[0]
    x, h, b = (blocks(W, GATES[point.name]) for W in point.params[:3])
    if point.name == "vanilla":
        cell, weights = nn.SimpleCell(H), {"i": {"kernel": x["h"], "bias": b["h"]}, "h": {"kernel": h["h"]}}
    elif point.name == "gru":
        cell, weights = nn.GRUCell(H), {f"i{g}": {"kernel": x[g], "bias": b[g]} for g in "rzn"}
        weights |= {f"h{g}": {"kernel": h[g]} for g in "rz"}
        weights["hn"] = {"kernel": h["n"], "bias": point.params.b_n}
    else:
        cell, weights = nn.OptimizedLSTMCell(H), {f"i{g}": {"kernel": x[g]} for g in "ifgo"}
        weights |= {f"h{g}": {"kernel": h[g], "bias": b[g]} for g in "ifgo"}
    model = nn.RNN(cell, time_major=True)

    def roll(params: Any, xs: Array) -> tuple[PyTree, Array]:
        return (), model.apply(params, xs)

    return Contender(compiled(roll, {"params": {"cell": weights}}, point.xs))


def haiku(point: Point) -> Contender:
    """``haiku.dynamic_unroll``; its vanilla cell is a ReLU, and its GRU resets before the product."""
    hk: Any = library("haiku")
    H, B = point.params.W_hh.shape[0], point.xs.shape[1]

    def unrolled(xs: Array) -> Array:
        core = {"vanilla": hk.VanillaRNN, "gru": hk.GRU, "lstm": hk.LSTM}[point.name](H)
        return hk.dynamic_unroll(core, xs, core.initial_state(B))[0]

    model = hk.without_apply_rng(hk.transform(unrolled))
    params = model.init(jax.random.key(0), point.xs)
    if point.name == "lstm":
        W_xh, W_hh, b_h, _ = columns(point, "igfo")
        b_h = b_h.at[2 * H : 3 * H].add(-1)  # which it adds to the forget gate itself
        params = {"lstm/linear": {"w": jnp.concatenate([W_xh, W_hh]), "b": b_h}}

    def roll(params: Any, xs: Array) -> tuple[PyTree, Array]:
        return (), model.apply(params, xs)

    return Contender(compiled(roll, params, point.xs), same=point.name == "lstm")


def equinox(point: Point) -> Contender:
    """The cells of equinox, which read one example, under ``vmap`` in ``lax.scan``."""
    nn: Any = library("equinox.nn")
    if point.name == "vanilla":
        raise MissingError("equinox has no vanilla cell")
    (I, _), (H, _), B = point.params.W_xh.shape, point.params.W_hh.shape, point.xs.shape[1]
    W_xh, W_hh, b_h, _ = columns(point, {"gru": "rzn", "lstm": "ifgo"}[point.name])
    blank = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}[point.name](I, H, key=jax.random.key(0))
    order = [W_xh.T, W_hh.T, b_h, *point.params[3:]]
    cell = jax.tree.unflatten(jax.tree.structure(blank), order)

    def roll(cell: Any, xs: Array) -> tuple[PyTree, Array]:
        def step(state: Any, x: Array) -> tuple[Any, Array]:
            state = jax.vmap(cell)(x, state)
            return state, jax.tree.leaves(state)[0]

        zeros = jnp.zeros((B, H), xs.dtype)
        return lax.scan(step, (zeros, zeros) if point.name == "lstm" else zeros, xs)

    return Contender(compiled(roll, cell, point.xs))


def keras(point: Point) -> Contender:
    """A layer of Keras on JAX by ``stateless_call``; its batch leads, in inputs and outputs."""
    os.environ["KERAS_BACKEND"] = "jax"
    layers: Any = library("keras.layers")
    make = {"vanilla": layers.SimpleRNN, "gru": layers.GRU, "lstm": layers.LSTM}[point.name]
    layer = make(point.params.W_hh.shape[0], return_sequences=True)
    xs = jnp.swapaxes(point.xs, 0, 1)
    layer.build(xs.shape)
    W_xh, W_hh, b_h, after = columns(point, {"vanilla": "h", "gru": "zrn", "lstm": "ifgo"}[point.name])
    weights = [W_xh, W_hh, jnp.stack([b_h, after]) if point.name == "gru" else b_h]
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def roll(weights: Any, xs: Array) -> tuple[PyTree, Array]:
        return (), layer.stateless_call(weights, fixed, xs)[0]

    return Contender(compiled(roll, weights, xs), batch_leads=True)


def pytorch(point: Point) -> Contender:
    """A layer of PyTorch on all cores, or with cuDNN where JAX computes on a GPU; time leads."""
    torch: Any = library("torch")
    device = "cpu"
    if jax.default_backend() == "gpu":
        if not torch.cuda.is_available():
            raise MissingError("torch has no GPU")
        device = "cuda"
    torch.set_num_threads(os.cpu_count() or 1)
    make = {"vanilla": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[point.name]
    layer = make(point.params.W_xh.shape[0], point.params.W_hh.shape[0]).to(device)
    W_xh, W_hh, b_h, after = columns(point, {"vanilla": "h", "gru": "rzn", "lstm": "ifgo"}[point.name])
    with torch.no_grad():
        for theirs, W in zip(layer.parameters(), (W_xh.T, W_hh.T, b_h, after), strict=True):
            theirs.copy_(torch.tensor(np.asarray(W)))
    xs = torch.tensor(np.asarray(point.xs)).to(device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def forward() -> tuple[tuple[()], Any]:
        with torch.no_grad():
            hs, _ = layer(xs)
        wait()
        return (), hs

    def backward() -> list[Any]:
        hs, _ = layer(xs)
        grads = torch.autograd.grad(hs.square().sum(), list(layer.parameters()))
        wait()
        return list(grads)

    return Contender(lambda mode: eager_program({"forward": forward, "forward+backward": backward}[mode]))


def cudnn(point: Point) -> Contender:
    """``jax.experimental.rnn``, the LSTM of cuDNN on JAX; its batch leads, and its weights are its own."""
    if jax.default_backend() != "gpu" or point.name != "lstm":
        raise MissingError("the LSTM of jax.experimental.rnn needs cuDNN")
    rnn: Any = library("jax.experimental.rnn")
    (I, _), (H, _), (T, B, _) = point.params.W_xh.shape, point.params.W_hh.shape, point.xs.shape
    zeros, lengths = jnp.zeros((1, B, H), jnp.float32), jnp.full(B, T, jnp.int32)

    def roll(weights: Array, xs: Array) -> tuple[PyTree, Array]:
        return (), rnn.lstm(xs, zeros, zeros, weights, lengths, I, H, 1, 0.0, False)[0]

    weights = rnn.init_lstm_weight(jax.random.key(0), I, H, 1, False)
    return Contender(compiled(roll, weights, jnp.swapaxes(point.xs, 0, 1)), same=False, batch_leads=True)


CONTENDERS: dict[str, Callable[[Point], Contender]] = {
    "ours": ours,
    "lax.scan": scan_by_hand(1),
    "lax.scan, unroll 8": scan_by_hand(8),
    "own cell": own_cell,
    "ours outside jit": eager,
    "flax nnx": flax_nnx,
    "flax linen": flax_linen,
    "haiku": haiku,
    "equinox": equinox,
    "Keras": keras,
    "PyTorch": pytorch,
    "cuDNN by JAX": cudnn,
}
"""Ours first."""


def contenders_of(point: Point) -> tuple[dict[str, Contender], dict[str, str]]:
    """The contenders of a point by name, and the reasons why others are missing."""
    found, missing = {}, {}
    for name, make in CONTENDERS.items():
        try:
            found[name] = make(point)
        except MissingError as reason:
            missing[name] = str(reason)
    return found, missing


def order(turn: int, number: int) -> list[int]:
    """The order of ``number`` contenders in a round: each is first, and follows each other, equally often in 2·number.

    So none always runs after one that fills the caches or leaves threads behind. Williams 1949, balanced Latin squares.
    """
    row = [((k + 1) // 2 if k % 2 else -(k // 2)) + turn for k in range(number)]
    return [k % number for k in (row if turn // number % 2 == 0 else row[::-1])]
