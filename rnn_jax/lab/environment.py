"""The environment of a measurement: device, machine, versions, commit."""

import datetime
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax

__all__ = ["Environment", "environment"]

ROOT = Path(__file__).resolve().parents[2]


class Environment(NamedTuple):
    """The environment of a measurement."""

    device_kind: str
    platform: str
    cpu: str
    cores: int
    python: str
    jax: str
    jaxlib: str
    optax: str
    numpy: str
    commit: str | None
    """The git commit; None outside git."""
    dirty: bool | None
    """Whether tracked or new files, results apart, differ from that commit; None outside git."""
    date: str
    """UTC, ISO 8601."""


def environment() -> Environment:
    """The environment of this process: the default device of JAX, the machine, the versions, the commit."""
    device = jax.devices()[0]
    commit = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return Environment(
        device_kind=device.device_kind,
        platform=device.platform,
        cpu=cpu_model(),
        cores=os.cpu_count() or 1,
        python=platform.python_version(),
        jax=version("jax"),
        jaxlib=version("jaxlib"),
        optax=version("optax"),
        numpy=version("numpy"),
        commit=commit,
        dirty=None if status is None else status != "",
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def cpu_model() -> str:
    """The name of the processor, as the system gives it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def git(*args: str) -> str | None:
    """The output of ``git args`` in the folder of this project; None outside a repository, or without git."""
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(ROOT.parent)}
    try:
        done = subprocess.run(["git", *args], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
