"""Elementwise functions by name."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnn_jax.machinery.checks import require_finite_number, require_number
from rnn_jax.machinery.factories import factory

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "activation_named",
    "affine_activation",
    "clipped",
    "complementary",
    "elu",
    "hard_sigmoid",
    "leaky_relu",
    "scaled_tanh",
    "thresholded_relu",
    "with_complement",
]

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


def activation_named(activation: str | Activation, name: str = "activation") -> Activation:
    """The activation of this name; a function is returned unchanged.

    Args:
        activation: a name in ``ACTIVATIONS``, or any elementwise function.
        name: of the argument in an error.

    >>> activation_named("swoosh")
    Traceback (most recent call last):
    ValueError: activation got 'swoosh'; want one of tanh, relu, sigmoid, hard_sigmoid, softplus, softsign, elu,
    linear, or any function
    """
    if callable(activation):
        return activation
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"{name} got {activation!r}; want one of {known}, or any function")
    return ACTIVATIONS[activation]


def with_complement(gate_activation: Activation) -> Callable[[Array], tuple[Array, Array]]:
    """The function a ↦ (f(a), 1 − f(a)) of a gate's activation f: ``complementary`` for the sigmoid."""
    if gate_activation is jax.nn.sigmoid:
        return complementary

    def both(a: Array) -> tuple[Array, Array]:
        gate = gate_activation(a)
        return gate, 1 - gate

    return both


def lstm_activations(
    activation: str | Activation, gate_activation: str | Activation, memory_activation: str | Activation | None
) -> tuple[Activation, Activation, Activation]:
    """φ of the candidate, the activation of the gates, and ψ of the memory, which is φ where it is None."""
    phi, gate = activation_named(activation), activation_named(gate_activation, "gate_activation")
    psi = phi if memory_activation is None else activation_named(memory_activation, "memory_activation")
    return phi, gate, psi


@factory
def clipped(activation: str | Activation, bound: float) -> Activation:
    """The activation of a sum that is first clipped, a ↦ f(clip(a, −bound, bound)).

    ``clip`` of ONNX is this of the gates and of the candidate, not of the memory.

    Args:
        activation: f, a name in ``ACTIVATIONS`` or any elementwise function.
        bound: positive.

    Raises:
        ValueError: for an unknown name, or a bound that is not positive.

    >>> print(clipped("linear", 0.5)(jnp.array([-2.0, 0.25, 2.0])))
    [-0.5   0.25  0.5 ]
    """
    f = activation_named(activation)
    require_number("bound", bound, lambda c: c > 0, "a positive bound", may_be_traced=True)
    return lambda a: f(jnp.clip(a, -bound, bound))


@factory
def affine_activation(alpha: float, beta: float) -> Activation:
    """a ↦ α a + β; as every activation with numbers, a ValueError for one that is not finite."""
    require_finite_number(alpha=alpha, beta=beta)
    return lambda a: alpha * a + beta


@factory
def leaky_relu(alpha: float = 0.01) -> Activation:
    """a ↦ a where a ≥ 0, elsewhere α a.

    Reference: Maas, Hannun, Ng. Rectifier nonlinearities improve neural network acoustic models. 2013.
    """
    require_finite_number(alpha=alpha)
    return lambda a: jnp.where(a >= 0, a, alpha * a)


@factory
def thresholded_relu(alpha: float = 1.0) -> Activation:
    """a ↦ a where a > α, elsewhere 0.

    Reference: Konda, Memisevic, Krueger. Zero-bias autoencoders and the benefits of co-adapting features. 2015.
    """
    require_finite_number(alpha=alpha)
    return lambda a: jnp.where(a > alpha, a, jnp.zeros_like(a))


@factory
def scaled_tanh(alpha: float, beta: float) -> Activation:
    """a ↦ α tanh(β a).

    Reference: LeCun, Bottou, Orr, Müller. Efficient backprop. 1998.
    """
    require_finite_number(alpha=alpha, beta=beta)
    return lambda a: alpha * jnp.tanh(beta * a)


@factory
def hard_sigmoid(alpha: float = 0.2, beta: float = 0.5) -> Activation:
    """a ↦ max(0, min(1, α a + β)); the name "hard_sigmoid" is that of α = 1/6.

    Reference: Courbariaux, Bengio, David. BinaryConnect. 2015.
    """
    require_finite_number(alpha=alpha, beta=beta)
    return lambda a: jnp.clip(alpha * a + beta, 0, 1)


@factory
def elu(alpha: float = 1.0) -> Activation:
    """a ↦ a where a > 0, elsewhere α (exp(a) − 1).

    Reference: Clevert, Unterthiner, Hochreiter. Fast and accurate deep network learning by exponential linear units.
    2016.
    """
    require_finite_number(alpha=alpha)
    return lambda a: jax.nn.elu(a, alpha)
