"""Whatever an init or a start makes can be donated: no two of its arrays, and none of the params, are one buffer."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

from rnn_jax import (
    bidirectional,
    encoder_decoder,
    gru,
    learned_start,
    lstm,
    output_dropout,
    readout,
    residual,
    stack,
    vanilla,
    zoneout,
)
from rnn_jax.training import batch_learner, fit, window_learner
from tests.cases import CASES


def buffers(tree):
    of_keys = lambda a: jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a  # noqa: E731
    return [of_keys(leaf).unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)]


MODELS = {name: case.cell for name, case in CASES.items()} | {
    "residual of residual": residual(residual(gru(3, 3))),
    "learned start of residual": learned_start(residual(gru(3, 3))),
    "learned start of learned start": learned_start(learned_start(lstm(3, 3))),
    "output dropout of zoneout": output_dropout(zoneout(lstm(3, 4), 0.1), 0.1),
    "both ways": bidirectional(learned_start(gru(3, 4)), residual(gru(3, 3))),
    "layers": stack(bidirectional(gru(3, 4), lstm(3, 4)), bidirectional(gru(8, 4), gru(8, 4))),
    "encoder and decoder": encoder_decoder(
        learned_start(gru(3, 4)), readout(stack(lstm(5, 4), residual(gru(4, 4))), 5)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_no_buffer_is_made_twice(name):
    model = MODELS[name]
    params = model.init(jax.random.key(0))
    for batch in ((), (2,)):
        made = buffers((params, model.start(params, batch)))
        assert len({*made}) == len(made)


def keep(updates, state, params=None):
    return updates, state


OPTIMIZERS = {
    "adam": optax.adam(0.1),
    "what keeps the params": optax.contrib.sam(optax.adam(0.01), optax.sgd(0.05)),
    "what keeps them twice": optax.GradientTransformation(lambda params: (params, params), keep),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_state_of_every_learner_can_be_donated(optimizer):
    model = readout(learned_start(residual(vanilla(5, 5))), 5)
    squares = lambda ys, _: jnp.sum(ys**2)  # noqa: E731
    xs = jnp.ones((2, 3, 5))
    cases = [
        (window_learner(model, squares, OPTIMIZERS[optimizer]), (), (xs, xs)),
        (batch_learner(model.init, lambda p, x: jnp.sum(p.W_hy**2) * x, OPTIMIZERS[optimizer]), (), (jnp.ones(2),)),
    ]
    for learner, batch, batches in cases:
        state = learner.init(jax.random.key(0), batch)
        made = buffers(state)
        assert len({*made}) == len(made)
        state, _ = jax.jit(partial(fit, learner), donate_argnums=0)(state, batches)
        assert int(jax.block_until_ready(state).step) == 2
