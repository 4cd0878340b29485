"""How the gradients of ``vanishing_gradients.py`` are shown: the table, the figures, and the sentences under them."""

import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from rnn_jax import summarise_lags
from rnn_jax.losses import bits_per_char
from rnn_jax.plots import Band, LearningCurve, gain_figure, lag_figure, learning_figure
from rnn_jax.report import Section, write_report
from rnn_jax.runs import Run
from rnn_jax.text import Vocabulary

summarise = jax.jit(summarise_lags)
WHEN = ("at initialisation", "after training")


class Result(NamedTuple):
    """Everything that the figures and the table need; arrays, so that a resumed run can read it back."""

    hidden_size: Any
    parameters: Any
    log_norm: Any
    """``(2, K, S, N)``: before and after training, lag, seed, probe."""
    log_norm_of: Any
    """``(2, P, K, S, N)``: of each part of the state."""
    gain: Any
    """``(2, S, N)``: leading gains."""
    tokens: Any
    train: Any
    validation: Any
    """``(C,)``, ``(C, S)``, ``(C, S)``."""
    tokens_per_s: Any
    compile_s: Any
    sweep: Any
    """``(G, K)``: median ln norm less that at lag 0."""
    written: Any


def band(log_norm: np.ndarray) -> Band:
    """10 %, 50 % and 90 % over seeds and probes of ``(K, S, N)``."""
    return Band(*np.asarray(summarise(jnp.asarray(log_norm)).quantiles))


def in_numbers(result: Result) -> dict[str, Any]:
    """The headline numbers of one cell; pairs are before and after training."""
    summaries = [summarise(jnp.asarray(x)) for x in result.log_norm]
    slopes = [float(np.nanmedian(s.slope)) for s in summaries]
    return {
        "hidden_size": int(result.hidden_size),
        "parameters": int(result.parameters),
        "slope": slopes,
        "half_life": [float("inf") if slope >= 0 else float(np.log(2) / -slope) for slope in slopes],
        "leading_gain": [float(np.median(g)) for g in result.gain],
        "validation_nats": float(result.validation[-1].mean()),
        "validation_nats_of_seeds": result.validation[-1].tolist(),
        "validation_bits_per_char": bits_per_char(float(result.validation[-1].mean())),
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
    "seeds and probes of a least-squares line; half-life: steps in which it halves on that line; leading gain: the "
    "largest singular value of ∂state_t/∂state_{t−1}, the most one step can multiply a gradient, median; validation: "
    "mean ± half range over seeds; tokens/s: letters of all seeds together, compilation apart, while other cells learn "
    "beside it."
)


