"""The page of a run: figures first, one sentence for each, then samples, and a short table; one self-contained file."""

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from matplotlib.figure import Figure

from rnn_jax.lab.commands import command_line, end_command
from rnn_jax.lab.figures import Curve, curve_figure
from rnn_jax.lab.files import FilePath
from rnn_jax.lab.options import Options, default_options
from rnn_jax.lab.progress import print_table
from rnn_jax.lab.runs import Run, read_json, read_metrics
from rnn_jax.lab.study import Scores, status_of

__all__ = [
    "Section",
    "Table",
    "TextBlock",
    "add_figure",
    "curve_rows",
    "learning_curves",
    "metric_curves",
    "percent",
    "publish",
    "score_table",
]

DIVERGED = 100.0
"""Nats of a network that has diverged: it predicts worse than any guess."""
LONGEST = 40
"""Lines of a sample on a page; ``samples.txt`` has all of them."""


class Section(NamedTuple):
    """A figure of a page with its title and the sentence under it; a notebook displays it."""

    title: str
    figure: str
    """The name of the figure in the run folder."""
    sentence: str
    svg: str

    def _repr_html_(self) -> str:
        """The figure with the sentence under it."""
        return f"{self.svg[self.svg.index('<svg') :]}<p>{html.escape(self.sentence)}</p>"

    def __repr__(self) -> str:
        """The name and the sentence."""
        return f"{self.title}: {self.sentence}"


