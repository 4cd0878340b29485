"""The one list of cells and schedules: a line here joins every law."""

import jax
import jax.numpy as jnp

from rnn_jax import (
    cell_from_step,
    chrono_gru,
    chrono_lstm,
    gru,
    gru_reset_before,
    initializers,
    lstm,
    readout,
    vanilla,
)
from rnn_jax.rollout import SCHEDULES

I, H = 3, 4  # the sizes of every case

random = initializers.scaled_normal()  # biases of zero would hide one in the wrong place
alive = jax.nn.initializers.constant(2.0)  # a ReLU that is off for the whole sequence says nothing

CELLS = {
    "vanilla tanh": vanilla(I, H, bias_init=random),
    "vanilla relu": vanilla(I, H, activation="relu", recurrent_init=initializers.scaled_normal(), bias_init=random),
    "irnn": vanilla(I, H, activation="relu", recurrent_init=initializers.identity(), bias_init=alive),
    "vanilla callable": vanilla(I, H, activation=jnp.sin, recurrent_init=initializers.torch_uniform()),
    "gru": gru(I, H, bias_init=random),
    "gru reset before": gru_reset_before(I, H, bias_init=random),
    "gru chrono": chrono_gru(I, H, max_lag=50),
    "lstm": lstm(I, H, bias_init=random),
    "lstm chrono": chrono_lstm(I, H, max_lag=50),
    "readout of lstm": readout(lstm(I, H), output_size=2),
    "cell from step": cell_from_step(
        init=lambda key: jax.random.normal(key, (I, H)),
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, H), params.dtype),
        step=lambda W, h, x: 0.5 * h + jnp.cos(x @ W),
    ),
}

TAKES_IDS = [name for name in CELLS if name != "cell from step"]
"""Cells whose inputs may be integer ids."""

SCHEDULE_NAMES = list(SCHEDULES)
