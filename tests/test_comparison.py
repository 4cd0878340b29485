"""Several runs are compared: their curves, their best scores, and runs that cannot be compared."""

import numpy as np
import pytest

from rnn_jax.lab.comparison import compare_runs
from rnn_jax.lab.options import StudyOptions
from rnn_jax.lab.page import metric_curves
from rnn_jax.lab.runs import open_run
from rnn_jax.lab.text_scores import with_units
from tests.laboratory import refused


def test_runs_are_compared_by_their_metric_curves(tmp_path):
    losses = {"slow": [3.0, 2.0, 2.5], "fast": [1.0, 0.5, float("nan")]}
    for name, of in losses.items():
        run = open_run(tmp_path / name / "default", StudyOptions())
        for seed in (0, 1):
            rows = [{"cell": "gru", "seed": seed, "split": "validation", "step": 10 * k, "loss": loss + seed}
                    for k, loss in enumerate(of, 1)]  # fmt: skip
            for row in rows:
                run.log(**row)
        run.log(cell="gru", seed=2, split="validation", step=10, loss=9.0)  # in training
    compared = compare_runs([tmp_path / name / "default" for name in losses])
    lines = {line.get_label(): np.asarray(line.get_xydata()) for line in compared.figure.axes[0].get_lines()}
    np.testing.assert_allclose(lines["slow/default"], [[10, 3.5], [20, 2.5], [30, 3.0]])
    assert compared.table.rows == [
        ("slow/default", "2", "2.500", "20", "3.000"),
        ("fast/default", "2", "1.000", "20", "nan"),
    ]
    assert "<svg" in compared._repr_html_()
    assert list(metric_curves(tmp_path / "slow/default", "loss")["gru"].values.shape) == [3, 2]
    with pytest.raises(ValueError, match="has no evaluation with the score 'accuracy'; want a run"):
        compare_runs([tmp_path / "slow" / "default"], "accuracy")


def written(folder, losses, **fields):
    """A run folder with these losses on the validation part."""
    run = open_run(folder, StudyOptions())
    for step, loss in enumerate(losses, 1):
        run.log(cell="gru", split="validation", step=step, accuracy=1 - loss / 4, **with_units(loss), **fields)
    return folder


def test_the_best_of_each_score_of_text_is_the_smallest_and_of_any_other_the_largest_unless_given(tmp_path):
    folder = written(tmp_path / "run", [3.0, 1.0, 2.0])

    def best(score, **how):
        ((_, _, _, step, _),) = compare_runs([folder], score, **how).table.rows
        return int(step)

    assert {score: best(score) for score in (*with_units(1.0), "accuracy")} == dict.fromkeys(
        ("loss", "bits_per_char", "perplexity", "accuracy"), 2
    )
    assert best("accuracy", smaller_is_better=True) == best("perplexity", smaller_is_better=False) == 1


def test_a_folder_that_is_given_twice_and_runs_on_several_tasks_are_refused_in_one_line(tmp_path):
    plain = written(tmp_path / "plain", [1.0])
    text, adding = (written(tmp_path / name, [1.0], task=name) for name in ("text", "adding"))
    compare_runs([text])
    for folders, message in {
        (plain, tmp_path / "text" / ".." / "plain"): f"comparison got {plain} twice; want each run once",
        (text, adding): "comparison got runs on the tasks ['adding', 'text']; want runs on one task",
        (plain, text): "comparison got runs on the tasks ['', 'text']; want runs on one task",
    }.items():
        refused(lambda folders=folders: compare_runs(folders), message)
