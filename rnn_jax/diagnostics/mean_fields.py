"""The mean-field theory of a vanilla network: the gradient that a gain and a bias variance give as H → ∞."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float

from rnn_jax.cells.activations import Activation, activation_named
from rnn_jax.machinery.checks import require_number
from rnn_jax.machinery.compiling import compiled

__all__ = ["MeanField", "mean_field"]

KINKS = (0.0, 3.0)
"""Arguments ±a at which the derivative of an activation in ``ACTIVATIONS`` may jump."""
EDGES = (*KINKS, 10.0, 30.0, 100.0, 1000.0, math.inf)
"""Borders of panels in a = √q z. The panels that an activation changes in are short, however large q is."""
FAR = 9.0
"""The largest |z| of the integrals: beyond it, a normal variable has a probability of 2·10⁻¹⁹."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)
"""Of Gauss's rule on [−1, 1], for one panel."""
WIDTH, POINTS = 60.0, 241
"""Fixed points are searched for ln q in [−60, 60], from a grid of so many points."""
HALVINGS = 60


class MeanField(NamedTuple):
    """The limit H → ∞ of a vanilla network at random weights."""

    q: Float[Array, "*shape"]
    """q*, the variance of a pre-activation in the long run: the largest fixed point."""
    chi: Float[Array, "*shape"]
    """χ, the factor by which one step changes the mean square of a gradient: below 1 it vanishes, above it explodes."""
    slope: Float[Array, "*shape"]
    """½ ln χ, the slope of ln‖gradient‖ against lag, in nats a step."""
    depth: Float[Array, "*shape"]
    """ξ = 1/|ln χ|, the steps in which the square of a gradient changes by a factor e; at χ = 1 it is ∞, or as large as
    rounding allows."""


def mean_field(activation: str | Activation, weight_gain: ArrayLike, bias_variance: ArrayLike = 0.0) -> MeanField:
    """The mean-field theory of h_t = φ(W h_{t−1} + u_t) with W_ij ~ N(0, σ_w²/H), and σ_b² the variance of u.

    The variance of a pre-activation is the largest solution q* of q = σ_w² E φ(√q z)² + σ_b² with z ~ N(0, 1). One step
    back multiplies the mean square of a gradient by χ = σ_w² E φ′(√q* z)².

    - q* = 0 where no q above 0 is a fixed point, such as for tanh with σ_w ≤ 1 and σ_b² = 0.
    - q* = ∞ where q grows without bound, such as for ReLU with σ_w² ≥ 2 and σ_b² > 0, or with σ_w² > 2.
    - With σ_w² = 2 and σ_b² = 0 every q is a fixed point of ReLU: the result is q* = 0. χ does not depend on q there.

    χ is the limit for q → q* in all three cases; for ReLU it is always σ_w²/2. q* is searched for between e^±60, and it
    is uncertain close to a critical gain, most of all in float32; χ is not.

    Args:
        activation: φ, a name in ``ACTIVATIONS`` or any elementwise function. Integrals of the named ones are exact to
            10⁻⁹ in float64; a function whose derivative jumps elsewhere than at 0 and ±3 has a less exact χ.
        weight_gain: σ_w, at least 0, as in ``initializers.scaled_normal(gain)``; one number, or an array of many.
        bias_variance: σ_b², the variance of W_xh x_t + b_h over units and steps, at least 0; a number or an array too.
            Both may be traced.

    Returns:
        Four arrays of the common shape, in the type ``float``. They cannot be differentiated.

    Raises:
        ValueError: for an unknown activation, or a gain or a variance that is negative or not finite.

    Example: a tanh network in the chaotic phase.

    >>> theory = mean_field("tanh", 1.5, 0.1)
    >>> print(f"q {theory.q:.4f}, chi {theory.chi:.4f}, {theory.slope:.4f} nats a step, depth {theory.depth:.1f} steps")
    q 0.9781, chi 1.0538, 0.0262 nats a step, depth 19.1 steps

    Reference: Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli. Exponential expressivity in deep neural networks through
    transient chaos. 2016; Schoenholz, Gilmer, Ganguli, Sohl-Dickstein. Deep information propagation. 2017; of recurrent
    networks: Chen, Pennington, Schoenholz. Dynamical isometry and a mean field theory of RNNs. 2018.
    """
    phi = activation_named(activation)
    for name, value in {"weight_gain": weight_gain, "bias_variance": bias_variance}.items():
        for number in [] if isinstance(value, Tracer) else np.ravel(value):
            require_number(name, number, lambda v: 0 <= v < math.inf, "finite numbers of at least 0")
    return _mean_field(phi, jnp.asarray(weight_gain, float), jnp.asarray(bias_variance, float))


