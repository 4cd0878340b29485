"""Cells of flax that a user may write, of linen and nnx: some that an adapter takes, and some that it refuses."""

# pyright: reportAttributeAccessIssue=false
# (modules of libraries whose attributes have no types)

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from tests.adapted import H, I

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


class DrawnStartNNX(nnx.SimpleCell):
    """A cell whose first carry is drawn."""

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return super().initialize_carry(input_shape, rngs, nnx.initializers.normal())


class Reservoir(nnx.Module):
    """A fixed random matrix, and weights that are trained."""

    def __init__(self, rngs):
        self.fixed = nnx.Variable(jax.random.normal(rngs.params(), (H, H)))
        self.U = nnx.Param(jax.random.normal(rngs.params(), (I, H)))
        self.dropout = nnx.Dropout(0.5, deterministic=True, rngs=rngs)

    def __call__(self, carry, x):
        h = jnp.tanh(self.dropout(carry) @ self.fixed[...] + x @ self.U[...])
        return h, h

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return jnp.zeros((*input_shape[:-1], H))


class WithStatistics(nn.RNNCellBase):
    """A cell with a batch norm."""

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((*input_shape[:-1], H))

    @nn.compact
    def __call__(self, carry, x):
        h = nn.BatchNorm(use_running_average=False)(carry)
        return h, h


class WithoutBatch(WithStatistics):
    """A carry without the batch axes."""

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros(H)

    @nn.compact
    def __call__(self, carry, x):
        return carry, carry


class Narrow(WithStatistics):
    """An output without the batch axes."""

    @nn.compact
    def __call__(self, carry, x):
        return carry, carry.sum()


class WithNoise(WithStatistics):
    """A cell that draws at each step."""

    @nn.compact
    def __call__(self, carry, x):
        h = nn.Dropout(0.5, deterministic=False)(carry)
        return h, h


class Growing(WithStatistics):
    """A carry that grows."""

    @nn.compact
    def __call__(self, carry, x):
        return jnp.concatenate([carry, carry], -1), carry
