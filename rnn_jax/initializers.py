"""Initialisers of weights: functions ``(key, shape, dtype) -> array``, and the initial weights of gated cells.

The vocabulary of gains: a recurrent matrix of gain g multiplies the length of a typical vector by g. In a linear
network the gradient then grows by ln g nats a step, so g = 1 is the edge between vanishing and exploding.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn.initializers import zeros
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from rnn_jax.machinery.checks import require_finite_number, require_number, require_positive
from rnn_jax.machinery.factories import factory
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
    "unit_normal",
    "zeros",
]


class StateReader(NamedTuple):
    """The shape ``(H, O)`` of a matrix that reads a state, W_hy or W_hp: otherwise a plain tuple, which names H."""

    hidden_size: int
    output_size: int


@factory
def orthogonal(gain: float = 1.0) -> Initializer:
    """W = g·Q with Q orthogonal: every vector's length is multiplied by exactly g.

    That holds for W (I, O) with I ≤ O, where W Wᵀ = g²·I; with I > O its columns are orthogonal, Wᵀ W = g²·I. A
    kernel ``(*kernel, I, O)`` has W in its middle and zeros around it, so that its convolution keeps lengths too.

    Args:
        gain: g, any finite number.

    Raises:
        ValueError: for a gain that is not finite, a vector, or a kernel without a middle.

    Reference: Saxe, McClelland, Ganguli. Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks. 2014; of kernels: Xiao, Bahri, Sohl-Dickstein, Schoenholz, Pennington. Dynamical isometry and a mean
    field theory of CNNs. 2018.
    """
    require_finite_number(gain=gain)

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
        matrix = matrix_of("orthogonal", shape)
        factored = at_least_float32(dtype)  # QR exists from there upwards
        return in_the_middle(jax.nn.initializers.orthogonal(gain)(key, matrix, factored).astype(dtype), shape)

    return init


@factory
def identity(gain: float = 1.0) -> Initializer:
    """W = g·I: with ReLU and g = 1, the IRNN, which copies its state when nothing comes in.

    A kernel ``(*kernel, H, H)`` has W in its middle and zeros around it.

    Args:
        gain: g, any finite number.

    Raises:
        ValueError: for a gain that is not finite, when the matrix is not square, or a kernel has no middle.

    Reference: Le, Jaitly, Hinton. A simple way to initialize recurrent networks of rectified linear units. 2015.
    """
    require_finite_number(gain=gain)

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
        rows, columns = matrix_of("identity", shape)
        if rows != columns:
            raise ValueError(f"identity got shape {shape}; want a square matrix: use it for W_hh, or scaled_normal()")
        return in_the_middle(jnp.asarray(gain, dtype) * jnp.eye(rows, dtype=dtype), shape)

    return init


def matrix_of(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The matrix ``(I, O)`` in the middle of a kernel; a ValueError for a vector or a kernel without a middle."""
    if len(shape) < 2:
        raise ValueError(f"{name} got shape {shape}; want a matrix (I, O): for a vector use scaled_normal()")
    if any(width % 2 == 0 for width in shape[:-2]):
        raise ValueError(f"{name} got shape {shape}; want a kernel of odd widths, which has a middle: scaled_normal()")
    return tuple(shape[-2:])


