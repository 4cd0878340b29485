"""Cells of one's own in the experiments: found with what they import, refused in one line, never taken for another."""

import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.wrong_command_lines import CELL, FILES, UNSAFE

pytestmark = pytest.mark.usefixtures("scripts_find_their_modules")
WITH_A_NEIGHBOUR = """
from __future__ import annotations
import dataclasses
from near_by import RATE

@dataclasses.dataclass
class Options:
    rate: float = RATE
"""


SCALE = 5**0.5  # of the one-hot vectors of five characters


def write(folder, name="mine.py", source=CELL):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(source)
    return f"{folder / name}:leaky"


def made(name, size=5, hidden_size=4):
    return importlib.import_module("_cells").make_model(name, size, hidden_size)


def test_a_file_of_ones_own_may_have_dataclasses_and_import_its_neighbours(tmp_path):
    (tmp_path / "near_by.py").write_text("RATE = 0.25\n")
    model = made(write(tmp_path, source=WITH_A_NEIGHBOUR + CELL.replace("0.9 *", "Options().rate *")))
    params = model.init(jax.random.key(0))
    np.testing.assert_allclose(model.step(params, jnp.ones(4), 2), 0.25 + jnp.tanh(SCALE * params.cell[2]), rtol=1e-6)


SAYS = {
    "raises.py": "which raised ZeroDivisionError at raises.py:1: division by zero",
    "exits.py": "which raised SystemExit at exits.py:2: no",
    "imports.py": "which raised ModuleNotFoundError at imports.py:1: No module named 'what_is_not_there'",
    "syntax.py": "whose file is no Python (invalid syntax (syntax.py, line 1))",
    "nothing.py": "which returned int; want a Cell",
    "none.py": "which returned NoneType; want a Cell",
    "no_arguments.py": "which takes (); want (input_size, hidden_size)",
    "inside.py": "which raised IndexError at inside.py:2: list index out of range",
    "missing.py": "has no function 'leaky'",
    "init.py": "which raised ZeroDivisionError at init.py:9: division by zero",
    "start.py": "which raised TypeError at start.py:11: ",
    "step.py": "which raised AttributeError at step.py:13: ",
    "state.py": "whose step makes float32[1, 4] of the state float32[4]; want the same shapes and types",
    "half.py": "whose step makes float16[4] of the state float32[4]; want the same shapes and types",
    "integers.py": "whose params are int32[]; want floating numbers to learn",
    "wide.py": "which raised TypeError at wide.py:13: ",
}


@pytest.mark.parametrize("file", SAYS)
def test_whatever_is_wrong_in_a_file_of_ones_own_is_one_line_with_its_line(file, tmp_path):
    with jax.enable_x64(False), pytest.raises(ValueError, match=re.escape(SAYS[file])) as caught:
        made(write(tmp_path, file, FILES[file]))
    assert str(caught.value).startswith(f"cell got '{tmp_path / file}:leaky'")
    assert "\n" not in str(caught.value)


def test_a_file_is_read_anew_however_soon_it_was_changed_and_nothing_is_written_beside_it(tmp_path):
    for rate in ("0.25", "0.75", "0.50"):  # of one length, within one second
        (tmp_path / "near_by.py").write_text(f"RATE = {rate}\n")
        model = made(write(tmp_path, source=WITH_A_NEIGHBOUR + CELL.replace("0.9 *", "Options().rate *")))
        params = model.init(jax.random.key(0))
        np.testing.assert_allclose(
            model.step(params, jnp.ones(4), 2) - jnp.tanh(SCALE * params.cell[2]), float(rate), rtol=1e-6
        )
    assert {path.name for path in tmp_path.rglob("*")} == {"mine.py", "near_by.py"}


def test_neighbours_of_one_name_in_two_folders_are_two(tmp_path):
    rates = {"one": 0.25, "two": 0.75}
    for folder, rate in rates.items():
        name = write(tmp_path / folder, source=WITH_A_NEIGHBOUR + CELL.replace("0.9 *", "Options().rate *"))
        (tmp_path / folder / "near_by.py").write_text(f"RATE = {rate}\n")
        model = made(name)
        params = model.init(jax.random.key(0))
        np.testing.assert_allclose(
            model.step(params, jnp.ones(4), 2), rate + jnp.tanh(SCALE * params.cell[2]), rtol=1e-6
        )


MAKER = """
import dataclasses
@dataclasses.dataclass
class Maker:
    rate: float = 0.9
    def __call__(self, input_size, hidden_size, make=leaky):
        return make(input_size, hidden_size)
leaky = Maker()
"""


def test_whatever_can_be_called_may_make_a_cell(tmp_path):
    made(write(tmp_path, source=CELL + MAKER))


def test_an_error_deep_inside_names_the_neighbour_in_which_it_was_raised(tmp_path):
    (tmp_path / "deep_down.py").write_text("def f():\n    return {}['x']\n")
    name = write(tmp_path, source=CELL.replace("return 0.9", "import deep_down; deep_down.f()\n        return 0.9"))
    with pytest.raises(ValueError, match=r"mine.py:leaky', which raised KeyError at deep_down.py:2: 'x'"):
        made(name)


