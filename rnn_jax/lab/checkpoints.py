"""Checkpoints, from which a run goes on bit for bit (orbax), and params in a portable file (safetensors)."""

import contextlib
import hashlib
import itertools
import json
import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rnn_jax.lab.files import FilePath, delete_listed, linked_path, list_files, listed_files, write_file
from rnn_jax.types import Params

__all__ = ["Checkpoints", "drafts", "load_params", "save_params"]


class Restored(NamedTuple):
    """A checkpoint that was read and is not damaged."""

    step: int
    state: PyTree
    facts: dict[str, Any]


class Checkpoints(NamedTuple):
    """A folder of checkpoints, one folder a step; each is written whole or not at all.

    Example:

    >>> import jax.numpy as jnp, tempfile
    >>> kept = Checkpoints(tempfile.mkdtemp())
    >>> kept.save(100, {"h": jnp.arange(3)}, {"metrics": 17})
    >>> found = kept.restore({"h": jnp.zeros(3, int)}, print)
    >>> found.step, found.state["h"].tolist(), found.facts["metrics"]
    (100, [0, 1, 2], 17)
    """

    folder: FilePath
    """Made if it does not exist; any name that the file system allows."""
    keep: int = 2
    """The number of latest checkpoints that are kept; at least 2, so that one is left if the last is damaged."""

    def steps(self) -> list[int]:
        """The steps that are kept."""
        return sorted(int(path.name) for path in Path(self.folder).glob("*") if is_checkpoint(path))

    def save(self, step: int, state: PyTree, facts: dict[str, Any]) -> None:
        """Writes a checkpoint: any pytree of arrays and typed keys, and facts that JSON can hold.

        It is read back bit for bit; only then older ones are deleted.

        Raises:
            OSError: when it cannot be written, or not read back; those before it stay.
            ValueError: when the step is not a later one.
        """
        packed, folder = bytes_of_state(state), Path(self.folder)
        record = {"facts": facts, "sha256": digest(packed), "bytes": packed.size, "leaves": types_by_name(state)}
        as_json = json.dumps(json.loads(json.dumps(record)), sort_keys=True)  # or a TypeError
        if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 0:
            raise ValueError(f"checkpoint got step {step}; want an integer of at least 0")
        if self.steps() and step <= self.steps()[-1]:
            raise ValueError(f"checkpoint got step {step}, when {self.steps()[-1]} is kept; want a later one")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for draft in drafts(folder):  # of a save that was killed
                shutil.rmtree(draft)
            draft = folder / f"{step}.part"
            write_whole(draft, record, packed)
            read, numbers_read = read_whole(draft)
            if json.dumps(read, sort_keys=True) != as_json or not np.array_equal(numbers_read, packed):
                raise OSError("the copy that was read back is different")
            list_files(draft)
            draft.rename(folder / str(step))
        except Exception as error:  # orbax and tensorstore raise different errors for a full disk
            raise OSError(f"checkpoint {step} could not be written ({one_line(error)})") from error
        for old in self.steps()[: -max(2, self.keep)]:
            if listed_files(folder / str(old)):  # otherwise its file list is missing
                put_aside(folder / str(old), "old")
        for aside in folder.glob("[0-9]*.old*"):  # of a save that was killed, too
            delete_listed(aside)

    def restore(self, like: PyTree, report: Callable[[str], None]) -> Restored | None:
        """The latest whole checkpoint, as arrays like those of ``like`` or its shapes; None if none was ever saved.

        Damaged ones after it are put aside, and ``report`` is called with a line for each. If none is whole, all stay.

        Raises:
            ValueError: when arrays differ in name, type or shape, or when every one is damaged; all files stay.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                record, packed = read_whole(Path(self.folder) / str(step))
            except Exception as error:  # a damaged file raises many kinds of errors
                damaged[step] = one_line(error)
                continue
            require_same(record["leaves"], types_by_name(like), f"checkpoint {step}")
            for number, why in damaged.items():
                aside = put_aside(Path(self.folder) / str(number), "damaged")
                report(f"checkpoint {number} is damaged and was put aside as {aside.name}: {why}")
            return Restored(step, state_of_bytes(packed, like), record["facts"])
        if damaged:
            raise ValueError(
                f"checkpoints got none that can be read in {self.folder} ({next(iter(damaged.values()))}); "
                "want one, or --overwrite to start again"
            )
        return None

    def read(self, step: int, like: PyTree) -> Restored:
        """The checkpoint of one step, as arrays like those of ``like`` or its shapes; no file is changed.

        Raises:
            ValueError: when it is not there, or damaged, or when arrays differ in name, type or shape.
        """
        try:
            record, packed = read_whole(Path(self.folder) / str(step))
        except Exception as error:  # a damaged file raises many kinds of errors
            raise ValueError(
                f"checkpoints got no checkpoint {step} that can be read in {self.folder} ({one_line(error)}); want a "
                "folder that all processes see"
            ) from None
        require_same(record["leaves"], types_by_name(like), f"checkpoint {step}")
        return Restored(step, state_of_bytes(packed, like), record["facts"])


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint: a folder with the name of a step, and no link to one."""
    step = path.name.isascii() and path.name.isdecimal() and path.name == str(int(path.name))
    return step and path.is_dir() and not path.is_symlink()


