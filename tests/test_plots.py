"""Figures show the numbers they are given; how they look is looked at."""

import io
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from rnn_jax.lab.figures import (
    COLOURS,
    Band,
    Curve,
    LearningCurve,
    alignment_figure,
    confidence_figure,
    confusion_figure,
    curve_figure,
    gain_figure,
    gradient_figure,
    image_figure,
    images_of,
    lag_figure,
    learning_figure,
)


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


def test_a_curve_figure_draws_means_bands_and_baselines():
    curve = Curve(np.arange(1.0, 5), np.array([[0.1, 0.3], [0.5, 0.7], [0.8, 0.8], [0.9, 1.0]]))
    for percent in (True, False):
        figure = curve_figure({"gru": curve}, x="steps", y="right", baselines={"chance": 0.25}, percent=percent)
        axis = figure.axes[0]
        lines = {line.get_label(): np.asarray(line.get_ydata(), float) for line in axis.get_lines()}
        np.testing.assert_allclose(lines.pop("gru"), [0.2, 0.6, 0.8, 0.95])
        assert [set(line) for line in lines.values()] == [{0.25}]
        heights = np.asarray(axis.collections[0].get_paths()[0].vertices)[:, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [0.1, 1.0])
    decades = curve_figure({"a": (np.arange(3), np.array([1.0, 10, 100]))}, x="updates", y="loss", log=True).axes[0]
    assert decades.get_yscale() == "log"


def test_images_are_drawn_dark_where_the_number_is_large_each_under_its_title():
    images = np.random.default_rng(0).uniform(size=(11, 8, 8))
    figure = image_figure(images, [f"a {n}" for n in range(11)], [f"is {n}" for n in range(11)], colour="red")
    shown = [axis for axis in figure.axes if axis.images]
    np.testing.assert_array_equal([axis.images[0].get_array() for axis in shown], images)
    assert [(axis.get_title(), axis.texts[0].get_text()) for axis in shown] == [
        (f"a {n}", f"is {n}") for n in range(11)
    ]
    assert to_hex(shown[0].images[0].cmap(1.0)) == "#000000"
    assert image_figure(images[:0], []).axes


def test_a_figure_displays_itself_in_a_notebook_as_svg_with_its_text():
    figure = curve_figure({"gru": (np.arange(3), np.arange(3))}, x="updates", y="loss")
    svg = figure._repr_svg_()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "updates" in svg
    assert svg == images_of(figure)["svg"].decode() == figure._repr_svg_(), "the same figure, the same file"


def test_a_confusion_figure_shades_by_share_and_writes_counts():
    counts = np.array([[8, 2], [0, 5]])
    axis = confusion_figure(counts, ["a", "b"]).axes[0]
    np.testing.assert_allclose(np.asarray(axis.images[0].get_array()), [[0.8, 0.2], [0, 1]])
    assert [text.get_text() for text in axis.texts] == ["8", "2", "5"]


def test_confidences_are_green_where_right_and_red_where_the_first_guess_is_wrong():
    p = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    figure = confidence_figure("ab", "bc", p, "abc", top=3)
    rectangles = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    bars = {(bar.get_x(), round(bar.get_y() + 0.43)): bar for bar in rectangles}
    widths = {place: bar.get_width() / 0.9 for place, bar in bars.items()}
    np.testing.assert_allclose([widths[0, row] for row in range(3)], [0.6, 0.3, 0.1])
    np.testing.assert_allclose([widths[1, row] for row in range(3)], [0.7, 0.2, 0.1])
    colours = {place: to_hex(bar.get_facecolor()).upper() for place, bar in bars.items()}
    green, red = COLOURS[3], COLOURS[1]
    assert (colours[0, 0], colours[0, 1], colours[1, 0]) == (red, green, green)
    assert not {green, red} & {colours[0, 2], colours[1, 1], colours[1, 2]}
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == ["a", "a", "b", "c", "b", "c", "b", "a"]


