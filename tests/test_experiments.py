"""Every script of experiments/ runs, writes what it promises, and refuses wrong use; found by glob."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.wrong_command_lines import lines_of, outcomes

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "experiments").glob("[!_]*.py"))
VANISHING = ROOT / "experiments" / "vanishing_gradients.py"


def start(script, *args, **options):
    """A script in a process of its own, as a user runs it: float32, nothing strict."""
    command = [sys.executable, str(script), *map(str, args)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'experiments'}", "PYTHONWARNINGS": "error"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, **options)


def finish(process):
    """Exit code, standard output, standard error."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_smoke_run_writes_the_whole_run_folder(script, tmp_path):
    code, out, err = finish(start(script, "--smoke", "--out", tmp_path / "run"))
    assert (code, err) == (0, "")
    folder = tmp_path / "run"
    assert str(folder / "report.html") in out.replace("\n", "")
    assert re.search(r"^\d\d:\d\d:\d\d .+: evaluation 1 of \d, .*loss \d+\.\d", out, re.MULTILINE), (
        "a line as it learns"
    )
    for name in ("config.json", "env.json", "summary.json"):
        json.loads((folder / name).read_text())
    assert json.loads((folder / "summary.json").read_text())["status"] == "done"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"train", "validation"} <= {row["split"] for row in rows} <= {"train", "validation", "test"}
    assert all(np.isfinite(row["loss"]) for row in rows)
    page = (folder / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page), "the report holds everything inside"
    assert not re.search(r"\bnan\b", re.sub(r'base64,[^"]*', "", page).lower())
    figures = sorted((folder / "figures").iterdir())
    assert {path.suffix for path in figures} == {".png", ".svg", ".csv"}
    assert page.count("<img ") == len(figures) // 3
    assert all(path.stat().st_size > 1000 for path in figures if path.suffix != ".csv")
    assert all(len(path.read_text().splitlines()) > 1 for path in figures if path.suffix == ".csv")


def test_what_the_figures_show_is_what_the_gradients_are(tmp_path):
    code, *_ = finish(start(VANISHING, "--smoke", "--cells", "linear-orthogonal", "--out", tmp_path / "run"))
    assert code == 0
    rows = np.genfromtxt(tmp_path / "run/figures/gain_sweep.csv", delimiter=",", names=True, usecols=(1, 2, 3))
    np.testing.assert_allclose(rows["ln_norm_less_lag_0"], rows["lag"] * np.log(rows["gain"]), rtol=1e-3, atol=1e-3)
    summary = json.loads((tmp_path / "run/summary.json").read_text())["cells"]["linear-orthogonal"]
    np.testing.assert_allclose(summary["slope"][0], 0, atol=1e-4)
    np.testing.assert_allclose(summary["leading_gain"][0], 1, rtol=1e-4)


def test_the_cell_of_the_first_tutorial_joins_the_main_job(tmp_path):
    cells = (ROOT / "docs" / "tutorials" / "first_cell.py").read_text().split("# %%")
    source = next(cell for cell in cells if "def leaky" in cell)
    imports = "import jax\nimport jax.numpy as jnp\nfrom rnn_jax import cell_from_step, initializers\n"
    (tmp_path / "mine.py").write_text(imports + source)
    folder = tmp_path / "no [" / "b] $x_{$"  # what rich and mathtext would read as their own
    code, out, err = finish(start(VANISHING, "--smoke", "--cells", f"{tmp_path}/mine.py:leaky", "--out", folder))
    assert (code, err) == (0, "")
    assert "leaky" in out
    assert list(json.loads((folder / "summary.json").read_text())["cells"]) == ["leaky"]


