"""Scores of models of characters: losses in nats, bits and as perplexity, beside n-grams, and the table of runs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnn_jax.data.ngrams import witten_bell
from rnn_jax.lab.files import FilePath
from rnn_jax.lab.page import Table
from rnn_jax.lab.runs import Run, read_json, read_metrics
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

    >>> {name: round(value, 3) for name, value in with_units(1.0).items()}
    {'loss': 1.0, 'bits_per_char': 1.443, 'perplexity': 2.718}
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


def summary_of_run(run: Run) -> dict[str, Any]:
    """The fields of ``summary.json`` that the metrics give.

    Returns:
        ``{"validation": row, "test": nats, "tokens": characters}``: the row of the best evaluation, or None if no loss
        was finite; the loss on the test part, or None; the characters of the whole training.
    """
    rows = read_metrics(run.folder)
    evaluated = [row for row in rows if row["split"] == "validation"]
    return {
        "validation": min((r for r in evaluated if r["loss"] is not None), key=lambda row: row["loss"], default=None),
        "test": next((row["loss"] for row in rows if row["split"] == "test"), None),
        "tokens": evaluated[-1]["tokens"] if evaluated else 0,
    }


def run_table(folders: Sequence[FilePath]) -> Table:
    """The table of runs on one text: networks, the best first, then n-grams.

    Args:
        folders: of runs of ``char_lm.py``; those without a finite loss have no row.

    Raises:
        ValueError: for a folder that cannot be read, was written by another experiment, or for different texts.
    """
    found, texts = [], {}
    for folder in map(Path, folders):
        config, summary = (read_json(folder / name) for name in ("config.json", "summary.json"))
        if "n_gram_nats" not in summary or "split" not in config:
            raise ValueError(f"table got {folder}, which no run of char_lm.py wrote as it ended; want its runs")
        texts[config["text_sha256"], config["split"]] = str(folder)
        found.append((folder, summary))
    if len(texts) > 1:
        raise ValueError(f"table got different texts or splits ({', '.join(texts.values())}); want the same in all")
    known = sorted((of for of in found if of[1]["validation"]), key=lambda of: of[1]["validation"]["loss"])
    return Table(COLUMNS, [*(_row_of(*of) for of in known), *_rows_of_n_grams(found[0][1]["n_gram_nats"])], LEGEND)


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


def _row_of(folder: Path, summary: Mapping[str, Any]) -> tuple[str, ...]:
    seconds = [row["wall_s"] for row in read_metrics(folder, "timings.jsonl") if row["split"] == "validation"]
    test = summary["test"]
    return (
        summary["cell"],
        f"{summary['hidden_size']}",
        f"{summary['parameters']:,}",
        f"{summary['tokens']:,}",
        f"{seconds[-1] / 60:.1f}" if seconds else "",
        *_in_units(summary["validation"]["loss"]),
        "" if test is None else f"{test:.3f}",
    )


def _rows_of_n_grams(bars: Sequence[float]) -> list[tuple[str, ...]]:
    names = ["characters alone", *(f"{n}-grams" for n in range(2, len(bars) + 1))]
    return [(name, "", "", "", "", *_in_units(nats), "") for name, nats in zip(names, bars, strict=True)]


def _in_units(nats: float) -> tuple[str, str, str]:
    """A loss in nats, in bits, and as perplexity."""
    return f"{nats:.3f}", f"{bits_per_char(nats):.3f}", f"{perplexity(nats):.2f}"
