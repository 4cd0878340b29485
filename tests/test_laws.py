"""Laws that hold for every cell and every schedule."""

# pyright: reportArgumentType=false
# (dictionaries of marks, states of rates, and wrong things on purpose)

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rnn_jax import length_mask, outputs, reverse_sequence, rollout, window_cuts
from tests.cases import A_FEW, BY_STRUCTURE, CASES, I, schedules_of, with_few_schedules, with_schedules
from tests.laboratory import B, Lab, T, any_nonzero, example, lab, refused


@pytest.fixture(scope="module", params=with_schedules(CASES), ids="-".join)
def it(request) -> Lab:  # of module scope, so that all questions to one cell follow each other
    return lab(*request.param)


@pytest.fixture(scope="module", params=with_few_schedules(CASES), ids="-".join)
def some(request) -> Lab:  # for programs that no other law runs, in which the schedules differ little
    return lab(*request.param)


@pytest.fixture(scope="module", params=with_few_schedules(BY_STRUCTURE), ids="-".join)
def of_structure(request) -> Lab:  # for chunks and for the other direction, which are the driver's and see no equation
    return lab(*request.param)


@pytest.fixture(scope="module", params=with_schedules(A_FEW), ids="-".join)
def one(request) -> Lab:
    return lab(*request.param)


def random_flags(seed):
    """A random mask, resets and cuts; the first step is no border."""
    keys = jax.random.split(jax.random.key(seed), 3)
    mask, resets, cuts = (jax.random.bernoulli(k, p, (T, B)) for k, p in zip(keys, (0.7, 0.3, 0.3), strict=True))
    return {"mask": mask, "resets": resets.at[0].set(False), "cuts": cuts.at[0].set(False)}


def of_example(tree, b, axis):
    return jax.tree.map(lambda a: np.asarray(a).take(b, axis), tree)


def test_two_chunks_equal_their_concatenation_flags_and_empty_chunks_included(of_structure: Lab):
    flags = random_flags(1)

    @jax.jit
    def chunks(h, xs):
        pieces = []
        for start, stop in [(0, 0), (0, 1), (1, T)]:
            part = {name: a[start:stop] for name, a in flags.items()}
            h, hs = of_structure.roll(h, xs[start:stop], **part)
            pieces.append(hs)
        return h, jax.tree.map(lambda *a: jnp.concatenate(a), *pieces)

    whole = of_structure.ask(**flags)
    chex.assert_trees_all_close(chunks(of_structure.h0, of_structure.xs), (whole.h_T, whole.hs), rtol=1e-12, atol=1e-14)


def test_loop_scan_vmap_and_batch_agree(some: Lab):
    step, h, hs = jax.jit(some.cell.step), some.h0, []
    for x in some.xs:
        h = step(some.params, h, x)
        hs.append(h)
    looped = h, jax.tree.map(lambda *a: np.stack(a), *hs)

    @jax.jit
    def other_ways(h0, xs):
        each = jax.vmap(some.roll, in_axes=(0, 1), out_axes=(0, 1))(h0, xs)
        h_T, hs = some.roll(jax.tree.map(lambda a: a[None], h0), xs[:, None])  # two batch axes
        return each, (jax.tree.map(lambda a: a[0], h_T), jax.tree.map(lambda a: a[:, 0], hs))

    asked = some.ask()
    for way in (*other_ways(some.h0, some.xs), (asked.h_T, asked.hs)):
        chex.assert_trees_all_close(way, looped, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("name", "schedule"), [of for of in with_schedules(CASES) if of[1] != "scan"])
def test_every_schedule_has_the_values_and_the_gradients_of_scan(name, schedule):
    question = {**random_flags(5), "seen": 1.0}
    wanted, found = (lab(name, s).ask(**question) for s in ("scan", schedule))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(np.max(np.abs(b)), 1e-3))


