"""Several processes that work as one, on ``jax.distributed``: they join, tell each other, and end together.

JAX's runtime is not fault tolerant. A process that was killed leaves the others in a collective that never ends, and so
does one that is stopped. Here each process gives a sign of life every second, by a thread of its own, to the key-value
store of the runtime in process 0. A process that sees no sign of another for ``timeout`` seconds names it and ends with
exit code 1. A process that is only busy, such as with a slow disk, goes on giving signs.
"""

import atexit
import contextlib
import ctypes
import ipaddress
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, NoReturn

import jax
from jax._src import distributed
from jax._src.lib import _jax as runtime  # pyright: ignore[reportPrivateImportUsage]

from rnn_jax.machinery.checks import require_number, require_positive

__all__ = ["Processes", "agree", "alone", "from_first", "join_processes", "leave"]

BEAT = 1.0
"""Seconds between two signs of life."""
LONG = 10**9
"""Milliseconds that a process waits for the next word of process 0: until that one ends, which its signs show."""
ENDED, LEFT = "ended", "left"
"""The last sign of a process that ended before the run did, and of one that has nothing more to do."""


class Processes(NamedTuple):
    """The processes of a run, as one of them sees them."""

    number: int = 0
    """Of this process; process 0 alone writes files."""
    total: int = 1
    timeout: float = 20.0
    """Seconds without a sign of life of a process after which the others end."""
    words: Iterator[int] = itertools.count()
    """Numbers of what process 0 tells the others."""
    leaving: threading.Event = threading.Event()
    """Set when this process leaves."""


def alone() -> Processes:
    """The one process of a run without others."""
    return Processes()


def join_processes(
    coordinator: str = "", processes: int = 1, process: int = 0, *, timeout: float = 20.0, detect: bool = False
) -> Processes:
    """Joins the processes of a run, before the first array is made; all devices of all are then in ``jax.devices()``.

    Args:
        coordinator: ``HOST:PORT`` of process 0. On a loopback address, such as 127.0.0.1, no port is open to others.
        processes: their number.
        process: the number of this one, from 0 on.
        timeout: seconds for which the others are awaited, and after which a silent one ends all.
        detect: whether JAX finds all this by itself, under Slurm, Open MPI or Kubernetes.

    Raises:
        ValueError: for an address that is none, a number outside the processes, or a port in use; for a process 0 that
            does not answer within the timeout; with detect, outside a cluster that JAX knows.
    """
    require_positive(processes=processes)
    require_number("--timeout", timeout, lambda s: 1 <= s <= 1e6, "seconds, at least 1")
    arguments: dict[str, Any] = {}
    if not detect:
        if processes == 1:
            return alone()._replace(timeout=timeout)
        if not 0 <= process < processes:
            raise ValueError(f"--process got {process} of {processes}; want a number in [0, {processes})")
        host, port = address_of(coordinator)
        require_free_port(coordinator, host, port) if process == 0 else require_answer(coordinator, host, port, timeout)
        arguments = {"coordinator_address": f"{host}:{port}", "num_processes": processes, "process_id": process}
        if is_loopback(host):
            arguments["coordinator_bind_address"] = f"{host}:{port}"
    initialize(arguments, timeout, f"--coordinator got {coordinator or 'that of the cluster'}")
    joined = Processes(jax.process_index(), jax.process_count(), timeout, itertools.count(), threading.Event())
    last_seen = dict.fromkeys(range(joined.total), time.monotonic())
    for work in (give_signs, watch_signs):
        threading.Thread(target=work, args=(joined, last_seen), daemon=True).start()
    on_abort(joined)
    codes: list[int] = []
    note_errors(codes)
    atexit.register(end_with_python, joined, codes)
    return joined


def address_of(coordinator: str) -> tuple[str, int]:
    """Host and port of an address."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"--coordinator got {coordinator!r}; want HOST:PORT, such as 127.0.0.1:12345")
    return ("127.0.0.1" if host == "localhost" else host), int(port)


def is_loopback(host: str) -> bool:
    """Whether a host is an address of this machine alone."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def require_free_port(coordinator: str, host: str, port: int) -> None:
    """Raises a ValueError if process 0 cannot open its port."""
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host if is_loopback(host) else "", port))
        except OSError as error:
            raise ValueError(
                f"--coordinator got {coordinator}, a port that cannot be opened ({error.strerror}); want a free one"
            ) from None


