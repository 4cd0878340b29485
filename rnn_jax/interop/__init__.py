"""Weights and models of other libraries, in and out."""

from rnn_jax.interop.models import Network, Part, put_together, taken_apart

__all__ = ["Network", "Part", "put_together", "taken_apart"]
