"""Sweeps: blocks of many networks, each block one program and one file, so that a restart computes what is missing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from rnn_jax.lab.checkpoints import is_key, load_params, save_params
from rnn_jax.lab.files import FilePath, path_inside
from rnn_jax.parallel.ensembles import ensemble
from rnn_jax.parallel.processes import Processes, alone, from_first

__all__ = ["Block", "sweep"]


class Block(NamedTuple):
    """Networks that are computed together."""

    compute: Callable[[PyTree], PyTree]
    """``(member) -> result``, as in ``ensemble``."""
    members: PyTree
    """Arrays and keys ``(N, …)``."""


def sweep(
    folder: FilePath,
    blocks: Mapping[str, Block],
    *,
    mesh: Mesh | None = None,
    processes: Processes | None = None,
    on_block: Callable[[str], None] = lambda name: None,
) -> dict[str, PyTree]:
    """The results of every block of a sweep; those that the folder holds are read and not computed again.

    Each block is written as soon as it is finished, whole or not at all. A sweep that was stopped, or killed, is
    started again in the same way.

    Args:
        folder: of the results, one safetensors file a block, with its members; process 0 alone reads and writes it.
        blocks: by name, which is that of the file.
        mesh: of ``data_mesh``; all devices if not given.
        processes: of ``join_processes``, if there are several.
        on_block: called with the name of each block that was computed, after it is on the disk.

    Returns:
        ``{name: results (N, …)}`` as arrays; in processes other than 0, of the blocks that were computed now.

    Raises:
        ValueError: for a file that has other members than the block, or results of another shape.

    Example: each of two blocks is computed once.

    >>> import tempfile
    >>> blocks = {name: Block(lambda gain: gain**power, np.arange(3.0)) for name, power in (("a", 2), ("b", 3))}
    >>> folder, computed = tempfile.mkdtemp(), []
    >>> mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    >>> for _ in range(2):
    ...     found = sweep(folder, blocks, mesh=mesh, on_block=computed.append)
    >>> computed, found["b"].tolist()
    (['a', 'b'], [0.0, 1.0, 8.0])
    """
    joined, found = alone() if processes is None else processes, {}
    files = {name: path_inside(Path(folder), f"{name}.safetensors") for name in blocks}
    if joined.number == 0:
        found = {name: read_block(files[name], block) for name, block in blocks.items() if files[name].is_file()}
    missing = from_first(joined, lambda: [name for name in blocks if name not in found])
    for name in missing:
        found[name] = ensemble(blocks[name].compute, blocks[name].members, mesh)
        if joined.number == 0:
            save_params(files[name], {"members": numbers_of(blocks[name].members), "results": found[name]})
            on_block(name)
    return {name: found[name] for name in blocks if name in found}


def read_block(file: Path, block: Block) -> PyTree:
    """The results of a block in its file; a ValueError if they are of other members."""
    like = {
        "members": numbers_of(block.members),
        "results": jax.eval_shape(jax.vmap(block.compute), block.members),
    }
    kept = load_params(file, like)
    same = jax.tree.map(np.array_equal, kept["members"], like["members"])
    if not jax.tree.all(same):
        raise ValueError(f"sweep got other members than {file} has; want the same, or another folder")
    return jax.tree.map(np.asarray, kept["results"])


def numbers_of(members: PyTree) -> PyTree:
    """Members as arrays of numbers, in the types that JAX gives them: keys as their data."""

    def leaf(a: Any) -> np.ndarray:
        return np.asarray(jax.random.key_data(a) if is_key(a) else jax.numpy.asarray(a))

    return jax.tree.map(leaf, members)
