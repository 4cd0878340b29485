"""Weights of Keras, in and out: bit for bit, and against live models on JAX under masks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bidirectional, gru, lstm, mgu, projected_lstm, readout, stack, vanilla
from rnn_jax.cells import cifg_lstm, clipped_lstm, general_lstm, gru_reset_before, peephole_lstm
from rnn_jax.interop import from_keras, from_keras_model, from_torch, keras_model, network_of_model, to_keras, to_torch
from tests.networks import LENGTHS, T, canonical, cast, equal, ours, random_inputs, random_network, random_params

MAKERS = [
    lstm,
    gru,
    gru_reset_before,
    vanilla,
    lambda I, H: lstm(I, H, activation="softsign", gate_activation="hard_sigmoid"),
    lambda I, H: vanilla(I, H, activation="relu"),
    lambda I, H: gru(I, H, activation="elu"),
]
SEEDS = range(20)
LIVE = [*((seed, "float64") for seed in (*range(6), 13)), (9, "float32")]
"""Seeds of networks that run in both libraries: every cell, both directions, several layers, with and without ids."""


@pytest.fixture(scope="module")
def keras(tmp_path_factory) -> Any:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KERAS_BACKEND", "jax")
        environment.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))  # else it writes in the user's home
        return pytest.importorskip("keras", reason="keras is not installed: pip install -e .[peers]")


@pytest.fixture
def their_rules() -> Any:
    """Keras broadcasts ranks and promotes types, which JAX refuses in these tests."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def network(seed: int) -> tuple[Any, Any]:
    """A random network, of one activation, which arrays alone do not tell."""
    alike = seed % len(MAKERS) >= 4
    makers = [MAKERS[seed % len(MAKERS)]] if alike else MAKERS[:4]
    return random_network(seed, makers, alike=alike, merges=("concatenate", "sum"))


def theirs(keras: Any, live: Any, xs: np.ndarray, weigh: np.ndarray) -> list[np.ndarray]:
    """``ours`` of a live model of Keras under a mask."""
    for layer in live.layers:
        for way in (getattr(layer, "forward_layer", layer), getattr(layer, "backward_layer", layer)):
            if getattr(getattr(way, "cell", None), "activation", None) is keras.activations.tanh:
                way.cell.activation = jnp.tanh  # that of Keras 3.15 casts float64 to float32
    mask = jnp.arange(T)[None] < LENGTHS[:, None]

    def loss(xs: Any) -> Any:
        ys = jnp.swapaxes(xs, 0, 1)
        for layer in live.layers:  # of which an embedding would end a mask
            ys = (
                layer(ys, mask=mask) if isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional)) else layer(ys)
            )
        ys = jnp.swapaxes(ys, 0, 1)
        return jnp.sum(weigh * ys), jnp.where(weigh != 0, ys, 0)

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        if xs.dtype == np.int32:
            return [np.asarray(jax.jit(loss)(jnp.asarray(xs))[1])]
        (_, ys), by_xs = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.asarray(xs))
    return [np.asarray(ys), np.asarray(by_xs)]


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_go_to_keras_and_back_bit_for_bit(seed):
    model, params = network(seed)
    options = [part.options for layer in network_of_model(model, params).layers for part in layer]
    again = from_keras(to_keras(model, params), merge=network_of_model(model, params).merge, **options[0])
    assert equal(again, canonical(model, params))


@pytest.mark.parametrize(("seed", "dtype"), LIVE)
def test_outputs_and_gradients_of_inputs_are_those_of_live_models_under_masks(keras, seed, dtype):
    model, params = cast(*network(seed), dtype)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        live = keras_model(model, params)
        assert equal(from_keras_model(live), (model, params))
    xs, weigh = random_inputs(model, params, dtype)
    tolerance = {"float64": 1e-12, "float32": 1e-6}[dtype]
    for a, b in zip(ours(model, params, xs, weigh), theirs(keras, live, xs, weigh), strict=True):
        np.testing.assert_allclose(a, b, rtol=10 * tolerance, atol=tolerance)


def test_weights_of_torch_go_to_keras_and_back_bit_for_bit():
    model = readout(stack(bidirectional(lstm(3, 4), lstm(3, 4)), gru(8, 5)), 2)
    params = random_params(model, np.random.default_rng(0))
    of_torch = to_torch(model, params)
    again = to_torch(*from_keras(to_keras(*from_torch(of_torch))))
    assert all(np.array_equal(again[name], W) for name, W in of_torch.items())


def test_the_second_bias_of_a_gru_is_added_except_for_the_candidate_and_missing_biases_are_zeros():
    rng = np.random.default_rng(0)
    weights = {"gru/kernel": rng.normal(size=(2, 9)), "gru/recurrent_kernel": rng.normal(size=(3, 9))}
    first, second = bias = rng.normal(size=(2, 9))
    again = to_keras(*from_keras(weights | {"gru/bias": bias}))["gru/gru_cell/bias"]
    assert np.array_equal(again, [[*(first + second)[:6], *first[6:]], [0] * 6 + [*second[6:]]])
    assert from_keras(weights)[0] == gru(2, 3)
    assert from_keras(weights, reset_after=False)[0] == gru_reset_before(2, 3)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # where Keras saves a model
