"""A wrapped cell has the spectrum and the gradients by lag of the cell inside: nothing of it counts twice."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# (states of wrappers, and wrong things on purpose)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax as rnn
from rnn_jax import Cell, lag_gradients, leading_gain, step_jacobian
from rnn_jax.types import ComplexState
from tests.cases import CASES
from tests.laboratory import refused

H, T = 3, 5
LSTM = rnn.lstm(H, H)


def jitted(cell):
    """The same cell, whose step is one compiled program that takes the whole state."""
    return rnn.cell_from_step(cell.init, cell.start, jax.jit(cell.step), cell.output)


def with_a_copy(cell):
    """A cell of one's own that keeps what is seen beside the state, where the recurrence never reads it."""
    see = cell.output
    return rnn.cell_from_step(
        cell.init,
        lambda params, batch=(): (cell.start(params, batch), see(params, cell.start(params, batch))),
        jax.jit(lambda params, h, x: (new := cell.step(params, h[0], x), see(params, new))),
        lambda params, h: see(params, h[0]),
    )


WRAPPED = {
    "residual": rnn.residual,
    "diagonal skip": rnn.diagonal_skip,
    "output dropout": lambda cell: rnn.output_dropout(cell, 0.5),
    "both": lambda cell: rnn.residual(rnn.output_dropout(cell, 0.5)),
    "residual of a residual": lambda cell: rnn.residual(rnn.residual(cell)),
    "readout": lambda cell: rnn.readout(cell, 2),
    "learned start": rnn.learned_start,
    "input dropout": lambda cell: rnn.input_dropout(cell, 0.5),
    "zoneout of none": lambda cell: rnn.zoneout(cell, 0.0),
    "variational dropout of none": lambda cell: rnn.variational_dropout(cell, state_mask=jnp.ones(H)),
    "stack of one": rnn.stack,
    "readout of a residual": lambda cell: rnn.readout(rnn.residual(cell), 2),
    "residual, compiled": lambda cell: jitted(rnn.residual(cell)),
    "with a copy": with_a_copy,
}


def params_inside(params):
    while hasattr(params, "cell") or type(params) is tuple:
        params = params[0] if type(params) is tuple else params.cell
    return params


@pytest.mark.parametrize("wrap", [rnn.residual, lambda cell: rnn.output_dropout(cell, 0.5)])
def test_an_orthogonal_network_of_gain_eight_tenths_has_that_gain_however_it_is_wrapped(wrap):
    cell = wrap(rnn.vanilla(H, H, activation="linear", recurrent_init=rnn.initializers.orthogonal(0.8)))
    params = cell.init(jax.random.key(0))
    np.testing.assert_allclose(leading_gain(cell, params, cell.start(params), jnp.ones(H)), 0.8, rtol=1e-12)


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_cell_has_the_spectrum_and_the_lags_of_the_cell_inside(name):
    cell, inside = WRAPPED[name](LSTM), LSTM
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (T, H))
    mine = params_inside(params)

    @jax.jit
    def measure(params, mine, xs):
        h, h_inside = cell.start(params), inside.start(mine)
        h = cell.step(params, h, xs[0])
        h_inside = inside.step(mine, h_inside, xs[0])
        # The same gradient sets out from both: the loss reads what is seen of the cell inside.
        seen = cell._replace(output=lambda params, h: inside.output(mine, state_inside(h)))
        return (
            (step_jacobian(cell, params, h, xs[1]), leading_gain(cell, params, h, xs[1])),
            (step_jacobian(inside, mine, h_inside, xs[1]), leading_gain(inside, mine, h_inside, xs[1])),
            lag_gradients(seen, params, cell.start(params), xs, jnp.sum).log_norm,
            lag_gradients(inside, mine, inside.start(mine), xs, jnp.sum).log_norm,
        )

    spectrum, expected, lags, expected_lags = measure(params, mine, xs)
    for found, truth in zip(spectrum, expected, strict=True):
        np.testing.assert_allclose(found, truth, atol=1e-12)
    np.testing.assert_allclose(lags, expected_lags, atol=1e-12)


def state_inside(h):
    while hasattr(h, "cell") or type(h) is tuple:
        h = h[0] if type(h) is tuple else h.cell
    return h


@pytest.mark.parametrize("wrap", [rnn.residual, lambda cell: rnn.output_dropout(cell, 0.5)])
def test_what_is_added_to_or_masks_the_output_is_no_part_of_the_total_at_any_lag(wrap):
    cell = wrap(LSTM)
    params, xs = cell.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (T, 2, H))
    found = lag_gradients(cell, params, cell.start(params, (2,)), xs, lambda y: y.sum(-1))
    inside = lag_gradients(LSTM, params, LSTM.start(params, (2,)), xs, lambda y: y.sum(-1))
    np.testing.assert_allclose(found.log_norm, inside.log_norm, atol=1e-12)
    assert np.all(np.isneginf(found.log_norm_of[1][1:])), "the recurrence never reads it"
    assert np.all(np.isfinite(found.log_norm_of[1][0])), "but the loss does"


def test_a_decoder_has_the_spectrum_of_its_own_cell():
    own = rnn.lstm(2, H)
    model = rnn.encoder_decoder(rnn.gru(2, H), rnn.readout(own, 2))
    params = model.init(jax.random.key(0))
    h = own.start(params.decoder.cell)
    np.testing.assert_allclose(
        step_jacobian(model.decoder, params, h, jnp.ones(2)), step_jacobian(own, params.decoder.cell, h, jnp.ones(2))
    )


