"""The common parts of all figures: colours, fonts, and the picture that a notebook displays."""

import functools
import io
from collections.abc import Sequence
from typing import Any, TypeVar

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text

__all__ = ["COLOURS", "STYLE", "Picture", "figure_label", "images_of", "with_fonts"]

COLOURS = ("#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000", "#999933")
"""Colour-blind readers can distinguish them too; Okabe and Ito 2008."""
STYLE = {"linewidth": 1.8, "solid_capstyle": "round"}
"""Of lines."""


AnyFigure = TypeVar("AnyFigure", bound=Figure)


class Picture(Figure):
    """A matplotlib figure that a notebook displays as the last value of a cell, without ``%matplotlib inline``."""

    def _repr_svg_(self) -> str:
        """The figure as SVG."""
        return images_of(self, ("svg",))["svg"].decode("utf-8")


def images_of(figure: Figure, kinds: Sequence[str] = ("png", "svg")) -> dict[str, bytes]:
    """The files of a figure, ``{"png": bytes, "svg": bytes}``, all with one layout.

    The SVG holds text as text, which makes it ten times smaller.
    """
    images = {}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rnn_jax"}):
        with_fonts(figure).draw_without_rendering()
        figure.set_layout_engine("none")
        for kind in kinds:
            image = io.BytesIO()
            figure.savefig(image, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
            images[kind] = image.getvalue()
    return images


def figure_label(name: str, longest: int = 60) -> str:
    """A name as a figure's text: no mathematics, no character that an SVG cannot hold, cut where it is too long.

    >>> figure_label("a $x$\\n")
    'a \\\\$x\\\\$ '
    """
    short = name if len(name) <= longest else name[: longest - 1] + "…"
    text = "".join(c if c.isprintable() else " " if c.isspace() else "·" for c in short).replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text  # which matplotlib leaves out of legends


def with_fonts(figure: AnyFigure) -> AnyFigure:
    """The figure, with other installed fonts for the characters that the usual font lacks.

    A character that no font has is a box in a PNG; an SVG with ``svg.fonttype`` none holds the characters themselves.
    """
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    families = _families(frozenset("".join(text.get_text() for text in texts)))
    for text in texts:
        text.set_fontfamily(families)
    return figure


@functools.cache
def _families(characters: frozenset[str]) -> list[str]:
    """The usual families of fonts, and after them those that have the characters that the usual one lacks."""
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


def visible_character(character: str) -> str:
    """A character as a figure shows it: a sign for each blank and for each unprintable character, no mathematics."""
    known = {" ": "␣", "\n": "⏎", "\t": "⇥", "$": r"\$"}
    return known.get(character, character if character.isprintable() else "·")


def add_legend(axis: Any, **options: Any) -> None:
    """A legend, if any curve has a label."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, **options)


def add_grid(axis: Any) -> None:
    """Two spines and a light grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