def test_long_texts_take_several_lines_and_blanks_are_visible():
    figure = confidence_figure("a b$\n" * 3, " b$\na" * 3, np.full((15, 5), 0.2), "a b$\n", width=6)
    assert len(figure.axes) == 3
    assert "␣" in {text.get_text() for text in figure.axes[0].texts}
    odd = confidence_figure("\x0c", "\x00", np.full((1, 3), 0.5), "\x0c\x00\udcff").axes[0].texts
    assert {text.get_text() for text in odd} == {"·"}, "a control character would break the SVG"
    figure.draw_without_rendering()


SHOWN = ["[/b]", "$x_{$", "a$b$c", r"\$5 \frac{", "_leaky", "<b>&amp;", "中文 हिन्दी 🎉"]
NAMES = [*SHOWN, "\x0c\x00\n", "\udcff", "x" * 2000, ""]


def test_every_name_and_character_can_stand_in_every_figure():
    k, row, count = np.arange(3.0), np.full((3, 1), 0.5), len(NAMES)
    characters = "".join(dict.fromkeys("".join(NAMES)))
    figures = [
        lag_figure({"".join(SHOWN): {name: Band(k, k, k) for name in NAMES}}),
        learning_figure({name: LearningCurve(k, row, row) for name in NAMES}, 2.0, dict.fromkeys(NAMES, 1.0)),
        gain_figure({name: np.ones((2, 3)) * k for name in NAMES}, [0.5, 2.0]),
        gradient_figure(k, dict.fromkeys(NAMES, k + 1), dict.fromkeys(NAMES, k / 3)),
        curve_figure({name: Curve(k, row) for name in NAMES}, x=NAMES[1], y=NAMES[2]),
        confusion_figure(np.eye(count, dtype=int), NAMES),
        image_figure(np.zeros((count, 2, 2)), NAMES, NAMES),
        alignment_figure(characters, "a", np.ones((1, len(characters)))),
        confidence_figure(characters, characters, np.eye(len(characters)), characters, top=1),
    ]
    for figure in figures:
        image = io.BytesIO()
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            figure.savefig(image, format="svg")
        written = "".join(ElementTree.fromstring(image.getvalue()).itertext())
        assert set("".join(SHOWN).replace(" ", "")) <= set(written), "as they are, not as mathematics or dots"
        assert NAMES[9] not in written
    for name in SHOWN:
        legend: Any = figures[0].axes[0].get_legend()
        assert any(text.get_text().endswith(name.replace("$", r"\$")) for text in legend.texts)
    figures[-1].savefig(io.BytesIO(), format="png")


def test_figures_of_nothing_and_of_what_is_not_finite_are_drawn():
    nan, none = np.full(3, np.nan), np.zeros(0)
    figures = [
        lag_figure({}),
        lag_figure({"a": {}}),
        lag_figure({"a": {"b": Band(nan, nan, nan)}}),
        lag_figure({"a": {"b": Band(none, none, none)}}),
        learning_figure({}, 2.0),
        learning_figure({"a": LearningCurve(np.arange(3.0), nan[:, None], nan[:, None])}, 2.0),
        learning_figure({"a": LearningCurve(none, none[:, None], none[:, None])}, 2.0),
        gain_figure({}, [0.5, 2.0]),
        gain_figure({"a": np.full((2, 3), np.nan)}, [0.5, 2.0]),
        gradient_figure(np.arange(3.0), {"a": nan}, {"b": nan}),
        gradient_figure(none, {}, {}),
        curve_figure({}, x="a", y="b"),
        curve_figure({"a": Curve(np.arange(3.0), nan[:, None])}, x="a", y="b", baselines={"b": np.nan}, percent=True),
        image_figure(np.full((1, 8, 8), np.nan), ["a"]),
        confusion_figure(np.zeros((2, 2), int), ["a", "b"]),
        confidence_figure("a", "b", np.full((1, 2), np.nan), "ab"),
        alignment_figure("ab", "c", np.full((1, 2), np.nan)),
    ]
    for figure in figures:
        figure.draw_without_rendering()


def test_an_alignment_figure_shades_each_row_by_its_own_largest():
    figure = alignment_figure("abc", "xy", np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(np.asarray(figure.axes[0].images[0].get_array()), [[0.25, 0.5, 1], [0, 0, 0]])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["x", "y"]
