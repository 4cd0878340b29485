"""Going on from prompts, and the probabilities of every next id, against rollouts by hand."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import gru, outputs, readout, rollout
from rnn_jax.decoding import confidences, continue_prompt, greedy, sample
from tests.laboratory import random_params, refused

V, LENGTH = 5, 6
MODEL = readout(gru(V, 4), V)
PARAMS = random_params(MODEL)
KEY = jax.random.key(0)
PROMPTS = jnp.array([[0, 3, 2, 2, 1, 4], [1, 1, 4, -1, -1, 9], [2, -7, 0, 0, 0, 0]]).T  # padded to the longest
LENGTHS = jnp.array([6, 3, 1])


@partial(jax.jit, static_argnames="temperature")
def alone(prompt, temperature):
    """What follows one prompt, by a rollout over it and a decoder."""
    h, _ = rollout(MODEL, PARAMS, MODEL.start(PARAMS), prompt[:-1])
    if temperature == 0:
        return greedy(MODEL, PARAMS, h, prompt[-1], length=LENGTH, end=2)
    return sample(MODEL, PARAMS, KEY, h, prompt[-1], length=LENGTH, temperature=temperature, end=2)


def test_a_prompt_is_read_from_the_start_state_before_the_model_goes_on():
    prompt = PROMPTS[:, 0]
    for temperature in (0.0, 1.5):
        found = continue_prompt(MODEL, PARAMS, KEY, prompt, length=LENGTH, temperature=temperature, end=2)
        chex.assert_trees_all_close(found, alone(prompt, temperature), rtol=1e-12)
    traced = jax.jit(lambda params, prompt: continue_prompt(MODEL, params, KEY, prompt, length=3, temperature=0.0).ids)
    other = prompt.at[0].set(4)
    assert np.any(traced(PARAMS, prompt) != traced(PARAMS, other)) or np.any(
        confidences(MODEL, PARAMS, prompt)[-1] != confidences(MODEL, PARAMS, other)[-1]
    )


def test_prompts_of_several_lengths_go_on_as_each_alone_whatever_stands_after_their_end():
    found = continue_prompt(MODEL, PARAMS, KEY, PROMPTS, length=LENGTH, lengths=LENGTHS, temperature=0.0, end=2)
    for b, n in enumerate(LENGTHS.tolist()):
        chex.assert_trees_all_close(
            jax.tree.map(lambda a, b=b: a[..., b], found), alone(PROMPTS[:n, b], 0.0), rtol=1e-12
        )


def test_confidences_are_the_softmax_of_a_rollout():
    ids = jax.random.randint(KEY, (7, 3), 0, V)
    _, hs = rollout(MODEL, PARAMS, MODEL.start(PARAMS, (3,)), ids)
    wanted = jax.nn.softmax(outputs(MODEL, PARAMS, hs))
    np.testing.assert_allclose(confidences(MODEL, PARAMS, ids), wanted, rtol=1e-12)
    np.testing.assert_allclose(confidences(MODEL, PARAMS, np.asarray(ids[:, 0])), wanted[:, 0], rtol=1e-12)
    assert confidences(MODEL, PARAMS, ids[:0]).shape == (0, 3, V)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), PARAMS)
    p = confidences(MODEL, half, ids)
    assert p.dtype == jnp.float32
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    "call",
    [confidences, lambda model, params, ids: continue_prompt(model, params, KEY, ids, length=3).ids],
    ids=["confidences", "continue_prompt"],
)
def test_no_states_are_kept_of_what_is_read(call):
    model, T = readout(gru(V, 64), V), 4096
    program: Any = jax.jit(partial(call, model)).lower(random_params(model), jnp.zeros(T, int)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 8 * T * 64 / 4


def test_prompts_that_cannot_be_read_are_refused():
    go_on = partial(continue_prompt, MODEL, PARAMS, KEY)
    says = " got 5; want ids in [0, 5), the vocabulary"
    refused(lambda: go_on(jnp.array([0, 5, 1]), length=3), "ids" + says)
    refused(lambda: confidences(MODEL, PARAMS, jnp.array([0, 5, 1])), "ids" + says)
    refused(lambda: go_on(PROMPTS, length=3, lengths=jnp.array([6, 4, 1])), "ids got -1; want ids in [0, 5)")
    refused(lambda: go_on(jnp.zeros(0, int), length=3), "prompt got no ids; want one or more")
    refused(lambda: go_on(jnp.zeros(3), length=3), "prompt got float64; want integer ids")
    refused(lambda: go_on(PROMPTS, length=3, lengths=jnp.array([6, 0, 1])), "lengths got 0; want at least 1 id")
    refused(lambda: go_on(PROMPTS, length=3, lengths=jnp.array([6, 7, 1])), "lengths got 1 … 7; want steps in [0, 6]")
    refused(lambda: confidences(gru(V, 3), gru(V, 3).init(KEY), jnp.zeros(3, int)), "the model predicts 3 ids")
