"""The benchmark of estimators of the gradient: its record, its table and its figure."""

import json

import jax
import numpy as np
import pytest

from benchmarks import bench_estimators, tables
from benchmarks.bench_estimators import QUICK, of_estimator
from benchmarks.pictures import LEAST, estimators_figure
from benchmarks.timing import json_line
from rnn_jax import min_gru, readout


@pytest.fixture(scope="module")
def records():
    """Records of one tiny network, as JSON."""
    model = readout(min_gru(1, 3), 1)
    params = model.init(jax.random.key(0))
    sizes = QUICK._replace(keys=3)
    labels = ("RTRL, diagonal", "UORO")
    return [
        json.loads(json_line(of_estimator(label, "min_gru", model, params, sizes, quick=False))) for label in labels
    ]


def test_an_exact_estimator_has_no_error_and_a_random_one_has_a_variance(records):
    exact, random = records
    assert exact["bias"] < 1e-9
    assert exact["variance"] == exact["bias_error"] == 0
    assert exact["cosine"] == pytest.approx(1, abs=1e-9)
    assert random["bias_error"] ** 2 == pytest.approx(random["variance"] / 3)
    assert random["cosine"] < 0.999 < 1 < random["bias"] / exact["bias"]


def test_every_estimator_of_the_library_is_measured():
    assert {function for function, _ in bench_estimators.SHOWN.values()} == set(bench_estimators.ESTIMATORS)


def test_the_table_and_the_figure_show_each_estimator(records, tmp_path):
    (tmp_path / "estimators-cpu.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    rows = [line.split(" | ") for line in tables.estimators_block(tmp_path).splitlines() if "| min_gru" in line]
    assert [row[1] for row in rows] == ["RTRL, diagonal", "UORO"]
    assert rows[0][2:5] == [f"{records[0]['bias']:.2g}", "0", "1.000"]
    assert rows[1][2] == f"{records[1]['bias']:.2g} ({records[1]['bias_error']:.2g})"
    bias, deviation, cosine, time = (
        np.asarray(axis.get_lines()[0].get_xdata()) for axis in estimators_figure(records).axes
    )
    np.testing.assert_allclose(bias, [LEAST, records[1]["bias"]])
    np.testing.assert_allclose(deviation, [LEAST, records[1]["variance"] ** 0.5])
    np.testing.assert_allclose(cosine, [record["cosine"] for record in records])
    np.testing.assert_allclose(time, [record["figures"]["ratio"]["median"] for record in records])
