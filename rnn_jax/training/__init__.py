"""Training: pure functions that make one update after another."""

from rnn_jax.training.descent import LearnerInfo, LearnerState
from rnn_jax.training.evaluation import evaluate
from rnn_jax.training.faults import require_finite
from rnn_jax.training.learners import Learner, Window, batch_learner, fit, window_learner

__all__ = [
    "Learner",
    "LearnerInfo",
    "LearnerState",
    "Window",
    "batch_learner",
    "evaluate",
    "fit",
    "require_finite",
    "window_learner",
]
