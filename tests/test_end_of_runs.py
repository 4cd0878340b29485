"""The end of a run: numbers before figures, no more than a window at a time, any character on any terminal."""

import dataclasses
import importlib
import io
import json
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.data.text import vocabulary
from rnn_jax.lab.checkpoints import save_params
from rnn_jax.lab.runs import Run

pytestmark = pytest.mark.usefixtures("scripts_find_their_modules")


def no_memory(*args: Any, **options: Any) -> Any:
    raise MemoryError


def of_char_lm(run):
    run.log(split="validation", loss=2.0, tokens=10, batches=1, cell="gru", wall_s=1.0)
    job: Any = SimpleNamespace(facts={"cell": "gru"})
    module = importlib.import_module("_char_lm_report")
    module.publish(run, job, [3.0], status="done", question="", options=(None, None))


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


@pytest.mark.parametrize("publish", [of_char_lm, of_a_study, of_vanishing_gradients], ids=lambda f: f.__name__)
def test_the_summary_is_written_before_any_figure_is_drawn(tmp_path, monkeypatch, publish):
    report = importlib.import_module("_vanishing_gradients_report")
    monkeypatch.setattr(report, "in_numbers", lambda result: {"loss": 1.0})
    monkeypatch.setattr(report, "table_row", lambda *row: ())
    monkeypatch.setattr(report, "draw_lags", no_memory)
    monkeypatch.setattr(importlib.import_module("_char_lm_report"), "draw", no_memory)
    monkeypatch.setattr(Run, "draw", no_memory)
    run = Run(tmp_path)
    run.write_json("config.json", {"smoke": True})
    with pytest.raises(MemoryError):
        publish(run)
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "done"


@pytest.mark.parametrize("prompt", ["", "a☃"])
def test_sampling_goes_on_from_the_prompt_of_the_run_on_a_terminal_of_any_encoding(tmp_path, monkeypatch, prompt):
    script = importlib.import_module("char_lm")
    config = script.Config(cell="tanh", hidden_size=3, layers=1, parameters=0, prompt=prompt)
    _, model = script.model_of(config, 2)
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config), default=str))
    (tmp_path / "vocab.json").write_text(json.dumps(["a", "☃"]))
    save_params(tmp_path / "params.safetensors", model.init(jax.random.key(0)))
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    assert script.main(["sample", str(tmp_path), "--letters", "50"]) == 0
    terminal.flush()
    written = terminal.buffer.getvalue().decode("ascii").encode().decode("unicode_escape")
    assert written.startswith(prompt or "a")
    assert set(written) == {"a", "☃", "\n"}
    assert len(written) == len(prompt or "a") + 50 + 1
