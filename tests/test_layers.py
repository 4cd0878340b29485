"""Both directions and any depth, with every mark."""

# pyright: reportArgumentType=false
# (dictionaries of marks, states of rates, and wrong things on purpose)

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import (
    bidirectional,
    gru,
    initializers,
    input_dropout,
    keyed,
    length_mask,
    lstm,
    many_to_many,
    many_to_one,
    output_dropout,
    outputs,
    readout,
    residual,
    reverse_sequence,
    rollout,
    stack,
    vanilla,
    zoneout,
)
from rnn_jax.layers import as_layer
from tests.laboratory import any_nonzero, refused

T, B, I, H = 6, 3, 2, 3
random = initializers.scaled_normal()
ONE = bidirectional(lstm(I, H, bias_init=random), stack(gru(I, H), residual(vanilla(H, H))))
DEEP = stack(ONE, as_layer(vanilla(2 * H, H)), bidirectional(gru(H, H), gru(H, H), merge="sum"))
LAYERS = {"one": ONE, "deep": DEEP}


def example(layer):
    k_params, k_x = jax.random.split(jax.random.key(0))
    params = layer.init(k_params)
    return params, layer.start(params, (B,)), jax.random.normal(k_x, (T, B, I))


def gradients_of(layer):
    """``(params, h0, xs, seen (T, B), marks) -> ((h_T, ys), gradients)`` of Σ seen_t ⊙ y_t²; compiled once."""

    def loss(params, h0, xs, seen, marks):
        h_T, ys = layer.apply(params, h0, xs, **marks)
        return jnp.sum(jnp.broadcast_to(seen[..., None], ys.shape) * ys**2), (h_T, ys)

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))


def test_both_directions_are_two_rollouts_merged():
    params, h0, xs = example(ONE)
    h_T, ys = ONE.apply(params, h0, xs)
    forward, backward = lstm(I, H), stack(gru(I, H), residual(vanilla(H, H)))
    there_T, there = rollout(forward, params.forward, h0.forward, xs)
    back_T, back = rollout(backward, params.backward, h0.backward, jnp.flip(xs, axis=0))
    chex.assert_trees_all_close(h_T, type(h_T)(there_T, back_T), rtol=1e-12)
    seen = outputs(forward, params.forward, there), jnp.flip(outputs(backward, params.backward, back), axis=0)
    np.testing.assert_allclose(ys, jnp.concatenate(seen, axis=-1), rtol=1e-12)


def test_outputs_are_merged_by_sum_or_any_function():
    cells = gru(I, H), gru(I, H)
    params, h0, xs = example(bidirectional(*cells))
    there, back = jnp.split(bidirectional(*cells).apply(params, h0, xs)[1], 2, axis=-1)
    for merge, expected in [("sum", there + back), (jnp.maximum, jnp.maximum(there, back))]:
        np.testing.assert_array_equal(bidirectional(*cells, merge=merge).apply(params, h0, xs)[1], expected)


