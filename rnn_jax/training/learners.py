"""Training as pure functions: a ``Learner`` is an init and an update; ``fit`` scans the update over batches."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, PyTree

from rnn_jax.diagnostics.probes import log_norms_of_probes, probed, with_probes, zero_probes
from rnn_jax.gradients import streaming
from rnn_jax.gradients.windows import value_and_aux
from rnn_jax.keys import keyed, unkey
from rnn_jax.machinery.checks import require_batch_shape, require_sequence
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_call
from rnn_jax.machinery.sharding import laid_out, scan
from rnn_jax.schedules.driver import batch_shape, checked_loops
from rnn_jax.schedules.scan import where
from rnn_jax.training.descent import (
    BatchResult,
    LearnerInfo,
    LearnerState,
    UpdateParts,
    check_descent,
    check_params,
    initial_state,
    is_whole_state,
    update_state,
)
from rnn_jax.training.faults import check_ids, out_of_vocabulary
from rnn_jax.types import Cell, Keyed, Params, State, require_cell

__all__ = [
    "Learner",
    "LearnerInfo",
    "LearnerState",
    "Window",
    "batch_learner",
    "fit",
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
    update: Callable[[LearnerState, PyTree], tuple[LearnerState, LearnerInfo]]
    """``(state, batch) -> (state, info)``."""
    check: Callable[[LearnerState, PyTree], None] = lambda state, batches: None
    """``(state, batches)``: raises a ValueError for a stack of wrong batches."""
    parts: UpdateParts | None = None
    """The parts of the update, which ``parallel_learner`` divides among devices; None for a learner of your own."""

    __repr__ = repr_of_call


class Window(NamedTuple):
    """One window of a sequence; a tuple in this order, or a dict with these names, is one too."""

    xs: PyTree
    """Inputs of k2 steps, time leading."""
    targets: PyTree
    """Targets of the last k1 steps, any pytree with time leading; k1 = k2 unless windows overlap."""
    mask: Bool[ArrayLike, "K ..."] | None = None
    """As in ``rollout``."""
    resets: Bool[ArrayLike, "K ..."] | None = None
    """As in ``rollout``."""

    __repr__ = repr_of_call


@factory
def window_learner(
    cell: Cell,
    loss: Callable[[PyTree, PyTree], Any],
    optimizer: optax.GradientTransformation,
    *,
    clip: float | Float[Array, ""] | None = None,
    has_aux: bool = False,
    transform: Callable[[Params, PRNGKeyArray], Params] | None = None,
    schedule: str = "auto",
    lag_profile: bool = False,
) -> Learner:
    """Truncated back-propagation through time: one update after each window, the state carried on without its gradient.

    A batch is a ``Window``, ``(xs, targets)`` at least; ``streams`` makes a stack of them. A cell that draws is given
    keys. A learned start gets its gradient from windows that begin with it, and from resets: where a lane is ``fresh``,
    the gradient of its state goes on to the start. If you replace h in the state, replace ``fresh`` too. After an
    update that was skipped, because a number was not finite in one of its lanes, every lane starts again.

    Args:
        cell: a model whose outputs are the first argument of the loss.
        loss: ``(ys, targets) -> scalar`` for one window; if has_aux, ``-> (scalar, aux)``.
        optimizer: any optax transformation, with any schedule, that needs no more than the gradient, the params, the
            loss, and the loss as a function of the params; line searches work too.
        clip: the largest global norm of a gradient, positive; None for no limit. May be traced.
        has_aux: whether the loss returns any pytree beside its value, which becomes ``info.aux``.
        transform: ``(params, key) -> params``: randomly changed params, such as by ``partial(weight_drop, rate=0.5)``,
            that replace the params throughout one window. Each window has a separate key, computed from the key of
            the state and its cursor. ``evaluate`` uses the params themselves.
        schedule: of the rollout of a window, as in ``rollout``.
        lag_profile: whether ``info.lag_profile`` holds the norm of the gradient with respect to every state of the
            window, from the same backward pass, as in ``LearnerInfo``; params are the same with and without it.

    Raises:
        ValueError: for an unknown schedule, a clip that is not positive, an object that is not a cell or an optimizer;
            from ``init`` and ``update``, for params that are not floating; from ``update``, for a batch that is not a
            ``Window``, and for ids outside the vocabulary, unless they are traced.

    Example: after many repetitions of "hello ", the next character is certain.

    >>> import jax, jax.numpy as jnp, optax
    >>> from rnn_jax import gru, readout
    >>> from rnn_jax.losses import cross_entropy, per_step
    >>> from rnn_jax.data.text import streams, vocabulary
    >>> from rnn_jax.training import evaluate, fit, window_learner
    >>> v = vocabulary("hello ")
    >>> model = readout(gru(v.size, 8), v.size)
    >>> learner = window_learner(model, per_step(cross_entropy), optax.adam(0.05), clip=1.0)
    >>> windows = streams(v.encode("hello " * 200), batch_size=2, window=5)
    >>> state, info = jax.jit(lambda key: fit(learner, learner.init(key, (2,)), windows))(jax.random.key(0))
    >>> ids = v.encode("hello " * 4)[:, None]
    >>> nats = evaluate(model, state.params, ids[:-1], ids[1:], per_step(cross_entropy))
    >>> bool(nats < 0.2 < info.loss[0])
    True

    Reference: Williams, Peng. An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories. 1990.
    """
    require_cell("cell", cell)
    check_descent(optimizer, clip)
    checked_loops(schedule)

    def init(key: PRNGKeyArray, batch_shape: tuple[int, ...] = ()) -> LearnerState:
        require_batch_shape(batch_shape)
        params = cell.init(key)
        return initial_state(key, params, optimizer, cell.start(params, batch_shape), jnp.ones(batch_shape, bool))

    def window_loss(
        params: Params, probes: State, state: LearnerState, window: Window
    ) -> tuple[Float[Array, ""], PyTree]:
        batch, xs = batch_shape(cell, params, state.h), window.xs
        if transform is not None:
            params = transform(params, transform_key(state))
        h = with_start(state, cell.start(params, batch))
        options = {"mask": window.mask, "resets": window.resets, "has_aux": has_aux, "schedule": schedule}
        model, xs = (probed(cell), with_probes(xs, probes)) if lag_profile else (cell, xs)
        value, rest = streaming(model, params, h, xs, window.targets, loss, **options)
        return value, rest if has_aux else (rest, ())

    def update(state: LearnerState, window: PyTree) -> tuple[LearnerState, LearnerInfo]:
        check_params(state.params)
        parts.check(state, window)
        return updated((cell, loss, optimizer, transform), state, as_window(window))

    def measure(state: LearnerState, window: Window) -> BatchResult:
        batch, y = batch_shape(cell, state.params, state.h), jax.eval_shape(cell.output, state.params, state.h)
        T, beside = require_sequence(window.xs), (state.params, window)
        probes = zero_probes(state.h, T, beside=beside) if lag_profile else ()
        gradient = jax.value_and_grad(window_loss, argnums=(0, 1), has_aux=True)
        (value, (h, aux)), (grads, to_states) = gradient(state.params, probes, state, window)
        return BatchResult(
            loss=value,
            grads=grads,
            loss_of=lambda params: window_loss(params, probes, state, window)[0],
            fresh=fresh_after(state.fresh, *window[1:]),
            aux=aux,
            lag_profile=log_norms_of_probes(cell, state.params, unkey(window.xs)[0], to_states) if lag_profile else (),
            h=h,
            whole=is_whole_state(h, cell.start(state.params, batch)),
            start=partial(cell.start, batch_shape=batch),
            out_of_vocabulary=out_of_vocabulary(cell, state.params, 1 + len(batch), y, *window[:3]),
        )

    parts = window_parts(cell, measure, partial(update_state, optimizer, clip))
    updated = whole_update(parts)
    return Learner(init, update, partial(check_windows, cell), parts)


def whole_update(parts: UpdateParts) -> Callable[[Any, LearnerState, PyTree], tuple[LearnerState, LearnerInfo]]:
    """The update ``(reads, state, batch) -> (state, info)`` of these parts; reads are the objects that they read."""

    @compiled("reads")
    def updated(reads: Any, state: LearnerState, batch: PyTree) -> tuple[LearnerState, LearnerInfo]:
        return parts.apply(state, parts.measure(state, parts.draw(state, batch)))

    return updated


def window_parts(cell: Cell, measure: Callable[..., BatchResult], apply: Callable[..., Any]) -> UpdateParts:
    """The parts of the update of a ``window_learner``."""
    draw, layout = partial(with_lane_keys, cell), partial(layout_with_lane_keys, cell)
    check = partial(check_windows, cell, stacked=False)
    return UpdateParts(draw, measure, apply, check=check, layout_of_drawn=layout, has_equal_examples=has_no_mask)


def with_lane_keys(cell: Cell, state: LearnerState, batch: PyTree) -> Window:
    """A window; if the cell draws, with a key for every step of every lane."""
    window = as_window(batch)
    if not cell.keyed:
        return window
    key = jax.random.fold_in(state.key, state.cursor)
    return window._replace(xs=keyed(key, window.xs, batch_shape(cell, state.params, state.h)))


def layout_with_lane_keys(cell: Cell, of_batch: PyTree, of_keys: Any) -> Window:
    """The layouts of a window, as ``with_lane_keys`` returns it, from those of a batch and of keys ``(T, *batch)``."""
    window = as_window(of_batch)
    return window._replace(xs=Keyed(window.xs, of_keys)) if cell.keyed else window


def has_no_mask(window: Window) -> bool:
    """Whether a window has no mask: neither its own, nor flags beside other targets."""
    targets = jax.tree.leaves(window.targets)
    beside = len(targets) > 1 and any(jnp.issubdtype(jnp.result_type(a), bool) for a in targets)
    return window.mask is None and not beside


def check_windows(cell: Cell, state: LearnerState, windows: PyTree, stacked: bool = True) -> None:
    """Raises a ValueError for ``fresh`` of another shape than the lanes, and for ids outside the vocabulary."""
    batch = batch_shape(cell, state.params, state.h)
    if state.fresh.shape != batch:
        fresh = state.fresh.shape
        raise ValueError(f"fresh got shape {fresh}; want the batch axes of h, {batch}: one for each lane")
    check_ids(cell, state.params, 1 + stacked + len(batch), *as_window(windows))


def as_window(batch: PyTree) -> Window:
    """A window, or a stack of them, from a tuple of its parts or a dict of its parts by name.

    Raises:
        ValueError: for another number of parts, or other names.

    >>> as_window({"xs": 1, "targets": 2, "resets": 3})
    Window(xs=1, targets=2, mask=None, resets=3)
    """
    if isinstance(batch, Mapping):
        if not {"xs", "targets"} <= batch.keys() <= {*Window._fields}:
            names = ", ".join(map(str, batch))
            raise ValueError(f"window got parts {names}; want xs and targets, and optionally a mask and resets")
        return Window(**batch)
    if not isinstance(batch, tuple | list) or not 2 <= len(batch) <= 4:
        parts = len(batch) if isinstance(batch, tuple | list) else 1
        raise ValueError(f"window got {parts} parts; want xs and targets, and optionally a mask and resets")
    return Window(*batch)


def transform_key(state: LearnerState) -> PRNGKeyArray:
    """The key of a window's transform: another one than that of the inputs, which is folded with the cursor itself."""
    return jax.random.fold_in(state.key, jnp.uint32(2**31) + state.cursor.astype(jnp.uint32))


