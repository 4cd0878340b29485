"""Haiku, live, in float64: its cores, unrolled over time; stacks, and resets at any step."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import conv_lstm, gru_reset_before, lstm, outputs, rollout, stack, vanilla
from rnn_jax.cells import ConvLSTMParams, GRUResetBeforeParams, LSTMParams, LSTMState, VanillaParams
from tests.conformance.cases import Case, Suite, gates, peer
from tests.conformance.jax_peers import B, H, I, Peer, Run, T, compared, lenient

NAME = "haiku, live"
RESETS = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]], bool)  # (T, B)


def one_added(order: str) -> Any:
    """1 for the gate f: haiku adds it to the sum of f, ours holds it in the bias."""
    return jnp.concatenate([jnp.full(H, float(gate == "f")) for gate in order])


def vanilla_params(w: Any) -> VanillaParams:
    """Two biases, which are added."""
    x, h = w["linear"], w["linear_1"]
    return VanillaParams(x["w"], h["w"], x["b"] + h["b"])


def lstm_params(w: Any) -> LSTMParams:
    """One matrix that reads (x, h); gates i g f o."""
    W, b = w["linear"]["w"], w["linear"]["b"] + one_added("igfo")
    W_xh, W_hh = jnp.split(W, [len(W) - H])
    return LSTMParams(*(gates(a, "igfo", "ifog") for a in (W_xh, W_hh, b)))


def gru_params(w: Any) -> GRUResetBeforeParams:
    """Gates z r n, where z writes and ours keeps: its weights are negated, as 1 − σ(a) = σ(−a)."""
    sign = jnp.concatenate([jnp.full(H, 1.0), jnp.full(H, -1.0), jnp.full(H, 1.0)])
    arrays = (gates(w["gru"][name], "zrn", "rzn") for name in ("w_i", "w_h", "b"))
    return GRUResetBeforeParams(*(a * jnp.broadcast_to(sign, a.shape) for a in arrays))


def conv_params(w: Any) -> ConvLSTMParams:
    """Two biases, which are added; gates i g f o."""
    x, h = w["input_to_hidden"], w["hidden_to_hidden"]
    arrays = x["w"], h["w"], x["b"] + h["b"] + one_added("igfo")
    return ConvLSTMParams(*(gates(a, "igfo", "ifog") for a in arrays))


def named(weights: Any) -> Any:
    """Weights by the last name of their module: those of the core itself, or of its parts."""
    return {path.split("/")[-1]: arrays for path, arrays in weights.items()}


def state_of(state: Any) -> Any:
    """Their LSTM's state (hidden, cell) as ours."""
    return LSTMState(*state) if hasattr(state, "hidden") else state


def as_theirs(like: Any, state: Any) -> Any:
    """Our state as theirs."""
    return jax.tree.structure(like).unflatten(jax.tree.leaves(state))


def ours(cell: Any, to_params: Callable[[Any], Any], resets: Any = None) -> Run:
    """The rollout of our cell on their weights."""

    def run(weights: Any, states: Any, xs: Any) -> Any:
        params, h0 = to_params(weights), jax.tree.map(state_of, states, is_leaf=lambda s: hasattr(s, "hidden"))
        h_T, hs = rollout(cell, params, h0, xs, resets=resets)
        return outputs(cell, params, hs), as_theirs(states, h_T)

    return run


def transformed(core: Callable[[], Any], resets: Any = None) -> Any:
    """Their core, unrolled, as a pair of functions of weights."""
    haiku = peer("haiku")

    def unrolled(xs: Any, state: Any) -> Any:
        made = core() if resets is None else haiku.ResetCore(core())
        return haiku.dynamic_unroll(made, xs if resets is None else (xs, jnp.asarray(resets)), state)

    return haiku.without_apply_rng(haiku.transform(unrolled))


def deep_params(weights: Any) -> Any:
    """Those of an LSTM, and of a GRU that reads it."""
    return lstm_params(named({k: w for k, w in weights.items() if "lstm" in k})), gru_params(
        named({k: w for k, w in weights.items() if "gru" in k})
    )


def peers() -> Iterator[Peer]:
    """Recurrent cores of haiku, a stack of two, and resets."""
    haiku, h = peer("haiku"), jnp.zeros((B, H))
    zeros = haiku.LSTMState(h, h)
    plain: Any = lambda f: lambda weights: f(named(weights))  # noqa: E731
    kinds: list[tuple[str, Callable[[], Any], Any, Any, Callable[[Any], Any], Any, tuple[int, ...]]] = [
        ("VanillaRNN", lambda: haiku.VanillaRNN(H), h, vanilla(I, H, activation="relu"), vanilla_params, None, ()),
        ("LSTM", lambda: haiku.LSTM(H), zeros, lstm(I, H), lstm_params, None, ()),
        ("GRU", lambda: haiku.GRU(H), h, gru_reset_before(I, H), gru_params, None, ()),
        ("ResetCore of LSTM", lambda: haiku.LSTM(H), zeros, lstm(I, H), lstm_params, RESETS, ()),
    ]
    for space in ((4,), (3, 4)):
        core = getattr(haiku, f"Conv{len(space)}DLSTM")
        states = haiku.LSTMState(*[jnp.zeros((B, *space, H))] * 2)
        make = lambda core=core, space=space: core(space, H, 3)  # noqa: E731
        kinds.append((core.__name__, make, states, conv_lstm(I, H, space=space), conv_params, None, space))
    for name, core, states, cell, to_params, resets, space in kinds:
        yield peer_of(name, core, states, ours(cell, plain(to_params), resets), resets, space)
    both = lambda: haiku.DeepRNN([haiku.LSTM(H), haiku.GRU(H)])  # noqa: E731
    cell = stack(lstm(I, H), gru_reset_before(H, H))
    yield peer_of("DeepRNN of LSTM and GRU", both, (zeros, h), ours(cell, deep_params), None, ())


def peer_of(name: str, core: Any, states: Any, run: Run, resets: Any, space: tuple[int, ...]) -> Peer:
    """A core with the shapes of its weights."""
    pair = transformed(core, resets)
    with lenient():
        weights = jax.eval_shape(pair.init, jax.random.key(0), jnp.zeros((T, B, *space, I)), states)
    return Peer(name, weights, states, lambda w, h, xs: pair.apply(w, xs, h), run, space=space)


def cases() -> Iterator[Case]:
    """The quantities of each."""
    for seed, each in enumerate(peers()):
        yield from compared(NAME, each, seed)


SUITE = Suite(
    NAME,
    "haiku, `hk.VanillaRNN`, `LSTM`, `GRU`, `Conv1DLSTM`, `Conv2DLSTM`, `ResetCore`, `DeepRNN`",
    "outputs, last states and all gradients, float64: cores, a stack, resets at any step",
    cases,
    ("haiku",),
    cells=("vanilla", "gru_reset_before", "lstm", "conv_lstm", "stack"),
)
