# %% [markdown]
# # Time series with gaps
#
# Measurements are missing, and series have different lengths. This page forecasts the next value of a series of
# which half is missing, in two ways, and compares both with the best that theory allows.
#
# The series is autoregressive, x_t = a x_{t−1} + √(1 − a²) ε_t with a = −0.9: it swings from one side to the other.
# Its variance is 1, and each value is observed with probability p = 0.5. A missing value is NaN.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax import gru, length_mask, outputs, readout, rollout
from rnn_jax.lab.figures import Picture
from rnn_jax.losses import per_step, squared_error
from rnn_jax.training import batch_learner, fit

A, P, T, B = -0.9, 0.5, 40, 32


def draw_series(rng, updates):
    noise = rng.normal(size=(T + 1, updates, B))
    values = [noise[0]]
    for e in noise[1:]:
        values.append(A * values[-1] + np.sqrt(1 - A**2) * e)
    observed = np.where(rng.random((T + 1, updates, B)) < P, values, np.nan)
    return jnp.asarray(np.moveaxis(observed, 1, 0), dtype=float)  # (updates, T + 1, B)


series = draw_series(np.random.default_rng(0), 250)
assert 0.48 < jnp.isnan(series).mean() < 0.52

# %% [markdown]
# ## The best forecast
#
# If the last observed value is d steps old, the best forecast of x_{t+1} is a^(d+1) times that value. Gaps have the
# probabilities p (1 − p)^d, so the smallest mean squared error is 1 − p a² / (1 − (1 − p) a²) = 0.32. A forecast
# that does not use d can do no better than 1 − c² with c = p a / (1 − (1 − p) a), which is 0.90: hardly better than
# the constant 0.

# %%
best = 1 - P * A**2 / (1 - (1 - P) * A**2)
without_age = 1 - (P * A / (1 - (1 - P) * A)) ** 2
assert (round(best, 2), round(without_age, 2)) == (0.32, 0.90)

# %% [markdown]
# ## Two ways to treat a gap
#
# **Hold**: give the observed steps as `mask`. At a gap the state is held and the input ignored, NaN or not. This is
# right where nothing happens during a gap, such as padding or a pause of the clock.
#
# **Continue**: replace NaN by 0 and add a second feature, 1 if observed. The network makes a step at every gap and
# can count. This is right where time goes on during a gap, as here.
#
# The loss counts only targets that were observed. Its mask acts **before** the square, so no NaN enters the gradient.


# %%
def hold(model, params, xs):
    _, hs = rollout(model, params, model.start(params, xs.shape[1:]), xs[..., None], mask=~jnp.isnan(xs))
    return outputs(model, params, hs)


def keep_going(model, params, xs):
    observed = ~jnp.isnan(xs)
    features = jnp.stack([jnp.where(observed, xs, 0), observed.astype(xs.dtype)], axis=-1)
    _, hs = rollout(model, params, model.start(params, xs.shape[1:]), features)
    return outputs(model, params, hs)


test = draw_series(np.random.default_rng(1), 4)
errors = {}
for name, forecast, features in (("hold", hold, 1), ("continue", keep_going, 2)):
    model = readout(gru(features, 16), 1)

    def loss(params, series, model=model, forecast=forecast):
        targets = series[1:]
        ys = forecast(model, params, series[:-1])  # (T, B, 1)
        return per_step(squared_error)(ys, targets[..., None], ~jnp.isnan(targets))

    learner = batch_learner(model.init, loss, optax.adam(0.02))
    state, info = jax.jit(lambda key, run=learner: fit(run, run.init(key, ()), (series,)))(jax.random.key(0))
    assert (info.broken == -1).all()  # NaN in the data never reached an update
    errors[name] = float(jnp.mean(jax.vmap(loss, in_axes=(None, 0))(state.params, test)))

assert abs(errors["hold"] - without_age) < 0.08
assert best - 0.05 < errors["continue"] < best + 0.08

figure = Picture(figsize=(5, 2.4), layout="constrained")
axis = figure.subplots()
axis.barh(list(errors), list(errors.values()), color=["0.6", "tab:blue"])
axis.axvline(best, color="k", linestyle="--", label="best possible")
axis.axvline(without_age, color="k", linestyle=":", label="best without the age of the last value")
axis.set(xlabel="mean squared error of the forecast", xlim=(0, 1.2))
axis.legend(loc="upper center", bbox_to_anchor=(0.45, 1.3), ncols=2, frameon=False)
figure

# %% [markdown]
# ## Series of different lengths
#
# Padding is a gap for which "hold" is right. Give `lengths` to the rollout, and count only real steps in the loss.
# Whatever lies in the padding, the state of a short series is that of its own end:

# %%
model = readout(gru(1, 16), 1)
params = model.init(jax.random.key(0))
lengths = jnp.array([T, 25, 10])
padded = jnp.where(length_mask(lengths, T), jnp.nan_to_num(test[0, :T, :3]), jnp.nan)[..., None]
h_T, _ = rollout(model, params, model.start(params, (3,)), padded, lengths=lengths)
alone, _ = rollout(model, params, model.start(params), padded[:10, 2])
assert jnp.allclose(h_T[2], alone, atol=1e-6)

# %% [markdown]
# Lengths and a mask of gaps together are one mask: `length_mask(lengths, T) & observed`.
