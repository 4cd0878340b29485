"""The command of an experiment: options in a notebook, exit code, status, and the line after an error."""

from pathlib import Path

import pytest

from rnn_jax.lab.options import read_options
from tests.tiny_study import Options


@pytest.mark.parametrize(
    ("words", "out", "how"),
    [
        ("", "runs/tiny_study-notebook", "overwrite"),
        ("--seeds 2", "runs/tiny_study-notebook", "overwrite"),
        ("--resume", "runs/tiny_study-notebook", "resume"),
        ("--no-overwrite", "runs/tiny_study-notebook", ""),
        ("--out mine", "mine", ""),
        ("--out=mine", "mine", ""),
        ("--out=mine --resume", "mine", "resume"),
        ("--out mine --overwrite", "mine", "overwrite"),
    ],
)
def test_a_notebook_overwrites_the_default_folder_and_no_other_unless_an_option_asks_for_it(
    words, out, how, monkeypatch
):
    monkeypatch.setenv("RNN_JAX_OPTIONS", words)
    for module in ("commands", "options"):
        monkeypatch.setattr(f"rnn_jax.lab.{module}.in_notebook", lambda: True)
    options = read_options(Options)
    assert options.out == Path(out)
    assert {name for name in ("resume", "extend", "overwrite") if getattr(options, name)} == {how} - {""}
