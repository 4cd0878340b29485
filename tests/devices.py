"""Questions to training on eight virtual devices: this file is a script, which prints the answers as JSON."""

import json
import re
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from rnn_jax import diagonal, learned_start, lstm, output_dropout, readout, rollout, vanilla, weight_drop
from rnn_jax.gradients import chunked, cut, parallel
from rnn_jax.losses import cross_entropy, per_step, squared_error
from rnn_jax.machinery.programs import all_equations, type_of
from rnn_jax.parallel import data_mesh, ensemble, on_mesh, one_copy, parallel_learner, process_lanes, split_batch
from rnn_jax.parallel.meshes import on_every_device
from rnn_jax.training import Learner, Window, batch_learner, evaluate, fit, window_learner

T, B, V, H = 6, 8, 5, 8
keeping = optax.trace(0.0)
"""An optimizer whose state is the gradient that it was given."""


class Case(NamedTuple):
    """A learner, the batch that it learns from, and how the batch is split."""

    learner: Learner
    batch: Any
    axes: Any = 1
    weight: Any = None
    lanes: tuple[int, ...] = (B,)
    devices: tuple[int, ...] = (4,)


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
drawing = readout(output_dropout(vanilla(V, H), 0.5), V)
linear = readout(diagonal(3, H), 2)


def masked_nats(ys, targets_and_mask):
    return per_step(cross_entropy)(ys, *targets_and_mask)


def half_errors(ys, targets):
    errors = jnp.mean(jnp.abs(ys - targets), axis=(0, 1))
    return squared_error(ys, targets), {"errors": errors, "half": jnp.mean(errors).astype(jnp.bfloat16)}


def dropped(params, key):
    return weight_drop(params, key, 0.5)


def of_program(program, schedule, model, devices=4, **arguments):
    """A batch learner whose loss is one of the programs of truncation, over sequences of several lengths."""

    def loss(params, xs, ys, lengths):
        counted = jnp.arange(T)[:, None] < lengths[None]
        of = lambda outputs, targets: squared_error(outputs, *targets)  # noqa: E731
        h0 = model.start(params, xs.shape[1:2])
        return program(
            model, params, h0, xs, (ys, counted), of, window=3, lengths=lengths, schedule=schedule, **arguments
        )[0]

    return Case(
        batch_learner(model.init, loss, keeping),
        (data["xs"], data["ys"], data["lengths"]),
        (1, 1, 0),
        "equal",
        (),
        (devices,),
    )


def windows(model, loss, *names, targets="targets", xs="ids", optimizer=keeping, weight=None, devices=(4,), **options):
    window = {"xs": data[xs], "targets": data[targets], **{name: data[name] for name in names}}
    return Case(window_learner(model, loss, optimizer, **options), window, weight=weight, devices=devices)


def masked_windows():
    learner = window_learner(drawing, masked_nats, keeping, clip=0.1, transform=dropped)
    window = data["ids"], (data["targets"], data["mask"]), data["mask"]
    axes = (1, (1, 1), 1)
    return Case(learner, window, axes, weight=lambda window: jnp.sum(window.mask))


