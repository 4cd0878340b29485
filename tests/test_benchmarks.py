"""Benchmarks compare programs that compute the same numbers, and record their times."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench_memory import updates_of_char_lm
from benchmarks.report import command
from benchmarks.timing import compare, compile_program, require_equal

ROOT = Path(__file__).parent.parent


def test_every_benchmark_runs_quickly_and_writes_whole_records(tmp_path):
    line = [sys.executable, "-m", "benchmarks.all", "--quick", "--out", str(tmp_path / "r.jsonl")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert {record["benchmark"] for record in records} == {
        path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py")
    }
    assert "median ratio" in done.stdout
    for record in records:
        assert record["quick"]
        assert record["environment"]["jax"]
        assert record["figures"]["ratio"]["median"] > 0
        assert record["figures"]["ours"]["compile_seconds"] > 0


def test_wrong_use_exits_with_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks.all", "--quik"])
    with pytest.raises(SystemExit) as stopped:
        command()
    assert stopped.value.code == 2
    assert "quik" in "".join(capsys.readouterr())


def test_unequal_programs_are_not_compared():
    with pytest.raises(AssertionError, match="leaf 0 differs"):
        require_equal([1.0], [1.1], tolerance=1e-3)
    with pytest.raises(AssertionError, match="leaf 0 differs"):
        require_equal([float("nan")], [1.0], tolerance=1e-3)


def test_a_program_takes_as_long_as_itself_pair_by_pair():
    program = compile_program(lambda x: x + 1, 1.0)
    program.run()
    figures = compare(program, program, seconds=0.0, min_pairs=4)
    assert figures.pairs == 4
    assert figures.ours.seconds.minimum <= figures.ours.seconds.median


def test_the_updates_of_char_lm_are_all_made():
    state, info = updates_of_char_lm(B=2, H=4, T=3, updates=5).run()
    assert int(state.step) == 5
    assert (info.broken == -1).all()
