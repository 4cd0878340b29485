"""What the experiments learn from: no test example in training, and every answer the right one."""

import dataclasses
import importlib
import os
import re
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("scripts_find_their_modules")


def test_moved_digits_are_the_digits_moved_by_at_most_a_pixel():
    from _digits import draw_batches, load_digits

    parts = load_digits()
    images, classes = draw_batches(parts.train, np.random.default_rng(0), 3, 40)
    assert images.shape == (3, 40, 8, 8)
    framed = np.pad(parts.train.images, ((0, 0), (1, 1), (1, 1)))
    windows = {
        framed[n, y : y + 8, x : x + 8].tobytes(): (int(parts.train.classes[n]), y, x)
        for n in range(len(framed))
        for y in range(3)
        for x in range(3)
    }
    found = [windows[image.tobytes()] for image in images.reshape(-1, 8, 8)]
    np.testing.assert_array_equal([digit for digit, *_ in found], classes.ravel())
    assert {(y, x) for _, y, x in found} == {(y, x) for y in range(3) for x in range(3)}


def test_a_confusion_matrix_counts_truths_in_rows():
    from _showing import confusion

    counts = confusion(np.array([1, 1, 2, 0]), np.array([1, 0, 2, 0]), count=3)
    np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 1, 0], [0, 0, 1]])


def test_names_are_spelled_with_their_end():
    from digit_names import END, LENGTHS, LETTERS, SPELLED

    assert LETTERS.decode(SPELLED[7]) == "seven\n"
    assert LETTERS.decode(SPELLED[6]) == "six\n\n\n"
    np.testing.assert_array_equal(LENGTHS, [1 + np.flatnonzero(row == END)[0] for row in SPELLED])


def test_a_resumed_run_keeps_what_is_finished_and_trains_what_is_not(tmp_path):
    import optax
    from _study import Study
    from _training import Task, finished, learn_all

    from rnn_jax.lab.runs import open_run, read_metrics
    from rnn_jax.training import batch_learner

    def init(key):
        return jax.random.normal(key, (3,))

    def score(params, x):
        return {"loss": jnp.sum((params - jnp.broadcast_to(x, (3,))) ** 2)}

    learner = batch_learner(init, lambda params, x: score(params, x)["loss"], optax.sgd(0.1))
    part = (jnp.asarray(2.0),)
    task = Task(learner, lambda rng, look: (jnp.asarray(rng.normal(size=5)),), score, part, part)
    config = Study(seeds=1, looks=2, updates=5, out=tmp_path / "run")
    run, networks = open_run(config.out, config), {}
    learn_all(config, run, {"point": task}, networks)
    first = read_metrics(run.folder)
    run.log(cell="point", seed=1, split="train", step=5, loss=1.0)  # of a network that was never finished

    more = dataclasses.replace(config, seeds=2)
    again = finished(more, run, {"point": task})
    assert list(again["point"]) == [0]
    learn_all(more, run, {"point": task}, again)
    np.testing.assert_array_equal(again["point"][0], networks["point"][0])
    rows = read_metrics(run.folder)
    assert rows[: len(first)] == first
    steps = [(row["seed"], row["split"], row["step"]) for row in rows]
    assert sorted(steps) == sorted(
        (s, *of)
        for s in (0, 1)
        for of in [("train", 5), ("train", 10), ("validation", 5), ("validation", 10), ("test", 10)]
    )
    np.testing.assert_allclose(rows[-1]["loss"], score(again["point"][1], 2.0)["loss"], rtol=1e-6)
    assert np.any(again["point"][0] != again["point"][1]), "seeds differ"


