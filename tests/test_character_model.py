"""The scripts of the model of characters in this process: sentences, tables, summaries, and runs without training."""

import io
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.data import python_reference
from rnn_jax.lab.checkpoints import save_params
from rnn_jax.lab.loop import Evaluation, Programs
from rnn_jax.lab.named_cells import make_model
from rnn_jax.lab.runs import Run
from rnn_jax.lab.text_scores import n_gram_table, run_table, summary_of_run, with_units
from rnn_jax.training import LearnerInfo
from tests.laboratory import refused
from tests.scripts import definitions, run_here
from tests.wrong_command_lines import CELL


@pytest.fixture(scope="module")
def script():
    return definitions("character_model/train")


def test_the_answer_names_the_best_n_grams(script):
    summary = {"cell": "gru", "n_gram_nats": [3.0, 2.5, 2.75], "validation": {"loss": math.log(4)}, "test": None}
    answer = script["describe_result"](summary)
    assert answer == (
        "The gru costs 1.386 nats per character, 2.000 bits, on the validation part; 2-grams, the best without a "
        "network, cost 2.500 nats."
    )
    assert script["describe_result"](summary | {"test": 1.25}) == f"{answer} On the test part it costs 1.250 nats."
    assert script["describe_result"](summary | {"validation": None}) == (
        "No loss of the gru on the validation part was finite."
    )


def test_the_last_loss_and_the_skipped_updates_are_stated(script):
    assert script["describe_learning"](1.5).startswith("On the validation part, at the end: 1.500 nats per character.")
    assert "at the end: the loss is not finite." in script["describe_learning"](math.nan)
    assert "12 were skipped" in script["describe_updates"](12.0)


def test_the_summary_is_of_the_best_finite_evaluation(tmp_path):
    run = Run(tmp_path)
    assert summary_of_run(run) == {"validation": None, "test": None, "tokens": 0}
    for batches, loss in ((5, 2.0), (10, math.nan), (15, 1.5), (20, 1.75)):
        run.log(batches=batches, tokens=100 * batches, split="validation", **with_units(loss))
    run.log(split="test", **with_units(1.25))
    summary = summary_of_run(run)
    assert (summary["validation"]["loss"], summary["validation"]["batches"]) == (1.5, 15)
    assert (summary["tokens"], summary["test"]) == (2000, 1.25)


def no_memory(*args, **options):
    raise MemoryError


def interrupted(*args, **more):
    """A run that Ctrl-C ends before its first evaluation."""
    raise KeyboardInterrupt
    yield


def one_evaluation(options, task, programs, state, rng, **more):
    """A run of one evaluation, without training."""
    zeros = LearnerInfo(*[jnp.zeros(2) for _ in LearnerInfo._fields])._replace(broken=jnp.array([-1, -1]))
    row = {**task.facts, "step": 2, "batches": 2, "skipped": 0, "tokens": 10, "wall_s": 1.0}
    yield Evaluation(0, state, zeros, row, {"loss": 2.0}, 1.0)


@pytest.fixture
def untrained(monkeypatch, tmp_path):
    """Runs a command here whose programs are not compiled, with the evaluations of a generator."""

    def compile_task(options, task):
        return Programs(lambda key: task.learner.init(key, task.lanes), no_memory, no_memory, 1.0)

    monkeypatch.setattr("rnn_jax.lab.loop.compile_task", compile_task)
    monkeypatch.setattr("rnn_jax.lab.loop.compile_program", lambda *args: lambda *args: np.zeros(3, int))

    (tmp_path / "text.txt").write_text(python_reference()[:2000], encoding="utf-8")

    def run(steps, *words):
        monkeypatch.setattr("rnn_jax.lab.loop.evaluations", steps)
        words = words or ("--cell", "tanh")
        words = ("--text", tmp_path / "text.txt", "--split", "90/10", "--out", tmp_path / "run", *words)
        return run_here("char_lm", "--smoke", *words)

    return run


def test_the_summary_is_written_before_any_figure_is_drawn(untrained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Run, "draw", no_memory)
    assert untrained(one_evaluation) == 1
    assert capsys.readouterr().err == "error: out of memory (); want a smaller network, batch or window\n"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["validation"]["loss"]) == ("failed", 2.0)


def test_a_run_without_an_evaluation_ends_in_one_line(untrained, tmp_path, capsys):
    assert untrained(interrupted) == 130
    assert capsys.readouterr().out.endswith("The run is interrupted; no evaluation was finished.\n")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize("changed", ["mine.py", "near_by.py"])
def test_a_run_whose_cell_was_changed_is_neither_resumed_nor_sampled(untrained, changed, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("import near_by\n" + CELL)
    (tmp_path / "near_by.py").write_text("RATE = 0.25\n")
    words = ["--cell", f"{tmp_path}/mine.py:leaky"]
    assert [untrained(interrupted, *words), untrained(interrupted, *words, "--resume")] == [130, 130]
    with (tmp_path / changed).open("a") as file:
        file.write("# another\n")
    assert untrained(interrupted, *words, "--resume") == 2
    assert "--resume got another configuration (cell_sha256 was " in capsys.readouterr().err
    assert run_here("char_lm", "sample", tmp_path / "run") == 2
    assert "mine.py:leaky has another content than in the run; want the one" in capsys.readouterr().err


def test_sampling_goes_on_from_the_prompt_of_the_run_on_a_terminal_of_any_encoding(tmp_path, monkeypatch):
    config = {"cell": "tanh", "hidden_size": 3, "layers": 1, "dropout": 0.0, "prompt": "a☃"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "vocab.json").write_text(json.dumps(["a", "☃"]))
    save_params(tmp_path / "params.safetensors", make_model("tanh", 2, 3).init(jax.random.key(0)))
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    assert run_here("char_lm", "sample", tmp_path, "--characters", 50) == 0
    terminal.flush()
    written = terminal.buffer.getvalue().decode("ascii").encode().decode("unicode_escape")
    assert written.startswith("a☃")
    assert set(written) == {"a", "☃", "\n"}
    assert len(written) == 2 + 50 + 1


def test_the_table_shows_networks_the_best_first_and_refuses_different_texts(tmp_path):
    for cell, loss, seconds in (("gru", 2.0, 30.0), ("lstm", 1.0, 90.0), ("relu", None, 0.0)):
        run = Run(tmp_path / cell)
        row = {"loss": loss} if loss else None
        of = {"hidden_size": 4, "parameters": 9, "tokens": 1000, "test": 1.5, "n_gram_nats": [3.0, 2.0]}
        run.write_json("summary.json", of | {"cell": cell, "validation": row})
        run.write_json("config.json", {"split": "90/10", "text_sha256": "a"})
        run.log(split="validation", batches=1, wall_s=seconds)
    rows = run_table([tmp_path / cell for cell in ("gru", "lstm", "relu")]).rows
    assert [row[0] for row in rows] == ["lstm", "gru", "characters alone", "2-grams"]
    assert rows[0] == ("lstm", "4", "9", "1,000", "1.5", "1.000", "1.443", "2.72", "1.500")
    Run(tmp_path / "gru").write_json("config.json", {"split": "90/5/5", "text_sha256": "a"})
    refused(lambda: run_table([tmp_path / "gru", tmp_path / "lstm"]), "table got different texts or splits (")
    assert n_gram_table([3.0, 2.0]).rows[1] == ("2-grams", "2.000", "2.885", "7.39")
