"""Programs of StableHLO, which another process reads and runs with JAX alone."""

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from rnn_jax import bidirectional, cornn, embedding, learned_start, lstm, mgu, readout, stack
from rnn_jax.interop.stablehlo import to_stablehlo
from rnn_jax.layers import as_layer
from tests.laboratory import as_a_user_has_it
from tests.onnx_models import B, H, I, T, V, by_path, random_params

rng = np.random.default_rng(3)

RUN = """
import sys
import jax, numpy as np
with open("model.stablehlo", "rb") as file:
    exported = jax.export.deserialize(bytearray(file.read()))
for size in "12":
    feeds = dict(np.load(f"in{size}.npz"))
    np.savez(f"out{size}.npz", **exported.call(feeds))
assert not any(name.partition(".")[0] in ("rnn_jax", "flax", "onnx") for name in sys.modules)
"""


def test_a_program_runs_without_the_library_for_two_sizes_and_lengths_of_0_and_t(tmp_path):
    model = readout(embedding(stack(bidirectional(lstm(I, H), lstm(I, H)), mgu(2 * H, I)), V, I), 2)
    params = random_params(model)
    (tmp_path / "model.stablehlo").write_bytes(to_stablehlo(model, params, lengths=True, initial_states=True))
    wanted = {}
    for size, (t, b) in {"1": (T, B), "2": (1, 2)}.items():
        ids = rng.integers(0, V, (t, b)).astype(np.int32)
        lengths = np.array([t, 0, max(t - 2, 0)][:b], np.int32)
        h_0 = jax.tree.map(
            lambda h, b=b: jnp.asarray(rng.normal(size=(b, *h.shape)), h.dtype), jax.eval_shape(model.start, params)
        )
        feeds: dict[str, Any] = {"xs": ids, "lengths": lengths} | by_path("h_0", h_0)
        np.savez(tmp_path / f"in{size}.npz", **feeds)
        h_T, ys = model.apply(params, h_0, jnp.asarray(ids), lengths=lengths)
        wanted[size] = by_path("ys", ys) | by_path("h_T", h_T)
    subprocess.run([sys.executable, "-c", RUN], check=True, cwd=tmp_path)
    for size, arrays in wanted.items():
        got = dict(np.load(tmp_path / f"out{size}.npz"))
        assert got.keys() == arrays.keys()
        for name in arrays:
            np.testing.assert_allclose(got[name], arrays[name], rtol=0, atol=1e-6, strict=True, err_msg=name)


@pytest.mark.parametrize("cell", [cornn(I, H), learned_start(lstm(I, H))], ids=["cornn", "learned start"])
def test_a_program_without_states_begins_with_the_start_of_the_model(cell):
    params = random_params(cell, np.float64)
    xs = jnp.asarray(rng.normal(size=(T, B, I)))
    got = export.deserialize(bytearray(to_stablehlo(cell, params, platforms=("cpu",)))).call({"xs": xs})
    h_T, ys = as_layer(cell).apply(params, cell.start(params, (B,)), xs)
    for name, wanted in (by_path("ys", ys) | by_path("h_T", h_T)).items():
        np.testing.assert_allclose(got[name], wanted, rtol=0, atol=1e-12, strict=True, err_msg=name)


def test_params_of_another_model_and_unknown_platforms_are_refused():
    model = readout(lstm(I, H), 3)
    with pytest.raises(ValueError, match=r"^params got ReadoutParams\(.*; want those of readout\(lstm"):
        to_stablehlo(model, random_params(readout(lstm(I, H), 2)))
    with as_a_user_has_it(), pytest.raises(ValueError, match=r"^platforms got 3; want some of cpu, cuda, rocm, tpu$"):
        to_stablehlo(model, random_params(model), platforms=3)  # pyright: ignore[reportArgumentType]
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"^ids got 'int64'; want 'int32'"):
        to_stablehlo(model, random_params(model), ids="int64")
    with pytest.raises(ValueError, match=r"^platforms got \('phone',\); want some of cpu, cuda, rocm, tpu$"):
        to_stablehlo(lstm(I, H), random_params(lstm(I, H)), platforms=("phone",))
