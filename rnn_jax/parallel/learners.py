"""Training whose batch is split over the devices of a mesh, with one all-reduce an update."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnn_jax.machinery.checks import require_batch_shape
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.precision import is_floating, narrowed, widened
from rnn_jax.parallel.meshes import AXIS, batch_specs, is_spec, placed, require_divisible
from rnn_jax.training.descent import BatchResult, LearnerInfo, LearnerState, check_params
from rnn_jax.training.learners import Learner
from rnn_jax.types import Params

__all__ = ["on_mesh", "parallel_learner"]


@factory
def parallel_learner(
    learner: Learner,
    mesh: Mesh,
    *,
    axes: PyTree = 1,
    weight: Callable[[PyTree], Any] | None = None,
) -> Learner:
    """A learner whose batch is split over the devices of a mesh; up to rounding, its numbers are those of one device.

    Each device computes the loss and the gradient of its own lanes, and keeps their states. Gradient, loss and flags
    are one vector, which is summed over the devices by one all-reduce an update. Everything after it, such as clipping
    and the step of the optimizer, is the same on every device. (If a whole batch is given to ``jit`` instead, the
    compiler puts an all-reduce into the loop back through time: one a step.)

    The loss is a mean over the batch, so that of the whole batch is the mean over the devices. ``init`` makes a state
    on the mesh, ``on_mesh`` places one that is on a single device, and ``split_batch`` places batches.

    Args:
        learner: a ``window_learner`` or ``batch_learner``.
        mesh: of ``data_mesh``.
        axes: the batch axis of each array of a batch, as in ``split_batch``: 1 for windows, whose time leads;
            ``(1, 1, 0)`` for batches of inputs, targets and lengths.
        weight: ``(batch) -> number``: what the part of a device counts in the mean. By default all count alike, which
            is right for a sum over time. For a loss ``per_step`` of unmasked steps it is their number.

    Raises:
        ValueError: for a learner of your own. From ``init`` and ``update``: for a batch that the devices do not divide,
            and for an auxiliary output that is not floating, as its mean over the devices is returned.

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
    parts = learner.parts

    def init(key: PRNGKeyArray, batch_shape: tuple[int, ...] = ()) -> LearnerState:
        require_batch_shape(batch_shape)
        if batch_shape:
            require_divisible(mesh, batch_shape[0])
        make = partial(learner.init, batch_shape=batch_shape)
        specs = state_specs(jax.eval_shape(make, key))
        layouts = jax.tree.map(partial(NamedSharding, mesh), specs, is_leaf=is_spec)
        return jax.jit(make, out_shardings=layouts)(key)

    def update(state: LearnerState, batch: PyTree) -> tuple[LearnerState, LearnerInfo]:
        check_params(state.params)
        return updated((learner, mesh, axes, weight), state, batch)

    @compiled("reads")
    def updated(reads: Any, state: LearnerState, batch: PyTree) -> tuple[LearnerState, LearnerInfo]:
        batch = parts.draw(state, batch)
        specs, of_batch = state_specs(state), batch_specs(batch, axes)
        for a, spec in zip(jax.tree.leaves(batch), jax.tree.leaves(of_batch), strict=True):
            if AXIS in spec:
                require_divisible(mesh, a.shape[spec.index(AXIS)])
        of_info: Any = [P()] * len(LearnerInfo._fields)
        of_info = LearnerInfo(*of_info)._replace(lag_profile=P(None, AXIS))
        own = jax.shard_map(
            of_device, mesh=mesh, in_specs=(specs, of_batch), out_specs=(specs, of_info), check_vma=False
        )
        return own(state, batch)

    def of_device(state: LearnerState, batch: PyTree) -> tuple[LearnerState, LearnerInfo]:
        own = state
        if parts.keyed_loss:
            own = state._replace(key=jax.random.fold_in(state.key, jax.lax.axis_index(AXIS)))
        counts = jnp.asarray(1.0 if weight is None else weight(batch)).astype(jnp.float32)
        return parts.apply(state, of_whole_batch(parts.measure(own, batch), counts))

    def check(state: LearnerState, batches: PyTree) -> None:
        arrays = [a for a in jax.tree.leaves((state, batches)) if isinstance(a, jax.Array)]
        if all(isinstance(a, Tracer) or a.is_fully_addressable for a in arrays):
            learner.check(state, batches)

    return Learner(init, update, check)


def on_mesh(mesh: Mesh, state: LearnerState) -> LearnerState:
    """A state of training on the devices of a mesh, from one that every process has whole, such as a checkpoint.

    Args:
        mesh: of ``data_mesh``, with any number of devices that divides the lanes.
        state: the same in every process.
    """
    return placed(mesh, state, state_specs(state))


def state_specs(state: LearnerState) -> LearnerState:
    """The layout of each part of a state: lanes are split, everything else is whole on every device."""
    whole: Any = P()
    lanes: Any = P(AXIS) if state.fresh.ndim else P()
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
        return (jax.tree.map(lambda g: g * to_loss.astype(g.dtype), grads),)

    loss.defvjp(forward, backward)
    return loss