@pytest.mark.parametrize("name", list(LAYERS))
def test_ragged_sequences_equal_each_sequence_alone_with_any_padding(name):
    layer = LAYERS[name]
    params, h0, xs = example(layer)
    lengths = jnp.array([T, 4, 0])
    mask = length_mask(lengths, T)
    run = gradients_of(layer)
    (to_params, to_h0, to_xs), (h_T, ys) = run(params, h0, xs, mask.astype(float), {"mask": mask})
    dirty = jnp.where(mask[..., None], xs, jnp.nan)
    chex.assert_trees_all_equal(
        run(params, h0, dirty, mask.astype(float), {"mask": mask}), ((to_params, to_h0, to_xs), (h_T, ys))
    )
    assert not any_nonzero(jnp.where(mask[..., None], 0, to_xs))
    for b, length in enumerate(lengths):
        one = jax.tree.map(lambda h, b=b: h[b], h0)
        alone_T, alone = jax.jit(layer.apply)(params, one, xs[:length, b])
        np.testing.assert_allclose(ys[:length, b], alone, rtol=1e-12, atol=1e-14)
        chex.assert_trees_all_close(jax.tree.map(lambda h, b=b: h[b], h_T), alone_T, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", list(LAYERS))
@pytest.mark.parametrize("border", ["resets", "cuts"])
def test_nothing_crosses_a_border_from_either_side(name, border):
    layer = LAYERS[name]
    params, h0, xs = example(layer)
    at = jnp.zeros((T, B), bool).at[3, 0].set(True)  # between steps 2 and 3 of the first example
    run = gradients_of(layer)
    for inside in (slice(0, 3), slice(3, T)):
        seen = jnp.zeros((T, B)).at[inside, 0].set(1.0)
        (_, _, to_xs), _ = run(params, h0, xs, seen, {border: at})
        assert not any_nonzero(to_xs.at[inside, 0].set(0))
        assert np.all(np.any(to_xs[inside, 0] != 0, axis=-1))
    if border == "resets":  # two sequences in one row
        _, (_, ys) = run(params, h0, xs, seen, {border: at})
        start = jax.tree.map(lambda h: h[0], h0)
        for inside in (slice(0, 3), slice(3, T)):
            np.testing.assert_allclose(ys[inside, 0], layer.apply(params, start, xs[inside, 0])[1], rtol=1e-12)


def test_a_layer_of_a_stack_sees_the_whole_sequence_below():
    cells = readout(gru(I, H), H), lstm(H, H)
    cell, layers = stack(*cells), stack(*map(as_layer, cells))
    params, h0, xs = example(layers)
    for marks in ({}, {"lengths": jnp.array([6, 3, 0])}):
        h_T, hs = rollout(cell, params, h0, xs, **marks)
        both = layers.apply(params, h0, xs, **marks)
        chex.assert_trees_all_close((h_T, outputs(cell, params, hs)), both, rtol=1e-12)


def test_a_residual_adds_the_input_and_a_readout_is_linear_in_the_output():
    cell = gru(H, H, bias_init=random)
    params, xs = cell.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (T, B, H))
    _, hs = rollout(cell, params, cell.start(params, (B,)), xs)
    added = residual(cell)
    _, states = rollout(added, params, added.start(params, (B,)), xs)
    np.testing.assert_allclose(outputs(added, params, states), hs + xs, rtol=1e-12)
    chex.assert_trees_all_close(states.cell, hs, rtol=1e-12)  # the recurrence does not see the sum

    seen = readout(cell, 2, bias_init=random)
    weights = seen.init(jax.random.key(2))._replace(cell=params)
    expected = np.einsum("tbh,ho->tbo", hs, weights.W_hy) + np.asarray(weights.b_y)
    np.testing.assert_allclose(outputs(seen, weights, hs), expected, rtol=1e-12, atol=1e-14)


def test_a_reversed_layer_is_the_layer_of_the_reversed_sequence():
    cell = gru(I, H)
    params, h0, xs = example(as_layer(cell))
    lengths = jnp.array([6, 4, 1])
    h_T, ys = as_layer(cell, reverse=True).apply(params, h0, xs, lengths=lengths)
    turned_T, turned = as_layer(cell).apply(params, h0, reverse_sequence(xs, lengths), lengths=lengths)
    np.testing.assert_allclose(h_T, turned_T, rtol=1e-12)
    valid = length_mask(lengths, T)[..., None]
    np.testing.assert_allclose(
        jnp.where(valid, ys, 0), jnp.where(valid, reverse_sequence(turned, lengths), 0), rtol=1e-12
    )


def test_a_bidirectional_layer_of_no_steps_gives_no_outputs():
    params, h0, _ = example(ONE)
    h_T, ys = ONE.apply(params, h0, jnp.zeros((0, B, I)))
    chex.assert_trees_all_equal(h_T, h0)
    assert ys.shape == (0, B, 2 * H)