@compiled("phi")
def _mean_field(phi: Activation, weight_gain: Float[Array, "..."], bias_variance: Float[Array, "..."]) -> MeanField:
    return jnp.vectorize(partial(_at_point, phi))(weight_gain, bias_variance)


def _at_point(phi: Activation, weight_gain: Float[Array, ""], bias_variance: Float[Array, ""]) -> MeanField:
    def variance_after(q: Float[Array, ""]) -> Float[Array, ""]:
        return weight_gain**2 * gaussian_mean(lambda a: jnp.square(phi(a)), q) + bias_variance

    def square_of_slope(a: Array) -> Array:
        return jnp.square(jax.jvp(phi, (a,), (jnp.ones_like(a),))[1])

    q = largest_fixed_point(variance_after)
    chi = weight_gain**2 * gaussian_mean(square_of_slope, jnp.clip(q, math.exp(-WIDTH), math.exp(WIDTH)))
    return MeanField(q, chi, slope=0.5 * jnp.log(chi), depth=1 / jnp.abs(jnp.log(chi)))


def gaussian_mean(f: Callable[[Array], Array], q: Float[Array, ""]) -> Float[Array, ""]:
    """E f(√q z) for z ~ N(0, 1), by Gauss's rule on panels of a = √q z with borders at ``EDGES``."""
    scale = jnp.sqrt(q)
    edges = jnp.minimum(jnp.asarray(EDGES, q.dtype) / scale, FAR)[:, None]
    half = jnp.diff(edges, axis=0) / 2
    z = edges[:-1] + half * jnp.asarray(NODES + 1, q.dtype)[None]
    weight = half * jnp.asarray(WEIGHTS / math.sqrt(2 * math.pi), q.dtype)[None] * jnp.exp(-jnp.square(z) / 2)
    return jnp.sum(weight * (f(scale * z) + f(-scale * z)))


def largest_fixed_point(f: Callable[[Array], Array]) -> Float[Array, ""]:
    """The largest q with f(q) = q, by bisection of ln q; 0 where f(q) ≤ q for all q, ∞ where f(q) > q for large q."""
    grid = jnp.linspace(-WIDTH, WIDTH, POINTS)
    rounding = 100 * jnp.finfo(grid.dtype).eps

    def grows(log_q: Float[Array, ""]) -> Bool[Array, ""]:
        return f(jnp.exp(log_q)) > jnp.exp(log_q) * (1 + rounding)

    def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        up = grows(middle)
        return jnp.where(up, middle, low), jnp.where(up, high, middle)

    growing = jax.vmap(grows)(grid)
    last = jnp.max(jnp.where(growing, jnp.arange(POINTS), 0))
    low, high = jax.lax.fori_loop(0, HALVINGS, halve, (grid[last], grid[jnp.minimum(last + 1, POINTS - 1)]))
    without_bound = f(jnp.exp(grid[-1])) >= jnp.exp(grid[-1]) * (1 - rounding)
    found = jnp.where(without_bound, jnp.inf, jnp.exp((low + high) / 2))
    return jnp.where(jnp.any(growing), found, 0)
