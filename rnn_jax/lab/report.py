"""A report that one can mail: one HTML file with its figures, its table and its numbers inside, and no outside link."""

import base64
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jinja2

from rnn_jax.lab.files import inside
from rnn_jax.lab.runs import Run

__all__ = ["Section", "write_report"]


class Section(NamedTuple):
    """A figure of the run folder and the plain sentence under it."""

    title: str
    figure: str
    """Name of a figure that ``Run.draw`` wrote."""
    says: str


def write_report(
    run: Run,
    *,
    title: str,
    question: str,
    answer: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    legend: str,
    sections: Sequence[Section],
    samples: Mapping[str, str],
    rerun: str,
) -> None:
    """Writes ``report.html`` into the run folder.

    Args:
        run: the folder, with the figures drawn.
        title, question, answer: the head of the page.
        columns, rows, legend: the table, and the sentence under it that explains its columns.
        sections: the figures, in order.
        samples: ``{label: text}``.
        rerun: the command that makes this report again.
    """
    environment = jinja2.Environment(loader=jinja2.PackageLoader("rnn_jax.lab"), autoescape=True)
    page = environment.get_template("report.html").render(
        title=title,
        question=question,
        answer=answer,
        columns=columns,
        rows=rows,
        legend=legend,
        sections=[{**section._asdict(), "image": _data_uri(run, section.figure)} for section in sections],
        samples=samples,
        rerun=rerun,
        config=(run.folder / "config.json").read_text(encoding="utf-8"),
        env=(run.folder / "env.json").read_text(encoding="utf-8"),
    )
    run.write("report.html", page)


def _data_uri(run: Run, figure: str) -> str:
    """A figure's SVG as an address that holds the picture itself."""
    image = inside(run.folder, f"figures/{figure}.svg").read_bytes()
    return "data:image/svg+xml;base64," + base64.b64encode(image).decode("ascii")
