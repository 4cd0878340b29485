"""Figures show the numbers they are given; how they look is looked at."""

import numpy as np

from rnn_jax.plots import Band, LearningCurve, gain_figure, lag_figure, learning_figure


def test_a_lag_figure_draws_every_cell_in_every_panel_as_powers_of_ten():
    k = np.arange(50.0)
    dead = np.where(k > 3, -np.inf, 0)
    bands = {"tanh": Band(-2 * k - 1, -2 * k, -2 * k + 1), "dead": Band(dead, dead, k)}
    figure = lag_figure({"before": bands, "after": bands})
    for axis in figure.axes:
        lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axis.get_lines()}
        np.testing.assert_allclose(lines["tanh"], -2 * k / np.log(10))
        assert np.isnan(lines["dead"][4:]).all()
    figure.draw_without_rendering()


def test_a_learning_figure_ends_at_chance_even_if_a_cell_comes_apart():
    tokens = np.arange(4.0)
    curves = {
        "fine": LearningCurve(tokens, np.full((4, 2), 2.0), np.full((4, 2), 2.1)),
        "apart": LearningCurve(tokens, np.full((4, 2), 1e20), np.full((4, 2), np.nan)),
    }
    axis = learning_figure(curves, chance=4.6).axes[0]
    low, high = axis.get_ylim()
    assert 1.5 < low < 2.0
    assert 4.6 < high < 5.0


def test_a_gain_figure_has_a_map_for_each_cell_and_an_edge_where_the_gradient_keeps_its_size():
    gains = np.geomspace(0.25, 4, 9)
    map_ = np.log(gains)[:, None] * np.arange(7)
    map_[0, 3:] = -np.inf
    figure = gain_figure({str(i): map_ for i in range(4)}, gains.tolist(), limit=5.0)
    shown = [axis for axis in figure.axes if axis.get_visible() and axis.get_title()]
    assert len(shown) == 4
    colours = np.ma.asarray(shown[0].collections[0].get_array())
    assert not np.ma.is_masked(colours)
    assert colours.min() == -10.0
    figure.draw_without_rendering()