def require_answer(coordinator: str, host: str, port: int, timeout: float) -> None:
    """Raises a ValueError if process 0 does not answer in time."""
    begin, tries, last = time.monotonic(), 0, "no answer"
    while (left := timeout - (time.monotonic() - begin)) > 0:
        tries += 1
        try:
            socket.create_connection((host, port), timeout=left).close()
            return
        except OSError as error:
            last = error.strerror or str(error)
            time.sleep(min(0.25, left))
    raise ValueError(
        f"--coordinator got {coordinator}, where process 0 did not answer within --timeout {timeout:g} s "
        f"({tries} tries to connect, the last: {last}); want the address of a process 0 that has started"
    )


def initialize(arguments: dict[str, Any], timeout: float, got: str) -> None:
    """``jax.distributed.initialize``, with an end in one line if not all processes come in time.

    JAX itself would abort the process, so a timer of our own comes first.
    """
    jax.config.update("jax_enable_preemption_service", False)  # which would hold SIGTERM back
    waited = f"{got}, where not all processes came within --timeout {timeout:g} s; want every process to be started"
    timer = threading.Timer(timeout, partial(end_now, waited, 2))
    timer.daemon = True
    timer.start()
    later = int(timeout) + 100
    gloo = runtime.make_gloo_tcp_collectives
    bind = arguments.get("coordinator_bind_address")
    try:
        if bind:  # gloo listens on the address of the host's name otherwise
            runtime.make_gloo_tcp_collectives = partial(gloo, hostname=bind.rpartition(":")[0])
        jax.distributed.initialize(
            **arguments, initialization_timeout=later, heartbeat_timeout_seconds=later, shutdown_timeout_seconds=10
        )
        jax.devices()
    except (ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())[:200]
        known = f"--distributed got no cluster that JAX knows ({line}); want Slurm, Open MPI or Kubernetes, or"
        by_hand = "--coordinator HOST:PORT --processes N --process I"
        raise ValueError(f"{got}: {line}" if arguments else f"{known} {by_hand}") from None
    finally:
        runtime.make_gloo_tcp_collectives = gloo
        timer.cancel()


def store() -> Any:
    """The key-value store of the runtime."""
    return distributed.global_state.client


def give_signs(joined: Processes, last_seen: dict[int, float]) -> None:
    """Gives signs of life, and notes when those of the others change; ends this process if another one has ended."""
    signs: dict[str, str] = {}
    for beat in itertools.count():
        with contextlib.suppress(Exception):  # process 0 does not answer: it is not seen
            store().key_value_set(f"alive/{joined.number}", str(beat), allow_overwrite=True)
            found = dict(store().key_value_dir_get("alive/"))
            last_seen[0] = time.monotonic()
            for name, sign in found.items():
                other = int(name.rpartition("/")[2])
                if sign == ENDED and not joined.leaving.is_set():
                    end_now(f"process {other} of {joined.total} ended before the run did, with a message of its own")
                if sign == LEFT or signs.get(name) != sign:
                    last_seen[other] = time.monotonic()
            signs = found
        if joined.leaving.wait(BEAT):
            return


def watch_signs(joined: Processes, last_seen: dict[int, float]) -> None:
    """Ends this process when there was no sign of another one for too long."""
    before = time.monotonic()
    while not joined.leaving.wait(BEAT / 2):
        now = time.monotonic()
        if now - before > joined.timeout / 2:  # this process itself was stopped, or its machine slept
            last_seen.update(dict.fromkeys(last_seen, now))
        before = last_seen[joined.number] = now
        silent = [other for other, seen in last_seen.items() if now - seen > joined.timeout]
        if silent:
            end_now(
                f"process {silent[0]} of {joined.total} has given no sign of life for {joined.timeout:g} s, the "
                "--timeout: it was killed or stopped, or its machine cannot be reached"
            )


def end_now(reason: str, code: int = 1) -> NoReturn:
    """Ends this process with one line, whatever its other threads wait for."""
    again = "; start all processes again with --resume" if code == 1 else ""
    for last in (*BEFORE_END, sys.stdout.flush):
        with contextlib.suppress(Exception):
            last()
    os.write(2, f"error: {reason}{again}\n".encode())
    os._exit(code)


