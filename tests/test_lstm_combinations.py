"""The general LSTM against numbers worked by hand, those of TensorFlow Lite, and each cell that it contains."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import (
    GeneralLSTMParams,
    LSTMState,
    cifg_lstm,
    clipped_lstm,
    general_lstm,
    lstm,
    peephole_lstm,
    projected_lstm,
    rollout,
)
from tests.oracles import checked
from tests.test_by_hand import LN2, before, two_steps, weights

BY_HAND = checked("general_lstm", "numbers worked by hand", "states and outputs of two steps, float64", 1e-12)
TFLITE = checked(
    "general_lstm",
    "TensorFlow Lite, its kernel test with CIFG, peepholes, projection and layer norm",
    "outputs of three steps",
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


def numbers(*shape: int, of: str) -> jax.Array:
    """Numbers in a text, each of which is multiplied by 100 there."""
    return jnp.asarray(np.array(of.split(), float).reshape(shape) / 100)


def test_layer_norm_of_each_gate_and_its_peephole_equals_tensorflow_lite():
    """``LstmOpTest.Cifg_Peephole_Projection_LayerNorm`` of google-ai-edge/LiteRT f674577, gates f o g."""
    f, o, g = (
        numbers(4, 5, of="-60 -10  30  20  90  -50 -20 -40  30 -80  -40  30 -50 -40 -60   30 -40 -60 -50 -50"),
        numbers(4, 5, of="-80 -40 -20 -90 -10  -70  30 -30 -80 -20   60 -20  40 -70 -30  -50  10  50 -60 -40"),
        numbers(4, 5, of="-40 -30 -20 -10 -50   50 -20 -30 -20 -60   60 -10 -40 -30 -70   70 -90 -50  80  60"),
    )
    R_f, R_o, R_g = (
        numbers(4, 3, of="-50 -30 -50  -20  60  40   90  30 -10   20  50  20"),
        numbers(4, 3, of=" 30 -10  10  -20 -50 -70  -20 -60 -10  -40 -70 -20"),
        numbers(4, 3, of="-30  20  10  -30  80  -8  -20  30  80  -60 -10  20"),
    )
    params = GeneralLSTMParams(
        W_xh=jnp.concatenate([f, o, g]).T,
        W_hh=jnp.concatenate([R_f, R_o, R_g]).T,
        b_h=numbers(12, of="10 -30 -20 10  5 -1 20 10  -5 72 25 8"),
        w_ch=numbers(8, of="-2 -15 -25 -3  10 -10 -50 5"),
        scale=numbers(12, of="20 20 40 30  60 20 20 50  70 20 30 80"),
        W_hp=numbers(3, 4, of="-10 20 1 -20  10 50 30 8  7 20 -40 20").T,
    )
    xs = numbers(
        3, 2, 5, of="70 80 10 20 30 30 20 90 80 10  80 10 20 40 50 10 50 20 40 20  20 70 70 10 70 60 90 20 50 70"
    )
    wanted = [
        [[0.02129706, 0.14081624, 0.011273306], [-0.022635054, 0.09169482, 0.07691758]],
        [[0.013230234, 0.15230805, 0.034631312], [-0.026996698, 0.1497077, 0.09414922]],
        [[-0.012368806, 0.16579011, 0.0893078], [-0.010342933, 0.17301644, 0.072050884]],
    ]
    cell = general_lstm(5, 4, coupled=True, peepholes=True, layer_norm=True, projection_size=3, epsilon=1e-8)
    _, states = rollout(cell, params, cell.start(params, (2,)), xs)
    np.testing.assert_allclose(states.h, wanted, rtol=0, atol=TFLITE)


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
def test_each_cell_that_it_contains_makes_the_same_step_with_the_same_gradients(name):
    one, options = CONTAINED[name]
    general = general_lstm(3, 4, **options)
    rng = np.random.default_rng(0)

    def normal(tree):
        return jax.tree.map(lambda a: jnp.asarray(0.6 * rng.normal(size=a.shape)), tree)

    blank = jax.eval_shape(one.init, jax.random.key(0))
    params, state, x = (
        normal(blank),
        normal(jax.eval_shape(lambda p: one.start(p, (2,)), blank)),
        rng.normal(size=(2, 3)),
    )
    more = GeneralLSTMParams(**params._asdict())
    assert jax.tree.map(jnp.shape, jax.eval_shape(general.init, jax.random.key(0))) == jax.tree.map(jnp.shape, more)

    def stepped(step, params):
        new, pullback = jax.vjp(step, params, state, jnp.asarray(x))
        return new, pullback(jax.tree.map(jnp.cos, new))

    wanted, (weights, *others) = jax.jit(lambda p: stepped(one.step, p))(params)
    found, (of_more, *of_others) = jax.jit(lambda p: stepped(general.step, p))(more)
    chex.assert_trees_all_close(found, wanted, rtol=1e-14)
    chex.assert_trees_all_close(
        ({name: getattr(of_more, name) for name in weights._fields}, of_others), (weights._asdict(), others), rtol=1e-12
    )


def test_a_bias_without_a_projection_is_refused():
    with pytest.raises(ValueError, match=r"^projection_bias got True without a projection; want a projection_size too"):
        general_lstm(3, 4, projection_bias=True)
