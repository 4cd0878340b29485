"""The tool of GradBench: its numbers are those that ADBench publishes, and it answers every message."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.bench_gradbench import instances, jacobian_by_hand, objective_by_hand
from benchmarks.gradbench_lstm import FUNCTIONS, ONE_KERNEL, Instance, answer, diagonal_lstm, serve

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def known():
    """The instances of GradBench by name."""
    return {k.name: k for k in instances()}


def as_input(instance, **more):
    """An instance as the eval sends it."""
    return {name: array.tolist() for name, array in instance._asdict().items()} | more


def evaluate(function, given):
    """The message that asks for a function of an input."""
    return {"id": 7, "kind": "evaluate", "module": "lstm", "function": function, "input": given}


@pytest.fixture(scope="module")
def tiny():
    """One layer of two units, three characters."""
    rng = np.random.default_rng(0)
    return Instance(*(rng.normal(size=shape) for shape in ((2, 8), (3, 2), (2, 2), (3, 2))))


def test_the_tool_answers_as_the_protocol_asks_and_finds_the_published_gradient(known):
    published = known["lstm_l2_c1024"]
    given = as_input(published.instance, min_runs=3, min_seconds=0)
    messages = [
        {"id": 0, "kind": "start", "eval": "lstm"},
        {"id": 1, "kind": "define", "module": "lstm"},
        {"id": 2, "kind": "define", "module": "gmm"},
        {**evaluate("objective", given), "id": 3, "description": "l2_c1024"},
        {**evaluate("jacobian", given), "id": 4},
        {"id": 5, "kind": "analysis", "of": 4, "valid": True},
        {**evaluate("hessian", given), "id": 6},
        {**evaluate("jacobian", given | {"state": [[0.0]]}), "id": 7},
        {"id": 8, "kind": "a kind of later versions"},
    ]
    lines = "".join(json.dumps(message) + "\n" for message in messages) + "no message\n"
    line = [sys.executable, "-m", "benchmarks.gradbench_lstm"]
    env = os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_backend_extra_options=xla_cpu_one_of_mine"}
    done = subprocess.run(line, cwd=ROOT, env=env, input=lines, capture_output=True, text=True, timeout=120)
    start, lstm, gmm, objective, jacobian, analysis, hessian, misfit, later = map(json.loads, done.stdout.splitlines())
    assert (start["id"], start["tool"]) == (0, "rnn_jax")
    name, _, value = ONE_KERNEL.partition("=")
    assert start["config"]["XLA_FLAGS"].split()[-1] == f"{name}=xla_cpu_one_of_mine,{value}"
    assert lstm == {"id": 1, "success": True}
    assert gmm == {"id": 2, "success": False, "error": "module got 'gmm'; want 'lstm'"}
    for response in (objective, jacobian):
        assert response["success"]
        assert [timing["name"] for timing in response["timings"]] == ["prepare", *["evaluate"] * 3]
        assert all(timing["nanoseconds"] > 0 for timing in response["timings"])
    np.testing.assert_allclose(objective["output"], 0.66666518, atol=1e-8)
    np.testing.assert_allclose(objective["output"], published.objective, atol=1e-12)
    np.testing.assert_allclose(jacobian["output"], published.published, atol=1e-8)
    np.testing.assert_allclose(jacobian["output"], published.jacobian, atol=1e-12)
    assert analysis == {"id": 5}
    assert hessian["error"] == "function got 'hessian'; want one of objective, jacobian"
    assert misfit == {"id": 7, "success": False, "error": "state got shape (1, 1); want (4, 14)"}
    assert later == {"id": 8}
    assert done.returncode == 2
    assert "line 10 got 'no message'; want a message of GradBench with an id" in done.stderr.replace("\n", " ")


@pytest.mark.parametrize("name", ["lstm_l2_c4096", "lstm_l4_c1024", "lstm_l4_c4096"])
def test_the_gradient_is_that_of_the_manual_derivative_of_adbench(known, name):
    instance = known[name].instance
    np.testing.assert_allclose(jax.jit(FUNCTIONS["jacobian"])(*instance), known[name].jacobian, atol=1e-12)


def test_the_derivative_by_hand_is_that_of_adbench(known):
    for name in ("lstm_l2_c1024", "lstm_l4_c1024"):
        np.testing.assert_allclose(objective_by_hand(known[name].instance), known[name].objective, atol=1e-12)
        np.testing.assert_allclose(jacobian_by_hand(known[name].instance), known[name].jacobian, atol=1e-12)


def test_a_fresh_cell_has_the_weights_of_one_layer():
    cell = diagonal_lstm(3)
    params = cell.init(jax.random.key(0))
    assert params.w.shape == params.b.shape == (12,)
    assert cell.step(params, cell.start(params, ()), np.ones(3)).h.shape == (3,)


def test_a_function_runs_as_often_and_as_long_as_the_input_says(tiny):
    for more, least in (({}, 1), ({"min_runs": 4}, 4), ({"min_runs": 2, "min_seconds": 0.01}, 2)):
        timings = answer(evaluate("objective", as_input(tiny, **more)))["timings"]
        runs = [timing["nanoseconds"] for timing in timings if timing["name"] == "evaluate"]
        assert len(runs) == least or (len(runs) > least and sum(runs[:-1]) < 1e7)
        assert sum(runs) >= more.get("min_seconds", 0) * 1e9


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"main_params": 1.0}, "main_params got shape (); want two rows for each layer"),
        ({"main_params": [[1.0, 2.0], [3.0]]}, "main_params got no matrix of numbers; want rows of equal length"),
        ({"main_params": [[0.0] * 8]}, "main_params got shape (1, 8); want two rows for each layer"),
        ({"extra_params": [[0.0, 0.0]]}, "extra_params got shape (1, 2); want (3, 2)"),
        ({"state": [["a", 0.0], [0.0, 0.0]]}, "state got no matrix of numbers; want rows of equal length"),
        ({"sequence": [[0.0, 1.0]]}, "sequence got shape (1, 2); want (T, H) with T of at least 2"),
        ({"sequence": [0.0, 1.0]}, "sequence got shape (2,); want (T, H) with T of at least 2"),
        ({"extra_params": [[0.0, 0.0], [0.0, 0.0], [float("nan"), 0.0]]}, "extra_params got numbers that are not fin"),
        ({"extra_params": [[1.0, 1.0], [0.0, 0.0], [1e3, 1e3]]}, "jacobian got a result that is not finite; want sm"),
        ({"min_runs": 0}, "min_runs got 0; want a number of at least 1"),
        ({"min_seconds": "1"}, "min_seconds got '1'; want a number of at least 0"),
    ],
)
def test_an_input_that_does_not_fit_is_answered_in_one_line(tiny, change, error):
    response = answer(evaluate("jacobian", as_input(tiny) | change))
    assert response["id"] == 7
    assert not response["success"]
    assert response["error"].startswith(error)
    assert "\n" not in response["error"]


def test_an_input_without_all_arrays_is_answered_in_one_line():
    wanted = "want main_params, extra_params, state, sequence"
    assert answer(evaluate("jacobian", 3.1))["error"] == f"input got float; {wanted}"
    assert answer(evaluate("jacobian", {"state": []}))["error"] == f"input got state; {wanted}"


@pytest.mark.parametrize("line", ["", "3", "{}", '{"id": "1"}', "[1]"])
def test_a_line_without_an_id_ends_the_tool(line):
    with pytest.raises(ValueError, match=r"line 2 got .*; want a message of GradBench with an id"):
        list(serve(['{"id": 0, "kind": "start"}', line]))
