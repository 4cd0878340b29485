"""What ``vanishing_gradients.py`` keeps, and how it is shown: the table, the figures, the sentences under them."""

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _study import of_skipped, of_smoke, show_table, titled
from rnn_jax.lab.plots import Band, LearningCurve, gain_figure, lag_figure, learning_figure
from rnn_jax.lab.report import Section, write_report

from rnn_jax import summarise_lags
from rnn_jax.data.text import Vocabulary
from rnn_jax.lab.runs import Run, read_metrics
from rnn_jax.losses import bits_per_char

summarise = jax.jit(summarise_lags)
WHEN = ("at initialisation", "after training")


class Result(NamedTuple):
    """Everything that the figures and the table need; all arrays, so that a resumed run can read it back."""

    hidden_size: Any
    parameters: Any
    log_norm: np.ndarray
    """``(2, K, S, N)``: before and after training, lag, seed, probe."""
    log_norm_of: np.ndarray
    """``(2, P, K, S, N)``: of each part of the state."""
    gain: np.ndarray
    """``(2, S, N)``: leading gains."""
    tokens: np.ndarray
    """``(C,)``: letters read when training was looked at."""
    train: np.ndarray
    """``(C, S)`` nats."""
    validation: np.ndarray
    """``(C, S)`` nats."""
    tokens_per_s: Any
    compile_s: Any
    sweep: np.ndarray
    """``(G, K)``: median ln norm less that at lag 0."""
    written: Any


def kept(run: Run, names: list[str]) -> dict[str, Result]:
    """The cells that an earlier run finished; the metrics of unfinished ones are dropped."""
    files = {name: run.folder / "cells" / f"{name}.npz" for name in names}
    results = {name: _read(file) for name, file in files.items() if file.is_file()}
    rows = [row for row in read_metrics(run.folder) if row["cell"] in results]
    run.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return results


def _read(file: Path) -> Result:
    """What ``keep`` wrote; a ValueError when it cannot be read."""
    try:
        return Result(**np.load(io.BytesIO(file.read_bytes())))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} cannot be read ({error}); want it whole: remove it to train this cell anew") from None


def keep(run: Run, name: str, result: Result) -> None:
    """Writes a finished cell, whole or not at all."""
    arrays = io.BytesIO()
    np.savez(arrays, **result._asdict())
    run.write(f"cells/{name}.npz", arrays.getvalue())


def over_lag_0(log_norm: np.ndarray) -> np.ndarray:
    """``(G, K)``: medians of ln norm less that at lag 0, over the seeds and probes of ``(S, G, K, N)`` that have one.

    NaN where a state has overflowed; a probe whose letter was predicted with certainty has no gradient to follow.
    """
    curves = np.moveaxis(np.asarray(log_norm), 0, -1).reshape(*log_norm.shape[1:3], -1)
    medians = np.full(curves.shape[:2], np.nan)
    for g, each in enumerate(curves):
        alive = each[:, np.isfinite(each[0])]
        if alive.size:
            medians[g] = np.median(alive - alive[:1], axis=1)
    return medians


