"""How the scores of a study are shown: the table, the curves, the summary, the page."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from _study import Study, carry_out, of_skipped, of_smoke, show_table, titled
from _training import Networks, Task, finished, learn_all
from rnn_jax.lab.plots import ScoreCurve, score_figure
from rnn_jax.lab.report import Section, write_report

from rnn_jax.lab.runs import Run, command_line, read_metrics

Scores = dict[str, dict[str, np.ndarray]]
"""``{kind: {score: (S,)}}`` on the test part, one for each seed."""
DIVERGED = 100.0
"""Nats of a network that has come apart: it predicts worse than any guess."""


def test_scores(run: Run, kinds: Iterable[str]) -> Scores:
    """The scores of finished networks on the test part, as the metrics have them, in the order of ``kinds``."""
    found: dict[str, dict[str, list[float]]] = {kind: {} for kind in kinds}
    facts = {name for row in _rows(run, "train") for name in row} - {"loss"}  # what stands on every row is no score
    for row in (row for row in _rows(run, "test") if row["cell"] in found):
        for name in (name for name in row if name not in facts):
            found[row["cell"]].setdefault(name, []).append(row[name])
    return {kind: {name: np.array(v, float) for name, v in scores.items()} for kind, scores in found.items() if scores}


def shown(values: np.ndarray) -> str:
    """Mean over seeds ± half their range, in percent.

    >>> shown(np.array([0.96, 0.98]))
    '97.0 ± 1.0 %'
    """
    half = (values.max() - values.min()) / 2
    return f"{100 * values.mean():.1f}" + (f" ± {100 * half:.1f} %" if len(values) > 1 else " %")


def draw_curves(
    run: Run, kinds: Iterable[str], score: str, baselines: Mapping[str, float], label: str, seen: str = "examples"
) -> Section:
    """The score on the validation part while learning."""
    columns = ("cell", "seed", "examples", score)
    rows = [tuple(row[column] for column in columns) for row in _rows(run, "validation")]
    curves = {}
    for kind in kinds:
        of_seed: dict[int, list[tuple[float, float]]] = {}
        for _, seed, *point in (row for row in rows if row[0] == kind):
            of_seed.setdefault(seed, []).append(tuple(point))
        longest = max(map(len, of_seed.values()))  # a network that was interrupted has a shorter curve
        points = np.array([curve for curve in of_seed.values() if len(curve) == longest], float)  # (S, N, 2)
        curves[kind] = ScoreCurve(points[0, :, 0], points[:, :, 1].T)
    run.draw("learning_curves", score_figure(curves, baselines, label, f"{seen} seen by each network"), columns, rows)
    return Section("While learning", "learning_curves", about_curves(curves, baselines))


def about_curves(curves: Mapping[str, ScoreCurve], baselines: Mapping[str, float]) -> str:
    """The sentence under the learning curves."""
    told = ", ".join(f"{kind} {100 * curve.values[-1].mean():.1f} %" for kind, curve in curves.items())
    beside = ", ".join(f"{name} {100 * value:.1f} %" for name, value in baselines.items())
    return (
        f"On the part held out for validation, {told} at the end; the bar to clear: {beside}. "
        "Bands hold every seed that has come as far."
    )


def confusion(guesses: np.ndarray, truth: np.ndarray, count: int) -> np.ndarray:
    """``(C, C)``: how often each truth, a row, was taken for each class, a column."""
    return np.bincount(truth * count + guesses, minlength=count * count).reshape(count, count)


class Shown(NamedTuple):
    """What an experiment says and draws."""

    answer: str
    sections: Sequence[Section]
    samples: Mapping[str, str] = {}
    details: Mapping[str, Any] = {}
    """More for ``summary.json``."""


def conduct(
    run: Run,
    options: tuple[Study, Study],
    tasks: Mapping[str, Task],
    show: Callable[[Networks, Scores], Shown],
    **page: Any,
) -> int:
    """Trains the networks, shows what is finished whatever happens, and returns the exit code.

    Args:
        run: the open folder.
        options: the configuration, and the defaults it was read against.
        tasks: ``{kind: task}``, in the order of the table.
        show: says and draws what the networks and their scores on the test part show.
        **page: script, the experiment's file; title, question, legend; baselines ``{score: {label: value}}`` of what
            needs no network.
    """
    networks: Networks = {}

    def work() -> None:
        networks.update(finished(options[0], run, tasks))
        learn_all(options[0], run, tasks, networks)

    def show_all(status: str) -> None:
        scores = test_scores(run, [kind for kind in tasks if kind in networks])
        publish(run, options, status, scores, lambda: show(networks, scores), **page)

    return carry_out(work, show_all)


def publish(
    run: Run,
    options: tuple[Study, Study],
    status: str,
    scores: Scores,
    show: Callable[[], Shown],
    *,
    script: str,
    title: str,
    question: str,
    legend: str,
    baselines: Mapping[str, Mapping[str, float]],
) -> None:
    """Writes the summary and the report of the networks that are finished, and prints the table.

    Args:
        run, options, script, title, question, legend, baselines: as in ``conduct``.
        status: how the run ended.
        scores: of the networks that are finished, in the order of the table.
        show: says and draws what they show.
    """
    networks = {
        kind: {name: {"mean": values.mean(), "of_seeds": values.tolist()} for name, values in of.items()}
        for kind, of in scores.items()
    }
    summary = {"status": status, "networks": networks, "baselines": baselines}
    run.write_json("summary.json", summary)  # before the figures, whatever befalls them
    told = show() if scores else Shown(f"The run is {status}; no network was finished.", [])
    run.write_json("summary.json", {**summary, **told.details})
    answer = told.answer if status == "done" or not scores else f"{told.answer} (The run is {status}.)"
    answer += of_skipped(run) + of_smoke(run)
    columns, rows = _table(run, scores, baselines)
    page = {
        "title": titled(run, title),
        "question": question,
        "answer": answer,
        "columns": columns,
        "rows": rows,
        "legend": legend,
    }
    rerun = command_line(f"experiments/{script}", *options)
    write_report(run, **page, sections=told.sections, samples=told.samples, rerun=rerun)
    if told.samples:
        run.write("samples.txt", "\n".join(f"== {name}\n{text}\n" for name, text in told.samples.items()))
    show_table(title, columns, rows, legend, answer, f"report: {run.folder / 'report.html'}")


def _table(
    run: Run, scores: Scores, baselines: Mapping[str, Mapping[str, float]]
) -> tuple[list[str], list[tuple[str, ...]]]:
    """The columns and rows of the table: every kind of network, then what needs none."""
    names = [name for name in dict.fromkeys(name for of in scores.values() for name in of) if name != "loss"]
    facts = {row["cell"]: row for row in _rows(run, "test")}
    rows = [
        (
            kind,
            f"{facts[kind]['hidden_size']}",
            f"{facts[kind]['parameters']:,}",
            *(shown(of[name]) for name in names),
            f"{of['loss'].mean():.3f}" if of["loss"].mean() < DIVERGED else "diverged",
            f"{len(of['loss'])}",
        )
        for kind, of in scores.items()
    ]
    bars = {label: {} for of in baselines.values() for label in of}
    for name, of in baselines.items():
        for label, value in of.items():
            bars[label][name] = f"{value:.3f}" if name == "loss" else f"{100 * value:.1f} %"
    rows += [(label, "", "", *(of.get(n, "") for n in names), of.get("loss", ""), "") for label, of in bars.items()]
    return ["", "H", "parameters", *names, "nats", "seeds"], rows


def _rows(run: Run, split: str) -> list[dict[str, Any]]:
    return [row for row in read_metrics(run.folder) if row["split"] == split]
