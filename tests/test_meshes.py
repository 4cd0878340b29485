"""Data parallelism without flags: batches over 2 and 4 devices, with axes of every kind, equal one device's numbers.

The tests start this file once as a script, on four virtual devices, which prints what differs as JSON.
"""

import json
import os
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
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from rnn_jax import (
    bidirectional,
    gru,
    keyed,
    lag_gradients,
    learned_start,
    lstm,
    many_to_many,
    one_to_many,
    outputs,
    readout,
    reverse_sequence,
    rollout,
    scheduled_sampling,
    window_cuts,
    zoneout,
)
from rnn_jax.decoding import beam_search, greedy, sample
from rnn_jax.gradients import chunked, cut, norm_preserving, parallel, streaming
from rnn_jax.losses import cross_entropy
from rnn_jax.training import evaluate, fit, window_learner

T, B, V, I, H = 4, 4, 5, 3, 4
writer, reader = readout(learned_start(gru(V, H)), V), lstm(I, H)
drawing, both_ways = zoneout(reader, 0.4), bidirectional(gru(I, H), reader)


class Data(NamedTuple):
    """What is learned from, ``(T, B, …)`` unless said otherwise, and the params of all models."""

    ids: Any
    targets: Any
    xs: Any
    mask: Any
    resets: Any
    lengths: Any
    """``(B,)``"""
    writer: Any
    reader: Any
    both_ways: Any


class Found(NamedTuple):
    """What a case computes, by where the batch lies in it."""

    everywhere: Any = ()
    leading: Any = ()
    second: Any = ()


OF_STEPS = P(None, "data")
PARTS = Data(OF_STEPS, OF_STEPS, OF_STEPS, OF_STEPS, OF_STEPS, P("data"), P(), P(), P())
PARTS_FOUND = Found(P(), P("data"), P(None, "data"))


def total(value):
    """A sum over the batch as a sum over the devices, where each has its part alone."""
    mapped = AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types
    return jax.lax.psum(value, "data") if mapped else value


def batch(data):
    return data.ids.shape[1:]


def start(cell, params, data):
    return cell.start(params, batch(data))


def nats(ys, targets):
    return cross_entropy(ys, targets) * targets.shape[1]


def squares(hs, _=()):
    return jnp.sum(jnp.square(jax.tree.leaves(hs)[0]))


def states(data):
    h, hs = rollout(writer, data.writer, start(writer, data.writer, data), data.ids)
    far, _ = rollout(reader, data.reader, start(reader, data.reader, data), data.xs, lengths=data.lengths, reverse=True)
    none = rollout(writer, data.writer, start(writer, data.writer, data), data.ids[:0])
    ys = many_to_many(both_ways, data.both_ways, start(both_ways, data.both_ways, data), data.xs, mask=data.mask)
    value = total(evaluate(writer, data.writer, data.ids, data.targets, nats, window=2))
    return Found(value, leading=(h, far, none[0]), second=(hs, ys, none[1], reverse_sequence(data.xs, data.lengths)))


def rollouts(data):
    def loss(writer_params, reader_params):
        flags = {"mask": data.mask, "resets": data.resets, "cuts": window_cuts(T, 2)}
        _, hs = rollout(writer, writer_params, start(writer, writer_params, data), data.ids, **flags)
        by_lengths = {"lengths": data.lengths, "cuts": data.resets}
        h, _ = rollout(reader, reader_params, start(reader, reader_params, data), data.xs, **by_lengths)
        value = cross_entropy(outputs(writer, writer_params, hs), data.targets, data.mask) * len(data.lengths)
        return total(value + squares(h))

    return Found(everywhere=jax.value_and_grad(loss, argnums=(0, 1))(data.writer, data.reader))


def of_ids(program, data, **arguments):
    def loss(params):
        value, h = program(writer, params, start(writer, params, data), data.ids, data.targets, nats, **arguments)
        return total(value), h

    (value, h), grads = jax.value_and_grad(loss, has_aux=True)(data.writer)
    return Found(everywhere=(value, grads), leading=h)


