"""Training as pure functions: a ``Learner`` is an init and an update; ``fit`` scans the update over windows.

What stands between two chunks of windows, metrics, evaluation and checkpoints, is a plain loop of the caller:

    for chunk in chunks: state, info = compiled_fit(state, chunk); …
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from rnn_jax.gradients import chunked, streaming
from rnn_jax.gradients.windows import Loss
from rnn_jax.keys import keyed
from rnn_jax.machinery.checks import require_batch_shape
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_call
from rnn_jax.machinery.sharding import laid_out, scan
from rnn_jax.schedules.driver import batch_shape
from rnn_jax.schedules.scan import where
from rnn_jax.training.descent import LearnerInfo, LearnerState, Seen, begin, check_descent, check_params, descend
from rnn_jax.training.faults import INPUT, TARGET, advice, check_ids, outside
from rnn_jax.types import Cell, Params, State, require_cell

__all__ = [
    "Learner",
    "LearnerInfo",
    "LearnerState",
    "batch_learner",
    "evaluate",
    "fit",
    "require_finite",
    "window_learner",
]


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
    check: Callable[[LearnerState, tuple[PyTree, ...]], None] = lambda state, batches: None
    """``(state, batches)``: raises a ValueError for what is known to be wrong with a stack of batches."""

    __repr__ = repr_of_call


@factory
def window_learner(
    cell: Cell, loss: Loss, optimizer: optax.GradientTransformation, *, clip: float | Float[Array, ""] | None = None
) -> Learner:
    """Truncated back-propagation through time: one update after each window, the state carried on without its gradient.

    A window is ``(xs, targets)``, ``(xs, targets, mask)`` or ``(xs, targets, mask, resets)``. Where windows overlap, xs
    are k2 steps and targets are of the last k1, as ``gradients.streaming`` has them and ``streams`` makes them. A cell
    that draws is given keys. A learned start is taught by windows that begin with it, and by resets: where a lane is
    ``fresh``, the gradient of its state goes on to the start, so give other params or states with ``fresh`` replaced
    too. After an update that was skipped, because something was not finite in one of its lanes, every lane begins anew.

    Args:
        cell: its outputs are what the loss sees.
        loss: ``(ys, targets) -> scalar`` for one window.
        optimizer: any optax transformation, with any schedule, that wants no more than the gradient, the params, the
            loss, and the loss as a function of the params: line searches too.
        clip: the largest global norm of a gradient, positive; None for any. May be traced.

    Raises:
        ValueError: for a clip that is not positive, what is no cell or no optimizer; from ``init`` and ``update``,
            for params that are not floating; from ``update``, for ids that are known and outside the vocabulary.

    Example: after "hello " has been read often enough, the next letter is certain.

    >>> import jax, jax.numpy as jnp, optax
    >>> from rnn_jax import gru, readout
    >>> from rnn_jax.losses import cross_entropy
    >>> from rnn_jax.data.text import streams, vocabulary
    >>> from rnn_jax.training.learners import evaluate, fit, window_learner
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
    require_cell("cell", cell)
    check_descent(optimizer, clip)

    def init(key: PRNGKeyArray, batch_shape: tuple[int, ...] = ()) -> LearnerState:
        require_batch_shape(batch_shape)
        params = cell.init(key)
        return begin(key, params, optimizer, cell.start(params, batch_shape), jnp.ones(batch_shape, bool))

    def window_loss(
        params: Params, state: LearnerState, xs: PyTree, targets: PyTree, mask: Any = None, resets: Any = None
    ) -> tuple[Float[Array, ""], State]:
        batch = batch_shape(cell, params, state.h)
        if cell.keyed:
            xs = keyed(jax.random.fold_in(state.key, state.cursor), xs, batch)
        h = where(state.fresh, taught(state.h, laid_out(cell.start(params, batch), like=state.h)), state.h)
        return streaming(cell, params, h, xs, targets, loss, mask=mask, resets=resets)

    def update(state: LearnerState, window: tuple[PyTree, ...]) -> tuple[LearnerState, LearnerInfo]:
        check_params(state.params)
        check(state, window, stacked=False)
        return updated((cell, loss, optimizer), state, window)

    @compiled("reads")
    def updated(reads: Any, state: LearnerState, window: tuple[PyTree, ...]) -> tuple[LearnerState, LearnerInfo]:
        batch = batch_shape(cell, state.params, state.h)
        (value, h), grads = jax.value_and_grad(window_loss, has_aux=True)(state.params, state, *window)
        y = jax.eval_shape(cell.output, state.params, state.h)
        seen = Seen(
            loss=value,
            grads=grads,
            loss_of=lambda params: window_loss(params, state, *window)[0],
            fresh=still_fresh(state.fresh, *window[1:]),
            h=h,
            start=partial(cell.start, batch_shape=batch),
            outside=outside(cell, state.params, 1 + len(batch), y, *window[:3]),
        )
        return descend(optimizer, clip, state, seen)

    def check(state: LearnerState, windows: tuple[PyTree, ...], stacked: bool = True) -> None:
        batch = batch_shape(cell, state.params, state.h)
        if state.fresh.shape != batch:
            fresh = state.fresh.shape
            raise ValueError(f"fresh got shape {fresh}; want the batch axes of h, {batch}: one for each lane")
        if not 2 <= len(windows) <= 4:
            raise ValueError(f"window got {len(windows)} parts; want xs and targets, and maybe a mask, and resets")
        check_ids(cell, state.params, 1 + stacked + len(batch), *windows)

    return Learner(init, update, check)