def drafts(folder: Path) -> list[Path]:
    """The unfinished files of saves that were killed, in a folder of checkpoints."""
    ours = re.compile(r"\d+\.part(\.orbax-checkpoint-tmp.*)?")
    return [p for p in folder.glob("*.part*") if ours.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]


@contextlib.contextmanager
def open_checkpointer(folder: Path) -> Iterator[tuple[Any, Path]]:
    """A context with a checkpointer of orbax and a path to the folder; errors are raised, and not logged as well."""
    import orbax.checkpoint as ocp

    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    here = ocp.options.MultiprocessingOptions()
    if jax.process_count() > 1:  # this process writes, or reads, alone
        number = jax.process_index()
        here = ocp.options.MultiprocessingOptions(number, {number}, f"process{number}")
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=here))
    try:
        with linked_path(folder) as link, ocp.Checkpointer(handler, multiprocessing_options=here) as checkpointer:
            yield checkpointer, link
    finally:
        log.setLevel(level)


def write_whole(checkpoint: Path, record: dict[str, Any], packed: np.ndarray) -> None:
    """Writes a new checkpoint."""
    import orbax.checkpoint as ocp

    stored = packed if packed.size else np.zeros(1, np.uint8)  # orbax keeps nothing that is empty
    both = {"state": ocp.args.StandardSave(stored), "facts": ocp.args.JsonSave(record)}
    with open_checkpointer(checkpoint.parent) as (checkpointer, folder):
        checkpointer.save(folder / checkpoint.name, args=ocp.args.Composite(**both))


def read_whole(checkpoint: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The record of a checkpoint, and the bytes of its state; an OSError if they have another digest."""
    import orbax.checkpoint as ocp

    with open_checkpointer(checkpoint) as (checkpointer, path):
        record = checkpointer.restore(path, args=ocp.args.Composite(facts=ocp.args.JsonRestore()))["facts"]
        wanted = ocp.args.StandardRestore(np.zeros(max(1, record["bytes"]), np.uint8))
        stored = np.asarray(checkpointer.restore(path, args=ocp.args.Composite(state=wanted))["state"])
    packed = stored[: record["bytes"]]
    if digest(packed) != record["sha256"]:
        raise OSError("its arrays are not those that were saved")
    return record, packed


def put_aside(checkpoint: Path, why: str) -> Path:
    """Renames a checkpoint, so that it is no longer a checkpoint; deletes nothing, and returns the new path."""
    names = (checkpoint.with_name(f"{checkpoint.name}.{why}{n or ''}") for n in itertools.count())
    aside = next(path for path in names if not path.exists())
    return checkpoint.rename(aside)


def require_same(found: dict[str, str], wanted: dict[str, str], what: str) -> None:
    """Raises a ValueError that names the first array of which two descriptions differ."""
    for name in sorted(wanted.keys() | found.keys()):
        has, wants = (tree.get(name, "missing") for tree in (found, wanted))
        if has != wants:
            raise ValueError(f"{what}, where {name} is {has}; want {wants}: give the configuration it was trained with")


def bytes_of_state(state: PyTree) -> np.ndarray:
    """The bytes of every array of a pytree, one after the other ``(bytes,)``.

    >>> bytes_of_state({"h": np.float32([1.0]), "key": np.uint8(7)})
    array([  0,   0, 128,  63,   7], dtype=uint8)
    """
    return np.frombuffer(b"".join(numbers_of_leaf(leaf).tobytes() for leaf in jax.tree.leaves(state)), np.uint8)


def state_of_bytes(packed: np.ndarray, like: PyTree) -> PyTree:
    """The inverse of ``bytes_of_state``: keys and arrays of jax or NumPy, with the shapes and types of ``like``.

    >>> packed = bytes_of_state({"h": np.float32([1.0]), "n": np.uint8(7)})
    >>> state_of_bytes(packed, {"h": jnp.zeros(1, "float32"), "n": np.uint8(0)})
    {'h': Array([1.], dtype=float32), 'n': array(7, dtype=uint8)}
    """
    leaves, structure = jax.tree.flatten(like)
    read, begin = [], 0
    for leaf in leaves:
        key = data_of_key(leaf) if is_key(leaf) else None
        as_before = key[0] if key else leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
        array = np.frombuffer(packed, as_before.dtype, math.prod(as_before.shape), begin).reshape(as_before.shape)
        begin += array.nbytes
        if key:
            read.append(jax.random.wrap_key_data(jnp.array(array), impl=key[1]))
        else:
            read.append(jnp.array(array) if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) else array.copy())
    return jax.tree.unflatten(structure, read)


def data_of_key(key: Any) -> tuple[jax.ShapeDtypeStruct, Any]:
    """The shape and type of the numbers of a typed key, or of a key's shape, and its implementation."""
    impl: list[Any] = []

    def data(key: Any) -> jax.Array:
        impl.append(jax.random.key_impl(key))
        return jax.random.key_data(key)

    return jax.eval_shape(data, key), impl[0]


def numbers_of_leaf(leaf: Any) -> np.ndarray:
    """An array in its own type, or the numbers of a typed key; a Python number in the type that JAX gives it."""
    if is_key(leaf):
        return np.asarray(jax.random.key_data(leaf))
    return np.asarray(leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf))


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed key."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def digest(packed: np.ndarray) -> str:
    """SHA-256 of bytes."""
    return hashlib.sha256(packed.tobytes()).hexdigest()


