"""Pictures of gradients and of learning. Every function returns a matplotlib figure and saves nothing."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib import colors
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

__all__ = [
    "COLOURS",
    "Band",
    "LearningCurve",
    "ScoreCurve",
    "alignment_figure",
    "confidence_figure",
    "confusion_figure",
    "draw_confidences",
    "gain_figure",
    "gradient_figure",
    "lag_figure",
    "learning_figure",
    "score_figure",
    "with_fonts",
]

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
    count = max(1, len(panels))
    figure = Figure(figsize=(5.4 * count, 4.2), layout="constrained")
    axes = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    for axis, (title, lines) in zip(axes, panels.items(), strict=False):
        for label, band in lines.items():
            colour = COLOURS[labels.index(label) % len(COLOURS)]
            shown = Band(*(np.where(np.isfinite(row), row, np.nan) / np.log(10) for row in band))
            k = np.arange(len(shown.median))
            axis.plot(k, shown.median, color=colour, label=plain(label), **STYLE)
            axis.fill_between(k, shown.low, shown.high, color=colour, alpha=0.15, linewidth=0)
        axis.set_title(plain(title))
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
    _legend(axes[-1])
    return with_fonts(figure)


def learning_figure(
    curves: Mapping[str, LearningCurve], chance: float, baselines: Mapping[str, float] | None = None
) -> Figure:
    """Validation loss against letters read, training loss faint behind it, in nats and in bits; the mean over seeds.

    Args:
        curves: ``{label: curve}``.
        chance: nats of an even guess, where the axis ends: what is worse has come apart and leaves the picture.
        baselines: ``{label: nats}`` of what needs no network, dashed lines.
    """
    figure = Figure(figsize=(10.8, 4.4), layout="constrained")
    axis = figure.subplots()
    for (label, curve), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
        axis.plot(curve.tokens, curve.train.mean(1), color=colour, linewidth=0.8, alpha=0.5)
        axis.plot(curve.tokens, curve.validation.mean(1), color=colour, label=plain(label), **STYLE)
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
        axis.annotate(plain(label), (0, nats), offset, textcoords="offset points", color="0.4", fontsize=8, va=side)
    losses = np.concatenate([np.ravel(part) for c in curves.values() for part in (c.train, c.validation)] or [[]])
    axis.set_ylim(0.95 * min([*losses[np.isfinite(losses)], *(baselines or {}).values()], default=0.0), 1.03 * chance)
    axis.set_xlim(0, None)
    axis.set_xlabel("letters read by each seed")
    axis.set_ylabel("nats a letter")
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    bits = axis.secondary_yaxis("right", functions=(lambda nats: nats / np.log(2), lambda bits: bits * np.log(2)))
    bits.set_ylabel("bits a letter")
    bits.spines["right"].set_visible(False)
    _legend(axis, title="validation (training faint)", title_fontsize=9)
    _quiet(axis)
    return with_fonts(figure)


def gain_figure(maps: Mapping[str, Float[np.ndarray, "G K"]], gains: Sequence[float], limit: float = 30.0) -> Figure:
    """Heat maps of ln gradient norm over the gain of W_hh and the lag; a black line where the norm is that at lag 0.

    Args:
        maps: ``{label: (G, K)}``, ln‖∂L_T/∂state_{T−k}‖ − ln‖∂L_T/∂state_T‖ in nats.
        gains: the G gains, increasing, spaced evenly in their logarithm.
        limit: nats at which the colours end; a gradient of exactly zero is as blue as can be, and grey is where the
            state itself has overflowed.
    """
    across = min(max(1, len(maps)), 3)
    down = max(1, -(-len(maps) // across))
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
        axis.set_title(plain(label))
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
) -> Figure:
    """Norms while learning on a logarithmic scale, and beside them shares of the updates.

    Args:
        batches: read at each point.
        curves: ``{label: positive numbers}``.
        shares: ``{label: numbers in [0, 1]}``.
    """
    figure = Figure(figsize=(10.8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axis, lines in ((left, curves), (right, shares)):
        for (label, values), colour in zip(lines.items(), COLOURS * len(lines), strict=False):
            axis.plot(batches, values, color=colour, label=plain(label), **STYLE)
        axis.set_xlabel("batches read")
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        axis.set_xlim(0, None)
        _legend(axis)
        _quiet(axis)
    if any(np.any(values > 0) for values in curves.values()):
        left.set_yscale("log")
    right.set_ylim(-0.02, 1.02)
    right.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    return with_fonts(figure)


class ScoreCurve(NamedTuple):
    """A score in [0, 1] while learning, for S seeds."""

    examples: Float[np.ndarray, " N"]
    values: Float[np.ndarray, "N S"]


def score_figure(curves: Mapping[str, ScoreCurve], baselines: Mapping[str, float], score: str, seen: str) -> Figure:
    """A score against the examples seen: the mean over seeds, and the band between the worst and the best.

    Args:
        curves: ``{label: curve}``.
        baselines: ``{label: score}``, dashed lines.
        score, seen: what stands at the axes.
    """
    figure = Figure(figsize=(10.8, 4.0), layout="constrained")
    axis = figure.subplots()
    for (label, curve), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
        axis.plot(curve.examples, curve.values.mean(1), color=colour, label=plain(label), **STYLE)
        low, high = curve.values.min(1), curve.values.max(1)
        axis.fill_between(curve.examples, low, high, color=colour, alpha=0.15, linewidth=0)
    for label, value in baselines.items():
        axis.axhline(value, color="0.5", linewidth=0.8, linestyle=(0, (4, 3)))
        axis.annotate(plain(label), (0, value), (4, 3), textcoords="offset points", color="0.4", fontsize=8)
    axis.set_xlim(0, None)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel(plain(seen))
    axis.set_ylabel(plain(score))
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axis.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    _legend(axis, loc="lower right")
    _quiet(axis)
    return with_fonts(figure)


def confusion_figure(counts: Int[np.ndarray, "C C"], labels: Sequence[str]) -> Figure:
    """A confusion matrix: each row is a truth, shaded by the share that was taken for each column; counts inside."""
    size = 1.6 + 0.58 * len(labels)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axis = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            shade = "white" if share[row, column] > 0.5 else "0.25"
            axis.text(column, row, f"{count}", ha="center", va="center", color=shade, fontsize=9)
    names = [plain(label, 20) for label in labels]
    axis.set_xticks(range(len(labels)), names, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(labels)), names)
    axis.set_xlabel("taken for")
    axis.set_ylabel("truth")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return with_fonts(figure)


def confidence_figure(
    read: str, told: str, probabilities: Float[np.ndarray, "T V"], characters: str, *, top: int = 5, width: int = 24
) -> Figure:
    """What a model expects at each place of a text: its likeliest letters as bars, from the likeliest down.

    The right letter is green, a first guess that is wrong red, every other guess grey.

    Args:
        read: the T letters that the model read.
        told: the T letters that came next.
        probabilities: of each letter of the vocabulary, after each letter read.
        characters: the V letters.
        top: guesses that are shown.
        width: places a line.
    """
    lines = max(1, -(-len(read) // width))
    figure = Figure(figsize=(0.52 * min(width, len(read)) + 1.2, (0.22 * top + 0.75) * lines), layout="constrained")
    axes = figure.subplots(lines, 1, squeeze=False)[:, 0]
    for line, axis in enumerate(axes):
        places = slice(line * width, (line + 1) * width)
        draw_confidences(axis, told[places], probabilities[places], characters, read=read[places], top=top)
        axis.set_xlim(-0.1, min(width, len(read)))
    return with_fonts(figure)


def draw_confidences(
    axis: Any,
    told: str,
    probabilities: Float[np.ndarray, "T V"],
    characters: str,
    *,
    read: str = "",
    top: int = 5,
) -> None:
    """One line of ``confidence_figure`` on axes of one's own; what was read stands above it, if given."""
    for column, (letter, of) in enumerate(zip(told, probabilities, strict=True)):
        if read:
            axis.text(
                column + 0.45, -1.05, _visible(read[column]), ha="center", va="center", fontsize=12, weight="bold"
            )
        for row, i in enumerate(np.argsort(-of, kind="stable")[:top]):
            colour = COLOURS[3] if characters[i] == letter else COLOURS[1] if row == 0 else "0.72"
            axis.barh(row, 0.9 * of[i], 0.86, left=column, color=colour)
            axis.text(column + 0.05, row, _visible(characters[i]), va="center", fontsize=9)
    axis.set_ylim(top - 0.4, -1.6 if read else -0.6)
    axis.set_axis_off()


