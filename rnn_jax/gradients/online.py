"""A gradient that is computed forward in time, with representations of the influence matrix M_t = dstate_t/dparams."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from rnn_jax.diagnostics.scaled import norm_of
from rnn_jax.diagnostics.states import Layout, layout_of, part_size
from rnn_jax.gradients.patterns import Dependencies, grouped_rows, influence_pattern, row_groups, step_dependencies
from rnn_jax.gradients.windows import Loss, require_floating, require_scalar, require_steps, require_sum
from rnn_jax.keys import unkey
from rnn_jax.machinery.checks import in_one_line, require_sequence
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.precision import widened
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
    def size(self) -> int:
        """S."""
        return sum(map(part_size, self.layout.parts))

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


def whole_influence(cell: FlatCell) -> Influence:
    """M itself, for RTRL."""

    def update(M: Float[Array, "S P"], s: Float[Array, " S"], x: PyTree, key: None) -> Float[Array, "S P"]:
        D, J = jax.jacrev(cell.step, argnums=(0, 1))(cell.theta, s, x)
        return J.astype(M.dtype) @ M + D.astype(M.dtype)

    return Influence(jnp.zeros((cell.size, cell.theta.size), cell.dtype), update, lambda adjoint, M: adjoint @ M)


def influence_within(cell: FlatCell, order: int) -> Influence:
    """The entries of M that differ from zero within ``order`` steps, for SnAp."""
    on = cell.dependencies()
    pattern = influence_pattern(on, order)
    if pattern.sum(axis=0).max() ** 2 <= len(pattern):
        return sparse_influence(cell, on, pattern)
    whole = whole_influence(cell)
    return whole._replace(update=lambda *args: jnp.where(pattern, whole.update(*args), 0))


def influence_on_own_unit(cell: FlatCell) -> Influence:
    """One entry of M for each param, two for a complex unit; a ValueError for a param that acts on several units."""
    on = cell.dependencies()
    pattern = influence_pattern(on, cell.size)
    most = pattern.sum(axis=0).max()
    if most > 2:
        raise ValueError(
            f"cell got {in_one_line(cell.cell)}, a param of which acts on {most} numbers of the state; want at most 2, "
            "one real or complex unit: rtrl takes any cell"
        )
    return sparse_influence(cell, on, pattern)


def sparse_influence(cell: FlatCell, on: Dependencies, pattern: Bool[np.ndarray, "S P"]) -> Influence:
    """The entries of M in a pattern: (P, K), where K is the largest number of entries of a column."""
    K, every = pattern.sum(axis=0).max(), np.arange(pattern.shape[1])[:, None]
    at = np.argsort(~pattern, axis=0, kind="stable")[: max(K, 1)].T  # (P, K), the rows of the entries of each column
    kept = pattern[at, every]
    has_D = kept & on.on_params[at, every]
    has_J = kept[:, :, None] & kept[:, None, :] & on.on_state[at[:, :, None], at[:, None, :]]
    D_groups, J_groups = row_groups(on.on_params), row_groups(on.on_state)

    def update(M: Float[Array, "P K"], s: Float[Array, " S"], x: PyTree, key: None) -> Float[Array, "P K"]:
        D = grouped_rows(lambda theta: cell.step(theta, s, x), cell.theta, D_groups)[D_groups[at], every]
        J = grouped_rows(lambda s: cell.step(cell.theta, s, x), s, J_groups)[J_groups[at][:, :, None], at[:, None, :]]
        D, J = jnp.where(has_D, D, 0).astype(M.dtype), jnp.where(has_J, J, 0).astype(M.dtype)
        return jnp.einsum("pij,pj->pi", J, M) + D

    return Influence(jnp.zeros(at.shape, cell.dtype), update, lambda adjoint, M: jnp.sum(adjoint[at] * M, axis=-1))


def rank_one_influence(cell: FlatCell) -> Influence:
    """A column and a row, whose product has the expectation M, for UORO."""

    def update(
        factors: tuple[Float[Array, " S"], Float[Array, " P"]], s: Float[Array, " S"], x: PyTree, key: PRNGKeyArray
    ) -> tuple[Float[Array, " S"], Float[Array, " P"]]:
        s_tilde, theta_tilde = factors
        nu = jax.random.rademacher(key, s.shape, s.dtype)
        _, pushed = jax.jvp(lambda s: cell.step(cell.theta, s, x), (s,), (s_tilde.astype(s.dtype),))
        _, pullback = jax.vjp(lambda theta: cell.step(theta, s, x), cell.theta)
        pushed, pulled, nu = (a.astype(cell.dtype) for a in (pushed, *pullback(nu), nu))
        return jax.tree.map(jnp.add, balanced(pushed, theta_tilde), balanced(nu, pulled))

    zero = jnp.zeros(cell.size, cell.dtype), jnp.zeros(cell.theta.size, cell.dtype)
    return Influence(zero, update, lambda adjoint, factors: jnp.vdot(adjoint, factors[0]) * factors[1])


def balanced(a: Float[Array, " N"], b: Float[Array, " M"]) -> tuple[Float[Array, " N"], Float[Array, " M"]]:
    """``(ρ a, b/ρ)``, two vectors of equal norm with the product a bᵀ; both are zero where this product is."""
    root_a, root_b = (jnp.sqrt(norm_of(c)) for c in (a, b))
    both = (root_a > 0) & (root_b > 0)
    rho = jnp.where(both, root_b, 1) / jnp.where(both, root_a, 1)
    return jnp.where(both, rho * a, 0), jnp.where(both, b / rho, 0)


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
    flat = FlatCell(cell, layout, theta, unravel, x)
    keys = None if key is None else jax.random.split(key, (T, *batch))

    def step_loss(theta: Array, s: Array, target: PyTree) -> Array:
        y = cell.output(unravel(theta), layout.state(s))
        return require_floating(require_scalar(loss(*jax.tree.map(lambda a: a[None], (y, target)))))

    with jax.default_matmul_precision("highest"):
        influence = influence_of(flat)
        update, times = (over_batch(f, batch) for f in (influence.update, influence.times))

        def on(carry: Any, inputs: Any) -> tuple[Any, None]:
            s, M, total, gradient = carry
            x, target, key = inputs
            M, s = update(M, s, x, key), flat.step(theta, s, x)
            value, (direct, adjoint) = jax.value_and_grad(step_loss, argnums=(0, 1))(theta, s, target)
            indirect = times(adjoint.astype(flat.dtype), M).reshape(-1, theta.size).sum(axis=0)
            return (s, M, total + widened(value), gradient + direct.astype(flat.dtype) + indirect), None

        s0 = layout.row(h0)
        target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), targets)
        value = jax.eval_shape(step_loss, theta, s0, target)
        M_0 = jax.tree.map(lambda a: jnp.zeros((*batch, *a.shape), a.dtype), influence.zero)
        carry = s0, M_0, widened(jnp.zeros((), value.dtype)), jnp.zeros(theta.size, flat.dtype)
        (_, _, total, gradient), _ = scan(on, carry, (xs, targets, keys))
    return total.astype(value.dtype), unravel(gradient.astype(theta.dtype))


def over_batch(f: Callable[..., Any], batch: tuple[int, ...]) -> Callable[..., Any]:
    """A function of one example, for each example of a batch."""
    for _ in batch:
        f = jax.vmap(f)
    return f
