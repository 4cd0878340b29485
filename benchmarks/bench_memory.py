"""The time and the memory of programs in processes that keep freed memory, against processes that glibc is left to.

Each measurement is a new process, because the settings of glibc last until its end. The settings take turns; a time is
the median of the runs of one process, and a ratio is of two processes of the same turn. The huge pages of Linux
(``glibc.malloc.hugetlb``, from glibc 2.35 on) are measured beside them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.bench_rollout import I, by_rollout, forward_and_backward
from benchmarks.report import command
from benchmarks.timing import (
    ROOT,
    Comparison,
    Program,
    Record,
    Side,
    compile_program,
    kib_of_process,
    seconds_of,
    spread,
)
from rnn_jax import lstm
from rnn_jax.lab.allocation import keep_freed_memory
from rnn_jax.lab.environment import environment
from rnn_jax.lab.loop import optimizer_of
from rnn_jax.lab.named_cells import make_model
from rnn_jax.lab.options import Options
from rnn_jax.losses import cross_entropy, per_step
from rnn_jax.training import fit, window_learner

HUGE_PAGES = "glibc.malloc.hugetlb=1"
SETTINGS = {"default": (False, ""), "kept": (True, ""), "kept, huge pages": (True, HUGE_PAGES)}
"""Whether ``keep_freed_memory`` is called, and the ``GLIBC_TUNABLES`` of the process."""
CASES = (
    {"program": "gradient of a rollout", "B": 128, "H": 256, "T": 100},
    {"program": "gradient of a rollout", "B": 32, "H": 256, "T": 100},
    {"program": "updates of char_lm", "B": 32, "H": 256, "T": 64, "updates": 100},
)
QUICK_CASES = ({"program": "gradient of a rollout", "B": 1, "H": 8, "T": 10},)
CHARACTERS = 65
"""Different ones, as in tiny Shakespeare."""
TURNS, SECONDS = 5, 4.0
"""Processes of each setting; seconds of runs in each, unless there are fewer than three runs."""


class Costs(NamedTuple):
    """The costs of one program in one process."""

    seconds: float
    """The median of its runs."""
    compile_seconds: float
    temp_bytes: int | None
    held_bytes: int | None
    peak_kib: int
    """The most memory that the process has had; 0 where the system does not report it."""
    is_kept: bool
    """Whether freed memory was kept."""


def gradient_of_rollout(B: int, H: int, T: int) -> Program:
    """The gradient of the sum of squares of the hidden outputs of an LSTM."""
    cell = lstm(I, H)
    params, xs = cell.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (T, B, I))
    return compile_program(forward_and_backward(by_rollout(cell)), params, xs)


def updates_of_char_lm(B: int, H: int, T: int, updates: int) -> Program:
    """The updates between two evaluations of ``char_lm.py``: one LSTM, windows of T characters, B lanes of text."""
    options = Options(batch_size=B, evaluations=12, updates=updates, learning_rate=4e-3, optimizer="adamw")
    model = make_model("lstm", CHARACTERS, H)
    optimizer = optimizer_of(options, weight_decay=0.0)
    learner = window_learner(model, per_step(cross_entropy), optimizer, clip=options.clip)
    ids = np.random.default_rng(0).integers(CHARACTERS, size=(updates, T, B), dtype=np.int32)
    return compile_program(partial(fit, learner), learner.init(jax.random.key(0), (B,)), (ids, ids))


MAKERS: dict[str, Callable[..., Program]] = {
    "gradient of a rollout": gradient_of_rollout,
    "updates of char_lm": updates_of_char_lm,
}


def print_costs(case: dict[str, Any], keep: bool, seconds: float) -> None:
    """Prints the costs of a case in this process as JSON; the work of each process."""
    is_kept = keep and keep_freed_memory()
    program = MAKERS[case["program"]](**{name: size for name, size in case.items() if name != "program"})
    program.run()  # the first run touches the memory that later runs find again
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        times.append(seconds_of(program))
    costs = Costs(spread(np.asarray(times)).median, *program[1:], kib_of_process("VmHWM"), is_kept)
    print(json.dumps(costs))


def costs_in_process(case: dict[str, Any], setting: str, seconds: float) -> Costs:
    """The costs of a case in a new process."""
    keep, tunables = SETTINGS[setting]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    env["GLIBC_TUNABLES"] = tunables
    code = f"from benchmarks.bench_memory import print_costs; print_costs({case!r}, {keep}, {seconds})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    return Costs(*json.loads(done.stdout.splitlines()[-1]))


def side(costs: list[Costs]) -> Side:
    """One side of a comparison, of several processes."""
    return Side(spread(np.array([of.seconds for of in costs])), *costs[0][1:4])


def run(quick: bool = False) -> Iterator[Record]:
    """Records, one for each case and each setting other than the default.

    Args:
        quick: one small case, and one process of each setting.
    """
    here = environment()
    for case in QUICK_CASES if quick else CASES:
        costs: dict[str, list[Costs]] = {setting: [] for setting in SETTINGS}
        for turn in range(1 if quick else TURNS):
            order = [*SETTINGS][:: 1 if turn % 2 == 0 else -1]
            for setting in order:
                costs[setting].append(costs_in_process(case, setting, 0.0 if quick else SECONDS))
        peaks = {setting: round(np.median([of.peak_kib for of in found]) / 1024) for setting, found in costs.items()}
        default = costs.pop("default")
        for setting, found in costs.items():
            ratio = np.array([ours.seconds / theirs.seconds for ours, theirs in zip(found, default, strict=True)])
            figures = Comparison(side(found), side(default), spread(ratio), len(ratio))
            memory = setting if found[0].is_kept else "not kept"
            shown = case | {"memory": memory, "peak MiB": peaks[setting], "default peak MiB": peaks["default"]}
            yield Record("memory", "the same program with the defaults of glibc", shown, quick, figures, here)


if __name__ == "__main__":
    command(run)
