"""Two processes on loopback: the numbers of one device, and a clear end; signs of life and messages by a fake store."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rnn_jax.parallel import agree, exchange, from_first, join_processes, leave, runtime, signs
from rnn_jax.parallel.messages import KEPT, alone
from rnn_jax.parallel.processes import address_of, end_with_python, is_loopback, note_errors, refused_by_coordinator
from tests import loopback
from tests.fake_store import FakeStore, processes, together
from tests.laboratory import refused
from tests.loopback import TIMEOUT, free_port


def start(host, end, folder):
    """Two processes that run."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, loopback.__file__, f"{host}:{free_port(host.strip('[]'))}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env}
    return [subprocess.Popen([*command, str(number), str(folder), end], **pipes) for number in (0, 1)]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Output, errors and exit code of two pairs: of one a process is killed, of the other it calls ``sys.exit``."""
    hosts = {"kill": "127.0.0.1", "exit": "[::1]" if Path("/proc/net/if_inet6").exists() else "localhost"}
    pairs = {end: start(host, end, tmp_path_factory.mktemp(end)) for end, host in hosts.items()}
    return {end: [(*p.communicate(timeout=300), p.returncode) for p in pair] for end, pair in pairs.items()}


@pytest.fixture(scope="module")
def found(ended):
    return [json.loads(re.findall(r"^\{.*\}$", out, re.MULTILINE)[-1]) for out, _, _ in ended["kill"]]


def test_two_processes_compute_the_numbers_of_one_device(found):
    for number, of in enumerate(found):
        assert of["lanes"] == [4 * number, 4 * number + 4]
        assert of["numbers"] < 1e-6
        assert abs(of["losses"][0] - of["losses"][1]) < 1e-4
        assert of["losses"][1] < 1.0
        assert of["squares"] == [0.0, 1.0, 4.0, 9.0, 16.0]
        assert of["value"] == {"of": 0}


def test_each_process_checks_its_own_lanes_and_gathers_a_tree_by_one_program(found):
    for each in found:
        of_update, of_fit, turns, lanes = each["refused"]
        assert of_update == of_fit
        assert re.match(r"xs got [5-9], an input id outside the cell's vocabulary; want ", of_update)
        assert turns.startswith("devices got processes [0, 1, 0, 1]; want the devices of each process beside")
        assert lanes == "batch got 3 lanes, which 2 devices do not divide; want a multiple of 2, the nearest is 4"
        assert each["gathers"] == [1, True]


def test_two_processes_compute_each_block_of_a_sweep_once(found):
    assert found[0]["sweep"]["computed"] == ["ones", "same", "squares"]
    results = {"ones": [1.0] * 5, "same": [0.0, 1.0, 2.0, 3.0, 4.0], "squares": [0.0, 1.0, 4.0, 9.0, 16.0]}
    assert found[0]["sweep"]["found"] == results
    assert found[1]["sweep"] == {"computed": [], "found": {name: results[name] for name in ("same", "squares")}}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux lists its sockets there")
def test_processes_on_loopback_listen_to_this_machine_alone(found):
    for of in found:
        assert of["listening"]
        assert {*of["listening"]} <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_a_busy_process_0_ends_nothing_and_a_killed_process_ends_the_other_in_one_line(ended, found):
    (_, err, code), (_, _, killed) = ended["kill"]
    assert found[1]["waited"] > TIMEOUT + 1
    assert (code, killed) == (1, -signal.SIGKILL)
    assert err.splitlines()[-1] == (
        f"error: process 1 of 2 has given no sign of life for {TIMEOUT} s, the --timeout: it was killed or stopped, or "
        "its machine cannot be reached; start all processes again with --resume"
    )


def test_a_process_that_exits_without_leaving_keeps_its_code_and_ends_the_others(ended):
    (_, err, code), (_, _, exited) = ended["exit"]
    assert (code, exited) == (1, 3)
    assert err.splitlines()[-1] == (
        "error: process 1 of 2 ended before the run did: it did not call leave; start all processes again with --resume"
    )


def test_wrong_addresses_and_ports_are_refused_in_one_line():
    for address in ("", "host", "host:", "host:x", "host:99999", "host:0", "http://x:80", "::1:80", "[10.0.0.1]:80"):
        refused(lambda: join_processes(address, 2, 1), f"--coordinator got {address!r}; want HOST:PORT, such as")
    refused(lambda: join_processes("127.0.0.1:1", 2, 2), "--process got 2 of 2; want a number in [0, 2)")
    refused(lambda: join_processes("127.0.0.1:1", 2, 1, timeout=4.9), "--timeout got 4.9; want seconds, at least 5")
    refused(lambda: join_processes("127.0.0.1:1", 2, 1, start_timeout=-1), "--start-timeout got -1; want seconds, or 0")
    for host in ("127.0.0.1", "localhost"):
        nobody = f"{host}:{free_port()}"
        refused(
            lambda: join_processes(nobody, 2, 1, start_timeout=0.5),
            f"--coordinator got {nobody}, where process 0 did not answer within 0.5 s, the --start-timeout (",
        )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        refused(lambda: join_processes(busy, 2, 0), f"--coordinator got {busy}, a port that cannot be opened (Address")


def test_addresses_of_both_kinds_have_a_host_and_a_port():
    assert address_of("[::1]:80") == ("::1", 80)
    assert address_of("char-lm-0.char-lm:65535") == ("char-lm-0.char-lm", 65535)
    assert [is_loopback(host) for host in ("localhost", "127.0.0.9", "::1", "10.0.0.1", "node1", "")] == [
        1,
        1,
        1,
        0,
        0,
        0,
    ]


def test_outside_a_cluster_detection_is_refused(monkeypatch):
    def no_cluster(**arguments):
        assert "coordinator_address" not in arguments
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", no_cluster)
    refused(
        lambda: join_processes(detect=True),
        "--distributed got no cluster that JAX knows (coordinator_address should be defined.); want Slurm, Open MPI or",
    )


class EndedError(BaseException):
    """In place of the end of this process."""


@pytest.fixture
def endings(monkeypatch):
    """Lines and exit codes with which this process would end."""

    def end(joined, reason, code=1):
        raise EndedError(reason, code)

    for module in ("signs", "processes"):
        monkeypatch.setattr(f"rnn_jax.parallel.{module}.end_now", end)


class Clock:
    """A clock that only waiting moves on; every time, ``events`` are called with it."""

    def __init__(self, events, until):
        self.now, self.events, self.until = 0.0, events, until

    def monotonic(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds
        self.events(self)
        return self.now > self.until


def watched(monkeypatch, number, events, until=60.0, timeout=5.0):
    """When, and with which line, a process of three ends; None if it does not."""
    clock = Clock(lambda clock: events(clock, last_seen), until)
    last_seen = dict.fromkeys(range(3), 0.0)
    monkeypatch.setattr(signs, "time", clock)
    try:
        signs.watch_signs(processes(number, 3, timeout)._replace(leaving=clock), last_seen)
    except EndedError as end:
        return clock.now, end.args[0].partition(" has given")[0]
    return None


def answers_of(*others, until=1e9):
    """Signs of these processes, each second, until a time."""

    def events(clock, last_seen):
        if clock.now % 1 == 0 and clock.now <= until:
            last_seen |= dict.fromkeys(others, clock.now)

    return events


@pytest.mark.parametrize("timeout", [5.0, 7.0])
def test_no_process_is_silent_that_gives_a_sign_each_second(monkeypatch, endings, timeout):
    assert watched(monkeypatch, 1, answers_of(0, 2), timeout=timeout) is None
    assert watched(monkeypatch, 1, answers_of(0), timeout=timeout) == (timeout + 1, "process 2 of 3")


def test_while_process_0_does_not_answer_it_is_the_one_that_is_named(monkeypatch, endings):
    def events(clock, last_seen):
        answers_of(0, until=10)(clock, last_seen)
        answers_of(2, until=9)(clock, last_seen)  # its last sign is a beat older

    assert watched(monkeypatch, 1, events) == (15.5, "process 0 of 3")
    assert watched(monkeypatch, 0, answers_of(0, 1)) == (6.0, "process 2 of 3")


def test_a_process_that_was_stopped_itself_does_not_name_the_others(monkeypatch, endings):
    def events(clock, last_seen):
        clock.now += 30 * (clock.now == 10)
        answers_of(0, 2)(clock, last_seen)

    assert watched(monkeypatch, 1, events) is None


def test_a_process_ends_after_another_one_with_its_code_and_reason(monkeypatch, endings):
    store = FakeStore()
    monkeypatch.setattr(runtime, "store", lambda: store)
    for code, shown, ours in ((2, " with exit code 2", 2), (130, " with exit code 130", 1), (None, "", 1)):
        store.key_value_set("alive/1", signs.last_sign(code, "--out got x"), allow_overwrite=True)
        with pytest.raises(EndedError) as end:
            signs.give_signs(processes(0), {0: 0.0, 1: 0.0})
        assert end.value.args == (f"process 1 of 2 ended before the run did{shown}: --out got x", ours)
        assert store.values["alive/0"].startswith(signs.ENDED)


def test_a_process_that_left_ends_nothing(monkeypatch, endings):
    assert together(monkeypatch, signs.give_last_sign) == [True, True]
    joined = processes(0)
    runtime.store().key_value_set("alive/0", "3", allow_overwrite=True)
    last_seen = {0: 0.0, 1: 0.0}
    joined.leaving.set()
    signs.give_signs(joined, last_seen)
    assert last_seen[1] > 0


def test_the_end_of_process_0_does_not_abort_a_process_that_ends_by_itself(monkeypatch):
    order = []

    class Store(FakeStore):
        def key_value_set(self, key, value, *, allow_overwrite=False):
            order.append(key)
            raise RuntimeError("process 0 has gone")

    monkeypatch.setattr(runtime, "store", Store)
    monkeypatch.setattr(runtime, "hold_aborts", lambda: order.append("no abort"))
    assert not signs.give_last_sign(processes(1), signs.last_sign(2, "--out got x"))
    assert order == ["no abort", "alive/1"]


def test_an_error_of_an_exchange_waits_for_the_process_that_is_gone(monkeypatch, endings):
    store = FakeStore()
    monkeypatch.setattr(runtime, "store", lambda: store)
    monkeypatch.setattr(signs, "time", SimpleNamespace(sleep=lambda seconds: None))
    jax_error = type("JaxRuntimeError", (RuntimeError,), {})
    for error in (
        ValueError("Gloo all-reduce failed"),
        jax_error("NCCL error"),
        jax_error("UNAVAILABLE: reset by peer"),
    ):
        with pytest.raises(EndedError) as end:
            signs.awaited_end(processes(1), error)
        assert end.value.args[0].startswith("an exchange between processes failed, though all give signs of life (")
    for error in (ValueError("--out got x"), OSError("Connection refused"), jax_error("INTERNAL: custom call")):
        signs.awaited_end(processes(1), error)
    signs.awaited_end(alone(), ValueError("Gloo all-reduce failed"))


def test_only_wrong_use_is_not_worth_another_start(monkeypatch):
    lines = []

    def end(code):
        raise EndedError(code)

    monkeypatch.setattr(signs, "os", SimpleNamespace(write=lambda _, line: lines.append(line.decode()), _exit=end))
    for code in (2, 1):
        with pytest.raises(EndedError, match=str(code)):
            signs.end_now(alone()._replace(before_end=[lambda: lines.append("recorded")]), "--out got x", code)
    again = "error: --out got x; start all processes again with --resume\n"
    assert lines == ["recorded", "error: --out got x\n", "recorded", again]


def test_the_end_of_python_without_leave_sends_code_and_reason(monkeypatch):
    signs_sent, codes = [], []
    monkeypatch.setattr("rnn_jax.parallel.processes.give_last_sign", lambda joined, sign: signs_sent.append(sign))
    monkeypatch.setattr(runtime, "abandon", lambda: codes.append("that of Python"))
    monkeypatch.setattr("rnn_jax.parallel.processes.os._exit", codes.append)
    errors = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: sys.exit(2))
    note_errors(processes(1), errors)
    with pytest.raises(SystemExit):
        sys.excepthook(ValueError, ValueError("--seed got 3"), None)
    end_with_python(processes(1), errors)
    end_with_python(processes(1), [])
    assert signs_sent == [signs.last_sign(2, "--seed got 3"), signs.last_sign(None, "it did not call leave")]
    assert codes == [2, "that of Python"]
    left = processes(1)
    left.leaving.set()
    end_with_python(left, [])
    assert len(signs_sent) == 2
    leave(alone())


def test_a_number_that_another_process_has_is_named(monkeypatch, endings):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr(runtime, "coordinator_address", lambda: address)
        with pytest.raises(EndedError, match=r"^\('--process got 1, which process 0 refused"):
            refused_by_coordinator(1, "--coordinator got x")
    with pytest.raises(EndedError, match="where process 0 ended while this process joined"):
        refused_by_coordinator(1, "--coordinator got x")


def test_processes_with_other_options_are_refused_with_the_name_of_the_option(monkeypatch):
    both = together(monkeypatch, lambda joined: agree(joined, {"--hidden-size": 16 + joined.number, "--seed": 0}))
    assert [str(error) for error in both] == [
        "--hidden-size got 16 in process 0 and 17 in process 1; want the same in all",
        "--hidden-size got 17 in process 1 and 16 in process 0; want the same in all",
    ]
    assert together(monkeypatch, lambda joined: agree(joined, {"--seed": 0}), total=3) == [None] * 3


def test_messages_wait_for_a_slow_process_0_and_old_ones_are_deleted(monkeypatch):
    def work(joined):
        if joined.number == 0:
            time.sleep(0.3)
        found = [from_first(joined, lambda n=n: n * (joined.number + 1)) for n in range(KEPT + 5)]
        return found == [*range(KEPT + 5)], exchange(joined, joined.number)

    assert together(monkeypatch, work, total=3) == [(True, {1: 1, 2: 2}), (True, {0: 0}), (True, {0: 0})]
    assert len(runtime.store().values) < KEPT + 10
    assert exchange(alone(), 3) == {}
    assert from_first(alone(), lambda: 3) == 3
