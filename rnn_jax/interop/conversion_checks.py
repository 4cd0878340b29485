"""What the file of a model computes by its own library, against the model."""

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.interop.adapters import library, their_rules
from rnn_jax.interop.keras_files import model_of_file
from rnn_jax.interop.keras_models import keras_model
from rnn_jax.interop.keras_weights import from_keras
from rnn_jax.interop.onnx_files import to_onnx
from rnn_jax.interop.onnx_reading import from_onnx
from rnn_jax.interop.signatures import input_of
from rnn_jax.interop.torch_modules import torch_module
from rnn_jax.interop.torch_weights import from_torch
from rnn_jax.interop.weight_files import array_of, load_model, read_weights
from rnn_jax.layers import Model, as_layer
from rnn_jax.types import Params

__all__ = ["HOW", "Check", "check_of_file", "difference_of_reading"]

STEPS, EXAMPLES = 12, 3
LARGEST = 1 << 17
"""The most vectors or ids in the inputs of a file with sizes of its own."""
OTHER_TYPES = re.compile(r'"(mixed_)?(b?float16|float64)"')
"""Types of a model of Keras other than float32, in its JSON; Keras has its tanh in float32 at most."""
ROUNDING = 1e-12
"""The largest difference of outputs in float64, as a share of the largest output, if that is above 1."""


class Check(NamedTuple):
    """What a conversion has made, and how near its outputs are."""

    model: Model
    difference: float
    """The largest absolute difference of the outputs for random inputs."""
    against: str
    """What was compared with this library, such as ``PyTorch 2.13.0 in float64``."""
    left_out: str = ""
    """What of the first file the second does not have, such as the dropout of a run."""
    shapes: str = ""
    """Of the inputs and outputs of the second file, such as ``xs (T, B, 3), ys (T, B, 2)``."""
    reading: float | None = None
    """The largest absolute difference of the outputs of the first file, computed by Keras, and of the model as it was
    read; None where the first file is not run, as it has weights alone, is of ONNX, has very long inputs, or does not
    compute in float32."""


def difference_of_reading(live: Any, model: Model, params: Params, *, last: bool) -> float | None:
    """The largest difference of the outputs of a live model of Keras and of a model that was read from it.

    Raises:
        FloatingPointError: when the outputs differ by more than rounding.
    """
    if not getattr(live, "inputs", None) or OTHER_TYPES.search(live.to_json()):
        return None
    batch, steps = (own or usual for own, usual in zip(live.inputs[0].shape[:2], (EXAMPLES, STEPS), strict=True))
    if batch * steps > LARGEST:
        return None
    xs = random_inputs(params, (steps, batch))
    ours, theirs = outputs_of_model(model, params, xs), outputs_of_live(live, xs, last=last)
    return require_near(ours[-1:] if last else ours, theirs, "IN", "the model as read", rounding(model, params, xs))


def check_of_file(file: Path, model: Model, params: Params, to: str) -> Check:
    """The check of a file on random inputs: by the library it is for, or read back where that is not installed.

    Raises:
        FloatingPointError: when the outputs differ by more than rounding.
    """
    xs, how = random_inputs(params), HOW[to]
    if how.module is not None and find_spec(how.module) is not None:
        theirs, kind = how.outputs(file, model, params, xs)
        version = library(how.module, how.module).__version__
        against = f"{how.name} {version}{'' if kind == 'the file' else f' in {kind}'}"
    else:
        why = "" if how.module is None else f", as {how.name} is not installed"
        theirs, kind = outputs_of_model(*how.read(file), xs), "float64"
        against = f"the file read back by rnn_jax{why}"
    ours = outputs_of_model(model, params, xs)
    share = ROUNDING if kind == "float64" else rounding(model, params, xs)
    difference = require_near(ours, theirs, file.name, against, share)
    axes = "B, T" if to == "keras" else "T, B"
    given = f"ids ({axes})" if xs.ndim == 2 else f"xs ({axes}, {xs.shape[-1]})"
    return Check(model, difference, against, shapes=f"{given}, ys ({axes}, {ours.shape[-1]})")


def require_near(ours: np.ndarray, theirs: np.ndarray, file: str, against: str, share: float) -> float:
    """The largest difference of outputs; a FloatingPointError where it is above a share of the largest output."""
    if ours.shape != theirs.shape:
        raise FloatingPointError(f"{file} got outputs {theirs.shape}; want {ours.shape}, as of {against}")
    difference = float(np.max(np.abs(ours - theirs), initial=0.0))
    limit = share * np.max(np.abs(ours), initial=1.0)
    if not difference <= limit:
        raise FloatingPointError(
            f"{file} got outputs that differ by {difference:.2g} from {against}; want at most {limit:.2g}"
        )
    return difference


def rounding(model: Model, params: Params, xs: np.ndarray) -> float:
    """The share of the largest output by which float32 may differ: that of our own, four times, within 1e-6 and 1e-3.

    In a chaotic network rounding grows from step to step.
    """
    exact, rounded = (outputs_of_model(model, params, xs, dtype) for dtype in (np.float64, np.float32))
    own = float(np.max(np.abs(exact - rounded), initial=0.0) / np.max(np.abs(exact), initial=1.0))
    return min(max(1e-6, 4 * own), 1e-3)


def cast(params: Params, dtype: Any) -> Params:
    """The same params in another floating type."""
    return jax.tree.map(lambda a: np.asarray(a).astype(dtype), params)


