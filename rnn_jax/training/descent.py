"""One update: a step of the optimizer, if all numbers are finite, and the state for the next update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from rnn_jax.machinery.checks import in_one_line, require_number
from rnn_jax.machinery.precision import narrowed, widened
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.machinery.sharding import true_on_all_devices
from rnn_jax.schedules.scan import where
from rnn_jax.types import Keys, Params, State

__all__ = ["LearnerInfo", "LearnerState"]


class LearnerState(NamedTuple):
    """The state of training between two batches: training that begins with it continues as if it had not stopped."""

    params: Params
    optimizer: optax.OptState
    h: State
    """The state of the cell where the next window begins; ``()`` when nothing is carried."""
    fresh: Bool[Array, "*batch"]
    """Where a lane has read no input since its start state, so that gradients reach a learned start; set it to False
    beside an h that you replace."""
    key: Keys
    """The source of all randomness in training; it does not change."""
    step: Int[Array, ""]
    """Number of updates made."""
    cursor: Int[Array, ""]
    """Number of batches used; more than ``step`` where updates were skipped."""

    __repr__ = repr_of_arrays


class LearnerInfo(NamedTuple):
    """Measurements of one update."""

    loss: Float[Array, ""]
    """The loss of the batch, before the update."""
    grad_norm: Float[Array, ""]
    """Global norm of the gradient, before clipping; norms are of float32 or more."""
    clipped_norm: Float[Array, ""]
    """Global norm of the gradient, after clipping."""
    clipped: Bool[Array, ""]
    """Whether clipping shortened the gradient."""
    update_ratio: Float[Array, ""]
    """Norm of the step over norm of the params: about 1e-3 is common; training with a much larger one may diverge."""
    broken: Int[Array, ""]
    """−1; or, where the update was skipped, the place of the first number that is not finite: 0 for the loss, n for the
    nth gradient, and then one each for the gradient's norm, which may overflow alone, the step, the carried state, and
    for an input id or a target outside its vocabulary, where that is the cause. ``require_finite`` names it."""
    aux: PyTree = ()
    """The auxiliary output of the loss, before the update; ``()`` without has_aux. It is kept where an update was
    skipped, and may hold NaN there: average it where ``broken < 0``."""
    lag_profile: PyTree = ()
    """ln‖∂L/∂state_{T−k}‖ of this very gradient, before clipping, for each lag k = 0 … K − 1 of the window and each
    example, ``(K, *batch)``; ``()`` without it. It is −∞ at masked steps, before a reset that no later loss passes, and
    where the gradient underflows in its own type. Lags count from the end of the window, though L is the loss of its
    last k1 steps: at lags below k1 − 1 only a part of them counts."""


class BatchResult(NamedTuple):
    """The loss of one batch, its gradient, and the state after it."""

    loss: Float[Array, ""]
    grads: Params
    loss_of: Callable[[Params], Float[Array, ""]]
    """The loss of the batch as a function of the params."""
    fresh: Bool[Array, "*batch"]
    """Which lanes are fresh after the batch."""
    aux: PyTree = ()
    """The auxiliary output of the loss."""
    lag_profile: PyTree = ()
    """As in ``LearnerInfo``."""
    h: State = ()
    """The state of the cell after the batch."""
    whole: Bool[Array, ""] | bool = True
    """Whether the state of the cell after the batch is finite, where the start is."""
    start: Callable[[Params], State] = lambda params: ()
    """The state of a fresh lane."""
    out_of_vocabulary: Bool[Array, "2"] | None = None
    """Whether an input id, and a target, is outside its vocabulary."""


class UpdateParts(NamedTuple):
    """The parts of an update: the numbers of one batch are drawn, it is measured, and the result is applied."""

    draw: Callable[[LearnerState, PyTree], PyTree]
    """``(state, batch) -> drawn``: the batch with keys for every step of every example, if the model draws."""
    measure: Callable[[LearnerState, PyTree], BatchResult]
    """``(state, batch) -> result``: the loss and its gradient."""
    apply: Callable[[LearnerState, BatchResult], tuple[LearnerState, LearnerInfo]]
    """``(state, result) -> (state, info)``: one step of the optimizer."""
    keyed_loss: bool = False
    """Whether the loss draws by the key of the state alone."""
    check: Callable[[LearnerState, PyTree], None] = lambda state, batch: None
    """``(state, batch)``: raises a ValueError for a wrong batch."""
    layout_of_drawn: Callable[[PyTree, Any], PyTree] = lambda of_batch, of_keys: of_batch
    """``(of_batch, of_keys) -> of_drawn``: the layouts of what ``draw`` returns, from those of a batch and of keys."""
    has_equal_examples: Callable[[PyTree], bool] = lambda batch: False
    """``(drawn) -> whether`` all examples count alike in the loss, which is then a mean over them; False if unknown."""


def initial_state(
    key: PRNGKeyArray, params: Params, optimizer: optax.GradientTransformation, h: State, fresh: Bool[Array, "*batch"]
) -> LearnerState:
    """The state before the first update; no two of its arrays share a buffer, so it can be donated."""
    check_params(params)
    zero = jnp.zeros((), jnp.int32)
    return without_shared_buffers(
        LearnerState(params, optimizer.init(params), h, fresh, jax.random.fold_in(key, 1), zero, zero)
    )


def check_params(params: Params) -> None:
    """Raises a ValueError that names the first parameter which is not floating."""
    for path, leaf in jax.tree.leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} got {dtype}; want floating params, which have a gradient: close "
                "over arrays that are not trained, and keep complex numbers as two real arrays"
            )


def check_descent(optimizer: Any, clip: Any) -> None:
    """Raises a ValueError for an object that is not an optimizer, or a clip that is not a positive norm."""
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        name = getattr(optimizer, "__name__", in_one_line(optimizer))
        raise ValueError(f"optimizer got {name}; want an optax transformation, such as optax.adam(1e-3)")
    if clip is not None:
        wanted = "a positive norm, for example clip=1.0, or None for no clipping"
        require_number("clip", clip, lambda norm: norm > 0, wanted, may_be_traced=True)


def update_state(
    optimizer: optax.GradientTransformation,
    clip: float | Float[Array, ""] | None,
    state: LearnerState,
    result: BatchResult,
) -> tuple[LearnerState, LearnerInfo]:
    """The state after one step of the optimizer; if a number is not finite, no step is made and all lanes restart."""
    clipped, grad_norm = result.grads, global_norm(result.grads)
    if clip is not None:
        clipped = clipped_to(result.grads, clip)
    clipped_norm = grad_norm if clip is None else global_norm(clipped)
    steps, after = optimizer_step(optimizer, clipped, state, result)
    step_norm = global_norm(steps)
    good, broken = first_fault(state, result, grad_norm, step_norm)
    with jax.numpy_dtype_promotion("standard"):
        params = optax.apply_updates(state.params, steps)
    params, after = where(good, (params, after), (state.params, state.optimizer))
    fresh, made = result.fresh | ~good, good.astype(jnp.int32)
    info = LearnerInfo(
        loss=result.loss,
        grad_norm=grad_norm,
        clipped_norm=clipped_norm,
        clipped=clipped_norm < grad_norm,
        update_ratio=step_norm / jnp.maximum(global_norm(state.params), jnp.finfo(step_norm.dtype).tiny),
        broken=jnp.where(good, -1, broken).astype(jnp.int32),
        aux=result.aux,
        lag_profile=result.lag_profile,
    )
    h = where(fresh, result.start(params), result.h)
    return LearnerState(params, after, h, fresh, state.key, state.step + made, state.cursor + 1), info


def first_fault(
    state: LearnerState, result: BatchResult, grad_norm: Float[Array, ""], step_norm: Float[Array, ""]
) -> tuple[Bool[Array, ""], Int[Array, ""]]:
    """Whether all numbers of an update are finite, and the place of the first that is not, as in ``LearnerInfo``."""
    numbers = (result.loss, *jax.tree.leaves(result.grads), grad_norm, step_norm)  # in the order of ``require_finite``
    finite = jnp.stack([*(jnp.all(jnp.isfinite(a)) for a in numbers), jnp.asarray(result.whole)])
    finite = true_on_all_devices(finite, state.params)
    good, broken = jnp.all(finite), jnp.argmin(finite)
    if result.out_of_vocabulary is not None:
        cause = result.out_of_vocabulary & jnp.stack([jnp.asarray(True), jnp.isnan(result.loss)])
        cause = ~true_on_all_devices(~cause, state.params)
        broken = jnp.where(jnp.any(cause), len(finite) + jnp.argmax(cause), broken)
    return good, broken


def is_whole_state(h: State, start: State) -> Bool[Array, ""]:
    """Whether a carried state is finite; a number that is not finite in the start may stay so."""
    whole = jax.tree.map(lambda a, of_start: jnp.all(jnp.isfinite(a) | ~jnp.isfinite(of_start)), h, start)
    return jnp.all(jnp.array(jax.tree.leaves(whole)))


def optimizer_step(
    optimizer: optax.GradientTransformation, grads: Params, state: LearnerState, result: BatchResult
) -> tuple[Params, optax.OptState]:
    """The step that the optimizer adds to the params, and its state after it.

    Raises:
        ValueError: for an optimizer that needs more than it is given.
    """
    update = optax.with_extra_args_support(optimizer).update
    given = grads, state.optimizer, state.params
    try:
        with jax.numpy_dtype_promotion("standard"):  # optax mixes Python and array numbers
            try:
                return update(*given, value=result.loss, grad=result.grads, value_fn=result.loss_of)
            except TypeError:  # optax.contrib.sam takes extra arguments, but none of these
                return update(*given)
    except TypeError as error:
        raise ValueError(
            f"optimizer got one whose update fails ({in_one_line(error)}); want one that needs no more than the "
            "gradient, the params, the loss, and the loss as a function of the params"
        ) from error


def global_norm(tree: Params) -> Float[Array, ""]:
    """The global norm, in float32 or more: the squares of float16 overflow where its entries do not."""
    with jax.numpy_dtype_promotion("standard"):
        return optax.tree.norm(widened(tree))


def clipped_to(grads: Params, norm: float | Float[Array, ""]) -> Params:
    """A gradient, scaled to this global norm where its own is larger; in its own types."""
    with jax.numpy_dtype_promotion("standard"):
        clipped, _ = optax.clip_by_global_norm(norm).update(widened(grads), optax.EmptyState())
    return narrowed(clipped, grads)


def without_shared_buffers(tree: PyTree) -> PyTree:
    """The same arrays, each in a separate buffer: the state of some optimizers begins with the params themselves."""
    known: set[int] = set()

    def leaf(a: Any) -> Any:
        is_shared = isinstance(a, jax.Array) and id(a) in known
        known.add(id(a))
        return jnp.copy(a) if is_shared else a

    return jax.tree.map(leaf, tree)
