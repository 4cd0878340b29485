"""The one list of cells and schedules: a line here joins every law."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import rnn_jax as rnn
from rnn_jax import Cell, initializers
from rnn_jax.schedules.driver import SCHEDULES

I, H = 3, 4  # the sizes of every case


class Case(NamedTuple):
    """A cell and what it reads."""

    cell: Cell
    x: tuple[int, ...] = (I,)
    """The shape of one example's input at one step."""
    ids: bool = True
    """Whether inputs may be integer ids."""


random = initializers.scaled_normal()  # biases of zero would hide one in the wrong place
alive = jax.nn.initializers.constant(2.0)  # a ReLU that is off for the whole sequence says nothing
half = jnp.array([2.0, 0.0, 2.0, 2.0])  # a dropout mask

gru, lstm = rnn.gru(I, H, bias_init=random), rnn.lstm(I, H, bias_init=random)

CASES = {
    "vanilla tanh": Case(rnn.vanilla(I, H, bias_init=random)),
    "vanilla relu": Case(rnn.vanilla(I, H, activation="relu", recurrent_init=random, bias_init=random)),
    "vanilla callable": Case(rnn.vanilla(I, H, activation=jnp.sin, recurrent_init=initializers.torch_uniform())),
    "irnn": Case(rnn.irnn(I, H, bias_init=alive)),
    "indrnn": Case(rnn.indrnn(I, H, activation="tanh", bias_init=random)),
    "antisymmetric": Case(rnn.antisymmetric(I, H, bias_init=random)),
    "cornn": Case(rnn.cornn(I, H, bias_init=random)),
    "ctrnn": Case(rnn.ctrnn(I, H, tau=3.0, bias_init=random)),
    "gru": Case(gru),
    "gru reset before": Case(rnn.gru_reset_before(I, H, bias_init=random)),
    "gru chrono": Case(rnn.chrono_gru(I, H, max_lag=50)),
    "mgu": Case(rnn.mgu(I, H, bias_init=random)),
    "ugrnn": Case(rnn.ugrnn(I, H, bias_init=random)),
    "janet": Case(rnn.janet(I, H, bias_init=random)),
    "min gru": Case(rnn.min_gru(I, H, bias_init=random)),
    "lstm": Case(lstm),
    "lstm chrono": Case(rnn.chrono_lstm(I, H, max_lag=50)),
    "lstm activations": Case(rnn.lstm(I, H, activation="softsign", gate_activation=jnp.cos)),
    "lstm peephole": Case(rnn.peephole_lstm(I, H, bias_init=random)),
    "lstm cifg": Case(rnn.cifg_lstm(I, H, bias_init=random)),
    "lstm clipped": Case(rnn.clipped_lstm(I, H, cell_clip=0.5, bias_init=random)),
    "lstm projected": Case(rnn.projected_lstm(I, H, projection_size=2, projection_clip=0.3, cell_clip=0.7)),
    "lstm layer norm": Case(rnn.layer_norm_lstm(I, H, bias_init=random)),
    "lstm general": Case(
        rnn.general_lstm(
            *(I, H),
            coupled=True,
            peepholes=True,
            layer_norm=True,
            projection_size=2,
            projection_bias=True,
            memory_activation="softsign",
            bias_init=random,
        )
    ),
    "slstm": Case(rnn.slstm(I, H, bias_init=random)),
    "min lstm": Case(rnn.min_lstm(I, H, bias_init=random)),
    "diagonal": Case(rnn.diagonal(I, H, bias_init=random)),
    "lru": Case(rnn.lru(I, H, output_size=5)),
    "conv lstm 1d": Case(rnn.conv_lstm(I, 2, space=(4,), padding="valid", bias_init=random), x=(4, I), ids=False),
    "conv lstm 2d": Case(rnn.conv_lstm(1, 2, space=(3, 2), bias_init=random), x=(3, 2, 1), ids=False),
    "conv lstm 3d": Case(rnn.conv_lstm(1, 1, space=(2, 2, 2), bias_init=random), x=(2, 2, 2, 1), ids=False),
    "readout": Case(rnn.readout(lstm, output_size=2)),
    "embedding": Case(rnn.embedding(gru, I, I)),
    "dense input": Case(rnn.dense_input(lstm, I, I, activation="tanh", bias_init=random)),
    "residual": Case(rnn.residual(rnn.gru(I, I, bias_init=random)), ids=False),
    "mixed precision": Case(rnn.mixed_precision(gru, jnp.float64)),
    "learned start": Case(rnn.learned_start(gru)),
    "stack": Case(rnn.stack(rnn.readout(gru, 2), rnn.lstm(2, H), rnn.residual(rnn.vanilla(H, H)))),
    "input dropout": Case(rnn.input_dropout(gru, 0.4)),
    "output dropout": Case(rnn.output_dropout(lstm, 0.4)),
    "zoneout": Case(rnn.zoneout(lstm, 0.3)),
    "variational dropout of gru": Case(rnn.variational_dropout(gru, input_mask=half[:I], state_mask=half), ids=False),
    "variational dropout of lstm": Case(rnn.variational_dropout(lstm, state_mask=half)),
    "linear cell in wrappers": Case(
        rnn.readout(
            rnn.diagonal_skip(
                rnn.learned_start(rnn.dense_input(rnn.lru(I, H, output_size=I), I, I, activation="tanh"))
            ),
            2,
        ),
        ids=False,
    ),
    "linear cell of one's own": Case(
        rnn.linear_cell(
            init=lambda key: jax.random.normal(key, (I, H)),
            start=lambda params, batch_shape=(): jnp.ones((*batch_shape, H), params.dtype),
            project=lambda W, x: x @ W,
            coefficients=lambda W, u: (jnp.tanh(W[0]), jnp.cos(u)),  # a is the same at every step
        ),
        ids=False,
    ),
    "cell from step": Case(
        rnn.cell_from_step(
            init=lambda key: jax.random.normal(key, (I, H)),
            start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, H), params.dtype),
            step=lambda W, h, x: 0.5 * h + jnp.cos(x @ W),
        ),
        ids=False,
    ),
}

A_FEW = ["vanilla tanh", "lstm", "learned start", "stack", "min gru"]
"""For laws of the driver alone, which no cell can break."""

SAME_OUTSIDE = [
    "vanilla relu",
    "vanilla callable",
    "irnn",
    "indrnn",
    "antisymmetric",
    "ctrnn",
    "gru reset before",
    "gru chrono",
    "mgu",
    "ugrnn",
    "janet",
    "lstm chrono",
    "lstm activations",
    "lstm peephole",
    "lstm cifg",
    "lstm clipped",
    "min lstm",
    "lstm general",
    "conv lstm 2d",
    "conv lstm 3d",
]
"""Cells with equations of their own, but with state, params and input like those of another case."""
BY_STRUCTURE = [name for name in CASES if name not in SAME_OUTSIDE]
"""For programs around a rollout, which see no equation."""


def schedules_of(name: str) -> list[str]:
    """The names of the schedules that take a case's cell."""
    linear = CASES[name].cell.coefficients is not None
    return [schedule for schedule in SCHEDULES if linear or schedule != "associative"]


def with_schedules(names: Iterable[str]) -> list[tuple[str, str]]:
    """Each of these cases with each of its schedules."""
    return [(name, schedule) for name in names for schedule in schedules_of(name)]


def with_few_schedules(names: Iterable[str]) -> list[tuple[str, str]]:
    """Each of these cases with ``scan``, and a few with the other schedules: for laws with programs of their own."""
    return [(name, of) for name, of in with_schedules(names) if of == "scan" or name in A_FEW]
