"""Measurements of gradients: over lags, of single steps, and with respect to inputs."""

from rnn_jax.diagnostics.inputs import input_gradients, log_odds
from rnn_jax.diagnostics.jacobians import leading_gain, step_jacobian
from rnn_jax.diagnostics.lag import LagGradients, LagSummary, lag_gradients, summarise_lags

__all__ = [
    "LagGradients",
    "LagSummary",
    "input_gradients",
    "lag_gradients",
    "leading_gain",
    "log_odds",
    "step_jacobian",
    "summarise_lags",
]
