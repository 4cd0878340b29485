"""The end of a run: numbers before figures, no more than a window at a time, any character on any terminal."""

import importlib
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rnn_jax.data.text import vocabulary
from rnn_jax.lab.runs import Run

pytestmark = pytest.mark.usefixtures("scripts_find_their_modules")


def no_memory(*args: Any, **options: Any) -> Any:
    raise MemoryError


def of_a_study(run):
    page = dict.fromkeys(("script", "title", "question", "legend"), "")
    scores = {"gru": {"loss": np.array([1.0])}}
    module = importlib.import_module("_showing")
    module.publish(run, (None, None), "done", scores, lambda: run.draw("x", None, (), []), baselines={}, **page)


def of_vanishing_gradients(run):
    module = importlib.import_module("_vanishing_gradients_report")
    result: Any = SimpleNamespace(written="abc")
    options: Any = {"gains": np.ones(1), "vocabulary": vocabulary("ab"), "question": "", "rerun": ""}
    module.publish(run, {"gru": result}, status="done", **options)


@pytest.mark.parametrize("publish", [of_a_study, of_vanishing_gradients], ids=lambda f: f.__name__)
def test_the_summary_is_written_before_any_figure_is_drawn(tmp_path, monkeypatch, publish):
    report = importlib.import_module("_vanishing_gradients_report")
    monkeypatch.setattr(report, "in_numbers", lambda result: {"loss": 1.0})
    monkeypatch.setattr(report, "table_row", lambda *row: ())
    monkeypatch.setattr(report, "draw_lags", no_memory)
    monkeypatch.setattr(Run, "draw", no_memory)
    run = Run(tmp_path)
    run.write_json("config.json", {"smoke": True})
    with pytest.raises(MemoryError):
        publish(run)
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "done"
