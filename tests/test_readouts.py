"""Heads on a cell or a layer: each has its own weights, and nothing else changes."""

# pyright: reportArgumentType=false, reportCallIssue=false
# (wrong things on purpose)

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax import (
    Head,
    bidirectional,
    gru,
    initializers,
    keyed,
    lag_gradients,
    linear_head,
    lstm,
    many_to_one,
    mlp_head,
    output_dropout,
    outputs,
    readout,
    residual,
    rollout,
    stack,
)
from rnn_jax.gradients import chunked
from rnn_jax.layers import as_layer
from rnn_jax.training import batch_learner
from tests.laboratory import any_nonzero, refused

T, B, I, H = 5, 2, 3, 4
random = initializers.scaled_normal()
CORE = lstm(I, H)
AGENT = readout(CORE, {"policy": 3, "value": mlp_head((5,), 1, bias_init=random)}, bias_init=random)
PARAMS = AGENT.init(jax.random.key(0))
XS, H0 = jax.random.normal(jax.random.key(1), (T, B, I)), AGENT.start(PARAMS, (B,))


def heads_by_hand(params, y):
    """The two heads of ``AGENT`` in NumPy."""
    policy, (hidden, value) = params.head["policy"], params.head["value"]
    y = np.asarray(y)
    logits = y @ policy.W + np.asarray(policy.b)
    return {"policy": logits, "value": np.tanh(y @ hidden.W + np.asarray(hidden.b)) @ value.W + np.asarray(value.b)}


def test_heads_read_the_same_output_and_leave_the_recurrence_as_it_is():
    h_T, hs = rollout(AGENT, PARAMS, H0, XS)
    core_T, core = rollout(CORE, PARAMS.cell, H0, XS)
    chex.assert_trees_all_equal((h_T, hs), (core_T, core))
    ys = outputs(AGENT, PARAMS, hs)
    with jax.numpy_rank_promotion("allow"):
        chex.assert_trees_all_close(ys, heads_by_hand(PARAMS, core.h), rtol=1e-12)
    assert {name: y.shape for name, y in ys.items()} == {"policy": (T, B, 3), "value": (T, B, 1)}
    assert all(any_nonzero(leaf) for leaf in jax.tree.leaves(PARAMS.head))  # no bias is zero by chance


def test_a_loss_of_one_head_has_no_gradient_at_the_other_and_one_at_the_core():
    @jax.jit
    def gradient(params, weights):
        def loss(params):
            ys = outputs(AGENT, params, rollout(AGENT, params, H0, XS)[1])
            return sum(weights[name] * jnp.sum(y**2) for name, y in ys.items())

        return jax.grad(loss)(params)

    for mine, other in [("policy", "value"), ("value", "policy")]:
        to_params = gradient(PARAMS, {mine: 1.0, other: 0.0})
        assert not any_nonzero(to_params.head[other])
        assert all(any_nonzero(leaf) for leaf in jax.tree.leaves((to_params.head[mine], to_params.cell)))


def test_a_head_alone_may_be_a_module_of_flax():
    module = nn.Dense(2, param_dtype=float, bias_init=nn.initializers.normal())
    model = readout(gru(I, H), Head(module.init, module.apply))
    params = model.init(jax.random.key(0))
    _, hs = rollout(model, params, model.start(params, (B,)), XS)
    dense = params.head["params"]
    expected = np.einsum("tbh,ho->tbo", hs, dense["kernel"]) + np.asarray(dense["bias"])
    np.testing.assert_allclose(outputs(model, params, hs), expected, rtol=1e-12)


def test_heads_on_a_layer_are_heads_on_the_outputs_of_the_layer():
    layer = bidirectional(gru(I, H), gru(I, 2))
    model = readout(layer, {"label": 3, "time": linear_head(1, weight_init=initializers.zeros, bias_init=random)})
    params = model.init(jax.random.key(0))
    h0, lengths = model.start(params, (B,)), jnp.array([T, 2])
    ys = many_to_one(model, params, h0, XS, lengths=lengths)
    seen = many_to_one(layer, params.cell, h0, XS, lengths=lengths)
    np.testing.assert_allclose(ys["label"], seen @ params.head["label"].W, rtol=1e-12)  # biases begin at zero
    np.testing.assert_array_equal(ys["time"], jnp.broadcast_to(params.head["time"].b, (B, 1)))


