"""Weights of flax, haiku and equinox: there and back bit for bit, and live modules of theirs against our models."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import (
    bidirectional,
    gru,
    gru_reset_before,
    initializers,
    length_mask,
    lstm,
    peephole_lstm,
    vanilla,
)
from rnn_jax.cells import GRUParams, GRUResetBeforeParams, LSTMParams, VanillaParams
from rnn_jax.interop import (
    Network,
    Part,
    equinox_module,
    from_equinox,
    from_flax,
    from_haiku,
    haiku_function,
    linen_module,
    nnx_module,
    put_together,
    to_equinox,
    to_flax,
    to_haiku,
)
from rnn_jax.interop.torch_weights import from_torch
from rnn_jax.layers import as_layer
from tests.oracles import checked

T, B, V, O = 5, 3, 6, 2
LENGTHS = jnp.array([T, 2, 1])
DRAWS = 7
"""Random weights of each structure: with three structures more than 20 configurations of a library."""
WHAT = "outputs and gradients of inputs by converted weights, float64"

GATES = {"vanilla": (VanillaParams, 1), "gru": (GRUParams, 3), "gru_reset_before": (GRUResetBeforeParams, 3),
         "lstm": (LSTMParams, 4)}  # fmt: skip


class Structure(NamedTuple):
    """A network without its weights."""

    layers: tuple[tuple[str, ...], ...]
    """Cells of each layer, one or two directions."""
    options: Mapping[str, str] = MappingProxyType({})
    """Of all cells."""
    merge: str = "concatenate"
    ids: bool = False
    readout: bool = True


class Library(NamedTuple):
    """A library, there and back, and its live module as a function of weights and inputs."""

    there: Callable[..., Any]
    back: Callable[..., Any]
    live: Callable[..., Callable[[Any, Any], Any]]
    structures: tuple[Structure, ...]
    tolerance: float
    ragged: bool = False


def linen_function(model: Any, params: Any) -> Callable[[Any, Any], Any]:
    module, _ = linen_module(model, params)

    def run(variables: Any, xs: Any) -> Any:
        bound = module.bind(variables)
        return through_layers(getattr(bound, "layers", [bound]), xs)

    return run


def nnx_function(model: Any, params: Any, **options: Any) -> Callable[[Any, Any], Any]:
    nnx = pytest.importorskip("flax.nnx")
    graph, state = nnx.split(nnx_module(model, params, **options))

    def run(weights: Any, xs: Any) -> Any:
        module = nnx.merge(graph, jax.tree.map(lambda a: a, state))  # variables of this trace
        nnx.update(module, weights)
        return through_layers(getattr(module, "layers", [module]), xs)

    return run


def through_layers(layers: Any, xs: Any) -> Any:
    """The outputs of layers of flax, of which recurrent ones take lengths."""
    for layer in layers:
        xs = layer(xs, seq_lengths=LENGTHS) if hasattr(layer, "time_major") else layer(xs)
    return xs


def haiku_live(model: Any, params: Any) -> Callable[[Any, Any], Any]:
    pytest.importorskip("haiku", reason="haiku is not installed: pip install dm-haiku")
    return haiku_function(model, params)[0]


def equinox_live(model: Any, params: Any) -> Callable[[Any, Any], Any]:
    pytest.importorskip("equinox", reason="equinox is not installed: pip install equinox")
    leaves, tree = jax.tree.flatten_with_path(equinox_module(model, params))
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]

    def run(weights: Any, xs: Any) -> Any:
        module = jax.tree.unflatten(tree, [weights[path] for path in paths])
        return jax.vmap(module, in_axes=1, out_axes=1)(xs)

    return run


RELU = {"activation": "relu"}
FLAX = (
    Structure((("gru",), ("vanilla",))),
    Structure((("lstm", "gru"),), RELU | {"gate_activation": "hard_sigmoid"}, readout=False),
    Structure((("lstm", "vanilla"),), merge="sum", ids=True),
)
LIBRARIES = {
    "linen": Library(
        to_flax, from_flax, linen_function, FLAX, checked("gru", "flax.linen by to_flax", WHAT, 1e-12), ragged=True
    ),
    "nnx": Library(
        lambda *pair: to_flax(*pair, api="nnx"), from_flax, nnx_function, FLAX,
        checked("lstm", "flax.nnx OptimizedLSTMCell by to_flax", WHAT, 1e-12), ragged=True,
    ),
    "nnx, LSTMCell": Library(
        lambda *pair: to_flax(*pair, api="nnx", optimized=False), from_flax,
        lambda *pair: nnx_function(*pair, optimized=False), (Structure((("lstm",),), readout=False),),
        checked("lstm", "flax.nnx LSTMCell by to_flax", WHAT, 1e-12), ragged=True,
    ),
    "haiku": Library(
        to_haiku, from_haiku, haiku_live,
        (
            Structure((("lstm",), ("vanilla",))),
            Structure((("gru_reset_before",), ("gru_reset_before",)), readout=False),
            Structure((("lstm",),), ids=True),
        ),
        checked("gru_reset_before", "haiku by to_haiku", WHAT, 1e-12),
    ),
    "equinox": Library(
        to_equinox, from_equinox, equinox_live,
        (
            Structure((("lstm",), ("gru",))),
            Structure((("gru",),), readout=False),
            Structure((("lstm",),), ids=True),
        ),
        checked("gru", "equinox by to_equinox", WHAT, 1e-12),
    ),
}  # fmt: skip
CASES = [(name, number) for name, library in LIBRARIES.items() for number in range(len(library.structures))]


def network_of(structure: Structure, dtype: str, *, second_bias: bool = True) -> Network:
    """A network with random weights; all sizes differ."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return (0.6 * rng.standard_normal(shape)).astype(dtype)

    I = size = 3
    layers = []
    for number, cells in enumerate(structure.layers):
        H, parts = 4 + number, []
        for way, name in enumerate(cells):
            make, G = GATES[name]
            arrays = [draw(size, G * H), draw(H, G * H), draw(G * H)]
            arrays += [draw(H) * second_bias] if name == "gru" else []
            known = {"activation"} if name == "vanilla" else {"activation", "gate_activation"}
            options = {option: value for option, value in structure.options.items() if option in known}
            parts.append(Part(name, options, make(*arrays), reverse=way > 0))
        layers.append(tuple(parts))
        size = H * (len(parts) if structure.merge == "concatenate" else 1)
    around = draw(V, I) if structure.ids else None, (draw(size, O), draw(O)) if structure.readout else None
    return Network(tuple(layers), structure.merge, *around)


