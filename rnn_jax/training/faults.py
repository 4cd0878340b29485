"""Causes of a skipped update: ids outside their vocabulary, and advice for each number that was not finite."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Integer, PyTree

from rnn_jax.keys import unkey
from rnn_jax.machinery.checks import is_inside
from rnn_jax.training.descent import LearnerInfo, LearnerState
from rnn_jax.types import Cell, Params

__all__ = []

INPUT, TARGET = "input id outside the cell's vocabulary", "target outside the vocabulary of the logits"


def out_of_vocabulary(
    cell: Cell, params: Params, axes: int, y: Any, xs: PyTree, targets: PyTree, mask: Any = None
) -> Bool[Array, "2"]:
    """Whether an input id, and a target, of a window is outside its vocabulary; False where they are not ids.

    Args:
        cell, params: an input id is outside where the cell's projection of it is NaN, but not that of id 0.
        axes: number of axes of time and batch; a single array of integers with so many axes holds ids.
        y: shape and type of the outputs at one step, logits ``(*batch, V)``; a target must be in [0, V).
        xs, targets, mask: of the window.
    """
    found = [jnp.asarray(False)] * 2
    if (ids := ids_of(xs, axes)) is not None and ids.size:
        ids = jnp.asarray(ids)
        ids = ids if mask is None else jnp.where(broadcast_mask(mask, ids), ids, 0)
        found[0] = ~jnp.all(has_projection(cell, params, jnp.stack([ids.min(), ids.max()])))
    if (ids := ids_of(targets, axes)) is not None and isinstance(y, jax.ShapeDtypeStruct) and y.ndim == axes:
        found[1] = ~jnp.all(is_inside(jnp.asarray(ids), y.shape[-1]))
    return jnp.stack(found)


def check_ids(cell: Cell, params: Params, axes: int, xs: PyTree, targets: PyTree, mask: Any = None, *_: Any) -> None:
    """Raises a ValueError for an input id outside the cell's vocabulary, unless inputs or params are traced.

    Args:
        cell, params, xs, mask: as in ``out_of_vocabulary``; a stack of windows has another axis before time.
        axes: number of axes of ids, with that of a stack.
        targets: not checked, as their meaning depends on the loss.
    """
    ids = ids_of(xs, axes)
    if ids is None or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((params, ids, mask))):
        return
    if mask is not None and (mask.dtype != bool or mask.shape != ids.shape[: mask.ndim]):
        return  # the rollout will refuse this mask
    known = np.asarray(ids)
    known = known if mask is None else known[broadcast_mask(np.asarray(mask), known)]
    if not known.size:
        return
    ends = np.array([known.min(), known.max()])
    good = is_inside(ends, 2**31)
    good &= np.asarray(has_projection(cell, params, np.where(good, ends, 0).astype(np.int32)))
    if not good.all():
        raise ValueError(f"xs got {ends[~good][0]}, an {INPUT}; want {advice(INPUT, 0, params)}")


def ids_of(tree: PyTree, axes: int) -> Any:
    """The ids, if inputs or targets are a single array of integers with so many axes; None otherwise."""
    ids = unkey(tree)[0]
    return ids if hasattr(ids, "dtype") and jnp.issubdtype(ids.dtype, jnp.integer) and ids.ndim == axes else None


def broadcast_mask(mask: Any, ids: Any) -> Any:
    """A mask of the leading axes of ids, broadcast to all of their axes."""
    return jnp.broadcast_to(mask.reshape(*mask.shape, *[1] * (ids.ndim - mask.ndim)), ids.shape)


@partial(jax.jit, static_argnums=0)
def has_projection(cell: Cell, params: Params, ids: Integer[Array, " N"]) -> Bool[Array, " N"]:
    """Whether a cell's projection of each id is without NaN; True for all ids if even that of id 0 has one."""
    projected = cell.project(params, jnp.concatenate([jnp.zeros(1, ids.dtype), ids]))
    floats = [u for u in jax.tree.leaves(projected) if jnp.issubdtype(u.dtype, jnp.floating)]
    broken = [jnp.any(jnp.isnan(u), axis=range(1, u.ndim)) for u in floats]
    any_broken = jnp.any(jnp.stack([jnp.zeros(1 + len(ids), bool), *broken]), axis=0)
    return ~any_broken[1:] | any_broken[0]


def require_finite(state: LearnerState, info: LearnerInfo) -> None:
    """Raises a FloatingPointError that names the first skipped update of a chunk, and the number that was not finite.

    Args:
        state, info: results of ``fit``.

    >>> import jax, jax.numpy as jnp, optax
    >>> from rnn_jax.training import batch_learner, fit
    >>> learner = batch_learner(lambda key: {"w": jnp.ones(())}, lambda p, x: x * p["w"] ** 0.5, optax.sgd(1.0))
    >>> require_finite(*fit(learner, learner.init(jax.random.key(0)), (jnp.array([0.5, 2.0, 2.0]),)))
    Traceback (most recent call last):
    FloatingPointError: batch 2 (update 2) got a loss that is not finite; want a lower learning rate, or a smaller clip
    """
    broken = np.asarray(info.broken)
    if not (broken >= 0).any():
        return
    first = int(np.argmax(broken >= 0))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.params)]
    gradients = (f"gradient of params{path}" for path in paths)
    names = ("loss", *gradients, "gradient's norm", "step", "carried state", INPUT, TARGET)
    batch, what = int(state.cursor) - len(broken) + first, names[broken[first]]
    made = int(state.step) - int((broken[first:] < 0).sum())
    fault = f"an {what}" if what == INPUT else f"a {what}" if what == TARGET else f"a {what} that is not finite"
    raise FloatingPointError(f"batch {batch} (update {made}) got {fault}; want {advice(what, made, state.params)}")


def advice(what: str, made: int, params: Params) -> str:
    """The advice in the error message for a number that is not finite.

    Args:
        what: its name in ``require_finite``.
        made: number of updates before it; if there was none, the learning rate cannot be the cause.
        params: their type may be the cause.

    >>> advice("loss", 9, {})
    'a lower learning rate, or a smaller clip'
    """
    few_bits = [p.dtype for p in jax.tree.leaves(params) if jnp.finfo(p.dtype).bits < 32]
    if what == INPUT:
        return "ids below its input_size: encode with its vocabulary, or use a larger input_size"
    if what == TARGET:
        return "ids that have a logit: mask targets that do not count, or use a larger output_size"
    if what == "step" and jnp.float16 in few_bits:
        return "an eps that float16 can hold, such as adam(…, eps=1e-4), as 1e-8 is 0 in float16; or float32 params"
    if what == "step":
        return "a lower learning rate, or an optimizer whose state stays finite"
    if what == "carried state":
        return "a cell whose state is bounded, or resets before it overflows"
    if what == "gradient's norm":
        return "a gradient whose square float32 can hold: scale the loss down, as clipping cannot help"
    if few_bits and made == 0:
        return f"a loss that {few_bits[0]} can hold: scale it down, or use float32 params; and finite inputs and params"
    if made == 0:
        return "finite inputs and params, and ids in their vocabulary; before the first update, no rate is the cause"
    return "a lower learning rate, or a smaller clip"
