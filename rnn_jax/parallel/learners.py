"""Training whose batch is split over the devices of a mesh, with one all-reduce an update."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnn_jax.machinery.checks import in_one_line, require_batch_shape, require_number
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.precision import is_floating, narrowed, widened
from rnn_jax.parallel.meshes import (
    AXIS,
    batch_specs,
    is_spec,
    lanes_of,
    one_copy,
    own_lanes,
    placed,
    require_axes,
    require_divisible,
    require_mesh,
)
from rnn_jax.training.descent import BatchResult, LearnerInfo, LearnerState, UpdateParts, check_params
from rnn_jax.training.learners import Learner
from rnn_jax.types import Params

__all__ = ["on_mesh", "parallel_learner"]


WHOLE, LANES, LANES_OF_STEPS = P(), P(AXIS), P(None, AXIS)
"""The layouts of arrays without lanes, ``(*batch, …)``, and ``(T, *batch, …)``."""


class Split(NamedTuple):
    """What is split over devices, and how."""

    learner: Learner
    """Of one device."""
    parts: UpdateParts
    """Of its update."""
    mesh: Mesh
    axes: PyTree
    """Of ``parallel_learner``, as are mesh and weight."""
    weight: Callable[[PyTree], Any] | str | None


@factory
def parallel_learner(
    learner: Learner,
    mesh: Mesh,
    *,
    axes: PyTree = 1,
    weight: Callable[[PyTree], Any] | str | None = None,
) -> Learner:
    """A learner whose batch is split over the devices of a mesh; up to rounding, its numbers are those of one device.

    Each device computes the loss and the gradient of its own lanes, and keeps their states. Gradient, loss and flags
    are one vector, which is summed over the devices by one all-reduce an update. Everything after it, such as clipping
    and the step of the optimizer, is the same on every device. (If a whole batch is given to ``jit`` instead, the
    compiler puts an all-reduce into the loop back through time: one a step.)

    The loss of the whole batch is the weighted mean of those of the devices. Where the loss is a mean over the lanes,
    all devices count alike. A loss ``per_step`` with a mask is a mean over the unmasked steps, of which one device may
    have more than another: there the weight is their number. ``init`` makes a state on the mesh, ``on_mesh`` places one
    that is on a single device, and ``split_batch`` places batches.

    Args:
        learner: a ``window_learner`` or ``batch_learner``.
        mesh: of ``data_mesh``.
        axes: the batch axis of each array of a batch, as in ``split_batch``: 1 for windows, whose time leads;
            ``(1, 1, 0)`` for batches of inputs, targets and lengths.
        weight: ``(batch) -> number``, what the lanes of a device count in the mean, such as
            ``lambda window: jnp.sum(window.mask)`` for a ``Window``; or "equal" for a mean over the lanes. It may be
            left out for a window without a mask.

    Raises:
        ValueError: for a learner of your own, another mesh, and axes or a weight of another kind. From ``init``,
            ``update`` and ``check``: for a batch that the devices do not divide; without weight, for a window with a
            mask, and for a ``batch_learner``, whose loss may divide by anything; for an auxiliary output that is not
            floating, as its mean over the devices is returned; and as the learner itself does.

    A loss that draws by its key alone (``keyed_loss``) is given another key on each device. A line search costs one
    more all-reduce for each value of the loss.

    >>> import optax
    >>> from rnn_jax import gru, readout
    >>> from rnn_jax.losses import squared_error
    >>> from rnn_jax.parallel import data_mesh, parallel_learner, split_batch
    >>> from rnn_jax.training import window_learner
    >>> mesh = data_mesh(jax.devices()[:1])
    >>> learner = window_learner(readout(gru(1, 4), 1), squared_error, optax.sgd(0.1))
    >>> split = parallel_learner(learner, mesh)
    >>> window, key = (jnp.ones((5, 2, 1)), jnp.zeros((5, 2, 1))), jax.random.key(0)
    >>> _, info = split.update(split.init(key, (2,)), split_batch(mesh, window))
    >>> _, alone = learner.update(learner.init(key, (2,)), window)
    >>> bool(jnp.allclose(info.loss, alone.loss))
    True
    """
    if not isinstance(learner, Learner) or learner.parts is None:
        raise ValueError("learner got one of your own; want one that window_learner or batch_learner makes")
    require_mesh(mesh)
    require_axes(axes)
    if not (weight is None or callable(weight) or (isinstance(weight, str) and weight == "equal")):
        raise ValueError(f"weight got {in_one_line(weight)}; want a function, (batch) -> number, or 'equal'")
    split = Split(learner, learner.parts, mesh, axes, weight)
    return Learner(partial(init_on_mesh, split), partial(update_on_mesh, split), partial(check_on_mesh, split))


def init_on_mesh(split: Split, key: PRNGKeyArray, batch_shape: tuple[int, ...] = ()) -> LearnerState:
    """The state before the first update, on the devices."""
    require_batch_shape(batch_shape)
    make = partial(split.learner.init, batch_shape=batch_shape)
    state = jax.eval_shape(make, key)
    check_lanes_of_state(split.mesh, state)
    layouts = jax.tree.map(partial(NamedSharding, split.mesh), state_specs(state), is_leaf=is_spec)
    return jax.jit(make, out_shardings=layouts)(key)


def update_on_mesh(split: Split, state: LearnerState, batch: PyTree) -> tuple[LearnerState, LearnerInfo]:
    """The state after one update, and its measurements."""
    check_params(state.params)
    split.parts.check(with_one_copy(state), own_lanes(batch))
    return updated(split, state, batch)


@compiled("split")
def updated(split: Split, state: LearnerState, batch: PyTree) -> tuple[LearnerState, LearnerInfo]:
    """``update_on_mesh`` without its checks of numbers."""
    of_batch = batch_specs(batch, split.axes)
    check_layout(split, state, batch, of_batch)
    drawn, specs = split.parts.draw(state, batch), state_specs(state)
    of_drawn = split.parts.layout_of_drawn(of_batch, LANES_OF_STEPS)
    if split.weight is None and not split.parts.has_equal_examples(drawn):
        raise ValueError(
            "weight got None for a loss that may be no mean over the lanes, such as one with a mask; want a function, "
            "(batch) -> number, such as its unmasked steps, or 'equal'"
        )
    of_info: Any = [WHOLE] * len(LearnerInfo._fields)
    of_info = LearnerInfo(*of_info)._replace(lag_profile=LANES_OF_STEPS)
    on_devices: Any = partial(jax.shard_map, mesh=split.mesh, check_vma=False)
    on_devices = on_devices(partial(part_of_update, split), in_specs=(specs, of_drawn), out_specs=(specs, of_info))
    try:
        return on_devices(state, drawn)
    except (TypeError, ValueError) as error:
        fault = error
    jax.eval_shape(lambda: split.parts.measure(state, drawn).loss)  # whose error names the sizes of the whole batch
    raise fault


def part_of_update(split: Split, state: LearnerState, drawn: PyTree) -> tuple[LearnerState, LearnerInfo]:
    """The update on one device, from its own lanes."""
    own, parts = state, split.parts
    if parts.keyed_loss:
        own = state._replace(key=jax.random.fold_in(state.key, jax.lax.axis_index(AXIS)))
    counts = jnp.asarray(1.0) if not callable(split.weight) else one_number(split.weight(drawn))
    return parts.apply(state, of_whole_batch(parts.measure(own, drawn), counts.astype(jnp.float32)))


def one_number(weight: Any) -> Array:
    """The weight of a device as an array; a ValueError unless it is one real number."""
    if hasattr(weight, "shape") and weight.shape != ():
        raise ValueError(f"weight got a function that returns shape {weight.shape}; want one number of all lanes")
    wanted = "a function that returns one number, such as jnp.sum(window.mask)"
    require_number("weight", weight, lambda counts: counts >= 0, wanted, may_be_traced=True)
    return jnp.asarray(weight)


def check_lanes_of_state(mesh: Mesh, state: LearnerState) -> None:
    """Raises a ValueError unless the devices divide the lanes of a state, if it has any or carries anything."""
    if state.fresh.ndim:
        require_divisible(mesh, state.fresh.shape[0])
    elif jax.tree.leaves(state.h):
        raise ValueError(f"batch_shape got (); want the lanes that are split over devices, such as ({mesh.size},)")


def check_layout(split: Split, state: LearnerState, batch: PyTree, of_batch: PyTree) -> None:
    """Raises a ValueError unless the devices divide the lanes of state and batch, which are the same."""
    check_lanes_of_state(split.mesh, state)
    lanes = lanes_of(batch, of_batch)
    for number in lanes:
        require_divisible(split.mesh, number, "batch", " lanes")
    if lanes and state.fresh.ndim and lanes[0] != state.fresh.shape[0]:
        raise ValueError(f"batch got {lanes[0]} lanes, the state {state.fresh.shape[0]}; want the same")


def check_on_mesh(split: Split, state: LearnerState, batches: PyTree) -> None:
    """Raises a ValueError for a stack of batches that are wrong in the lanes of this process."""
    split.learner.check(with_one_copy(state), own_lanes(batches))


def with_one_copy(state: LearnerState) -> LearnerState:
    """A state whose params this process can read alone."""
    return state._replace(params=one_copy(state.params))


def on_mesh(mesh: Mesh, state: LearnerState) -> LearnerState:
    """A state of training on the devices of a mesh, from one that every process has whole, such as a checkpoint.

    Args:
        mesh: of ``data_mesh``, with any number of devices that divides the lanes.
        state: the same in every process.

    Raises:
        ValueError: for lanes that the devices do not divide.
    """
    require_mesh(mesh)
    if not isinstance(state, LearnerState):
        raise ValueError(f"state got {type(state).__name__}; want a LearnerState, such as learner.init makes")
    check_lanes_of_state(mesh, state)
    return placed(mesh, state, state_specs(state))


def state_specs(state: LearnerState) -> LearnerState:
    """The layout of each part of a state: lanes are split, everything else is whole on every device."""
    whole: Any = WHOLE
    lanes: Any = LANES if state.fresh.ndim else WHOLE
    specs = LearnerState(whole, whole, lanes, lanes, whole, whole, whole)
    return jax.tree.map(lambda spec, part: jax.tree.map(lambda _: spec, part), specs, state, is_leaf=is_spec)


def of_whole_batch(result: BatchResult, counts: Float[Array, ""]) -> BatchResult:
    """The result of the whole batch from those of the devices, by one all-reduce.

    Loss, gradient and auxiliary output are means over the devices; flags count where one device has them.

    Args:
        result: of the lanes of this device.
        counts: the weight of this device in the means.
    """
    for a in jax.tree.leaves(result.aux):
        if not is_floating(a):
            raise ValueError(f"aux got {a.dtype}; want floating arrays, whose means over the devices are returned")
    measured = result.loss, result.grads, result.aux
    broken = jnp.zeros(2, bool) if result.out_of_vocabulary is None else result.out_of_vocabulary
    flags = [jnp.append(broken, ~jnp.asarray(result.whole)), counts]
    means, (flags, total) = mean_over_devices(measured, flags, counts)
    loss, grads, aux = means

    def log_of_share(log_norms: Array) -> Array:
        return log_norms + jnp.log(counts / total).astype(log_norms.dtype)

    return result._replace(
        loss=loss,
        grads=grads,
        aux=aux,
        whole=flags[2] == 0,
        out_of_vocabulary=None if result.out_of_vocabulary is None else flags[:2] > 0,
        loss_of=whole_loss(result.loss_of, counts),
        lag_profile=jax.tree.map(log_of_share, result.lag_profile),
    )


def mean_over_devices(tree: PyTree, others: PyTree, counts: Float[Array, ""]) -> tuple[PyTree, PyTree]:
    """The weighted means over the devices of a tree, and the sums of other numbers, by one all-reduce."""
    with jax.numpy_dtype_promotion("standard"):
        weighted = jax.tree.map(lambda a: a * counts.astype(a.dtype), widened(tree))
        numbers = jax.tree.map(lambda a: jnp.asarray(a).astype(jnp.float32), others)
        vector, unravel = ravel_pytree((weighted, numbers, counts))
        sums, numbers, total = unravel(jax.lax.psum(vector, AXIS))
    total = jnp.maximum(total, jnp.finfo(total.dtype).tiny)
    return narrowed(jax.tree.map(lambda a: a / total.astype(a.dtype), sums), tree), numbers


def whole_loss(
    loss_of: Callable[[Params], Float[Array, ""]], counts: Float[Array, ""]
) -> Callable[[Params], Float[Array, ""]]:
    """The loss of the whole batch as a function of the params, with its gradient; each needs one all-reduce."""

    @jax.custom_vjp
    def loss(params: Params) -> Float[Array, ""]:
        return mean_over_devices(loss_of(params), (), counts)[0]

    def forward(params: Params) -> tuple[Float[Array, ""], Params]:
        return mean_over_devices(jax.value_and_grad(loss_of)(params), (), counts)[0]

    def backward(grads: Params, to_loss: Float[Array, ""]) -> tuple[Params]:
        return (jax.tree.map(lambda g: g * jnp.asarray(to_loss).astype(g.dtype), grads),)

    loss.defvjp(forward, backward)
    return loss
