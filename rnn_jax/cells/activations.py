"""Elementwise functions by name."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

Activation = Callable[[Array], Array]

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
    """The activation of this name; a function is itself.

    >>> activation_named("swoosh")
    Traceback (most recent call last):
    ValueError: activation got 'swoosh'; want one of tanh, relu, sigmoid, hard_sigmoid, softplus, softsign, elu,
    linear, or any function
    """
    if callable(activation):
        return activation
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation got {activation!r}; want one of {known}, or any function")
    return ACTIVATIONS[activation]
