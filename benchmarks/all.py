"""Runs every benchmark of this folder: ``python -m benchmarks.all [--quick] [--out FILE]``."""

from importlib import import_module
from pathlib import Path

from benchmarks.report import command

if __name__ == "__main__":
    found = [*sorted(Path(__file__).parent.glob("bench_*.py")), Path("peers.py")]
    command(*(import_module(f"benchmarks.{path.stem}").run for path in found))
