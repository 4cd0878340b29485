"""Weights of PyTorch, in and out: bit for bit, and against live modules on packed sequences."""

import os
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bidirectional, embedding, gru, lstm, mgu, projected_lstm, readout, stack, vanilla
from rnn_jax.cells import clipped_lstm, general_lstm, gru_reset_before, peephole_lstm
from rnn_jax.interop import (
    from_torch,
    model_of_network,
    network_of_model,
    read_weights,
    to_torch,
    torch_module,
    write_weights,
)
from rnn_jax.interop.weight_files import array_of
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
    vanilla,
    gru,
    lstm,
    lambda I, H: projected_lstm(I, H, projection_size=H - 1),
    lambda I, H: vanilla(I, H, activation="relu"),
]
SEEDS = range(20)


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed: pip install -e .[peers]")


def network(seed: int) -> tuple[Any, Any]:
    """A random network, whose layers are alike in half of the cases."""
    relu = seed % len(MAKERS) == len(MAKERS) - 1
    makers = MAKERS[:-1] if not relu else [MAKERS[-1], *MAKERS[1:-1]]
    makers = [MAKERS[seed % len(MAKERS)]] if seed % 2 == 0 else makers
    return random_network(seed, makers, alike=seed % 2 == 0, merges=("concatenate",))


def theirs(torch: Any, module: Any, xs: np.ndarray, weigh: np.ndarray) -> Results:
    """``ours`` of a live module on packed sequences."""
    pack = torch.nn.utils.rnn
    around = hasattr(module, "rnn")
    given = torch.tensor(xs)
    given.requires_grad_(given.is_floating_point())
    vectors = module.embedding(given) if around and module.embedding is not None else given
    ys = pack.pack_padded_sequence(vectors, torch.tensor(LENGTHS), enforce_sorted=False)
    recurrent = module.rnn if around else module
    for layer in recurrent if isinstance(recurrent, torch.nn.ModuleList) else [recurrent]:
        ys, _ = layer(ys)
    ys, _ = pack.pad_packed_sequence(ys, total_length=T)
    ys = module.readout(ys) if around and module.readout is not None else ys
    module.zero_grad()
    (torch.tensor(weigh) * ys).sum().backward()
    by_params = {name: W.grad.numpy() for name, W in module.named_parameters()}
    by_xs = given.grad.numpy() if given.requires_grad else None
    return Results(np.where(weigh != 0, ys.detach().numpy(), 0), by_xs, by_params)


def as_theirs(model: Any, mine: Results) -> Results:
    """Our results with the gradients of PyTorch: a bias of which we have one has that gradient twice."""
    named = to_torch(model, mine.by_params)
    for name in named:
        if ".bias_hh" in f".{name}":
            first = named[name.replace("bias_hh", "bias_ih")]
            named[name] = np.where(named[name] == 0, first, named[name])  # not 0: of the candidate of a GRU
    return mine._replace(by_params=named)


@pytest.mark.parametrize("seed", SEEDS)
def test_live_modules_have_our_outputs_gradients_and_weights_on_packed_sequences(torch, seed):
    model, params = network(seed)
    xs, weigh = random_inputs(model, params, np.float64)
    mine = as_theirs(model, ours(model, params, xs, weigh))
    module = torch_module(model, params)
    assert equal(from_torch(module), (model, params))
    state = {name: W.numpy() for name, W in module.state_dict().items()}
    written = to_torch(model, params)
    assert state.keys() == written.keys()
    assert all(np.array_equal(state[name], W) for name, W in written.items())
    require_equal(mine, theirs(torch, module, xs, weigh), 1e-12)
    single = xs if xs.dtype == np.int32 else xs.astype(np.float32)
    require_equal(mine, theirs(torch, module.float(), single, weigh.astype(np.float32)), 1e-6)


def test_our_float32_is_that_of_live_modules(torch):
    model, params = cast(*network(1), np.float32)
    xs, weigh = random_inputs(model, params, np.float32)
    mine = as_theirs(model, ours(model, params, xs, weigh))
    require_equal(mine, theirs(torch, torch_module(model, params), xs, weigh), 1e-6)


def test_two_biases_become_their_sum_and_come_back_as_it_and_zeros_except_for_the_candidate_of_a_gru():
    rng = np.random.default_rng(0)
    weights = {"weight_ih_l0": rng.normal(size=(12, 2)), "weight_hh_l0": rng.normal(size=(12, 4))}
    biases = {"bias_ih_l0": rng.normal(size=12), "bias_hh_l0": rng.normal(size=12)}
    again = to_torch(*from_torch(weights | biases))
    b_ih, b_hh = biases.values()
    assert np.array_equal(again["bias_ih_l0"], [*(b_ih + b_hh)[:8], *b_ih[8:]])
    assert np.array_equal(again["bias_hh_l0"], [0] * 8 + [*b_hh[8:]])
    assert all(np.array_equal(again[name], W) for name, W in weights.items())
    _, params = from_torch(weights)
    assert not params.b_h.any()
    assert not params.b_n.any()