def of_library(name: str, number: int, dtype: str = "float64") -> tuple[Any, Any]:
    """A random model that a library has, and its params."""
    structure = LIBRARIES[name].structures[number]
    if name == "haiku":  # whose vanilla cell is a ReLU
        structure = structure._replace(options=RELU)
    network = network_of(structure, dtype, second_bias=not name.startswith("nnx"))
    if name == "haiku":
        layers = [[p if p.name == "vanilla" else p._replace(options={}) for p in layer] for layer in network.layers]
        network = network._replace(layers=tuple(map(tuple, layers)))
    return put_together(network)


def drawn_again(params: Any, rng: np.random.Generator) -> Any:
    """Other random params; what is 0 stays 0."""

    def draw(a: Any) -> Any:
        return jnp.where(a == 0, a, jnp.array(0.6 * rng.standard_normal(a.shape), a.dtype))

    return jax.tree.map(draw, params)


@pytest.mark.parametrize(("name", "number"), CASES)
def test_random_weights_come_back_bit_for_bit(name, number):
    library, (model, params) = LIBRARIES[name], of_library(name, number)
    told = library.structures[number]
    options = {**told.options} | {"merge": told.merge} if library.ragged else {}
    for seed in range(DRAWS):
        params = drawn_again(params, np.random.default_rng(seed))
        again, found = library.back(library.there(model, params), **options)
        assert again == model
        assert jax.tree.structure(found) == jax.tree.structure(params)
        for array, wanted in zip(*map(jax.tree.leaves, (found, params)), strict=True):
            assert array.dtype == wanted.dtype
            np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize(("name", "number"), CASES)
def test_live_modules_have_the_outputs_and_gradients_of_our_models(name, number):
    compare(name, number, "float64", LIBRARIES[name].tolerance)


@pytest.mark.parametrize("name", [name for name, library in LIBRARIES.items() if len(library.structures) > 1])
def test_live_modules_have_the_outputs_and_gradients_of_our_models_in_float32(name):
    compare(name, 1, "float32", 1e-6)


