"""What breaks an update: ids outside their vocabulary, and the advice that fits what was not finite."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Integer, PyTree

from rnn_jax.keys import unkey
from rnn_jax.machinery.checks import is_inside
from rnn_jax.types import Cell, Params

__all__ = []

INPUT, TARGET = "input id outside the cell's vocabulary", "target outside the vocabulary of the logits"


def outside(
    cell: Cell, params: Params, axes: int, y: Any, xs: PyTree, targets: PyTree, mask: Any = None
) -> Bool[Array, "2"]:
    """Whether an input id, and a target, of a window is outside its vocabulary, as far as they are ids.

    Args:
        cell, params: an input id is outside where the cell's projection of it is NaN, but not that of id 0.
        axes: of time and batch; one array of integers with as many are ids.
        y: shape and type of the outputs at one step; a target is outside the last axis of logits ``(*batch, V)``.
        xs, targets, mask: of the window.
    """
    found = [jnp.asarray(False)] * 2
    if (ids := ids_of(xs, axes)) is not None and ids.size:
        ids = jnp.asarray(ids)
        ids = ids if mask is None else jnp.where(over(mask, ids), ids, 0)
        found[0] = ~jnp.all(is_read(cell, params, jnp.stack([ids.min(), ids.max()])))
    if (ids := ids_of(targets, axes)) is not None and isinstance(y, jax.ShapeDtypeStruct) and y.ndim == axes:
        found[1] = ~jnp.all(is_inside(jnp.asarray(ids), y.shape[-1]))
    return jnp.stack(found)


def check_ids(cell: Cell, params: Params, axes: int, xs: PyTree, targets: PyTree, mask: Any = None, *_: Any) -> None:
    """Raises a ValueError for an input id that is outside the cell's vocabulary, if inputs and params are known.

    Args:
        cell, params, xs, mask: as in ``outside``; a stack of windows has another axis before time.
        axes: of ids, that of a stack among them.
        targets: are the loss's affair.
    """
    ids = ids_of(xs, axes)
    if ids is None or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((params, ids, mask))):
        return
    if mask is not None and (mask.dtype != bool or mask.shape != ids.shape[: mask.ndim]):
        return  # which the rollout will refuse
    known = np.asarray(ids)
    known = known if mask is None else known[over(np.asarray(mask), known)]
    if not known.size:
        return
    ends = np.array([known.min(), known.max()])
    good = is_inside(ends, 2**31)
    good &= np.asarray(is_read(cell, params, np.where(good, ends, 0).astype(np.int32)))
    if not good.all():
        raise ValueError(f"xs got {ends[~good][0]}, an {INPUT}; want {advice(INPUT, 0, params)}")


def ids_of(tree: PyTree, axes: int) -> Any:
    """The array, if that is all there is, of integers with as many axes; None for what are no ids."""
    ids = unkey(tree)[0]
    return ids if hasattr(ids, "dtype") and jnp.issubdtype(ids.dtype, jnp.integer) and ids.ndim == axes else None


def over(mask: Any, ids: Any) -> Any:
    """A mask of the leading axes of ids, over all of them."""
    return jnp.broadcast_to(mask.reshape(*mask.shape, *[1] * (ids.ndim - mask.ndim)), ids.shape)


@partial(jax.jit, static_argnums=0)
def is_read(cell: Cell, params: Params, ids: Integer[Array, " N"]) -> Bool[Array, " N"]:
    """Whether a cell's projection of each id is a number; True where that of id 0 is none either, or there is none."""
    projected = cell.project(params, jnp.concatenate([jnp.zeros(1, ids.dtype), ids]))
    floats = [u for u in jax.tree.leaves(projected) if jnp.issubdtype(u.dtype, jnp.floating)]
    broken = [jnp.any(jnp.isnan(u), axis=range(1, u.ndim)) for u in floats]
    any_broken = jnp.any(jnp.stack([jnp.zeros(1 + len(ids), bool), *broken]), axis=0)
    return ~any_broken[1:] | any_broken[0]


def advice(what: str, made: int, params: Params) -> str:
    """What to do about something that is not finite.

    Args:
        what: it is, as ``require_finite`` names it.
        made: updates made before, without which no learning rate can be the cause.
        params: their type may be the cause.

    >>> advice("loss", 9, {})
    'a lower learning rate, or a smaller clip'
    """
    few_bits = [p.dtype for p in jax.tree.leaves(params) if jnp.finfo(p.dtype).bits < 32]
    if what == INPUT:
        return "ids below its input_size: encode with its vocabulary, or make a cell of a larger one"
    if what == TARGET:
        return "ids that have a logit: mask those that do not count, or make a larger output_size"
    if what == "step" and jnp.float16 in few_bits:
        return "an eps that float16 holds, such as adam(…, eps=1e-4), as 1e-8 is 0 in it; or float32 params"
    if what == "step":
        return "a lower learning rate, or an optimizer whose state stays finite"
    if what == "carried state":
        return "a cell whose state is bounded, or resets before it overflows"
    if what == "gradient's norm":
        return "a loss or gradient whose square float32 holds: scale the loss down, as no clip can help"
    if few_bits and made == 0:
        return f"a loss that {few_bits[0]} holds: scale it down, or give float32 params; and finite inputs and params"
    if made == 0:
        return "finite inputs and params, and ids in their vocabulary: no update came before, so no rate is the cause"
    return "a lower learning rate, or a smaller clip"
