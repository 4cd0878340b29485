"""Every script of experiments/ as a command and as a notebook: what it writes, shows and refuses; found by glob."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from rnn_jax.lab.runs import read_json, read_metrics
from tests.notebooks import NOTEBOOKS, code_cells, computes_or_shows, kernel
from tests.scripts import EXPERIMENTS, ROOT, SCRIPTS, commands, finish, start
from tests.wrong_command_lines import lines_of, outcomes


@pytest.fixture(scope="module")
def one_kernel():
    """A kernel that executes one script after the other."""
    with kernel() as opened:
        yield opened


@pytest.fixture(scope="module")
def command():
    """Runs a command in a process that runs one after the other, so that JAX is imported and compiles once for all."""
    with commands() as run:
        yield run


def check_folder(folder):
    """A run folder of a finished run: numbers that are finite, figures with their numbers, a page with everything."""
    for name in ("config.json", "env.json", "summary.json"):
        read_json(folder / name)
    assert read_json(folder / "summary.json")["status"] == "done"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"train", "validation"} <= {row["split"] for row in rows} <= {"train", "validation", "test"}
    assert all(np.isfinite(row["loss"]) for row in rows)
    header, *lines = (folder / "metrics.csv").read_text().splitlines()
    assert len(lines) == len(rows)
    assert {name for row in rows for name in row} == {*header.split(",")}
    page = (folder / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page), "the report holds everything inside"
    assert not re.search(r"\bnan\b", re.sub(r'base64,[^"]*', "", page).lower())
    assert "This is a smoke run of a few seconds." in page
    assert "(smoke run)</title>" in page
    figures = sorted((folder / "figures").iterdir())
    assert {path.suffix for path in figures} == {".png", ".svg", ".csv"}
    assert page.count("<img ") == len(figures) // 3
    assert all(path.stat().st_size > 1000 for path in figures if path.suffix != ".csv")
    assert all(len(path.read_text().splitlines()) > 1 for path in figures if path.suffix == ".csv")


def command_of(notebook):
    """The command that runs a notebook: the script itself, or the one of experiments/ that names its folder."""
    if notebook.parent == EXPERIMENTS:
        return notebook
    return next(script for script in SCRIPTS if notebook.parent.name in script.read_text(encoding="utf-8"))


@pytest.mark.parametrize("script", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_script_is_a_command_and_a_notebook_with_the_same_numbers_and_figures_inline(
    script, tmp_path, command, one_kernel
):
    code, out, err = command(command_of(script).stem, "--smoke", "--out", tmp_path / "command")
    executed = one_kernel.execute(script, f"--smoke --out '{tmp_path / 'notebook'}'")
    assert (code, err) == (0, "")
    assert str(tmp_path / "command" / "report.html") in out.replace("\n", "")
    evaluation = r"^\d\d:\d\d:\d\d .+: evaluation 1 of \d, .*loss \d+\.\d"
    assert re.search(evaluation, out, re.MULTILINE), "a line at each evaluation"
    for name in ("command", "notebook"):
        check_folder(tmp_path / name)
    for name in ("metrics.jsonl", "summary.json"):
        assert (tmp_path / "command" / name).read_bytes() == (tmp_path / "notebook" / name).read_bytes()
    figures = len([*(tmp_path / "notebook" / "figures").glob("*.svg")])
    assert executed.figures() >= figures > 0, "every figure of the page is shown in the notebook"
    assert not [output for output in executed.outputs() if output.get("name") == "stderr"]


@pytest.mark.parametrize("script", NOTEBOOKS, ids=lambda path: path.stem)
def test_most_cells_of_a_script_compute_or_show_something(script):
    cells = code_cells(script)
    share = np.mean([computes_or_shows(cell) for cell in cells])
    assert share >= 0.6, f"{share:.0%} of {len(cells)} code cells"
    narrative = re.findall(r"^# %% \[markdown\]\n((?:#.*\n)+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(narrative) >= len(cells) // 2


HELP = """
import runpy, sys
for script in {scripts!r}:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        assert stop.code == 0, (script, stop.code)
    slow = {{"jax", "matplotlib", "sklearn"}} & {{*sys.modules}}
    assert not slow, (script, slow)
