"""The general LSTM against its equations in NumPy, TensorFlow Lite, and each cell that it contains."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from rnn_jax import (
    GeneralLSTMParams,
    LSTMState,
    cifg_lstm,
    clipped_lstm,
    general_lstm,
    lstm,
    peephole_lstm,
    projected_lstm,
)
from rnn_jax.initializers import zeros
from tests.conformance.cases import stored
from tests.conformance.tflite import outputs_of
from tests.laboratory import as_a_user_has_it
from tests.oracles import checked
from tests.test_by_hand import LN2, before, two_steps, weights

BY_HAND = checked("general_lstm", "numbers worked by hand", "states and outputs of two steps, float64", 1e-12)
TFLITE = checked(
    "general_lstm",
    "TensorFlow Lite, its kernel tests with peepholes, projection, layer norm, with and without CIFG",
    "outputs of three steps or more",
    1e-6,
)


def test_coupled_gates_see_the_memory_and_a_projection_is_shifted_by_its_bias():
    """Gates f o g, peepholes f o, ψ the identity, a = o ⊙ c, h = (2a[0] − 3a[1] + 1/2, a[0] + 2a[1] + 1/10).

    w_ch is in units of ln 2 / c_1: (1, 1) for f, (−3, −2) for o, with c_0 = (2, −1) c_1 and c_2 = (−1/3, −1/2) c_1.

    step 1:  f = σ(−1 + 2·1, 0 − 1) = σ(1, −1) = 2/3, 1/3           g = tanh(2, 2) = 3/5, 3/5
             c_0 = −6/5, −3/10
             c_1 = −2/3·6/5 + 1/3·3/5 = −3/5,                       −1/3·3/10 + 2/3·3/5 = 3/10
             o = σ(2 − 3, 3 − 2) = σ(−1, 1) = 1/3, 2/3              a = −1/5, 1/5
             h_1 = −2/5 − 3/5 + 1/2 = −1/2,                         −1/5 + 2/5 + 1/10 = 3/10
    step 2:  f = σ(−2 + 1, −1 + 1) = σ(−1, 0) = 1/3, 1/2            g = tanh(2, −2) = 3/5, −3/5
             c_2 = −1/3·3/5 + 2/3·3/5 = 1/5,                        1/2·3/10 − 1/2·3/5 = −3/20
             o = σ(−1 + 1, 1 + 1) = σ(0, 2) = 1/2, 4/5              a = 1/10, −3/25
             h_2 = 1/5 + 9/25 + 1/2 = 53/50,                        1/10 − 6/25 + 1/10 = −1/25
    """
    c = jnp.array([[-3 / 5, 3 / 10], [1 / 5, -3 / 20]])
    h = jnp.array([[-1 / 2, 3 / 10], [53 / 50, -1 / 25]])
    #          f        o        g
    W_xh = [[-2, -1, -2, 1, -2, 2], [1, 2, -1, 1, 1, 2]]
    W_hh = [[1, -1, 1, 2, 2, -2], [1, 1, -2, 1, 2, -1]]
    w_ch = LN2 * np.array([1, 1, -3, -2]) / np.tile(c[0], 2)
    W_xh, W_hh, b_h = weights(W_xh, W_hh, [-1, 2, 1, -2, 1, 1], h[0])
    W_hp, b_p = jnp.array([[2.0, 1.0], [-3.0, 2.0]]), jnp.array([1 / 2, 1 / 10])
    params = GeneralLSTMParams(W_xh, W_hh, b_h, jnp.asarray(w_ch), W_hp=W_hp, b_p=b_p)
    options = {"coupled": True, "peepholes": True, "projection_bias": True, "memory_activation": "linear"}
    cell = general_lstm(2, 2, projection_size=2, **options)
    got = two_steps(cell, params, LSTMState(h=before(h[0]), c=before(c[0])))
    chex.assert_trees_all_close(got, (LSTMState(h=h, c=c), h), rtol=0, atol=BY_HAND)


@pytest.mark.parametrize("name", ["NoCifg_Peephole_Projection_NoLayerNorm", "NoCifg_Peephole_Projection_LayerNorm"])
def test_four_gates_with_peepholes_and_a_projection_equal_tensorflow_lite(name):
    require_equal_to_tflite(name)


def test_coupled_gates_with_layer_norm_equal_tensorflow_lite():
    require_equal_to_tflite("Cifg_Peephole_Projection_LayerNorm")


def require_equal_to_tflite(name):
    """Outputs of each step equal those of ``LstmOpTest`` of google-ai-edge/LiteRT f674577."""
    (test,) = (test for test in stored("tflite") if test["name"] == f"lstm_test: LstmOpTest.{name}")
    steps = list(outputs_of(test))
    assert len(test["expect"]) >= 3
    for each in test["expect"]:
        np.testing.assert_allclose(steps[each["invocation"]][each["out"]], each["expected"], rtol=0, atol=TFLITE)


def step_in_numpy(params, h, c, x, cell_clip, projection_clip):
    """One step, a gate at a time."""
    params, h, c, x = jax.tree.map(np.asarray, (params, h, c, x))
    gates = "ifog"[-(params.b_h.size // c.shape[-1]) :]

    def by_gate(a, gates=gates):
        return {} if a is None else dict(zip(gates, np.split(a, len(gates), -1), strict=True))

    W, R, b, alpha = map(by_gate, (params.W_xh, params.W_hh, params.b_h, params.scale))
    w = by_gate(params.w_ch, gates[:-1])

    def summed(gate, c):
        a = x @ W[gate] + h @ R[gate] + w.get(gate, 0) * c
        if alpha:
            a = alpha[gate] * (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5)
        return a + b[gate]

    f = expit(summed("f", c))
    i = expit(summed("i", c)) if "i" in gates else 1 - f
    c = np.clip(f * c + i * np.tanh(summed("g", c)), -cell_clip, cell_clip)
    h = expit(summed("o", c)) * np.tanh(c)
    if params.W_hp is not None:
        h = h @ params.W_hp + (0 if params.b_p is None else params.b_p)
    return np.clip(h, -projection_clip, projection_clip), c


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("peepholes", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_every_combination_is_the_step_of_its_equations(coupled, peepholes, layer_norm):
    for projection in ({}, {"projection_size": 2, "projection_clip": 0.3}):
        given = {"coupled": coupled, "peepholes": peepholes, "layer_norm": layer_norm, "cell_clip": 0.5, **projection}
        cell = general_lstm(3, 4, **given, projection_bias=bool(projection))
        params, (h, c), x = random_step(cell)
        new, clip = cell.step(params, LSTMState(h, c), x), given.get("projection_clip", np.inf)
        assert (np.abs(new.c) == 0.5).any()
        assert (np.abs(new.h) == 0.3).any() == bool(projection)
        chex.assert_trees_all_close((new.h, new.c), step_in_numpy(params, h, c, x, 0.5, clip), rtol=1e-13)


def random_step(cell):
    """Random params, state and input."""
    rng = np.random.default_rng(0)
    params = jax.eval_shape(cell.init, jax.random.key(0))
    shapes = params, jax.eval_shape(lambda p: cell.start(p, (2,)), params), jax.ShapeDtypeStruct((2, 3), float)
    return jax.tree.map(lambda a: jnp.asarray(0.9 * rng.normal(size=a.shape)), shapes)


CONTAINED = {
    "lstm": (lstm(3, 4, activation="softsign"), {"activation": "softsign"}),
    "cifg": (cifg_lstm(3, 4), {"coupled": True}),
    "peepholes": (peephole_lstm(3, 4, memory_activation="elu"), {"peepholes": True, "memory_activation": "elu"}),
    "clipped": (clipped_lstm(3, 4, cell_clip=0.3), {"cell_clip": 0.3}),
    "projected": (
        projected_lstm(3, 4, projection_size=2, projection_clip=0.1),
        {"projection_size": 2, "projection_clip": 0.1},
    ),
}


@pytest.mark.parametrize("name", CONTAINED)
def test_each_cell_that_it_contains_makes_the_same_step(name):
    one, options = CONTAINED[name]
    general = general_lstm(3, 4, **options)
    params, state, x = random_step(one)
    more = GeneralLSTMParams(**params._asdict())
    assert jax.tree.map(jnp.shape, jax.eval_shape(general.init, jax.random.key(0))) == jax.tree.map(jnp.shape, more)
    chex.assert_trees_all_close(general.step(more, state, x), one.step(params, state, x), rtol=1e-14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.5}, "epsilon got 0.5 without layer_norm=True; want layer_norm=True too"),
        ({"peephole_init": zeros}, "peephole_init got zeros without peepholes=True; want peepholes=True too"),
        ({"projection_bias": True}, "projection_bias got True without a projection_size; want a projection_size too"),
        ({"projection_clip": 0.5}, "projection_clip got 0.5 without a projection_size; want a projection_size too"),
        ({"projection_init": zeros}, "projection_init got zeros without a projection_size; want a projection_size too"),
    ],
)
def test_an_option_of_a_part_that_a_cell_does_not_have_is_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        general_lstm(3, 4, **options)


def test_a_clip_may_be_traced():
    cell = lambda clip: general_lstm(3, 4, cell_clip=clip, projection_size=2, projection_clip=clip)  # noqa: E731
    params, state, x = random_step(cell(1.0))
    with as_a_user_has_it():
        new = jax.jit(lambda clip: cell(clip).step(params, state, x))(0.2)
    chex.assert_trees_all_close(new, cell(0.2).step(params, state, x), rtol=1e-14)
