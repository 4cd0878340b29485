"""Weights of flax, haiku and equinox as users have them: live modules, files, other names, one activation a cell."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from rnn_jax import bidirectional, gru, lstm, readout, stack, vanilla
from rnn_jax.interop import (
    equinox_module,
    from_equinox,
    from_flax,
    from_haiku,
    nnx_module,
    read_weights,
    to_equinox,
    to_flax,
    to_haiku,
    write_weights,
)
from rnn_jax.interop.torch_weights import from_torch
from rnn_jax.lab.checkpoints import leaves_by_name
from rnn_jax.layers import as_layer
from tests.networks import equal


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


def random_params(model: Any, dtype: str = "float64") -> Any:
    """Params of a model, every number another."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape), dtype), shapes)


NETWORK = readout(stack(lstm(2, 3), lstm(3, 2)), 3)


@pytest.mark.parametrize(
    ("there", "back"),
    [(to_flax, from_flax), (functools.partial(to_flax, api="nnx"), from_flax), (to_equinox, from_equinox),
     (functools.partial(to_haiku, exact=True), from_haiku)],
)  # fmt: skip
def test_weights_come_back_from_files_and_with_sorted_keys(there, back, tmp_path):
    params = random_params(NETWORK)
    weights, file = there(NETWORK, params), tmp_path / "weights.safetensors"
    assert equal(back(jax.tree.map(lambda a: a, weights)), (NETWORK, params))
    for separator in "/.":
        write_weights(file, {name.replace("/", separator): a for name, a in leaves_by_name(weights).items()})
        for source in (file, str(file), dict(sorted(read_weights(file)[0].items(), reverse=True))):
            assert equal(back(source), (NETWORK, params))
    with pytest.raises(ValueError, match=r"^file got .*missing"):
        back(tmp_path / "missing.safetensors")


def test_weights_of_float64_need_x64():
    arrays = {"lstm/linear": {"w": np.ones((5, 8)), "b": np.ones(8)}}
    flax = {"cell": {"i": {"kernel": np.ones((3, 2)), "bias": np.ones(2)}, "h": {"kernel": np.ones((2, 2))}}}
    equinox = {"weight_ih": np.ones((6, 3)), "weight_hh": np.ones((6, 2))}
    with jax.enable_x64(False):
        for back, weights, name in [
            (from_haiku, arrays, "lstm/linear/w"),
            (from_flax, flax, "cell/i/kernel"),
            (from_equinox, equinox, "weight_hh"),
        ]:
            with pytest.raises(ValueError, match=f"^{name} got float64; want jax_enable_x64, or float32 arrays$"):
                back(weights)
            _, params = back(jax.tree.map(np.float32, weights))
            assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_the_tree_of_haiku_is_that_of_its_init_and_weights_of_its_own_are_read():
    hk = pytest.importorskip("haiku", reason="haiku is not installed: pip install dm-haiku")
    model = readout(stack(lstm(2, 3), lstm(3, 2)), 3)

    def network(xs):
        core = hk.DeepRNN([hk.LSTM(3), hk.LSTM(2), hk.Linear(3)])
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    xs = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 2)))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        own = hk.transform(network)
        weights = own.init(jax.random.key(0), xs)
        ys = own.apply(weights, None, xs)
    again, params = from_haiku(weights)
    layer = as_layer(again)
    np.testing.assert_allclose(layer.apply(params, layer.start(params, (2,)), xs)[1], ys, rtol=1e-12, atol=1e-12)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (to_haiku(model, random_params(model)), weights)]
    assert shapes[0] == shapes[1]