def outputs_of_model(model: Model, params: Params, xs: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
    """The outputs of a model of ours, computed in float64 or another type."""
    layer = as_layer(model)
    with jax.enable_x64(True):
        params, xs = jax.tree.map(jnp.asarray, cast(params, dtype)), xs if xs.ndim == 2 else xs.astype(dtype)
        return np.asarray(layer.apply(params, layer.start(params, xs.shape[1:2]), jnp.asarray(xs))[1])


def random_inputs(params: Params, shape: tuple[int, int] = (STEPS, EXAMPLES)) -> np.ndarray:
    """Random ids ``(T, B)`` of an embedding, or vectors ``(T, B, I)`` of float64 that float32 can hold."""
    rng = np.random.default_rng(0)
    found = input_of(params, None, None, shape)
    if len(found.shape) == len(shape):
        V = next(len(inner.E) for inner in inner_params(params) if hasattr(inner, "E"))
        return rng.integers(V, size=shape).astype(np.int32)
    return rng.standard_normal(found.shape).astype(np.float32).astype(np.float64)


def inner_params(params: Params) -> Iterator[Params]:
    """Params, and those of each model around which a readout or an embedding stands."""
    yield params
    if hasattr(params, "cell"):
        yield from inner_params(params.cell)


def outputs_of_torch(file: Path, model: Model, params: Params, xs: np.ndarray) -> tuple[np.ndarray, str]:
    """The outputs of PyTorch in float64 with the weights of a file."""
    torch = library("torch", "torch")
    module, (weights, _) = torch_module(model, params).double(), read_weights(file)
    module.load_state_dict({name: torch.tensor(W.astype(float)) for name, W in weights.items()})
    with torch.no_grad():
        return module(torch.tensor(xs))[0].numpy(), "float64"


def outputs_of_keras(file: Path, model: Model, params: Params, xs: np.ndarray) -> tuple[np.ndarray, str]:
    """The outputs of Keras for a file; of one in another type than float32, with its weights in float32."""
    live, kind = model_of_file(file), "the file"
    if str(live.weights[0].dtype) != "float32":
        whole = keras_model(model, cast(params, np.float32))
        whole.set_weights([array_of(W.path, W).astype(np.float32) for W in live.weights])
        live, kind = whole, "float32"
    return outputs_of_live(live, xs), kind


def outputs_of_live(live: Any, xs: np.ndarray, *, last: bool = False) -> np.ndarray:
    """The outputs ``(T, B, O)`` of a live model of Keras, or ``(1, B, O)`` of one that gives the last step alone."""
    keras, given = library("keras", "keras"), np.swapaxes(xs, 0, 1)
    given = given if xs.dtype == np.int32 else given.astype(np.float32)
    with their_rules():
        ys = keras.ops.convert_to_numpy(keras.tree.flatten(live(given, training=False))[0]).astype(float)
    return ys[None] if last else np.swapaxes(ys, 0, 1)


def outputs_of_onnx(file: Path, model: Model, params: Params, xs: np.ndarray) -> tuple[np.ndarray, str]:
    """The outputs of ONNX Runtime for a file; of one in another type than float32, for the same model in float32."""
    runtime, data, kind = library("onnxruntime", "onnxruntime"), file.read_bytes(), "the file"
    if any(leaf.dtype != np.float32 for leaf in jax.tree.leaves(params)):
        second = to_onnx(model, cast(params, np.float32))
        require_same_graph(library("onnx", "onnx"), file, second)
        data, kind = second.SerializeToString(), "float32, of a second file"
    session = runtime.InferenceSession(data)
    return session.run(["ys"], {"xs": xs if xs.dtype == np.int32 else xs.astype(np.float32)})[0].astype(float), kind


def require_same_graph(onnx: Any, file: Path, second: Any) -> None:
    """Raises an error unless a file has the nodes and the weights of a second one, which is in float32."""
    graphs = onnx.load(file).graph, second.graph
    nodes = [nodes_without_casts(graph) for graph in graphs]
    weights = [[onnx.numpy_helper.to_array(each) for each in graph.initializer] for graph in graphs]
    equal = nodes[0] == nodes[1] and len(weights[0]) == len(weights[1])
    if not equal or any(not np.array_equal(W.astype(own.dtype), own, equal_nan=True)
                        for W, own in zip(*weights, strict=True)):  # fmt: skip
        raise FloatingPointError(f"{file.name} got another graph than that of its weights in float32; want the same")


def nodes_without_casts(graph: Any) -> list[Any]:
    """The nodes of a graph and its outputs, as without a Cast: the names of results and weights are their numbers."""
    names: dict[str, Any] = {each.name: number for number, each in enumerate(graph.initializer)}
    nodes = []
    for each in graph.node:
        inputs = [names.get(name, name) for name in each.input]
        if each.op_type == "Cast":
            names[each.output[0]] = inputs[0]
            continue
        names |= {name: (len(nodes), place) for place, name in enumerate(each.output)}
        nodes.append((each.op_type, inputs, len(each.output)))
    return [*nodes, [names.get(each.name, each.name) for each in graph.output]]


class How(NamedTuple):
    """How a file for a library is checked."""

    name: str
    module: str | None
    """That computes its outputs; None for files of this library."""
    outputs: Callable[[Path, Model, Params, np.ndarray], tuple[np.ndarray, str]]
    """The outputs of that library, and in which type: ``"the file"`` for that of the file."""
    read: Callable[[Path], tuple[Model, Params]]
    """The model and params of the file."""


HOW = {
    "torch": How("PyTorch", "torch", outputs_of_torch, from_torch),
    "keras": How("Keras", "keras", outputs_of_keras, from_keras),
    "onnx": How("ONNX Runtime", "onnxruntime", outputs_of_onnx, from_onnx),
    "rnn_jax": How("rnn_jax", None, lambda *_: (np.zeros(0), ""), load_model),
}
