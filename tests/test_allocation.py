"""Freed memory that commands keep: no fresh pages for a block taken again, a bounded size, and who asks for it."""

import ctypes
import json
import os
import platform
import subprocess
import sys

import pytest

from benchmarks import report
from rnn_jax.lab import commands
from rnn_jax.lab.allocation import keep_freed_memory
from tests.scripts import ROOT, SCRIPTS, as_no_command

DOORS = [*SCRIPTS, *sorted((ROOT / "experiments" / "character_model").glob("*.py"))]
IS_GLIBC = platform.libc_ver()[0] == "glibc"
on_glibc = pytest.mark.skipif(not IS_GLIBC, reason="another C library, which is left alone")


def run_in_process(code, **variables):
    """What a script prints as JSON in a new process, without variables that the user may have set for ``malloc``."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith("MALLOC_") and n != "GLIBC_TUNABLES"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, env=kept | variables, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture
def unset(monkeypatch):
    """No variable that concerns ``malloc``, and no settings: a call says which it would make."""
    for name in [name for name in os.environ if name.startswith("MALLOC_")] + ["GLIBC_TUNABLES"]:
        monkeypatch.delenv(name, raising=False)
    made = {}

    class Library:
        def mallopt(self, name, value):
            made[name] = value
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    return made


def test_the_settings_are_made_on_glibc_alone(unset, monkeypatch):
    assert keep_freed_memory()
    assert unset == {-8: 1, -4: 0, -1: -1, -2: 2**24}
    unset.clear()
    for library in ("musl", ""):
        monkeypatch.setattr(platform, "libc_ver", lambda library=library: (library, ""))
        assert not keep_freed_memory()
    assert not unset


def test_a_library_without_the_function_and_a_system_without_such_libraries_are_no_errors(unset, monkeypatch):
    def raises(name):
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
    monkeypatch.setattr(ctypes, "CDLL", raises)
    assert not keep_freed_memory()


def test_a_setting_that_is_refused_is_reported(unset, monkeypatch):
    class Refuses:
        def mallopt(self, name, value):
            return int(name != -8)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Refuses())
    assert not keep_freed_memory()


@pytest.mark.parametrize(
    ("name", "value", "is_done"),
    [
        ("MALLOC_ARENA_MAX", "2", False),
        ("MALLOC_CONF", "background_thread:true", False),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=7", False),
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=2", False),
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1", True),
        ("GLIBC_TUNABLES", "glibc.cpu.x86_ibt=off", True),
        ("GLIBC_TUNABLES", "", True),
    ],
)
def test_the_choice_of_the_user_stays(name, value, is_done, unset, monkeypatch):
    monkeypatch.setenv(name, value)
    assert keep_freed_memory() == is_done
    assert bool(unset) == is_done


FAULTS = """
import json, resource
from rnn_jax.lab.allocation import keep_freed_memory

def faults(size=64 * 2**20):
    bytearray(size)  # writes zeros
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        bytearray(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(json.dumps([faults(), keep_freed_memory(), faults()]))
"""


@on_glibc
def test_a_large_block_that_is_freed_and_taken_again_needs_no_fresh_pages():
    fresh, is_done, kept = run_in_process(FAULTS)
    assert is_done
    assert fresh >= 5 * 32  # 64 MiB are 32 pages of the largest kind
    assert kept <= fresh / 10


SIZES = """
import json, random
from pathlib import Path
from rnn_jax.lab.allocation import keep_freed_memory

def peak_mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

done, rng, held, kept, before = keep_freed_memory(), random.Random(0), [b""] * 4, [], peak_mib()
for turn in range(200):
    held[turn % 4] = b""
    held[turn % 4] = bytearray(rng.randrange(2**10, 2**24))
    kept.append(bytearray(1000))  # stays, between the large ones
print(json.dumps([done, peak_mib() - before]))
"""


@on_glibc
def test_blocks_of_200_sizes_need_at_most_three_times_the_memory_that_is_in_use_at_once():
    is_done, growth = run_in_process(SIZES)
    assert is_done
    assert 16 <= growth <= 3 * 4 * 16  # MiB; all 200 together are 1.6 GiB


STARTS = """
import json, runpy, sys
from rnn_jax.lab import commands

found = {}

def stop():
    found[door] = "jax" in sys.modules
    raise SystemExit

commands.keep_freed_memory = stop
for door in DOORS:
    sys.argv = [door]
    try:
        runpy.run_path(door, run_name="__main__")
    except SystemExit:
        pass
print(json.dumps(found))
"""


def test_every_script_of_experiments_asks_for_it_before_jax_is_imported():
    found = run_in_process(STARTS.replace("DOORS", repr([*map(str, DOORS)])))
    assert found == {str(door): False for door in DOORS}


def test_benchmarks_ask_for_it_before_they_run_and_a_notebook_does_not(monkeypatch):
    made = []
    monkeypatch.setattr(commands, "keep_freed_memory", lambda: made.append("asked"))
    monkeypatch.setattr(report, "show", list)
    monkeypatch.setattr(sys, "argv", ["benchmarks.all"])
    report.command(lambda quick: made.append("run") or [])
    assert made == ["asked", "run"]
    monkeypatch.setattr(commands, "in_notebook", lambda: True)
    with as_no_command():
        commands.begin_command()
    assert made == ["asked", "run"]