def with_start(state: LearnerState, start: State) -> State:
    """The carried state; where a lane is fresh its gradient goes on to the start."""
    return where(state.fresh, with_gradient_of(state.h, laid_out(start, like=state.h)), state.h)


@jax.custom_jvp
def with_gradient_of(h: State, start: State) -> State:
    """h with the gradient of the start, which has the same values but for rounding."""
    return h


with_gradient_of.defjvp(lambda primals, tangents: (primals[0], tangents[1]))


def fresh_after(
    fresh: Bool[Array, "*batch"], targets: PyTree, mask: Any = None, resets: Any = None
) -> Bool[Array, "*batch"]:
    """The flags of the lanes that, after a window, have read no input since their start (or since a reset).

    Args:
        fresh: before the window.
        targets: of the window's last k1 steps; the next window begins k1 steps later.
        mask, resets: of the window's steps; without a mask, no step is masked.
    """
    if mask is None:
        return jnp.zeros_like(fresh)
    k1 = next((len(leaf) for leaf in jax.tree.leaves(targets)), len(mask))

    def last_true(flags: Any) -> Int[Array, "*batch"]:  # −1 for none
        flags = jnp.asarray(flags)[:k1]
        flags = jnp.broadcast_to(flags.reshape(*flags.shape, *[1] * (fresh.ndim + 1 - flags.ndim)), (k1, *fresh.shape))
        return jnp.max(jnp.where(flags, jnp.arange(k1).reshape(k1, *[1] * fresh.ndim), -1), axis=0)

    unmasked, reset = last_true(mask), last_true(jnp.zeros(k1, bool) if resets is None else resets)
    return (unmasked < reset) | (fresh & (unmasked < 0))


