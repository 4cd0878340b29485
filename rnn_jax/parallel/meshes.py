"""A mesh over all devices of all processes, and the arrays on it: split by the batch, or whole on every device."""

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from rnn_jax.machinery.checks import in_one_line, is_whole, require_positive

__all__ = ["AXIS", "data_mesh", "gathered", "one_copy", "placed", "process_lanes", "require_divisible", "split_batch"]

AXIS = "data"
"""The axis of the mesh: the batch of training, the networks of an ensemble."""


def data_mesh(devices: Iterable[Any] | None = None) -> Mesh:
    """A mesh with one axis, ``data``, over devices, those of each process beside each other.

    Args:
        devices: all devices of all processes, in the order of the processes, if not given. On a CPU,
            ``jax.config.update("jax_num_cpu_devices", n)`` before the first array is made gives n of them.

    Raises:
        ValueError: for no devices, a device that is given twice, and devices of several processes in turn.

    >>> dict(data_mesh(jax.devices()[:1]).shape)
    {'data': 1}
    """
    given: Any = sorted(jax.devices(), key=lambda device: device.process_index) if devices is None else devices
    found: list[Any] = [*given] if isinstance(given, Iterable) else [given]
    for device in found:
        if not isinstance(device, jax.Device):
            raise ValueError(f"devices got {in_one_line(given)}; want a list of devices, such as jax.devices()[:4]")
    if not found:
        raise ValueError("devices got none; want at least one, such as jax.devices()[:1]")
    if len({*found}) < len(found):
        raise ValueError(f"devices got {len(found)}, of which {len({*found})} are different; want each once")
    require_order("devices", [device.process_index for device in found])
    return Mesh(np.array(found), (AXIS,))


def require_order(name: str, processes: list[int]) -> None:
    """Raises a ValueError unless the devices of each process are beside each other: its lanes are one stretch.

    Args:
        name: of the argument.
        processes: the process of each device.
    """
    stretches = [process for process, _ in itertools.groupby(processes)]
    if len({*stretches}) < len(stretches):
        raise ValueError(
            f"{name} got processes {in_one_line(processes)}; want the devices of each process beside each other"
        )


def require_mesh(mesh: Any) -> None:
    """Raises a ValueError unless a mesh is one that ``data_mesh`` could make."""
    if not isinstance(mesh, Mesh) or mesh.axis_names != (AXIS,):
        got = f"axes {mesh.axis_names}" if isinstance(mesh, Mesh) else in_one_line(mesh)
        raise ValueError(f"mesh got {got}; want one of data_mesh, whose only axis is {AXIS!r}")
    require_order("mesh", [device.process_index for device in mesh.devices.flat])


