"""Many networks as one program: seeds, gains and learning rates are one more batch axis, split over the devices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from rnn_jax.machinery.checks import in_one_line
from rnn_jax.machinery.compiling import compiled
from rnn_jax.parallel.meshes import AXIS, data_mesh, gathered, placed, require_mesh

__all__ = ["ensemble"]


def ensemble(f: Callable[[PyTree], PyTree], members: PyTree, mesh: Mesh | None = None) -> PyTree:
    """The results of a function for every member of an ensemble, computed as one program over all devices.

    Each device computes its share of the members, side by side (``jax.vmap``), without any exchange. Where the devices
    do not divide their number, the last member is computed several times.

    Args:
        f: ``(member) -> result``, for instance the training of one network: a pytree of arrays of one member.
        members: arrays and keys ``(N, …)``, such as seeds, gains and learning rates, the same in every process.
        mesh: of ``data_mesh``; all devices if not given.

    Returns:
        The results ``(N, …)``, as arrays of NumPy, in every process.

    Raises:
        ValueError: for arrays of several N, or none, and for numbers without an axis.

    Example: the state after 100 steps without input, for three gains; below a gain of 1 it dies out.

    >>> import jax.numpy as jnp
    >>> from rnn_jax import initializers, rollout, vanilla
    >>> def size(gain):
    ...     cell = vanilla(1, 50)
    ...     params = cell.init(jax.random.key(0))
    ...     params = params._replace(W_hh=gain * params.W_hh)
    ...     h, _ = rollout(cell, params, jnp.ones(50), jnp.zeros((100, 1)))
    ...     return jnp.max(jnp.abs(h)) > 0.01
    >>> ensemble(size, np.array([0.5, 0.9, 2.0]), data_mesh(jax.devices()[:1])).tolist()
    [False, False, True]
    """
    if not callable(f):
        raise ValueError(f"f got {in_one_line(f)}; want a function, (member) -> result")
    mesh = data_mesh() if mesh is None else mesh
    require_mesh(mesh)
    N = number_of_members(members)
    index = np.minimum(np.arange(-(-N // mesh.size) * mesh.size), N - 1)
    padded = jax.tree.map(lambda a: (a if hasattr(a, "dtype") else np.asarray(a))[index], members)
    results = gathered(_ensemble((f, mesh), placed(mesh, padded, P(AXIS))))
    return jax.tree.map(lambda a: np.asarray(a)[:N], results)


def number_of_members(members: PyTree) -> int:
    """N; a ValueError unless all arrays have the same N leading."""
    for leaf in jax.tree.leaves(members):
        if not np.ndim(leaf):
            raise ValueError(f"members got {in_one_line(leaf)}; want arrays (N, …), of a list np.asarray")
    numbers = sorted({np.shape(leaf)[0] for leaf in jax.tree.leaves(members)})
    if len(numbers) != 1 or numbers[0] < 1:
        found = ", ".join(map(str, numbers)) or "no"
        raise ValueError(f"members got arrays of {found} members; want the same number of all, at least 1")
    return numbers[0]


@compiled("reads")
def _ensemble(reads: tuple[Callable[[PyTree], PyTree], Mesh], members: PyTree) -> PyTree:
    f, mesh = reads
    split: Any = partial(jax.shard_map, mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS), check_vma=False)
    return split(jax.vmap(f))(members)
