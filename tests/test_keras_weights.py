"""Weights of Keras, in and out: bit for bit, and against live models on JAX under masks."""

import io
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bidirectional, gru, lstm, mgu, projected_lstm, readout, stack, vanilla
from rnn_jax.cells import cifg_lstm, clipped_lstm, general_lstm, gru_reset_before, peephole_lstm
from rnn_jax.interop import (
    from_keras,
    keras_model,
    network_of_model,
    to_keras,
    write_weights,
)
from tests.networks import (
    LENGTHS,
    Results,
    T,
    canonical,
    cast,
    equal,
    ours,
    random_inputs,
    random_network,
    random_params,
    require_equal,
)

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
    """A random network; directions of one layer have different cells where layers do not have equal ones."""
    alike = seed % len(MAKERS) >= 4
    makers = [MAKERS[seed % len(MAKERS)]] if alike else MAKERS
    return random_network(seed, makers, alike=alike, merges=("concatenate", "sum"), directions=True)


def theirs(keras: Any, live: Any, xs: np.ndarray, weigh: np.ndarray) -> Results:
    """``ours`` of a live model of Keras under a mask."""
    for layer in live.layers:
        for way in (getattr(layer, "forward_layer", layer), getattr(layer, "backward_layer", layer)):
            if getattr(getattr(way, "cell", None), "activation", None) is keras.activations.tanh:
                way.cell.activation = jnp.tanh  # that of Keras 3.15 casts float64 to float32
    mask, ids = jnp.arange(T)[None] < LENGTHS[:, None], xs.dtype == np.int32
    recurrent = keras.layers.RNN, keras.layers.Bidirectional

    def loss(weights: Any, xs: Any) -> Any:
        with keras.StatelessScope(state_mapping=[*zip(live.trainable_variables, weights, strict=True)]):
            ys = jnp.swapaxes(xs, 0, 1)
            for layer in live.layers:  # of which an embedding would end a mask
                ys = layer(ys, mask=mask) if isinstance(layer, recurrent) else layer(ys)
        ys = jnp.swapaxes(ys, 0, 1)
        return jnp.sum(weigh * ys), jnp.where(weigh != 0, ys, 0)

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        by = jax.jit(jax.value_and_grad(loss, argnums=0 if ids else (0, 1), has_aux=True))
        (_, ys), found = by([W.value for W in live.trainable_variables], jnp.asarray(xs))
    by_weights, by_xs = (found, None) if ids else (found[0], np.asarray(found[1]))
    by_params = {paths(live)[n]: np.asarray(W) for n, W in enumerate(by_weights)}
    return Results(np.asarray(ys), by_xs, by_params)


def paths(live: Any) -> list[str]:
    """The paths of the weights of a model, without its own name."""
    return [W.path.partition("/")[2] for W in live.weights]


def as_theirs(model: Any, mine: Results) -> Results:
    """Our results with the gradients of Keras: a bias of which we have one has that gradient twice."""
    named = to_keras(model, mine.by_params)
    for name, W in named.items():
        if name.endswith("bias") and W.ndim == 2:
            W[1] = np.where(W[1] == 0, W[0], W[1])  # not 0: of the candidate of a GRU
    return mine._replace(by_params=named)


@pytest.mark.parametrize("seed", SEEDS)
def test_live_models_have_our_outputs_gradients_and_weights_under_masks(keras, their_rules, seed):
    model, params = network(seed)
    live, written = keras_model(model, params), to_keras(model, params)
    assert equal(from_keras(live), (model, params))
    assert paths(live) == [*written]
    assert all(np.array_equal(W.value, written[path]) for path, W in zip(paths(live), live.weights, strict=True))
    merge = network_of_model(model, params).merge
    again = to_keras(*from_keras({W.path: W for W in live.weights}, merge=merge))
    assert again.keys() == written.keys()
    assert all(np.array_equal(W, written[path]) for path, W in again.items())
    xs, weigh = random_inputs(model, params, np.float64)
    require_equal(as_theirs(model, ours(model, params, xs, weigh)), theirs(keras, live, xs, weigh), 1e-12)


def test_our_float32_is_that_of_live_models(keras, their_rules):
    model, params = cast(*network(1), np.float32)
    xs, weigh = random_inputs(model, params, np.float32)
    mine = as_theirs(model, ours(model, params, xs, weigh))
    require_equal(mine, theirs(keras, keras_model(model, params), xs, weigh), 1e-6)


