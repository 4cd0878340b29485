"""The devices and processes of an experiment: one device, one for each core of a CPU, or those of many machines.

Process 0 alone opens the run folder, evaluates and writes. The others follow it: they compute their part of every
update, and end when it does.
"""

import dataclasses
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from rnn_jax.lab.checkpoints import Checkpoints
from rnn_jax.lab.commands import EXIT_CODES, describe_errors_with, record_failure
from rnn_jax.lab.loop import Programs, Task, compile_updates
from rnn_jax.lab.options import NOT_SHARED, ParallelOptions
from rnn_jax.parallel import data_mesh, gathered, on_mesh, parallel_learner, process_lanes, split_batch
from rnn_jax.parallel.meshes import require_divisible
from rnn_jax.parallel.processes import (
    BEFORE_END,
    Processes,
    agree,
    alone,
    awaited_end,
    from_first,
    is_loopback,
    join_processes,
    leave,
)
from rnn_jax.training import Learner, LearnerState

__all__ = ["Machines", "follow", "leading", "open_machines"]

LEARN, SAVE, END = "learn", "save", "end"
"""What process 0 tells the others to do."""


class Machines(NamedTuple):
    """The devices and processes of a run."""

    processes: Processes = alone()
    mesh: Mesh | None = None
    """None for one device, on which nothing is split."""

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

    def tell(self, *what: Any) -> Any:
        """Tells the other processes what to do; in those, returns what they are told."""
        return from_first(self.processes, lambda: what)

    def gather(self, state: LearnerState) -> LearnerState:
        """The whole state, in every process: all give their lanes."""
        self.tell(SAVE)
        return gathered(state)

    def end(self, status: str) -> None:
        """Ends the other processes with the exit code of a status, as soon as training has ended."""
        self.tell(END, status)
        leave(self.processes)


def open_machines(options: ParallelOptions, *, numbers: int) -> Machines:
    """The devices and processes that the options name; called before the first array is made.

    Args:
        options: with ``devices`` of 0, a CPU has one device for each core if these divide the batch and win.
        numbers: of the state of one example, such as the hidden size; it decides whether devices win.

    Raises:
        ValueError: for a batch that the devices do not divide, more devices than there are, and as ``join_processes``.
    """
    host = options.coordinator.rpartition(":")[0]
    together = options.processes if is_loopback(host) or host == "localhost" else 1
    wanted = options.devices or default_devices(options, numbers, max(1, core_count() // together))
    if wanted > 1:
        try:
            jax.config.update("jax_num_cpu_devices", wanted)
        except RuntimeError:  # a notebook, in which JAX runs already
            wanted = wanted if options.devices else 1
    arguments = options.coordinator, options.processes, options.process
    processes = join_processes(*arguments, timeout=options.timeout, detect=options.distributed)
    if processes.total > 1:
        describe_errors_with(partial(awaited_end, processes))
        BEFORE_END.append(record_failure)
    has = jax.local_device_count()
    if options.devices > has:
        raise ValueError(f"--devices got {options.devices}, where this process has {has}; want at most these")
    local = options.devices or (min(wanted, has) if jax.default_backend() == "cpu" else has)
    if not options.devices and options.batch_size % (local * processes.total):
        local = 1
    devices = [d for d in jax.devices() if d in first_devices(local)]
    if len(devices) == 1:
        return Machines(processes)
    mesh = data_mesh(devices)
    require_divisible(mesh, options.batch_size, "--batch-size")
    return Machines(processes, mesh)


def first_devices(number: int) -> set[Any]:
    """The first devices of each process, so many of each."""
    by_process: dict[int, list[Any]] = {}
    for device in jax.devices():
        by_process.setdefault(device.process_index, []).append(device)
    return {device for of in by_process.values() for device in of[:number]}


def core_count() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


WINS = 2**13
"""Numbers in the state of all lanes from which one device for each core is faster than one for all (measured)."""


def default_devices(options: ParallelOptions, numbers: int, cores: int) -> int:
    """The devices of a process on a CPU: one for each core, if these divide the batch and win; else one."""
    divides = options.batch_size % (cores * options.processes) == 0
    return cores if divides and options.batch_size * numbers >= WINS else 1


def leading(machines: Machines, programs: Programs) -> Programs:
    """The programs of process 0, which tells the others when it learns."""

    def learn(state: LearnerState, batches: PyTree) -> Any:
        machines.tell(LEARN)
        return programs.learn(state, batches)

    return programs._replace(learn=learn)


def follow(
    machines: Machines,
    options: ParallelOptions,
    task_of: Callable[[Any], Task],
    checkpoints: Checkpoints,
    **facts: Any,
) -> None:
    """The run of a process that follows process 0: it learns, gives its lanes for checkpoints, and ends as told.

    Process 0, for which this returns at once, opens the run folder and leads.

    Args:
        machines, options: of the run.
        task_of: ``(options) -> task``, of the number of evaluations that process 0 tells.
        checkpoints: of the run folder, on a disk that all processes see.
        **facts: more that must be the same in all processes, such as the checksum of the text.

    Raises:
        ValueError: where the processes have other options or facts, or see another checkpoint.
    """
    kept = {name: value for name, value in dataclasses.asdict(options).items() if name not in NOT_SHARED}
    agree(machines.processes, {**kept, **facts})
    if machines.processes.number == 0:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches process 0, which tells the others
    schedule, checkpoint = machines.tell()
    options = dataclasses.replace(options, evaluations=schedule)
    task = task_of(options)
    programs = compile_updates(options, task)
    state = programs.init(jax.random.key(options.seed))
    if checkpoint is not None:
        state = machines.place(same_checkpoint(checkpoints, task, checkpoint))
    number, rng = int(state.cursor) // options.updates, np.random.default_rng(0)
    while (told := machines.tell())[0] != END:
        if told[0] == LEARN:
            state, _ = jax.block_until_ready(programs.learn(state, task.batches(rng, number)))
            number += 1
        else:
            gathered(state)
    leave(machines.processes)
    raise SystemExit(EXIT_CODES[told[1]])


def same_checkpoint(checkpoints: Checkpoints, task: Task, step: int) -> LearnerState:
    """The state of the checkpoint that process 0 goes on from."""
    shapes = jax.eval_shape(partial(task.learner.init, batch_shape=task.lanes), jax.random.key(0))
    found = checkpoints.restore(shapes, print)
    if found is None or found.step != step:
        has = "none" if found is None else found.step
        raise ValueError(
            f"--out got a folder with checkpoint {has}, where process 0 has {step}; want one that all processes see"
        )
    return found.state