BEFORE_END: list[Callable[[], None]] = []
"""Functions that are called before this process ends because of another one."""


def awaited_end(joined: Processes, error: BaseException) -> str | None:
    """The message for an error of a collective, whose cause is another process; None for any other error.

    Waits until the signs of life show which process is gone, which then ends this one.
    """
    if joined.total == 1 or "gloo" not in str(error).lower():
        return None
    time.sleep(joined.timeout + 5)
    return "another process was lost, and came back; start all processes again with --resume"


def on_abort(joined: Processes) -> None:
    """From now on this process ends with one line where JAX's runtime aborts it, as it does when process 0 is gone."""

    def handler(_: int) -> None:
        end_now(f"the runtime of JAX gave up (see above): process 0 of {joined.total} is gone")

    kept = ctypes.CFUNCTYPE(None, ctypes.c_int)(handler)
    HELD.append(kept)
    ctypes.CDLL(None).signal(signal.SIGABRT, kept)


HELD: list[Any] = []
"""Handlers of signals, which must not be freed."""


def from_first(joined: Processes, value: Callable[[], Any]) -> Any:
    """The value that process 0 computes, in every process; all must call it in the same order.

    The others wait as long as process 0 is alive.

    Args:
        joined: the processes.
        value: called in process 0 alone; returns what JSON can hold.
    """
    if joined.total == 1:
        return value()
    number = next(joined.words)
    if joined.number == 0:
        found = value()
        store().key_value_set(f"word/{number}", json.dumps(found))
        if number >= 1000:
            store().key_value_delete(f"word/{number - 1000}")
        return found
    return json.loads(store().blocking_key_value_get(f"word/{number}", LONG))


def agree(joined: Processes, config: Mapping[str, Any]) -> None:
    """Raises a ValueError that names the first field in which this process and another one differ.

    Args:
        joined: the processes.
        config: the values that must be the same, by name; JSON holds them, or their text.
    """
    if joined.total == 1:
        return
    here = json.dumps(dict(config), default=str)
    store().key_value_set(f"config/{joined.number}", here)
    for other in range(joined.total):
        if other != joined.number and 0 in (other, joined.number):
            theirs = json.loads(store().blocking_key_value_get(f"config/{other}", int(1000 * joined.timeout)))
            ours = json.loads(here)
            for name in sorted(ours.keys() | theirs.keys()):
                if ours.get(name) != theirs.get(name):
                    raise ValueError(
                        f"--{name.replace('_', '-')} got {ours.get(name)!r} in process {joined.number} and "
                        f"{theirs.get(name)!r} in process {other}; want the same in all"
                    )


def leave(joined: Processes) -> None:
    """Leaves the others, who do the same: from now on no process ends with another one."""
    if joined.total == 1 or joined.leaving.is_set():
        return
    if wait_for_last_signs(joined, LEFT):
        jax.distributed.shutdown()


def wait_for_last_signs(joined: Processes, sign: str) -> bool:
    """Gives the last sign of this process, and waits for those of the others; whether all have left."""
    joined.leaving.set()
    with contextlib.suppress(Exception):
        store().key_value_set(f"alive/{joined.number}", sign, allow_overwrite=True)
        deadline = time.monotonic() + min(joined.timeout, 10.0)
        while time.monotonic() < deadline:
            signs = [last for _, last in store().key_value_dir_get("alive/")]
            if ENDED in signs and joined.number > 0:
                return False
            if len(signs) == joined.total and {*signs} <= {ENDED, LEFT}:
                return ENDED not in signs
            time.sleep(0.05)
    return False


def end_with_python(joined: Processes, codes: list[int]) -> None:
    """At the end of Python: leaves the others, or after an error tells them, and ends without the runtime of JAX.

    Args:
        joined: the processes.
        codes: the exit code after an error; empty if there was none.
    """
    if not codes:
        leave(joined)
    elif not joined.leaving.is_set():
        wait_for_last_signs(joined, ENDED)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(codes[0])


def note_errors(codes: list[int]) -> None:
    """From now on the exit code of an error that ends Python is added to a list."""
    hook = sys.excepthook

    def noting(kind: Any, error: Any, trace: Any) -> None:
        try:
            hook(kind, error, trace)
            codes.append(1)
        except SystemExit as stop:
            codes.append(stop.code if isinstance(stop.code, int) else 1)
            raise

    sys.excepthook = noting
