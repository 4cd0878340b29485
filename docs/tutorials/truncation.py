# %% [markdown]
# # Truncated back-propagation, and its bias
#
# Back-propagation through a long sequence needs memory for every step. Truncation cuts the gradient at windows:
# memory stays small, and the gradient is no longer the gradient of the loss. This tutorial shows the four programs
# of the library, and measures the bias in a case where theory gives it exactly.

# %%
import jax
import jax.numpy as jnp

from rnn_jax import cell_from_step, lstm
from rnn_jax.gradients import chunked, cut, parallel, streaming
from rnn_jax.lab.figures import Picture

# %% [markdown]
# ## Four programs, one gradient
#
# Each program returns `(loss, last state)` of the whole sequence. The loss is that of the untruncated rollout;
# `jax.grad` of it is the truncated gradient.
#
# - `cut` is one rollout with borders: the definition, and the slowest in memory;
# - `chunked` computes window after window, in the memory of one window;
# - `parallel` runs all windows at once after one forward pass: the shortest in time on a GPU;
# - `streaming` is a single window, for an update of the weights after each.

# %%
cell = lstm(input_size=2, hidden_size=3)
params, xs = cell.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (100, 2))


def squares(ys, targets):  # a loss is a sum over time
    return jnp.sum((ys - targets) ** 2)


def truncated(params, program, window, **options):
    return program(cell, params, cell.start(params), xs, jnp.zeros((100, 3)), squares, window=window, **options)[0]


by_cut, by_chunks, side_by_side = (jax.grad(truncated)(params, program, 30) for program in (cut, chunked, parallel))
assert jnp.allclose(by_cut.W_hh, by_chunks.W_hh, rtol=1e-3, atol=1e-4)
assert jnp.allclose(by_cut.W_hh, side_by_side.W_hh, rtol=1e-3, atol=1e-4)
full = jax.grad(truncated)(params, cut, 100)  # a window of at least T is full back-propagation
assert jnp.allclose(full.W_hh, jax.grad(truncated)(params, chunked, 1000).W_hh, rtol=1e-3, atol=1e-4)

# %% [markdown]
# ## The bias in closed form
#
# Take h_t = a h_{t−1} + x_t with x_t = 1, and let the loss be the last state. Long after its start h is 1 / (1 − a),
# and
#
#     dh_T/da = Σ_{k ≥ 0} a^k h_{T−1−k} = 1 / (1 − a)²
#
# A window of K steps keeps the first K terms of this sum, that is the part 1 − a^K. **The truncated gradient is too
# small by the factor a^K, and no number of examples repairs this:** it is a bias, not noise.

# %%
integrator = cell_from_step(
    init=lambda key: jnp.asarray(0.9),
    start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 1)),
    step=lambda a, h, x: a * h + x,
)
T, windows = 256, [1, 2, 4, 8, 16, 32, 64]


def selected(hs, is_selected):
    return jnp.sum(jnp.where(is_selected, hs[:, 0], 0))


@jax.jit
def slope(a, window):
    def last(a):
        xs, is_last = jnp.ones((T, 1)), jnp.arange(T) == T - 1
        return cut(integrator, a, integrator.start(a), xs, is_last, selected, window=window)[0]

    return jax.grad(last)(a)


measured, theory = {}, {}
for a in (0.5, 0.9, 0.97):
    exact = 1 / (1 - a) ** 2
    measured[a] = [1 - float(slope(jnp.asarray(a), window)) / exact for window in windows]
    theory[a] = [a**window for window in windows]
    assert jnp.allclose(jnp.array(measured[a]), jnp.array(theory[a]), atol=0.01)
assert abs(measured[0.97][-1] - 0.14) < 0.01
figure = Picture(figsize=(6, 3), layout="constrained")
axis = figure.subplots()
for a in measured:
    (line,) = axis.plot(windows, measured[a], "o", label=f"a = {a}: half-life {jnp.log(0.5) / jnp.log(a):.0f} steps")
    axis.plot(windows, theory[a], color=line.get_color())
axis.set(xscale="log", xlabel="window K, steps", ylabel="missing part of the gradient", title="Measured (dots) and a^K")
axis.legend()
figure

# %% [markdown]
# A window must be several times as long as the half-life. With a = 0.97 a window of 64 steps still misses 14 %.
#
# ## Windows that overlap
#
# With windows one after another, a loss just behind a border has almost no past. `k1` is the number of steps from
# one window to the next. Below `window` (k2) the windows overlap, and every loss reaches back at least k2 − k1 + 1
# steps.

# %%
overlapping = jax.grad(truncated)(params, chunked, 30, k1=10)
errors = [jnp.linalg.norm(grads.W_hh - full.W_hh) / jnp.linalg.norm(full.W_hh) for grads in (by_chunks, overlapping)]
assert 0.1 < errors[0] < 0.2 and errors[1] < 0.02
f"relative error: {errors[0]:.3f} with windows side by side, {errors[1]:.3f} with overlapping ones"

# %% [markdown]
# ## One window at a time
#
# `streaming` returns the loss of one window and the state with which the next begins: see [](training_loop.py).

# %%
total, h = 0.0, cell.start(params)
for begin in range(0, 100, 25):
    part, h = streaming(cell, params, h, xs[begin : begin + 25], jnp.zeros((25, 3)), squares)
    total += float(part)
assert abs(total - float(truncated(params, cut, 25))) < 1e-3
