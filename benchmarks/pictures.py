"""Figures of the results: contenders by shape, costs by size, gradients by lag, estimators side by side."""

from collections.abc import Callable
from math import nan
from operator import ne
from typing import Any

import numpy as np

from rnn_jax.lab.figures import COLOURS, Picture, figure_label, with_fonts
from rnn_jax.lab.figures.style import add_grid

BLACK = "#000000"
"""The colour of ours, and of no other contender."""
COLOURED = [colour for colour in COLOURS if colour != BLACK]
MARKERS = "osD^vP*X<>ph"
"""A marker for each contender, as there are more of them than colours."""


def peers_figure(records: list[dict[str, Any]]) -> Picture:
    """Seconds over the floor by shape: one column a kind of cell, one row a mode, one line a contender.

    Args:
        records: of one kind of device and one schedule, as they stand in the results.
    """
    cells = list(dict.fromkeys(record["case"]["cell"] for record in records))
    modes = list(dict.fromkeys(record["case"]["mode"] for record in records))
    names = list(dict.fromkeys(name for record in records for name in record["contenders"]))
    figure = Picture(figsize=(4.6 * len(cells) + 1.6, 3.6 * len(modes) + 0.8), layout="constrained")
    axes = figure.subplots(len(modes), len(cells), squeeze=False, sharex="col", sharey="row")
    for row, mode in enumerate(modes):
        for column, cell in enumerate(cells):
            shown = [r for r in records if (r["case"]["cell"], r["case"]["mode"]) == (cell, mode)]
            draw_contenders(axes[row, column], shown, names)
            axes[row, column].set_title(f"{cell}, {mode}", fontsize=10)
        axes[row, 0].set_ylabel("seconds over the floor")
    lines = {line.get_label(): line for axis in axes.flat for line in axis.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside right center", frameon=False, fontsize=9)
    return with_fonts(figure)


def draw_contenders(axis: Any, records: list[dict[str, Any]], names: list[str]) -> None:
    """One panel: the medians over the floor, with ours in front; a line joins the hidden sizes of one batch size."""
    sizes = [(record["case"]["B"], record["case"]["T"]) for record in records]
    places = [at + 0.8 * sum(map(ne, sizes[:at], sizes[1 : at + 1])) for at in range(len(sizes))]
    for index, name in enumerate(names):
        points: list[tuple[float, float]] = []
        for at, record in enumerate(records):
            if at and sizes[at] != sizes[at - 1]:
                points.append((places[at], nan))  # the line is interrupted
            if name in record["contenders"]:
                points.append((places[at], record["contenders"][name]["median"] / record["floor_seconds"]))
        if points:
            ours = name == "ours"
            axis.plot(
                *zip(*points, strict=True),
                color=BLACK if ours else COLOURED[index % len(COLOURED)],
                marker=MARKERS[index % len(MARKERS)],
                markersize=4,
                linewidth=2.2 if ours else 0.9,
                zorder=3 if ours else 2,
                label=figure_label(name),
            )
    shapes = [f"B {r['case']['B']} H {r['case']['H']} T {r['case']['T']}" for r in records]
    axis.set_xticks(places, shapes, rotation=90, fontsize=7)
    axis.set_yscale("log")
    add_grid(axis)


def scaling_figure(records: list[dict[str, Any]], name_of: Callable[[dict[str, Any]], str]) -> Picture:
    """Time and temporaries of a gradient by T, B and H: one line a gradient.

    Args:
        records: of one kind of device, as they stand in the results.
        name_of: the label of a line, from the case of a record.
    """
    figure = Picture(figsize=(13.5, 7.0), layout="constrained")
    axes = figure.subplots(2, 3, sharey="row")
    names = list(dict.fromkeys(name_of(record["case"]) for record in records))
    for column, by in enumerate("TBH"):
        for record in records:
            if record["case"]["axis"] == by:
                index = names.index(name_of(record["case"]))
                style: dict[str, Any] = {
                    "color": COLOURED[index % len(COLOURED)],
                    "marker": MARKERS[index % len(MARKERS)],
                }
                for row, value in enumerate(("seconds", "temp_bytes")):
                    points = [(p["size"], p[value] / (2**20 if row else 1)) for p in record["points"] if p[value]]
                    if points:
                        x, y = zip(*points, strict=True)
                        axes[row, column].plot(x, y, label=figure_label(names[index]), markersize=4, **style)
        for axis in axes[:, column]:
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xlabel(by)
            add_grid(axis)
    axes[0, 0].set_ylabel("seconds of a gradient")
    axes[1, 0].set_ylabel("temporaries, MiB")
    lines = {line.get_label(): line for axis in axes.flat for line in axis.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside right center", frameon=False, fontsize=9)
    return with_fonts(figure)


def vanishing_figure(records: list[dict[str, Any]], lowest: float = -40.0) -> Picture:
    """Gradient left by lag, before and after training, and the error by length: medians and ranges of the seeds.

    Args:
        records: of one kind of device, as they stand in the results.
        lowest: nats at which the vertical axis of the gradients ends.
    """
    figure = Picture(figsize=(13.5, 4.2), layout="constrained")
    *by_lag, by_length = figure.subplots(1, 3)
    for index, record in enumerate(records):
        name, colour = record["case"]["cell"], COLOURED[index % len(COLOURED)]
        for axis, when in zip(by_lag, ("before", "after"), strict=True):
            draw_seeds(axis, record[when]["left"], figure_label(name), colour)
        if record["closed_form"] is not None:
            lags = np.geomspace(1, max(map(int, record["before"]["left"])), 200)
            by_lag[0].plot(lags, record["closed_form"] * lags, color=colour, linewidth=1.0, linestyle=(0, (2, 2)))
        draw_seeds(by_length, record["errors"], figure_label(name), colour)
    for axis, title in zip(by_lag, ("At initialisation (dotted: closed form)", "After training"), strict=True):
        axis.set_ylim(lowest, 10)
        axis.set_xlabel("lag, steps")
        axis.set_title(title, fontsize=10)
    by_lag[0].set_ylabel("ln of the gradient left")
    by_length.set_yscale("log")
    by_length.set_ylim(1e-4, 1)  # networks that have diverged lie above
    by_length.set_xlabel("length T of the adding problem")
    by_length.set_ylabel("mean squared error")
    by_length.legend(frameon=False, fontsize=9)
    for axis in (*by_lag, by_length):
        axis.set_xscale("log")
        add_grid(axis)
    return with_fonts(figure)


def draw_seeds(axis: Any, values: dict[str, list[float | None]], label: str, colour: str) -> None:
    """The median of the seeds by the number that is the key, and their range; seeds without a value are left out."""
    known = {int(at): [v for v in of if v is not None] for at, of in values.items() if any(v is not None for v in of)}
    axis.plot(
        list(known), [np.median(of) for of in known.values()], color=colour, marker="o", markersize=3, label=label
    )
    axis.fill_between(
        list(known), [min(of) for of in known.values()], [max(of) for of in known.values()], color=colour, alpha=0.15
    )


ERRORS: dict[str, tuple[str, Callable[[dict[str, Any]], float]]] = {
    "bias": ("‖mean ĝ − g‖ / ‖g‖", lambda record: record["bias"]),
    "standard deviation": ("√E‖ĝ − mean ĝ‖² / ‖g‖", lambda record: record["variance"] ** 0.5),
    "cosine": ("of the angle between ĝ and g", lambda record: record["cosine"]),
    "time": ("gradients by BPTT", lambda record: record["figures"]["ratio"]["median"]),
}
"""The panels of the estimators, from left to right: label of the axis, and number of a record."""

LEAST = 1e-3
"""Biases and standard deviations below it are drawn there."""


def estimators_figure(records: list[dict[str, Any]]) -> Picture:
    """Bias, standard deviation, cosine and time of each estimator: one row an estimator, one marker a kind of cell.

    Args:
        records: of one kind of device, as they stand in the results.
    """
    names = list(dict.fromkeys(record["case"]["estimator"] for record in records))
    cells = list(dict.fromkeys(record["case"]["cell"] for record in records))
    figure = Picture(figsize=(13.5, 0.36 * len(names) + 1.4), layout="constrained")
    axes = figure.subplots(1, len(ERRORS), sharey=True)
    for axis, (title, (label, number)) in zip(axes, ERRORS.items(), strict=True):
        for index, cell in enumerate(cells):
            of_cell = [record for record in records if record["case"]["cell"] == cell]
            x = np.array([number(record) for record in of_cell])
            y = np.array([names.index(record["case"]["estimator"]) for record in of_cell])
            axis.plot(
                x if title in ("cosine", "time") else np.maximum(x, LEAST),
                y + 0.16 * (index - 0.5 * (len(cells) - 1)),
                color=COLOURED[index % len(COLOURED)],
                marker=MARKERS[index % len(MARKERS)],
                linestyle="none",
                markersize=5,
                label=figure_label(cell),
            )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(label)
        axis.set_xscale("linear" if title == "cosine" else "log")
        add_grid(axis)
    axes[0].set_yticks(range(len(names)), names, fontsize=9)
    axes[0].invert_yaxis()
    axes[-1].legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return with_fonts(figure)
