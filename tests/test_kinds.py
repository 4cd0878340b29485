"""A layer where a cell is wanted, a cell where a layer is, and what is neither, are named in one line."""

# pyright: reportArgumentType=false, reportCallIssue=false
# (wrong things on purpose)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax as rnn
from rnn_jax import reverse_sequence, rollout
from rnn_jax.decoding import beam_search, confidences, continue_prompt, greedy, sample, stream
from rnn_jax.gradients import chunked, parallel, streaming
from rnn_jax.layers import as_layer
from rnn_jax.losses import cross_entropy
from rnn_jax.training import evaluate, window_learner
from tests.laboratory import as_a_user_has_it, refused

KEY = jax.random.key(0)
CELL = rnn.readout(rnn.gru(3, 4), 3)
PARAMS, IDS, FIRST = CELL.init(KEY), jnp.zeros((5, 2), int), jnp.zeros(2, int)
H0 = CELL.start(PARAMS, (2,))
LAYER = rnn.bidirectional(rnn.gru(3, 4), rnn.gru(3, 4))

WANT_CELLS = {
    "learned_start": lambda no: rnn.learned_start(no),
    "residual": lambda no: rnn.residual(no),
    "diagonal_skip": lambda no: rnn.diagonal_skip(no),
    "mixed_precision": lambda no: rnn.mixed_precision(no),
    "input_dropout": lambda no: rnn.input_dropout(no, 0.5),
    "output_dropout": lambda no: rnn.output_dropout(no, 0.5),
    "zoneout": lambda no: rnn.zoneout(no, 0.5),
    "variational_dropout": lambda no: rnn.variational_dropout(no, state_mask=jnp.ones(4)),
    "bidirectional": lambda no: rnn.bidirectional(no, rnn.gru(3, 4)),
    "encoder_decoder": lambda no: rnn.encoder_decoder(CELL, no),
    "rollout": lambda no: rollout(no, PARAMS, H0, IDS),
    "one_to_one": lambda no: rnn.one_to_one(no, PARAMS, H0, IDS[0]),
    "one_to_many": lambda no: rnn.one_to_many(no, PARAMS, H0, FIRST, IDS),
    "scheduled_sampling": lambda no: rnn.scheduled_sampling(no, PARAMS, KEY, H0, FIRST, IDS, 0.5),
    "greedy": lambda no: greedy(no, PARAMS, H0, FIRST, length=3),
    "sample": lambda no: sample(no, PARAMS, KEY, H0, FIRST, length=3),
    "beam_search": lambda no: beam_search(no, PARAMS, H0, FIRST, length=3, width=2),
    "stream": lambda no: stream(no, PARAMS),
    "confidences": lambda no: confidences(no, PARAMS, IDS),
    "continue_prompt": lambda no: continue_prompt(no, PARAMS, KEY, IDS[:, 0], length=3),
    "chunked": lambda no: chunked(no, PARAMS, H0, IDS, IDS, cross_entropy, window=2),
    "parallel": lambda no: parallel(no, PARAMS, H0, IDS, IDS, cross_entropy, window=2),
    "streaming": lambda no: streaming(no, PARAMS, H0, IDS, IDS, cross_entropy),
    "lag_gradients": lambda no: rnn.lag_gradients(no, PARAMS, H0, IDS, jnp.sum),
    "step_jacobian": lambda no: rnn.step_jacobian(no, PARAMS, H0, IDS[0, 0]),
    "leading_gain": lambda no: rnn.leading_gain(no, PARAMS, H0, IDS[0, 0]),
    "window_learner": lambda no: window_learner(no, cross_entropy, None),
    "evaluate": lambda no: evaluate(no, PARAMS, IDS, IDS, cross_entropy),
}
WANT_EITHER = {
    "as_layer": lambda no: as_layer(no),
    "as_layer, reversed": lambda no: as_layer(no, reverse=True),
    "stack": lambda no: rnn.stack(no),
    "stack on a cell": lambda no: rnn.stack(rnn.gru(3, 4), no),
    "stack on a layer": lambda no: rnn.stack(LAYER, no),
    "readout": lambda no: rnn.readout(no, 2),
    "heads": lambda no: rnn.readout(no, {"policy": 2}),
    "embedding": lambda no: rnn.embedding(no, 5, 3),
    "dense_input": lambda no: rnn.dense_input(no, 5, 3),
    "many_to_one": lambda no: rnn.many_to_one(no, PARAMS, H0, IDS),
    "many_to_many": lambda no: rnn.many_to_many(no, PARAMS, H0, IDS),
    "encoder_decoder": lambda no: rnn.encoder_decoder(no, CELL),
    "sequence_to_sequence": lambda no: rnn.sequence_to_sequence(no, PARAMS, H0, IDS, FIRST, IDS),
}


def one_line(call, wanted):
    with as_a_user_has_it(), pytest.raises(ValueError, match=rf" got .*; want {wanted}") as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", WANT_CELLS)
@pytest.mark.parametrize("no", [LAYER, PARAMS], ids=["layer", "params"])
def test_a_value_that_is_no_cell_is_named(name, no):
    one_line(lambda: WANT_CELLS[name](no), "an? Cell")


@pytest.mark.parametrize("name", WANT_EITHER)
def test_a_value_that_is_neither_cell_nor_layer_is_named(name):
    one_line(lambda: WANT_EITHER[name](PARAMS), "(a Cell, .* or a Layer|a model that encoder_decoder)")


def test_a_source_that_is_none_is_named():
    model = rnn.encoder_decoder(rnn.gru(3, 4), CELL)
    params = model.init(KEY)
    refused(lambda: model.encode(params, model.start(params), None), "xs got NoneType")


def test_lengths_may_be_lists_and_have_the_batch_axes_of_what_they_reverse():
    xs = jnp.array([[1, 1], [2, 2], [3, 0]])
    with as_a_user_has_it():
        np.testing.assert_array_equal(reverse_sequence(xs, [3, 2]), jnp.array([[3, 2], [2, 1], [1, 0]]))
        np.testing.assert_array_equal(reverse_sequence(xs[:, 0], 2), jnp.array([2, 1, 3]))
        h_T, _ = rollout(CELL, PARAMS, H0, IDS, lengths=[5, 2])
        np.testing.assert_array_equal(h_T, rollout(CELL, PARAMS, H0, IDS, lengths=jnp.array([5, 2]))[0])
        marks = {"mask": [True] * 4 + [False], "resets": [False] * 5, "cuts": [False, True] * 2 + [False]}
        rollout(CELL, PARAMS, H0, IDS, **marks)
    refused(lambda: reverse_sequence(None, jnp.array([3])), "xs got NoneType")
    refused(lambda: reverse_sequence([1.0, 2.0], jnp.array([3])), "xs got float")
    refused(lambda: reverse_sequence(xs, jnp.array([3, 3, 3])), "lengths got shape (3,), xs (3, 2)")


@pytest.mark.parametrize("rate", [None, (0.1, 0.2, 0.3), {"h": 0.1}])
def test_rates_of_another_structure_than_the_state_are_refused(rate):
    refused(lambda: rnn.zoneout(rnn.lstm(3, 4), rate), "rate got")
