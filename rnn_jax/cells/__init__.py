"""Cells, one family a file."""

from rnn_jax.cells.activations import ACTIVATIONS
from rnn_jax.cells.continuous import CoRNNParams, CoRNNState, antisymmetric, cornn, ctrnn
from rnn_jax.cells.conv import ConvLSTMParams, conv_lstm
from rnn_jax.cells.exponential import SLSTMParams, SLSTMState, slstm
from rnn_jax.cells.gated import JANETParams, MGUParams, UGRNNParams, janet, mgu, ugrnn
from rnn_jax.cells.grus import GRUParams, GRUResetBeforeParams, chrono_gru, gru, gru_reset_before
from rnn_jax.cells.linear import DiagonalParams, LRUParams, diagonal, lru
from rnn_jax.cells.lstm_combinations import GeneralLSTMParams, general_lstm
from rnn_jax.cells.lstm_variants import (
    CIFGParams,
    LayerNormLSTMParams,
    PeepholeLSTMParams,
    ProjectedLSTMParams,
    cifg_lstm,
    clipped_lstm,
    layer_norm_lstm,
    peephole_lstm,
    projected_lstm,
)
from rnn_jax.cells.lstms import LSTMParams, LSTMState, chrono_lstm, lstm
from rnn_jax.cells.minimal import MinGRUParams, MinLSTMParams, min_gru, min_lstm
from rnn_jax.cells.simple import IndRNNParams, VanillaParams, indrnn, irnn, vanilla

__all__ = [
    "ACTIVATIONS",
    "CIFGParams",
    "CoRNNParams",
    "CoRNNState",
    "ConvLSTMParams",
    "DiagonalParams",
    "GRUParams",
    "GRUResetBeforeParams",
    "GeneralLSTMParams",
    "IndRNNParams",
    "JANETParams",
    "LRUParams",
    "LSTMParams",
    "LSTMState",
    "LayerNormLSTMParams",
    "MGUParams",
    "MinGRUParams",
    "MinLSTMParams",
    "PeepholeLSTMParams",
    "ProjectedLSTMParams",
    "SLSTMParams",
    "SLSTMState",
    "UGRNNParams",
    "VanillaParams",
    "antisymmetric",
    "chrono_gru",
    "chrono_lstm",
    "cifg_lstm",
    "clipped_lstm",
    "conv_lstm",
    "cornn",
    "ctrnn",
    "diagonal",
    "general_lstm",
    "gru",
    "gru_reset_before",
    "indrnn",
    "irnn",
    "janet",
    "layer_norm_lstm",
    "lru",
    "lstm",
    "mgu",
    "min_gru",
    "min_lstm",
    "peephole_lstm",
    "projected_lstm",
    "slstm",
    "ugrnn",
    "vanilla",
]