def of_features(program, data, **arguments):
    flags = {"lengths": data.lengths, "resets": data.resets}

    def loss(params, xs, closed_over):
        of_program = lambda hs, _: closed_over * squares(hs)  # noqa: E731
        value, h = program(reader, params, start(reader, params, data), xs, (), of_program, **arguments, **flags)
        return total(value), h

    found = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(data.reader, data.xs, jnp.asarray(0.7))
    (value, h), (grads, of_xs, of_closed_over) = found
    return Found(everywhere=(value, grads, of_closed_over), leading=h, second=of_xs)


def both(program, data, **arguments):
    ids, features = of_ids(program, data, **arguments), of_features(program, data, **arguments)
    return Found(*zip(ids, features, strict=True))


def weighed(data):
    """How far ``chunked`` is from ``cut`` where each device counts its losses otherwise: not at all."""

    def loss(params, program):
        value, _ = program(reader, params, start(reader, params, data), data.xs, (), squares, window=2)
        return total(value * jnp.sum(data.lengths).astype(value.dtype))

    grads = [jax.grad(loss)(data.reader, program) for program in (chunked, cut)]
    return Found(everywhere=jax.tree.map(jnp.subtract, *grads))


def decoded(data):
    h, first = start(writer, data.writer, data), data.ids[0]
    chosen = greedy(writer, data.writer, h, first, length=4, end=2)
    cold = {"temperature": 0.0, "top_k": 3, "top_p": 0.9, "end": 2}
    sampled = sample(writer, data.writer, jax.random.key(3), h, first, length=4, **cold).ids
    beams = beam_search(writer, data.writer, h, first, length=4, width=2, end=2)
    told = one_to_many(writer, data.writer, h, first, data.targets)
    lengths_and_scores = (chosen.lengths, beams.lengths, beams.score)
    return Found(leading=lengths_and_scores, second=(chosen.ids, chosen.log_prob, sampled, beams.ids, told))


def drawn(data):
    """What each part of a mapped batch would draw alike."""
    h, first, key = start(writer, data.writer, data), data.ids[0], jax.random.key(3)
    ids = sample(writer, data.writer, key, h, first, length=4).ids
    told = scheduled_sampling(writer, data.writer, key, h, first, data.targets, 0.5)
    xs = keyed(key, data.xs, batch(data))
    return Found(second=(ids, told, rollout(drawing, data.reader, start(drawing, data.reader, data), xs)[1]))


def by_lag(data):
    h0 = start(reader, data.reader, data)
    return Found(second=lag_gradients(reader, data.reader, h0, data.xs, lambda y: jnp.sum(y, axis=-1)))


def training(data):
    optimizer = optax.sgd(0.1, momentum=0.9)
    learner = window_learner(writer, lambda ys, targets: total(nats(ys, targets)), optimizer, clip=1.0)
    state = learner.init(jax.random.key(1), batch(data))
    windows = jax.tree.map(lambda a: jnp.stack([a, a]), (data.ids, data.targets, data.mask, data.resets))
    state, info = fit(learner, state, windows)
    return Found(everywhere=(state.params, state.step, info), leading=(state.h, state.fresh))


def profile(data):
    """The profile of lags of one update, from a state that does not differ between devices, and from one that does."""
    learner = window_learner(reader, lambda hs, _: total(squares(hs)), optax.sgd(0.1), lag_profile=True)
    state = learner.init(jax.random.key(1), batch(data))
    _, alone = learner.update(state, (data.xs, ()))
    _, info = fit(learner, state, (data.xs[None], ()))
    return Found(everywhere=total(jnp.sum(alone.lag_profile)), second=info.lag_profile[0])


def penalty(data):
    """The penalty of a loss whose gradient is that of all devices, a mean over the examples."""
    h0 = start(reader, data.reader, data)
    omega = norm_preserving(reader, data.reader, h0, data.xs, (), lambda hs, _: total(squares(hs)))
    return Found(everywhere=total(omega * data.xs.shape[1]))


def skipped(data):
    """An update in which one lane alone, on one device, has met what is not finite."""
    learner = window_learner(reader, lambda ys, targets: total(squares(ys)), optax.sgd(0.1))
    state = learner.init(jax.random.key(1), batch(data))
    state = state._replace(h=jax.tree.map(lambda h: jnp.where(data.lengths[:, None] == 0, jnp.inf, h), state.h))
    state, info = learner.update(state._replace(fresh=data.lengths < 0), (data.xs, ()))
    return Found(everywhere=(state.params, state.step, info.broken), leading=(state.h, state.fresh))


