"""The Jacobian of one step, with respect to the parts of the state on which later states depend."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Var
from jaxtyping import Array, Float, PyTree

from rnn_jax.diagnostics.scaled import norm_of
from rnn_jax.diagnostics.states import layout_of, recurrent_numbers, require_one_step
from rnn_jax.machinery.checks import require_number
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.programs import apply_equation, dependent, equations_of, is_variable, run, type_of, values_of
from rnn_jax.schedules.driver import batch_shape
from rnn_jax.types import Cell, Params, State

__all__ = ["JacobianNumbers", "jacobian_numbers", "leading_gain", "saturation", "step_jacobian"]


class JacobianNumbers(NamedTuple):
    """Properties of the Jacobian J = ∂state_t/∂state_{t−1} of one step."""

    gain: Float[Array, ""]
    """The largest singular value, as ``leading_gain``: the largest factor of one step."""
    radius: Float[Array, ""]
    """The spectral radius, the largest |λ|: the factor a step that many equal steps approach."""
    log_abs_det: Float[Array, ""]
    """ln|det J|, the sum of the logarithms of all singular values; −∞ where a direction is lost."""
    non_normality: Float[Array, ""]
    """Henrici's departure from normality relative to J, √(‖J‖² − Σ|λ|²)/‖J‖ with Frobenius norms, in [0, 1]: 0 if J is
    normal, so that its gain equals its radius; 1 if all eigenvalues are 0. As a difference of squares, it has an error
    of about √ε where it is close to 0: 10⁻³ in float32, 10⁻⁷ in float64."""


@compiled("cell")
def step_jacobian(cell: Cell, params: Params, h: State, x: PyTree) -> Float[Array, "S S"]:
    """∂state_t/∂state_{t−1} for one example: row i is the gradient of entry i of the new state.

    S counts the numbers in the recurrent parts of the state, those on which later states depend. A part that only the
    output uses, such as the input that ``residual`` adds, is left out: a wrapped cell has the Jacobian of the cell
    inside. A complex number counts as two, its real and its imaginary part.

    Args:
        cell, params: any cell and its weights.
        h: a state without batch axes; its parts are taken in order (LSTM: c after h).
        x: one input ``(I,)``, or one integer id.

    Raises:
        ValueError: for a layer, which has no single steps, a state that is not floating, one with batch axes, or an
            input that does not fit it.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import vanilla
    >>> cell = vanilla(input_size=1, hidden_size=3, activation="linear")
    >>> params = cell.init(jax.random.key(0))
    >>> J = step_jacobian(cell, params, cell.start(params), jnp.zeros(1))
    >>> bool(jnp.allclose(J, params.W_hh.T))
    True
    """
    layout = layout_of(cell, params, h)
    if batch := batch_shape(cell, params, h):
        raise ValueError(f"h got batch axes {batch}; want the state of one example: of many, use jax.vmap")
    require_one_step(cell, params, h, x)
    recurrent = recurrent_numbers(cell, params, h, x)
    with jax.default_matmul_precision("highest"):  # as in lag_gradients
        J = jax.jacrev(lambda row: layout.row(cell.step(params, layout.state(row), x)))(layout.row(h))
    return J[np.ix_(recurrent, recurrent)]


@compiled("cell")
def leading_gain(cell: Cell, params: Params, h: State, x: PyTree) -> Float[Array, ""]:
    """The largest singular value of ∂state_t/∂state_{t−1}: the largest factor by which one step can scale a gradient.

    If it stays below a bound less than 1, the gradient vanishes; above 1 it may explode.

    Args:
        cell, params, h, x: as in ``step_jacobian``.

    Raises:
        ValueError: as ``step_jacobian``.

    Reference: Pascanu, Mikolov, Bengio. On the difficulty of training recurrent neural networks. 2013.
    """
    J = step_jacobian(cell, params, h, x)
    return jnp.linalg.norm(widened(J), ord=2)


@compiled("cell")
def jacobian_numbers(cell: Cell, params: Params, h: State, x: PyTree) -> JacobianNumbers:
    """Gain, spectral radius, determinant and non-normality of the Jacobian of one step.

    Args:
        cell, params, h, x: as in ``step_jacobian``; of many steps by ``jax.vmap``.

    Raises:
        ValueError: as ``step_jacobian``.

    Example: a chain, whose radius is 0 though one step keeps the gradient of each unit but the last.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import vanilla
    >>> cell = vanilla(input_size=1, hidden_size=3, activation="linear")
    >>> params = cell.init(jax.random.key(0))._replace(W_hh=jnp.eye(3, k=1))
    >>> print(*jacobian_numbers(cell, params, cell.start(params), jnp.zeros(1)))
    1.0 0.0 -inf 1.0

    Reference: Henrici. Bounds for iterates, inverses, spectral variation and fields of values of non-normal matrices.
    1962; of recurrent networks: Kerg and others. Non-normal recurrent neural network (nnRNN). 2019.
    """
    J = widened(step_jacobian(cell, params, h, x))
    size, norm = jnp.abs(jnp.linalg.eigvals(J)), norm_of(jnp.ravel(J))
    share = jnp.sum(jnp.square(size / jnp.where(norm == 0, 1, norm)))
    non_normality = jnp.where(norm == 0, 0, jnp.sqrt(jnp.maximum(1 - share, 0)))
    radius = jnp.max(size, initial=0)
    return JacobianNumbers(jnp.linalg.norm(J, ord=2), radius, jnp.linalg.slogdet(J)[1], non_normality)


NONLINEARITIES = frozenset({"tanh", "logistic", "erf", "max", "custom_jvp_call"})
"""Primitives whose slopes are compared, where they have one operand beside constants; relu is among the last."""


def saturation(cell: Cell, params: Params, h: State, x: PyTree, slope: float = 0.1) -> Float[Array, ""]:
    """The share of nonlinearities of a step that pass almost no gradient, with a slope below ``slope`` of the largest.

    Every number that depends on the state and that the step puts through tanh, σ, erf, softplus or ReLU counts: units
    and gates. Nonlinearities that are written in other operations, such as softsign, elu or a clip from above, do
    not, nor do those inside a ``scan``, ``while_loop`` or ``cond`` of a step. The largest slope is 1 of tanh, ¼ of σ,
    and 1 of ReLU, whose slope is 0 where the unit is off. With the default, tanh is saturated beyond |h| = 0.95, and σ
    below 0.026 or above 0.974.

    Args:
        cell, params: any cell and its weights.
        h, x: a state and one input, with or without batch axes.
        slope: in (0, 1].

    Returns:
        A share in [0, 1]; NaN for a cell without such nonlinearities, or where one is given NaN.

    Raises:
        ValueError: for a layer, a slope outside (0, 1], or a state and an input that do not fit.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import vanilla
    >>> cell = vanilla(input_size=4, hidden_size=4)
    >>> params = cell.init(jax.random.key(0))._replace(W_xh=jnp.eye(4))
    >>> print(saturation(cell, params, cell.start(params), jnp.array([0.0, 1.0, 2.0, -3.0])))
    0.5

    Reference: Karpathy, Johnson, Fei-Fei. Visualizing and understanding recurrent networks. 2016.
    """
    require_number("slope", slope, lambda s: 0 < s <= 1, "a share of the largest slope, above 0 and at most 1")
    layout_of(cell, params, h)
    require_one_step(cell, params, h, x)
    return _saturation(cell, params, h, x, slope)


@compiled("cell")
def _saturation(cell: Cell, params: Params, h: State, x: PyTree, slope: float | Array) -> Float[Array, ""]:
    """``saturation`` of checked arguments."""
    leaves, tree = jax.tree.flatten(h)

    def step(x: PyTree, *leaves: Array) -> State:
        return cell.step(params, jax.tree.unflatten(tree, leaves), x)

    program = equations_of(step, x, *leaves)
    given = [*jax.tree.leaves(x), *leaves]
    values = run(program.eqns, program.constants | dict(zip(program.args, given, strict=True)))
    on_state = dependent(program.eqns, program.args[len(given) - len(leaves) :])
    flat, total = jnp.zeros((), float), 0
    for eqn in program.eqns:
        operands = [v for v in eqn.invars if is_variable(v) and v in on_state]
        if eqn.primitive.name in NONLINEARITIES and len(operands) == 1:
            a = values[operands[0]]
            if type_of(eqn.outvars[0]).shape == a.shape and jnp.issubdtype(a.dtype, jnp.floating):
                of = partial(slopes, eqn, operands[0], values)
                largest = largest_slope(of, a)
                is_flat = (of(a) < jnp.asarray(slope, a.dtype) * largest).astype(float)
                flat += jnp.sum(jnp.where(jnp.isnan(a), jnp.nan, is_flat))
                total += a.size
    return flat / total if total else jnp.asarray(jnp.nan)


GRID = np.linspace(-5, 5, 101)
"""Where the largest slope is searched for; it contains 0."""


def largest_slope(of: Callable[[Array], Array], a: Array) -> Float[Array, ""]:
    """The largest slope of an elementwise function over the grid, for arrays like ``a``.

    One number after another: the compiler would compute an array of the whole grid itself, which takes it minutes.
    """
    return jnp.max(jax.lax.map(lambda number: jnp.max(of(jnp.full_like(a, number))), jnp.asarray(GRID, a.dtype)))


def slopes(eqn: JaxprEqn, operand: Var, values: dict[Var, Any], a: Array) -> Array:
    """The absolute slope of an elementwise equation at ``a``."""

    def at(a: Array) -> Array:
        return apply_equation(eqn, *values_of(eqn.invars, values | {operand: a}))[0]

    return jnp.abs(jax.jvp(at, (a,), (jnp.ones_like(a),))[1])
