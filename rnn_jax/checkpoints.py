"""What a run leaves for later: checkpoints to go on from bit for bit (orbax), params to take along (safetensors)."""

import contextlib
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rnn_jax.types import Params


class Restored(NamedTuple):
    """A checkpoint that was found whole."""

    step: int
    state: PyTree
    facts: dict[str, Any]


class Checkpoints(NamedTuple):
    """A folder of checkpoints, one folder a step; each is written whole or not at all.

    Example:

    >>> import jax.numpy as jnp, tempfile
    >>> kept = Checkpoints(Path(tempfile.mkdtemp()))
    >>> kept.save(100, {"h": jnp.arange(3)}, {"metrics": 17})
    >>> found = kept.restore({"h": jnp.zeros(3, int)}, print)
    >>> found.step, found.state["h"].tolist(), found.facts["metrics"]
    (100, [0, 1, 2], 17)
    """

    folder: Path
    """Made when it is not there."""
    keep: int = 2
    """How many of the latest stay; at least 2, so that there is one before."""

    def steps(self) -> list[int]:
        """The steps that are kept."""
        return sorted(int(path.name) for path in self.folder.glob("*") if path.name.isdigit())

    def save(self, step: int, state: PyTree, facts: dict[str, Any]) -> None:
        """Keeps any pytree of arrays and typed keys, and facts that JSON can hold.

        Raises:
            OSError: when it cannot be written; those before it stay.
            ValueError: when the step is not a later one.
        """
        import orbax.checkpoint as ocp

        packed = pack(state)
        told = {"facts": facts, "sha256": digest(packed), "bytes": packed.size, "leaves": described(state)}
        json.dumps(told)  # or a TypeError
        if self.steps() and step <= self.steps()[-1]:
            raise ValueError(f"checkpoint got step {step}, when {self.steps()[-1]} is kept; want a later one")
        try:
            with opened(self) as manager:
                both = {"state": ocp.args.StandardSave(packed), "told": ocp.args.JsonSave(told)}
                manager.save(step, args=ocp.args.Composite(**both))
        except Exception as error:  # whatever orbax and tensorstore make of a full disk
            raise OSError(f"checkpoint {step} could not be written ({one_line(error)})") from error

    def restore(self, like: PyTree, tell: Callable[[str], None]) -> Restored | None:
        """The latest that is whole, as arrays like those of ``like``; None when none was ever saved.

        Damaged ones after it are put aside, and ``tell`` is given a line about each. Where none is whole, all stay.

        Raises:
            ValueError: when arrays differ in name, type or shape, or when every one is damaged; then nothing is lost.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                told, packed = read_whole(self, step)
            except Exception as error:  # a damaged file is met in many ways
                damaged[step] = one_line(error)
                continue
            require_same(told["leaves"], described(like), f"checkpoint {step}")
            for number, why in damaged.items():
                aside = put_aside(self.folder / str(number))
                tell(f"checkpoint {number} is damaged and was put aside as {aside.name}: {why}")
            return Restored(step, unpack(packed, like), told["facts"])
        if damaged:
            raise ValueError(
                f"checkpoints got none that can be read in {self.folder} ({next(iter(damaged.values()))}); "
                "want one, or --overwrite to begin anew"
            )
        return None


@contextlib.contextmanager
def opened(kept: Checkpoints) -> Iterator[Any]:
    """Orbax's manager of a folder; what a kill or a full disk leaves is raised, not logged beside it."""
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=max(2, kept.keep), enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with ocp.CheckpointManager(kept.folder.absolute(), options=options) as manager:
            yield manager
    finally:
        log.setLevel(level)


def read_whole(kept: Checkpoints, step: int) -> tuple[dict[str, Any], np.ndarray]:
    """What was told of a checkpoint, and the bytes of its state; an OSError when their digest is another one."""
    import orbax.checkpoint as ocp

    with opened(kept) as manager:
        told = manager.restore(step, args=ocp.args.Composite(told=ocp.args.JsonRestore()))["told"]
        wanted = ocp.args.StandardRestore(np.zeros(told["bytes"], np.uint8))
        packed = np.asarray(manager.restore(step, args=ocp.args.Composite(state=wanted))["state"])
    if digest(packed) != told["sha256"]:
        raise OSError("its arrays are not those that were saved")
    return told, packed


def put_aside(checkpoint: Path) -> Path:
    """Renames a checkpoint, so that it is none any more; deletes nothing, and returns where it is."""
    names = (checkpoint.with_name(f"{checkpoint.name}.damaged{n or ''}") for n in itertools.count())
    aside = next(path for path in names if not path.exists())
    return checkpoint.rename(aside)


