"""Data parallelism without flags: batches over 2 and 4 devices, with axes of every kind, equal one device's numbers.

Run as a script, this file prints what differs, for every case, as JSON; the tests start it on four virtual devices.
"""

import json
import os
import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
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
    output_dropout,
    outputs,
    readout,
    residual,
    rollout,
    stack,
    window_cuts,
)
from rnn_jax.decoding import beam_search, greedy, sample
from rnn_jax.gradients import chunked, cut, parallel, streaming
from rnn_jax.losses import cross_entropy
from rnn_jax.training import evaluate, fit, window_learner

T, B, V, I, H = 5, 4, 6, 3, 4
writer = readout(learned_start(gru(V, H)), V)
reader = stack(lstm(I, H), residual(lstm(H, H)))
drawing = output_dropout(lstm(I, H), 0.4)
both_ways = bidirectional(gru(I, H), lstm(I, H))


class Data(NamedTuple):
    """What is learned from, ``(T, B, …)`` unless said otherwise, and what is there on every device."""

    ids: Any
    targets: Any
    xs: Any
    mask: Any
    resets: Any
    lengths: Any  # (B,)
    params: Any


class Found(NamedTuple):
    """What a case computes, by where the batch lies in it."""

    everywhere: Any = ()
    leading: Any = ()
    second: Any = ()


def total(value):
    """A loss summed over the devices, where each sees a part of the batch."""
    manual = AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types
    return jax.lax.psum(value, "data") if manual else value


def batch_of(data):
    return (data.ids.shape[1],)


def nats(ys, targets):
    return cross_entropy(ys, targets) * targets.shape[1]


def squares(hs, _):
    return jnp.sum(jnp.square(jax.tree.leaves(hs)[0]))


def states(data):
    h, hs = rollout(writer, data.params.writer, writer.start(data.params.writer, batch_of(data)), data.ids)
    far, _ = rollout(
        reader,
        data.params.reader,
        reader.start(data.params.reader, batch_of(data)),
        data.xs,
        lengths=data.lengths,
        resets=data.resets,
        reverse=True,
    )
    _, seen = many_to_many_of(data)
    return Found(leading=(h, far), second=(hs, seen))


def many_to_many_of(data):
    h0 = both_ways.start(data.params.both_ways, batch_of(data))
    return (), many_to_many(both_ways, data.params.both_ways, h0, data.xs, mask=data.mask)


def nothing_to_read(data):
    h, hs = rollout(writer, data.params.writer, writer.start(data.params.writer, batch_of(data)), data.ids[:0])
    return Found(leading=h, second=hs)


def of_rollouts(data):
    def loss(params):
        marks = {"mask": data.mask, "resets": data.resets, "cuts": window_cuts(T, 2)}
        _, hs = rollout(writer, params.writer, writer.start(params.writer, batch_of(data)), data.ids, **marks)
        by_lengths = {"lengths": data.lengths, "cuts": data.resets}
        far, _ = rollout(reader, params.reader, reader.start(params.reader, batch_of(data)), data.xs, **by_lengths)
        value = cross_entropy(outputs(writer, params.writer, hs), data.targets, data.mask) * batch_of(data)[0]
        return total(value + squares(far, ()))

    value, grads = jax.value_and_grad(loss)(data.params)
    return Found(everywhere=(value, grads.writer, grads.reader))


def of_programs(program, data, **said):
    def loss(params, xs):
        of_ids, h = program(
            writer, params.writer, writer.start(params.writer, batch_of(data)), data.ids, data.targets, nats, **said
        )
        marks = {"lengths": data.lengths, "resets": data.resets}
        of_xs, _ = program(
            reader, params.reader, reader.start(params.reader, batch_of(data)), xs, (), squares, **said, **marks
        )
        return total(of_ids + of_xs), h

    (value, h), (grads, of_xs) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(data.params, data.xs)
    return Found(everywhere=(value, grads.writer, grads.reader), leading=h, second=of_xs)


def written(data):
    h, first = writer.start(data.params.writer, batch_of(data)), data.ids[0]
    chosen = greedy(writer, data.params.writer, h, first, length=4, end=2)
    cold = sample(
        writer, data.params.writer, jax.random.key(3), h, first, length=4, temperature=0.0, top_k=3, top_p=0.9
    )
    beams = beam_search(writer, data.params.writer, h, first, length=4, width=2, end=2)
    forced = one_to_many(writer, data.params.writer, h, first, data.targets)
    lengths_and_scores = (chosen.lengths, beams.lengths, beams.score)
    ids = (chosen.ids, chosen.log_prob, cold.ids, beams.ids, forced)
    return Found(leading=lengths_and_scores, second=ids)


def lags(data):
    found = lag_gradients(
        reader, data.params.reader, reader.start(data.params.reader, batch_of(data)), data.xs, lambda y: jnp.sum(y, -1)
    )
    return Found(second=found)


