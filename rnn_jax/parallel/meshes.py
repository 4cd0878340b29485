"""A mesh over all devices of all processes, and the arrays on it: split by the batch, or whole on every device."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from rnn_jax.machinery.checks import require_positive

__all__ = ["AXIS", "data_mesh", "gathered", "one_copy", "placed", "process_lanes", "require_divisible", "split_batch"]

AXIS = "data"
"""The axis of the mesh: the batch of training, the networks of an ensemble."""


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with one axis, ``data``, over devices in the order of their processes.

    Args:
        devices: all devices of all processes, if not given. On a CPU, ``jax.config.update("jax_num_cpu_devices", n)``
            before the first array is made gives n of them.

    Raises:
        ValueError: for no devices.

    >>> dict(data_mesh(jax.devices()[:1]).shape)
    {'data': 1}
    """
    found = jax.devices() if devices is None else [*devices]
    if not found:
        raise ValueError("devices got none; want at least one, such as jax.devices()[:1]")
    return Mesh(np.array(found), (AXIS,))


def require_divisible(mesh: Mesh, batch_size: int, name: str = "batch_size") -> None:
    """Raises a ValueError, with the nearest size that divides, unless the devices of a mesh divide a batch.

    Args:
        mesh: of ``data_mesh``.
        batch_size: B, the lanes or examples of all processes.
        name: of the size in the message.
    """
    require_positive(**{name.removeprefix("--").replace("-", "_"): batch_size})
    if batch_size % mesh.size:
        nearest = max(1, (batch_size + mesh.size // 2) // mesh.size) * mesh.size
        raise ValueError(
            f"{name} got {batch_size}, which {mesh.size} devices do not divide; want a multiple of {mesh.size}, "
            f"the nearest is {nearest}"
        )


def process_lanes(mesh: Mesh, batch_size: int) -> slice:
    """The lanes of a batch that this process loads, one stretch.

    Args:
        mesh: of ``data_mesh``.
        batch_size: B, the lanes of all processes.

    Raises:
        ValueError: for a batch that the devices do not divide.

    Example: all of them, where there is one process.

    >>> mesh = data_mesh(jax.devices()[:1])
    >>> np.arange(6)[process_lanes(mesh, 6)].tolist()
    [0, 1, 2, 3, 4, 5]
    """
    require_divisible(mesh, batch_size)
    places = NamedSharding(mesh, P(AXIS)).addressable_devices_indices_map((batch_size,)).values()
    ends = [place[0].indices(batch_size)[:2] for place in places if place is not None]
    return slice(min(first for first, _ in ends), max(last for _, last in ends))


def split_batch(mesh: Mesh, batch: PyTree, axes: PyTree = 1, *, stacked: bool = False) -> PyTree:
    """A batch on the devices: each process gives its own lanes, and none needs those of the others.

    Args:
        mesh: of ``data_mesh``.
        batch: arrays with the lanes of this process, ``process_lanes(mesh, batch_size)``.
        axes: the batch axis of each array, as the ``in_axes`` of ``jax.vmap``; None, or an axis that an array does not
            have, for one that is whole on every device.
        stacked: whether the arrays have an axis of updates before their others, as those for ``fit`` have.

    Returns:
        Arrays of the whole batch, split along their batch axis.
    """

    def leaf(spec: P, a: Any) -> jax.Array:
        layout = NamedSharding(mesh, spec)
        return jax.make_array_from_process_local_data(layout, np.asarray(a))

    return jax.tree.map(leaf, batch_specs(batch, axes, stacked=stacked), batch, is_leaf=is_spec)


def batch_specs(batch: PyTree, axes: PyTree, *, stacked: bool = False) -> PyTree:
    """The layout of each array of a batch, as partition specs."""

    def leaf(axis: int | None, a: Any) -> P:
        place = None if axis is None else axis + stacked
        return P() if place is None or place >= np.ndim(a) else P(*[None] * place, AXIS)

    def part(axis: int | None, arrays: PyTree) -> PyTree:
        return jax.tree.map(lambda a: leaf(axis, a), arrays)

    return jax.tree.map(part, axes, batch, is_leaf=lambda axis: axis is None)


def placed(mesh: Mesh, tree: PyTree, specs: PyTree) -> PyTree:
    """Arrays that every process has whole, on the devices of a mesh.

    Args:
        mesh: of ``data_mesh``.
        tree: arrays and typed keys, the same in every process.
        specs: their partition specs, or those of parts of the tree.
    """

    def leaf(spec: P, a: Any) -> jax.Array:
        layout = NamedSharding(mesh, spec)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(leaf(spec, jax.random.key_data(a)), impl=jax.random.key_impl(a))
        numbers = np.asarray(a)
        return jax.make_array_from_callback(numbers.shape, layout, lambda place: numbers[place])

    return jax.tree.map(lambda spec, part: jax.tree.map(partial(leaf, spec), part), specs, tree, is_leaf=is_spec)


def is_spec(leaf: Any) -> bool:
    """Whether a leaf of a tree is a partition spec."""
    return isinstance(leaf, P)


def one_copy(tree: PyTree) -> PyTree:
    """The copies on one device of this process, of arrays that are whole on every device."""

    def leaf(a: Any) -> Any:
        several = isinstance(a, jax.Array) and not isinstance(a, Tracer) and len(a.sharding.device_set) > 1
        return a.addressable_data(0) if several else a

    return jax.tree.map(leaf, tree)


def gathered(tree: PyTree) -> PyTree:
    """The whole arrays of a tree, in every process: arrays that are split over processes are sent to all.

    All processes must call it together.
    """

    def leaf(a: Any) -> Any:
        if not isinstance(a, jax.Array) or a.is_fully_addressable:
            return a
        if a.is_fully_replicated:
            return a.addressable_data(0)
        whole = NamedSharding(a.sharding.mesh, P())  # type: ignore[attr-defined]
        return jax.jit(lambda a: a, out_shardings=whole)(a).addressable_data(0)

    return jax.tree.map(leaf, tree)
