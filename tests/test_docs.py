"""The pages of the site: every tutorial and how-to runs, every number on them is asserted, every link leads somewhere."""

import re
import runpy
from pathlib import Path

import jax
import matplotlib
import pytest
from matplotlib import pyplot

DOCS = Path(__file__).parents[1] / "docs"
SCRIPTS = sorted([*DOCS.glob("tutorials/*.py"), *DOCS.glob("howto/*.py")])
TEXTS = [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_page_runs_and_its_numbers_hold(script):
    matplotlib.use("agg")
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # as a user's
        runpy.run_path(str(script))
    pyplot.close("all")