def require_divisible(
    mesh: Mesh, batch_size: int, name: str = "batch_size", unit: str = "", *, local: bool = False
) -> None:
    """Raises a ValueError, with the nearest size that divides, unless the devices of a mesh divide a batch.

    Args:
        mesh: of ``data_mesh``.
        batch_size: B, the lanes or examples of all processes.
        name: of the size in the message.
        unit: after the size in the message, such as " lanes".
        local: whether the batch is that of this process alone, and so are the devices.
    """
    devices = len(mesh.local_devices) if local else mesh.size
    require_positive(**{name.removeprefix("--").replace("-", "_"): batch_size})
    if batch_size % devices:
        nearest = max(1, (batch_size + devices // 2) // devices) * devices
        raise ValueError(
            f"{name} got {batch_size}{unit}, which {devices} devices do not divide; want a multiple of {devices}, "
            f"the nearest is {nearest}"
        )


def process_lanes(mesh: Mesh, batch_size: int) -> slice:
    """The lanes of a batch that this process loads, one stretch.

    Args:
        mesh: of ``data_mesh``.
        batch_size: B, the lanes of all processes.

    Raises:
        ValueError: for a batch that the devices do not divide, or a mesh without a device of this process.

    Example: all of them, where there is one process.

    >>> mesh = data_mesh(jax.devices()[:1])
    >>> np.arange(6)[process_lanes(mesh, 6)].tolist()
    [0, 1, 2, 3, 4, 5]
    """
    require_mesh(mesh)
    require_divisible(mesh, batch_size)
    places = NamedSharding(mesh, P(AXIS)).addressable_devices_indices_map((batch_size,)).values()
    ends = [place[0].indices(batch_size)[:2] for place in places if place is not None]
    if not ends:
        raise ValueError(f"mesh got no device of process {jax.process_index()}; want some of every process")
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

    Raises:
        ValueError: for lanes that the devices of this process do not divide, arrays of several numbers of lanes, and
            axes that do not fit the batch.
    """
    require_mesh(mesh)
    specs = batch_specs(batch, axes, stacked=stacked)
    for lanes in lanes_of(batch, specs):
        require_divisible(mesh, lanes, "batch", " lanes", local=True)
    return on_devices(jax.make_array_from_process_local_data, mesh, batch, specs)


def batch_specs(batch: PyTree, axes: PyTree, *, stacked: bool = False) -> PyTree:
    """The layout of each array of a batch, as partition specs."""
    require_axes(axes)

    def leaf(axis: int | None, a: Any) -> P:
        place = None if axis is None else axis + stacked
        return P() if place is None or place >= np.ndim(a) else P(*[None] * place, AXIS)

    def part(axis: int | None, arrays: PyTree) -> PyTree:
        return jax.tree.map(lambda a: leaf(axis, a), arrays)

    try:
        return jax.tree.map(part, axes, batch, is_leaf=lambda axis: axis is None)
    except ValueError:
        wanted = "one axis, or a tree of them in the form of the batch"
        raise ValueError(f"axes got {in_one_line(axes)} for a batch of another form; want {wanted}") from None


def require_axes(axes: PyTree) -> None:
    """Raises a ValueError unless each leaf of a tree is an axis, or None."""
    for axis in jax.tree.leaves(axes):
        if not is_whole(axis) or axis < 0:
            raise ValueError(f"axes got {in_one_line(axes)}; want batch axes, 0 or more, or None, such as (1, 1, 0)")


def lanes_of(batch: PyTree, specs: PyTree) -> list[int]:
    """The number of lanes of a batch as a list; empty if no array is split.

    Raises:
        ValueError: for arrays of several numbers of lanes.
    """
    pairs = zip(jax.tree.leaves(specs, is_leaf=is_spec), jax.tree.leaves(batch), strict=True)
    found = sorted({np.shape(a)[spec.index(AXIS)] for spec, a in pairs if AXIS in spec})
    if len(found) > 1:
        raise ValueError(f"batch got arrays of {', '.join(map(str, found))} lanes; want the same number of all")
    return found


def placed(mesh: Mesh, tree: PyTree, specs: PyTree) -> PyTree:
    """Arrays that every process has whole, on the devices of a mesh.

    Args:
        mesh: of ``data_mesh``.
        tree: arrays and typed keys, the same in every process.
        specs: their partition specs, or those of parts of the tree.
    """

    def make(layout: NamedSharding, numbers: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(numbers.shape, layout, lambda place: numbers[place])

    return on_devices(make, mesh, tree, specs)


def on_devices(
    make: Callable[[NamedSharding, np.ndarray], jax.Array], mesh: Mesh, tree: PyTree, specs: PyTree
) -> PyTree:
    """Arrays and typed keys on the devices of a mesh, by ``make(layout, array)``."""

    def leaf(spec: P, a: Any) -> jax.Array:
        if hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(leaf(spec, jax.random.key_data(a)), impl=jax.random.key_impl(a))
        return make(NamedSharding(mesh, spec), np.asarray(a))

    return jax.tree.map(lambda spec, part: jax.tree.map(partial(leaf, spec), part), specs, tree, is_leaf=is_spec)


def is_spec(leaf: Any) -> bool:
    """Whether a leaf of a tree is a partition spec."""
    return isinstance(leaf, P)


def one_copy(tree: PyTree) -> PyTree:
    """The copies on one device of this process, of arrays that are whole on every device.

    Raises:
        ValueError: for an array that is split over the devices.
    """

    def leaf(a: Any) -> Any:
        if not isinstance(a, jax.Array) or isinstance(a, Tracer) or len(a.sharding.device_set) == 1:
            return a
        if not a.is_fully_replicated:
            raise ValueError(f"tree got {a.dtype}{list(a.shape)}, split over devices; want whole arrays, or gathered")
        return a.addressable_data(0)

    return jax.tree.map(leaf, tree)


def own_lanes(tree: PyTree) -> PyTree:
    """The lanes of this process alone, of integers and flags that are split over several processes."""

    def leaf(a: Any) -> Any:
        if not isinstance(a, jax.Array) or isinstance(a, Tracer) or a.is_fully_addressable:
            return a
        if not (jnp.issubdtype(a.dtype, jnp.integer) or a.dtype == bool):
            return a
        return assembled([(shard.index, np.asarray(shard.data)) for shard in a.addressable_shards])

    return jax.tree.map(leaf, tree)


def assembled(shards: list[tuple[tuple[slice, ...], np.ndarray]]) -> np.ndarray:
    """One array of shards, which are copies of each other or split along one axis.

    Args:
        shards: the place of each in a larger array, and its numbers.

    >>> assembled([((slice(6, 8),), np.array([6, 7])), ((slice(4, 6),), np.array([4, 5]))]).tolist()
    [4, 5, 6, 7]
    """
    by_start = {tuple(of_axis.start or 0 for of_axis in place): numbers for place, numbers in shards}
    starts = sorted(by_start)
    varying = [axis for axis, of_axis in enumerate(zip(*starts, strict=True)) if len({*of_axis}) > 1]
    parts = [by_start[start] for start in starts]
    return np.concatenate(parts, axis=varying[0]) if varying else parts[0]


def gathered(tree: PyTree) -> PyTree:
    """The whole arrays of a tree, in every process: arrays that are split over processes are sent to all.

    All processes must call it together.
    """
    leaves, structure = jax.tree.flatten(tree)
    several = [n for n, a in enumerate(leaves) if isinstance(a, jax.Array) and not a.is_fully_addressable]
    split = [n for n in several if not leaves[n].is_fully_replicated]
    if split:
        whole = on_every_device(leaves[split[0]].sharding.mesh, [leaves[n] for n in split])
        for n, a in zip(split, whole, strict=True):
            leaves[n] = a
    for n in several:
        leaves[n] = leaves[n].addressable_data(0)
    return jax.tree.unflatten(structure, leaves)


@partial(jax.jit, static_argnums=0)
def on_every_device(mesh: Mesh, arrays: list[jax.Array]) -> list[jax.Array]:
    """Arrays on a mesh, whole on each of its devices; compiled once for all of them."""
    return jax.lax.with_sharding_constraint(arrays, NamedSharding(mesh, P()))
