"""Benchmarks against other libraries: what is compared, counted and timed, and the tables of the results."""

import contextlib
import itertools
import json
import math
import re
import sys
import warnings
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import bench_scaling, peers, tables
from benchmarks.bench_rollout import CELLS, MODES, by_hand
from benchmarks.contenders import Contender, MissingError, contenders_of, library, order
from benchmarks.floor import product_flops
from benchmarks.pictures import peers_figure, scaling_figure
from benchmarks.timing import Program
from rnn_jax import diagonal, lstm
from tests.laboratory import refused


@contextlib.contextmanager
def default_modes():
    """Without the strict modes of the tests, as a benchmark runs."""
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


SAME = Contender(lambda mode: Program(lambda: None, 0.0, None, None))
"""A contender with our equations, and params in another layout."""


@pytest.mark.parametrize("kind", ["vanilla", "gru"])  # the quick run of the benchmark does the same for the LSTM
def test_contenders_compute_our_numbers_where_they_have_our_equations(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with default_modes(), warnings.catch_warnings(action="ignore"):
        contenders, missing = contenders_of(peers.point_of(kind, 2, 4, 3, "scan"))
        for mode in MODES:
            results = {
                name: peers.arrays_of(mode, contender, contender.program(mode).run())
                for name, contender in contenders.items()
            }
            peers.require_sound(mode, contenders, results, 1e-4)
    assert next(iter(contenders)) == "ours"
    assert {name for name, c in contenders.items() if not c.same} <= {"flax nnx", "haiku"}
    assert missing["cuDNN by JAX"].endswith("needs cuDNN")


def test_a_library_that_is_not_installed_is_named():
    with pytest.raises(MissingError, match=r"^no_such_library is not installed$"):
        library("no_such_library")


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (np.ones((3, 2, 4)) * 1.1, "other: leaf 0 differs"),
        (np.ones((2, 3, 4)), r"other: got outputs of shape \(2, 3, 4\)"),
        (np.full((3, 2, 4), np.nan), "other: got numbers that are not finite"),
        (np.zeros((3, 2, 4)), "other: got numbers that are not finite, or only zeros"),
    ],
)
def test_a_contender_of_other_numbers_is_refused(theirs, message):
    ours = np.ones((3, 2, 4))
    with pytest.raises(AssertionError, match=message):
        peers.require_sound("forward", {"ours": SAME, "other": SAME}, {"ours": ours, "other": theirs}, 1e-4)


def test_gradients_in_another_layout_are_compared_by_the_squares_of_the_weights():
    rows = np.arange(12.0).reshape(4, 3)
    ours = {"W": rows, "b": np.ones(3)}
    same, other = {"W": rows[::-1].T, "b": np.full((2, 3), 7.0)}, {"W": rows + 1, "b": np.ones(3)}
    peers.require_sound("forward+backward", {"ours": SAME, "other": SAME}, {"ours": ours, "other": same}, 1e-4)
    with pytest.raises(AssertionError, match="other: leaf 0 differs"):
        peers.require_sound("forward+backward", {"ours": SAME, "other": SAME}, {"ours": ours, "other": other}, 1e-4)


@pytest.mark.parametrize("kind", CELLS)
def test_the_products_of_a_rollout_are_those_of_the_closed_form(kind):
    """T·B·G·H columns of I + H products each; backward twice as many, without those of the gradient of the inputs."""
    B, H, T = 2, 5, 7
    point, G = peers.point_of(kind, B, H, T, "scan"), CELLS[kind].gates
    with default_modes():
        found = {
            mode: product_flops(MODES[mode](by_hand(CELLS[kind])), tuple(point.params), point.xs) for mode in MODES
        }
    forward = 2 * T * B * (peers.I + H) * G * H
    assert found == {"forward": forward, "forward+backward": 3 * forward - 2 * T * B * peers.I * G * H}


def test_products_in_branches_and_calls_are_counted_and_those_of_loops_without_a_length_are_refused():
    a = jnp.ones((3, 4))

    def program(a):
        larger = jax.lax.cond(a[0, 0] > 0, lambda a: a @ a.T @ a, lambda a: a, a)
        return jax.jit(lambda b: b @ b.T)(larger)

    assert product_flops(program, a) == 3 * 2 * 3 * 4 * 3
    with pytest.raises(ValueError, match="while loop"):
        product_flops(lambda a: jax.lax.while_loop(lambda a: a[0, 0] < 0, lambda a: a + 1, a), a)


