"""The run folder: what a run did not write is never deleted or followed, and names lead nowhere else."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from rnn_jax.lab.checkpoints import Checkpoints, save_params
from rnn_jax.lab.commands import wrong_use
from rnn_jax.lab.page import Table, add_figure, shortened, write_page
from rnn_jax.lab.runs import open_run, read_json, read_metrics
from tests.laboratory import as_a_user_has_it, refused
from tests.test_runs import Config


def everything(folder):
    """``{name: content}`` of all files of a folder, those behind links too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A run folder with something in every part of it."""
    run = open_run(tmp_path_factory.mktemp("full") / "run", Config())
    run.log(step=1, wall_s=0.5)
    run.append("samples.txt", "a")
    run.write_json("summary.json", {})
    run.draw("curves", Figure((1, 1)), ("a",), [(1,)])
    save_params(run.path("cells/gru-0.safetensors"), {"h": np.zeros(2)})
    for step in (1, 2, 3):
        Checkpoints(run.folder / "checkpoints").save(step, {"h": np.zeros(2)}, {})
    (run.folder / "checkpoints" / "4.part").mkdir()
    (run.folder / "checkpoints" / "4.part" / "state").write_text("of a save that was killed")
    (run.folder / "checkpoints" / "2").rename(run.folder / "checkpoints" / "2.damaged")
    return run.folder


FOREIGN = ["thesis.tex", "report.html", "figures/my_paper.tex", "figures/mine.png", "figures/curves.pdf"]
FOREIGN += ["cells/gru-1.safetensors", "checkpoints/notes", "checkpoints/3/state/notes", "checkpoints/9/notes", "a/b/c"]


@pytest.mark.parametrize("name", FOREIGN)
def test_overwriting_refuses_to_delete_what_the_run_did_not_write_wherever_it_lies(full, tmp_path, name):
    folder = tmp_path / "run"
    shutil.copytree(full, folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("mine")
    before = everything(folder)
    refused(
        lambda: open_run(folder, Config(), overwrite=True),
        f"--out got {folder}, which no run wrote (see {name}); want another folder",
    )
    assert everything(folder) == before
    (folder / name).unlink()
    open_run(folder, Config(), overwrite=True)
    assert sorted(everything(folder)) == [".lock", "config.json", "env.json", "metrics.jsonl"]


def test_a_list_of_what_was_written_cannot_reach_outside(full, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(full, folder)
    (tmp_path / "mine").write_text("mine")
    names = json.loads((folder / "files.json").read_text())
    (folder / "files.json").write_text(json.dumps([*names, "../mine", str(tmp_path / "mine")]))
    open_run(folder, Config(), overwrite=True)
    assert (tmp_path / "mine").read_text() == "mine"


def test_what_the_system_and_others_put_there_blocks_neither_a_start_nor_resuming(full, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".DS_Store").write_text("x")
    (folder / "log").touch()  # as ``| tee run/log`` does before the run begins
    open_run(folder, Config())
    (folder / "log").write_text("epoch 1")
    (folder / "notes").mkdir()
    (folder / "notes" / "mine").write_text("x")
    before = everything(folder).keys()
    open_run(folder, Config(), resume=True)
    assert everything(folder).keys() == before
    shutil.rmtree(folder)
    shutil.copytree(full, folder)
    (folder / "figures" / ".DS_Store").write_text("x")
    open_run(folder, Config(), overwrite=True)
    assert (folder / "figures" / ".DS_Store").read_text() == "x"


LINKS = [".lock", "metrics.jsonl", "timings.jsonl", "samples.txt", "config.json", "env.json"]
LINKS += ["figures", "cells", "checkpoints", "files.json"]


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}], ids=lambda options: "".join(options))
def test_a_link_in_a_run_folder_leads_to_no_change_elsewhere(tmp_path, name, options):
    folder = open_run(tmp_path / "run", Config()).folder if options else tmp_path / "run"
    folder.mkdir(exist_ok=True)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "curves.csv").write_text("x")
    target = tmp_path / "theirs" / ("curves.csv" if "." in name else "")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    (tmp_path / "theirs" / "new").touch()
    before = everything(tmp_path)
    refused(lambda: open_run(folder, Config(), **options), f"--out got {folder}, where {name} is a symbolic link")
    assert everything(tmp_path) == before
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "nowhere")
    refused(lambda: open_run(folder, Config(), **options), f"--out got {folder}, where {name} is a symbolic link")
    assert not (tmp_path / "nowhere").exists()


def test_what_is_written_replaces_a_link_and_does_not_follow_it(tmp_path):
    run = open_run(tmp_path / "run", Config())
    (tmp_path / "theirs").write_text("x")
    (run.folder / "figures").mkdir()
    for name in (
        "report.html",
        "report.html.part",
        "figures/a.csv",
        "figures/a.csv.part",
        "figures/a.png",
        "p",
        "p.part",
    ):
        (run.folder / name).symlink_to(tmp_path / "theirs")
    run.write("report.html", "y")
    run.draw("a", Figure((1, 1)), ("a",), [(1,)])
    save_params(run.path("p"), {"h": np.zeros(2)})
    assert (tmp_path / "theirs").read_text() == "x"
    assert (run.folder / "report.html").read_text() == "y"


@pytest.mark.parametrize("name", ["../pwned", "/tmp/pwned", "figures/../../pwned", "..", ".", "", "a\0b"], ids=ascii)
def test_no_name_leads_outside_the_run_folder(tmp_path, name):
    run = open_run(tmp_path / "run", Config())
    before = everything(tmp_path)
    for write in (lambda: run.write(name, ""), lambda: run.append(name, ""), lambda: run.path(name)):
        refused(write, f"name got {name!r}; want a path inside the run folder")
    if name not in ("..", ".", ""):
        refused(lambda: run.draw(f"a/../../{name}", Figure((1, 1)), (), []), "name got ")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["lr[0.1]", "a*b?{x}", "-x %20 ~#\n", "a\\b", "中文", "\udcff"], ids=ascii)
def test_a_run_and_its_report_lie_in_a_folder_of_any_name(tmp_path, name):
    run = open_run(tmp_path / name, Config(text=Path(name)))
    run.log(step=1, wall_s=1.0)
    figure = Figure((1, 1))
    figure.text(0, 0, "中文")
    bad = "<script>alert(1)</script>"
    section = add_figure(run, "curves", figure, (name,), [(name,)], title=name, sentence=bad)
    page = {"title": name, "question": name, "answer": "<b>", "rerun": f"python {run.folder}"}
    table = Table([name], [["<i>"]], "&lt;")
    write_page(run, **page, is_smoke=False, table=table, sections=[section], samples={"<u>": "</pre><script>"})
    html = (run.folder / "report.html").read_text()
    assert not re.search("<(script|b|i|u)>", html)
    assert html.count("</pre>") == 4
    inline = section._repr_html_() + table._repr_html_()
    assert not re.search("<(script|b|i|u)>", inline)
    assert inline.startswith("<svg")
    assert "&lt;i&gt;" in inline
    svg = (run.folder / "figures" / "curves.svg").read_text()
    assert "中文" in svg
    open_run(tmp_path / name, Config(text=Path(name)), resume=True)
    open_run(tmp_path / name, Config(), overwrite=True)
    assert not (run.folder / "figures").exists()


def test_a_report_of_nothing_is_a_page(tmp_path):
    run = open_run(tmp_path / "run", Config())
    page = dict.fromkeys(("title", "question", "answer", "rerun"), "")
    write_page(run, **page, is_smoke=False, table=Table([], []), sections=[], samples={})
    assert "In numbers" not in (run.folder / "report.html").read_text()


@pytest.mark.parametrize("is_smoke", [True, False])
def test_the_page_of_a_smoke_run_has_a_banner_and_its_title_too(tmp_path, is_smoke):
    run = open_run(tmp_path / "run", Config())
    page = {"title": "Dates", **dict.fromkeys(("question", "answer", "rerun"), "")}
    write_page(run, **page, is_smoke=is_smoke, table=Table([], []), sections=[], samples={})
    html = (run.folder / "report.html").read_text()
    assert ("<title>Dates (smoke run)</title>" in html) == is_smoke
    assert ("its numbers mean nothing" in html) == is_smoke


def test_a_long_sample_is_cut_on_the_page_and_whole_in_its_file():
    text = "\n".join(map(str, range(100)))
    assert shortened(text).splitlines()[-2:] == ["39", "… and 60 more lines in samples.txt"]
    assert shortened("a\nb", 2) == "a\nb"


def test_a_path_may_be_a_string(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with as_a_user_has_it():
        run = open_run("run", Config())
        run.log(step=1)
        assert read_metrics("run") == [{"step": 1}]
        assert read_json("run/config.json")["size"] == 3


@pytest.mark.parametrize(
    ("name", "text"), [("config.json", "[]"), ("config.json", "{"), ("env.json", "{}"), ("env.json", "")]
)
def test_a_run_whose_files_are_damaged_is_refused_in_one_line(tmp_path, name, text):
    folder = open_run(tmp_path / "run", Config()).folder
    (folder / name).write_text(text)
    refused(lambda: open_run(folder, Config(), resume=True), f"run got {folder / name}, which cannot be read")
    assert (folder / name).read_text() == text
    open_run(folder, Config(), overwrite=True)


def test_what_the_terminal_cannot_show_ends_no_command(monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", shown)
    with wrong_use():
        print("☃ \udcff")
    shown.flush()
    assert shown.buffer.getvalue() == b"\\u2603 \\udcff\n"
