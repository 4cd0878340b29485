"""Prints several runs on one text in one table, the best first: ``char_lm.py table RUN RUN …``."""

import dataclasses
from pathlib import Path

import tyro

from rnn_jax.lab.commands import begin_command, parse


@dataclasses.dataclass(frozen=True)
class Options:
    """Several runs on one text, in one table."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders."""


begin_command()
folders = parse(Options, prog="char_lm.py table").runs
if not folders:
    raise ValueError("table got no run; want run folders, such as: table runs/char_lm/*")

from rnn_jax.lab.progress import print_table
from rnn_jax.lab.text_scores import run_table

table = run_table(folders)
print_table("Models of characters", table.columns, table.rows, table.legend)
