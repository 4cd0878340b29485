"""The vanilla recurrent network, and the one whose units read only their own state."""

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax.nn.initializers import uniform
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from rnn_jax.cells.activations import Activation, activation_named
from rnn_jax.cells.affine import recurrent_product
from rnn_jax.cells.binding import Inits, InputInits, bind_cell
from rnn_jax.initializers import identity, orthogonal, scaled_normal, zeros
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.types import Cell, Initializer

__all__ = ["IndRNNParams", "VanillaParams", "indrnn", "irnn", "vanilla"]


class VanillaParams(NamedTuple):
    """The weights of a vanilla cell."""

    W_xh: Float[Array, "I H"]
    W_hh: Float[Array, "H H"]
    b_h: Float[Array, " H"]

    __repr__ = repr_of_arrays


class IndRNNParams(NamedTuple):
    """The weights of an IndRNN: each unit has one recurrent weight, to itself."""

    W_xh: Float[Array, "I H"]
    w_hh: Float[Array, " H"]
    b_h: Float[Array, " H"]

    __repr__ = repr_of_arrays


def vanilla_advance(
    params: VanillaParams,
    h: Float[Array, "*batch H"],
    u: Float[Array, "*batch H"],
    activation: Activation = jnp.tanh,
) -> Float[Array, "*batch H"]:
    """h_t = φ(W_hh h_{t−1} + u_t), with u_t = W_xh x_t + b_h."""
    return activation(recurrent_product(h, params.W_hh) + u)


def indrnn_advance(
    params: IndRNNParams,
    h: Float[Array, "*batch H"],
    u: Float[Array, "*batch H"],
    activation: Activation = jnp.tanh,
) -> Float[Array, "*batch H"]:
    """h_t = φ(w_hh ⊙ h_{t−1} + u_t), with u_t = W_xh x_t + b_h."""
    return activation(jnp.broadcast_to(params.w_hh, h.shape) * h + u)


@factory
def vanilla(
    input_size: int,
    hidden_size: int,
    *,
    activation: str | Activation = "tanh",
    input_init: Initializer = scaled_normal(),
    recurrent_init: Initializer = orthogonal(),
    bias_init: Initializer = zeros,
    dtype: DTypeLike = float,
) -> Cell:
    """The vanilla recurrent network, h_t = φ(W_hh h_{t−1} + W_xh x_t + b_h).

    Args:
        input_size: I, features of x_t, or the number of ids, for which ``input_init=unit_normal()`` is right.
        hidden_size: H, units of h_t.
        activation: φ, a name in ``ACTIVATIONS`` or any elementwise function; ``"linear"`` is the linear network of the
            theory.
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
    phi = activation_named(activation)
    inits = Inits(input_init=input_init, recurrent_init=recurrent_init, bias_init=bias_init, dtype=dtype)
    return bind_cell(
        VanillaParams, lambda params, h, u: vanilla_advance(params, h, u, phi), 1, input_size, hidden_size, **inits
    )


@factory
def irnn(input_size: int, hidden_size: int, **inits: Unpack[Inits]) -> Cell:
    """The IRNN: a ReLU network that begins with W_hh = I, so that it copies its state when nothing comes in.

    Reference: Le, Jaitly, Hinton. A simple way to initialize recurrent networks of rectified linear units. 2015.
    """
    return vanilla(input_size, hidden_size, activation="relu", **(Inits(recurrent_init=identity()) | inits))


@factory
def indrnn(
    input_size: int,
    hidden_size: int,
    *,
    activation: str | Activation = "relu",
    recurrent_init: Initializer = uniform(1.0),
    **inits: Unpack[InputInits],
) -> Cell:
    """The independently recurrent network: h_t = φ(w_hh ⊙ h_{t−1} + W_xh x_t + b_h).

    A unit's gradient k steps back is w^k times the φ′ of these steps, so where φ′ is at most 1, bounding |w| bounds it.
    Units mix in the next layer of a ``stack``.

    Args:
        input_size, hidden_size, activation: as in ``vanilla``.
        recurrent_init: how ``w_hh (H,)`` begins.
        inits: ``input_init``, ``bias_init`` and ``dtype``, as in ``vanilla``.

    Reference: Li, Li, Cook, Zhu, Gao. Independently recurrent neural network (IndRNN): building a longer and deeper
    RNN. 2018.
    """
    phi = activation_named(activation)
    cell = bind_cell(
        VanillaParams, lambda params, h, u: indrnn_advance(params, h, u, phi), 1, input_size, hidden_size, **inits
    )

    def init(key: PRNGKeyArray) -> IndRNNParams:
        k_cell, k_w = jax.random.split(key)
        W_xh, _, b_h = cell.init(k_cell)
        return IndRNNParams(W_xh, recurrent_init(k_w, b_h.shape, b_h.dtype), b_h)

    return cell._replace(init=init)
