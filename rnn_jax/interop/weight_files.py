"""Files of weights: safetensors alone, which hold arrays and short texts; no file that could run code is read."""

import contextlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.interop.models import (
    CELLS,
    Network,
    Part,
    gates_of,
    model_of_network,
    network_of_model,
    params_of_network,
    shape_of_model,
)
from rnn_jax.lab.checkpoints import leaves_by_name
from rnn_jax.lab.files import FilePath, linked_path, write_file
from rnn_jax.layers import Model
from rnn_jax.machinery.checks import in_one_line
from rnn_jax.types import Params

__all__ = ["array_of", "is_path", "load_model", "read_weights", "save_model", "write_weights"]

FIELD = "rnn_jax"
"""The text of a file in which the model of its weights is described."""


def is_path(value: Any) -> bool:
    """Whether a value is a path of a file."""
    return isinstance(value, str | os.PathLike)


def read_weights(file: FilePath) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a safetensors file by name, and its texts.

    Returns:
        Arrays of NumPy, sorted by name, also of bfloat16; and the texts that were written beside them.

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
    with contextlib.suppress(OSError):
        if not path.is_file():
            raise ValueError(f"file got {str(path)!r}, which is no file; want a safetensors file")
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
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
        return False
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


def save_model(file: FilePath, model: Model, params: Params) -> None:
    """Writes a model and its params as one safetensors file, which ``load_model`` reads without more.

    The arrays have the names of ``save_params``; a text of the file describes the model: cells, sizes and options.

    Args:
        file: its path; the folder is made if it does not exist.
        model: of cells that ``network_of_model`` reads.
        params: its params.

    Raises:
        OSError: when it cannot be written.
        ValueError: for a model with a part that has no name, such as an activation of your own.
    """
    network = network_of_model(model, params, "a file of a model")
    described = json.dumps(description_of(network))
    _, whole = model_of_network(network)
    write_weights(file, leaves_by_name(whole), **{FIELD: described})


def load_model(file: FilePath) -> tuple[Model, Params]:
    """The model and the params of a file that ``save_model`` wrote.

    Returns:
        The model and its params, bit for bit.

    Raises:
        ValueError: for any other file, and for float64 without ``jax_enable_x64``.

    >>> import tempfile
    >>> from rnn_jax import gru, readout
    >>> file, model = Path(tempfile.mkdtemp()) / "model.safetensors", readout(gru(3, 4), 2)
    >>> save_model(file, model, model.init(jax.random.key(0)))
    >>> load_model(file)[0]
    readout(gru(input_size=3, hidden_size=4), output_size=2)
    """
    arrays, texts = read_weights(file)
    try:
        network = described_network(json.loads(texts[FIELD]))
        model, wanted = shape_of_model(network), leaves_by_name(params_of_network(network))
    except (KeyError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        problem = " ".join(repr(error).split())[:100]
        raise ValueError(f"file got {file}, which save_model did not write ({problem}); want such a file") from None
    kinds, wanted_kinds = ({name: (a.shape, a.dtype) for name, a in each.items()} for each in (arrays, wanted))
    differ = sorted(name for name, _ in kinds.items() ^ wanted_kinds.items())
    if differ:
        raise ValueError(f"file got {file}, whose {differ[0]} does not fit its model; want a whole file")
    tree = jax.tree.structure(params_of_network(network))
    network = network_of_model(model, jax.tree.unflatten(tree, [arrays[name] for name in wanted]))
    return model_of_network(network)


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
            raise ValueError(f"{name} got {in_one_line(value)}; want a number or the name of an activation, for a file")
    I, columns = part.params.W_xh.shape
    sizes = {"input_size": I, "hidden_size": columns // gates_of(part), "dtype": str(part.params.W_xh.dtype)}
    return {"cell": part.name, **sizes, "options": part.options, "reverse": part.reverse}


def described_network(described: Any) -> Network:
    """The network of a description, with shapes and types in the places of weights."""
    layers = tuple(tuple(described_cell(**part) for part in layer) for layer in described["layers"])
    if not layers or not all(len(layer) in (1, 2) for layer in layers):
        raise ValueError("layers got none, or more than two directions; want one or two in each")
    last = [part.params for part in layers[-1]]
    widths = [p.W_hp.shape[1] if getattr(p, "W_hp", None) is not None else p.W_hh.shape[0] for p in last]
    H = sum(widths) if described["merge"] == "concatenate" else widths[0]
    V, O, dtype = described["embedding"], described["readout"], last[0].W_xh.dtype
    E = None if V is None else jax.ShapeDtypeStruct((V, layers[0][0].params.W_xh.shape[0]), dtype)
    W = None if O is None else (jax.ShapeDtypeStruct((H, O), dtype), jax.ShapeDtypeStruct((O,), dtype))
    return Network(layers, described["merge"], E, W)  # pyright: ignore[reportArgumentType]


def described_cell(
    cell: str, input_size: int, hidden_size: int, dtype: str, options: dict[str, Any], reverse: bool
) -> Part:
    """A part with shapes and types in the places of weights."""
    made = CELLS[cell](input_size=input_size, hidden_size=hidden_size, **options, dtype=dtype)
    return Part(cell, options, jax.eval_shape(made.init, jax.random.key(0)), reverse)
