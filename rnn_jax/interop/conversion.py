"""Files of models from one library to another, with a check of what they compute."""

from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.interop.keras_models import from_keras_model, keras_model, outputs_of_file
from rnn_jax.interop.models import Network, put_together, taken_apart
from rnn_jax.interop.torch_modules import torch_module
from rnn_jax.interop.torch_weights import from_torch, to_torch
from rnn_jax.interop.weight_files import FIELD, installed, load_model, read_weights, save_model, write_weights
from rnn_jax.lab.checkpoints import load_params
from rnn_jax.lab.files import FilePath, write_file
from rnn_jax.lab.named_cells import make_model
from rnn_jax.layers import Model, as_layer
from rnn_jax.types import Params

__all__ = ["TARGETS", "Check", "convert", "read_model", "write_model"]

TARGETS = {"torch": ".safetensors", "keras": ".keras", "onnx": ".onnx", "rnn_jax": ".safetensors"}
"""What a file may be for, and how its name ends."""
STEPS, EXAMPLES = 12, 3


class Check(NamedTuple):
    """What a conversion has made, and how near its outputs are."""

    model: Model
    difference: float
    """The largest absolute difference of the outputs for random inputs."""
    against: str
    """What was compared with this library, such as ``PyTorch 2.13.0``."""


def convert(file: FilePath, out: FilePath, to: str, *, activation: str | None = None, overwrite: bool = False) -> Check:
    """The check of a file that this function writes: the model of another file, for another library.

    Args:
        file: see ``read_model``.
        out: the file to write; its name ends as in ``TARGETS``.
        to: for whom, a name in ``TARGETS``.
        activation: of an ``nn.RNN`` of PyTorch, as in ``from_torch``.
        overwrite: replace ``out`` if it exists.

    Raises:
        ValueError: for a file that cannot be read, a model that the target does not have, or a wrong name.
        OSError: when the file cannot be written.
        FloatingPointError: when the outputs differ by more than rounding.
    """
    if to not in TARGETS:
        raise ValueError(f"--to got {to!r}; want one of {', '.join(TARGETS)}")
    if Path(out).suffix != TARGETS[to]:
        raise ValueError(f"OUT got {out}; want a name that ends in {TARGETS[to]}, for {to}")
    if Path(out).exists() and not overwrite:
        raise ValueError(f"OUT got {out}, which exists; want another name, or --overwrite")
    model, params = read_model(file, activation=activation)
    write_model(out, model, params, to)
    return checked(out, model, params, to)


def read_model(file: FilePath, *, activation: str | None = None) -> tuple[Model, Params]:
    """The model and the params of a file.

    Args:
        file: a safetensors file with the names of PyTorch, or one of ``save_model``; the run folder of ``char_lm.py``;
            a ``.keras``, ``.h5`` or ``.onnx`` file. No pickle is read.
        activation: of an ``nn.RNN`` of PyTorch, as in ``from_torch``.

    Raises:
        ValueError: for any other file.
    """
    path = Path(file)
    if path.is_dir():
        return model_of_run(path)
    if path.suffix in (".keras", ".h5", ".hdf5"):
        return from_keras_model(path)
    if path.suffix == ".onnx":
        from_onnx, _ = onnx_functions()
        return from_onnx(path)
    weights, texts = read_weights(path)
    if FIELD in texts:
        return load_model(path)
    if path.name == "params.safetensors" and (path.parent / "config.json").is_file():
        return model_of_run(path.parent)
    return from_torch(weights, activation=activation or texts.get("activation"))


def model_of_run(folder: Path) -> tuple[Model, Params]:
    """The model that a run of ``char_lm.py`` has trained, without its dropout, and its best params."""
    from rnn_jax.lab.runs import read_json  # which imports matplotlib

    kept, file = read_json(folder / "config.json"), folder / "params.safetensors"
    try:
        cell, sizes, layers = kept["cell"], (kept["vocabulary_size"], kept["hidden_size"]), kept["layers"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"IN got {folder}, whose config.json no run of char_lm.py wrote ({error!r})") from None
    if ":" in cell:
        raise ValueError(f"IN got {folder}, of the cell {cell}; want a cell of the library")
    weights, _ = read_weights(file)
    with jax.enable_x64(all(W.dtype == np.float64 for W in weights.values())):  # the type in which the run computed
        model = make_model(cell, *sizes, layers=layers)
        params = load_params(file, jax.eval_shape(model.init, jax.random.key(0)))
    return put_together(taken_apart(model, params, "conversion"))


def write_model(out: FilePath, model: Model, params: Params, to: str) -> None:
    """Writes a file of a model for another library.

    Args:
        out: its path.
        model, params: the model.
        to: for whom, a name in ``TARGETS``.

    Raises:
        ValueError: for a model that the target does not have, and for a library that must be installed.
        OSError: when it cannot be written.
    """
    if to == "torch":
        write_weights(out, to_torch(model, params), **texts_for_torch(taken_apart(model, params, "PyTorch")))
    elif to == "keras":
        live = keras_model(model, params)
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        live.save(out)
    elif to == "onnx":
        _, to_onnx = onnx_functions()
        write_file(Path(out), to_onnx(model, params).SerializeToString())
    else:
        save_model(out, model, params)


