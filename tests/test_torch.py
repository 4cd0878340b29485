"""Cells and layers against PyTorch, in float64: outputs, last states, and the gradients of all that goes in.

Ours run on torch's weights in torch's layout, so that autograd and ``jax.grad`` differentiate by the same arrays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bidirectional, gru, length_mask, lstm, projected_lstm, stack, vanilla
from rnn_jax.cells import GRUParams, LSTMParams, ProjectedLSTMParams, VanillaParams
from rnn_jax.layers import Layer, as_layer
from tests.oracles import checked

T, B, I, H, P = 6, 3, 2, 5, 4
LENGTHS = np.array([3, 6, 1])  # not sorted: torch turns its batch over and back

WHAT = "outputs, last states and all gradients, float64"
RAGGED = f"ragged lengths: {WHAT}"


class Case(NamedTuple):
    """A layer of ours, and what it is called in ``torch.nn``."""

    layer: Layer
    peer: str
    options: dict[str, Any]
    tolerance: float


class Numbers(NamedTuple):
    """What goes in, and how what comes out is weighed in the loss; all in torch's layout, which leads with time."""

    weights: list[list[np.ndarray]]
    """Those of each direction of each layer."""
    states: tuple[np.ndarray, ...]
    """h_0, or h_0 and c_0: ``(layers · directions, B, …)``."""
    xs: np.ndarray
    weigh: tuple[np.ndarray, ...]
    """Of the outputs, with zeros past the end of each sequence, and of each last state."""


CASES = {
    "lstm": Case(as_layer(lstm(I, H)), "LSTM", {}, checked("lstm", "PyTorch 2 nn.LSTM", WHAT, 1e-9)),
    "projected lstm": Case(
        as_layer(projected_lstm(I, H, projection_size=P)),
        "LSTM",
        {"proj_size": P},
        checked("projected_lstm", "PyTorch 2 nn.LSTM with proj_size", WHAT, 1e-9),
    ),
    "vanilla tanh": Case(as_layer(vanilla(I, H)), "RNN", {}, checked("vanilla", "PyTorch 2 nn.RNN, tanh", WHAT, 1e-9)),
    "vanilla relu": Case(
        as_layer(vanilla(I, H, activation="relu")),
        "RNN",
        {"nonlinearity": "relu"},
        checked("vanilla", "PyTorch 2 nn.RNN, relu", WHAT, 1e-9),
    ),
    "stack of gru": Case(
        as_layer(stack(gru(I, H), gru(H, H))),
        "GRU",
        {"num_layers": 2},
        checked("stack", "PyTorch 2 nn.GRU of two layers", WHAT, 1e-9),
    ),
}

DEEP = "PyTorch 2 nn.LSTM, bidirectional, of two layers, packed"
RAGGED_CASES = {
    "gru": Case(as_layer(gru(I, H)), "GRU", {}, checked("gru", "PyTorch 2 nn.GRU, packed", RAGGED, 1e-9)),
    "stack of bidirectional lstm": Case(
        stack(bidirectional(lstm(I, H), lstm(I, H)), bidirectional(lstm(2 * H, H), lstm(2 * H, H))),
        "LSTM",
        {"num_layers": 2, "bidirectional": True},
        max(checked(name, DEEP, RAGGED, 1e-9) for name in ("bidirectional", "stack")),
    ),
}


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed: pip install -e .[peers]")


def lstm_from_torch(W_ih, W_hh, b_ih, b_hh) -> LSTMParams:
    """Gates i f g o along the first axis, and a second bias."""

    def ifog(W):
        i, f, g, o = jnp.split(W.T, 4, axis=-1)
        return jnp.concatenate([i, f, o, g], axis=-1)

    return LSTMParams(ifog(W_ih), ifog(W_hh), ifog(b_ih + b_hh))


def gru_from_torch(W_ih, W_hh, b_ih, b_hh) -> GRUParams:
    """Gates r z n along the first axis; only the candidate's second bias is not the same as the first."""
    b_r, b_z, b_n = jnp.split(b_hh, 3)
    return GRUParams(W_ih.T, W_hh.T, b_ih + jnp.concatenate([b_r, b_z, jnp.zeros_like(b_n)]), b_n)


FROM_TORCH: dict[type, Callable] = {
    LSTMParams: lstm_from_torch,
    ProjectedLSTMParams: lambda *W: ProjectedLSTMParams(*lstm_from_torch(*W[:4]), W_hp=W[4].T),
    GRUParams: gru_from_torch,
    VanillaParams: lambda W_ih, W_hh, b_ih, b_hh: VanillaParams(W_ih.T, W_hh.T, b_ih + b_hh),
}