def in_the_middle(matrix: Array, shape: tuple[int, ...]) -> Array:
    """A kernel ``(*kernel, I, O)`` of zeros with ``matrix`` in its middle; the matrix itself without kernel axes."""
    middle = tuple(width // 2 for width in shape[:-2])
    return jnp.zeros(shape, matrix.dtype).at[middle].set(matrix) if middle else matrix


@factory
def scaled_normal(gain: float = 1.0) -> Initializer:
    """W_ij ~ N(0, g²/fan_in): a square matrix multiplies lengths by g on average.

    fan_in is how many numbers each output adds up: I of ``(I, O)``, ∏kernel·I of a kernel ``(*kernel, I, O)``, and 1 of
    a vector such as ``w_hh (H,)``, where each unit reads only its own state. With ReLU, which drops half of the square,
    the edge is at g = √2. It wants inputs of about unit variance; for ids, which are one-hot, ``unit_normal`` is right.

    Args:
        gain: g, any finite number; its sign changes nothing.

    Raises:
        ValueError: for a gain that is not finite.

    Reference: He, Zhang, Ren, Sun. Delving deep into rectifiers. 2015.
    """
    require_finite_number(gain=gain)

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
        return jnp.asarray(gain / math.prod(shape[:-1]) ** 0.5, dtype) * jax.random.normal(key, shape, dtype)

    return init


@factory
def unit_normal() -> Initializer:
    """W_ij ~ N(0, 1): the ``input_init`` of a cell that reads ids.

    An id gathers one row of ``W_xh (V, H)``, an embedding: with this initialiser the input to the gates has unit
    variance, where with ``scaled_normal``, made for inputs whose V numbers are all of about size 1, it is √V times
    smaller.

    >>> from rnn_jax import initializers, lstm
    >>> cell = lstm(input_size=65, hidden_size=128, input_init=initializers.unit_normal())
    """

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
        return jax.random.normal(key, shape, dtype)

    return init


@factory
def torch_uniform(hidden_size: int | None = None) -> Initializer:
    """W_ij ~ U(−1/√H, 1/√H): PyTorch's initialiser of all recurrent weights and biases, and of linear weights.

    The recurrent gain is 1/√3 ≈ 0.58, so a tanh network loses more than half a nat of gradient a step at first.

    Args:
        hidden_size: H. Without it H is read off the shape: the last axis of a gate's block of ``W_xh``, ``W_hh`` and
            ``b_h``, the first of a matrix that reads a state, such as ``W_hp (H, P)`` and ``W_hy (H, O)``. A readout's
            bias ``b_y (O,)`` does not show it: PyTorch's is ``torch_uniform(hidden_size)``.

    Raises:
        ValueError: for a hidden_size below 1, or a kernel, as PyTorch has no recurrent layer of convolutions.
    """
    if hidden_size is not None:
        require_positive(hidden_size=hidden_size)

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
        if hidden_size is None and (len(shape) > 2 or not shape):
            raise ValueError(f"torch_uniform got shape {shape}; want a matrix or a vector: use scaled_normal()")
        H = hidden_size or (shape.hidden_size if isinstance(shape, StateReader) else math.prod(shape[-1:]))
        return jax.random.uniform(key, shape, dtype, -(H**-0.5), H**-0.5)

    return init


@factory
def chrono(max_lag: float) -> Initializer:
    """b ~ ln U(1, max_lag − 1): biases under which retention times are spread over 1 … max_lag steps.

    Args:
        max_lag: the longest dependency expected, in steps; more than 2.

    Raises:
        ValueError: when max_lag is 2 or less, or not finite.

    Reference: Tallec, Ollivier. Can recurrent neural networks warp time? 2018.
    """
    require_number("max_lag", max_lag, lambda n: 2 < n < 1e38, "more than 2 steps, for example the sequence length")

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
        drawn = at_least_float32(dtype)  # a time of 1000 steps has few neighbours in bfloat16
        return jnp.log(jax.random.uniform(key, shape, drawn, 1.0, max_lag - 1.0)).astype(dtype)

    return init


@factory
def ring(r_min: float, r_max: float, max_phase: float = 2 * math.pi) -> Callable[..., tuple[Array, Array]]:
    """λ = exp(−exp(log ν) + i·exp(log θ)) spread evenly over the area of a ring of the complex plane.

    |λ|² ~ U(r_min², r_max²) and arg λ ~ U(0, max_phase).

    Returns:
        ``(key, size, dtype) -> (log ν, log θ)``, both ``(size,)``.

    Raises:
        ValueError: when the radii are not 0 ≤ r_min < r_max < 1, or max_phase is not in (0, 2π].

    Reference: Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu, De. Resurrecting recurrent neural networks for long
    sequences. 2023.
    """
    require_number("r_max", r_max, lambda r: 0 < r < 1, "a radius below 1, for example 0.999")
    require_number("r_min", r_min, lambda r: 0 <= r < r_max, f"0 ≤ r_min < r_max {r_max}, for example 0.9")
    require_number("max_phase", max_phase, lambda a: 0 < a <= 2 * math.pi, "an angle above 0 and at most 2π")

    def init(key: PRNGKeyArray, size: int, dtype: DTypeLike = float) -> tuple[Array, Array]:
        k_nu, k_theta = jax.random.split(key)
        drawn = at_least_float32(dtype)
        tiny = jnp.finfo(drawn).tiny  # ln 0 is no number
        # 1 − |λ|² and not |λ|², whose last digits are lost near 1
        rest = jax.random.uniform(k_nu, (size,), drawn, (1 - r_max) * (1 + r_max), (1 - r_min) * (1 + r_min))
        rest = jnp.clip(rest, tiny, 1 - jnp.finfo(drawn).epsneg)
        theta = jax.random.uniform(k_theta, (size,), drawn, tiny, max_phase)
        return jnp.log(-0.5 * jnp.log1p(-rest)).astype(dtype), jnp.log(theta).astype(dtype)

    return init


def at_least_float32(dtype: DTypeLike) -> DTypeLike:
    """The type to draw in: half precision has too few numbers."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


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