UNREAD = {"residual": ["x"], "linear cell in wrappers": ["x"], "stack": ["x"], "output dropout": ["mask"]}


@pytest.mark.parametrize("name", CASES)
def test_only_what_wrappers_put_beside_the_output_is_never_read(name):
    from rnn_jax.diagnostics.states import recurrent_parts

    cell, x = CASES[name].cell, jnp.zeros(CASES[name].x)
    params = cell.init(jax.random.key(0))
    h = cell.start(params)
    paths = [jax.tree_util.keystr(path[-1:], simple=True) for path, _ in jax.tree.leaves_with_path(h)]
    read = recurrent_parts(cell, params, h, x)
    assert [path for path, mark in zip(paths, read, strict=True) if not mark] == UNREAD.get(name, [])


def test_a_network_without_memory_has_a_gain_of_zero_and_a_gradient_at_lag_0_alone():
    cell = rnn.cell_from_step(lambda key: None, lambda params, batch=(): jnp.zeros((*batch, 2)), lambda p, h, x: x)
    assert leading_gain(cell, None, jnp.zeros(2), jnp.ones(2)) == 0
    log_norm = lag_gradients(cell, None, jnp.zeros(2), jnp.ones((3, 2)), jnp.sum).log_norm
    np.testing.assert_allclose(log_norm, [0.5 * np.log(2), -np.inf, -np.inf, -np.inf])


def turning(angle, gain):
    """A complex number that turns and shrinks; each entry by itself."""
    return rnn.cell_from_step(
        lambda key: jnp.asarray(gain * np.exp(1j * angle)),
        lambda params, batch=(): jnp.zeros((*batch, 2), jnp.complex128),
        lambda params, h, x: params * h + x.astype(h.dtype),
        lambda params, h: h.real,
    )


def test_a_complex_state_is_measured_as_its_real_and_imaginary_parts():
    cell, pair = (
        turning(0.7, 0.5),
        rnn.cell_from_step(
            lambda key: None,
            lambda params, batch=(): ComplexState(jnp.zeros((*batch, 2)), jnp.zeros((*batch, 2))),
            lambda params, h, x: ComplexState(
                0.5 * (np.cos(0.7) * h.re - np.sin(0.7) * h.im) + x, 0.5 * (np.sin(0.7) * h.re + np.cos(0.7) * h.im)
            ),
            lambda params, h: h.re,
        ),
    )
    params, x = cell.init(None), jnp.ones(2)
    h = cell.start(params)
    J, expected = step_jacobian(cell, params, h, x), step_jacobian(pair, None, pair.start(None), x)
    assert J.shape == (4, 4)
    np.testing.assert_allclose(J, expected, atol=1e-15)
    np.testing.assert_allclose(leading_gain(cell, params, h, x), 0.5, rtol=1e-12)
    lags = lag_gradients(cell, params, h, jnp.ones((9, 2)), jnp.sum)
    np.testing.assert_allclose(lags.log_norm, 0.5 * np.log(2) + np.arange(10) * np.log(0.5), rtol=1e-12)
    np.testing.assert_allclose(lags.log_norm_of, lags.log_norm, rtol=1e-12)


counting = rnn.cell_from_step(
    lambda key: None,
    lambda params, batch=(): {"h": jnp.zeros((*batch, 2)), "t": jnp.zeros(batch, jnp.int32)},
    lambda params, h, x: {"h": h["h"] + x, "t": h["t"] + 1},
    lambda params, h: h["h"],
)


def test_a_state_of_integers_is_refused():
    h, xs = counting.start(None), jnp.ones((3, 2))
    says = "state['t'] got int32; want floating numbers"
    refused(lambda: lag_gradients(counting, None, h, xs, jnp.sum), says)
    refused(lambda: step_jacobian(counting, None, h, xs[0]), says)
    refused(lambda: leading_gain(counting, None, h, xs[0]), says)


def test_a_layer_is_refused_where_steps_are_measured():
    layer = rnn.bidirectional(LSTM, LSTM)
    params, xs = layer.init(jax.random.key(0)), jnp.ones((T, H))
    h = layer.start(params)
    refused(lambda: lag_gradients(layer, params, h, xs, jnp.sum), "cell got a Layer; want a Cell")
    refused(lambda: step_jacobian(layer, params, h, xs[0]), "cell got a Layer; want a Cell")
    refused(lambda: leading_gain(layer, params, h, xs[0]), "cell got a Layer; want a Cell")


def test_the_error_for_a_network_without_inputs_names_the_way_to_give_its_steps():
    cell = Cell(LSTM.init, LSTM.start, lambda params, x: jnp.zeros(4 * H), LSTM.advance, LSTM.output)
    params = cell.init(jax.random.key(0))
    refused(lambda: lag_gradients(cell, params, cell.start(params), None, jnp.sum), "xs got None; want steps")
    refused(lambda: rnn.input_gradients(lambda xs: xs, None), "xs got None; want steps")
    steps = jnp.zeros((T, 0))
    assert lag_gradients(cell, params, cell.start(params), steps, jnp.sum).log_norm.shape == (T + 1,)
    assert step_jacobian(cell, params, cell.start(params), None).shape == (2 * H, 2 * H)
