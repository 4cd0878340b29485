"""Experiments on text: next characters, languages of words, dates; their data, sentences and figures."""

import csv
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import readout, rollout, vanilla
from rnn_jax.data.text import vocabulary
from rnn_jax.lab import text_figures
from rnn_jax.lab.runs import Run

CHINESE = "".join(map(chr, range(0x4E00, 0x4E00 + 90)))
HINDI = "".join(chr(code) for code in range(0x905, 0x93A)) * 2


@pytest.mark.parametrize("letters", [CHINESE, HINDI], ids=["Chinese", "Hindi"])
def test_the_confidence_figure_holds_a_window_of_states_at_most_and_shows_every_character(
    tmp_path, monkeypatch, letters
):
    text = "1. 2? " * 200 + letters
    known = vocabulary(text)
    ids = known.encode(text)
    model = readout(vanilla(known.size, 4), known.size)
    params = model.init(jax.random.key(0))
    steps = []

    def counted(cell, params, h, xs):
        steps.append(len(xs))
        return rollout(cell, params, h, xs)

    monkeypatch.setattr(text_figures, "rollout", counted)
    section = text_figures.confidence_section(Run(tmp_path), model, params, known, (ids[:-1, None], ids[1:, None]))
    assert max(steps) <= 1024
    _, hs = rollout(model, params, model.start(params), jnp.asarray(ids[:-1]))
    p = np.asarray(jax.nn.softmax(model.output(params, hs)))
    with (tmp_path / "figures" / "confidences.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    begin = text.index(letters)
    for t in range(72):
        row = rows[5 * t]
        assert (row["input"], row["next"]) == (text[begin + t], text[begin + t + 1])
        assert float(row["confidence"]) == pytest.approx(p[begin + t].max(), abs=1e-5)
    shown = "".join(re.findall(r"<text[^>]*>([^<]*)</text>", section.svg))
    assert all(letter in shown for letter in letters[:72])
    assert "·" not in shown


def test_first_guesses_are_counted_right_where_the_likeliest_character_came():
    for targets, share in (([0, 1, 2, 3], "100%"), ([3, 2, 1, 0], "0%"), ([0, 1, 2, 0], "75%")):
        sentence = text_figures.describe_confidences(np.eye(4), np.array(targets))
        assert sentence.endswith(f"Here {share} of the first guesses are right.")