def test_the_output_is_the_same_in_one_call_as_step_by_step(it: Lab):
    answer = it.ask()
    seen = jax.jit(it.cell.output)
    each = np.stack([seen(it.params, of_example(answer.hs, t, 0)) for t in range(T)])
    chex.assert_trees_all_close(answer.ys, each, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_shapes_and_types_follow_the_sequence_and_the_params(name):
    cell = CASES[name].cell
    cases = [(jnp.float64, 1, ()), (jnp.float32, 3, (2, 3)), (jnp.bfloat16, 0, (2,)), (jnp.float16, 1, ())]
    for dtype, steps, batch in cases:
        of_state = jnp.float64 if name == "mixed precision" else dtype  # the type that this case computes in
        given = params, h0, _ = jax.eval_shape(lambda b=batch, n=steps, d=dtype: example(name, n, b, d)[1:])
        ways = [partial(rollout, cell, schedule=schedule) for schedule in schedules_of(name)]
        rolled = [jax.eval_shape(way, *given) for way in ways]
        for h_T, hs in rolled:
            chex.assert_trees_all_equal_shapes_and_dtypes(h_T, h0)
            for before, every in zip(jax.tree.leaves(h0), jax.tree.leaves(hs), strict=True):
                chex.assert_shape(every, (steps, *before.shape))
                chex.assert_type(every, of_state)
        ys = jax.eval_shape(partial(outputs, cell), params, rolled[0][1])
        cell_output = jax.eval_shape(cell.output, params, h0)
        chex.assert_shape(ys, (steps, *cell_output.shape))
        chex.assert_type(ys, dtype)


def test_gradients_equal_finite_differences_across_masks_and_resets(it: Lab):
    flags = {
        name: a for name, a in random_flags(2).items() if name != "cuts"
    }  # a cut changes the gradient, not the value
    given = {"params": it.params, "h0": it.h0, "xs": it.xs}
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), given)

    def loss(distance):
        moved = jax.tree.map(lambda a, v: np.asarray(a) + distance * v, given, direction)
        return np.sum(np.square(it.ask(**moved, **flags, last=0.0, seen=1.0).ys))

    answer = it.ask(**flags, last=0.0, seen=1.0)
    gradient = {"params": answer.to_params, "h0": answer.to_h0, "xs": answer.to_xs}
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, v: np.sum(np.asarray(g) * v), gradient, direction)))
    np.testing.assert_allclose(slope, (loss(1e-6) - loss(-1e-6)) / 2e-6, rtol=1e-6, atol=1e-6)


def test_a_rollout_is_differentiated_in_forward_mode_too(it: Lab):
    given = it.params, it.h0, it.xs
    program = jax.jit(lambda *a: jax.jvp(it.roll_of, a, a)).lower(*given)  # refuses what has no rule
    values, tangents = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), program.out_info)
    chex.assert_trees_all_equal_shapes_and_dtypes(values, tangents)


def test_no_gradient_crosses_a_cut_and_no_value_changes(it: Lab):
    free = it.ask()
    assert np.all(np.any(free.to_xs != 0, axis=tuple(range(2, free.to_xs.ndim)))), (
        "without a gradient the law says nothing"
    )
    for cut in range(1, T):  # only the first example is cut
        answer = it.ask(cuts=jnp.zeros((T, B), bool).at[cut, 0].set(True))
        chex.assert_trees_all_equal(answer[:3], free[:3])
        assert not any_nonzero((answer.to_xs[:cut, 0], of_example(answer.to_h0, 0, 0)))
        chex.assert_trees_all_close(answer.to_xs[cut:], free.to_xs[cut:], rtol=1e-12)
        chex.assert_trees_all_close(answer.to_xs[:, 1], free.to_xs[:, 1], rtol=1e-12)
        chex.assert_trees_all_close(*(of_example(a.to_h0, 1, 0) for a in (answer, free)), rtol=1e-12)


def test_a_reset_begins_a_new_sequence_and_no_gradient_crosses_it(it: Lab):
    fresh = it.cell.start(it.params, (B,))
    for reset in (0, 3):
        resets = jnp.zeros((T, B), bool).at[reset, 0].set(True)
        answer, free = it.ask(resets=resets), it.ask()
        alone = it.ask(h0=fresh, xs=np.roll(it.xs, -reset, axis=0), mask=np.arange(T)[:, None] < T - reset)
        chex.assert_trees_all_close(*(of_example(a.h_T, 0, 0) for a in (answer, alone)), rtol=1e-12, atol=1e-14)
        assert not any_nonzero((answer.to_xs[:reset, 0], of_example(answer.to_h0, 0, 0)))
        assert any_nonzero(answer.to_xs[reset, 0])
        chex.assert_trees_all_equal(*(of_example(a.h_T, 1, 0) for a in (answer, free)))


