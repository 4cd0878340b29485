# %% [markdown]
# # Neuroscience: your own noisy rate network
#
# Models of neural populations are rate networks with private noise:
#
#     h_t = (1 − α) h_{t−1} + α (W_hh tanh(h_{t−1}) + W_xh x_t + b) + σ √(2α) ξ_t,     α = Δt/τ,  ξ_t ~ N(0, 1)
#
# The library has the version without noise (`ctrnn`). This page writes the noisy one as your own cell, checks its
# noise against theory, trains it on a decision task, and computes the eigenvalues of its dynamics.

# %%
import jax
import jax.numpy as jnp
import optax
from matplotlib.patches import Circle

from rnn_jax import Keyed, cell_from_step, initializers, keyed, leading_gain, outputs, readout, rollout, step_jacobian
from rnn_jax.lab.figures import Picture
from rnn_jax.training import batch_learner, fit

# %% [markdown]
# ## Noise is an input
#
# A cell is a pure function, so its randomness is an argument: a cell with `keyed=True` may be given `Keyed(x, key)` in
# the place of x, with one key for each example of the batch. Without keys it computes the mean, here the network
# without noise. The firing rates are tanh(h): this is the `output`, which the readout and the loss receive.


# %%
def noisy_rates(input_size, hidden_size, alpha=0.2, sigma=0.1):
    draw = initializers.scaled_normal()

    def init(key):
        k_x, k_h = jax.random.split(key)
        W_xh, W_hh = draw(k_x, (input_size, hidden_size)), draw(k_h, (hidden_size, hidden_size))
        return {"W_xh": W_xh, "W_hh": W_hh, "b": jnp.zeros(hidden_size)}

    def start(params, batch_shape=()):
        return jnp.zeros((*batch_shape, hidden_size))

    def draw_noise(key):
        return jax.random.normal(key, (hidden_size,))

    def step(params, h, x):
        x, key = (x.x, x.key) if isinstance(x, Keyed) else (x, None)
        drive = jnp.tanh(h) @ params["W_hh"] + x @ params["W_xh"] + params["b"]
        h = (1 - alpha) * h + alpha * drive
        if key is None:
            return h
        noise = jax.vmap(draw_noise)(key.ravel()).reshape(h.shape)
        return h + sigma * jnp.sqrt(2 * alpha) * noise

    return cell_from_step(init, start, step, output=lambda params, h: jnp.tanh(h))._replace(keyed=True)


# %% [markdown]
# ## Its noise is right
#
# Without weights each unit is an Ornstein–Uhlenbeck process in steps, whose variance in theory is 2 α σ² / (1 − (1 −
# α)²) = σ² / (1 − α/2). With α = 0.2 and σ = 0.1 this is 0.0111.

# %%
cell = noisy_rates(input_size=2, hidden_size=16)
silent = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0)))
quiet = jnp.zeros((400, 32, 2))  # 400 steps of 32 trials
_, hs = rollout(cell, silent, cell.start(silent, (32,)), keyed(jax.random.key(1), quiet, (32,)))
variance = float(jnp.var(hs[50:]))
assert abs(variance - 0.1**2 / (1 - 0.1)) < 0.0003
_, mean = rollout(cell, silent, cell.start(silent, (32,)), quiet)
assert jnp.all(mean == 0)  # without keys there is no noise
f"variance {variance:.4f}, in theory {0.1**2 / 0.9:.4f}"

# %% [markdown]
# ## A decision
#
# Evidence of ±0.2 arrives for 30 steps in noise of variance 1. At the end the network must decide which sign it had.
# No observer can do better than the sign of the sum, which is right with probability Φ(0.2 √30) = 0.86.

# %%
T, B, STRENGTH = 30, 64, 0.2


def trials(key, batch_shape):
    k_sign, k_noise = jax.random.split(key)
    sign = jnp.where(jax.random.bernoulli(k_sign, shape=batch_shape), 1.0, -1.0)
    evidence = STRENGTH * sign + jax.random.normal(k_noise, (T, *batch_shape))
    return evidence[..., None], sign


best = float(jax.scipy.stats.norm.cdf(STRENGTH * jnp.sqrt(T * 1.0)))
assert round(best, 2) == 0.86

model = readout(noisy_rates(1, 16), 1)


def decide(params, xs, batch_shape):
    h_T, _ = rollout(model, params, model.start(params, batch_shape), xs)
    return outputs(model, params, h_T)[..., 0]


def loss(params, key):
    k_trial, k_noise = jax.random.split(key)
    xs, sign = trials(k_trial, (B,))
    return jnp.mean(jnp.logaddexp(0.0, -sign * decide(params, keyed(k_noise, xs, (B,)), (B,))))


learner = batch_learner(model.init, loss, optax.adam(0.02))
keys = jax.random.split(jax.random.key(2), 150)
state, info = jax.jit(lambda key: fit(learner, learner.init(key, ()), (keys,)))(jax.random.key(3))

xs, sign = trials(jax.random.key(4), (2000,))
accuracy = float(jnp.mean(jnp.sign(decide(state.params, xs, (2000,))) == sign))
assert best - 0.06 < accuracy < best + 0.03
f"right in {accuracy:.0%} of new trials, the best possible is {best:.0%}"

# %% [markdown]
# ## Its dynamics
#
# To integrate evidence, a network needs a direction in which the state neither decays nor grows: an eigenvalue near
# 1 of the Jacobian of one step. All others may decay with the time constant, 1 − α = 0.8.

# %%
rest = model.start(state.params)
J = step_jacobian(model, state.params, rest, jnp.zeros(1))
eigenvalues = jnp.linalg.eigvals(J)
slowest = float(jnp.abs(eigenvalues).max())
assert slowest > 0.9
assert leading_gain(model, state.params, rest, jnp.zeros(1)) >= slowest - 1e-4

figure = Picture(figsize=(3.6, 3.4), layout="constrained")
axis = figure.subplots()
axis.add_patch(Circle((0, 0), 1, fill=False, color="0.7"))
axis.plot(eigenvalues.real, eigenvalues.imag, "o")
axis.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", title="Eigenvalues of one step")
figure
