"""Whole models and single steps in ONNX Runtime, and files of ours that come back as they were."""

import sys
import threading

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from rnn_jax import cell_from_step, embedding, greedy, gru, lstm, mgu, mixed_precision, readout, stack, vanilla
from rnn_jax.cells import ACTIVATIONS
from rnn_jax.interop import from_onnx, step_to_onnx, to_onnx
from rnn_jax.interop.signatures import with_symbols
from rnn_jax.layers import as_layer
from tests.cases import BY_STRUCTURE, CASES
from tests.laboratory import as_a_user_has_it
from tests.onnx_models import (
    NATIVE,
    OTHERS,
    REASON,
    B,
    H,
    I,
    T,
    V,
    assert_equal_bits,
    by_path,
    ops_of,
    outputs_of,
    random_params,
    session_of,
)

onnx = pytest.importorskip("onnx", reason=REASON)
TOLERANCE = 1e-6
MODELS = NATIVE | OTHERS
rng = np.random.default_rng(1)


def inputs_of(model, name):
    """Random inputs of the largest size, and states."""
    params = random_params(model)
    xs = rng.integers(0, V, (T, B)).astype(np.int32) if name == "deep" else rng.normal(size=(T, B, I)).astype("float32")
    h_0 = jax.tree.map(
        lambda h: jnp.asarray(rng.normal(size=(B, *h.shape)), h.dtype), jax.eval_shape(model.start, params)
    )
    return params, xs, h_0


@pytest.mark.parametrize("name", MODELS)
def test_files_compute_the_model_for_three_sizes_with_lengths_of_0_and_t_and_given_states(name):
    model, ops = MODELS[name]
    params, xs, h_0 = inputs_of(model, name)
    file = to_onnx(model, params, lengths=True, initial_states=True, input_shape=None if name == "deep" else (I,))
    assert ops_of(file) == ops
    session, apply = session_of(file), jax.jit(as_layer(model).apply)
    for t, b in ((T, B), (5, 2), (1, 1)):
        lengths = np.array([t, 0, max(t - 2, 0)], np.int32)
        feeds = {"xs": xs[:t, :b], "lengths": lengths[:b]} | by_path("h_0", jax.tree.map(lambda h: h[:b], h_0))
        got = outputs_of(session, feeds)
        h_T, ys = apply(params, h_0, xs, lengths=lengths)
        wanted = by_path("ys", jax.tree.map(lambda y: y[:t, :b], ys)) | by_path(
            "h_T", jax.tree.map(lambda h: h[:b], h_T)
        )
        assert got.keys() == wanted.keys()
        for each in wanted:
            np.testing.assert_allclose(got[each], wanted[each], rtol=0, atol=TOLERANCE, strict=True, err_msg=each)


@pytest.mark.parametrize("name", ["cifg, both ways", "deep", "own", "learned start with a dense input"])
def test_files_without_lengths_and_states_begin_with_the_start_of_the_model(name):
    model, _ = MODELS[name]
    params, xs, _ = inputs_of(model, name)
    file = to_onnx(model, params, input_shape=None if name == "deep" else (I,))
    assert [each.name for each in file.graph.input] == ["xs"]
    h_T, ys = jax.jit(as_layer(model).apply)(params, as_layer(model).start(params, (B,)), xs)
    got = outputs_of(session_of(file), {"xs": xs})
    for each, wanted in (by_path("ys", ys) | by_path("h_T", h_T)).items():
        np.testing.assert_allclose(got[each], wanted, rtol=0, atol=TOLERANCE, strict=True, err_msg=each)


def assert_equal_models(read, model):
    """The model of a file is the one that was written, with params of 32 bits."""
    text = repr(read).replace(", dtype='float32'", "").replace(", merge='concatenate'", "")
    wanted = repr(model)
    for usual in (", activation='tanh'", ", gate_activation='sigmoid'"):
        wanted = wanted.replace(usual, "")
    assert text == wanted


FLAGS = [{}, {"lengths": True, "initial_states": True}, {"ids": "int64", "lengths": True}]


@pytest.mark.parametrize("name", NATIVE)
def test_native_models_come_back_bit_by_bit_in_every_form_of_their_files(name):
    model, _ = NATIVE[name]
    params = random_params(model)
    for flags in FLAGS if name in ("gru", "cifg, both ways") else FLAGS[1:2]:
        file = to_onnx(model, params, **flags)
        read, weights = from_onnx(file.SerializeToString() if flags else file)
        assert_equal_models(read, model)
        assert_equal_bits(weights, params)


