"""Messages between the processes of a run, through the key-value store of JAX's runtime in process 0."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from rnn_jax.parallel import runtime

__all__ = ["Processes", "agree", "alone", "exchange", "from_first"]

LONG = 10**9
"""Milliseconds that a process waits for a message: until the other one ends, which its signs of life show."""
KEPT = 1000
"""Messages after which an old one is deleted, and process 0 waits for the others."""


class Processes(NamedTuple):
    """The processes of a run, as one of them sees them."""

    number: int
    """Of this process; process 0 alone writes files."""
    total: int
    timeout: float
    """Seconds without a sign of life of a process after which the others end."""
    messages: Iterator[int]
    """Numbers of the messages, the same in all processes."""
    leaving: threading.Event
    """Set when this process leaves."""
    before_end: list[Callable[[], None]]
    """Functions that are called before this process ends because of another one."""


def alone(timeout: float = 20.0) -> Processes:
    """The one process of a run without others."""
    return Processes(0, 1, timeout, itertools.count(), threading.Event(), [])


def from_first(joined: Processes, value: Callable[[], Any]) -> Any:
    """The value that process 0 computes, in every process; all must call it in the same order.

    The others wait as long as process 0 is alive.

    Args:
        joined: the processes.
        value: called in process 0 alone; returns what JSON can hold.
    """
    if joined.total == 1:
        return value()
    number = next(joined.messages)
    if joined.number == 0:
        found = value()
        send(joined, number, found)
    else:
        found = received(number, 0)
    if number % KEPT == 0:  # else process 0 could delete what another one has not read
        exchange(joined, None)
    return found


def exchange(joined: Processes, value: Any) -> dict[int, Any]:
    """The values of all other processes in process 0, and that of process 0 in the others, by number of the process.

    All must call it in the same order. Each waits as long as the others are alive.

    Args:
        joined: the processes.
        value: of this process, which JSON can hold.
    """
    if joined.total == 1:
        return {}
    number = next(joined.messages)
    send(joined, number, value)
    others = range(1, joined.total) if joined.number == 0 else (0,)
    return {other: received(number, other) for other in others}


def agree(joined: Processes, config: Mapping[str, Any]) -> None:
    """Raises a ValueError that names the first value in which this process and another one differ.

    Args:
        joined: the processes.
        config: the values that must be the same, by name; JSON holds them, or their text.
    """
    ours = json.loads(json.dumps(dict(config), default=str))
    for other, theirs in exchange(joined, ours).items():
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                raise ValueError(
                    f"{name} got {ours.get(name)!r} in process {joined.number} and {theirs.get(name)!r} in process "
                    f"{other}; want the same in all"
                )


def send(joined: Processes, number: int, value: Any) -> None:
    """Sends the value of this process to the others."""
    runtime.store().key_value_set(f"message/{number}/{joined.number}", json.dumps(value))
    if joined.number == 0 and number >= KEPT:
        runtime.store().key_value_delete(f"message/{number - KEPT}")


def received(number: int, sender: int) -> Any:
    """The value that a process sends, or has sent, with a number."""
    return json.loads(runtime.store().blocking_key_value_get(f"message/{number}/{sender}", LONG))
