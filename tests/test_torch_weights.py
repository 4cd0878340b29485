"""Weights of PyTorch, in and out: bit for bit, and against live modules on packed sequences."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bidirectional, embedding, gru, lstm, mgu, projected_lstm, readout, vanilla
from rnn_jax.cells import clipped_lstm, general_lstm, gru_reset_before, peephole_lstm
from rnn_jax.interop import from_torch, read_weights, network_of_model, to_torch, torch_module, write_weights
from rnn_jax.interop.weight_files import array_of
from tests.networks import LENGTHS, T, canonical, cast, equal, ours, random_inputs, random_network, random_params

MAKERS = [
    vanilla,
    gru,
    lstm,
    lambda I, H: projected_lstm(I, H, projection_size=H - 1),
    lambda I, H: vanilla(I, H, activation="relu"),
]
SEEDS = range(20)
LIVE = [*((seed, "float64") for seed in range(6)), (9, "float32")]
"""Seeds of networks that run in both libraries: every cell, both directions, several layers, with and without ids."""


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed: pip install -e .[peers]")


def network(seed: int) -> tuple[Any, Any, str]:
    """A random network, whose layers are alike in half of the cases, and the activation of its vanilla cells."""
    relu = seed % len(MAKERS) == len(MAKERS) - 1
    makers = MAKERS[:-1] if not relu else [MAKERS[-1], *MAKERS[1:-1]]
    makers = [MAKERS[seed % len(MAKERS)]] if seed % 2 == 0 else makers
    return *random_network(seed, makers, alike=seed % 2 == 0, merges=("concatenate",)), "relu" if relu else "tanh"


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_go_to_torch_and_back_bit_for_bit(seed):
    model, params, activation = network(seed)
    assert equal(from_torch(to_torch(model, params), activation=activation), canonical(model, params))


def theirs(torch: Any, module: Any, xs: np.ndarray, weigh: np.ndarray) -> list[np.ndarray]:
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
    outputs = np.where(weigh != 0, ys.detach().numpy(), 0)
    if not given.requires_grad:
        return [outputs]
    (torch.tensor(weigh) * ys).sum().backward()
    return [outputs, given.grad.numpy()]


@pytest.mark.parametrize(("seed", "dtype"), LIVE)
def test_outputs_and_gradients_of_inputs_are_those_of_live_modules_on_packed_sequences(torch, seed, dtype):
    model, params = cast(*network(seed)[:2], dtype)
    xs, weigh = random_inputs(model, params, dtype)
    mine, yours = ours(model, params, xs, weigh), theirs(torch, torch_module(model, params), xs, weigh)
    tolerance = {"float64": 1e-12, "float32": 1e-6}[dtype]
    for a, b in zip(mine, yours, strict=True):
        np.testing.assert_allclose(a, b, rtol=10 * tolerance, atol=tolerance)


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


def test_modules_with_numbers_are_a_stack_and_cells_without_a_layer_are_read(torch):
    modules = [torch.nn.LSTMCell(2, 4), torch.nn.GRUCell(4, 3), torch.nn.RNNCell(3, 2)]
    numbered = torch.nn.ModuleList([modules[0], torch.nn.Dropout(), *modules[1:]])
    model, params = from_torch(numbered.state_dict())
    assert [part.name for (part,) in network_of_model(model, params).layers] == ["lstm", "gru", "vanilla"]
    assert list(to_torch(model, params))[:4] == [
        f"rnn.0.{kind}_l0" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]


def test_coupled_gates_become_an_lstm_with_the_same_outputs_and_general_lstms_the_cells_that_they_are(torch):
    model = general_lstm(2, 4, coupled=True)
    params = random_params(model, np.random.default_rng(0))
    module = torch_module(model, params)
    xs, weigh = random_inputs(model, params, np.float64)
    np.testing.assert_allclose(ours(model, params, xs, weigh)[1], theirs(torch, module, xs, weigh)[1], atol=1e-12)
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


def ones(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Arrays by name; two underscores stand for a dot."""
    return {name.replace("__", "."): np.ones(shape) for name, shape in shapes.items()}


GRU = ones(weight_ih_l0=(12, 4), weight_hh_l0=(12, 4))
WRONG = {
    "state_dict got nothing; want weight_ih_l0, weight_hh_l0": {},
    "state_dict got no a.weight_hh_l0; want it beside a.weight_ih_l0": ones(a__weight_ih_l0=(4, 3)),
    "state_dict got no bias_hh_l0; want": GRU | ones(bias_ih_l0=(12,)),
    "state_dict got no weight_hh_l0, weight_ih_l0; want every layer": ones(weight_ih_l1=(12, 4), weight_hh_l1=(12, 4)),
    "state_dict got norm.running_mean; want a recurrent module": GRU | ones(norm__running_mean=(4,)),
    "state_dict got the recurrent modules a., b.; want one, or numbered": ones(
        a__weight_ih=(3, 3), b__weight_ih=(3, 3)
    ),
    "state_dict got x.weight; want one embedding and one readout, named": GRU | ones(x__weight=(4, 4)),
    r"x.weight got \[2, 3\]; want an embedding \[V, 4\] or a readout \[O, 4\]": GRU | ones(x__weight=(2, 3)),
    r"weight_ih_l0 got \[12, 3\]; want \[16, 3\]": ones(weight_ih_l0=(12, 3), weight_hh_l0=(16, 4)),
    r"weight_hh_l0 got \[10, 4\]; want 1, 3 or 4 times 4 rows": ones(weight_ih_l0=(10, 3), weight_hh_l0=(10, 4)),
    r"weight_hh_l0 got \[16\]; want two axes": ones(weight_ih_l0=(16, 3), weight_hh_l0=(16,)),
    r"weight_ih_l1 got \[9, 5\]; want 4 columns": GRU | ones(weight_ih_l1=(9, 5), weight_hh_l1=(9, 3)),
    "state_dict got float32 and float64; want one floating type": GRU | {"weight_ih_l0": np.ones((12, 4), np.float32)},
    r"weight_ih_l0 got int64\[12, 4\]; want an array of floating": GRU | {"weight_ih_l0": np.ones((12, 4), int)},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_state_dict_that_does_not_fit_is_refused_with_one_line_that_names_it(message):
    with pytest.raises(ValueError, match=message) as error:
        from_torch(WRONG[message])
    assert "\n" not in str(error.value)


def test_an_unknown_order_of_gates_and_an_unknown_activation_are_refused():
    with pytest.raises(ValueError, match=r"^gates got 'rzx'; want the characters r z n in another order$"):
        from_torch(GRU, gates="rzx")
    with pytest.raises(ValueError, match=r"^activation got 'elu'; want 'tanh' or 'relu', as nn\.RNN has$"):
        from_torch(ones(weight_ih_l0=(4, 4), weight_hh_l0=(4, 4)), activation="elu")
    swapped = {name: np.concatenate([W[4:8], W[:4], W[8:]]) for name, W in GRU.items()}
    assert equal(from_torch(swapped, gates="zrn"), from_torch(GRU))


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


def test_params_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"^params got GRUParams\(.*; want those of lstm"):
        to_torch(lstm(2, 3), random_params(gru(2, 3), np.random.default_rng(0)))


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
    with pytest.raises(ValueError, match=r"^file got .*text, which is no safetensors file \(.*\); want one$"):
        from_torch(tmp_path / "text")
    with pytest.raises(ValueError, match=r"^file got .*none, which cannot be read \(No such file"):
        from_torch(tmp_path / "none")