def test_weights_that_flax_initialises_are_read_and_ours_have_the_tree_of_its_own():
    nn, nnx = pytest.importorskip("flax.linen"), pytest.importorskip("flax.nnx")
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 2)), "float32")
    model = readout(stack(gru(2, 3), bidirectional(lstm(3, 2), lstm(3, 2))), 3)
    cells = [nn.RNN(nn.LSTMCell(2), time_major=True) for _ in range(2)]
    module = nn.Sequential(
        [nn.RNN(nn.GRUCell(3), time_major=True), nn.Bidirectional(*cells, time_major=True), nn.Dense(3)]
    )
    rngs = nnx.Rngs(0)
    cells = [nnx.RNN(nnx.OptimizedLSTMCell(3, 2, rngs=rngs), time_major=True) for _ in range(2)]
    live = nnx.Sequential(
        nnx.RNN(nnx.GRUCell(2, 3, rngs=rngs), time_major=True), nnx.Bidirectional(*cells, time_major=True),
        nnx.Linear(4, 3, rngs=rngs),
    )  # fmt: skip
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        ys, variables = jax.jit(module.init_with_output)(jax.random.key(0), xs)
        their_ys = live(xs)
    layer = as_layer(from_flax(live)[0])
    run = jax.jit(lambda params: layer.apply(params, layer.start(params, (2,)), xs)[1])
    for weights, wanted in [(variables, ys), (live, their_ys), (nnx.state(live), their_ys)]:
        again, params = from_flax(weights)
        assert as_layer(again) == layer
        np.testing.assert_allclose(run(params), wanted, rtol=1e-6, atol=1e-6)
    params = jax.tree.map(jnp.zeros_like, random_params(model))
    state = nnx.to_pure_dict(nnx.state(live, nnx.Param))
    for tree, own in [(to_flax(model, params), variables), (to_flax(model, params, api="nnx"), state)]:
        assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, own)


def test_the_example_of_equinox_is_read():
    eqx = pytest.importorskip("equinox", reason="equinox is not installed: pip install equinox")

    class RNN(eqx.Module):
        hidden_size: int
        cell: Any
        linear: Any
        bias: Any
        squash: Any

        def __init__(self, *, key):
            self.hidden_size, self.squash = 4, jax.nn.sigmoid
            self.cell = eqx.nn.GRUCell(2, 4, key=key)
            self.linear = eqx.nn.Linear(4, 2, use_bias=False, key=key)
            self.bias = jnp.array([1.0, 2.0])

        def __call__(self, xs):
            h, _ = jax.lax.scan(lambda h, x: (self.cell(x, h), None), jnp.zeros(4, xs.dtype), xs)
            return self.linear(h) + self.bias

    module, xs = RNN(key=jax.random.key(0)), jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)))
    model, params = from_equinox(module)
    assert model == readout(gru(2, 4), 2)
    layer = as_layer(model)
    found = layer.apply(params, layer.start(params), xs)[1][-1]
    np.testing.assert_allclose(found, jax.jit(lambda: module(xs))(), rtol=1e-12, atol=1e-12)


def test_a_linear_layer_of_equinox_is_read_by_its_place_and_never_as_an_embedding():
    eqx = pytest.importorskip("equinox", reason="equinox is not installed: pip install equinox")
    key = jax.random.key(0)

    def made(**layers):
        kind = type("Net", (eqx.Module,), {"__annotations__": dict.fromkeys(layers, Any)})
        return kind(**layers)

    cell = eqx.nn.GRUCell(4, 4, key=key)
    square = eqx.nn.Linear(4, 4, use_bias=False, key=key)
    behind, _ = from_equinox(made(cell=cell, head=square))
    assert behind == readout(gru(4, 4), 4)
    with pytest.raises(ValueError, match=r"^module got a linear layer, lift, before a cell; want it behind all cells$"):
        from_equinox(made(lift=square, cell=cell))
    vectors, _ = from_equinox(made(cell=cell, vectors=eqx.nn.Embedding(4, 4, key=key)))
    assert repr(vectors).startswith("embedding(gru(input_size=4, hidden_size=4), ")
    with pytest.raises(
        ValueError, match=r"^norm got the arrays of a LayerNorm; want cells, an Embedding and a Linear alone$"
    ):
        from_equinox(made(cell=cell, norm=eqx.nn.LayerNorm(4)))
    named, _ = from_equinox(
        {"readout.weight": np.ones((4, 4)), "x.weight_ih": np.ones((12, 4)), "x.weight_hh": np.ones((12, 4))}
    )
    assert named == readout(gru(4, 4), 4)
    cell = {"cell.weight_hh": np.ones((12, 4)), "cell.weight_ih": np.ones((12, 4))}  # sorted, as in a file
    for name in ("fc", "head", "net.linear"):
        assert from_equinox(cell | {f"{name}.weight": np.ones((4, 4)), f"{name}.bias": np.ones(4)})[0] == named


