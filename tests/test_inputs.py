"""Influence of inputs on outputs."""

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import gru, input_gradients, outputs, readout, rollout
from rnn_jax.diagnostics import log_odds


def test_input_gradients_are_norms_of_finite_differences_and_zero_ahead_of_time():
    model = readout(gru(3, 4), 2)
    k_params, k_x = jax.random.split(jax.random.key(0))
    params, xs = model.init(k_params), jax.random.normal(k_x, (5, 3))

    @jax.jit
    def f(xs):
        _, hs = rollout(model, params, model.start(params), xs)
        return outputs(model, params, hs)[:, 0] ** 2

    found, step = np.asarray(input_gradients(f, xs)), 1e-6
    assert found.shape == (5, 5)
    for t in range(5):
        moved = [(f(xs.at[t, i].add(step)) - f(xs.at[t, i].add(-step))) / (2 * step) for i in range(3)]
        np.testing.assert_allclose(found[:, t], np.linalg.norm(np.stack(moved), axis=0), rtol=1e-6, atol=1e-9)
        assert not found[:t, t].any(), "no output is moved by what comes after it"
        assert found[t, t] > 0
    assert jnp.isfinite(found).all()


def test_gradients_whose_squares_float32_could_not_hold_are_measured():
    halves = 0.5 ** np.arange(89, -1, -1)
    found = input_gradients(lambda xs: jnp.asarray(halves, jnp.float32) @ xs, jnp.ones((90, 2), jnp.float32))
    np.testing.assert_allclose(found[0], halves, rtol=1e-6)


def test_log_odds_are_those_of_the_softmax_and_keep_their_gradient_where_it_is_certain():
    logits, ids = jax.random.normal(jax.random.key(0), (5, 3, 4)), jax.random.randint(jax.random.key(1), (5, 3), 0, 4)
    p = jnp.take_along_axis(jax.nn.softmax(logits), ids[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(log_odds(logits, ids), jnp.log(p / (1 - p)), rtol=1e-12)
    certain = jnp.array([800.0, 0.0, -1.0])
    np.testing.assert_allclose(log_odds(certain, jnp.array(0)), 800 - jnp.log(1 + jnp.exp(-1.0)), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(log_odds)(certain, jnp.array(0))[0], 1.0)
