"""Weights of flax, haiku and equinox: there and back bit for bit, and live modules of theirs against our models."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import lstm
from rnn_jax.interop import from_haiku, to_haiku
from tests.jax_networks import CASES, LENGTHS, LIBRARIES, cut, measured, ours, random_inputs, random_params
from tests.oracles import checked

WHAT = "outputs and gradients of inputs and of params by converted weights, float64"
EXACT = {
    "linen": checked("gru", "flax.linen by to_flax", WHAT, 1e-12),
    "nnx": checked("lstm", "flax.nnx OptimizedLSTMCell by to_flax", WHAT, 1e-12),
    "nnx, LSTMCell": checked("lstm", "flax.nnx LSTMCell by to_flax", WHAT, 1e-12),
    "haiku": checked("gru_reset_before", "haiku by to_haiku", WHAT, 1e-12),
    "equinox": checked("gru", "equinox by to_equinox", WHAT, 1e-12),
}


@pytest.fixture(autouse=True)
def rules_of_other_libraries():
    """They promote ranks and types."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def same(found: Any, wanted: Any) -> None:
    """Fails unless both trees are equal, bit for bit, and of the same types."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for array, other in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize(("name", "number"), CASES)
def test_live_modules_have_our_outputs_and_gradients_and_their_state_comes_back_bit_for_bit(name, number):
    library = LIBRARIES[name]
    model, options = library.networks[number]
    params, whole = compare(name, number, "float64", EXACT[name])
    again, found = library.back(whole, **({} if name.startswith("nnx") else options))
    assert again == model
    same(found, params)


@pytest.mark.parametrize("name", [name for name, library in LIBRARIES.items() if len(library.networks) >= 20])
def test_live_modules_have_our_outputs_and_gradients_in_float32(name):
    assert len(LIBRARIES[name].networks) == 20
    for number in (0, 8, 12):
        compare(name, number, "float32", 1e-6)


def compare(name: str, number: int, dtype: str, tolerance: float) -> tuple[Any, Any]:
    """Our params, and the live module that was compared with them."""
    library = LIBRARIES[name]
    model, options = library.networks[number]
    params = random_params(name, model, number, dtype)
    xs, weigh = random_inputs(params, dtype)
    live = library.live(model, params)
    rows = (0, 1) if library.ragged or number % 5 == 0 else (1,)  # the second sequence is shorter
    weigh = jnp.asarray(weigh * np.isin(np.arange(len(LENGTHS)), rows)[:, None])
    run = measured(live.run if library.ragged else cut(live.run, rows))
    ys, (by_params, *by_xs) = ours(model)(params, xs, weigh)
    their_ys, (by_weights, *their_by_xs) = run(live.weights, xs, weigh)
    found = [ys, *by_xs, *jax.tree.leaves(without_second_bias(name, by_params))]
    by_weights = jax.tree.map(np.array, by_weights)
    theirs = [their_ys, *their_by_xs, *jax.tree.leaves(gradient_by_params(name, by_weights, options))]
    for a, b in zip(found, theirs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    return params, live.whole


def gradient_by_params(name: str, by_weights: Any, options: Any) -> Any:
    """The gradient of our params, of that of their weights: reading weights adds a constant to a permutation."""
    if name == "haiku":  # whose second bias of a vanilla cell is added to the first
        for path in by_weights:
            if path.endswith("/linear_1"):
                by_weights[path]["b"] *= 0
    found = LIBRARIES[name].back(by_weights, **options)[1]
    if name != "haiku":
        return found
    constant = from_haiku(jax.tree.map(np.zeros_like, by_weights))[1]  # the 1 that its forget gate adds
    return jax.tree.map(np.subtract, found, constant)


def without_second_bias(name: str, gradient: Any) -> Any:
    """A gradient with zeros for ``b_n``, which a GRU of nnx does not have."""

    def kept(path: Any, g: Any) -> Any:
        return np.zeros_like(g) if name.startswith("nnx") and jax.tree_util.keystr(path[-1:]) == ".b_n" else g

    return jax.tree.map_with_path(kept, gradient)


def test_the_forget_bias_of_haiku_is_that_of_ours_less_the_one_it_adds_and_no_digit_is_lost():
    tiny = [0.0, -0.0, 1.0, 0.1, -0.1, 1e-30, -1e-30, 1e-8, 0.49999997, -1.0000001, -2.0000002, 3e7, -1e30, np.inf]
    for dtype in ("float32", "float64"):
        cell = lstm(1, 514, dtype=dtype)
        rng = np.random.default_rng(0)
        b_f = np.array([*tiny, *rng.standard_normal(500) * 10.0 ** rng.uniform(-12, 4, 500)], dtype)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(cell.init, jax.random.key(0)))
        params = zeros._replace(b_h=zeros.b_h.at[514:1028].set(b_f))
        weights, rounded = to_haiku(cell, params, exact=True), to_haiku(cell, params)
        np.testing.assert_array_equal(weights["lstm/linear"]["b"][1028:1542], b_f - np.ones(514, dtype))
        np.testing.assert_array_equal(from_haiku(weights)[1].b_h, params.b_h)
        assert rounded["lstm/linear"].keys() == {"w", "b"}
        finite = np.isfinite(b_f)
        lost = np.abs(from_haiku(rounded)[1].b_h - params.b_h)[514:1028][finite] / np.maximum(1, np.abs(b_f[finite]))
        assert 0 < lost.max() <= np.finfo(dtype).eps
