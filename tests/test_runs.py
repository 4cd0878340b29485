"""The run folder and the command line."""

import dataclasses
import errno
import json
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rnn_jax.lab.commands import command_line, parse, uninterrupted, wrong_use
from rnn_jax.lab.runs import open_run, read_metrics

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Config:
    """A test."""

    size: int = 3
    """A size."""
    text: Path | None = None
    out: Path = Path("x")
    resume: bool = False
    extend: bool = False
    overwrite: bool = False


def test_a_new_folder_gets_its_configuration_and_environment(tmp_path):
    run = open_run(tmp_path / "a" / "b", Config(size=4, text=Path("t")))
    assert json.loads((run.folder / "config.json").read_text()) == {"size": 4, "text": "t"}
    env = json.loads((run.folder / "env.json").read_text())
    assert len(env) == 1
    assert env[0]["jax"]
    assert env[0]["argv"] == sys.argv
    assert read_metrics(run.folder) == []


def test_a_folder_that_holds_something_is_refused_and_untouched(tmp_path):
    (tmp_path / "precious").write_text("x")
    for options, says in [
        ({}, "is not empty; want --resume, --overwrite or another folder"),
        ({"overwrite": True}, r"which no run wrote \(see precious\)"),
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


def test_resuming_wants_the_same_facts_and_remembers_every_start(tmp_path):
    open_run(tmp_path / "r", Config(), facts={"sha256": "a"})
    with pytest.raises(ValueError, match="sha256 was 'a', now 'b'"):
        open_run(tmp_path / "r", Config(), facts={"sha256": "b"}, resume=True)
    open_run(tmp_path / "r", Config(), facts={"sha256": "a"}, resume=True)
    assert len(json.loads((tmp_path / "r/env.json").read_text())) == 2


def test_overwriting_never_deletes_what_no_run_wrote(tmp_path):
    folder = open_run(tmp_path / "r", Config()).folder
    (folder / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"which no run wrote \(see thesis.tex\)"):
        open_run(folder, Config(), overwrite=True)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"which no run wrote \(see env.json\)"):
        open_run(model, Config(), overwrite=True)
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        ".lock", "config.json", "config.json", "env.json", "metrics.jsonl", "model", "r", "thesis.tex",
    ]  # fmt: skip


def test_one_process_at_a_time_works_in_a_folder(tmp_path):
    code = (
        "import sys; from pathlib import Path; from rnn_jax.lab.runs import open_run; "
        "from tests.test_runs import Config; "
        "open_run(Path(sys.argv[1]), Config(), **{sys.argv[2]: True})"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "r", "resume"], check=True, cwd=ROOT)
    folder = open_run(tmp_path / "r", Config(), resume=True).folder  # that process has ended
    for option in ("resume", "overwrite"):
        other = subprocess.run([sys.executable, "-c", code, folder, option], capture_output=True, text=True, cwd=ROOT)
        assert other.returncode == 1
        assert "where another process is at work; want another folder" in other.stderr.splitlines()[-1]


