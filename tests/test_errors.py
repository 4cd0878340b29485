"""Wrong use gets one line: got, wanted, the fix."""

# pyright: reportArgumentType=false
# (dictionaries of marks, states of rates, and wrong things on purpose)

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import (
    antisymmetric,
    chrono_lstm,
    clipped_lstm,
    conv_lstm,
    cornn,
    ctrnn,
    diagonal_skip,
    encoder_decoder,
    gru,
    gru_reset_before,
    janet,
    lag_gradients,
    lru,
    lstm,
    mgu,
    min_gru,
    one_to_many,
    projected_lstm,
    readout,
    residual,
    rollout,
    slstm,
    stack,
    vanilla,
    window_cuts,
)
from rnn_jax.bridges import Bridge
from rnn_jax.cells.activations import clipped, hard_sigmoid
from rnn_jax.decoding import greedy
from rnn_jax.diagnostics import state_gradients
from rnn_jax.gradients import PROGRAMS, streaming
from tests.cases import CASES, H, I
from tests.laboratory import as_a_user_has_it, random_params, refused
from tests.test_decoding import chain

KEY = jax.random.key(0)


@pytest.mark.parametrize("factory", [vanilla, gru, gru_reset_before, lstm, mgu, min_gru, slstm])
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
    with pytest.raises(ValueError, match=r"^max_lag got 2; want more than 2 steps"):
        chrono_lstm(3, 4, max_lag=2)


OWN_ERRORS = {"cell from step", "linear cell of one's own", "variational dropout of gru"}


@pytest.mark.parametrize("name", sorted(CASES.keys() - OWN_ERRORS))
def test_a_mismatched_trailing_dimension_is_refused(name):
    cell, x, _ = CASES[name]
    params = jax.eval_shape(cell.init, KEY)
    for batch, last in [((), x[-1] + 1), ((2,), x[-1] + 2)]:
        xs = jnp.zeros((5, *batch, *x[:-1], last))
        h0 = jax.eval_shape(lambda p, batch=batch: cell.start(p, batch), params)
        with pytest.raises(
            ValueError, match=rf"^xs got shape \(T.*; want .*{x[-1]} features on the last axis"
        ) as caught:
            rollout(cell, params, h0, xs)
        assert "\n" not in str(caught.value)


def test_a_start_without_the_batch_of_the_sequence_is_refused():
    cell = lstm(I, H)
    params = cell.init(KEY)
    wanted = re.escape("h0 got .h float64[4], .c float64[4], but one step makes it .h float64[2, 4], .c float64[2, 4]")
    with jax.numpy_rank_promotion("allow"):
        with pytest.raises(ValueError, match=wanted):
            rollout(cell, params, cell.start(params), jnp.zeros((5, 2, I)))
        with pytest.raises(
            ValueError, match=r"^xs got shape \(5, 2, 3\), h0 the batch axes \(3,\); want the same in both"
        ):
            rollout(cell, params, cell.start(params, (3,)), jnp.zeros((5, 2, I)))


def test_a_start_of_another_type_than_the_params_is_refused():
    cell = vanilla(I, H)
    params = jax.tree.map(lambda a: a.astype(jnp.float32), cell.init(KEY))
    h0 = jnp.zeros(H, jnp.float64)
    with jax.numpy_dtype_promotion("standard"), pytest.raises(ValueError, match=r"the params' dtype"):
        rollout(cell, params, h0.astype(jnp.float16), jnp.zeros((5, I), jnp.float32))


