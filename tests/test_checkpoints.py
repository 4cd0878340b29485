"""Checkpoints: what is restored is what was saved, bit for bit, or it is refused."""

import gc
import resource
import shutil
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax import gru, lstm, readout
from rnn_jax.lab import checkpoints
from rnn_jax.lab.checkpoints import Checkpoints, load_params, save_params
from rnn_jax.losses import cross_entropy
from rnn_jax.training import window_learner
from tests.laboratory import any_nonzero, as_a_user_has_it, refused


def learner():
    model = readout(lstm(5, 4), 5)
    return window_learner(model, cross_entropy, optax.adamw(optax.linear_schedule(1e-2, 0.0, 10)))


def windows(key):
    ids = jax.random.randint(key, (2, 6, 3), 0, 5)
    return ids[0], ids[1]


def test_training_goes_on_bit_for_bit(tmp_path):
    update = jax.jit(learner().update)
    state = learner().init(jax.random.key(0), (3,))
    for n in range(3):
        state, _ = update(state, windows(jax.random.key(n)))
    kept = Checkpoints(tmp_path)
    kept.save(3, state, {"lengths": {"metrics.jsonl": 17}})
    found = kept.restore(learner().init(jax.random.key(9), (3,)), print)
    assert found is not None
    assert (found.step, found.facts) == (3, {"lengths": {"metrics.jsonl": 17}})
    assert any_nonzero(found.state.h)
    restored, before = found.state, state
    for n in range(3, 6):
        state, _ = update(state, windows(jax.random.key(n)))
        restored, _ = update(restored, windows(jax.random.key(n)))
    chex.assert_trees_all_equal(restored._replace(key=0), state._replace(key=0))
    assert jnp.all(jax.random.key_data(found.state.key) == jax.random.key_data(before.key))


def test_the_latest_few_are_kept_and_an_empty_folder_has_none(tmp_path):
    kept = Checkpoints(tmp_path, keep=2)
    assert kept.restore({"h": jnp.zeros(3)}, print) is None
    for step in (10, 20, 30):
        kept.save(step, {"h": jnp.full(3, step)}, {})
    assert kept.steps() == [20, 30]


def two(folder):
    kept = Checkpoints(folder)
    for step in (10, 20):
        kept.save(step, {"h": jnp.full(300, float(step))}, {})
    return kept


ODD = ["lr[0.1]", "a*b?{x}", "-x %20 ~#\n", "a\\b", "gs:", "中文 ü", "\udcff", "x" * 250]


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_a_checkpoint_and_params_come_back_from_a_folder_of_any_name(tmp_path, name):
    kept = Checkpoints(tmp_path / name / "checkpoints")
    kept.save(1, {"h": jnp.arange(3)}, {})
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing is written elsewhere"
    assert [path.name for path in Path(kept.folder).iterdir()] == ["1"]
    found = kept.restore({"h": jnp.zeros(3, int)}, pytest.fail)
    assert found is not None
    assert found.state["h"].tolist() == [0, 1, 2]
    save_params(tmp_path / name / "params", {"h": jnp.arange(3)})
    assert load_params(tmp_path / name / "params", {"h": jnp.zeros(3, int)})["h"].tolist() == [0, 1, 2]