class Table(NamedTuple):
    """A table of a page and the legend under it; a notebook displays it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    legend: str = ""

    def _repr_html_(self) -> str:
        """The table as HTML."""
        lines = [f"<tr>{''.join(f'<th>{html.escape(name)}</th>' for name in self.columns)}</tr>"]
        lines += [f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in self.rows]
        return f"<table>{''.join(lines)}</table><p>{html.escape(self.legend)}</p>"


class TextBlock(NamedTuple):
    """A text in lines, as it is; a notebook displays it. (A command prints nothing before its run has begun.)"""

    text: str

    def _repr_html_(self) -> str:
        """The text, preformatted."""
        return f"<pre>{html.escape(self.text)}</pre>"

    def __repr__(self) -> str:
        """The text."""
        return self.text


def add_figure(
    run: Run,
    name: str,
    figure: Figure,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    title: str,
    sentence: str,
) -> Section:
    """Writes a figure into the run folder, as PNG, SVG and CSV, and returns it as a section of the page.

    Args:
        run: the run folder.
        name: of the files ``figures/<name>``.
        figure: any matplotlib figure.
        columns, rows: the numbers that it shows, for the CSV.
        title: above the figure.
        sentence: the caption under the figure.
    """
    return Section(title, name, sentence, run.draw(name, figure, columns, rows))


def percent(values: Any) -> str:
    """Mean over seeds ± half their range, in percent.

    >>> percent(np.array([0.96, 0.98]))
    '97.0 ± 1.0 %'
    """
    values = np.asarray(values)
    half = (values.max() - values.min()) / 2
    return f"{100 * values.mean():.1f}" + (f" ± {100 * half:.1f} %" if len(values) > 1 else " %")


def learning_curves(
    run: Run, score: str, *, y: str, baselines: Mapping[str, float], x: str = "examples", unit: str = "examples"
) -> Section:
    """The section of a score in [0, 1] on the validation part while the networks are trained.

    Args:
        run: of a study.
        score: its name in the metrics.
        y: the label of the axis, a name of the score.
        baselines: ``{label: score}`` without a network.
        x: the field of the metrics along the horizontal axis.
        unit: of x, for the axis.
    """
    curves = metric_curves(run.folder, score, x)
    columns = ("cell", "seed", x, score)
    rows = [tuple(row[c] for c in columns) for row in read_metrics(run.folder) if row["split"] == "validation"]
    figure = curve_figure(curves, x=f"{unit} read by each network", y=y, baselines=baselines, percent=True)
    sentence = describe_curves(curves, baselines)
    return add_figure(run, "learning_curves", figure, columns, rows, title="While learning", sentence=sentence)


def metric_curves(folder: FilePath, score: str, x: str = "step", split: str = "validation") -> dict[str, Curve]:
    """A score while each kind of network was trained, from the metrics of a run; NaN where it is not finite.

    Args:
        folder: of a run.
        score: its name in the metrics.
        x: the field of the metrics along the horizontal axis: step, examples or tokens.
        split: train or validation.

    Returns:
        ``{kind: Curve((N,), (N, S))}`` for N evaluations of S seeds; a network that has fewer evaluations than the
        others of its kind, because it is still in training, is left out.
    """
    points: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for row in read_metrics(folder):
        if row["split"] == split and score in row and x in row:
            value = float("nan") if row[score] is None else row[score]
            points.setdefault(row["cell"], {}).setdefault(row.get("seed", 0), []).append((row[x], value))
    curves = {}
    for kind, of_seed in points.items():
        longest = max(map(len, of_seed.values()))
        whole = np.array([of_one for of_one in of_seed.values() if len(of_one) == longest], float)  # (S, N, 2)
        curves[kind] = Curve(whole[0, :, 0], whole[:, :, 1].T)
    return curves


def curve_rows(curves: Mapping[str, Curve]) -> list[tuple[Any, ...]]:
    """The numbers of curves as rows of a table: label, x, seed, value."""
    return [
        (label, curve.x[n], seed, value)
        for label, curve in curves.items()
        for (n, seed), value in np.ndenumerate(curve.values)
    ]


def describe_curves(curves: Mapping[str, Curve], baselines: Mapping[str, float]) -> str:
    """The sentence under the learning curves."""
    ends = ", ".join(f"{kind} {100 * curve.values[-1].mean():.1f} %" for kind, curve in curves.items())
    bars = ", ".join(f"{name} {100 * value:.1f} %" for name, value in baselines.items())
    return f"At the end, on the validation part: {ends}. Without a network: {bars}. Bands hold every seed."


def score_table(
    run: Run, scores: Scores, *, legend: str, baselines: Mapping[str, Mapping[str, float]] | None = None
) -> Table:
    """The table of a study: a row for each kind of network, then the baselines.

    Args:
        run: of a study.
        scores: as ``train`` returned them; ``loss`` is in nats, every other score in [0, 1].
        legend: explains the columns.
        baselines: ``{score: {label: value}}`` without a network; its scores are the first columns, in this order.
    """
    named = {name for of in scores.values() for name in of}
    names = [name for name in dict.fromkeys([*(baselines or {}), *sorted(named)]) if name in named - {"loss"}]
    facts = {row["cell"]: row for row in read_metrics(run.folder) if row["split"] == "test"}
    rows = [
        (
            kind,
            f"{facts[kind]['hidden_size']}",
            f"{facts[kind]['parameters']:,}",
            *(percent(of[name]) for name in names),
            f"{of['loss'].mean():.3f}" if of["loss"].mean() < DIVERGED else "diverged",
            f"{len(of['loss'])}",
        )
        for kind, of in scores.items()
    ]
    bars: dict[str, dict[str, str]] = {}
    for name, of_score in (baselines or {}).items():
        for label, value in of_score.items():
            bars.setdefault(label, {})[name] = f"{value:.3f}" if name == "loss" else f"{100 * value:.1f} %"
    rows += [(label, "", "", *(of.get(n, "") for n in names), of.get("loss", ""), "") for label, of in bars.items()]
    return Table(["", "H", "parameters", *names, "nats", "seeds"], rows, legend)


def publish(
    run: Run,
    options: Options,
    *,
    script: str,
    title: str,
    question: str,
    answer: str,
    sections: Sequence[Section],
    table: Table,
    samples: Mapping[str, str] | None = None,
    keep_samples: bool = False,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Writes ``report.html``, ``samples.txt`` and ``metrics.csv``, prints the table, and ends a command with its code.

    Args:
        run: the run folder, with ``summary.json`` and the figures.
        options: of the run.
        script: the path of the experiment, for the command that runs it again.
        title, question, answer: the head of the page.
        sections: figures, in order.
        table: the last part of the page.
        samples: ``{title: text}``.
        keep_samples: leave ``samples.txt`` as the run has written it.
        details: more fields for ``summary.json``.
    """
    summary = read_json(run.folder / "summary.json")
    status, samples = status_of(run), samples or {}
    if details:
        run.write_json("summary.json", {**summary, **details})
    if status != "done":
        answer += f" (The run is {status}.)"
    answer += describe_skipped([row for row in read_metrics(run.folder) if row["split"] == "train"])
    _write_metrics_as_csv(run)
    page = {"title": title, "question": question, "answer": answer, "is_smoke": options.smoke}
    write_page(
        run,
        **page,
        sections=sections,
        table=table,
        samples=samples,
        rerun=command_line(script, options, default_options(options)),
    )
    if samples and not keep_samples:
        run.write("samples.txt", "\n".join(f"== {name}\n{text}\n" for name, text in samples.items()))
    print_table(title, table.columns, table.rows, table.legend, answer, f"report: {run.folder / 'report.html'}")
    end_command(status)


