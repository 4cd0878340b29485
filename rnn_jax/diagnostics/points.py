"""Fixed and slow points of a recurrence under a constant input, and the eigenvalues of its Jacobian there."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Int, PRNGKeyArray, PyTree

from rnn_jax.diagnostics.jacobians import step_jacobian
from rnn_jax.diagnostics.states import layout_of
from rnn_jax.keys import one_key
from rnn_jax.machinery.checks import require_number, require_positive
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.precision import widened
from rnn_jax.schedules.driver import batch_shape, describe_shapes, require_fit
from rnn_jax.types import Cell, Params, State, require_cell

__all__ = [
    "FixedPoints",
    "PrincipalComponents",
    "Stability",
    "fixed_points",
    "principal_components",
    "stability",
    "state_rows",
    "unique_points",
    "visited_states",
]


class FixedPoints(NamedTuple):
    """Minima of the speed q(h) = ½‖F(h) − h‖², where F is one step with a constant input."""

    states: State
    """The N states, each part ``(N, …)``."""
    speed: Float[Array, " N"]
    """q, half the square of the distance that one step moves the state."""
    slope: Float[Array, " N"]
    """‖∂q/∂h‖; near 0 where the search has reached a minimum."""
    converged: Bool[Array, " N"]
    """Whether q is at most the tolerance: a fixed point. A minimum with a larger q is a slow point."""


class Stability(NamedTuple):
    """The linear dynamics close to each of N fixed points, h_t − h* ≈ J (h_{t−1} − h*)."""

    eigenvalues: Complex[Array, "N S"]
    """Of J, the largest absolute value first."""
    unstable: Int[Array, " N"]
    """The number of unstable directions, |λ| > 1: 0 at a stable point, at least 1 at a saddle, S at a repeller; −1
    where the Jacobian is not finite, which occurs in traced calls only."""


class PrincipalComponents(NamedTuple):
    """The directions in which states vary most."""

    mean: Float[np.ndarray, " S"]
    axes: Float[np.ndarray, "S C"]
    """Orthonormal columns, the direction of the largest variance first."""
    share: Float[np.ndarray, " C"]
    """The share of the variance in each direction."""

    def coordinates(self, rows: Float[np.ndarray, "*batch S"]) -> Float[np.ndarray, "*batch C"]:
        """The coordinates of states along the axes."""
        return (np.asarray(rows, float) - self.mean) @ self.axes


def fixed_points(
    cell: Cell, params: Params, h0s: State, x: PyTree, *, steps: int = 100, tolerance: float = 1e-12
) -> FixedPoints:
    """Fixed and slow points of h ↦ F(h) = step(params, h, x), one for each candidate state.

    From each candidate the speed q(h) = ½‖F(h) − h‖² is minimised by the method of Levenberg and Marquardt, with the
    whole Jacobian J of F(h) − h: δ = −(JᵀJ + μI)⁻¹ Jᵀ(F(h) − h). The damping μ is proportional to ‖F(h) − h‖, so the
    last updates are those of Newton. It finds saddles as well as stable points, because only q decreases along the
    search, and not the time.

    Args:
        cell: any cell.
        params: its weights.
        h0s: N candidates, each part of the state ``(N, …)``; for example ``visited_states``.
        x: one constant input ``(I,)``, or one integer id.
        steps: the largest number of updates; an update that would increase q is not made.
        tolerance: the largest q of a fixed point. The default is above the rounding errors of float32 for some
            hundred numbers of a state.

    Returns:
        N points in the order of the candidates; ``unique_points`` removes those that were found several times.

    Raises:
        ValueError: for a layer, a state that is not floating, candidates of another shape or type than
            ``cell.start(params, (N,))``, candidates that are not finite, x that does not fit the cell, steps below 1,
            or a negative tolerance.

    Example: h ↦ tanh(1.5 h) has three fixed points.

    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from rnn_jax import vanilla
    >>> cell = vanilla(input_size=1, hidden_size=1)
    >>> params = cell.init(jax.random.key(0))._replace(W_hh=jnp.array([[1.5]]))
    >>> points = unique_points(fixed_points(cell, params, jnp.linspace(-1, 1, 8)[:, None], jnp.zeros(1)))
    >>> print(np.sort(points.states[:, 0]).round(6) + 0)
    [-0.85856  0.       0.85856]

    Reference: Sussillo, Barak. Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
    networks. 2013; the damping: Yamashita, Fukushima. On the rate of convergence of the Levenberg–Marquardt method.
    2001.
    """
    require_cell("cell", cell)
    require_positive(steps=steps)
    wanted = "a speed q of at least 0, for example 1e-12"
    require_number("tolerance", tolerance, lambda q: 0 <= q < math.inf, wanted)
    require_candidates(cell, params, h0s)
    one = jax.tree.map(lambda h: jax.ShapeDtypeStruct(h.shape[1:], h.dtype), h0s)
    require_fit(cell, params, one, jax.tree.map(lambda x: jnp.asarray(x)[None], x))
    return _minima(cell, params, h0s, x, int(steps), float(tolerance))


def require_candidates(cell: Cell, params: Params, h0s: State, name: str = "h0s", least: int = 1) -> None:
    """Raises a ValueError unless states have one leading axis, of N ≥ ``least`` finite candidates."""
    one, tree = jax.tree.flatten(jax.eval_shape(cell.start, params))
    leaves = jax.tree.leaves(h0s)
    number = np.shape(leaves[0])[:1] if leaves else ()
    shapes = [(*number, *part.shape) for part in one]
    if jax.tree.structure(h0s) != tree or [*map(np.shape, leaves)] != shapes or number < (least,):
        start = describe_shapes(jax.tree.unflatten(tree, one))
        raise ValueError(
            f"{name} got {describe_shapes(h0s) or repr(h0s)}; want N candidates (N, …) of the state {start}, as "
            "cell.start(params, (N,)) has them"
        )
    for leaf in leaves:
        if not isinstance(leaf, Tracer):
            bad = ~np.isfinite(leaf).all(axis=tuple(range(1, np.ndim(leaf))))
            if bad.any():
                raise ValueError(f"{name} got candidate {int(np.argmax(bad))}, which is not finite; want finite states")


class Search(NamedTuple):
    """The state of the minimisation from one candidate."""

    row: Float[Array, " S"]
    damping: Float[Array, ""]
    """μ / ‖F(h) − h‖."""
    updates: Int[Array, ""]
    settled: Bool[Array, ""]
    """Whether updates have become as small as rounding errors."""


@compiled("cell")
def _minima(cell: Cell, params: Params, h0s: State, x: PyTree, steps: ArrayLike, tolerance: ArrayLike) -> FixedPoints:
    """``fixed_points``, after its checks."""
    layout = layout_of(cell, params, h0s)

    def gap_of(row: Float[Array, " S"]) -> Float[Array, " S"]:
        return widened(layout.row(cell.step(params, layout.state(row), x))) - row

    def measure(row: Float[Array, " S"]) -> tuple[Array, Array]:
        gap, pullback = jax.vjp(gap_of, row)
        return _speed(gap), jnp.linalg.norm(pullback(gap)[0])

    with jax.default_matmul_precision("highest"):
        rows = jax.vmap(lambda row: _minimum(gap_of, row, steps))(widened(layout.row(h0s)))
        states = layout.state(rows)
        speed, slope = jax.vmap(measure)(widened(layout.row(states)))
    return FixedPoints(states, speed, slope, speed <= jnp.asarray(tolerance, speed.dtype))


def _minimum(
    gap_of: Callable[[Float[Array, " S"]], Float[Array, " S"]], row: Float[Array, " S"], steps: ArrayLike
) -> Float[Array, " S"]:
    """A local minimum of ½‖gap(h)‖², reached from h = row."""
    eps = jnp.finfo(row.dtype).eps

    def update(search: Search) -> Search:
        row, damping, updates, _ = search
        gap, pullback = jax.vjp(gap_of, row)
        (J,) = jax.vmap(pullback)(jnp.eye(row.size, dtype=row.dtype))
        JJ = J.T @ J
        mu = damping * jnp.linalg.norm(gap) + eps * jnp.trace(JJ)  # the second term keeps the matrix invertible
        change = -jax.scipy.linalg.solve(JJ + mu * jnp.eye(row.size, dtype=row.dtype), J.T @ gap, assume_a="pos")
        before, after = _speed(gap), _speed(gap_of(row + change))
        gain = (before - after) / (before - _speed(gap + J @ change))  # 1 where the linear model is right
        damping = jnp.where(gain > 0.75, jnp.maximum(damping / 4, eps), jnp.where(gain > 0.25, damping, 4 * damping))
        is_tiny = ~(jnp.linalg.norm(change) > 2 * eps * (1 + jnp.linalg.norm(row)))  # also where it is NaN
        return Search(jnp.where(after < before, row + change, row), damping, updates + 1, is_tiny)

    start = Search(row, jnp.asarray(0.1, row.dtype), jnp.asarray(0), jnp.asarray(False))
    return jax.lax.while_loop(lambda search: (search.updates < steps) & ~search.settled, update, start).row


def _speed(gap: Float[Array, " S"]) -> Float[Array, ""]:
    return 0.5 * jnp.sum(jnp.square(gap))


def visited_states(
    cell: Cell, params: Params, key: PRNGKeyArray, hs: State, *, count: int, noise: float = 0.1
) -> State:
    """Candidates for ``fixed_points``: states that a network visits, with Gaussian noise.

    Args:
        cell, params: any cell and its weights.
        key: of the choice and the noise.
        hs: states with any leading axes, such as those that ``rollout`` returns.
        count: N, drawn without repetition while there are enough.
        noise: the standard deviation of the noise that is added to each number. Noise helps to find points that the
            network itself does not come near, such as saddles.

    Returns:
        N states, each part ``(N, …)``.

    Raises:
        ValueError: for a layer, no state, a count below 1, or a negative noise.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import lstm, rollout
    >>> cell = lstm(input_size=2, hidden_size=3)
    >>> params = cell.init(jax.random.key(0))
    >>> _, hs = rollout(cell, params, cell.start(params, (4,)), jnp.ones((5, 4, 2)))
    >>> visited_states(cell, params, jax.random.key(1), hs, count=8).c.shape
    (8, 3)
    """
    require_cell("cell", cell)
    require_positive(count=count)
    wanted = "a standard deviation, 0 or more"
    require_number("noise", noise, lambda sigma: 0 <= sigma < math.inf, wanted)
    layout, rows = layout_of(cell, params, hs), state_rows(cell, params, hs)
    rows = rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1])
    if not len(rows):
        raise ValueError("hs got no state; want at least one, for example those of a rollout")
    k_choice, k_noise = jax.random.split(one_key(key))
    chosen = jax.random.choice(k_choice, rows, (int(count),), replace=len(rows) < count)
    return layout.state(chosen + jnp.asarray(noise, rows.dtype) * jax.random.normal(k_noise, chosen.shape, rows.dtype))


def unique_points(points: FixedPoints, radius: float = 1e-3) -> FixedPoints:
    """The different points among those found, the slowest first.

    Args:
        points: of one network, as ``fixed_points`` returns them. This function runs outside ``jit``.
        radius: a point at most this far from a slower one counts as the same point (Euclidean distance of states).

    Returns:
        Points sorted by their speed, in arrays of NumPy; those whose speed is not finite are left out.

    Raises:
        ValueError: for points of several networks, or a negative radius.

    >>> found = FixedPoints(np.array([[1.0], [0.0], [1.0001]]), np.array([0.5, 0, 0]), np.zeros(3), np.zeros(3, bool))
    >>> unique_points(found, radius=0.01).states.tolist()
    [[0.0], [1.0001]]
    """
    require_number("radius", radius, lambda r: 0 <= r < math.inf, "a distance of at least 0")
    points = jax.tree.map(np.asarray, points)
    speed = np.asarray(points.speed)
    if speed.ndim != 1:
        raise ValueError(f"points got speeds of shape {speed.shape}; want (N,), the points of one network")
    flat = [leaf.reshape(len(speed), -1) for leaf in jax.tree.leaves(points.states)]
    rows = np.concatenate([part.astype(float) for leaf in flat for part in (leaf.real, leaf.imag)], axis=1)
    chosen = np.zeros(0, int)
    for n in np.argsort(speed, kind="stable"):
        if np.isfinite(speed[n]) and np.all(np.linalg.norm(rows[chosen] - rows[n], axis=1) > radius):
            chosen = np.append(chosen, n)
    return jax.tree.map(lambda a: a[chosen], points)


def stability(cell: Cell, params: Params, states: State, x: PyTree) -> Stability:
    """The eigenvalues of ∂F/∂h at each of N states, and the number of unstable directions.

    Args:
        cell, params: any cell and its weights.
        states: each part ``(N, …)``, as ``FixedPoints.states``.
        x: the constant input, as in ``fixed_points``.

    Returns:
        S eigenvalues of each state, over its recurrent parts as in ``step_jacobian``. ``np.bincount(unstable)`` counts
        the stable points, then the saddles with one unstable direction, with two, and so on.

    Raises:
        ValueError: for a layer, a state that is not floating, states of another shape or type than
            ``cell.start(params, (N,))``, states or a Jacobian that are not finite, or x that does not fit the cell.

    Example: h ↦ tanh(1.5 h) is unstable at 0, with the eigenvalue 1.5.

    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from rnn_jax import vanilla
    >>> cell = vanilla(input_size=1, hidden_size=1)
    >>> params = cell.init(jax.random.key(0))._replace(W_hh=jnp.array([[1.5]]))
    >>> found = stability(cell, params, jnp.array([[-0.85856], [0.0], [0.85856]]), jnp.zeros(1))
    >>> print(found.eigenvalues[:, 0].real.round(4), np.bincount(found.unstable))
    [0.3943 1.5    0.3943] [2 1]

    Reference: Sussillo, Barak. Opening the black box. 2013.
    """
    require_cell("cell", cell)
    require_candidates(cell, params, states, "states", least=0)
    found = _stability(cell, params, states, x)
    if not isinstance(found.unstable, Tracer) and np.any(bad := np.asarray(found.unstable) < 0):
        raise ValueError(f"x got an input at which the Jacobian of state {int(np.argmax(bad))} is not finite; want one")
    return found


@compiled("cell")
def _stability(cell: Cell, params: Params, states: State, x: PyTree) -> Stability:
    """``stability`` of checked states."""
    J = widened(jax.vmap(lambda h: step_jacobian(cell, params, h, x))(states))
    is_known = jnp.all(jnp.isfinite(J), axis=(1, 2))
    eigenvalues = jnp.linalg.eigvals(J)
    order = jnp.argsort(-jnp.abs(eigenvalues), axis=-1)
    eigenvalues = jnp.take_along_axis(eigenvalues, order, axis=-1)
    return Stability(eigenvalues, jnp.where(is_known, jnp.sum(jnp.abs(eigenvalues) > 1, axis=-1), -1))


def state_rows(cell: Cell, params: Params, states: State) -> Float[Array, "*batch S"]:
    """The numbers of each state in one row: all parts, one after the other; a complex number is two of them.

    Args:
        cell, params: any cell and its weights.
        states: with any leading axes.

    Raises:
        ValueError: for a layer, or a state that is not floating.

    >>> import jax
    >>> from rnn_jax import lstm
    >>> cell = lstm(input_size=2, hidden_size=3)
    >>> params = cell.init(jax.random.key(0))
    >>> state_rows(cell, params, cell.start(params, (5, 4))).shape
    (5, 4, 6)
    """
    layout = layout_of(cell, params, states)
    row = layout.row
    for _ in batch_shape(cell, params, states):
        row = jax.vmap(row)  # works for an axis of length 0 too
    return row(jax.tree.map(jnp.asarray, states))


def principal_components(rows: Float[np.ndarray, "*batch S"], count: int = 3) -> PrincipalComponents:
    """The principal components of states: the directions of their largest variance.

    Args:
        rows: states with any leading axes, as ``state_rows`` returns them. This function runs outside ``jit``.
        count: C, the number of directions; those beyond the dimension of the states are 0.

    Returns:
        Mean, directions and shares of the variance. The largest number of each direction is positive.

    Raises:
        ValueError: for a count below 1, no state, or states that are not finite.

    >>> found = principal_components(np.array([[3.0, 1.0], [-3.0, 1.0], [0.0, 1.0]]), count=1)
    >>> found.axes.tolist(), found.share.tolist(), found.coordinates(np.array([2.0, 5.0])).tolist()
    ([[1.0], [0.0]], [1.0], [2.0])
    """
    require_positive(count=count)
    flat = np.asarray(rows, float).reshape(math.prod(np.shape(rows)[:-1]), np.shape(rows)[-1])
    if not len(flat) or not np.isfinite(flat).all():
        got = "numbers that are not finite" if len(flat) else "no state"
        raise ValueError(f"rows got {got}; want at least one state of finite numbers")
    mean = flat.mean(axis=0)
    variance, axes = np.linalg.eigh((flat - mean).T @ (flat - mean))
    padding = max(0, count - len(variance))
    variance, axes = variance[::-1], np.pad(axes[:, ::-1], ((0, 0), (0, padding)))[:, :count]
    signs = np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0))
    share = np.pad(variance, (0, padding))[:count] / max(variance.sum(), np.finfo(float).tiny)
    return PrincipalComponents(mean, np.where(signs == 0, 1, signs) * axes, share)
