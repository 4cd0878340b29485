"""A gradient that is computed forward in time, with representations of the influence matrix M_t = dstate_t/dparams."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from rnn_jax.diagnostics.states import Layout, layout_of, part_size
from rnn_jax.gradients.patterns import Dependencies, grouped_rows, influence_pattern, row_groups, step_dependencies
from rnn_jax.gradients.windows import Loss, require_scalar, require_steps, require_sum
from rnn_jax.keys import unkey
from rnn_jax.machinery.checks import in_one_line, require_sequence
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.sharding import scan
from rnn_jax.schedules.driver import batch_shape, require_fit
from rnn_jax.types import Cell, Keyed, Params, State, require_cell

__all__ = []


class FlatCell(NamedTuple):
    """One example of a cell as functions of real vectors: θ (P,) of all params, and s (S,) of the state."""

    cell: Cell
    layout: Layout
    theta: Float[Array, " P"]
    unravel: Callable[[Array], Params]
    x: PyTree
    """Shapes and types of the input of one example at one step."""

    def step(self, theta: Float[Array, " P"], s: Float[Array, "*batch S"], x: PyTree) -> Float[Array, "*batch S"]:
        """The state after a step."""
        return self.layout.row(self.cell.step(self.unravel(theta), self.layout.state(s), x))

    @property
    def dtype(self) -> Any:
        """The type of the influence and of sums: that of state and params, in at least 32 bits."""
        with jax.numpy_dtype_promotion("standard"):
            return jnp.result_type(self.layout.dtype, self.theta.dtype, jnp.float32)

    def dependencies(self) -> Dependencies:
        """Which numbers of the state depend on which numbers before the step."""
        return step_dependencies(self.cell, self.unravel(self.theta), self.layout, self.x)


class Influence(NamedTuple):
    """How M_t of one example is represented, updated and multiplied."""

    zero: PyTree
    """M_0 = 0."""
    update: Callable[[PyTree, Array, PyTree, Any], PyTree]
    """``(M_{t−1}, s_{t−1}, x_t, key) -> M_t``."""
    times: Callable[[Array, PyTree], Array]
    """``(adjoint (S,), M) -> (P,)``: the product adjointᵀ M."""


def whole_influence(rows: FlatCell) -> Influence:
    """M itself, for RTRL."""

    def update(M: Float[Array, "S P"], s: Float[Array, " S"], x: PyTree, key: None) -> Float[Array, "S P"]:
        D, J = jax.jacrev(rows.step, argnums=(0, 1))(rows.theta, s, x)
        return J.astype(M.dtype) @ M + D.astype(M.dtype)

    size = sum(map(part_size, rows.layout.parts))
    return Influence(jnp.zeros((size, rows.theta.size), rows.dtype), update, lambda adjoint, M: adjoint @ M)


def influence_within(rows: FlatCell, order: int) -> Influence:
    """The entries of M that differ from zero within ``order`` steps, for SnAp."""
    on = rows.dependencies()
    pattern = influence_pattern(on, order)
    if pattern.sum(axis=0).max() ** 2 <= len(pattern):
        return sparse_influence(rows, on, pattern)
    whole = whole_influence(rows)
    return whole._replace(update=lambda *args: jnp.where(pattern, whole.update(*args), 0))


def influence_on_own_unit(rows: FlatCell) -> Influence:
    """One entry of M for each param, two for a complex unit; a ValueError for a param that acts on several units."""
    on = rows.dependencies()
    most = influence_pattern(on, len(on.on_state)).sum(axis=0).max()
    if most > 2:
        raise ValueError(
            f"cell got {in_one_line(rows.cell)}, a param of which acts on {most} numbers of the state; want at most 2, "
            "one real or complex unit: rtrl takes any cell"
        )
    return sparse_influence(rows, on, influence_pattern(on, len(on.on_state)))


def sparse_influence(rows: FlatCell, on: Dependencies, pattern: Bool[np.ndarray, "S P"]) -> Influence:
    """The entries of M in a pattern: (P, K), where K is the largest number of entries of a column."""
    K, every = pattern.sum(axis=0).max(), np.arange(pattern.shape[1])[:, None]
    at = np.argsort(~pattern, axis=0, kind="stable")[: max(K, 1)].T  # (P, K), the rows of the entries of each column
    kept = pattern[at, every]
    has_D = kept & on.on_params[at, every]
    has_J = kept[:, :, None] & kept[:, None, :] & on.on_state[at[:, :, None], at[:, None, :]]
    D_groups, J_groups = row_groups(on.on_params), row_groups(on.on_state)

    def update(M: Float[Array, "P K"], s: Float[Array, " S"], x: PyTree, key: None) -> Float[Array, "P K"]:
        D = grouped_rows(lambda theta: rows.step(theta, s, x), rows.theta, D_groups)[D_groups[at], every]
        J = grouped_rows(lambda s: rows.step(rows.theta, s, x), s, J_groups)[J_groups[at][:, :, None], at[:, None, :]]
        D, J = jnp.where(has_D, D, 0).astype(M.dtype), jnp.where(has_J, J, 0).astype(M.dtype)
        return jnp.einsum("pij,pj->pi", J, M) + D

    return Influence(jnp.zeros(at.shape, rows.dtype), update, lambda adjoint, M: jnp.sum(adjoint[at] * M, axis=-1))


def rank_one_influence(rows: FlatCell) -> Influence:
    """A column and a row, whose product has the expectation M, for UORO."""

    def update(
        factors: tuple[Float[Array, " S"], Float[Array, " P"]], s: Float[Array, " S"], x: PyTree, key: PRNGKeyArray
    ) -> tuple[Float[Array, " S"], Float[Array, " P"]]:
        s_tilde, theta_tilde = factors
        nu = jax.random.rademacher(key, s.shape, s.dtype)
        _, pushed = jax.jvp(lambda s: rows.step(rows.theta, s, x), (s,), (s_tilde.astype(s.dtype),))
        _, pullback = jax.vjp(lambda theta: rows.step(theta, s, x), rows.theta)
        pushed, pulled, nu = (a.astype(rows.dtype) for a in (pushed, *pullback(nu), nu))
        rho_0, rho_1 = root_of_ratio(theta_tilde, pushed), root_of_ratio(pulled, nu)
        return rho_0 * pushed + rho_1 * nu, theta_tilde / rho_0 + pulled / rho_1

    size = whole_influence(rows).zero.shape
    zero = jnp.zeros(size[0], rows.dtype), jnp.zeros(size[1], rows.dtype)
    return Influence(zero, update, lambda adjoint, factors: jnp.vdot(adjoint, factors[0]) * factors[1])


def root_of_ratio(a: Float[Array, " N"], b: Float[Array, " M"]) -> Float[Array, ""]:
    """√(‖a‖ / ‖b‖), or 1 where one of them is zero."""
    size_a, size_b = jnp.linalg.norm(a), jnp.linalg.norm(b)
    both = (size_a > 0) & (size_b > 0)
    return jnp.sqrt(jnp.where(both, size_a, 1) / jnp.where(both, size_b, 1))


def require_problem(cell: Cell, params: Params, xs: PyTree, targets: PyTree, loss: Loss) -> PyTree:
    """The inputs, with typed keys; a ValueError for arguments that no estimator takes."""
    require_cell("cell", cell)
    require_sum(loss)
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            name = f"params{jax.tree_util.keystr(path)}"
            raise ValueError(f"{name} got {jnp.result_type(leaf)}; want floating numbers: others have no gradient")
    require_steps(require_sequence(xs), targets=targets)
    x, keys = unkey(xs)
    return x if keys is None else Keyed(x, keys)


def forward_gradient(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    influence_of: Callable[[FlatCell], Influence],
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, ""], Params]:
    """The loss, and its gradient by an influence that is carried forward in time."""
    xs = require_problem(cell, params, xs, targets, loss)
    return _forward_gradient(cell, params, h0, xs, targets, loss, influence_of, key)


@compiled("cell", "loss", "influence_of")
def _forward_gradient(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    influence_of: Callable[[FlatCell], Influence],
    key: PRNGKeyArray | None,
) -> tuple[Float[Array, ""], Params]:
    require_fit(cell, params, h0, xs)
    T, batch, layout = require_sequence(xs), batch_shape(cell, params, h0), layout_of(cell, params, h0)
    theta, unravel = ravel_pytree(params)
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1 + len(batch) :], a.dtype), xs)
    rows = FlatCell(cell, layout, theta, unravel, x)
    keys = None if key is None else jax.random.split(key, (T, *batch))

    def step_loss(theta: Array, s: Array, target: PyTree) -> Array:
        y = cell.output(unravel(theta), layout.state(s))
        return require_scalar(loss(*jax.tree.map(lambda a: a[None], (y, target))))

    with jax.default_matmul_precision("highest"):
        influence = influence_of(rows)
        update, times = (over_batch(f, batch) for f in (influence.update, influence.times))

        def on(carry: Any, inputs: Any) -> tuple[Any, None]:
            s, M, total, gradient = carry
            x, target, key = inputs
            M, s = update(M, s, x, key), rows.step(theta, s, x)
            value, (direct, adjoint) = jax.value_and_grad(step_loss, argnums=(0, 1))(theta, s, target)
            indirect = times(adjoint.astype(rows.dtype), M).reshape(-1, theta.size).sum(axis=0)
            return (s, M, total + value, gradient + direct.astype(rows.dtype) + indirect), None

        s0 = layout.row(h0)
        target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), targets)
        total = jnp.zeros((), jax.eval_shape(step_loss, theta, s0, target).dtype)
        M_0 = jax.tree.map(lambda a: jnp.zeros((*batch, *a.shape), a.dtype), influence.zero)
        carry = s0, M_0, total, jnp.zeros(theta.size, rows.dtype)
        (_, _, total, gradient), _ = scan(on, carry, (xs, targets, keys))
    return total, unravel(gradient.astype(theta.dtype))


def over_batch(f: Callable[..., Any], batch: tuple[int, ...]) -> Callable[..., Any]:
    """A function of one example, for each example of a batch."""
    for _ in batch:
        f = jax.vmap(f)
    return f