def test_tensors_that_are_trained_or_in_bfloat16_and_foreign_names_are_read_and_torch_takes_our_arrays(torch):
    module = torch.nn.ModuleDict(
        {"tokens": torch.nn.Embedding(7, 3), "lm": torch.nn.LSTM(3, 5), "out": torch.nn.Linear(5, 7)}
    )
    model, params = from_torch(dict(module.named_parameters()))
    assert model == readout(embedding(lstm(3, 5, dtype="float32"), 7, 3), 7)
    mine = torch.nn.ModuleDict(
        {"embedding": module["tokens"], "rnn": torch.nn.LSTM(3, 5), "readout": torch.nn.Linear(5, 7)}
    )
    mine.load_state_dict({name: torch.tensor(W) for name, W in to_torch(model, params).items()})
    assert equal(from_torch(mine.state_dict()), (model, params))
    W = module["out"].weight.detach().numpy()
    assert not np.shares_memory(array_of("W", module["out"].weight), W)
    assert not np.shares_memory(array_of("W", W), W)  # ours are copies, which training there does not change
    half = torch.nn.LSTM(3, 5, dtype=torch.bfloat16)
    model, params = from_torch(half.state_dict())
    assert params.W_hh.dtype == jnp.bfloat16
    assert torch.equal(torch_module(model, params).weight_hh_l0, half.weight_hh_l0)