def compare(name: str, number: int, dtype: str, tolerance: float) -> None:
    library, (model, params) = LIBRARIES[name], of_library(name, number, dtype)
    layer, live = as_layer(model), library.live(model, params)
    ids = library.structures[number].ids
    inside = length_mask(LENGTHS, T)[..., None] if library.ragged else jnp.array(True)
    lengths = {"lengths": LENGTHS} if library.ragged else {}

    def ours(params: Any, xs: Any) -> Any:
        return layer.apply(params, layer.start(params, (B,)), xs, **lengths)[1]

    @jax.jit
    def both(params: Any, weights: Any, xs: Any) -> Any:
        def loss(run: Any, weights: Any, xs: Any) -> Any:
            ys = run(weights, xs)
            ys = jnp.where(inside, ys, jnp.zeros_like(ys))
            return jnp.sum(jnp.sin(ys)), ys

        pairs = [(ours, params), (live, weights)]
        if ids:
            return [(loss(run, p, xs)[1],) for run, p in pairs]
        return [jax.grad(lambda xs, run=run, p=p: loss(run, p, xs), has_aux=True)(xs) for run, p in pairs]

    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        xs = jnp.array(rng.integers(0, V, (T, B)) if ids else rng.standard_normal((T, B, 3)).astype(dtype))
        params = drawn_again(params, rng)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            run, theirs = both(params, library.there(model, params), xs)
        for a, b in zip(run, theirs, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_the_forget_bias_of_haiku_is_that_of_ours_less_the_one_it_adds_and_no_digit_is_lost():
    tiny = [0.0, -0.0, 1.0, 0.1, -0.1, 1e-30, -1e-30, 1e-8, 0.49999997, -1.0000001, -2.0000002, 3e7, -1e30, np.inf]
    for dtype in ("float32", "float64"):
        cell = lstm(1, 514, dtype=dtype)
        rng = np.random.default_rng(0)
        b_f = np.array([*tiny, *rng.standard_normal(500) * 10.0 ** rng.uniform(-12, 4, 500)], dtype)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(cell.init, jax.random.key(0)))
        params = zeros._replace(b_h=zeros.b_h.at[514:1028].set(b_f))
        weights, rounded = to_haiku(cell, params), to_haiku(cell, params, exact=False)
        np.testing.assert_array_equal(weights["lstm/linear"]["b"][1028:1542], b_f - np.ones(514, dtype))
        np.testing.assert_array_equal(from_haiku(weights)[1].b_h, params.b_h)
        assert rounded["lstm/linear"].keys() == {"w", "b"}
        finite = np.isfinite(b_f)
        lost = np.abs(from_haiku(rounded)[1].b_h - params.b_h)[514:1028][finite] / np.maximum(1, np.abs(b_f[finite]))
        assert 0 < lost.max() <= np.finfo(dtype).eps


def test_a_bias_of_one_needs_nothing_beside_the_weights_of_haiku():
    cell = lstm(2, 3)
    assert to_haiku(cell, cell.init(jax.random.key(0)))["lstm/linear"].keys() == {"w", "b"}


def test_weights_of_torch_reach_flax_and_come_back_bit_for_bit():
    rng = np.random.default_rng(0)
    state = {f"{kind}_l{k}{way}": rng.standard_normal((12, size))
             for k, inputs in enumerate((3, 8)) for way in ("", "_reverse")
             for kind, size in (("weight_ih", inputs), ("weight_hh", 4))}  # fmt: skip
    state |= {name.replace("weight", "bias"): rng.standard_normal(12) for name in state}
    model, params = from_torch(state)
    again, found = from_flax(to_flax(model, params))
    assert again == model
    for array, wanted in zip(*map(jax.tree.leaves, (found, params)), strict=True):
        np.testing.assert_array_equal(array, wanted)


def test_a_live_module_of_nnx_tells_its_activations_and_how_it_merges():
    nnx = pytest.importorskip("flax.nnx")
    rngs = nnx.Rngs(0)
    ways = [nnx.RNN(nnx.GRUCell(3, 4, activation_fn=jax.nn.relu, rngs=rngs)) for _ in range(2)]
    model, params = from_flax(nnx.Bidirectional(*ways, merge_fn=jnp.add))
    assert repr(model).count("activation='relu'") == 2
    assert "merge='sum'" in repr(model)
    np.testing.assert_array_equal(params.backward.W_hh, ways[1].cell.dense_h.kernel[...])
    for module, got in {
        nnx.SimpleCell(3, 4, residual=True, rngs=rngs): "variables got a residual SimpleCell",
        nnx.RNN(nnx.SimpleCell(3, 4, rngs=rngs), reverse=True): "variables got an RNN with reverse=True",
    }.items():
        with pytest.raises(ValueError, match=got):
            from_flax(module)


def test_cells_of_a_compact_module_of_linen_are_paired_where_it_is_told():
    nn = pytest.importorskip("flax.linen")

    class Network(nn.Module):
        @nn.compact
        def __call__(self, xs):
            for _ in range(2):
                xs = nn.Bidirectional(nn.RNN(nn.LSTMCell(3)), nn.RNN(nn.LSTMCell(3)))(xs)
            return nn.Dense(2, use_bias=False)(xs)

    with jax.numpy_rank_promotion("allow"):
        weights = jax.eval_shape(Network().init, jax.random.key(0), jnp.ones((1, 2, 5), jnp.float32))
    weights = jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), weights)
    model, _ = from_flax(weights, pairs=True)
    assert repr(model).count("bidirectional(") == 2
    with pytest.raises(ValueError, match=r"^LSTMCell_1 got 5 inputs; want 3, outputs of the layer below$"):
        from_flax(weights)