def test_models_of_cells_files_and_coupled_gates_are_read(keras, their_rules, tmp_path):
    cells = keras.layers.StackedRNNCells([keras.layers.LSTMCell(4, use_bias=False), keras.layers.GRUCell(3)])
    inputs = keras.Input((None, 2))
    ys = keras.layers.RNN(cells, return_sequences=True)(inputs)
    live = keras.Model(inputs, keras.layers.TimeDistributed(keras.layers.Dense(2))(keras.layers.Dropout(0.5)(ys)))
    found = from_keras_model(live)
    assert found[0] == readout(stack(lstm(2, 4, dtype="float32"), gru(4, 3, dtype="float32")), 2)
    live.save(tmp_path / "model.keras")
    assert equal(from_keras_model(tmp_path / "model.keras"), found)
    model = cifg_lstm(2, 3)
    params = random_params(model, np.random.default_rng(0))
    xs, weigh = random_inputs(model, params, np.float64)
    yours = theirs(keras, keras_model(model, params), xs, weigh)
    np.testing.assert_allclose(ours(model, params, xs, weigh)[1], yours[1], atol=1e-12)


def ones(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Arrays by path; two underscores stand for a slash."""
    return {name.replace("__", "/"): np.ones(shape) for name, shape in shapes.items()}


LSTM = ones(a__kernel=(3, 8), a__recurrent_kernel=(2, 8))
WRONG = {
    "weights got the layers none; want recurrent ones": {},
    "weights got a/gamma; want paths that end in kernel": LSTM | ones(a__gamma=(3,)),
    "a got recurrent_kernel; want kernel and recurrent_kernel": ones(a__recurrent_kernel=(2, 8)),
    r"a/recurrent_kernel got \[2, 6\]; want 8 columns": ones(a__kernel=(3, 8), a__recurrent_kernel=(2, 6)),
    r"a/recurrent_kernel got \[2, 5\]; want 1, 3 or 4": ones(a__kernel=(3, 5), a__recurrent_kernel=(2, 5)),
    r"a/bias got \[2, 8\]; want \[8\]": LSTM | ones(a__bias=(2, 8)),
    "kernel of the dense layer got 3 rows; want 2": LSTM | ones(b__kernel=(3, 4)),
    "b/kernel got 3 rows; want 2": LSTM | ones(b__kernel=(3, 8), b__recurrent_kernel=(2, 8)),
    "weights got b/forward_a alone": ones(b__forward_a__kernel=(3, 8), b__forward_a__recurrent_kernel=(2, 8)),
    "weights got float32 and float64": LSTM | {"a/kernel": np.ones((3, 8), np.float32)},
}


@pytest.mark.parametrize("message", WRONG)
def test_weights_that_do_not_fit_are_refused_with_one_line_that_names_them(message):
    with pytest.raises(ValueError, match=message) as error:
        from_keras(WRONG[message])
    assert "\n" not in str(error.value)


def test_an_unknown_order_of_gates_activation_or_merge_is_refused():
    wrong: dict[str, Any] = {
        "gates got 'ifcx'; want the characters i f o g": {"gates": "ifcx"},
        "activation got 'swoosh'; want one of tanh": {"activation": "swoosh"},
        "merge got 'mul'; want 'concatenate' or 'sum'": {"merge": "mul"},
    }
    for message, options in wrong.items():
        with pytest.raises(ValueError, match=message):
            from_keras(LSTM, **options)


ABSENT = {
    "model got projected_lstm; want lstm: that of Keras has no projection": projected_lstm(2, 3, projection_size=2),
    "model got peephole_lstm; want lstm": peephole_lstm(2, 3),
    "model got clipped_lstm; want lstm": clipped_lstm(2, 3, cell_clip=1.0),
    "model got general_lstm; want lstm": general_lstm(2, 3, coupled=True, peepholes=True),
    "memory_activation got 'relu'; want 'tanh'": lstm(2, 3, memory_activation="relu"),
    "activation got .*; want the name of an activation": vanilla(2, 3, activation=jnp.sin),
    r"model got mgu\(.*; want parts that Keras may have": mgu(2, 3),
}


@pytest.mark.parametrize("message", ABSENT)
def test_a_model_that_keras_does_not_have_is_refused_with_the_reason(message):
    model = ABSENT[message]
    with pytest.raises(ValueError, match=message):
        to_keras(model, jax.tree.map(lambda a: np.zeros(a.shape), jax.eval_shape(model.init, jax.random.key(0))))


def test_live_models_without_a_counterpart_are_refused_with_the_reason(keras, their_rules, tmp_path):
    layers = keras.layers
    for message, above in {
        "activation got 'softmax' in .*; want 'linear'": [layers.LSTM(2), layers.Dense(2, activation="softmax")],
        "go_backwards got True": [layers.GRU(2, go_backwards=True)],
        "mask_zero got True": [layers.Embedding(4, 3, mask_zero=True), layers.GRU(2)],
        "merge_mode got 'mul'": [layers.Bidirectional(layers.GRU(2), merge_mode="mul")],
        "model got .*, a Conv1D; want recurrent layers": [layers.Conv1D(2, 3), layers.GRU(2)],
        "activation got 'gelu'; want one of": [layers.GRU(2, activation="gelu")],
    }.items():
        inputs = keras.Input((None,) if isinstance(above[0], layers.Embedding) else (None, 3))
        with pytest.raises(ValueError, match=message):
            from_keras_model(keras.Sequential([inputs, *above]))
    inputs = keras.Input((None, 2))
    ys = layers.GRU(2, return_sequences=True)(inputs)
    branched = keras.Model(inputs, layers.Add()([ys, layers.GRU(2, return_sequences=True)(ys)]))
    (tmp_path / "a.keras").write_text("hello")
    for message, live in {
        "model got add.*, which reads more than": branched,
        "model got .* without weights; want it built": layers.GRU(2),
        "model got int; want a layer or a model of Keras": 3,
        "file got .*, which is not there": tmp_path / "b.keras",
        "file got .*, which Keras does not read": tmp_path / "a.keras",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            from_keras_model(live)
        assert "\n" not in str(error.value)
