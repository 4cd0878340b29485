"""The vanilla recurrent network, h_t = φ(W_hh h_{t−1} + W_xh x_t + b_h)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from rnn_jax.cells.affine import project_input
from rnn_jax.checks import require_positive
from rnn_jax.initializers import gate_weights, orthogonal, scaled_normal, zeros
from rnn_jax.types import Cell, Initializer

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "elu": jax.nn.elu,
    "linear": lambda a: a,
}


class VanillaParams(NamedTuple):
    """The weights of a vanilla cell."""

    W_xh: Float[Array, "I H"]
    W_hh: Float[Array, "H H"]
    b_h: Float[Array, " H"]


def vanilla_advance(
    params: VanillaParams,
    h: Float[Array, "*batch H"],
    u: Float[Array, "*batch H"],
    activation: Callable[[Array], Array] = jnp.tanh,
) -> Float[Array, "*batch H"]:
    """h_t = φ(W_hh h_{t−1} + u_t), with u_t = W_xh x_t + b_h."""
    return activation(h @ params.W_hh + u)


def vanilla(
    input_size: int,
    hidden_size: int,
    *,
    activation: str | Callable[[Array], Array] = "tanh",
    input_init: Initializer = scaled_normal(),
    recurrent_init: Initializer = orthogonal(),
    bias_init: Initializer = zeros,
    dtype: DTypeLike = float,
) -> Cell:
    """The vanilla recurrent network, h_t = φ(W_hh h_{t−1} + W_xh x_t + b_h).

    Args:
        input_size: I, features of x_t, or the number of ids.
        hidden_size: H, units of h_t.
        activation: φ, a name in ``ACTIVATIONS`` or any elementwise function. ``"relu"`` with
            ``recurrent_init=identity()`` is the IRNN; ``"linear"`` is the linear network of the theory.
        input_init, recurrent_init, bias_init: how ``W_xh (I, H)``, ``W_hh (H, H)`` and ``b_h (H,)`` begin.
        dtype: of the params and the state.

    Raises:
        ValueError: for a size below 1, or the name of an unknown activation.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import rollout, vanilla
    >>> cell = vanilla(input_size=3, hidden_size=5, activation="relu")
    >>> params = cell.init(jax.random.key(0))
    >>> h_T, hs = rollout(cell, params, cell.start(params, (2,)), jnp.ones((7, 2, 3)))
    >>> hs.shape
    (7, 2, 5)

    Reference: Elman. Finding structure in time. 1990.
    """
    require_positive(input_size=input_size, hidden_size=hidden_size)
    phi = activation if callable(activation) else activation_named(activation)

    def init(key: PRNGKeyArray) -> VanillaParams:
        inits = {"input_init": input_init, "recurrent_init": recurrent_init, "bias_init": bias_init}
        return VanillaParams(*gate_weights(key, input_size, hidden_size, 1, **inits, dtype=dtype))

    return Cell(
        init=init,
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, hidden_size), params.W_hh.dtype),
        project=lambda params, x: project_input(x, params.W_xh, params.b_h),
        advance=lambda params, h, u: vanilla_advance(params, h, u, phi),
        output=lambda params, h: h,
    )


def activation_named(name: str) -> Callable[[Array], Array]:
    """The activation of this name.

    >>> activation_named("swoosh")
    Traceback (most recent call last):
    ValueError: activation got 'swoosh'; want one of tanh, relu, sigmoid, softplus, elu, linear, or any function
    """
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation got {name!r}; want one of {known}, or any function")
    return ACTIVATIONS[name]