def test_what_does_not_fit_is_named_and_not_h0():
    cell, whole = lstm(I, H), readout(lstm(I, H), 2)
    params, xs = jax.eval_shape(cell.init, KEY), jnp.zeros((5, 2, I))
    h0 = jax.eval_shape(lambda p: cell.start(p, (2,)), params)
    foreign = {"params": {"i": {"kernel": jnp.zeros((I, H))}}}
    for other in (foreign, None, jax.eval_shape(gru(I, H).init, KEY), jax.eval_shape(lstm(I, H + 1).init, KEY)):
        refused(lambda other=other: rollout(cell, other, h0, xs), "params got ")
        refused(lambda other=other: rollout(whole, other, h0, xs), "params got ")
    refused(
        lambda: rollout(whole, params, h0, xs), "params got .W_xh float64[3, 16], where cell.init(key) makes .cell.W"
    )
    refused(lambda: whole.start(params), "params got LSTMParams, which hold no cell; want those that init(key) makes")
    for dtype in (jnp.uint8, jnp.int32, np.int64):
        features = np.zeros((5, 2, I), dtype)
        refused(lambda xs=features: rollout(cell, params, h0, xs), f"xs got {np.dtype(dtype)}[5, 2, 3]; want ids")
        refused(
            lambda xs=features[:, 0]: rollout(cell, params, cell.start(params), xs),
            f"xs got {np.dtype(dtype)}[5, 3]; want",
        )
    refused(
        lambda: rollout(cell, params, h0, jnp.zeros((2, 5, I))), "xs got shape (2, 5, 3), whose batch (2,) seems to l"
    )
    refused(
        lambda: rollout(cell, params, h0, jnp.zeros((2, 5), int)), "xs got shape (2, 5), whose batch (2,) seems to l"
    )
    refused(
        lambda: rollout(cell, params, h0, xs.astype(jnp.float8_e4m3fn)), "xs got float8_e4m3fn, in which JAX does n"
    )


def test_images_of_bytes_given_to_a_convolution_are_named():
    cell = conv_lstm(1, 2, space=(3, 2))
    params = jax.eval_shape(cell.init, KEY)
    h0 = jax.eval_shape(lambda p: cell.start(p, (2,)), params)
    xs = jnp.zeros((5, 2, 3, 2, 1), jnp.uint8)
    refused(lambda: rollout(cell, params, h0, xs), "xs got uint8[5, 2, 3, 2, 1]; want ids")


def test_an_unknown_schedule_lists_the_known():
    cell = vanilla(I, H)
    params = cell.init(KEY)
    with pytest.raises(ValueError, match=r"^schedule got 'magic'; want one of auto, scan, adjoint, associative$"):
        rollout(cell, params, cell.start(params), jnp.zeros((5, I)), schedule="magic")


@pytest.mark.parametrize("name", ["mask", "resets", "cuts"])
@pytest.mark.parametrize("shape", [(4,), (5, 3), (5, 2, 1), ()])
def test_marks_that_do_not_fit_are_refused(name, shape):
    cell = vanilla(I, H)
    params = cell.init(KEY)
    for mark in (np.zeros(shape, bool), np.zeros((5,), int)):
        with (
            as_a_user_has_it(),
            pytest.raises(ValueError, match=rf"^{name} got (bool|int64) .*; want bool \(5,\), or \(5, 2\) for each"),
        ):
            rollout(cell, params, cell.start(params, (2,)), jnp.zeros((5, 2, I)), **{name: mark})


@pytest.mark.parametrize(
    "measure", [rollout, partial(lag_gradients, loss=jnp.sum), partial(state_gradients, loss=jnp.sum)]
)
def test_what_is_no_array_of_flags_is_refused(measure):
    cell = vanilla(I, H)
    params = cell.init(KEY)
    for name, says in {
        "mask": "'no'; want an array",
        "resets": "'no'; want an array",
        "lengths": "<U2; want whole",
    }.items():
        with as_a_user_has_it(), pytest.raises(ValueError, match=f"^{name} got {says}"):
            measure(cell, params, cell.start(params), jnp.zeros((5, I)), **{name: "no"})


def test_a_mask_and_lengths_together_are_refused():
    cell = vanilla(I, H)
    params = cell.init(KEY)
    both = {"mask": jnp.ones((5, 2), bool), "lengths": jnp.array([5, 5])}
    with pytest.raises(ValueError, match=r"^mask got an array and so did lengths; want one of them"):
        rollout(cell, params, cell.start(params, (2,)), jnp.zeros((5, 2, I)), **both)


@pytest.mark.parametrize("lengths", [[6, 2], [-1, 2], [1, 2, 3], [[1, 2]], [1.0, 2.0]])
def test_lengths_that_do_not_fit_are_refused(lengths):
    cell = vanilla(I, H)
    params = cell.init(KEY)
    with as_a_user_has_it(), pytest.raises(ValueError, match=r"^lengths got .*; want ") as caught:
        rollout(cell, params, cell.start(params, (2,)), jnp.zeros((5, 2, I)), lengths=np.array(lengths))
    assert "\n" not in str(caught.value)


