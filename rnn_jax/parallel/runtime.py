"""The parts of JAX's distributed runtime that have no public name, all in one place.

``jax.distributed`` alone joins processes and shuts down. Its key-value store, the address at which Gloo listens, and
what happens when the runtime aborts a process can be reached only by names that another version of JAX may change.
"""

import atexit
import contextlib
import ctypes
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
from jax._src import api, distributed
from jax._src.lib import _jax as runtime  # pyright: ignore[reportPrivateImportUsage]

__all__ = ["abandon", "coordinator_address", "gloo_at", "hold_aborts", "on_abort", "store"]


def store() -> Any:
    """The key-value store, which process 0 holds for all."""
    return distributed.global_state.client


def coordinator_address() -> str:
    """``HOST:PORT`` of process 0, as this process knows it; empty before it joins."""
    return distributed.global_state.coordinator_address or ""


@contextlib.contextmanager
def gloo_at(host: str | None) -> Iterator[None]:
    """A context in which Gloo begins to listen at a host, and not at the address of this machine's name."""
    gloo = runtime.make_gloo_tcp_collectives
    try:
        if host:
            runtime.make_gloo_tcp_collectives = partial(gloo, hostname=host)
        yield
    finally:
        runtime.make_gloo_tcp_collectives = gloo


def on_abort(handler: Callable[[], None] | None) -> None:
    """From now on a function is called where the runtime aborts this process; with None, nothing is."""
    libc = ctypes.CDLL(None)
    if handler is None:
        libc.signal(signal.SIGABRT, None)
        return
    called = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: handler())
    keep_for_ever(called)
    libc.signal(signal.SIGABRT, called)


def hold_aborts() -> None:
    """From now on an abort of the runtime stops its own thread alone, so that this process can end in its own way."""
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGABRT, libc.pause)


def abandon() -> None:
    """From now on Python ends with its exit code at once: it does not wait for other processes, which may be gone.

    Neither JAX at its end, nor a destructor of C++, nor the runtime may wait for them, or abort this process.
    """
    atexit.unregister(api.clean_up)
    state = distributed.global_state
    keep_for_ever(state.client, state.service, *(device.client for device in jax.local_devices()))
    hold_aborts()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc
        libc.on_exit(libc._exit, None)


def keep_for_ever(*objects: Any) -> None:
    """Keeps objects even when Python ends."""
    for kept in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