@factory
def batch_learner(
    init: Callable[[PRNGKeyArray], Params],
    loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    *,
    clip: float | Float[Array, ""] | None = None,
    has_aux: bool = False,
    keyed_loss: bool = False,
) -> Learner:
    """Back-propagation through whole examples: one update after each batch, with nothing carried between batches.

    The loss gets a batch as Python passes arguments: the parts of a tuple, a list or a NamedTuple in their order, the
    parts of a dict by name, and any other pytree as one argument. To get a tuple whole, pass ``(batch,)``.

    Args:
        init: ``(key) -> params``.
        loss: ``(params, *batch) -> scalar`` or ``(params, **batch) -> scalar``, for example of inputs, targets and
            lengths; if keyed_loss, the key comes after the params; if has_aux, it returns ``(scalar, aux)``.
        optimizer, clip, has_aux: as in ``window_learner``.
        keyed_loss: whether the loss draws, such as masks of ``variational_dropout``. Each update has a separate key,
            computed from the key of the state and its cursor.

    Raises:
        ValueError: for a clip that is not positive, or an object that is not an optimizer; from ``init`` and
            ``update``, for params that are not floating.

    Example: the mean of three numbers, with batches by name.

    >>> import jax, jax.numpy as jnp, optax
    >>> from rnn_jax.training import batch_learner, fit
    >>> def loss(params, x):
    ...     error = x - params
    ...     return error**2, {"error": error}
    >>> learner = batch_learner(lambda key: jnp.zeros(()), loss, optax.sgd(0.01), has_aux=True)
    >>> batches = {"x": jnp.tile(jnp.array([1.0, 2.0, 6.0]), 400)}
    >>> state, info = fit(learner, learner.init(jax.random.key(0)), batches)
    >>> print(state.params.round(1), state.step, info.aux["error"][:2].round(2))
    3.0 1200 [1.   1.98]
    """
    check_descent(optimizer, clip)

    def batch_loss(params: Params, state: LearnerState, batch: PyTree) -> tuple[Float[Array, ""], PyTree]:
        first = (params, jax.random.fold_in(state.key, state.cursor)) if keyed_loss else (params,)
        args, by_name = ((), batch) if isinstance(batch, Mapping) else (batch, {})
        args = args if isinstance(args, tuple | list) else (args,)
        return value_and_aux(loss(*first, *args, **by_name), has_aux)

    def update(state: LearnerState, batch: PyTree) -> tuple[LearnerState, LearnerInfo]:
        check_params(state.params)
        return updated((loss, optimizer), state, batch)

    def measure(state: LearnerState, batch: PyTree) -> BatchResult:
        (value, aux), grads = jax.value_and_grad(batch_loss, has_aux=True)(state.params, state, batch)
        loss_of = lambda params: batch_loss(params, state, batch)[0]  # noqa: E731
        return BatchResult(value, grads, loss_of, state.fresh, aux)

    parts = UpdateParts(lambda state, batch: batch, measure, partial(update_state, optimizer, clip), keyed_loss)
    updated = whole_update(parts)
    first = lambda key, batch_shape=(): initial_state(key, init(key), optimizer, (), jnp.ones((), bool))  # noqa: E731
    return Learner(first, update, parts=parts)


