"""Penalties that keep gradients from vanishing and exploding, to be added to a loss."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rnn_jax.diagnostics.lag import states_before
from rnn_jax.diagnostics.lyapunov import lyapunov_spectrum
from rnn_jax.diagnostics.scaled import ZERO, Scaled, add, map_in_bands, scaled
from rnn_jax.diagnostics.states import layout_of, recurrent_numbers, require_steps
from rnn_jax.gradients.windows import require_scalar
from rnn_jax.machinery.checks import require_positive
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.sharding import laid_out, scan
from rnn_jax.schedules.driver import outputs, rollout
from rnn_jax.types import Cell, Params, State

__all__ = ["flossing", "norm_preserving"]


def flossing(cell: Cell, params: Params, h0: State, xs: PyTree, *, count: int, warmup: int = 0) -> Float[Array, ""]:
    """The penalty of gradient flossing: Σ_k λ_k² of the ``count`` largest Lyapunov exponents, a mean over the batch.

    An exponent of 0 is a direction in which the gradient keeps its size. Minimised before or during training, the
    penalty opens as many such directions. Where fewer directions than ``count`` are alive, as in a ReLU network, an
    exponent is −∞, and the penalty is ∞ without a gradient: choose a smaller count.

    Args:
        cell, params: any cell and its weights.
        h0: the state before the first step, with the batch axes of ``xs``.
        xs: ``(T, *batch, I)`` or ids; the task's inputs.
        count: number of exponents, at most the numbers in the recurrent parts of the state.
        warmup: steps before the exponents are measured; ``lyapunov_spectrum`` leaves out a fifth of T instead.

    Raises:
        ValueError: as ``lyapunov_spectrum``.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import initializers, vanilla
    >>> cell = vanilla(2, 8, activation="linear", recurrent_init=initializers.orthogonal(0.5))
    >>> params = cell.init(jax.random.key(0))
    >>> print(flossing(cell, params, cell.start(params), jnp.ones((20, 2)), count=3).round(4))  # 3 (ln ½)²
    1.4414

    Reference: Engelken. Gradient flossing: improving gradient descent through dynamic control of Jacobians. 2023.
    """
    require_positive(count=count)
    exponents = lyapunov_spectrum(cell, params, h0, xs, count=count, warmup=warmup).exponents
    return jnp.mean(jnp.sum(jnp.square(exponents), axis=0))


def norm_preserving(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Callable[[PyTree, PyTree], Float[Array, ""]],
) -> Float[Array, ""]:
    """The penalty Ω = Σ_t (‖J_tᵀ a_t‖/‖a_t‖ − 1)², where a_t = ∂L/∂state_t: no step should change the gradient's size.

    As in the paper, only the Jacobians depend on the params: states and adjoints a_t count as constants, so the
    gradient of Ω costs about as much as that of the loss. It is a mean over the batch, of the recurrent parts of the
    state; steps at which an example has no gradient do not count.

    Args:
        cell, params: any cell and its weights.
        h0: the state before the first step, with the batch axes of ``xs``.
        xs: ``(T, *batch, I)`` or ids.
        targets: of each step, any pytree with time leading.
        loss: ``(ys, targets) -> scalar``.

    Raises:
        ValueError: for a layer, a state that is not floating, a loss that is not a scalar, or arguments that do not
            fit.

    A linear network that halves its gradient at each of 4 steps back from the last state.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import initializers, vanilla
    >>> cell = vanilla(2, 8, activation="linear", recurrent_init=initializers.orthogonal(0.5))
    >>> params = cell.init(jax.random.key(0))
    >>> last = lambda ys, _: ys[-1].sum()
    >>> print(norm_preserving(cell, params, cell.start(params), jnp.ones((5, 2)), (), last).round(4))  # 4 (½ − 1)²
    1.0

    Reference: Pascanu, Mikolov, Bengio. On the difficulty of training recurrent neural networks. 2013.
    """
    require_steps(xs)
    layout, constant = layout_of(cell, params, h0), jax.lax.stop_gradient(params)
    h_T, hs = rollout(cell, constant, h0, xs)
    direct = layout.row(jax.grad(lambda hs: require_scalar(loss(outputs(cell, constant, hs), targets)))(hs))
    before = states_before(laid_out(h0, like=h_T), hs)
    x = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    counts = jnp.asarray(recurrent_numbers(cell, params, h0, x))

    def back(later: Scaled, now: tuple[State, PyTree, Array]) -> tuple[Scaled, Array]:
        h, x, direct = now
        adjoint = add(later, scaled(direct))
        _, pullback = jax.vjp(lambda h: cell.step(constant, h, x), h)
        earlier = map_in_bands(lambda row: layout.row(pullback(layout.state(row))[0]), adjoint, layout.maxexp // 4)
        mantissa, exponent = jnp.where(counts, adjoint.mantissa, 0), jnp.where(counts, adjoint.exponent, ZERO)
        return earlier, jnp.ldexp(mantissa, exponent - jnp.max(exponent, axis=-1, keepdims=True))

    def change(h: State, x: PyTree, row: Float[Array, "*batch S"]) -> Float[Array, "*batch"]:
        _, pullback = jax.vjp(lambda h: cell.step(params, h, x), h)
        earlier = jnp.where(counts, widened(layout.row(pullback(layout.state(row))[0])), 0)
        size = jnp.linalg.norm(row, axis=-1)
        is_zero = size == 0
        square = jnp.sum(jnp.square(earlier), axis=-1)
        ratio = jnp.sqrt(jnp.where(square == 0, 1, square)) / jnp.where(is_zero, 1, size)
        return jnp.where(is_zero, 0, jnp.square(jnp.where(square == 0, 0, ratio) - 1))

    # numbers of any size, so that a gradient which vanishes counts at every step
    sequence = jax.lax.stop_gradient((before, xs, direct))
    _, adjoints = scan(back, scaled(jnp.zeros_like(direct, shape=direct.shape[1:])), sequence, reverse=True)
    later = jax.tree.map(lambda a: a[1:], (sequence[0], xs, adjoints))
    return jnp.mean(jnp.sum(jax.vmap(change)(*later), axis=0))
