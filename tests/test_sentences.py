"""Every sentence of a report that states a number states that of its data, whatever the data are."""

import importlib
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rnn_jax.lab.plots import Band, ScoreCurve

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
LN10, INF, NAN = math.log(10), math.inf, math.nan
BEFORE, AFTER = "at initialisation", "after training"


@pytest.fixture(autouse=True)
def _scripts_find_their_modules(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.setenv("NPROC", "4")
    yield
    for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(EXPERIMENTS))]:
        del sys.modules[name]


def of(module):
    return importlib.import_module(module)


def line(*median):
    return Band(*[np.array(median, float)] * 3)


def curve(*scores):
    """A learning curve of two evaluations that ends at these scores, one for each seed."""
    return ScoreCurve(np.array([10, 20]), np.stack([np.zeros(len(scores)), np.array(scores)]))


POWERS = [(-INF, "nothing"), (NAN, "unknown"), (INF, "more than a number can hold"), (0.0, "1"), (-1.0, "0.1")]
POWERS += [(1.5, "32"), (-37.6, "10⁻³⁸"), (868.0, "10⁸⁶⁸")]


@pytest.mark.parametrize(("powers", "words"), POWERS)
def test_a_power_of_ten_is_told_in_words(powers, words):
    assert of("_vanishing_gradients_report").factor(powers) == words


def test_what_is_left_of_a_gradient_is_its_last_median_over_its_first():
    report = of("_vanishing_gradients_report")
    before = {"lstm": line(2 * LN10, 5, -18 * LN10), "relu": line(0, -1, -INF), "mine": line(-INF, -INF, -INF)}
    after = {"lstm": line(LN10, 5, 0), "relu": line(0, 1, 3 * LN10), "mine": line(NAN, NAN, NAN)}
    told = report.about_lags({BEFORE: before, AFTER: after}, left_out=3)
    assert told.startswith("What 2 steps back is left of the gradient")
    assert f"{BEFORE}, lstm 10⁻²⁰, relu nothing, mine unknown; {AFTER}, lstm 0.1, relu 10³, mine unknown." in told
    assert told.endswith(" 3 curves without a gradient, or whose state overflowed, are left out.")
    assert report.about_lags({BEFORE: before}, left_out=0).endswith("Bands hold the middle 80 %.")


def test_the_answer_orders_cells_by_what_is_left_of_the_gradient():
    answered = of("_vanishing_gradients_report").answered
    told = answered({"tanh": -INF, "mine": NAN, "gru": -3 * LN10, "lstm": 0.0}, 200, "done")
    assert told.endswith(
        "left 200 steps back, from the furthest reaching on: lstm 1, gru 10⁻³, tanh nothing, mine unknown."
    )
    assert answered({"gru": 0.0}, 5, "interrupted").endswith(": gru 1. (The run is interrupted.)")


def lstm_result(h, c):
    """What is kept of a cell whose h and c have these curves ``(K,)``, of two seeds and probes."""
    parts = np.broadcast_to(np.array([h, c], float)[None, :, :, None, None], (2, 2, len(h), 2, 2))
    return SimpleNamespace(log_norm=np.logaddexp(parts[:, 0], parts[:, 1]), log_norm_of=parts)


def test_c_is_drawn_and_counted_from_the_first_lag_at_which_it_has_a_gradient():
    report, drawn = of("_vanishing_gradients_report"), {}
    run = SimpleNamespace(draw=lambda name, figure, columns, rows: drawn.update({name: (figure, rows)}))
    gru = SimpleNamespace(log_norm_of=np.zeros((2, 1, 5, 2, 2)))
    lstm = lstm_result(h=[0, -1, -2, -3, -4], c=[-INF, 0, -1, -3.5, -3])
    [section] = report.draw_parts(run, {"gru": gru, "lstm": lstm})
    assert section.title == "Inside lstm: h and c apart"
    assert f"at 75.0% of the lags {BEFORE}, and at 75.0% of the lags {AFTER}." in section.says
    figure, rows = drawn["lstm_parts"]
    for axis in figure.axes:
        [y] = [drawn_line.get_ydata() for drawn_line in axis.lines if drawn_line.get_label() == "c"]
        np.testing.assert_allclose(y * LN10, [NAN, 0, -1, -3.5, -3], rtol=1e-6)
    assert (BEFORE, "c", 1, "0") in rows
    assert report.draw_parts(run, {"gru": gru}) == []


