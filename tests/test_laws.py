"""Laws that hold for every cell and every schedule."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads

from rnn_jax import outputs, rollout, window_cuts
from tests.cases import CELLS, SCHEDULE_NAMES, TAKES_IDS, H, I

pytestmark = pytest.mark.parametrize("schedule", SCHEDULE_NAMES)
every_cell = pytest.mark.parametrize("name", list(CELLS))


def example(name, T=5, batch=(), dtype=jnp.float64, seed=0):
    """A cell with weights, a random state and a random sequence."""
    cell = CELLS[name]
    k_params, k_h, k_x = jax.random.split(jax.random.key(seed), 3)
    params = cell.init(k_params)
    flat, unravel = ravel_pytree(cell.start(params, batch))
    h0 = unravel(0.5 * jax.random.normal(k_h, flat.shape))
    xs = jax.random.normal(k_x, (T, *batch, I))
    return cell, *jax.tree.map(lambda a: a.astype(dtype), (params, h0, xs))


@every_cell
@settings(max_examples=3)  # each compiles anew
@given(
    first=st.sampled_from([0, 1, 3]),
    second=st.sampled_from([0, 1, 4]),
    batch=st.sampled_from([(), (2,), (2, 3)]),
)
def test_rolling_out_two_chunks_equals_rolling_out_their_concatenation(schedule, name, first, second, batch):
    cell, params, h0, xs = example(name, first + second, batch)

    @jax.jit
    def both(params, h0, xs):
        h_mid, early = rollout(cell, params, h0, xs[:first], schedule=schedule)
        h_T, late = rollout(cell, params, h_mid, xs[first:], schedule=schedule)
        pieces = h_T, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), early, late)
        return pieces, rollout(cell, params, h0, xs, schedule=schedule)

    chex.assert_trees_all_close(*both(params, h0, xs), rtol=1e-12)


@every_cell
def test_loop_scan_jit_vmap_and_batch_agree(schedule, name):
    cell, params, h0, xs = example(name, T=4, batch=(3,))
    h, hs = h0, []
    for x in xs:
        h = cell.step(params, h, x)
        hs.append(h)
    looped = h, jax.tree.map(lambda *a: jnp.stack(a), *hs)

    def roll(h0, xs):
        return rollout(cell, params, h0, xs, schedule=schedule)

    chex.assert_trees_all_close(roll(h0, xs), looped, rtol=1e-12)
    chex.assert_trees_all_close(jax.jit(roll)(h0, xs), looped, rtol=1e-12)
    each = jax.jit(jax.vmap(roll, in_axes=(0, 1), out_axes=(0, 1)))
    chex.assert_trees_all_close(each(h0, xs), looped, rtol=1e-12)


@every_cell
@given(T=st.integers(0, 9), batch=st.lists(st.integers(1, 3), max_size=3).map(tuple))
def test_shapes_and_types_follow_the_sequence_and_the_params(schedule, name, T, batch):
    for dtype in (jnp.float64, jnp.float32, jnp.bfloat16):
        cell = CELLS[name]
        params, h0, xs = jax.eval_shape(lambda dtype=dtype: example(name, T, batch, dtype)[1:])
        h_T, hs = jax.eval_shape(lambda *a: rollout(cell, *a, schedule=schedule), params, h0, xs)
        chex.assert_trees_all_equal_shapes_and_dtypes(h_T, h0)
        jax.tree.map(lambda a: chex.assert_shape(a, (T, *batch, H)), hs)
        ys = jax.eval_shape(lambda *a: outputs(cell, *a), params, hs)
        chex.assert_shape(ys, (T, *batch, 2 if name.startswith("readout") else H))
        chex.assert_type(ys, dtype)


@every_cell
def test_an_empty_sequence_returns_the_state_it_was_given(schedule, name):
    cell, params, h0, xs = example(name, T=0, batch=(2,))
    h_T, _ = rollout(cell, params, h0, xs, schedule=schedule)
    chex.assert_trees_all_equal(h_T, h0)


@every_cell
def test_gradients_equal_finite_differences(schedule, name):
    cell, params, h0, xs = example(name, T=3, batch=(2,), seed=1)

    @jax.jit
    def loss(params, h0, xs):
        return jnp.sum(outputs(cell, params, rollout(cell, params, h0, xs, schedule=schedule)[1]) ** 2)

    check_grads(loss, (params, h0, xs), order=1, modes=["fwd", "rev"], eps=1e-6, rtol=1e-6)


@every_cell
def test_no_gradient_crosses_a_cut_and_no_value_changes(schedule, name):
    cell, params, h0, xs = example(name, T=6, batch=(2,))

    @jax.jit
    def last(h0, xs, cuts):
        def total(h0, xs):
            h_T, _ = rollout(cell, params, h0, xs, cuts=cuts, schedule=schedule)
            return sum(jnp.sum(a) for a in jax.tree.leaves(h_T)), h_T

        gradients, h_T = jax.grad(total, argnums=(0, 1), has_aux=True)(h0, xs)
        return h_T, *gradients

    free_h_T, free_h0, free_xs = last(h0, xs, jnp.zeros((6, 2), bool))
    assert np.all(np.any(free_xs != 0, axis=2)), "the uncut gradient must be there, or the law says nothing"
    for cut in range(1, 6):  # only the first example is cut
        h_T, to_h0, to_xs = last(h0, xs, jnp.zeros((6, 2), bool).at[cut, 0].set(True))
        chex.assert_trees_all_equal(h_T, free_h_T)
        assert not np.any(to_xs[:cut, 0])
        chex.assert_trees_all_close(to_xs[cut:], free_xs[cut:], rtol=1e-12)
        chex.assert_trees_all_close(to_xs[:, 1], free_xs[:, 1], rtol=1e-12)
        for cut_leaf, free_leaf in zip(jax.tree.leaves(to_h0), jax.tree.leaves(free_h0), strict=True):
            assert not np.any(cut_leaf[0])
            np.testing.assert_allclose(cut_leaf[1], free_leaf[1], rtol=1e-12)


@every_cell
def test_cuts_of_the_whole_batch_equal_cuts_of_each_example(schedule, name):
    cell, params, h0, xs = example(name, T=5, batch=(2,))

    @jax.jit
    def gradient(cuts):
        return jax.grad(lambda p: jnp.sum(outputs(cell, p, rollout(cell, p, h0, xs, cuts=cuts)[1]) ** 2))(params)

    cuts = window_cuts(5, 2)
    each = jnp.broadcast_to(cuts[:, None], (5, 2))
    chex.assert_trees_all_close(gradient(cuts), gradient(each), rtol=1e-12)


@every_cell
def test_a_cut_stops_even_a_gradient_that_is_not_a_number(schedule, name):
    cell, params, h0, xs = example(name, T=4)

    @jax.jit
    @jax.grad
    def gradient(x_0):
        broken = xs.at[0].set(x_0).at[2].set(jnp.nan)
        h_T, _ = rollout(cell, params, h0, broken, cuts=window_cuts(4, 2), schedule=schedule)
        return ravel_pytree(h_T)[0].sum()

    assert not np.any(gradient(xs[0]))


@every_cell
def test_a_window_of_at_least_T_is_full_back_propagation_learned_start_included(schedule, name):
    cell, params, h0, xs = example(name, T=6)

    @jax.jit
    def gradient(cuts):
        def loss(params, h0):
            _, hs = rollout(cell, params, h0, xs, cuts=cuts, schedule=schedule)
            return jnp.sum(outputs(cell, params, hs) ** 2)

        return jax.grad(loss, argnums=(0, 1))(params, h0)

    full = gradient(None)
    for window in (6, 7, 100):
        chex.assert_trees_all_close(gradient(window_cuts(6, window)), full, rtol=1e-12)


@every_cell
def test_the_window_may_be_traced_and_vmapped(schedule, name):
    cell, params, h0, xs = example(name, T=6)

    @jax.jit
    def gradient(window):
        cuts = window_cuts(6, window)
        return jax.grad(lambda p: ravel_pytree(rollout(cell, p, h0, xs, cuts=cuts, schedule=schedule)[0])[0].sum())(
            params
        )

    one_by_one = [gradient(w) for w in (1, 2, 6)]
    together = jax.jit(jax.vmap(gradient))(jnp.array([1, 2, 6]))
    chex.assert_trees_all_close(together, jax.tree.map(lambda *a: jnp.stack(a), *one_by_one), rtol=1e-12)


@pytest.mark.parametrize("name", TAKES_IDS)
@settings(max_examples=2)
@given(batch=st.sampled_from([(), (2, 3)]))
def test_ids_and_one_hot_vectors_give_equal_results_and_gradients(schedule, name, batch):
    cell, params, h0, _ = example(name, T=5, batch=batch)
    ids = jax.random.randint(jax.random.key(2), (5, *batch), 0, I)

    @jax.jit
    def run(params, xs):
        def loss(params):
            h_T, hs = rollout(cell, params, h0, xs, schedule=schedule)
            return jnp.sum(outputs(cell, params, hs) ** 2), (h_T, hs)

        return jax.grad(loss, has_aux=True)(params)

    by_id, by_vector = run(params, ids), run(params, jax.nn.one_hot(ids, I, dtype=jnp.float64))
    chex.assert_trees_all_equal(by_id[1], by_vector[1])
    chex.assert_trees_all_close(by_id[0], by_vector[0], rtol=1e-12, atol=1e-15)


@every_cell
def test_it_compiles_once(schedule, name):
    cell, params, h0, xs = example(name, T=4, batch=(2,))

    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def roll(params, h0, xs):
        return rollout(cell, params, h0, xs, schedule=schedule)

    for shift in range(3):
        roll(params, h0, xs + jnp.asarray(shift, xs.dtype))


@every_cell
def test_the_output_is_the_same_in_one_call_as_step_by_step(schedule, name):
    cell, params, h0, xs = example(name, T=4, batch=(2,))
    _, hs = rollout(cell, params, h0, xs, schedule=schedule)
    each = jnp.stack([cell.output(params, jax.tree.map(lambda a, t=t: a[t], hs)) for t in range(4)])
    chex.assert_trees_all_close(outputs(cell, params, hs), each, rtol=1e-12)
