"""The devices and processes of an experiment: how many, what they agree on, and how process 0 leads the others."""

import json
from functools import partial

import jax
import numpy as np
import optax
import pytest

from rnn_jax.lab import commands, machines
from rnn_jax.lab.checkpoints import Checkpoints
from rnn_jax.lab.loop import Task, compile_task
from rnn_jax.lab.machines import (
    Machines,
    common_devices,
    default_devices,
    first_devices,
    follow,
    leading,
    state_numbers,
)
from rnn_jax.lab.options import SHORTEST_TIMEOUT, ParallelOptions
from rnn_jax.lab.runs import open_run
from rnn_jax.parallel.messages import alone
from rnn_jax.parallel.signs import SHORTEST
from rnn_jax.training import batch_learner
from tests import loopback
from tests.fake_store import together
from tests.laboratory import refused
from tests.scripts import options_of


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--processes 2", "--coordinator got '' with --processes 2; want both or none, such as"),
        ("--coordinator 127.0.0.1:5 --distributed", "--distributed and --coordinator got both; want one of them"),
        ("--process 1", "--process got 1 of 1; want less, as the first is 0"),
        ("--devices -1", "--devices got -1; want 0 or a positive number"),
        ("--timeout 4.5", "--timeout got 4.5; want at least 5 seconds"),
        ("--start-timeout -1", "--start-timeout got -1.0; want 0 or a positive number"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, message):
    refused(lambda: options_of(ParallelOptions, *words.split()), message)
    assert SHORTEST_TIMEOUT == SHORTEST


def test_a_cpu_has_as_many_devices_as_leave_each_enough_lanes():
    assert default_devices(32, 256, cores=2) == 2
    assert default_devices(32, 256, cores=16) == 8
    assert default_devices(32, 256, cores=12) == 8
    assert default_devices(128, 256, cores=6) == 4
    assert default_devices(33, 256, cores=2) == 1
    assert default_devices(6, 4096, cores=2) == 1
    assert default_devices(32, 16, cores=2) == 1
    assert default_devices(0, 16, cores=2) == 1


def test_the_numbers_of_a_state_count_layers_and_a_size_that_is_matched_later():
    assert state_numbers(256, layers=2) == 512
    assert state_numbers(256, layers=1, parameters=8 * 64**2) == 64
    assert state_numbers(256, layers=2, parameters=16 * 64**2) == 128


@pytest.mark.parametrize(
    ("given", "cores", "batch", "want"), [(0, (4, 2), 64, 2), (0, (2, 1), 64, 1), (4, (4, 4), 8, 4)]
)
def test_all_processes_have_the_same_number_of_devices(monkeypatch, given, cores, batch, want):
    monkeypatch.setattr(jax, "local_device_count", lambda: 8)
    options = ParallelOptions(devices=given, batch_size=batch)
    found = together(monkeypatch, lambda joined: common_devices(joined, options, 256, cores[joined.number]))
    assert found == [want, want]


def test_other_devices_in_another_process_are_refused_with_the_name_of_the_option(monkeypatch):
    def work(joined):
        common_devices(joined, ParallelOptions(devices=joined.number + 1), 256, 2)

    first, second = together(monkeypatch, work)
    assert str(first) == "--devices got 1 in process 0 and 2 in process 1; want the same in all"
    assert str(second).startswith("--devices got 2 in process 1 and 1 in process 0")


def test_the_first_devices_of_every_process_are_taken():
    class Device:
        def __init__(self, number):
            self.number, self.process_index = number, number // 4

    assert [device.number for device in first_devices([Device(number) for number in range(8)], 2)] == [0, 1, 4, 5]


def test_one_device_splits_nothing():
    one, state = Machines(alone()), loopback.keeping.init(jax.random.key(0), (loopback.B,))
    assert one.learner(loopback.keeping) is loopback.keeping
    assert one.place(state) is state
    assert one.gather(state) == state
    assert one.own_lanes(loopback.stream())[0].shape == (200, 4, loopback.B)
    assert one.facts() == {"devices": 1, "processes": 1}
    one.end("done")
    assert follow(one, ParallelOptions(), task_of, Checkpoints("none")) is None


OPTIONS = ParallelOptions(updates=3, evaluations=2, batch_size=1)


def score(params, x):
    return {"loss": (params - x) ** 2}


def task_of(options, rate=0.1):
    learner = batch_learner(lambda key: np.zeros(()), lambda p, x: score(p, x)["loss"], optax.sgd(rate))
    return Task(learner, lambda rng, number: (np.full(3, 3.0 + number),), score, (np.array(3.0),), None)


