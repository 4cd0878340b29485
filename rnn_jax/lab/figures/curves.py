"""Figures of curves: any quantity against any other, for one or more seeds, and losses of characters."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from rnn_jax.lab.figures.style import COLOURS, STYLE, Picture, add_grid, add_legend, figure_label, with_fonts

__all__ = ["Curve", "LearningCurve", "curve_figure", "learning_figure"]


class Curve(NamedTuple):
    """A quantity at N points, for S seeds."""

    x: Float[np.ndarray, " N"]
    values: Float[np.ndarray, "N *S"]
    """``(N,)``, or ``(N, S)`` for S seeds."""


def curve_figure(
    curves: Mapping[str, Any],
    *,
    x: str,
    y: str,
    baselines: Mapping[str, float] | None = None,
    percent: bool = False,
    log: bool = False,
) -> Picture:
    """A figure of any curves: the mean over seeds as a line, and a band from the lowest seed to the highest.

    Args:
        curves: ``{label: Curve(x, values)}``, or any pair of arrays ``(N,)`` and ``(N,)`` or ``(N, S)``.
        x, y: labels of the axes, with units.
        baselines: ``{label: value}``, drawn as dashed lines.
        percent: values are in [0, 1] and shown in percent.
        log: the vertical axis is logarithmic.

    >>> figure = curve_figure({"tanh": (np.arange(3), np.array([3.0, 2.0, 1.0]))}, x="updates", y="loss, nats")
    >>> figure.axes[0].get_ylabel()
    'loss, nats'
    """
    figure = Picture(figsize=(10.8, 4.0), layout="constrained")
    axis = figure.subplots()
    draw_curves(axis, curves)
    draw_baselines(axis, baselines or {})
    if log:
        axis.set_yscale("log")
    if percent:
        axis.set_ylim(0, 1.02)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_xlim(0, None)
    axis.set_xlabel(figure_label(x))
    axis.set_ylabel(figure_label(y))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    add_legend(axis, loc="lower right" if percent else "best")
    add_grid(axis)
    return with_fonts(figure)


def draw_curves(axis: Any, curves: Mapping[str, Any]) -> None:
    """The mean over seeds of each curve, and a band from the lowest seed to the highest."""
    for (label, curve), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
        points, values = (np.asarray(part, float) for part in curve)
        seeds = values.reshape(len(points), -1)
        axis.plot(points, seeds.mean(1), color=colour, label=figure_label(label), **STYLE)
        axis.fill_between(points, seeds.min(1), seeds.max(1), color=colour, alpha=0.15, linewidth=0)


def draw_baselines(axis: Any, baselines: Mapping[str, float]) -> None:
    """Dashed lines with their labels."""
    for label, value in baselines.items():
        axis.axhline(value, color="0.5", linewidth=0.8, linestyle=(0, (4, 3)))
        place = axis.get_yaxis_transform()  # at the left border, whatever number it stands for
        axis.annotate(figure_label(label), (0, value), (4, 3), place, "offset points", color="0.4", fontsize=8)


class LearningCurve(NamedTuple):
    """Losses in nats per character, for S seeds."""

    tokens: Float[np.ndarray, " N"]
    train: Float[np.ndarray, "N S"]
    validation: Float[np.ndarray, "N S"]


def learning_figure(
    curves: Mapping[str, LearningCurve], chance: float, baselines: Mapping[str, float] | None = None
) -> Picture:
    """Validation loss against characters read, with a faint training loss, in nats and in bits; means over seeds.

    Args:
        curves: ``{label: curve}``.
        chance: nats of an even guess, where the axis ends: a diverged loss, which is larger, is not drawn.
        baselines: ``{label: nats}`` of models without a network, dashed lines.
    """
    figure = Picture(figsize=(10.8, 4.4), layout="constrained")
    axis = figure.subplots()
    for (label, curve), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
        axis.plot(curve.tokens, curve.train.mean(1), color=colour, linewidth=0.8, alpha=0.5)
        axis.plot(curve.tokens, curve.validation.mean(1), color=colour, label=figure_label(label), **STYLE)
        axis.fill_between(
            curve.tokens,
            curve.validation.min(1),
            curve.validation.max(1),
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    lines = [("even guess", chance, (4, -3), "top"), *((*bar, (4, 2), "bottom") for bar in (baselines or {}).items())]
    for label, nats, offset, side in lines:
        axis.axhline(nats, color="0.5", linewidth=0.8, linestyle=(0, (4, 3)))
        axis.annotate(
            figure_label(label), (0, nats), offset, textcoords="offset points", color="0.4", fontsize=8, va=side
        )
    losses = np.concatenate([np.ravel(part) for c in curves.values() for part in (c.train, c.validation)] or [[]])
    axis.set_ylim(0.95 * min([*losses[np.isfinite(losses)], *(baselines or {}).values()], default=0.0), 1.03 * chance)
    axis.set_xlim(0, None)
    axis.set_xlabel("characters read by each network")
    axis.set_ylabel("nats per character")
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    bits = axis.secondary_yaxis("right", functions=(lambda nats: nats / np.log(2), lambda bits: bits * np.log(2)))
    bits.set_ylabel("bits per character")
    bits.spines["right"].set_visible(False)
    add_legend(axis, title="validation (training faint)", title_fontsize=9)
    add_grid(axis)
    return with_fonts(figure)
