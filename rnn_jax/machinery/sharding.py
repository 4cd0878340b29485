"""Layouts over the devices of a mesh, which are part of an array's type under explicit axes and ``shard_map``.

A new array, such as ``cell.start(params, (B,))``, is whole on every device; an array computed from a batch is split
as the batch is. JAX combines the two in sums and products, but not where it needs equal types. Without a mesh, and with
automatic axes, no function here changes a program.
"""

import operator
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Integer, PyTree

__all__ = [
    "common_number",
    "has_layouts",
    "laid_out",
    "on_one_device",
    "one_step",
    "rows",
    "scan",
    "true_on_all_devices",
    "varying_axes",
    "varying_over",
    "where",
    "where_leading",
    "with_common_layout",
]

Carry = TypeVar("Carry")


def scan(
    step: Callable[[Carry, Any], tuple[Carry, Any]], carry: Carry, xs: PyTree, reverse: bool = False, unroll: int = 1
) -> tuple[Carry, Any]:
    """``jax.lax.scan`` whose first carry has the layout of the carry after a step."""
    if not has_layouts():
        return jax.lax.scan(step, carry, xs, reverse=reverse, unroll=unroll)
    x = jax.tree.map(one_step, xs)
    for _ in jax.tree.leaves(carry):  # a layout spreads from one part of a state to the others, one step each
        before, carry = carry, laid_out(carry, like=jax.eval_shape(step, carry, x)[0])
        if all(map(operator.is_, jax.tree.leaves(before), jax.tree.leaves(carry))):
            break

    def steady(before: Carry, x: Any) -> tuple[Carry, Any]:
        after, y = step(before, x)
        return laid_out(after, like=before), y

    return jax.lax.scan(steady, carry, xs, reverse=reverse, unroll=unroll)


def has_layouts() -> bool:
    """Whether types name axes of a mesh here: explicit ones, or those that ``shard_map`` maps over and checks."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    mapped = [name for name, kind in kinds.items() if kind == AxisType.Manual]
    return AxisType.Explicit in mesh.axis_types or any(map(is_named_in_types, mapped))


def on_one_device() -> bool:
    """Whether arrays lie whole on one device here: there is no other, or ``shard_map`` maps over all axes of a mesh."""
    kinds = jax.sharding.get_abstract_mesh().axis_types
    return jax.device_count() == 1 or (len(kinds) > 0 and all(kind == AxisType.Manual for kind in kinds))


def is_named_in_types(axis: str) -> bool:
    """Whether types name an axis that ``shard_map`` maps over; not so with ``check_vma=False``."""
    index = jax.eval_shape(lambda: jax.lax.axis_index(axis))  # its value differs along the axis
    return index.manual_axis_type is not None and axis in index.manual_axis_type.varying


def one_step(x: Array) -> jax.ShapeDtypeStruct:
    """Type and layout of an array without its leading axis."""
    t = jax.typeof(x)
    layout = NamedSharding(t.sharding.mesh, P(*t.sharding.spec[1:]))
    return jax.ShapeDtypeStruct(t.shape[1:], t.dtype, sharding=layout, manual_axis_type=t.manual_axis_type)


def laid_out(tree: PyTree, like: PyTree) -> PyTree:
    """A pytree laid out as another one, of arrays of the same shapes or of their types."""
    if not has_layouts():
        return tree

    def leaf(a: Any, like: Any) -> Any:
        t = jax.typeof(like)
        a = varying_over(a, t.manual_axis_type.varying)
        if is_explicit(t.sharding.mesh) and jax.typeof(a).sharding != t.sharding:
            a = jax.sharding.reshard(a, t.sharding)
        return a

    return jax.tree.map(leaf, tree, like)


def with_common_layout(axes: int, *trees: PyTree) -> Any:
    """Pytrees whose arrays have these leading axes in common, along which each is split as any of them is."""
    if not has_layouts():
        return trees
    layouts = [t.sharding for t in map(jax.typeof, jax.tree.leaves(trees)) if is_explicit(t.sharding.mesh)]
    common = [next((layout.spec[axis] for layout in layouts if layout.spec[axis]), None) for axis in range(axes)]

    def leaf(a: Any) -> Any:
        layout = jax.typeof(a).sharding
        spec = P(*common, *layout.spec[axes:])
        if not layouts or layout.spec == spec:
            return a
        return jax.sharding.reshard(a, NamedSharding(layouts[0].mesh, spec))

    return jax.tree.map(leaf, trees)


def where(condition: Any, a: Any, b: Any) -> Array:
    """``jnp.where`` of arrays of equal rank, or numbers, whose layouts may differ."""
    if has_layouts():
        condition, a, b = jnp.broadcast_arrays(condition, a, b)
        condition, a, b = with_common_layout(a.ndim, condition, a, b)
    return jnp.where(condition, a, b)


def where_leading(condition: Bool[Array, "..."], a: PyTree, b: PyTree) -> PyTree:
    """Pytree ``a`` where the condition over the leading axes is True, elsewhere ``b``."""

    def leaf(a: Array, b: Array) -> Array:
        return where(jnp.expand_dims(condition, range(condition.ndim, a.ndim)), a, b)

    return jax.tree.map(leaf, a, b)


def varying_axes(tree: PyTree) -> frozenset[str]:
    """The axes of ``shard_map`` over which any array of a pytree varies."""
    return frozenset().union(*(jax.typeof(a).manual_axis_type.varying for a in jax.tree.leaves(tree)))


def true_on_all_devices(flags: Bool[Array, "..."], like: PyTree) -> Bool[Array, "..."]:
    """Whether flags are True on all devices with the same ``like``."""
    axes = tuple(varying_axes(flags) - varying_axes(like))
    return jax.lax.pmin(flags.astype(jnp.int32), axes) > 0 if axes else flags


def common_number(number: Float[Array, ""], like: Any) -> Float[Array, ""]:
    """A number that all devices with the same ``like`` have in common; NaN if their numbers differ."""
    axes = tuple(varying_axes(number) - varying_axes(like))
    if not axes:
        return number
    least, most = jax.lax.pmin(number, axes), jax.lax.pmax(number, axes)
    return jnp.where(least == most, least, jnp.nan)


def varying_over(tree: PyTree, axes: frozenset[str]) -> PyTree:
    """The same values with a type that varies over these axes; the gradient is summed over them."""

    def leaf(a: Any) -> Any:
        missing = axes - varying_axes(a)
        return jax.lax.pcast(a, tuple(missing), to="varying") if missing else a

    return jax.tree.map(leaf, tree) if axes else tree


def rows(table: Array, ids: Integer[Array, "..."]) -> Array:
    """``table[ids]``, split as the ids are; for an id outside [0, len(table)) NaN, if the table is floating."""
    layout = None
    if is_explicit(mesh := jax.typeof(ids).sharding.mesh):
        layout = NamedSharding(mesh, P(*jax.typeof(ids).sharding.spec, *jax.typeof(table).sharding.spec[1:]))
    return table.at[ids].get(mode="fill", wrap_negative_indices=False, out_sharding=layout)


def is_explicit(mesh: Any) -> bool:
    """Whether any axis of a mesh is part of the types of arrays."""
    return AxisType.Explicit in mesh.axis_types
