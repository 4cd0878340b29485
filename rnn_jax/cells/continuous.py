"""Recurrent networks from steps of a differential equation."""

import math
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from rnn_jax.cells.activations import Activation, activation_named
from rnn_jax.cells.affine import masked_state, product, recurrent_product
from rnn_jax.cells.binding import Inits, bind_cell
from rnn_jax.cells.simple import VanillaParams
from rnn_jax.machinery.checks import require_number
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.types import Cell

__all__ = ["CoRNNParams", "CoRNNState", "antisymmetric", "cornn", "ctrnn"]


class CoRNNParams(NamedTuple):
    """The weights of a coupled oscillatory network."""

    W_xh: Float[Array, "I H"]
    W_hh: Float[Array, "H H"]
    """From the positions."""
    b_h: Float[Array, " H"]
    W_zh: Float[Array, "H H"]
    """From the velocities."""

    __repr__ = repr_of_arrays


class CoRNNState(NamedTuple):
    """The state of a coupled oscillatory network: the positions and velocities of its oscillators."""

    h: Float[Array, "*batch H"]
    """Positions, the output, which the next layer reads; the paper's y."""
    z: Float[Array, "*batch H"]
    """Velocities, in positions a unit of time."""

    __repr__ = repr_of_arrays


def ctrnn_advance(
    params: VanillaParams,
    h: Float[Array, "*batch H"],
    u: Float[Array, "*batch H"],
    rate: float,
    activation: Activation = jnp.tanh,
) -> Float[Array, "*batch H"]:
    """h_t = (1 − α) h_{t−1} + α φ(W_hh h_{t−1} + u_t), with u_t = W_xh x_t + b_h and α = Δt/τ."""
    return (1 - rate) * h + rate * activation(recurrent_product(h, params.W_hh) + u)


def antisymmetric_advance(
    params: VanillaParams, h: Float[Array, "*batch H"], u: Float[Array, "*batch H"], step_size: float, damping: float
) -> Float[Array, "*batch H"]:
    """h_t = h_{t−1} + ε tanh((W_hh − W_hhᵀ − γI) h_{t−1} + u_t), with u_t = W_xh x_t + b_h."""
    masked, W_hh = masked_state(h, params.W_hh)
    return h + step_size * jnp.tanh(product(masked, W_hh - W_hh.T) - damping * masked + u)


def cornn_advance(
    params: CoRNNParams,
    state: CoRNNState,
    u: Float[Array, "*batch H"],
    step_size: float,
    stiffness: float,
    damping: float,
) -> CoRNNState:
    """Driven, damped oscillators: velocities first, then positions.

    z_t = z_{t−1} + Δt (tanh(W_hh h_{t−1} + W_zh z_{t−1} + u_t) − γ h_{t−1} − ε z_{t−1})
    h_t = h_{t−1} + Δt z_t,     with u_t = W_xh x_t + b_h.
    """
    h, z = state
    drive = jnp.tanh(recurrent_product(h, params.W_hh) + product(z, params.W_zh) + u)
    z = z + step_size * (drive - stiffness * h - damping * z)
    return CoRNNState(h=h + step_size * z, z=z)


@factory
def ctrnn(
    input_size: int,
    hidden_size: int,
    *,
    tau: float = 10.0,
    dt: float = 1.0,
    activation: str | Activation = "tanh",
    **inits: Unpack[Inits],
) -> Cell:
    """The continuous-time network τ ḣ = −h + φ(W_hh h + W_xh x + b_h) in Euler's steps: leaky rate units.

    Args:
        input_size: I, features of x_t, or the number of ids, for which ``input_init=unit_normal()`` is right.
        hidden_size: H, units of h_t.
        tau: τ, the time constant of all units, in the unit of dt.
        dt: Δt, the time between two steps; at most τ.
        activation: φ, a name in ``ACTIVATIONS`` or any elementwise function.
        inits: ``input_init``, ``recurrent_init``, ``bias_init`` and ``dtype``.

    Raises:
        ValueError: for a size below 1, an unknown activation, or unless 0 < dt ≤ tau.

    Reference: Jaeger, Lukoševičius, Popovici, Siewert. Optimization and applications of echo state networks with
    leaky-integrator neurons. 2007; Yang, Joglekar, Song, Newsome, Wang. Task representations in neural networks
    trained to perform many cognitive tasks. 2019.
    """
    require_time("tau", tau)
    require_time("dt", dt)
    if not any(isinstance(t, Tracer) for t in (dt, tau)) and dt > tau:
        raise ValueError(f"dt got {dt} with tau {tau}; want 0 < dt ≤ tau: a longer step overshoots")
    phi, rate = activation_named(activation), dt / tau
    return bind_cell(
        VanillaParams, lambda params, h, u: ctrnn_advance(params, h, u, rate, phi), 1, input_size, hidden_size, **inits
    )


