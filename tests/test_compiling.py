"""Calls outside of jit: compiled once for equal cells and shapes, however often they are made."""

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
    "evaluate": lambda: evaluate(model(), PARAMS, cross_entropy, XS, XS),
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


def leaky():
    return cell_from_step(
        init=lambda key: jnp.ones(()),
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 1)),
        step=lambda a, h, x: a * h + x,
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


SCALE = 1.0


def test_a_loss_of_equal_code_that_reads_something_else_is_another_one():
    def measured(scale):
        return rnn.lag_gradients(model(), PARAMS, H0, XS, lambda y: scale * SCALE * jnp.sum(y, axis=-1)).log_norm[0]

    global SCALE
    plain = measured(1.0)
    np.testing.assert_allclose(measured(2.0) - plain, np.log(2), rtol=1e-12)
    np.testing.assert_allclose(measured(jnp.asarray(3.0)) - plain, np.log(3), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(measured)(4.0) - plain, np.log(4), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(measured)(5.0) - plain, np.log(5), rtol=1e-12)
    SCALE = 6.0
    np.testing.assert_allclose(measured(1.0) - plain, np.log(6), rtol=1e-12)
    SCALE = 1.0


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
