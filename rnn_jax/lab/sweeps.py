"""Sweeps: blocks of many networks, each block one program and one file, so that a restart computes what is missing."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from rnn_jax.lab.checkpoints import bytes_of_state, digest, is_key, load_params, save_params
from rnn_jax.lab.files import FilePath, path_inside
from rnn_jax.parallel import Processes, agree, ensemble, from_first
from rnn_jax.parallel.messages import alone

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
    facts: Mapping[str, Any] | None = None,
    on_block: Callable[[str], None] = lambda name: None,
) -> dict[str, PyTree]:
    """The results of every block of a sweep; those that the folder holds are read and not computed again.

    Each block is written as soon as it is finished, whole or not at all. A sweep that was stopped, or killed, is
    started again in the same way.

    **A changed function is not noticed.** What the results depend on besides the members, such as the version of your
    code or the number of steps, belongs into ``facts``: a file with other facts is refused.

    Args:
        folder: of the results, one safetensors file a block, with its members; process 0 alone reads and writes it.
        blocks: by name, which is that of the file.
        mesh: of ``data_mesh``; all devices if not given.
        processes: of ``join_processes``, if there are several; all call this with the same blocks.
        facts: what the results depend on besides the members; JSON holds it, or its text.
        on_block: called with the name of each block that was computed, after it is on the disk.

    Returns:
        ``{name: results (N, …)}`` as arrays; in processes other than 0, of the blocks that were computed now.

    Raises:
        ValueError: for a file that has other members than the block, other facts, or results of another shape; where
            processes have other blocks.

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
    kept = {
        name: {"members": numbers_of(block.members), "facts": facts_digest(facts)} for name, block in blocks.items()
    }
    files = {name: path_inside(Path(folder), f"{name}.safetensors") for name in blocks}
    agree(joined, {f"block {name!r}": digest(bytes_of_state(of)) for name, of in kept.items()})
    if joined.number == 0:
        found = {n: read_block(files[n], block, kept[n]) for n, block in blocks.items() if files[n].is_file()}
    missing = from_first(joined, lambda: [name for name in blocks if name not in found])
    for name in missing:
        found[name] = ensemble(blocks[name].compute, blocks[name].members, mesh)
        if joined.number == 0:
            save_params(files[name], {**kept[name], "results": found[name]})
            on_block(name)
    return {name: found[name] for name in blocks if name in found}


def facts_digest(facts: Mapping[str, Any] | None) -> np.ndarray:
    """SHA-256 of facts ``(32,)``."""
    as_json = json.dumps(dict(facts or {}), sort_keys=True, default=str)
    return np.frombuffer(hashlib.sha256(as_json.encode()).digest(), np.uint8)


def read_block(file: Path, block: Block, wanted: Mapping[str, PyTree]) -> PyTree:
    """The results of a block in its file; a ValueError if they are of other members or facts.

    Args:
        file: of the block.
        block: of which the shapes of the results are known.
        wanted: its ``members`` and ``facts``.
    """
    found = load_params(file, {**wanted, "results": jax.eval_shape(jax.vmap(block.compute), block.members)})
    for what in ("members", "facts"):
        if not jax.tree.all(jax.tree.map(np.array_equal, found[what], wanted[what])):
            raise ValueError(f"sweep got other {what} than {file} has; want the same, or another folder")
    return jax.tree.map(np.asarray, found["results"])


def numbers_of(members: PyTree) -> PyTree:
    """Members as arrays of numbers, in the types that JAX gives them: keys as their data."""

    def leaf(a: Any) -> np.ndarray:
        return np.asarray(jax.random.key_data(a) if is_key(a) else jax.numpy.asarray(a))

    return jax.tree.map(leaf, members)
