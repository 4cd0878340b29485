"""Dropout and zoneout: their statistics, their keys, and where they act."""

# pyright: reportArgumentType=false
# (dictionaries of marks, states of rates, and wrong things on purpose)

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import (
    dropout_mask,
    gru,
    initializers,
    input_dropout,
    keyed,
    length_mask,
    lstm,
    mgu,
    output_dropout,
    outputs,
    readout,
    residual,
    rollout,
    stack,
    ugrnn,
    vanilla,
    variational_dropout,
    weight_drop,
    zoneout,
)
from rnn_jax.cells import LSTMState
from tests.laboratory import any_nonzero

T, B, I, H = 5, 2, 3, 4
random = initializers.scaled_normal()
GRU, LSTM = gru(I, H, bias_init=random), lstm(I, H, bias_init=random)
IDENTITY = vanilla(H, H, activation="linear", input_init=initializers.identity(), recurrent_init=initializers.zeros)
DRAWS = {
    "input": input_dropout(GRU, 0.5),
    "output": output_dropout(LSTM, 0.5),
    "zoneout": zoneout(LSTM, LSTMState(h=0.2, c=0.7)),
    "all": stack(input_dropout(zoneout(readout(GRU, H), 0.5), 0.3), residual(output_dropout(lstm(H, H), 0.5))),
}
every_draw = pytest.mark.parametrize("name", list(DRAWS))
RATES = pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
N = 100_000


def example(cell, seed=0):
    k_params, k_x, k_draw = jax.random.split(jax.random.key(seed), 3)
    params, xs = cell.init(k_params), jax.random.normal(k_x, (T, B, I))
    return params, cell.start(params, (B,)), keyed(k_draw, xs, (B,))


@RATES
def test_a_mask_has_mean_one_and_drops_at_its_rate(rate):
    mask = np.asarray(dropout_mask(jax.random.key(0), rate, (N,)))
    assert set(np.unique(mask)) == {0.0, 1 / (1 - rate)}
    # one draw is 1/(1−p) with probability 1−p: its variance is p/(1−p), that of the mean of N is N times smaller
    assert abs(mask.mean() - 1) < 4 * np.sqrt(rate / (1 - rate) / N)
    assert abs((mask == 0).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / N)


