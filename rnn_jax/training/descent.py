"""One update: a step of the optimizer, made where everything is finite, and what is carried to the next one."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from rnn_jax.machinery.checks import in_one_line, require_number
from rnn_jax.machinery.precision import narrowed, widened
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.machinery.sharding import everywhere
from rnn_jax.schedules.scan import where
from rnn_jax.types import Keys, Params, State

__all__ = ["LearnerInfo", "LearnerState"]


class LearnerState(NamedTuple):
    """What training carries from batch to batch: with it and the data, training goes on as if it had not stopped."""

    params: Params
    optimizer: optax.OptState
    h: State
    """The state where the next window begins; ``()`` when nothing is carried."""
    fresh: Bool[Array, "*batch"]
    """Where a lane has read nothing since its start, which then is taught: want False beside an h of your own."""
    key: Keys
    """Of everything that is drawn while learning; the same for the whole of it."""
    step: Int[Array, ""]
    """Updates made."""
    cursor: Int[Array, ""]
    """Batches read; more than ``step`` where an update was skipped."""

    __repr__ = repr_of_arrays


class LearnerInfo(NamedTuple):
    """What is looked at after an update."""

    loss: Float[Array, ""]
    """Of the batch, before the update."""
    grad_norm: Float[Array, ""]
    """Global norm of the gradient, before clipping; norms are of float32 or more."""
    clipped_norm: Float[Array, ""]
    """Global norm of the gradient, after clipping."""
    clipped: Bool[Array, ""]
    """Whether clipping shortened it."""
    update_ratio: Float[Array, ""]
    """Norm of the step over norm of the params: about 1e-3 is common, much more is wild."""
    broken: Int[Array, ""]
    """−1; or where something is not finite and the update was skipped: 0 for the loss, n for the nth gradient, and then
    one each for the gradient's norm, which may overflow alone, the update, the carried state, and for an input or a
    target outside its vocabulary, where that is the cause."""


class Seen(NamedTuple):
    """What one batch has shown."""

    loss: Float[Array, ""]
    grads: Params
    loss_of: Callable[[Params], Float[Array, ""]]
    """The loss of other params."""
    fresh: Bool[Array, "*batch"]
    """Which lanes are fresh after the batch."""
    h: State = ()
    """The state after the batch."""
    start: Callable[[Params], State] = lambda params: ()
    """The state of a fresh lane."""
    outside: Bool[Array, "2"] | None = None
    """Whether an input id, and a target, is outside its vocabulary."""


def begin(
    key: PRNGKeyArray, params: Params, optimizer: optax.GradientTransformation, h: State, fresh: Bool[Array, "*batch"]
) -> LearnerState:
    """Before the first update; no two of its arrays are one buffer, so that it can be donated."""
    check_params(params)
    zero = jnp.zeros((), jnp.int32)
    return distinct(LearnerState(params, optimizer.init(params), h, fresh, jax.random.fold_in(key, 1), zero, zero))


def check_params(params: Params) -> None:
    """Raises a ValueError that names the first parameter which is not floating."""
    for path, leaf in jax.tree.leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} got {dtype}; want floating params, which have a gradient: close "
                "over what is not learned, and keep complex numbers as two real arrays"
            )


def check_descent(optimizer: Any, clip: Any) -> None:
    """Raises a ValueError for what is no optimizer, or a clip that is no positive norm."""
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        name = getattr(optimizer, "__name__", in_one_line(optimizer))
        raise ValueError(f"optimizer got {name}; want an optax transformation, such as optax.adam(1e-3)")
    if clip is not None:
        wanted = "a positive norm, for example clip=1.0, or None for no clipping"
        require_number("clip", clip, lambda norm: norm > 0, wanted, may_be_traced=True)


def descend(
    optimizer: optax.GradientTransformation, clip: float | Float[Array, ""] | None, state: LearnerState, seen: Seen
) -> tuple[LearnerState, LearnerInfo]:
    """One step of the optimizer, and the state carried on; no step, and every lane anew, where one is not finite."""
    clipped, grad_norm = seen.grads, norm_of(seen.grads)
    if clip is not None:
        clipped = clip_to(clip, seen.grads)
    clipped_norm = grad_norm if clip is None else norm_of(clipped)
    steps, after = step_of(optimizer, clipped, state, seen)
    step_norm, start = norm_of(steps), seen.start(state.params)
    whole = jax.tree.map(lambda a, of_start: jnp.all(jnp.isfinite(a) | ~jnp.isfinite(of_start)), seen.h, start)
    looked_at = (seen.loss, *jax.tree.leaves(seen.grads), grad_norm, step_norm)  # as ``require_finite`` names them
    finite = jnp.stack([*(jnp.all(jnp.isfinite(a)) for a in looked_at), jnp.all(jnp.array(jax.tree.leaves(whole)))])
    finite = everywhere(finite, state.params)
    good, broken = jnp.all(finite), jnp.argmin(finite)
    if seen.outside is not None:
        cause = seen.outside & jnp.stack([jnp.asarray(True), jnp.isnan(seen.loss)])
        cause = ~everywhere(~cause, state.params)
        broken = jnp.where(jnp.any(cause), len(finite) + jnp.argmax(cause), broken)
    with jax.numpy_dtype_promotion("standard"):
        params = optax.apply_updates(state.params, steps)
    params, after = where(good, (params, after), (state.params, state.optimizer))
    fresh, made = seen.fresh | ~good, good.astype(jnp.int32)
    info = LearnerInfo(
        loss=seen.loss,
        grad_norm=grad_norm,
        clipped_norm=clipped_norm,
        clipped=clipped_norm < grad_norm,
        update_ratio=step_norm / jnp.maximum(norm_of(state.params), jnp.finfo(step_norm.dtype).tiny),
        broken=jnp.where(good, -1, broken).astype(jnp.int32),
    )
    h = where(fresh, seen.start(params), seen.h)
    return LearnerState(params, after, h, fresh, state.key, state.step + made, state.cursor + 1), info


def step_of(
    optimizer: optax.GradientTransformation, grads: Params, state: LearnerState, seen: Seen
) -> tuple[Params, optax.OptState]:
    """What the optimizer adds to the params, and its state after; it is given what it takes.

    Raises:
        ValueError: for an optimizer that wants something else.
    """
    takes = inspect.signature(optimizer.update).parameters.values()
    offered = {"value": seen.loss, "grad": seen.grads, "value_fn": seen.loss_of}
    names = offered if any(p.kind is p.VAR_KEYWORD for p in takes) else {p.name for p in takes}
    try:
        with jax.numpy_dtype_promotion("standard"):  # optax mixes Python and array numbers
            given = {name: offered[name] for name in offered if name in names}
            return optimizer.update(grads, state.optimizer, state.params, **given)
    except TypeError as error:
        raise ValueError(
            f"optimizer got one whose update fails ({in_one_line(error)}); want one that needs no more than the "
            "gradient, the params, the loss, and the loss as a function of the params"
        ) from error


def norm_of(tree: Params) -> Float[Array, ""]:
    """The global norm, in float32 or more: the squares of float16 overflow where its entries do not."""
    with jax.numpy_dtype_promotion("standard"):
        return optax.tree.norm(widened(tree))


def clip_to(norm: float | Float[Array, ""], grads: Params) -> Params:
    """A gradient, shortened to a global norm where it is longer; in its own types."""
    with jax.numpy_dtype_promotion("standard"):
        clipped, _ = optax.clip_by_global_norm(norm).update(widened(grads), optax.EmptyState())
    return narrowed(clipped, grads)


def distinct(tree: PyTree) -> PyTree:
    """The same arrays, none of them twice: some optimizers begin with the params themselves."""
    seen: set[int] = set()

    def leaf(a: Any) -> Any:
        twice = isinstance(a, jax.Array) and id(a) in seen
        seen.add(id(a))
        return jnp.copy(a) if twice else a

    return jax.tree.map(leaf, tree)
