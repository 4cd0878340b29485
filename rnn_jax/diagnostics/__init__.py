"""Measurements of recurrent dynamics: gradients by lag, Jacobians and their products, exponents, points, memory."""

from rnn_jax.diagnostics.adjoints import log_norms_of_layers, probe_gradients, state_gradients
from rnn_jax.diagnostics.contributions import LagContributions, lag_contributions
from rnn_jax.diagnostics.inputs import input_gradients, log_odds
from rnn_jax.diagnostics.jacobians import JacobianNumbers, jacobian_numbers, leading_gain, saturation, step_jacobian
from rnn_jax.diagnostics.lag import LagGradients, LagSummary, lag_gradients, summarise_lags
from rnn_jax.diagnostics.lyapunov import LyapunovSpectrum, entropy_rate, kaplan_yorke_dimension, lyapunov_spectrum
from rnn_jax.diagnostics.mean_fields import MeanField, mean_field
from rnn_jax.diagnostics.memory import loss_by_context, memory_capacity, recall_scores
from rnn_jax.diagnostics.points import (
    FixedPoints,
    PrincipalComponents,
    Stability,
    fixed_points,
    principal_components,
    stability,
    state_rows,
    unique_points,
    visited_states,
)
from rnn_jax.diagnostics.probes import log_norms_of_probes, probed, with_probes, zero_probes
from rnn_jax.diagnostics.products import ProductSpectrum, product_spectrum
from rnn_jax.diagnostics.retention import chrono_target, direct_path, forget_factors, time_scales
from rnn_jax.diagnostics.sensitivity import parameter_sensitivity, sampled_sensitivity
from rnn_jax.diagnostics.surface import LossSurface, loss_surface, random_direction

__all__ = [
    "FixedPoints",
    "JacobianNumbers",
    "LagContributions",
    "LagGradients",
    "LagSummary",
    "LossSurface",
    "LyapunovSpectrum",
    "MeanField",
    "PrincipalComponents",
    "ProductSpectrum",
    "Stability",
    "chrono_target",
    "direct_path",
    "entropy_rate",
    "fixed_points",
    "forget_factors",
    "input_gradients",
    "jacobian_numbers",
    "kaplan_yorke_dimension",
    "lag_contributions",
    "lag_gradients",
    "leading_gain",
    "log_norms_of_layers",
    "log_norms_of_probes",
    "log_odds",
    "loss_by_context",
    "loss_surface",
    "lyapunov_spectrum",
    "mean_field",
    "memory_capacity",
    "parameter_sensitivity",
    "principal_components",
    "probe_gradients",
    "probed",
    "product_spectrum",
    "random_direction",
    "recall_scores",
    "sampled_sensitivity",
    "saturation",
    "stability",
    "state_gradients",
    "state_rows",
    "step_jacobian",
    "summarise_lags",
    "time_scales",
    "unique_points",
    "visited_states",
    "with_probes",
    "zero_probes",
]
