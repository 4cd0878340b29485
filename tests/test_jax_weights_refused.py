"""Weights and models that flax, haiku and equinox do not share with us: one line each, with the reason."""

import re

import jax
import numpy as np
import pytest

from rnn_jax import bidirectional, gru, gru_reset_before, lstm, peephole_lstm, readout, vanilla
from rnn_jax.interop import from_equinox, from_flax, from_haiku, to_equinox, to_flax, to_haiku
from rnn_jax.layers import as_layer


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


def dense(*shape: int, bias: bool = False) -> dict[str, np.ndarray]:
    return {"kernel": ones(*shape)} | ({"bias": ones(shape[-1])} if bias else {})


SIMPLE = {"i": dense(3, 4, bias=True), "h": dense(4, 4)}
GRU = {f"i{gate}": dense(3, 4, bias=True) for gate in "rzn"} | {f"h{g}": dense(4, 4, bias=g == "n") for g in "rzn"}
CELL = {"cell.weight_ih": ones(12, 4), "cell.weight_hh": ones(12, 4)}
LSTM = {"w": ones(7, 16), "b": ones(16)}
WRONG_FLAX = [
    ({}, "variables got no recurrent cell; want the weights of at least one"),
    (3, "variables got int; want variables of linen, a state of nnx, a module of nnx, or the path of a "
     "safetensors file"),
    ({"cell": {name: module for name, module in GRU.items() if name != "hn"}},
     "cell got no hn; want it beside hr, hz, in, ir, iz"),
    ({"cell": GRU | {"hn": dense(4, 4)}}, "cell/hn got no bias; want it beside kernel"),
    ({"cell": GRU | {"hx": dense(4, 4)}}, "cell got hx; want hn, hr, hz, in, ir, iz alone"),
    ({"cell": SIMPLE | {"h": dense(4, 5)}}, "cell/h/kernel got [4, 5]; want [4, 4]"),
    ({"cell": SIMPLE | {"h": {"kernel": np.ones((4, 4), int)}}},
     "cell/h/kernel got int64[4, 4]; want an array of floating numbers"),
    ({"cell": SIMPLE | {"h": {"kernel": np.ones((4, 4), np.float32)}}},
     "variables got float32 and float64; want one floating type"),
    ({"cell": {name: dense(4, 4) for name in ("if", "in", "hf", "hn")}},
     "cell got an MGUCell, whose gate keeps the state and resets after the product; want a SimpleCell, a GRUCell or an "
     "LSTM cell"),
    ({"cell": {"dense_i": dense(3, 8), "dense_h": dense(4, 8)}},
     "cell/dense_h/kernel got [4, 8]; want 1, 3 or 4 times as many columns as rows, of a SimpleCell, a GRUCell or an "
     "OptimizedLSTMCell"),
    ({"encoder": SIMPLE, "decoder": SIMPLE},
     "variables got the recurrent modules encoder, decoder; want numbers in their names, or their order from the "
     "bottom up as layers"),
    ({"rnn_0": SIMPLE, "rnn_1": SIMPLE}, "rnn_1 got 3 inputs; want 4, outputs of the layer below"),
    ({"params": {"cell": SIMPLE}, "batch_stats": {"mean": ones(4)}},
     "variables got the collections batch_stats beside params; want params alone"),
    ({"cell": SIMPLE, "norm": {"scale": ones(4)}}, "norm got scale; want kernel and bias, or embedding"),
    ({"Dense_0": dense(4, 3, bias=True), "SimpleCell_0": SIMPLE},
     "variables got a linear layer, Dense_0, before the cells; want it behind all cells"),
    ({"layers_0": dense(3, 4), "layers_1": {"cell": SIMPLE}},
     "variables got a linear layer, layers_0, before layers_1/cell; want it behind all others"),
]  # fmt: skip
WRONG_HAIKU = [
    ({"encoder/linear": LSTM},
     "params got encoder/linear; want a cell with the name lstm, gru or vanilla_rnn, or layers"),
    ({"lstm/linear": {"w": ones(7, 16)}}, "lstm got no linear/b; want it beside linear/w"),
    ({"lstm/linear": LSTM | {"w": ones(4, 16)}},
     "lstm/linear/w got [4, 16]; want more than 4 rows, of inputs and of the state"),
    ({"lstm/linear": LSTM, "gru": {"w_i": ones(3, 12), "w_h": ones(4, 12), "b": ones(12)}},
     "params got the recurrent modules lstm, gru; want numbers in their names, or their order from the bottom up as "
     "layers"),
    ({"linear": {"w": ones(4, 3), "b": ones(3)}, "lstm/linear": LSTM},
     "params got a linear layer, linear, before the cells; want it behind all cells"),
    ({"lstm/linear": LSTM, "norm": {"scale": ones(4)}}, "norm got scale; want cells, an Embed and a Linear alone"),
]  # fmt: skip
WRONG_EQUINOX = [
    ({"weight_ih": ones(16, 3)}, "module got no weight_hh; want it beside weight_ih"),
    ({"weight_ih": ones(12, 3), "weight_hh": ones(11, 4)},
     "weight_hh got [11, 4]; want 3 or 4 times as many rows as columns, of a GRUCell or an LSTMCell"),
    (dict(sorted(CELL.items())) | {"x.weight": ones(4, 4)},
     "x.weight got [4, 4], which fits as embedding or readout or linear layer in front; want one of the names "
     "embedding and readout"),
    ({"fc.weight": ones(4, 4), "fc.bias": ones(4)} | CELL,
     "module got a linear layer, fc, before a cell; want it behind all cells"),
    ({"0.fc.weight": ones(4, 4), "0.fc.bias": ones(4), "1.weight_hh": ones(12, 4), "1.weight_ih": ones(12, 4)},
     "module got a linear layer, 0.fc, before a cell; want it behind all cells"),
    ({"0.weight": ones(4, 5), "0.bias": ones(4), "1.weight_ih": ones(20, 4), "1.weight_hh": ones(20, 5)},
     "module got a linear layer, 0, before a cell; want it behind all cells"),
    ({"1.weight": ones(4, 4), "0.weight_ih": ones(12, 4), "0.weight_hh": ones(12, 4), "2.weight_ih": ones(12, 4),
      "2.weight_hh": ones(12, 4)},
     "module got a linear layer, 1, before a cell; want it behind all cells"),
    (CELL | {"mlp.0.weight": ones(5, 4), "mlp.0.bias": ones(5), "mlp.1.weight": ones(3, 5)},
     "mlp.1.weight got [3, 5]; want an Embedding [V, 4] or a Linear [O, 4]"),
    (CELL | {"a.weight": ones(5, 4), "a.bias": ones(5), "b.weight": ones(3, 4), "b.bias": ones(3)},
     "module got a, b, each as a readout; want one alone"),
    (CELL | {"cell.weight_hh": np.ones((12, 4), int)},
     "cell.weight_hh got int64[12, 4]; want an array of floating numbers"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("back", "wrong"), [(from_flax, WRONG_FLAX), (from_haiku, WRONG_HAIKU), (from_equinox, WRONG_EQUINOX)]
)
def test_wrong_weights_are_refused_in_one_line(back, wrong):
    for weights, message in wrong:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            back(weights)


def test_a_linear_layer_behind_is_read_whether_weights_are_sorted_or_not():
    flax = {"SimpleCell_0": SIMPLE, "Dense_0": dense(4, 3, bias=True)}
    haiku = {"lstm/linear": LSTM, "linear": {"w": ones(4, 3), "b": ones(3)}}
    for back, weights, wanted in [(from_flax, flax, vanilla(3, 4)), (from_haiku, haiku, lstm(3, 4))]:
        for each in (weights, jax.tree.map(np.array, weights)):
            assert back(each)[0] == readout(wanted, 3)


def test_models_that_a_library_does_not_have_are_refused_with_the_reason():
    both, back = bidirectional(lstm(3, 4), lstm(3, 4)), as_layer(vanilla(3, 4), reverse=True)
    nnx = lambda *pair: to_flax(*pair, api="nnx")  # noqa: E731
    for there, model, message in [
        (to_flax, gru_reset_before(3, 4), "model got gru_reset_before; want gru: the GRUCell of flax resets after"),
        (to_flax, back, "model got a layer that only reads backward; want bidirectional"),
        (to_flax, lstm(3, 4, memory_activation="relu"), "memory_activation got 'relu'; want 'tanh': flax has one"),
        (nnx, gru(3, 4), "b_n got numbers beside 0; want zeros"),
        (to_haiku, gru(3, 4), "model got gru; want gru_reset_before: the GRU of haiku resets before"),
        (to_haiku, vanilla(3, 4), "activation got 'tanh'; want 'relu': VanillaRNN of haiku has no other"),
        (to_haiku, both, "model got a bidirectional layer; want one direction: haiku has no other"),
        (to_equinox, vanilla(3, 4), "model got vanilla; want gru or lstm: equinox has no vanilla cell"),
        (to_equinox, gru(3, 4, activation="relu"), "activation got 'relu'; want its default"),
        (to_equinox, peephole_lstm(3, 4), "model got peephole_lstm; want lstm: that of equinox has no peepholes"),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            there(model, jax.tree.map(lambda a: np.ones(a.shape), jax.eval_shape(model.init, jax.random.key(0))))
    with pytest.raises(ValueError, match=r"^api got 'jax'; want 'linen' or 'nnx'$"):
        to_flax(gru(3, 4), (), api="jax")
