"""Calls outside of jit: compiled once for equal cells and shapes, however often they are made."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnn_jax as rnn
from rnn_jax import cell_from_step
from rnn_jax.decoding import beam_search, greedy, sample
from rnn_jax.gradients import chunked, cut, parallel, streaming
from rnn_jax.losses import cross_entropy
from rnn_jax.training import evaluate, fit, window_learner
from tests.laboratory import as_a_user_has_it

V, KEY = 5, jax.random.key(0)


def model():
    return rnn.readout(rnn.gru(V, 4), V)


PARAMS = model().init(KEY)
XS, FIRST = jnp.arange(12).reshape(6, 2) % V, jnp.array([1, 2])
ONE, H0 = model().start(PARAMS), model().start(PARAMS, (2,))
OPTIMIZER = optax.adam(1e-3)


def learner():
    return window_learner(model(), cross_entropy, OPTIMIZER)


LEARNER = learner()  # as long as somebody holds one, an equal one is compiled already
STATE = LEARNER.init(KEY, (2,))


def total(y):
    return jnp.sum(y, axis=-1)


CALLS = {
    "rollout": lambda: rnn.rollout(model(), PARAMS, H0, XS),
    "rollout with lengths": lambda: rnn.rollout(model(), PARAMS, H0, XS, lengths=jnp.array([6, 2])),
    "gradient of rollout": lambda: jax.grad(lambda p: rnn.rollout(model(), p, H0, XS)[0].sum())(PARAMS),
    "rollout under vmap": lambda: jax.vmap(lambda x: rnn.rollout(model(), PARAMS, H0, x)[0])(XS[None]),
    "cut": lambda: cut(model(), PARAMS, H0, XS, XS, cross_entropy, window=2),
    "chunked": lambda: chunked(model(), PARAMS, H0, XS, XS, cross_entropy, window=2),
    "gradient of chunked": lambda: jax.grad(lambda p: chunked(model(), p, H0, XS, XS, cross_entropy, window=4)[0])(
        PARAMS
    ),
    "parallel": lambda: parallel(model(), PARAMS, H0, XS, XS, cross_entropy, window=2),
    "streaming": lambda: streaming(model(), PARAMS, H0, XS, XS, cross_entropy),
    "evaluate": lambda: evaluate(model(), PARAMS, XS, XS, cross_entropy),
    "update": lambda: learner().update(STATE, (XS, XS)),
    "fit": lambda: fit(learner(), STATE, (XS[None], XS[None])),
    "greedy": lambda: greedy(model(), PARAMS, H0, FIRST, length=3),
    "sample": lambda: sample(model(), PARAMS, KEY, H0, FIRST, length=3, top_k=2, temperature=0.5),
    "beam search": lambda: beam_search(model(), PARAMS, H0, FIRST, length=3, width=2),
    "lag gradients": lambda: rnn.lag_gradients(model(), PARAMS, H0, XS, total),
    "lag gradients of a lambda": lambda: rnn.lag_gradients(model(), PARAMS, H0, XS, lambda y: jnp.sum(y, axis=-1)),
    "chunked of a lambda": lambda: chunked(model(), PARAMS, H0, XS, XS, lambda y, _: jnp.sum(y), window=2),
    "a cell of lambdas": lambda: rnn.rollout(leaky(), jnp.ones(()), jnp.zeros((2, 1)), jnp.ones((3, 2, 1))),
    "step jacobian": lambda: rnn.step_jacobian(model(), PARAMS, ONE, XS[0, 0]),
    "leading gain": lambda: rnn.leading_gain(model(), PARAMS, ONE, XS[0, 0]),
    "scheduled sampling": lambda: rnn.scheduled_sampling(model(), PARAMS, KEY, H0, FIRST, XS, 0.5),
    "many to one": lambda: rnn.many_to_one(model(), PARAMS, H0, XS),
    "bidirectional": lambda: rnn.many_to_many(*both_ways(), XS),
}


def leaky(read=None):
    return cell_from_step(
        init=lambda key: jnp.ones(()),
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 1)),
        step=lambda a, h, x: a * h * (read["plain"] if read else 1.0) + x,
    )


def both_ways():
    layer = rnn.bidirectional(rnn.gru(V, 4), rnn.gru(V, 4))
    params = layer.init(KEY)
    return layer, params, layer.start(params, (2,))


@pytest.mark.parametrize("name", CALLS)
def test_a_repeated_call_compiles_nothing(name):
    CALLS[name](), CALLS[name]()
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compilations.append(event))
    try:
        CALLS[name]()
    finally:
        jax.monitoring.clear_event_listeners()
    assert not [event for event in compilations if "backend_compile" in event]


READ: dict[str, Any] = {"plain": 1.0}


class Settings:
    """An object of a class of one's own, whose changes nobody sees."""

    scale = 1.0

    def loss(self, y):
        return self.scale * jnp.sum(y, axis=-1)


