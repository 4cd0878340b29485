"""Training as pure functions: a ``Learner`` is an init and an update; ``fit`` scans the update over windows.

What stands between two chunks of windows, metrics, evaluation and checkpoints, is a plain loop of the caller:

    for chunk in chunks: state, info = compiled_fit(state, chunk); …
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from rnn_jax.factories import factory
from rnn_jax.gradients import chunked, streaming
from rnn_jax.gradients.windows import Loss
from rnn_jax.keys import keyed
from rnn_jax.rollout import batch_shape
from rnn_jax.rollout.scan import where
from rnn_jax.types import Cell, Keys, Params, State


class LearnerState(NamedTuple):
    """What training carries from batch to batch: with it and the data, training goes on as if it had not stopped."""

    params: Params
    optimizer: optax.OptState
    h: State
    """The state where the next window begins; ``()`` when nothing is carried."""
    key: Keys
    """Of everything that is drawn while learning; the same for the whole of it."""
    step: Int[Array, ""]
    """Updates made."""
    cursor: Int[Array, ""]
    """Batches read; more than ``step`` where an update was skipped."""


class LearnerInfo(NamedTuple):
    """What is looked at after an update."""

    loss: Float[Array, ""]
    """Of the batch, before the update."""
    grad_norm: Float[Array, ""]
    """Global norm of the gradient, before clipping."""
    clipped_norm: Float[Array, ""]
    """Global norm of the gradient, after clipping."""
    clipped: Bool[Array, ""]
    """Whether clipping shortened it."""
    update_ratio: Float[Array, ""]
    """Norm of the step over norm of the params: about 1e-3 is common, much more is wild."""
    broken: Int[Array, ""]
    """−1; or where something is not finite and the update was skipped: 0 for the loss, n for the nth gradient, and then
    one each for the gradient's norm, which may overflow alone, the update, and the carried state."""


class Init(Protocol):
    """Makes the state before the first update: ``(key, batch_shape=()) -> state``."""

    def __call__(self, key: PRNGKeyArray, batch_shape: tuple[int, ...] = ()) -> LearnerState:
        """Returns a state whose carried h has these batch axes."""
        ...


class Learner(NamedTuple):
    """Training as two pure functions."""

    init: Init
    """``(key, batch_shape=()) -> state``."""
    update: Callable[[LearnerState, tuple[PyTree, ...]], tuple[LearnerState, LearnerInfo]]
    """``(state, batch) -> (state, info)``: a batch is ``(xs, targets)`` for one window, or a tuple of any arrays."""


