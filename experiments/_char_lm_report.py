"""How a run of ``char_lm.py`` is shown: the page, the summary, and the table of several runs."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _cells import short
from _char_lm_training import Job, best_file, best_params
from _study import of_skipped, of_smoke, show_table, titled
from _text import draw_confidences
from rnn_jax.lab.plots import LearningCurve, gradient_figure, learning_figure
from rnn_jax.lab.report import Section, write_report

from rnn_jax.lab.runs import Run, command_line, read_metrics
from rnn_jax.losses import bits_per_char, perplexity

COLUMNS = ("", "H", "parameters", "letters read", "minutes", "nats", "bits", "perplexity", "test nats")
LEGEND = (
    "Cross-entropy a letter on the validation part, read once from its first letter to its last with the state "
    "carried, at the best look; letters and minutes of the whole training, without compiling and looking. The n-grams "
    "are interpolated (Witten, Bell), counted on the training part."
)


class Finished(NamedTuple):
    """A run that ``table`` shows."""

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]


def publish(run: Run, job: Job, bars: list[float], *, status: str, question: str, options: tuple[Any, Any]) -> None:
    """Writes summary and report of what the run has come to, and prints the table."""
    rows = read_metrics(run.folder)
    validated = [row for row in rows if row["split"] == "validation" and row["loss"] is not None]
    summary = {**job.facts, "status": status, "n_gram_nats": bars, "validation": None, "test": None}
    seen = "no score was finite" if any(row["split"] == "validation" for row in rows) else "nothing was looked at yet"
    answer = f"The run is {status}; {seen}."
    if validated:
        best = min(validated, key=lambda row: row["loss"])
        test = next((row["loss"] for row in rows if row["split"] == "test"), None)
        last = validated[-1]
        summary |= {
            "validation": best,
            "test": test,
            "tokens": last["tokens"],
            "minutes": minutes_at(run, last["batches"]),
        }
        answer = answered(job.facts["cell"], best["loss"], test, bars, status)
    answer += of_skipped(run) + of_smoke(run)
    run.write_json("summary.json", summary)  # before the figures, whatever befalls them
    sections = draw(run, job, bars, rows) if validated else []
    table = [row_of(summary), *bar_rows(bars)] if validated else bar_rows(bars)
    page = {"title": titled(run, "A model of letters"), "question": question, "answer": answer, "legend": LEGEND}
    rerun = command_line("experiments/char_lm.py", *options)
    write_report(run, **page, columns=COLUMNS, rows=table, sections=sections, samples=last_samples(run), rerun=rerun)
    show(table, answer, f"report: {run.folder / 'report.html'}")


def answered(cell: str, best: float, test: float | None, bars: Sequence[float], status: str) -> str:
    """The answer of the page, of losses in nats."""
    bar = min(bars)
    return (
        f"The {cell} costs {best:.3f} nats a letter, {bits_per_char(best):.3f} bits, "
        f"on the validation part; {bars.index(bar) + 1}-grams, the best without a network, cost {bar:.3f}."
        + (f" On the test part it costs {test:.3f}." if test is not None else "")
        + ("" if status == "done" else f" (The run is {status}.)")
    )


def about_learning(last: float) -> str:
    """The sentence under the learning curve, of the last validation in nats; NaN where it was not finite."""
    score = f"{last:.3f} nats a letter" if np.isfinite(last) else "the score is not finite"
    return f"At the end {score}; dashed: what needs no network."


def about_updates(skipped: float) -> str:
    """The sentence under the norms, of the updates that were skipped by the end."""
    return f"Means over the updates of each look; {int(skipped)} were skipped as not finite."


def minutes_at(run: Run, batches: int) -> float | None:
    """Minutes of training until a look."""
    rows = read_metrics(run.folder, "timings.jsonl")
    return next((row["wall_s"] / 60 for row in reversed(rows) if row.get("batches") == batches), None)


def draw(run: Run, job: Job, bars: list[float], rows: list[dict[str, Any]]) -> list[Section]:
    """The figures of a run that has been looked at."""
    train, validation = ([row for row in rows if row["split"] == split] for split in ("train", "validation"))
    columns = ("tokens", "loss", "grad_norm", "clipped_norm", "clipped", "update_ratio", "skipped", "batches")
    seen = {name: np.array([row.get(name) for row in train], float) for name in columns}
    scores = np.array([row["loss"] for row in validation], float)
    curve = LearningCurve(seen["tokens"], seen["loss"][:, None], scores[:, None])
    best = int(np.argmin(bars))
    figure = learning_figure(
        {short(job.facts["cell"]): curve}, np.log(job.letters.size), {f"{best + 1}-grams": bars[best]}
    )
    run.draw(
        "learning_curve",
        figure,
        ("tokens", "train", "validation"),
        [*zip(seen["tokens"], seen["loss"], scores, strict=True)],
    )
    norms = {
        "gradient norm": seen["grad_norm"],
        "after clipping": seen["clipped_norm"],
        "update / parameters": seen["update_ratio"],
    }
    skipped = np.diff(seen["skipped"], prepend=0) / np.diff(seen["batches"], prepend=0)
    figure = gradient_figure(seen["batches"], norms, {"updates clipped": seen["clipped"], "updates skipped": skipped})
    run.draw("gradients", figure, columns, [*zip(*seen.values(), strict=True)])
    sections = [
        Section("While learning", "learning_curve", about_learning(scores[-1])),
        Section("Gradients and updates", "gradients", about_updates(seen["skipped"][-1])),
    ]
    if best_file(run).is_file():
        part = job.validation[:-1, None], job.validation[1:, None]
        sections.insert(0, draw_confidences(run, job.model, best_params(run, job), job.letters, part))
    return sections


def last_samples(run: Run) -> dict[str, str]:
    """The samples of the last look, ``{title: text}``; all of them are in ``samples.txt``."""
    file = run.folder / "samples.txt"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    _, *pieces = re.split(r"^== (batch \d+, .* nats, temperature .*)$", text, flags=re.MULTILINE)
    titled = [(title, said.strip("\n")) for title, said in zip(pieces[::2], pieces[1::2], strict=True)]
    last = titled[-1][0].partition(",")[0] if titled else ""
    return {title: text for title, text in titled if title.partition(",")[0] == last}


def row_of(summary: dict[str, Any]) -> tuple[str, ...]:
    """A network's row of the table."""
    best = summary["validation"]
    return (
        summary["cell"],
        f"{summary['hidden_size']}",
        f"{summary['parameters']:,}",
        f"{summary['tokens']:,}",
        "" if summary.get("minutes") is None else f"{summary['minutes']:.1f}",
        *in_nats(best["loss"]),
        "" if summary["test"] is None else f"{summary['test']:.3f}",
    )


def bar_rows(bars: list[float]) -> list[tuple[str, ...]]:
    """The rows of the n-grams."""
    return [
        (f"{n}-grams" if n > 1 else "letters alone", "", "", "", "", *in_nats(nats), "")
        for n, nats in enumerate(bars, 1)
    ]


def in_nats(nats: float) -> tuple[str, str, str]:
    """A loss in three units."""
    return f"{nats:.3f}", f"{bits_per_char(nats):.3f}", f"{perplexity(nats):.2f}"


def print_table(finished: Sequence[Finished]) -> None:
    """Prints several runs, the best first, and the n-grams of their text."""
    known = [run for run in finished if run.summary.get("validation")]
    known.sort(key=lambda run: run.summary["validation"]["loss"])
    show([*(row_of(run.summary) for run in known), *bar_rows(finished[0].summary["n_gram_nats"])])


def show(rows: Sequence[tuple[str, ...]], *said: str) -> None:
    """Prints a table and what is to be said below."""
    show_table("A model of letters", COLUMNS, rows, LEGEND, *said)
