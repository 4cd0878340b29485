"""Several processes that work as one, on ``jax.distributed``: they join before the first array is made, and leave."""

import atexit
import contextlib
import ipaddress
import itertools
import os
import re
import socket
import sys
import threading
import time
from functools import partial
from typing import Any, NoReturn

import jax

from rnn_jax.machinery.checks import require_number, require_positive
from rnn_jax.parallel import runtime
from rnn_jax.parallel.messages import Processes, alone
from rnn_jax.parallel.signs import SHORTEST, awaited_end, begin_signs, end_now, give_last_sign, last_sign

__all__ = ["address_of", "is_loopback", "join_processes", "leave"]

BY_HAND = "--coordinator HOST:PORT --processes N --process I"


def join_processes(
    coordinator: str = "",
    processes: int = 1,
    process: int = 0,
    *,
    timeout: float = 20.0,
    start_timeout: float = 0.0,
    detect: bool = False,
) -> Processes:
    """Joins the processes of a run, before the first array is made; all devices of all are then in ``jax.devices()``.

    Each of them must call ``leave`` at its end. One that ends without it ends the others with an error.

    Args:
        coordinator: ``HOST:PORT`` of process 0. On a loopback address, such as 127.0.0.1, no port is open to others.
        processes: their number.
        process: the number of this one, from 0 on.
        timeout: seconds after which a silent process ends all, at least 5.
        start_timeout: seconds for which the others are awaited at the start; 0 for those of ``timeout``.
        detect: whether JAX finds all this by itself, under Slurm, Open MPI or Kubernetes.

    Raises:
        ValueError: for an address that is none, a number outside the processes, or a port in use; for a process 0 that
            does not answer within the timeout; with detect, outside a cluster that JAX knows.
    """
    require_positive(processes=processes)
    require_number("--timeout", timeout, lambda s: SHORTEST <= s <= 1e6, f"seconds, at least {SHORTEST:g}")
    require_number("--start-timeout", start_timeout, lambda s: 0 <= s <= 1e6, "seconds, or 0 for those of --timeout")
    wait, option = (start_timeout, "--start-timeout") if start_timeout else (timeout, "--timeout")
    arguments: dict[str, Any] = {}
    if not detect:
        if processes == 1:
            return alone(timeout)
        if not 0 <= process < processes:
            raise ValueError(f"--process got {process} of {processes}; want a number in [0, {processes})")
        host, port = address_of(coordinator)
        require_free_port(coordinator, host, port) if process == 0 else require_answer(
            coordinator, host, port, wait, option
        )
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        arguments = {"coordinator_address": address, "num_processes": processes, "process_id": process}
        if is_loopback(host):
            arguments["coordinator_bind_address"] = address
    initialize(arguments, wait, option, f"--coordinator got {coordinator or 'that of the cluster'}")
    joined = Processes(jax.process_index(), jax.process_count(), timeout, itertools.count(), threading.Event(), [])
    begin_signs(joined)
    errors: list[tuple[int, str]] = []
    note_errors(joined, errors)
    atexit.register(end_with_python, joined, errors)
    return joined


def address_of(coordinator: str) -> tuple[str, int]:
    """Host and port of an address; the host of IPv6 is in brackets, such as ``[::1]:12345``."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", coordinator)
    right = found is not None and 0 < int(found[3]) < 65536
    if found is not None and found[1] is not None:
        with contextlib.suppress(ValueError):
            return str(ipaddress.IPv6Address(found[1])), int(found[3])
        right = False
    if found is None or not right:
        raise ValueError(f"--coordinator got {coordinator!r}; want HOST:PORT, such as 127.0.0.1:12345 or [::1]:12345")
    return found[2], int(found[3])


def is_loopback(host: str) -> bool:
    """Whether a host is an address of this machine alone.

    >>> is_loopback("localhost"), is_loopback("::1"), is_loopback("10.0.0.1")
    (True, True, False)
    """
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def require_free_port(coordinator: str, host: str, port: int) -> None:
    """Raises a ValueError if process 0 cannot open its port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((host if is_loopback(host) else "", port))
        except OSError as error:
            raise ValueError(
                f"--coordinator got {coordinator}, a port that cannot be opened ({error.strerror}); want a free one"
            ) from None


