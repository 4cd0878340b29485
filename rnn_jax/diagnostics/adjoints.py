"""Gradients of losses at several steps with respect to the states, in log space."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Integer, PyTree

from rnn_jax.diagnostics.lag import (
    LagGradients,
    flagged_recurrence,
    lag_gradients,
    norms_back,
    recurrent_of,
    require_one_for_each,
    states_before,
    together,
)
from rnn_jax.diagnostics.scaled import scaled
from rnn_jax.diagnostics.states import layout_of, require_steps
from rnn_jax.machinery.checks import require_positive, require_sequence
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.sharding import laid_out
from rnn_jax.schedules.driver import batch_shape, flag_arrays, outputs, rollout, step_flags
from rnn_jax.sequences import require_lengths
from rnn_jax.types import Cell, Params, State

__all__ = ["log_norms_of_layers", "probe_gradients", "state_gradients"]


def state_gradients(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    loss: Callable[[PyTree], Float[Array, "*batch"]],
    *,
    mask: Bool[ArrayLike, "T ..."] | None = None,
    lengths: Integer[ArrayLike, "..."] | None = None,
    resets: Bool[ArrayLike, "T ..."] | None = None,
    reverse: bool = False,
) -> LagGradients:
    """The norm of ∂L/∂state_{T−k} for every lag k = 0 … T, of a loss of the outputs of all steps.

    ``lag_gradients`` is the case of a loss of the last output. Here the gradients of earlier outputs are added on the
    way back. Numbers have exponents of their own, as there. The two directions of a ``bidirectional`` layer do not
    depend on each other, so each is measured alone: the loss merges its outputs with those of the other direction.

    Args:
        cell: any cell.
        params: its weights.
        h0: the state before the first step, with the batch axes of ``xs``.
        xs: ``(T, *batch, I)`` or ids ``(T, *batch)``.
        loss: ``(ys) -> L (*batch,)`` of the outputs ``(T, *batch, O)``, one number for each example.
        mask, lengths, resets: as in ``rollout``. A masked step keeps the gradient; none passes a reset, so it is −∞
            before one unless an earlier loss depends on that state.
        reverse: from the last step to the first, as in ``rollout``.

    Returns:
        As ``lag_gradients``: the index along the leading axis is T − t, or t − 1 in reverse: lag 0 is that of the state
        that is computed last. In the state of a ``stack`` each layer has a part of its own; ``log_norms_of_layers``
        adds them up.

    Raises:
        ValueError: as ``lag_gradients``, and for flags that ``rollout`` refuses.

    Example: the mean of all outputs of a linear network that halves its state, with a reset before the third step.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import vanilla
    >>> cell = vanilla(1, 1, activation="linear")
    >>> params = cell.init(jax.random.key(0))._replace(W_hh=jnp.full((1, 1), 0.5))
    >>> resets = jnp.array([False, False, True, False])
    >>> found = state_gradients(cell, params, cell.start(params), jnp.ones((4, 1)), lambda ys: ys.sum((0, -1)),
    ...                         resets=resets)
    >>> print(jnp.exp(found.log_norm))
    [1.   1.5  1.   1.5  0.75]

    Reference: Pascanu, Mikolov, Bengio. On the difficulty of training recurrent neural networks. 2013.
    """
    require_steps(xs)
    T = require_sequence(xs)
    require_lengths(lengths, T)
    mask, lengths, resets = flag_arrays(mask=mask, lengths=lengths, resets=resets)
    return _state_gradients(cell, params, h0, xs, loss, mask, lengths, resets, T, reverse)


@compiled("cell", "loss", "T", "reverse")
def _state_gradients(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    loss: Callable[[PyTree], Float[Array, "*batch"]],
    mask: Array | None,
    lengths: Array | None,
    resets: Array | None,
    T: int,
    reverse: bool,
) -> LagGradients:
    """``state_gradients`` of checked arguments."""
    layout, batch = layout_of(cell, params, h0), batch_shape(cell, params, h0)

    def as_read(sequence: PyTree) -> PyTree:
        return jax.tree.map(lambda a: a[::-1], sequence) if reverse else sequence

    xs, flags = as_read((xs, step_flags(T, batch, mask, lengths, resets, reverse=reverse)))
    with jax.default_matmul_precision("highest"):
        h_T, hs = rollout(cell, params, h0, xs, mask=flags.mask, resets=flags.resets)
        h0 = laid_out(h0, like=h_T)
        L, pullback = jax.vjp(lambda hs: loss(outputs(cell, params, as_read(hs))), hs)
        require_one_for_each(L, batch)
        direct = layout.row(pullback(jnp.ones_like(L))[0])
        direct = jnp.concatenate([jnp.zeros_like(layout.row(h0))[None], direct])  # no loss reads h0 itself
        step, inputs = flagged_recurrence(cell, params, h0, xs, flags)
        recurrent = recurrent_of(cell, params, h0, xs)
        return norms_back(step, layout, recurrent, scaled(direct[-1]), states_before(h0, hs), inputs, direct[:-1])


def probe_gradients(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    loss: Callable[[PyTree], Float[Array, "P *batch"]],
    *,
    steps: Sequence[int],
    lags: int,
) -> LagGradients:
    """``lag_gradients`` of losses at P steps of one sequence, each with respect to the states before it.

    Args:
        cell, params, h0, xs: as in ``lag_gradients``.
        loss: ``(y) -> (P, *batch)`` of the outputs ``(P, *batch, O)`` after each of ``steps``.
        steps: numbers t of steps in [lags, T]; the loss is that of the output after step t.
        lags: the largest lag.

    Returns:
        Norms ``(lags + 1, P, *batch)``.

    Raises:
        ValueError: as ``lag_gradients``, and for steps that are not whole numbers in [lags, T].

    Example: a linear network that halves the gradient, probed after steps 3 and 10.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import vanilla
    >>> cell = vanilla(1, 1, activation="linear")
    >>> params = cell.init(jax.random.key(0))._replace(W_hh=jnp.full((1, 1), 0.5))
    >>> start, last = cell.start(params), lambda y: y[..., 0]
    >>> print(jnp.exp(probe_gradients(cell, params, start, jnp.ones((10, 1)), last, steps=[3, 10], lags=2).log_norm))
    [[1.   1.  ]
     [0.5  0.5 ]
     [0.25 0.25]]
    """
    require_steps(xs)
    T = require_sequence(xs)
    require_positive(lags=lags)
    try:
        ends = np.asarray(steps)
    except ValueError:  # rows of different lengths
        ends = np.zeros((0, 0))
    if ends.ndim != 1 or not len(ends) or ends.dtype.kind not in "iu" or ends.min() < lags or ends.max() > T:
        raise ValueError(
            f"steps got {steps}; want whole numbers of steps in [{lags}, {T}], from lags to the steps of xs"
        )
    with jax.default_matmul_precision("highest"):
        _, hs = rollout(cell, params, h0, xs)
    begin = ends - int(lags)
    h = jax.tree.map(lambda first, later: jnp.concatenate([first[None], later])[begin], h0, hs)
    window = jax.tree.map(lambda x: x[begin[None] + np.arange(int(lags))[:, None]], xs)
    return lag_gradients(cell, params, h, window, loss)


def log_norms_of_layers(found: LagGradients) -> tuple[Float[Array, "K *batch"], ...]:
    """ln of the norm for each layer of a ``stack``, from the recurrent parts of its state: squares add up to the total.

    Args:
        found: of a stack, whose state is a plain tuple with one state for each layer.

    Raises:
        ValueError: for a state that is no such tuple.
    """
    layers, recurrent = found.log_norm_of, found.recurrent
    if not isinstance(layers, tuple) or hasattr(layers, "_fields"):
        raise ValueError(f"found got the state of one layer ({type(layers).__name__}); want that of a stack")

    return tuple(together(*map(jax.tree.leaves, pair)) for pair in zip(layers, recurrent, strict=True))