def test_an_interrupted_run_is_readable_and_resuming_finishes_it(tmp_path, interruptible):
    folder = tmp_path / "run"
    args = ["--smoke", "--cells", "tanh", "gru", "--workers", 1, "--looks", 15, "--out", folder]
    process = start(VANISHING, *args)
    deadline = time.monotonic() + 200
    while not list(folder.glob("cells/*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) == (130, "")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert list(summary["cells"]) == ["tanh"]
    assert "interrupted" in (folder / "report.html").read_text()
    before = [row for row in read_rows(folder) if row["cell"] == "tanh"]

    code, *_ = finish(start(VANISHING, *args, "--resume"))
    assert code == 0
    assert list(json.loads((folder / "summary.json").read_text())["cells"]) == ["tanh", "gru"]
    rows = read_rows(folder)
    assert [row for row in rows if row["cell"] == "tanh"] == before, "a finished cell is not run again"
    steps = [(row["cell"], row["split"], row["seed"], row["step"]) for row in rows]
    assert len(steps) == len(set(steps)) == 2 * 2 * 2 * 15, "no row is missing, none stands twice"


def test_a_finished_network_is_kept_and_may_be_asked_again(tmp_path):
    folder, script = tmp_path / "run", ROOT / "experiments" / "word_language.py"
    args = ["--smoke", "--out", folder]
    assert finish(start(script, *args))[0] == 0
    before = (folder / "metrics.jsonl").read_text()
    code, _, err = finish(start(script, *args, "--resume", "--ask", "lördag"))
    assert (code, err) == (0, "")
    assert (folder / "metrics.jsonl").read_text() == before, "nothing is trained again"
    assert "lördag: " in (folder / "samples.txt").read_text()


def test_ctrl_c_as_a_network_ends_loses_no_report(tmp_path, interruptible):
    (tmp_path / "interrupted.py").write_text(
        "import os, signal, sys\n"
        "import digit_class\n"
        "from rnn_jax.lab.runs import Run\n"
        "log = Run.log\n"
        "def log_and_interrupt(run, **row):\n"
        "    log(run, **row)\n"
        "    if row['split'] == 'validation' and row['step'] == 40:\n"  # the last look, in a thread of its own
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "Run.log = log_and_interrupt\n"
        f"sys.exit(digit_class.main(['--smoke', '--seeds', '1', '--out', {str(tmp_path / 'run')!r}]))\n"
    )
    code, _, err = finish(start(tmp_path / "interrupted.py"))
    assert (code in (0, 130), err) == (True, "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    tested = [row for row in read_rows(tmp_path / "run") if row["split"] == "test"]
    assert len(tested) == len(list(tmp_path.glob("run/cells/*.safetensors")))
    assert bool(summary["networks"]) == bool(tested)
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_cell_that_diverges_is_shown_as_diverged(tmp_path):
    folder = tmp_path / "run"
    wild = ["--learning-rate", 1000, "--clip", 1e9]
    code, out, err = finish(start(VANISHING, "--smoke", "--cells", "relu", "--seeds", 1, *wild, "--out", folder))
    assert (code, err) == (0, "")
    assert "diverged" in out
    assert "diverged" in (folder / "report.html").read_text()
    assert json.loads((folder / "config.json").read_text())["seeds"] == 1


def read_rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


WRONG = {
    "--sise 3": "--sise",
    "--hidden-size 0": "hidden_size got 0; want a positive integer",
    "--hidden-size many": "'many'",
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
    "--text TMP/short.txt": "text got 40 characters; want at least 2510",
    "--text TMP/medium.txt": "text got 2280 characters; want at least 2510",
    "--text TMP/single.txt": "text got a single distinct character",
    "--learning-rate nan": "--learning-rate got nan; want a positive number",
    "--out TMP/full": "is not empty; want --resume, --overwrite or another folder",
    "--resume --overwrite": "got both",
}


@pytest.mark.usefixtures("scripts_find_their_modules")
def test_wrong_use_gives_one_line_and_exit_code_2_and_writes_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "short.txt").write_text("to be or not to be, " * 2)
    (tmp_path / "medium.txt").write_text("to be or not to be " * 120)
    (tmp_path / "single.txt").write_text("a" * 5000)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module("vanishing_gradients").main
    for line, says in WRONG.items():
        with pytest.raises(SystemExit) as caught:
            main(line.replace("TMP", str(tmp_path)).split())
        out, err = capsys.readouterr()
        assert (caught.value.code, out) == (2, ""), line
        assert says in err, line
        assert err.count("\n") == 1, line
        assert sorted(tmp_path.rglob("*")) == before, line


SAMPLE = [
    "char_lm --smoke --layers 1000000000",
    "char_lm --smoke --temperatures 0.5 0.8 1.0 --temperatures 0.5 0.8 1.0",
    "dates --smoke --examples 200 --examples 1000000000",
    "digit_class --smoke --batch-size 1000000000",
    "digit_names --smoke --decoder-size 1000000000",
    "next_letter --smoke --letters 1000000000",
    "vanishing_gradients --smoke --seeds 99999999999999999999",
    "vanishing_gradients --smoke --probes 1000000000",
    "vanishing_gradients --smoke --cells THINGS/names.py:../../../pwned",
    "vanishing_gradients --smoke --cells THINGS/no_arguments.py:leaky",
    "word_language --smoke --hidden-size 0",
    "word_language --smoke --out ",
]
"""Lines that once wrote, hung, ended in a traceback, or began what could not end."""


@pytest.mark.usefixtures("scripts_find_their_modules")
def test_wrong_command_lines_are_refused_in_one_line_and_right_ones_begin():
    lines = [line for script in SCRIPTS for line in lines_of(script.stem)]
    chosen = [line for line in lines if " ".join([line.script, *line.argv]) in SAMPLE]
    assert len(chosen) == len(SAMPLE)
    right = next(line for line in lines if line.script == "digit_class" and line.right)
    found = {" ".join([line.script, *line.argv]): outcome for line, outcome, _ in outcomes([*chosen, right])}
    assert found == {**dict.fromkeys(SAMPLE, "refused"), " ".join([right.script, *right.argv]): "accepted"}
