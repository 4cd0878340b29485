"""Decoding: against all sequences, against the softmax, and against teacher forcing."""

# pyright: reportArgumentType=false

import functools
import gc
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from rnn_jax import cell_from_step, conv_lstm, gru, learned_start, lstm, one_to_many, outputs, readout, rollout, stack
from rnn_jax.decoding import beam_search, greedy, keep_nucleus, keep_top_k, sample, stream
from tests.cases import A_FEW, CASES
from tests.laboratory import random_params, refused

V = 4
KEY, FIRST = jax.random.key(0), jnp.array(0)
MODELS = {
    "gru": readout(gru(V, 3), V),
    "lstm": learned_start(readout(lstm(V, 3), V)),
    "stack": readout(stack(lstm(V, 3), gru(3, 5)), V),
}

chain = cell_from_step(  # its params are the logits of each id's successors, and its state is the id
    init=lambda key: jax.random.normal(key, (V, V)),
    start=lambda logits, batch_shape=(): jnp.zeros((*batch_shape, V), logits.dtype),
    step=lambda logits, h, x: jax.nn.one_hot(x, V, dtype=logits.dtype),
    output=lambda logits, h: h @ logits,
)
BY_HEART = 5 * jnp.eye(V)[jnp.array([1, 2, 3, 0])]  # 0 1 2 3 0 1 …


@functools.cache
def model_of(name, seed=0, batch=()):
    cell = MODELS[name]
    params = random_params(cell, seed)
    return cell, params, cell.start(params, batch)


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def every_hypothesis(cell, params, h, first, length, end):
    """``(ids, lengths, Σ ln p)`` of all that can be written, by writing all of it."""
    ids = np.array(list(itertools.product(range(V), repeat=length)))
    h = jax.tree.map(lambda a: np.broadcast_to(a, (len(ids), *a.shape)), h)
    step, output, log_probs = jax.jit(cell.step), jax.jit(cell.output), []
    for x, y in zip(np.vstack([np.full(len(ids), first), ids.T[:-1]]), ids.T, strict=True):
        h = step(params, h, x)
        log_probs.append(log_softmax(np.asarray(output(params, h)))[np.arange(len(ids)), y])
    found = {}
    for sequence, log_prob in zip(ids.tolist(), np.transpose(log_probs), strict=True):
        n = sequence.index(end) + 1 if end in sequence else length
        found[tuple(sequence[:n] + [end] * (length - n))] = n, sum(log_prob[:n])
    return np.array(list(found)), *map(np.array, zip(*found.values(), strict=True))


def teacher_forced(cell, params, h, first, ids, end):
    """ln p of ids ``(T, *batch)`` in the model's eyes, 0 after the end."""
    log_p = log_softmax(np.asarray(jax.jit(functools.partial(one_to_many, cell))(params, h, first, ids)))
    ended = np.cumsum(np.asarray(ids) == end, axis=0) - (np.asarray(ids) == end) > 0
    return np.where(ended, 0, np.take_along_axis(log_p, np.asarray(ids)[..., None], axis=-1)[..., 0])


def truncated(logits, temperature=1.0, k=None, p=None):
    """Probabilities of what may be drawn, one id after another."""
    chances = np.exp(log_softmax(logits / temperature))
    likeliest = np.argsort(-chances, kind="stable")[:k]
    mass, kept = 0.0, []
    for i in likeliest:
        if p is None or mass < p:
            kept.append(i)
        mass += chances[i] / chances[likeliest].sum()
    return np.where(np.isin(np.arange(len(logits)), kept), chances, 0) / chances[kept].sum()


@pytest.mark.parametrize(
    ("name", "length", "end", "penalty"),
    [
        ("gru", 5, 2, 0.7),
        ("lstm", 4, 1, 1.0),
        ("stack", 4, 0, 0.0),
        ("stack", 4, None, 0.7),
        ("gru", 1, 1, 0.0),
    ],
)
def test_a_beam_as_wide_as_there_are_hypotheses_finds_them_all_in_order(name, length, end, penalty):
    cell, params, h = model_of(name)
    ids, lengths, log_prob = every_hypothesis(cell, params, h, 0, length, end)
    N = len(ids)
    assert (V**length if end is None else sum(3**t for t in range(length)) + 3**length) == N
    options = {"length": length, "width": N + 3, "end": end, "length_penalty": penalty}
    search = jax.jit(lambda params, h, first: beam_search(cell, params, h, first, **options))
    beams = jax.device_get(search(params, h, FIRST))
    score = log_prob / lengths**penalty
    best = np.argsort(-score)
    np.testing.assert_array_equal(beams.ids.T[:N], ids[best])
    np.testing.assert_array_equal(beams.lengths[:N], lengths[best])
    np.testing.assert_allclose(beams.score[:N], score[best], rtol=1e-12)
    assert np.all(beams.score[N:] == -np.inf)