@pytest.mark.parametrize("number", [2, 5, 6, 11])
def test_in_the_rounds_each_contender_is_first_and_follows_each_other_equally_often(number):
    rounds = [order(turn, number) for turn in range(2 * number)]
    assert all(sorted(row) == list(range(number)) for row in rounds)
    assert {*Counter(row[0] for row in rounds).values()} == {2}
    followed = Counter(pair for row in rounds for pair in itertools.pairwise(row))
    assert len(followed) == number * (number - 1)
    assert {*followed.values()} == {2}


def test_every_contender_is_timed_once_in_each_round_and_its_ratio_is_taken_within_rounds(monkeypatch):
    runs = Counter()
    programs = {name: Program(lambda name=name: runs.update([name]), 0.5, None, None) for name in ("ours", "b", "c")}
    monkeypatch.setattr(
        peers, "seconds_of", lambda program: (program.run(), 0.1 if program is programs["c"] else 0.01)[1]
    )
    rounds = peers.time_rounds(list(programs.values()), seconds=0.0, min_rounds=4)
    assert runs == {"ours": 8, "b": 8, "c": 4}  # short programs warm up before
    np.testing.assert_array_equal(rounds, [[0.01, 0.01, 0.1]] * 4)
    times = peers.times_of(programs, np.array([[1.0, 2.0, 4.0], [10.0, 5.0, 40.0], [3.0, 6.0, 12.0]]))
    assert times["b"].ratio == 0.5  # of 0.5, 2 and 0.5, while the ratio of the medians is 0.6
    assert (times["c"].median, times["c"].minimum, times["c"].compile_seconds) == (12.0, 4.0, 0.5)


def test_an_unknown_schedule_is_wrong_use(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks.peers", "--schedule", "scann"])
    with pytest.raises(SystemExit) as stopped:
        peers.main()
    assert stopped.value.code == 2
    assert "--schedule got scann; want one of auto, scan" in "".join(capsys.readouterr())


def test_exponents_are_those_of_the_last_points_that_have_a_value():
    assert bench_scaling.exponent([1, 10, 100, 1000], [50.0, 3.0, 300.0, 30_000.0]) == pytest.approx(2.0)
    assert bench_scaling.exponent([10, 100, 1000], [1.0, 10.0, None]) == pytest.approx(1.0)
    assert bench_scaling.exponent([10, 100], [0, 10.0]) is None


def test_a_program_with_large_temporaries_is_not_run_and_the_record_says_why(monkeypatch):
    monkeypatch.setattr(bench_scaling, "LARGEST", 10.0)
    cell = lstm(bench_scaling.I, 4, dtype=jnp.float32)
    args = bench_scaling.arguments(cell, {"T": 5, "B": 1, "H": 4})
    point = bench_scaling.measure(bench_scaling.full(cell, bench_scaling.squares), args, 5, 0.0)
    assert point.seconds is None
    assert point.temp_bytes is not None
    assert point.temp_bytes > 10
    assert "more than 10" in str(point.skipped)


def test_a_schedule_is_measured_with_the_cells_that_it_takes(monkeypatch):
    def picky(task):
        if task.cell.coefficients is None:
            raise ValueError("cell got no coefficients; want some")
        return bench_scaling.SCHEDULES["scan"](task)

    monkeypatch.setitem(bench_scaling.SCHEDULES, "picky", picky)
    assert not bench_scaling.takes(lstm(bench_scaling.I, 4, dtype=jnp.float32), "picky")
    assert bench_scaling.takes(diagonal(bench_scaling.I, 4, dtype=jnp.float32), "picky")
    of_picky = [case["cell"] for case, _ in bench_scaling.gradients() if case["program"] == "picky"]
    assert of_picky == ["diagonal"]


ENVIRONMENT = {"device_kind": "cpu", "cpu": "A", "cores": 2, "jax": "1", "commit": None, "dirty": None, "date": "today"}


def peers_record(ratio: float, H: int, *, mode: str = "forward", quick: bool = False) -> dict:
    """A record of ours against ``lax.scan``."""
    of = {"minimum": 0.001, "compile_seconds": 1.0, "temp_bytes": None}
    return {
        "case": {"cell": "gru", "mode": mode, "B": 1, "H": H, "T": 100, "I": 64, "schedule": "scan"},
        "quick": quick,
        "contenders": {
            "ours": {"median": 0.002, "ratio": 1.0, **of},
            "lax.scan": {"median": 0.002 / ratio, "ratio": ratio, **of},
        },
        "missing": {"PyTorch": "torch is not installed"},
        "own_cell_ratio": 1.05,
        "flops": 1000,
        "flops_per_second": 2e6,
        "floor_seconds": 0.0005,
        "memory": {"settings": {}, "keeps_freed": None},
        "versions": {},
        "environment": ENVIRONMENT,
    }


def write(folder: Path, name: str, records: list[dict]) -> None:
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))


