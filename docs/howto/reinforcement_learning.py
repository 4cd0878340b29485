# %% [markdown]
# # Reinforcement learning: resets and burn-in
#
# An agent with memory acts one step at a time, its episodes end at any step of any lane, and it learns from
# stretches that begin in the middle of an episode. This page shows the three pieces: acting with resets, learning
# with resets, and burn-in for replayed experience.
#
# The task is recall. At the first step of an episode the agent sees a cue, +1 or −1. At the last step, 3 to 7 steps
# later, it sees a signal, must choose one of two actions, and gets the reward 1 if its action is that of the cue.

# %%
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

from rnn_jax import gru, readout, rollout
from rnn_jax.gradients import streaming

T, B = 32, 64


class Steps(NamedTuple):
    observation: jax.Array  # (T, B, 2): the cue, the signal
    first: jax.Array  # (T, B): an episode begins here
    decide: jax.Array  # (T, B): the last step of an episode
    right: jax.Array  # (T, B): the rewarded action, 0 or 1


def play(key, begin):
    """T steps of B lanes; ``begin`` is where each lane is: (age, length, cue)."""

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
agent = readout(gru(input_size=2, hidden_size=24), output_size=2)  # the logits of two actions

# %% [markdown]
# ## Learning with resets
#
# The environment says where an episode begins; this is `resets`, before the step. The state is carried from window
# to window, so an episode may go over the border of a window. The loss is that of REINFORCE: −ln π(action) · (reward
# − ½), where the action is drawn from the agent's own probabilities.


# %%
def policy_loss(logits, targets):
    steps, key = targets
    action = jax.random.categorical(key[0], logits)
    reward = (action == steps.right).astype(logits.dtype)
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(steps.decide, log_prob * (reward - 0.5), 0)) / B


optimizer = optax.adam(0.01)


def update(carry, key):
    params, opt_state, h, lanes = carry
    k_play, k_act = jax.random.split(key)
    lanes, steps = play(k_play, lanes)

    def loss(params):
        targets = steps, jnp.broadcast_to(k_act, (T,))  # whatever is a target has time leading
        return streaming(agent, params, h, steps.observation, targets, policy_loss, resets=steps.first)

    (_, h), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state, h, lanes), None


@jax.jit
def share_right(params, key):
    steps = play(key, nothing)[1]
    _, hs = rollout(agent, params, agent.start(params, (B,)), steps.observation, resets=steps.first)
    right = agent.output(params, hs).argmax(-1) == steps.right
    return jnp.sum(right & steps.decide) / jnp.sum(steps.decide)


params = agent.init(jax.random.key(0))
carry = params, optimizer.init(params), agent.start(params, (B,)), nothing
learn = jax.jit(lambda carry, keys: jax.lax.scan(update, carry, keys))
rewards = [float(share_right(carry[0], jax.random.key(9)))]
for part in range(4):
    carry, _ = learn(carry, jax.random.split(jax.random.key(part), 15))
    rewards.append(float(share_right(carry[0], jax.random.key(9))))
assert 0.3 < rewards[0] < 0.7  # chance
assert rewards[-1] > 0.95
params = carry[0]

figure, axis = plt.subplots(figsize=(5, 2.4), layout="constrained")
axis.plot(15 * jnp.arange(5), rewards, "o-")
axis.set(xlabel="updates", ylabel="reward of an episode", ylim=(0.3, 1.05))
plt.close(figure)
figure

# %% [markdown]
# ## Acting, one step at a time
#
# While acting there is no sequence, only the next observation. Replace the state of lanes that begin an episode,
# then make one step. The result is that of a rollout with `resets`, for which the learner computes its gradient:

# %%
_, steps = play(jax.random.key(20), nothing)


@jax.jit
def act(h, observation, first):
    h = jnp.where(first[:, None], agent.start(params, (B,)), h)
    return agent.step(params, h, observation)


h = agent.start(params, (B,))
for t in range(T):
    h = act(h, steps.observation[t], steps.first[t])
h_T, hs = rollout(agent, params, agent.start(params, (B,)), steps.observation, resets=steps.first)
assert jnp.allclose(h, h_T, atol=1e-5)

# %% [markdown]
# ## Burn-in
#
# Replayed stretches begin in the middle of an episode, where the right state is unknown: it was computed with older
# weights, or is missing. Burn-in runs the first steps only to find a state; no loss counts there and no gradient
# flows into them (Kapturowski and others 2019). Here the stretch begins at step 10 with a zero state. After a reset
# the state is exact, so burn-in as long as the longest episode, 8 steps, makes all lanes exact:

# %%
stretch = jax.tree.map(lambda a: a[10:], steps)
_, replayed = rollout(agent, params, agent.start(params, (B,)), stretch.observation, resets=stretch.first)
error = jnp.max(jnp.abs(replayed - hs[10:]), axis=-1)  # (T - 10, B)
assert jnp.mean(error[0] > 0.1) > 0.5  # without burn-in most states are wrong
assert jnp.all(error[8:] < 1e-5)

# %% [markdown]
# `cuts` puts the border of the gradient behind the burn-in. The inputs before it get a gradient of exactly zero:

# %%
BURN_IN = 8
counted = jnp.arange(T - 10) >= BURN_IN


def replay_loss(params, observation):
    cuts = jnp.arange(T - 10) == BURN_IN
    h0 = agent.start(params, (B,))
    _, hs = rollout(agent, params, h0, observation, resets=stretch.first, cuts=cuts)
    return jnp.sum(jnp.where(counted[:, None, None], agent.output(params, hs), 0) ** 2)


gradient = jax.grad(replay_loss, argnums=1)(params, stretch.observation)
assert jnp.all(gradient[:BURN_IN] == 0)
assert jnp.any(gradient[BURN_IN:] != 0)

# %% [markdown]
# A stored state instead of zeros is the argument `h0` of the same rollout. For the start of an episode that is
# learned, wrap the agent in `learned_start`: resets then return to it, and their gradient reaches it.
