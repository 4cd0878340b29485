"""Text as numbers, and models that write it."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_jax import lstm, readout, rollout
from rnn_jax.data.text import streams, vocabulary
from rnn_jax.data.texts import python_reference, read_text
from rnn_jax.decoding import sample
from rnn_jax.losses import bits_per_char, cross_entropy, next_token_nats, perplexity
from tests.laboratory import refused


@given(st.text(min_size=1, max_size=50))
def test_decoding_an_encoded_text_gives_it_back(text):
    v = vocabulary(text)
    assert v.decode(v.encode(text)) == text
    assert v.size == len(set(text))


@pytest.mark.parametrize("stranger", ["z", "A", "é", "\U0001f600"])
def test_a_character_outside_the_vocabulary_is_named(stranger):
    with pytest.raises(ValueError, match=f"such as {stranger!r}; want only the 4 known"):
        vocabulary("hello").encode("he" + stranger)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 30))
def test_streams_are_contiguous_lanes_whose_targets_are_the_next_characters(batch_size, window, more):
    ids = np.arange(batch_size * window + 1 + more)
    xs, targets = streams(ids, batch_size, window)
    np.testing.assert_array_equal(targets, xs + 1)
    lanes = xs.transpose(2, 0, 1).reshape(batch_size, -1)
    np.testing.assert_array_equal(np.diff(lanes, axis=1), 1)
    assert len(np.unique(lanes)) == lanes.size, "no character is read twice"
    assert len(ids) - 1 - lanes.size < batch_size * window + batch_size, "no whole window is left out"


def test_a_text_shorter_than_one_window_is_refused():
    with pytest.raises(ValueError, match="text got 8 characters; want at least 9 for 2 lanes of one window of 4"):
        streams(np.arange(8), batch_size=2, window=4)


def test_the_default_text_needs_no_download_and_is_long():
    text = python_reference()
    assert len(text) > 300_000
    assert "yield" in text


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "which is no file"), (b"", "which is empty"), (b"caf\xe9", "which is not UTF-8 at byte 3")],
)
def test_a_text_that_cannot_be_read_is_refused(tmp_path, content, says):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=says) as caught:
        read_text(path)
    assert "\n" not in str(caught.value)


def test_a_path_may_be_a_string(tmp_path):
    (tmp_path / "text.txt").write_text("hello")
    assert read_text(str(tmp_path / "text.txt")) == read_text(tmp_path / "text.txt") == "hello"


def test_cross_entropy_sums_over_time_and_means_over_the_batch():
    logits = jax.random.normal(jax.random.key(0), (3, 2, 5))
    targets = jnp.array([[0, 1], [2, 3], [4, 0]])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    by_hand = -np.log([[p[t, b, targets[t, b]] for b in range(2)] for t in range(3)])
    np.testing.assert_allclose(next_token_nats(logits, targets), by_hand, rtol=1e-12)
    np.testing.assert_allclose(cross_entropy(logits, targets), by_hand.sum(0).mean(), rtol=1e-12)


def test_masked_steps_cost_nothing_and_nothing_reaches_them():
    rng, mask = np.random.default_rng(0), np.array([[1, 1], [1, 0], [0, 0]], bool)
    logits, targets = rng.normal(size=(3, 2, 4)), rng.integers(0, 4, (3, 2))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    nats = -np.log(np.take_along_axis(p, targets[..., None], axis=-1)[..., 0])
    to_logits = np.where(mask[..., None], p - np.eye(4)[targets], 0) / 2
    dirty = np.where(mask[..., None], logits, np.nan), np.where(mask, targets, -1)
    ask = jax.jit(jax.value_and_grad(cross_entropy))
    for said in ((logits, targets), dirty):
        value, gradient = ask(*map(jnp.asarray, said), jnp.asarray(mask))
        np.testing.assert_allclose(value, (nats[0, 0] + nats[1, 0] + nats[0, 1]) / 2, rtol=1e-12)
        np.testing.assert_allclose(gradient, to_logits, rtol=1e-10, atol=1e-14)
        assert np.all(np.asarray(gradient)[~mask] == 0)


def test_units_of_surprise():
    np.testing.assert_allclose([bits_per_char(np.log(8)), perplexity(np.log(8))], [3, 8])
    assert perplexity(1e4) == float("inf")
    assert np.isnan(perplexity(float("nan")))


def test_a_model_that_has_learned_hello_by_heart_writes_it():
    # A cell that copies its input into its state, and a readout that names the successor of each character in "hel".
    v = vocabulary("hel")  # e h l
    model = readout(lstm(3, 2), 3)
    model = model._replace(
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 3)),
        project=lambda params, x: jax.nn.one_hot(x, 3, dtype=jnp.float64),
        advance=lambda params, h, u: u,
        output=lambda params, h: h @ params,
    )
    after = {"h": "e", "e": "l", "l": "h"}
    sure = jnp.zeros((3, 3))
    for a, b in after.items():
        sure = sure.at[v.encode(a)[0], v.encode(b)[0]].set(50.0)
    first = jnp.asarray(v.encode("h")[0])
    ids = sample(model, sure, jax.random.key(0), model.start(sure), first, length=5).ids
    assert v.decode(ids.tolist()) == "elhel"


def test_sampling_follows_the_softmax_at_its_temperature():
    model = readout(lstm(3, 2), 3)
    params = model.init(jax.random.key(1))
    first = jnp.zeros(4000, jnp.int32)
    h0 = model.start(params, (4000,))
    for temperature in (1.0, 0.5):
        ids = sample(model, params, jax.random.key(2), h0, first, length=1, temperature=temperature).ids[0]
        h, _ = rollout(model, params, h0, first[None])
        p = np.asarray(jax.nn.softmax(model.output(params, h)[0] / temperature))
        found = np.bincount(ids, minlength=3) / 4000
        np.testing.assert_allclose(found, p, atol=4 * 0.5 / 4000**0.5)  # four standard errors at most


def test_streams_are_of_ids_alone():
    refused(lambda: streams(np.arange(9.0), 1, 2), "ids got float64; want integer ids")
    refused(lambda: streams(np.zeros((9, 2), int), 1, 2), "ids got shape (9, 2); want one axis, (N,)")
    for ids in (jnp.arange(9), np.arange(9, dtype=np.uint8), np.arange(18)[::2] // 2):
        np.testing.assert_array_equal(streams(ids, 2, 2), streams(np.arange(9), 2, 2))


def test_an_impossible_character_is_never_drawn_at_any_temperature():
    model = readout(lstm(3, 2), 3)
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))._replace(b_y=jnp.array([-jnp.inf, 0.0, 1.0]))
    h, first = model.start(params, (500,)), jnp.zeros(500, int)
    for T in (1e30, jnp.inf):  # traced, so that it cannot be refused
        ids = jax.jit(lambda T: sample(model, params, jax.random.key(1), h, first, length=1, temperature=T).ids[0])(T)
        assert set(ids.tolist()) == {1, 2}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_rare_characters_are_drawn_as_often_as_they_should_be_in_few_bits_too(dtype):
    model, N = readout(lstm(50, 2, dtype=dtype), 50), 100_000
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    params = params._replace(b_y=params.b_y.at[0].set(6))
    ids = sample(model, params, jax.random.key(1), model.start(params, (N,)), jnp.zeros(N, int), length=1).ids[0]
    p = np.exp(6) / (np.exp(6) + 49)
    assert abs(np.mean(np.asarray(ids) == 0) - p) < 4 * np.sqrt(p * (1 - p) / N)
