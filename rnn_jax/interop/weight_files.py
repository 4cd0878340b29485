"""Files of weights: safetensors alone, which hold arrays and short texts; no file that could run code is read."""

import importlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.interop.models import CELLS, Network, Part, gates_of, put_together, taken_apart
from rnn_jax.lab.checkpoints import leaves_by_name
from rnn_jax.lab.files import FilePath, linked_path, write_file
from rnn_jax.layers import Model
from rnn_jax.types import Params

__all__ = ["array_of", "load_model", "read_weights", "save_model", "write_weights"]

FIELD = "rnn_jax"
"""The text of a file in which the model of its weights is described."""


def read_weights(file: FilePath) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a safetensors file by name, and its texts.

    Raises:
        ValueError: for a file that is missing or damaged, and for a pickle, such as a ``.pt`` or ``.pth`` of
            ``torch.save``: reading one can run any code, so none is read.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "weights.safetensors"
    >>> write_weights(file, {"weight_ih_l0": np.ones((4, 2))}, activation="relu")
    >>> weights, texts = read_weights(file)
    >>> weights["weight_ih_l0"].shape, texts
    ((4, 2), {'activation': 'relu'})
    """
    from safetensors import SafetensorError, safe_open

    path = Path(file)
    try:
        path.open("rb").close()
        with linked_path(path) as link, safe_open(link, "np") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except OSError as error:
        raise ValueError(f"file got {path}, which cannot be read ({error.strerror}); want a safetensors file") from None
    except (SafetensorError, TypeError, ValueError) as error:
        if is_pickle(path):
            raise ValueError(
                f"file got {path}, a pickle, which can run any code when it is read; want safetensors: where you trust "
                "it, safetensors.torch.save_file(state_dict, 'weights.safetensors')"
            ) from None
        problem = " ".join(str(error).split())[:200]
        raise ValueError(f"file got {path}, which is no safetensors file ({problem}); want one") from None


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, or an archive with one, as ``torch.save`` writes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    with path.open("rb") as opened:
        beginning = opened.read(2)
    return beginning[:1] in (b"(", b"c") or (beginning[:1] == b"\x80" and beginning[1:] <= b"\x05")


def write_weights(file: FilePath, weights: Mapping[str, Any], **texts: str) -> None:
    """Writes arrays by name as a safetensors file, whole or not at all.

    Args:
        file: its path; the folder is made if it does not exist.
        weights: such as ``to_torch(model, params)``; tensors of PyTorch too.
        texts: what else a reader should know, such as ``activation="relu"``.

    Raises:
        OSError: when it cannot be written.
        ValueError: for a value that is not an array of floating numbers.
    """
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array_of(name, value)) for name, value in weights.items()}
    write_file(Path(file), save(arrays, metadata=texts or None))


def array_of(name: str, value: Any) -> np.ndarray:
    """A copy of an array of NumPy or JAX, or of a tensor of PyTorch, also one that is trained or in bfloat16.

    Args:
        name: in error messages.
        value: floating numbers.

    Raises:
        ValueError: for anything else.
    """
    try:
        if hasattr(value, "detach"):
            tensor = value.detach().cpu()
            in_half = str(tensor.dtype) == "torch.bfloat16"  # which NumPy alone does not have
            array = tensor.float().numpy().astype(jnp.bfloat16) if in_half else tensor.numpy()
        else:
            array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        problem = " ".join(str(error).split())[:100]
        raise ValueError(f"{name} got {type(value).__name__} ({problem}); want an array of floating numbers") from None
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} got {array.dtype}{list(array.shape)}; want an array of floating numbers")
    return np.array(array, order="C")


def installed(module: str, package: str) -> Any:
    """A module of another library; a ValueError where its package is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise ValueError(f"{package} is not installed; want it: pip install {package}") from None


