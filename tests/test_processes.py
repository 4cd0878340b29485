"""Two processes with two devices each on loopback: the numbers of one device, and a clear end when one is killed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from rnn_jax.lab.machines import Machines, default_devices
from rnn_jax.lab.options import ParallelOptions
from rnn_jax.parallel import agree, join_processes
from tests import loopback
from tests.laboratory import refused
from tests.loopback import TIMEOUT
from tests.scripts import options_of


def free_port():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


@pytest.fixture(scope="module")
def pair():
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
    port = free_port()
    command = [sys.executable, loopback.__file__, str(port)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env}
    both = [subprocess.Popen([*command, str(number)], **pipes) for number in (0, 1)]
    ended = [(*process.communicate(timeout=300), process.returncode) for process in both]
    found = [json.loads(re.findall(r"^\{.*\}$", out, re.MULTILINE)[-1]) if "{" in out else err for out, err, _ in ended]
    return found, ended


def test_two_processes_compute_the_numbers_of_one_device(pair):
    for number, found in enumerate(pair[0]):
        assert found["lanes"] == [4 * number, 4 * number + 4]
        assert found["numbers"] < 1e-6
        assert abs(found["losses"][0] - found["losses"][1]) < 1e-4
        assert found["losses"][1] < 1.0
        assert found["squares"] == [0.0, 1.0, 4.0, 9.0, 16.0]
        assert found["said"] == {"by": 0}


def test_each_process_checks_its_own_lanes_and_gathers_a_tree_by_one_program(pair):
    for found in pair[0]:
        of_update, of_fit, turns, lanes = found["refused"]
        assert of_update == of_fit
        assert re.match(r"xs got [5-9], an input id outside the cell's vocabulary; want ", of_update)
        assert turns.startswith("devices got processes [0, 1, 0, 1]; want the devices of each process beside")
        assert lanes == "batch got 3 lanes, which 2 devices do not divide; want a multiple of 2, the nearest is 4"
        assert found["gathers"] == [1, True]


def test_processes_on_loopback_listen_to_this_machine_alone(pair):
    for found in pair[0]:
        assert all(re.match(r"127\.0\.0\.1:|\[::ffff:127\.0\.0\.1\]:", address) for address in found["listening"])


def test_a_busy_process_0_ends_nothing_and_a_killed_process_ends_the_other_in_one_line(pair):
    found, ((_, err, code), (_, _, killed)) = pair
    assert found[1]["busy"] > TIMEOUT + 1
    assert (code, killed) == (1, -signal.SIGKILL)
    assert err.splitlines()[-1] == (
        f"error: process 1 of 2 has given no sign of life for {TIMEOUT} s, the --timeout: it was killed or stopped, or "
        "its machine cannot be reached; start all processes again with --resume"
    )


def test_wrong_addresses_and_ports_are_refused_in_one_line():
    for address in ("", "host", "host:", "host:x", "host:99999"):
        refused(lambda: join_processes(address, 2), f"--coordinator got {address!r}; want HOST:PORT, such as")
    refused(lambda: join_processes("127.0.0.1:1", 2, 2), "--process got 2 of 2; want a number in [0, 2)")
    refused(lambda: join_processes("127.0.0.1:1", 2, 1, timeout=0), "--timeout got 0; want seconds, at least 1")
    nobody = f"127.0.0.1:{free_port()}"
    refused(
        lambda: join_processes(nobody, 2, 1, timeout=1),
        f"--coordinator got {nobody}, where process 0 did not answer within --timeout 1 s (",
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        refused(lambda: join_processes(busy, 2, 0), f"--coordinator got {busy}, a port that cannot be opened (Address")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--processes 2", "--coordinator got '' with --processes 2; want both or none, such as"),
        ("--coordinator 127.0.0.1:5 --distributed", "--distributed and --coordinator got both; want one of them"),
        ("--process 1", "--process got 1 of 1; want less, as the first is 0"),
        ("--devices -1", "--devices got -1; want 0 or a positive number"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, message):
    refused(lambda: options_of(ParallelOptions, *words.split()), message)


def test_processes_with_other_options_are_refused_with_the_name_of_the_option(monkeypatch):
    class Store:
        def key_value_set(self, key, value):
            assert json.loads(value)["hidden_size"] == 16

        def blocking_key_value_get(self, key, timeout):
            return json.dumps({"hidden_size": 17, "seed": 0})

    monkeypatch.setattr("rnn_jax.parallel.processes.store", Store)
    joined = join_processes()._replace(total=2)
    refused(
        lambda: agree(joined, {"hidden_size": 16, "seed": 0}),
        "--hidden-size got 16 in process 0 and 17 in process 1; want the same in all",
    )


def test_a_cpu_has_one_device_for_each_core_where_they_divide_the_batch_and_win():
    large = ParallelOptions(batch_size=32)
    assert default_devices(large, 256, cores=2) == 2
    assert default_devices(ParallelOptions(batch_size=33), 256, cores=2) == 1
    assert default_devices(ParallelOptions(batch_size=8), 16, cores=2) == 1
    assert default_devices(ParallelOptions(batch_size=36, processes=2), 256, cores=8) == 1


def test_one_device_splits_nothing():
    machines, state = Machines(), loopback.keeping.init(jax.random.key(0), (loopback.B,))
    assert machines.learner(loopback.keeping) is loopback.keeping
    assert machines.place(state) is state
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (machines.gather(state), state)), strict=True))
    assert machines.own_lanes(loopback.stream())[0].shape == (200, 4, loopback.B)
