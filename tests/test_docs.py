"""The texts of the site: links, numbers and scores. Tutorials and how-tos are executed when the site is built."""

import contextlib
import json
import math
import re
from pathlib import Path

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax
from benchmarks.tables import results_of
from docs import gallery
from rnn_jax import gru, rollout
from tests.test_house import FLOORS

DOCS = Path(gallery.__file__).parent
SCRIPTS = sorted([*DOCS.glob("tutorials/*.py"), *DOCS.glob("howto/*.py")])
TEXTS = [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")), *SCRIPTS]
GENERATED = "api/index.md"  # written when the site is built


@contextlib.contextmanager
def default_modes():
    """JAX as a user has it, not as strict as in the tests: pages must run as they stand."""
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_every_link_inside_the_repository_leads_to_a_file(text):
    links = re.findall(r"\]\(([^)#\s]+)", text.read_text())
    missing = [link for link in links if "://" not in link and link != GENERATED and not (text.parent / link).exists()]
    assert not missing


def test_every_page_stands_in_the_table_of_contents():
    contents = (DOCS / "index.md").read_text()
    pages = [*SCRIPTS, *(page for page in DOCS.glob("*.md") if page.stem != "index")]
    missing = [page.stem for page in pages if f"\n{page.relative_to(DOCS).with_suffix('')}\n" not in contents]
    assert not missing


def test_the_diagram_of_the_house_names_every_file_in_the_order_of_the_floors():
    diagram = (DOCS / "design.md").read_text().split("## The house")[1].split("```")[1]
    named, root = {*re.findall(r"\w+\.pyi?\b", diagram)}, Path(rnn_jax.__file__).parent
    assert named <= {path.name for path in root.rglob("*.py*")}
    for folder in (
        "data",
        "decoding",
        "diagnostics",
        "gradients",
        "interop",
        "lab",
        "machinery",
        "parallel",
        "training",
    ):
        assert {path.name for path in (root / folder).glob("[!_]*.py")} <= named, folder
    lines = [line for line in diagram.splitlines() if not line.startswith(" ")]
    rooms = [room for line in lines for room in re.findall(r"(?:^|  )(\w+)(?:/|\.py)(?= |$)", line)]
    assert [room for room in rooms if room in FLOORS] == [*FLOORS[:-1]]


def test_the_citation_gives_the_version():
    assert f"\nversion: {rnn_jax.__version__}\n" in (DOCS.parent / "CITATION.cff").read_text()
    assert f"version = {{{rnn_jax.__version__}}}" in (DOCS / "citation.md").read_text()


def test_the_gallery_is_what_its_script_writes():
    assert (DOCS / "gallery.md").read_text() == gallery.page(), "renew it: python -m docs.gallery"


def test_the_gallery_copies_a_figure_and_the_numbers_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "KEPT", tmp_path / "gallery")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "curves.svg").write_text("<svg/>")
    start = {
        "argv": ["experiments/dates.py"],
        "commit": "abc",
        "dirty": False,
        "date": "2026-01-02T03:04:05",
        "cpu": "a",
        "jax": "1",
    }
    summary = {"status": "done", "gru": {"accuracy": 0.5, "of_seeds": [0.4, 0.6], "curve": list(range(100))}}
    for name, content in {"env": [start], "summary": summary, "config": {"smoke": True}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    kept = json.loads(gallery.copy_run(tmp_path, None, []).read_text())
    assert kept["numbers"] == {"gru accuracy": 0.5, "gru of_seeds": [0.4, 0.6]}
    assert kept["smoke"] is True
    assert (tmp_path / "gallery" / "dates.svg").read_text() == "<svg/>"
    shown = gallery.section(DOCS.parent / "experiments" / "dates.py")
    assert "| gru of_seeds | 0.4, 0.6 |" in shown
    assert "smoke run" in shown
    with pytest.raises(ValueError, match="want names that the run has"):
        gallery.copy_run(tmp_path, "other", [])


def test_the_speed_in_the_readme_is_that_of_the_benchmarks():
    readme, results = (DOCS.parent / "README.md").read_text(), DOCS.parent / "benchmarks" / "results"

    def rows(file):
        return [json.loads(line) for line in (results / file).read_text().splitlines()]

    peers = [row for row in results_of("peers")["cpu"] if row["case"]["mode"] == "forward+backward"]
    for cell in ("vanilla", "gru", "lstm"):
        logs = [math.log(row["contenders"]["lax.scan"]["ratio"]) for row in peers if row["case"]["cell"] == cell]
        assert len(logs) == 13
        assert f"{math.exp(sum(logs) / 13):.2f} ({cell})" in readme.replace("\n", " ")
    eager = {json.dumps(row["case"]): row["figures"]["ratio"]["median"] for row in rows("eager-cpu.jsonl")}
    for call, wanted in {"sample": "3.9 times", "gradient of rollout": "2.6 times"}.items():
        (ratio,) = [ratio for case, ratio in eager.items() if json.loads(case)["call"] == call]
        assert f"{ratio:.1f} times" == wanted
        assert wanted in readme.replace("\n", " ")


def test_the_speed_of_devices_on_the_page_of_scaling_is_that_of_the_benchmarks():
    page = (DOCS / "scaling.md").read_text()
    found = {}
    for row in results_of("parallel")["cpu"]:
        case, figures = row["case"], row["figures"]
        ms = 1e3 * figures["ours"]["seconds"]["median"] / case["updates"]
        found[case["cell"], case["devices"], case["against"], case["B"], case["H"]] = ms, figures["ratio"]["median"]

    def check(ms, ratio, key):
        assert abs(float(ms) / found[key][0] - 1) < 0.05, key
        assert ratio == f"{found[key][1]:.2f}", key

    cells = {"LSTM": "lstm", "GRU": "gru", "vanilla": "tanh"}
    rows = re.findall(r"^\| (LSTM|GRU|vanilla) \| (\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", page, flags=re.MULTILINE)
    for cell, B, H, ms, ratio in rows:
        check(ms, ratio, (cells[cell], 2, "one device", int(B), int(H)))
    more = re.findall(r"^\| (\d) \| (\d+) \| (\d+) \| ([\d.]+) \|$", page, flags=re.MULTILINE)
    for devices, B, ms, ratio in more:
        check(ms, ratio, ("lstm", int(devices), "one device", int(B), 256))
    assert (len(rows), len(more)) == (8, 4)
    for devices, text in {2: "0.91 of the time", 1: "1.45, 0.78 and 0.58 of it"}.items():
        assert text in page
        assert text.startswith(f"{found['lstm', devices, 'PyTorch', 32, 256][1]:.2f}")
    for cell, ratio in {"gru": "0.49 for the GRU", "tanh": "0.38 for the vanilla"}.items():
        assert ratio in page
        assert ratio.startswith(f"{found[cell, 2, 'PyTorch', 32, 256][1]:.2f}")


def test_the_comparison_counts_the_cells_and_flax_leaves_nan_in_its_gradients():
    readme, cells = (DOCS.parent / "README.md").read_text(), (DOCS / "cells.md").read_text().split("\n## ")[0]
    number = len(re.findall(r"^\| \[", cells, flags=re.MULTILINE))
    assert f"| recurrent cells | {number} |" in readme
    row = next(line for line in readme.splitlines() if line.startswith("| gradients finite with NaN in the padding"))
    assert row.split("|")[2:4] == [" yes ", " no "]

    xs, lengths = np.ones((2, 3, 1), np.float32), np.array([3, 2], np.int32)
    xs[1, 2] = np.nan
    model = flax.linen.RNN(flax.linen.GRUCell(2), return_carry=True)
    with default_modes():
        params = model.init(jax.random.key(0), xs)
        grads = jax.grad(lambda p: model.apply(p, jnp.asarray(xs), seq_lengths=jnp.asarray(lengths))[0].sum())(params)
    assert any(jnp.isnan(grad).any() for grad in jax.tree.leaves(grads))

    cell = gru(1, 2)
    params, xs = cell.init(jax.random.key(0)), jnp.moveaxis(jnp.asarray(xs, float), 0, 1)
    grads = jax.grad(lambda p: rollout(cell, p, cell.start(p, (2,)), xs, lengths=jnp.asarray(lengths))[0].sum())(params)
    assert all(jnp.isfinite(grad).all() for grad in jax.tree.leaves(grads))


def test_the_scores_in_the_readme_are_those_of_the_gallery_and_no_run_of_it_is_a_smoke_run():
    kept = {file.stem: json.loads(file.read_text()) for file in (DOCS / "gallery").glob("*.json")}
    assert not [name for name, run in kept.items() if run["smoke"]]
    rows = re.findall(
        r"^\| [^|]+ \| `(\w+)\.py`[^|]*\| ([^|]*) \| ([^|]*) \|$", (DOCS.parent / "README.md").read_text(), re.M
    )
    assert len(rows) == 6
    for script, score, _ in rows:
        numbers = kept[script]["numbers"].items()
        means = {f"{100 * value:.1f}" for name, value in numbers if name.endswith(" mean")}
        nats = {f"{value:.2f}" for name, value in numbers if name.endswith(" mean")}
        assert {*re.findall(r"([\d.]+) %", score)} <= means, script
        assert {*re.findall(r"([\d.]+) nats", score)} <= nats, script


def test_the_picture_of_the_readme_is_the_first_figure_of_the_demo_with_every_cell():
    picture = (DOCS / "gradient_against_lag.svg").read_text()
    assert picture == (DOCS / "gallery/vanishing_gradients.svg").read_text()
    assert all(f">{name}<" in picture for name in ("tanh", "relu-identity", "gru", "lstm"))