@pytest.mark.parametrize("name", ["lstm with a readout", "gru, both ways, added"])
def test_params_of_64_bits_come_back_bit_by_bit_and_the_reference_evaluator_computes_the_model(name):
    model, _ = NATIVE[name]
    params = random_params(model, np.float64)
    file = to_onnx(model, params)
    read, weights = from_onnx(file)
    assert read == model
    assert_equal_bits(weights, params)
    xs = rng.normal(size=(T, B, I))
    (ys, *_) = onnx.reference.ReferenceEvaluator(file).run(None, {"xs": xs})
    _, wanted = as_layer(model).apply(params, as_layer(model).start(params, (B,)), xs)
    np.testing.assert_allclose(ys, wanted, rtol=0, atol=1e-12, strict=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_by_name_is_one_of_the_node_and_comes_back(activation):
    model = gru(I, H, activation=activation, gate_activation=activation)
    file = to_onnx(model, random_params(model))
    assert ops_of(file) == ["GRU"]
    assert_equal_models(from_onnx(file)[0], model)


@pytest.mark.parametrize("name", BY_STRUCTURE)
def test_one_step_of_a_cell_of_every_structure_equals_its_file(name):
    cell, x_shape = CASES[name].cell, CASES[name].x
    params = random_params(cell)
    session = session_of(step_to_onnx(cell, params, input_shape=x_shape))
    x = jnp.asarray(rng.normal(size=(B, *x_shape)), jnp.float32)
    h = jax.tree.map(lambda h: jnp.asarray(rng.normal(size=(B, *h.shape)), h.dtype), jax.eval_shape(cell.start, params))
    got = outputs_of(session, {"x": x} | by_path("h_0", h))
    after = cell.step(params, h, x)
    for each, wanted in (by_path("y", cell.output(params, after)) | by_path("h_1", after)).items():
        np.testing.assert_allclose(got[each], wanted, rtol=1e-6, atol=TOLERANCE, strict=True, err_msg=each)


def many_primitives(W, h, x):
    """A step that makes use of most primitives of the table."""
    u = jnp.einsum("bi,ij->bj", x, W)
    a = jax.nn.softplus(u) + jax.nn.elu(h) + jnp.where(h > 0, jnp.log1p(jnp.abs(h)), jnp.expm1(h))
    normed = (a - a.mean(-1, keepdims=True)) * jax.lax.rsqrt(a.var(-1, keepdims=True) + 1e-5)
    share = jax.nn.softmax(a, axis=-1) + jnp.flip(jnp.cumsum(a, axis=-1), axis=-1)
    share = jax.lax.fori_loop(0, 3, lambda n, v: v / (1 + n) + jnp.stack([a[:, 0], a[:, 3]] * 2, axis=-1), share)
    largest = jax.nn.one_hot(jnp.argmax(a, axis=-1), H, dtype=a.dtype)
    kept = jnp.any(a > 1, axis=-1, keepdims=True) & ~jnp.all(jnp.isfinite(h), axis=-1, keepdims=True)
    outer = jnp.einsum("bi,bj->bij", normed, share).sum(1) ** 3 / 50
    fixed = jnp.sort(W.reshape(-1))[:H]  # sorting has no counterpart; but it reads params alone
    left, right = jnp.split(jnp.broadcast_to(fixed, a.shape) * normed, 2, axis=-1)
    moved = jnp.concatenate([right, left], axis=-1) - jnp.pad(a[:, 1:3], ((0, 0), (1, 1)))
    return jnp.tanh(outer + moved + jnp.where(kept, a, largest)) * jnp.clip(jnp.exp2(u), 0.1, 2.0) + jnp.sign(h) / 8


@pytest.mark.parametrize("reverse", [False, True])
def test_a_cell_of_ones_own_equals_its_scan_to_the_last_digits_of_64_bits(reverse):
    cell = cell_from_step(
        init=lambda key: jnp.zeros((I, H)),
        start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, H)),
        step=many_primitives,
    )
    params = random_params(cell, np.float64)
    layer, xs = as_layer(cell, reverse=reverse), rng.normal(size=(T, B, I))
    lengths = np.array([T, 0, 4], np.int32)
    got = outputs_of(session_of(to_onnx(layer, params, lengths=True, input_shape=(I,))), {"xs": xs, "lengths": lengths})
    h_T, ys = layer.apply(params, cell.start(params, (B,)), xs, lengths=lengths)
    np.testing.assert_allclose(got["ys"], ys, rtol=0, atol=1e-12, strict=True)
    np.testing.assert_allclose(got["h_T"], h_T, rtol=0, atol=1e-12, strict=True)


@pytest.mark.parametrize("name", ["native", "scan", "embedding"])
def test_ids_give_the_outputs_of_the_model_and_nan_outside_the_vocabulary(name):
    cell = {"native": vanilla(V, H), "scan": mgu(V, H), "embedding": embedding(vanilla(I, H), V, I)}[name]
    params = random_params(cell)
    ids = np.concatenate([rng.integers(0, V, (T - 1, B)), [[-1, V, 0]]]).astype(np.int64)
    file = to_onnx(cell, params, ids="int64")
    assert ops_of(file) == (["Scan"] if name == "scan" else ["RNN"])
    got = outputs_of(session_of(file), {"xs": ids})
    _, ys = as_layer(cell).apply(params, cell.start(params, (B,)), ids)
    np.testing.assert_allclose(got["ys"], ys, rtol=0, atol=TOLERANCE, strict=True)
    assert np.isnan(got["ys"]).tolist() == np.broadcast_to(np.isin(ids, (-1, V))[..., None], (T, B, H)).tolist()


