"""Two processes of a run as two threads, with a store of their own in place of that of JAX's runtime."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from rnn_jax.parallel import Processes
from rnn_jax.parallel.messages import alone

PATIENCE = 20  # seconds for a message


class FakeStore:
    """The key-value store of the runtime, as far as it is used."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.changed = threading.Condition()

    def key_value_set(self, key: str, value: str, *, allow_overwrite: bool = False) -> None:
        with self.changed:
            assert allow_overwrite or key not in self.values
            self.values[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key: str, timeout: int) -> str:
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.values, min(timeout / 1000, PATIENCE)), key
            return self.values[key]

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        with self.changed:
            return [item for item in self.values.items() if item[0].startswith(folder)]

    def key_value_delete(self, key: str) -> None:
        with self.changed:
            self.values = {name: value for name, value in self.values.items() if not name.startswith(f"{key}/")}


def processes(number: int, total: int = 2, timeout: float = 5.0) -> Processes:
    """The processes of a run, of which this is one."""
    return alone(timeout)._replace(number=number, total=total)


def together(patch: pytest.MonkeyPatch, f: Callable[[Processes], Any], total: int = 2) -> list[Any]:
    """The results of a function in each process, or what it raised."""
    store = FakeStore()
    results: list[Any] = [None] * total
    patch.setattr("rnn_jax.parallel.runtime.store", lambda: store)

    def work(number: int) -> None:
        try:
            results[number] = f(processes(number, total))
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(total)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    return results
