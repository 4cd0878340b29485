"""Pictures of gradients and of learning. Every function returns a matplotlib figure and saves nothing."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import colors
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000", "#999933")
"""Told apart by colour-blind readers too; Okabe and Ito 2008."""
FLOAT32_FLOOR = float(np.log(np.finfo(np.float32).tiny))
"""ln of the smallest normal float32: below it an ordinary gradient rounds to nothing."""
STYLE = {"linewidth": 1.8, "solid_capstyle": "round"}


class Band(NamedTuple):
    """A quantity over examples and seeds."""

    low: Float[np.ndarray, " N"]
    median: Float[np.ndarray, " N"]
    high: Float[np.ndarray, " N"]


class LearningCurve(NamedTuple):
    """Losses in nats a letter, for S seeds."""

    tokens: Float[np.ndarray, " N"]
    train: Float[np.ndarray, "N S"]
    validation: Float[np.ndarray, "N S"]


def lag_figure(panels: Mapping[str, Mapping[str, Band]]) -> Figure:
    """Gradient norm against lag, on a logarithmic scale; one panel a title, one line a label.

    Args:
        panels: ``{title: {label: band}}``, bands of ln‖∂L_T/∂state_{T−k}‖ over k = 0, 1, ….
    """
    figure = Figure(figsize=(5.4 * len(panels), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for label, band in lines.items():
            colour = COLOURS[labels.index(label) % len(COLOURS)]
            shown = Band(*(np.where(np.isfinite(row), row, np.nan) / np.log(10) for row in band))
            k = np.arange(len(shown.median))
            axis.plot(k, shown.median, color=colour, label=label, **STYLE)
            axis.fill_between(k, shown.low, shown.high, color=colour, alpha=0.15, linewidth=0)
        axis.set_title(title)
        axis.set_xlabel("lag k, steps back")
        _quiet(axis)
    lowest, highest = axes[0].get_ylim()
    if lowest < 60 and highest > -60:
        axes[0].set_ylim(max(lowest, -60.0), min(highest, 60.0))
    if axes[0].get_ylim()[0] < FLOAT32_FLOOR / np.log(10):
        for axis in axes:
            axis.axhline(FLOAT32_FLOOR / np.log(10), color="0.5", linewidth=0.8, linestyle=(0, (4, 3)))
        axes[0].text(1, FLOAT32_FLOOR / np.log(10), "float32 floor", color="0.4", fontsize=8, va="bottom")
    axes[0].set_ylabel("gradient norm  ‖∂L$_T$ / ∂state$_{T−k}$‖")
    axes[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].yaxis.set_major_formatter(lambda y, _: f"$10^{{{y:g}}}$")
    axes[-1].legend(frameon=False)
    return figure


def learning_figure(curves: Mapping[str, LearningCurve], chance: float) -> Figure:
    """Validation loss against letters read, training loss faint behind it, in nats and in bits; the mean over seeds.

    Args:
        curves: ``{label: curve}``.
        chance: nats of an even guess, where the axis ends: what is worse has come apart and leaves the picture.
    """
    figure = Figure(figsize=(10.8, 4.4), layout="constrained")
    axis = figure.subplots()
    for (label, curve), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
        axis.plot(curve.tokens, curve.train.mean(1), color=colour, linewidth=0.8, alpha=0.5)
        axis.plot(curve.tokens, curve.validation.mean(1), color=colour, label=label, **STYLE)
        axis.fill_between(
            curve.tokens,
            curve.validation.min(1),
            curve.validation.max(1),
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    axis.axhline(chance, color="0.5", linewidth=0.8, linestyle=(0, (4, 3)))
    axis.annotate("even guess", (0, chance), (4, -3), textcoords="offset points", color="0.4", fontsize=8, va="top")
    losses = np.concatenate([np.concatenate([c.train, c.validation], axis=None) for c in curves.values()])
    axis.set_ylim(0.95 * min(losses[np.isfinite(losses)], default=0.0), 1.03 * chance)
    axis.set_xlim(0, None)
    axis.set_xlabel("letters read by each seed")
    axis.set_ylabel("nats a letter")
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    bits = axis.secondary_yaxis("right", functions=(lambda nats: nats / np.log(2), lambda bits: bits * np.log(2)))
    bits.set_ylabel("bits a letter")
    bits.spines["right"].set_visible(False)
    axis.legend(frameon=False, title="validation (training faint)", title_fontsize=9)
    _quiet(axis)
    return figure


def gain_figure(maps: Mapping[str, Float[np.ndarray, "G K"]], gains: Sequence[float], limit: float = 30.0) -> Figure:
    """Heat maps of ln gradient norm over the gain of W_hh and the lag; a black line where the norm is that at lag 0.

    Args:
        maps: ``{label: (G, K)}``, ln‖∂L_T/∂state_{T−k}‖ − ln‖∂L_T/∂state_T‖ in nats.
        gains: the G gains, increasing, spaced evenly in their logarithm.
        limit: nats at which the colours end; a gradient of exactly zero is as blue as can be, and grey is where the
            state itself has overflowed.
    """
    across = min(len(maps), 3)
    down = -(-len(maps) // across)
    figure = Figure(figsize=(3.9 * across, 3.3 * down), layout="constrained")
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    mesh: Any = None
    for axis, (label, map_) in zip(axes.flat, maps.items(), strict=False):
        k = np.arange(map_.shape[1])
        seen = np.ma.masked_invalid(np.where(np.isneginf(map_), -2 * limit, map_))
        axis.set_facecolor("0.75")
        norm = colors.Normalize(-limit, limit)
        mesh = axis.pcolormesh(k, gains, seen, norm=norm, cmap="RdBu_r", rasterized=True, shading="nearest")
        if min(seen[:, 1:].shape) > 1 and seen[:, 1:].min() < 0 < seen[:, 1:].max():
            axis.contour(k[1:], gains, seen[:, 1:], levels=[0.0], colors="black", linewidths=1.2)
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axis.set_title(label)
    for axis in list(axes.flat)[len(maps) :]:
        axis.set_visible(False)
    figure.supxlabel("lag k, steps back", fontsize=10)
    figure.supylabel("W_hh multiplied by", fontsize=10)
    if mesh is not None:
        bar = figure.colorbar(mesh, ax=axes, extend="both", shrink=0.8)
        bar.set_label("nats gained (red) or lost (blue)")
        bar.outline.set_visible(False)
    return figure


def _quiet(axis: Any) -> None:
    """Two spines and a light grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
