"""Decoding, against all sequences that a model can write: every one is scored, and the best are chosen by sorting.

The model is stepped by NumPy, so neither its cell nor its readout is that of the library.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import readout, vanilla
from rnn_jax.cells import VanillaParams
from rnn_jax.decoding import beam_search, confidences, greedy, keep_nucleus, keep_top_k, sample
from rnn_jax.readouts import ReadoutParams
from tests.conformance.cases import DIRECTLY, Case, Suite, error_of

NAME = "Decoding by enumeration"
TOLERANCE = 1e-12
V, H = 3, 4
MODEL = readout(vanilla(V, H), V)


class Hypotheses(NamedTuple):
    """Every sequence of a length, each once, with what follows its end left out."""

    ids: np.ndarray
    """``(N, length)``, with the end repeated after the end."""
    lengths: np.ndarray
    log_prob: np.ndarray


def random_params(seed: int) -> ReadoutParams:
    normal: Any = np.random.default_rng(seed).standard_normal
    inner = VanillaParams(normal((V, H)), normal((H, H)), normal(H))
    return ReadoutParams(inner, 1.5 * normal((H, V)), normal(V))


def log_probs(params: ReadoutParams, ids: Any) -> np.ndarray:
    """ln p of every next id after each prefix of ``ids``, of which the first is read first; by NumPy."""
    (W_xh, W_hh, b_h), W_hy, b_y = params
    h, found = np.zeros(H), []
    for each in ids:
        h = np.tanh(W_xh[each] + h @ W_hh + b_h)
        y = h @ W_hy + b_y
        found.append(y - y.max() - np.log(np.sum(np.exp(y - y.max()))))
    return np.array(found)


def every_hypothesis(params: ReadoutParams, first: int, length: int, end: int | None) -> Hypotheses:
    """All that can be written."""
    found = {}
    for ids in itertools.product(range(V), repeat=length):
        n = ids.index(end) + 1 if end in ids else length
        row = log_probs(params, (first, *ids[:-1]))[np.arange(length), ids]
        found[(*ids[:n], *(end for _ in range(length - n)))] = n, row[:n].sum()
    return Hypotheses(np.array([*found]), *map(np.array, zip(*found.values(), strict=True)))


def beam_cases() -> Iterator[Case]:
    """A beam as wide as there are hypotheses finds all of them, in order."""
    settings = ((1, None, 1.0), (3, None, 0.0), (3, 1, 1.0), (4, 0, 0.7), (4, 2, 0.0), (4, 1, 1.3))
    for seed, (length, end, penalty) in enumerate(settings):
        params = random_params(seed)
        every = every_hypothesis(params, 0, length, end)
        N, score = len(every.ids), every.log_prob / every.lengths**penalty
        best = np.argsort(-score)
        options: Any = {"length": length, "width": N, "end": end, "length_penalty": penalty}
        beams = beam_search(MODEL, params, MODEL.start(params), 0, **options)
        title = f"{N} beams of length {length}, end {end}, penalty {penalty}"
        for rank, place in enumerate(best):
            got = beams.ids[:, rank], beams.lengths[rank], beams.score[rank]
            wanted = every.ids[place], every.lengths[place], score[place]
            yield Case(NAME, f"{title}, number {rank}", DIRECTLY, error_of(got, wanted), TOLERANCE)


def likeliest_case() -> Iterator[Case]:
    """``greedy``, and ``sample`` at temperature 0, follow the likeliest id of every step."""
    length = 6
    write = jax.jit(
        lambda params, first, end: greedy(MODEL, params, MODEL.start(params), first, length=length, end=end)
    )
    draw = jax.jit(
        lambda key, params, first: sample(
            MODEL, params, key, MODEL.start(params), first, length=length, temperature=0.0
        )
    )
    for seed, first in itertools.product(range(6), range(V)):
        params, ids, chosen = random_params(seed), [first], []
        for _ in range(length):
            row = log_probs(params, ids)[-1]
            ids.append(int(np.argmax(row)))
            chosen.append(row.max())
        line = write(params, first, None)
        wanted = np.array(ids[1:]), np.array(chosen)
        yield Case(NAME, f"greedy {seed}, {first}", DIRECTLY, error_of((line.ids, line.log_prob), wanted), TOLERANCE)
        drawn = draw(jax.random.key(seed), params, first).ids
        yield Case(NAME, f"temperature 0, {seed}, {first}", DIRECTLY, error_of(drawn, wanted[0]), TOLERANCE)


def truncated_cases() -> Iterator[Case]:
    """The k likeliest, and the nucleus, from a sort; probabilities of every next id after a prompt."""
    draws = np.random.default_rng(11)
    for number in range(20):
        logits = draws.standard_normal(6)
        chances = np.exp(logits) / np.exp(logits).sum()
        order = np.argsort(-chances)
        k, p = 1 + number % 6, (0.05 + number) / 20
        kept = np.isfinite(keep_top_k(jnp.asarray(logits), k))
        yield Case(NAME, f"top {k}, {number}", DIRECTLY, error_of(kept, np.isin(np.arange(6), order[:k])), 0.0)
        inside = order[: 1 + np.count_nonzero(np.cumsum(chances[order])[:-1] < p)]
        kept = np.isfinite(keep_nucleus(jnp.asarray(logits), p))
        yield Case(NAME, f"nucleus of {p:.3f}, {number}", DIRECTLY, error_of(kept, np.isin(np.arange(6), inside)), 0.0)
    for seed in range(6):
        params, ids = random_params(seed), draws.integers(V, size=8)
        got = confidences(MODEL, params, jnp.asarray(ids))
        yield Case(NAME, f"confidences {seed}", DIRECTLY, error_of(got, np.exp(log_probs(params, ids))), TOLERANCE)


def cases() -> Iterator[Case]:
    """All three kinds."""
    yield from beam_cases()
    yield from likeliest_case()
    yield from truncated_cases()


SUITE = Suite(
    NAME,
    "all sequences, enumerated and scored by NumPy",
    "every rank of an exhaustive beam, greedy ids, the k likeliest, the nucleus, the probabilities of every next id",
    cases,
)
