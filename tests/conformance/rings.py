"""The fixed points of small ring networks that a finder of fixed points keeps as ground truth, with their Jacobians.

h ↦ tanh(W h), without an input; row i of the matrix that multiplies a row of states is −(−1 … 1), rotated by i.
"""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import vanilla
from rnn_jax.cells import VanillaParams
from rnn_jax.diagnostics.jacobians import step_jacobian
from rnn_jax.diagnostics.points import fixed_points, unique_points
from tests.conformance.cases import DIRECTLY, Case, Suite, error_of, stored

NAME = "Fixed points of rings"
TOLERANCE = 1e-6  # theirs are float32


def cases() -> Iterator[Case]:
    """Each of their points is found, its Jacobian is theirs, and no other point is found."""
    for name, truth in stored("fixed_points").items():
        H = int(name)
        W_hh = np.stack([-np.roll(np.linspace(-1, 1, H), -row) for row in range(H)])
        cell, params = vanilla(1, H), VanillaParams(jnp.zeros((1, H)), jnp.asarray(W_hh), jnp.zeros(H))
        grid = jnp.array(list(itertools.product((-1.0, 0.1, 0.9), repeat=H)))
        found = unique_points(fixed_points(cell, params, grid, jnp.zeros(1)), 1e-3)
        points = np.asarray(found.states)[np.asarray(found.converged)]
        number = error_of(len(points), len(truth["xstar"]))
        yield Case(NAME, f"{H} units, the number of points", DIRECTLY, number, 0.0)
        at = jax.vmap(lambda h, cell=cell, params=params: step_jacobian(cell, params, h, jnp.zeros(1)))
        for place, (x, J) in enumerate(zip(truth["xstar"], truth["J_xstar"], strict=True)):
            nearest = points[np.argmin(np.abs(points - x).max(axis=1))]
            yield Case(NAME, f"{H} units, point {place}", DIRECTLY, error_of(nearest, x), TOLERANCE)
            got = at(jnp.asarray(nearest)[None])[0]
            yield Case(NAME, f"{H} units, Jacobian {place}", DIRECTLY, error_of(got, J), TOLERANCE)


SUITE = Suite(
    NAME,
    "[mattgolub/fixed-point-finder](https://github.com/mattgolub/fixed-point-finder) `1a30417`, its ground truth",
    "all fixed points of vanilla networks of 2, 3 and 4 units, and the Jacobian at each",
    cases,
)
