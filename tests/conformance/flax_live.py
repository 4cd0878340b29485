"""Flax, linen and nnx, live, in float64: its cells in its ``RNN`` and ``Bidirectional``, ragged and reversed."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import bidirectional, cell_from_step, conv_lstm, gru, lstm, ugrnn, vanilla
from rnn_jax.cells import ConvLSTMParams, GRUParams, LSTMParams, LSTMState, UGRNNParams, VanillaParams
from rnn_jax.layers import BothWays, Layer, as_layer
from tests.conformance.cases import DIRECTLY, OWN, Case, Suite, gates, peer
from tests.conformance.jax_peers import LENGTHS, B, H, I, Peer, Run, compared, lenient

LINEN, NNX = "flax linen, live", "flax nnx, live"


def beside(blocks: Any, names: str, part: str, prefix: str) -> Any:
    """The blocks of linen's gates, next to each other."""
    return jnp.concatenate([blocks[prefix + name][part] for name in names], axis=-1)


def simple_params(w: Any) -> VanillaParams:
    return VanillaParams(w["i"]["kernel"], w["h"]["kernel"], w["i"]["bias"])


def lstm_params(w: Any) -> LSTMParams:
    return LSTMParams(
        *(beside(w, "ifog", part, side) for side, part in (("i", "kernel"), ("h", "kernel"), ("h", "bias")))
    )


def gru_params(w: Any) -> GRUParams:
    kernels = beside(w, "rzn", "kernel", "i"), beside(w, "rzn", "kernel", "h")
    return GRUParams(*kernels, beside(w, "rzn", "bias", "i"), w["hn"]["bias"])


def ugrnn_params(w: Any) -> UGRNNParams:
    """Without its reset gate linen's minimal gated unit is the update gate network: f keeps, as z does."""
    return UGRNNParams(
        *(beside(w, "fn", part, side) for side, part in (("i", "kernel"), ("h", "kernel"), ("i", "bias")))
    )


def conv_params(w: Any) -> ConvLSTMParams:
    """Gates i g f o; a bias of each side, and 1 is added to f."""
    one = jnp.concatenate([jnp.full(H, float(gate == "f")) for gate in "igfo"])
    arrays = w["ih"]["kernel"], w["hh"]["kernel"], w["ih"]["bias"] + w["hh"]["bias"] + one
    return ConvLSTMParams(*(gates(a, "igfo", "ifog") for a in arrays))


def mgu_step(w: Any, h: Any, x: Any) -> Any:
    """Linen's minimal gated unit: f keeps, and resets after the product; ours writes by f, and resets before."""
    f = jax.nn.sigmoid(x @ w["if"]["kernel"] + jnp.broadcast_to(w["if"]["bias"], h.shape) + h @ w["hf"]["kernel"])
    inner = h @ w["hn"]["kernel"] + jnp.broadcast_to(w["hn"]["bias"], h.shape)
    n = jnp.tanh(x @ w["in"]["kernel"] + jnp.broadcast_to(w["in"]["bias"], h.shape) + f * inner)
    return (1 - f) * n + f * h


def residual_step(w: Any, h: Any, x: Any) -> Any:
    """Linen's simple cell with ``residual``: the state is added inside the activation."""
    u = x @ w["i"]["kernel"] + jnp.broadcast_to(w["i"]["bias"], h.shape)
    return jnp.tanh(u + h @ w["h"]["kernel"] + h)


def nothing(key: Any) -> None:
    """The params of a cell whose weights are always given."""


def zeros(params: Any, batch_shape: tuple[int, ...] = ()) -> Any:
    return jnp.zeros((*batch_shape, H))


mgu, residual = (cell_from_step(nothing, zeros, step) for step in (mgu_step, residual_step))


def in_order(state: Any) -> Any:
    """Their carry (c, h) as our state, and ours as theirs."""
    if isinstance(state, LSTMState):
        return (state.c, state.h)
    return LSTMState(state[1], state[0]) if isinstance(state, tuple) else state