"""


def test_help_is_printed_before_jax_is_imported():
    code = HELP.format(scripts=[str(script) for script in SCRIPTS])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--smoke", "--out", "--resume", "--extend", "--overwrite", "--optimizer"):
        assert len(re.findall(rf"{option}\b", done.stdout)) >= len(SCRIPTS), option


def test_a_study_interrupted_from_outside_shows_what_is_finished_and_resuming_finishes_it(tmp_path, interruptible):
    folder = tmp_path / "run"
    words = ["--smoke", "--cells", "tanh", "gru", "--workers", 1, "--evaluations", 15, "--out", folder]
    process = start("digit_pixels", *words)
    deadline = time.monotonic() + 200
    while not list(folder.glob("cells/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) == (130, "")
    summary = read_json(folder / "summary.json")
    assert (summary["status"], [*summary["networks"]]) == ("interrupted", ["tanh"])
    assert "(The run is interrupted.)" in (folder / "report.html").read_text()
    before = read_metrics(folder)

    code, *_ = finish(start("digit_pixels", *words, "--resume"))
    assert code == 0
    assert [*read_json(folder / "summary.json")["networks"]] == ["tanh", "gru"]
    rows = read_metrics(folder)
    assert rows[: len(before)] == before, "a finished network is not trained again"
    steps = [(row["cell"], row["split"], row["step"]) for row in rows]
    assert len(steps) == len(set(steps)) == 2 * (2 * 15 + 1), "no row is missing, none stands twice"


@pytest.mark.parametrize("place", ["floats", "save_params"])
def test_ctrl_c_as_a_network_ends_leaves_a_folder_that_agrees_with_itself(place, tmp_path, interruptible):
    """At the scores of the last evaluation, in the thread of the network; or while it is saved."""
    (tmp_path / "interrupted.py").write_text(
        "import os, runpy, signal, sys\n"
        "from rnn_jax.lab import study\n"
        f"unchanged = study.{place}\n"
        "def interrupted(*args):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return unchanged(*args)\n"
        f"study.{place} = interrupted\n"
        f"sys.argv = ['tiny_study.py', '--cells', 'near', '--out', {str(tmp_path / 'run')!r}]\n"
        f"runpy.run_path({str(ROOT / 'tests/tiny_study.py')!r}, run_name='__main__')\n"
    )
    code, _, err = finish(start(tmp_path / "interrupted.py"))
    assert (code, err) == (130, "")
    summary, folder = read_json(tmp_path / "run/summary.json"), tmp_path / "run"
    tested = [row for row in read_metrics(folder) if row["split"] == "test"]
    assert summary["status"] == "interrupted"
    assert len(tested) == len([*folder.glob("cells/*.safetensors")]) == len(summary["networks"])
    assert (folder / "report.html").is_file() == bool(tested)
    if place == "save_params":
        assert tested, "a network that is being saved is kept"


SAMPLE = [
    "char_lm --smoke --layers 1000000000",
    "char_lm --smoke --temperatures 0.5 0.8 1.0 --temperatures 0.5 0.8 1.0",
    "dates --smoke --examples 200 --examples 1000000000",
    "digit_class --smoke --batch-size 1000000000",
    "digit_class --smoke --optimizer THINGS/raises.py:leaky",
    "digit_names --smoke --decoder-size 1000000000",
    "fixed_points --smoke --candidates 1000000000",
    "gradient_laboratory --smoke --windows 1000000000",
    "gradient_laboratory --smoke --delay 0",
    "next_character --smoke --characters 1000000000",
    "vanishing_gradients --smoke --seeds 99999999999999999999",
    "vanishing_gradients --smoke --probes 1000000000",
    "vanishing_gradients --smoke --cells THINGS/names.py:../../../pwned",
    "vanishing_gradients --smoke --cells THINGS/no_arguments.py:leaky",
    "word_language --smoke --hidden-size 0",
    "word_language --smoke --out ",
]
"""Lines that once wrote, hung, ended in a traceback, or began what could not end."""


def test_wrong_command_lines_are_refused_in_one_line_and_right_ones_begin():
    lines = [line for script in SCRIPTS for line in lines_of(script.stem)]
    chosen = [line for line in lines if " ".join([line.script, *line.argv]) in SAMPLE]
    assert len(chosen) == len(SAMPLE)
    right = next(line for line in lines if line.script == "digit_class" and line.right)
    found = {" ".join([line.script, *line.argv]): outcome for line, outcome, _ in outcomes([*chosen, right])}
    assert found == {**dict.fromkeys(SAMPLE, "refused"), " ".join([right.script, *right.argv]): "accepted"}
