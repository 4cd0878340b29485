# %% [markdown]
# # Language modelling
#
# The recipe for a model of characters: a text becomes ids, ids become windows, a network with dropout learns to
# predict the next character, and its loss is compared with n-grams, which need no network. Losses are in nats a
# character; divide by ln 2 for bits, and exp gives the perplexity.
#
# This page trains for seconds on a small text. The full program, with checkpoints and `--resume`, is
# `experiments/char_lm.py`.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax import gru, initializers, keyed, output_dropout, readout, rollout, stack, zoneout
from rnn_jax.data import python_reference, streams, vocabulary, witten_bell
from rnn_jax.decoding import continue_prompt
from rnn_jax.losses import bits_per_char, cross_entropy, per_step, perplexity
from rnn_jax.training import evaluate, fit, window_learner

# %% [markdown]
# ## The text
#
# The Python language reference is part of every CPython and needs no download. `named_text("tiny_shakespeare")` and
# `read_text("my.txt")` return other texts. The validation part must follow the training part, not be mixed into it.

# %%
text = python_reference()[:40_000]
characters = vocabulary(text)
ids = characters.encode(text)
train, validation = ids[:36_000], ids[36_000:]

# %% [markdown]
# ## What needs no network
#
# `witten_bell` returns −ln p of every validation character for n-grams of 1, 2, … characters. A network that does
# not beat the longest has learned little.

# %%
ngrams = witten_bell(train, validation, characters.size, order=4).mean(axis=1)
assert ngrams[0] > ngrams[1] > ngrams[2] > 1.5
{f"{n + 1}-grams": f"{nats:.2f} nats" for n, nats in enumerate(ngrams)}

# %% [markdown]
# ## Windows
#
# `streams` cuts the text into lanes that are read side by side. Lane b of one window goes on where it ended in the
# window before, so the carried state keeps its meaning. The target of each character is the next one.

# %%
xs, targets = streams(train, batch_size=16, window=32)
assert xs.shape == targets.shape == (len(xs), 32, 16)
assert (xs[0, 1:] == targets[0, :-1]).all()
assert (xs[1, 0] == targets[0, -1]).all()

# %% [markdown]
# ## The network
#
# Ids select rows of `W_xh`, which `unit_normal` initialises at the right scale. (For words instead of characters, an
# `embedding` in front of the cell needs fewer weights.) `output_dropout` draws masks in training, because the learner
# gives it keys, and computes the mean in evaluation. For more layers use `stack`.

# %%
core = output_dropout(gru(characters.size, 64, input_init=initializers.unit_normal()), rate=0.1)
model = readout(core, characters.size)
learner = window_learner(model, per_step(cross_entropy), optax.adam(1e-2), clip=1.0)
state = learner.init(jax.random.key(0), (16,))

# %% [markdown]
# ## Training and validation
#
# One compiled call an epoch. `evaluate` computes the loss of one long rollout from the start state, in the memory of
# one window.


# %%
@jax.jit
def validation_nats(params):
    return evaluate(model, params, validation[:-1, None], validation[1:, None], per_step(cross_entropy))


epoch = jax.jit(lambda state: fit(learner, state, (xs, targets)))
history = [float(validation_nats(state.params))]
for _ in range(3):
    state, info = epoch(state)
    assert (info.broken == -1).all()  # no update was skipped
    history.append(float(validation_nats(state.params)))

assert abs(history[0] - np.log(characters.size)) < 0.3  # before training every character is about equally likely
assert history[1] > history[2] > history[3]
assert history[3] < ngrams[2]
nats = history[3]
f"{nats:.2f} nats, {bits_per_char(nats):.2f} bits a character, perplexity {perplexity(nats):.1f}"

# %% [markdown]
# After three passes over 36,000 characters the network is better than counted 3-grams. Longer training, more text and
# more units do the rest: see the numbers of `char_lm.py` in the [gallery](../gallery.md).
#
# ## Writing
#
# `continue_prompt` reads a prompt and samples what follows.

# %%
prompt = characters.encode("The ")
drawn = continue_prompt(model, state.params, jax.random.key(1), prompt, length=120, temperature=0.7)
written = characters.decode(drawn.ids)
assert len(written) == 120
print("The " + written)

# %% [markdown]
# ## Dropout of several kinds
#
# Cells with dropout or zoneout can be stacked like any others. With keys beside the inputs they draw masks, as in
# training; without keys they compute the mean, as in evaluation, which is the same every time.

# %%
cell = stack(output_dropout(gru(2, 8), rate=0.5), zoneout(gru(8, 4), rate=0.1))
weights, ones = cell.init(jax.random.key(0)), jnp.ones((6, 3, 2))
h0 = cell.start(weights, (3,))
drawn_1, drawn_2 = (rollout(cell, weights, h0, keyed(jax.random.key(n), ones, (3,)))[1] for n in (1, 2))
mean_1, mean_2 = (rollout(cell, weights, h0, ones)[1] for _ in range(2))
tops = [hs[1] for hs in (drawn_1, drawn_2, mean_1, mean_2)]
assert not jnp.array_equal(tops[0], tops[1]) and jnp.array_equal(tops[2], tops[3])

# %% [markdown]
# ## What to watch
#
# - **Ids outside the vocabulary** give NaN, never the row of a neighbour; `encode` refuses unknown characters.
# - **The state is carried** from window to window. Evaluate with a carried state too: the loss of windows that each
#   begin at zero is higher.
# - **Regularisation**: `output_dropout`, `variational_dropout`, `zoneout`; `weight_drop` as the `transform` of
#   `window_learner`, with a new mask for each window; and weight decay by `optax.adamw`.
# - **Truncation is a bias**: see [](../tutorials/truncation.py).
