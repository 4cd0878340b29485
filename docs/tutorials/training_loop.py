# %% [markdown]
# # Your own training loop
#
# The library does not own the loop: a cell is a pure function, so `jax.value_and_grad` and any optimizer of optax
# are enough. This tutorial writes the loop by hand, compares it with `window_learner`, which is the same in one
# line, and adds what a real run needs: clipping, an evaluation every N updates, updates that are not finite.
#
# The task is the echo of a random bit: x_t is 0 or 1, and the target is the bit of two steps before.

# %%
import jax
import jax.numpy as jnp
import optax

from rnn_jax import gru, outputs, readout, rollout
from rnn_jax.gradients import streaming
from rnn_jax.lab.figures import curve_figure
from rnn_jax.losses import cross_entropy, per_step
from rnn_jax.training import fit, require_finite, window_learner

LANES, WINDOW, WINDOWS = 16, 10, 150

bits = jax.random.bernoulli(jax.random.key(0), shape=(WINDOWS * WINDOW, LANES)).astype(jnp.int32)
echo = jnp.roll(bits, 2, axis=0)  # the first two targets come from the end: they cannot be learned
xs, targets = (a.reshape(WINDOWS, WINDOW, LANES) for a in (bits, echo))
model = readout(gru(input_size=2, hidden_size=16), output_size=2)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01))

# %% [markdown]
# ## The loop by hand
#
# The stream is cut into windows. After each window the weights change, and the state goes on **without its
# gradient**: `streaming` returns the loss of one window and the state for the next. `per_step` makes the loss a mean
# over the steps of the window.


# %%
def update(carry, window):
    params, opt_state, h = carry

    def loss(params):
        return streaming(model, params, h, *window, per_step(cross_entropy))

    (nats, h), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state, h), nats


@jax.jit
def train(params):
    carry = params, optimizer.init(params), model.start(params, (LANES,))
    return jax.lax.scan(update, carry, (xs, targets))


params = model.init(jax.random.key(1))
(trained, _, _), nats = train(params)
assert nats[0] > 0.65 and nats[-1] < 0.05  # chance is ln 2 = 0.69 nats

curve_figure({"loss": (range(WINDOWS), nats)}, x="updates", y="nats a step", baselines={"chance": float(jnp.log(2))})

# %% [markdown]
# A Python `for` over `jax.jit(update)` works as well, and is easier to debug.
#
# ## The same in one line
#
# A `Learner` is two pure functions, `init` and `update`; `fit` scans the update over windows. The carried state
# holds the params, the optimizer, the state of the cell, a key, and counters.

# %%
learner = window_learner(model, per_step(cross_entropy), optax.adam(0.01), clip=1.0)
state = learner.init(jax.random.key(1), (LANES,))
state = state._replace(params=params)  # the same weights as above
state, info = jax.jit(lambda state: fit(learner, state, (xs, targets)))(state)
assert jnp.allclose(info.loss, nats, atol=1e-3)

# %% [markdown]
# ## Evaluation between chunks
#
# For a longer run, cut the data into chunks: one compiled call a chunk, and between the calls a plain Python loop
# with whatever you need: metrics, checkpoints, a plot. Here the accuracy is computed after every 50 updates.


# %%
@jax.jit
def accuracy(params, xs, targets):
    _, hs = rollout(model, params, model.start(params, (LANES,)), xs)
    return jnp.mean(outputs(model, params, hs).argmax(-1)[2:] == targets[2:])


state = learner.init(jax.random.key(1), (LANES,))
run_chunk = jax.jit(lambda state, chunk: fit(learner, state, chunk))
accuracies = []
for chunk in range(3):
    part = slice(50 * chunk, 50 * chunk + 50)
    state, info = run_chunk(state, (xs[part], targets[part]))
    require_finite(state, info)  # raises an error that names the update and the array
    accuracies.append(float(accuracy(state.params, bits[:200], echo[:200])))
assert accuracies[-1] > 0.99
accuracies

# %% [markdown]
# ## What an update reports
#
# `info` holds, for every update, the loss, the norm of the gradient before and after clipping, and the size of the
# step in relation to the weights. An update with a NaN is never made, and `info.broken` is the code of what was not
# finite, or −1. With `has_aux=True` a loss may return more values, which become `info.aux`.

# %%
assert info.loss.shape == info.grad_norm.shape == (50,)
assert jnp.all(info.clipped_norm <= 1.0001) and jnp.all(info.broken == -1)
broken = learner.init(jax.random.key(1), (LANES,))
broken = broken._replace(params=broken.params._replace(b_y=jnp.full_like(broken.params.b_y, jnp.nan)))
after, info = run_chunk(broken, (xs[:50], targets[:50]))
assert int(after.step) == 0 and int(after.cursor) == 50  # 50 windows used, no update made
assert jnp.all(info.broken >= 0)

# %% [markdown]
# For examples of whole sequences instead of one long stream, use `batch_learner`: see [](../howto/time_series.py).