def save_model(file: FilePath, model: Model, params: Params) -> None:
    """Writes a model and its params as one safetensors file, which ``load_model`` reads without more.

    The arrays have the names of ``save_params``; a text of the file describes the model: cells, sizes and options.

    Args:
        file: its path; the folder is made if it does not exist.
        model: a model of cells that ``taken_apart`` knows.
        params: its params.

    Raises:
        OSError: when it cannot be written.
        ValueError: for a model with a part that has no name, such as an activation of your own.
    """
    network = taken_apart(model, params, "a file of a model")
    described = json.dumps(description_of(network))
    _, whole = put_together(network)
    write_weights(file, leaves_by_name(whole), **{FIELD: described})


def load_model(file: FilePath) -> tuple[Model, Params]:
    """The model and the params of a file that ``save_model`` wrote.

    Raises:
        ValueError: for any other file.

    >>> import tempfile
    >>> from rnn_jax import gru, readout
    >>> file, model = Path(tempfile.mkdtemp()) / "model.safetensors", readout(gru(3, 4), 2)
    >>> save_model(file, model, model.init(jax.random.key(0)))
    >>> load_model(file)[0]
    readout(gru(input_size=3, hidden_size=4), output_size=2)
    """
    arrays, texts = read_weights(file)
    try:
        described = json.loads(texts[FIELD])
        model, like = put_together(blank_network(described))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"file got {file}, which save_model did not write ({error!r}); want such a file") from None
    wanted = leaves_by_name(like)
    shapes, wanted_shapes = ({name: np.shape(array) for name, array in arrays.items()} for arrays in (arrays, wanted))
    differ = sorted(name for name, _ in shapes.items() ^ wanted_shapes.items())
    if differ:
        raise ValueError(f"file got {file}, whose {differ[0]} does not fit its model; want a whole file")
    return model, jax.tree.unflatten(jax.tree.structure(like), [jnp.array(arrays[name]) for name in wanted])


def description_of(network: Network) -> dict[str, Any]:
    """What of a network is not its weights, in values that JSON can hold."""
    layers = [[described_part(part) for part in layer] for layer in network.layers]
    return {
        "layers": layers,
        "merge": network.merge,
        "embedding": None if network.embedding is None else network.embedding.shape[0],
        "readout": None if network.readout is None else network.readout[1].size,
    }


def described_part(part: Part) -> dict[str, Any]:
    """What of a part is not its weights."""
    for name, value in part.options.items():
        if not isinstance(value, str | int | float):
            raise ValueError(f"{name} got {value!r}; a file of a model takes numbers, and activations by name")
    I, columns = part.params.W_xh.shape
    sizes = {"input_size": I, "hidden_size": columns // gates_of(part), "dtype": str(part.params.W_xh.dtype)}
    return {"cell": part.name, **sizes, "options": part.options, "reverse": part.reverse}


def blank_network(described: dict[str, Any]) -> Network:
    """The network of a description, with weights of zeros."""
    layers = tuple(tuple(blank_part(**part) for part in layer) for layer in described["layers"])
    sizes = [part.params.W_xh.shape[0] for part in layers[0]]
    last = [part.params for part in layers[-1]]
    widths = [p.W_hp.shape[1] if getattr(p, "W_hp", None) is not None else p.W_hh.shape[0] for p in last]
    H = sum(widths) if described["merge"] == "concatenate" else widths[0]
    V, O, dtype = described["embedding"], described["readout"], last[0].W_xh.dtype
    return Network(
        layers,
        described["merge"],
        None if V is None else np.zeros((V, sizes[0]), dtype),
        None if O is None else (np.zeros((H, O), dtype), np.zeros(O, dtype)),
    )


def blank_part(
    cell: str, input_size: int, hidden_size: int, dtype: str, options: dict[str, Any], reverse: bool
) -> Part:
    """A part with weights of zeros."""
    made = CELLS[cell](input_size=input_size, hidden_size=hidden_size, **options, dtype=dtype)
    shapes = jax.eval_shape(made.init, jax.random.key(0))
    return Part(cell, options, jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes), reverse)
