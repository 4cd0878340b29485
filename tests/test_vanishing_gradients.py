"""The main job: sentences are functions of their data, numbers are those of the networks, misuse is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import lag_gradients, many_to_one, readout
from rnn_jax.data import adding
from rnn_jax.lab import gradient_sentences as sentences
from rnn_jax.lab.checkpoints import load_params
from rnn_jax.lab.figures import Band, Curve
from rnn_jax.lab.gradient_study import has_recurrent_matrix, relative_to_lag_0, state_fields
from rnn_jax.lab.named_cells import make_cell
from rnn_jax.lab.runs import read_json, read_metrics
from tests.scripts import commands, run_here

LN10, INF, NAN = math.log(10), math.inf, math.nan
BEFORE, AFTER = "at initialisation", "after training"
LEAKY = """
import jax, jax.numpy as jnp
from rnn_jax import cell_from_step, initializers

def leaky(input_size, hidden_size, rate=0.1):
    def init(key):
        k_x, k_h = jax.random.split(key)
        draw = initializers.scaled_normal()
        return {"W_xh": draw(k_x, (input_size, hidden_size)), "W_hh": draw(k_h, (hidden_size, hidden_size))}
    def start(params, batch_shape=()):
        return jnp.zeros((*batch_shape, hidden_size))
    def step(params, h, x):
        return (1 - rate) * h + rate * jnp.tanh(x @ params["W_xh"] + h @ params["W_hh"])
    return cell_from_step(init, start, step)