def test_a_stack_that_does_not_fit_names_both_cells():
    with pytest.raises(ValueError, match=r"^stack got no cell or layer; want at least one"):
        stack()
    wanted = r"^stack got layer 1 \(Readout of GRU\), whose output is float64\[2\], under layer 2 \(LSTM\), which does "
    with pytest.raises(ValueError, match=wanted + r"not accept it: xs got shape \(T, 2\); want 5 features") as caught:
        stack(vanilla(I, H), readout(gru(H, H), 2), lstm(5, H))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("around", [residual, diagonal_skip])
def test_a_skip_whose_input_and_output_differ_is_refused(around):
    cell = around(gru(I, H))
    params = cell.init(KEY)
    equation = {"residual": "x_t + y_t", "diagonal_skip": "D ⊙ x_t + y_t"}[around.__name__]
    for xs, kind, hint in ((jnp.zeros((5, I)), "float64[3]", ""), (jnp.zeros(5, int), "int64[]", "; ids have no fea")):
        said = f"{around.__name__} got x {kind} and y float64[4]; want equal shapes: {equation}{hint}"
        with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
            rollout(cell, params, cell.start(params), xs)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: projected_lstm(I, 4, projection_size=5), "projection_size got 5; want at most hidden_size 4"),
        (lambda: projected_lstm(I, 4, projection_size=0), "projection_size got 0; want a positive integer"),
        (lambda: projected_lstm(I, 4, projection_size=2, projection_clip=0.0), "projection_clip got 0.0; want a pos"),
        (lambda: clipped_lstm(I, 4, cell_clip=-1.0), "cell_clip got -1.0; want a positive bound"),
        (lambda: ctrnn(I, 4, tau=1.0, dt=2.0), "dt got 2.0 with tau 1.0; want 0 < dt ≤ tau"),
        (lambda: antisymmetric(I, 4, step_size=0.0), "step_size got 0.0; want one positive time"),
        (lambda: cornn(I, 4, damping=-1.0), "damping got -1.0; want a number of at least 0"),
        (lambda: lru(I, 4, r_min=0.9, r_max=0.5), "r_min got 0.9; want 0 ≤ r_min < r_max 0.5"),
        (lambda: lru(I, 4, max_phase=7.0), "max_phase got 7.0; want an angle"),
        (lambda: lru(I, 4, output_size=0), "output_size got 0; want a positive integer"),
        (lambda: conv_lstm(I, 4, space=()), "space got (); want one, two or three positive lengths"),
        (lambda: conv_lstm(I, 4, space=(2, 2), kernel_size=2), "kernel_size got 2; want an odd width"),
        (lambda: janet(I, 4, max_lag=1.0), "max_lag got 1.0; want more than 2 steps"),
        (
            lambda: conv_lstm(I, 4, space=(5, 2), padding="valid"),
            "kernel_size got 3; want at most 2, the least of space",
        ),
        (lambda: conv_lstm(I, 4, space=(5, 2), padding="full"), "padding got 'full'; want 'same' or 'valid'"),
        (lambda: lstm(I, 4, gate_activation="swoosh"), "gate_activation got 'swoosh'; want one of tanh"),
        (lambda: gru(I, 4, gate_activation="swoosh"), "gate_activation got 'swoosh'; want one of tanh"),
        (lambda: hard_sigmoid(alpha=math.nan), "alpha got nan; want a finite number"),
        (lambda: clipped("tanh", 0.0), "bound got 0.0; want a positive bound"),
        (lambda: clipped("swoosh", 1.0), "activation got 'swoosh'; want one of tanh"),
    ],
)
def test_an_impossible_cell_is_refused(make, says):
    with as_a_user_has_it(), pytest.raises(ValueError, match=f"^{re.escape(says)}"):
        make()


def test_a_window_below_one_is_refused():
    with pytest.raises(ValueError, match=r"^window got 0; want a positive number of steps"):
        window_cuts(5, 0)


def test_an_id_outside_the_vocabulary_gives_nan_and_no_neighbours_row():
    cell = vanilla(I, H)
    params = cell.init(KEY)
    for outside in (I, -1):
        assert jnp.all(jnp.isnan(cell.step(params, cell.start(params), jnp.asarray(outside))))