def test_directions_and_layers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"^merge got 'product'; want one of concatenate, sum, or any function"):
        bidirectional(gru(I, H), gru(I, H), merge="product")
    with pytest.raises(ValueError, match=r"^stack got no cell or layer"):
        stack()
    wrong = stack(ONE, as_layer(gru(H, H)))
    params, h0, xs = example(wrong)
    with pytest.raises(ValueError, match=r"^layer 1 of stack \(GRU\): xs got shape .*; want 3 features"):
        wrong.apply(params, h0, xs)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_is_read_is_a_linear_layer_on_the_layer(name):
    layer = readout(LAYERS[name], 5, bias_init=random)
    params, h0, xs = example(layer)
    lengths = jnp.array([6, 1, 4])
    h_T, ys = layer.apply(params, h0, xs, lengths=lengths)
    inner_T, seen = LAYERS[name].apply(params.cell, h0, xs, lengths=lengths)
    chex.assert_trees_all_equal(h_T, inner_T)
    np.testing.assert_allclose(ys, np.asarray(seen) @ params.W_hy + np.asarray(params.b_y)[None, None], rtol=1e-12)
    last = np.asarray(LAYERS[name].output(params.cell, inner_T)) @ params.W_hy + np.asarray(params.b_y)[None]
    np.testing.assert_allclose(many_to_one(layer, params, h0, xs, lengths=lengths), last, rtol=1e-12)


def test_a_layer_is_read_into_at_least_one_number():
    with pytest.raises(ValueError, match=r"^output_size got 0; want a positive integer"):
        readout(ONE, 0)


IDENTITY = vanilla(H, H, activation="linear", input_init=initializers.identity(), recurrent_init=initializers.zeros)
ONCE = output_dropout(IDENTITY, 0.5)  # y_t = m ⊙ x_t with m = 2 or 0, so that what is seen of ones is the mask
N = 4000  # examples of a statistic
DRAWS = {
    "both": bidirectional(output_dropout(gru(I, H), 0.5), zoneout(lstm(I, H), 0.5)),
    "one": bidirectional(gru(I, H), output_dropout(lstm(I, H), 0.5)),
    "deep": stack(
        readout(bidirectional(zoneout(gru(I, H), 0.3), gru(I, H)), H),
        as_layer(gru(H, H)),
        bidirectional(input_dropout(gru(H, H), 0.4), stack(output_dropout(gru(H, 2), 0.4), gru(2, H))),
    ),
}


def keyed_example(layer, seed=1):
    params, h0, xs = example(layer)
    return params, h0, keyed(jax.random.key(seed), xs, (B,))


@pytest.mark.parametrize(
    ("layer", "masks"),
    [
        (stack(as_layer(ONCE), as_layer(ONCE)), lambda ys, h_T: (h_T[0].mask[None] / 2, ys / 2)),
        (
            stack(bidirectional(ONCE, ONCE, merge="sum")),
            lambda ys, h_T: (h_T[0].forward.mask, h_T[0].backward.mask),
        ),
        (bidirectional(ONCE, ONCE), lambda ys, h_T: jnp.split(ys[0] / 2, 2, axis=-1)),
    ],
    ids=["layers", "directions of a layer", "directions"],
)
def test_each_layer_and_each_direction_draws_from_a_stream_of_its_own(layer, masks):
    params = layer.init(jax.random.key(0))
    xs = keyed(jax.random.key(1), jnp.ones((1, N, H)), (N,))
    h_T, ys = layer.apply(params, layer.start(params, (N,)), xs)
    below, above = (np.asarray(mask) != 0 for mask in masks(ys, h_T))
    again = above.reshape(below.shape)[below]  # of what the first keeps, the second keeps half
    assert abs(below.mean() - 0.5) < 4 * 0.5 / np.sqrt(below.size)
    assert abs(again.mean() - 0.5) < 4 * 0.5 / np.sqrt(again.size)


def test_where_a_layer_or_a_direction_drops_the_gradient_is_exactly_zero():
    layer = stack(bidirectional(ONCE, ONCE, merge="sum"), as_layer(ONCE))
    params = layer.init(jax.random.key(0))
    xs = keyed(jax.random.key(1), jnp.ones((T, B, H)), (B,))

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def seen(ones):
        _, ys = layer.apply(params, layer.start(params, (B,)), xs._replace(x=ones))
        return ys.sum(), ys

    to_xs, ys = seen(xs.x)  # y_t = m″ ⊙ (m + m′) ⊙ x_t with each mask 2 or 0
    np.testing.assert_array_equal(to_xs, ys)
    assert set(np.unique(ys)) == {0.0, 4.0, 8.0}


