"""Linear recurrences with a diagonal matrix, whose eigenvalues give their memory."""

import math
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Num, PRNGKeyArray

from rnn_jax.cells.affine import broadcast_along, product, project_input
from rnn_jax.cells.binding import InputInits, bind_input, zeros_before
from rnn_jax.initializers import StateReader, ring, scaled_normal
from rnn_jax.machinery.checks import require_dtype, require_positive
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.types import Cell, ComplexState, Initializer, with_coefficients

__all__ = ["DiagonalParams", "LRUParams", "diagonal", "lru"]


class DiagonalParams(NamedTuple):
    """The weights of a real diagonal recurrence."""

    W_xh: Float[Array, "I H"]
    b_h: Float[Array, " H"]
    log_nu: Float[Array, " H"]
    """λ = exp(−exp(log_nu)), so that 0 < λ < 1 for any log_nu; only rounding makes λ itself a 1, see ``decay``."""

    __repr__ = repr_of_arrays


class LRUParams(NamedTuple):
    """The weights of a linear recurrent unit; W_xh is B, its real parts first, and C_re + i·C_im reads the state."""

    W_xh: Float[Array, "I 2*H"]
    log_nu: Float[Array, " H"]
    """|λ| = exp(−exp(log_nu)), so that |λ| < 1 for any log_nu, except for rounding; see ``decay``."""
    log_theta: Float[Array, " H"]
    """arg λ = exp(log_theta), in radians a step."""
    log_gamma: Float[Array, " H"]
    """γ, by which the input is scaled."""
    C_re: Float[Array, "H O"]
    C_im: Float[Array, "H O"]

    __repr__ = repr_of_arrays


def decay(log_nu: Float[Array, " H"]) -> tuple[Float[Array, " H"], Float[Array, " H"]]:
    """λ = exp(−ν) and √(1 − λ²) of ν = exp(log ν), exact however near λ is to 1, and so are their gradients.

    The second comes from ν, as 1 − λ² of a rounded λ would be 0 with an infinite gradient.

    >>> λ, scale = decay(jnp.array([-40.0, 0.0, 100.0]))
    >>> print(scale)
    [2.9149...e-09 9.2987...e-01 1.0000...e+00]
    """
    info = jnp.finfo(log_nu.dtype)
    small = log_nu < math.log(info.eps)  # 1 − λ² = 2ν to rounding
    nu = jnp.exp(jnp.minimum(log_nu, math.log(-math.log(info.tiny))))  # beyond, λ is the smallest number there is
    of_small = math.sqrt(2) * jnp.exp(0.5 * jnp.where(small, log_nu, 0))
    return jnp.exp(-nu), jnp.where(small, of_small, jnp.sqrt(-jnp.expm1(-2 * jnp.where(small, 1, nu))))


def diagonal_coefficients(
    params: DiagonalParams, u: Float[Array, "*batch H"]
) -> tuple[Float[Array, "*batch H"], Float[Array, "*batch H"]]:
    """h_t = λ ⊙ h_{t−1} + √(1 − λ²) ⊙ u_t, with u_t = W_xh x_t + b_h."""
    a, scale = (broadcast_along(part, u.shape) for part in decay(params.log_nu))
    return a, scale * u


def lru_coefficients(params: LRUParams, u: Float[Array, "*batch GH"]) -> tuple[ComplexState, ComplexState]:
    """h_t = λ ⊙ h_{t−1} + γ ⊙ u_t in complex numbers, with u_t = B x_t.

    λ = exp(−exp(log ν) + i·exp(log θ))
    y_t = Re(C h_t)
    """
    (size, _), angle = decay(params.log_nu), jnp.exp(params.log_theta)
    gamma = jnp.exp(params.log_gamma)
    re, im = jnp.split(u, 2, axis=-1)
    a = ComplexState(size * jnp.cos(angle), size * jnp.sin(angle))
    return (
        ComplexState(*(broadcast_along(part, re.shape) for part in a)),
        ComplexState(*(broadcast_along(gamma, re.shape) * part for part in (re, im))),
    )


