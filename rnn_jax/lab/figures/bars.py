"""Figures of bars."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnn_jax.lab.figures.style import COLOURS, Picture, figure_label, with_fonts

__all__ = ["share_figure"]

BAR_COLOURS = (COLOURS[0], COLOURS[5], COLOURS[3])


def share_figure(names: Sequence[str], shares: Mapping[str, Any]) -> Picture:
    """Shares in [0, 1] as horizontal bars: a group for each name, in which the first bar has its value in percent.

    Args:
        names: of the N groups, from top to bottom.
        shares: ``{label: (N,)}``, at most three bars in each group.

    >>> figure = share_figure(["French", "Turkish"], {"whole dates": [0.5, 0.25], "characters": [0.75, 0.5]})
    >>> [float(bar.get_width()) for bar in figure.axes[0].patches], [text.get_text() for text in figure.axes[0].texts]
    ([0.5, 0.25, 0.75, 0.5], ['50.0%', '25.0%'])
    """
    figure = Picture(figsize=(10.8, 0.42 * len(names) + 0.9), layout="constrained")
    axis, rows, height = figure.subplots(), np.arange(len(names)), 0.76 / max(1, len(shares))
    for number, ((label, values), colour) in enumerate(zip(shares.items(), BAR_COLOURS, strict=False)):
        middle = rows + (number - (len(shares) - 1) / 2) * height
        axis.barh(middle, np.asarray(values), 0.95 * height, color=colour, label=figure_label(label))
        for row, value in zip(middle, np.asarray(values), strict=True) if number == 0 else ():
            axis.text(value + 0.005, row, f"{value:.1%}", va="center", fontsize=9)
    axis.set_yticks(rows, [figure_label(name) for name in names])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.08)
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(shares))
    return with_fonts(figure)