@factory
def antisymmetric(
    input_size: int, hidden_size: int, *, step_size: float = 0.1, damping: float = 0.01, **inits: Unpack[Inits]
) -> Cell:
    """The AntisymmetricRNN; the equation stands at ``antisymmetric_advance``.

    The matrix that acts has imaginary eigenvalues, shifted by −γ, so that the equation which it steps along neither
    damps nor amplifies, up to γ. A step of Euler's method stays within O(ε) of that.

    Args:
        input_size, hidden_size, inits: as in ``ctrnn``; W_hh acts only through W_hh − W_hhᵀ.
        step_size: ε, of Euler's method; positive.
        damping: γ, the diffusion that keeps Euler's method stable; at least 0.

    Raises:
        ValueError: for a size below 1, a step_size that is not positive, or a negative damping.

    Reference: Chang, Chen, Haber, Chi. AntisymmetricRNN: a dynamical system view on recurrent neural networks. 2019.
    """
    require_physical(step_size, damping=damping)
    return bind_cell(
        VanillaParams,
        lambda params, h, u: antisymmetric_advance(params, h, u, step_size, damping),
        1,
        input_size,
        hidden_size,
        **inits,
    )


@factory
def cornn(
    input_size: int,
    hidden_size: int,
    *,
    step_size: float = 0.05,
    stiffness: float = 2.0,
    damping: float = 4.0,
    **inits: Unpack[Inits],
) -> Cell:
    """The coupled oscillatory network, its damping taken at the step before; the equations stand at ``cornn_advance``.

    Args:
        input_size, hidden_size, inits: as in ``ctrnn``.
        step_size: Δt; positive.
        stiffness: γ, the pull back to rest; at least 0.
        damping: ε, the friction; at least 0.

    Raises:
        ValueError: for a size below 1, a step_size that is not positive, a negative stiffness or damping.

    Reference: Rusch, Mishra. Coupled oscillatory recurrent neural network (coRNN): an accurate and (gradient) stable
    architecture for learning long time dependencies. 2021.
    """
    require_physical(step_size, stiffness=stiffness, damping=damping)

    def advance(params: CoRNNParams, state: CoRNNState, u: Float[Array, "*batch H"]) -> CoRNNState:
        return cornn_advance(params, state, u, step_size, stiffness, damping)

    cell = bind_cell(VanillaParams, advance, 1, input_size, hidden_size, **inits)

    def init(key: PRNGKeyArray) -> CoRNNParams:
        k_h, k_z = jax.random.split(key)
        return CoRNNParams(*cell.init(k_h), W_zh=cell.init(k_z).W_hh)

    def start(params: CoRNNParams, batch_shape: tuple[int, ...] = ()) -> CoRNNState:
        return CoRNNState(h=cell.start(params, batch_shape), z=cell.start(params, batch_shape))

    return cell._replace(init=init, start=start, output=lambda params, state: state.h)


def require_physical(step_size: float, **rates: float) -> None:
    """Raises a ValueError for a step_size that is not positive or a rate that is negative."""
    require_time("step_size", step_size)
    for name, rate in rates.items():
        require_number(name, rate, lambda r: 0 <= r < math.inf, "a number of at least 0", may_be_traced=True)


def require_time(name: str, time: float) -> None:
    """Raises a ValueError unless a time is one positive, finite number."""
    require_number(name, time, lambda t: 0 < t < math.inf, "one positive time, for example 0.1", may_be_traced=True)
