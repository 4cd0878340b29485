"""Sentences on how far gradients reach, each a function of its data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnn_jax.data.tasks import ADDING_BASELINE
from rnn_jax.lab.figures import Band, Curve
from rnn_jax.lab.gradient_study import band_of_seeds, median_of, slopes_of
from rnn_jax.losses import bits_per_char

__all__ = [
    "describe_answer",
    "describe_cost",
    "describe_lags",
    "describe_parts",
    "describe_sweep",
    "describe_text",
    "half_life",
    "ln_kept",
    "numbers_of_text",
    "power_of_ten",
    "table_row",
]

DIVERGED = 100.0
"""A loss of a network that has diverged: it predicts worse than any guess."""


def power_of_ten(power: float) -> str:
    """10^power in words that fit a sentence."""
    if not np.isfinite(power):
        return "unknown" if np.isnan(power) else "nothing" if power < 0 else "more than a number can hold"
    superscript = f"{power:.0f}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{10**power:.2g}" if abs(power) < 2 else f"10{superscript}"


def ln_kept(band: Band) -> float:
    """ln of the share of the median that is left at the last lag; NaN without a gradient at lag 0."""
    return float(band.median[-1] - band.median[0]) if np.isfinite(band.median[0]) else float("nan")


def describe_cost(errors: Mapping[str, float], kept: Mapping[str, float]) -> str:
    """The sentence on the adding problem, of test errors and ln of the gradient that is left at the last lag."""
    order = sorted(errors, key=lambda name: (np.isnan(errors[name]), errors[name]))
    cells = "; ".join(
        f"{name} has an error of {errors[name]:.2g} and {power_of_ten(kept[name] / np.log(10))} of the gradient left"
        if errors[name] < DIVERGED
        else f"{name} has diverged"
        for name in order
    )
    return f"Always answering 1 has an error of {ADDING_BASELINE:.3f}. After training, from best to worst: {cells}."


def describe_lags(bands: Mapping[str, Mapping[str, Band]], left_out: int = 0) -> str:
    """The sentence under the gradient against the lag, of ``{when: {cell: band}}`` and the curves left out of them."""
    parts = "; ".join(
        f"{when}, " + ", ".join(f"{name} {power_of_ten(ln_kept(b) / np.log(10))}" for name, b in cells.items())
        for when, cells in bands.items()
    )
    last = max(len(b.median) for cells in bands.values() for b in cells.values()) - 1
    sentence = (
        f"The share of the gradient that is left {last} steps back, in the median over seeds and examples: {parts}."
    )
    return sentence + (
        f" {left_out} curves without a gradient, or whose state overflowed, are left out." if left_out else ""
    )


def describe_parts(name: str, panels: Mapping[str, Mapping[str, Band]]) -> str:
    """The sentence under the parts of a state, of ``{when: {"h": band, "c": band}}``.

    Lag 0 is left out, at which c has no gradient since only h is read, and lags at which a median is unknown.
    """
    parts = []
    for when, lines in panels.items():
        h, c = lines["h"].median[1:], lines["c"].median[1:]
        known = ~(np.isnan(h) | np.isnan(c))
        parts.append(f"at {np.mean(c[known] > h[known]):.1%} of the lags {when}" if known.any() else f"unknown {when}")
    return (
        f"From lag 1 on, the gradient of {name} with respect to the memory c is larger than that with respect to h "
        f"{', and '.join(parts)}."
    )


def describe_text(curves: Mapping[str, Curve], vocabulary_size: int) -> str:
    """The sentence under learning curves of a text, ``{cell: nats a character (N, S) after x characters (N,)}``."""
    final = {name: float(curve.values[-1].mean()) for name, curve in curves.items()}
    cells = ", ".join(
        f"{name} {nats:.2f} nats ({bits_per_char(nats):.2f} bits)" if nats < DIVERGED else f"{name} diverged"
        for name, nats in sorted(final.items(), key=lambda item: (np.isnan(item[1]), item[1]))
    )
    characters = int(next(iter(curves.values())).x[-1])
    return (
        f"After {characters:,} characters, a character of the validation part costs {cells}; an even guess among the "
        f"{vocabulary_size} characters costs {np.log(vocabulary_size):.2f} nats."
    )


def describe_sweep(maps: Mapping[str, np.ndarray], gains: np.ndarray) -> str:
    """The sentence under the maps ``(G, K)`` of gain and lag."""
    grown = {name: (m[:, -1] > 0) | np.isnan(m[:, -1]) for name, m in maps.items()}  # an overflow has exploded
    cells = ", ".join(
        f"{name} {gains[row.argmax()]:.2f}" if row.any() else f"{name} none up to {gains[-1]:.0f}"
        for name, row in grown.items()
    )
    lags = next(iter(maps.values())).shape[1] - 1
    return (
        "Blue where the gradient vanishes, red where it explodes, black where it keeps its size, grey where the state "
        f"overflows. The smallest gain at which the gradient is larger {lags} steps back than at lag 0: {cells}."
    )


def describe_answer(errors: Mapping[str, float], steps: int) -> str:
    """The answer of the page, of the errors of the adding problem."""
    groups: dict[str, list[str]] = {"learn": [], "learn a part of": [], "stay at": [], "diverge": []}
    for name, error in errors.items():
        verb = "learn" if error < ADDING_BASELINE / 4 else "learn a part of"
        verb = verb if error < 0.9 * ADDING_BASELINE else "stay at" if error < DIVERGED else "diverge"
        groups[verb].append(name)
    objects = {"learn": " the adding problem", "learn a part of": " the adding problem", "stay at": " chance"}
    parts = []
    for verb, names in groups.items():
        first, _, rest = verb.partition(" ")
        form = first if len(names) > 1 else f"{first}s"
        parts += [f"{', '.join(names)} {form}{rest and ' ' + rest}{objects.get(verb, '')}"] if names else []
    return f"Over {steps} steps, {'; '.join(parts)}." if parts else "No network of the adding problem was finished."


def numbers_of_text(measured: Sequence[tuple[np.ndarray, ...]], nats: np.ndarray) -> dict[str, Any]:
    """The headline numbers of a cell on a text; pairs are before and after training.

    Args:
        measured: two results of ``gradients_of_text``, with the seeds in front.
        nats: ``(S,)`` on the test part.
    """
    slopes = [slopes_of(log_norm) for log_norm, *_ in measured]
    return {
        "slope": [median_of(of) for of in slopes],
        "half_life": [half_life(median_of(of)) for of in slopes],
        "ln_kept_at_last_lag": [ln_kept(band_of_seeds(log_norm)) for log_norm, *_ in measured],
        "leading_gain": [median_of(gain) for *_, gain in measured],
        "curves_left_out": [int(np.isnan(of).sum()) for of in slopes],
        "test_nats": float(nats.mean()),
        "test_nats_of_seeds": nats,
        "test_bits_per_char": bits_per_char(float(nats.mean())),
    }


def half_life(slope: float) -> float:
    """Steps in which a gradient halves whose logarithm changes by ``slope`` nats with each step."""
    return float("nan") if np.isnan(slope) else float("inf") if slope >= 0 else float(np.log(2) / -slope)


def table_row(name: str, numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """The row of one cell, of its headline numbers; those that are missing are dashes."""
    nothing = (float("nan"), float("nan"))
    nats, seeds = numbers.get("test_nats"), np.asarray(numbers.get("test_nats_of_seeds", (0.0,)))
    return (
        name,
        in_table(numbers.get("adding_error"), ".2g"),
        " → ".join(power_of_ten(kept / np.log(10)) for kept in numbers.get("adding_ln_kept", nothing)),
        in_table(nats, ".3f") + (f" ± {(seeds.max() - seeds.min()) / 2:.3f}" if nats and nats < DIVERGED else ""),
        " → ".join(in_table(steps, ".3g", "—") for steps in numbers.get("half_life", nothing)),
        " → ".join(in_table(gain, ".2f", "—") for gain in numbers.get("leading_gain", nothing)),
    )


def in_table(number: float | None, format_: str, diverged: str = "diverged") -> str:
    """A number of a table; a dash for None, and ``diverged`` for NaN or a loss of a network that has diverged."""
    if number is None:
        return "—"
    if np.isnan(number) or (diverged == "diverged" and number >= DIVERGED):
        return diverged
    return format(number, format_).replace("inf", "∞").replace("-", "−")