def first_of(loss):
    return rnn.lag_gradients(leaky(), jnp.ones(()), jnp.zeros((2, 1)), jnp.ones((3, 2, 1)), loss).log_norm[0]


def by_global(y):
    return READ["plain"] * jnp.sum(y, axis=-1)


def through_another(y):
    return by_global(y)


def test_a_changed_value_that_a_loss_or_a_cell_reads_is_used():
    settings, numbers = Settings(), np.ones(1)
    READ["plain"], READ["array"] = 1.0, jnp.ones(())
    losses = [by_global, through_another, settings.loss, lambda y: numbers[0] * jnp.sum(y, axis=-1)]
    losses += [lambda y: READ["array"] * jnp.sum(y, axis=-1), lambda y: settings.scale * jnp.sum(y, axis=-1)]
    plain = [first_of(loss) for loss in losses]
    for factor in (2.0, 3.0):
        settings.scale = READ["plain"] = numbers[0] = factor
        READ["array"] = jnp.asarray(factor)
        for loss, before in zip(losses, plain, strict=True):
            np.testing.assert_allclose(first_of(loss) - before, np.log(factor), rtol=1e-12)
    cell, gain = leaky(READ), jnp.ones(())
    for READ["plain"] in (0.5, 2.0):
        np.testing.assert_allclose(rnn.rollout(cell, gain, jnp.ones(1), jnp.zeros((4, 1)))[0], READ["plain"] ** 4)


def test_a_loss_that_counts_its_traces_is_traced_once():
    traces, count = [], {"n": 0}

    def loss(y):
        traces.append(y.shape)
        count["n"] += 1
        return jnp.sum(y, axis=-1)

    first_of(loss)
    once = len(traces)
    for _ in range(3):
        first_of(loss)
    assert len(traces) == count["n"] == once


def test_a_loss_that_closes_over_another_number_is_another_one():
    def measured(scale):
        return first_of(lambda y: scale * jnp.sum(y, axis=-1))

    plain = measured(1.0)
    for scale in (2.0, jnp.asarray(3.0)):
        np.testing.assert_allclose(measured(scale) - plain, np.log(scale), rtol=1e-12)
    for scale in (4.0, 5.0):
        np.testing.assert_allclose(jax.jit(measured)(scale) - plain, np.log(scale), rtol=1e-12)


def test_what_is_traced_and_reached_through_an_object_is_no_other_programs():
    found = {}

    def measured(scale):
        found["scale"] = scale
        return first_of(lambda y: found["scale"] * jnp.sum(y, axis=-1))

    plain = jax.jit(measured)(1.0)
    np.testing.assert_allclose(jax.jit(lambda scale: measured(scale) + 1)(5.0) - plain - 1, np.log(5), rtol=1e-12)
    with jax.check_tracer_leaks():
        jax.jit(lambda scale: first_of(lambda y: scale * jnp.sum(y, axis=-1)))(2.0)


def test_a_mask_that_is_changed_in_place_changes_no_cell():
    numbers = np.ones(4)
    with as_a_user_has_it():
        kept = rnn.variational_dropout(rnn.gru(V, 4), state_mask=numbers)  # type: ignore[arg-type]
        numbers[:] = 0
        fresh = rnn.variational_dropout(rnn.gru(V, 4), state_mask=np.ones(4))  # type: ignore[arg-type]
        params = kept.init(KEY)
        plain = rnn.gru(V, 4).step(params, jnp.ones(4), jnp.asarray(1))
        for cell in (kept, fresh):
            np.testing.assert_allclose(cell.step(params, jnp.ones(4), jnp.asarray(1)), plain, rtol=1e-12)


def test_a_cell_without_a_hash_is_rolled_out_as_it_is():
    class Step(dict):  # a dict has no hash
        def __call__(self, params, h, x):
            return self["a"] * h + x

    cell = cell_from_step(
        init=lambda key: jnp.zeros(()),
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 1)),
        step=Step(a=0.5),
    )
    h_T, _ = rnn.rollout(cell, jnp.zeros(()), jnp.zeros(1), jnp.ones((3, 1)))
    np.testing.assert_allclose(h_T, 1.75)


def test_what_a_cell_closes_over_inside_another_trace_is_never_taken_from_an_earlier_one():
    gru = rnn.gru(V, 4)
    params, h0 = gru.init(KEY), gru.start(gru.init(KEY))
    xs = jnp.arange(3)

    def of(mask):
        return rnn.rollout(rnn.variational_dropout(gru, state_mask=mask), params, h0, xs)[0].sum()

    masks = jnp.array([[1.0, 0, 2, 0], [0.0, 1, 0, 3]])
    wanted = [of(mask) for mask in masks]
    np.testing.assert_allclose([jax.jit(of)(mask) for mask in masks], wanted, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(of)(masks), wanted, rtol=1e-12)
    np.testing.assert_allclose(jax.lax.map(of, masks), wanted, rtol=1e-12)
    assert np.all(np.isfinite(jax.jit(jax.grad(of))(masks[0])))