def test_a_masked_step_is_as_if_it_were_not_there(it: Lab):
    mask = np.array([[1, 0], [0, 0], [1, 1], [1, 0], [0, 1], [1, 1]], bool)
    seen = np.where(mask, 1.0, 0.0)
    order = np.argsort(~mask, axis=0, stable=True)  # the steps that are there, first
    packed = np.take_along_axis(np.asarray(it.xs), order.reshape(T, B, *[1] * (it.xs.ndim - 2)), axis=0)
    held = it.ask(mask=mask, seen=seen)
    short = it.ask(
        xs=packed, mask=length_mask(jnp.asarray(mask.sum(axis=0)), T), seen=np.take_along_axis(seen, order, axis=0)
    )
    chex.assert_trees_all_close(held.h_T, short.h_T, rtol=1e-12, atol=1e-14)
    chex.assert_trees_all_close((held.to_params, held.to_h0), (short.to_params, short.to_h0), rtol=1e-10, atol=1e-12)
    assert not any_nonzero(np.where(mask.reshape(T, B, *[1] * (it.xs.ndim - 2)), 0, held.to_xs))
    chex.assert_trees_all_equal(of_example(held.hs, 1, 0), of_example(held.hs, 0, 0))  # both masked at step 1


def test_a_sequence_of_length_0_returns_the_state_it_was_given(it: Lab):
    answer = it.ask(mask=jnp.zeros((T, B), bool).at[:, 1].set(True))
    chex.assert_trees_all_equal(of_example(answer.h_T, 0, 0), of_example(it.h0, 0, 0))
    assert not any_nonzero(answer.to_xs[:, 0])
    nothing = it.ask(mask=False)
    chex.assert_trees_all_equal(nothing.h_T, it.h0)
    assert not any_nonzero((nothing.to_params, nothing.to_xs))
    flat, _ = ravel_pytree(nothing.to_h0)
    np.testing.assert_allclose(flat, np.linspace(1, 2, flat.size), rtol=1e-12)  # the loss reads h_T = h_0 itself


def check_padding(of: Lab, reverse: bool):
    mask = length_mask(jnp.array([4, 0]), T).at[1, 0].set(False)
    padding = ~mask.reshape(T, B, *[1] * (of.xs.ndim - 2))
    clean = of.ask(mask=mask, seen=1.0, reverse=reverse)
    chex.assert_tree_all_finite(clean)
    for junk in (jnp.nan, jnp.inf, -jnp.inf):
        dirty = of.ask(mask=mask, seen=1.0, xs=np.where(padding, junk, of.xs), reverse=reverse)
        chex.assert_trees_all_equal(dirty, clean)


def test_nothing_in_the_padding_changes_a_value_or_a_gradient(it: Lab):
    check_padding(it, reverse=False)


def test_nothing_in_the_padding_changes_a_value_or_a_gradient_in_the_other_direction(of_structure: Lab):
    check_padding(of_structure, reverse=True)


def test_a_restart_between_steps_is_a_reset_before_the_next_step(it: Lab):
    first = jnp.array([True, False])
    broken = jax.tree.map(lambda h: h.at[0].set(jnp.nan), it.h0)
    restarted, pullback = jax.vjp(lambda h: it.cell.restart(it.params, h, first), broken)
    reset = it.ask(resets=jnp.zeros((T, B), bool).at[0, 0].set(True))
    chex.assert_trees_all_equal(it.ask(h0=restarted)[:3], reset[:3])
    chex.assert_trees_all_equal(of_example(restarted, 1, 0), of_example(it.h0, 1, 0))
    (to_h,) = pullback(jax.tree.map(lambda h: jnp.full_like(h, jnp.inf), restarted))
    assert not any_nonzero(of_example(to_h, 0, 0))  # exactly zero, whatever comes back
    assert all(bool(jnp.all(jnp.isinf(leaf))) for leaf in jax.tree.leaves(of_example(to_h, 1, 0)))
    to_params = jax.grad(lambda p: ravel_pytree(it.cell.restart(p, it.h0, first))[0].sum())(it.params)
    chex.assert_trees_all_equal(to_params, jax.grad(lambda p: ravel_pytree(it.cell.start(p))[0].sum())(it.params))


