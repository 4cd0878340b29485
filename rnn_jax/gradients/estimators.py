"""Estimators of the gradient of a sequence's loss, with one signature, and their bias and variance.

An estimator takes ``(cell, params, h0, xs, targets, loss, *, key=None, …)`` and returns ``(loss, gradient)``:

- the loss is a sum over time, ``(ys, targets) -> scalar``, as in ``tbptt``. The loss of one step is then
  ``loss(y[None], target[None])``; estimators that run forward in time call it so. A mean over steps is refused where it
  is known as one, ``per_step(…)``. Another loss that is no sum gives a wrong result: with
  ``lambda ys, targets: jnp.mean((ys - targets) ** 2)`` the gradient of ``rtrl`` is T times that of ``bptt``;
- the gradient is like the params. The state before the first step and the inputs are constants;
- the batch axes are those of h0. The loss sums over them, or takes their mean;
- ``key`` is needed where the estimate is random, and ignored elsewhere;
- masks, lengths and resets are not taken.

=============  =========  ===========  ====================================  ===========================
estimator      direction  gradient     numbers of memory, an example         reference
=============  =========  ===========  ====================================  ===========================
bptt           back       exact        T S                                   Werbos 1990
truncated      back       biased       window S                              Williams, Peng 1990
artbp          back       unbiased     steps between truncations, times S    Tallec, Ollivier 2017
rtrl           forward    exact        S P                                   Williams, Zipser 1989
snap           forward    biased       K P for K² ≤ S, else S P              Menick and others 2020
rtrl_diagonal  forward    exact        P, or 2 P for complex units           Mozer 1989
uoro           forward    unbiased     S + P                                 Tallec, Ollivier 2018
=============  =========  ===========  ====================================  ===========================

S and P are the numbers of the state and of the params, and K is the largest number of entries that ``snap`` keeps for
a param. ``artbp`` here keeps the states of all steps, because it has the whole sequence at once. ``truncated`` has
``k1=1``, so it computes T · window steps; the programs of ``tbptt`` have ``k1=window``, and compute T.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnn_jax.gradients.influence import rtrl, rtrl_diagonal, snap, uoro
from rnn_jax.gradients.online import require_problem
from rnn_jax.gradients.tbptt import chunked
from rnn_jax.gradients.windows import Loss, require_floating, require_scalar
from rnn_jax.keys import one_key, typed_key
from rnn_jax.machinery.checks import in_one_line, require_number, require_positive, require_sequence
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.sharding import scan
from rnn_jax.schedules.driver import outputs, require_fit, rollout
from rnn_jax.types import Cell, Keys, Params, State

__all__ = ["ESTIMATORS", "EstimatorQuality", "artbp", "bptt", "compare_estimator", "truncated"]


def bptt(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    *,
    schedule: str = "auto",
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, ""], Params]:
    """The loss and its exact gradient by back-propagation through time.

    Args:
        cell: any cell.
        params: its weights.
        h0: the state before the first step, a constant.
        xs: ``(T, *batch, I)`` or ids ``(T, *batch)``.
        targets: any pytree of arrays with time leading, or ``()``.
        loss: ``(ys, targets) -> scalar``, a sum over time.
        schedule: as in ``rollout``.
        key: ignored.

    Returns:
        ``(loss, gradient)``: the loss of the sequence, and a pytree like params.

    Raises:
        ValueError: for a layer, params that are not floating, targets of another length, a loss that is not a scalar or
            is ``per_step``, or arguments that ``rollout`` refuses.

    Example: with x_t = w·x_{t−1}, w = 0.2 and x_0 = 0.9, dx_3/dw = 3 w² x_0 = 0.108.

    >>> import jax.numpy as jnp
    >>> from rnn_jax import cell_from_step
    >>> from rnn_jax.gradients.estimators import bptt
    >>> power = cell_from_step(lambda key: 0.2, lambda w, batch_shape=(): jnp.full((*batch_shape, 1), 0.9),
    ...                        lambda w, x, u: w * x)
    >>> u, is_last, w = jnp.zeros((3, 1)), jnp.array([0.0, 0.0, 1.0]), jnp.asarray(0.2)
    >>> value, gradient = bptt(power, w, power.start(w), u, is_last, lambda xs, of: xs[:, 0] @ of)
    >>> print(f"{value:.4f} {gradient:.3f}")
    0.0072 0.108

    Reference: Werbos. Backpropagation through time: what it does and how to do it. 1990.
    """
    xs = require_problem(cell, params, xs, targets, loss)
    return _bptt(cell, params, h0, xs, targets, loss, schedule)


@compiled("cell", "loss", "schedule")
def _bptt(
    cell: Cell, params: Params, h0: State, xs: PyTree, targets: PyTree, loss: Loss, schedule: str
) -> tuple[Float[Array, ""], Params]:
    def total(params: Params) -> Float[Array, ""]:
        _, hs = rollout(cell, params, h0, xs, schedule=schedule)
        return require_floating(require_scalar(loss(outputs(cell, params, hs), targets)))

    return jax.value_and_grad(total)(params)


def truncated(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    *,
    window: int,
    k1: int = 1,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, ""], Params]:
    """The loss and its gradient truncated to windows: the program ``chunked``, in the signature of the estimators.

    Args:
        cell, params, h0, xs, targets, loss, key: as in ``bptt``.
        window: number of steps through which the loss of a window's last step goes back.
        k1: number of steps from the beginning of one window to the next. With 1 every loss goes back ``window`` steps,
            at the cost of ``window`` steps for each; with ``k1=window`` windows do not overlap.

    Returns:
        ``(loss, gradient)``, as ``bptt``; the gradient is biased.

    Raises:
        ValueError: as ``bptt``, for a size below 1, and for k1 above window.

    Example: dx_3/dw of the example of ``bptt``, with x_2 = w² x_0 = 0.036 held constant.

    >>> import jax.numpy as jnp
    >>> from rnn_jax import cell_from_step
    >>> from rnn_jax.gradients.estimators import truncated
    >>> power = cell_from_step(lambda key: 0.2, lambda w, batch_shape=(): jnp.full((*batch_shape, 1), 0.9),
    ...                        lambda w, x, u: w * x)
    >>> u, is_last, w = jnp.zeros((3, 1)), jnp.array([0.0, 0.0, 1.0]), jnp.asarray(0.2)
    >>> _, gradient = truncated(power, w, power.start(w), u, is_last, lambda xs, of: xs[:, 0] @ of, window=1)
    >>> print(f"{gradient:.3f}")
    0.036

    Reference: Williams, Peng. An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories. 1990.
    """
    require_positive(window=window, k1=k1)
    xs = require_problem(cell, params, xs, targets, loss)
    return _truncated(cell, params, h0, xs, targets, loss, int(window), int(k1))


@compiled("cell", "loss", "window", "k1")
def _truncated(
    cell: Cell, params: Params, h0: State, xs: PyTree, targets: PyTree, loss: Loss, window: int, k1: int
) -> tuple[Float[Array, ""], Params]:
    def total(params: Params) -> Float[Array, ""]:
        return chunked(cell, params, h0, xs, targets, loss, window=window, k1=k1)[0]

    return jax.value_and_grad(total)(params)


def artbp(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    *,
    mean_window: float,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Params]:
    """The loss and the ARTBP estimate of its gradient: anticipated reweighted truncated back-propagation.

    Between two steps the gradient is cut with probability c = 1/mean_window, and else multiplied by 1/(1 − c), so its
    expectation is that of back-propagation. A part of the gradient that goes back over k steps survives with
    probability (1 − c)^k and is then (1 − c)^−k times too large: the variance grows with the memory of the network.

    Args:
        cell, params, h0, xs, targets, loss: as in ``bptt``.
        mean_window: the mean number of steps from one cut to the next, above 1.
        key: of the cuts, which all examples of a batch have in common.

    Returns:
        ``(loss, gradient)``, as ``bptt``; the expectation of the gradient over keys is the exact one.

    Raises:
        ValueError: as ``bptt``, for a mean_window that is not above 1, and for anything but one key.

    Example: in the example of ``bptt`` c = ½ leaves x_2, (1 + 2) x_2 or (1 + 2 + 4) x_2 of dx_3/dw, where x_2 =
    0.036, with probabilities ½, ¼ and ¼. Their mean is 0.108.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import cell_from_step
    >>> from rnn_jax.gradients.estimators import artbp
    >>> power = cell_from_step(lambda key: 0.2, lambda w, batch_shape=(): jnp.full((*batch_shape, 1), 0.9),
    ...                        lambda w, x, u: w * x)
    >>> u, is_last, w = jnp.zeros((3, 1)), jnp.array([0.0, 0.0, 1.0]), jnp.asarray(0.2)
    >>> def estimate(key):
    ...     sequence = w, power.start(w), u, is_last, lambda xs, of: xs[:, 0] @ of
    ...     return artbp(power, *sequence, mean_window=2, key=key)[1]
    >>> estimates = jax.vmap(estimate)(jax.random.split(jax.random.key(0), 1000))
    >>> sorted({round(float(estimate), 3) for estimate in estimates})
    [0.036, 0.108, 0.252]

    Reference: Tallec, Ollivier. Unbiasing truncated backpropagation through time. 2017.
    """
    require_number("mean_window", mean_window, lambda steps: 1 < steps < float("inf"), "a number above 1, such as 10")
    xs = require_problem(cell, params, xs, targets, loss)
    return _artbp(cell, params, h0, xs, targets, loss, float(mean_window), one_key(key))


@compiled("cell", "loss", "mean_window")
def _artbp(
    cell: Cell, params: Params, h0: State, xs: PyTree, targets: PyTree, loss: Loss, mean_window: float, key: Keys
) -> tuple[Float[Array, ""], Params]:
    require_fit(cell, params, h0, xs)
    goes_on = jax.random.bernoulli(key, 1 - 1 / mean_window, (require_sequence(xs),))
    factors = jnp.where(goes_on, mean_window / (mean_window - 1), 0.0)

    def total(params: Params) -> Float[Array, ""]:
        def on(h: State, inputs: tuple[PyTree, Array]) -> tuple[State, State]:
            x, factor = inputs
            h = cell.step(params, jax.tree.map(lambda part: with_gradient_times(factor, part), h), x)
            return h, h

        _, hs = scan(on, h0, (xs, factors))
        return require_floating(require_scalar(loss(outputs(cell, params, hs), targets)))

    return jax.value_and_grad(total)(params)


def with_gradient_times(factor: Float[Array, ""], a: Array) -> Array:
    """The same numbers, whose gradient is multiplied by a factor."""
    constant = jax.lax.stop_gradient(a)
    return constant + factor.astype(a.dtype) * (a - constant)


ESTIMATORS: dict[str, Callable[..., tuple[Float[Array, ""], Params]]] = {
    "bptt": bptt,
    "truncated": truncated,
    "artbp": artbp,
    "rtrl": rtrl,
    "snap": snap,
    "rtrl_diagonal": rtrl_diagonal,
    "uoro": uoro,
}
"""The estimators of the gradient, by name."""


class EstimatorQuality(NamedTuple):
    """Errors of an estimator of the gradient, relative to the norm of the exact gradient g."""

    bias: Float[Array, ""]
    """‖mean ĝ − g‖ / ‖g‖, over the keys."""
    bias_error: Float[Array, ""]
    """√(variance / number of keys): about the bias that an unbiased estimator shows for so many keys."""
    variance: Float[Array, ""]
    """E‖ĝ − E ĝ‖² / ‖g‖²; 0 for an estimator without randomness."""
    cosine: Float[Array, " keys"]
    """Of the angle between g and the estimate ĝ of each key."""


def compare_estimator(
    estimator: Callable[..., tuple[Float[Array, ""], Params]],
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    *,
    keys: Keys,
    **options: Any,
) -> EstimatorQuality:
    """Bias, variance and cosine of an estimator against ``bptt``, over many keys at once.

    Args:
        estimator: a function of ``ESTIMATORS``, or another one with their signature.
        cell, params, h0, xs, targets, loss: as in ``bptt``.
        keys: at least 2 keys, ``(keys,)``; all estimates are in memory together.
        options: of the estimator, such as ``window``.

    Returns:
        Statistics over the keys. All are NaN where the exact gradient is zero.

    Raises:
        ValueError: for fewer than 2 keys, options that the estimator does not have, and arguments that it refuses.

    Example: estimates that go back 2 steps are biased, UORO has a variance instead.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru
    >>> from rnn_jax.gradients.estimators import compare_estimator, truncated, uoro
    >>> cell = gru(input_size=2, hidden_size=4)
    >>> params, keys = cell.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 100)
    >>> sequence = params, cell.start(params), jnp.ones((10, 2)), (), lambda ys, _: jnp.sum(ys**2)
    >>> quality = compare_estimator(truncated, cell, *sequence, keys=keys, window=2)
    >>> print(f"bias {quality.bias:.2f}, variance {quality.variance:.2f}")
    bias 0.24, variance 0.00
    >>> quality = compare_estimator(uoro, cell, *sequence, keys=keys)
    >>> bool(quality.bias < 3 * quality.bias_error)
    True

    Reference: Marschall, Cho, Savin. A unified framework of online learning algorithms for training recurrent neural
    networks. 2020.
    """
    keys = typed_key(keys)
    if keys.ndim != 1 or len(keys) < 2:
        raise ValueError(f"keys got shape {keys.shape}; want at least 2 keys, such as jax.random.split(key, 100)")
    given = cell, params, h0, xs, targets, loss
    if not callable(estimator):
        raise ValueError(f"estimator got {in_one_line(estimator)}; want a function, such as ESTIMATORS['uoro']")
    try:
        inspect.signature(estimator).bind(*given, key=keys[0], **options)
    except TypeError as error:
        raise ValueError(f"options got {in_one_line(options)}; want those of the estimator: {error}") from error
    _, exact = bptt(*given)
    estimate = partial(estimator, *given, **options)
    estimates = jax.vmap(lambda key: estimate(key=key)[1])(keys)
    return quality_of(estimates, exact)


@jax.jit
def quality_of(estimates: PyTree, exact: PyTree) -> EstimatorQuality:
    """The statistics of estimates, ``(keys, …)``, of an exact gradient."""
    g = ravel_pytree(widened(exact))[0]
    estimated = jax.vmap(lambda tree: ravel_pytree(widened(tree))[0])(estimates)
    largest = jnp.max(jnp.abs(g), initial=0)  # squares of small numbers would underflow; a gradient of 0 gives NaN
    g, estimated = g / largest, estimated / largest
    size, mean = jnp.linalg.norm(g), jnp.mean(estimated, axis=0)
    variance = jnp.sum(jnp.var(estimated, axis=0, ddof=1)) / size**2
    return EstimatorQuality(
        bias=jnp.linalg.norm(mean - g) / size,
        bias_error=jnp.sqrt(variance / len(estimated)),
        variance=variance,
        cosine=estimated @ g / (jnp.linalg.norm(estimated, axis=1) * size),
    )