def one_line(error: BaseException) -> str:
    """The type of an error and the beginning of its message."""
    message = str(error).strip().splitlines()
    return f"{type(error).__name__}: {message[0][:200]}" if message else type(error).__name__


def save_params(file: FilePath, params: Params) -> None:
    """Writes params as a safetensors file, whole or not at all; a leaf's name is its path, such as ``cell/W_hh``.

    The file needs no framework to be read; weights are in this library's layout (docs/cells.md).

    Args:
        file: its path; the folder is made if it does not exist.
        params: any pytree of arrays.

    Raises:
        OSError: when it cannot be written.
        ValueError: when two arrays would have one name.
    """
    from safetensors.numpy import save

    write_file(Path(file), save({name: np.asarray(leaf, order="C") for name, leaf in leaves_by_name(params).items()}))


def load_params(file: FilePath, like: Params) -> Params:
    """Params that ``save_params`` has written.

    Args:
        file: a safetensors file.
        like: params, or their shapes and types, such as ``jax.eval_shape(cell.init, key)`` gives.

    Raises:
        ValueError: when the file is missing, truncated, or holds other params; it names the first that differs.

    Example:

    >>> import jax, tempfile
    >>> from rnn_jax import gru, lstm
    >>> file, key = Path(tempfile.mkdtemp()) / "params.safetensors", jax.random.key(0)
    >>> save_params(file, gru(2, 3).init(key))
    >>> load_params(file, gru(2, 3).init(key)).W_hh.shape
    (3, 9)
    >>> load_params(file, lstm(2, 3).init(key))
    Traceback (most recent call last):
    ValueError: params got .../params.safetensors, where W_hh is float...[3, 9]; want float...[3, 12]...
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        with linked_path(Path(file)) as link:
            found = load_file(link)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"params got {file}, which cannot be read ({one_line(error)}); want a whole file") from error
    require_same(types_by_name(found), types_by_name(like), f"params got {file}")
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.array(found[name]) for name in leaves_by_name(like)])


def leaves_by_name(params: Params) -> dict[str, Any]:
    """The leaves by name, ``{name: leaf}`` in the tree's order; a name is the path to the leaf, such as ``cell/W_hh``.

    >>> list(leaves_by_name({"cell": (1.0, 2.0)}))
    ['cell/0', 'cell/1']
    """
    leaves = jax.tree.leaves_with_path(params)
    found = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(found) < len(leaves):
        raise ValueError(f"params got {len(leaves)} arrays of {len(found)} names; want names without slashes")
    return found


def types_by_name(tree: PyTree) -> dict[str, str]:
    """The type and shape of every array, ``{name: text}``.

    >>> types_by_name({"cell": np.zeros((2, 3), np.float32)})
    {'cell': 'float32[2, 3]'}
    """
    arrays = {
        name: leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf) for name, leaf in leaves_by_name(tree).items()
    }
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in arrays.items()}