def test_a_state_that_is_not_a_number_does_not_survive_a_reset(it: Lab):
    broken = jax.tree.map(lambda h: np.where(np.arange(B).reshape(B, *[1] * (h.ndim - 1)) == 0, np.nan, h), it.h0)
    answer = it.ask(h0=broken, resets=jnp.zeros((T, B), bool).at[0, 0].set(True), seen=1.0)
    chex.assert_tree_all_finite(answer)
    broken_later = it.ask(xs=it.xs.at[2, 0].set(jnp.nan), resets=jnp.zeros((T, B), bool).at[3, 0].set(True))
    chex.assert_tree_all_finite((broken_later.h_T, broken_later.ys[3:]))


def test_a_cut_stops_even_a_gradient_that_is_not_a_number(it: Lab):
    broken = it.xs.at[3].set(jnp.nan)
    answer = it.ask(xs=broken, cuts=jnp.arange(T)[:, None] == 2)
    assert not any_nonzero((answer.to_xs[:2], answer.to_h0))


def test_reading_in_reverse_is_reading_the_reversed_sequence(of_structure: Lab):
    lengths = jnp.array([T, 4])
    mask = length_mask(lengths, T)
    border = jnp.zeros((T, B), bool).at[2, 0].set(True)  # between steps 1 and 2 of the first example, which has all T
    mirrored = jnp.zeros((T, B), bool).at[T - 2, 0].set(True)
    turned = reverse_sequence(of_structure.xs, lengths)
    chex.assert_trees_all_equal(reverse_sequence(turned, lengths), of_structure.xs)
    for here, there in [({}, {}), ({"resets": border}, {"resets": mirrored}), ({"cuts": border}, {"cuts": mirrored})]:
        backward = of_structure.ask(mask=mask, reverse=True, **here)
        forward = of_structure.ask(xs=turned, mask=mask, **there)
        chex.assert_trees_all_close(backward.h_T, forward.h_T, rtol=1e-12, atol=1e-14)
        valid = jax.tree.map(
            lambda a: a[:4], (backward.hs, reverse_sequence(jax.tree.map(jnp.asarray, forward.hs), lengths))
        )
        chex.assert_trees_all_close(*valid, rtol=1e-12, atol=1e-14)
        chex.assert_trees_all_close(
            backward.to_xs, reverse_sequence(jnp.asarray(forward.to_xs), lengths), rtol=1e-10, atol=1e-12
        )
        if here:
            assert not any_nonzero(backward.to_xs[2:, 0])
            assert any_nonzero(backward.to_xs[1, 0])


def test_a_window_of_at_least_T_is_full_back_propagation_learned_start_included(it: Lab):
    full = it.ask(seen=1.0)
    for window in (T, T + 1, 100):
        chex.assert_trees_all_equal(it.ask(seen=1.0, cuts=window_cuts(T, window)[:, None]), full)


def test_a_rollout_is_pure_and_compiles_once(it: Lab):
    first = it.ask(seen=1.0)
    before = it.traces.count(False)  # more than 1 where the programs of this process were forgotten in between
    it.ask(params=jax.tree.map(np.zeros_like, it.params), xs=it.xs + 1, mask=False)
    chex.assert_trees_all_equal(it.ask(seen=1.0), first)
    assert it.traces.count(False) == before


