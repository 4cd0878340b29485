"""Files of Keras: each is judged before Keras makes anything of it, so that none runs code or fills the memory.

A ``.keras`` file is an archive of ``config.json``, which names classes and sizes, and of ``model.weights.h5``. Classes
other than those listed here are refused, and so are sizes for which the file holds no weights.
"""

import collections
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rnn_jax.interop.adapters import library, their_rules
from rnn_jax.lab.files import FilePath

__all__ = ["keras_library", "model_of_file"]

GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4, "SimpleRNNCell": 1, "GRUCell": 3, "LSTMCell": 4}
"""Gates of a recurrent layer and of its cell."""
CLASSES = {
    *GATES,
    *("Sequential", "Functional", "InputLayer", "Embedding", "Dense", "TimeDistributed", "Bidirectional", "RNN"),
    *("StackedRNNCells", "Dropout", "SpatialDropout1D", "GaussianNoise", "ActivityRegularization", "Activation"),
    *("DTypePolicy", "__keras_tensor__"),
}
"""Classes that a file may name, beside initialisers, regularisers and constraints of Keras."""
MODULES = ("keras", "keras.layers", "keras.src.models.functional", "keras.src.models.sequential")
RULES = ("keras.initializers", "keras.regularizers", "keras.constraints")
MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
WANTED = "want a .keras file of recurrent layers, Embedding and Dense"
GROWTH, SPARE = 20, 1 << 20
"""The bytes of an archive without its compression: at most GROWTH for each byte of the file, and SPARE."""
EXAMPLES = 1 << 16
"""The most examples in a batch for which a stateful layer makes states."""


def keras_library() -> Any:
    """Keras, on the backend that the environment or the user's own file of Keras names."""
    try:
        return library("keras", "keras")
    except ImportError as error:  # of a backend
        raise ValueError(backend_message(error)) from None
    except ValueError as error:
        if isinstance(error.__cause__, ModuleNotFoundError) and error.__cause__.name not in (None, "keras"):
            raise ValueError(backend_message(error.__cause__)) from None
        raise


def backend_message(error: ImportError) -> str:
    """The error message for a backend of Keras that is not installed."""
    problem = " ".join(str(error).split())[:100]
    return f"keras got a backend that cannot be imported ({problem}); want KERAS_BACKEND=jax in the environment"


def model_of_file(file: FilePath) -> Any:
    """The live model of a ``.keras`` file.

    Args:
        file: its path.

    Raises:
        ValueError: for another file, for classes and functions that are not those of recurrent networks, for sizes
            that its weights do not have, and where Keras is not installed.
    """
    path = Path(file)
    if path.suffix in (".h5", ".hdf5"):
        wanted = "a .keras file, of model.save('model.keras'), since reading .h5 can run code in some versions of Keras"
        raise ValueError(f"file got {path}; want {wanted}")
    if not path.is_file():
        raise ValueError(f"file got {path}, which is no file; want a .keras file")
    require_harmless(path)
    keras = keras_library()
    try:
        with their_rules():
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # h5py, zipfile and Keras raise many kinds of errors
        problem = " ".join(str(error).split())[:200]
        raise ValueError(f"file got {path}, which Keras does not read ({problem}); {WANTED}") from None


def require_harmless(path: Path) -> None:
    """Raises a ValueError for a file that names other classes, or sizes without weights."""
    h5py = library("h5py", "h5py")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
            if sizes.keys() != MEMBERS or len(archive.infolist()) > len(MEMBERS):
                raise ValueError(f"members {', '.join(sorted(sizes))[:100]}")
            if sum(sizes.values()) > GROWTH * path.stat().st_size + SPARE:
                raise ValueError(f"{sum(sizes.values())} bytes in an archive of {path.stat().st_size}")
            config = json.loads(archive.read("config.json"))
            if not isinstance(config, dict):
                raise ValueError(f"a {type(config).__name__} as config.json")
            with archive.open("model.weights.h5") as member, h5py.File(member, "r") as weights:
                shapes = collections.Counter(shapes_of_weights(h5py, weights))
        wanted = collections.Counter(shapes_of_config({**config, "compile_config": None}))
        if wanted - shapes:
            raise ValueError(f"layers with weights {list(next(iter(wanted - shapes)))} that the file does not hold")
    except RecursionError:
        raise ValueError(f"file got {path} with a config.json that is nested too deeply; {WANTED}") from None
    except Exception as error:  # a damaged archive raises many kinds of errors
        problem = " ".join(f"{error}".split())[:200]
        raise ValueError(f"file got {path} with {problem}; {WANTED}") from None


def shapes_of_weights(h5py: Any, group: Any) -> Iterator[tuple[int, ...]]:
    """The shapes of all arrays of an h5 file; a ValueError for arrays that are not written there in full."""
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"the weights {name} of another file")
        found = group[name]
        if isinstance(found, h5py.Group):
            yield from shapes_of_weights(h5py, found)
        elif found.external or found.is_virtual or found.id.get_storage_size() < found.nbytes:
            raise ValueError(f"the weights {name} in another place")
        else:
            yield found.shape


def shapes_of_config(config: Any) -> Iterator[tuple[int, ...]]:
    """The shapes of the weights that Keras makes for a config; a ValueError for classes that are not listed."""
    if isinstance(config, list):
        for each in config:
            yield from shapes_of_config(each)
    if not isinstance(config, dict):
        return
    kind, own = config.get("class_name"), config.get("config")
    own = own if isinstance(own, dict) else {}
    if "class_name" in config:
        require_class(config)
    if kind in GATES or kind == "Dense":
        shape = (config.get("build_config") or {}).get("input_shape")
        if not shape or own.get("lora_rank"):
            raise ValueError(f"a {kind} {'with lora_rank' if shape else 'without its sizes'}")
        I, units = shape[-1], own.get("units")
        if not isinstance(I, int) or not isinstance(units, int):
            raise ValueError(f"a {kind} of {I} inputs and {units} units")
        yield from [(I, units)] if kind == "Dense" else [(I, GATES[kind] * units), (units, GATES[kind] * units)]
    elif kind == "Embedding":
        if own.get("lora_rank"):
            raise ValueError("an Embedding with lora_rank")
        yield tuple(own.get(name) or 0 for name in ("input_dim", "output_dim"))
    batch = own.get("batch_shape")
    if batch and isinstance(batch[0], int) and batch[0] > EXAMPLES:
        raise ValueError(f"batches of {batch[0]} examples")
    for name, each in config.items():
        if name != "shared_object_id":
            yield from shapes_of_config(each)


def require_class(config: dict[str, Any]) -> None:
    """Raises a ValueError unless a config names a class that a file may have."""
    kind, module = config["class_name"], config.get("module")
    known = kind in CLASSES and (module in MODULES or (kind == "__keras_tensor__" and module is None))
    rule = module in RULES and isinstance(kind, str) and kind[:1].isupper()
    if not (known or rule) or config.get("registered_name") not in (None, kind):
        raise ValueError(f"a {kind}" + ("" if module in (None, *MODULES) else f" of {module}"))