def ours(layer: Layer, numbers: Numbers, lengths: np.ndarray | None):
    """Loss, outputs, last states, and gradients with respect to torch's weights, the states and the inputs."""
    blank = jax.eval_shape(layer.init, jax.random.key(0))
    runs, shape = jax.tree.flatten(blank, is_leaf=lambda node: hasattr(node, "W_xh"))

    def loss(weights, states, xs, lengths):
        params = shape.unflatten([FROM_TORCH[type(run)](*W) for run, W in zip(runs, weights, strict=True)])
        parts = len(states)  # h, or h and c; those of each run after those of the run before
        h0 = jax.tree.structure(layer.start(params)).unflatten([a for run in zip(*states, strict=True) for a in run])
        h_T, ys = layer.apply(params, h0, xs, lengths=lengths)
        last = tuple(jnp.stack(jax.tree.leaves(h_T)[part::parts]) for part in range(parts))
        total = sum(jnp.sum(w * a) for w, a in zip(numbers.weigh, (ys, *last), strict=True))
        return total, (jnp.where(numbers.weigh[0] != 0, ys, 0.0), last)

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    return jax.tree.map(np.asarray, run(*jax.tree.map(jnp.asarray, (*numbers[:3], lengths))))


def theirs(torch: Any, peer: Any, numbers: Numbers, lengths: np.ndarray | None):
    """The same of a module of torch."""
    with torch.no_grad():
        for parameter, value in zip(jax.tree.leaves(peer.all_weights), jax.tree.leaves(numbers.weights), strict=True):
            parameter.copy_(torch.tensor(value))
    xs, *states = (torch.tensor(a, requires_grad=True) for a in (numbers.xs, *numbers.states))
    start, pack = tuple(states) if peer.mode == "LSTM" else states[0], torch.nn.utils.rnn
    if lengths is None:
        ys, last = peer(xs, start)
    else:
        ys, last = peer(pack.pack_padded_sequence(xs, torch.tensor(lengths), enforce_sorted=False), start)
        ys, _ = pack.pad_packed_sequence(ys, total_length=T)
    last = last if peer.mode == "LSTM" else (last,)
    loss = torch.stack([(torch.tensor(w) * a).sum() for w, a in zip(numbers.weigh, (ys, *last), strict=True)]).sum()
    loss.backward()
    gradients = ([[W.grad for W in run] for run in peer.all_weights], tuple(s.grad for s in states), xs.grad)
    return jax.tree.map(lambda tensor: tensor.detach().numpy(), ((loss, (ys, last)), gradients))


def draw(peer: Any, valid: np.ndarray) -> Numbers:
    """Random numbers of a module's shapes; biases of zero would hide one in the wrong place."""
    normal = np.random.default_rng(0).standard_normal
    runs, is_lstm = len(peer.all_weights), peer.mode == "LSTM"
    h = peer.proj_size or H
    sizes = (h, H) if is_lstm else (h,)
    ways = 2 if peer.bidirectional else 1
    return Numbers(
        weights=[[0.6 * normal(tuple(W.shape)) for W in run] for run in peer.all_weights],
        states=tuple(normal((runs, B, size)) for size in sizes),
        xs=normal((T, B, I)),
        weigh=(normal((T, B, ways * h)) * valid[..., None], *(normal((runs, B, size)) for size in sizes)),
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cells_equal_those_of_torch_in_outputs_last_states_and_all_gradients(torch, case):
    peer = getattr(torch.nn, case.peer)(I, H, dtype=torch.float64, **case.options)
    numbers = draw(peer, np.ones((T, B)))
    mine, yours = ours(case.layer, numbers, None), theirs(torch, peer, numbers, None)
    chex.assert_trees_all_close(mine, yours, rtol=case.tolerance, atol=case.tolerance)


@pytest.mark.parametrize("case", RAGGED_CASES.values(), ids=RAGGED_CASES)
def test_ragged_sequences_equal_what_torch_packs_and_nan_as_padding_changes_nothing(torch, case):
    peer = getattr(torch.nn, case.peer)(I, H, dtype=torch.float64, **case.options)
    valid = np.asarray(length_mask(jnp.array(LENGTHS), T))
    numbers = draw(peer, valid)
    padded = numbers._replace(xs=np.where(valid[..., None], numbers.xs, np.nan))
    mine, yours = ours(case.layer, padded, LENGTHS), theirs(torch, peer, numbers, LENGTHS)
    chex.assert_trees_all_close(mine, yours, rtol=case.tolerance, atol=case.tolerance)
    _, (_, _, by_xs) = mine
    assert not by_xs[~valid].any()
