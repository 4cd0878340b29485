"""Files of models from one library to another, with a check of what they compute."""

import json
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.interop.adapters import library, their_rules
from rnn_jax.interop.keras_files import model_of_file
from rnn_jax.interop.keras_models import keras_model
from rnn_jax.interop.keras_weights import LEAVES, from_keras
from rnn_jax.interop.models import Network, network_of_model
from rnn_jax.interop.onnx_files import to_onnx
from rnn_jax.interop.onnx_reading import from_onnx
from rnn_jax.interop.signatures import input_of
from rnn_jax.interop.torch_modules import torch_module
from rnn_jax.interop.torch_weights import from_torch, to_torch
from rnn_jax.interop.weight_files import FIELD, array_of, load_model, read_weights, save_model, write_weights
from rnn_jax.lab.checkpoints import load_params
from rnn_jax.lab.files import FilePath, write_file
from rnn_jax.lab.named_cells import make_model
from rnn_jax.layers import Model, as_layer
from rnn_jax.machinery.checks import in_one_line
from rnn_jax.types import Params

__all__ = ["TARGETS", "Check", "convert", "read_model", "write_model"]

TARGETS = {"torch": ".safetensors", "keras": ".keras", "onnx": ".onnx", "rnn_jax": ".safetensors"}
"""What a file may be for, and how its name ends."""
STEPS, EXAMPLES = 12, 3
TOLERANCES = {"float64": 1e-12, "float32": 1e-6}
"""The largest difference of outputs, as a share of the largest output, if that is above 1."""


class Check(NamedTuple):
    """What a conversion has made, and how near its outputs are."""

    model: Model
    difference: float
    """The largest absolute difference of the outputs for random inputs."""
    against: str
    """What was compared with this library, such as ``PyTorch 2.13.0 in float64``."""
    left_out: str = ""
    """What of the first file the second does not have, such as the dropout of a run."""


def convert(
    file: FilePath,
    out: FilePath,
    to: str,
    *,
    activation: str | Sequence[str] | None = None,
    overwrite: bool = False,
) -> Check:
    """The check of a file that this function writes: the model of another file, for another library.

    The file is written under another name beside ``out``, which it takes only after the check. PyTorch computes in
    float64. Keras has its tanh in float32 at most, so it computes in float32, with the weights of the file. ONNX
    Runtime has LSTM, GRU and RNN in float32, so weights of another type are exported once more for the check.

    Args:
        file: see ``read_model``.
        out: the file to write; its name ends as in ``TARGETS``. It is no part of a run folder.
        to: for whom, a name in ``TARGETS``.
        activation: of an ``nn.RNN`` of PyTorch, as in ``from_torch``.
        overwrite: replace ``out`` if it exists.

    Returns:
        A ``Check`` of the outputs for random inputs, ``xs (12, 3, I)`` or ids ``(12, 3)``.

    Raises:
        ValueError: for a file that cannot be read, a model that the target does not have, or a wrong name.
        OSError: when the file cannot be written.
        FloatingPointError: when the outputs differ by more than rounding; ``out`` stays as it was.

    >>> import tempfile
    >>> from rnn_jax import gru
    >>> folder, model = Path(tempfile.mkdtemp()), gru(3, 4)
    >>> save_model(folder / "a.safetensors", model, model.init(jax.random.key(0)))
    >>> check = convert(folder / "a.safetensors", folder / "b.onnx", "onnx")
    >>> check.model, check.difference < 1e-6
    (gru(input_size=3, hidden_size=4), True)
    """
    path = Path(out)
    if to not in TARGETS:
        raise ValueError(f"to got {in_one_line(to)}; want one of {', '.join(TARGETS)}")
    if path.suffix != TARGETS[to]:
        raise ValueError(f"out got {out}; want a name that ends in {TARGETS[to]}, for {to}")
    require_apart(Path(file), path)
    if path.exists() and not overwrite:
        raise ValueError(f"out got {out}, which exists; want another name, or --overwrite")
    model, params = read_model(file, activation=activation)
    draft = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        write_model(draft, model, params, to)
        check = check_of_file(draft, model, params, to)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return check._replace(left_out=dropout_of(Path(file)))


def require_apart(file: Path, out: Path) -> None:
    """Raises a ValueError where one file would replace the other, or a file of a run."""
    if out.resolve() == file.resolve():
        raise ValueError(f"out got {out}, the file to read; want another one")
    inside = next((folder for folder in out.resolve().parents if config_of_run(folder) is not None), None)
    if inside is not None:
        raise ValueError(f"out got {out}, in the run folder {inside}; want a file beside it")


