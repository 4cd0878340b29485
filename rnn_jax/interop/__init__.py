"""Weights and models of other libraries, in and out."""

from rnn_jax.interop.models import Network, Part, put_together, taken_apart
from rnn_jax.interop.onnx_files import step_to_onnx, to_onnx
from rnn_jax.interop.onnx_reading import from_onnx
from rnn_jax.interop.stablehlo import to_stablehlo

__all__ = ["Network", "Part", "from_onnx", "put_together", "step_to_onnx", "taken_apart", "to_onnx", "to_stablehlo"]