def require_same(found: dict[str, str], wanted: dict[str, str], what: str) -> None:
    """Raises a ValueError that names the first array of which two descriptions differ."""
    for name in sorted(wanted.keys() | found.keys()):
        has, wants = (tree.get(name, "missing") for tree in (found, wanted))
        if has != wants:
            raise ValueError(f"{what}, where {name} is {has}; want {wants}: give the configuration it was trained with")


def pack(state: PyTree) -> np.ndarray:
    """The bytes of every array of a pytree, one after the other ``(bytes,)``: one thing to write, whole or not at all.

    >>> pack({"h": np.float32([1.0]), "key": np.uint8(7)})
    array([  0,   0, 128,  63,   7], dtype=uint8)
    """
    return np.frombuffer(b"".join(numbers(leaf).tobytes() for leaf in jax.tree.leaves(state)), np.uint8)


def unpack(packed: np.ndarray, like: PyTree) -> PyTree:
    """What was packed, as arrays like those of ``like``: keys, arrays of jax, or of NumPy.

    >>> unpack(pack({"h": np.float32([1.0]), "n": np.uint8(7)}), {"h": jnp.zeros(1, "float32"), "n": np.uint8(0)})
    {'h': Array([1.], dtype=float32), 'n': array(7, dtype=uint8)}
    """
    leaves, structure = jax.tree.flatten(like)
    read, begin = [], 0
    for leaf in leaves:
        as_before = numbers(leaf)
        array = np.frombuffer(packed, as_before.dtype, as_before.size, begin).reshape(as_before.shape).copy()
        begin += as_before.nbytes
        if is_key(leaf):
            read.append(jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf)))
        else:
            read.append(jnp.asarray(array) if isinstance(leaf, jax.Array) else array)
    return jax.tree.unflatten(structure, read)


def numbers(leaf: Any) -> np.ndarray:
    """An array in its own type, or the numbers of a typed key; a Python number as jax has it."""
    if is_key(leaf):
        return np.asarray(jax.random.key_data(leaf))
    return np.asarray(leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf))


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed key."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def digest(packed: np.ndarray) -> str:
    """SHA-256 of bytes."""
    return hashlib.sha256(packed.tobytes()).hexdigest()


def onto_disk(file: Path) -> None:
    """Waits until a file is on the disk, so that it is whole whatever befalls the machine."""
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())


def one_line(error: BaseException) -> str:
    """An error's type and the beginning of what it says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:200]}" if said else type(error).__name__


def save_params(file: Path, params: Params) -> None:
    """Writes params as a safetensors file, whole or not at all; a leaf's name is its path, such as ``cell/W_hh``.

    The file needs no framework to be read; weights are in this library's layout (docs/cells.md).

    Args:
        file: where; its folder is made when it is not there.
        params: any pytree of arrays.

    Raises:
        OSError: when it cannot be written.
        ValueError: when two arrays would have one name.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(file.name + ".part")
    try:
        save_file({name: np.asarray(leaf, order="C") for name, leaf in named(params).items()}, draft)
    except SafetensorError as error:
        draft.unlink(missing_ok=True)
        raise OSError(f"params could not be written: {one_line(error)}") from error
    onto_disk(draft)
    draft.replace(file)


def load_params(file: Path, like: Params) -> Params:
    """Reads what ``save_params`` wrote.

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
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"params got {file}, which cannot be read ({one_line(error)}); want a whole file") from error
    require_same(described(found), described(like), f"params got {file}")
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(found[name]) for name in named(like)])


def named(params: Params) -> dict[str, Any]:
    """``{name: leaf}`` in the tree's order, a name being the path to the leaf with slashes, such as ``cell/W_hh``.

    >>> list(named({"cell": (1.0, 2.0)}))
    ['cell/0', 'cell/1']
    """
    leaves = jax.tree.leaves_with_path(params)
    found = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(found) < len(leaves):
        raise ValueError(f"params got {len(leaves)} arrays of {len(found)} names; want names without slashes")
    return found


def described(tree: PyTree) -> dict[str, str]:
    """``{name: type and shape}`` of every array.

    >>> described({"cell": np.zeros((2, 3), np.float32)})
    {'cell': 'float32[2, 3]'}
    """
    arrays = {name: leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf) for name, leaf in named(tree).items()}
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in arrays.items()}
