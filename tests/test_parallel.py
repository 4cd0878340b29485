"""A batch over 1, 2, 4 and 8 devices: the numbers of one device, by one all-reduce an update.

The tests start this file once as a script, on eight virtual devices, which prints what differs as JSON.
"""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax import diagonal, gru, learned_start, lstm, output_dropout, readout, weight_drop
from rnn_jax.gradients import chunked, cut, parallel
from rnn_jax.losses import cross_entropy, per_step, squared_error
from rnn_jax.parallel import data_mesh, ensemble, on_mesh, parallel_learner, process_lanes, split_batch
from rnn_jax.training import Learner, batch_learner, evaluate, fit, window_learner
from tests.laboratory import refused

T, B, V, H = 6, 8, 5, 8
CLOSE = 1e-6
"""Of a loss and a gradient in float32, relative to the largest number of an array."""
keeping = optax.trace(0.0)
"""An optimizer whose state is the gradient that it was given."""


class Case(NamedTuple):
    """A learner, the batch that it learns from, and how the batch is split."""

    learner: Learner
    batch: Any
    axes: Any = 1
    weight: Any = None
    lanes: tuple[int, ...] = (B,)


def numbers():
    rng = np.random.default_rng(0)
    return {
        "ids": rng.integers(0, V, (T, B)),
        "targets": rng.integers(0, V, (T, B)),
        "xs": rng.normal(size=(T, B, 3)).astype(np.float32),
        "ys": rng.normal(size=(T, B, 2)).astype(np.float32),
        "mask": rng.random((T, B)) < 0.6,
        "resets": rng.random((T, B)) < 0.2,
        "lengths": np.array([6, 1, 0, 3, 5, 6, 2, 4]),
    }


data = numbers()
writer = readout(learned_start(lstm(V, H)), V)
drawing = readout(output_dropout(gru(V, H), 0.5), V)
linear = readout(diagonal(3, H), 2)


def masked_nats(ys, targets_and_mask):
    return per_step(cross_entropy)(ys, *targets_and_mask)


def half_errors(ys, targets):
    errors = jnp.mean(jnp.abs(ys - targets), axis=(0, 1))
    return squared_error(ys, targets), {"errors": errors, "half": jnp.mean(errors).astype(jnp.bfloat16)}


def dropped(params, key):
    return weight_drop(params, key, 0.5)


def of_program(program, schedule, model, **arguments):
    """A batch learner whose loss is one of the programs of truncation, over sequences of several lengths."""

    def loss(params, xs, ys, lengths):
        counted = jnp.arange(T)[:, None] < lengths[None]
        of = lambda outputs, targets: squared_error(outputs, *targets)  # noqa: E731
        h0 = model.start(params, xs.shape[1:2])
        return program(
            model, params, h0, xs, (ys, counted), of, window=3, lengths=lengths, schedule=schedule, **arguments
        )[0]

    return Case(
        batch_learner(model.init, loss, keeping), (data["xs"], data["ys"], data["lengths"]), (1, 1, 0), None, ()
    )


def windows(model, loss, *names, targets="targets", xs="ids", optimizer=keeping, weight=None, **options):
    window = {"xs": data[xs], "targets": data[targets], **{name: data[name] for name in names}}
    return Case(window_learner(model, loss, optimizer, **options), window, weight=weight)


def masked_windows():
    learner = window_learner(writer, masked_nats, keeping, clip=0.1)
    window = {"xs": data["ids"], "targets": (data["targets"], data["mask"]), "mask": data["mask"]}
    return Case(learner, window, weight=lambda batch: jnp.sum(batch.mask))


features = readout(lstm(3, H), 2)
CASES = {
    **{
        f"{program.__name__}, {schedule}": partial(of_program, program, schedule, model, **arguments)
        for program, schedule, model, arguments in (
            (cut, "adjoint", features, {}),
            (chunked, "associative", linear, {}),
            (chunked, "adjoint", features, {"k1": 2}),
            (parallel, "adjoint", features, {"k1": 2}),
        )
    },
    "streaming, scan": partial(windows, writer, per_step(cross_entropy), "resets", schedule="scan"),
    "streaming, adjoint": partial(windows, writer, per_step(cross_entropy), "resets", schedule="adjoint"),
    "a mask, and a mean over the steps that count": masked_windows,
    "dropout, and dropped weights": partial(windows, drawing, cross_entropy, clip=0.1, transform=dropped),
    "auxiliary outputs, and norms by lag": partial(
        windows, features, half_errors, "mask", xs="xs", targets="ys", has_aux=True, lag_profile=True
    ),
    "a line search": partial(windows, writer, cross_entropy, optimizer=optax.chain(keeping, optax.lbfgs()), clip=1.0),
}


