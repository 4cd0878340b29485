"""Signs of life: each process gives one every second, and ends when another one is silent, or has ended with an error.

JAX's runtime is not fault tolerant. A process that was killed leaves the others in a collective that never ends, and so
does one that is stopped. Here a thread of each process writes a new number into the key-value store of process 0 again
and again, and a second thread watches those of the others. A process that is only busy, such as with a slow disk, goes
on giving signs.
"""

import contextlib
import itertools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import NoReturn

from rnn_jax.parallel import runtime
from rnn_jax.parallel.messages import Processes

__all__ = ["SHORTEST", "awaited_end", "begin_signs", "end_now", "give_last_sign"]

BEAT = 1.0
"""Seconds between two signs of life."""
SHORTEST = 5 * BEAT
"""Seconds of the shortest timeout, in which several signs are given."""
ENDED, LEFT = "ended", "left"
"""How the last sign begins: of a process that ended before the run did, and of one that has nothing more to do."""
WRONG_USE = 2
"""The exit code after wrong use, which starting again does not mend."""
OF_OTHERS = re.compile("gloo|nccl", re.I)
OF_RUNTIME = re.compile("unavailable|deadline|aborted|cancelled|connection|socket|peer|coordination|heartbeat", re.I)
"""Texts of errors whose cause may be another process; the second one of errors of JAX alone."""


def begin_signs(joined: Processes) -> None:
    """Begins to give signs of life, and to watch those of the others."""
    last_seen = dict.fromkeys(range(joined.total), time.monotonic())
    for work in (give_signs, watch_signs):
        threading.Thread(target=work, args=(joined, last_seen), daemon=True).start()
    runtime.on_abort(partial(aborted, joined) if joined.number > 0 else None)


def give_signs(joined: Processes, last_seen: dict[int, float]) -> None:
    """Gives signs of life, and notes when those of the others change; ends this process if another one has ended."""
    signs: dict[int, str] = {}
    for beat in itertools.count():
        with contextlib.suppress(Exception):  # process 0 does not answer: nobody is seen
            set_sign(joined, str(beat))
            found = signs_of_all()
            for other, sign in found.items():
                if sign.startswith(ENDED) and other != joined.number and not joined.leaving.is_set():
                    end_after(joined, other, sign)
                if sign == LEFT or signs.get(other) != sign:
                    last_seen[other] = time.monotonic()
            last_seen[0] = time.monotonic()
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
        before, silent = now, silent_process(joined, last_seen, now)
        if silent is not None:
            end_now(
                joined,
                f"process {silent} of {joined.total} has given no sign of life for {joined.timeout:g} s, the "
                "--timeout: it was killed or stopped, or its machine cannot be reached",
            )


def silent_process(joined: Processes, last_seen: Mapping[int, float], now: float) -> int | None:
    """The process that has been silent for too long, if there is one.

    While process 0 does not answer, nothing can be known of the others: their silence counts until its last answer.

    Args:
        joined: the processes.
        last_seen: when the last sign of each came; of process 0, its last answer.
        now: the time.
    """
    answered = last_seen[0]
    if joined.number > 0 and now - answered > joined.timeout:
        return 0
    others = {other: seen for other, seen in last_seen.items() if other not in (0, joined.number)}
    longest = min(others, key=lambda other: others[other], default=0)
    return longest if longest and answered - others[longest] > joined.timeout else None


def send_end(joined: Processes, sign: str) -> None:
    """Sends the end of this process to the others, as far as process 0 still answers.

    If process 0 ends first, the runtime does not abort this process, which ends in its own way.
    """

    def send() -> None:
        with contextlib.suppress(Exception):
            set_sign(joined, sign)

    if joined.number > 0:
        runtime.hold_aborts()
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    sender.join(2 * BEAT)


def set_sign(joined: Processes, sign: str) -> None:
    """Writes the sign of this process."""
    runtime.store().key_value_set(f"alive/{joined.number}", sign, allow_overwrite=True)


def signs_of_all() -> dict[int, str]:
    """The last sign of each process."""
    return {int(name.rpartition("/")[2]): sign for name, sign in runtime.store().key_value_dir_get("alive/")}


def last_sign(code: int | None, reason: str = "") -> str:
    """The last sign of a process that ends before the run does, with its exit code, if known, and the reason."""
    return ENDED + json.dumps([code, reason])


def end_after(joined: Processes, other: int, sign: str) -> NoReturn:
    """Ends this process because another one has ended before the run did."""
    code, reason = json.loads(sign.removeprefix(ENDED))
    with_code = "" if code is None else f" with exit code {code}"
    why = f": {reason}" if reason else ", with a message of its own"
    ours = WRONG_USE if code == WRONG_USE else 1
    send_end(joined, last_sign(ours, f"process {other} ended"))
    end_now(joined, f"process {other} of {joined.total} ended before the run did{with_code}{why}", ours)


def end_now(joined: Processes | None, reason: str, code: int = 1) -> NoReturn:
    """Ends this process with one line, whatever its other threads wait for."""
    again = "" if code == WRONG_USE else "; start all processes again with --resume"
    for last in (*(joined.before_end if joined else ()), sys.stdout.flush):
        with contextlib.suppress(Exception):
            last()
    os.write(2, f"error: {reason}{again}\n".encode())
    os._exit(code)


def aborted(joined: Processes) -> None:
    """Ends a process other than 0 that the runtime of JAX aborts, as it does when process 0 is gone."""
    end_now(
        joined,
        f"the runtime of JAX aborted process {joined.number} of {joined.total} (see above); if process 0 has ended, "
        "its own message names the cause",
    )


def awaited_end(joined: Processes, error: BaseException) -> None:
    """Ends this process after an error whose cause is another process; returns after any other error.

    Waits until the signs of life show which process is gone, which ends this one.
    """
    line, of_jax = " ".join(str(error).split()), type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    if joined.total == 1 or joined.leaving.is_set():
        return
    if not (OF_OTHERS.search(line) or (of_jax and OF_RUNTIME.search(line))):
        return
    time.sleep(joined.timeout + 5)
    reason = f"an exchange between processes failed, though all give signs of life ({line[:200]})"
    send_end(joined, last_sign(1, reason))
    end_now(joined, reason)


def give_last_sign(joined: Processes, sign: str = LEFT) -> bool:
    """Gives the last sign of this process, and waits for those of the others; whether all have left."""
    joined.leaving.set()
    if sign != LEFT and joined.number > 0:  # process 0 alone must stay until the others have read its end
        send_end(joined, sign)
        return False
    with contextlib.suppress(Exception):
        set_sign(joined, sign)
        deadline = time.monotonic() + min(joined.timeout, 10.0)
        while time.monotonic() < deadline:
            signs = signs_of_all().values()
            have_ended = any(other.startswith(ENDED) for other in signs)
            if have_ended and joined.number > 0:
                return False
            if len(signs) == joined.total and all(other.startswith((ENDED, LEFT)) for other in signs):
                return not have_ended
            time.sleep(0.05)
    return False