def test_lag_gradients_of_one_head_are_those_of_the_core_under_that_head():
    both = lag_gradients(AGENT, PARAMS, H0, XS, lambda y: jnp.sum(y["policy"], axis=-1))
    alone = readout(CORE, linear_head(3))
    params = alone.init(jax.random.key(0))._replace(cell=PARAMS.cell, head=PARAMS.head["policy"])
    one = lag_gradients(alone, params, H0, XS, lambda y: jnp.sum(y, axis=-1))
    chex.assert_trees_all_close(both, one, rtol=1e-10)


def test_windows_and_a_learner_take_a_dictionary_of_outputs_and_targets():
    targets = {"policy": jnp.zeros((T, B, 3)), "value": jnp.ones((T, B, 1))}

    def loss(ys, targets):
        return sum(jnp.sum((ys[name] - targets[name]) ** 2) for name in ys)

    whole = loss(outputs(AGENT, PARAMS, rollout(AGENT, PARAMS, H0, XS)[1]), targets)
    in_windows, _ = chunked(AGENT, PARAMS, H0, XS, targets, loss, window=2)
    np.testing.assert_allclose(in_windows, whole, rtol=1e-12)

    def of_batch(params, xs, targets):
        return loss(outputs(AGENT, params, rollout(AGENT, params, H0, xs)[1]), targets)

    learner = batch_learner(AGENT.init, of_batch, optax.sgd(0.01))
    state, info = learner.update(learner.init(jax.random.key(0), ()), (XS, targets))
    np.testing.assert_allclose(info.loss, whole, rtol=1e-12)
    assert of_batch(state.params, XS, targets) < whole


def test_weights_of_heads_are_named_by_their_heads():
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(PARAMS)]
    of_heads = ["head/policy/W", "head/policy/b"] + [f"head/value/{n}/{name}" for n in (0, 1) for name in ("W", "b")]
    assert paths == ["cell/W_xh", "cell/W_hh", "cell/b_h", *of_heads]


def test_the_order_in_which_heads_are_written_changes_no_weight():
    turned = readout(CORE, {"value": mlp_head((5,), 1, bias_init=random), "policy": 3}, bias_init=random)
    chex.assert_trees_all_equal(turned.init(jax.random.key(0)), PARAMS)
    assert turned == AGENT


def test_a_core_that_draws_draws_under_its_heads():
    model = readout(output_dropout(gru(I, H), 0.5), {"value": 1})
    params = model.init(jax.random.key(0))
    xs = keyed(jax.random.key(1), XS, (B,))
    assert any_nonzero(
        outputs(model, params, rollout(model, params, model.start(params, (B,)), xs)[1])["value"]
        - outputs(model, params, rollout(model, params, model.start(params, (B,)), XS)[1])["value"]
    )


@pytest.mark.parametrize("size", [{}, {3: 4}])
def test_heads_without_a_name_are_refused(size):
    refused(lambda: readout(CORE, size), "output_size got the heads {")


def test_a_head_of_no_size_and_outputs_that_are_no_array_are_refused():
    refused(lambda: readout(CORE, {"value": 0}), "output_size got 0; want a positive integer")
    refused(lambda: readout(CORE, "value"), "output_size got 'value'; want a positive integer")
    refused(lambda: mlp_head((0,), 2), "hidden_sizes got 0; want positive sizes")
    key = jax.random.key(0)
    says = "got the output a dictionary of policy, value; want one array: put a readout with several heads on top"
    refused(lambda: stack(AGENT, gru(3, 4)), f"layer 0 of stack (Head of LSTM) {says}")
    refused(lambda: readout(AGENT, 2).init(key), f"readout {says}")
    refused(lambda: residual(AGENT).start(PARAMS), f"residual {says}")
    both = bidirectional(AGENT, AGENT)
    params = both.init(key)
    refused(lambda: both.apply(params, both.start(params), XS[:, 0]), f"bidirectional {says}")
    below = stack(as_layer(AGENT), gru(3, 4))
    params = below.init(key)
    refused(lambda: below.apply(params, below.start(params), XS[:, 0]), f"layer 0 of stack {says}")
