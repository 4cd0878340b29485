"""An id outside its vocabulary has no row and no probability: NaN where it is traced, an error where it is known."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax import gru, lag_gradients, many_to_many, one_to_many, readout, rollout, scheduled_sampling
from rnn_jax.data.ngrams import witten_bell
from rnn_jax.data.text import one_hot, streams, vocabulary
from rnn_jax.decoding import beam_search, greedy
from rnn_jax.losses import cross_entropy, next_token_nats
from rnn_jax.training import evaluate, window_learner
from tests.laboratory import random_params, refused

V = 5
OUTSIDE = [-1, -100, V, V + 5, np.uint8(255), np.uint8(V), np.int8(-1), np.int64(2**40), np.uint32(2**32 - 1)]


@pytest.mark.parametrize("outside", OUTSIDE, ids=repr)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_a_target_outside_the_vocabulary_gives_nan_in_value_and_gradient(outside, compiled):
    logits = jax.random.normal(jax.random.key(0), (3, 2, V))
    targets = np.array([[0, 1], [2, 3], [4, 0]], np.asarray(outside).dtype)
    targets[1, 1] = outside
    ask = jax.value_and_grad(lambda logits, targets: cross_entropy(logits, jnp.asarray(targets)))
    value, gradient = (jax.jit(ask) if compiled else ask)(logits, targets)
    assert np.isnan(value)
    assert np.isnan(gradient[1, 1]).all()
    assert np.isfinite(gradient).reshape(6, V).all(axis=1).tolist() == [True, True, True, False, True, True]
    assert np.isnan(next_token_nats(logits, targets)).tolist() == [[False, False], [False, True], [False, False]]


@pytest.mark.parametrize("outside", OUTSIDE, ids=repr)
def test_a_masked_target_may_be_anything(outside):
    logits, mask = jax.random.normal(jax.random.key(0), (3, V)), jnp.array([True, False, True])
    targets = np.array([1, 0, 3], np.asarray(outside).dtype)
    clean = jax.value_and_grad(cross_entropy)(logits[:, None], targets[:, None], mask[:, None])
    targets[1] = outside
    dirty = jax.value_and_grad(cross_entropy)(logits[:, None], targets[:, None], mask[:, None])
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_a_type_that_does_not_hold_the_vocabulary_holds_some_of_its_ids():
    logits = jax.random.normal(jax.random.key(0), (2, 300))
    nats = next_token_nats(logits, jnp.array([7, 255], jnp.uint8))
    np.testing.assert_allclose(nats, next_token_nats(logits, jnp.array([7, 255])), rtol=1e-12)


@pytest.mark.parametrize("outside", [-1, V, np.uint8(200)], ids=repr)
def test_a_one_hot_vector_of_an_id_outside_is_nan(outside):
    ids = jnp.asarray(np.array([2, outside], np.asarray(outside).dtype))
    for vectors in (one_hot(ids, V), jax.jit(lambda ids: one_hot(ids, V))(ids)):
        assert vectors[0].tolist() == [0, 0, 1, 0, 0]
        assert np.isnan(vectors[1]).all()


def test_one_hot_vectors_are_of_integers_and_of_a_type_with_nan():
    refused(lambda: one_hot(jnp.array([0.5]), V), "ids got float64; want integer ids in [0, 5)")
    refused(lambda: one_hot(jnp.array([1]), V, dtype=bool), "dtype got bool; want a floating type")
    refused(lambda: one_hot(jnp.array([1]), 0), "size got 0; want a positive integer")


@pytest.mark.parametrize("ids", [[0, -1], [4], [1.0, 0.0], [[0, 1]], 2, ["a"], [True], np.float32([1.0])], ids=repr)
def test_only_ids_of_the_vocabulary_are_decoded(ids):
    refused(lambda: vocabulary("hello").decode(ids), "ids got ")


def test_ids_of_any_kind_are_decoded():
    v = vocabulary("hello")
    for ids in ([1, 0], (1, 0), np.uint8([1, 0]), jnp.array([1, 0]), iter([1, 0]), [jnp.asarray(1), np.int8(0)]):
        assert v.decode(ids) == "he"
    assert v.decode([]) == v.decode(np.array([], int)) == ""


def test_a_vocabulary_that_is_not_sorted_is_refused():
    for characters in ("hel", "hello", "aab"):
        refused(
            lambda c=characters: type(vocabulary("a"))(c).encode("l"), f"characters got {characters!r}; want each o"
        )


def test_n_grams_are_counted_of_integer_ids_alone():
    ids = np.array([0, 1, 1])
    refused(lambda: witten_bell(np.array([0.5, 1.0]), ids, 2, order=2), "train got float64; want integer ids")
    refused(lambda: witten_bell(ids, ids[None], 2, order=2), "text got shape (1, 3); want one axis, (N,)")
    refused(lambda: witten_bell(ids, np.array([0, 2**40]), 2, order=2), "text got 1099511627776; want ids in [0, 2)")
    np.testing.assert_array_equal(witten_bell(jnp.asarray(ids), ids[:2], 2, 2), witten_bell(ids, ids[:2], 2, 2))


@pytest.mark.parametrize("outside", [-1, 2**40, 2**31])
def test_streams_refuse_ids_that_no_vocabulary_has(outside):
    refused(lambda: streams(np.array([0, 1, outside, 2]), 1, 2), f"ids got {outside}; want ids in [0, 2147483648)")


def test_a_traced_first_id_outside_is_not_made_one_inside_by_the_type_of_the_targets():
    model = readout(gru(V, 3), V)
    params = random_params(model)
    targets = jnp.array([1, 2], jnp.uint8)

    @jax.jit
    def ys(first):
        told = one_to_many(model, params, model.start(params), first, targets)
        drawn = scheduled_sampling(model, params, jax.random.key(0), model.start(params), first, targets, 0.5)
        return told, drawn

    for of in ys(jnp.asarray(256 + 3)):
        assert np.isnan(of).all()
    for of in ys(jnp.asarray(3)):
        np.testing.assert_allclose(of[0], many_to_many(model, params, model.start(params), jnp.array([3]))[0])


def test_targets_that_are_no_ids_are_refused():
    logits = jnp.zeros((3, 2, V))
    refused(lambda: cross_entropy(logits, jnp.zeros((3, 2))), "targets got float64; want integer ids in [0, 5)")
    refused(lambda: cross_entropy(logits, jnp.zeros(3, int)), "targets got shape (3,); want (3, 2), one for each")
    refused(lambda: next_token_nats(logits, jnp.zeros((3, 5), int)), "targets got shape (3, 5); want (3, 2)")
    refused(
        lambda: cross_entropy(logits, jnp.zeros((3, 2), int), jnp.ones(3, bool)), "mask got bool (3,); want bool (3, 2)"
    )
    refused(lambda: cross_entropy(logits, jnp.zeros((3, 2), int), jnp.ones((3, 2))), "mask got float64 (3, 2); want b")
    refused(lambda: cross_entropy(jnp.zeros((3, 2, V), int), jnp.zeros((3, 2), int)), "logits got int64; want floating")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_nats_of_few_bits_are_summed_in_float32(dtype):
    logits = (3 * jax.random.normal(jax.random.key(0), (400, 1, 65))).astype(dtype)
    targets = jax.random.randint(jax.random.key(1), (400, 1), 0, 65)
    value, gradient = jax.value_and_grad(cross_entropy)(logits, targets)
    truth = cross_entropy(logits.astype(jnp.float64), targets)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, truth, rtol=1e-5)
    assert gradient.dtype == dtype


@pytest.mark.parametrize("beyond", [2**40 + 1, -(2**40) + 1, np.uint64(2**63 + 1)], ids=repr)
def test_an_id_that_jax_would_wrap_round_to_another_one_is_refused(beyond):
    with jax.enable_x64(False):
        model = readout(gru(V, 3), V)
        params = model.init(jax.random.key(0))
        one, ids = np.asarray(beyond), np.full((4, 1), beyond)
        h, h1, nats = model.start(params), model.start(params, (1,)), lambda ys, of: cross_entropy(ys, of)
        says = f" got {beyond}; want integers that "
        refused(lambda: rollout(model, params, h1, ids), "xs" + says)
        refused(lambda: evaluate(model, params, ids, ids, nats), "xs" + says)
        refused(lambda: evaluate(model, params, ids * 0, ids, nats), "targets" + says)
        refused(lambda: lag_gradients(model, params, h1, ids, jnp.sum), "xs" + says)
        refused(lambda: greedy(model, params, h, one, length=3), "first" + says)
        refused(lambda: greedy(model, params, h, 0, length=3, end=beyond), "end" + says)
        refused(lambda: beam_search(model, params, h, one, length=3, width=2), "first" + says)
        refused(lambda: one_to_many(model, params, h1, ids[0] * 0, ids), "targets" + says)
        learner = window_learner(model, nats, optax.sgd(0.1))
        refused(
            lambda: learner.update(learner.init(jax.random.key(0), (1,)), (ids, ids * 0)), f"xs got {beyond}, an in"
        )
        assert np.isnan(cross_entropy(jnp.zeros((4, 1, V)), ids))
        assert np.isnan(one_hot(ids, V)).all()
