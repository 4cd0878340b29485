"""Two of these scripts are two processes of a run on loopback: ``python tests/loopback.py ADDRESS NUMBER FOLDER END``.

With END of ``kill`` each prints what it found as JSON; then process 1 kills itself. With ``exit`` it ends by
``sys.exit(3)`` without leaving.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from rnn_jax import gru, output_dropout, readout
from rnn_jax.lab.sweeps import Block, sweep
from rnn_jax.losses import cross_entropy, per_step
from rnn_jax.parallel import (
    agree,
    data_mesh,
    ensemble,
    from_first,
    gathered,
    join_processes,
    on_mesh,
    one_copy,
    parallel_learner,
    process_lanes,
    split_batch,
)
from rnn_jax.parallel.meshes import on_every_device
from rnn_jax.training import evaluate, fit, window_learner

B, V, TIMEOUT = 8, 5, 5
model = readout(output_dropout(gru(V, 8), 0.3), V)
keeping = window_learner(model, per_step(cross_entropy), optax.trace(0.0), clip=0.1)
learner = window_learner(model, per_step(cross_entropy), optax.adam(1e-2), clip=1.0)


def free_port(host="127.0.0.1"):
    """A port that no process uses."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as opened:
        opened.bind((host, 0))
        return opened.getsockname()[1]


def stream():
    ids = (np.arange(801)[:, None] + np.arange(B)) % V
    ids = np.where(np.random.default_rng(1).random(ids.shape) < 0.1, 0, ids)
    return tuple(ids[first : first + 800].reshape(200, 4, B) for first in (0, 1))


def largest(want, got):
    pairs = zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True)
    return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / max(1e-3, np.abs(a).max())) for a, b in pairs)


def computed(joined):
    """What one update, and 200, over four devices differ from those of one device."""
    mesh, (xs, targets) = data_mesh(), stream()
    lanes = process_lanes(mesh, B)
    mine = split_batch(mesh, (xs[:, :, lanes], targets[:, :, lanes]), stacked=True)
    state = keeping.init(jax.random.key(1), (B,))
    whole = jax.tree.map(np.asarray, (state.h, state.params))
    window = split_batch(mesh, (xs[3][:, lanes], targets[3][:, lanes]))
    after, info = jax.jit(parallel_learner(keeping, mesh).update)(on_mesh(mesh, state), window)
    want, alone = jax.jit(keeping.update)(state, (xs[3], targets[3]))
    numbers = largest((want.h, want.optimizer, alone.loss), gathered((after.h, after.optimizer, info.loss)))
    split = parallel_learner(learner, mesh)
    end, _ = jax.jit(partial(fit, split))(split.init(jax.random.key(0), (B,)), mine)
    of_one, _ = jax.jit(partial(fit, learner))(learner.init(jax.random.key(0), (B,)), (xs, targets))
    part = xs.reshape(800, B)[:100], targets.reshape(800, B)[:100]
    losses = [float(evaluate(model, one_copy(of.params), *part, per_step(cross_entropy))) for of in (end, of_one)]
    program: Any = on_every_device
    before = program._cache_size()
    again = [gathered((after.h, mine)) for _ in range(3)]
    return {
        "refused": refusals(mesh, on_mesh(mesh, state), xs[3][:, lanes], targets[3][:, lanes]),
        "gathers": [program._cache_size() - before, all(np.array_equal(a[1][0], xs) for a in again)],
        "lanes": [lanes.start, lanes.stop],
        "numbers": numbers,
        "whole": [int(np.size(h)) for h in jax.tree.leaves(whole[0])],
        "losses": losses,
        "squares": ensemble(lambda x: x**2, np.arange(5.0), mesh).tolist(),
        "value": from_first(joined, lambda: {"of": joined.number}),
    }


def message(call):
    """The message of a ValueError that a call raises; None without one."""
    try:
        call()
    except ValueError as error:
        return str(error)


def refusals(mesh, state, ids, targets):
    """The messages for ids that only this process has, and for devices of the processes in turn."""
    split, wrong = parallel_learner(keeping, mesh), ids + V * (np.arange(len(ids[0])) == 1)
    window = split_batch(mesh, (wrong, targets))
    stack = split_batch(mesh, (wrong[None], targets[None]), stacked=True)
    devices = jax.devices()
    return [
        message(lambda: split.update(state, window)),
        message(lambda: fit(split, state, stack)),
        message(lambda: data_mesh([devices[0], devices[2], devices[1], devices[3]])),
        message(lambda: split_batch(mesh, (ids[:, :3], targets[:, :3]))),
    ]


def listening():
    """Addresses at which this process listens, as Linux writes them in hexadecimal numbers."""
    sockets = set()
    for file in Path("/proc/self/fd").iterdir():
        try:
            sockets.add(os.readlink(file))
        except OSError:  # closed since
            continue
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return [line[1].rpartition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets]


def swept(joined, folder):
    """The results of a sweep of two blocks, of which one is computed by the second call, and what was computed."""
    computed = []
    blocks = {name: Block(lambda x, n=n: x**n, np.arange(5.0)) for n, name in enumerate(("ones", "same", "squares"))}
    for names in (("ones",), ("ones", "same", "squares")):
        found = sweep(
            folder,
            {name: blocks[name] for name in names},
            processes=joined,
            on_block=lambda name: computed.append(name),
        )
    return {"computed": computed, "found": {name: values.tolist() for name, values in found.items()}}


def main(address, number, folder, end):
    number = int(number)
    jax.config.update("jax_num_cpu_devices", 2)
    joined = join_processes(address, 2, number, timeout=TIMEOUT, start_timeout=60)
    if end == "exit":
        from_first(joined, lambda: None)
        if number == 1:
            sys.exit(3)
        threading.Event().wait(60)
    found = computed(joined)
    found |= {"listening": listening(), "sweep": swept(joined, folder)}
    if number == 0:  # such as with a slow disk
        time.sleep(TIMEOUT + 2)
    waiting = time.monotonic()
    agree(joined, {"--hidden-size": 16, "--seed": 0})
    found["waited"] = time.monotonic() - waiting
    print(json.dumps(found), flush=True)
    from_first(joined, lambda: None)
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
