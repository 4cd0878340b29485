"""Cells, one family a file."""

from rnn_jax.cells.gru import GRUParams, GRUResetBeforeParams, chrono_gru, gru, gru_reset_before
from rnn_jax.cells.lstm import LSTMParams, LSTMState, chrono_lstm, lstm
from rnn_jax.cells.vanilla import ACTIVATIONS, VanillaParams, vanilla

__all__ = [
    "ACTIVATIONS",
    "GRUParams",
    "GRUResetBeforeParams",
    "LSTMParams",
    "LSTMState",
    "VanillaParams",
    "chrono_gru",
    "chrono_lstm",
    "gru",
    "gru_reset_before",
    "lstm",
    "vanilla",
]