def test_a_path_may_be_relative_and_a_string(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with as_a_user_has_it():
        kept = Checkpoints("a[1]")
        kept.save(1, {"h": jnp.arange(3)}, {})
        assert kept.restore({"h": jnp.zeros(3, int)}, pytest.fail) is not None
        assert kept.steps() == [1]
        save_params("b/params", {"h": jnp.arange(3)})
        assert load_params("b/params", {"h": jnp.zeros(3, int)})["h"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("fault", ["cannot be read", "is read as other numbers"])
def test_a_checkpoint_counts_and_older_ones_go_only_when_it_was_read_back(tmp_path, monkeypatch, fault):
    kept, read = two(tmp_path), checkpoints.read_whole

    def misread(*args):
        record, packed = read(*args)
        if fault == "cannot be read":
            raise OSError(fault)
        return record, packed[::-1]

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "read_whole", misread)
        with pytest.raises(OSError, match=r"^checkpoint 30 could not be written "):
            kept.save(30, {"h": jnp.arange(300.0)}, {})
    assert kept.steps() == [10, 20]
    kept.save(30, {"h": jnp.arange(300.0)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["20", "30"]


def test_what_a_user_put_beside_or_into_a_checkpoint_is_never_deleted_and_never_counted(tmp_path):
    kept = two(tmp_path)
    (tmp_path / "10" / "state" / "mine").write_text("x")
    (tmp_path / "99").write_text("a file")
    (tmp_path / "²").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "theirs").write_text("x")
    (tmp_path / "5").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "2024.partial_results").mkdir()
    (tmp_path / "2024.partial_results" / "theirs").write_text("x")
    for step in (30, 40):
        kept.save(step, {"h": jnp.full(300, float(step))}, {})
    assert kept.steps() == [30, 40]
    assert [path.read_text() for path in tmp_path.rglob("mine")] == ["x"]
    assert (tmp_path / "99").exists()
    assert (tmp_path / "elsewhere" / "theirs").exists()
    assert (tmp_path / "2024.partial_results" / "theirs").exists()
    left = [path.relative_to(tmp_path) for path in tmp_path.glob("10*/**/*") if path.is_file()]
    assert [path.name for path in left] == ["mine"], "the rest of it is gone"


def test_a_state_of_nothing_comes_back(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(0, {}, {})
    found = kept.restore({}, pytest.fail)
    assert found is not None
    assert (found.step, found.state) == (0, {})


def test_a_state_is_restored_like_its_shapes_alone(tmp_path):
    kept, state = Checkpoints(tmp_path), {"h": jnp.arange(3), "key": jax.random.key(7)}
    kept.save(1, state, {})
    found = kept.restore(jax.eval_shape(lambda: state), pytest.fail)
    assert found is not None
    chex.assert_trees_all_equal(found.state, state)


def test_a_truncated_checkpoint_is_refused_whichever_file_it_is_and_the_one_before_is_used(tmp_path):
    two(tmp_path / "whole")
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole" / "20").rglob("*") if path.is_file()]
    big = [file for file in files if (tmp_path / "whole" / file).stat().st_size > 0]
    assert len(big) > 4
    used = {}
    for file in big:
        shutil.copytree(tmp_path / "whole", tmp_path / "run")
        with (tmp_path / "run" / file).open("r+b") as opened:
            opened.truncate((tmp_path / "run" / file).stat().st_size // 2)
        lines = []
        found = Checkpoints(tmp_path / "run").restore({"h": jnp.zeros(300)}, lines.append)
        assert found is not None
        np.testing.assert_array_equal(found.state["h"], float(found.step))  # never a wrong number
        assert len(lines) == (found.step == 10)
        assert all(
            line.startswith("checkpoint 20 is damaged and was put aside as 20.damaged: ") and "\n" not in line
            for line in lines
        )
        assert Checkpoints(tmp_path / "run").steps() == ([10] if lines else [10, 20])
        used[str(file)] = found.step
        shutil.rmtree(tmp_path / "run")
    gc.collect()  # nothing is left that orbax did not await: warnings are errors
    refused_files = [file for file, step in used.items() if step == 10]
    assert any("/d/" in file for file in refused_files), "the numbers themselves"


@pytest.mark.parametrize(
    ("like", "says"),
    [
        ({"h": jnp.zeros(9)}, "checkpoint 20, where h is float64[300]; want float64[9]"),
        ({"g": jnp.zeros(300)}, "checkpoint 20, where g is missing; want float64[300]"),
        ({"h": jnp.zeros(300, int)}, "checkpoint 20, where h is float64[300]; want int64[300]"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_and_stays(tmp_path, like, says):
    kept = two(tmp_path)
    refused(lambda: kept.restore(like, print), says)
    assert kept.steps() == [10, 20]


def test_where_every_checkpoint_is_damaged_no_run_starts_again_at_any_number_of_tries(tmp_path):
    kept = two(tmp_path)
    for file in tmp_path.rglob("facts/metadata"):
        file.write_text("{")
    for _ in range(2):
        refused(lambda: kept.restore({"h": jnp.zeros(300)}, pytest.fail), "checkpoints got none that can be read")
        assert kept.steps() == [10, 20]


def test_a_fault_in_which_none_can_be_read_costs_no_checkpoint(tmp_path, monkeypatch):
    kept = two(tmp_path)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "orbax.checkpoint", None)  # an installation that is broken
        refused(lambda: kept.restore({"h": jnp.zeros(300)}, pytest.fail), "checkpoints got none that can be read")
    found = kept.restore({"h": jnp.zeros(300)}, pytest.fail)
    assert found is not None
    assert found.step == 20


def test_a_checkpoint_that_was_put_aside_is_never_deleted(tmp_path):
    kept = two(tmp_path)
    for _ in range(2):
        (tmp_path / "20" / "facts" / "metadata").write_text("{")
        found = kept.restore({"h": jnp.zeros(300)}, print)
        assert found is not None
        assert found.step == 10
        kept.save(20, {"h": jnp.full(300, 20.0)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "20", "20.damaged", "20.damaged1"]


def test_a_step_that_is_not_a_later_one_and_facts_that_are_no_json_are_refused(tmp_path):
    kept = two(tmp_path)
    refused(lambda: kept.save(20, {"h": jnp.zeros(3)}, {}), "checkpoint got step 20, when 20 is kept; want a later one")
    for step in (-1, 2.5, True):
        says = f"checkpoint got step {step}; want an integer of at least 0"
        refused(lambda step=step: Checkpoints(tmp_path / "new").save(step, {}, {}), says)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not JSON serializable"):
        kept.save(30, {"h": jnp.zeros(3)}, {"facts": object()})


def test_numbers_of_every_type_come_back_bit_for_bit(tmp_path):
    state = {
        "python": (1, 2.0, True),
        "numpy": (np.int64(2**40 + 1), np.float64(1 / 3), np.arange(3, dtype=np.uint16)),
        "jax": (jnp.bfloat16(1 / 3), jnp.zeros((0, 2)), jnp.array([True, False]), jnp.eye(2)[:, :1]),
    }
    kept = Checkpoints(tmp_path)
    kept.save(1, state, {})
    found = kept.restore(state, print)
    assert found is not None
    chex.assert_trees_all_equal(found.state, state)
    with jax.enable_x64(False):  # where jax itself would narrow them
        kept.save(2, state["numpy"], {})
        found = kept.restore(state["numpy"], print)
    assert found is not None
    assert [leaf.dtype for leaf in found.state] == [leaf.dtype for leaf in state["numpy"]]
    chex.assert_trees_all_equal(found.state, state["numpy"])


def test_numbers_that_were_changed_are_refused(tmp_path):
    kept = two(tmp_path)
    kept.save(30, {"h": jnp.full(300, 30.0)}, {})
    metadata = tmp_path / "30" / "facts" / "metadata"
    metadata.write_text(metadata.read_text().replace('"sha256": "', '"sha256": "0'))
    lines = []
    found = kept.restore({"h": jnp.zeros(300)}, lines.append)
    assert found is not None
    assert found.step == 20
    assert "its arrays are not those that were saved" in lines[0]


def test_a_full_disk_is_an_os_error_and_the_last_checkpoint_stays(tmp_path):
    kept = two(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # no file may grow beyond: what a full disk does to a write
    try:
        with pytest.raises(OSError, match=r"^checkpoint 30 could not be written "):
            kept.save(30, {"h": jax.random.normal(jax.random.key(0), (9000,))}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    found = Checkpoints(tmp_path).restore({"h": jnp.zeros(300)}, print)
    assert found is not None
    assert found.step == 20


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_params_come_back_in_their_own_type(tmp_path, dtype):
    params = readout(lstm(3, 4, dtype=jnp.dtype(dtype)), 2).init(jax.random.key(0))
    params = {"model": params, "leak": jnp.asarray(0.2, dtype), "transposed": np.arange(6.0).reshape(2, 3).T}
    save_params(tmp_path / "a" / "params.safetensors", params)
    chex.assert_trees_all_equal(load_params(tmp_path / "a" / "params.safetensors", params), params)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["params.safetensors"]


def test_params_of_one_name_are_refused(tmp_path):
    twice = {"a/b": jnp.zeros(2), "a": {"b": jnp.ones(2)}}
    refused(lambda: save_params(tmp_path / "p", twice), "params got 2 arrays of 1 names; want names without slashes")
    assert not list(tmp_path.iterdir())


def test_params_that_do_not_fit_are_refused_in_one_line(tmp_path):
    file, key = tmp_path / "params.safetensors", jax.random.key(0)
    got = f"params got {file}, "
    refused(lambda: load_params(file, gru(3, 4).init(key)), f"{got}which cannot be read (FileNotFoundError")
    save_params(file, lstm(3, 4).init(key))
    refused(
        lambda: load_params(file, lstm(3, 5).init(key)),
        f"{got}where W_hh is float64[4, 16]; want float64[5, 20]",
    )
    refused(
        lambda: load_params(file, readout(lstm(3, 4), 2).init(key)),
        f"{got}where W_hh is float64[4, 16]; want missing",
    )
    file.write_bytes(file.read_bytes()[:-9])
    refused(lambda: load_params(file, lstm(3, 4).init(key)), f"{got}which cannot be read (SafetensorError")
