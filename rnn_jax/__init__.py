"""The laboratory for recurrent neural networks in JAX."""

from rnn_jax import initializers
from rnn_jax.cells import chrono_gru, chrono_lstm, gru, gru_reset_before, lstm, vanilla
from rnn_jax.combinators import readout
from rnn_jax.diagnostics import lag_gradients, leading_gain, step_jacobian, summarise_lags
from rnn_jax.rollout import outputs, rollout
from rnn_jax.sequences import window_cuts
from rnn_jax.types import Cell, cell_from_step

__all__ = [
    "Cell",
    "cell_from_step",
    "chrono_gru",
    "chrono_lstm",
    "gru",
    "gru_reset_before",
    "initializers",
    "lag_gradients",
    "leading_gain",
    "lstm",
    "outputs",
    "readout",
    "rollout",
    "step_jacobian",
    "summarise_lags",
    "vanilla",
    "window_cuts",
]