def middle(values: np.ndarray) -> float:
    """The median of the values that are numbers, infinities among them; NaN when there are none."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else float("nan")


def band(log_norm: np.ndarray) -> Band:
    """10 %, 50 % and 90 % of ``(K, S, N)``, over the seeds and probes that have a gradient."""
    known = np.where(np.isnan(summarise(jnp.asarray(log_norm)).slope), np.nan, log_norm)
    return Band(*np.asarray(summarise(jnp.asarray(known)).quantiles))


def in_numbers(result: Result) -> dict[str, Any]:
    """The headline numbers of one cell; pairs are before and after training."""
    summaries = [summarise(jnp.asarray(x)) for x in result.log_norm]
    bands = [band(x) for x in result.log_norm]
    nats = float(result.validation[-1].mean())
    return {
        "hidden_size": int(result.hidden_size),
        "parameters": int(result.parameters),
        "slope": [middle(np.asarray(s.slope)) for s in summaries],
        "half_life": [middle(np.asarray(s.half_life)) for s in summaries],
        "ln_kept_at_last_lag": [ln_kept(b) for b in bands],
        "curves_left_out": [int(np.isnan(s.slope).sum()) for s in summaries],
        "leading_gain": [middle(g) for g in result.gain],
        "validation_nats": nats,
        "validation_nats_of_seeds": result.validation[-1].tolist(),
        "validation_bits_per_char": bits_per_char(nats),
        "tokens_per_s": float(result.tokens_per_s),
        "compile_s": float(result.compile_s),
    }


COLUMNS = (
    "cell",
    "H",
    "parameters",
    "slope",
    "half-life",
    "leading gain",
    "validation nats",
    "bits",
    "tokens/s",
)
LEGEND = (
    "Pairs are before → after training. Slope: nats by which the gradient changes for each step back, median over "
    "seeds and probes of a straight line fitted over the lags with a gradient, however curved; half-life: steps in "
    "which it halves on that line; leading gain: the largest singular value of ∂stateₜ/∂stateₜ₋₁, the most one step "
    "can multiply a gradient, median over one step at each probe; validation: mean ± half range over seeds on "
    "held-out text; "
    "tokens/s: letters of all seeds together, compilation apart, with another cell beside it on the machine: roughly."
)


def shown(number: float, as_: str) -> str:
    """A number of the table; a dash where there is none."""
    return "—" if math.isnan(number) else format(number, as_).replace("inf", "∞").replace("-", "−")


def table_row(name: str, numbers: dict[str, Any]) -> tuple[str, ...]:
    """One cell's line of the table."""

    def pair(key: str, as_: str) -> str:
        return " → ".join(shown(number, as_) for number in numbers[key])

    seeds, nats = numbers["validation_nats_of_seeds"], numbers["validation_nats"]
    learned = nats < 100  # a network that has come apart predicts worse than any guess
    return (
        name,
        f"{numbers['hidden_size']}",
        f"{numbers['parameters']:,}",
        pair("slope", "+.3f"),
        pair("half_life", ".3g"),
        pair("leading_gain", ".2f"),
        f"{nats:.3f} ± {(max(seeds) - min(seeds)) / 2:.3f}" if learned else "diverged",
        shown(numbers["validation_bits_per_char"] if learned else float("nan"), ".3f"),
        f"{numbers['tokens_per_s']:,.0f}",
    )


def draw_lags(run: Run, results: dict[str, Result]) -> Section:
    """(a) and (b): the gradient against the lag, before and after training."""
    bands = {when: {name: band(r.log_norm[i]) for name, r in results.items()} for i, when in enumerate(WHEN)}
    rows = [
        (when, name, k, *(f"{x:.6g}" for x in values))
        for when, lines in bands.items()
        for name, b in lines.items()
        for k, values in enumerate(zip(*b, strict=True))
    ]
    run.draw(
        "gradient_against_lag",
        lag_figure(bands),
        ("when", "cell", "lag", "ln_p10", "ln_median", "ln_p90"),
        rows,
    )
    left_out = sum(int(np.isnan(summarise(jnp.asarray(x)).slope).sum()) for r in results.values() for x in r.log_norm)
    return Section("The gradient against the lag", "gradient_against_lag", about_lags(bands, left_out))


def about_lags(bands: dict[str, dict[str, Band]], left_out: int) -> str:
    """The sentence under the gradient against the lag, of ``{when: {cell: band}}`` and the curves left out of them."""
    told = "; ".join(
        f"{when}, " + ", ".join(f"{name} {factor(ln_kept(b) / math.log(10))}" for name, b in cells.items())
        for when, cells in bands.items()
    )
    last = max(len(b.median) for cells in bands.values() for b in cells.values()) - 1
    return (
        f"What {last} steps back is left of the gradient that set out, in the median over seeds and probes: {told}. "
        "Bands hold the middle 80 %."
    ) + (f" {left_out} curves without a gradient, or whose state overflowed, are left out." if left_out else "")