@pytest.mark.parametrize(("name", "schedule"), with_few_schedules(name for name, case in CASES.items() if case.ids))
def test_ids_and_one_hot_vectors_give_equal_results_and_gradients(schedule, name):
    it = lab(name, schedule)
    ids = jax.random.randint(jax.random.key(2), (T, B), 0, I)

    @jax.jit
    @jax.grad
    def by_id(params):
        _, hs = rollout(it.cell, params, it.h0, ids, schedule=schedule)
        return jnp.sum(outputs(it.cell, params, hs) ** 2)

    by_vector = it.ask(xs=jax.nn.one_hot(ids, I, dtype=jnp.float64), last=0.0, seen=1.0)
    chex.assert_trees_all_close(by_id(it.params), by_vector.to_params, rtol=1e-11, atol=1e-14)


# The laws below are of the driver.


def test_flags_of_the_whole_batch_lengths_and_no_flags_equal_flags_of_each_example(one: Lab):
    flags, lengths = random_flags(3), jnp.array([5, 2])
    alike = {name: a[:, 0] for name, a in flags.items()}
    each = one.ask(**{name: a[:, None] for name, a in alike.items()})
    together = jax.jit(lambda h0, xs: one.roll(h0, xs, **alike))(one.h0, one.xs)
    chex.assert_trees_all_close(together, (each.h_T, each.hs), rtol=1e-12, atol=1e-14)
    masked = one.ask(mask=length_mask(lengths, T))
    by_length = jax.jit(lambda h0, xs, n: one.roll(h0, xs, lengths=n))(one.h0, one.xs, lengths)
    chex.assert_trees_all_close(by_length, (masked.h_T, masked.hs), rtol=1e-12, atol=1e-14)


def test_the_window_may_be_traced_and_vmapped(one: Lab):
    @jax.jit
    @jax.vmap
    def gradient(window):
        def loss(params):
            h_T, _ = one.roll_of(params, one.h0, one.xs, cuts=window_cuts(T, window))
            flat, _ = ravel_pytree(h_T)
            return jnp.sum(jnp.linspace(1, 2, flat.size) * flat)

        return jax.grad(loss)(one.params)

    windows = [1, 2, T]
    one_by_one = [one.ask(cuts=window_cuts(T, w)[:, None]).to_params for w in windows]
    chex.assert_trees_all_close(
        gradient(jnp.array(windows)), jax.tree.map(lambda *a: jnp.stack(a), *one_by_one), rtol=1e-11, atol=1e-14
    )


def test_every_flag_of_steps_may_be_traced(one: Lab):
    flags = random_flags(4)
    traced = jax.jit(lambda h0, xs, flags: one.roll(h0, xs, **flags))(one.h0, one.xs, flags)
    answer = one.ask(**flags)
    chex.assert_trees_all_close(traced, (answer.h_T, answer.hs), rtol=1e-12, atol=1e-14)


def test_a_start_that_a_reset_puts_on_a_cut_keeps_its_gradient(one: Lab):
    border = jnp.zeros((T, B), bool).at[3].set(True)
    reset, both = one.ask(resets=border), one.ask(resets=border, cuts=border)
    chex.assert_trees_all_equal(both, reset)


def test_restarts_of_another_type_or_shape_are_refused(one: Lab):
    for first in (jnp.array([1, 0]), jnp.array(True), jnp.array([True] * 3)):
        refused(
            lambda: one.cell.restart(one.params, one.h0, first), f"first got {first.dtype}{list(first.shape)}; want"
        )


def test_lengths_of_few_bits_count_beyond_them():
    for dtype in (jnp.uint8, jnp.int8, jnp.int32):
        assert length_mask(jnp.array([100, 7], dtype), 300).sum(axis=0).tolist() == [100, 7]


def test_lengths_known_inside_jit_are_checked_and_used(one: Lab):
    known, too_long = jnp.array([5, 2]), jnp.array([5, 7])
    inside = jax.jit(lambda h0, xs: one.roll(h0, xs, lengths=known))(one.h0, one.xs)
    masked = one.ask(mask=length_mask(known, T))
    chex.assert_trees_all_close(inside, (masked.h_T, masked.hs), rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match=r"^lengths got 5 … 7; want steps in \[0, 6\]"):
        jax.jit(lambda h0, xs: one.roll(h0, xs, lengths=too_long))(one.h0, one.xs)