"""


def line(*median):
    return Band(*[np.array(median, float)] * 3)


POWERS = [(-INF, "nothing"), (NAN, "unknown"), (INF, "more than a number can hold"), (0.0, "1"), (-1.0, "0.1")]
POWERS += [(1.5, "32"), (-37.6, "10⁻³⁸"), (868.0, "10⁸⁶⁸")]


@pytest.mark.parametrize(("power", "words"), POWERS)
def test_a_power_of_ten_is_written_in_words(power, words):
    assert sentences.power_of_ten(power) == words


def test_the_share_of_the_gradient_that_is_left_is_the_last_median_over_the_first():
    before = {"lstm": line(2 * LN10, 5, -18 * LN10), "relu": line(0, -1, -INF), "mine": line(-INF, -INF, -INF)}
    after = {"lstm": line(LN10, 5, 0), "relu": line(0, 1, 3 * LN10), "mine": line(NAN, NAN, NAN)}
    sentence = sentences.describe_lags({BEFORE: before, AFTER: after}, left_out=3)
    assert sentence.startswith("The share of the gradient that is left 2 steps back")
    assert f"{BEFORE}, lstm 10⁻²⁰, relu nothing, mine unknown; {AFTER}, lstm 0.1, relu 10³, mine unknown." in sentence
    assert sentence.endswith(" 3 curves without a gradient, or whose state overflowed, are left out.")
    assert sentences.describe_lags({BEFORE: before}).endswith(f"{BEFORE}, lstm 10⁻²⁰, relu nothing, mine unknown.")


def test_the_cost_is_described_from_the_smallest_error_on():
    sentence = sentences.describe_cost(
        {"tanh": 0.17, "mine": NAN, "gru": 0.001}, {"tanh": -INF, "mine": NAN, "gru": 0.0}
    )
    assert sentence == (
        "Always answering 1 has an error of 0.167. After training, from best to worst: gru has an error of 0.001 and 1 "
        "of the gradient left; tanh has an error of 0.17 and nothing of the gradient left; mine has diverged."
    )


@pytest.mark.parametrize(
    ("errors", "sentence"),
    [
        ({"gru": 0.001, "lstm": 0.02, "tanh": 0.166}, "gru, lstm learn the adding problem; tanh stays at chance."),
        ({"gru": 0.1, "mine": NAN}, "gru learns a part of the adding problem; mine diverges."),
        ({"relu": 1e9, "mine": INF, "tanh": 0.17}, "tanh stays at chance; relu, mine diverge."),
        ({}, "No network of the adding problem was finished."),
    ],
)
def test_the_answer_divides_cells_into_those_that_learn_and_those_at_chance(errors, sentence):
    assert sentences.describe_answer(errors, 100).endswith(sentence)


@pytest.mark.parametrize(
    ("h", "c", "words"),
    [
        ([0, 1, 2], [-INF, 2, 3], "at 100.0% of the lags"),
        ([0, 1, 2], [-INF, -INF, -INF], "at 0.0% of the lags"),
        ([0, -INF, -INF], [-INF, 0, -INF], "at 50.0% of the lags"),
        ([0, NAN, 2], [-INF, 2, 3], "at 100.0% of the lags"),
        ([NAN, NAN, NAN], [NAN, NAN, NAN], "unknown"),
    ],
)
def test_the_share_of_the_lags_at_which_the_gradient_of_c_is_larger(h, c, words):
    sentence = sentences.describe_parts("lstm", {BEFORE: {"h": line(*h), "c": line(*c)}})
    assert sentence.endswith(f"with respect to h {words} {BEFORE}.")


def test_learning_is_described_from_the_best_cell_on_and_a_diverged_one_is_last():
    final = {"mine": NAN, "tanh": 1e6, "gru": 2 * math.log(2), "lstm": math.log(2)}
    curves = {name: Curve(np.array([6000, 12000]), np.array([[9.0], [nats]])) for name, nats in final.items()}
    assert sentences.describe_text(curves, 60) == (
        "After 12,000 characters, a character of the validation part costs lstm 0.69 nats (1.00 bits), gru 1.39 nats "
        "(2.00 bits), tanh diverged, mine diverged; an even guess among the 60 characters costs 4.09 nats."
    )


def test_the_sentence_of_the_sweep_names_the_smallest_gain_that_explodes():
    maps = {
        "tanh": np.array([[0, -9.0], [0, -1.0], [0, 1.0], [0, 2.0]]),
        "relu": np.array([[0, -INF], [0, NAN], [0, NAN], [0, NAN]]),
        "gru": np.array([[0, -1.0]] * 4),
        "all": np.array([[0, 1.0]] * 4),
    }
    sentence = sentences.describe_sweep(maps, np.array([0.5, 1, 2, 4]))
    assert sentence.endswith("1 steps back than at lag 0: tanh 2.00, relu 1.00, gru none up to 4, all 0.50.")


def test_the_numbers_of_a_cell_are_those_of_its_curves():
    k = np.arange(5.0)
    before, after = np.stack([-k, -3 * k, np.full(5, -INF)], -1), np.stack([k, 0 * k, NAN * k], -1)
    measured = [
        (before[None], before[None, None], np.array([[1, 3, NAN]])),
        (after[None], after[None, None], np.array([[NAN] * 3])),
    ]
    numbers = sentences.numbers_of_text(measured, np.array([1.0, 3.0]))
    np.testing.assert_allclose(numbers["slope"], [-2, 0.5], atol=1e-6)
    np.testing.assert_allclose(numbers["half_life"], [math.log(2) / 2, INF])
    assert numbers["curves_left_out"] == [1, 1]
    np.testing.assert_allclose(numbers["leading_gain"], [2, NAN])
    assert numbers["test_nats"] == 2
    assert sentences.table_row("mine", numbers) == (
        "mine",
        "—",
        "unknown → unknown",
        "2.000 ± 1.000",
        "0.347 → ∞",
        "2.00 → —",
    )
    assert sentences.table_row("mine", {"test_nats": 1e9, "adding_error": 1e30})[1:4:2] == ("diverged", "diverged")


def test_a_place_without_a_gradient_does_not_count_in_the_sweep():
    log_norm = np.array(
        [[[[0.0, -INF, 2.0], [-1.0, -INF, 3.0]]], [[[1.0, NAN, 0.0], [2.0, NAN, -3.0]]]]
    )  # (S, G, K, N)
    np.testing.assert_array_equal(relative_to_lag_0(log_norm), [[0, np.median([-1, 1, 1, -3])]])
    assert np.isnan(relative_to_lag_0(np.full((1, 1, 2, 1), NAN))).all()


@pytest.fixture(scope="module")
def command():
    """Runs a command in a process that runs one after the other, so that JAX is imported and compiles once for all."""
    with commands() as run:
        yield run


@pytest.fixture(scope="module")
def finished_run(command, tmp_path_factory):
    """A run of a linear cell, whose gradients are known, and of an own cell; its folder has a difficult name."""
    folder = tmp_path_factory.mktemp("vanishing") / "no [" / "b] $x_{$"  # as markup of rich, and as mathematics
    own = folder.parents[1] / "mine.py"
    own.write_text(LEAKY)
    words = ["--smoke", "--cells", "linear-orthogonal", f"{own}:leaky", "--seeds", 1, "--out", folder]
    code, out, err = command("vanishing_gradients", *words)
    assert (code, err) == (0, "")
    assert "leaky" in out
    return folder


def test_the_figures_show_the_gradients_of_a_linear_cell(finished_run):
    rows = np.genfromtxt(
        finished_run / "figures/gain_sweep.csv", delimiter=",", names=True, dtype=None, encoding="utf-8"
    )
    rows = rows[rows["cell"] == "linear-orthogonal"]
    expected = rows["lag"] * np.log(rows["gain"])
    np.testing.assert_allclose(rows["ln_norm_less_lag_0"], expected, rtol=1e-3, atol=1e-3)
    cells = read_json(finished_run / "summary.json")["cells"]
    assert [*cells] == ["linear-orthogonal", "leaky"]
    np.testing.assert_allclose(cells["linear-orthogonal"]["slope"][0], 0, atol=1e-4)
    np.testing.assert_allclose(cells["linear-orthogonal"]["leading_gain"][0], 1, rtol=1e-4)


def test_the_numbers_of_the_adding_problem_are_those_of_the_networks_in_the_folder(finished_run):
    config, cells = read_json(finished_run / "config.json"), read_json(finished_run / "summary.json")["cells"]
    numbers = cells["linear-orthogonal"]
    with jax.enable_x64(False):
        rows = read_metrics(finished_run)
        H = next(row["hidden_size"] for row in rows if row["cell"] == "linear-orthogonal adding")
        model = readout(make_cell("linear-orthogonal", 2, H, reads_ids=False), 1)
        like = jax.eval_shape(model.init, jax.random.key(0))
        params = load_params(finished_run / "cells" / "linear-orthogonal adding-0.safetensors", like)

        def squared_errors(xs, targets):
            return (many_to_one(model, params, model.start(params, targets.shape), xs)[..., 0] - targets) ** 2

        test = adding(jax.random.key(2), config["steps"], 2000)
        np.testing.assert_allclose(jnp.mean(squared_errors(*test)), numbers["adding_error"], rtol=1e-5)
        xs, targets = adding(jax.random.key(3), config["steps"], config["probes"])
        h0 = model.start(params, targets.shape)
        found = lag_gradients(model, params, h0, xs, lambda y: (y[..., 0] - targets) ** 2).log_norm
        kept = np.sort(np.asarray(found[config["steps"] - 1] - found[0]))
        assert kept[0] - 1e-4 <= numbers["adding_ln_kept"][1] <= kept[-1] + 1e-4


def test_a_cell_that_diverges_is_shown_as_diverged(command, tmp_path):
    folder = tmp_path / "run"
    wild = ["--learning-rate", 1000, "--clip", 1e9]
    code, out, err = command("vanishing_gradients", "--smoke", "--cells", "relu", "--seeds", 1, *wild, "--out", folder)
    assert (code, err) == (0, "")
    assert "diverged" in out
    assert "diverged" in (folder / "report.html").read_text()
    assert read_json(folder / "config.json")["seeds"] == 1


WRONG = {
    "--cells swoosh": "cell got 'swoosh'; want one of tanh, relu",
    "--cells tanh-wild": "cell got the start 'wild' in 'tanh-wild'; want one of gaussian",
    "--cells": "--cells got nothing",
    "--cells lstm-gaussian lstm": "--cells got lstm twice",
    "--cells lstm-": "cell got the start ''",
    "--cells min_gru-identity": "want none, as it has no W_hh",
    "--cells none.py:leaky": "whose file none.py is not there",
    "--window 0": "--window got 0; want a positive integer",
    "--gains 1": "--gains got 1; want at least 2",
    "--text TMP/none.txt": "which is no file",
    "--text TMP/empty.txt": "which is empty",
    "--text TMP/latin.txt": "which is not UTF-8 at byte 3",
    "--text TMP/short.txt": "text got 40 characters; want at least",
    "--text TMP/medium.txt": "text got 4560 characters; want at least",
    "--text TMP/single.txt": "text got one distinct character",
    "--optimizer swoosh": "--optimizer got 'swoosh'",
}


def test_wrong_use_is_one_line_and_exit_code_2_and_writes_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "short.txt").write_text("to be or not to be, " * 2)
    (tmp_path / "medium.txt").write_text("to be or not to be " * 240)
    (tmp_path / "single.txt").write_text("a" * 5000)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    for words, message in WRONG.items():
        one = [] if "--cells" in words else ["--cells", "tanh"]  # the widths of four cells take longer
        code = run_here("vanishing_gradients", *words.replace("TMP", str(tmp_path)).split(), *one)
        err = capsys.readouterr().err
        assert code == 2, words
        assert message in err, words
        assert err.count("\n") == 1, words
        assert sorted(tmp_path.rglob("*")) == before, words


def test_only_named_parts_and_recurrent_matrices_are_shown():
    models = {name: make_cell(name, 3, 4, reads_ids=False) for name in ("lstm", "gru", "lru")}
    assert [state_fields(model) == ("h", "c") for model in models.values()] == [True, False, False]
    assert [has_recurrent_matrix(model) for model in models.values()] == [True, True, False]
