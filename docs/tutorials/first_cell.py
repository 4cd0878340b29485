# %% [markdown]
# # Your first cell
#
# A recurrent cell is a pure function: from its weights, the state before a step and the input of that step it
# computes the state after it. In this tutorial you write one, run it over a sequence, check it against a Python
# loop, and combine it with the cells of the library.

# %%
import jax
import jax.numpy as jnp

import rnn_jax as rnn
from rnn_jax import cell_from_step, initializers, lag_gradients, rollout, summarise_lags
from rnn_jax.lab.figures import curve_figure

# %% [markdown]
# ## The function
#
# The cell of this page is a leaky integrator. Each unit keeps 90 % of its value and adds 10 % of a new one:
#
#     h_t = 0.9 h_{t−1} + 0.1 tanh(W_xh x_t + W_hh h_{t−1})
#
# Three functions make a cell: `init(key)` draws the weights, `start(params, batch_shape)` returns the state before
# the first step, and `step(params, h, x)` is the equation. The weights may be any tree of arrays, here a dictionary.
# The state may have leading batch axes, so the step works on the last axis only.


# %%
def leaky(input_size, hidden_size, rate=0.1):
    def init(key):
        k_x, k_h = jax.random.split(key)
        draw = initializers.scaled_normal()
        return {"W_xh": draw(k_x, (input_size, hidden_size)), "W_hh": draw(k_h, (hidden_size, hidden_size))}

    def start(params, batch_shape=()):
        return jnp.zeros((*batch_shape, hidden_size))

    def step(params, h, x):
        return (1 - rate) * h + rate * jnp.tanh(x @ params["W_xh"] + h @ params["W_hh"])

    return cell_from_step(init, start, step)


# %% [markdown]
# ## One sequence
#
# `rollout` runs the cell over a sequence. Time is the leading axis: 50 steps of 2 numbers are an array `(50, 2)`. It
# returns the last state and all states.

# %%
cell = leaky(input_size=2, hidden_size=4)
params = cell.init(jax.random.key(0))
xs = jax.random.normal(jax.random.key(1), (50, 2))
h_T, hs = rollout(cell, params, cell.start(params), xs)
assert h_T.shape == (4,) and hs.shape == (50, 4)

# %% [markdown]
# The definition of a rollout is a plain loop. The result is the same, up to rounding:

# %%
h = cell.start(params)
for x in xs:
    h = cell.step(params, h, x)
assert jnp.allclose(h, h_T, atol=1e-5)
curve_figure({f"unit {n}": (range(50), hs[:, n]) for n in range(4)}, x="step t", y="state of a leaky unit")

# %% [markdown]
# ## A batch, and a gradient
#
# Between time and features there may be batch axes. Give the same axes to `start`. `jax.grad`, `jax.jit` and
# `jax.vmap` work as on any function, because a rollout is one.

# %%
batch = jax.random.normal(jax.random.key(2), (50, 3, 2))  # 50 steps, 3 sequences, 2 numbers


@jax.jit
def loss(params):
    h_T, _ = rollout(cell, params, cell.start(params, (3,)), batch)
    return jnp.mean(h_T**2)


assert jax.grad(loss)(params)["W_hh"].shape == (4, 4)

# %% [markdown]
# ## Together with the library
#
# Your cell goes wherever the cells of the library go: into a `stack`, which is a cell again, and into both
# directions of a `bidirectional` layer.

# %%
deep = rnn.stack(leaky(2, 8), rnn.lstm(8, 4), leaky(4, 4))
params = deep.init(jax.random.key(0))
h_T, hs = rollout(deep, params, deep.start(params, (3,)), batch, lengths=jnp.array([50, 20, 0]))
assert rnn.outputs(deep, params, hs).shape == (50, 3, 4)
both = rnn.bidirectional(deep, leaky(2, 4), merge="sum")
params = both.init(jax.random.key(0))
_, ys = both.apply(params, both.start(params, (3,)), batch, lengths=jnp.array([50, 20, 0]))
assert ys.shape == (50, 3, 4)

# %% [markdown]
# ## What it remembers
#
# Without weights the equation is h_t = 0.9 h_{t−1}, so the gradient shrinks by ln 0.9 ≈ −0.105 in log space with
# every step back. `lag_gradients` measures this slope:

# %%
params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0)))
lags = lag_gradients(cell, params, cell.start(params), jnp.ones((50, 2)), loss=jnp.sum)
slope = float(summarise_lags(lags.log_norm).slope)
assert round(slope, 4) == -0.1054 == round(float(jnp.log(0.9)), 4)
f"{slope:.4f} nats a step, in theory {jnp.log(0.9):.4f}"

# %% [markdown]
# ## A cell that is linear in its state
#
# Where the state enters only as h_t = a ⊙ h_{t−1} + b, and a and b depend on the input alone, say so with
# `linear_cell`: it takes the function `coefficients(params, u) -> (a, b)` in place of the step. Such a cell may run
# with `schedule="associative"`, which computes a and b of all steps at once. The numbers are the same, up to rounding.


# %%
def average(input_size, hidden_size):
    def init(key):
        return jax.random.normal(key, (input_size, hidden_size))

    def start(params, batch_shape=()):
        return jnp.zeros((*batch_shape, hidden_size))

    def coefficients(params, u):
        keep = jax.nn.sigmoid(u)
        return keep, (1 - keep) * u

    return rnn.linear_cell(init, start, coefficients, project=lambda params, x: x @ params)


linear = average(input_size=2, hidden_size=4)
params = linear.init(jax.random.key(0))
h_T, _ = rollout(linear, params, linear.start(params), xs)
at_once, _ = rollout(linear, params, linear.start(params), xs, schedule="associative")
assert jnp.allclose(at_once, h_T, atol=1e-5)

# %% [markdown]
# In a file `mine.py`, the same function joins the comparison of cells: `python experiments/vanishing_gradients.py
# --cells lstm mine.py:leaky --out runs/mine`. Next: [](masks.py), then [](training_loop.py). The [table of all
# cells](../cells.md) shows what the library has.