def test_a_finished_network_that_was_damaged_ends_a_resumed_run_in_one_line(tmp_path, capsys):
    import optax
    from _showing import conduct
    from _study import Study
    from _training import Task, finished, learn_all

    from rnn_jax.lab.runs import open_run, read_metrics
    from rnn_jax.training import batch_learner

    def score(params, x):
        return {"loss": jnp.sum((params - jnp.broadcast_to(x, (3,))) ** 2)}

    learner = batch_learner(lambda key: jnp.zeros(3), lambda params, x: score(params, x)["loss"], optax.sgd(0.1))
    part = (jnp.asarray(2.0),)
    tasks = {"point": Task(learner, lambda rng, look: (jnp.ones(1),), score, part, part)}
    config = Study(seeds=1, looks=1, updates=1, out=tmp_path / "run")
    run = open_run(config.out, config)
    learn_all(config, run, tasks, {})
    assert list(finished(config, run, tasks)) == ["point"]
    before = read_metrics(run.folder)
    os.truncate(next(tmp_path.glob("run/cells/*.safetensors")), 20)
    capsys.readouterr()
    page = {"script": "x.py", "title": "t", "question": "q", "legend": "l", "baselines": {}}
    assert conduct(run, (config, config), tasks, lambda networks, scores: pytest.fail("nothing to show"), **page) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "which cannot be read (" in err
    assert read_metrics(run.folder) == before