@factory
def window_learner(
    cell: Cell, loss: Loss, optimizer: optax.GradientTransformation, *, clip: float | None = None
) -> Learner:
    """Truncated back-propagation through time: one update after each window, the state carried on without its gradient.

    A window is ``(xs, targets)``, ``(xs, targets, mask)`` or ``(xs, targets, mask, resets)``. Where windows overlap, xs
    are k2 steps and targets are of the last k1, as ``gradients.streaming`` has them and ``streams`` makes them. A cell
    that draws is given keys. A learned start is taught by windows that begin with it, and by resets. After an update
    that was skipped, because something was not finite in one of its lanes, every lane begins anew.

    Args:
        cell: its outputs are what the loss sees.
        loss: ``(ys, targets) -> scalar`` for one window.
        optimizer: any optax transformation, with any schedule, that wants no more than the gradient, the params and
            the loss: line searches, which evaluate the loss anew, do not go in a scan of windows.
        clip: the largest global norm of a gradient.

    Example: after "hello " has been read often enough, the next letter is certain.

    >>> import jax, jax.numpy as jnp, optax
    >>> from rnn_jax import gru, readout
    >>> from rnn_jax.losses import cross_entropy
    >>> from rnn_jax.text import streams, vocabulary
    >>> from rnn_jax.training import evaluate, fit, window_learner
    >>> v = vocabulary("hello ")
    >>> model = readout(gru(v.size, 8), v.size)
    >>> learner = window_learner(model, cross_entropy, optax.adam(0.05), clip=1.0)
    >>> windows = streams(v.encode("hello " * 200), batch_size=2, window=5)
    >>> state, info = jax.jit(lambda key: fit(learner, learner.init(key, (2,)), windows))(jax.random.key(0))
    >>> ids = v.encode("hello " * 4)[:, None]
    >>> nats = evaluate(model, state.params, cross_entropy, ids[:-1], ids[1:]) / len(ids[1:])
    >>> bool(nats < 0.2 < info.loss[0] / 5)
    True

    Reference: Williams, Peng. An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories. 1990.
    """

    def init(key: PRNGKeyArray, batch_shape: tuple[int, ...] = ()) -> LearnerState:
        params = cell.init(key)
        return begin(key, params, optimizer, cell.start(params, batch_shape))

    def window_loss(
        params: Params, state: LearnerState, xs: PyTree, targets: PyTree, mask: Any = None, resets: Any = None
    ) -> tuple[Float[Array, ""], State]:
        batch = batch_shape(cell, params, state.h)
        if cell.keyed:
            xs = keyed(jax.random.fold_in(state.key, state.cursor), xs, batch)
        start = cell.start(params, batch)
        same = map(jnp.array_equal, jax.tree.leaves(state.h), jax.tree.leaves(start))
        h = where(functools.reduce(jnp.logical_and, same, jnp.asarray(True)), start, state.h)  # start has a gradient
        return streaming(cell, params, h, xs, targets, loss, mask=mask, resets=resets)

    def update(state: LearnerState, window: tuple[PyTree, ...]) -> tuple[LearnerState, LearnerInfo]:
        differentiated = jax.value_and_grad(window_loss, has_aux=True)
        (value, h), grads = differentiated(state.params, state, *window)
        anew = cell.start(state.params, batch_shape(cell, state.params, state.h))
        return descend(optimizer, clip, state, h, anew, value, grads)

    return Learner(init, update)


@factory
def batch_learner(
    init: Callable[[PRNGKeyArray], Params],
    loss: Callable[..., Float[Array, ""]],
    optimizer: optax.GradientTransformation,
    *,
    clip: float | None = None,
) -> Learner:
    """Back-propagation through whole examples: one update after each batch, between which nothing is carried.

    Args:
        init: ``(key) -> params``.
        loss: ``(params, *batch) -> scalar``, for a batch as ``fit`` gives it: inputs, targets, lengths, a key.
        optimizer: any optax transformation, with any schedule.
        clip: the largest global norm of a gradient.

    Example: the mean of three numbers.

    >>> import jax, jax.numpy as jnp, optax
    >>> from rnn_jax.training import batch_learner, fit
    >>> learner = batch_learner(lambda key: jnp.zeros(()), lambda p, x: (p - x) ** 2, optax.sgd(0.01))
    >>> state, info = fit(learner, learner.init(jax.random.key(0), ()), (jnp.tile(jnp.array([1.0, 2.0, 6.0]), 400),))
    >>> print(state.params.round(1), state.step)
    3.0 1200
    """

    def update(state: LearnerState, batch: tuple[PyTree, ...]) -> tuple[LearnerState, LearnerInfo]:
        value, grads = jax.value_and_grad(loss)(state.params, *batch)
        return descend(optimizer, clip, state, (), (), value, grads)

    return Learner(lambda key, batch_shape=(): begin(key, init(key), optimizer, ()), update)


def begin(key: PRNGKeyArray, params: Params, optimizer: optax.GradientTransformation, h: State) -> LearnerState:
    """Before the first update."""
    zero = jnp.zeros((), jnp.int32)
    return LearnerState(params, optimizer.init(params), h, jax.random.fold_in(key, 1), zero, zero)