def test_modules_of_other_names_are_read_in_the_order_that_is_given():
    vanilla_weights = {"i": {"kernel": ones(3, 3), "bias": ones(3)}, "h": {"kernel": ones(3, 3)}}
    second = {"i": {"kernel": 2 * ones(3, 3), "bias": ones(3)}, "h": {"kernel": ones(3, 3)}}
    _, params = from_flax({"b": vanilla_weights, "a": {"cell": second}}, layers=("b", "a/cell"))
    assert [p.W_xh[0, 0] for p in params] == [1, 2]
    gru_weights = {"w_i": ones(4, 9), "w_h": ones(3, 9), "b": ones(9)}
    weights = {"net/~/encoder/linear": {"w": ones(6, 16), "b": ones(16)}, "net/gru": gru_weights,
               "net/linear": {"w": ones(3, 2), "b": ones(2)}}  # fmt: skip
    model, _ = from_haiku(weights, layers=("net/~/encoder", "net/gru"))
    assert [type(cell).__name__ for cell in model.init(jax.random.key(0)).cell] == [
        "LSTMParams",
        "GRUResetBeforeParams",
    ]


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


def dense(*shape: int, bias: bool = False) -> dict[str, np.ndarray]:
    return {"kernel": ones(*shape)} | ({"bias": ones(shape[-1])} if bias else {})


SIMPLE = {"i": dense(3, 4, bias=True), "h": dense(4, 4)}
GRU = {f"i{gate}": dense(3, 4, bias=True) for gate in "rzn"} | {f"h{g}": dense(4, 4, bias=g == "n") for g in "rzn"}
LSTM = {"w": ones(7, 16), "b": ones(16)}
WRONG_FLAX = [
    ({}, "variables got no recurrent cell; want the weights of at least one"),
    (3, "variables got int; want variables of linen, a state of nnx, or a module of nnx"),
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
    ({"lstm/linear": LSTM, "norm": {"scale": ones(4)}}, "norm got scale; want cells, an Embed and a Linear alone"),
]  # fmt: skip
WRONG_EQUINOX = [
    ({"weight_ih": ones(16, 3)}, "module got no weight_hh; want it beside weight_ih"),
    ({"weight_ih": ones(12, 3), "weight_hh": ones(11, 4)},
     "weight_hh got [11, 4]; want 3 or 4 times as many rows as columns, of a GRUCell or an LSTMCell"),
    ({"0.weight_ih": ones(12, 4), "0.weight_hh": ones(12, 4), "1.weight": ones(4, 4)},
     "module got 1; want one embedding and one readout, with these names where shapes do not tell"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("back", "wrong"), [(from_flax, WRONG_FLAX), (from_haiku, WRONG_HAIKU), (from_equinox, WRONG_EQUINOX)]
)
def test_wrong_weights_are_refused_in_one_line(back, wrong):
    for weights, message in wrong:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            back(weights)


def test_models_that_a_library_does_not_have_are_refused_with_the_reason():
    both, back = bidirectional(lstm(3, 4), lstm(3, 4)), as_layer(vanilla(3, 4), reverse=True)
    nnx = lambda *pair: to_flax(*pair, api="nnx")  # noqa: E731
    for there, model, message in [
        (to_flax, gru_reset_before(3, 4), "model got gru_reset_before; want gru: the GRUCell of flax resets after"),
        (to_flax, back, "model got a layer that only reads backward; want bidirectional"),
        (to_flax, lstm(3, 4, memory_activation="relu"), "memory_activation got 'relu'; want 'tanh': flax has one"),
        (nnx, gru(3, 4, bias_init=initializers.scaled_normal()), "b_n got numbers beside 0; want zeros"),
        (to_haiku, gru(3, 4), "model got gru; want gru_reset_before: the GRU of haiku resets before"),
        (to_haiku, vanilla(3, 4), "activation got 'tanh'; want 'relu': VanillaRNN of haiku has no other"),
        (to_haiku, both, "model got a bidirectional layer; want one direction: haiku has no other"),
        (to_equinox, vanilla(3, 4), "model got vanilla; want gru or lstm: equinox has no vanilla cell"),
        (to_equinox, gru(3, 4, activation="relu"), "activation got 'relu'; want its default"),
        (to_equinox, peephole_lstm(3, 4), "model got peephole_lstm; want lstm: that of equinox has no peepholes"),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            there(model, model.init(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"^api got 'jax'; want 'linen' or 'nnx'$"):
        to_flax(gru(3, 4), (), api="jax")
