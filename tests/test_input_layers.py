"""Input layers: what a model reads through one equals what it reads of the layer's values."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import (
    bidirectional,
    dense_input,
    embedding,
    gru,
    initializers,
    input_dropout,
    keyed,
    length_mask,
    lstm,
    readout,
    stack,
)
from rnn_jax.layers import as_layer
from tests.laboratory import any_nonzero, refused

T, B, V, I, H, F = 5, 2, 7, 3, 4, 2
random = initializers.scaled_normal()
IDS = jnp.array([[0, 6], [1, 5], [2, 4], [3, 3], [6, 0]])
XS = jax.random.normal(jax.random.key(1), (T, B, F))
MODELS = {"cell": lstm(I, H), "layer": bidirectional(gru(I, H), lstm(I, 2)), "stack": stack(gru(I, I), lstm(I, H))}


def dense(params, x):
    return jnp.maximum(np.asarray(x) @ params.W + np.asarray(params.b)[None, None], 0)


INPUTS = {
    "embedding": (lambda model: embedding(model, V, I), lambda params, ids: params.E[ids], IDS),
    "dense": (lambda model: dense_input(model, F, I, bias_init=random), dense, XS),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", INPUTS)
def test_a_model_behind_an_input_layer_reads_the_values_of_the_layer(kind, name):
    make, values, xs = INPUTS[kind]
    plain, model = MODELS[name], make(MODELS[name])
    assert type(model) is type(plain)
    params = model.init(jax.random.key(0))
    given = as_layer(model).apply(params, model.start(params, (B,)), xs)
    expected = as_layer(plain).apply(params.cell, plain.start(params.cell, (B,)), values(params, xs))
    chex.assert_trees_all_close(given, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["cell", "layer"])
@pytest.mark.parametrize("kind", INPUTS)
def test_padding_changes_neither_a_value_nor_a_gradient_of_an_input_layer(kind, name):
    make, _, xs = INPUTS[kind]
    model, lengths = make(MODELS[name]), jnp.array([T, 2])
    params = model.init(jax.random.key(0))
    real = length_mask(lengths, T)

    @jax.jit
    @jax.value_and_grad
    def loss(params, xs):
        h_T, _ = as_layer(model).rollout(params, model.start(params, (B,)), xs, lengths=lengths)
        return sum(jnp.sum(h**2) for h in jax.tree.leaves(h_T))

    dirty = jnp.where(real, xs, V) if kind == "embedding" else jnp.where(real[..., None], xs, jnp.nan)
    clean = loss(params, xs)
    chex.assert_tree_all_finite(clean)
    chex.assert_trees_all_equal(loss(params, dirty), clean)
    if kind == "embedding":  # the rows of ids that are read, and those alone, have a gradient
        read = sorted({*np.asarray(IDS)[np.asarray(real)].tolist()})
        assert np.flatnonzero(np.any(np.asarray(clean[1].E) != 0, axis=1)).tolist() == read


def test_an_id_outside_the_vocabulary_gives_nan_and_one_hot_vectors_are_ids():
    model = embedding(gru(I, H), V, I)
    params = model.init(jax.random.key(0))
    h = model.start(params, (3,))
    ids = jnp.array([-1, 2, V])
    assert jnp.isnan(model.step(params, h, ids)).all(axis=-1).tolist() == [True, False, True]
    one_hot = model.step(params, h, jax.nn.one_hot(ids, V, dtype=float))
    np.testing.assert_allclose(one_hot[1], model.step(params, h, ids)[1], rtol=1e-12)


def test_rows_of_an_embedding_begin_with_variance_1_and_a_dense_layer_keeps_it():
    model = embedding(gru(64, H), 500, 64)
    assert abs(np.std(model.init(jax.random.key(0)).E) - 1) < 0.02  # of 32,000 numbers: 0.004 is one standard error
    dense = dense_input(gru(64, H), 500, 64)
    assert abs(np.std(dense.init(jax.random.key(0)).W) * 500**0.5 - 1) < 0.02


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_an_input_layer_has_the_type_of_the_params_behind_it(dtype):
    for model in (
        embedding(gru(I, H, dtype=dtype), V, I),
        dense_input(bidirectional(*[gru(I, H, dtype=dtype)] * 2), F, I),
    ):
        assert {leaf.dtype for leaf in jax.tree.leaves(model.init(jax.random.key(0)))} == {jnp.dtype(dtype)}


def test_the_gradient_of_an_embedding_is_summed_in_at_least_32_bits():
    layer = embedding(as_layer(gru(1, 1, dtype=jnp.bfloat16)), 1, 1)
    params = layer.init(jax.random.key(0))
    steps = 1000  # of ones; in bfloat16 their sum would end at 256

    def loss(E):
        _, hs = layer.rollout(
            params._replace(E=E), layer.start(params), jnp.zeros(steps, int), resets=jnp.ones(steps, bool)
        )
        return jnp.sum(hs.astype(jnp.float32))

    one = jax.grad(lambda E: jnp.sum(layer.rollout(params._replace(E=E), layer.start(params), jnp.zeros(1, int))[1]))(
        params.E
    )
    np.testing.assert_allclose(np.float64(jax.grad(loss)(params.E)), steps * np.float64(one), rtol=0.02)


@pytest.mark.parametrize("name", ["cell", "layer"])
def test_keys_pass_through_an_input_layer(name):
    inner = input_dropout(gru(I, H), 0.5)
    model = embedding(inner if name == "cell" else bidirectional(inner, inner), V, I)
    assert model.keyed
    params = model.init(jax.random.key(0))
    h0 = model.start(params, (B,))
    run = lambda xs: as_layer(model).apply(params, h0, xs)[1]  # noqa: E731
    one, other = (run(keyed(jax.random.key(seed), IDS, (B,))) for seed in (1, 2))
    assert any_nonzero(one - other)
    assert any_nonzero(one - run(IDS))
    np.testing.assert_array_equal(one, run(keyed(jax.random.key(1), IDS, (B,))))


def test_sizes_that_do_not_fit_are_refused_in_one_line():
    refused(
        lambda: embedding(gru(I, H), V, I + 1), "embedding of size 4 got GRU, which does not accept it: xs got shape"
    )
    refused(
        lambda: dense_input(readout(gru(I, H), 2), F, 2), "dense_input of size 2 got Readout of GRU, which does not"
    )
    refused(lambda: embedding(gru(I, H), 0, I), "vocabulary_size got 0; want a positive integer")
    refused(lambda: dense_input(gru(I, H), 0, I), "input_size got 0; want a positive integer")
    model = dense_input(gru(I, H), F, I)
    params = model.init(jax.random.key(0))
    refused(
        lambda: model.step(params, model.start(params), jnp.ones(F + 1)),
        "xs got shape (T, 3); want 2 features on the last",
    )
    deep = dense_input(MODELS["layer"], F, I)
    params = deep.init(jax.random.key(0))
    both = {"mask": jnp.ones(T, bool), "lengths": jnp.array([T, T])}
    refused(lambda: deep.apply(params, deep.start(params, (B,)), XS, **both), "mask got an array and so did lengths")
