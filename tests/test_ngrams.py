"""The n-gram model: against its definition, counted character by character."""

import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from rnn_jax.data.ngrams import witten_bell
from rnn_jax.data.text import vocabulary
from rnn_jax.data.texts import TEXTS, named_text
from tests.laboratory import refused


def by_definition(train, text, V, order):
    counts = Counter(tuple(train[i : i + n]) for n in range(1, order + 1) for i in range(len(train) - n + 1))
    totals, kinds = Counter(), defaultdict(set)
    for gram, count in counts.items():
        totals[gram[:-1]] += count
        kinds[gram[:-1]].add(gram[-1])

    def p(context, x):
        below = p(context[1:], x) if context else 1 / V
        if totals[context] == 0:
            return below
        u = len(kinds[context])
        return (counts[(*context, x)] + u * below) / (totals[context] + u)

    return [
        [-np.log(p(tuple(text[max(0, i - n + 1) : i]), text[i])) for i in range(len(text))] for n in range(1, order + 1)
    ]


@pytest.mark.parametrize(("N", "M", "V"), [(200, 60, 4), (50, 200, 11), (3, 2, 5), (1, 9, 2), (40, 1, 3)])
def test_every_order_is_its_definition(N, M, V):
    rng = np.random.default_rng(N)
    train, text = rng.integers(0, V, N), rng.integers(0, V, M)
    found = witten_bell(train, text, V, order=5)
    assert found.shape == (5, M)
    np.testing.assert_allclose(found, by_definition(train.tolist(), text.tolist(), V, 5), rtol=1e-12)


def test_probabilities_of_the_next_character_sum_to_one():
    rng = np.random.default_rng(0)
    train, context = rng.integers(0, 6, 300), rng.integers(0, 6, 4)
    after = [witten_bell(train, np.append(context, x), 6, order=5)[:, -1] for x in range(6)]
    np.testing.assert_allclose(np.exp(-np.stack(after)).sum(axis=0), 1, rtol=1e-12)


def test_a_large_alphabet_does_not_overflow():
    train = np.arange(3000) * 7 % 2999
    assert np.all(witten_bell(train, train[:100], 3000, order=8)[-1] < np.log(3000))


HERE = Path(os.environ.get("RNN_JAX_DATA", "nowhere")) / TEXTS["tiny_shakespeare"].file


@pytest.mark.skipif(not HERE.is_file(), reason="no test downloads: wants the text in RNN_JAX_DATA")
def test_the_bar_of_tiny_shakespeare_is_that_of_the_literature():
    text = named_text("tiny_shakespeare")
    characters = vocabulary(text)
    ids = characters.encode(text)
    train, validation = np.split(ids, [90 * len(ids) // 100])
    nats = witten_bell(train, validation, characters.size, order=6)[:, 1:].mean(axis=1)
    assert np.argmin(nats) == 4
    assert abs(nats[4] - 1.669) < 0.003


def test_ids_outside_the_vocabulary_are_refused():
    says = "train got 2; want ids in [0, 2), the vocabulary"
    refused(lambda: witten_bell(np.array([0, 1, 2]), np.zeros(3, int), 2, order=2), says)
    refused(lambda: witten_bell(np.zeros(3, int), np.array([0, -1]), 2, order=2), "text got -1; want ids in [0, 2)")


def test_wrong_sizes_are_refused():
    refused(lambda: witten_bell(np.zeros(3, int), np.zeros(3, int), 2, order=0), "order got 0; want a positive integer")