def descend(
    optimizer: optax.GradientTransformation,
    clip: float | None,
    state: LearnerState,
    h: State,
    anew: State,
    loss: Float[Array, ""],
    grads: Params,
) -> tuple[LearnerState, LearnerInfo]:
    """One step of the optimizer and ``h`` carried on; no step, and ``anew``, where something is not finite."""
    grad_norm = clipped_norm = optax.tree.norm(grads)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes Python and array numbers
        clipped = grads
        if clip is not None:
            clipped, _ = optax.clip_by_global_norm(clip).update(grads, optax.EmptyState())
            clipped_norm = optax.tree.norm(clipped)
        asked = inspect.signature(optimizer.update).parameters.values()
        told = {"value": loss} if any(p.name == "value" or p.kind is p.VAR_KEYWORD for p in asked) else {}
        steps, after = optimizer.update(clipped, state.optimizer, state.params, **told)
        params = optax.apply_updates(state.params, steps)
        step_norm, tiny = optax.tree.norm(steps), jnp.finfo(grad_norm.dtype).tiny
        ratio = step_norm / jnp.maximum(optax.tree.norm(state.params), tiny)
    carried = jax.tree.map(lambda a, start: jnp.all(jnp.isfinite(a) | ~jnp.isfinite(start)), h, anew)
    looked_at = (loss, *jax.tree.leaves(grads), grad_norm, step_norm)  # as ``require_finite`` names them
    finite = jnp.stack([*(jnp.all(jnp.isfinite(a)) for a in looked_at), jnp.all(jnp.array(jax.tree.leaves(carried)))])
    good = jnp.all(finite)
    kept = where(good, (params, after, h), (state.params, state.optimizer, anew))
    info = LearnerInfo(
        loss=loss,
        grad_norm=grad_norm,
        clipped_norm=clipped_norm,
        clipped=clipped_norm < grad_norm,
        update_ratio=ratio,
        broken=jnp.where(good, -1, jnp.argmin(finite)).astype(jnp.int32),
    )
    made = good.astype(jnp.int32)
    return LearnerState(*kept, key=state.key, step=state.step + made, cursor=state.cursor + 1), info


def fit(learner: Learner, state: LearnerState, windows: tuple[PyTree, ...]) -> tuple[LearnerState, LearnerInfo]:
    """Scans ``learner.update`` over windows on the device: one chunk of training, to be compiled once.

    Args:
        learner: what to repeat.
        state: where to begin.
        windows: ``(xs, targets)``, each with a leading axis of windows, such as ``streams`` makes.

    Returns:
        The last state, and the info of every update, stacked.
    """
    return jax.lax.scan(learner.update, state, windows)


def require_finite(state: LearnerState, info: LearnerInfo) -> None:
    """Raises a FloatingPointError that names the first update of a chunk which was skipped, and what broke it.

    Args:
        state, info: what ``fit`` returned.

    >>> import jax, jax.numpy as jnp, optax
    >>> learner = batch_learner(lambda key: {"w": jnp.ones(())}, lambda p, x: x * p["w"] ** 0.5, optax.sgd(1.0))
    >>> require_finite(*fit(learner, learner.init(jax.random.key(0), ()), (jnp.array([0.5, 2.0, 2.0]),)))
    Traceback (most recent call last):
    FloatingPointError: batch 2 (update 2) got a loss that is not finite; want a lower learning rate, or a smaller clip
    """
    broken = np.asarray(info.broken)
    if not (broken >= 0).any():
        return
    first = int(np.argmax(broken >= 0))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.params)]
    names = ("loss", *(f"gradient of params{path}" for path in paths), "gradient's norm", "step", "carried state")
    batch, what = int(state.cursor) - len(broken) + first, names[broken[first]]
    step = int(state.step) - int((broken[first:] < 0).sum())
    raise FloatingPointError(
        f"batch {batch} (update {step}) got a {what} that is not finite; want a lower learning rate, or a smaller clip"
    )


def evaluate(
    cell: Cell, params: Params, loss: Loss, xs: PyTree, targets: PyTree, *, window: int = 1024
) -> Float[Array, ""]:
    """The loss of one rollout from the start state, in the memory of one window.

    Args:
        cell, params: a cell that draws takes the mean.
        loss: ``(ys, targets) -> scalar``, a sum over time.
        xs, targets: time and one batch axis leading; a single stream is a batch of 1.
        window: steps that are held at once.
    """
    start = cell.start(params, (jax.tree.leaves(xs)[0].shape[1],))
    return jnp.asarray(chunked(cell, params, start, xs, targets, loss, window=window)[0])
