"""What a gate or an eigenvalue leaves to 1 stays exact where it is small, and so does its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax as rnn
from rnn_jax.cells.activations import complementary
from rnn_jax.cells.linear import decay

TYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
GATED = {  # the forget gate's part of b_h, far open
    "gru": slice(4, 8),
    "gru_reset_before": slice(4, 8),
    "ugrnn": slice(0, 4),
    "cifg_lstm": slice(0, 4),
    "janet": slice(0, 4),
}


def with_gradients(function, x):
    """Both values of a function of numbers, and the gradient of each, in float64."""
    slopes = (jax.grad(lambda x, i=i: jnp.sum(function(x)[i])) for i in range(2))
    run = jax.jit(lambda x: [*function(x), *(slope(x) for slope in slopes)])
    return [np.asarray(a, np.float64) for a in run(x)]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("function", [decay, complementary])
def test_small_rests_and_their_gradients_are_exact(function, dtype):
    x = jnp.asarray(np.linspace(-9, 1, 41), dtype)
    got, truth = with_gradients(function, x), with_gradients(function, x.astype(jnp.float64))
    for a, b in zip(got, truth, strict=True):
        np.testing.assert_allclose(a, b, rtol=40 * float(jnp.finfo(dtype).eps), atol=4 * float(jnp.finfo(dtype).tiny))


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_learned_may_be_extreme(dtype):
    cell = rnn.diagonal(1, 1, dtype=dtype)
    params = jax.tree.map(lambda a: jnp.ones(a.shape, dtype), jax.eval_shape(cell.init, jax.random.key(0)))
    one = jnp.ones(1, dtype)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(cell.step(p, one, one))))
    for extreme in (-1e4, -100.0, -20.0, 20.0, 100.0, 1e4):
        for leaf in gradient(params._replace(log_nu=jnp.full((1,), extreme, dtype))):
            assert np.all(np.isfinite(np.asarray(leaf, float))), extreme


@pytest.mark.parametrize("name", GATED)
def test_a_gate_that_is_far_open_still_writes_and_learns_in_bfloat16(name):
    cell = getattr(rnn, name)(1, 4)
    params = jax.tree.map(lambda a: jnp.full(a.shape, 0.25), jax.eval_shape(cell.init, jax.random.key(0)))
    params = params._replace(b_h=params.b_h.at[GATED[name]].set(7.0))

    def written(params):
        dtype = params.b_h.dtype
        state = cell.step(params, cell.start(params), jnp.ones(1, dtype))
        return jnp.sum(state[-1] if isinstance(state, tuple) else state)

    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    with_slopes = jax.jit(jax.value_and_grad(written))
    truth, slopes = with_slopes(jax.tree.map(lambda a: a.astype(jnp.float64), low))
    got, got_slopes = with_slopes(low)
    np.testing.assert_allclose(float(got), float(truth), rtol=0.1)
    np.testing.assert_allclose(
        np.asarray(got_slopes.b_h, float)[GATED[name]], np.asarray(slopes.b_h)[GATED[name]], rtol=0.1
    )
