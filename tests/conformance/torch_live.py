"""PyTorch, live: 50 random configurations of ``nn.RNN``, ``nn.GRU`` and ``nn.LSTM``, in float64.

Ours run on torch's weights in torch's layout, so that autograd and ``jax.grad`` differentiate by the same arrays.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import bidirectional, gru, lstm, projected_lstm, stack, vanilla
from rnn_jax.cells import GRUParams, LSTMParams, ProjectedLSTMParams, VanillaParams
from rnn_jax.layers import Layer, as_layer
from tests.conformance.cases import DIRECTLY, Case, Suite, error_of, gates, peer

NAME = "PyTorch, live"
CONFIGURATIONS = 50
TOLERANCE = 1e-12
QUANTITIES = ("outputs", "last states", "gradients of weights", "gradients of states", "gradients of inputs")


class Shape(NamedTuple):
    """What a compiled program is shared by."""

    kind: str
    layers: int
    ways: int
    T: int
    B: int
    I: int
    H: int
    P: int
    """Size of h: that of the projection, or H."""
    bias: bool


class Numbers(NamedTuple):
    """What goes in, and how what comes out is weighed in the loss."""

    weights: list[list[np.ndarray]]
    """Those of each direction of each layer."""
    states: tuple[np.ndarray, ...]
    """h_0, or h_0 and c_0: ``(layers · directions, B, …)``."""
    xs: np.ndarray
    weigh: tuple[np.ndarray, ...]
    """Of the outputs, with zeros past the end of each sequence, and of each last state."""
    lengths: np.ndarray


PEERS = {
    "tanh": ("RNN", {}),
    "relu": ("RNN", {"nonlinearity": "relu"}),
    "gru": ("GRU", {}),
    "lstm": ("LSTM", {}),
    "projected lstm": ("LSTM", {}),
}


WITHOUT_BIASES = (("relu", 1), ("gru", 1), ("projected lstm", 1))
"""Kinds and layers of the modules that have none."""


def shapes() -> list[Shape]:
    """The shapes of the configurations; sizes are random, and each is compiled once. One layer of each is plain."""
    draw, found = np.random.default_rng(17), []
    for kind in PEERS:
        for layers, ways in ((1, 1), (2, 2), (3, 1)) if kind in ("gru", "projected lstm") else ((1, 1), (2, 2)):
            T, B, I, H = (int(draw.integers(*range_)) for range_ in ((3, 8), (2, 5), (1, 5), (2, 6)))
            P = int(draw.integers(1, H)) if kind == "projected lstm" else H
            found.append(Shape(kind, layers, ways, T, B, I, H, P, bias=(kind, layers) not in WITHOUT_BIASES))
    return found


def cell_of(kind: str, input_size: int, shape: Shape) -> Any:
    """Our cell of one layer."""
    sizes = input_size, shape.H
    if kind in ("tanh", "relu"):
        return vanilla(*sizes, activation=kind)
    if kind == "projected lstm":
        return projected_lstm(*sizes, projection_size=shape.P)
    return gru(*sizes) if kind == "gru" else lstm(*sizes)


def layer_of(shape: Shape) -> Layer:
    """Our layer of a shape."""
    found = []
    for number in range(shape.layers):
        cell = cell_of(shape.kind, shape.I if number == 0 else shape.ways * shape.P, shape)
        found.append(bidirectional(cell, cell) if shape.ways == 2 else cell)
    return as_layer(stack(*found))


def lstm_params(W_ih: Any, W_hh: Any, b: Any) -> LSTMParams:
    """Gates i f g o along the first axis."""
    return LSTMParams(*(gates(a.T, "ifgo", "ifog") for a in (W_ih, W_hh, b)))


def gru_params(W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any) -> GRUParams:
    """Gates r z n along the first axis; of the second bias only the candidate's is not the same as the first."""
    b_rz, b_n = jnp.split(b_hh, [2 * len(b_hh) // 3])
    return GRUParams(W_ih.T, W_hh.T, b_ih + jnp.concatenate([b_rz, jnp.zeros_like(b_n)]), b_n)


TO_PARAMS: dict[str, Callable[..., Any]] = {
    "tanh": lambda W_ih, W_hh, b_ih, b_hh: VanillaParams(W_ih.T, W_hh.T, b_ih + b_hh),
    "relu": lambda W_ih, W_hh, b_ih, b_hh: VanillaParams(W_ih.T, W_hh.T, b_ih + b_hh),
    "gru": gru_params,
    "lstm": lambda W_ih, W_hh, b_ih, b_hh: lstm_params(W_ih, W_hh, b_ih + b_hh),
    "projected lstm": lambda W_ih, W_hh, b_ih, b_hh, W_hr: ProjectedLSTMParams(
        *lstm_params(W_ih, W_hh, b_ih + b_hh), W_hp=W_hr.T
    ),
}


def with_biases(W_ih: Any, W_hh: Any, *rest: Any) -> tuple[Any, ...]:
    """The arrays of one direction, with biases of zero where there are none."""
    zeros = () if rest and rest[0].ndim == 1 else (jnp.zeros(len(W_ih)),) * 2
    return W_ih, W_hh, *zeros, *rest


@cache
def program(shape: Shape) -> Callable[[Numbers], Any]:
    """Outputs, last states and gradients of ours, in the order of ``QUANTITIES``."""
    layer = layer_of(shape)
    tree = jax.tree.structure(jax.eval_shape(layer.init, jax.random.key(0)), is_leaf=lambda node: hasattr(node, "W_xh"))

    def loss(weights: Any, states: Any, xs: Any, weigh: Any, lengths: Any) -> Any:
        params = tree.unflatten([TO_PARAMS[shape.kind](*with_biases(*run)) for run in weights])
        parts = len(states)  # h, or h and c; those of each run after those of the run before
        h0 = jax.tree.structure(layer.start(params)).unflatten([a for run in zip(*states, strict=True) for a in run])
        h_T, ys = layer.apply(params, h0, xs, lengths=lengths)
        last = tuple(jnp.stack(jax.tree.leaves(h_T)[part::parts]) for part in range(parts))
        total = sum(jnp.sum(w * a) for w, a in zip(weigh, (ys, *last), strict=True))
        return total, (jnp.where(weigh[0] != 0, ys, 0.0), last)

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))

    def quantities(numbers: Numbers) -> Any:
        seen = np.arange(shape.T)[:, None, None] < numbers.lengths[:, None]
        (_, (ys, last)), gradients = run(*numbers._replace(xs=np.where(seen, numbers.xs, np.nan)))
        return ys, last, *gradients

    return quantities