@pytest.mark.parametrize("name", UNSAFE)
def test_a_function_whose_name_no_file_table_or_figure_can_bear_is_refused(name, tmp_path):
    write(tmp_path, "names.py", FILES["names.py"])
    with pytest.raises(
        ValueError, match=r"want FILE.py:function, the function's name of letters, digits and underscores"
    ):
        importlib.import_module("_cells").equal_models((f"{tmp_path / 'names.py'}:{name}",), 5, 4)


READS_IDS = CELL.replace("x @ params", "params.at[x].get(mode='fill', fill_value=jnp.nan)")


def test_a_cell_that_reads_ids_is_given_ids_and_one_that_reads_vectors_one_hot_vectors(tmp_path):
    models = [made(write(tmp_path, "vectors.py")), made(write(tmp_path, "ids.py", READS_IDS))]
    params = models[0].init(jax.random.key(0))
    ids, h = jnp.array([3, 0]), jnp.ones((2, 4))
    of_vectors, of_ids = (model.step(params, h, ids) for model in models)
    np.testing.assert_allclose(of_vectors, 0.9 + jnp.tanh(SCALE * params.cell[ids]), rtol=1e-6)
    np.testing.assert_allclose(of_ids, 0.9 + jnp.tanh(params.cell[ids]), rtol=1e-6)


def test_a_cell_whose_state_counts_in_integers_is_refused_where_gradients_by_lag_are_measured(tmp_path):
    source = CELL.replace("jnp.zeros((*batch_shape, hidden_size))", "jnp.zeros((*batch_shape, hidden_size), int)")
    source = source.replace("0.9 * h + jnp.tanh(x @ params)", "h + jnp.sign(x @ params).astype(int)")
    outputs = "init, start, step, lambda params, h: h.astype(float)"
    name = write(tmp_path, source=source.replace("init, start, step", outputs))
    made(name)
    with pytest.raises(ValueError, match=r"whose state is int\d\d\[\d+\]; want floating numbers to derive by"):
        importlib.import_module("_cells").equal_models((name,), 5, 4)
    with pytest.raises(ValueError, match=r"whose output is int\d\d\[\d+\]; want one array of floating numbers"):
        made(write(tmp_path, "output.py", source))


def test_what_a_cell_raises_only_as_it_learns_is_one_line_too(tmp_path, capsys):
    model = made(
        write(tmp_path, source=CELL.replace("return 0.9", "assert x.shape[0] != 3, 'three'\n        return 0.9"))
    )
    params = model.init(jax.random.key(0))
    from _study import carry_out

    assert carry_out(lambda: model.step(params, jnp.ones((3, 4)), jnp.arange(3)), lambda status: None) == 1
    said = "mine.py', which raised AssertionError at mine.py:13: three\n"
    assert capsys.readouterr().err == f"error: cell got '{tmp_path}/{said}"


def test_a_cell_that_reads_neither_is_told_both_ways(tmp_path):
    with pytest.raises(ValueError, match=r"\(a character is read as a one-hot vector \(5,\), or as its id\)"):
        made(write(tmp_path, "wide.py", FILES["wide.py"]))


def test_cells_of_equal_parameters_need_parameters_that_grow(tmp_path):
    name = write(
        tmp_path,
        "one_size.py",
        FILES["one_size.py"].replace("hidden_size = 5", "hidden_size = small(hidden_size)")
        + "def small(hidden_size):\n    assert hidden_size < 2**20\n    return 5\n",
    )
    with pytest.raises(
        ValueError, match=r"one_size.py:leaky', which raised ValueError: make got a model of \d+ parameters with"
    ):
        importlib.import_module("_cells").equal_models((name,), 5, 4)


@pytest.mark.parametrize("changed", ["mine.py", "near_by.py"])
@pytest.mark.parametrize("script", ["vanishing_gradients", "char_lm"])
def test_a_run_whose_cell_was_changed_is_not_gone_on_with(script, changed, tmp_path, monkeypatch, capsys):
    experiment = importlib.import_module(script)
    monkeypatch.setattr(experiment, "carry_out", lambda work, publish: 0)
    (tmp_path / "near_by.py").write_text("RATE = 0.25\n")
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 400)
    name = write(tmp_path, source=WITH_A_NEIGHBOUR + CELL)
    options = ["--smoke", "--text", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run")]
    options += ["--cells" if script == "vanishing_gradients" else "--cell", name]
    assert experiment.main(options) == 0
    assert experiment.main([*options, "--resume"]) == 0
    with (tmp_path / changed).open("a") as file:
        file.write("# another\n")
    with pytest.raises(SystemExit) as caught:
        experiment.main([*options, "--resume"])
    assert caught.value.code == 2
    assert "--resume got another configuration (cell_sha256 was " in capsys.readouterr().err
    if script == "char_lm":
        with pytest.raises(SystemExit):
            experiment.main(["sample", str(tmp_path / "run")])
        assert "got another content since the run; want the one it was trained with" in capsys.readouterr().err