def write_page(
    run: Run,
    *,
    title: str,
    question: str,
    answer: str,
    is_smoke: bool,
    sections: Sequence[Section],
    table: Table,
    samples: Mapping[str, str],
    rerun: str,
) -> None:
    """Writes ``report.html``, which holds its figures, its table and its numbers, and no link to the outside."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("rnn_jax.lab"), autoescape=True)
    images = [base64.b64encode(section.svg.encode()).decode("ascii") for section in sections]
    page = environment.get_template("report.html").render(
        title=title,
        question=question,
        answer=answer,
        is_smoke=is_smoke,
        table=table,
        sections=[{**s._asdict(), "image": image} for s, image in zip(sections, images, strict=True)],
        samples={name: shortened(text) for name, text in samples.items()},
        rerun=rerun,
        config=(run.folder / "config.json").read_text(encoding="utf-8"),
        env=(run.folder / "env.json").read_text(encoding="utf-8"),
    )
    run.write("report.html", page)


def shortened(text: str, longest: int = LONGEST) -> str:
    """The first lines of a text, and the number of the other lines.

    >>> shortened("a\\nb\\nc", 2)
    'a\\nb\\n… and 1 more line in samples.txt'
    """
    lines = text.split("\n")
    more = len(lines) - longest
    return (
        text if more < 1 else "\n".join([*lines[:longest], f"… and {more} more line{'s'[: more > 1]} in samples.txt"])
    )


def describe_skipped(rows: Sequence[Mapping[str, Any]]) -> str:
    """The sentence on skipped updates, of the rows of training, each of which counts them from the first update on."""
    last = {(row["cell"], row["seed"]): row for row in rows}
    counts = {cell: sum(row.get("skipped", 0) for (of, _), row in last.items() if of == cell) for cell, _ in last}
    skipped = ", ".join(f"{count:,} of {cell}" for cell, count in counts.items() if count)
    never = [cell for (cell, _), row in last.items() if row.get("skipped") and row.get("step") == 0]
    sentence = f" Updates that were skipped, as something was not finite: {skipped}." if skipped else ""
    if never:
        sentence += (
            f" With {', '.join(dict.fromkeys(never))} no update was made. The learning rate is not the cause: the "
            "first params, the inputs, or an id outside the vocabulary of the cell are."
        )
    return sentence


def _write_metrics_as_csv(run: Run) -> None:
    rows = read_metrics(run.folder)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    run.write_csv("metrics.csv", columns, [[_cell(row.get(name)) for name in columns] for row in rows])


def _cell(value: Any) -> Any:
    return "" if value is None else json.dumps(value) if isinstance(value, list | dict) else value
