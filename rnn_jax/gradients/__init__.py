"""Programs and estimators of the gradient of a sequence's loss, and penalties on gradients."""

from rnn_jax.gradients.estimators import ESTIMATORS, EstimatorQuality, artbp, bptt, compare_estimator, truncated
from rnn_jax.gradients.influence import rtrl, rtrl_diagonal, snap, uoro
from rnn_jax.gradients.one_window import streaming
from rnn_jax.gradients.penalties import flossing, norm_preserving
from rnn_jax.gradients.tbptt import chunked, cut, parallel

__all__ = [
    "ESTIMATORS",
    "PROGRAMS",
    "EstimatorQuality",
    "artbp",
    "bptt",
    "chunked",
    "compare_estimator",
    "cut",
    "flossing",
    "norm_preserving",
    "parallel",
    "rtrl",
    "rtrl_diagonal",
    "snap",
    "streaming",
    "truncated",
    "uoro",
]

PROGRAMS = {"cut": cut, "chunked": chunked, "parallel": parallel}
"""The programs for the gradient of a whole sequence, by name; ``streaming`` computes that of one window."""