def test_each_cell_of_flax_may_have_its_own_activations():
    model = stack(bidirectional(vanilla(2, 3), vanilla(2, 3, activation="relu")), gru(6, 2, activation="softsign"))
    params = random_params(model)
    weights = to_flax(model, params)
    options = {"activation": ("tanh", jax.nn.relu, "softsign"), "gate_activation": [None, None, "sigmoid"]}
    assert equal(from_flax(weights, **options), (model, params))
    for wrong, message in [
        ({"activation": ("tanh", "relu")}, "activation got 2 activations; want 1, or 3, one for each cell"),
        ({"activation": ("tanh", "swoosh", "relu")}, "activation got 'swoosh'; want one of tanh"),
        ({"gate_activation": ""}, "gate_activation got ''; want one of tanh"),
        ({"merge": ""}, "merge got ''; want 'concatenate' or 'sum'"),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            from_flax(weights, **wrong)
    plain = to_flax(vanilla(2, 3), random_params(vanilla(2, 3)))
    with pytest.raises(ValueError, match=r"^gate_activation got 'nonsense'; want one of tanh"):
        from_flax(plain, gate_activation="nonsense")
    with pytest.raises(ValueError, match=r"^gate_activation got 'sigmoid'; want None: no cell has gates$"):
        from_flax(plain, gate_activation="sigmoid")
    with pytest.raises(ValueError, match=r"^merge got 'sum'; want None: no layer has two directions$"):
        from_flax(plain, merge="sum")


def test_what_a_live_module_of_nnx_does_and_our_model_does_not_is_refused():
    nnx = pytest.importorskip("flax.nnx")
    rngs = nnx.Rngs(0)
    with pytest.warns(UserWarning, match="carry_init"):
        started = nnx.RNN(nnx.SimpleCell(3, 2, carry_init=nnx.initializers.ones_init(), rngs=rngs))

    def both(size, **merge):
        return nnx.Bidirectional(*(nnx.RNN(nnx.SimpleCell(size, 2, rngs=rngs)) for _ in range(2)), **merge)

    for module, message in [
        (nnx.Sequential(both(3, merge_fn=jnp.add), both(2)),
         "variables got Bidirectional layers that concatenate and sum; want one merge_fn in all"),
        (both(3, merge_fn=jnp.maximum),
         "variables got the merge_fn maximum; want jnp.add, or that of flax, which concatenates"),
        (nnx.Sequential(both(3), nnx.relu, nnx.Linear(4, 2, rngs=rngs)),
         "variables got relu in a Sequential; want modules alone"),
        (started, "cell got the carry_init ones; want a start of zeros"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            from_flax(module)
    module = nnx_module(lstm(2, 3), random_params(lstm(2, 3)))

    def holding(**parts):
        whole = nnx.Module()
        for name, part in parts.items():
            setattr(whole, name, part)
        return whole

    linear, cell = nnx.Linear(4, 3, rngs=rngs), nnx.RNN(nnx.SimpleCell(3, 4, rngs=rngs))
    outer = holding(net=holding(head=linear, rnn=cell))
    with pytest.raises(
        ValueError, match=r"^variables got a linear layer, net/head, before the cells; want it behind all "
    ):
        from_flax(outer)
    read = [from_flax(each)[0] for each in (nnx.state(outer), holding(rnn=cell, head=linear))]
    assert read == 2 * [readout(vanilla(3, 4, dtype="float32"), 3)]
    given: dict[str, Any] = {"activation": "relu", "gate_activation": "relu", "merge": "sum"}
    for name, value in given.items():
        with pytest.raises(ValueError, match=f"^{name} got '{value}'; want None: a live module has its own$"):
            from_flax(module, **{name: value})


def wrong_arguments() -> list[Any]:
    """What a user may give in the place of weights."""
    ones, model = np.ones((2, 2)), lstm(2, 3)
    return [
        None, 3, "", "weights.pt", b"weights", [], (), [ones], {1.5: ones}, {None: ones}, {"": ones}, {}, {"a": {}},
        {"a": None}, {"a": [ones]}, {"a": {"b": {"c": 3}}}, {"lstm": ones}, {"lstm/linear": {"w": ones}, "gru": ones},
        {"lstm/linear": {"w": np.ones((0, 0)), "b": np.ones(0)}},
        {"gru": {"w_i": ones[0], "w_h": ones, "b": np.ones(())}},
        {"cell": {"dense_i": {"kernel": np.ones((0, 0))}, "dense_h": {"kernel": np.ones((0, 0))}}},
        {"cell": {"i": {"kernel": np.ones((0, 0)), "bias": np.ones(0)}, "h": {"kernel": np.ones((0, 0))}}},
        {"weight_hh": np.ones((0, 0)), "weight_ih": np.ones((0, 0))}, {"weight_ih": "ones", "weight_hh": ones},
        {"weight_hh": np.ones((8, 2)), "weight_ih": ones[0]}, {"weight": np.ones(())}, ones, jnp.ones(3), lambda: 0,
        {"cell.weight_ih": np.ones((6, 2)), "cell.weight_hh": np.ones((6, 2)), "bias": ones},
        model, model.init(jax.random.key(0)),
        {"a": {1: ones, "b": ones}}, {"a/b": ones, "a": {"b": ones}}, {"a": ones, "a/b": ones}, {"params": ones},
        {"params": {"cell": ones}, "x": ones},
    ]  # fmt: skip


def refusal(call: Any, *args: Any, **options: Any) -> str:
    """The message of the ValueError of a call, without the checks of types that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            call(*args, **options)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert type(caught.value) is ValueError
    return str(caught.value)


@pytest.mark.parametrize("back", [from_flax, from_haiku, from_equinox])
def test_every_wrong_argument_is_refused_in_one_line(back):
    one_line = re.compile(r"[^\n]+ (got|is not) [^\n]+; want [^\n]+")
    for weights in wrong_arguments():
        assert one_line.fullmatch(refusal(back, weights)), weights
    good = {from_flax: to_flax, from_haiku: to_haiku, from_equinox: to_equinox}[back](NETWORK, random_params(NETWORK))
    for layers in (3, "lstm", [1, 2], ["lstm", None], {"lstm": 1}, ("no", "such")):
        assert one_line.fullmatch(refusal(back, good, layers=layers)), layers
    if back is from_flax:
        for options in ({"pairs": 1}, {"merge": 3}, {"activation": ()}, {"gate_activation": {"a": "relu"}}):
            assert one_line.fullmatch(refusal(back, good, **options)), options


@pytest.mark.parametrize("there", [to_flax, to_haiku, to_equinox, nnx_module, equinox_module])
def test_wrong_models_and_params_are_refused_in_one_line(there):
    cell, one_line = lstm(2, 3), re.compile(r"[^\n]+ got [^\n]+; want [^\n]+")
    params = random_params(cell)
    own = cell._replace(output=lambda params, h: -h)
    for model, weights in [(None, params), (3, params), (own, params), (cell, None), (cell, ()), (params, cell),
                           (cell, params._replace(b_h=params.b_h[1:]))]:  # fmt: skip
        assert one_line.fullmatch(refusal(there, model, weights)), (model, weights)
    option = {to_flax: "optimized", to_haiku: "exact", nnx_module: "optimized"}.get(there)
    if option:
        assert refusal(there, cell, params, **{option: 1}) == f"{option} got 1; want True or False"
