"""Weights and models of other libraries, in and out."""

from rnn_jax.interop.conversion import convert, read_model, write_model
from rnn_jax.interop.keras_models import from_keras_model, keras_model
from rnn_jax.interop.keras_weights import from_keras, to_keras
from rnn_jax.interop.models import Network, Part, put_together, taken_apart
from rnn_jax.interop.onnx_files import step_to_onnx, to_onnx
from rnn_jax.interop.onnx_reading import from_onnx
from rnn_jax.interop.stablehlo import to_stablehlo
from rnn_jax.interop.torch_modules import torch_module
from rnn_jax.interop.torch_weights import from_torch, to_torch
from rnn_jax.interop.weight_files import load_model, read_weights, save_model, write_weights

__all__ = [
    "Network",
    "Part",
    "convert",
    "from_keras",
    "from_keras_model",
    "from_onnx",
    "from_torch",
    "keras_model",
    "load_model",
    "put_together",
    "read_model",
    "read_weights",
    "save_model",
    "step_to_onnx",
    "taken_apart",
    "to_keras",
    "to_onnx",
    "to_stablehlo",
    "to_torch",
    "torch_module",
    "write_model",
    "write_weights",
]