def test_weights_go_through_a_file_and_sorted_by_name_bit_for_bit(tmp_path):
    for number, layers in enumerate(
        [
            [lstm(4, 4), gru(4, 4)],
            [vanilla(4, 4), vanilla(4, 4, activation="relu")],
            [bidirectional(lstm(4, 2), gru(4, 2)), bidirectional(lstm(4, 2), gru(4, 2))],
            [bidirectional(lstm(4, 4), gru(4, 4))],
        ]
    ):
        model: Any = readout(stack(*layers) if len(layers) > 1 else layers[0], 4)
        params = random_params(model, np.random.default_rng(0))
        own: dict[str, Any] = {"activation": ("tanh", "relu")} if number == 1 else {}
        assert equal(from_keras(jax.tree.map(lambda W: W, to_keras(model, params)), **own), canonical(model, params))
        texts = {name: ",".join(value) for name, value in own.items()}
        write_weights(tmp_path / "a.safetensors", to_keras(model, params), **texts)
        assert equal(from_keras(tmp_path / "a.safetensors"), canonical(model, params))


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
    noise = keras.layers.GaussianNoise(0.1), keras.layers.ActivityRegularization(0.1)
    live = keras.Sequential([inputs, *noise, live, keras.layers.Activation("linear")])
    found = from_keras(live)
    assert found[0] == readout(stack(lstm(2, 4, dtype="float32"), gru(4, 3, dtype="float32")), 2)
    live.save(tmp_path / "model.keras")
    assert equal(from_keras(tmp_path / "model.keras"), found)
    model = cifg_lstm(2, 3)
    params = random_params(model, np.random.default_rng(0))
    xs, weigh = random_inputs(model, params, np.float64)
    yours = theirs(keras, keras_model(model, params), xs, weigh)
    require_equal(ours(model, params, xs, weigh)._replace(by_params={}), yours._replace(by_params={}), 1e-12)