def test_layers_of_cells_that_draw_draw_as_the_stack_of_the_cells_does():
    cells = output_dropout(gru(I, H), 0.5), gru(H, H), zoneout(lstm(H, H), 0.5)
    cell, layers = stack(*cells), stack(*map(as_layer, cells))
    params, h0, xs = keyed_example(layers)
    for marks in ({}, {"lengths": jnp.array([6, 3, 0])}):
        h_T, hs = rollout(cell, params, h0, xs, **marks)
        chex.assert_trees_all_close(layers.apply(params, h0, xs, **marks), (h_T, outputs(cell, params, hs)), rtol=1e-12)


def test_dropout_in_one_direction_leaves_the_other_as_it_is():
    free = bidirectional(gru(I, H), lstm(I, H))
    params, h0, xs = keyed_example(DRAWS["one"])
    _, ys = DRAWS["one"].apply(params, h0, xs)
    plain = free.apply(params, free.start(params, (B,)), xs.x)[1]
    np.testing.assert_array_equal(ys[..., :H], plain[..., :H])
    dropped = np.asarray(ys[..., H:]) == 0
    np.testing.assert_array_equal(ys[..., H:], np.where(dropped, 0, 2 * plain[..., H:]))
    assert 0.2 < dropped.mean() < 0.8


@pytest.mark.parametrize("name", list(DRAWS))
def test_layers_that_draw_draw_alike_in_a_batch_vmap_and_a_loop(name):
    layer = DRAWS[name]
    params, h0, xs = keyed_example(layer)
    lengths = jnp.array([6, 4, 1])
    run = jax.jit(lambda h0, xs, lengths: layer.apply(params, h0, xs, lengths=lengths))
    h_T, ys = run(h0, xs, lengths)
    mapped = jax.vmap(run, in_axes=(0, 1, 0), out_axes=(0, 1))(h0, xs, lengths)
    chex.assert_trees_all_close(mapped, (h_T, ys), rtol=1e-12, atol=1e-14)
    for b in range(B):
        alone = run(*jax.tree.map(lambda a, b=b: a[b], (h0, xs._replace(x=xs.x.swapaxes(0, 1), key=xs.key.T), lengths)))
        chex.assert_trees_all_close(alone[1], ys[:, b], rtol=1e-12, atol=1e-14)
    for other in (xs._replace(key=xs.key[::-1]), xs._replace(key=xs.key[:, ::-1]), xs.x):
        assert any_nonzero(run(h0, other, lengths)[1] - ys)


def test_the_mean_of_a_layer_that_draws_is_that_of_its_cells():
    cells = zoneout(gru(I, H), 0.3), output_dropout(lstm(I, H), 0.5)
    layer = bidirectional(*cells)
    params, h0, xs = example(layer)
    there, back = (as_layer(cell, reverse=reverse) for cell, reverse in zip(cells, (False, True), strict=True))
    ways = there.apply(params.forward, h0.forward, xs)[1], back.apply(params.backward, h0.backward, xs)[1]
    np.testing.assert_array_equal(layer.apply(params, h0, xs)[1], jnp.concatenate(ways, axis=-1))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_draws_nothing_is_given_no_keys(name):
    for layer in (LAYERS[name], readout(LAYERS[name], 2), as_layer(gru(I, H))):
        params, h0, xs = keyed_example(layer)
        refused(lambda: layer.apply(params, h0, xs), "xs got keys for a model that draws nothing; want none, or a cell")
        refused(lambda: many_to_one(layer, params, h0, xs), "xs got keys for a model that draws nothing")


@pytest.mark.parametrize("make", ["cell", "layer", "deep"])
def test_many_to_one_reads_the_last_state_alone(make):
    V = 17
    model = {
        "cell": readout(gru(I, H), V),
        "layer": readout(ONE, V),
        "deep": stack(ONE, as_layer(readout(gru(2 * H, H), V))),
    }[make]
    params, h0, xs = example(as_layer(model))
    one, many = (str(jax.make_jaxpr(functools.partial(f, model))(params, h0, xs)) for f in (many_to_one, many_to_many))
    assert f"[{B},{V}]" in one
    assert f"[{T},{B},{V}]" not in one
    assert f"[{T},{B},{V}]" in many
