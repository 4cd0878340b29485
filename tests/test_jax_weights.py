"""Weights of flax, haiku and equinox: there and back bit for bit, and live modules of theirs against our models."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import (
    length_mask,
    lstm,
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
    model_of_network,
    nnx_module,
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
    return model_of_network(network)


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
    weights = {
        name: {"i": {"kernel": np.full((3, 3), value), "bias": np.ones(3)}, "h": {"kernel": np.ones((3, 3))}}
        for name, value in {"b": 1.0, "a": 2.0}.items()
    }
    _, params = from_flax({"b": weights["b"], "a": {"cell": weights["a"]}}, layers=("b", "a/cell"))
    assert [p.W_xh[0, 0] for p in params] == [1, 2]
    sizes = {"net/~/encoder/linear": {"w": (6, 16), "b": (16,)}, "net/gru": {"w_i": (4, 9), "w_h": (3, 9), "b": (9,)},
             "net/linear": {"w": (3, 2), "b": (2,)}}  # fmt: skip
    arrays = {module: {name: np.ones(shape) for name, shape in shapes.items()} for module, shapes in sizes.items()}
    _, found = from_haiku(arrays, layers=("net/~/encoder", "net/gru"))
    assert [type(params).__name__ for params in found.cell] == ["LSTMParams", "GRUResetBeforeParams"]
