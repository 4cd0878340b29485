"""Training as pure functions: a ``Learner`` is an init and an update; ``fit`` scans the update over windows."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnn_jax.rollout import outputs, rollout
from rnn_jax.types import Cell, Params, State


class LearnerState(NamedTuple):
    """What training carries from window to window."""

    params: Params
    optimizer: optax.OptState
    h: State
    """The state at the end of the window before, where the next one goes on."""


class LearnerInfo(NamedTuple):
    """What is looked at after an update."""

    loss: Float[Array, ""]
    """Of the window, before the update."""
    grad_norm: Float[Array, ""]
    """Global norm of the gradient, before clipping."""


class Learner(NamedTuple):
    """Training as two pure functions."""

    init: Callable[[PRNGKeyArray, tuple[int, ...]], LearnerState]
    """``(key, batch_shape) -> state``."""
    update: Callable[[LearnerState, tuple[PyTree, ...]], tuple[LearnerState, LearnerInfo]]
    """``(state, batch) -> (state, info)``: a batch is ``(xs, targets)`` for one window, or a tuple of any arrays."""


def window_learner(
    cell: Cell, loss: Callable[[PyTree, PyTree], Float[Array, ""]], optimizer: optax.GradientTransformation
) -> Learner:
    """Truncated back-propagation through time: one update after each window, the state carried on without its gradient.

    Args:
        cell: its outputs are what the loss sees.
        loss: ``(ys, targets) -> scalar`` for one window.
        optimizer: any optax transformation.

    Reference: Williams, Peng. An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories. 1990.
    """

    def init(key: PRNGKeyArray, batch_shape: tuple[int, ...]) -> LearnerState:
        params = cell.init(key)
        return LearnerState(params, optimizer.init(params), cell.start(params, batch_shape))

    def window_loss(params: Params, h: State, xs: PyTree, targets: PyTree) -> tuple[Float[Array, ""], State]:
        h, hs = rollout(cell, params, h, xs)
        return loss(outputs(cell, params, hs), targets), h

    def update(state: LearnerState, window: tuple[PyTree, ...]) -> tuple[LearnerState, LearnerInfo]:
        (value, h), grads = jax.value_and_grad(window_loss, has_aux=True)(state.params, state.h, *window)
        return descend(optimizer, state._replace(h=h), value, grads)

    return Learner(init, update)


def batch_learner(
    init: Callable[[PRNGKeyArray], Params],
    loss: Callable[..., Float[Array, ""]],
    optimizer: optax.GradientTransformation,
) -> Learner:
    """Back-propagation through whole examples: one update after each batch, between which nothing is carried.

    Args:
        init: ``(key) -> params``.
        loss: ``(params, *batch) -> scalar``, for a batch as ``fit`` gives it: inputs, targets, lengths, a key.
        optimizer: any optax transformation.

    Example: the mean of three numbers.

    >>> import jax, jax.numpy as jnp, optax
    >>> from rnn_jax.training import batch_learner, fit
    >>> learner = batch_learner(lambda key: jnp.zeros(()), lambda p, x: (p - x) ** 2, optax.sgd(0.01))
    >>> state, info = fit(learner, learner.init(jax.random.key(0)), (jnp.tile(jnp.array([1.0, 2.0, 6.0]), 400),))
    >>> print(state.params.round(1))
    3.0
    """

    def begin(key: PRNGKeyArray, batch_shape: tuple[int, ...] = ()) -> LearnerState:
        params = init(key)
        return LearnerState(params, optimizer.init(params), h=())

    def update(state: LearnerState, batch: tuple[PyTree, ...]) -> tuple[LearnerState, LearnerInfo]:
        return descend(optimizer, state, *jax.value_and_grad(loss)(state.params, *batch))

    return Learner(begin, update)


def descend(
    optimizer: optax.GradientTransformation, state: LearnerState, loss: Float[Array, ""], grads: Params
) -> tuple[LearnerState, LearnerInfo]:
    """One step of the optimizer."""
    with jax.numpy_dtype_promotion("standard"):  # optax mixes Python and array numbers
        steps, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, steps)
    return LearnerState(params, optimizer_state, state.h), LearnerInfo(loss, optax.tree.norm(grads))


def fit(learner: Learner, state: LearnerState, windows: tuple[PyTree, ...]) -> tuple[LearnerState, LearnerInfo]:
    """Scans ``learner.update`` over windows on the device.

    Args:
        learner: what to repeat.
        state: where to begin.
        windows: ``(xs, targets)``, each with a leading axis of windows, such as ``streams`` makes.

    Returns:
        The last state, and the info of every update, stacked.
    """
    return jax.lax.scan(learner.update, state, windows)


def evaluate(cell: Cell, params: Params, loss: Callable, xs: PyTree, targets: PyTree) -> Float[Array, ""]:
    """The loss of one rollout from the start state; ``xs`` and ``targets`` have time and one batch axis leading."""
    start = cell.start(params, (jax.tree.leaves(xs)[0].shape[1],))
    _, hs = rollout(cell, params, start, xs)
    return jnp.asarray(loss(outputs(cell, params, hs), targets))
