"""The readings of the gradient laboratory, on networks whose readings are known."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import initializers, readout, vanilla
from rnn_jax.lab.figures.instruments import band_over, panel_figure
from rnn_jax.lab.instrument_study import (
    Stimulus,
    bound_lines,
    gain_panels,
    gain_slopes,
    largest_gaps,
    mean_field_slope,
    measure_instruments,
    window_for,
)
from rnn_jax.lab.tasks import masked_squared_error

T, N, DELAY = 8, 2, 2


@pytest.fixture(scope="module")
def stimulus():
    xs, targets = jax.random.normal(jax.random.key(0), (2, T, N, 1))
    return Stimulus(xs, (targets, jnp.repeat(jnp.arange(T)[:, None] >= DELAY, N, axis=1)), masked_squared_error)


@pytest.fixture(scope="module")
def readings(stimulus):
    """Those of a delay line of three units: each passes its number to the next, and the last one is the output."""
    model = readout(vanilla(1, 3, activation="linear"), 1)
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    line = params.cell._replace(W_xh=jnp.array([[1.0, 0, 0]]), W_hh=jnp.eye(3, k=1))
    params = params._replace(cell=line, W_hy=jnp.array([[0.0], [0.0], [1.0]]))
    return jax.jit(partial(measure_instruments, model, stimulus=stimulus, windows=4, delay=DELAY))(params)


def test_a_delay_line_keeps_a_gradient_for_its_length_and_then_nothing(readings):
    np.testing.assert_allclose(readings.bound, 0, atol=1e-12)
    np.testing.assert_allclose(readings.lag[:3], 0, atol=1e-12)
    assert np.isneginf(readings.lag[3:]).all()
    known = np.flatnonzero(~np.isnan(readings.largest))
    assert known.tolist() == [0, 1, 2, 4, 6, 8]  # among them the delay
    np.testing.assert_allclose(readings.largest[:3], 0, atol=1e-12)
    assert np.all(readings.largest[known[3:]] < -600)  # products are 0
    np.testing.assert_allclose(readings.product[0], 0, atol=1e-12)
    assert np.all(readings.product[1:] < -30)  # 0 but for rounding
    assert np.isneginf(readings.direct[1:]).all()
    assert np.isnan(readings.saturated)  # there is nothing that saturates


def test_a_window_that_is_as_long_as_the_line_has_no_bias(readings):
    assert np.all(readings.bias[:2] > 0.1)
    np.testing.assert_allclose(readings.bias[2:], 0, atol=1e-12)
    assert window_for(jax.tree.map(lambda a: np.asarray(a)[None], readings)) == "3"


def test_the_lines_of_a_network_without_a_direct_path_leave_it_out(readings):
    lines = bound_lines(jax.tree.map(lambda a: np.asarray(a)[None], readings))
    assert np.isnan(lines["direct path ∏ f"][1].median).all()
    assert lines["truth σ_max(∏ J)"][0].tolist() == [0, 1, 2, 4, 6, 8]


def test_slopes_of_an_orthogonal_network_are_the_logarithms_of_its_gains(stimulus):
    model = readout(vanilla(1, 3, activation="linear", recurrent_init=initializers.orthogonal()), 1)
    gains = np.array([0.5, 2.0])
    slopes = jax.jit(partial(gain_slopes, model, stimulus=stimulus, gains=gains))(model.init(jax.random.key(0)))
    np.testing.assert_allclose(slopes, np.log(gains), rtol=1e-9)
    panels, theory = gain_panels({"linear text": [np.asarray(slopes)[None]]}, gains)
    assert list(panels) == ["untrained, text"]
    assert largest_gaps(panels["untrained, text"], theory)["linear"] < 1e-9  # ½ ln χ = ln σ_w


def test_only_vanilla_cells_with_gaussian_weights_have_a_closed_form():
    assert mean_field_slope("relu", 1.0, 1.0) == pytest.approx(0.5 * math.log(0.5))
    assert mean_field_slope("gru", 1.0, 1.0) is mean_field_slope("tanh-orthogonal", 1.0, 1.0) is None


def test_a_border_and_a_closed_form_are_drawn_in_their_panel_alone():
    x = np.array([1.0, 2.0])
    panels = {title: {"gru": (x, band_over(np.ones((3, 2))))} for title in ("before", "after")}
    figure = panel_figure(
        panels, x="x", y="y", theory={"before": {"½ ln χ": (x, x)}}, borders={"after": ("delay", 1.5)}
    )
    before, after = figure.axes
    assert [np.asarray(line.get_xdata()).tolist() for line in before.get_lines()] == [[1, 2], [1, 2]]
    assert [np.asarray(line.get_xdata()).tolist() for line in after.get_lines()] == [[1, 2], [1.5, 1.5]]


def test_steps_without_anything_to_recall_have_no_loss_and_no_gradient(stimulus):
    ys, (targets, mask) = jax.random.normal(jax.random.key(1), (T, N, 1)), stimulus.targets
    losses, pullback = jax.vjp(lambda ys: stimulus.loss(ys, stimulus.targets), ys)
    np.testing.assert_allclose(losses, np.where(mask, np.square(ys - targets)[..., 0], 0))
    assert np.all((pullback(jnp.ones_like(losses))[0][..., 0] != 0) == mask)