def test_a_finished_cell_that_was_damaged_is_named(tmp_path):
    from _vanishing_gradients_report import kept

    from rnn_jax.lab.runs import Run

    (tmp_path / "cells").mkdir()
    for content in (b"", b"PK\x03\x04", b"x" * 200):
        (tmp_path / "cells" / "tanh.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"tanh.npz cannot be read \(.*remove it to train this cell anew"):
            kept(Run(tmp_path), ["tanh"])


def test_jobs_side_by_side_find_more_threads_than_cores(monkeypatch):
    from _study import Study, read_options

    monkeypatch.delenv("NPROC")
    read_options(Study, {}, ["--workers", "3"])
    assert int(os.environ["NPROC"]) >= (os.cpu_count() or 1) + 3


def test_a_study_on_other_data_is_not_gone_on_with(tmp_path):
    from _study import Study
    from _training import Task, open_study

    config = Study(out=tmp_path / "run")
    tasks: dict = {}
    for name, number in (("same", 1.0), ("another", 2.0)):
        part = (np.full(3, number),)
        tasks[name] = {"point": Task(None, lambda rng, look: (), lambda params: {}, part, part)}  # type: ignore
    open_study(config, tasks["same"])
    again = dataclasses.replace(config, resume=True)
    open_study(again, tasks["same"])
    with pytest.raises(ValueError, match=r"--resume got another configuration \(data_sha256 was "):
        open_study(again, tasks["another"])


WRONG = {
    "digit_pixels --cells gru gru": "--cells got gru twice; want each cell once",
    "digit_pixels --cells swoosh": "--cells got 'swoosh'; want one or more of tanh, relu, gru, lstm",
    "digit_class --hidden-size 0": "hidden_size got 0; want a positive integer",
    "digit_names --decoder-size 0": "hidden_size got 0; want a positive integer",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_use_gives_one_line_and_writes_nothing(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script, *argv = (word.replace("_gru", " gru") for word in line.split())
    argv += ["--examples", "300"] if script == "dates" else []
    main = importlib.import_module(script).main
    with pytest.raises(SystemExit) as caught:
        main(argv)
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert WRONG[line] in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_updates_that_were_skipped_are_told(tmp_path):
    from _study import Study, of_skipped

    from rnn_jax.lab.runs import open_run

    run = open_run(tmp_path / "run", Study(out=tmp_path / "run"))
    assert of_skipped(run) == ""
    for cell, seed, skipped in [("tanh", 0, 1), ("tanh", 0, 3), ("tanh", 1, 2), ("relu", 0, 0)]:
        run.log(split="train", cell=cell, seed=seed, skipped=skipped)
    run.log(split="train", cell="gru", seed=0)  # as runs wrote before they counted
    assert of_skipped(run) == " Updates that were skipped, as something was not finite: 5 of tanh."
    run.log(split="train", cell="tanh", seed=0, skipped=3, step=7)
    run.log(split="train", cell="mine", seed=0, skipped=9, step=0)
    assert of_skipped(run).startswith(" Updates that were skipped, as something was not finite: 5 of tanh, 9 of mine.")
    assert " With mine none was made, of which no learning rate is the cause: " in of_skipped(run)


def test_a_network_that_diverges_is_counted_and_its_schedule_waits(tmp_path):
    import optax
    from _study import Study
    from _training import Task, learn_all

    from rnn_jax.lab.runs import open_run, read_metrics
    from rnn_jax.training import batch_learner

    def loss(params, x):
        return jnp.sum(params * x)

    learner = batch_learner(lambda key: jnp.zeros(3), loss, optax.sgd(0.1))
    part = (jnp.asarray(2.0),)
    batches = lambda rng, look: (jnp.array([1.0, jnp.nan, 1.0, jnp.nan, 1.0]),)  # noqa: E731
    task = Task(learner, batches, lambda params, x: {"loss": loss(params, x)}, part, part)
    config = Study(seeds=1, looks=2, updates=5, out=tmp_path / "run")
    run = open_run(config.out, config)
    learn_all(config, run, {"point": task}, {})
    assert [(row["step"], row["skipped"]) for row in read_metrics(run.folder)] == [(3, 2)] * 2 + [(6, 4)] * 3


def test_a_file_that_is_no_python_is_told_in_one_line(tmp_path):
    from _cells import make_model

    from tests.laboratory import refused

    (tmp_path / "mine.py").write_text("def leaky(:")
    name = f"{tmp_path / 'mine.py'}:leaky"
    refused(lambda: make_model(name, 5, 4), f"cell got {name!r}, whose file is no Python (invalid syntax")


def test_what_cannot_fit_into_the_machine_is_refused_with_both_sizes():
    from _study import Study, machine_memory, require_room

    require_room(Study(), batch_size=machine_memory() / 2)
    with pytest.raises(
        ValueError, match=r"--batch-size got 64, with which the run needs about .* GiB, this machine has"
    ):
        require_room(Study(), batch_size=2 * machine_memory(), updates=machine_memory())


def test_numbers_that_32_bits_do_not_hold_are_refused():
    from _study import Study, read_options

    for argv, says in [
        (["--looks", "3000000000"], "--looks got 3000000000; want at most 2,147,483,647"),
        (["--looks", "100000", "--updates", "100000"], "--looks and --updates got 100000 times 100000 updates; want"),
        (["--learning-rate", "1e39"], "--learning-rate got 1e+39; want at most 3.4e+38"),
        (["--clip", "1e-40"], "--clip got 1e-40; want 0 or at least 1.2e-38"),
        (["--batch-size", "9" * 400], f"--batch-size got {'9' * 400}; want at most 2,147,483,647"),
        (["--seeds", "10001"], "--seeds got 10001; want at most 10,000"),
    ]:
        with pytest.raises(ValueError, match=re.escape(says)):
            read_options(Study, {}, argv)


def test_jobs_without_a_terminal_print_a_line_with_time_name_and_loss_at_each_evaluation(capsys):
    from _study import Study, side_by_side

    def job(tick):
        tick("compiling")
        for loss in (2.5, 2.25):
            tick(f"loss {loss}", 1)

    side_by_side(Study(looks=2), {"gru [b] 0": job}, lambda name, result: None)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "gru [b] 0: evaluation 1 of 2, loss 2.5",
        "gru [b] 0: evaluation 2 of 2, loss 2.25",
    ]
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)


NO_MEMORY = [
    MemoryError("std::bad_alloc"),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
    jax.errors.JaxRuntimeError("INTERNAL: Error dispatching computation: Out of memory allocating 9 bytes."),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=["numpy", "before", "within"])
def test_memory_that_runs_out_is_one_line_and_what_is_finished_is_published(error, capsys):
    from _study import carry_out

    def work():
        raise error

    published = []
    assert carry_out(work, published.append) == 1
    assert published == ["failed"]
    err = capsys.readouterr().err
    assert err.startswith("error: out of memory (")
    assert err.count("\n") == 1


def test_a_fault_of_the_program_itself_keeps_its_traceback():
    from _study import carry_out

    published = []
    with pytest.raises(KeyError):
        carry_out(lambda: {}["x"], published.append)
    assert published == ["failed"]


def test_a_run_may_be_carried_out_outside_the_main_thread():
    from _study import carry_out

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(carry_out, lambda: None, lambda status: None).result() == 0
