"""One driver, several schedules: ways to compute the same rollout that change its cost, never its values."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from rnn_jax.rollout.scan import scan
from rnn_jax.types import Cell, Params, State

__all__ = ["SCHEDULES", "outputs", "rollout"]

SCHEDULES = {"scan": scan}


def rollout(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    *,
    cuts: Bool[Array, "T ..."] | None = None,
    schedule: str = "scan",
) -> tuple[State, State]:
    """Rolls a cell out over a sequence: h_t = f_W(h_{t−1}, x_t) for t = 1 … T.

    Args:
        cell: the recurrence.
        params: its weights.
        h0: the state before the first step, with the batch axes of ``xs``: ``cell.start(params, batch_shape)``, or
            the ``h_T`` of the window before.
        xs: ``(T, *batch, I)``, or integer ids ``(T, *batch)``; T may be 0.
        cuts: ``(T,)`` or ``(T, *batch)``; where True, ``stop_gradient`` acts on the state before the step, so that
            truncated windows begin there. Values never change. May be traced.
        schedule: a name in ``SCHEDULES``.

    Returns:
        ``(h_T, hs)``: the last state, and every state with time leading, ``(T, *batch, H)``.

    Raises:
        ValueError: when xs does not fit the cell, h0 not xs, cuts not xs, or the schedule is unknown.

    Example: a window of 2 cuts the gradient on its way to x_1 and x_2.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import rollout, vanilla, window_cuts
    >>> cell = vanilla(input_size=1, hidden_size=4)
    >>> params = cell.init(jax.random.key(0))
    >>> def loss(xs):
    ...     h_T, _ = rollout(cell, params, cell.start(params), xs, cuts=window_cuts(4, window=2))
    ...     return h_T.sum()
    >>> (jax.grad(loss)(jnp.ones((4, 1))) != 0).ravel().tolist()
    [False, False, True, True]
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule got {schedule!r}; want one of {', '.join(SCHEDULES)}")
    check_fit(cell, params, h0, xs)
    if cuts is not None:
        cuts = jnp.asarray(cuts)
        check_cuts(cuts, xs, h0)
    return SCHEDULES[schedule](cell, params, h0, xs, cuts)


def outputs(cell: Cell, params: Params, hs: State) -> Any:
    """What is seen of a rollout: y_t of every h_t, in one call outside the scan.

    Args:
        cell, params: as in ``rollout``.
        hs: states with any leading axes, such as those that ``rollout`` returns.

    Returns:
        ``ys``, ``(T, *batch, O)``.
    """
    return cell.output(params, hs)


def check_fit(cell: Cell, params: Params, h0: State, xs: PyTree) -> None:
    """Raises a ValueError unless one step takes h0 to a state of the same shapes and types."""
    x0 = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    before = describe(h0)
    try:
        after = describe(jax.eval_shape(cell.step, params, h0, x0))
    except TypeError as error:
        raise ValueError(
            f"h0 got {before}, on which one step fails ({str(error).splitlines()[0]}); want the batch axes of xs: "
            "start from cell.start(params, batch_shape)"
        ) from error
    if before != after:
        raise ValueError(
            f"h0 got {before}, but one step makes it {after}; want the batch axes of xs and the params' dtype: "
            "start from cell.start(params, batch_shape)"
        )


def check_cuts(cuts: Bool[Array, "T ..."], xs: PyTree, h0: State) -> None:
    """Raises a ValueError unless ``cuts`` is boolean, ``(T,)`` or ``(T, *batch)``."""
    T = jax.tree.leaves(xs)[0].shape[0]
    fits = all(cuts.shape[1:] == h.shape[: cuts.ndim - 1] for h in jax.tree.leaves(h0))
    if cuts.dtype != jnp.bool_ or cuts.ndim == 0 or cuts.shape[0] != T or not fits:
        raise ValueError(
            f"cuts got {cuts.dtype} {cuts.shape}; want bool ({T},) or ({T}, *batch): use window_cuts({T}, window)"
        )


def describe(state: State) -> str:
    """Shapes and types of a state, in one line."""
    leaves = jax.tree.leaves_with_path(state)
    return ", ".join(f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}".strip() for path, leaf in leaves)
