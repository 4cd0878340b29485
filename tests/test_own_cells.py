"""Your own cells in the experiments: found with what they import, refused in one line, never mistaken for another."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.lab.commands import exit_code_of
from rnn_jax.lab.named_cells import equal_models, make_model
from rnn_jax.lab.own_cells import digests_of
from rnn_jax.lab.study import open_study
from tests.scripts import run_here
from tests.tiny_study import Options, make_tasks
from tests.wrong_command_lines import CELL, FILES, UNSAFE

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
    return make_model(name, size, hidden_size)


def test_your_own_file_may_have_dataclasses_and_import_its_neighbours(tmp_path):
    (tmp_path / "near_by.py").write_text("RATE = 0.25\n")
    model = made(write(tmp_path, source=WITH_A_NEIGHBOUR + CELL.replace("0.9 *", "Options().rate *")))
    params = model.init(jax.random.key(0))
    np.testing.assert_allclose(model.step(params, jnp.ones(4), 2), 0.25 + jnp.tanh(SCALE * params.cell[2]), rtol=1e-6)


def equal_models_of(name):
    return equal_models((name,), lambda name, H: make_model(name, 5, H), 4)


MESSAGES = {
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


@pytest.mark.parametrize("file", MESSAGES)
def test_every_error_in_your_own_file_is_one_line_with_its_line(file, tmp_path):
    with jax.enable_x64(False), pytest.raises(ValueError, match=re.escape(MESSAGES[file])) as caught:
        made(write(tmp_path, file, FILES[file]))
    assert str(caught.value).startswith(f"cell got '{tmp_path / file}:leaky'")
    assert "\n" not in str(caught.value)


def test_a_changed_file_is_read_again_even_at_once_and_nothing_is_written_beside_it(tmp_path):
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


def test_any_callable_may_make_a_cell(tmp_path):
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
        equal_models_of(f"{tmp_path / 'names.py'}:{name}")


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
        equal_models_of(name)
    with pytest.raises(ValueError, match=r"whose output is int\d\d\[\d+\]; want one array of floating numbers"):
        made(write(tmp_path, "output.py", source))


def test_an_error_that_a_cell_raises_only_in_training_is_one_line_too(tmp_path, capsys):
    model = made(
        write(tmp_path, source=CELL.replace("return 0.9", "assert x.shape[0] != 3, 'three'\n        return 0.9"))
    )
    params = model.init(jax.random.key(0))
    with pytest.raises(AssertionError) as caught:
        model.step(params, jnp.ones((3, 4)), jnp.arange(3))
    assert exit_code_of(caught.value) == 1
    said = "mine.py', which raised AssertionError at mine.py:13: three\n"
    assert capsys.readouterr().err == f"error: cell got '{tmp_path}/{said}"


def test_the_error_of_a_cell_that_reads_neither_names_both_ways(tmp_path):
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
        equal_models_of(name)


@pytest.mark.parametrize("changed", ["mine.py", "near_by.py"])
def test_the_digest_of_a_cell_is_of_its_file_and_of_those_that_it_imports(changed, tmp_path):
    (tmp_path / "near_by.py").write_text("RATE = 0.25\n")
    name = write(tmp_path, source=WITH_A_NEIGHBOUR + CELL)
    before = digests_of(["gru", name])
    assert [*before["cell_sha256"]] == [str(tmp_path / "mine.py")]
    assert digests_of([name, "lstm"]) == before
    with (tmp_path / changed).open("a") as file:
        file.write("# another\n")
    assert digests_of([name]) != before
    assert digests_of(["gru", "lstm"]) == {}


def test_a_study_whose_cell_was_changed_is_not_gone_on_with(tmp_path, monkeypatch, capsys):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("rnn_jax.lab.loop.compile_program", interrupted)  # no network is trained here
    name = write(tmp_path)
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 400)
    words = ["--smoke", "--text", tmp_path / "text.txt", "--out", tmp_path / "run", "--cells", name]
    assert run_here("vanishing_gradients", *words) == 130
    assert run_here("vanishing_gradients", *words, "--resume") == 130
    with (tmp_path / "mine.py").open("a") as file:
        file.write("# another\n")
    capsys.readouterr()
    assert run_here("vanishing_gradients", *words, "--resume") == 2
    assert "--resume got another configuration (cell_sha256 was " in capsys.readouterr().err


def test_a_study_is_extended_by_your_own_cell_and_only_if_those_that_it_has_are_unchanged(tmp_path):
    first, second = write(tmp_path, "first.py"), write(tmp_path, "second.py")

    def opened(*cells, **how):
        options = Options(cells=cells, out=tmp_path / "run", **how)
        return open_study(options, make_tasks(options), facts=digests_of(cells))

    opened("near")
    opened("near", first, extend=True)
    opened("near", first, second, extend=True)
    with pytest.raises(ValueError, match=r"--extend got cells .*, where the run has .*; want at least these"):
        opened("near", second, extend=True)
    with (tmp_path / "first.py").open("a") as file:
        file.write("# another\n")
    for option in ("extend", "resume"):
        with pytest.raises(ValueError, match=rf"--{option} got another configuration \(cell_sha256 was {{.*first.py"):
            opened("near", first, second, **{option: True})