features = readout(vanilla(3, H), 2)
searching = optax.scale_by_backtracking_linesearch(max_backtracking_steps=3, store_grad=True)
CASES = {
    **{
        f"{program.__name__}, {schedule}": partial(of_program, program, schedule, model, **arguments)
        for program, schedule, model, arguments in (
            (cut, "adjoint", features, {"devices": 2}),
            (chunked, "associative", linear, {}),
            (chunked, "adjoint", features, {"k1": 2}),
            (parallel, "adjoint", features, {"k1": 2}),
        )
    },
    "streaming, scan": partial(
        windows, features, squared_error, "resets", xs="xs", targets="ys", schedule="scan", devices=(1, 8)
    ),
    "streaming, adjoint": partial(windows, writer, per_step(cross_entropy), "resets", schedule="adjoint"),
    "dropout, dropped weights, a mask, and a mean over the steps that count": masked_windows,
    "auxiliary outputs, and norms by lag": partial(
        windows, features, half_errors, "mask", xs="xs", targets="ys", weight="equal", has_aux=True, lag_profile=True
    ),
    "a line search": partial(
        windows, features, squared_error, xs="xs", targets="ys", optimizer=optax.chain(keeping, searching), clip=1.0
    ),
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
    blocks = {}
    for block in text.split("\n\n"):
        if name := re.match(r"(?:ENTRY )?%?([\w.\-]+) ", block.strip()):
            blocks[name[1]] = block
    inside, waiting = set(), re.findall(r"body=%?([\w.\-]+)", text)
    while waiting:  # a loop may call other computations
        name = waiting.pop()
        if name not in inside:
            inside.add(name)
            called = re.findall(r"(?:calls|to_apply|body|condition|computations)=(\{.*?\}|%?[\w.\-]+)", blocks[name])
            waiting += re.findall(r"[\w.\-]+", " ".join(called))
    found = {"all-reduce": 0, "others": 0, "in loops": 0}
    for name, block in blocks.items():
        for kind in re.findall(collectives, block):
            found["all-reduce" if kind == "all-reduce" else "others"] += 1
            found["in loops"] += name in inside
    return found


def compared(case):
    """How far one update over each number of devices is from that of one device, and what it reduces."""
    state = case.learner.init(jax.random.key(1), case.lanes)
    want = jax.jit(case.learner.update)(state, case.batch)
    found = {}
    for devices in case.devices:
        mesh = data_mesh(jax.devices()[:devices])
        split = parallel_learner(case.learner, mesh, axes=case.axes, weight=case.weight)
        placed = on_mesh(mesh, state), split_batch(mesh, case.batch, case.axes)
        program = jax.jit(split.update).lower(*placed).compile()
        found[devices] = largest_difference(want, program(*placed)), reduces(program)
    return found


def validation_losses():
    """The losses on other ids after 200 updates, over eight devices and on one."""
    ids = (np.arange(801)[:, None] + np.arange(B)) % V
    ids = np.where(np.random.default_rng(1).random(ids.shape) < 0.1, 0, ids)
    xs, targets = (ids[first : first + 800].reshape(200, 4, B) for first in (0, 1))
    learner = window_learner(drawing, per_step(cross_entropy), optax.adam(1e-2), clip=1.0)
    split, state = parallel_learner(learner, mesh := data_mesh()), learner.init(jax.random.key(0), (B,))
    batches = split_batch(mesh, (xs, targets), stacked=True)
    after, info = jax.jit(partial(fit, split))(split.init(jax.random.key(0), (B,)), batches)
    alone, _ = jax.jit(partial(fit, learner))(state, (xs, targets))
    losses = [
        float(evaluate(drawing, one_copy(end.params), ids[:50], ids[1:51], per_step(cross_entropy)))
        for end in (after, alone)
    ]
    return {
        "losses": losses,
        "updates": int(after.step),
        "learned": float(info.loss[-1]) < 0.7 * float(info.loss[0]),
    }


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
    mesh, case = data_mesh(jax.devices()[:4]), CASES["streaming, scan"]()
    state = on_mesh(mesh, case.learner.init(jax.random.key(0), (B,)))
    return reduces(jax.jit(case.learner.update).lower(state, split_batch(mesh, case.batch)).compile())


def ensembles():
    """Squares of a number of members that no number of devices divides, and whether keys draw alike."""
    squares = ensemble(lambda x: x**2, np.arange(11.0))
    keys = jax.random.split(jax.random.key(0), 3)
    drawn = ensemble(jax.random.normal, keys)
    return squares.tolist(), bool(np.array_equal(drawn, jax.vmap(jax.random.normal)(keys)))


def message(call):
    """The message of a ValueError that a call raises; None without one."""
    try:
        call()
    except ValueError as error:
        return str(error)


def refusals():
    """The messages for wrong batches on several devices."""
    mesh, lanes = data_mesh(jax.devices()[:4]), {"xs": data["ids"], "targets": data["targets"]}
    counting = window_learner(features, lambda ys, _: (jnp.sum(ys), jnp.argmax(ys)), keeping, has_aux=True)
    learner = window_learner(drawing, cross_entropy, keeping)
    split, state = parallel_learner(learner, mesh), learner.init(jax.random.key(0), (B,))
    on_devices, numbers = on_mesh(mesh, state), parallel_learner(counting, mesh)
    weighted = partial(parallel_learner, window_learner(features, squared_error, keeping), mesh)
    measured = counting.init(jax.random.key(0), (B,)), (data["xs"], data["ys"])
    wrong = np.where(np.arange(B) == 5, V + 1, data["ids"])
    six = jax.tree.map(lambda a: a[:, :6], lanes)
    masked = Window(data["xs"], data["ys"], data["mask"])
    whole = jax.tree.map(jnp.asarray, lanes)
    return {
        "lanes": message(lambda: process_lanes(mesh, 30)),
        "init": message(lambda: split.init(jax.random.key(0), (6,))),
        "no lanes": message(lambda: split.init(jax.random.key(0))),
        "state": message(lambda: on_mesh(mesh, learner.init(jax.random.key(0), (6,)))),
        "batch": message(lambda: split_batch(mesh, six)),
        "several": message(lambda: split_batch(mesh, (data["ids"], data["targets"][:, :4]))),
        "update": message(lambda: split.update(state, six)),
        "others": message(lambda: split.update(state, jax.tree.map(lambda a: a[:, :4], lanes))),
        "ids": message(lambda: split.update(on_devices, split_batch(mesh, {**lanes, "xs": wrong}))),
        "ids of fit": message(lambda: fit(split, state, {name: a[None] for name, a in {**lanes, "xs": wrong}.items()})),
        "axes": message(lambda: parallel_learner(learner, mesh, axes=(1, 1)).update(state, whole)),
        "sizes": message(lambda: numbers.update(measured[0], (data["xs"][:, :, :2], data["ys"]))),
        "sizes of one": message(lambda: counting.update(measured[0], (data["xs"][:, :, :2], data["ys"]))),
        "aux": message(lambda: jax.eval_shape(numbers.update, *measured)),
        "mask": message(lambda: jax.eval_shape(weighted().update, measured[0], masked)),
        "vector": message(
            lambda: jax.eval_shape(weighted(weight=lambda w: jnp.sum(w.mask, 0)).update, *measured[:1], masked)
        ),
        "split": message(lambda: one_copy(split_batch(mesh, lanes)["xs"])),
    }


def copies():
    """Copies on one device of arrays on several, the same arrays otherwise, and how often gathering was compiled."""
    mesh, numbers = data_mesh(jax.devices()[:4]), np.arange(8.0).reshape(2, 4)
    whole, split = split_batch(mesh, (numbers, numbers), (None, 1))
    alone = one_copy({"whole": whole, "of NumPy": numbers})
    program: Any = on_every_device
    before = program._cache_size()
    gathered = [on_every_device(mesh, [split, whole]) for _ in range(3)]
    return {
        "devices": [len(whole.sharding.device_set), len(alone["whole"].sharding.device_set)],
        "same": np.array_equal(alone["whole"], numbers) and alone["of NumPy"] is numbers,
        "whole": all(a.is_fully_replicated and np.array_equal(a, numbers) for a in gathered[-1]),
        "compiled": program._cache_size() - before,
    }


def products():
    """The products with three axes on both sides in the gradient of a rollout, and how far its numbers are."""
    cell, mesh = vanilla(3, H), data_mesh(jax.devices()[:4])
    with jax.enable_x64(True):
        params = cell.init(jax.random.key(0))
        params, xs = jax.tree.map(lambda a: a.astype(jnp.float64), (params, data["xs"]))

        def gradient(params, xs):
            def loss(params):
                h0 = cell.start(params, xs.shape[1:2])
                return jnp.sum(rollout(cell, params, h0, xs, schedule="adjoint")[1] ** 2)

            return jax.grad(loss)(params)

        def of_device(params, xs):
            return jax.lax.psum(gradient(params, xs), "data")

        whole, lanes = P(), P(None, "data")
        split = jax.shard_map(of_device, mesh=mesh, in_specs=(whole, lanes), out_specs=whole, check_vma=False)
        want, got = jax.jit(gradient)(params, xs), jax.jit(split)(params, xs)
        return {
            "split": long_products(split, params, xs),
            "whole": long_products(gradient, params, xs),
            "difference": largest_difference(want, got),
        }


def long_products(f, *args):
    """The number of products in a program of which both operands have three axes or more."""
    found = [eqn for eqn in all_equations(jax.make_jaxpr(f)(*args).jaxpr) if eqn.primitive.name == "dot_general"]
    assert found
    return sum(all(type_of(operand).ndim > 2 for operand in eqn.invars) for eqn in found)


def main():
    found: dict[str, Any] = {"differences": {}, "reduces": {}}
    for name, make in CASES.items():
        try:
            compare = {f"{name}, {devices}": of for devices, of in compared(make()).items()}
        except Exception as error:
            compare = {f"{name}, {devices}": (f"{type(error).__name__}: {error}", {}) for devices in make().devices}
        found["differences"] |= {run: difference for run, (difference, _) in compare.items()}
        found["reduces"] |= {run: reduced for run, (_, reduced) in compare.items()}
    for question in (skipped, validation_losses, automatic, ensembles, refusals, copies, products):
        found[question.__name__] = question()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