def ours(layer: Layer, to_params: Callable[[Any], Any], lengths: Any) -> Run:
    """A layer of one direction, on their weights."""

    def run(weights: Any, states: Any, xs: Any) -> Any:
        h_T, ys = layer.apply(to_params(weights), in_order(states), xs, lengths=lengths)
        return ys, in_order(h_T)

    return run


def ours_both(layer: Layer, to_params: Callable[[Any], Any]) -> Run:
    """A layer of both directions, on their weights."""

    def run(weights: Any, states: Any, xs: Any) -> Any:
        h0 = BothWays(*map(in_order, states))
        h_T, ys = layer.apply(BothWays(*map(to_params, weights)), h0, xs, lengths=LENGTHS)
        return ys, tuple(map(in_order, h_T))

    return run


def linen_run(module: Any, unflatten: Callable[[Any], Any], **options: Any) -> Run:
    """Their layer of linen; ``unflatten`` names the weights as the module does."""

    def run(weights: Any, states: Any, xs: Any) -> Any:
        last, ys = module.apply({"params": unflatten(weights)}, xs, initial_carry=states, **options)
        return ys, last

    return run


def shapes_of(cell: Any, space: tuple[int, ...] = ()) -> tuple[Any, Any]:
    """Weights and the first carry of a cell of linen."""

    def init(x: Any) -> Any:
        carry = cell.initialize_carry(jax.random.key(0), x.shape)
        return cell.init(jax.random.key(0), carry, x)["params"], carry

    with lenient():
        return jax.eval_shape(init, jnp.zeros((B, *space, I)))


def linen_peers() -> Iterator[Peer]:
    """Every recurrent cell of linen, ragged; some reversed, and both directions."""
    nn = peer("flax.linen")
    kinds: list[tuple[Any, Any, Callable[[Any], Any], str]] = [
        (nn.SimpleCell(H), vanilla(I, H), simple_params, DIRECTLY),
        (nn.SimpleCell(H, residual=True), residual, lambda w: w, OWN),
        (nn.LSTMCell(H), lstm(I, H), lstm_params, DIRECTLY),
        (nn.OptimizedLSTMCell(H), lstm(I, H), lstm_params, DIRECTLY),
        (nn.GRUCell(H), gru(I, H), gru_params, DIRECTLY),
        (nn.MGUCell(H), mgu, lambda w: w, OWN),
        (nn.MGUCell(H, reset_gate=False), ugrnn(I, H), ugrnn_params, DIRECTLY),
    ]
    whole: Any = {"time_major": True, "return_carry": True}
    for cell, mine, to_params, how in kinds:
        weights, carry = shapes_of(cell)
        title = f"{type(cell).__name__}{' residual' * (mine is residual)}{' without reset' * (mine is ugrnn(I, H))}"
        for reverse in (False, True) if type(cell).__name__ == "GRUCell" else (False,):
            theirs = linen_run(
                nn.RNN(cell, **whole), lambda w: {"cell": w}, seq_lengths=LENGTHS, reverse=reverse, keep_order=True
            )
            run = ours(as_layer(mine, reverse=reverse), to_params, LENGTHS)
            yield Peer(f"{title}{', reversed' * reverse}", weights, carry, theirs, run, how, LENGTHS)
        if type(cell).__name__ == "OptimizedLSTMCell":
            module = nn.Bidirectional(nn.RNN(cell), nn.RNN(cell.clone()), **whole)
            theirs = linen_run(
                module, lambda w: dict(zip(("forward_rnn", "backward_rnn"), ({"cell": a} for a in w), strict=True)),
                seq_lengths=LENGTHS,
            )  # fmt: skip
            run = ours_both(bidirectional(mine, mine), to_params)
            yield Peer(f"{title}, both directions", (weights,) * 2, (carry,) * 2, theirs, run, how, LENGTHS)
    cell, space = nn.ConvLSTMCell(H, (3, 3)), (3, 4)
    weights, carry = shapes_of(cell, space)
    run = ours(as_layer(conv_lstm(I, H, space=space)), conv_params, None)
    yield Peer(
        "ConvLSTMCell", weights, carry, linen_run(nn.RNN(cell, **whole), lambda w: {"cell": w}), run, space=space
    )