def ones(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Arrays by path; two underscores stand for a slash."""
    return {name.replace("__", "/"): np.ones(shape) for name, shape in shapes.items()}


LSTM = ones(a__kernel=(3, 8), a__recurrent_kernel=(2, 8))


def cells(**paths: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Kernels of cells by path, of I inputs, H units and G gates."""
    return ones(**{f"{path}__{leaf}": (rows, G * H) for path, (I, H, G) in paths.items()
                   for leaf, rows in (("kernel", I), ("recurrent_kernel", H))})  # fmt: skip


WRONG: dict[str, Any] = {
    "source got no recurrent cell; want the weights of at least one": {},
    "source got a/gamma; want paths that end in kernel": LSTM | ones(a__gamma=(3,)),
    "a got recurrent_kernel; want kernel and recurrent_kernel": ones(a__recurrent_kernel=(2, 8)),
    r"a/recurrent_kernel got \[2, 6\]; want 8 columns": ones(a__kernel=(3, 8), a__recurrent_kernel=(2, 6)),
    r"a/recurrent_kernel got \[2, 5\]; want 1, 3 or 4": ones(a__kernel=(3, 5), a__recurrent_kernel=(2, 5)),
    r"a/kernel got \[3, 0\]; want two axes and at least one": ones(a__kernel=(3, 0), a__recurrent_kernel=(0, 0)),
    r"a/bias got \[2, 8\]; want \[8\]": LSTM | ones(a__bias=(2, 8)),
    r"b got \[4, 5\]; want an embedding \[V, 3\] in front, or a readout \[O, 2\]": LSTM | ones(b__kernel=(5, 4)),
    "source got a linear layer, b, in front": ones(b__kernel=(2, 3)) | LSTM,
    "source got the linear layers b; want the names embedding and readout": ones(b__kernel=(2, 3))
    | ones(c__kernel=(3, 8), c__recurrent_kernel=(2, 8)),
    "a_1/kernel got 3 inputs; want 2": cells(a_0=(3, 2, 4), a_1=(3, 2, 4)),
    "source got b/forward_a, whose other direction is not clear": cells(b__forward_a=(3, 2, 4)),
    "source got forward_a/lstm_cell, whose other direction is not clear": cells(
        forward_a__lstm_cell=(4, 4, 4), second__lstm_cell=(4, 4, 4)
    ),
    "source got the recurrent modules gru, lstm; want numbers": cells(gru=(4, 4, 3), lstm=(4, 4, 4)),
    "source got a_1, a_0, not in the order of their numbers": cells(a_1=(4, 4, 3), a_0=(4, 4, 3)),
    "source got float32 and float64": LSTM | {"a/kernel": np.ones((3, 8), np.float32)},
    "source got 3 as paths; want texts": {3: np.ones(2)},
}


@pytest.mark.parametrize("message", WRONG)
def test_weights_that_do_not_fit_are_refused_with_one_line_that_names_them(message):
    with pytest.raises(ValueError, match=message) as error:
        from_keras(WRONG[message])
    assert "\n" not in str(error.value)


def test_an_unknown_or_needless_option_is_refused(keras, tmp_path):
    wrong: dict[str, Any] = {
        "gates got 'ifcx'; want the characters i f o g": {"gates": "ifcx"},
        "gates got ''; want the characters i f o g": {"gates": ""},
        "activation got 'swoosh'; want one of tanh": {"activation": "swoosh"},
        "merge got 'mul'; want 'concatenate' or 'sum'": {"merge": "mul"},
        "pairs got 1 cells; want an even number": {"pairs": True},
    }
    for message, options in wrong.items():
        with pytest.raises(ValueError, match=message):
            from_keras(LSTM, **options)
    assert equal(from_keras(LSTM, gates="ifco"), from_keras(LSTM))
    with pytest.raises(ValueError, match=r"^gate_activation got 'relu'; want None: the source has no GRU or LSTM$"):
        from_keras(cells(a=(3, 2, 1)), gate_activation="relu")
    write_weights(tmp_path / "a.safetensors", LSTM, activation="relu")
    with pytest.raises(ValueError, match=r"^activation got 'tanh'; want None: the file has its own$"):
        from_keras(tmp_path / "a.safetensors", activation="tanh")
    with pytest.raises(ValueError, match=r"^merge got 'sum'; want None: a model of Keras has its own$"):
        from_keras(keras.layers.GRU(2), merge="sum")


def test_directions_are_paired_by_name_in_any_order_or_as_the_user_wants():
    names = "m__bidirectional__forward_lstm__lstm_cell", "m__bidirectional__gru__gru_cell", "m__backward_x__lstm_cell"
    pair = cells(**{names[0]: (3, 2, 4), names[1]: (3, 2, 3)})
    wanted = bidirectional(lstm(3, 2), gru(3, 2))
    assert from_keras(pair)[0] == from_keras(dict(reversed(pair.items())))[0] == wanted
    two = cells(m__forward_x__lstm_cell=(4, 4, 4), m__second__lstm_cell=(4, 4, 4))
    order = ("m/forward_x/lstm_cell", "m/second/lstm_cell")
    assert from_keras(two, pairs=False, layers=order)[0] == stack(lstm(4, 4), lstm(4, 4))
    assert from_keras(two, pairs=True, layers=order)[0] == bidirectional(lstm(4, 4), lstm(4, 4))
    with pytest.raises(ValueError, match=r"^source got m/backward_x/lstm_cell, whose other direction is not clear"):
        from_keras(pair | cells(**{names[2]: (4, 4, 4)}))


ABSENT = {
    "model got projected_lstm; want lstm: that of Keras has no projection": projected_lstm(2, 3, projection_size=2),
    "model got peephole_lstm; want lstm": peephole_lstm(2, 3),
    "model got clipped_lstm; want lstm": clipped_lstm(2, 3, cell_clip=1.0),
    "model got general_lstm; want lstm": general_lstm(2, 3, coupled=True, peepholes=True),
    r"model got \[4, 2\] units in two directions; want equal numbers": bidirectional(lstm(3, 4), gru(3, 2)),
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
        "activation got 'softmax' in .*; want 'linear': .* whose model has the outputs before softmax$": [
            layers.LSTM(2),
            layers.Dense(2, activation="softmax"),
        ],
        "activation got 'tanh' in .*; want 'linear'": [layers.LSTM(2), layers.Activation("tanh")],
        "activation got 'LeakyReLU'; want one of": [layers.LSTM(2, activation=layers.LeakyReLU())],
        "go_backwards got True in .*; want False: Keras returns its outputs in reverse$": [
            layers.GRU(2, go_backwards=True)
        ],
        "mask_zero got True in .*, and call apply with mask=ids != 0$": [
            layers.Embedding(4, 3, mask_zero=True),
            layers.GRU(2),
        ],
        "merge_mode got 'mul'": [layers.Bidirectional(layers.GRU(2), merge_mode="mul")],
        "model got .*, a Conv1D; want recurrent layers": [layers.Conv1D(2, 3), layers.GRU(2)],
        "activation got 'gelu'; want one of": [layers.GRU(2, activation="gelu")],
    }.items():
        inputs = keras.Input((None,) if isinstance(above[0], layers.Embedding) else (None, 3))
        with pytest.raises(ValueError, match=message):
            from_keras(keras.Sequential([inputs, *above]))
    inputs = keras.Input((None, 2))
    ys = layers.GRU(2, return_sequences=True)(inputs)
    branched = keras.Model(inputs, layers.Add()([ys, layers.GRU(2, return_sequences=True)(ys)]))
    (tmp_path / "a.keras").write_text("hello")
    for message, live in {
        "model got add.*, which reads more than": branched,
        "model got .* without weights; want it built": layers.GRU(2),
        "model got Mine, a model of your own class; want arrays by path": of_a_class(keras),
        "source got int; want arrays by path": 3,
        "source got list; want arrays by path": [],
        "file got .*, which is no file; want a .keras file": tmp_path / "b.keras",
        "file got .* with File is not a zip file; want a .keras file": tmp_path / "a.keras",
        r"file got .*; want a .keras file, of model.save\('model.keras'\)": tmp_path / "a.h5",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            from_keras(live)
        assert "\n" not in str(error.value)


def of_a_class(keras: Any) -> Any:
    """A model of a class of the user, which has been called."""

    class Mine(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner = keras.layers.LSTM(2)

        def call(self, xs: Any) -> Any:
            return self.inner(xs)

    live = Mine()
    live(np.zeros((2, 3, 2), np.float32))
    return live


def rewritten(file: Any, **members: Any) -> Any:
    """A copy of a .keras file with other members: bytes, or functions of the ``config.json``."""
    other = file.with_name("other.keras")
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as copy:
        content = {name: archive.read(name) for name in archive.namelist()}
        for name, change in members.items():
            name = {"config": "config.json", "weights": "model.weights.h5"}.get(name, name)
            content[name] = str(change(content[name].decode())).encode() if callable(change) else change
        for name, data in content.items():
            copy.writestr(name, data)
    return other


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # where Keras saves a model
def test_a_file_is_judged_before_keras_makes_anything_of_it(keras, their_rules, tmp_path, monkeypatch):
    live = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(4), keras.layers.Dense(2)])
    live.save(tmp_path / "a.keras")
    assert equal(from_keras(rewritten(tmp_path / "a.keras")), from_keras(live))
    h5 = io.BytesIO()
    with pytest.importorskip("h5py").File(h5, "w") as weights:
        weights.create_dataset("W", (10**6, 10**6), "f4")  # which holds no numbers
    monkeypatch.setattr(keras.saving, "load_model", None)
    changed = lambda old, new: {"config": lambda text: text.replace(old, new)}  # noqa: E731
    for message, members in {
        "layers with weights": changed('"units": 4', '"units": 4000'),
        "a GRU of 3 inputs and big units": changed('"units": 4', '"units": "big"'),
        "a Conv1D": changed('"class_name": "Dense"', '"class_name": "Conv1D"'),
        "a Lambda": changed('"class_name": "Dense"', '"class_name": "Lambda"'),
        "a __lambda__": changed('"activation": "linear"', '"activation": {"class_name": "__lambda__", "config": {}}'),
        "a function of os": changed(
            '"activation": "linear"', '"activation": {"class_name": "function", "module": "os", "config": "abort"}'
        ),
        "a GRU of mine": changed(
            '"module": "keras.layers", "class_name": "GRU"', '"module": "mine", "class_name": "GRU"'
        ),
        "a Sequential": changed(
            '"registered_name": null, "build_config": {"input_shape": [null, null, 3]}',
            '"registered_name": "mine>GRU", "build_config": {"input_shape": [null, null, 3]}',
        ),
        "a GRU without its sizes": changed('"build_config": {"input_shape": [null, null, 3]}', '"build_config": {}'),
        "batches of 1000000 examples": changed('"batch_shape": [null', '"batch_shape": [1000000'),
        "a config.json that is nested too deeply": {"config": b"[" * 100_000},
        "a list as config.json": {"config": b"[]"},
        "members assets/a, config.json": {"assets/a": b""},
        r"\d+ bytes in an archive of \d+": {"weights": bytes(10**8)},
        "the weights W in another place": {"weights": h5.getvalue()},
    }.items():
        with pytest.raises(ValueError, match=rf"^file got .*other.keras with {message}.*; want a .keras file") as error:
            from_keras(rewritten(tmp_path / "a.keras", **members))
        assert "\n" not in str(error.value)


def test_a_backend_of_keras_that_is_not_installed_is_named(monkeypatch):
    def missing(module: str, package: str) -> Any:
        raise ValueError(f"keras got no package {package}") from ModuleNotFoundError("No module named 'x'", name="x")

    monkeypatch.setattr("rnn_jax.interop.keras_files.library", missing)
    with pytest.raises(ValueError, match=r"^keras got a backend that cannot be imported .*; want KERAS_BACKEND=jax"):
        from_keras(object())