def texts_for_torch(network: Network) -> dict[str, str]:
    """The activation of a network of vanilla cells, which a state dict does not tell."""
    parts = [part for layer in network.layers for part in layer if part.name == "vanilla"]
    activations = {part.options.get("activation", "tanh") for part in parts}
    if len(activations) > 1:
        raise ValueError(f"activation got {' and '.join(sorted(activations))} in one model; want one for a state dict")
    return {"activation": activations.pop()} if activations else {}


def onnx_functions() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``from_onnx`` and ``to_onnx``."""
    try:
        from rnn_jax.interop.onnx_files import to_onnx  # pyright: ignore[reportMissingImports]
        from rnn_jax.interop.onnx_reading import from_onnx  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("onnx got no support in this version; want torch, keras or rnn_jax") from None
    return from_onnx, to_onnx


def checked(out: FilePath, model: Model, params: Params, to: str) -> Check:
    """The check of a file on random inputs: by the library it is for, or read back where that is not installed.

    Raises:
        FloatingPointError: when the outputs differ by more than rounding.
    """
    network = taken_apart(model, params, "a check")
    xs, dtype = random_inputs(network), network.layers[0][0].params.W_xh.dtype
    ys, run = outputs_of(model, params, xs), RUNS.get(to)
    if run is None or find_spec(run.module) is None or (to == "onnx" and dtype == np.float64):
        why = (
            ""
            if run is None
            else f", as {run.name} {'has no float64' if find_spec(run.module) else 'is not installed'}"
        )
        against, theirs = f"the file read back by rnn_jax{why}", outputs_of(*read_model(out), xs)
    else:
        against, theirs = f"{run.name} {version(run.module)}", run.outputs(Path(out), model, params, xs)
    ys, theirs = (np.asarray(a, np.float64) for a in (ys, theirs))
    difference = float(np.max(np.abs(ys - theirs), initial=0.0))
    if not difference <= 100 * float(jnp.finfo(dtype).eps) * (1 + float(np.max(np.abs(ys), initial=0.0))):
        raise FloatingPointError(
            f"{out} got outputs that differ by {difference:.2g} from {against}; want rounding alone"
        )
    return Check(model, difference, against)


def outputs_of(model: Model, params: Params, xs: np.ndarray) -> Any:
    """The outputs of a model of ours."""
    layer = as_layer(model)
    return layer.apply(params, layer.start(params, xs.shape[1:2]), jnp.asarray(xs))[1]


def random_inputs(network: Network) -> np.ndarray:
    """Random ids ``(T, B)`` of an embedding, or vectors ``(T, B, I)``."""
    rng, shape = np.random.default_rng(0), (STEPS, EXAMPLES)
    if network.embedding is not None:
        return rng.integers(len(network.embedding), size=shape).astype(np.int32)
    W_xh = network.layers[0][0].params.W_xh
    return rng.standard_normal((*shape, W_xh.shape[0])).astype(W_xh.dtype)


def outputs_of_torch(out: Path, model: Model, params: Params, xs: np.ndarray) -> np.ndarray:
    """The outputs of PyTorch with the weights of a file."""
    torch = installed("torch", "torch")
    module, (weights, _) = torch_module(model, params), read_weights(out)
    module.load_state_dict({name: torch.tensor(W.astype(float)) for name, W in weights.items()})
    ids = xs.dtype == np.int32
    with torch.no_grad():
        given = torch.tensor(xs) if ids else torch.tensor(xs.astype(float)).to(next(module.parameters()).dtype)
        return module(given)[0].double().numpy()


def outputs_of_keras(out: Path, model: Model, params: Params, xs: np.ndarray) -> np.ndarray:
    """The outputs of Keras for a file."""
    return outputs_of_file(out, xs)


def outputs_of_onnx(out: Path, model: Model, params: Params, xs: np.ndarray) -> np.ndarray:
    """The outputs of ONNX Runtime for a file."""
    runtime = installed("onnxruntime", "onnxruntime")
    session = runtime.InferenceSession(out.read_bytes())
    return session.run(["ys"], {"xs": xs})[0]


class Run(NamedTuple):
    """How a library computes the outputs of its file."""

    name: str
    module: str
    outputs: Callable[[Path, Model, Params, np.ndarray], np.ndarray]


RUNS = {
    "torch": Run("PyTorch", "torch", outputs_of_torch),
    "keras": Run("Keras", "keras", outputs_of_keras),
    "onnx": Run("ONNX Runtime", "onnxruntime", outputs_of_onnx),
}
