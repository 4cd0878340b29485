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
from rnn_jax.cells import cifg_lstm
from rnn_jax.interop import (
    convert,
    from_keras,
    from_onnx,
    from_torch,
    load_model,
    read_model,
    save_model,
    to_keras,
    to_onnx,
    to_torch,
    write_weights,
)
from rnn_jax.interop.__main__ import main
from rnn_jax.interop.conversion_checks import HOW
from rnn_jax.lab.checkpoints import save_params
from rnn_jax.lab.named_cells import make_model
from tests.networks import canonical, cast, equal, random_params

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed: pip install -e .[peers]")


@pytest.fixture
def keras(tmp_path, monkeypatch) -> Any:
    """Keras, which broadcasts ranks and promotes types, as JAX refuses in these tests."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras", reason="keras is not installed: pip install -e .[peers]")


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
    for damaged in ('{"layers": []}', "[" * 100_000, "3", '{"layers": [3], "merge": 1}'):
        write_weights(file, {"W": np.ones(2)}, rnn_jax=damaged)
        with pytest.raises(ValueError, match=r"^file got .*, which save_model did not write") as error:
            load_model(file)
        assert "\n" not in str(error.value)
    huge = texts.replace('"hidden_size": 4', '"hidden_size": 4000000')  # zeros of its shapes would fill the memory
    write_weights(file, params._asdict(), rnn_jax=huge)
    with pytest.raises(ValueError, match=r"^file got .*, whose W_hh does not fit its model; want a whole file$"):
        load_model(file)
    with pytest.raises(
        ValueError, match=r"^activation got sin; want a number or the name of an activation|^activation got <"
    ):
        save_model(file, model, random_params(model, np.random.default_rng(0)))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # where Keras saves a model
def test_files_go_from_torch_to_keras_to_onnx_and_back_bit_for_bit_and_outputs_are_compared(torch, tmp_path, keras):
    model, params = drawn(readout(gru(2, 3), 2), "float32")
    of_torch = to_torch(model, params)
    write_weights(tmp_path / "0.safetensors", of_torch)
    for number, (to, ending, library) in enumerate(
        [
            ("keras", "keras", "Keras 3"),
            ("onnx", "onnx", "ONNX Runtime 1"),
            ("torch", "safetensors", "PyTorch 2"),
            ("rnn_jax", "safetensors", "the file read back by rnn_jax"),
        ]
    ):
        file = next(tmp_path.glob(f"{number}.*"))
        check = convert(file, tmp_path / f"{number + 1}.{ending}", to)
        assert check.difference <= {"torch": 1e-12, "rnn_jax": 0}.get(to, 1e-6)
        assert check.against.startswith(library)
        assert equal(read_model(tmp_path / f"{number + 1}.{ending}"), (model, params))
    assert {path.name for path in tmp_path.iterdir()} <= {"home", *(path.name for path in tmp_path.glob("?.*"))}
    assert equal(load_model(tmp_path / "4.safetensors"), (model, params))


def test_weights_of_torch_go_to_keras_to_onnx_and_back_bit_for_bit(torch):
    module = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(6, 3), "rnn": torch.nn.ModuleList(
        [torch.nn.LSTM(3, 4, bidirectional=True), torch.nn.GRU(8, 3), torch.nn.RNN(3, 2, nonlinearity="relu")]
    ), "readout": torch.nn.Linear(2, 6)}).double()  # fmt: skip
    first = from_torch(module)
    second = from_keras(to_keras(*first), activation=("tanh", "tanh", "relu"))
    third = from_onnx(to_onnx(*second))
    assert equal(first, second)
    assert equal(first, third)
    written, again = to_torch(*first), to_torch(*third)
    assert written.keys() == again.keys()
    assert all(np.array_equal(again[name], W) for name, W in written.items())
    kept = {name: W.numpy() for name, W in module.state_dict().items() if "bias" not in name}
    assert all(np.array_equal(again[name], W) for name, W in kept.items())
    sums = module.rnn[0].bias_ih_l0 + module.rnn[0].bias_hh_l0
    assert np.array_equal(again["rnn.0.bias_ih_l0"], sums.detach().numpy())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_weights_of_other_types_are_compared_as_each_library_computes_them(torch, keras, tmp_path):
    for dtype, to, difference, against in [
        ("bfloat16", "torch", 1e-12, "in float64"),
        ("float64", "keras", 1e-6, "in float32"),
        ("bfloat16", "keras", 1e-6, "in float32"),
        ("float64", "onnx", 1e-6, "in float32, of a second file"),
    ]:
        model, params = drawn(vanilla(2, 3), dtype)
        save_model(tmp_path / "a.safetensors", model, params)
        out = tmp_path / f"b.{to if to != 'torch' else 'safetensors'}"
        check = convert(tmp_path / "a.safetensors", out, to, overwrite=True)
        assert 0 < check.difference <= difference
        assert check.against.endswith(against)
        assert equal(read_model(out), (model, params))


def test_what_differs_is_an_error_and_leaves_the_old_file(torch, tmp_path, monkeypatch, keras):
    file, old = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for dtype in ("float64", "bfloat16"):
        save_model(file, *drawn(vanilla(2, 3), dtype))
        old.write_text("precious")
        with monkeypatch.context() as patched:
            wrong = lambda model, params: {name: W * 0 for name, W in to_torch(model, params).items()}  # noqa: E731
            patched.setattr("rnn_jax.interop.conversion.to_torch", wrong)
            for is_installed in (True, False):
                if not is_installed:
                    patched.setattr("rnn_jax.interop.conversion_checks.find_spec", lambda name: None)
                with pytest.raises(FloatingPointError, match=r"^b.safetensors got outputs that differ by "):
                    convert(file, old, "torch", overwrite=True)
                assert old.read_text() == "precious"
                assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]
    save_model(file, *drawn(vanilla(2, 3)))
    wrong = lambda model, params: to_onnx(model, jax.tree.map(lambda W: W * (1 + (W.dtype == float)), params))  # noqa: E731
    monkeypatch.setattr("rnn_jax.interop.conversion.to_onnx", wrong)
    with pytest.raises(FloatingPointError, match=r"^c.onnx got another graph than that of its weights in float32"):
        convert(file, tmp_path / "c.onnx", "onnx")


def test_each_file_is_checked_by_the_library_it_is_for():
    assert {name: (how.module, how.read.__name__) for name, how in HOW.items()} == {
        "torch": ("torch", "from_torch"),
        "keras": ("keras", "from_keras"),
        "onnx": ("onnxruntime", "from_onnx"),
        "rnn_jax": (None, "load_model"),
    }


def test_wrong_names_and_needless_activations_are_refused(tmp_path):
    model, params = drawn(vanilla(2, 3, activation="relu"))
    write_weights(tmp_path / "a.safetensors", to_torch(model, params))
    assert equal(read_model(tmp_path / "a.safetensors", activation="relu"), (model, params))
    write_weights(tmp_path / "k.safetensors", to_keras(model, params))
    assert equal(read_model(tmp_path / "k.safetensors", activation="relu"), (model, params))
    for message, arguments in {
        "^to got 'tf'; want one of torch, keras, onnx, rnn_jax$": ("b.pb", "tf"),
        r"^out got .*b.pt; want a name that ends in .safetensors, for torch$": ("b.pt", "torch"),
        r"^out got .*k.safetensors, which exists; want another name, or --overwrite$": ("k.safetensors", "torch"),
        r"^out got .*a.safetensors, the file to read; want another one$": ("a.safetensors", "torch"),
        r"^out got .*a.safetensors, the file to read": ("../" + tmp_path.name + "/a.safetensors", "torch"),
    }.items():
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / "a.safetensors", tmp_path / arguments[0], arguments[1])
    mixed = drawn(stack(vanilla(2, 3), gru(3, 3), vanilla(3, 2, activation="relu")))
    save_model(tmp_path / "c.safetensors", *mixed)
    with pytest.raises(ValueError, match=r"^activation got 'relu'; want None: .*c.safetensors has its own$"):
        read_model(tmp_path / "c.safetensors", activation="relu")
    convert(tmp_path / "c.safetensors", tmp_path / "d.safetensors", "torch")
    assert equal(read_model(tmp_path / "d.safetensors"), mixed)


def test_the_command_writes_onnx_prints_the_difference_and_ends_wrong_use_with_one_line_and_code_2(tmp_path):
    save_model(tmp_path / "a.safetensors", *drawn(gru(2, 3)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "rnn_jax.interop", "convert", "a.safetensors", "b.onnx", "--to", "onnx"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    model, shapes, difference = done.stdout.splitlines()
    assert model == "b.onnx: gru(input_size=2, hidden_size=3)"
    assert shapes == "OUT takes and gives: xs (T, B, 2), ys (T, B, 3)"
    beginning, version = "largest difference of the model as read from IN and OUT: ", onnxruntime_version()
    assert difference.startswith(beginning)
    assert difference.endswith(f", against ONNX Runtime {version} in float32, of a second file")
    assert 0 < float(difference.removeprefix(beginning).partition(",")[0]) <= 1e-6


def onnxruntime_version() -> str:
    """The version of ONNX Runtime."""
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install -e .[onnx]").__version__


def test_wrong_use_of_the_command_ends_with_one_line_and_code_2_and_other_outputs_with_1(
    tmp_path, monkeypatch, capsys, torch
):
    save_model(tmp_path / "a.safetensors", *drawn(gru(2, 3)))
    (tmp_path / "c.pt").write_bytes(b"\x80\x02}q\x00.")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for words, line in {
        "convert c.pt d.safetensors --to torch": "error: file got c.pt, a pickle",
        "convert a.safetensors --to torch": "error: convert got 1 files; want: python -m rnn_jax.interop",
        "convert a.safetensors b.safetensors": "error: --to got nothing; want torch, keras, onnx or rnn_jax",
        "turn a.safetensors b.safetensors": "error: command got turn; want: ",
        "convert m.h5 b.safetensors --to torch": "error: file got m.h5; want a .keras file",
    }.items():
        with pytest.raises(SystemExit) as ending:
            main(words.split())
        assert ending.value.code == 2
        shown = capsys.readouterr().err
        assert shown.startswith(line)
        assert shown.count("\n") == 1
    wrong = lambda model, params: {name: W * 0 for name, W in to_torch(model, params).items()}  # noqa: E731
    monkeypatch.setattr("rnn_jax.interop.conversion.to_torch", wrong)
    with pytest.raises(SystemExit) as ending:
        main(["convert", "a.safetensors", "b.safetensors", "--to", "torch"])
    assert ending.value.code == 1
    assert capsys.readouterr().err.startswith("error: b.safetensors got outputs that differ by ")


def run_folder(folder: Path, cell: str, model: Any, **options: Any) -> tuple[Any, Any]:
    """A folder as ``char_lm.py`` leaves it, with random params of a model, which are returned."""
    folder.mkdir()
    config = {"cell": cell, "vocabulary_size": 5, "hidden_size": 4, "layers": 2, **options}
    (folder / "config.json").write_text(json.dumps(config))
    params = jax.tree.map(lambda W: W.astype(jnp.float32), random_params(model, np.random.default_rng(0)))
    save_params(folder / "params.safetensors", params)
    return model, params


def test_a_run_is_read_by_its_folder_or_its_params_and_no_file_of_it_is_replaced(torch, tmp_path):
    run = tmp_path / "run"
    model, params = run_folder(run, "lstm", make_model("lstm", 5, 4, layers=2), dropout=0.1)
    for file in (run, run / "params.safetensors"):
        assert equal(canonical(*read_model(file)), canonical(model, params))
    before = (run / "params.safetensors").read_bytes()
    for out in (run / "params.safetensors", run / "b.safetensors", run / "deeper" / "b.safetensors"):
        for file in (run, run / "params.safetensors"):
            with pytest.raises(ValueError, match=r"^out got .*; want (a file beside it|another one)$"):
                convert(file, out, "torch", overwrite=True)
    assert (run / "params.safetensors").read_bytes() == before
    assert convert(run, tmp_path / "a.safetensors", "torch").left_out == "dropout of 0.1, which acts in training alone"
    write_weights(run / "other.safetensors", to_torch(*drawn(gru(2, 3))))
    assert read_model(run / "other.safetensors")[0] == gru(2, 3)  # another file beside the params of a run


def test_the_config_of_strangers_makes_no_run_of_a_file(tmp_path):
    write_weights(tmp_path / "params.safetensors", to_torch(*drawn(gru(2, 3))))
    for config in (
        '{"model_type": "gru"}',
        '{"cell": 3, "vocabulary_size": 2, "hidden_size": 3, "layers": 1}',
        "[",
        "[]",
    ):
        (tmp_path / "config.json").write_text(config)
        assert read_model(tmp_path / "params.safetensors")[0] == gru(2, 3)
        with pytest.raises(
            ValueError, match=r"^file got .*, without the config.json of a run; want the folder of a run"
        ):
            read_model(tmp_path)
    run_folder(tmp_path / "run", "mine.py:leaky", gru(2, 3))
    with pytest.raises(ValueError, match=r"^file got .*, of the cell mine.py:leaky; want a cell of the library$"):
        read_model(tmp_path / "run")


def test_a_run_of_a_cell_that_other_libraries_lack_goes_to_onnx(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install -e .[onnx]")
    run_folder(tmp_path / "run", "mgu", make_model("mgu", 5, 4, layers=2))
    check = convert(tmp_path / "run", tmp_path / "a.onnx", "onnx")
    assert 0 < check.difference < 1e-6
    with pytest.raises(ValueError, match=r"^model got mgu\(.*; want parts that PyTorch may have"):
        convert(tmp_path / "run", tmp_path / "b.safetensors", "torch")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # where Keras saves a model
def test_a_keras_file_is_run_and_what_it_gives_of_the_last_step_alone_is_named_or_refused(keras, tmp_path, monkeypatch):
    layers, file, out = keras.layers, tmp_path / "a.keras", tmp_path / "b.onnx"
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for number, above in enumerate(
            [
                [layers.LSTM(4), layers.Dense(2, activation="softmax", name="top")],
                [layers.Bidirectional(layers.LSTM(4, return_sequences=True)), layers.Dense(2)],
                [layers.Bidirectional(layers.LSTM(4)), layers.Dense(2)],
                [layers.GRU(4, dtype="mixed_bfloat16"), layers.Dense(2)],
            ]
        ):
            keras.Sequential([keras.Input((7, 3)), *above]).save(tmp_path / f"{number}.keras")
    (tmp_path / "0.keras").rename(file)
    check = convert(file, out, "onnx")
    assert check.left_out == "softmax of top; IN gives the last step alone, OUT every step"
    assert check.shapes == "xs (T, B, 3), ys (T, B, 2)"
    assert 0 < (check.reading or 0) < 1e-6
    check = convert(tmp_path / "1.keras", tmp_path / "c.keras", "keras")
    assert (check.left_out, check.shapes) == ("", "xs (B, T, 3), ys (B, T, 2)")
    assert 0 < (check.reading or 0) < 1e-6
    assert convert(tmp_path / "3.keras", tmp_path / "d.onnx", "onnx").reading is None  # as it rounds on its way
    with pytest.raises(ValueError, match=r"^file got bidirectional.*, which gives the last states of two directions"):
        convert(tmp_path / "2.keras", out, "onnx", overwrite=True)
    wrong = lambda live, activation: cast(*from_keras(live), "bfloat16")  # noqa: E731
    monkeypatch.setattr("rnn_jax.interop.conversion.from_keras", wrong)
    with pytest.raises(FloatingPointError, match=r"^IN got outputs that differ by .* from the model as read; want"):
        convert(file, out, "onnx", overwrite=True)


def test_no_file_beside_those_of_a_conversion_is_touched(tmp_path):
    saved = drawn(gru(2, 3))
    save_model(tmp_path / "m.part.safetensors", *saved)
    (tmp_path / "k.part.safetensors").write_text("precious")
    convert(tmp_path / "m.part.safetensors", tmp_path / "m.safetensors", "rnn_jax")
    convert(tmp_path / "m.part.safetensors", tmp_path / "k.safetensors", "rnn_jax")
    assert equal(load_model(tmp_path / "m.part.safetensors"), saved)
    assert (tmp_path / "k.part.safetensors").read_text() == "precious"
    assert len([*tmp_path.iterdir()]) == 4


def test_a_readout_in_float16_and_a_chaotic_network_go_to_onnx(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install -e .[onnx]")
    model = readout(vanilla(5, 64), 3)
    params = random_params(model, np.random.default_rng(0))
    wild = params._replace(cell=params.cell._replace(W_hh=6 * params.cell.W_hh / np.std(params.cell.W_hh) / 8))
    for number, (own, dtype, least) in enumerate([(params, "float16", 0), (wild, "float32", 1e-5)]):
        save_model(tmp_path / f"{number}.safetensors", *cast(model, own, dtype))
        check = convert(tmp_path / f"{number}.safetensors", tmp_path / f"{number}.onnx", "onnx")
        assert least < check.difference < 1e-3  # of the wild one above the limit of a tame one


def test_gates_that_are_no_longer_coupled_are_named(tmp_path):
    save_model(tmp_path / "a.safetensors", *drawn(cifg_lstm(2, 3)))
    for to, left_out in {"torch": "the coupling of gates", "rnn_jax": ""}.items():
        assert convert(tmp_path / "a.safetensors", tmp_path / f"{to}.safetensors", to).left_out == left_out


def test_files_with_the_names_of_other_libraries_are_refused_with_the_function_that_reads_them(tmp_path):
    for reader, names in {
        "from_flax": ("cell/hi/kernel", "cell/hi/bias", "cell/ii/kernel"),
        "from_haiku": ("lstm/linear/w", "lstm/linear/b"),
        "from_equinox": ("weight_ih", "weight_hh", "bias"),
    }.items():
        write_weights(tmp_path / "a.safetensors", {name: np.ones((2, 8)) for name in names})
        with pytest.raises(ValueError, match=rf"^file got .*; want those of PyTorch or Keras, or {reader} in Python$"):
            read_model(tmp_path / "a.safetensors")


def test_the_help_of_the_command_names_what_it_requires(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["convert", "--help"])
    assert ending.value.code == 0
    shown = capsys.readouterr().out
    assert shown.count("(required)") == 2
    assert "{torch,keras,onnx,rnn_jax}" in shown