def require_answer(coordinator: str, host: str, port: int, timeout: float, option: str) -> None:
    """Raises a ValueError if process 0 does not answer in time; its name may become known only when it starts."""
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
        f"--coordinator got {coordinator}, where process 0 did not answer within {timeout:g} s, the {option} "
        f"({tries} tries to connect, the last: {last}); want the address of a process 0 that has started"
    )


def initialize(arguments: dict[str, Any], timeout: float, option: str, got: str) -> None:
    """``jax.distributed.initialize``, with an end in one line if not all processes come in time.

    JAX itself would abort the process, so a timer of our own comes first.
    """
    jax.config.update("jax_enable_preemption_service", False)  # which would hold SIGTERM back
    waited = f"{got}, where not all processes came within {timeout:g} s, the {option}; want every process to be started"
    timer = threading.Timer(timeout, partial(end_now, None, f"{waited}, each with its own number", 2))
    timer.daemon = True
    timer.start()
    later = int(timeout) + 100
    bind = arguments.get("coordinator_bind_address", "")
    runtime.on_abort(partial(refused_by_coordinator, arguments.get("process_id", "that of the cluster"), got))
    try:
        with runtime.gloo_at(bind.rpartition(":")[0].strip("[]")):
            jax.distributed.initialize(
                **arguments, initialization_timeout=later, heartbeat_timeout_seconds=later, shutdown_timeout_seconds=10
            )
            jax.devices()
    except (ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())[:200]
        known = (
            f"--distributed got no cluster that JAX knows ({line}); want Slurm, Open MPI or Kubernetes, or {BY_HAND}"
        )
        raise ValueError(f"{got}: {line}" if arguments else known) from None
    finally:
        timer.cancel()
        runtime.on_abort(None)


def refused_by_coordinator(number: int | str, got: str) -> NoReturn:
    """Ends this process, which the runtime of JAX aborts while it joins the others."""
    host, _, port = runtime.coordinator_address().rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except (OSError, ValueError):
        end_now(None, f"{got}, where process 0 ended while this process joined (see above)", 2)
    end_now(
        None,
        f"--process got {number}, which process 0 refused (see above): another process has this number, or another "
        "--processes; want a number of its own for each, below the --processes of all",
        2,
    )


def leave(joined: Processes) -> None:
    """Leaves the others, who do the same: from now on no process ends with another one."""
    if joined.total == 1 or joined.leaving.is_set():
        return
    if give_last_sign(joined):
        jax.distributed.shutdown()
        runtime.on_abort(None)
    else:
        runtime.abandon()


def end_with_python(joined: Processes, errors: list[tuple[int, str]]) -> None:
    """At the end of Python, in a process that has not left: sends its end to the others.

    Args:
        joined: the processes.
        errors: exit code and reason of an error; empty if there was none, as after ``sys.exit``, whose code is kept.
    """
    if joined.leaving.is_set():
        return
    code, reason = errors[0] if errors else (None, "")
    if code is None:
        runtime.abandon()
    give_last_sign(joined, last_sign(code, reason or "it did not call leave"))
    sys.stdout.flush()
    sys.stderr.flush()
    if code is not None:
        os._exit(code)


def note_errors(joined: Processes, errors: list[tuple[int, str]]) -> None:
    """From now on an error that ends Python is added to a list, as exit code and reason.

    An error whose cause is another process ends this one with a line that names it.
    """
    hook = sys.excepthook

    def noting(kind: Any, error: Any, trace: Any) -> None:
        reason = " ".join(str(error).split())[:300] or kind.__name__
        try:
            hook(kind, error, trace)
            awaited_end(joined, error)
            errors.append((1, reason))
        except SystemExit as stop:
            errors.append((stop.code if isinstance(stop.code, int) else 1, reason))
            raise

    sys.excepthook = noting
