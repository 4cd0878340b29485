"""Weights and models of other libraries, in and out; their cells as cells of this library, and ours as theirs."""

from rnn_jax.interop.adapters import WithOutput
from rnn_jax.interop.conversion import convert, read_model, write_model
from rnn_jax.interop.equinox_cells import as_equinox, cell_from_equinox
from rnn_jax.interop.equinox_weights import equinox_module, from_equinox, to_equinox
from rnn_jax.interop.flax_cells import cell_from_flax
from rnn_jax.interop.flax_models import linen_module, nnx_module
from rnn_jax.interop.flax_modules import as_linen, as_nnx
from rnn_jax.interop.flax_weights import from_flax, to_flax
from rnn_jax.interop.haiku_cells import cell_from_haiku
from rnn_jax.interop.haiku_weights import from_haiku, haiku_function, to_haiku
from rnn_jax.interop.keras_models import keras_model
from rnn_jax.interop.keras_weights import from_keras, to_keras
from rnn_jax.interop.models import Network, Part, model_of_network, network_of_model
from rnn_jax.interop.onnx_files import step_to_onnx, to_onnx
from rnn_jax.interop.onnx_reading import from_onnx
from rnn_jax.interop.stablehlo import to_stablehlo
from rnn_jax.interop.torch_modules import torch_module
from rnn_jax.interop.torch_weights import from_torch, to_torch
from rnn_jax.interop.weight_files import load_model, read_weights, save_model, write_weights

__all__ = [
    "Network",
    "Part",
    "WithOutput",
    "as_equinox",
    "as_linen",
    "as_nnx",
    "cell_from_equinox",
    "cell_from_flax",
    "cell_from_haiku",
    "convert",
    "equinox_module",
    "from_equinox",
    "from_flax",
    "from_haiku",
    "from_keras",
    "from_onnx",
    "from_torch",
    "haiku_function",
    "keras_model",
    "linen_module",
    "load_model",
    "model_of_network",
    "network_of_model",
    "nnx_module",
    "read_model",
    "read_weights",
    "save_model",
    "step_to_onnx",
    "to_equinox",
    "to_flax",
    "to_haiku",
    "to_keras",
    "to_onnx",
    "to_stablehlo",
    "to_torch",
    "torch_module",
    "write_model",
    "write_weights",
]