def fit(learner: Learner, state: LearnerState, batches: PyTree) -> tuple[LearnerState, LearnerInfo]:
    """The state after an update for each batch, in one scan on the device.

    Args:
        learner: its update is repeated.
        state: the state before the first update.
        batches: batches stacked along a new leading axis, such as the windows that ``streams`` makes.

    Returns:
        The last state, and the info of every update, stacked.

    Raises:
        ValueError: for ids outside the vocabulary, unless they are traced, or batches that the update refuses.

    Example: metrics, evaluation and checkpoints belong between chunks of batches, in your own loop.

    >>> import jax, jax.numpy as jnp, optax
    >>> from functools import partial
    >>> from rnn_jax.training import batch_learner, fit, require_finite
    >>> learner = batch_learner(lambda key: jnp.zeros(()), lambda w, x: (x - w) ** 2, optax.sgd(0.1))
    >>> state, train = learner.init(jax.random.key(0)), jax.jit(partial(fit, learner))
    >>> for chunk in jnp.ones((3, 20)):  # three chunks of 20 batches
    ...     state, info = train(state, chunk)
    ...     require_finite(state, info)
    ...     print(f"after {state.step} updates: mean loss {info.loss.mean():.4f}")
    after 20 updates: mean loss 0.1389
    after 40 updates: mean loss 0.0000
    after 60 updates: mean loss 0.0000
    """
    learner.check(state, batches)
    return scan(learner.update, state, batches)