@RATES
@pytest.mark.parametrize("drop", [input_dropout, output_dropout])
def test_dropout_preserves_the_mean(drop, rate):
    cell = drop(IDENTITY, rate)  # y_t = x_t, so that what is seen is the mask
    params = cell.init(jax.random.key(0))
    xs = jnp.ones((1, N // H, H))
    _, hs = rollout(cell, params, cell.start(params, (N // H,)), keyed(jax.random.key(1), xs, (N // H,)))
    seen = np.asarray(outputs(cell, params, hs))
    assert abs(seen.mean() - 1) < 4 * np.sqrt(rate / (1 - rate) / N)
    assert abs((seen == 0).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / N)


@RATES
def test_zoneout_keeps_at_its_rate_and_its_mean_is_what_it_gives_without_keys(rate):
    cell = zoneout(IDENTITY, rate)
    params = cell.init(jax.random.key(0))
    h0, xs = jnp.full((N // H, H), 3.0), jnp.ones((1, N // H, H))
    drawn, _ = rollout(cell, params, h0, keyed(jax.random.key(1), xs, (N // H,)))
    mean, _ = rollout(cell, params, h0, xs)
    np.testing.assert_allclose(mean, 3 * rate + 1 * (1 - rate), rtol=1e-12)
    drawn = np.asarray(drawn)
    assert set(np.unique(drawn)) == {1.0, 3.0}
    # one draw is 1 or 3: its deviation is 2 √(p(1−p))
    assert abs(drawn.mean() - mean[0, 0]) < 4 * 2 * np.sqrt(rate * (1 - rate) / N)


def test_the_parts_of_a_state_are_zoned_apart_at_their_own_rates():
    cell = zoneout(LSTM, LSTMState(h=0.0, c=0.5))
    params, h0, xs = example(cell)
    _, zoned = rollout(cell, params, h0, xs)
    _, free = rollout(LSTM, params, h0, xs.x)
    np.testing.assert_array_equal(zoned.h[0], free.h[0])  # h̃ is made of the new memory, zoned or not
    kept = np.asarray(zoned.c[0] == h0.c)
    assert kept.any()
    np.testing.assert_array_equal(zoned.c[0], np.where(kept, h0.c, free.c[0]))
    both = zoneout(LSTM, 0.5)
    h0 = LSTMState(jnp.full((B, H), 9.0), jnp.full((B, H), 9.0))
    state = both.step(params, h0, jax.tree.map(lambda a: a[0], xs))
    assert np.any((state.h == 9) != (state.c == 9))


@every_draw
def test_batch_vmap_loop_and_chunks_draw_alike(name):
    cell = DRAWS[name]
    params, h0, xs = example(cell)
    whole = jax.jit(lambda h0, xs: rollout(cell, params, h0, xs))(h0, xs)

    @jax.jit
    def other_ways(h0, xs):
        each = jax.vmap(lambda h0, xs: rollout(cell, params, h0, xs), in_axes=(0, 1), out_axes=(0, 1))(h0, xs)
        h, early = rollout(cell, params, h0, jax.tree.map(lambda a: a[:2], xs))
        h_T, late = rollout(cell, params, h, jax.tree.map(lambda a: a[2:], xs))
        return each, (h_T, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), early, late))

    step, h, hs = jax.jit(cell.step), h0, []
    for t in range(T):
        h = step(params, h, jax.tree.map(lambda a, t=t: a[t], xs))
        hs.append(h)
    looped = h, jax.tree.map(lambda *a: jnp.stack(a), *hs)
    for way in (*other_ways(h0, xs), looped):
        chex.assert_trees_all_close(way, whole, rtol=1e-12, atol=1e-14)


@every_draw
def test_every_step_and_example_has_a_new_mask_and_the_same_key_gives_the_same_masks(name):
    cell = DRAWS[name]
    params, h0, xs = example(cell)
    roll = jax.jit(lambda xs: rollout(cell, params, h0, xs)[1])
    chex.assert_trees_all_equal(roll(xs), roll(xs))
    same_steps = xs._replace(key=xs.key[::-1])
    same_examples = xs._replace(key=xs.key[:, ::-1])
    for other in (same_steps, same_examples):
        assert any_nonzero(jax.tree.map(lambda a, b: a - b, roll(xs), roll(other)))


def test_layers_and_nested_cells_draw_apart():
    # y_t = m ⊙ x_t with m = 2 or 0: where both draw alike, nothing that the first keeps is dropped by the second.
    once = output_dropout(IDENTITY, 0.5)
    x = keyed(jax.random.key(2), jnp.ones((1, N // H, H)), (N // H,))
    for cell, first in [
        (stack(once, once), lambda state: state[0].mask),
        (output_dropout(once, 0.5), lambda state: state.cell.mask),
    ]:
        params = cell.init(jax.random.key(0))
        h_T, _ = rollout(cell, params, cell.start(params, (N // H,)), x)
        kept = np.asarray(first(h_T)) == 2
        again = np.asarray(cell.output(params, h_T))[kept] == 4
        assert abs(again.mean() - 0.5) < 4 * 0.5 / np.sqrt(kept.sum())


@every_draw
def test_masked_steps_ignore_what_is_drawn_and_what_lies_there(name):
    cell = DRAWS[name]
    params, h0, xs = example(cell)
    mask = length_mask(jnp.array([3, 0]), T)

    @jax.jit
    @jax.value_and_grad
    def loss(params, xs):
        return jnp.sum(outputs(cell, params, rollout(cell, params, h0, xs, mask=mask)[1]) ** 2)

    clean = loss(params, xs)
    chex.assert_tree_all_finite(clean)
    chex.assert_trees_all_equal(loss(params, xs._replace(x=jnp.where(mask[..., None], xs.x, jnp.nan))), clean)


@pytest.mark.parametrize("drop", [input_dropout, output_dropout, zoneout])
def test_rate_0_is_the_identity_with_keys_and_without(drop):
    cell = drop(LSTM, 0.0)
    params, h0, xs = example(cell)
    plain = outputs(LSTM, params, rollout(LSTM, params, LSTM.start(params, (B,)), xs.x)[1])
    for way in (xs, xs.x):
        np.testing.assert_array_equal(outputs(cell, params, rollout(cell, params, h0, way)[1]), plain)
    chex.assert_trees_all_equal(weight_drop(params, jax.random.key(0), 0.0), params)
    ones = dropout_mask(jax.random.key(0), 0.0, (B, H))
    np.testing.assert_array_equal(ones, 1)
    same = variational_dropout(LSTM, input_mask=ones[:, :I], state_mask=ones)
    np.testing.assert_array_equal(
        outputs(same, params, rollout(same, params, same.start(params, (B,)), xs.x)[1]), plain
    )


def test_a_variational_mask_is_the_same_at_every_step():
    # h_t = W_hh (m ⊙ h_{t−1}) with W_hh = I and m_i = 2 or 0: after t steps 2^t where m is 2, and 0 elsewhere.
    cell = vanilla(1, H, activation="linear", recurrent_init=initializers.identity())
    mask = dropout_mask(jax.random.key(3), 0.5, (B, H))
    assert {0.0, 2.0} == set(np.unique(mask))
    params = cell.init(jax.random.key(0))
    _, hs = rollout(variational_dropout(cell, state_mask=mask), params, jnp.ones((B, H)), jnp.zeros((T, B, 1)))
    for t, h in enumerate(hs, start=1):
        np.testing.assert_array_equal(h, np.asarray(mask) ** t)
    # y_t = m ⊙ x_t: what is seen of ones is the mask, at every step
    mask = dropout_mask(jax.random.key(4), 0.5, (B, H))
    params = IDENTITY.init(jax.random.key(0))
    _, hs = rollout(variational_dropout(IDENTITY, input_mask=mask), params, jnp.zeros((B, H)), jnp.ones((T, B, H)))
    for h in hs:
        np.testing.assert_array_equal(h, mask)


@pytest.mark.parametrize("factory", [gru, mgu, ugrnn, lstm])
def test_a_variational_mask_acts_in_the_product_and_not_on_what_leaks(factory):
    # Masking what the product reads is dropping rows of W_hh, for a mask that the whole batch shares.
    cell = factory(I, H, bias_init=random)
    params, h0, xs = example(cell)
    mask = jnp.array([2.0, 0.0, 2.0, 0.0])
    rows = params._replace(W_hh=params.W_hh * jnp.broadcast_to(mask[:, None], params.W_hh.shape))
    h0 = jax.tree.map(lambda h: h + 0.5, h0)
    dropped = rollout(variational_dropout(cell, state_mask=mask), params, h0, xs.x)
    chex.assert_trees_all_close(dropped, rollout(cell, rows, h0, xs.x), rtol=1e-12)


def test_weight_drop_drops_recurrent_weights_alone_and_gradients_reach_those_that_are_kept():
    cell = readout(stack(GRU, lstm(H, H)), 2)
    params, h0, xs = example(cell)
    dropped = weight_drop(params, jax.random.key(1), 0.5)
    for layer in range(2):
        before, after = params.cell[layer], dropped.cell[layer]
        chex.assert_trees_all_equal(before._replace(W_hh=0.0), after._replace(W_hh=0.0))
        kept = after.W_hh != 0
        assert 0.2 < kept.mean() < 0.8
        np.testing.assert_allclose(after.W_hh, jnp.where(kept, 2 * before.W_hh, 0), rtol=1e-15)

        @jax.jit
        @jax.grad
        def loss(params):
            _, hs = rollout(cell, weight_drop(params, jax.random.key(1), 0.5), h0, xs.x)
            return jnp.sum(outputs(cell, params, hs) ** 2)

        assert not any_nonzero(jnp.where(kept, 0, loss(params).cell[layer].W_hh))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_outside_0_to_1_is_refused(rate):
    params = GRU.init(jax.random.key(0))
    key = jax.random.key(0)
    for use in (
        lambda: dropout_mask(key, rate, (3,)),
        lambda: input_dropout(GRU, rate),
        lambda: output_dropout(GRU, rate),
        lambda: zoneout(LSTM, LSTMState(h=0.1, c=rate)),
        lambda: weight_drop(params, key, rate),
    ):
        with pytest.raises(ValueError, match=rf"^rate got {rate}; want a dropout rate in \[0, 1\)"):
            use()


def test_wrong_use_of_masks_and_keys_is_refused():
    with pytest.raises(ValueError, match=r"^variational_dropout got a state_mask for Readout of GRU, .* no W_hh"):
        variational_dropout(readout(GRU, 2), state_mask=jnp.ones(H))
    for wrong in ({"input_mask": jnp.ones(I + 1)}, {"state_mask": jnp.ones((3, H))}):
        dropped = variational_dropout(GRU, **wrong)
        with pytest.raises(ValueError, match=r"^(input|state)_mask got shape .*; want the last axes of"):
            dropped.step(GRU.init(jax.random.key(0)), jnp.ones((B, H)), jnp.ones((B, I)))
    with pytest.raises(ValueError, match=r"^weight_drop got params of .*, which hold no W_hh"):
        weight_drop({"W": jnp.ones(3)}, jax.random.key(0), 0.5)
    with pytest.raises(ValueError, match=r"^xs got shape \(5, 2, 3\); want \(T, \*batch, …\) with batch_shape \(3,\)"):
        keyed(jax.random.key(0), jnp.ones((T, B, I)), (3,))
    cell = input_dropout(GRU, 0.5)
    params = cell.init(jax.random.key(0))
    ids = keyed(jax.random.key(0), jnp.zeros((T, B), int), (B,))
    with pytest.raises(ValueError, match=r"^input_dropout got inputs of int64; want floating ones"):
        rollout(cell, params, cell.start(params, (B,)), ids)
    with pytest.raises(ValueError, match=r"^xs got keys .* draws nothing"):
        rollout(GRU, params, GRU.start(params, (B,)), keyed(jax.random.key(0), jnp.ones((T, B, I)), (B,)))