def test_a_beam_of_width_one_is_greedy():
    cell, rng = MODELS["stack"], np.random.default_rng(0)
    models = jax.tree.map(lambda a: 2 * rng.normal(size=(100, *a.shape)), jax.eval_shape(cell.init, KEY))

    def both(params, end, penalty):
        h = cell.start(params)
        beams = beam_search(cell, params, h, FIRST, length=8, width=1, end=end, length_penalty=penalty)
        return beams, greedy(cell, params, h, FIRST, length=8, end=end)

    for end, penalty in [(None, 0.0), (1, 0.7)]:
        write = functools.partial(both, end=end, penalty=penalty)
        beams, line = jax.device_get(jax.jit(jax.vmap(write))(models))
        np.testing.assert_array_equal(beams.ids[..., 0], line.ids)
        np.testing.assert_array_equal(beams.lengths[:, 0], line.lengths)
        np.testing.assert_allclose(beams.score[:, 0], line.log_prob.sum(1) / line.lengths**penalty, rtol=1e-12)
        assert np.all(line.lengths == 8) if end is None else len(np.unique(line.lengths)) > 3


@pytest.mark.parametrize("name", ["lstm", "stack"])
def test_beams_are_distinct_in_order_and_have_the_scores_of_teacher_forcing(name):
    cell, params, h = model_of(name, seed=1)
    beams = jax.jit(lambda h: beam_search(cell, params, h, FIRST, length=7, width=6, end=3, length_penalty=0.7))(h)
    ids, score, lengths = jax.device_get(beams)
    assert np.all(np.diff(score) <= 0)
    assert len(np.unique(ids, axis=1).T) == 6
    assert lengths.tolist() == [7 if 3 not in line else line.index(3) + 1 for line in ids.T.tolist()]
    told = teacher_forced(cell, params, model_of(name, 1, (6,))[2], jnp.zeros(6, int), beams.ids, 3)
    np.testing.assert_allclose(score, told.sum(0) / lengths**0.7, rtol=1e-12)


def test_a_batch_vmap_jit_and_one_example_write_alike():
    cell, params, h0 = model_of("stack", batch=(2, 3))
    first = np.array([[0, 1, 2], [3, 3, 0]])
    h = jax.jit(cell.step)(params, h0, first[::-1])  # states that differ

    def write(h, first):
        options = {"length": 6, "end": 1}
        return greedy(cell, params, h, first, **options), beam_search(cell, params, h, first, width=3, **options)

    line, beams = batch = jax.device_get(write(h, jnp.asarray(first)))
    assert line.ids.shape == (6, 2, 3)
    assert beams.ids.shape == (6, 2, 3, 3)
    assert line.lengths.shape == (2, 3)
    assert beams.score.shape == beams.lengths.shape == (2, 3, 3)
    chex.assert_trees_all_close(jax.jit(write)(h, first), batch, rtol=1e-12, atol=1e-14)

    axes = type(line)(1, 1, 0), type(beams)(1, 0, 0)
    mapped = jax.jit(jax.vmap(jax.vmap(write, out_axes=axes), out_axes=axes))(h, first)
    chex.assert_trees_all_close(mapped, batch, rtol=1e-12, atol=1e-14)

    alone = jax.jit(write)(jax.tree.map(lambda a: a[1, 2], h), first[1, 2])
    same = line._replace(ids=line.ids[:, 1, 2], log_prob=line.log_prob[:, 1, 2], lengths=line.lengths[1, 2])
    chex.assert_trees_all_close(alone[0], same, rtol=1e-12, atol=1e-14)
    same = beams._replace(ids=beams.ids[:, 1, 2], score=beams.score[1, 2], lengths=beams.lengths[1, 2])
    chex.assert_trees_all_close(alone[1], same, rtol=1e-12, atol=1e-14)


