"""Training of a character model on one device for each core, against one device for all, and against PyTorch.

The devices of a CPU are chosen before JAX starts, so the measurements run in a process of their own.
"""

import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.connection import wait
from typing import Any

import jax
import numpy as np

from benchmarks.bench_training import CHARACTERS, TOLERANCE
from benchmarks.contenders import MissingError, library
from benchmarks.report import command
from benchmarks.timing import Program, Record, compare, compile_program, require_equal
from rnn_jax.lab.environment import environment
from rnn_jax.lab.loop import optimizer_of
from rnn_jax.lab.machines import core_count
from rnn_jax.lab.named_cells import make_model
from rnn_jax.lab.options import Options
from rnn_jax.losses import cross_entropy, per_step
from rnn_jax.parallel import data_mesh, on_mesh, parallel_learner, split_batch
from rnn_jax.training import fit, window_learner

MOST = 8
"""Virtual devices."""
LANES = 8
"""Of each device, where their number grows."""

PYTORCH = {"lstm": "LSTM", "gru": "GRU", "tanh": "RNN"}
"""Layers of PyTorch by the name of our cell."""

Sizes = dict[str, int]


def updates_on_devices(cell: str, devices: int, sizes: Sizes, automatic: bool = False) -> Program:
    """Updates as between two evaluations of ``char_lm.py``, with the batch split over so many devices.

    Args:
        cell: a name of ``make_model``.
        devices: their number. One device is a mesh of one: what the others cost is the only difference.
        sizes: B lanes, H units, windows of T steps, and the number of updates.
        automatic: whether the compiler splits the plain update, which ``jax.jit`` is given with a batch on all devices.
    """
    B, H, T, updates = (sizes[name] for name in ("B", "H", "T", "updates"))
    options = Options(batch_size=B, evaluations=12, updates=updates, learning_rate=4e-3, optimizer="adamw")
    optimizer = optimizer_of(options, weight_decay=0.0)
    learner = window_learner(make_model(cell, CHARACTERS, H), per_step(cross_entropy), optimizer, clip=options.clip)
    mesh = data_mesh(jax.devices()[:devices])
    batches = split_batch(mesh, (ids_of(B, T, updates),) * 2, stacked=True)
    state = on_mesh(mesh, learner.init(jax.random.key(0), (B,)))
    return compile_program(partial(fit, learner if automatic else parallel_learner(learner, mesh)), state, batches)


def ids_of(B: int, T: int, updates: int) -> np.ndarray:
    """Characters ``(updates, T, B)``."""
    return np.random.default_rng(0).integers(CHARACTERS, size=(updates, T, B), dtype=np.int32)


def updates_of_pytorch(cell: str, B: int, H: int, T: int, updates: int) -> Program:
    """The same updates of the same network by PyTorch on all cores: cell, linear layer, AdamW, clipped gradients."""
    torch: Any = library("torch")
    torch.set_num_threads(core_count())
    core, out = getattr(torch.nn, PYTORCH[cell])(CHARACTERS, H), torch.nn.Linear(H, CHARACTERS)
    params = [*core.parameters(), *out.parameters()]
    optimizer = torch.optim.AdamW(params, lr=4e-3, weight_decay=0.0)
    batches = torch.tensor(ids_of(B, T, updates)).long()

    def run() -> float:
        h, loss = None, torch.zeros(())
        for ids in batches:
            hs, h = core(torch.nn.functional.one_hot(ids, CHARACTERS).float(), h)
            loss = torch.nn.functional.cross_entropy(out(hs).reshape(-1, CHARACTERS), ids.reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            h = tuple(part.detach() for part in h) if cell == "lstm" else h.detach()
        return float(loss.detach())

    begin = time.perf_counter()
    run()
    return Program(run, max(time.perf_counter() - begin, 1e-9), None, None)


def begin() -> None:
    """Gives a process, which has not used JAX before, its devices, and ends it when the one that started it ends."""
    jax.config.update("jax_num_cpu_devices", MOST)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Ends this process when the one that started it has ended, killed ones included."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def measured(part: Callable[[bool], Iterator[Record]], quick: bool) -> list[Record]:
    """The records of a part."""
    return [*part(quick)]


def sizes_of(quick: bool) -> Sizes:
    """The sizes of ``char_lm.py``, or tiny ones."""
    return {"B": 4, "H": 8, "T": 5, "updates": 3} if quick else {"B": 32, "H": 256, "T": 64, "updates": 20}


def pair(cell: str, devices: int, against: str, baseline: Program, sizes: Sizes, quick: bool) -> Record:
    """A program over devices, timed in turn with another one."""
    ours = updates_on_devices(cell, devices, sizes)
    found = ours.run()[1].loss
    if against != "PyTorch":
        require_equal(found, baseline.run()[1].loss, TOLERANCE)
    case = {"cell": cell, "devices": devices, "against": against, **sizes}
    figures = compare(ours, baseline, seconds=0.1 if quick else 8.0, min_pairs=3)
    return Record("parallel", "others", case, quick, figures, environment())


def against_one_device(quick: bool) -> Iterator[Record]:
    """One device for each core against one for all, by cell, and for smaller networks and batches."""
    cores, sizes = max(2, core_count()), sizes_of(quick)
    cells = ("lstm",) if quick else tuple(PYTORCH)
    grid = [] if quick else itertools.product((8, 32, 128), (16, 64, 256))
    for cell in cells:
        baseline = updates_on_devices(cell, 1, sizes)
        yield pair(cell, cores, "one device", baseline, sizes, quick)
    for B, H in grid:
        if (sizes["B"], sizes["H"]) != (B, H):
            other = sizes | {"B": B, "H": H}
            yield pair("lstm", cores, "one device", updates_on_devices("lstm", 1, other), other, quick)


def against_pytorch(quick: bool) -> Iterator[Record]:
    """One device for each core, and one for all, against PyTorch; nothing where it is not installed."""
    sizes = sizes_of(quick)
    for cell in ("lstm",) if quick else PYTORCH:
        try:
            baseline = updates_of_pytorch(cell, **sizes)
        except MissingError:
            return
        for devices in (1, max(2, core_count())):
            yield pair(cell, devices, "PyTorch", baseline, sizes, quick)


def against_automatic(quick: bool) -> Iterator[Record]:
    """One all-reduce an update against the compiler's own, which lie inside the loop back through time."""
    sizes, cores = sizes_of(quick), max(2, core_count())
    baseline = updates_on_devices("lstm", cores, sizes, automatic=True)
    yield pair("lstm", cores, "automatic jit", baseline, sizes, quick)


def weak_scaling(quick: bool) -> Iterator[Record]:
    """1, 2, 4 … devices of 8 lanes each, against one device with all lanes: the cost of devices beyond the cores."""
    for devices in (2,) if quick else (1, 2, 4, 8):
        sizes = sizes_of(quick) | ({} if quick else {"B": LANES * devices})
        yield pair("lstm", devices, "one device", updates_on_devices("lstm", 1, sizes), sizes, quick)


def run(quick: bool = False) -> Iterator[Record]:
    """Records of one device for each core, of PyTorch, of automatic splitting, and of more and more devices.

    Args:
        quick: tiny sizes.

    Raises:
        AssertionError: when the losses differ by more than rounding makes them.
    """
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, fresh, begin) as pool:
        for part in (against_one_device, against_pytorch, against_automatic, weak_scaling):
            yield from pool.submit(measured, part, quick).result()


if __name__ == "__main__":
    command(run)