def theirs(module: Any, numbers: Numbers, ragged: bool) -> Any:
    """The same of a module of torch."""
    torch = peer("torch")
    with torch.no_grad():
        for parameter, value in zip(jax.tree.leaves(module.all_weights), jax.tree.leaves(numbers.weights), strict=True):
            parameter.copy_(torch.tensor(value))
    xs, *states = (torch.tensor(a, requires_grad=True) for a in (numbers.xs, *numbers.states))
    start, pack = tuple(states) if module.mode == "LSTM" else states[0], torch.nn.utils.rnn
    if ragged:
        packed = pack.pack_padded_sequence(xs, torch.tensor(numbers.lengths), enforce_sorted=False)
        ys, last = module(packed, start)
        ys, _ = pack.pad_packed_sequence(ys, total_length=len(xs))
    else:
        ys, last = module(xs, start)
    last = last if module.mode == "LSTM" else (last,)
    terms = [(torch.tensor(w) * a).sum() for w, a in zip(numbers.weigh, (ys, *last), strict=True)]
    torch.stack(terms).sum().backward()
    gradients = [[W.grad for W in run] for run in module.all_weights], tuple(s.grad for s in states), xs.grad
    return jax.tree.map(lambda tensor: tensor.detach().numpy(), (ys, last, *gradients))


def draw(shape: Shape, module: Any, draws: np.random.Generator, ragged: bool) -> Numbers:
    """Random numbers of a module's shapes; biases of zero would hide one in the wrong place."""
    normal, runs = draws.standard_normal, shape.layers * shape.ways
    sizes = (shape.P, shape.H) if module.mode == "LSTM" else (shape.P,)
    lengths = draws.integers(1, shape.T + 1, shape.B) if ragged else np.full(shape.B, shape.T)
    seen = np.arange(shape.T)[:, None, None] < lengths[:, None]
    return Numbers(
        weights=[[0.6 * normal(tuple(W.shape)) for W in run] for run in module.all_weights],
        states=tuple(normal((runs, shape.B, size)) for size in sizes),
        xs=normal((shape.T, shape.B, shape.I)),
        weigh=(
            normal((shape.T, shape.B, shape.ways * shape.P)) * seen,
            *(normal((runs, shape.B, size)) for size in sizes),
        ),
        lengths=lengths,
    )


def cases() -> Iterator[Case]:
    """The quantities of each configuration."""
    torch, draws, all_shapes = peer("torch"), np.random.default_rng(0), shapes()
    for number in range(CONFIGURATIONS):
        shape, ragged = all_shapes[number % len(all_shapes)], bool(draws.integers(2))
        op, options = PEERS[shape.kind]
        options = options | {"num_layers": shape.layers, "bidirectional": shape.ways == 2, "bias": shape.bias}
        if shape.kind == "projected lstm":
            options |= {"proj_size": shape.P}
        module = getattr(torch.nn, op)(shape.I, shape.H, dtype=torch.float64, **options)
        numbers = draw(shape, module, draws, ragged)
        title = f"{number}: {shape.kind}, {shape.layers} layers, {shape.ways} ways{', ragged' * ragged}"
        for what, got, wanted in zip(QUANTITIES, program(shape)(numbers), theirs(module, numbers, ragged), strict=True):
            yield Case(NAME, f"{title}, {what}", DIRECTLY, error_of(got, wanted), TOLERANCE)


SUITE = Suite(
    NAME,
    "PyTorch, `nn.RNN`, `nn.GRU`, `nn.LSTM`",
    f"outputs, last states and all gradients of {CONFIGURATIONS} random configurations of {len(shapes())} shapes, "
    "float64: layers, directions, projections, no biases, ragged lengths with NaN in our padding",
    cases,
    ("torch",),
    cells=("vanilla", "gru", "lstm", "projected_lstm", "stack", "bidirectional"),
)
