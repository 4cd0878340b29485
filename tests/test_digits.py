"""The experiments on digits: what their sentences count, how names are spelled, and which options they refuse."""

import numpy as np
import pytest

from rnn_jax.lab.figures import Curve
from rnn_jax.lab.page import describe_curves, percent
from tests.scripts import definitions, run_here


def test_names_are_spelled_with_their_end():
    names = definitions("digit_names")
    characters, spelled = names["CHARACTERS"], names["SPELLED"]
    assert characters.decode(spelled[7]) == "seven\n"
    assert characters.decode(spelled[6]) == "six\n\n\n"
    ends = [1 + np.flatnonzero(row == names["END"])[0] for row in spelled]
    np.testing.assert_array_equal(names["LENGTHS"], ends)


def test_images_that_are_not_recognised_are_counted():
    describe_wrong = definitions("digit_class")["describe_wrong"]
    sentence = "The first network does not recognise 3 of 10 test digits. In red its guess and its confidence in it."
    assert describe_wrong(3, 10) == sentence
    assert describe_wrong(0, 10) == "The first network does not recognise 0 of 10 test digits."


@pytest.mark.parametrize(
    ("right", "wrong", "shown"),
    [
        ([1, 1, 1, 1, 1], 0, "one of each of the 3 digits whose names are exact,"),
        ([0, 0, 0, 0, 0], 5, "5 of those with errors,"),
        ([1, 1, 0, 1, 0], 2, "one of each of the 2 digits whose names are exact and 2 of those with errors,"),
    ],
)
def test_names_without_and_with_errors_are_counted(right, wrong, shown):
    sentence = definitions("digit_names")["describe_spelled"](np.array([7, 7, 7, 2, 3]), np.array(right, bool))
    assert f"writes {wrong} of 5 names of test digits with errors. Shown are {shown}" in sentence


def test_pixels_are_counted_until_the_mean_of_the_seeds_is_above_a_half():
    never = Curve(np.arange(1, 4), np.array([[0.1], [0.5], [0.5]]))
    soon = Curve(np.arange(1, 4), np.array([[0.0, 0.4], [0.2, 0.9], [0.9, 0.9]]))
    sentence = definitions("digit_pixels")["describe_pixels"]({"tanh": never, "gru": soon})
    assert sentence.endswith("of the digits after tanh never, gru 2 pixels.")


@pytest.mark.parametrize(
    ("values", "shown"),
    [([0.5], "50.0 %"), ([0.0, 0.0], "0.0 ± 0.0 %"), ([1.0, 1.0], "100.0 ± 0.0 %"), ([0.9, 1.0, 0.92], "94.0 ± 5.0 %")],
)
def test_a_score_is_shown_as_the_mean_of_its_seeds_and_half_their_range(values, shown):
    assert percent(np.array(values)) == shown


def test_the_sentence_under_learning_curves_has_the_mean_of_the_last_scores():
    def curve(*scores):
        return Curve(np.array([10, 20]), np.stack([np.zeros(len(scores)), np.array(scores)]))

    sentence = describe_curves({"gru": curve(0.25, 0.75), "lstm": curve(0.0)}, {"guess": 0.1, "best": 1.0})
    assert "validation part: gru 50.0 %, lstm 0.0 %. Without a network: guess 10.0 %, best 100.0 %." in sentence


WRONG = {
    "digit_pixels --cells gru gru": "--cells got gru twice; want each once",
    "digit_pixels --cells swoosh": "--cells got 'swoosh'; want one or more of tanh, relu, gru, lstm",
    "digit_pixels --seeds 0": "--seeds got 0; want a positive integer",
    "digit_pixels --hidden-size 16000000": "--hidden-size got 16000000, with which the run needs about",
    "digit_class --hidden-size 0": "hidden_size got 0; want a positive integer",
    "digit_class --optimizer adamm": "--optimizer got 'adamm'; want one of adam, adamw, sgd, rmsprop, lion, or FILE.py",
    "digit_names --decoder-size 0": "hidden_size got 0; want a positive integer",
    "digit_class --resume --overwrite": "--resume and --overwrite got both",
    "digit_class --extend --overwrite": "--resume and --overwrite got both",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_use_gives_one_line_and_writes_nothing(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_here(*line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert WRONG[line] in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
