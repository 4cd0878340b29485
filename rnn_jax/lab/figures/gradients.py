"""Figures of gradients: against the lag, over the gain, and while a network is trained."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import colors
from matplotlib.ticker import MaxNLocator

from rnn_jax.lab.figures.curves import draw_baselines, draw_curves
from rnn_jax.lab.figures.style import COLOURS, STYLE, Picture, add_grid, add_legend, figure_label, with_fonts

__all__ = ["Band", "band_of", "cost_figure", "gain_figure", "gradient_figure", "lag_figure"]

FLOAT32_FLOOR = float(np.log(np.finfo(np.float32).tiny))
"""ln of the smallest normal float32: below it an ordinary gradient rounds to nothing."""


class Band(NamedTuple):
    """A quantity over examples and seeds."""

    low: Float[np.ndarray, " N"]
    median: Float[np.ndarray, " N"]
    high: Float[np.ndarray, " N"]


def band_of(curves: Float[np.ndarray, "K *examples"]) -> Band:
    """10 %, 50 % and 90 % of ``(K, …)`` over all examples whose first value is finite.

    >>> print(band_of(np.array([[0.0, 2.0, np.nan], [1.0, 3.0, 4.0]])).high)
    [2. 3.]
    """
    flat = np.asarray(curves, float).reshape(len(curves), -1)
    known = flat[:, ~np.isnan(flat).any(axis=0)]
    if not known.size:
        return Band(*[np.full(len(flat), np.nan)] * 3)
    return Band(*np.quantile(known, (0.1, 0.5, 0.9), axis=1, method="nearest"))


def lag_figure(panels: Mapping[str, Mapping[str, Band]]) -> Picture:
    """Gradient norm against lag, on a logarithmic scale: one panel for each title, one line for each label.

    Args:
        panels: ``{title: {label: band}}``, bands of ln‖∂L_T/∂state_{T−k}‖ over k = 0, 1, ….
    """
    count = max(1, len(panels))
    figure = Picture(figsize=(5.4 * count, 4.2), layout="constrained")
    axes = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    for axis, (title, lines) in zip(axes, panels.items(), strict=False):
        draw_lags(axis, lines, labels)
        axis.set_title(figure_label(title))
    scale_lags([*axes])
    axes[0].set_ylabel("gradient norm  ‖∂L$_T$ / ∂state$_{T−k}$‖")
    add_legend(axes[-1])
    return with_fonts(figure)


def draw_lags(axis: Any, lines: Mapping[str, Band], labels: Sequence[str]) -> None:
    """Bands of ln‖∂L_T/∂state_{T−k}‖ on axes; a label has the same colour everywhere by its place in ``labels``."""
    for label, band in lines.items():
        colour = COLOURS[labels.index(label) % len(COLOURS)]
        shown = Band(*(np.where(np.isfinite(row), row, np.nan) / np.log(10) for row in band))
        k = np.arange(len(shown.median))
        axis.plot(k, shown.median, color=colour, label=figure_label(label), **STYLE)
        axis.fill_between(k, shown.low, shown.high, color=colour, alpha=0.15, linewidth=0)
    axis.set_xlabel("lag k, steps back")
    add_grid(axis)


def scale_lags(axes: Sequence[Any]) -> None:
    """Powers of ten on the vertical axis, no further than 10^±60, and a line where float32 ends."""
    lowest, highest = axes[0].get_ylim()
    if lowest < 60 and highest > -60:
        axes[0].set_ylim(max(lowest, -60.0), min(highest, 60.0))
    if axes[0].get_ylim()[0] < FLOAT32_FLOOR / np.log(10):
        for axis in axes:
            axis.axhline(FLOAT32_FLOOR / np.log(10), color="0.5", linewidth=0.8, linestyle=(0, (4, 3)))
        axes[0].text(1, FLOAT32_FLOOR / np.log(10), "float32 floor", color="0.4", fontsize=8, va="bottom")
    axes[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].yaxis.set_major_formatter(lambda y, _: f"$10^{{{y:g}}}$")


def cost_figure(bands: Mapping[str, Band], curves: Mapping[str, Any], baselines: Mapping[str, float]) -> Picture:
    """The cost of a vanishing gradient: on the left the gradient against the lag, on the right the error.

    Args:
        bands: ``{label: band}`` of ln‖∂L_T/∂state_{T−k}‖ after training.
        curves: ``{label: (updates, errors)}`` with errors ``(N, S)`` of S seeds, on a logarithmic axis.
        baselines: ``{label: error}``, dashed lines.
    """
    figure = Picture(figsize=(10.8, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_lags(left, bands, list(bands))
    scale_lags([left])
    left.set_title("Gradient after training")
    left.set_ylabel("gradient norm, relative to lag 0")
    draw_curves(right, curves)
    draw_baselines(right, baselines)
    right.set_yscale("log")
    right.set_xlim(0, None)
    right.set_title("Error while learning")
    right.set_xlabel("updates")
    right.set_ylabel("mean squared error")
    add_grid(right)
    add_legend(left, loc="lower left")
    return with_fonts(figure)


def gain_figure(maps: Mapping[str, Float[np.ndarray, "G K"]], gains: Sequence[float], limit: float = 30.0) -> Picture:
    """Heat maps of ln gradient norm over the gain of W_hh and the lag; a black line where the norm is that at lag 0.

    Args:
        maps: ``{label: (G, K)}``, ln‖∂L_T/∂state_{T−k}‖ − ln‖∂L_T/∂state_T‖ in nats.
        gains: the G gains, increasing, spaced evenly in their logarithm.
        limit: nats at which the colours end; a gradient of exactly zero is as blue as can be, and grey is where the
            state itself has overflowed.
    """
    across = 2 if len(maps) == 4 else min(max(1, len(maps)), 3)
    down = max(1, -(-len(maps) // across))
    figure = Picture(figsize=(3.9 * across, 3.3 * down), layout="constrained")
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    mesh: Any = None
    for axis, (label, map_) in zip(axes.flat, maps.items(), strict=False):
        k = np.arange(map_.shape[1])
        drawn = np.ma.masked_invalid(np.where(np.isneginf(map_), -2 * limit, map_))
        axis.set_facecolor("0.75")
        norm = colors.Normalize(-limit, limit)
        mesh = axis.pcolormesh(k, gains, drawn, norm=norm, cmap="RdBu_r", rasterized=True, shading="nearest")
        if min(drawn[:, 1:].shape) > 1 and drawn[:, 1:].min() < 0 < drawn[:, 1:].max():
            axis.contour(k[1:], gains, drawn[:, 1:], levels=[0.0], colors="black", linewidths=1.2)
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axis.set_title(figure_label(label))
    for axis in list(axes.flat)[len(maps) :]:
        axis.set_visible(False)
    figure.supxlabel("lag k, steps back", fontsize=10)
    figure.supylabel("W_hh multiplied by", fontsize=10)
    if mesh is not None:
        bar = figure.colorbar(mesh, ax=axes, extend="both", shrink=0.8)
        bar.set_label("nats gained (red) or lost (blue)")
        bar.outline.set_visible(False)
    return with_fonts(figure)


def gradient_figure(
    batches: Float[np.ndarray, " N"], curves: Mapping[str, Float[np.ndarray, " N"]], shares: Mapping[str, np.ndarray]
) -> Picture:
    """Norms while learning on a logarithmic scale, and beside them shares of the updates.

    Args:
        batches: read at each point.
        curves: ``{label: positive numbers}``.
        shares: ``{label: numbers in [0, 1]}``.
    """
    figure = Picture(figsize=(10.8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axis, lines in ((left, curves), (right, shares)):
        for number, (label, values) in enumerate(lines.items()):
            dashes = (0, (3, 2)) if number == 1 else "-"  # so that overlapping lines are visible
            colour = COLOURS[number % len(COLOURS)]
            axis.plot(batches, values, color=colour, label=figure_label(label), linestyle=dashes, linewidth=1.8)
        axis.set_xlabel("batches read")
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        axis.set_xlim(0, None)
        add_legend(axis)
        add_grid(axis)
    if any(np.any(values > 0) for values in curves.values()):
        left.set_yscale("log")
    right.set_ylim(-0.02, 1.02)
    right.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    return with_fonts(figure)
