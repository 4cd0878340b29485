"""What cells and losses close over may be traced, and differentiated, in every truncation program."""

import gc

import chex
import jax
import jax.numpy as jnp
import pytest

from rnn_jax import dropout_mask, gru, variational_dropout
from rnn_jax.gradients import PROGRAMS, cut

GRU = gru(3, 4)
PARAMS = GRU.init(jax.random.key(0))
XS = jax.random.normal(jax.random.key(1), (8, 2, 3))  # windows of 3: the last one is shorter


def loss_of(program, wrap):
    """A loss whose cell closes over a mask and whose loss closes over a scale, an integer and a key."""

    def loss(params, key, scale, power):
        dropped = variational_dropout(GRU, state_mask=dropout_mask(key, 0.5, (2, 4)))

        def of(ys, _):
            noise = jax.random.uniform(jax.random.fold_in(key, power), ys.shape[1:])
            return scale * jnp.sum(noise * jnp.sum(ys**2, axis=0))

        return program(dropped, params, dropped.start(params, (2,)), XS, (), of, window=3)[0]

    return jax.grad(wrap(loss), argnums=(0, 2))


def arguments():
    return PARAMS, jax.random.key(2), jnp.asarray(2.0), jnp.asarray(7)


@pytest.fixture(scope="module")
def wanted():
    return loss_of(cut, lambda f: f)(*arguments())


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_gradient_goes_through_jit_and_reaches_what_is_closed_over(program, wanted):
    found = loss_of(PROGRAMS[program], jax.jit)(*arguments())  # jit inside grad
    chex.assert_trees_all_close(found, wanted, rtol=1e-10)
    found = jax.jit(loss_of(PROGRAMS[program], lambda f: f))(*arguments())
    chex.assert_trees_all_close(found, wanted, rtol=1e-10)


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_closed_over_may_be_mapped(program, wanted):
    params, key, scale, power = arguments()
    scales = jnp.stack([scale, 3 * scale])
    found = jax.vmap(loss_of(PROGRAMS[program], jax.jit), in_axes=(None, None, 0, None))(params, key, scales, power)
    chex.assert_trees_all_close(jax.tree.map(lambda g: g[0], found), wanted, rtol=1e-10)
    chex.assert_trees_all_close(jax.tree.map(lambda g: g[1], found[0]), jax.tree.map(lambda g: 3 * g, wanted[0]))


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_that_is_closed_over_outlives_its_trace(program, of_this_test_alone):
    with jax.check_tracer_leaks():
        chex.assert_tree_all_finite(jax.jit(loss_of(PROGRAMS[program], lambda f: f))(*arguments()))


@pytest.fixture
def of_this_test_alone():
    """Every search for leaks goes through the objects of this test alone, not through all that are alive."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
