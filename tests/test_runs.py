"""The run folder and the command line."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rnn_jax.runs import open_run, parse, read_metrics, wrong_use


@dataclasses.dataclass(frozen=True)
class Config:
    """A test."""

    size: int = 3
    """A size."""
    text: Path | None = None
    out: Path = Path("x")
    resume: bool = False
    overwrite: bool = False


def test_a_new_folder_gets_its_configuration_and_environment(tmp_path):
    run = open_run(tmp_path / "a" / "b", Config(size=4, text=Path("t")))
    assert json.loads((run.folder / "config.json").read_text()) == {"size": 4, "text": "t"}
    env = json.loads((run.folder / "env.json").read_text())
    assert env["jax"]
    assert env["argv"] == sys.argv
    assert read_metrics(run.folder) == []


def test_a_folder_that_holds_something_is_refused_and_untouched(tmp_path):
    (tmp_path / "precious").write_text("x")
    for options, says in [
        ({}, "is not empty; want --resume, --overwrite or another folder"),
        ({"overwrite": True}, "which no run wrote"),
        ({"resume": True}, "which no run wrote"),
        ({"resume": True, "overwrite": True}, "got both"),
    ]:
        with pytest.raises(ValueError, match=says):
            open_run(tmp_path, Config(), **options)
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


def test_resuming_keeps_the_metrics_and_wants_the_same_configuration(tmp_path):
    run = open_run(tmp_path / "r", Config())
    run.log(step=1, loss=2.5, bad=float("nan"))
    with pytest.raises(ValueError, match="size was 3, now 9"):
        open_run(tmp_path / "r", Config(size=9), resume=True)
    again = open_run(tmp_path / "r", Config(out=Path("elsewhere")), resume=True)
    with (again.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')  # as an interruption leaves it
    assert read_metrics(again.folder) == [{"step": 1, "loss": 2.5, "bad": None}]


def test_overwriting_begins_anew(tmp_path):
    open_run(tmp_path / "r", Config()).log(step=1)
    run = open_run(tmp_path / "r", Config(size=9), overwrite=True)
    assert read_metrics(run.folder) == []


@pytest.mark.parametrize(
    ("argv", "says"),
    [(["--sise", "4"], "--sise"), (["--size", "many"], "'many'"), (["surplus"], "surplus")],
)
def test_wrong_options_give_one_line(argv, says):
    with pytest.raises(ValueError, match=says) as caught:
        parse(Config, argv)
    assert "\n" not in str(caught.value)


def test_right_options_are_read():
    assert parse(Config, ["--size", "4", "--resume"]) == Config(size=4, resume=True)


def test_wrong_use_is_one_line_on_stderr_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as caught, wrong_use():
        raise ValueError("size got 0;\n want more")
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", "error: size got 0; want more\n")


def test_importing_the_library_brings_neither_flax_nor_orbax_nor_a_global_setting():
    code = (
        "import jax; before = dict(jax.config.values); import rnn_jax, sys; "
        "assert before == dict(jax.config.values); assert not {'flax', 'orbax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