def ln_kept(b: Band) -> float:
    """ln of what is left of the median at the last lag; NaN where none set out."""
    return float(b.median[-1] - b.median[0]) if np.isfinite(b.median[0]) else math.nan


def factor(powers: float) -> str:
    """A power of ten in words that fit a sentence."""
    if not math.isfinite(powers):
        return "unknown" if math.isnan(powers) else "nothing" if powers < 0 else "more than a number can hold"
    superscript = f"{powers:.0f}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{10**powers:.2g}" if abs(powers) < 2 else f"10{superscript}"


def draw_parts(run: Run, results: dict[str, Result]) -> list[Section]:
    """The parts of a state apart, for the cells that carry more than one: LSTM's h and c."""
    name = next((name for name, r in results.items() if r.log_norm_of.shape[1] == 2), None)
    if name is None:
        return []
    r = results[name]
    panels = {
        when: {"h and c": band(r.log_norm[i]), "h": band(r.log_norm_of[i, 0]), "c": band(r.log_norm_of[i, 1])}
        for i, when in enumerate(WHEN)
    }
    rows = [
        (w, part, k, f"{x:.6g}")
        for w, lines in panels.items()
        for part, b in lines.items()
        for k, x in enumerate(b.median)
    ]
    run.draw("lstm_parts", lag_figure(panels), ("when", "part", "lag", "ln_median"), rows)
    return [Section(f"Inside {name}: h and c apart", "lstm_parts", about_parts(panels))]


def about_parts(panels: dict[str, dict[str, Band]]) -> str:
    """The sentence under the parts of an LSTM, of ``{when: {"h": band, "c": band}}``.

    Lag 0 is left out, at which c has no gradient as only h is read, and lags at which a median is unknown.
    """
    told = []
    for when, lines in panels.items():
        h, c = lines["h"].median[1:], lines["c"].median[1:]
        known = ~(np.isnan(h) | np.isnan(c))
        told.append(f"at {np.mean(c[known] > h[known]):.1%} of the lags {when}" if known.any() else f"unknown {when}")
    return (
        f"From lag 1 on, the gradient with respect to the memory c is larger than that with respect to h "
        f"{', and '.join(told)}."
    )


def draw_learning(run: Run, results: dict[str, Result], vocabulary_size: int) -> Section:
    """Learning curves in nats and bits."""
    curves = {name: LearningCurve(r.tokens, r.train, r.validation) for name, r in results.items()}
    rows = [
        (name, int(tokens), seed, f"{c.train[i, seed]:.5f}", f"{c.validation[i, seed]:.5f}")
        for name, c in curves.items()
        for i, tokens in enumerate(c.tokens)
        for seed in range(c.train.shape[1])
    ]
    run.draw(
        "learning_curves",
        learning_figure(curves, chance=float(np.log(vocabulary_size))),
        ("cell", "tokens", "seed", "train_nats", "validation_nats"),
        rows,
    )
    final = {name: float(c.validation[-1].mean()) for name, c in curves.items()}
    says = about_learning(final, int(curves[next(iter(curves))].tokens[-1]), vocabulary_size)
    return Section("Learning curves", "learning_curves", says)


def about_learning(final: dict[str, float], letters: int, vocabulary_size: int) -> str:
    """The sentence under the learning curves, of ``{cell: nats}`` after so many letters."""
    told = ", ".join(
        f"{name} {nats:.2f} nats ({bits_per_char(nats):.2f} bits)" if nats < 100 else f"{name} diverged"
        for name, nats in sorted(final.items(), key=lambda item: (np.isnan(item[1]), item[1]))
    )
    return (
        f"After {letters:,} letters, a letter of the held-out text costs {told}; "
        f"an even guess among the {vocabulary_size} letters costs {np.log(vocabulary_size):.2f} nats."
    )


