"""Placeholder until the decoding branch is merged."""

import jax.numpy as jnp

from rnn_jax.decoding.decoders import sample
from rnn_jax.schedules import rollout


def continue_prompt(cell, params, key, prompt, *, length, temperature=1.0):
    ids = jnp.asarray(prompt)
    h, _ = rollout(cell, params, cell.start(params, ids.shape[1:]), ids[:-1])
    return sample(cell, params, key, h, ids[-1], length, temperature=temperature)
