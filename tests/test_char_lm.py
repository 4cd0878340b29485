"""The model of characters: a kill changes nothing, numbers that are not finite end it, wrong use gets one line."""

import json
import os
import shutil
import signal
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.data import load_text, python_reference, text_parts, witten_bell
from rnn_jax.decoding import continue_prompt
from rnn_jax.interop import convert, from_torch, read_model, torch_module
from rnn_jax.lab.options import Options
from rnn_jax.lab.runs import open_run
from tests.networks import characters_of_onnx, characters_of_torch
from tests.scripts import EXPERIMENTS, commands, finish, start

TEXT = python_reference()[:20_000]
WHOLE = ["--evaluations", 8, "--updates", 10, "--dropout", 0.2, "--layers", 2, "--k1", 8, "--split", "80/10/10"]
"""A run with everything in it: dropout, layers, overlapping windows, samples, a test part."""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A short text; and a folder in which the processes of this module keep compiled programs."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "programs"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        yield folder / "text.txt"


@pytest.fixture(scope="module")
def command(text):
    """Runs a command in a process that all tests of this module share."""
    with commands() as run:
        yield run


@pytest.fixture(scope="module")
def train(command, text):
    """Runs a smoke run on the short text: ``(*words) -> (code, out, err)``."""
    return lambda *words: command("char_lm", "--smoke", "--text", text, *words)


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, out, err = train(*WHOLE, "--out", folder)
    assert (code, err) == (0, "")
    assert "checkpoint" not in out
    return folder


def lasting(folder):
    """Everything that has to be the same, bit for bit."""
    files = ["metrics.jsonl", "samples.txt", "params.safetensors", "config.json", "vocab.json"]
    last = max(checkpoints_of(folder), key=int)
    facts = json.loads((folder / "checkpoints" / last / "facts" / "metadata").read_text())
    return [(folder / name).read_bytes() for name in files], last, facts["sha256"]


def checkpoints_of(folder):
    return {path.name for path in folder.glob("checkpoints/*") if path.name.isdigit()}


def read_rows(folder, split=None):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if split in (None, row["split"])]


def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_as_if_it_had_not_been(
    whole, text, train, tmp_path, monkeypatch
):
    folder, rng, last = tmp_path / "run", np.random.default_rng(0), {"80"}
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1e9")  # no kill leaves half a program
    folder.mkdir()
    (folder / "env.json.part").write_text("[")  # as a run leaves it that is killed before it begins
    # while it starts or compiles, while it learns, while it evaluates on the test part or writes the page
    moments = [
        (lambda before: True, rng.uniform(1, 5)),
        (lambda before: checkpoints_of(folder) > before, rng.uniform(0, 0.5)),
        (lambda before: not checkpoints_of(folder) <= before, rng.uniform(0, 0.5)),
        (lambda before: checkpoints_of(folder) >= last, rng.uniform(0, 1)),
    ]
    for reached, wait in moments:
        process = start("char_lm", "--smoke", "--text", text, *WHOLE, "--out", folder, "--resume")
        before, deadline = checkpoints_of(folder), time.monotonic() + 200
        while not reached(before) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        finish(process)
    code, out, err = train(*WHOLE, "--out", folder, "--resume")
    assert (code, err) == (0, "")
    assert "going on from checkpoint" in out
    assert lasting(folder) == lasting(whole)


TROUBLED = """
import os, resource, runpy, signal, sys
from rnn_jax.lab import long_run

save, script = long_run.save_progress, sys.argv[1]

def interrupt(*args):
    if int(args[2].state.cursor) == 30:
        os.kill(os.getpid(), signal.SIGINT)
    save(*args)

def fill_the_disk(*args):
    if int(args[2].state.cursor) == 60:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
    save(*args)

long_run.save_progress = {"interrupt": interrupt, "fill": fill_the_disk}[sys.argv.pop(2)]
sys.argv.pop(0)
runpy.run_path(script, run_name="__main__")
"""
"""Ctrl-C as the third checkpoint is written, or a limit on the size of files, from the sixth on, that stands for a full
disk."""