def alignment_figure(source: str, written: str, weights: Float[np.ndarray, "K T"]) -> Figure:
    """Which letter of a source moved which letter that was written: a row for each written one, darkest at its own top.

    Args:
        source: T letters.
        written: K letters.
        weights: of each source letter for each written one, at least 0, such as ``input_gradients`` gives.
    """
    size = max(10.8, 0.28 * len(source) + 0.6), 0.28 * len(written) + 0.6  # letters as large in every figure
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    axis.set_anchor("W")
    shares = weights / np.maximum(weights.max(axis=1, keepdims=True), np.finfo(float).tiny)
    axis.imshow(shares, cmap="Greens", vmin=0, vmax=1, aspect="equal")
    axis.set_xticks(range(len(source)), [_visible(letter) for letter in source], fontsize=11)
    axis.set_yticks(range(len(written)), [_visible(letter) for letter in written], fontsize=11)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_xticks(np.arange(len(source) + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(written) + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_visible(False)
    return with_fonts(figure)


def plain(name: str, longest: int = 60) -> str:
    """A name as a figure's text: no mathematics, no character that an SVG cannot hold, cut where it is too long.

    >>> plain("a $x$\\n")
    'a \\\\$x\\\\$ '
    """
    short = name if len(name) <= longest else name[: longest - 1] + "…"
    text = "".join(c if c.isprintable() else " " if c.isspace() else "·" for c in short).replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text  # which matplotlib leaves out of legends


def with_fonts(figure: Figure) -> Figure:
    """The figure, whose texts take the characters that the usual font lacks from others that are installed.

    What no font has is a box in a PNG; an SVG with ``svg.fonttype`` none holds the characters themselves.
    """
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    families = _families(frozenset("".join(text.get_text() for text in texts)))
    for text in texts:
        text.set_fontfamily(families)
    return figure


@functools.cache
def _families(characters: frozenset[str]) -> list[str]:
    """The usual families of fonts, and after them those that have what the usual one lacks."""
    families = list(matplotlib.rcParams["font.family"])
    usual = [get_font(findfont(FontProperties(weight=weight))) for weight in ("normal", "bold")]
    lacking = {ord(c) for c in characters if c != "\n" and not all(font.get_char_index(ord(c)) for font in usual)}
    last = "Last Resort High-Efficiency"  # a box for every character, and no warning
    fonts = sorted({entry.name: entry.fname for entry in fontManager.ttflist}.items()) if lacking else []
    for name, file in fonts:
        font = get_font(file)
        if name != last and (has := {c for c in lacking if font.get_char_index(c)}):
            families.append(name)
            lacking -= has
    return [*families, last] if lacking and last in dict(fonts) else families


def _visible(character: str) -> str:
    """A character as a figure shows it: a sign for each blank and for what cannot be printed, no mathematics."""
    known = {" ": "␣", "\n": "⏎", "\t": "⇥", "$": r"\$"}
    return known.get(character, character if character.isprintable() else "·")


def _legend(axis: Any, **options: Any) -> None:
    """A legend where there is something to tell apart."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, **options)


def _quiet(axis: Any) -> None:
    """Two spines and a light grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
