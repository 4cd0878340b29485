# %% [markdown]
# # Reinforcement learning: resets and burn-in
#
# An agent with memory acts one step at a time. Its episodes end at different steps in each environment (each lane of
# the batch), and it learns from sequences that begin in the middle of an episode. This page shows learning with
# resets, acting with resets, and burn-in for replayed experience.
#
# The task is recall. At the first step of an episode the agent observes a cue, +1 or −1. At the last step, 3 to 7
# steps later, it observes a signal and must choose one of two actions. The reward is 1 if the action is that of the
# cue, otherwise 0.

# %%
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnn_jax import gru, outputs, readout, rollout
from rnn_jax.gradients import streaming
from rnn_jax.lab.figures import curve_figure

T, B = 32, 64


class Steps(NamedTuple):
    observation: jax.Array  # (T, B, 2): the cue, the signal
    first: jax.Array  # (T, B): an episode begins here
    decide: jax.Array  # (T, B): the last step of an episode
    right: jax.Array  # (T, B): the rewarded action, 0 or 1


def play(key, begin):
    """T steps of B lanes, from the state of each lane: (age, length, cue)."""

    def step(lane, key):
        age, length, cue = lane
        k_length, k_cue = jax.random.split(key)
        first = age == 0
        length = jnp.where(first, jax.random.randint(k_length, (B,), 4, 9), length)
        cue = jnp.where(first, jax.random.bernoulli(k_cue, shape=(B,)).astype(int), cue)
        last = age == length - 1
        observation = jnp.stack([jnp.where(first, 2 * cue - 1, 0), last.astype(int)], axis=-1)
        return (jnp.where(last, 0, age + 1), length, cue), Steps(observation.astype(float), first, last, cue)

    return jax.lax.scan(step, begin, jax.random.split(key, T))


nothing = jnp.zeros(B, int), jnp.zeros(B, int), jnp.zeros(B, int)

# %% [markdown]
# ## Two heads
#
# One core, two outputs: the logits of the two actions, and the value, which is the expected reward. `readout` takes a
# dictionary of sizes, or of heads such as `mlp_head((64,), 2)`; the outputs are a dictionary with the same names.

# %%
agent = readout(gru(input_size=2, hidden_size=24), {"policy": 2, "value": 1})

# %% [markdown]
# ## Learning with resets
#
# `first` is True where an episode begins: these are the `resets`, which act before the step. The state is carried from
# window to window, so an episode may cross the border of two windows. The loss is that of REINFORCE with a learned
# baseline: −ln π(action) · (reward − value), and the squared error of the value.


# %%
def loss_of(ys, targets):
    steps, key = targets
    action = jax.random.categorical(key[0], ys["policy"])
    reward = (action == steps.right).astype(float)
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(ys["policy"]), action[..., None], axis=-1)[..., 0]
    error = reward - ys["value"][..., 0]
    return jnp.sum(jnp.where(steps.decide, error**2 / 2 - log_prob * jax.lax.stop_gradient(error), 0)) / B


optimizer = optax.adam(0.01)


def update(carry, key):
    params, opt_state, h, lanes = carry
    k_play, k_act = jax.random.split(key)
    lanes, steps = play(k_play, lanes)

    def loss(params):
        targets = steps, jnp.broadcast_to(k_act, (T,))  # targets have time leading
        return streaming(agent, params, h, steps.observation, targets, loss_of, resets=steps.first)

    (_, h), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state, h, lanes), None


@jax.jit
def share_right(params, key):
    steps = play(key, nothing)[1]
    _, hs = rollout(agent, params, agent.start(params, (B,)), steps.observation, resets=steps.first)
    right = outputs(agent, params, hs)["policy"].argmax(-1) == steps.right
    return jnp.sum(right & steps.decide) / jnp.sum(steps.decide)


params = agent.init(jax.random.key(0))
carry = params, optimizer.init(params), agent.start(params, (B,)), nothing
learn = jax.jit(lambda carry, keys: jax.lax.scan(update, carry, keys))
rewards = [float(share_right(carry[0], jax.random.key(9)))]
for part in range(10):
    carry, _ = learn(carry, jax.random.split(jax.random.key(part), 3))
    rewards.append(float(share_right(carry[0], jax.random.key(9))))
assert 0.3 < rewards[0] < 0.7  # chance
assert rewards[-1] > 0.95
params = carry[0]

curve_figure({"agent": (range(0, 33, 3), jnp.array(rewards))}, x="updates", y="mean reward", percent=True)

# %% [markdown]
# ## Acting, one step at a time
#
# While acting there is no sequence, only the next observation. `restart` replaces the state of the lanes that begin an
# episode, before the step. The states are those of a rollout with `resets`, for which the gradient is computed:

# %%
_, steps = play(jax.random.key(20), nothing)


@jax.jit
def act(h, observation, first):
    h = agent.step(params, agent.restart(params, h, first), observation)
    return h, agent.output(params, h)["policy"].argmax(-1)


h = agent.start(params, (B,))
for t in range(T):
    h, actions = act(h, steps.observation[t], steps.first[t])
h_T, hs = rollout(agent, params, agent.start(params, (B,)), steps.observation, resets=steps.first)
assert jnp.allclose(h, h_T, atol=1e-5)

# %% [markdown]
# ## Burn-in
#
# A replayed sequence begins in the middle of an episode, where the right state is missing, or was computed with older
# weights. Burn-in runs the first steps only to compute a state: no loss counts there, and no gradient flows into them
# (Kapturowski and others 2019). Here the sequence begins at step 10 with a state of zeros. After a reset the state is
# exact, so burn-in as long as the longest episode, 8 steps, makes all lanes exact:

# %%
later = jax.tree.map(lambda a: a[10:], steps)
_, replayed = rollout(agent, params, agent.start(params, (B,)), later.observation, resets=later.first)
error = jnp.max(jnp.abs(replayed - hs[10:]), axis=-1)  # (T - 10, B)
assert jnp.mean(error[0] > 0.1) > 0.5  # without burn-in most states are wrong
assert jnp.all(error[8:] < 1e-5)

# %% [markdown]
# `cuts` stops the gradient at the end of the burn-in. The inputs before it get a gradient of exactly zero:

# %%
BURN_IN = 8
counted = jnp.arange(T - 10) >= BURN_IN


def replay_loss(params, observation):
    cuts = jnp.arange(T - 10) == BURN_IN
    h0 = agent.start(params, (B,))
    _, hs = rollout(agent, params, h0, observation, resets=later.first, cuts=cuts)
    return jnp.sum(jnp.where(counted[:, None, None], outputs(agent, params, hs)["value"], 0) ** 2)


gradient = jax.grad(replay_loss, argnums=1)(params, later.observation)
assert jnp.all(gradient[:BURN_IN] == 0)
assert jnp.any(gradient[BURN_IN:] != 0)

# %% [markdown]
# If a state was stored, give it as `h0` instead of zeros. To learn the state at the start of an episode, make the core
# `learned_start(gru(…))`: resets then return to this state, and contribute to its gradient.
