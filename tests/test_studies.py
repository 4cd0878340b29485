"""A study: networks trained side by side, kept as they end, gone on with, and shown however the study ends."""

import dataclasses
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax.lab.commands import exit_code_of, print_fault
from rnn_jax.lab.loop import Task, optimizer_of
from rnn_jax.lab.memory import machine_memory, require_memory
from rnn_jax.lab.options import StudyOptions, require_choices
from rnn_jax.lab.page import describe_skipped
from rnn_jax.lab.progress import finished_jobs
from rnn_jax.lab.runs import Run, open_run, read_json, read_metrics
from rnn_jax.lab.study import Networks, Scores, first_network, initial_params, open_study, train
from rnn_jax.training import batch_learner
from tests.scripts import TINY_STUDY, finish, options_of, run_here, start
from tests.tiny_study import GATE, Options, make_task, make_tasks, score


def study(options: Options, **changed: Any) -> tuple[Run, Networks, Scores]:
    """The run, the networks and the scores of a study with these options."""
    options = dataclasses.replace(options, **changed)
    tasks = make_tasks(options)
    run = open_study(options, tasks)
    networks, scores = train(options, run, tasks)
    return run, networks, scores


def test_a_resumed_study_keeps_what_is_finished_and_trains_what_is_not(tmp_path):
    options = Options(cells=("near",), out=tmp_path / "run")
    run, networks, _ = study(options)
    first = read_metrics(run.folder)
    run.log(cell="near", seed=1, split="train", step=5, loss=1.0)  # of a network that was never finished
    (run.folder / "config.json").write_text(
        (run.folder / "config.json").read_text().replace('"seeds": 1', '"seeds": 2')
    )

    run, again, scores = study(options, seeds=2, resume=True)
    np.testing.assert_array_equal(again["near"][0], networks["near"][0])
    rows = read_metrics(run.folder)
    assert rows[: len(first)] == first
    steps = [(row["seed"], row["split"], row["step"]) for row in rows]
    of_one = [("train", 5), ("validation", 5), ("train", 10), ("validation", 10), ("test", 10)]
    assert steps == [(seed, *of) for seed in (0, 1) for of in of_one]
    np.testing.assert_allclose(rows[-1]["loss"], score(again["near"][1], 1.0)["loss"], rtol=1e-6)
    np.testing.assert_allclose(scores["near"]["loss"], [rows[4]["loss"], rows[9]["loss"]])
    assert np.any(again["near"][0] != again["near"][1]), "seeds differ"


