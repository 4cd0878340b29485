"""Wrong use gets one line: got, wanted, the fix."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import chrono_lstm, gru, gru_reset_before, lstm, readout, rollout, vanilla, window_cuts
from tests.cases import CELLS, H, I

KEY = jax.random.key(0)


@pytest.mark.parametrize("factory", [vanilla, gru, gru_reset_before, lstm])
@pytest.mark.parametrize("size", [0, -3])  # the tests' own checks of types stop what is no integer
def test_a_size_below_one_is_refused(factory, size):
    with pytest.raises(ValueError, match=rf"^hidden_size got {size}; want a positive integer"):
        factory(3, size)
    with pytest.raises(ValueError, match=rf"^input_size got {size}; want a positive integer"):
        factory(size, 3)
    with pytest.raises(ValueError, match=rf"^output_size got {size}; want a positive integer"):
        readout(factory(3, 3), size)


def test_an_unknown_activation_lists_the_known():
    with pytest.raises(ValueError, match=r"^activation got 'swoosh'; want one of tanh, relu, "):
        vanilla(3, 4, activation="swoosh")


def test_a_chrono_lstm_takes_no_forget_bias():
    with pytest.raises(ValueError, match=r"^chrono_lstm got a forget_bias; want none"):
        chrono_lstm(3, 4, max_lag=9, forget_bias=1.0)


def test_a_chrono_lag_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match=r"^chrono got max_lag 2; want more than 2 steps"):
        chrono_lstm(3, 4, max_lag=2)


@pytest.mark.parametrize("name", [name for name in CELLS if name != "cell from step"])
@pytest.mark.parametrize("shape", [(5, I + 1), (5, 2, I - 1), (5,)])
def test_a_mismatched_trailing_dimension_is_refused(name, shape):
    cell = CELLS[name]
    params = cell.init(KEY)
    with pytest.raises(ValueError, match=rf"^xs got shape \(T.*; want {I} features on the last axis") as caught:
        rollout(cell, params, cell.start(params, shape[1:-1]), jnp.zeros(shape))
    assert "\n" not in str(caught.value)


def test_a_start_without_the_batch_of_the_sequence_is_refused():
    cell = lstm(I, H)
    params = cell.init(KEY)
    wanted = re.escape("h0 got .h float64[4], .c float64[4], but one step makes it .h float64[2, 4], .c float64[2, 4]")
    with jax.numpy_rank_promotion("allow"):
        with pytest.raises(ValueError, match=wanted):
            rollout(cell, params, cell.start(params), jnp.zeros((5, 2, I)))
        with pytest.raises(ValueError, match=r"on which one step fails .*; want the batch axes of xs"):
            rollout(cell, params, cell.start(params, (3,)), jnp.zeros((5, 2, I)))


def test_a_start_of_another_type_than_the_params_is_refused():
    cell = vanilla(I, H)
    params = jax.tree.map(lambda a: a.astype(jnp.float32), cell.init(KEY))
    h0 = jnp.zeros(H, jnp.float64)
    with jax.numpy_dtype_promotion("standard"), pytest.raises(ValueError, match=r"the params' dtype"):
        rollout(cell, params, h0.astype(jnp.float16), jnp.zeros((5, I), jnp.float32))


def test_an_unknown_schedule_lists_the_known():
    cell = vanilla(I, H)
    params = cell.init(KEY)
    with pytest.raises(ValueError, match=r"^schedule got 'magic'; want one of scan"):
        rollout(cell, params, cell.start(params), jnp.zeros((5, I)), schedule="magic")


@pytest.mark.parametrize("cuts", [np.zeros(4, bool), np.zeros((5, 3), bool), np.zeros(5, int)])
def test_cuts_that_do_not_fit_are_refused(cuts):
    cell = vanilla(I, H)
    params = cell.init(KEY)
    if cuts.dtype != bool:  # the types of the tests' own checks come first
        with pytest.raises(Exception, match="cuts"):
            rollout(cell, params, cell.start(params, (2,)), jnp.zeros((5, 2, I)), cuts=jnp.asarray(cuts))
        return
    with pytest.raises(ValueError, match=r"^cuts got bool .*; want bool \(5,\) or \(5, \*batch\)"):
        rollout(cell, params, cell.start(params, (2,)), jnp.zeros((5, 2, I)), cuts=jnp.asarray(cuts))


def test_a_window_below_one_is_refused():
    with pytest.raises(ValueError, match=r"^window got 0; want a positive number of steps"):
        window_cuts(5, 0)


def test_an_id_outside_the_vocabulary_gives_nan_and_no_neighbours_row():
    cell = vanilla(I, H)
    params = cell.init(KEY)
    for outside in (I, -1):
        assert jnp.all(jnp.isnan(cell.step(params, cell.start(params), jnp.asarray(outside))))
