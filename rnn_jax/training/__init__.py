"""Learning: pure functions that make one update after another."""

from rnn_jax.training.descent import LearnerInfo, LearnerState
from rnn_jax.training.learners import Learner, batch_learner, evaluate, fit, require_finite, window_learner

__all__ = [
    "Learner",
    "LearnerInfo",
    "LearnerState",
    "batch_learner",
    "evaluate",
    "fit",
    "require_finite",
    "window_learner",
]
