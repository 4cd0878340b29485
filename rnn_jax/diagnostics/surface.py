"""Slices of the loss surface through the params of a network."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnn_jax.keys import one_key
from rnn_jax.machinery.checks import require_number, require_positive
from rnn_jax.machinery.compiling import compiled
from rnn_jax.schedules.driver import describe_shapes
from rnn_jax.types import Params

__all__ = ["LossSurface", "loss_surface", "random_direction"]


class LossSurface(NamedTuple):
    """Losses L(θ + a d₁ + b d₂) on a square grid."""

    offsets: Float[Array, " N"]
    """The values of a and of b, from −radius to radius."""
    losses: Float[Array, "N N"]
    """Row i has a = offsets[i], column j has b = offsets[j]."""


def random_direction(key: PRNGKeyArray, params: Params) -> Params:
    """A random direction of params, of which each array has the norm of the array of the params.

    Args:
        key: of the random numbers.
        params: floating arrays. The direction of an array of zeros, such as a fresh bias, is zero.

    Reference: Li, Xu, Taylor, Studer, Goldstein. Visualizing the loss landscape of neural nets. 2018.
    """
    leaves, tree = jax.tree.flatten(params)

    def direction(key: PRNGKeyArray, a: Array) -> Array:
        d = jax.random.normal(key, a.shape, a.dtype)
        return d * (jnp.linalg.norm(a.ravel()) / jnp.linalg.norm(d.ravel()))

    return jax.tree.unflatten(tree, list(map(direction, jax.random.split(one_key(key), len(leaves)), leaves)))


def loss_surface(
    loss: Callable[[Params], Float[Array, ""]],
    params: Params,
    first: Params,
    second: Params,
    *,
    radius: float = 1.0,
    points: int = 41,
) -> LossSurface:
    """The loss on a plane through the params: cliffs of it are where gradients explode.

    Args:
        loss: ``(params) -> scalar``.
        params: θ, the centre.
        first, second: d₁ and d₂, like params, such as ``random_direction``.
        radius: the largest offset, positive.
        points: N of each axis; odd, if the centre is to be one of them.

    Raises:
        ValueError: for directions that are not like the params, a radius that is not positive, or points below 1.

    >>> import jax.numpy as jnp
    >>> found = loss_surface(lambda w: jnp.sum(w**2), jnp.zeros(2), jnp.array([1.0, 0]), jnp.array([0, 1.0]), points=3)
    >>> print(found.losses)
    [[2. 1. 2.]
     [1. 0. 1.]
     [2. 1. 2.]]

    Reference: Pascanu, Mikolov, Bengio. On the difficulty of training recurrent neural networks. 2013, figure 6.
    """
    require_positive(points=points)
    require_number(
        "radius",
        radius,
        lambda r: (r > 0) & (r < float("inf")),
        "a positive number, for example 1.0",
        may_be_traced=True,
    )
    for name, d in {"first": first, "second": second}.items():
        like = jax.tree.structure(d) == jax.tree.structure(params)
        if not like or [*map(jnp.shape, jax.tree.leaves(d))] != [*map(jnp.shape, jax.tree.leaves(params))]:
            raise ValueError(
                f"{name} got {describe_shapes(d)}; want a direction like the params, {describe_shapes(params)}"
            )
    value = jax.eval_shape(loss, params)
    if jnp.shape(value):
        raise ValueError(f"loss got shape {jnp.shape(value)}; want a scalar")
    offsets = jnp.linspace(-1, 1, int(points))
    return _losses(loss, params, first, second, offsets * jnp.asarray(radius, offsets.dtype))


@compiled("loss")
def _losses(
    loss: Callable[[Params], Float[Array, ""]],
    params: Params,
    first: Params,
    second: Params,
    offsets: Float[Array, " N"],
) -> LossSurface:
    """``loss_surface`` at these offsets."""

    def at(a: Array, b: Array) -> Array:
        def moved(p: Array, d: Array, e: Array) -> Array:
            return p + a.astype(p.dtype) * d + b.astype(p.dtype) * e

        return loss(jax.tree.map(moved, params, first, second))

    return LossSurface(offsets, jax.lax.map(lambda a: jax.vmap(lambda b: at(a, b))(offsets), offsets))
