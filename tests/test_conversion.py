"""Files of models from one library to another, by function and by command, and a model of characters in PyTorch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bidirectional, embedding, gru, lstm, peephole_lstm, readout, stack, vanilla
from rnn_jax.decoding import continue_prompt
from rnn_jax.interop import (
    convert,
    from_torch,
    load_model,
    read_model,
    save_model,
    to_torch,
    torch_module,
    write_weights,
)
from rnn_jax.lab.checkpoints import save_params
from rnn_jax.lab.named_cells import make_model
from tests.networks import canonical, cast, equal, random_params

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed: pip install -e .[peers]")


def drawn(model: Any, dtype: str = "float64") -> tuple[Any, Any]:
    """A model with random params."""
    return cast(model, random_params(model, np.random.default_rng(0)), dtype)


def test_a_model_is_saved_and_loaded_bit_for_bit_with_cells_options_and_types(tmp_path):
    for number, model in enumerate(
        [
            readout(embedding(stack(bidirectional(lstm(3, 4), gru(3, 4), merge="sum"), vanilla(4, 2)), 5, 3), 2),
            peephole_lstm(2, 3, activation="softsign"),
        ]
    ):
        for dtype in ("float64", "bfloat16"):
            saved = drawn(model, dtype)
            save_model(tmp_path / f"{number}.safetensors", *saved)
            assert equal(load_model(tmp_path / f"{number}.safetensors"), saved)
            assert equal(read_model(tmp_path / f"{number}.safetensors"), saved)


def test_other_files_and_models_without_names_are_refused(tmp_path):
    file = tmp_path / "a.safetensors"
    write_weights(file, {"W": np.ones(2)})
    with pytest.raises(ValueError, match=r"^file got .*, which save_model did not write"):
        load_model(file)
    write_weights(file, {"W": np.ones(2)}, rnn_jax=json.dumps({"layers": [[{"cell": "os.system"}]]}))
    with pytest.raises(ValueError, match=r"^file got .*, which save_model did not write"):
        load_model(file)
    model, params = drawn(gru(2, 3))
    save_model(file, model, params)
    texts = '{"layers": [[{"cell": "gru", "input_size": 2, "hidden_size": 4, "dtype": "float64", "options": {}, '
    texts += '"reverse": false}]], "merge": "concatenate", "embedding": null, "readout": null}'
    write_weights(file, params._asdict(), rnn_jax=texts)
    with pytest.raises(ValueError, match=r"^file got .*, whose W_hh does not fit its model; want a whole file$"):
        load_model(file)
    model = vanilla(2, 3, activation=jnp.sin)
    with pytest.raises(
        ValueError, match=r"^activation got .*; a file of a model takes numbers, and activations by name"
    ):
        save_model(file, model, random_params(model, np.random.default_rng(0)))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # where Keras saves a model
def test_a_file_goes_through_torch_and_keras_and_back_bit_for_bit_and_outputs_are_compared(
    torch, tmp_path, monkeypatch
):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip("keras", reason="keras is not installed: pip install -e .[peers]")
    model, params = drawn(readout(bidirectional(gru(2, 3), gru(2, 3)), 2), "float32")
    save_model(tmp_path / "0.safetensors", model, params)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for number, (to, ending) in enumerate(
            [("torch", "safetensors"), ("keras", "keras"), ("rnn_jax", "safetensors")]
        ):
            file = next(tmp_path.glob(f"{number}.*"))
            check = convert(file, tmp_path / f"{number + 1}.{ending}", to)
            assert check.difference < 1e-6
            assert check.against.startswith({"torch": "PyTorch 2", "keras": "Keras 3", "rnn_jax": "the file read"}[to])
    assert equal(load_model(tmp_path / "3.safetensors"), (model, params))


def test_a_difference_of_outputs_is_an_error(torch, tmp_path, monkeypatch):
    save_model(tmp_path / "a.safetensors", *drawn(gru(2, 3)))
    wrong = lambda model, params: {name: W * 1.01 for name, W in to_torch(model, params).items()}  # noqa: E731
    monkeypatch.setattr("rnn_jax.interop.conversion.to_torch", wrong)
    with pytest.raises(FloatingPointError, match=r"^.*b.safetensors got outputs that differ by .* from PyTorch"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "torch")


def test_wrong_names_are_refused(tmp_path):
    model, params = drawn(vanilla(2, 3, activation="relu"))
    write_weights(tmp_path / "a.safetensors", to_torch(model, params))
    assert equal(read_model(tmp_path / "a.safetensors", activation="relu"), (model, params))
    for message, arguments in {
        "^--to got 'tf'; want one of torch, keras, onnx, rnn_jax$": ("b.pb", "tf"),
        r"^OUT got .*b.pt; want a name that ends in .safetensors, for torch$": ("b.pt", "torch"),
        r"^OUT got .*a.safetensors, which exists; want another name, or --overwrite$": ("a.safetensors", "torch"),
    }.items():
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / "a.safetensors", tmp_path / arguments[0], arguments[1])
    mixed = drawn(stack(vanilla(2, 3), vanilla(3, 2, activation="relu")))
    save_model(tmp_path / "c.safetensors", *mixed)
    with pytest.raises(ValueError, match=r"^activation got relu and tanh in one model; want one for a state dict$"):
        convert(tmp_path / "c.safetensors", tmp_path / "d.safetensors", "torch")


def test_the_command_prints_the_largest_difference_and_ends_wrong_use_with_one_line_and_code_2(tmp_path):
    save_model(tmp_path / "a.safetensors", *drawn(gru(2, 3)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}

    def run(*words: str) -> Any:
        command = [sys.executable, "-m", "rnn_jax.interop", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    done = run("convert", "a.safetensors", "b.safetensors", "--to", "rnn_jax")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "b.safetensors: gru(input_size=2, hidden_size=3)",
        "largest difference of outputs on random inputs: 0, against the file read back by rnn_jax",
    ]
    (tmp_path / "c.pt").write_bytes(b"\x80\x02}q\x00.")
    failed = run("convert", "c.pt", "d.safetensors", "--to", "torch")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: file got c.pt, a pickle")
    assert failed.stderr.count("\n") == 1


def characters_of_torch(torch: Any, module: Any, prompt: list[int], length: int, V: int) -> list[int]:
    """The likeliest ids one after the other, of a module that reads one-hot vectors."""
    ids, state = [], None
    given = torch.nn.functional.one_hot(torch.tensor(prompt), V)[:, None]
    with torch.no_grad():
        for _ in range(length):
            ys, state = module(given.to(next(module.parameters()).dtype), state)
            ids.append(int(ys[-1, 0].argmax()))
            given = torch.nn.functional.one_hot(torch.tensor([[ids[-1]]]), V)
    return ids


def test_a_model_of_characters_from_a_run_folder_writes_the_same_200_characters_in_torch(torch, tmp_path):
    V, prompt = 30, [3, 1, 4]
    model = make_model("lstm", V, 16, layers=2)
    params = jax.tree.map(lambda a: a.astype(jnp.float32), random_params(model, np.random.default_rng(0)))
    (tmp_path / "config.json").write_text(
        json.dumps({"cell": "lstm", "vocabulary_size": V, "hidden_size": 16, "layers": 2, "dropout": 0.1})
    )
    save_params(tmp_path / "params.safetensors", params)
    found: Any = read_model(tmp_path)
    model, params = found
    assert equal(read_model(tmp_path / "params.safetensors"), canonical(*found))
    ids = continue_prompt(model, params, jax.random.key(0), jnp.array(prompt), length=200, temperature=0.0).ids
    module = torch_module(*from_torch(to_torch(model, params)))
    assert characters_of_torch(torch, module, prompt, 200, V) == ids.tolist()
    assert len({*ids.tolist()}) > 1
    (tmp_path / "config.json").write_text(
        json.dumps({"cell": "mine.py:leaky", "vocabulary_size": 3, "hidden_size": 2, "layers": 1})
    )
    with pytest.raises(ValueError, match=r"^IN got .*, of the cell mine.py:leaky; want a cell of the library$"):
        read_model(tmp_path)
