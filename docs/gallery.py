"""The gallery: figures and headline numbers, copied from finished runs by ``python -m docs.gallery RUN …``.

A run is its folder, or ``FOLDER=FIGURE`` to choose the figure by its name; without one it is the first in alphabetical
order. ``--numbers NAME …`` keeps only the numbers of these names. The page ``docs/gallery.md`` is then written anew;
without a run only the page is.
"""

import argparse
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KEPT = HERE / "gallery"
MOST_NUMBERS = 24
INTRODUCTION = """# Gallery of experiments

Each experiment is one script that asks one question. It runs as a command and, cell by cell, as a notebook. The figures
and numbers below are from the runs named beside them; `python -m docs.gallery RUN` copies a run to this page.
"""


def scripts() -> list[Path]:
    """The scripts of ``experiments/``, in alphabetical order."""
    return sorted(path for path in (HERE.parent / "experiments").glob("*.py") if not path.name.startswith("_"))


def question_of(script: Path) -> tuple[str, str]:
    """Title and first paragraph of the first text cell of a script, in the percent format.

    A script without cells starts those of a folder that it names, and one of them has the text. A list that the
    paragraph announces, with a colon at its end, belongs to it.
    """
    source, begin = script.read_text(), "# %% [markdown]\n"
    inner = [path.read_text() for path in sorted(script.parent.glob("*/*.py")) if path.parent.name in source]
    cell = next(text for text in (source, *inner) if begin in text).split(begin)[1].split("# %%")[0]
    text = re.sub(r"^# ?", "", cell, flags=re.MULTILINE).strip()
    title, *paragraphs = text.split("\n\n")
    number = 2 if paragraphs[0].endswith(":") else 1
    return title.removeprefix("# ").rstrip("."), "\n\n".join(paragraphs[:number])


def command_of(argv: list[str]) -> str:
    """The command of a run, without the folder that it wrote."""
    words = shlex.join(["python", *argv])
    return re.sub(r" --out[ =]\S+| --overwrite", "", words)


def numbers_in(summary: Any, path: str = "") -> dict[str, float | list[float]]:
    """Every number of a nested summary, and every short list of numbers, by its path."""
    if isinstance(summary, dict):
        return {
            name: number
            for key, value in summary.items()
            for name, number in numbers_in(value, path if key == "cells" else f"{path} {key}").items()
        }
    values = summary if isinstance(summary, list) else [summary]
    if not values or len(values) > 5 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return {}
    return {path.strip(): summary}


def copy_run(folder: Path, figure: str | None, names: list[str]) -> Path:
    """Copies one figure of a run and writes its numbers beside it; returns the file of numbers.

    Raises:
        ValueError: for a folder that holds no finished run, no such figure or no such numbers.
    """
    try:
        start = json.loads((folder / "env.json").read_text())[-1]
        summary = json.loads((folder / "summary.json").read_text())
        config = json.loads((folder / "config.json").read_text())
    except OSError as error:
        raise ValueError(f"run got {folder} ({error}); want the folder of a finished experiment") from error
    name = Path(start["argv"][0]).stem
    figures = sorted((folder / "figures").glob(f"{figure or '*'}.svg"))
    numbers = {path: value for path, value in numbers_in(summary).items() if not names or path.split()[-1] in names}
    if not figures or not numbers:
        raise ValueError(f"run got {folder}, figure {figure}, numbers {names}; want names that the run has")
    KEPT.mkdir(exist_ok=True)
    shutil.copy(figures[0], KEPT / f"{name}.svg")
    facts = {"command": command_of(start["argv"]), "smoke": bool(config.get("smoke")), "figure": figures[0].stem}
    facts |= {name: start[name] for name in ("commit", "dirty", "date", "cpu", "jax")}
    facts["numbers"] = dict(list(numbers.items())[:MOST_NUMBERS])
    (KEPT / f"{name}.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    return KEPT / f"{name}.json"


def section(script: Path) -> str:
    """What the page shows of one experiment."""
    title, question = question_of(script)
    parts = [f"## {title}", f"`experiments/{script.name}`", question]
    facts = KEPT / f"{script.stem}.json"
    if not facts.exists():
        return "\n\n".join([*parts, "*No run has been copied to the gallery yet.*"])
    run = json.loads(facts.read_text())
    if run["smoke"]:
        parts.append("**From a smoke run of a few seconds: it shows that the script works, its numbers mean nothing.**")
    parts.append(f"![{run['figure'].replace('_', ' ')}](gallery/{script.stem}.svg)")
    rows = [f"| {path} | {shown(value)} |" for path, value in run["numbers"].items()]
    parts.append("\n".join(["| number | value |", "|---|---|", *rows]))
    parts.append(f"`{run['command']}`, {run['date'][:10]}, {run['cpu']}, jax {run['jax']}.")
    return "\n\n".join(parts)


def shown(value: float | list[float]) -> str:
    """A number of four digits, or several."""
    return ", ".join(f"{number:.4g}" for number in (value if isinstance(value, list) else [value]))


def page() -> str:
    """The whole page, from the scripts and from what the gallery holds."""
    return "\n\n".join([INTRODUCTION.strip(), *map(section, scripts())]) + "\n"


def main() -> None:
    """Reads the command line, copies the runs and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m docs.gallery", description=str(__doc__).partition("\n")[0])
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a run folder, or FOLDER=FIGURE")
    parser.add_argument("--numbers", nargs="+", default=[], metavar="NAME", help="keep only these, by their last name")
    options = parser.parse_args()
    for run in options.runs:
        folder, _, figure = run.partition("=")
        try:
            print(copy_run(Path(folder), figure or None, options.numbers))
        except ValueError as error:
            parser.error(str(error))
    (HERE / "gallery.md").write_text(page())


if __name__ == "__main__":
    main()