CASES = {
    "states": states,
    "gradients of rollouts": rollouts,
    "gradients of cut": partial(of_ids, cut, window=2),
    "gradients of chunked": partial(both, chunked, window=3, k1=2),
    "gradients of parallel": partial(of_features, parallel, window=3, k1=2),
    "gradients of streaming": partial(of_ids, streaming),
    "gradients of losses that count otherwise on each device": weighed,
    "gradients by lag": by_lag,
    "what is decoded": decoded,
    "what is drawn": drawn,
    "training": training,
    "the profile of lags": profile,
    "a penalty": penalty,
    "a skipped update": skipped,
}
OF_MAPPED_BATCHES = ["gradients of losses that count otherwise on each device", "a skipped update"]
RUNS = [
    *((name, "explicit", 2) for name in CASES if name not in OF_MAPPED_BATCHES),
    *((name, "shard_map", 4) for name in CASES if name != "what is drawn"),
    *(("gradients of rollouts", kind, n) for kind, n in (("explicit", 4), ("shard_map", 2), ("automatic", 4))),
    ("training", "automatic", 2),
    ("states", "explicit, without jit", 2),
    ("what is decoded", "explicit, without jit", 2),
]


def draw():
    numbers = np.random.default_rng(0)
    keys = jax.random.split(jax.random.key(0), 3)
    return Data(
        numbers.integers(0, V, (T, B)),
        numbers.integers(0, V, (T, B)),
        numbers.normal(size=(T, B, I)),
        numbers.random((T, B)) < 0.7,
        numbers.random((T, B)) < 0.3,
        np.array([4, 3, 0, 2]),
        *(model.init(key) for model, key in zip((writer, reader, both_ways), keys, strict=True)),
    )


def put(mesh, part, tree):
    return jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, part)), tree)


def compute(case, kind, devices, data):
    """What a case computes over a mesh."""
    axes = (AxisType.Explicit if kind.startswith("explicit") else AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("data",), axes, devices=jax.devices()[:devices])
    split = Data(*(put(mesh, part, tree) for part, tree in zip(PARTS, data, strict=True)))
    if kind == "automatic":
        return jax.jit(case)(split)
    if kind == "shard_map":
        return jax.jit(jax.shard_map(case, mesh=mesh, in_specs=(PARTS,), out_specs=PARTS_FOUND))(split)
    with jax.set_mesh(mesh):
        found = (case if kind.endswith("without jit") else jax.jit(case))(split)
    for part, tree in zip(PARTS_FOUND, found, strict=True):
        for a in jax.tree.leaves(tree):
            assert tuple(a.sharding.spec)[: len(part)] == tuple(part), f"{a.shape} lies as {a.sharding.spec}"
    return found


def compare(want, got):
    for (path, a), b in zip(jax.tree.leaves_with_path(want), jax.tree.leaves(got), strict=True):
        at = jax.tree_util.keystr(path)
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=1e-9, atol=1e-12, err_msg=at)


def main():
    data, wanted, found = draw(), {}, {}
    for name, kind, devices in RUNS:
        if name not in wanted:
            wanted[name] = jax.jit(CASES[name])(data)
        try:
            compare(wanted[name], compute(CASES[name], kind, devices, data))
            found[f"{name}, {kind}, {devices}"] = ""
        except Exception as error:
            found[f"{name}, {kind}, {devices}"] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


@pytest.fixture(scope="module")
def differences():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    strict = {"JAX_ENABLE_X64": "1", "JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_NUMPY_DTYPE_PROMOTION": "strict"}
    here = {"PYTHONPATH": str(Path(__file__).parents[1]), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    ran = subprocess.run(
        [sys.executable, __file__], env={**os.environ, **strict, **here}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("run", [f"{name}, {kind}, {devices}" for name, kind, devices in RUNS])
def test_a_batch_split_over_devices_gives_the_numbers_of_one(differences, run):
    assert not differences[run]


if __name__ == "__main__":
    main()