@jax.custom_jvp
def taught(h: State, start: State) -> State:
    """h, whose gradient is that of the start, which it is but for rounding."""
    return h


taught.defjvp(lambda primals, tangents: (primals[0], tangents[1]))


def still_fresh(
    fresh: Bool[Array, "*batch"], targets: PyTree, mask: Any = None, resets: Any = None
) -> Bool[Array, "*batch"]:
    """Where a lane still has read nothing since its start after a window: it waited, or waits since a reset.

    Args:
        fresh: before the window.
        targets: of the window's last k1 steps; it moves on by as many.
        mask, resets: of the window's steps; without a mask, every lane reads.
    """
    if mask is None:
        return jnp.zeros_like(fresh)
    k1 = next((len(leaf) for leaf in jax.tree.leaves(targets)), len(mask))

    def last(marks: Any) -> Int[Array, "*batch"]:  # the last step of which it is said; −1 for none
        marks = jnp.asarray(marks)[:k1]
        marks = jnp.broadcast_to(marks.reshape(*marks.shape, *[1] * (fresh.ndim + 1 - marks.ndim)), (k1, *fresh.shape))
        return jnp.max(jnp.where(marks, jnp.arange(k1).reshape(k1, *[1] * fresh.ndim), -1), axis=0)

    read, reset = last(mask), last(jnp.zeros(k1, bool) if resets is None else resets)
    return (read < reset) | (fresh & (read < 0))


@factory
def batch_learner(
    init: Callable[[PRNGKeyArray], Params],
    loss: Callable[..., Float[Array, ""]],
    optimizer: optax.GradientTransformation,
    *,
    clip: float | Float[Array, ""] | None = None,
) -> Learner:
    """Back-propagation through whole examples: one update after each batch, between which nothing is carried.

    Args:
        init: ``(key) -> params``.
        loss: ``(params, *batch) -> scalar``, for a batch as ``fit`` gives it: inputs, targets, lengths, a key.
        optimizer, clip: as in ``window_learner``.

    Raises:
        ValueError: for a clip that is not positive, or what is no optimizer; from ``init`` and ``update``, for params
            that are not floating.

    Example: the mean of three numbers.

    >>> import jax, jax.numpy as jnp, optax
    >>> from rnn_jax.training.learners import batch_learner, fit
    >>> learner = batch_learner(lambda key: jnp.zeros(()), lambda p, x: (p - x) ** 2, optax.sgd(0.01))
    >>> state, info = fit(learner, learner.init(jax.random.key(0), ()), (jnp.tile(jnp.array([1.0, 2.0, 6.0]), 400),))
    >>> print(state.params.round(1), state.step)
    3.0 1200
    """

    check_descent(optimizer, clip)

    def update(state: LearnerState, batch: tuple[PyTree, ...]) -> tuple[LearnerState, LearnerInfo]:
        check_params(state.params)
        return updated((loss, optimizer), state, batch)

    @compiled("reads")
    def updated(reads: Any, state: LearnerState, batch: tuple[PyTree, ...]) -> tuple[LearnerState, LearnerInfo]:
        value, grads = jax.value_and_grad(loss)(state.params, *batch)
        return descend(optimizer, clip, state, Seen(value, grads, lambda params: loss(params, *batch), state.fresh))

    return Learner(lambda key, batch_shape=(): begin(key, init(key), optimizer, (), jnp.ones((), bool)), update)


def fit(learner: Learner, state: LearnerState, windows: tuple[PyTree, ...]) -> tuple[LearnerState, LearnerInfo]:
    """Scans ``learner.update`` over windows on the device: one chunk of training, to be compiled once.

    Args:
        learner: what to repeat.
        state: where to begin.
        windows: ``(xs, targets)``, each with a leading axis of windows, such as ``streams`` makes.

    Returns:
        The last state, and the info of every update, stacked.

    Raises:
        ValueError: for ids that are known and outside the vocabulary, or what the update refuses.
    """
    learner.check(state, windows)
    return scan(learner.update, state, windows)


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
    gradients = (f"gradient of params{path}" for path in paths)
    names = ("loss", *gradients, "gradient's norm", "step", "carried state", INPUT, TARGET)
    batch, what = int(state.cursor) - len(broken) + first, names[broken[first]]
    made = int(state.step) - int((broken[first:] < 0).sum())
    fault = f"an {what}" if what == INPUT else f"a {what}" if what == TARGET else f"a {what} that is not finite"
    raise FloatingPointError(f"batch {batch} (update {made}) got {fault}; want {advice(what, made, state.params)}")


def evaluate(
    cell: Cell, params: Params, loss: Loss, xs: PyTree, targets: PyTree, *, window: int = 1024
) -> Float[Array, ""]:
    """The loss of one rollout from the start state, in the memory of one window.

    Args:
        cell, params: a cell that draws takes the mean.
        loss: ``(ys, targets) -> scalar``, a sum over time.
        xs, targets: time and one batch axis leading; a single stream is a batch of 1.
        window: steps that are held at once.

    Raises:
        ValueError: for xs without a batch axis, or what ``chunked`` refuses.
    """
    require_cell("cell", cell)
    first = jax.tree.leaves(xs)[0]
    if first.ndim < 2:
        raise ValueError(f"xs got shape {first.shape}; want (T, B, …): a single stream is a batch of 1, xs[:, None]")
    start = cell.start(params, (first.shape[1],))
    return jnp.asarray(chunked(cell, params, start, xs, targets, loss, window=window)[0])
