"""Scores of models of characters: losses in nats, bits and as perplexity, beside n-grams, and the table of runs."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnn_jax.data.ngrams import witten_bell
from rnn_jax.lab.page import Table
from rnn_jax.lab.runs import Run, read_metrics
from rnn_jax.losses import bits_per_char, perplexity

__all__ = [
    "last_samples",
    "n_gram_nats",
    "n_gram_table",
    "run_table",
    "summary_of_run",
    "validation_losses",
    "with_units",
]

COLUMNS = ("", "H", "parameters", "characters read", "minutes", "nats", "bits", "perplexity", "test nats")
LEGEND = (
    "Cross-entropy per character on the validation part, read once from its first character to its last with the state "
    "carried on, at the best evaluation. Characters and minutes: of the whole training, without compilation and "
    "evaluation. The n-grams are interpolated (Witten, Bell 1991) and counted on the training part."
)


def with_units(loss: float) -> dict[str, float]:
    """The fields of a row of the metrics for a loss in nats per character.

    >>> {name: round(value, 3) for name, value in with_units(np.log(4)).items()}
    {'loss': 1.386, 'bits_per_char': 2.0, 'perplexity': 4.0}
    """
    return {"loss": loss, "bits_per_char": bits_per_char(loss), "perplexity": perplexity(loss)}


def n_gram_nats(train: np.ndarray, validation: np.ndarray, vocabulary_size: int, longest: int = 6) -> list[float]:
    """The losses of n-grams of 1, 2, …, ``longest`` characters, in nats per character.

    Args:
        train: ids that are counted.
        validation: ids on which the loss is measured, all but the first.
        vocabulary_size: V.
        longest: characters of the longest n-gram.
    """
    return witten_bell(train, validation, vocabulary_size, longest)[:, 1:].mean(axis=1).tolist()


def validation_losses(run: Run) -> list[float]:
    """The losses of all evaluations of a run so far; infinite where one was not finite."""
    rows = (row for row in read_metrics(run.folder) if row["split"] == "validation")
    return [float("inf") if row["loss"] is None else row["loss"] for row in rows]


def summary_of_run(run: Run, facts: Mapping[str, Any], bars: Sequence[float]) -> dict[str, Any]:
    """The fields of ``summary.json``, of the metrics so far.

    Args:
        run: of one network.
        facts: of the network: cell, hidden_size, parameters.
        bars: the losses of n-grams.

    Returns:
        ``facts``, ``n_gram_nats``, and ``validation``, the row of the best evaluation, or None if no loss was finite;
        with it ``test`` (nats, or None), ``tokens`` and ``minutes`` of training.
    """
    rows = read_metrics(run.folder)
    validated = [row for row in rows if row["split"] == "validation" and row["loss"] is not None]
    summary = {**facts, "n_gram_nats": list(bars), "validation": None, "test": None}
    if validated:
        times = read_metrics(run.folder, "timings.jsonl")
        seconds = [row["wall_s"] for row in times if row.get("batches") == validated[-1]["batches"]]
        summary |= {
            "validation": min(validated, key=lambda row: row["loss"]),
            "test": next((row["loss"] for row in rows if row["split"] == "test"), None),
            "tokens": validated[-1]["tokens"],
            "minutes": seconds[-1] / 60 if seconds else None,
        }
    return summary


def run_table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """The table of runs on one text: networks, the best first, then n-grams.

    Args:
        summaries: as ``summary_of_run`` returns them; those without a finite loss are left out.
    """
    known = sorted((s for s in summaries if s.get("validation")), key=lambda s: s["validation"]["loss"])
    return Table(COLUMNS, [*map(_row_of, known), *_rows_of_n_grams(summaries[0]["n_gram_nats"])], LEGEND)


def n_gram_table(bars: Sequence[float]) -> Table:
    """The table of the losses of n-grams."""
    return Table(COLUMNS[:1] + COLUMNS[5:8], [(row[0], *row[5:8]) for row in _rows_of_n_grams(bars)])


def last_samples(run: Run) -> dict[str, str]:
    """The samples of the last evaluation, ``{title: text}``; ``samples.txt`` has all of them."""
    file = run.folder / "samples.txt"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    _, *pieces = re.split(r"^== (batch \d+, .* nats, temperature .*)$", text, flags=re.MULTILINE)
    titled = [(title, sample.strip("\n")) for title, sample in zip(pieces[::2], pieces[1::2], strict=True)]
    last = titled[-1][0].partition(",")[0] if titled else ""
    return {title: sample for title, sample in titled if title.partition(",")[0] == last}


def _row_of(summary: Mapping[str, Any]) -> tuple[str, ...]:
    minutes, test = summary.get("minutes"), summary["test"]
    return (
        summary["cell"],
        f"{summary['hidden_size']}",
        f"{summary['parameters']:,}",
        f"{summary['tokens']:,}",
        "" if minutes is None else f"{minutes:.1f}",
        *_in_units(summary["validation"]["loss"]),
        "" if test is None else f"{test:.3f}",
    )


def _rows_of_n_grams(bars: Sequence[float]) -> list[tuple[str, ...]]:
    names = ["characters alone", *(f"{n}-grams" for n in range(2, len(bars) + 1))]
    return [(name, "", "", "", "", *_in_units(nats), "") for name, nats in zip(names, bars, strict=True)]


def _in_units(nats: float) -> tuple[str, str, str]:
    """A loss in nats, in bits, and as perplexity."""
    return f"{nats:.3f}", f"{bits_per_char(nats):.3f}", f"{perplexity(nats):.2f}"
