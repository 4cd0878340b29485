"""Gradients with respect to every state from the backward pass of training itself, by probes of each state."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rnn_jax.diagnostics.lag import together
from rnn_jax.diagnostics.states import layout_of, recurrent_parts
from rnn_jax.keys import unkey
from rnn_jax.machinery.checks import is_whole, require_number
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.sharding import varying_axes, varying_over
from rnn_jax.schedules.driver import batch_shape
from rnn_jax.types import Cell, Keyed, Params, State

__all__ = ["log_norms_of_probes", "probed", "with_probes", "zero_probes"]


@factory
def probed(cell: Cell) -> Cell:
    """The same cell with probes: its inputs are ``(x, d)``, where d = 0 stands for a change of the state after a step.

    The results are those of the cell itself, whatever d is. The gradient with respect to d is that of a d which is
    added to the state, ∂L/∂state_t: the adjoint that back-propagation computes anyway.

    Args:
        cell: any cell; one that draws is given ``Keyed((x, d), key)``.

    Example: the gradient of the last state of a linear network that halves its state.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import rollout, vanilla
    >>> cell = vanilla(1, 1, activation="linear")
    >>> params = cell.init(jax.random.key(0))._replace(W_hh=jnp.full((1, 1), 0.5))
    >>> xs, h0 = jnp.ones((4, 1)), cell.start(params)
    >>> last = lambda d: rollout(probed(cell), params, h0, with_probes(xs, d))[0].sum()
    >>> print(jax.grad(last)(zero_probes(h0, 4))[:, 0])
    [0.125 0.25  0.5   1.   ]
    """

    def split(x: PyTree) -> tuple[PyTree, State]:
        pair, key = unkey(x)
        x, d = pair
        return (x if key is None else Keyed(x, key)), d

    def project(params: Params, x: PyTree) -> PyTree:
        x, d = split(x)
        return cell.project(params, x), d

    def advance(params: Params, h: State, u: PyTree) -> State:
        u, d = u
        return jax.tree.map(with_gradient_to, cell.advance(params, h, u), d)

    def coefficients(params: Params, u: PyTree) -> tuple[PyTree, PyTree]:
        u, d = u
        a, b = cell.coefficients(params, u)  # type: ignore[misc]
        return a, jax.tree.map(with_gradient_to, b, d)

    of_linear = None if cell.coefficients is None else coefficients
    return cell._replace(project=project, advance=advance, coefficients=of_linear)


@jax.custom_jvp
def with_gradient_to(a: Array, d: Array) -> Array:
    """a in the shape of d, with the derivative of a + d: d itself is never read."""
    return jnp.broadcast_to(a, d.shape)


@with_gradient_to.defjvp
def _with_gradient_to_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return with_gradient_to(*primals), tangents[0] + tangents[1]


def with_probes(xs: PyTree, probes: State) -> PyTree:
    """The inputs of a ``probed`` cell.

    Args:
        xs: inputs, ``(T, *batch, …)``, with or without keys.
        probes: ``(T, *batch, …)``, each part like the state.
    """
    x, keys = unkey(xs)
    return (x, probes) if keys is None else Keyed((x, probes), keys)


def zero_probes(h: State, steps: int, *, beside: PyTree = ()) -> State:
    """Probes of zero for so many steps, ``(steps, *batch, …)``, like a state ``h``.

    Args:
        h: a state, with its batch axes.
        steps: number of steps.
        beside: what the states are computed from, under ``shard_map``: each device has separate probes of the states
            that differ between devices.

    Raises:
        ValueError: for steps below 0.
    """
    require_number("steps", steps, lambda n: is_whole(n) and n >= 0, "a whole number of steps, 0 or more")
    zeros = jax.tree.map(lambda a: jnp.broadcast_to(jnp.zeros_like(a), (steps, *a.shape)), h)
    return varying_over(zeros, varying_axes((h, beside)))


def log_norms_of_probes(cell: Cell, params: Params, xs: PyTree, gradients: State) -> Float[Array, "T *batch"]:
    """ln‖∂L/∂state‖ of each lag k = 0 … T − 1, from the gradients of T probes: that of the last step comes first.

    The probe of a masked step is not added to the state, which is held there: its norm is −∞. So is a norm that the
    backward pass of training cannot hold, in float32 below e^−87: ``lag_gradients`` measures such norms.

    Args:
        cell, params: the cell without probes, and its weights.
        xs: the inputs without probes, ``(T, *batch, …)``, of which only shapes and types are used.
        gradients: with respect to probes, ``(T, *batch, …)``.
    """
    h, x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (gradients, xs))
    layout_of(cell, params, h)
    batch_ndim = len(batch_shape(cell, params, h))

    def log_norm(part: Array) -> Array:  # a product, a sum and a division: exponents of each number would cost more
        a = jnp.abs(widened(part))
        a = a.reshape(*a.shape[: 1 + batch_ndim], math.prod(a.shape[1 + batch_ndim :]))
        largest = jnp.max(a, axis=-1, keepdims=True, initial=0)  # squares of small numbers would underflow
        square = jnp.sum(jnp.square(a / jnp.where(largest == 0, 1, largest)), axis=-1)
        return jnp.log(largest[..., 0]) + 0.5 * jnp.log(square)

    parts = list(map(log_norm, jax.tree.leaves(gradients)))
    return together(parts, recurrent_parts(cell, params, h, x))[::-1]