def draw_sweep(run: Run, results: dict[str, Result], gains: np.ndarray) -> Section:
    """(c): the gradient over gain and lag."""
    maps = {name: r.sweep for name, r in results.items()}
    rows = [
        (name, f"{gain:.5g}", k, f"{x:.6g}")
        for name, m in maps.items()
        for gain, row in zip(gains, m, strict=True)
        for k, x in enumerate(row)
    ]
    run.draw("gain_sweep", gain_figure(maps, gains.tolist()), ("cell", "gain", "lag", "ln_norm_less_lag_0"), rows)
    return Section("Where it vanishes and where it explodes", "gain_sweep", about_sweep(maps, gains))


def about_sweep(maps: dict[str, np.ndarray], gains: np.ndarray) -> str:
    """The sentence under the maps ``(G, K)`` of gain and lag."""
    grown = {name: (m[:, -1] > 0) | np.isnan(m[:, -1]) for name, m in maps.items()}  # an overflow has exploded
    told = ", ".join(
        f"{name} {gains[row.argmax()]:.2f}" if row.any() else f"{name} none up to {gains[-1]:.0f}"
        for name, row in grown.items()
    )
    lags = next(iter(maps.values())).shape[1] - 1
    return (
        "Untrained, with its first W_hh multiplied by a gain: blue where the gradient vanishes, red where it explodes, "
        f"black where it keeps its size, grey where the state overflows. The smallest gain at which more comes "
        f"back {lags} steps than set out: {told}."
    )


def answered(kept: dict[str, float], lags: int, status: str) -> str:
    """The answer of the page, of ``{cell: ln of what is left}``."""
    order = sorted(kept, key=lambda name: (math.isnan(kept[name]), -kept[name]))
    return (
        f"After training, this much of the gradient is left {lags} steps back, from the furthest reaching on: "
        + ", ".join(f"{name} {factor(kept[name] / math.log(10))}" for name in order)
        + "."
        + ("" if status == "done" else f" (The run is {status}.)")
    )


def publish(
    run: Run,
    results: dict[str, Result],
    *,
    status: str,
    gains: np.ndarray,
    vocabulary: Vocabulary,
    question: str,
    rerun: str,
) -> None:
    """Writes the summary and the report of the cells that are finished, and prints the table."""
    numbers = {name: in_numbers(result) for name, result in results.items()}
    run.write_json("summary.json", {"status": status, "cells": numbers})  # before the figures, whatever befalls them
    run.write_json("vocab.json", list(vocabulary.characters))
    samples = {name: str(result.written) for name, result in results.items()}
    run.write("samples.txt", "\n".join(f"== {name}\n{text}\n" for name, text in samples.items()))
    rows = [table_row(name, n) for name, n in numbers.items()]
    answer = f"The run is {status}; no cell was finished."
    sections: list[Section] = []
    if results:
        sections = [
            draw_lags(run, results),
            *draw_parts(run, results),
            draw_learning(run, results, vocabulary.size),
            draw_sweep(run, results, gains),
        ]
        kept = {name: n["ln_kept_at_last_lag"][1] for name, n in numbers.items()}
        answer = answered(kept, len(next(iter(results.values())).log_norm[1]) - 1, status) + of_skipped(run)
    answer += of_smoke(run)
    write_report(
        run,
        title=titled(run, "How far back does the gradient reach?"),
        question=question,
        answer=answer,
        columns=COLUMNS,
        rows=rows,
        legend=LEGEND,
        sections=sections,
        samples=samples,
        rerun=rerun,
    )
    title = "How far back does the gradient reach?"
    show_table(title, COLUMNS, rows, LEGEND, answer, f"report: {run.folder / 'report.html'}")