def test_a_model_of_characters_writes_the_same_200_ids_in_onnx_runtime_as_here():
    model = readout(embedding(stack(lstm(I, 32), gru(32, 32)), 50, I), 50)
    params = random_params(model)
    params = params._replace(W_hy=10 * params.W_hy, cell=params.cell._replace(E=4 * params.cell.E))
    written = greedy(model, params, model.start(params, (1,)), jnp.zeros(1, int), length=200).ids
    session = session_of(step_to_onnx(model, params, ids="int64"))
    state = by_path("h_0", model.start(params, (1,)))
    id_, ids = np.zeros(1, np.int64), []
    for _ in range(200):
        out = outputs_of(session, {"x": id_} | state)
        state = {name.replace("h_1", "h_0"): array for name, array in out.items() if name != "y"}
        id_ = out["y"].argmax(-1)
        ids.append(int(id_[0]))
    assert len({*ids}) > 10
    assert ids == np.ravel(written).tolist()


@pytest.mark.parametrize("name", ["cifg, both ways", "cifg with peepholes"])
def test_coupled_gates_are_computed_also_by_runtimes_that_know_no_coupling(name):
    model, _ = NATIVE[name]
    params, xs, _ = inputs_of(model, name)
    file = to_onnx(model, params)
    (each,) = (each for each in file.graph.node if each.op_type == "LSTM")
    kept = [attribute for attribute in each.attribute if attribute.name != "input_forget"]
    del each.attribute[:]
    each.attribute.extend(kept)
    _, wanted = as_layer(model).apply(params, as_layer(model).start(params, (B,)), xs)
    np.testing.assert_allclose(outputs_of(session_of(file), {"xs": xs})["ys"], wanted, rtol=0, atol=TOLERANCE)


def test_threads_that_export_at_once_leave_the_check_of_types_as_it_was():
    before, first, second = jaxtyping.config.jaxtyping_disable, threading.Event(), threading.Event()

    def one():
        with with_symbols():
            first.set()
            second.wait()

    def other():
        first.wait()
        with with_symbols():
            second.set()
            threads[0].join()
            assert jaxtyping.config.jaxtyping_disable

    threads = [threading.Thread(target=one), threading.Thread(target=other)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert jaxtyping.config.jaxtyping_disable == before


def unknown_step(params, h, x):
    return jnp.sort(h + x, axis=-1)


def refused(f, *args, **kwargs):
    with as_a_user_has_it(), pytest.raises(ValueError) as error:  # noqa: PT011
        f(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_exported_is_refused_in_one_line(monkeypatch):
    cell, none = gru(I, H), jnp.zeros(0)
    params = random_params(cell)
    sorter = cell_from_step(lambda key: none, lambda params, batch_shape=(): jnp.zeros((*batch_shape, I)), unknown_step)
    assert refused(to_onnx, sorter, none, input_shape=(I,)).startswith("cell got the primitive sort; ONNX takes abs, ")
    assert refused(step_to_onnx, sorter, none).startswith("input_shape got None; want the shape of one")
    assert refused(to_onnx, lstm(I, H), params).startswith("params got GRUParams(W_xh=float32[3,12]")
    assert refused(to_onnx, cell, jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)) == (
        "params got bfloat16; ONNX takes float64, float32, float16: cast them first"
    )
    assert refused(to_onnx, cell, params, ids="int8") == "ids got 'int8'; want True, False, 'int32' or 'int64'"
    assert refused(to_onnx, cell, params, ids=1) == "ids got 1; want True, False, 'int32' or 'int64'"
    assert refused(to_onnx, cell, params, input_shape=(5,)) == "input_shape got (5,); want (3,), which the weights have"
    for wrong in ("abc", 3, (-3,)):
        assert refused(to_onnx, cell, params, input_shape=wrong).endswith(
            "; want sizes of one example's input, such as (3,)"
        )
    assert refused(to_onnx, cell, {"W": np.zeros((50, 50))}).startswith("params got {'W': array([[0., 0., 0., ..., 0.")
    assert refused(to_onnx, cell, params._replace(b_h=params.b_h.astype(jnp.float16))) == (
        "params got float16, float32; ONNX takes one of float64, float32, float16: cast them first"
    )
    assert refused(to_onnx, cell, jax.tree.map(lambda a: a.astype(int), params)).startswith("params got int64; want a")
    low = mixed_precision(cell, jnp.bfloat16)
    assert refused(to_onnx, low, params).startswith("cell got numbers of bfloat16; ONNX Runtime computes with float64")
    own = as_layer(cell)._replace(output=lambda params, h: -h)
    assert refused(to_onnx, own, params).endswith(
        "a layer of your own; ONNX takes cells, bidirectional, stack and readout"
    )
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert refused(to_onnx, cell, params) == "onnx got no package of this name; want it: pip install rnn-jax-lab[onnx]"
    assert refused(from_onnx, b"").startswith("onnx got no package")
