"""Recurrent cells of flax as cells, and cells as modules of flax."""

# pyright: reportAttributeAccessIssue=false

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rnn_jax import (
    gru,
    lag_gradients,
    learned_start,
    lstm,
    many_to_one,
    min_gru,
    outputs,
    peephole_lstm,
    readout,
    rollout,
    vanilla,
)
from rnn_jax.gradients import chunked
from rnn_jax.interop import WithOutput, as_linen, as_nnx, cell_from_flax
from tests.adapted import B, H, I, T, Theirs, allowing, random_params, require_equal_lags, require_equal_rollouts

F64 = {"param_dtype": jnp.float64}


class LearnedLinen(nn.RNNCellBase):
    """A cell of one's own: a learned start, two parts of different sizes, and an output of the new state."""

    size: int = H

    def setup(self):
        self.W = nn.Dense(self.size, **F64)
        self.V = nn.Dense(2, **F64)
        self.first = self.param("first", nn.initializers.normal(), (self.size,), jnp.float64)

    def initialize_carry(self, rng, input_shape):
        batch = input_shape[:-1]
        return {"h": jnp.broadcast_to(self.first, (*batch, self.size)), "m": jnp.zeros((*batch, 1))}

    def __call__(self, carry, x):
        h = jnp.tanh(self.W(jnp.concatenate([carry["h"], carry["m"], x], -1)))
        m = 0.9 * carry["m"] + 0.1 * h.mean(-1, keepdims=True)
        return {"h": h, "m": m}, {"y": self.V(h), "m": m}

    @property
    def num_feature_axes(self):
        return 1


class GatedNNX(nnx.RNNCellBase):
    """A cell of one's own: a constant that is no weight, dropout, and an output of the input and the old state."""

    def __init__(self, rngs, rate=0.0):
        self.W = nnx.Linear(I + H, H, **F64, rngs=rngs)
        self.gate = nnx.Linear(I, H, **F64, rngs=rngs)
        self.leak = nnx.Variable(jnp.linspace(0.1, 0.9, H))
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, carry, x):
        h = self.leak[...] * carry + jnp.tanh(self.W(self.dropout(jnp.concatenate([carry, x], -1))))
        return h, h * jax.nn.sigmoid(self.gate(x)) + carry

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return jnp.zeros((*input_shape[:-1], H))

    @property
    def num_feature_axes(self):
        return 1


def of_linen(module, x=(I,), beside=False):
    def unroll(params, xs):
        return nn.RNN(module, time_major=True, return_carry=True).apply({"params": {"cell": params}}, xs)

    def step(params, h, x):
        return module.apply({"params": params}, h, x)

    return Theirs(cell_from_flax(module, x if len(x) > 1 else x[0]), unroll, step, x, beside)


def of_nnx(module, beside=False, x=None):
    graph, _, constants = nnx.split(module, nnx.Param, ...)

    def merged(params):
        return nnx.merge(graph, params, jax.tree.map(lambda a: a, constants))

    def unroll(params, xs):
        return nnx.RNN(merged(params), time_major=True, return_carry=True)(xs)

    def step(params, h, x):
        return merged(params)(h, x)

    return Theirs(cell_from_flax(module, x), unroll, step, beside=beside)


EXAMPLES = {
    **{f"linen {of.__name__}": of_linen(of(H, **F64)) for of in (nn.SimpleCell, nn.LSTMCell, nn.OptimizedLSTMCell)},
    **{f"linen {of.__name__}": of_linen(of(H, **F64)) for of in (nn.GRUCell, nn.MGUCell)},
    "linen ConvLSTMCell": of_linen(nn.ConvLSTMCell(2, (3, 3), **F64), (3, 2, 1)),
    "linen, of one's own": of_linen(LearnedLinen()),
    **{
        f"nnx {of.__name__}": of_nnx(of(I, H, dtype=jnp.float64, **F64, rngs=nnx.Rngs(0)))
        for of in (nnx.SimpleCell, nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell)
    },
    "nnx, of one's own": of_nnx(GatedNNX(nnx.Rngs(0)), beside=True, x=I),
}
one_example = pytest.mark.parametrize("theirs", EXAMPLES.values(), ids=EXAMPLES.keys())


@one_example
def test_a_cell_of_flax_has_the_rollout_and_the_gradients_of_flax(theirs):
    require_equal_rollouts(theirs)


@one_example
def test_a_cell_of_flax_has_the_lag_gradients_of_its_own_jacobians(theirs):
    require_equal_lags(theirs)
