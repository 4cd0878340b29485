"""Batches: drawn examples, padding, buckets of similar lengths, and windows for a carried state."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_jax.data.batches import bucket_batches, consecutive_batches, draw_batches, pad, windows
from rnn_jax.data.text import lanes, streams
from tests.laboratory import refused


class Examples(NamedTuple):
    """Examples whose numbers are their indices."""

    xs: np.ndarray
    lengths: np.ndarray

    example_axes = (1, 0)


EXAMPLES = Examples(np.tile(np.arange(50)[:, None], (6, 1, 3)) + 100 * np.arange(6)[:, None, None], np.arange(50))


def test_drawn_batches_hold_whole_examples_each_equally_often():
    batch = draw_batches(EXAMPLES, np.random.default_rng(0), updates=100, batch_size=50)
    assert type(batch) is Examples
    assert batch.xs.shape == (100, 6, 50, 3)
    expected = batch.lengths[:, None, :, None] + 100 * np.arange(6)[:, None, None]
    np.testing.assert_array_equal(batch.xs, np.broadcast_to(expected, batch.xs.shape))
    counts = np.bincount(batch.lengths.ravel(), minlength=50)
    assert np.all(np.abs(counts / 5000 - 1 / 50) < 4 * np.sqrt(49 / 50**2 / 5000))
    again = draw_batches(tuple(EXAMPLES), np.random.default_rng(0), 100, 50, axes=(1, 0))
    jax.tree.map(np.testing.assert_array_equal, again, tuple(batch))


def test_batches_of_what_has_no_common_number_of_examples_are_refused():
    rng = np.random.default_rng(0)
    refused(lambda: draw_batches((np.ones(3),), rng, 2, 2), "axes got None; want the axis of the examples in each")
    refused(lambda: draw_batches((np.ones(3),), rng, 2, 2, axes=(0, 0)), "axes got (0, 0); want the axis of the ex")
    refused(lambda: draw_batches((np.ones((6, 3)), np.ones(3)), rng, 2, 2, axes=(0, 0)), "part got [3, 6] examples on")
    refused(lambda: draw_batches((np.ones(0),), rng, 2, 2, axes=(0,)), "part got [0] examples on axes (0,); want the")
    refused(lambda: draw_batches(EXAMPLES, rng, 0, 2), "updates got 0; want a positive integer")
    refused(lambda: draw_batches(EXAMPLES, rng, 2, 2.5), "batch_size got 2.5; want a positive integer")


def test_consecutive_batches_go_round():
    batches = (np.arange(5), jnp.arange(10).reshape(5, 2))
    first, second = consecutive_batches(batches, first=8, count=9)
    np.testing.assert_array_equal(first, (8 + np.arange(9)) % 5)
    np.testing.assert_array_equal(second[:, 0], 2 * first)
    ends = [consecutive_batches(batches, first=n, count=3)[0] for n in (0, 3, 6)]
    np.testing.assert_array_equal(np.concatenate(ends), consecutive_batches(batches, 0, 9)[0])


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 12))
def test_windows_are_slices_that_advance_by_k1_and_leave_out_less_than_k1_steps(window, k1, more):
    k1, T = min(k1, window), window + more
    xs = np.arange(T * 6).reshape(T, 2, 3)
    found = windows(xs, window, k1)
    assert np.shares_memory(found, xs), "a view"
    for w, one in enumerate(found):
        np.testing.assert_array_equal(one, xs[w * k1 : w * k1 + window])
    assert 0 <= T - (window + (len(found) - 1) * k1) < k1


def test_windows_of_any_type_and_of_arrays_of_jax_are_the_same():
    for dtype in (bool, np.uint8, np.float16, np.complex64):
        xs = np.arange(20).reshape(10, 2).astype(dtype)
        assert windows(xs, 4, 3).dtype == dtype
        np.testing.assert_array_equal(windows(jnp.asarray(xs), 4, 3), windows(xs, 4, 3))
    xs = np.arange(10)
    np.testing.assert_array_equal(jax.jit(lambda xs: windows(xs, 4, 3))(xs), windows(xs, 4, 3))
    refused(lambda: windows(np.zeros(3), 4), "xs got 3 steps; want at least one window of 4")
    refused(lambda: windows(np.zeros(9), 2, 3), "k1 got 3, window (k2) 2; want k1 <= k2")


@given(st.integers(1, 4), st.integers(1, 20))
def test_lanes_are_consecutive_stretches_of_one_text(batch_size, more):
    ids = np.arange(batch_size + more)
    xs, targets = lanes(ids, batch_size)
    np.testing.assert_array_equal(targets, xs + 1)
    np.testing.assert_array_equal(xs.T.ravel(), np.arange(xs.size))
    assert 0 <= len(ids) - 1 - xs.size < batch_size
    one_window = streams(ids, batch_size, len(xs))
    jax.tree.map(np.testing.assert_array_equal, (xs, targets), tuple(array[0] for array in one_window))
    refused(lambda: lanes(ids, len(ids)), f"text got {len(ids)} characters; want at least {len(ids) + 1} for ")


def test_padded_sequences_keep_their_ids_and_lengths():
    sequences = [np.array([3, 1, 2]), np.array([], int), np.array([4])]
    ids, lengths = pad(sequences)
    assert lengths.tolist() == [3, 0, 1]
    assert ids.T.tolist() == [[3, 1, 2], [0, 0, 0], [4, 0, 0]]
    assert ids.dtype == lengths.dtype == np.int32


def test_padded_numbers_keep_what_they_are_and_are_refused_where_they_would_be_changed():
    for dtype in (np.float64, np.float32, np.float16):
        padded, lengths = pad([np.array([0.5, 1.5], dtype), np.array([], int), np.array([np.nan], dtype)])
        assert padded.dtype == dtype
        np.testing.assert_array_equal(padded.T, [[0.5, 1.5], [0, 0], [np.nan, 0]])
        assert lengths.tolist() == [2, 0, 1]
    assert pad([np.float32([0.5]), np.float64([0.1])])[0].tolist() == [[0.5, 0.1]]
    assert pad([np.uint8([200]), np.int64([-100]), jnp.array([2**31 - 1])])[0].tolist() == [[200, -100, 2**31 - 1]]
    assert pad([np.uint8([3])])[0].dtype == np.int32
    for beyond in (2**40, 2**31, -(2**40)):
        refused(
            lambda n=beyond: pad([np.array([1, n])]), f"sequences got {beyond}; want numbers that int32 holds exactly"
        )
    refused(
        lambda: pad([np.array([2**24 + 1]), np.float32([0.5])]), "sequences got 16777217; want numbers that float32"
    )
    refused(
        lambda: pad([np.array([2**53 + 1]), np.array([0.5])]), f"sequences got {2**53 + 1}; want numbers that float"
    )
    refused(lambda: pad([]), "sequences got none; want at least one")
    refused(lambda: pad(["hello"]), "sequences got shape (); want one axis")
    refused(lambda: pad([["h"]]), "sequences got <U1[1]; want arrays of numbers")
    refused(lambda: pad([np.array(1.0)]), "sequences got float64[]; want arrays of numbers, (length, *features)")


def test_padding_keeps_sequences_with_features_of_any_type_and_is_of_the_value_wanted():
    rng = np.random.default_rng(0)
    for dtype, value in ((bool, True), (np.int32, -7), (np.float32, np.nan), (np.complex128, 1j), (jnp.bfloat16, 0.5)):
        sequences = [rng.integers(0, 2, (n, 2, 3)).astype(dtype) for n in (3, 0, 5)]
        padded, lengths = pad(sequences, value=value, steps=6)
        assert padded.shape == (6, 3, 2, 3)
        assert padded.dtype == dtype
        assert lengths.tolist() == [3, 0, 5]
        for n, sequence in enumerate(sequences):
            np.testing.assert_array_equal(padded[: len(sequence), n], sequence)
            np.testing.assert_array_equal(padded[len(sequence) :, n], np.full((6 - len(sequence), 2, 3), value, dtype))


def test_padding_that_cannot_be_is_refused():
    refused(lambda: pad([np.ones((2, 3)), np.ones((2, 4))]), "sequences got features [(3,), (4,)]; want the same")
    refused(lambda: pad([[1, 2]], value=0.5), "value got 0.5; want numbers that int32 holds exactly")
    refused(lambda: pad([[1, 2]], value=2**31), "value got 2147483648; want numbers that int32 holds exactly")
    refused(lambda: pad([[1, 2]], steps=1), "steps got 1; want at least 2, the longest sequence")
    refused(lambda: pad([[1, 2]], steps=2.0), "steps got 2.0; want at least 2, the longest sequence")
    refused(lambda: pad([np.ones(2, bool), np.ones(2)]), "sequences got bool, float64; want types that go together")
    refused(lambda: pad([np.ones(2, bool), np.ones(2, int)]), "sequences got bool, int64; want types that go together")


@given(st.integers(1, 9), st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 200))
def test_buckets_hold_every_sequence_once_and_waste_no_more_than_allowed(batch_size, waste, count):
    rng = np.random.default_rng(count)
    lengths = rng.geometric(0.05, count)
    batches = bucket_batches(lengths, rng, batch_size, waste=waste)
    indices = np.concatenate([batch.indices for batch in batches] or [np.zeros(0, int)])
    np.testing.assert_array_equal(np.sort(indices), np.arange(count))
    for chosen, steps in batches:
        assert 1 <= len(chosen) <= batch_size
        assert np.all(lengths[chosen] <= steps)
        assert np.all(lengths[chosen] >= (1 - waste) * steps)
    sizes = {}
    for chosen, steps in batches:
        sizes.setdefault(steps, []).append(len(chosen))
    assert all(sorted(of)[1:] == [batch_size] * (len(of) - 1) for of in sizes.values()), "at most one smaller batch"


def test_the_order_of_buckets_is_random_and_repeatable():
    lengths = np.random.default_rng(0).integers(1, 40, 300)
    orders = [bucket_batches(lengths, np.random.default_rng(seed), 8) for seed in (0, 0, 1)]
    first, again, other = ([batch.indices.tolist() for batch in order] for order in orders)
    assert first == again != other
    steps = [batch.steps for batch in orders[0]]
    assert sorted(steps) != steps
    one_range = lengths + 100  # 101 … 139: batches have lengths from all of it, not one after the other
    drawn = [one_range[of] for of, _ in bucket_batches(one_range, np.random.default_rng(0), 30, waste=0.5)]
    assert max(of.min() for of in drawn) < min(of.max() for of in drawn)


@pytest.mark.parametrize("lengths", [np.array([0, 3]), np.array([1.5, 2.0]), np.array([-1])])
def test_lengths_that_are_none_are_refused(lengths):
    rng = np.random.default_rng(0)
    refused(lambda: bucket_batches(lengths, rng, 2), "lengths got ")
    refused(lambda: bucket_batches(np.array([3]), rng, 0), "batch_size got 0; want a positive integer")
    for waste in (1, -0.1, np.nan, "a"):
        refused(lambda waste=waste: bucket_batches(np.array([3]), rng, 2, waste=waste), "waste got ")