def test_all_random_numbers_come_from_the_key():
    cell, params, h = model_of("lstm")
    draw = jax.jit(lambda key: sample(cell, params, key, h, FIRST, length=12, temperature=3.0))
    keys = jax.random.split(KEY, 20)
    drawn = [draw(key) for key in keys]
    for key, once in zip(keys, drawn, strict=True):
        chex.assert_trees_all_equal(draw(key), once)
    assert len({tuple(once.ids.tolist()) for once in drawn}) == 20
    mapped = jax.vmap(draw)(keys)
    np.testing.assert_array_equal(mapped.ids, np.array([once.ids for once in drawn]))


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, None), (0.5, None, None), (1.0, 2, None), (0.5, 3, None), (1.0, None, 0.8), (1.5, 3, 0.8)],
)
def test_what_is_drawn_follows_the_truncated_softmax_at_every_step(temperature, top_k, top_p):
    N, logits = 20_000, chain.init(jax.random.key(5))
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    ids = sample(chain, logits, KEY, chain.start(logits, (N,)), jnp.zeros(N, int), length=2, **options).ids
    found = np.bincount(V * np.asarray(ids[0]) + np.asarray(ids[1]), minlength=V * V)
    p = np.array([truncated(row, temperature, top_k, top_p) for row in np.asarray(logits)])
    expected = N * np.ravel(p[0][:, None] * p)  # both ids: a key used twice would show
    possible = expected > 0
    assert not np.any(found[~possible])
    assert chisquare(found[possible], expected[possible]).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_over_many_ids_are_exact_in_few_bits_too(dtype):
    logits = (3 * np.random.default_rng(0).normal(size=(V, V))).astype(dtype)
    h, length = chain.start(jnp.asarray(logits)), 300
    one = jax.jit(lambda p, h: beam_search(chain, p, h, FIRST, length=length, width=1))(jnp.asarray(logits), h)
    line = jax.jit(lambda p, h: greedy(chain, p, h, FIRST, length=length))(jnp.asarray(logits), h)
    np.testing.assert_array_equal(one.ids[:, 0], line.ids)
    read = np.concatenate([[int(FIRST)], np.asarray(line.ids)[:-1]])
    exact = log_softmax(logits.astype(np.float64))[read, np.asarray(line.ids)]
    np.testing.assert_allclose(one.score[0], exact.mean(), rtol=1e-4)
    kept = np.isfinite(np.asarray(keep_nucleus(jnp.zeros(2000, dtype), 0.9), np.float32)).sum()
    assert abs(kept - 1800) <= 1


def test_a_temperature_of_zero_is_greedy_and_it_may_be_traced():
    cell, params, h = model_of("stack", batch=(5,))
    first = jnp.arange(5) % V

    def draw(temperature):
        return sample(cell, params, KEY, h, first, length=9, temperature=temperature, end=2)

    line = greedy(cell, params, h, first, length=9, end=2)
    chex.assert_trees_all_equal(draw(0.0), line)
    traced = jax.jit(draw)
    chex.assert_trees_all_close(traced(0.0), line, rtol=1e-12)
    chex.assert_trees_all_close(traced(2.0), draw(2.0), rtol=1e-12)
    assert np.any(traced(2.0).ids != line.ids)


def test_the_top_k_are_the_k_largest_and_of_equals_the_lowest_ids():
    logits = np.random.default_rng(0).normal(size=(2, 50, 7))
    logits[1] = np.round(logits[1])  # many equals
    for k in range(1, 8):
        kept = np.asarray(keep_top_k(jnp.asarray(logits), k))
        for row, mine in zip(logits.reshape(-1, 7), kept.reshape(-1, 7), strict=True):
            chosen = sorted(range(7), key=lambda i: (-row[i], i))[:k]
            np.testing.assert_array_equal(mine, np.where(np.isin(np.arange(7), chosen), row, -np.inf))
    np.testing.assert_array_equal(keep_top_k(jnp.asarray(logits), 7), logits)  # k = V


@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_the_nucleus_is_the_smallest_set_of_likeliest_ids_with_enough_probability(p):
    logits = 2 * np.random.default_rng(0).normal(size=(2, 50, 7))
    kept = np.asarray(keep_nucleus(jnp.asarray(logits), p))
    for row, mine in zip(logits.reshape(-1, 7), kept.reshape(-1, 7), strict=True):
        np.testing.assert_array_equal(mine, np.where(truncated(row, p=p) > 0, row, -np.inf))
        chances, inside = np.exp(log_softmax(row)), np.isfinite(mine)
        assert np.sum(chances[inside]) >= p - 1e-12
        assert np.sum(chances[inside]) - np.min(chances[inside]) < p
        assert np.min(row[inside]) > np.max(row[~inside], initial=-np.inf)
    if p == 1:
        np.testing.assert_array_equal(kept, logits)
    if p == 1e-9:
        assert np.all(np.sum(np.isfinite(kept), axis=-1) == 1)


