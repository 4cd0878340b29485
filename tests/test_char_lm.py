"""The model of letters: a kill changes nothing, numbers that are not finite end it, wrong use gets one line."""

import importlib
import json
import os
import shutil
import signal
import time
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax.data.ngrams import witten_bell
from rnn_jax.lab.checkpoints import Checkpoints
from rnn_jax.lab.runs import Run, open_run
from rnn_jax.training import batch_learner
from tests.laboratory import refused
from tests.test_experiments import ROOT, finish, read_rows, start
from tests.test_runs import Config

SCRIPT = ROOT / "experiments" / "char_lm.py"


def begin(*args, **options):
    return start(SCRIPT, "--smoke", *args, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped: dropout, two layers, overlapping windows, samples, a test part."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, out, err = finish(begin(*KILLED, "--out", folder))
    assert (code, err) == (0, "")
    assert "checkpoint" not in out
    return folder


KILLED = ["--looks", 8, "--updates", 10, "--dropout", 0.2, "--layers", 2, "--k1", 8]


def what_lasts(folder):
    """All that has to be the same, bit for bit."""
    files = ["metrics.jsonl", "samples.txt", "params.safetensors", "config.json", "vocab.json"]
    last = max(checkpoints_of(folder), key=int)
    told = json.loads((folder / "checkpoints" / last / "told" / "metadata").read_text())
    return [(folder / name).read_bytes() for name in files], last, told["sha256"]


def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_as_if_it_had_not_been(whole, tmp_path):
    folder, rng, last = tmp_path / "run", np.random.default_rng(0), {"80"}
    # while it starts or compiles, while it learns, while it looks at the test part or writes the page
    moments = [
        (lambda before: True, rng.uniform(1, 5)),
        (lambda before: checkpoints_of(folder) > before, rng.uniform(0, 0.5)),
        (lambda before: not checkpoints_of(folder) <= before, rng.uniform(0, 0.5)),
        (lambda before: checkpoints_of(folder) >= last, rng.uniform(0, 1)),
    ]
    for reached, wait in moments:
        process = begin(*KILLED, "--out", folder, "--resume")
        before, deadline = checkpoints_of(folder), time.monotonic() + 100
        while not reached(before) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        finish(process)
    code, out, err = finish(begin(*KILLED, "--out", folder, "--resume"))
    assert (code, err) == (0, "")
    assert "going on from checkpoint" in out
    assert what_lasts(folder) == what_lasts(whole)


def checkpoints_of(folder):
    return {path.name for path in folder.glob("checkpoints/*") if path.name.isdigit()}


def test_a_run_that_was_killed_before_it_began_begins(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "env.json.part").write_text("[")
    code, _, err = finish(begin("--looks", 1, "--out", tmp_path / "run", "--resume"))
    assert (code, err) == (0, "")


def test_the_summary_holds_the_n_grams_of_the_same_split(whole, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from _text import load_text

    text = load_text(None)
    border, end = (share * len(text.ids) // 100 for share in (98, 99))
    bars = witten_bell(text.ids[:border], text.ids[border:end], text.letters.size, 6)[:, 1:].mean(axis=1)
    summary = json.loads((whole / "summary.json").read_text())
    np.testing.assert_allclose(summary["n_gram_nats"], bars, rtol=1e-12)
    assert summary["validation"]["loss"] == min(r["loss"] for r in read_rows(whole) if r["split"] == "validation")


def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    latest = max(checkpoints_of(folder), key=int)
    for file in (folder / "checkpoints" / latest).rglob("d/*"):
        os.truncate(file, file.stat().st_size // 2)
    code, out, _ = finish(begin(*KILLED, "--out", folder, "--resume"))
    assert code == 0
    assert f"checkpoint {latest} is damaged and was put aside as {latest}.damaged" in out.replace("\n", " ")
    assert what_lasts(folder) == what_lasts(whole)


def test_a_run_goes_on_only_with_what_it_had(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from _char_lm_training import go_on

    run, kept = Run(tmp_path), Checkpoints(tmp_path / "checkpoints")
    (tmp_path / "metrics.jsonl").touch()
    learner = batch_learner(lambda key: jnp.zeros(3), lambda params, x: jnp.sum(params * x), optax.sgd(0.1))
    config = SimpleNamespace(looks=9, batch_size=2, seed=0, minutes=0)
    job: Any = SimpleNamespace(learner=lambda looks: (learner, None))
    state, *planned = go_on(config, run, job, kept, print)
    assert planned == [0.0, 9]
    run.log(split="validation", loss=2.0)
    (tmp_path / "params.safetensors").touch()
    kept.save(1, state, {"lengths": run.lengths(), "seconds": 3.0, "looks": 4, "best": True})
    run.log(split="test", loss=3.0)
    (tmp_path / "params.safetensors").unlink()
    refused(
        lambda: go_on(config, run, job, kept, print), f"{tmp_path / 'params.safetensors'} is gone; want it back, or"
    )
    assert len(read_rows(tmp_path)) == 2, "nothing is lost"
    (tmp_path / "params.safetensors").touch()
    assert go_on(config, run, job, kept, print)[1:] == (3.0, 4)
    assert len(read_rows(tmp_path)) == 1


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


def test_a_cell_of_ones_own_may_draw_and_have_a_scalar_for_a_parameter(tmp_path):
    folder = tmp_path / "no [" / "b] $x_{$"  # what rich and mathtext would read as their own
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text(OWN)
    args = ["--cell", f"{folder / 'mine.py'}:leaky", "--looks", 1, "--updates", 2, "--out", tmp_path / "run"]
    assert finish(begin(*args))[::2] == (0, "")
    code, out, err = finish(start(SCRIPT, "sample", tmp_path / "run", "--prompt", "T", "--letters", 5))
    assert (code, err, len(out)) == (0, "", 7)


def test_what_is_not_finite_ends_the_run_with_its_name_and_the_last_good_checkpoint(tmp_path):
    wild = ["--cell", "relu", "--learning-rate", 1e6, "--clip", 1e9, "--looks", 6, "--updates", 3]
    code, _, err = finish(begin(*wild, "--out", tmp_path / "stops"))
    assert code == 1
    assert err.startswith("error: batch ")
    assert "that is not finite; want a lower learning rate, or a smaller clip, or --resume --on-nonfinite skip; " in err
    assert "the last good checkpoint is 3" in err or "there is no checkpoint yet" in err
    assert json.loads((tmp_path / "stops" / "summary.json").read_text())["status"] == "failed"
    code, out, err = finish(begin(*wild, "--on-nonfinite", "skip", "--out", tmp_path / "skips"))
    assert (code, err) == (0, "")
    last = [row for row in read_rows(tmp_path / "skips") if row["split"] == "train"][-1]
    assert last["skipped"] > 0
    assert f"skipped, as something was not finite: {last['skipped']} of relu" in " ".join(out.split())
    assert last["skipped"] + last["step"] == last["batches"] == 18


def test_one_update_is_enough(tmp_path):
    code, _, err = finish(begin("--looks", 1, "--updates", 1, "--out", tmp_path / "run"))
    assert (code, err) == (0, "")


def test_training_ends_when_nothing_gets_better(tmp_path):
    args = ["--looks", 30, "--updates", 1, "--patience", 2, "--learning-rate", 1e-30, "--out", tmp_path / "run"]
    code, out, _ = finish(begin(*args))
    assert code == 0
    assert "no better validation score in 2 looks" in out
    assert len([row for row in read_rows(tmp_path / "run") if row["split"] == "validation"]) < 30


LIMITED = """
import resource, sys
import char_lm, _char_lm_training as training
look_at = training.look_at
def look_and_fill_the_disk(run, config, job, programs, rate, state, info, seconds):
    nats = look_at(run, config, job, programs, rate, state, info, seconds)
    if int(state.cursor) == 6:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
    return nats
training.look_at = look_and_fill_the_disk
sys.exit(char_lm.main(sys.argv[1:]))
"""
"""A limit on the size of files stands for the disk: from the third look on nothing large is written."""


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(tmp_path):
    (tmp_path / "limited.py").write_text(LIMITED)
    folder, args = tmp_path / "run", ["--smoke", "--looks", 4, "--updates", 2, "--out", tmp_path / "run"]
    code, _, err = finish(start(tmp_path / "limited.py", *args))
    assert code == 1
    assert err.startswith("error: checkpoint 6 could not be written (")
    assert err.endswith("; the last good checkpoint is 4\n")
    assert err.count("\n") == 1
    assert checkpoints_of(folder) == {"2", "4"}
    code, out, err = finish(start(SCRIPT, *args, "--resume"))
    assert (code, err) == (0, "")
    assert "going on from checkpoint 4" in out


def test_samples_go_on_from_a_prompt_by_the_safetensors_file_alone(whole, tmp_path):
    folder = tmp_path / "portable"
    folder.mkdir()
    for name in ("config.json", "vocab.json", "params.safetensors"):
        (folder / name).write_bytes((whole / name).read_bytes())
    prompt = json.loads((folder / "config.json").read_text())["prompt"]
    assert f"nats, temperature 1\n{prompt}" in (whole / "samples.txt").read_text(), "without an option, of the samples"
    args = ["sample", folder, "--prompt", "The ", "--letters", 40]
    outs = [finish(start(SCRIPT, *args, "--seed", seed)) for seed in (0, 0, 1)]
    assert all((code, err) == (0, "") for code, _, err in outs)
    assert all(out.startswith("The ") and len(out) == len("The ") + 40 + 1 for _, out, _ in outs)
    assert outs[0] == outs[1] != outs[2]
    (folder / "params.safetensors").write_bytes((whole / "params.safetensors").read_bytes()[:1000])
    code, _, err = finish(start(SCRIPT, *args))
    assert code == 2
    assert "which cannot be read (SafetensorError" in err
    assert err.count("\n") == 1


def test_the_table_shows_runs_and_n_grams(whole):
    code, out, err = finish(start(SCRIPT, "table", whole, whole))
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
    "--split 90/20": "--split got '90/20', 110 percent; want 100",
    "--split most": "--split got 'most'; want percent such as 90/5/5 or 90/10",
    "--data tolstoy": "data got 'tolstoy'; want one of tiny_shakespeare",
    "--data tiny_shakespeare --text TMP/a.txt": "--text and --data got",
    "--cell swoosh": "cell got 'swoosh'; want one of tanh",
    "--on-nonfinite maybe": "maybe",
    "--temperatures -1": "--temperatures got -1.0; want 0 or a positive number",
    "--minutes nan": "--minutes got nan; want 0 or a positive number",
    "--seed -1": "--seed got -1; want an integer in [0, 2³²)",
    "--prompt ☃": "--prompt got '☃'",
    "--out RUN": "is not empty; want --resume, --overwrite or another folder",
    "--out RUN --resume --window 8 --dropout 0.1": "--resume got another configuration (dropout was 0.2, now 0.1",
    "sample TMP": "cannot be read",
    "sample RUN --prompt ☃": "--prompt got '☃'",
    "sample RUN --letters 0": "--letters and --temperature got 0 and 0.8",
    "table": "table got no run",
    "table TMP": "cannot be read",
}


@pytest.mark.parametrize("line", WRONG)
@pytest.mark.usefixtures("scripts_find_their_modules")
def test_wrong_use_gives_one_line(line, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = line.replace("TMP", str(tmp_path)).replace("RUN", str(whole)).split()
    before = what_lasts(whole)
    options = [] if words[0] in ("sample", "table") else ["--smoke"]
    with pytest.raises(SystemExit) as caught:
        importlib.import_module("char_lm").main([*words, *options])
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert WRONG[line] in err
    assert err.count("\n") == 1
    assert what_lasts(whole) == before
    assert list(tmp_path.iterdir()) == []


def test_all_that_a_run_wrote_may_be_overwritten(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    open_run(tmp_path / "run", Config(), overwrite=True)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "config.json", "env.json", "metrics.jsonl"}
