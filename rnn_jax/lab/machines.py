"""The devices and processes of an experiment: one device, one for each core of a CPU, or those of many machines.

Process 0 alone opens the run folder, evaluates and writes. The others follow it: they compute their part of every
update, and end when it does.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import signal
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from rnn_jax.lab.checkpoints import Checkpoints, numbers_of_leaf
from rnn_jax.lab.commands import EXIT_CODES, describe_errors_with, record_failure
from rnn_jax.lab.loop import Programs, Task, compile_updates
from rnn_jax.lab.options import NOT_SHARED, ParallelOptions
from rnn_jax.parallel import (
    Processes,
    agree,
    data_mesh,
    exchange,
    from_first,
    gathered,
    join_processes,
    leave,
    on_mesh,
    one_copy,
    parallel_learner,
    process_lanes,
    split_batch,
)
from rnn_jax.parallel.meshes import require_divisible
from rnn_jax.parallel.processes import is_loopback
from rnn_jax.parallel.signs import awaited_end
from rnn_jax.training import Learner, LearnerState
from rnn_jax.types import Params

__all__ = ["Machines", "follow", "leading", "open_machines", "state_numbers"]

LEARN, SAVE, END = "learn", "save", "end"
"""The orders of process 0 to the others."""
LANES = 4
"""Least lanes of a device of a CPU: fewer were not measured. With 4 or more, on two cores and in windows of 64 steps,
no cell was slower on one device for each core than on one for both."""
WINS = 2**10
"""Numbers in the state of all lanes of a process from which on devices are clearly faster."""


class Machines(NamedTuple):
    """The devices and processes of a run."""

    processes: Processes
    mesh: Mesh | None = None
    """None for one device, on which nothing is split."""

    def facts(self) -> dict[str, int]:
        """The devices and processes over which training is split, for the run folder."""
        return {"devices": 1 if self.mesh is None else self.mesh.size, "processes": self.processes.total}

    def learner(self, learner: Learner) -> Learner:
        """A learner over these devices."""
        return learner if self.mesh is None else parallel_learner(learner, self.mesh)

    def own_lanes(self, windows: PyTree) -> PyTree:
        """Stacked windows ``(W, K, B)`` with the lanes alone that this process reads: views of arrays of NumPy."""
        if self.mesh is None:
            return windows
        lanes = process_lanes(self.mesh, jax.tree.leaves(windows)[0].shape[2])
        return jax.tree.map(lambda a: a[:, :, lanes], windows)

    def split(self, batches: PyTree) -> PyTree:
        """Stacked batches with the lanes of this process, on the devices."""
        return batches if self.mesh is None else split_batch(self.mesh, batches, stacked=True)

    def place(self, state: LearnerState) -> LearnerState:
        """A whole state, on the devices."""
        return state if self.mesh is None else on_mesh(self.mesh, state)

    def order(self, *what: Any) -> Any:
        """Sends an order to the other processes; in those, the order that they receive."""
        return from_first(self.processes, lambda: what)

    def gather(self, state: LearnerState) -> LearnerState:
        """The whole state, in process 0, which orders all to give their lanes.

        Raises:
            ValueError: where another process has other params.
        """
        self.order(SAVE)
        return self.gathered(state)

    def gathered(self, state: LearnerState) -> LearnerState:
        """The whole state; all processes call it together, and process 0 compares the params of all."""
        whole = gathered(state)
        digest = params_digest(state.params) if self.processes.total > 1 else ""
        others = exchange(self.processes, digest)
        differ = [other for other, theirs in others.items() if theirs != digest]
        if differ and self.processes.number == 0:
            raise ValueError(
                f"params got other numbers in process {differ[0]} than in process 0 after {int(state.cursor)} batches; "
                "want the same in all: machines of the same kind"
            )
        return whole

    def end(self, status: str) -> None:
        """Ends the other processes with the exit code of a status, as soon as training has ended."""
        self.order(END, status)
        leave(self.processes)


def params_digest(params: Params) -> str:
    """SHA-256 of the params of this process."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(one_copy(params)):
        found.update(np.ascontiguousarray(numbers_of_leaf(leaf)).tobytes())
    return found.hexdigest()