@pytest.mark.parametrize(
    ("h", "c", "told"),
    [
        ([0, 1, 2], [-INF, 2, 3], "at 100.0% of the lags"),
        ([0, 1, 2], [-INF, -INF, -INF], "at 0.0% of the lags"),
        ([0, -INF, -INF], [-INF, 0, -INF], "at 50.0% of the lags"),
        ([0, NAN, 2], [-INF, 2, 3], "at 100.0% of the lags"),
        ([NAN, NAN, NAN], [NAN, NAN, NAN], "unknown"),
    ],
)
def test_the_part_of_the_lags_at_which_c_is_ahead(h, c, told):
    says = of("_vanishing_gradients_report").about_parts({BEFORE: {"h": line(*h), "c": line(*c)}})
    assert says.endswith(f"with respect to h {told} {BEFORE}.")


def test_learning_is_told_from_the_best_on_and_what_came_apart_is_last():
    about_learning = of("_vanishing_gradients_report").about_learning
    told = about_learning({"mine": NAN, "tanh": 1e6, "gru": 2 * math.log(2), "lstm": math.log(2)}, 12000, 60)
    assert told == (
        "After 12,000 letters, a letter of the held-out text costs lstm 0.69 nats (1.00 bits), gru 1.39 nats "
        "(2.00 bits), tanh diverged, mine diverged; an even guess among the 60 letters costs 4.09 nats."
    )


def test_the_sweep_tells_the_smallest_gain_that_explodes():
    maps = {
        "tanh": np.array([[0, -9.0], [0, -1.0], [0, 1.0], [0, 2.0]]),
        "relu": np.array([[0, -INF], [0, NAN], [0, NAN], [0, NAN]]),
        "gru": np.array([[0, -1.0]] * 4),
        "all": np.array([[0, 1.0]] * 4),
    }
    told = of("_vanishing_gradients_report").about_sweep(maps, np.array([0.5, 1, 2, 4]))
    assert told.endswith("comes back 1 steps than set out: tanh 2.00, relu 1.00, gru none up to 4, all 0.50.")


def test_the_numbers_of_a_cell_are_those_of_its_curves():
    report, k = of("_vanishing_gradients_report"), np.arange(5.0)
    before, after = np.stack([-k, -3 * k, np.full(5, -INF)], -1), np.stack([k, 0 * k, NAN * k], -1)
    result = SimpleNamespace(
        hidden_size=4,
        parameters=9,
        log_norm=np.stack([before, after])[:, :, None],
        gain=np.array([[[1, 3, NAN]], [[NAN] * 3]]),
        validation=np.array([[9.0, 9.0], [1.0, 3.0]]),
        tokens_per_s=1.0,
        compile_s=1.0,
    )
    numbers = report.in_numbers(result)
    np.testing.assert_allclose(numbers["slope"], [-2, 0.5], atol=1e-6)
    assert numbers["half_life"][1] == INF
    assert numbers["curves_left_out"] == [1, 1]
    np.testing.assert_allclose(numbers["leading_gain"], [2, NAN])
    assert numbers["validation_nats"] == 2
    row = report.table_row("mine", numbers)
    assert row[5:7] == ("2.00 → —", "2.000 ± 1.000")
    assert report.table_row("mine", {**numbers, "validation_nats": 1e9})[6:8] == ("diverged", "—")


def test_skipped_updates_are_counted_once_for_each_network():
    about_skipped = of("_study").about_skipped
    rows = [("gru", 0, 2), ("gru", 0, 5), ("gru", 1, 1000), ("lstm", 0, 0)]
    told = about_skipped([{"cell": cell, "seed": seed, "skipped": n} for cell, seed, n in rows])
    assert told == " Updates that were skipped, as something was not finite: 1,005 of gru."
    assert about_skipped([]) == about_skipped([{"cell": "gru", "seed": 0}]) == ""


@pytest.mark.parametrize(
    ("values", "told"),
    [([0.5], "50.0 %"), ([0.0, 0.0], "0.0 ± 0.0 %"), ([1.0, 1.0], "100.0 ± 0.0 %"), ([0.9, 1.0, 0.92], "94.0 ± 5.0 %")],
)
def test_a_score_is_told_as_the_mean_of_its_seeds_and_half_their_range(values, told):
    assert of("_showing").shown(np.array(values)) == told


