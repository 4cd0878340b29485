# %% [markdown]
# # Gradients forward in time, estimates of them, and penalties
#
# Back-propagation keeps every state and goes back. Other estimators of the gradient run forward with the network, or go
# back some steps only. All have one signature, `(cell, params, h0, xs, targets, loss, *, key=None, …)`, and return the
# loss, a sum over time, and a gradient.
#
# | estimator | direction | gradient |
# |---|---|---|
# | `bptt` | back | exact |
# | `truncated` | back, a window of steps | biased |
# | `artbp` | back, a random number of steps | unbiased |
# | `rtrl`, `rtrl_diagonal` | forward | exact |
# | `snap` | forward, a sparse influence matrix | biased |
# | `uoro` | forward, one column and one row | unbiased, with a large variance |
#
# Their bias, variance, cosine and cost stand side by side in `benchmarks/README.md`.

# %%
import jax
import jax.numpy as jnp
import optax

from rnn_jax import initializers, lstm, readout, vanilla
from rnn_jax.gradients import bptt, compare_estimator, flossing, norm_preserving, rtrl, truncated, uoro
from rnn_jax.training import fit, window_learner

# %% [markdown]
# ## Forward in time
#
# Real-time recurrent learning computes the gradient without going back, at the price of one number for each pair of a
# state and a parameter. It equals back-propagation.

# %%
xs, targets = jax.random.normal(jax.random.key(1), (2, 40, 3, 1))
model = readout(lstm(1, 4), 1)
params = model.init(jax.random.key(0))
arguments = model, params, model.start(params, (3,)), xs, targets, lambda ys, of: jnp.sum((ys - of) ** 2)
for one, other in zip(jax.tree.leaves(bptt(*arguments)), jax.tree.leaves(rtrl(*arguments)), strict=True):
    assert jnp.allclose(one, other, rtol=1e-3, atol=1e-4)

# %% [markdown]
# ## Bias or variance
#
# A truncated gradient is the same for every key, and wrong by what lies before its window. The estimate of UORO is
# right in the mean, and a single one points elsewhere.

# %%
keys = jax.random.split(jax.random.key(2), 200)
short = compare_estimator(truncated, *arguments, keys=keys[:2], window=2)
random = compare_estimator(uoro, *arguments, keys=keys)
assert short.variance < 1e-9 < short.bias
assert random.bias < 3 * random.bias_error
print(f"2 steps: bias {short.bias:.2f}, cosine {short.cosine[0]:.2f}; UORO: cosine {jnp.median(random.cosine):.2f}")

# %% [markdown]
# ## While training
#
# `window_learner(…, lag_profile=True)` reports ln‖∂L/∂state_{T−k}‖ of the very gradient that it applies, for every lag,
# from the same backward pass.

# %%
learner = window_learner(model, lambda ys, of: jnp.mean((ys - of) ** 2), optax.adam(1e-2), lag_profile=True)
state, info = fit(learner, learner.init(jax.random.key(0), (3,)), (xs[None], targets[None]))
assert info.lag_profile.shape == (1, 40, 3)

# %% [markdown]
# ## Penalties
#
# `flossing` is a penalty on the squared Lyapunov exponents: some updates on it alone bring them closer to 0, before the
# task itself is trained. `norm_preserving` is a penalty on each step that changes the size of the gradient.

# %%
small = vanilla(1, 16, recurrent_init=initializers.scaled_normal(0.5))
params, noise = small.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (30, 1))
penalty = jax.jit(jax.value_and_grad(lambda params: flossing(small, params, small.start(params), noise, count=4)))
first, _ = penalty(params)
for _ in range(40):
    last, g = penalty(params)
    params = jax.tree.map(lambda p, g: p - 0.02 * g, params, g)
assert last < first / 4

half = vanilla(1, 16, activation="linear", recurrent_init=initializers.orthogonal(0.5))
halving = half.init(jax.random.key(0))  # each of the 29 steps back from the last state changes the size by ½
penalty = norm_preserving(half, halving, half.start(halving), noise, (), lambda ys, _: jnp.sum(ys[-1]))
assert jnp.allclose(penalty, 29 / 4, rtol=1e-4)