def nnx_simple(w: Any) -> VanillaParams:
    return VanillaParams(w["dense_i"]["kernel"], w["dense_h"]["kernel"], w["dense_i"]["bias"])


def nnx_lstm(w: Any) -> LSTMParams:
    """The gate f is called ``if_`` on the side of the input."""
    return lstm_params({name.removesuffix("_"): blocks for name, blocks in w.items()})


def nnx_optimized_lstm(w: Any) -> LSTMParams:
    arrays = w["dense_i"]["kernel"], w["dense_h"]["kernel"], w["dense_h"]["bias"]
    return LSTMParams(*(gates(a, "ifgo", "ifog") for a in arrays))


def nnx_gru(w: Any) -> GRUParams:
    """Gates r z n, and no second bias."""
    return GRUParams(w["dense_i"]["kernel"], w["dense_h"]["kernel"], w["dense_i"]["bias"], jnp.zeros(H))


def nnx_run(nnx: Any, graph: Any, **options: Any) -> Run:
    """Their layer of nnx with these weights."""

    def run(weights: Any, states: Any, xs: Any) -> Any:
        state = nnx.State(jax.tree.map(nnx.Param, {"cell": weights}))
        last, ys = nnx.merge(graph, state)(xs, initial_carry=states, **options)
        return ys, last

    return run


def nnx_peers() -> Iterator[Peer]:
    """Every recurrent cell of nnx, ragged; two of them reversed."""
    nnx = peer("flax.nnx")
    kinds: list[tuple[str, Any, Callable[[Any], Any], bool]] = [
        ("SimpleCell", vanilla(I, H), nnx_simple, False),
        ("LSTMCell", lstm(I, H), nnx_lstm, False),
        ("OptimizedLSTMCell", lstm(I, H), nnx_optimized_lstm, True),
        ("GRUCell", gru(I, H), nnx_gru, True),
    ]
    for name, mine, to_params, reverse in kinds:
        cell = getattr(nnx, name)(I, H, rngs=nnx.Rngs(0), dtype=jnp.float64, param_dtype=jnp.float64)
        module = nnx.RNN(cell, time_major=True, return_carry=True, rngs=False)
        graph, state, _ = nnx.split(module, nnx.Param, ...)
        weights = nnx.to_pure_dict(state)["cell"]
        carry = (np.zeros((B, H)),) * 2 if "LSTM" in name else np.zeros((B, H))
        theirs = nnx_run(nnx, graph, seq_lengths=LENGTHS, reverse=reverse, keep_order=True)
        run = ours(as_layer(mine, reverse=reverse), to_params, LENGTHS)
        yield Peer(f"{name}{', reversed' * reverse}", weights, carry, theirs, run, DIRECTLY, LENGTHS)


def cases(name: str, peers: Callable[[], Iterator[Peer]]) -> Iterator[Case]:
    """The quantities of each."""
    for seed, each in enumerate(peers()):
        yield from compared(name, each, seed)


WHAT = "outputs, last states and all gradients, float64: every recurrent cell, ragged lengths, reversed"

SUITES = (
    Suite(
        LINEN,
        "flax, `flax.linen`",
        f"{WHAT}, both directions",
        partial(cases, LINEN, linen_peers),
        ("flax.linen",),
        cells=("vanilla", "gru", "lstm", "ugrnn", "conv_lstm", "bidirectional"),
    ),
    Suite(
        NNX,
        "flax, `flax.nnx`",
        WHAT,
        partial(cases, NNX, nnx_peers),
        ("flax.nnx",),
        cells=("vanilla", "gru", "lstm"),
    ),
)
