# %% [markdown]
# # Masks, lengths and resets
#
# Real sequences have different lengths, gaps, and borders where one episode ends and the next begins. Four arguments
# describe them, with the same meaning for every cell and every function of the library:
#
# - `lengths`: how many steps of each sequence count; the rest is padding;
# - `mask`: the same for single steps. Where it is False the state is held;
# - `resets`: where True, the state begins anew **before** the step;
# - `cuts`: where True, no gradient crosses to the step before. Values do not change.

# %%
import jax
import jax.numpy as jnp

from rnn_jax import bidirectional, gru, length_mask, lstm, rollout
from rnn_jax.data import pad
from rnn_jax.losses import cross_entropy, per_step

cell = gru(input_size=2, hidden_size=4)
params = cell.init(jax.random.key(0))

# %% [markdown]
# ## Lengths
#
# `pad` puts sequences of several lengths into one array with time leading, and returns their lengths. For many
# sequences, `bucket_batches` makes batches of similar lengths, with little padding.

# %%
ids, lengths = pad([[1, 2, 3, 4], [5, 6], [7]])
assert ids.T.tolist() == [[1, 2, 3, 4], [5, 6, 0, 0], [7, 0, 0, 0]]
assert lengths.tolist() == [4, 2, 1]

# %% [markdown]
# Lengths are a mask in short form. `length_mask` writes it out, and a rollout gives the same with either:

# %%
xs = jax.random.normal(jax.random.key(1), (4, 3, 2))
h0 = cell.start(params, (3,))
with_lengths, _ = rollout(cell, params, h0, xs, lengths=lengths)
with_mask, _ = rollout(cell, params, h0, xs, mask=length_mask(lengths, 4))
assert jnp.array_equal(with_lengths, with_mask)

# %% [markdown]
# The state after a padded rollout is the state after the last real step, so the second sequence ends as if it had
# been run alone:

# %%
alone, _ = rollout(cell, params, cell.start(params), xs[:2, 1])
assert jnp.allclose(with_lengths[1], alone, atol=1e-6)

# %% [markdown]
# ## Padding that cannot do harm
#
# What lies in the padding changes nothing, not even NaN, neither in values nor in gradients. This holds in both
# directions and for a length of 0. In most libraries a mask multiplies after the step, and 0 · NaN is NaN.

# %%
layer = bidirectional(lstm(2, 4), gru(2, 4))
weights = layer.init(jax.random.key(0))
short = jnp.array([6, 3, 0])
holes = jnp.where(length_mask(short, 6)[..., None], 1.0, jnp.nan) * jnp.ones((6, 3, 2))


def loss(weights, xs):
    _, ys = layer.apply(weights, layer.start(weights, (3,)), xs, lengths=short)
    return jnp.sum(jnp.square(ys)), ys


(_, ys), grads = jax.value_and_grad(loss, has_aux=True)(weights, holes)
assert ys.shape == (6, 3, 8)
assert jnp.all(jnp.isfinite(ys))
assert all(jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads))

# %% [markdown]
# A loss needs the mask too: it decides what a padded step costs. Give the mask **to** the loss. A product after the
# logarithm would come too late for the gradient. Losses are sums over time; `per_step` divides by the steps that count.

# %%
logits = jnp.zeros((4, 3, 8)).at[3, 1].set(jnp.nan)  # NaN at a padded step
nats = cross_entropy(logits, ids, length_mask(lengths, 4))
assert jnp.allclose(nats, jnp.log(8.0) * lengths.mean())  # ln 8 for each of the (4 + 2 + 1) / 3 steps
assert jnp.allclose(per_step(cross_entropy)(logits, ids, length_mask(lengths, 4)), jnp.log(8.0))

# %% [markdown]
# ## Resets
#
# A reset before step t replaces the state by `cell.start`. Two episodes in one array are then two separate rollouts,
# and no gradient flows from one to the other:

# %%
resets = jnp.array([False, False, True, False])
_, hs = rollout(cell, params, cell.start(params, (3,)), xs, resets=resets)
_, second = rollout(cell, params, cell.start(params, (3,)), xs[2:])
assert jnp.allclose(hs[2:], second, atol=1e-6)

moved = jax.grad(lambda xs: jnp.sum(rollout(cell, params, h0, xs, resets=resets)[0]))(xs)
assert [bool(jnp.any(g != 0)) for g in moved] == [False, False, True, True]

# %% [markdown]
# ## Each example has its own
#
# A flag of shape `(T,)` holds for the whole batch, one of shape `(T, B)` for each example. All of them may be
# traced, so new lengths or resets do not compile the program again.

# %%
own = jnp.zeros((4, 3), bool).at[1, 0].set(True).at[3, 2].set(True)
h_T, _ = rollout(cell, params, h0, xs, resets=own, lengths=lengths)
first, _ = rollout(cell, params, cell.start(params), xs[1:, 0])
assert jnp.allclose(h_T[0], first, atol=1e-6)

# %% [markdown]
# `cell.restart` does for a single step what a reset does in a rollout: see
# [](../howto/reinforcement_learning.py). `cuts` are the subject of [](truncation.py).
