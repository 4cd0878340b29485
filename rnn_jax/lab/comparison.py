"""A comparison of several runs: their validation curves in one figure, and their best scores in a table."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnn_jax.lab.figures import Curve, Picture, curve_figure
from rnn_jax.lab.files import FilePath
from rnn_jax.lab.page import Table, metric_curves
from rnn_jax.lab.runs import read_metrics

__all__ = ["Comparison", "compare_runs"]

UNITS = {"step": "updates", "examples": "examples read by each network", "tokens": "characters read by each network"}
SMALLER_IS_BETTER = {"loss", "bits_per_char", "perplexity"}
"""Scores of the library of which less is better."""


class Comparison(NamedTuple):
    """Several runs side by side; a notebook displays the figure and the table."""

    figure: Picture
    table: Table

    def _repr_html_(self) -> str:
        """The figure, and the table under it."""
        svg = self.figure._repr_svg_()
        return svg[svg.index("<svg") :] + self.table._repr_html_()


def compare_runs(
    folders: Sequence[FilePath], score: str = "loss", *, x: str = "step", smaller_is_better: bool | None = None
) -> Comparison:
    """The validation curves of several runs, and their best and last scores.

    Args:
        folders: of runs that have written ``metrics.jsonl``, finished or not.
        score: its name in the metrics: ``loss``, in nats, or another, such as ``accuracy``.
        x: the field of the metrics along the horizontal axis: step, examples or tokens.
        smaller_is_better: whether the best score is the smallest. By default it is for ``loss``, ``bits_per_char`` and
            ``perplexity``, and the best of any other score is the largest.

    Returns:
        A curve and a row for each kind of network of each run; means over its seeds.

    Raises:
        ValueError: for a run without this score; for a folder that is given twice; for runs on several tasks (the
            field ``task`` of their metrics), whose scores cannot be compared.

    >>> import dataclasses, tempfile
    >>> from rnn_jax.lab.options import StudyOptions
    >>> from rnn_jax.lab.runs import open_run
    >>> folders = [Path(tempfile.mkdtemp()) / "slow"]
    >>> folders += [folders[0].with_name("fast")]
    >>> for folder, loss in zip(folders, (2.0, 1.0)):
    ...     run = open_run(folder, StudyOptions())
    ...     run.write_rows([{"cell": "gru", "split": "validation", "step": s, "loss": loss / s} for s in (10, 20)])
    >>> compare_runs(folders).table.rows
    [('slow', '1', '0.100', '20', '0.100'), ('fast', '1', '0.050', '20', '0.050')]
    """
    _require_comparable(folders)
    if smaller_is_better is None:
        smaller_is_better = score in SMALLER_IS_BETTER
    curves: dict[str, Curve] = {}
    for name, folder in zip(_names_of(folders), folders, strict=True):
        of_run = metric_curves(folder, score, x)
        if not of_run:
            raise ValueError(f"comparison got {folder}, which has no evaluation with the score {score!r}; want a run")
        curves |= {f"{name}: {kind}" if len(of_run) > 1 else name: curve for kind, curve in of_run.items()}
    unit, label = UNITS.get(x, x), "nats" if score == "loss" else score
    rows = [(name, *_numbers_of(curve, upwards=not smaller_is_better)) for name, curve in curves.items()]
    table = Table(["run", "seeds", f"best {label}", f"after {unit}", f"last {label}"], rows, "Means over seeds.")
    return Comparison(curve_figure(curves, x=unit, y=f"{label} on the validation part"), table)


def _require_comparable(folders: Sequence[FilePath]) -> None:
    """Raises a ValueError for a folder that is given twice, and for runs on more than one task."""
    paths = [Path(folder).resolve() for folder in folders]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice:
        raise ValueError(f"comparison got {twice} twice; want each run once")
    tasks = {row.get("task", "") for path in paths for row in read_metrics(path)}
    if len(tasks) > 1:
        raise ValueError(f"comparison got runs on the tasks {sorted(tasks)}; want runs on one task")


def _names_of(folders: Sequence[FilePath]) -> list[str]:
    """The paths of folders below the folder that they have in common; their names if they lie side by side."""
    paths = [Path(folder).resolve() for folder in folders]
    common = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(common).as_posix() for path in paths]


def _numbers_of(curve: Curve, *, upwards: bool) -> tuple[str, str, str, str]:
    """Number of seeds, the best mean, where it is reached, and the last mean."""
    means = curve.values.mean(axis=1)
    best = int(np.argmax(np.where(np.isfinite(means), means if upwards else -means, -np.inf)))
    return f"{curve.values.shape[1]}", f"{means[best]:.3f}", f"{curve.x[best]:,.0f}", f"{means[-1]:.3f}"
