# %% [markdown]
# # Gradients against lag
#
# How far back does the gradient of a loss reach? `lag_gradients` measures ‖∂L_T/∂state_{T−k}‖ for every lag k, in
# log space, so that e^−600 is as exact as 1. This tutorial checks it against theory, and compares four kinds of
# cells.

# %%
import jax
import jax.numpy as jnp

from rnn_jax import gru, initializers, irnn, lag_gradients, leading_gain, lstm, step_jacobian, summarise_lags, vanilla
from rnn_jax.lab.figures import curve_figure

# %% [markdown]
# ## A linear network: exact
#
# With h_t = W_hh h_{t−1} + W_xh x_t and an orthogonal W_hh times 0.5, every step back halves the gradient.

# %%
cell = vanilla(2, 8, activation="linear", recurrent_init=initializers.orthogonal(0.5))
params = cell.init(jax.random.key(0))
lags = lag_gradients(cell, params, cell.start(params), jnp.ones((300, 2)), loss=jnp.sum)
summary = summarise_lags(lags.log_norm)
assert abs(summary.slope + jnp.log(2)) < 1e-4
assert abs(summary.half_life - 1) < 1e-4
assert jnp.allclose(lags.log_norm, lags.log_norm[0] - jnp.arange(301) * jnp.log(2), atol=1e-2)

# %% [markdown]
# ## The memory of an LSTM
#
# An LSTM without weights multiplies its memory c by the forget gate, σ(forget_bias), at each step. With a bias of 1
# the gradient halves every ln 2 / −ln σ(1) ≈ 2.21 steps, and 2,000 steps back it is e^−627. A plain float32 adjoint
# ends at e^−87 and then is 0.

# %%
cell = lstm(input_size=2, hidden_size=3, forget_bias=1.0)
params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0)))
params = params._replace(b_h=params.b_h.at[3:6].set(1.0))  # gates i f o g
lags = lag_gradients(cell, params, cell.start(params), jnp.ones((2000, 2)), loss=jnp.sum)
half_life = float(summarise_lags(lags.log_norm).half_life)
assert abs(half_life - jnp.log(2) / jnp.log(1 + jnp.exp(-1))) < 1e-3
assert round(half_life, 2) == 2.21
assert round(float(lags.log_norm_of.c[-1])) == -627

# %% [markdown]
# The parts of a state are reported apart: `log_norm_of.h` and `log_norm_of.c`. Without recurrent weights nothing
# reaches an earlier h, so its norm is exactly zero, which is −∞ in log space. A norm that float32 could not hold is
# finite here.

# %%
assert jnp.isneginf(lags.log_norm_of.h[1:]).all()
assert jnp.isfinite(lags.log_norm_of.c[1:]).all()

# %% [markdown]
# ## Four cells at initialisation
#
# The same random inputs for all, 8 sequences each. The curve is the median over the sequences.

# %%
cells = {
    "tanh": vanilla(8, 32, recurrent_init=initializers.scaled_normal()),
    "ReLU, identity start": irnn(8, 32),
    "GRU": gru(8, 32),
    "LSTM": lstm(8, 32),
}
xs = 0.5 * jax.random.normal(jax.random.key(1), (60, 8, 8))


def last_units(y):  # one number for each example
    return jnp.sum(y, axis=-1)


curves = {}
for name, cell in cells.items():
    params = cell.init(jax.random.key(2))
    lags = lag_gradients(cell, params, cell.start(params, (8,)), xs, loss=last_units)
    curves[name] = summarise_lags(lags.log_norm, q=(0.5,)).quantiles[0]

powers = {name: (range(len(curve)), (curve - curve[0]) / jnp.log(10)) for name, curve in curves.items()}
curve_figure(powers, x="lag k, steps back", y="gradient norm, relative to lag 0, powers of 10")

# %% [markdown]
# A ReLU unit that starts at the identity passes the gradient unchanged or not at all, so what is left belongs to the
# units that were never switched off. The forget gate of the LSTM starts at σ(1) = 0.73. The gates of a fresh GRU are
# half open, so it begins no better than tanh: gates help because training can open and close them.

# %%
left = {name: float(curve[-1] - curve[0]) for name, curve in curves.items()}
assert max(left["tanh"], left["GRU"]) < left["LSTM"] < left["ReLU, identity start"]
assert left["ReLU, identity start"] > -3 and left["GRU"] < -12

# %% [markdown]
# ## One step
#
# `step_jacobian` is ∂state_t/∂state_{t−1} at one example, and `leading_gain` its largest singular value: the most by
# which one step can multiply a gradient. Where it stays below 1, the gradient must vanish.

# %%
cell = cells["tanh"]
params, h, x = cell.init(jax.random.key(2)), jnp.zeros(32), jnp.zeros(8)
J = step_jacobian(cell, params, h, x)
assert jnp.allclose(J, params.W_hh.T, atol=1e-5)  # tanh' = 1 at 0
assert jnp.allclose(leading_gain(cell, params, h, x), jnp.linalg.norm(J, ord=2), rtol=1e-4)

# %% [markdown]
# The measurement after training, with equal numbers of parameters and several seeds, is an experiment of its own:
# see the [gallery](../gallery.md).