def test_a_study_is_extended_by_seeds_and_kinds_and_never_made_smaller(tmp_path):
    options = Options(cells=("far",), out=tmp_path / "run")
    first, networks, _ = study(options)
    before = read_metrics(first.folder)
    run, more, _ = study(options, cells=("near", "far"), seeds=2, extend=True)
    assert {kind: list(of) for kind, of in more.items()} == {"near": [0, 1], "far": [0, 1]}
    np.testing.assert_array_equal(more["far"][0], networks["far"][0])
    assert [row for row in read_metrics(run.folder) if (row["cell"], row["seed"]) == ("far", 0)] == before
    whole, *_ = study(options, cells=("near", "far"), seeds=2, out=tmp_path / "whole")
    for name in ("metrics.jsonl", "summary.json"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes(), "as if begun so"
    for fewer in ({"seeds": 1, "cells": ("near", "far")}, {"seeds": 2}):
        with pytest.raises(
            ValueError, match=r"--extend got (seeds|cells) .*, where the run has .*; want at least these"
        ):
            study(options, extend=True, **fewer)
    with pytest.raises(ValueError, match=r"--extend got another configuration \(updates was 5, now 6\)"):
        study(options, extend=True, updates=6, seeds=2, cells=("near", "far"))


def test_the_rows_of_a_study_do_not_depend_on_which_network_ends_first(tmp_path, monkeypatch):
    ended = {}
    for slow in ("near", "far"):
        monkeypatch.setenv("TINY_FAULT", f"{slow} wait")
        GATE.clear()
        ended[slow] = []

        def open_gate(row, ended=ended[slow]):
            ended += [row["cell"]] if row["split"] == "test" else []
            if len(ended) == 2:
                GATE.set()

        options = Options(seeds=2, workers=4, out=tmp_path / slow)
        run = open_study(options, tasks := make_tasks(options))
        train(options, run, tasks, on_row=open_gate)
        rows = [(row["cell"], row["seed"]) for row in read_metrics(run.folder)]
        assert rows == [(kind, seed) for kind in ("near", "far") for seed in (0, 1) for _ in range(5)]
    assert ended == {"near": ["far", "far", "near", "near"], "far": ["near", "near", "far", "far"]}
    metrics = [(tmp_path / slow / "metrics.jsonl").read_bytes() for slow in ended]
    assert metrics[0] == metrics[1]


def test_another_logger_gets_every_row_as_it_comes(tmp_path):
    options, rows = Options(out=tmp_path / "run"), []
    run = open_study(options, tasks := make_tasks(options))
    train(options, run, tasks, on_row=rows.append)
    timeless = [{name: value for name, value in row.items() if not name.endswith("_s")} for row in rows]
    assert timeless == read_metrics(run.folder)


def test_a_network_of_a_study_is_that_of_its_seed_and_begins_with_its_params(tmp_path):
    options = Options(cells=("near",), seeds=2, updates=1, evaluations=1, learning_rate=1e-30, out=tmp_path / "run")
    _, networks, _ = study(options)
    for seed in (0, 1):
        begins = initial_params(options, make_task(options, "near"), seed)
        np.testing.assert_allclose(networks["near"][seed], begins, rtol=1e-12)
    assert first_network({"near": {1: 5, 0: 3}}, "near") == 3


def test_a_finished_network_that_was_damaged_ends_a_resumed_run_in_one_line(tmp_path, capsys):
    options = Options(cells=("near",), out=tmp_path / "run")
    run, *_ = study(options)
    before = read_metrics(run.folder)
    for content in (b"", b"x" * 200, (run.folder / "cells/near-0.safetensors").read_bytes()[:20]):
        (run.folder / "cells" / "near-0.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"near-0.safetensors, which cannot be read \("):
            study(options, resume=True)
    capsys.readouterr()
    assert run_here(TINY_STUDY, "--cells", "near", "--out", run.folder, "--resume") == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "which cannot be read (" in err
    assert read_metrics(run.folder) == before


def test_a_study_on_other_data_is_not_gone_on_with(tmp_path):
    options = Options(out=tmp_path / "run")
    study(options)
    study(options, resume=True)
    tasks = make_tasks(dataclasses.replace(options, point=2.0))
    with pytest.raises(ValueError, match=r"--resume got another configuration \(data_sha256 was "):
        open_study(dataclasses.replace(options, resume=True), tasks)


OPTIMIZER = """
import optax

def momentum(learning_rate):
    return optax.sgd(learning_rate, momentum=0.9)

def nothing(learning_rate):
    return learning_rate

def two(learning_rate, momentum):
    return optax.sgd(learning_rate, momentum)
"""


def test_an_optimizer_from_a_file_trains_and_belongs_to_the_run(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OPTIMIZER)
    options = Options(cells=("near",), optimizer=f"{file}:momentum", out=tmp_path / "run")
    _, networks, _ = study(options)
    _, others, _ = study(options, optimizer="sgd", out=tmp_path / "sgd")
    assert np.any(networks["near"][0] != others["near"][0])
    study(options, resume=True)
    file.write_text(OPTIMIZER.replace("0.9", "0.8"))
    with pytest.raises(ValueError, match=r"--resume got another configuration \(optimizer_sha256 was "):
        study(options, resume=True)
    for name, says in {
        f"{file}:nothing": "returned WarmupCosineDecaySchedule|returned function; want an optax optimizer",
        f"{file}:two": r"takes \(learning_rate, momentum\); want \(learning_rate\)",
        f"{file}:none": "has no function 'none'",
        f"{tmp_path}/none.py:momentum": "is not there",
        "adamm": "want one of adam, adamw, sgd, rmsprop, lion, or FILE.py:function",
    }.items():
        with pytest.raises(ValueError, match=says) as caught:
            optimizer_of(dataclasses.replace(options, optimizer=name))
        assert str(caught.value).startswith(f"--optimizer got {name!r}")
        assert "\n" not in str(caught.value)


def test_updates_that_were_skipped_are_in_the_answer_once_for_each_network():
    rows = [("tanh", 0, 1, 4), ("tanh", 0, 3, 7), ("tanh", 1, 1000, 7), ("relu", 0, 0, 10)]
    found = [{"cell": cell, "seed": seed, "skipped": skipped, "step": step} for cell, seed, skipped, step in rows]
    found += [{"cell": "gru", "seed": 0}]
    sentence = " Updates that were skipped, as something was not finite: 1,003 of tanh"
    assert describe_skipped(found) == f"{sentence}."
    assert describe_skipped([]) == describe_skipped([{"cell": "gru", "seed": 0}]) == ""
    with_none = describe_skipped([*found, {"cell": "mine", "seed": 0, "skipped": 9, "step": 0}])
    assert with_none.startswith(f"{sentence}, 9 of mine. With mine no update was made. The learning rate is not the")


def test_a_network_that_diverges_is_counted_and_its_schedule_waits(tmp_path):
    def loss(params, x):
        return jnp.sum(params * x)

    learner = batch_learner(lambda key: jnp.zeros(3), loss, optax.sgd(0.1))
    part = (jnp.asarray(2.0),)
    batches = lambda rng, number: (jnp.array([1.0, jnp.nan, 1.0, jnp.nan, 1.0]),)  # noqa: E731
    task = Task(learner, batches, lambda params, x: {"loss": loss(params, x)}, part, part)
    options = StudyOptions(seeds=1, evaluations=2, updates=5, out=tmp_path / "run")
    run = open_run(options.out, options)
    train(options, run, {"point": task})
    assert [(row["step"], row["skipped"]) for row in read_metrics(run.folder)] == [(3, 2)] * 2 + [(6, 4)] * 3


def test_jobs_side_by_side_have_more_threads_than_cores(monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    options_of(StudyOptions, "--workers", 3)
    assert int(os.environ["NPROC"]) >= (os.cpu_count() or 1) + 3


def test_a_run_that_does_not_fit_into_the_machine_is_refused_with_both_sizes():
    require_memory(StudyOptions(), batch_size=machine_memory() / 2)
    with pytest.raises(
        ValueError, match=r"--batch-size got 64, with which the run needs about .* GiB, this machine has"
    ):
        require_memory(StudyOptions(), batch_size=2 * machine_memory(), updates=machine_memory())


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--evaluations", "3000000000"], "--evaluations got 3000000000; want at most 2,147,483,647"),
        (
            ["--evaluations", "100000", "--updates", "100000"],
            "--evaluations and --updates got 100000 times 100000 updates; want",
        ),
        (["--learning-rate", "1e39"], "--learning-rate got 1e+39; want at most 3.4e+38"),
        (["--clip", "1e-40"], "--clip got 1e-40; want 0 or at least 1.2e-38"),
        (["--batch-size", "9" * 400], f"--batch-size got {'9' * 400}; want at most 2,147,483,647"),
        (["--seeds", "10001"], "--seeds got 10001; want at most 10,000"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_numbers_that_32_bits_do_not_hold_are_refused(argv, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        options_of(StudyOptions, *argv)


def test_several_values_are_each_one_of_the_choices_and_given_once():
    require_choices(Options(cells=("far",)), "cells", ("near", "far"))
    for cells, says in {
        ("wide",): "--cells got 'wide'; want one or more of near, far",
        (): "--cells got nothing; want one or more of near, far",
        ("far", "far"): "--cells got far twice; want each once",
    }.items():
        with pytest.raises(ValueError, match=says):
            require_choices(Options(cells=cells), "cells", ("near", "far"))


def test_jobs_without_a_terminal_print_a_line_with_time_name_and_loss_at_each_evaluation(capsys):
    def job(report):
        report("compiling")
        for loss in (2.5, 2.25):
            report(f"loss {loss}", 1)

    list(finished_jobs({"gru [b] 0": job}, workers=2, evaluations=2))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "gru [b] 0: evaluation 1 of 2, loss 2.5",
        "gru [b] 0: evaluation 2 of 2, loss 2.25",
    ]
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)


NO_MEMORY = [
    MemoryError("std::bad_alloc"),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
    jax.errors.JaxRuntimeError("INTERNAL: Error dispatching computation: Out of memory allocating 9 bytes."),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=["numpy", "before", "within"])
def test_memory_that_runs_out_is_one_line(error, capsys):
    assert print_fault(error)
    err = capsys.readouterr().err
    assert err.startswith("error: out of memory (")
    assert err.count("\n") == 1
    assert exit_code_of(error) == 1


@pytest.mark.parametrize("error", ["OSError", "MemoryError"])
def test_an_error_that_a_run_can_meet_is_one_line_and_what_is_finished_is_shown(error, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    monkeypatch.setenv("TINY_FAULT", f"far {error}")
    assert run_here(TINY_STUDY, "--out", folder) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert read_json(folder / "summary.json")["status"] == "failed"
    assert list(read_json(folder / "summary.json")["networks"]) == ["near"]
    assert "Finished: near. (The run is failed.)" in (folder / "report.html").read_text()
    assert f"report: {folder / 'report.html'}" in out.replace("\n", "")
    monkeypatch.delenv("TINY_FAULT")
    assert run_here(TINY_STUDY, "--out", folder, "--resume") == 0
    assert list(read_json(folder / "summary.json")["networks"]) == ["near", "far"]


def test_a_fault_of_the_program_itself_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_FAULT", "far KeyError")
    with pytest.raises(KeyError):
        run_here(TINY_STUDY, "--out", tmp_path / "run")
    assert read_json(tmp_path / "run/summary.json")["status"] == "failed"


def test_a_study_may_run_outside_the_main_thread(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run_here, TINY_STUDY, "--out", tmp_path / "run").result() == 0


@pytest.mark.parametrize("kind", ["near", "far"])
def test_ctrl_c_ends_with_130_and_shows_what_is_finished(kind, tmp_path, monkeypatch, interruptible):
    folder = tmp_path / "run"
    monkeypatch.setenv("TINY_FAULT", f"{kind} ctrl_c")
    code, out, err = finish(start(TINY_STUDY, "--out", folder))
    assert (code, err) == (130, "")
    summary = read_json(folder / "summary.json")
    assert summary["status"] == "interrupted"
    if kind == "near":
        assert "The run is interrupted; no network was finished." in out
        assert summary["networks"] == {}
        assert read_metrics(folder) == []
        assert not (folder / "report.html").exists()
        return
    before = read_metrics(folder)
    assert list(summary["networks"]) == ["near"]
    assert {row["cell"] for row in before} == {"near"}
    assert "Finished: near. (The run is interrupted.)" in (folder / "report.html").read_text()
    monkeypatch.delenv("TINY_FAULT")
    assert finish(start(TINY_STUDY, "--out", folder, "--resume"))[0] == 0
    rows = read_metrics(folder)
    assert rows[:5] == before, "a finished network is not trained again"
    assert [row["cell"] for row in rows] == ["near"] * 5 + ["far"] * 5
