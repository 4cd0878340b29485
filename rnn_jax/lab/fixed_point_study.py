"""Fixed points of trained networks: their kinds, the ways that lead from a saddle, and the numbers of their figures."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from rnn_jax.diagnostics.points import (
    FixedPoints,
    principal_components,
    stability,
    state_rows,
    unique_points,
)
from rnn_jax.lab.figures.dynamics import POINT_KINDS, Portrait, point_kind
from rnn_jax.schedules import rollout
from rnn_jax.types import Cell, Params, State

__all__ = [
    "Anatomy",
    "anatomy_of",
    "eigenvalue_rows",
    "index_sum",
    "kind_counts",
    "of_kind",
    "portrait_of",
    "portrait_rows",
    "ways_out",
]


class Anatomy(NamedTuple):
    """The different fixed and slow points of one network."""

    points: FixedPoints
    """P points, the slowest first."""
    kinds: np.ndarray
    """``(P,)``, keys of ``POINT_KINDS``."""
    eigenvalues: Complex[np.ndarray, "P S"]
    """Of ∂F/∂h, the largest absolute value first."""
    outputs: Float[np.ndarray, "P O"]
    """The outputs of the network at each point."""


def anatomy_of(
    model: Cell,
    params: Params,
    found: FixedPoints,
    x: Any,
    visited: Float[np.ndarray, "*batch S"],
    *,
    radius: float,
    slow: float,
) -> Anatomy:
    """The different points of one network in the region that it visits, with kinds, eigenvalues and outputs.

    A search may also end far outside, where gates are saturated and every state is nearly at rest, but no input leads.
    The region is the box around the visited states, with a margin of half its width on each side.

    Args:
        model, params: the network.
        found: as ``fixed_points`` returns them.
        x: the constant input.
        visited: rows of states, as ``state_rows`` returns them.
        radius: of points that count as one (``unique_points``).
        slow: the largest speed of a slow point; of the points that are not fixed, faster ones are left out.
    """
    points = unique_points(found, radius)
    rows, axes = np.asarray(state_rows(model, params, points.states)), tuple(range(visited.ndim - 1))
    low, high = visited.min(axis=axes), visited.max(axis=axes)
    inside = np.all(np.abs(rows - (low + high) / 2) <= high - low, axis=1)
    kept = inside & (points.converged | (points.speed <= slow))
    points = jax.tree.map(lambda a: a[kept], points)
    eigenvalues, unstable = map(np.asarray, stability(model, params, points.states, x))
    kinds = [point_kind(int(n), is_fixed=bool(fixed)) for n, fixed in zip(unstable, points.converged, strict=True)]
    return Anatomy(points, np.array(kinds, str), eigenvalues, np.asarray(model.output(params, points.states)))


def index_sum(anatomy: Anatomy) -> int:
    """The sum of the indices of the fixed points, sign det(I − ∂F/∂h) each.

    A point with an even number of real eigenvalues above 1 counts 1, one with an odd number −1. For a network whose
    states stay in a ball the sum over all its fixed points is 1 (Lefschetz). So another sum shows that points are
    missing; a sum of 1 does not prove that none is, because two missing points of opposite index cancel.
    """
    fixed = anatomy.eigenvalues[np.asarray(anatomy.points.converged)]
    above = np.sum((np.imag(fixed) == 0) & (np.real(fixed) > 1), axis=1)
    return int(np.sum(1 - 2 * (above % 2)))


def of_kind(anatomy: Anatomy, kind: str) -> Anatomy:
    """The points of one kind."""
    return jax.tree.map(lambda a: a[anatomy.kinds == kind], anatomy)


def kind_counts(anatomy: Anatomy) -> dict[str, int]:
    """The number of points of each kind of ``POINT_KINDS``."""
    return {kind: int(np.sum(anatomy.kinds == kind)) for kind in POINT_KINDS}


def ways_out(model: Cell, params: Params, states: State, x: Any, *, steps: int, size: float, seed: int = 0) -> State:
    """The trajectories that begin on two opposite sides of each state, with a constant input.

    A displacement beside a saddle with one unstable direction grows along this direction, so the two trajectories end
    in the two basins between which the saddle stands.

    Args:
        model, params: the network.
        states: of P points, each part ``(P, …)``.
        x: the constant input.
        steps: T of the trajectories.
        size: the standard deviation of the displacement in each number.
        seed: of the displacements.

    Returns:
        States ``(T, 2·P, …)``: one side of all points, then the other side in the same order.
    """
    rng = np.random.default_rng(seed)
    shifts = jax.tree.map(lambda a: (size * rng.normal(size=a.shape)).astype(a.dtype), states)
    starts = jax.tree.map(lambda a, shift: jnp.concatenate([a + shift, a - shift]), states, shifts)
    number = len(jax.tree.leaves(starts)[0])
    return rollout(model, params, starts, jax.tree.map(lambda x: jnp.broadcast_to(x, (steps, number, *x.shape)), x))[1]


def portrait_of(
    model: Cell, params: Params, anatomy: Anatomy, visited: Float[np.ndarray, "T N S"], flows: State, *, shown: int
) -> Portrait:
    """The portrait of one network, in the principal components of the states that it visits.

    Args:
        model, params, anatomy: the network and its points.
        visited: rows of states on N sequences; the components are theirs.
        flows: states ``(T, M, …)`` of trajectories without inputs, such as ``ways_out``.
        shown: the number of visited trajectories in the portrait.
    """
    components = principal_components(visited)
    rows = np.asarray(state_rows(model, params, anatomy.points.states))
    return Portrait(
        {kind: components.coordinates(rows[anatomy.kinds == kind]) for kind in POINT_KINDS},
        components.coordinates(visited[:, :shown]),
        components.coordinates(np.asarray(state_rows(model, params, flows))),
        components.share,
    )


def portrait_rows(portraits: Mapping[str, Portrait]) -> Iterator[tuple[Any, ...]]:
    """The numbers of ``portrait_figure``: network, kind or line, number, step, and three coordinates."""
    for label, portrait in portraits.items():
        for kind, points in portrait.points.items():
            for n, point in enumerate(points):
                yield (label, kind, n, "", *(f"{z:.5g}" for z in point))
        for what, lines in (("trajectory", portrait.paths), ("from a saddle", portrait.flows)):
            for n, t in np.ndindex(lines.shape[1], lines.shape[0]):
                yield (label, what, n, t, *(f"{z:.5g}" for z in lines[t, n]))


def eigenvalue_rows(spectra: Mapping[str, Mapping[str, Complex[np.ndarray, "N S"]]]) -> Iterator[tuple[Any, ...]]:
    """The numbers of ``eigenvalue_figure``: network, kind, point, and real part, imaginary part and modulus of λ."""
    for label, spectrum in spectra.items():
        for kind, eigenvalues in spectrum.items():
            for (n, _), z in np.ndenumerate(eigenvalues):
                yield (label, kind, n, f"{z.real:.6g}", f"{z.imag:.6g}", f"{abs(z):.6g}")