def open_machines(options: ParallelOptions, *, numbers: int) -> Machines:
    """The devices and processes that the options name; called before the first array is made.

    Args:
        options: with ``devices`` of 0, a CPU has as many devices as win (``default_devices``), in all processes alike.
        numbers: of the state of one example, such as the hidden size; it decides whether devices win.

    Raises:
        ValueError: for a batch that the devices do not divide, more devices than there are, processes with other
            ``devices`` or batch size, and as ``join_processes``.
    """
    together = options.processes if is_loopback(options.coordinator.rpartition(":")[0].strip("[]")) else 1
    cores = max(1, core_count() // together)
    wanted = options.devices or default_devices(options.batch_size // options.processes, numbers, cores)
    if wanted > 1:
        try:
            jax.config.update("jax_num_cpu_devices", wanted)
        except RuntimeError:  # a notebook, in which JAX runs already
            wanted = wanted if options.devices else 1
    times = {"timeout": options.timeout, "start_timeout": options.start_timeout}
    arguments = options.coordinator, options.processes, options.process
    processes = join_processes(*arguments, **times, detect=options.distributed)
    if processes.total > 1:
        describe_errors_with(partial(awaited_end, processes))
        processes.before_end.append(record_failure)
    local = common_devices(processes, options, numbers, wanted)
    devices = first_devices(jax.devices(), local)
    if len(devices) == 1:
        return Machines(processes)
    mesh = data_mesh(devices)
    require_divisible(mesh, options.batch_size, "--batch-size")
    return Machines(processes, mesh)


def common_devices(processes: Processes, options: ParallelOptions, numbers: int, wanted: int) -> int:
    """The devices of each process, which is the same number in all.

    Args:
        processes: that have joined.
        options, numbers: as in ``open_machines``.
        wanted: devices of this process, on a CPU.
    """
    agree(processes, {"--devices": options.devices, "--batch-size": options.batch_size})
    has, on_cpu = jax.local_device_count(), jax.default_backend() == "cpu"
    if options.devices > has:
        raise ValueError(f"--devices got {options.devices}, where this process has {has}; want at most these")
    own = options.devices or (min(wanted, has) if on_cpu else has)
    others = exchange(processes, own)
    least = from_first(processes, lambda: min([own, *others.values()]))
    if options.devices or options.batch_size % processes.total:
        return least if options.devices else 1
    lanes = options.batch_size // processes.total
    return default_devices(lanes, numbers, least) if on_cpu else largest_divisor(lanes, least)


def first_devices(devices: list[Any], number: int) -> list[Any]:
    """The first devices of each process, so many of each, in their order."""
    taken: dict[int, int] = {}
    found = []
    for device in devices:
        taken[device.process_index] = taken.get(device.process_index, 0) + 1
        if taken[device.process_index] <= number:
            found.append(device)
    return found


def core_count() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_devices(lanes: int, numbers: int, cores: int) -> int:
    """The devices of a process on a CPU: as many as its cores, if they divide its lanes and win; else fewer.

    Args:
        lanes: of the batch of this process.
        numbers: of the state of one lane.
        cores: of this process.

    >>> default_devices(32, 256, cores=2), default_devices(32, 256, cores=16), default_devices(32, 16, cores=2)
    (2, 8, 1)
    """
    if lanes * numbers < WINS:
        return 1
    return largest_divisor(lanes, min(cores, lanes // LANES))


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is at most another one; at least 1."""
    return next((divisor for divisor in range(most, 0, -1) if number % divisor == 0), 1)


def state_numbers(hidden_size: int, layers: int = 1, parameters: int = 0) -> int:
    """Numbers in the state of one lane of stacked cells, roughly.

    Args:
        hidden_size: units of a layer.
        layers: cells on top of each other.
        parameters: if positive, the number that the hidden size is matched to later: a layer of H units has about 8·H²
            in an LSTM.
    """
    return layers * (math.isqrt(parameters // (8 * layers)) if parameters else hidden_size)


def leading(machines: Machines, programs: Programs) -> Programs:
    """The programs of process 0, which orders the others to learn when it does."""

    def learn(state: LearnerState, batches: PyTree) -> Any:
        machines.order(LEARN)
        return programs.learn(state, batches)

    return programs._replace(learn=learn)


def follow(
    machines: Machines,
    options: ParallelOptions,
    task_of: Callable[[Any], Task],
    checkpoints: Checkpoints,
    **facts: Any,
) -> None:
    """The run of a process that follows process 0: it learns, gives its lanes for checkpoints, and ends when ordered.

    Process 0, for which this returns at once, opens the run folder and leads.

    Args:
        machines, options: of the run.
        task_of: ``(options) -> task``, of the number of evaluations that process 0 sends.
        checkpoints: of the run folder, on a disk that all processes see.
        **facts: more that must be the same in all processes, such as the checksum of the text.

    Raises:
        ValueError: where the processes have other options, facts or versions, or see another checkpoint.
    """
    shared = {name: value for name, value in dataclasses.asdict(options).items() if name not in NOT_SHARED}
    named = {f"--{name.replace('_', '-')}": value for name, value in shared.items()}
    agree(machines.processes, {**named, **facts, **versions()})
    if machines.processes.number == 0:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches process 0, which ends the others
    schedule, checkpoint = machines.order()
    options = dataclasses.replace(options, evaluations=schedule)
    task = task_of(options)
    updates = compile_updates(options, task)
    if checkpoint is None:
        state = updates.init(jax.random.key(options.seed))
    else:
        state = machines.place(checkpoints.read(checkpoint, task.state_shapes()).state)
    number, rng = int(state.cursor) // options.updates, np.random.default_rng(0)
    while (order := machines.order())[0] != END:
        if order[0] == LEARN:
            state, _ = jax.block_until_ready(updates.learn(state, task.batches(rng, number)))
            number += 1
        else:
            machines.gathered(state)
    leave(machines.processes)
    raise SystemExit(EXIT_CODES[order[1]])


def versions() -> dict[str, str]:
    """The versions of the libraries that compute, by name."""
    found = {}
    for name in ("rnn-jax-lab", "jax", "jaxlib"):
        with contextlib.suppress(PackageNotFoundError):  # a copy of the sources that is not installed
            found[f"version of {name}"] = version(name)
    return found