def test_a_bridge_that_does_not_reach_the_decoder_is_refused():
    def short(encoder, decoder):
        return Bridge(init=lambda key: (), cross=lambda params, h_T: jnp.zeros(H + 1))

    says = "bridge got to a state of float64[5]; want the decoder's, float64[4]"
    refused(lambda: encoder_decoder(lstm(I, H), readout(gru(5, H), 5), bridge=short), says)


def test_an_id_that_its_type_cannot_hold_is_refused():
    model = readout(gru(300, 2), output_size=300)
    params = random_params(model)
    says = "first got uint8, which cannot hold 300 ids"
    refused(lambda: greedy(model, params, model.start(params), jnp.uint8(3), length=4), says)


def given(T=6):
    cell = gru(2, 3)
    params = cell.init(jax.random.key(0))
    return cell, params, cell.start(params), jnp.ones((T, 2)), jnp.ones(T), lambda ys, targets: jnp.sum(targets @ ys)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("window", [0, -3])
def test_a_window_below_1_is_refused(program, window):
    refused(lambda: PROGRAMS[program](*given(), window=window), f"window got {window}; want a positive")


@pytest.mark.parametrize("program", ["chunked", "parallel"])
def test_wrong_sizes_are_refused(program):
    f = partial(PROGRAMS[program], *given())
    refused(lambda: f(window=3, k1=0), "k1 got 0; want a positive integer")
    refused(lambda: f(window=3, k1=4), "k1 got 4, window (k2) 3; want k1 <= k2")
    refused(lambda: jax.jit(lambda window: f(window=window))(3), "window got")
    refused(lambda: f(window=3, mask=jnp.ones(5, bool)), "mask got bool (5,)")


@pytest.mark.parametrize("program", PROGRAMS)
def test_targets_that_are_too_few_are_refused(program):
    cell, params, h, xs, targets, loss = given()
    says = "targets got shape (5,); want 6 steps leading"
    refused(lambda: PROGRAMS[program](cell, params, h, xs, targets[:-1], loss, window=3), says)
    refused(lambda: streaming(cell, params, h, xs, (targets, targets[:-1]), loss), says)


def test_more_targets_than_steps_are_refused():
    cell, params, h, xs, targets, loss = given()
    refused(lambda: streaming(cell, params, h, xs[:2], targets, loss), "k1 got 6, window (k2) 2; want k1 <= k2")
    refused(lambda: streaming(cell, params, h, xs[:0], targets[:0], loss), "window got 0; want a positive integer")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_loss_that_is_no_scalar_is_refused(program):
    cell, params, h, xs, targets, _ = given()
    loss = lambda ys, targets: jnp.sum(ys**2, axis=0)  # noqa: E731
    says = "loss got shape (3,); want a scalar, the sum over time and batch"
    refused(lambda: PROGRAMS[program](cell, params, h, xs, targets, loss, window=3), says)
    refused(lambda: streaming(cell, params, h, xs, targets, loss), says)


def test_the_check_of_ids_calls_no_cell_with_another_type():
    """The filters of warnings belong to the whole process, so the check of ids must not change them."""
    shown = []

    def step(logits, h, x):
        shown.append(x.dtype)
        return jax.nn.one_hot(x, 4, dtype=logits.dtype)  # which warns of inputs that are no integers

    logits = chain.init(KEY)
    cell = chain._replace(advance=step)
    greedy(cell, logits, cell.start(logits), 0, length=3)
    one_to_many(cell, logits, cell.start(logits), 0, jnp.array([1, 2]))
    assert {jnp.issubdtype(dtype, jnp.integer) for dtype in shown} == {True}


def test_a_vocabulary_that_differs_is_known_by_the_class_of_the_error_and_not_by_its_words():
    """A cell of a user's own, whose project refuses vectors in words that begin as the library's do."""

    def table(params, x):
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError("xs got shape (T, 4); want ids")
        return params[x]

    cell = chain._replace(project=table, advance=lambda logits, h, u: u, output=lambda logits, h: h)
    logits = chain.init(KEY)
    np.testing.assert_array_equal(greedy(cell, logits, cell.start(logits), 0, length=1).ids, [jnp.argmax(logits[0])])
    model = readout(gru(5, 3), 4)
    params = random_params(model)
    says = "the model predicts 4 ids but does not read as many (xs got shape (T, 4); want 5 features"
    refused(lambda: greedy(model, params, model.start(params), 0, length=1), says)
