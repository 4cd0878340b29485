"""Benchmarks compare programs that compute the same numbers, and record their times."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.contenders import CONTENDERS
from benchmarks.report import command
from benchmarks.timing import compare, compile_program, memory_settings, require_equal
from rnn_jax.gradients import PROGRAMS
from rnn_jax.schedules import SCHEDULES

ROOT = Path(__file__).parent.parent


def test_every_benchmark_runs_quickly_and_writes_whole_records(tmp_path):
    line = [sys.executable, "-m", "benchmarks.all", "--quick", "--out", str(tmp_path / "r.jsonl")]
    home = {"KERAS_HOME": str(tmp_path / "keras")}  # else it writes in the user's home
    done = subprocess.run(line, cwd=ROOT, env=os.environ | home, capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    named = {path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py")}
    assert {record["benchmark"] for record in records} == named | {"peers"}
    assert "median ratio" in done.stdout
    for record in records:
        assert record["quick"]
        assert record["environment"]["jax"]
        if "figures" in record:
            assert record["figures"]["ratio"]["median"] > 0
            assert record["figures"]["ours"]["compile_seconds"] > 0
    peers = [record for record in records if record["benchmark"] == "peers"]
    assert [record["case"]["mode"] for record in peers] == ["forward", "forward+backward"]
    for record in peers:
        assert {*record["contenders"], *record["missing"]} == {*CONTENDERS}
        assert {"ours", "lax.scan", "lax.scan, unroll 8", "own cell", "flax nnx", "flax linen"} <= {
            *record["contenders"]
        }
        assert record["contenders"]["ours"]["ratio"] == 1.0
        assert record["floor_seconds"] == record["flops"] / record["flops_per_second"]
    scaling = [record for record in records if record["benchmark"] == "scaling"]
    assert {record["case"]["program"] for record in scaling} == {*SCHEDULES, *PROGRAMS, "streaming"}
    assert all(point["seconds"] > 0 for record in scaling for point in record["points"])


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


def test_the_record_of_memory_holds_the_settings_of_the_allocator_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1")
    assert memory_settings().settings == {
        "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1",
        "MALLOC_TRIM_THRESHOLD_": "1",
    }


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system does not report the memory")
@pytest.mark.parametrize("kept", [False, True])
def test_memory_that_stays_with_the_process_is_noticed(kept):
    large = str(2**30)
    settings = {"MALLOC_TRIM_THRESHOLD_": large, "MALLOC_MMAP_THRESHOLD_": large, "MALLOC_TOP_PAD_": "0"}
    line = [sys.executable, "-c", "from benchmarks.timing import memory_settings as m; print(m().keeps_freed)"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    env = clean | (settings if kept else {})
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(kept)