def trained(joined, folder, first=None, rates=(0.1, 0.1), status="done", **facts):
    """The params after two evaluations, in process 0; the others follow, which raises their end."""
    of, checkpoints = Machines(joined), Checkpoints(folder)
    task = task_of(OPTIONS, rates[joined.number])
    follow(of, OPTIONS, partial(task_of, rate=rates[joined.number]), checkpoints, **facts)
    of.order(OPTIONS.evaluations, first and first.step)
    programs = leading(of, compile_task(OPTIONS, task))
    state = programs.init(jax.random.key(0)) if first is None else first.state
    try:
        for number in range(int(state.cursor) // OPTIONS.updates, OPTIONS.evaluations):
            state, _ = programs.learn(state, task.batches(np.random.default_rng(0), number))
            checkpoints.save(int(state.cursor), of.gather(state), {})
    finally:
        of.end(status)
    return float(state.params)


@pytest.fixture(autouse=True)
def no_runtime(monkeypatch):
    """Threads do not leave the runtime of JAX, nor change what Ctrl-C does."""
    monkeypatch.setattr(machines, "leave", lambda joined: None)
    monkeypatch.setattr(machines.signal, "signal", lambda *_: None)


def test_process_0_leads_and_the_others_end_with_its_code(monkeypatch, tmp_path):
    whole = together(monkeypatch, lambda joined: trained(joined, tmp_path / "whole"))
    assert isinstance(whole[1], SystemExit)
    assert whole[1].code == 0
    failed = together(monkeypatch, lambda joined: trained(joined, tmp_path / "failed", status="interrupted"))
    assert failed[1].code == 130
    checkpoints = Checkpoints(tmp_path / "whole")
    put = checkpoints.read(3, task_of(OPTIONS).state_shapes())
    (tmp_path / "whole" / "6").rename(tmp_path / "6")
    again = together(monkeypatch, lambda joined: trained(joined, tmp_path / "whole", put))
    assert again[0] == whole[0] == failed[0]


def test_other_params_in_another_process_end_the_run(monkeypatch, tmp_path):
    first, second = together(monkeypatch, partial(trained, folder=tmp_path, rates=(0.1, 0.2), status="failed"))
    assert second.code == 1
    assert str(first) == (
        "params got other numbers in process 1 than in process 0 after 3 batches; want the same in all: machines of "
        "the same kind"
    )


def test_processes_with_other_files_or_versions_do_not_begin(monkeypatch, tmp_path):
    def work(joined):
        monkeypatch.setattr(machines, "version", lambda name: "0.1")
        trained(joined, tmp_path, cell_sha256={"mine.py": f"digest {joined.number}"})

    first, _ = together(monkeypatch, work)
    assert str(first).startswith("cell_sha256 got {'mine.py': 'digest 0'} in process 0 and {'mine.py': 'digest 1'} in ")
    assert machines.versions()["version of jaxlib"] == "0.1"


def test_a_follower_reads_exactly_one_checkpoint_and_renames_nothing(tmp_path):
    checkpoints, shapes = Checkpoints(tmp_path), task_of(OPTIONS).state_shapes()
    for step in (3, 6):
        checkpoints.save(step, task_of(OPTIONS).learner.init(jax.random.key(0)), {})
    for file in (tmp_path / "6").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    assert checkpoints.read(3, shapes).step == 3
    for step in (6, 9):
        refused(lambda: checkpoints.read(step, shapes), f"checkpoints got no checkpoint {step} that can be read in")
    assert sorted(tmp_path.rglob("*")) == before


def test_devices_and_processes_are_facts_of_a_start_and_a_change_is_reported(tmp_path, capsys):
    options, two = ParallelOptions(), {"devices": 4, "processes": 2}
    for machines_of in (two, two):
        open_run(tmp_path / "run", options, machines=machines_of, resume=True)
    assert capsys.readouterr().out == ""
    open_run(tmp_path / "run", options, machines={"devices": 1, "processes": 1}, resume=True)
    assert capsys.readouterr().out == (
        "the run goes on with devices 1, processes 1 instead of devices 4, processes 2: its numbers are the same up to "
        "rounding\n"
    )
    starts = json.loads((tmp_path / "run" / "env.json").read_text())
    assert [(of["devices"], of["processes"]) for of in starts] == [(4, 2), (4, 2), (1, 1)]


def test_an_error_of_an_exchange_is_no_wrong_use(monkeypatch):
    def end(error):
        raise SystemExit(f"another process: {error}")

    monkeypatch.setattr(commands, "_DESCRIBERS", [end])
    with pytest.raises(SystemExit, match="another process: Gloo"):
        commands.exit_code_of(ValueError("Gloo all-reduce failed"))
