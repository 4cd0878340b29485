"""Elementwise functions by name."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

__all__ = ["ACTIVATIONS", "Activation", "activation_named", "complementary"]

Activation = Callable[[Array], Array]


@jax.custom_jvp
def complementary(a: Array) -> tuple[Array, Array]:
    """σ(a) and 1 − σ(a) = σ(−a), each exact in its own digits, and so are their gradients ±σ(a) σ(−a).

    1 − σ(a) taken from a rounded σ(a) is 0 from a = 6 on in bfloat16, from 17 on in float32: a gate that is far open at
    first would never write, and never learn to.
    """
    return jax.nn.sigmoid(a), jax.nn.sigmoid(-a)


@complementary.defjvp
def _complementary_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    gate, rest = complementary(*primals)
    change = gate * rest * tangents[0]
    return (gate, rest), (change, -change)


ACTIVATIONS: dict[str, Activation] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "elu": jax.nn.elu,
    "linear": lambda a: a,
}


def activation_named(activation: str | Activation) -> Activation:
    """The activation of this name; a function is returned unchanged.

    >>> activation_named("swoosh")
    Traceback (most recent call last):
    ValueError: activation got 'swoosh'; want one of tanh, relu, sigmoid, hard_sigmoid, softplus, softsign, elu,
    linear, or any function
    """
    if callable(activation):
        return activation
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation got {activation!r}; want one of {known}, or any function")
    return ACTIVATIONS[activation]
