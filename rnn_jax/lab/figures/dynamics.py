"""Figures of dynamics: fixed points with trajectories in principal components, and eigenvalues in the complex plane."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Complex, Float
from matplotlib.lines import Line2D

from rnn_jax.lab.figures.style import COLOURS, Picture, add_grid, figure_label, with_fonts

__all__ = ["POINT_KINDS", "Portrait", "eigenvalue_figure", "point_kind", "portrait_figure"]

POINT_KINDS = {
    "stable": {"marker": "o", "color": COLOURS[0], "markersize": 8.0},
    "saddle, 1 unstable direction": {"marker": "X", "color": COLOURS[1], "markersize": 7.5},
    "saddle, 2 unstable directions": {"marker": "D", "color": COLOURS[2], "markersize": 5.5},
    "saddle, 3 or more unstable directions": {"marker": "s", "color": COLOURS[6], "markersize": 5.5},
    "slow point": {"marker": "o", "color": "0.45", "markersize": 5.5, "markerfacecolor": "none"},
}
"""Markers of points, by kind."""
PATH = {"color": "0.78", "linewidth": 0.7}
FLOW = {"color": COLOURS[3], "linewidth": 1.3, "alpha": 0.9}
"""Lines of trajectories with inputs, and of those that leave a saddle without inputs."""


def point_kind(unstable: int, *, is_fixed: bool = True) -> str:
    """The kind of a point, a key of ``POINT_KINDS``, by its number of unstable directions.

    >>> point_kind(0), point_kind(2), point_kind(7), point_kind(0, is_fixed=False)
    ('stable', 'saddle, 2 unstable directions', 'saddle, 3 or more unstable directions', 'slow point')
    """
    return [*POINT_KINDS][min(int(unstable), 3) if is_fixed else 4]


class Portrait(NamedTuple):
    """States of one network, in coordinates of its first three principal components."""

    points: Mapping[str, Float[np.ndarray, "P 3"]]
    """Fixed points of each kind (``POINT_KINDS``)."""
    paths: Float[np.ndarray, "T N 3"]
    """Trajectories with inputs."""
    flows: Float[np.ndarray, "T M 3"]
    """Trajectories without inputs, which begin beside saddles."""
    share: Float[np.ndarray, " 3"]
    """The share of the variance in each component."""


def portrait_figure(portraits: Mapping[str, Portrait]) -> Picture:
    """Fixed points and trajectories: a row for each network, a panel for each two of three principal components.

    Args:
        portraits: ``{label: Portrait}``.

    >>> points = {"stable": np.array([[1.0, 0, 0], [-1, 0, 0]]), "saddle, 1 unstable direction": np.zeros((1, 3))}
    >>> lines = np.zeros((4, 2, 3))
    >>> figure = portrait_figure({"gru": Portrait(points, lines, lines, np.array([0.5, 0.3, 0.1]))})
    >>> [axis.get_xlabel() for axis in figure.axes]
    ['PC 1 (50 %)', 'PC 1 (50 %)', 'PC 2 (30 %)']
    """
    figure = Picture(figsize=(10.8, 3.5 * len(portraits) + 0.5), layout="constrained")
    axes = figure.subplots(max(1, len(portraits)), 3, squeeze=False)
    for row, (label, portrait) in zip(axes, portraits.items(), strict=False):
        for axis, (i, j) in zip(row, ((0, 1), (0, 2), (1, 2)), strict=True):
            draw_portrait(axis, portrait, i, j)
        row[0].set_title(figure_label(label), loc="left", weight="bold")
    kinds = [kind for kind in POINT_KINDS if any(len(of.points.get(kind, ())) for of in portraits.values())]
    lines = [
        Line2D([], [], **PATH, label="with pulses"),
        Line2D([], [], **FLOW, label="without pulses, from both sides of a saddle"),
    ]
    figure.legend(handles=[*point_entries(kinds), *lines], loc="outside upper center", ncols=4, frameon=False)
    return with_fonts(figure)


def draw_portrait(axis: Any, portrait: Portrait, i: int, j: int) -> None:
    """A portrait along the components i and j."""
    axis.plot(portrait.paths[:, :, i], portrait.paths[:, :, j], **PATH, zorder=1)
    axis.plot(portrait.flows[:, :, i], portrait.flows[:, :, j], **FLOW, zorder=2)
    for order, (kind, style) in enumerate(POINT_KINDS.items()):
        of = np.reshape(portrait.points.get(kind, np.zeros((0, 3))), (-1, 3))
        axis.plot(of[:, i], of[:, j], linestyle="none", markeredgecolor=edge(style), **style, zorder=4 + order)
    axis.set_xlabel(f"PC {i + 1} ({portrait.share[i]:.0%})".replace("%", " %"))
    axis.set_ylabel(f"PC {j + 1} ({portrait.share[j]:.0%})".replace("%", " %"))
    axis.set_aspect("equal", adjustable="datalim")
    add_grid(axis)


def point_entries(kinds: Sequence[str]) -> list[Line2D]:
    """Entries of a legend for these kinds of points."""
    return [
        Line2D([], [], linestyle="none", markeredgecolor=edge(POINT_KINDS[kind]), **POINT_KINDS[kind], label=kind)
        for kind in kinds
    ]


def edge(style: Mapping[str, Any]) -> str:
    """The colour around a marker: white, so that markers on top of each other are distinguished."""
    return style["color"] if "markerfacecolor" in style else "white"


def eigenvalue_figure(spectra: Mapping[str, Mapping[str, Complex[np.ndarray, " N"]]]) -> Picture:
    """Eigenvalues in the complex plane with the unit circle: a panel for each network, a colour for each kind of point.

    Args:
        spectra: ``{label: {kind: eigenvalues}}`` with the kinds of ``POINT_KINDS``.

    >>> figure = eigenvalue_figure({"gru": {"stable": np.array([0.5 + 0.2j, 0.5 - 0.2j])}})
    >>> figure.axes[0].get_title()
    'gru'
    """
    count = max(1, len(spectra))
    across = min(count, 3)
    down = -(-count // across)
    figure = Picture(figsize=(10.8, 10.8 / max(2, across) * down + 0.4), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    angle = np.linspace(0, 2 * np.pi, 361)
    for axis, (label, spectrum) in zip(axes.flat, spectra.items(), strict=False):
        axis.plot(np.cos(angle), np.sin(angle), color="0.5", linewidth=1.0, zorder=1)
        for order, (kind, style) in enumerate(POINT_KINDS.items()):
            of = np.ravel(spectrum.get(kind, np.zeros(0)))
            small = {**style, "markersize": 0.6 * style["markersize"], "alpha": 0.75, "markeredgewidth": 0.3}
            axis.plot(
                np.real(of), np.imag(of), linestyle="none", markeredgecolor=edge(style), **small, zorder=2 + order
            )
        axis.set_title(figure_label(label))
        axis.set_xlabel("real part of λ")
        axis.set_aspect("equal", adjustable="datalim")
        add_grid(axis)
    for row in axes:
        row[0].set_ylabel("imaginary part of λ")
    for axis in axes.flat[len(spectra) :]:
        axis.set_visible(False)
    kinds = [kind for kind in POINT_KINDS if any(len(of.get(kind, ())) for of in spectra.values())]
    circle = Line2D([], [], color="0.5", linewidth=1.0, label="|λ| = 1")
    figure.legend(handles=[*point_entries(kinds), circle], loc="outside upper center", ncols=6, frameon=False)
    return with_fonts(figure)