def test_modules_are_a_stack_in_the_order_of_their_numbers_or_of_layers(torch):
    modules = [torch.nn.LSTMCell(2, 4), torch.nn.GRUCell(4, 3), torch.nn.RNNCell(3, 2, nonlinearity="relu")]
    model, params = from_torch(torch.nn.ModuleList([modules[0], torch.nn.Dropout(), *modules[1:]]))
    assert model == stack(
        lstm(2, 4, dtype="float32"), gru(4, 3, dtype="float32"), vanilla(3, 2, activation="relu", dtype="float32")
    )
    assert list(to_torch(model, params))[:4] == [
        f"rnn.0.{kind}_l0" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    lstms = {"lstm2": torch.nn.LSTM(4, 3), "fc": torch.nn.Linear(3, 2), "lstm1": torch.nn.LSTM(2, 4)}
    wanted = readout(stack(lstm(2, 4, dtype="float32"), lstm(4, 3, dtype="float32")), 2)
    with pytest.raises(
        ValueError, match=r"^source got lstm2, lstm1, not in the order of their numbers; want their order"
    ):
        from_torch(torch.nn.ModuleDict(lstms))
    assert from_torch(torch.nn.ModuleDict(lstms), layers=("lstm1", "lstm2"))[0] == wanted
    in_turn = {name: lstms[name] for name in ("lstm1", "lstm2", "fc")}
    assert from_torch(torch.nn.ModuleDict(in_turn))[0] == wanted
    blocks = [torch.nn.ModuleDict({"rnn": lstms[name]}) for name in ("lstm1", "lstm2")]
    assert from_torch(torch.nn.ModuleDict({"blocks": torch.nn.ModuleList(blocks), "fc": lstms["fc"]}))[0] == wanted
    named = torch.nn.ModuleDict({"up": lstms["lstm2"], "low": lstms["lstm1"]})
    assert from_torch(named, layers=("low", "up"))[0] == stack(*wanted_layers(wanted))
    with pytest.raises(ValueError, match=r"^layers got low; want up, low in their order$"):
        from_torch(named, layers=("low",))


def wanted_layers(model: Any) -> list[Any]:
    """The cells of a readout around a stack."""
    network = network_of_model(model, model.init(jax.random.key(0)))
    return [model_of_network(network._replace(layers=(layer,), readout=None))[0] for layer in network.layers]


def test_what_is_in_front_and_what_behind_is_known_from_a_live_module(torch):
    nn = torch.nn
    model, _ = from_torch(nn.ModuleList([nn.Embedding(4, 4), nn.LSTM(4, 5), nn.Linear(5, 4)]))
    assert model == readout(embedding(lstm(4, 5, dtype="float32"), 4, 4), 4)
    model, _ = from_torch(nn.ModuleDict({"fc": nn.Linear(5, 4), "tokens": nn.Embedding(4, 4), "lstm": nn.LSTM(4, 5)}))
    assert model == readout(embedding(lstm(4, 5, dtype="float32"), 4, 4), 4)
    with pytest.raises(ValueError, match=r"^source got a linear layer, 0, in front"):
        from_torch(nn.ModuleList([nn.Linear(4, 4, bias=False), nn.LSTM(4, 5)]))


def test_coupled_gates_become_an_lstm_with_the_same_outputs_and_general_lstms_the_cells_that_they_are(torch):
    model = general_lstm(2, 4, coupled=True)
    params = random_params(model, np.random.default_rng(0))
    module = torch_module(model, params)
    xs, weigh = random_inputs(model, params, np.float64)
    mine, yours = ours(model, params, xs, weigh), theirs(torch, module, xs, weigh)
    require_equal(mine._replace(by_params={}), yours._replace(by_params={}), 1e-12)
    model = general_lstm(2, 4, projection_size=3)
    params = random_params(model, np.random.default_rng(0))
    again, its_params = from_torch(to_torch(model, params))
    assert again == projected_lstm(2, 4, projection_size=3)
    assert np.array_equal(its_params.W_hp, params.W_hp)


def test_files_of_safetensors_are_read_with_the_activation_that_they_tell(tmp_path):
    model = vanilla(2, 3, activation="relu")
    params = random_params(model, np.random.default_rng(0))
    write_weights(tmp_path / "a.safetensors", to_torch(model, params), activation="relu")
    assert equal(from_torch(tmp_path / "a.safetensors"), canonical(model, params))
    halves = {"weight_ih_l0": jnp.ones((3, 2), jnp.bfloat16)}
    write_weights(tmp_path / "b.safetensors", halves)
    assert read_weights(tmp_path / "b.safetensors")[0]["weight_ih_l0"].dtype == jnp.bfloat16


def test_tied_weights_that_save_model_writes_once_are_the_embedding_and_the_readout(torch, tmp_path):
    written = pytest.importorskip("safetensors.torch")
    module = torch.nn.ModuleDict({"encoder": torch.nn.Embedding(5, 3), "rnn": torch.nn.LSTM(3, 3)})
    module["decoder"] = torch.nn.Linear(3, 5)
    module["decoder"].weight = module["encoder"].weight
    written.save_model(module, str(tmp_path / "a.safetensors"))
    assert equal(from_torch(tmp_path / "a.safetensors"), from_torch(module))
    assert from_torch(module)[0] == readout(embedding(lstm(3, 3, dtype="float32"), 5, 3), 5)


@pytest.mark.parametrize("name", ["fc", "out", "dense", "linear", "logits", "output_layer", "net.fc", "head"])
def test_usual_names_of_a_readout_tell_its_place_in_a_file_unless_numbers_do(tmp_path, name):
    arrays = {f"{name}.weight": np.ones((4, 4)), f"{name}.bias": np.ones(4)}
    write_weights(tmp_path / "a.safetensors", GRU | arrays)
    assert from_torch(tmp_path / "a.safetensors")[0] == readout(gru(4, 4), 4)
    in_front = {f"1.rnn.{kind}": W for kind, W in GRU.items()} | {f"0.{kind}": W for kind, W in arrays.items()}
    write_weights(tmp_path / "b.safetensors", in_front)
    with pytest.raises(ValueError, match=rf"^source got a linear layer, 0\.{name}, in front; want "):
        from_torch(tmp_path / "b.safetensors")


def ones(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Arrays by name; two underscores stand for a dot."""
    return {name.replace("__", "."): np.ones(shape) for name, shape in shapes.items()}


GRU = ones(weight_ih_l0=(12, 4), weight_hh_l0=(12, 4))
WRONG: dict[str, Any] = {
    "source got nothing; want weight_ih_l0, weight_hh_l0": {},
    "source got no a.weight_hh_l0; want it beside a.weight_ih_l0": ones(a__weight_ih_l0=(4, 3)),
    "source got no bias_hh_l0; want": GRU | ones(bias_ih_l0=(12,)),
    "source got no weight_ih_l0, weight_hh_l0; want every layer": ones(weight_ih_l1=(12, 4), weight_hh_l1=(12, 4)),
    "source got norm.running_mean; want a recurrent module": GRU | ones(norm__running_mean=(4,)),
    "source got steps; want a recurrent module, .* alone: leave out of the state dict": GRU | {"steps": np.array(3)},
    r"source got the state dict model in a dict; want it alone: source\['model'\]": {"loops": {}, "model": GRU},
    "source got lstm_9, lstm_8, not in the order of their numbers; want their order as layers": {
        f"lstm_{n}.{name}": W for n in (9, 8) for name, W in GRU.items()
    },
    "source got the recurrent modules a, b; want numbers in their names": ones(
        a__weight_ih=(3, 3), b__weight_ih=(3, 3)
    ),
    "source got the linear layers x; want the names embedding": ones(x__weight=(4, 4)) | GRU,
    r"x got \[2, 3\]; want an embedding \[V, 4\] in front, or a readout \[O, 4\]": GRU | ones(x__weight=(2, 3)),
    r"source got a linear layer, 0, in front; want an embedding": ones(
        *(), **{"0__weight": (4, 5), "0__bias": (4,), "1__weight_ih_l0": (20, 4), "1__weight_hh_l0": (20, 5)}
    ),
    "source got the linear layers 0; want the names embedding": ones(
        **{"0__weight": (4, 4), "1__weight_ih_l0": (20, 4), "1__weight_hh_l0": (20, 5)}
    ),
    "source got a linear layer, fc, in front": ones(fc__weight=(4, 4), fc__bias=(4,)) | GRU,
    r"source got 1 between recurrent modules": ones(
        **{"0__weight_ih": (4, 4), "0__weight_hh": (4, 4), "1__weight": (4, 4), "2__weight_ih": (4, 4)},
        **{"2__weight_hh": (4, 4)},
    ),
    "source got a, b, of which two have one place": GRU
    | ones(a__weight=(2, 4), a__bias=(2,), b__weight=(3, 4), b__bias=(3,)),
    r"weight_hh_l0 got \[0, 0\]; want at least one unit": ones(weight_ih_l0=(0, 3), weight_hh_l0=(0, 0)),
    "source got 3 as names; want texts": {3: np.ones(2)},
    "source got a class; want a module of PyTorch, its state dict, or a path": dict,
    "source got NoneType; want a module of PyTorch": None,
    r"weight_ih_l0 got \[12, 3\]; want \[16, 3\]": ones(weight_ih_l0=(12, 3), weight_hh_l0=(16, 4)),
    r"weight_hh_l0 got \[10, 4\]; want 1, 3 or 4 times 4 rows": ones(weight_ih_l0=(10, 3), weight_hh_l0=(10, 4)),
    r"weight_hh_l0 got \[16\]; want two axes": ones(weight_ih_l0=(16, 3), weight_hh_l0=(16,)),
    "weight_ih_l1 got 5 inputs; want 4, outputs of the layer below": GRU
    | ones(weight_ih_l1=(9, 5), weight_hh_l1=(9, 3)),
    "source got float32 and float64; want one floating type": GRU | {"weight_ih_l0": np.ones((12, 4), np.float32)},
    r"weight_ih_l0 got int64\[12, 4\]; want an array of floating": GRU | {"weight_ih_l0": np.ones((12, 4), int)},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_state_dict_that_does_not_fit_is_refused_with_one_line_that_names_it(message):
    with pytest.raises(ValueError, match=message) as error:
        from_torch(WRONG[message])
    assert "\n" not in str(error.value)


RNN = ones(weight_ih_l0=(4, 4), weight_hh_l0=(4, 4))


def test_an_unknown_order_of_gates_and_an_activation_that_is_unknown_or_needless_are_refused(torch, tmp_path):
    for gates in ("rzx", ""):
        with pytest.raises(ValueError, match=rf"^gates got {gates!r}; want the characters r z n in another order$"):
            from_torch(GRU, gates=gates)
    swapped = {name: np.concatenate([W[4:8], W[:4], W[8:]]) for name, W in GRU.items()}
    assert equal(from_torch(swapped, gates="zrn"), from_torch(GRU))
    write_weights(tmp_path / "a.safetensors", RNN, activation="relu")
    for source, activation, message in [
        (RNN, "elu", r"'elu'; want 'tanh' or 'relu', as nn\.RNN has$"),
        (RNN, ("relu", "tanh"), r"\('relu', 'tanh'\); want one text, or a sequence of 1, one a layer$"),
        (GRU, "nonsense", r"'nonsense'; want None: the source has no nn\.RNN$"),
        (tmp_path / "a.safetensors", "tanh", r"'tanh'; want None: the source has its own$"),
        (torch.nn.RNN(3, 4), "relu", r"'relu'; want None: the source has its own$"),
    ]:
        with pytest.raises(ValueError, match=rf"^activation got {message}"):
            from_torch(source, activation=activation)


def test_each_layer_has_its_own_activation(torch, tmp_path):
    model = stack(vanilla(2, 3), gru(3, 3), vanilla(3, 2, activation="relu"))
    params = random_params(model, np.random.default_rng(0))
    written = to_torch(model, params)
    assert equal(from_torch(written, activation=("tanh", "tanh", "relu")), (model, params))
    assert equal(from_torch(torch_module(model, params)), (model, params))
    write_weights(tmp_path / "a.safetensors", written, activation="tanh,tanh,relu")
    assert equal(from_torch(tmp_path / "a.safetensors"), (model, params))


def test_float64_without_64_bits_is_refused():
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match=r"^weights got float64; want jax_enable_x64, or arrays of float32$"):
            from_torch(GRU)
        assert from_torch({name: W.astype(np.float32) for name, W in GRU.items()})[0] == gru(4, 4)


ABSENT = {
    "model got gru_reset_before; want gru: the GRU of PyTorch resets after": gru_reset_before(2, 3),
    "model got peephole_lstm; want lstm": peephole_lstm(2, 3),
    "model got clipped_lstm; want lstm": clipped_lstm(2, 3, cell_clip=1.0),
    "model got general_lstm; want lstm or projected_lstm": general_lstm(2, 3, peepholes=True, projection_size=2),
    "activation got 'relu'; want its default: nn.LSTM": lstm(2, 3, activation="relu"),
    "activation got 'sigmoid'; want tanh or relu: nn.RNN": vanilla(2, 3, activation="sigmoid"),
    "projection_size got 3; want fewer than hidden_size 3": projected_lstm(2, 3, projection_size=3),
    "cell_clip got 2.0; want its default: nn.LSTM": projected_lstm(2, 3, projection_size=2, cell_clip=2.0),
    "merge got 'sum'; want 'concatenate', as PyTorch": bidirectional(gru(2, 3), gru(2, 3), merge="sum"),
    "model got gru forward, lstm backward; want equal": bidirectional(gru(2, 3), lstm(2, 3)),
    "model got a readout with the heads {'a': 1}; want a linear one": readout(gru(2, 3), {"a": 1}),
    r"model got mgu\(.*; want parts that PyTorch may have": mgu(2, 3),
    r"model got gru\(…\) with a function of your own": gru(2, 3)._replace(output=lambda params, h: -h),
}


@pytest.mark.parametrize("message", ABSENT)
def test_a_model_that_torch_does_not_have_is_refused_with_the_reason(message):
    model = ABSENT[message]
    with pytest.raises(ValueError, match=message) as error:
        to_torch(model, jax.tree.map(lambda a: np.zeros(a.shape), jax.eval_shape(model.init, jax.random.key(0))))
    assert "\n" not in str(error.value)


def test_params_of_another_model_or_type_are_refused_in_one_line():
    params = random_params(gru(2, 3), np.random.default_rng(0))
    for wrong, message in [
        (params, r"GRUParams\(.*; want those of lstm"),
        ({"W_xh": np.ones((99, 99))}, r"dict; want those of lstm"),
        (random_params(lstm(2, 4), np.random.default_rng(0)), r"\[2, 16\] as W_xh; want \[2, 12\]$"),
        (
            jax.tree.map(lambda W: np.ones(W.shape, int), lstm(2, 3).init(jax.random.key(0))),
            "int64; want arrays of one",
        ),
    ]:
        with pytest.raises(ValueError, match=f"^params got {message}") as error:
            to_torch(lstm(2, 3), wrong)
        assert "\n" not in str(error.value)


def test_no_pickle_is_read(tmp_path, torch):
    for number, (write, options) in enumerate(
        [(torch.save, {}), (torch.save, {"_use_new_zipfile_serialization": False})]
        + [(lambda value, file: file.write_bytes(pickle.dumps(value, protocol)), {}) for protocol in (0, 2, 5)]
    ):
        write(
            {"weight_ih_l0": torch.ones(4, 3)} if write is torch.save else {"a": 1},
            tmp_path / f"{number}.pt",
            **options,
        )
        with pytest.raises(ValueError, match=r"^file got .*\.pt, a pickle, .*; want safetensors: "):
            from_torch(tmp_path / f"{number}.pt")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "damaged").write_bytes(b"PK\x03\x04" + bytes(50) + b"PK\x05\x06" + b"\xff" * 18)
    os.mkfifo(tmp_path / "pipe")
    for name in ("damaged", "pipe", "a\0b"):
        with pytest.raises(ValueError, match=r"^file got "):
            from_torch(tmp_path / name)
    with pytest.raises(ValueError, match=r"^file got .*text, which is no safetensors file \(.*\); want one$"):
        from_torch(tmp_path / "text")
    with pytest.raises(ValueError, match=r"^file got '.*none', which is no file; want a safetensors file$"):
        from_torch(tmp_path / "none")