def table_row(name: str, numbers: dict[str, Any]) -> tuple[str, ...]:
    """One cell's line of the table."""
    pair = {key: numbers[key] for key in ("slope", "half_life", "leading_gain")}
    seeds = numbers["validation_nats_of_seeds"]
    return (
        name,
        f"{numbers['hidden_size']}",
        f"{numbers['parameters']:,}",
        "{:+.3f} → {:+.3f}".format(*pair["slope"]),
        "{:.3g} → {:.3g}".format(*pair["half_life"]).replace("inf", "∞"),
        "{:.2f} → {:.2f}".format(*pair["leading_gain"]),
        f"{numbers['validation_nats']:.3f} ± {(max(seeds) - min(seeds)) / 2:.3f}",
        f"{numbers['validation_bits_per_char']:.3f}",
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
    lost = {when: {n: (b.median[-1] - b.median[0]) / np.log(10) for n, b in x.items()} for when, x in bands.items()}
    last = len(next(iter(bands[WHEN[0]].values())).median) - 1
    told = "; ".join(
        f"{when}, " + ", ".join(f"{name} {factor(powers)}" for name, powers in cells.items())
        for when, cells in lost.items()
    )
    says = (
        f"What {last} steps back is left of the gradient that set out, in the median over seeds and probes: {told}. "
        "Bands hold the middle 80 %."
    )
    return Section("The gradient against the lag", "gradient_against_lag", says)


def factor(powers: float) -> str:
    """A power of ten in words that fit a sentence."""
    if np.isneginf(powers):
        return "nothing"
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
    ahead = [(lines["c"].median[1:] > lines["h"].median[1:]).mean() for lines in panels.values()]
    says = (
        f"The gradient with respect to the memory c is larger than that with respect to h at {ahead[0]:.0%} of the "
        f"lags {WHEN[0]}, and at {ahead[1]:.0%} of them {WHEN[1]}."
    )
    return [Section(f"Inside {name}: h and c apart", "lstm_parts", says)]


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
    final = {name: c.validation[-1].mean() for name, c in curves.items()}
    best, worst = min(final, key=final.__getitem__), max(final, key=final.__getitem__)
    says = (
        f"After {int(curves[best].tokens[-1]):,} letters {best} predicts unseen text best, at {final[best]:.2f} nats "
        f"({bits_per_char(final[best]):.2f} bits) a letter, and {worst} worst, at {final[worst]:.2f}; guessing evenly "
        f"among the {vocabulary_size} letters costs {np.log(vocabulary_size):.2f}."
    )
    return Section("Learning curves", "learning_curves", says)


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
    edges = {
        name: next((g for g, grown in zip(gains, m[:, -1] > 0, strict=True) if grown), None) for name, m in maps.items()
    }
    told = ", ".join(
        f"{name} from {edge:.2f}" if edge else f"{name} nowhere up to {gains[-1]:.0f}" for name, edge in edges.items()
    )
    lags = next(iter(maps.values())).shape[1] - 1
    says = (
        f"Untrained, the gradient that comes back {lags} steps is larger than the one that set out at these gains of "
        f"W_hh: {told}. Below it vanishes (blue), above it explodes (red); on the black line it keeps its size."
    )
    return Section("Where it vanishes and where it explodes", "gain_sweep", says)


def publish(
    run: Run,
    results: dict[str, Result],
    *,
    status: str,
    gains: np.ndarray,
    vocabulary: Vocabulary,
    question: str,
) -> None:
    """Writes the summary and the report of the cells that are finished, and prints the table."""
    numbers = {name: in_numbers(result) for name, result in results.items()}
    run.write_json("summary.json", {"status": status, "cells": numbers})
    run.write_json("vocab.json", list(vocabulary.characters))
    samples = {name: str(result.written) for name, result in results.items()}
    run.write("samples.txt", "\n".join(f"== {name}\n{text}\n" for name, text in samples.items()))
    rows = [table_row(name, n) for name, n in numbers.items()]
    answer = f"The run is {status}; no cell is finished yet."
    sections: list[Section] = []
    if results:
        sections = [
            draw_lags(run, results),
            *draw_parts(run, results),
            draw_learning(run, results, vocabulary.size),
            draw_sweep(run, results, gains),
        ]
        reach = max(numbers, key=lambda name: numbers[name]["slope"][1])
        answer = (
            f"After training, the gradient of {reach} reaches furthest back: it changes by "
            f"{numbers[reach]['slope'][1]:+.3f} nats a step; "
            + ", ".join(f"{n} {x['slope'][1]:+.3f}" for n, x in numbers.items() if n != reach)
            + ("." if status == "done" else f". The run is {status}.")
        )
    write_report(
        run,
        title="How far back does the gradient reach?",
        question=question,
        answer=answer,
        columns=COLUMNS,
        rows=rows,
        legend=LEGEND,
        sections=sections,
        samples=samples,
        rerun=" ".join(["python", *sys.argv]),
    )
    grid = Table(*COLUMNS, title="How far back does the gradient reach?", caption=LEGEND, caption_style="dim")
    for row in rows:
        grid.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(
        grid, answer, f"report: {run.folder / 'report.html'}", sep="\n"
    )