def learned(data):
    learner = window_learner(writer, lambda ys, t: total(nats(ys, t)), optax.adam(0.1), clip=1.0)
    state = learner.init(jax.random.key(1), batch_of(data))
    windows = jax.tree.map(lambda a: jnp.stack([a, a]), (data.ids, data.targets, data.mask, data.resets))
    state, info = fit(learner, state, windows)
    state, more = learner.update(state, (data.ids, data.targets))
    value = total(evaluate(writer, state.params, nats, data.ids, data.targets, window=2))
    return Found(everywhere=(state.params, state.step, info, more, value), leading=(state.h, state.fresh))


def drawn(data):
    def loss(params):
        xs = keyed(jax.random.key(5), data.xs, batch_of(data))
        return total(squares(rollout(drawing, params, drawing.start(params, batch_of(data)), xs)[1], ()))

    return Found(everywhere=jax.grad(loss)(data.params.drawing))


def drawn_ids(data):
    h = writer.start(data.params.writer, batch_of(data))
    return Found(second=sample(writer, data.params.writer, jax.random.key(3), h, data.ids[0], length=4).ids)


CASES = {
    "states": states,
    "states of no step": nothing_to_read,
    "gradients of rollouts": of_rollouts,
    "cut": partial(of_programs, cut, window=2),
    "chunked": partial(of_programs, chunked, window=3, k1=2),
    "parallel": partial(of_programs, parallel, window=3, k1=2),
    "streaming": partial(of_programs, streaming),
    "what is written": written,
    "gradients by lag": lags,
    "training": learned,
}
DRAWN = {"dropout": drawn, "samples": drawn_ids}
"""What each part of a mapped batch would draw alike."""


class Models(NamedTuple):
    """Params of all models."""

    writer: Any
    reader: Any
    drawing: Any
    both_ways: Any


def make_data():
    models = (writer, reader, drawing, both_ways)
    params = Models(*(m.init(key) for m, key in zip(models, jax.random.split(jax.random.key(0), 4), strict=True)))
    draw = np.random.default_rng(0)
    mask = draw.random((T, B)) < 0.7
    return Data(
        ids=draw.integers(0, V, (T, B)),
        targets=draw.integers(0, V, (T, B)),
        xs=draw.normal(size=(T, B, I)),
        mask=mask,
        resets=draw.random((T, B)) < 0.3,
        lengths=np.array([5, 3, 0, 4]),
        params=params,
    )


SPECS = Data(*[P(None, "data")] * 5, P("data"), P())
FOUND = Found(P(), P("data"), P(None, "data"))


def over(mesh, data):
    put = lambda spec, tree: jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, spec)), tree)  # noqa: E731
    return Data(*map(put, SPECS, data))


def differences(want, got):
    """What differs, in a line; nothing where all is equal to rounding."""
    for (path, a), b in zip(jax.tree.leaves_with_path(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(
            np.asarray(b), np.asarray(a), rtol=1e-9, atol=1e-12, err_msg=jax.tree_util.keystr(path)
        )


def run_case(case, kind, devices, data):
    types = (AxisType.Explicit if kind.startswith("explicit") else AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("data",), types, devices=jax.devices()[:devices])
    if kind == "automatic":
        return jax.jit(case)(over(mesh, data))
    if kind == "shard_map":
        return jax.jit(jax.shard_map(case, mesh=mesh, in_specs=(SPECS,), out_specs=FOUND))(data)
    with jax.set_mesh(mesh):
        found = (jax.jit(case) if kind == "explicit" else case)(over(mesh, data))
        for place, part in zip(FOUND, found, strict=True):
            for leaf in jax.tree.leaves(part):
                assert tuple(leaf.sharding.spec)[: len(place)] == tuple(place), (leaf.sharding.spec, place)
        return found


RUNS = [(kind, devices) for devices in (2, 4) for kind in ("automatic", "explicit", "shard_map")]
if len(sys.argv) > 1 and sys.argv[0].endswith("test_meshes.py"):
    RUNS = [run for run in RUNS if str(run) in sys.argv[1:]]


def main():
    data, found = make_data(), {}
    only = os.environ.get("ONLY", "")
    for name, case in {**CASES, **DRAWN}.items():
        if only and name not in only:
            continue
        want = jax.jit(case)(data)
        for kind, devices in RUNS:
            if kind == "shard_map" and name in DRAWN:
                continue
            try:
                differences(want, run_case(case, kind, devices, data))
                found[f"{name}, {kind}, {devices}"] = ""
            except Exception as error:
                if os.environ.get("TRACE"):
                    import traceback

                    traceback.print_exc()
                found[f"{name}, {kind}, {devices}"] = f"{type(error).__name__}: {error}"[:400]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
