"""How weights begin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax as rnn
from rnn_jax import chrono_gru, chrono_lstm, conv_lstm, gru, initializers, lstm, projected_lstm, readout, vanilla
from rnn_jax.bridges import linear_bridge
from rnn_jax.cells.conv import convolve
from rnn_jax.layers import as_layer
from tests.cells_page import factories
from tests.laboratory import refused

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


def test_scaled_normal_has_the_gain_given():
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
def test_params_have_the_type_given(dtype):
    for leaf in jax.tree.leaves([factory(2, 3, dtype=dtype).init(KEY) for factory in (vanilla, gru, lstm)]):
        assert leaf.dtype == dtype


KINDS = {  # a shape, what each output adds up, and the H of PyTorch's bound
    "a gate of W_xh": ((40, 64), 40, 64),
    "a gate of W_hh": ((64, 64), 64, 64),
    "a gate of W_hh that reads a projection": ((16, 64), 16, 64),
    "a projection or a readout": (initializers.StateReader(64, 16), 64, 64),
    "a gate of a bias, or w_hh": ((64,), 1, 64),
    "a kernel of one axis": ((3, 20, 32), 60, None),
    "a kernel of two axes": ((3, 3, 20, 32), 180, None),
    "a kernel of three axes": ((3, 3, 3, 20, 8), 540, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_scaled_normal_is_scaled_by_what_each_output_adds_up(kind):
    shape, fan_in, _ = KINDS[kind]
    drawn = initializers.scaled_normal(1.5)(KEY, shape)
    np.testing.assert_allclose(jnp.std(drawn), 1.5 / fan_in**0.5, rtol=4 / drawn.size**0.5)
    np.testing.assert_array_equal(drawn, 1.5 / fan_in**0.5 * initializers.unit_normal()(KEY, shape))


@pytest.mark.parametrize("kind", KINDS)
def test_torch_uniform_is_bounded_by_the_hidden_size_whichever_axis_that_is(kind):
    shape, _, hidden_size = KINDS[kind]
    if hidden_size is None:
        refused(lambda: initializers.torch_uniform()(KEY, shape), "torch_uniform got shape (3, ")
    else:
        drawn = initializers.torch_uniform()(KEY, shape)
        assert 0.9 < jnp.max(jnp.abs(drawn)) * hidden_size**0.5 <= 1
        np.testing.assert_array_equal(drawn, initializers.torch_uniform(hidden_size)(KEY, shape))


X, SQUARE, VECTOR, READER = (40, 64), (64, 64), (64,), initializers.StateReader(64, 16)
GATES = {"input_init": {X}, "recurrent_init": {SQUARE}, "bias_init": {VECTOR}}
OF_THE_INPUT = {"input_init": {X}, "bias_init": {VECTOR}}
KERNELS = {"input_init": {(3, 3, 40, 64)}, "recurrent_init": {(3, 3, 64, 64)}, "bias_init": {VECTOR}}
ASKED = {  # what a cell is told, and the shapes for which it asks each of its initialisers
    **dict.fromkeys(["vanilla", "irnn", "ctrnn", "antisymmetric", "cornn", "gru", "gru_reset_before"], ({}, GATES)),
    **dict.fromkeys(["mgu", "ugrnn", "janet", "lstm", "cifg_lstm", "layer_norm_lstm", "slstm"], ({}, GATES)),
    **dict.fromkeys(["min_gru", "min_lstm", "diagonal"], ({}, OF_THE_INPUT)),
    **dict.fromkeys(["chrono_gru", "chrono_lstm"], ({"max_lag": 9}, GATES)),
    "clipped_lstm": ({"cell_clip": 1.0}, GATES),
    "peephole_lstm": ({}, GATES | {"peephole_init": {VECTOR}}),
    "projected_lstm": (
        {"projection_size": 16},
        GATES | {"recurrent_init": {SQUARE, (16, 64)}, "projection_init": {READER}},  # of the square nothing is kept
    ),
    "general_lstm": (
        {"projection_size": 16, "peepholes": True},
        GATES | {"recurrent_init": {SQUARE, (16, 64)}, "projection_init": {READER}, "peephole_init": {VECTOR}},
    ),
    "indrnn": ({}, GATES | {"recurrent_init": {VECTOR}}),
    "lru": ({"output_size": 16}, {"input_init": {X}, "readout_init": {READER}}),
    "conv_lstm": ({"space": (8, 8)}, KERNELS),
}


@pytest.mark.parametrize("name", factories())
def test_every_array_of_every_cell_is_drawn_gate_by_gate(name):
    told, wanted = ASKED[name]
    asked = {role: set() for role in wanted}

    def spy(role):
        def init(key, shape, dtype):
            asked[role].add(shape)
            assert isinstance(shape, initializers.StateReader) == (shape == READER)
            return jnp.zeros(shape, dtype)

        return init

    jax.eval_shape(getattr(rnn, name)(40, 64, **told, **{role: spy(role) for role in wanted}).init, KEY)
    assert asked == wanted


def test_a_readout_of_any_kind_is_drawn_with_the_shape_of_a_state_reader():
    for model in (
        readout(gru(3, 64), 16, weight_init=initializers.torch_uniform()),
        rnn.readout(as_layer(gru(3, 64)), 16, weight_init=initializers.torch_uniform()),
    ):
        assert 0.9 / 8 < jnp.max(jnp.abs(model.init(KEY).W_hy)) <= 1 / 8
    bridge = linear_bridge(as_layer(gru(3, 64)), gru(3, 16), weight_init=initializers.torch_uniform())
    assert 0.9 / 8 < jnp.max(jnp.abs(bridge.init(KEY).W)) <= 1 / 8


def test_the_projection_of_an_lstm_begins_as_in_pytorch():
    draw = initializers.torch_uniform()
    made = projected_lstm(3, 100, projection_size=10, projection_init=draw, recurrent_init=draw).init(KEY)
    for W in (made.W_hp, made.W_hh):
        assert 0.095 < jnp.max(jnp.abs(W)) <= 0.1


def test_a_fresh_kernel_multiplies_lengths_by_the_gain():
    params = conv_lstm(20, 16, space=(5, 5), input_init=initializers.scaled_normal(2.0)).init(KEY)
    np.testing.assert_allclose(jnp.std(params.W_xh), 2 / (9 * 20) ** 0.5, rtol=0.05)
    np.testing.assert_allclose(jnp.std(params.W_hh), 1 / (9 * 16) ** 0.5, rtol=0.05)


@pytest.mark.parametrize("draw", [initializers.orthogonal, initializers.identity])
@pytest.mark.parametrize("kernel", [(3,), (5, 3), (3, 1, 3)])
def test_an_orthogonal_kernel_keeps_lengths_up_to_the_border(draw, kernel):
    x = jax.random.normal(KEY, (4,) * len(kernel) + (6,))
    y = convolve(x, draw(1.5)(KEY, (*kernel, 6, 6)))
    np.testing.assert_allclose(jnp.linalg.norm(y), 1.5 * jnp.linalg.norm(x), rtol=1e-12)


@pytest.mark.parametrize("name", ["orthogonal", "identity"])
def test_an_orthogonal_vector_and_a_kernel_without_a_middle_are_refused(name):
    draw = getattr(initializers, name)()
    for shape in [(4,), (), (2, 4, 4)]:
        refused(lambda shape=shape: draw(KEY, shape), f"{name} got shape {shape}; want a ")


@pytest.mark.parametrize("rows", [3, 7])
def test_a_matrix_that_is_not_square_is_orthogonal_along_its_shorter_axis(rows):
    W = initializers.orthogonal(2.0)(KEY, (rows, 5))
    gram = W @ W.T if rows < 5 else W.T @ W
    np.testing.assert_allclose(gram, 4 * jnp.eye(min(rows, 5)), atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_eigenvalues_near_1_begin_below_1_in_every_type(dtype):
    draw = initializers.ring(0.9, 1 - 1e-9)
    log_nu, log_theta = draw(KEY, 1000, dtype)
    assert log_nu.dtype == log_theta.dtype == dtype
    assert jnp.all(jnp.isfinite(log_nu))
    assert jnp.all(log_nu < float(np.log(-np.log(0.9))) + 0.01)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_retention_times_are_spread_in_half_precision_too(dtype):
    times = jnp.exp(initializers.chrono(1001.0)(KEY, (2000,), dtype).astype(jnp.float64))
    np.testing.assert_allclose(jnp.mean(times), 500, rtol=0.05)