def test_a_file_system_without_locks_is_no_hindrance(tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    assert open_run(tmp_path / "r", Config()).folder.is_dir()


def test_options_of_how_a_run_goes_on_are_kept_and_may_change(tmp_path):
    kinds = [("on_nonfinite", str, dataclasses.field(default="stop")), ("out", Path, dataclasses.field(default=Path()))]
    config = dataclasses.make_dataclass("Kind", kinds)
    folder = open_run(tmp_path / "r", config("stop")).folder
    open_run(folder, config("skip"), resume=True)
    assert json.loads((folder / "config.json").read_text()) == {"on_nonfinite": "skip"}


def test_json_holds_null_for_what_is_not_finite(tmp_path):
    run = open_run(tmp_path / "r", Config())
    run.write_json("summary.json", {"a": [float("inf"), np.float32("nan")], "b": (1.5, np.int64(2))})
    assert json.loads((run.folder / "summary.json").read_text()) == {"a": [None, None], "b": [1.5, 2]}


def test_the_command_to_run_again_is_ready_for_a_shell():
    config = Config(size=4, text=Path("a b.txt"), resume=True)
    assert command_line("x.py", config, Config()) == "python x.py --size 4 --text 'a b.txt' --overwrite"
    words = shlex.split(command_line("x.py", config, Config()))[2:]
    assert parse(Config, words) == dataclasses.replace(config, resume=False, overwrite=True)
    assert command_line("x.py", Config(size=3), Config(size=1)) == "python x.py --size 3 --overwrite"


def test_a_run_is_extended_only_in_the_named_options_and_only_to_more(tmp_path):
    folder = open_run(tmp_path / "r", Config(size=3, text=Path("a"))).folder
    assert open_run(folder, Config(size=4, text=Path("a")), extend=("size",)).folder == folder
    assert json.loads((folder / "config.json").read_text())["size"] == 4
    with pytest.raises(ValueError, match="--extend got size 3, where the run has 4; want at least these"):
        open_run(folder, Config(size=3, text=Path("a")), extend=("size",))
    with pytest.raises(ValueError, match=r"--extend got another configuration \(text was 'a', now 'b'\)"):
        open_run(folder, Config(size=4, text=Path("b")), extend=("size",))
    with pytest.raises(ValueError, match="got both"):
        open_run(folder, Config(size=4, text=Path("a")), extend=("size",), overwrite=True)


def test_replaced_rows_hold_their_times_apart(tmp_path):
    run = open_run(tmp_path / "r", Config())
    run.log(step=9)
    rows = [{"cell": "gru", "seed": 0, "split": "train", "step": k, "loss": 0.5, "wall_s": k / 2} for k in (1, 2)]
    run.write_rows([*rows, {"cell": "gru", "seed": 0, "split": "test", "step": 2, "loss": float("inf")}])
    metrics = read_metrics(run.folder)
    assert [row["step"] for row in metrics] == [1, 2, 2]
    assert not any("wall_s" in row for row in metrics)
    assert [row["wall_s"] for row in read_metrics(run.folder, "timings.jsonl")] == [0.5, 1.0]
    assert run.rows()[:2] == rows
    assert run.rows()[2]["loss"] is None


def test_overwriting_starts_again(tmp_path):
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


def test_an_option_that_is_given_twice_is_refused():
    for argv in (["--size", "4", "--size", "4"], ["--size=4", "--size=5"], ["--resume", "--no-resume"]):
        with pytest.raises(ValueError, match=r"got two values; want it once"):
            parse(Config, argv)


def test_an_empty_path_is_refused_and_the_working_folder_is_not():
    for argv in (["--out", ""], ["--out="], ["--text", "", "--resume"]):
        with pytest.raises(ValueError, match="got an empty path; want a name"):
            parse(Config, argv)
    assert parse(Config, ["--out", "."]).out == Path()


def test_outside_the_main_thread_results_are_written_without_a_handler():
    def write():
        with uninterrupted():
            return signal.getsignal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(write).result() is before


def test_a_process_that_ignores_ctrl_c_is_not_interrupted_while_results_are_written():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup starts one in the background of a script
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pytest.fail("it was interrupted")
    else:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt(), 130), (MemoryError("std::bad_alloc"), 1)])
def test_what_ends_a_command_before_it_begins_has_its_exit_code_and_at_most_one_line(raised, code, capsys):
    with pytest.raises(SystemExit) as caught, wrong_use():
        raise raised
    assert caught.value.code == code
    assert capsys.readouterr() == ("", "error: out of memory std::bad_alloc\n" if code == 1 else "")


def test_ctrl_c_waits_until_results_are_written(interruptible):
    written = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():  # noqa: PT012 — what follows the signal is the point
        signal.raise_signal(signal.SIGINT)
        written.append(1)
    assert written == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_importing_the_library_brings_neither_flax_nor_orbax_nor_a_global_setting():
    code = (
        "import jax; before = dict(jax.config.values); import rnn_jax, sys; "
        "assert before == dict(jax.config.values); assert not {'flax', 'orbax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


BEGUN = [[], ["env.json.part"], ["env.json"], ["env.json", "metrics.jsonl"]]
BEGUN += [["env.json", "metrics.jsonl", "config.json.part"]]


@pytest.mark.parametrize("begun", BEGUN, ids=lambda begun: "".join(begun[-1:]))
@pytest.mark.parametrize("resume", [True, False])
def test_a_start_or_an_overwrite_that_was_killed_at_any_file_may_go_on(tmp_path, begun, resume):
    whole = open_run(tmp_path / "whole", Config()).folder
    folder = tmp_path / "r"
    folder.mkdir()
    for name in begun:
        (folder / name).write_bytes((whole / name.removesuffix(".part")).read_bytes())
    assert open_run(folder, Config(), resume=resume, overwrite=not resume).folder == folder


def test_files_that_grew_are_cut_back_and_never_lengthened(tmp_path):
    run = open_run(tmp_path / "r", Config())
    run.log(step=1, wall_s=0.5)
    before = run.lengths()
    run.log(step=2, wall_s=0.7)
    run.append("samples.txt", "a")
    run.cut_back(before)
    assert run.lengths() == before
    assert read_metrics(run.folder) == [{"step": 1}]
    assert read_metrics(run.folder, "timings.jsonl") == [{"step": 1, "wall_s": 0.5}]
    with pytest.raises(ValueError, match="a part of the file is gone"):
        run.cut_back({"metrics.jsonl": 1000})
    run.cut_back({})
    assert run.lengths() == {"metrics.jsonl": 0}