def test_a_nucleus_among_equals_has_as_many_as_it_needs():
    for p, kept in [(0.2, 1), (0.25, 1), (0.3, 2), (0.5, 2), (0.75, 3), (0.8, 4)]:
        np.testing.assert_array_equal(keep_nucleus(jnp.zeros(4), p), np.where(np.arange(4) < kept, 0, -np.inf))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_nucleus_of_everything_keeps_the_unlikely_and_one_of_next_to_nothing_keeps_the_likeliest(dtype):
    logits = jnp.array([-40.0, 0.0, -50.0], dtype)
    np.testing.assert_array_equal(keep_nucleus(logits, 1.0), logits)
    for p in (1e-30, 1e-50, 5e-324):
        np.testing.assert_array_equal(keep_nucleus(logits, p), [-np.inf, 0, -np.inf])


def test_after_the_end_there_is_only_the_end_at_no_cost():
    first, lengths = np.arange(4), np.array([3, 2, 1, 4])
    h, options = chain.start(BY_HEART, (4,)), {"length": 5, "end": 3}
    written = np.transpose([[1, 2, 3, 3, 3], [2, 3, 3, 3, 3], [3, 3, 3, 3, 3], [0, 1, 2, 3, 3]])
    going = np.arange(5)[:, None] < lengths
    nats = 5 - np.log(np.exp(5) + 3)
    for write in (greedy, functools.partial(sample, temperature=0.05, key=KEY)):
        found = jax.device_get(jax.jit(lambda h, first: write(chain, BY_HEART, h=h, first=first, **options))(h, first))
        np.testing.assert_array_equal(found.ids, written)
        np.testing.assert_array_equal(found.lengths, lengths)
        np.testing.assert_allclose(found.log_prob, np.where(going, nats, 0), rtol=1e-10)
        assert np.all(found.log_prob[~going] == 0)
    beams = jax.jit(lambda h, first: beam_search(chain, BY_HEART, h, first, **options, width=2))(h, first)
    beams = jax.device_get(beams)
    np.testing.assert_array_equal(beams.ids[..., 0], written)
    np.testing.assert_array_equal(beams.lengths[:, 0], lengths)
    np.testing.assert_allclose(beams.score[:, 0], nats, rtol=1e-10)
    early = greedy(chain, BY_HEART, h, jnp.asarray(first), length=3, end=3)
    np.testing.assert_array_equal(early.ids, written[:3])
    np.testing.assert_array_equal(early.lengths, [3, 2, 1, 3])


def test_ln_p_is_that_of_teacher_forcing_at_any_temperature_and_truncation():
    cell, params, h = model_of("stack", batch=(9,))
    first = jnp.arange(9) % V
    options = {"temperature": 1.5, "top_k": 3, "top_p": 0.95, "end": 1}
    drawn = jax.jit(lambda h: sample(cell, params, KEY, h, first, length=7, **options))(h)
    line = jax.jit(lambda h: greedy(cell, params, h, first, length=7))(h)
    for written, end in [(drawn, 1), (line, None)]:
        told = teacher_forced(cell, params, h, first, written.ids, end)
        np.testing.assert_allclose(written.log_prob, told, rtol=1e-12, atol=1e-14)
    assert 0 < np.count_nonzero(np.asarray(drawn.log_prob) == 0) < 7 * 9


def test_nothing_is_generated_at_length_0():
    cell, params, h = model_of("gru", batch=(2,))
    first = jnp.array([0, 1])
    for written in (
        greedy(cell, params, h, first, length=0),
        sample(cell, params, KEY, h, first, length=0, top_k=2, end=1),
    ):
        assert written.ids.shape == written.log_prob.shape == (0, 2)
        np.testing.assert_array_equal(written.lengths, [0, 0])
    beams = beam_search(cell, params, h, first, length=0, width=3, end=1)
    assert beams.ids.shape == (0, 2, 3)
    np.testing.assert_array_equal(beams.score, [[0, -np.inf, -np.inf]] * 2)  # one hypothesis: the empty one
    np.testing.assert_array_equal(beams.lengths, np.zeros((2, 3)))


