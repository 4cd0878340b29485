"""Estimators of the gradient of a sequence's loss."""

from rnn_jax.gradients.one_window import streaming
from rnn_jax.gradients.tbptt import chunked, cut, parallel

__all__ = ["PROGRAMS", "chunked", "cut", "parallel", "streaming"]

PROGRAMS = {"cut": cut, "chunked": chunked, "parallel": parallel}
"""The programs for the gradient of a whole sequence, by name; ``streaming`` computes that of one window."""