def test_after_ctrl_c_a_full_disk_and_a_damaged_checkpoint_a_run_ends_bit_for_bit_the_same(
    whole, text, train, tmp_path, interruptible
):
    folder, script = tmp_path / "run", tmp_path / "troubled.py"
    script.write_text(TROUBLED)
    words = ["--smoke", "--text", text, *WHOLE, "--out", folder, "--resume"]
    code, out, err = finish(start(script, EXPERIMENTS / "char_lm.py", "interrupt", *words))
    assert (code, err) == (130, "")
    assert checkpoints_of(folder) == {"20", "30"}, "Ctrl-C waits for the checkpoint"
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    assert "(The run is interrupted.)" in " ".join(out.split())
    assert not read_rows(folder, "test")

    code, out, err = finish(start(script, EXPERIMENTS / "char_lm.py", "fill", *words))
    assert code == 1
    first, *more = err.splitlines()
    assert first.startswith("error: checkpoint 60 could not be written (")
    assert first.endswith("; the last good checkpoint is 50")
    assert all(line.startswith("error: ") for line in more), "the page does not fit on the disk either"
    assert "going on from checkpoint 30" in out
    assert checkpoints_of(folder) == {"40", "50"}

    for file in (folder / "checkpoints" / "50").rglob("d/*"):
        os.truncate(file, file.stat().st_size // 2)
    code, out, err = train(*WHOLE, "--out", folder, "--resume")
    assert (code, err) == (0, "")
    assert "checkpoint 50 is damaged and was put aside as 50.damaged" in out.replace("\n", " ")
    assert "going on from checkpoint 40" in out
    assert lasting(folder) == lasting(whole)


def test_the_summary_holds_the_n_grams_of_the_same_split_and_the_best_evaluation(whole, text):
    source = load_text(text)
    parts = text_parts(source, "80/10/10")
    bars = witten_bell(parts.train, parts.validation, source.vocabulary.size, 6)[:, 1:].mean(axis=1)
    summary = json.loads((whole / "summary.json").read_text())
    np.testing.assert_allclose(summary["n_gram_nats"], bars, rtol=1e-12)
    assert summary["validation"]["loss"] == min(row["loss"] for row in read_rows(whole, "validation"))
    assert summary["test"] == read_rows(whole, "test")[0]["loss"]
    assert summary["tokens"] == 80 * 8 * 8 == read_rows(whole, "validation")[-1]["tokens"]


def test_an_extended_run_goes_on_at_the_last_learning_rate_and_is_evaluated_on_the_test_part_again(
    whole, train, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    more = ["--evaluations", 10, *WHOLE[2:], "--out", folder]
    assert "--resume got another configuration (evaluations was 8, now 10)" in train(*more, "--resume")[2]
    too_few = train(*WHOLE, "--out", folder, "--extend")
    assert too_few == (2, "", "error: --extend got --evaluations 8; want more than the 8 of the run\n")
    code, out, err = train(*more, "--extend")
    assert (code, err) == (0, "")
    assert "going on from checkpoint 80" in out
    assert read_rows(folder)[:16] == read_rows(whole)[:16]
    assert [(row["split"], row.get("step")) for row in read_rows(folder)[16:]] == [
        ("train", 90), ("validation", 90), ("train", 100), ("validation", 100), ("test", None)
    ]  # fmt: skip
    np.testing.assert_allclose([row["learning_rate"] for row in read_rows(folder)[16:20]], 4e-3 / 20, rtol=1e-5)
    assert len((folder / "samples.txt").read_text().split("temperature")) - 1 == 3 * 10


OWN = """
import jax.numpy as jnp
from rnn_jax import cell_from_step, output_dropout
from rnn_jax.initializers import scaled_normal

def leaky(input_size, hidden_size):
    def init(key):
        return {"W": scaled_normal()(key, (input_size, hidden_size)), "leak": jnp.asarray(0.3)}

    def start(params, batch_shape=()):
        return jnp.zeros((*batch_shape, hidden_size))

    def step(params, h, x):
        return (1 - params["leak"]) * h + params["leak"] * jnp.tanh(x @ params["W"])

    return output_dropout(cell_from_step(init, start, step), 0.1)
"""


def test_your_own_cell_may_draw_and_have_a_scalar_parameter_and_one_update_is_enough(train, command, tmp_path):
    folder = tmp_path / "no [" / "b] $x_{$"  # markup of rich, and mathematics of matplotlib
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text(OWN)
    words = ["--cell", f"{folder / 'mine.py'}:leaky", "--evaluations", 1, "--updates", 1, "--out", tmp_path / "run"]
    assert train(*words)[::2] == (0, "")
    code, out, err = command("char_lm", "sample", tmp_path / "run", "--prompt", "T", "--characters", 5)
    assert (code, err, len(out)) == (0, "", 7)


def test_a_number_that_is_not_finite_ends_the_run_which_may_go_on_without_these_updates(train, tmp_path):
    wild = ["--cell", "relu", "--learning-rate", 1e6, "--clip", 1e9, "--evaluations", 6, "--updates", 3]
    wild += ["--split", "80/10/10", "--out", tmp_path / "run"]
    code, out, err = train(*wild)
    assert code == 1
    assert err.startswith("error: batch ")
    assert "that is not finite; want a lower learning rate, or a smaller clip, or --resume --on-nonfinite skip; " in err
    assert "the last good checkpoint is 3" in err or "there is no checkpoint yet" in err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    assert "The run is failed" in " ".join(out.split())
    code, out, err = train(*wild, "--resume", "--on-nonfinite", "skip")
    assert (code, err) == (0, "")
    last = read_rows(tmp_path / "run", "train")[-1]
    assert last["skipped"] > 0
    assert f"skipped, as something was not finite: {last['skipped']} of relu" in " ".join(out.split())
    assert last["skipped"] + last["step"] == last["batches"] == 18


def test_training_ends_when_nothing_gets_better(train, tmp_path):
    words = ["--cell", "tanh", "--evaluations", 30, "--updates", 1, "--patience", 2, "--learning-rate", 1e-30]
    code, out, _ = train(*words, "--split", "80/10/10", "--out", tmp_path / "run")
    assert code == 0
    assert "no better validation loss in 2 evaluations" in out
    assert len(read_rows(tmp_path / "run", "validation")) < 30


def test_samples_go_on_from_a_prompt_with_three_files_of_a_run(whole, command, tmp_path):
    for name in ("config.json", "vocab.json", "params.safetensors"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    prompt = json.loads((tmp_path / "config.json").read_text())["prompt"]
    assert f"nats, temperature 1\n{prompt}" in (whole / "samples.txt").read_text(), "the first characters of the text"
    words = ["char_lm", "sample", tmp_path, "--prompt", "The ", "--characters", 40]
    outs = [command(*words, "--seed", seed) for seed in (0, 0, 1)]
    assert all((code, err) == (0, "") for code, _, err in outs)
    assert all(out.startswith("The ") and len(out) == len("The ") + 40 + 1 for _, out, _ in outs)
    assert outs[0] == outs[1] != outs[2]
    (tmp_path / "params.safetensors").write_bytes((whole / "params.safetensors").read_bytes()[:1000])
    code, _, err = command(*words)
    assert code == 2
    assert "which cannot be read (SafetensorError" in err
    assert err.count("\n") == 1


def test_the_table_shows_runs_and_n_grams(whole, command):
    code, out, err = command("char_lm", "table", whole, whole)
    assert (code, err) == (0, "")
    assert out.count("│ lstm") == 2
    assert "5-grams" in out


WRONG = {
    "--window 0": "--window got 0; want a positive integer",
    "--window -3": "--window got -3; want a positive integer",
    "--k1 -1": "--k1 got -1; want 0 or a positive number",
    "--k1 17 --window 16": "k1 got 17, window (k2) 16; want k1 <= k2",
    "--layers 0": "--layers got 0; want a positive integer",
    "--dropout 1": "--dropout got 1.0; want at least 0 and less than 1",
    "--split 90/20": "split got '90/20', 110 percent; want 100",
    "--split most": "split got 'most'; want percent such as 90/5/5 or 90/10",
    "--data tolstoy": "data got 'tolstoy'; want one of tiny_shakespeare",
    "--data tiny_shakespeare --text TMP/a.txt": "file and name got TMP/a.txt and tiny_shakespeare; want one",
    "--cell swoosh": "cell got 'swoosh'; want one of tanh",
    "--optimizer swoosh": "--optimizer got 'swoosh'; want one of adam",
    "--optimizer sgd --weight-decay 0.1": "--weight-decay got 0.1; want it with --optimizer adamw or lion",
    "--out RUN --extend --evaluations 80 --updates 1": "--extend got --evaluations 80; want more than the 80 of",
    "--on-nonfinite maybe": "maybe",
    "--temperatures -1": "--temperatures got -1.0; want 0 or a positive number",
    "--minutes nan": "--minutes got nan; want 0 or a positive number",
    "--seed -1": "--seed got -1; want an integer in [0, 2³²)",
    "--prompt ☃": "--prompt got '☃'",
    "--out RUN": "is not empty; want --resume, --overwrite or another folder",
    "--out RUN --resume --window 8 --dropout 0.1": "--resume got another configuration (batch_size was 8, now 32",
    "sample TMP": "cannot be read",
    "sample RUN --prompt ☃": "--prompt got '☃'",
    "sample RUN --characters 0": "--characters got 0; want a positive integer",
    "sample RUN --temperature -1": "--temperature got -1.0; want 0 or a positive number",
    "table": "table got no run",
    "table TMP": "cannot be read",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_use_gives_one_line(line, whole, command, tmp_path):
    before = lasting(whole)
    words = line.replace("TMP", str(tmp_path)).replace("RUN", str(whole)).split()
    code, out, err = command("char_lm", *words, folder=tmp_path)
    assert (code, out) == (2, "")
    assert WRONG[line].replace("TMP", str(tmp_path)) in err
    assert err.count("\n") == 1
    assert lasting(whole) == before
    assert list(tmp_path.iterdir()) == []


def test_everything_that_a_run_wrote_may_be_overwritten(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    open_run(tmp_path / "run", Options(), overwrite=True)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "config.json", "env.json", "metrics.jsonl"}


def test_a_run_that_is_converted_writes_the_same_200_characters_in_torch_and_in_onnx_runtime(whole, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[peers]")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install -e .[onnx]")
    read: Any = read_model(whole)
    model, params = read
    V, prompt = model.output(params, model.start(params)).size, [3, 1, 4]
    ids = continue_prompt(model, params, jax.random.key(0), jnp.array(prompt), length=200, temperature=0.0).ids.tolist()
    check = convert(whole, tmp_path / "a.safetensors", "torch")
    assert check.left_out == "dropout of 0.2, which acts in training alone"
    module = torch_module(*from_torch(tmp_path / "a.safetensors"))
    assert characters_of_torch(torch, module, prompt, 200, V) == ids
    convert(whole, tmp_path / "a.onnx", "onnx")
    assert characters_of_onnx(runtime, tmp_path / "a.onnx", prompt, 200, V) == ids
