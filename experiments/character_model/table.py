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
folders = parse(Options).runs
if not folders:
    raise ValueError("table got no run; want run folders, such as: table runs/char_lm/*")

from rnn_jax.lab.progress import print_table
from rnn_jax.lab.runs import read_json
from rnn_jax.lab.text_scores import run_table

summaries, texts = [], {}
for folder in folders:
    config, summary = (read_json(folder / name) for name in ("config.json", "summary.json"))
    if "n_gram_nats" not in summary or "split" not in config:
        raise ValueError(f"table got {folder}, which no finished run of char_lm.py wrote; want its runs")
    summaries.append(summary)
    texts[config.get("text_sha256"), config["split"]] = str(folder)
if len(texts) > 1:
    raise ValueError(f"table got different texts or splits ({', '.join(texts.values())}); want the same in all")
table = run_table(summaries)
print_table("Models of characters", table.columns, table.rows, table.legend)