def read_model(file: FilePath, *, activation: str | Sequence[str] | None = None) -> tuple[Model, Params]:
    """The model and the params of a file.

    Args:
        file: a safetensors file with the names of PyTorch or of Keras, or one of ``save_model``; the run folder of
            ``char_lm.py`` or the params in it; a ``.keras`` or ``.onnx`` file. No pickle is read.
        activation: of an ``nn.RNN`` of PyTorch, as in ``from_torch``, or of recurrent layers of Keras; not for a file
            that has its own.

    Returns:
        The model and its params, of the type of the file.

    Raises:
        ValueError: for any other file.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "weights.safetensors"
    >>> write_weights(file, {"weight_ih_l0": np.ones((12, 3)), "weight_hh_l0": np.ones((12, 4))})
    >>> read_model(file)[0]
    gru(input_size=3, hidden_size=4)
    """
    path = Path(file)
    weights, texts = {}, {}
    if not path.is_dir() and path.suffix not in (".keras", ".h5", ".hdf5", ".onnx"):
        weights, texts = read_weights(path)
    folder = path if path.is_dir() else path.parent if path.name == "params.safetensors" else None
    of_run = folder is not None and FIELD not in texts and (path.is_dir() or config_of_run(folder) is not None)
    if not (of_run or FIELD in texts or path.suffix == ".onnx"):
        of_keras = not weights or any(name.rpartition("/")[2] in LEAVES for name in weights)
        return (from_keras if of_keras else from_torch)(path, activation=activation)
    if activation is not None:
        raise ValueError(f"activation got {in_one_line(activation)}; want None: {file} has its own")
    if of_run and folder is not None:
        return model_of_run(folder)
    return load_model(path) if FIELD in texts else from_onnx(path)


def config_of_run(folder: Path) -> dict[str, Any] | None:
    """The options in the folder of a run of ``char_lm.py``, or None for any other folder."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    wanted = {"cell": str, "vocabulary_size": int, "hidden_size": int, "layers": int}
    is_run = isinstance(config, dict) and all(isinstance(config.get(name), kind) for name, kind in wanted.items())
    return config if is_run else None


def dropout_of(file: Path) -> str:
    """The dropout of a run, in words; an empty text where there is none."""
    folder = file if file.is_dir() else file.parent if file.name == "params.safetensors" else None
    rate = ((folder and config_of_run(folder)) or {}).get("dropout")
    return f"dropout of {rate}, which acts in training alone" if rate else ""


def model_of_run(folder: Path) -> tuple[Model, Params]:
    """The model that a run of ``char_lm.py`` has trained, without its dropout, and its best params."""
    config, file = config_of_run(folder), folder / "params.safetensors"
    if config is None:
        raise ValueError(f"file got {folder}, without the config.json of a run; want the folder of a run of char_lm.py")
    cell, sizes, layers = config["cell"], (config["vocabulary_size"], config["hidden_size"]), config["layers"]
    if ":" in cell:
        raise ValueError(f"file got {folder}, of the cell {cell}; want a cell of the library")
    weights, _ = read_weights(file)
    with jax.enable_x64(all(W.dtype == np.float64 for W in weights.values())):  # the type in which the run computed
        model = make_model(cell, *sizes, layers=layers)
        return model, load_params(file, jax.eval_shape(model.init, jax.random.key(0)))


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
    path = Path(out)
    if to == "torch":
        write_weights(path, to_torch(model, params), **texts_for_torch(network_of_model(model, params, "PyTorch")))
    elif to == "keras":
        live = keras_model(model, params)
        path.parent.mkdir(parents=True, exist_ok=True)
        live.save(path)
    elif to == "onnx":
        write_file(path, to_onnx(model, params).SerializeToString())
    else:
        save_model(path, model, params)


def texts_for_torch(network: Network) -> dict[str, str]:
    """The activation of a network of vanilla cells, which a state dict does not have: one for all, or one a layer."""
    parts = [layer[0] for layer in network.layers]
    activations = [part.options.get("activation", "tanh") for part in parts]
    if all(part.name != "vanilla" for part in parts):
        return {}
    own = {phi for part, phi in zip(parts, activations, strict=True) if part.name == "vanilla"}
    return {"activation": own.pop() if len(own) == 1 else ",".join(activations)}


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
    difference = float(np.max(np.abs(ours - theirs), initial=0.0))
    limit = TOLERANCES["float64" if kind == "float64" else "float32"] * np.max(np.abs(ours), initial=1.0)
    if not difference <= limit:
        raise FloatingPointError(
            f"{file.name} got outputs that differ by {difference:.2g} from {against}; want at most {limit:.2g}"
        )
    return Check(model, difference, against)


def cast(params: Params, dtype: Any) -> Params:
    """The same params in another floating type."""
    return jax.tree.map(lambda a: np.asarray(a).astype(dtype), params)


def outputs_of_model(model: Model, params: Params, xs: np.ndarray) -> np.ndarray:
    """The outputs of a model of ours, computed in float64."""
    layer = as_layer(model)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, cast(params, np.float64))
        return np.asarray(layer.apply(params, layer.start(params, xs.shape[1:2]), jnp.asarray(xs))[1])


def random_inputs(params: Params) -> np.ndarray:
    """Random ids ``(T, B)`` of an embedding, or vectors ``(T, B, I)`` of float64 that float32 can hold."""
    rng, shape = np.random.default_rng(0), (STEPS, EXAMPLES)
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
    keras = library("keras", "keras")
    given = np.swapaxes(xs, 0, 1)
    given = given if xs.dtype == np.int32 else given.astype(np.float32)
    with their_rules():
        return np.swapaxes(keras.ops.convert_to_numpy(live(given)), 0, 1).astype(float), kind


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
    nodes = [[(each.op_type, *each.input, *each.output) for each in graph.node] for graph in graphs]
    weights = [{each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer} for graph in graphs]
    equal = nodes[0] == nodes[1] and weights[0].keys() == weights[1].keys()
    if not equal or any(not np.array_equal(W.astype(weights[1][name].dtype), weights[1][name], equal_nan=True)
                        for name, W in weights[0].items()):  # fmt: skip
        raise FloatingPointError(f"{file.name} got another graph than that of its weights in float32; want the same")


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
