"""Decoding: sequences of ids that a model generates."""

from rnn_jax.decoding.choices import keep_nucleus, keep_top_k
from rnn_jax.decoding.decoders import Beams, Decoded, beam_search, greedy, sample, stream
from rnn_jax.decoding.prompts import confidences, continue_prompt

__all__ = [
    "Beams",
    "Decoded",
    "beam_search",
    "confidences",
    "continue_prompt",
    "greedy",
    "keep_nucleus",
    "keep_top_k",
    "sample",
    "stream",
]