@pytest.mark.parametrize("name", [*A_FEW, "lru", "conv lstm 1d"])
def test_a_stream_is_the_rollout_step_by_step_and_compiles_once(name):
    cell, x, _ = CASES[name]
    params, xs, traces = random_params(cell, scale=0.5), np.random.default_rng(1).normal(size=(6, *x)), []
    h = cell.start(params)

    @jax.jit
    def roll(params, h, xs):
        _, hs = rollout(cell, params, h, xs)
        return hs, outputs(cell, params, hs)

    expected = jax.device_get(roll(params, h, xs))

    def advance(params, h, u):
        traces.append(name)
        return cell.advance(params, h, u)

    step = stream(cell._replace(advance=advance), params)
    for t, x in enumerate(xs):
        h, y = step(h, x)
        chex.assert_trees_all_close((h, y), jax.tree.map(lambda a: a[t], expected), rtol=1e-12, atol=1e-12)
    assert len(traces) == 1


def test_the_memory_of_a_stream_does_not_grow_with_its_steps():
    cell, params, h = model_of("lstm")
    step, x, y, sizes = stream(cell, params), jnp.array(1), jnp.zeros(V), []
    for steps in (10, 990):
        for _ in range(steps):
            h, y = step(h, x)
        assert jnp.all(jnp.isfinite(y))
        gc.collect()
        sizes.append((len(jax.live_arrays()), sum(a.nbytes for a in jax.live_arrays())))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"first": jnp.array(4)}, "first got 4; want ids in [0, 4), the vocabulary"),
        ({"first": jnp.array(-1)}, "first got -1; want ids in [0, 4), the vocabulary"),
        ({"first": jnp.array([0])}, "first got int64[1]; want one id for each of h's []"),
        ({"first": jnp.array(1.0)}, "first got float64[]; want one id"),
        ({"end": 4}, "end got 4; want ids in [0, 4), the vocabulary"),
        ({"end": -1}, "end got -1; want ids in [0, 4), the vocabulary"),
        ({"length": -1}, "length got -1; want a whole number of ids of at least 0"),
        ({"width": 0}, "width got 0; want a positive integer"),
        ({"length": 2.5}, "length got 2.5; want a whole number of ids of at least 0"),
        ({"top_k": 2.5}, "top_k got 2.5; want 1 … 4, the size of the vocabulary"),
        ({"end": 2.5}, "end got 2.5; want one id for all"),
        ({"end": jnp.array([1, 2])}, "end got [1 2]; want one id for all"),
        ({"temperature": float("inf")}, "temperature got inf; want at least 0"),
        ({"temperature": -0.1}, "temperature got -0.1; want at least 0"),
        ({"temperature": float("nan")}, "temperature got nan; want at least 0"),
        ({"temperature": jnp.array(-1.0)}, "temperature got -1.0; want at least 0"),
        ({"top_k": 0}, "top_k got 0; want 1 … 4, the size of the vocabulary"),
        ({"top_k": 5}, "top_k got 5; want 1 … 4, the size of the vocabulary"),
        ({"top_p": 0.0}, "top_p got 0.0; want a probability in (0, 1]"),
        ({"top_p": 1.01}, "top_p got 1.01; want a probability in (0, 1]"),
    ],
)
def test_what_cannot_be_written_is_refused(given, says):
    cell, params, h = model_of("gru")
    given = {"first": FIRST, "length": 3, "end": None} | given
    if not given.keys() & {"temperature", "top_k", "top_p"}:
        refused(lambda: beam_search(cell, params, h, **{"width": 2} | given), says)
    if "width" not in given:
        refused(lambda: sample(cell, params, KEY, h, **given), says)
    if given.keys() == {"first", "length", "end"}:
        refused(lambda: greedy(cell, params, h, **given), says)


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (gru(V, 3)._replace(output=lambda params, h: (h, h)), "the model's output got (ShapeDtypeStruct("),
        (gru(V, 3)._replace(output=lambda params, h: h.sum()), "the model's output got ShapeDtypeStruct("),
        (gru(V, 3)._replace(output=lambda params, h: h[None]), "the model's output got ShapeDtypeStruct("),
        (conv_lstm(2, 2, space=(3,)), "xs got shape (T, ); want (T, *batch, 3, 2)"),
    ],
    ids=["two", "no axis", "one axis more", "reads no ids"],
)
def test_a_model_that_writes_no_ids_is_refused(cell, says):
    params = cell.init(KEY)
    h = cell.start(params)
    refused(lambda: greedy(cell, params, h, FIRST, length=3), says)
    refused(lambda: beam_search(cell, params, h, FIRST, length=3, width=2), says)
