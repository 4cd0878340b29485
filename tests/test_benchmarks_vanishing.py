"""The benchmark of vanishing gradients: its closed forms, its record of one cell, its table and its figure."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import bench_vanishing, tables
from benchmarks.bench_vanishing import Sizes, closed_form, known, ln_left, model_of
from benchmarks.pictures import vanishing_figure
from benchmarks.timing import json_line
from rnn_jax.data import adding
from rnn_jax.lab.environment import environment

SMALL = Sizes(hidden_size=3, seeds=2, lags=12, examples=2, lengths=(4, 6, 8), measured=4, updates=2, batch_size=3)


@pytest.fixture(scope="module")
def record():
    """The record of a tiny ReLU network, as JSON."""
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        found = bench_vanishing.of_cell("relu", 5, model_of("relu", 5), SMALL, quick=False)
    return json.loads(json_line(found))


def test_closed_forms_are_those_of_mean_field_theory_and_only_of_vanilla_cells_with_gaussian_weights():
    assert closed_form("relu", 1000) == pytest.approx(0, abs=1e-9)  # at its edge, whatever the inputs
    assert closed_form("relu-gaussian", 1000) == pytest.approx(0.5 * math.log(1 / 2), abs=2e-6)
    z, weight = np.polynomial.hermite_e.hermegauss(100)
    weight, variance, q = weight / weight.sum(), (1 / 3 + 2 / 1000) / 2, 1.0
    for _ in range(500):
        q = weight @ np.tanh(np.sqrt(q) * z) ** 2 + variance
    chi = weight @ np.cosh(np.sqrt(q) * z) ** -4
    assert closed_form("tanh", 1000) == pytest.approx(0.5 * math.log(chi), abs=2e-6)
    assert [closed_form(name, 1000) for name in ("gru", "tanh-orthogonal", "relu-identity", "mine.py:cell")] == 4 * [
        None
    ]


def test_the_gradient_left_is_that_of_the_output_with_respect_to_earlier_states():
    model = model_of("linear-orthogonal", 4)
    params = model.init(jax.random.key(0))
    xs = adding(jax.random.key(1), bench_vanishing.BURN_IN + 5, 3).xs
    np.testing.assert_allclose(ln_left(model, params, xs), np.zeros((6, 3)), atol=1e-9)


def test_the_record_of_a_cell_has_every_lag_and_length_up_to_the_first_that_is_not_learned(record):
    assert list(record["before"]["left"]) == list(record["after"]["left"]) == ["1", "2", "5", "10"]
    assert list(record["errors"]) == ["4"]  # measured there, and not learned in two updates
    assert record["longest"] == [0, 0]
    assert record["before"]["slope"] != record["after"]["slope"]
    assert record["case"]["parameters"] == 2 * 5 + 5 * 5 + 5 + 5 + 1


def test_numbers_that_are_not_finite_are_not_known():
    assert known(jnp.array([1.0, jnp.inf, -jnp.inf, jnp.nan])) == [1.0, None, None, None]


def test_the_table_of_vanishing_gradients_has_two_rows_for_each_cell(record, tmp_path):
    gradient = {"slope": [-0.5, -0.25, -0.4], "half_life": [1.0, 2.0, None], "left": {"10": [-5.0, -3.0, -4.0]}}
    errors = {"12": [0.001, 0.02, None]}
    record = record | {"before": gradient, "after": gradient, "errors": errors, "longest": [12, 0, 0], "quick": False}
    record |= {"closed_form": -0.35, "environment": environment()._asdict()}
    (tmp_path / "vanishing-cpu.jsonl").write_text(json.dumps(record) + "\n")
    block = tables.vanishing_block(tmp_path)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if "| relu" in line]
    half_life, slope, left = "1.5 (1.0 … 2.0, 2 of 3)", "-0.400 (-0.500 … -0.250)", "-4.0 (-5.0 … -3.0)"
    assert rows == [
        ["relu, before", "5", slope, "-0.350", half_life, left, "–"],
        ["relu, after", "5", slope, "–", half_life, left, "0 (0 … 12)"],
    ]
    figure = vanishing_figure([record])
    before, _, by_length = figure.axes
    assert [list(np.asarray(line.get_ydata())) for line in by_length.get_lines()] == [[0.0105]]
    assert np.asarray(before.get_lines()[1].get_ydata())[-1] == pytest.approx(-3.5)