@factory
def diagonal(
    input_size: int,
    hidden_size: int,
    *,
    r_min: float = 0.9,
    r_max: float = 0.999,
    **inits: Unpack[InputInits],
) -> Cell:
    """A leaky average of the input in every unit; the equations stand at ``diagonal_coefficients``.

    Args:
        input_size: I, features of x_t, or the number of ids, for which ``input_init=unit_normal()`` is right.
        hidden_size: H, units of h_t.
        r_min, r_max: λ begins between them, spread as in ``ring``.
        inits: ``input_init``, ``bias_init`` and ``dtype``.

    Raises:
        ValueError: for a size below 1, or radii that are not 0 ≤ r_min < r_max < 1.

    Reference: Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu, De. Resurrecting recurrent neural networks for long
    sequences. 2023; with real eigenvalues.
    """
    draw = ring(r_min, r_max)
    cell = bind_input(dict, 1, input_size, hidden_size, **inits)

    def init(key: PRNGKeyArray) -> DiagonalParams:
        k_cell, k_ring = jax.random.split(key)
        read = cell.init(k_cell)
        log_nu, _ = draw(k_ring, hidden_size, read["b_h"].dtype)
        return DiagonalParams(**read, log_nu=log_nu)

    return with_coefficients(cell._replace(init=init), diagonal_coefficients)


@factory
def lru(
    input_size: int,
    hidden_size: int,
    *,
    output_size: int | None = None,
    r_min: float = 0.9,
    r_max: float = 0.999,
    max_phase: float = 2 * math.pi,
    input_init: Initializer = scaled_normal(2**-0.5),
    readout_init: Initializer = scaled_normal(),
    dtype: DTypeLike = float,
) -> Cell:
    """The linear recurrent unit, complex and diagonal; the equations stand at ``lru_coefficients``.

    The state is ``ComplexState(re, im)``, two real arrays: it exists in every floating type, and gradients stay real.
    The paper's skip D ⊙ x_t is a combinator of any cell: ``diagonal_skip``.

    Args:
        input_size: I, features of x_t, or the number of ids, for which ``input_init=unit_normal()`` is right.
        hidden_size: H, complex units of h_t.
        output_size: O, features of y_t; H without it.
        r_min, r_max, max_phase: λ begins uniformly in this ring, 0 ≤ arg λ < max_phase radians a step.
        input_init, readout_init: how the parts of B ``(I, H)`` and C ``(H, O)`` begin.
        dtype: of the params and of the parts of the state.

    Raises:
        ValueError: for a size below 1, or radii that are not 0 ≤ r_min < r_max < 1.

    Reference: Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu, De. Resurrecting recurrent neural networks for long
    sequences. 2023.
    """
    output_size = hidden_size if output_size is None else output_size
    require_positive(input_size=input_size, hidden_size=hidden_size, output_size=output_size)
    require_dtype(dtype)
    draw = ring(r_min, r_max, max_phase)

    def init(key: PRNGKeyArray) -> LRUParams:
        k_ring, k_re, k_im, k_C, k_D = jax.random.split(key, 5)
        B = [input_init(k, (input_size, hidden_size), dtype) for k in (k_re, k_im)]
        C_re, C_im = (readout_init(k, StateReader(hidden_size, output_size), dtype) for k in (k_C, k_D))
        log_nu, log_theta = draw(k_ring, hidden_size, dtype)
        log_gamma = jnp.log(decay(log_nu)[1])  # γ² = 1 − |λ|²
        return LRUParams(jnp.concatenate(B, axis=-1), log_nu, log_theta, log_gamma, C_re, C_im)

    def start(params: LRUParams, batch_shape: tuple[int, ...] = ()) -> ComplexState:
        return ComplexState(*(zeros_before(params, batch_shape, hidden_size) for _ in range(2)))

    def project(params: LRUParams, x: Num[Array, "..."]) -> Float[Array, "*batch GH"]:
        return project_input(x, params.W_xh, jnp.zeros_like(params.W_xh[0]))

    def output(params: LRUParams, h: ComplexState) -> Float[Array, "*batch O"]:
        return product(h.re, params.C_re) - product(h.im, params.C_im)

    read = Cell(init, start, project, advance=lambda params, h, u: h, output=output)
    return with_coefficients(read, lru_coefficients)