def rows_of(block: str, first: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in block.splitlines() if line.startswith(f"| {first}")]


def test_the_table_of_peers_has_geometric_means_and_losing_cases_in_bold(tmp_path):
    records = [peers_record(ratio, 64) for ratio in (0.9, 2.0, 7.0)]
    records += [peers_record(0.72, 128), peers_record(9.0, 64, quick=True)]
    write(tmp_path, "peers-cpu.jsonl", records)
    block = tables.peers_block(tmp_path)
    assert rows_of(block, "gru, forward |") == [["gru, forward", f"**{math.sqrt(2.0 * 0.72):.2f}**", "1.05", "1.00"]]
    assert "Runs: 1 to 3." in block
    assert rows_of(block, "forward") == [
        ["forward, B 1, H 64, T 100", "2", "4", "**2.00**", "1.05"],
        ["forward, B 1, H 128, T 100", "2", "4", "0.72", "1.05"],
    ]
    assert "PyTorch: torch is not installed" in block
    faster = peers_record(0.72, 128) | {"flops_per_second": 4e6}
    write(tmp_path, "peers-cpu.jsonl", [*records[:3], faster])
    assert [row[2] for row in rows_of(tables.peers_block(tmp_path), "forward")] == ["8", "8"]  # at the best rate of all
    later = records[0] | {"environment": ENVIRONMENT | {"commit": "b"}}
    write(tmp_path, "peers-cpu.jsonl", [records[0], later])
    refused(lambda: tables.peers_block(tmp_path), "peers-cpu.jsonl got records of several commits or settings of")
    (panel,) = peers_figure([records[1], records[3]]).axes
    assert [line.get_label() for line in panel.get_lines()] == ["ours", "lax.scan"]
    assert panel.get_lines()[0].get_ydata() == pytest.approx([4.0, 4.0])


def test_the_table_of_scaling_has_exponents_and_names_what_was_not_run(tmp_path):
    case = {"cell": "lstm", "kind": "truncation", "program": "cut", "axis": "T", "B": 1, "H": 64}
    run = {"size": 100, "seconds": 0.5, "minimum": 0.4, "temp_bytes": 2**20, "skipped": None}
    large = {"size": 1000, "seconds": None, "minimum": None, "temp_bytes": 2**33, "skipped": "too large"}
    curve = {"time_exponent": None, "memory_exponent": 3.91, "points": [run, large]}
    record = {"case": case, "quick": False, "environment": ENVIRONMENT, **curve}
    write(tmp_path, "scaling-cpu.jsonl", [record])
    block = tables.scaling_block(tmp_path)
    assert rows_of(block, "lstm") == [
        ["lstm, cut (truncated)", "– / 3.91", "– / –", "– / –", "100", "0.5", "1.0"],
    ]
    assert "Not run: lstm, cut (truncated) at T 1,000: too large." in block
    figure = scaling_figure([record], tables.curve_name)
    assert [list(np.asarray(line.get_xdata())) for line in figure.axes[0].get_lines()] == [[100]]


def test_the_tables_in_the_readme_are_those_of_the_results_and_empty_where_there_are_none(tmp_path):
    text = tables.README.read_text()
    assert text == tables.filled_readme(text)
    for picture in re.findall(r"!\[.*?\]\((.+?)\)", text):
        assert (tables.README.parent / picture).is_file()
    empty = tables.filled_readme(text, tmp_path)
    assert "<!-- peers -->\n<!-- /peers -->" in empty
    assert "<!-- scaling -->\n<!-- /scaling -->" in empty
    assert "<!-- pairs -->\n<!-- /pairs -->" in empty
    pair = {"case": {"cell": "gru", "T": 5}, "quick": False, "baseline": "by hand", "environment": ENVIRONMENT}
    pair |= {"figures": {"ours": {"seconds": {"median": 0.002}}, "ratio": {"median": 1.2}}}
    write(tmp_path, "flags-cpu.jsonl", [pair])
    assert rows_of(tables.pairs_block(tmp_path), "gru") == [["gru", "5", "2", "**1.20**"]]
    write(tmp_path, "peers-cpu.jsonl", [peers_record(2.0, 64)])
    assert tables.filled_readme(tables.filled_readme(text, tmp_path), tmp_path) == tables.filled_readme(text, tmp_path)
    with pytest.raises(ValueError, match="markers"):
        tables.filled("no markers", "peers", "")
