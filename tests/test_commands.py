"""The command of an experiment: options in a notebook, exit code, status, and the line after an error."""

import signal
from pathlib import Path

import pytest

from rnn_jax.lab.options import read_options
from rnn_jax.lab.runs import Run, read_json
from tests.scripts import TINY_STUDY, run_here
from tests.tiny_study import Options


@pytest.mark.parametrize(
    ("words", "out", "how"),
    [
        ("", "runs/tiny_study-notebook", "overwrite"),
        ("--seeds 2", "runs/tiny_study-notebook", "overwrite"),
        ("--resume", "runs/tiny_study-notebook", "resume"),
        ("--no-overwrite", "runs/tiny_study-notebook", ""),
        ("--out mine", "mine", ""),
        ("--out=mine", "mine", ""),
        ("--out=mine --resume", "mine", "resume"),
        ("--out mine --overwrite", "mine", "overwrite"),
    ],
)
def test_a_notebook_overwrites_the_default_folder_and_no_other_unless_an_option_asks_for_it(
    words, out, how, monkeypatch
):
    monkeypatch.setenv("RNN_JAX_OPTIONS", words)
    for module in ("commands", "options"):
        monkeypatch.setattr(f"rnn_jax.lab.{module}.in_notebook", lambda: True)
    options = read_options(Options)
    assert options.out == Path(out)
    assert {name for name in ("resume", "extend", "overwrite") if getattr(options, name)} == {how} - {""}


def before_a_figure(monkeypatch, action):
    """Calls a function each time before a figure of a run is drawn."""
    unchanged = Run.draw

    def draw(*args):
        action()
        return unchanged(*args)

    monkeypatch.setattr(Run, "draw", draw)


FINISHING = "finishing the page; press Ctrl-C again to stop at once\n"


@pytest.mark.parametrize(("presses", "code", "status"), [(1, 0, "done"), (2, 130, "interrupted")])
def test_ctrl_c_while_figures_are_drawn_prints_a_line_and_the_second_one_ends_the_command(
    presses, code, status, tmp_path, monkeypatch, capsys, interruptible
):
    before_a_figure(monkeypatch, lambda: [signal.raise_signal(signal.SIGINT) for _ in range(presses)])
    assert run_here(TINY_STUDY, "--cells", "near", "--out", tmp_path / "run") == code
    assert capsys.readouterr().err == FINISHING
    summary = read_json(tmp_path / "run/summary.json")
    assert (summary["status"], [*summary["networks"]]) == (status, ["near"])
    assert (tmp_path / "run/report.html").is_file() == (status == "done")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    "error", [MemoryError(), ValueError("x"), KeyError("x")], ids=lambda error: type(error).__name__
)
def test_an_error_while_figures_are_drawn_is_the_status_of_the_run_and_its_networks_stay(error, tmp_path, monkeypatch):
    def raises():
        raise error

    before_a_figure(monkeypatch, raises)
    words = ["--cells", "near", "--out", tmp_path / "run"]
    if isinstance(error, KeyError):  # a fault of the program, whose traceback is shown
        with pytest.raises(KeyError):
            run_here(TINY_STUDY, *words)
    else:
        assert run_here(TINY_STUDY, *words) == 1
    summary = read_json(tmp_path / "run/summary.json")
    assert (summary["status"], [*summary["networks"]]) == ("failed", ["near"])
    monkeypatch.undo()
    assert run_here(TINY_STUDY, *words, "--resume") == 0
    assert read_json(tmp_path / "run/summary.json")["status"] == "done"


SCRIPT = """
from rnn_jax.lab.options import StudyOptions, read_options, require_positive
options = read_options(StudyOptions)
require_positive(options, "seed", kind="integer")
def number(word):
    return int(word)
number("x")
"""


def test_an_error_before_the_run_is_opened_names_the_line_of_the_script_unless_it_is_of_an_option(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "mine.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    lines = []
    for words in (["--seed", 1], ["--seed", 0], ["--seeds", 0], ["--seeds", "many"], ["--sise", 3]):
        assert run_here(tmp_path / "mine.py", *words) == 2
        lines.append(capsys.readouterr().err)
    assert all(line.count("\n") == 1 for line in lines)
    assert lines[0] == "error: invalid literal for int() with base 10: 'x' (mine.py:6)\n"
    assert not any("mine.py:" in line for line in lines[1:])


@pytest.mark.parametrize("command", ["", "sample", "table"])
def test_help_and_errors_of_each_command_of_the_character_model_name_it(command, capsys):
    words = [command] if command else []
    assert run_here("char_lm", *words, "--help") == 0
    name = " ".join(["char_lm.py", *words])
    assert capsys.readouterr().out.startswith(f"usage: {name} [-h]")
    assert run_here("char_lm", *words, "--sise", 3) == 2
    assert f"{name} --help" in capsys.readouterr().err
