"""How weights begin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import chrono_gru, chrono_lstm, gru, initializers, lstm, vanilla

KEY = jax.random.key(0)
GATES = {vanilla: 1, gru: 3, lstm: 4}


@pytest.mark.parametrize(("factory", "gates"), GATES.items())
def test_every_gate_of_a_recurrent_matrix_is_orthogonal_by_itself(factory, gates):
    W_hh = factory(2, 6, recurrent_init=initializers.orthogonal(1.5)).init(KEY).W_hh
    blocks = jnp.split(W_hh, gates, axis=-1)
    for block in blocks:
        np.testing.assert_allclose(block.T @ block, 1.5**2 * jnp.eye(6), atol=1e-12)
    assert len({float(block[0, 0]) for block in blocks}) == gates, "every gate has a draw of its own"


@pytest.mark.parametrize(("factory", "gates"), GATES.items())
def test_identity_fills_every_gate(factory, gates):
    W_hh = factory(2, 3, recurrent_init=initializers.identity(0.5)).init(KEY).W_hh
    np.testing.assert_array_equal(W_hh, np.tile(0.5 * np.eye(3), gates))


def test_identity_wants_a_square():
    with pytest.raises(ValueError, match=r"identity got shape \(2, 3\); want a square matrix"):
        initializers.identity()(KEY, (2, 3))


def test_scaled_normal_has_the_gain_asked_for():
    W = initializers.scaled_normal(1.5)(KEY, (400, 300))
    np.testing.assert_allclose(jnp.std(W), 1.5 / 20, rtol=0.02)
    np.testing.assert_allclose(jnp.mean(W), 0, atol=1e-3)


def test_torch_uniform_is_bounded_by_one_over_the_root_of_the_hidden_size_for_every_weight_and_bias():
    draw = initializers.torch_uniform()
    params = gru(700, 64, input_init=draw, recurrent_init=draw, bias_init=draw).init(KEY)
    for leaf in jax.tree.leaves(params):
        assert 0.9 / 8 < jnp.max(jnp.abs(leaf)) <= 1 / 8


def test_chrono_spreads_the_retention_times_of_an_lstm():
    b_i, b_f, b_o, b_g = jnp.split(
        chrono_lstm(1, 2000, max_lag=101, recurrent_init=initializers.zeros).init(KEY).b_h, 4
    )
    np.testing.assert_array_equal(b_i, -b_f)
    np.testing.assert_array_equal(jnp.concatenate([b_o, b_g]), 0)
    times = jnp.exp(b_f)  # uniform on 1 … 100
    assert jnp.min(times) >= 1
    assert jnp.max(times) <= 100
    np.testing.assert_allclose(jnp.mean(times), 50.5, rtol=0.05)


def test_chrono_spreads_the_update_gates_of_a_gru_and_leaves_the_rest():
    plain, chrono = gru(2, 300).init(KEY), chrono_gru(2, 300, max_lag=101).init(KEY)
    b_r, b_z, b_n = jnp.split(chrono.b_h, 3)
    np.testing.assert_array_equal(jnp.concatenate([b_r, b_n]), 0)
    assert jnp.all((jnp.exp(b_z) >= 1) & (jnp.exp(b_z) <= 100))
    np.testing.assert_array_equal(plain.W_hh, chrono.W_hh)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_params_have_the_type_asked_for(dtype):
    for leaf in jax.tree.leaves([factory(2, 3, dtype=dtype).init(KEY) for factory in (vanilla, gru, lstm)]):
        assert leaf.dtype == dtype
