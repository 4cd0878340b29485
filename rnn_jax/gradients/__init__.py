"""Estimators of the gradient of a sequence's loss."""

from rnn_jax.gradients.tbptt import chunked, cut, parallel, streaming

__all__ = ["PROGRAMS", "chunked", "cut", "parallel", "streaming"]

PROGRAMS = {"cut": cut, "chunked": chunked, "parallel": parallel}
"""Ways to compute one gradient, that of whole sequences; ``streaming`` takes one window at a time."""