def largest_difference(want, got):
    """The largest difference of two trees, relative to the largest number of each array."""
    found = 0.0
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = map(jax.random.key_data, (a, b))
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        finite = np.isfinite(a)
        assert a.shape == b.shape
        assert np.array_equal(finite, np.isfinite(b))
        a, b = a[finite], b[finite]
        found = max(found, float(np.max(np.abs(a - b), initial=0) / max(1e-3, np.max(np.abs(a), initial=0))))
    return found


def reduces(program):
    """The all-reduces of a compiled program, other collectives, and those in a loop."""
    text, collectives = program.as_text(), r"= .*? (all-reduce|all-gather|all-to-all|collective-permute)(?:-start)?\("
    bodies = set(re.findall(r"body=%?([\w.\-]+)", text))
    found = {"all-reduce": 0, "others": 0, "in loops": 0}
    called = {}
    for block in re.split(r"\n\n", text):
        name = re.match(r"(?:ENTRY )?%?([\w.\-]+) ", block.strip())
        if name:
            called[name[1]] = block
    inside, waiting = set(), [*bodies]
    while waiting:  # a loop may call other computations
        name = waiting.pop()
        if name in called and name not in inside:
            inside.add(name)
            waiting += [
                n for n in called if re.search(rf"(?:calls|to_apply|body|condition)=%?{re.escape(n)}\b", called[name])
            ]
    for name, block in called.items():
        for kind in re.findall(collectives, block):
            found["all-reduce" if kind == "all-reduce" else "others"] += 1
            found["in loops"] += name in inside
    return found


def compared(case, devices):
    """How far one update over so many devices is from that of one device."""
    split = parallel_learner(
        case.learner, mesh := data_mesh(jax.devices()[:devices]), axes=case.axes, weight=case.weight
    )
    state = case.learner.init(jax.random.key(1), case.lanes)
    want = jax.jit(case.learner.update)(state, case.batch)
    batch = split_batch(mesh, case.batch, case.axes)
    program = jax.jit(split.update).lower(on_mesh(mesh, state), batch).compile()
    return largest_difference(want, program(on_mesh(mesh, state), batch)), reduces(program)


def validation_losses():
    """The losses on other ids after 200 updates, over each number of devices."""
    ids = (np.arange(801)[:, None] + np.arange(B)) % V
    ids = np.where(np.random.default_rng(1).random(ids.shape) < 0.1, 0, ids)
    xs, targets = (ids[first : first + 800].reshape(200, 4, B) for first in (0, 1))
    found = {}
    for devices in (1, 2, 4, 8):
        mesh = data_mesh(jax.devices()[:devices])
        learner = window_learner(drawing, per_step(cross_entropy), optax.adam(1e-2), clip=1.0)
        split = parallel_learner(learner, mesh)
        batches = split_batch(mesh, (xs, targets), stacked=True)
        state, info = jax.jit(partial(fit, split))(split.init(jax.random.key(0), (B,)), batches)
        params = jax.tree.map(np.asarray, state.params)
        found[devices] = float(evaluate(drawing, params, ids[:50], ids[1:51], per_step(cross_entropy)))
    alone, _ = jax.jit(partial(fit, learner))(learner.init(jax.random.key(0), (B,)), (xs, targets))
    found["updates"] = [int(state.step), float(info.loss[-1]) < 0.7 * float(info.loss[0])]
    found["one"] = float(evaluate(drawing, alone.params, ids[:50], ids[1:51], per_step(cross_entropy)))
    return found


def skipped():
    """The flags of an update that one lane alone breaks, and what a chunk of updates reduces."""
    mesh = data_mesh(jax.devices()[:4])
    learner = window_learner(features, squared_error, optax.sgd(0.1))
    split = parallel_learner(learner, mesh)
    state = learner.init(jax.random.key(0), (B,))
    h = jax.tree.map(lambda h: h.at[5].set(jnp.inf), state.h)
    window = data["xs"], data["ys"]
    after, info = split.update(on_mesh(mesh, state._replace(h=h)), split_batch(mesh, window))
    one, alone = learner.update(state._replace(h=h), window)
    chunk = split_batch(mesh, jax.tree.map(lambda a: np.stack([a] * 3), window), stacked=True)
    program = jax.jit(partial(fit, split)).lower(on_mesh(mesh, state), chunk).compile()
    return {
        "broken": [int(info.broken), int(alone.broken)],
        "fresh": np.asarray(after.fresh).tolist(),
        "step": int(after.step),
        "same": largest_difference(one.params, after.params),
        "chunk": reduces(program),
    }


def automatic():
    """What ``jit`` reduces if it is given a split batch."""
    mesh = data_mesh(jax.devices()[:4])
    learner = CASES["streaming, scan"]().learner
    state = on_mesh(mesh, learner.init(jax.random.key(0), (B,)))
    batch = split_batch(mesh, {name: data[name] for name in ("targets", "resets")} | {"xs": data["ids"]})
    return reduces(jax.jit(learner.update).lower(state, batch).compile())


