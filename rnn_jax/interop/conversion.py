"""Files of models from one library to another, with a check of what they compute."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnn_jax.interop.conversion_checks import Check, check_of_file, difference_of_reading
from rnn_jax.interop.keras_files import model_of_file
from rnn_jax.interop.keras_layers import gives_last_step, to_logits
from rnn_jax.interop.keras_models import keras_model
from rnn_jax.interop.keras_weights import LEAVES, from_keras
from rnn_jax.interop.models import Network, network_of_model
from rnn_jax.interop.onnx_files import to_onnx
from rnn_jax.interop.onnx_reading import from_onnx
from rnn_jax.interop.torch_weights import from_torch, to_torch
from rnn_jax.interop.weight_files import FIELD, load_model, read_weights, save_model, write_weights
from rnn_jax.lab.checkpoints import load_params
from rnn_jax.lab.files import FilePath, write_file
from rnn_jax.lab.named_cells import make_model
from rnn_jax.layers import Model
from rnn_jax.machinery.checks import in_one_line
from rnn_jax.types import Params

__all__ = ["TARGETS", "Check", "convert", "read_model", "write_model"]

TARGETS = {"torch": ".safetensors", "keras": ".keras", "onnx": ".onnx", "rnn_jax": ".safetensors"}
"""What a file may be for, and how its name ends."""


def convert(
    file: FilePath,
    out: FilePath,
    to: str,
    *,
    activation: str | Sequence[str] | None = None,
    overwrite: bool = False,
) -> Check:
    """The check of a file that this function writes: the model of another file, for another library.

    What is compared is the model as it was read from ``file`` and the file ``out``, run by the library it is for. A
    ``.keras`` file in float32 is run by Keras too, and compared with the model as it was read. Other files are not run:
    what a program computes with weights is not in a file of weights. A softmax or a sigmoid at the end of a ``.keras``
    file is left out.

    The file is written in a folder of its own beside ``out``, and moved only after the check. PyTorch computes in
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
    live = model_of_file(file) if Path(file).suffix == ".keras" else None
    logits = "" if live is None else to_logits(live)
    model, params = (read_model if live is None else from_keras)(file if live is None else live, activation=activation)
    last = live is not None and gives_last_step(live)
    reading = None if live is None else difference_of_reading(live, model, params, last=last)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / path.name
        write_model(draft, model, params, to)
        check = check_of_file(draft, model, params, to)
        draft.replace(path)
    left_out = [dropout_of(Path(file)), logits, "IN gives the last step alone, OUT every step" if last else ""]
    left_out.append(coupling_of(model, params, to))
    return check._replace(left_out="; ".join(filter(None, left_out)), reading=reading)


def coupling_of(model: Model, params: Params, to: str) -> str:
    """The coupled gates that a library does not have, in words; an empty text where there are none."""
    layers = network_of_model(model, params).layers if to in ("torch", "keras") else ()
    return "the coupling of gates" if any(part.name == "cifg_lstm" for layer in layers for part in layer) else ""


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
        require_names(path, weights)
        return (from_keras if of_keras else from_torch)(path, activation=activation)
    if activation is not None:
        raise ValueError(f"activation got {in_one_line(activation)}; want None: {file} has its own")
    if of_run and folder is not None:
        return model_of_run(folder)
    return load_model(path) if FIELD in texts else from_onnx(path)


def require_names(file: Path, weights: Mapping[str, Any]) -> None:
    """Raises a ValueError for a file of weights with the names of Flax, Haiku or Equinox."""
    leaves = {name.rpartition("/")[2] for name in weights if "/" in name}
    cells = {name.removesuffix("weight_hh") for name in weights if name.endswith("weight_hh")}
    found = {
        "from_flax": "kernel" in leaves and "recurrent_kernel" not in leaves,
        "from_haiku": bool(leaves & {"w", "w_i", "w_h"}),
        "from_equinox": any(f"{cell}bias" in weights for cell in cells),
    }
    for reader in (name for name, is_found in found.items() if is_found):
        raise ValueError(f"file got {file}, with other names; want those of PyTorch or Keras, or {reader} in Python")


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
