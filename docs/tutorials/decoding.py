# %% [markdown]
# # Decoding
#
# A model that predicts the next id can generate sequences. This tutorial trains one on a word, uses every way of
# decoding that the library has, and ends with an encoder and a decoder that write a sequence backwards.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnn_jax as rnn
from rnn_jax import gru, initializers, lstm, outputs, readout, rollout
from rnn_jax.data import streams, vocabulary
from rnn_jax.decoding import beam_search, confidences, continue_prompt, greedy, sample, stream
from rnn_jax.losses import cross_entropy, per_step
from rnn_jax.training import batch_learner, fit, window_learner

# %% [markdown]
# ## A model of characters
#
# Ids go in and logits come out: an id selects one row of `W_xh`, so weights for ids start with unit variance, and
# `readout` is the linear layer on top.

# %%
characters = vocabulary("hello")
windows = streams(characters.encode("hello" * 200), batch_size=4, window=5)
row = initializers.unit_normal()
model = readout(lstm(characters.size, hidden_size=16, input_init=row), characters.size)
learner = window_learner(model, per_step(cross_entropy), optax.adam(0.1))
state, info = jax.jit(lambda key: fit(learner, learner.init(key, (4,)), windows))(jax.random.key(0))
params, h0 = state.params, model.start(state.params)
_, hs = rollout(model, params, h0, characters.encode("hell"))
assert characters.decode(outputs(model, params, hs).argmax(axis=-1)) == "ello"

# %% [markdown]
# ## Greedy decoding and sampling
#
# `greedy` chooses the likeliest id at every step. `sample` draws one: at temperature 0 it is `greedy`, at 1 it draws
# from the probabilities of the model, and `top_k` and `top_p` exclude the unlikely ids. Both start with a first id,
# which is an input and not returned.

# %%
h = characters.encode("h")[0]
assert characters.decode(greedy(model, params, h0, h, length=9).ids) == "ellohello"
key = jax.random.key(1)
nucleus = sample(model, params, key, h0, h, length=9, top_p=0.9)
assert characters.decode(nucleus.ids) == "ellohello"
hot = sample(model, params, key, h0, h, length=40, temperature=5.0)
cold = sample(model, params, key, h0, h, length=40, temperature=0.0)
assert hot.log_prob.mean() < cold.log_prob.mean()
characters.decode(hot.ids)

# %% [markdown]
# `log_prob` is ln p of each id in the model, before any temperature. The random numbers come from the key alone: the
# same key gives the same text.
#
# `continue_prompt` reads a prompt of any length from the start state and samples what follows. `confidences` are the
# probabilities of every next id along a given sequence:

# %%
assert characters.decode(continue_prompt(model, params, key, characters.encode("hel"), length=7).ids) == "lohello"
p = confidences(model, params, characters.encode("hell"))  # (T, V)
assert p.shape == (4, characters.size) and jnp.allclose(p.sum(axis=-1), 1, atol=1e-5)
assert p[3, characters.encode("o")[0]] > 0.99

# %% [markdown]
# ## Beam search
#
# `beam_search` keeps the `width` best beginnings. If the beam is wide enough, it finds a sequence that is at least as
# likely as the greedy one.

# %%
beams = beam_search(model, params, h0, h, length=9, width=3, length_penalty=0.0)
assert characters.decode(np.asarray(beams.ids[:, 0])) == "ellohello"
assert bool(jnp.all(beams.score[:-1] >= beams.score[1:]))  # the best first
assert jnp.allclose(beams.score[0], greedy(model, params, h0, h, length=9).log_prob.sum(), atol=1e-4)

# %% [markdown]
# ## Live input
#
# `stream` is one compiled step, for input that arrives one element at a time. You keep the state.

# %%
step, state_now = stream(model, params), h0
for character in characters.encode("hell"):
    state_now, logits = step(state_now, character)
assert characters.decode([int(logits.argmax())]) == "o"

# %% [markdown]
# ## Encoder and decoder
#
# `encoder_decoder` joins any encoder with any decoder: a linear map turns the last state of the encoder into the first
# state of the decoder. This encoder reads in both directions, and this decoder has two layers. They learn to write
# three ids backwards; id 4 begins and ends every written sequence.

# %%
model = rnn.encoder_decoder(rnn.bidirectional(gru(4, 16), gru(4, 16)), readout(rnn.stack(lstm(5, 16), gru(16, 16)), 5))


def loss(params, xs, targets):
    h0, first = model.start(params, xs.shape[1:]), jnp.full(xs.shape[1:], 4)
    return per_step(cross_entropy)(rnn.sequence_to_sequence(model, params, h0, xs, first, targets), targets)


xs = jax.random.randint(jax.random.key(0), (300, 3, 32), 0, 4)  # (updates, T, B)
targets = jnp.concatenate([jnp.flip(xs, axis=1), jnp.full((300, 1, 32), 4)], axis=1)
learner = batch_learner(model.init, loss, optax.adam(0.02))
state, info = jax.jit(lambda key: fit(learner, learner.init(key, ()), (xs, targets)))(jax.random.key(0))
assert info.loss[-1] < 0.05  # nats an id

# %% [markdown]
# After training, `encode` returns the first state of the decoder, and the decoder is a cell like any other, so every
# way of decoding works on it:

# %%
encoded = model.encode(state.params, model.start(state.params), jnp.array([0, 2, 3]))
beams = beam_search(model.decoder, state.params, encoded, 4, length=6, width=3, end=4)
assert beams.ids[: beams.lengths[0], 0].tolist() == [3, 2, 0, 4]
