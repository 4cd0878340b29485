"""What ``dates.py`` shows: right and wrong by language, which letters moved which, and how sure the decoder is."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _dates import ANSWER, END, Dates
from _showing import Shown, draw_curves, shown
from matplotlib.figure import Figure
from rnn_jax.lab.plots import COLOURS, alignment_figure, confidence_figure
from rnn_jax.lab.report import Section

from rnn_jax import input_gradients, one_to_many
from rnn_jax.bridges import EncoderDecoder
from rnn_jax.data.languages import LOCALES
from rnn_jax.decoding import Decoded
from rnn_jax.lab.runs import Run


def told(model: EncoderDecoder, params: Any, source: jax.Array, written: jax.Array) -> jax.Array:
    """``(K, V)``: the logits at every place of one answer, of ids ``(S,)`` or one-hot vectors ``(S, V)``."""
    h0 = model.encode(params, model.start(params), source)
    return one_to_many(model.decoder, params, h0, jnp.array(END, written.dtype), written)


def alignment(model: EncoderDecoder, params: Any, source: jax.Array, size: int, written: jax.Array) -> np.ndarray:
    """``(K, S)``: how much each letter read moves the log-odds ln p/(1 − p) of each letter written."""

    def odds(xs: jax.Array) -> jax.Array:
        y = told(model, params, xs, written)
        chosen = jax.nn.one_hot(written, y.shape[-1], dtype=bool)
        return jnp.sum(y, where=chosen, axis=-1) - jax.nn.logsumexp(y, where=~chosen, axis=-1)

    return np.asarray(jax.jit(lambda xs: input_gradients(odds, xs))(jax.nn.one_hot(source, size)))


def line_of(dates: Dates, n: int) -> str:
    """A date of the test as it is read."""
    return dates.letters.decode(dates.test.sources[: dates.test.lengths[n], n])


def log_of(dates: Dates, ids: np.ndarray, chosen: Sequence[int]) -> str:
    """Lines such as ``3 mai 1979 -> 1979-05-03 (right)``."""
    lines = []
    for n in chosen:
        answer, truth = (ANSWER.decode(of[:, n]).split("\n")[0] for of in (ids, dates.test.targets))
        lines.append(f"{line_of(dates, n)} -> {answer} ({'right' if answer == truth else 'wrong: ' + truth})")
    return "\n".join(lines)


def locales_figure(names: Sequence[str], exact: np.ndarray, letters: np.ndarray) -> Figure:
    """Two bars for each language: dates without a fault, and letters right at their place."""
    figure = Figure(figsize=(10.8, 0.42 * len(names) + 0.9), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(names))
    axis.barh(places - 0.19, exact, 0.36, color=COLOURS[0], label="whole dates")
    axis.barh(places + 0.19, letters, 0.36, color=COLOURS[5], label="letters")
    for place, value in zip(places, exact, strict=True):
        axis.text(value + 0.005, place - 0.19, f"{100 * value:.1f} %", va="center", fontsize=9)
    axis.set_yticks(places, names)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.08)
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    return figure


def draw_locales(run: Run, dates: Dates, same: np.ndarray) -> tuple[Section, dict[str, dict[str, float]]]:
    """Right and wrong by language."""
    places = [n for n in range(len(dates.locales)) if np.any(dates.test.locales == n)]
    names = [LOCALES[dates.locales[n]] for n in places]
    exact = np.array([same[:, dates.test.locales == n].all(axis=0).mean() for n in places])
    letters = np.array([same[:, dates.test.locales == n].mean() for n in places])
    rows = [(name, f"{e:.4f}", f"{c:.4f}") for name, e, c in zip(names, exact, letters, strict=True)]
    run.draw("by_language", locales_figure(names, exact, letters), ("language", "exact", "letters"), rows)
    by_language = {
        n: {"exact": e, "letters": c} for n, e, c in zip(names, exact.tolist(), letters.tolist(), strict=True)
    }
    return Section("By language", "by_language", about_languages(names, exact)), by_language


def about_languages(names: Sequence[str], exact: np.ndarray) -> str:
    """The sentence under the bars, of the part of whole dates that are right in each language."""
    hardest = [name for name, part in zip(names, exact, strict=True) if part == exact.min()]
    told = f"Hardest: {', '.join(hardest)}." if len(hardest) < len(names) else "No language is harder than another."
    return f"The first network, on days it has never seen in any language. {told}"


def draw_alignment(
    run: Run, name: str, model: EncoderDecoder, params: Any, dates: Dates, ids: np.ndarray, n: int
) -> Section:
    """Which letters of date n moved which letters of its answer, ``ids (K,)``."""
    line, written = line_of(dates, n), ANSWER.decode(ids)
    source = jnp.asarray(dates.test.sources[: dates.test.lengths[n], n])
    weights = alignment(model, params, source, dates.letters.size, jnp.asarray(ids))
    rows = [
        (row, written[row].strip() or "end", column, line[column], f"{weight:.5g}")
        for (row, column), weight in np.ndenumerate(weights)
    ]
    run.draw(name, alignment_figure(line, written, weights), ("place", "written", "read_at", "read", "gradient"), rows)
    says = (
        f"“{line}”, read along the top; what was written stands at the left, ⏎ is the end. The darker, the more that "
        "letter would move the log-odds of the letter written, each row by itself: ‖∂ ln p/(1 − p) / ∂x‖."
    )
    return Section(f"Which letters moved which: {LOCALES[dates.locales[int(dates.test.locales[n])]]}", name, says)


def draw_doubt(run: Run, model: EncoderDecoder, params: Any, dates: Dates, ids: np.ndarray, n: int) -> Section:
    """How sure the decoder is of every letter of its answer to date n, ``ids (K,)``."""
    source, written = jnp.asarray(dates.test.sources[: dates.test.lengths[n], n]), jnp.asarray(ids)
    p = np.asarray(jax.nn.softmax(told(model, params, source, written)))
    truth, read = ANSWER.decode(dates.test.targets[: len(ids), n]), "\n" + ANSWER.decode(ids[:-1])
    figure = confidence_figure(read, truth, p, ANSWER.characters, top=4)
    rows = [(t, ANSWER.characters[i].strip() or "end", f"{confidence:.5f}") for (t, i), confidence in np.ndenumerate(p)]
    run.draw("confidences", figure, ("place", "letter", "confidence"), rows)
    says = (
        f"“{line_of(dates, n)}” is {ANSWER.decode(dates.test.targets[:-1, n])}; the decoder reads its own letters, "
        "along the top, and these are its likeliest next ones: green the right one, red a first guess that is wrong. "
        "Of all test dates this one has the letter of which it is least sure."
    )
    return Section("Where it doubts", "confidences", says)


def show(
    model: EncoderDecoder,
    params: Any,
    dates: Dates,
    written: Decoded,
    asked: Sequence[tuple[str, str]],
    run: Run,
    chance: Mapping[str, float],
    kind: str,
    scores: Mapping[str, np.ndarray],
) -> Shown:
    """Draws the figures of the first network.

    Args:
        model, params, dates: the network and its data.
        written: what it writes for the test dates.
        asked: questions and answers.
        run: the folder.
        chance: baselines of whole dates.
        kind, scores: the kind of network, and the scores of all seeds.
    """
    ids, doubts, lengths = (np.asarray(part) for part in written)
    same = ids == dates.test.targets
    right, wrong = np.flatnonzero(same.all(axis=0)), np.flatnonzero(~same.all(axis=0))
    some = right.tolist() or list(range(ids.shape[1]))
    by_length = sorted(some, key=lambda n: -dates.test.lengths[n])
    long, middling, doubted = by_length[0], by_length[len(by_length) // 3], int(doubts.min(axis=0).argmin())
    locales, by_language = draw_locales(run, dates, same)
    sections = [
        draw_curves(run, [kind], "exact", chance, "dates without a fault"),
        locales,
        draw_alignment(run, "alignment_long", model, params, dates, ids[: lengths[long], long], long),
        draw_alignment(run, "alignment", model, params, dates, ids[: lengths[middling], middling], middling),
        draw_doubt(run, model, params, dates, ids[: lengths[doubted], doubted], doubted),
    ]
    first_of_each = [int(np.flatnonzero(dates.test.locales == n)[0]) for n in np.unique(dates.test.locales)]
    samples = {
        "Dates of the test": log_of(dates, ids, first_of_each),
        f"What was wrong, {len(wrong)} of {ids.shape[1]}": log_of(dates, ids, wrong[:30].tolist()) or "nothing",
    }
    if asked:
        samples["Asked"] = "\n".join(f"{line} -> {answer}" for line, answer in asked)
    print(samples["Dates of the test"], samples.get("Asked", ""), sep="\n")
    answer = f"Of dates whose days were never seen, {shown(scores['exact'])} are written without a fault."
    return Shown(answer, sections, samples, {"by_language": by_language})
