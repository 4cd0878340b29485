"""How weights begin: functions ``(key, shape, dtype) -> array``, and the weights that every gated cell shares.

The vocabulary of gains: a recurrent matrix of gain g multiplies the length of a typical vector by g. In a linear
network the gradient then grows by ln g nats a step, so g = 1 is the edge between vanishing and exploding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn.initializers import zeros
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from rnn_jax.factories import factory
from rnn_jax.types import Initializer

__all__ = [
    "chrono",
    "gate_weights",
    "identity",
    "orthogonal",
    "per_gate",
    "ring",
    "scaled_normal",
    "torch_uniform",
    "zeros",
]


@factory
def orthogonal(gain: float = 1.0) -> Initializer:
    """W = g·Q with Q orthogonal: every vector's length is multiplied by exactly g.

    Reference: Saxe, McClelland, Ganguli. Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks. 2014.
    """

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
        factored = dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32  # QR exists from float32 upwards
        return jax.nn.initializers.orthogonal(gain)(key, shape, factored).astype(dtype)

    return init


@factory
def identity(gain: float = 1.0) -> Initializer:
    """W = g·I: with ReLU and g = 1, the IRNN, which copies its state when nothing comes in.

    Raises:
        ValueError: when the shape is not square.

    Reference: Le, Jaitly, Hinton. A simple way to initialize recurrent networks of rectified linear units. 2015.
    """

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"identity got shape {shape}; want a square matrix: use it for W_hh, or scaled_normal()")
        return jnp.asarray(gain, dtype) * jnp.eye(shape[0], dtype=dtype)

    return init


@factory
def scaled_normal(gain: float = 1.0) -> Initializer:
    """W_ij ~ N(0, g²/fan_in), fan_in the leading axis: a square matrix multiplies lengths by g on average.

    With ReLU, which drops half of the square, the edge is at g = √2.

    Reference: He, Zhang, Ren, Sun. Delving deep into rectifiers. 2015.
    """

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
        return jnp.asarray(gain / shape[0] ** 0.5, dtype) * jax.random.normal(key, shape, dtype)

    return init


@factory
def torch_uniform() -> Initializer:
    """W_ij ~ U(−1/√H, 1/√H), H the last axis: how PyTorch begins every weight and bias of its recurrent layers.

    (Not those of its linear layers, whose bound is 1/√fan_in.) The recurrent gain is 1/√3 ≈ 0.58, so a tanh network
    begins by losing more than half a nat of gradient a step.
    """

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
        bound = shape[-1] ** -0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@factory
def chrono(max_lag: float) -> Initializer:
    """b ~ ln U(1, max_lag − 1): biases under which retention times are spread over 1 … max_lag steps.

    Args:
        max_lag: the longest dependency expected, in steps; more than 2.

    Raises:
        ValueError: when max_lag is 2 or less.

    Reference: Tallec, Ollivier. Can recurrent neural networks warp time? 2018.
    """
    if max_lag <= 2:
        raise ValueError(f"chrono got max_lag {max_lag}; want more than 2 steps, for example the sequence length")

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
        return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, max_lag - 1.0))

    return init


@factory
def ring(r_min: float, r_max: float, max_phase: float = 2 * jnp.pi) -> Callable[..., tuple[Array, Array]]:
    """λ = exp(−exp(log ν) + i·exp(log θ)) spread evenly over the area of a ring of the complex plane.

    |λ|² ~ U(r_min², r_max²) and arg λ ~ U(0, max_phase).

    Returns:
        ``(key, size, dtype) -> (log ν, log θ)``, both ``(size,)``.

    Raises:
        ValueError: when the radii are not 0 ≤ r_min < r_max < 1, or max_phase is not in (0, 2π].

    Reference: Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu, De. Resurrecting recurrent neural networks for long
    sequences. 2023.
    """
    if not 0 <= r_min < r_max < 1:
        raise ValueError(
            f"ring got r_min {r_min}, r_max {r_max}; want 0 ≤ r_min < r_max < 1, for example 0.9 and 0.999"
        )
    if not 0 < max_phase <= 2 * jnp.pi:
        raise ValueError(f"ring got max_phase {max_phase}; want an angle above 0 and at most 2π")

    def init(key: PRNGKeyArray, size: int, dtype: DTypeLike = float) -> tuple[Array, Array]:
        k_nu, k_theta = jax.random.split(key)
        tiny = jnp.finfo(dtype).tiny  # ln 0 is no number
        square = jax.random.uniform(k_nu, (size,), dtype, max(r_min**2, tiny), r_max**2)
        theta = jax.random.uniform(k_theta, (size,), dtype, tiny, max_phase)
        return jnp.log(-0.5 * jnp.log(square)), jnp.log(theta)

    return init


@factory
def per_gate(initializer: Initializer, gates: int) -> Initializer:
    """Draws each of the G blocks ``(…, H)`` of ``(…, G·H)`` on its own, so each gate is orthogonal by itself."""

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
        block = (*shape[:-1], shape[-1] // gates)
        blocks = jax.vmap(lambda k: initializer(k, block, dtype))(jax.random.split(key, gates))
        return jnp.moveaxis(blocks, 0, -2).reshape(shape)

    return init


def gate_weights(
    key: PRNGKeyArray,
    input_size: int,
    hidden_size: int,
    gates: int,
    *,
    input_init: Initializer,
    recurrent_init: Initializer,
    bias_init: Initializer,
    dtype: DTypeLike,
) -> tuple[Float[Array, "I GH"], Float[Array, "H GH"], Float[Array, " GH"]]:
    """Draws ``W_xh (I, G·H)``, ``W_hh (H, G·H)`` and ``b_h (G·H,)``, gate by gate."""
    k_x, k_h, k_b = jax.random.split(key, 3)
    width = gates * hidden_size
    return (
        per_gate(input_init, gates)(k_x, (input_size, width), dtype),
        per_gate(recurrent_init, gates)(k_h, (hidden_size, width), dtype),
        per_gate(bias_init, gates)(k_b, (width,), dtype),
    )