def test_curves_are_told_by_the_mean_of_their_last_score():
    told = of("_showing").about_curves({"gru": curve(0.25, 0.75), "lstm": curve(0.0)}, {"guess": 0.1, "best": 1.0})
    assert "validation, gru 50.0 %, lstm 0.0 % at the end; the bar to clear: guess 10.0 %, best 100.0 %." in told


@pytest.mark.parametrize(
    ("exact", "told"),
    [
        ([1.0, 0.5, 0.75], "Hardest: Turkish."),
        ([0.5, 0.5, 0.75], "Hardest: French, Turkish."),
        ([1.0, 1.0, 1.0], "No language is harder than another."),
        ([0.0, 0.0, 0.0], "No language is harder than another."),
    ],
)
def test_the_hardest_languages_are_named_where_there_are_any(exact, told):
    assert of("_dates_report").about_languages(["French", "Turkish", "Finnish"], np.array(exact)).endswith(told)


def test_misread_digits_are_all_that_lie_off_the_diagonal():
    about_misread = of("digit_class").about_misread
    assert about_misread(np.array([[3, 1], [2, 4]])) == (
        "The first network misreads 3 of 10 test digits. In red what the first of them were taken for."
    )
    assert about_misread(np.eye(2, dtype=int)) == "The first network misreads 0 of 2 test digits."


@pytest.mark.parametrize(
    ("right", "misspells", "shows"),
    [
        ([1, 1, 1, 1, 1], 0, "one of each of the 3 digits that it spells right,"),
        ([0, 0, 0, 0, 0], 5, "5 of those that it misspells,"),
        ([1, 1, 0, 1, 0], 2, "one of each of the 2 digits that it spells right and 2 of those that it misspells,"),
    ],
)
def test_what_is_said_to_be_spelled_right_is_right(right, misspells, shows):
    says = of("digit_names").about_spelled(np.array([7, 7, 7, 2, 3]), np.array(right, bool))
    assert f"misspells {misspells} of 5 test digits. Here are {shows}" in says


def test_pixels_are_counted_until_the_mean_of_the_seeds_is_above_a_half():
    never = ScoreCurve(np.arange(1, 4), np.array([[0.1], [0.5], [0.5]]))
    soon = ScoreCurve(np.arange(1, 4), np.array([[0.0, 0.4], [0.2, 0.9], [0.9, 0.9]]))
    told = of("digit_pixels").about_pixels({"tanh": never, "gru": soon})
    assert told.endswith("right after tanh never, gru 2 pixels.")


def test_the_next_letter_is_told_by_accuracy_and_cost():
    answered, bit = of("next_letter").answered, math.log(2)
    scores = {"accuracy": np.array([0.4, 0.6]), "loss": np.array([bit, 3 * bit])}
    told = "The next letter is guessed right 50.0 ± 10.0 % of the time; it costs 1.386 nats, 2.000 bits."
    assert answered(scores) == told
    for loss in (NAN, INF, 1e9):
        assert answered(scores | {"loss": np.array([loss])}).endswith("of the time; the networks diverged.")


def test_the_languages_taken_for_each_other_are_counted_both_ways():
    about_confusion, names = of("word_language").about_confusion, ["Czech", "Slovak", "Polish"]
    told = about_confusion("gru", names, np.array([[9, 1, 5], [6, 9, 0], [0, 0, 9]]))
    assert told.endswith("Czech and Slovak are taken for each other most often, 7 times.")
    for counts in (np.eye(3, dtype=int), np.zeros((3, 3), int)):
        assert about_confusion("gru", names, counts).endswith("None is taken for another.")


@pytest.mark.parametrize("smoke", [True, False])
def test_the_page_of_a_smoke_run_says_so_in_its_title_and_in_a_sentence(smoke, tmp_path, monkeypatch):
    showing, written = of("_showing"), {}
    monkeypatch.setattr(showing, "write_report", lambda run, **page: written.update(page))
    (tmp_path / "config.json").write_text(json.dumps({"smoke": smoke}), encoding="utf-8")
    (tmp_path / "metrics.jsonl").touch()
    run = SimpleNamespace(folder=tmp_path, write_json=lambda name, value: None)
    options = (of("_study").Study(), of("_study").Study())
    page = {"script": "dates.py", "title": "Dates", "question": "?", "legend": "", "baselines": {}}
    showing.publish(run, options, "interrupted", {}, lambda: None, **page)
    assert written["title"] == ("Dates (smoke run)" if smoke else "Dates")
    assert written["answer"].startswith("The run is interrupted; no network was finished.")
    assert ("This is a smoke run" in written["answer"]) == smoke
