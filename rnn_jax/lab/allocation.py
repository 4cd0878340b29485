"""Memory that a process keeps, so that the arrays of the next run of a program need no fresh pages."""

import ctypes
import os
import platform
import re

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
"""Names of settings, as in ``malloc.h`` of glibc."""
SETTINGS = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: 2**24}
"""One heap for all threads; no block outside it; never made smaller (−1); made larger by at least 16 MiB at a time."""


def keep_freed_memory() -> bool:
    """Whether glibc keeps freed memory from now on, which this call asks for.

    XLA takes memory for the temporaries of a program at every run on a CPU. By default glibc gives large blocks back to
    the system, which then prepares each page again. Call this before the first array is made; it does not import JAX.
    The memory of the process then stays at its peak until the process ends. Nothing is done, and False returned, where
    the C library is not glibc, and where the user has chosen by himself: a variable ``MALLOC_…``, or one of
    ``glibc.malloc`` in ``GLIBC_TUNABLES`` other than ``hugetlb``, which goes well with this. Never raises an error.

    The GNU C Library Reference Manual, section "Malloc Tunable Parameters".
    """
    if _is_chosen_by_user() or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return {mallopt(name, value) for name, value in SETTINGS.items()} == {1}


def _is_chosen_by_user() -> bool:
    """Whether a variable of the environment says how glibc, or another ``malloc``, gives memory."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return any(name.startswith("MALLOC_") for name in os.environ) or (
        re.search(r"glibc\.malloc\.(?!hugetlb=)", tunables) is not None
    )
