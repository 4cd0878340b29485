"""Panels of curves side by side, with closed forms beside the measurements."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnn_jax.lab.figures.curves import draw_baselines
from rnn_jax.lab.figures.gradients import Band
from rnn_jax.lab.figures.style import COLOURS, STYLE, Picture, add_grid, add_legend, figure_label, with_fonts

__all__ = ["band_over", "panel_figure"]

Line = tuple[np.ndarray, Band]
"""Points ``(N,)`` and a band over them."""


def band_over(values: Any) -> Band:
    """Lowest, median and highest of ``(S, N)`` over the first axis; numbers that are not finite are left out.

    >>> print(band_over(np.array([[1.0, 5.0], [2.0, np.inf], [3.0, 7.0]])).median)
    [2. 6.]
    """
    known = np.where(np.isfinite(values), values, np.nan)
    empty = np.isnan(known).all(axis=0)
    rows = [f(np.where(empty, 0, known), axis=0) for f in (np.nanmin, np.nanmedian, np.nanmax)]
    return Band(*(np.where(empty, np.nan, row) for row in rows))


def panel_figure(
    panels: Mapping[str, Mapping[str, Line]],
    *,
    x: str,
    y: str,
    theory: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]] | None = None,
    baselines: Mapping[str, float] | None = None,
    borders: Mapping[str, tuple[str, float]] | None = None,
    log_x: int | None = None,
    log_y: bool = False,
    limits: tuple[float, float] | None = None,
) -> Picture:
    """Panels of lines with bands, which share their vertical axis.

    Args:
        panels: ``{title: {label: (points, band)}}``; a label has one colour in all panels.
        x, y: labels of the axes, with units.
        theory: ``{title: {label: (points, values)}}``, drawn as black dashes over the lines.
        baselines: ``{label: value}``, thin dashed lines in all panels.
        borders: ``{title: (label, x)}``, a thin dashed vertical line in one panel.
        log_x: the base of a logarithmic horizontal axis.
        log_y: whether the vertical axis is logarithmic.
        limits: of the vertical axis.
    """
    figure = Picture(figsize=(min(3.6 * len(panels), 14.4) if len(panels) > 1 else 7.2, 3.9), layout="constrained")
    axes = figure.subplots(1, max(1, len(panels)), sharey=True, squeeze=False)[0]
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    for axis, (title, lines) in zip(axes, panels.items(), strict=False):
        drawn = {label: line for label, line in lines.items() if not np.isnan(line[1].median).all()}
        for label, (points, band) in drawn.items():
            colour = COLOURS[labels.index(label) % len(COLOURS)]
            axis.plot(points, band.median, color=colour, label=figure_label(label), **STYLE)
            axis.fill_between(points, band.low, band.high, color=colour, alpha=0.15, linewidth=0)
        for label, (points, values) in (theory or {}).get(title, {}).items():
            axis.plot(points, values, color="black", linestyle=(0, (2, 2)), linewidth=1.3, label=figure_label(label))
        for label, value in (baselines or {}).items():
            draw_baselines(axis, {label if axis is axes[0] else "": value})
        if border := (borders or {}).get(title):
            label, at = border
            axis.axvline(at, color="0.5", linewidth=0.8, linestyle=(0, (4, 3)))
            place = axis.get_xaxis_transform()
            axis.annotate(label, (at, 0.92), (4, 0), place, "offset points", color="0.4", fontsize=8)
        if log_x:
            axis.set_xscale("log", base=log_x)
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_title(figure_label(title))
        axis.set_xlabel(figure_label(x))
        add_grid(axis)
    if log_y:
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes[0].yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    if limits:
        axes[0].set_ylim(*limits)
    axes[0].set_ylabel(figure_label(y))
    for axis in axes if theory else axes[-1:]:
        add_legend(axis, fontsize=8)
    return with_fonts(figure)