def ensembles():
    """Squares of a number of members that no number of devices divides, and whether keys draw alike."""
    squares = ensemble(lambda x: x**2, np.arange(11.0))
    keys = jax.random.split(jax.random.key(0), 3)
    drawn = ensemble(jax.random.normal, keys)
    return squares.tolist(), bool(np.array_equal(drawn, jax.vmap(jax.random.normal)(keys)))


def refusals():
    """The messages for a batch that the devices do not divide, and for integers that have no mean."""

    def message(call):
        try:
            call()
        except ValueError as error:
            return str(error)

    counting = window_learner(features, lambda ys, _: (jnp.sum(ys), jnp.argmax(ys)), keeping, has_aux=True)
    split = parallel_learner(counting, mesh := data_mesh())
    state = split.init(jax.random.key(0), (B,))
    return {
        "batch": message(lambda: process_lanes(mesh, 30)),
        "aux": message(lambda: jax.eval_shape(split.update, state, (data["xs"], data["ys"]))),
    }


def main():
    found: dict[str, Any] = {"differences": {}, "reduces": {}}
    for name, make in CASES.items():
        for devices in (1, 2, 4, 8) if name == "streaming, adjoint" else (4,):
            try:
                difference, reduced = compared(make(), devices)
            except Exception as error:
                difference, reduced = f"{type(error).__name__}: {error}", {}
            found["differences"][f"{name}, {devices}"] = difference
            found["reduces"][f"{name}, {devices}"] = reduced
    found["skipped"], found["losses"] = skipped(), validation_losses()
    found["automatic"], found["ensemble"], found["refused"] = automatic(), ensembles(), refusals()
    print(json.dumps(found))


@pytest.fixture(scope="module")
def found():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    strict = {"JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_NUMPY_DTYPE_PROMOTION": "strict"}
    here = {"PYTHONPATH": str(Path(__file__).parents[1]), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    ran = subprocess.run(
        [sys.executable, __file__], env={**os.environ, **strict, **here}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


RUNS = [f"{name}, {n}" for name in CASES for n in ((1, 2, 4, 8) if name == "streaming, adjoint" else (4,))]


@pytest.mark.parametrize("run", RUNS)
def test_an_update_over_devices_is_that_of_one_device(found, run):
    assert isinstance(found["differences"][run], float), found["differences"][run]
    assert found["differences"][run] < CLOSE


@pytest.mark.parametrize("run", [run for run in RUNS if not run.startswith("a line search")])
def test_an_update_has_one_all_reduce_and_none_in_a_loop(found, run):
    assert found["reduces"][run] == {"all-reduce": 1, "others": 0, "in loops": 0}


def test_a_batch_that_jit_splits_has_all_reduces_in_the_loop_which_are_counted(found):
    assert found["automatic"]["in loops"] > 0


def test_a_chunk_of_updates_has_one_all_reduce_in_the_loop_over_updates(found):
    assert found["skipped"].pop("chunk") == {"all-reduce": 1, "others": 0, "in loops": 1}


def test_an_update_that_one_lane_breaks_is_skipped_on_all_devices(found):
    skipped = found["skipped"]
    assert skipped["broken"][0] == skipped["broken"][1] >= 0
    assert skipped["fresh"] == [True] * B
    assert (skipped["step"], skipped["same"]) == (0, 0.0)


def test_training_over_any_number_of_devices_ends_with_the_same_validation_loss(found):
    steps, learned = found["losses"].pop("updates")
    assert (steps, learned) == (200, True)
    one = found["losses"].pop("one")
    assert len(found["losses"]) == 4
    assert all(abs(loss - one) < 1e-4 for loss in found["losses"].values())


def test_members_of_an_ensemble_over_devices_are_those_of_one_and_may_be_of_any_number(found):
    assert found["ensemble"] == [[float(n) ** 2 for n in range(11)], True]


def test_wrong_use_is_refused_in_one_line(found):
    learner = window_learner(features, squared_error, optax.sgd(0.1))
    mesh = data_mesh(jax.devices()[:1])
    refused(lambda: parallel_learner(Learner(learner.init, learner.update), mesh), "learner got one of your own; want")
    refused(lambda: data_mesh([]), "devices got none; want at least one")
    refused(lambda: ensemble(abs, {"a": np.ones(2), "b": np.ones(3)}, mesh), "members got arrays of 2, 3 members; want")
    assert found["refused"] == {
        "batch": "batch_size got 30, which 8 devices do not divide; want a multiple of 8, the nearest is 32",
        "aux": "aux got int32; want floating arrays, whose means over the devices are returned",
    }


if __name__ == "__main__":
    main()
