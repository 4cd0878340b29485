# %% [markdown]
# # The instruments of recurrent dynamics
#
# A gradient back through time is multiplied by one Jacobian J_t = ∂state_t/∂state_{t−1} for every step. Each instrument
# is a pure function that answers one question about these products, for any cell. This page runs some of them where
# the answer is known. All of them work under `jax.vmap` over the params of several seeds.
#
# | question | function |
# |---|---|
# | how large is the gradient k steps back? | `lag_gradients`, `state_gradients`, `probe_gradients` |
# | what can one step do? | `leading_gain`, `jacobian_numbers`, `saturation` |
# | what is left of each direction after T steps? | `product_spectrum` |
# | do small differences grow, and in how many directions? | `lyapunov_spectrum`, `kaplan_yorke_dimension` |
# | what does theory predict for a random network? | `mean_field` |
# | what does a truncated window leave out? | `lag_contributions` |
# | how long does a unit keep its state? | `time_scales`, `forget_factors`, `chrono_target` |
# | how much does the state depend on the params? | `parameter_sensitivity` |
# | what does the state remember? | `recall_scores`, `memory_capacity`, `loss_by_context` |
# | where does the network come to rest? | `fixed_points`, `stability` |
# | what does the loss look like around a network? | `loss_surface`, `random_direction` |
#
# Gradients forward in time, and penalties that keep gradients alive, are on [the next page](online_gradients.py).

# %%
import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import initializers, lstm, vanilla
from rnn_jax.diagnostics import (
    fixed_points,
    jacobian_numbers,
    lag_contributions,
    lyapunov_spectrum,
    mean_field,
    product_spectrum,
    time_scales,
    unique_points,
)

# %% [markdown]
# ## One step and many
#
# One step of a non-normal matrix is misleading: the chain 1 → 2 → 3 keeps the length of most vectors in one step
# (gain 1), but after three steps nothing is left (spectral radius 0).

# %%
linear = vanilla(1, 3, activation="linear")
params = linear.init(jax.random.key(0))
chain = params._replace(W_hh=jnp.eye(3, k=1))
numbers = jacobian_numbers(linear, chain, linear.start(chain), jnp.zeros(1))
assert (numbers.gain, numbers.radius, numbers.non_normality) == (1, 0, 1)

# %% [markdown]
# The singular values of a long product are right at any size, because the product is never formed: here e^−1 and
# e^−2000 side by side.

# %%
decay = params._replace(W_hh=jnp.diag(jnp.exp(jnp.array([-0.001, -0.1, -2.0]))))
spectrum = product_spectrum(linear, decay, linear.start(decay), jnp.zeros((1000, 1)))
assert jnp.allclose(spectrum.log_values, jnp.array([-1.0, -100.0, -2000.0]), rtol=1e-3)

# %% [markdown]
# ## Order and chaos
#
# A tanh network without input is at rest while the gain of its random W_hh is below 1, and chaotic above. The theory
# of infinitely many units gives χ, the factor of the squared gradient in one step; the largest Lyapunov
# exponent of one network of 200 units has the same sign.

# %%
for gain in (0.8, 2.0):
    cell = vanilla(1, 200, recurrent_init=initializers.scaled_normal(gain))
    params = cell.init(jax.random.key(1))
    h0 = 0.1 * jax.random.normal(jax.random.key(2), (200,))
    found = lyapunov_spectrum(cell, params, h0, jnp.zeros((400, 1)), count=3)
    theory = mean_field("tanh", gain)
    assert jnp.sign(found.exponents[0]) == jnp.sign(theory.slope)
    print(f"gain {gain}: largest exponent {found.exponents[0]:+.3f}, ½ ln χ {theory.slope:+.3f} nats a step")

# %% [markdown]
# ## Where a network comes to rest
#
# One unit h ↦ tanh(1.5 h) has two stable points and an unstable one between them.

# %%
unit = vanilla(1, 1)
params = unit.init(jax.random.key(0))._replace(W_hh=jnp.array([[1.5]]))
points = unique_points(fixed_points(unit, params, jnp.linspace(-1, 1, 16)[:, None], jnp.zeros(1)))
assert np.allclose(np.sort(points.states[:, 0]), [-0.85856, 0, 0.85856], atol=1e-4)

# %% [markdown]
# ## What truncation leaves out
#
# A window of n steps keeps the gradient that flows through fewer than n steps. A network that halves its state at a
# constant input halves, with every step of the window, what is left out.

# %%
half = linear.init(jax.random.key(0))._replace(W_hh=0.5 * jnp.eye(3))
xs = jnp.ones((40, 1))
found = lag_contributions(linear, half, linear.start(half), xs, (), lambda hs, _: jnp.sum(hs[-1]), lags=6)
assert jnp.allclose(found.bias, 0.5 ** jnp.arange(1, 7), rtol=1e-4)

# %% [markdown]
# ## Time scales
#
# The forget gate f of an LSTM gives each unit the time scale −1/ln f. With no weights and a bias of 3 it is 20.6 steps.

# %%
cell = lstm(1, 2, forget_bias=3.0)
params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0)))
params = params._replace(b_h=params.b_h.at[2:4].set(3.0))
scales = time_scales(cell, params, cell.start(params), jnp.zeros((5, 1)))
assert jnp.allclose(scales.c, 1 / jnp.log1p(jnp.exp(-3.0)), rtol=1e-4)
assert round(float(scales.c[0, 0]), 1) == 20.6
