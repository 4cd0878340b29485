"""Tables and figures of the results: ``python -m benchmarks.tables`` writes them into benchmarks/README.md.

Only results that are not quick count. Of several of one case, times and ratios of peers are the medians, and of other
benchmarks the latest counts.
"""

import functools
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pictures import estimators_figure, peers_figure, scaling_figure, vanishing_figure
from benchmarks.report import LOSING
from benchmarks.timing import ROOT
from rnn_jax.lab.figures import images_of

README = ROOT / "benchmarks" / "README.md"
RESULTS = ROOT / "benchmarks" / "results"

Rows = list[dict[str, Any]]
"""Records as they stand in the results."""


OF_ONE_COMMIT = ("peers", "vanishing", "learning", "estimators", "instruments", "gradbench")
"""Benchmarks whose cases are compared with each other: all are measured at one commit, with one setting of memory."""


def results_of(benchmark: str, folder: Path = RESULTS) -> dict[str, Rows]:
    """The records of a benchmark that count, by the kind of device in the name of the file."""
    found = {}
    for file in sorted(folder.glob(f"{benchmark}-*.jsonl")):
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        settings = {json.dumps([r.get("memory"), r["environment"]["commit"]]) for r in records if not r["quick"]}
        if benchmark in OF_ONE_COMMIT and len(settings) > 1:
            raise ValueError(f"{file.name} got records of several commits or settings of memory; want those of one")
        cases: dict[str, Rows] = {}
        for record in records:
            if not record["quick"]:
                cases.setdefault(json.dumps(record["case"], sort_keys=True), []).append(record)
        if cases:
            found[file.stem.removeprefix(f"{benchmark}-")] = with_floors(list(map(middle, cases.values())))
    return found


MEDIANS = ("median", "ratio", "compile_seconds", "own_cell_ratio")
"""The entries of records of peers, and of contenders in them, that are medians over several records of one case."""


def middle(records: Rows) -> dict[str, Any]:
    """The last of the records of one case; of peers, with the medians of all their times and ratios."""
    last = records[-1]
    if "contenders" not in last:
        return last

    def medians(entries: Rows) -> dict[str, float]:
        return {name: float(np.median([entry[name] for entry in entries])) for name in MEDIANS if name in entries[0]}

    timed = {
        name: times | medians([record["contenders"][name] for record in records if name in record["contenders"]])
        for name, times in last["contenders"].items()
    }
    rate = max(record["flops_per_second"] for record in records)
    return last | medians(records) | {"contenders": timed, "runs": len(records), "flops_per_second": rate}


def with_floors(records: Rows) -> Rows:
    """Records with their floors at the best rate of all; records without floors are returned unchanged."""
    rates = [record["flops_per_second"] for record in records if "flops_per_second" in record]
    return [r | {"floor_seconds": r["flops"] / max(rates)} if "flops" in r else r for r in records]


def by_case(records: Rows, name: str) -> dict[str, Rows]:
    """The records in groups that have the same entry of the case, in their order."""
    groups: dict[str, Rows] = {}
    for record in records:
        groups.setdefault(record["case"][name], []).append(record)
    return groups


def filled(text: str, name: str, block: str) -> str:
    """A text with another block between the markers ``<!-- name -->`` and ``<!-- /name -->``."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"text got no markers {begin} and {end}; want each once")
    inner = f"\n{block}\n" if block else ""
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{inner}{end}", text, flags=re.DOTALL)


def filled_readme(text: str, folder: Path = RESULTS) -> str:
    """The text of the README with the tables of the results in a folder."""
    blocks = {
        "peers": peers_block,
        "vanishing": vanishing_block,
        "learning": learning_block,
        "estimators": estimators_block,
        "pairs": pairs_block,
        "scaling": scaling_block,
    }
    return functools.reduce(lambda text, name: filled(text, name, blocks[name](folder)), blocks, text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mebibytes(size: int | None) -> str:
    """Bytes in MiB; a dash where they are not known."""
    return "–" if size is None else f"{size / 2**20:,.1f}"


def where(record: dict[str, Any]) -> str:
    """The device, the versions and the commit of a record, in one line."""
    here = record["environment"]
    commit = (here["commit"] or "no commit")[:7] + (" with changes" if here["dirty"] else "")
    return f"{here['device_kind']} ({here['cpu']}, {here['cores']} cores), jax {here['jax']}, {commit}, {here['date']}"


def peers_block(folder: Path = RESULTS) -> str:
    """Tables of the seconds of ours over those of each contender, for each kind of device and schedule."""
    parts = []
    for kind, records in results_of("peers", folder).items():
        for schedule, of_schedule in by_case(records, "schedule").items():
            parts += peers_section(kind, schedule, of_schedule)
    return "\n\n".join(parts)


def peers_section(kind: str, schedule: str, records: Rows) -> list[str]:
    """The paragraphs and tables of one kind of device and one schedule."""
    last = records[-1]
    names = peers_of(records)
    others = ", ".join(f"{name} {number}" for name, number in last["versions"].items())
    missing = {f"{name}: {why}" for record in records for name, why in record["missing"].items()}
    settings = " ".join(f"{k}={v}" for k, v in last["memory"]["settings"].items()) or "as usual"
    kept = {True: "kept", False: "given back", None: "not known"}[last["memory"]["keeps_freed"]]
    groups = by_case(records, "cell")
    means = (
        [f"{cell}, {mode}", *(bold(mean(rows, name)) for name in [*names, COMPILATION])]
        for cell, of_cell in groups.items()
        for mode, rows in by_case(of_cell, "mode").items()
    )
    runs = " to ".join(map(str, sorted({record["runs"] for record in records})))
    return [
        f"### Schedule `{schedule}`, {kind}",
        f"{where(last)}; {others}. Runs: {runs}. Memory: {settings}; freed memory is {kept}."
        + (f" Missing: {'; '.join(sorted(missing))}." if missing else ""),
        "Geometric means, over all points below, of the seconds of ours over those of each contender:",
        table(["cell", *names, COMPILATION], means),
        f"![Seconds over the floor, by shape](results/{peers_picture(kind, schedule)})",
        *(points_table(cell, names, rows) for cell, rows in groups.items()),
    ]


def points_table(cell: str, names: list[str], records: Rows) -> str:
    """One cell: milliseconds, times the floor, and the ratios of every point."""
    rows = []
    for record in sorted(records, key=lambda record: record["case"]["mode"]):
        case, ours = record["case"], record["contenders"]["ours"]["median"]
        shape = f"{case['mode']}, B {case['B']}, H {case['H']}, T {case['T']}"
        floors = ours / record["floor_seconds"]
        rows.append([shape, f"{1e3 * ours:.3g}", f"{floors:.3g}", *(bold(ratio(record, name)) for name in names)])
    return table([f"{cell}: ours over …", "ours, ms", "floors", *names], rows)


OWN = "own cell / its lax.scan"
"""The column of ``rollout`` of a user's own cell over ``lax.scan`` of the same step."""

COMPILATION = "compilation / lax.scan"
"""The column of the time that our program takes to compile over that of ``lax.scan``."""


def peers_of(records: Rows) -> list[str]:
    """The contenders of any of the records but ours, in their order, and the column of the own cell."""
    found = dict.fromkeys(name for record in records for name in record["contenders"] if name != "ours")
    return [*found, OWN]


def ratio(record: dict[str, Any], name: str) -> float | None:
    """The ratio of a column in a record; None where the contender is missing."""
    if name == OWN:
        return record["own_cell_ratio"]
    if name == COMPILATION:
        ours, scan = (record["contenders"][of]["compile_seconds"] for of in ("ours", "lax.scan"))
        return ours / scan
    return record["contenders"][name]["ratio"] if name in record["contenders"] else None


def mean(records: Rows, name: str) -> float | None:
    """The geometric mean of a column; None where the contender is always missing."""
    known = [value for record in records if (value := ratio(record, name)) is not None]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else None


def bold(value: float | None) -> str:
    """A ratio, in bold where ours loses."""
    if value is None:
        return "–"
    return f"**{value:.2f}**" if value > LOSING else f"{value:.2f}" if value >= 0.01 else f"{value:.1g}"


def peers_picture(kind: str, schedule: str) -> str:
    """The name of the file of a figure."""
    return f"peers-{kind}.svg" if schedule == "auto" else f"peers-{kind}-{schedule}.svg"


def vanishing_block(folder: Path = RESULTS) -> str:
    """Tables of gradients before and after training and of the longest lengths learned, for each kind of device."""
    parts = []
    for kind, records in results_of("vanishing", folder).items():
        lags = [lag for lag in ("10", "100", "1000") if lag in records[0]["before"]["left"]]
        rows = [
            row for record in records for row in (vanishing_row(record, when, lags) for when in ("before", "after"))
        ]
        left = [f"ln left at {int(lag):,}" for lag in lags]
        parts += [
            f"### {kind}",
            f"{where(records[-1])}.",
            table(["cell, training", "units", "slope", "closed form", "half-life", *left, "longest T learned"], rows),
            f"![Gradient left by lag, and error by length](results/vanishing-{kind}.svg)",
        ]
    return "\n\n".join(parts)


def vanishing_row(record: dict[str, Any], when: str, lags: Sequence[str]) -> list[str]:
    """A row of one cell before or after training; the closed form is of networks before, the length of those after."""
    gradient, theory = record[when], record["closed_form"]
    return [
        f"{record['case']['cell']}, {when}",
        str(record["case"]["H"]),
        of_seeds(gradient["slope"], "+.3f"),
        f"{theory:+.3f}" if when == "before" and theory is not None else "–",
        of_seeds(gradient["half_life"], ",.1f"),
        *(of_seeds(gradient["left"][lag], "+.1f") for lag in lags),
        of_seeds(record["longest"], "g") if when == "after" else "–",
    ]


def of_seeds(values: Sequence[float | None], form: str) -> str:
    """The median of seeds and their range, of those that are known and with their number; a dash where none is."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    of = "" if len(known) == len(values) else f", {len(known)} of {len(values)}"
    return f"{np.median(known):{form}} ({min(known):{form}} … {max(known):{form}}{of})"


def scaling_block(folder: Path = RESULTS) -> str:
    """Tables of exponents, for each kind of device."""
    parts = []
    for kind, records in results_of("scaling", folder).items():
        parts += [
            f"### {kind}",
            f"{where(records[-1])}. Each pair is p of seconds ∝ size^p and of temporaries ∝ size^p.",
            exponents_table(records),
            *skipped(records),
            f"![Time and memory of the gradient by T, B and H](results/scaling-{kind}.svg)",
        ]
    return "\n\n".join(parts)


PAIRS = ("training", "parallel", "flags", "associative", "instruments", "gradbench")
"""Benchmarks of two programs whose results are shown."""


def learning_block(folder: Path = RESULTS) -> str:
    """Tables of what networks have learned, for each kind of device."""
    parts = []
    for kind, records in results_of("learning", folder).items():
        rows = [
            [
                record["case"]["task"],
                record["case"]["cell"],
                str(record["case"]["hidden_size"]),
                ", ".join(f"{loss:.2g}" for loss in record["losses"]),
                f"{record['baseline']:.3g}",
                ", ".join(f"{n:,}" for n in record["updates"]),
            ]
            for record in records
        ]
        columns = ["task", "cell", "units", "loss of each seed", "without memory", "updates"]
        parts += [f"### {kind}", f"{where(records[-1])}.", table(columns, rows)]
    return "\n\n".join(parts)


def estimators_block(folder: Path = RESULTS) -> str:
    """Tables of errors and costs of estimators of the gradient, for each kind of device."""
    parts = []
    for kind, records in results_of("estimators", folder).items():
        rows = [
            [
                record["case"]["cell"],
                record["case"]["estimator"],
                f"{record['bias']:.2g}" + (f" ({record['bias_error']:.2g})" if record["bias_error"] else ""),
                f"{record['variance']:.2g}",
                f"{record['cosine']:.3f}",
                f"{record['figures']['ratio']['median']:.2f}",
                mebibytes(record["figures"]["ours"]["temp_bytes"]),
            ]
            for record in records
        ]
        columns = ["cell", "estimator", "bias", "variance", "cosine", "gradients", "temporaries, MiB"]
        case = records[-1]["case"]
        parts += [
            f"### {kind}",
            f"{where(records[-1])}; H {case['H']}, B {case['B']}, T {case['T']}.",
            f"![Bias, standard deviation, cosine and time of each estimator](results/estimators-{kind}.svg)",
            table(columns, rows),
        ]
    return "\n\n".join(parts)


def pairs_block(folder: Path = RESULTS) -> str:
    """Tables of the seconds of ours over those of the baseline, for each benchmark of pairs and kind of device."""
    parts = []
    for benchmark in PAIRS:
        for kind, records in results_of(benchmark, folder).items():
            last = records[-1]
            names = list(last["case"])
            rows = [
                [
                    *(str(record["case"][name]) for name in names),
                    f"{1e3 * record['figures']['ours']['seconds']['median']:.3g}",
                    bold(record["figures"]["ratio"]["median"]),
                ]
                for record in records
            ]
            parts += [
                f"### {benchmark.capitalize()} against {last['baseline']}, {kind}",
                f"{where(last)}.",
                table([*names, "ours, ms", "ratio"], rows),
            ]
    return "\n\n".join(parts)


def curve_name(case: dict[str, Any]) -> str:
    """A gradient in words: cell, and schedule or program."""
    return f"{case['cell']}, {case['program']}" + (" (truncated)" if case["kind"] == "truncation" else "")


def exponents_table(records: Rows) -> str:
    """A row for each gradient: the exponents by T, B and H, and the cost at the longest T that was run."""
    curves: dict[str, Rows] = {}
    for record in records:
        curves.setdefault(curve_name(record["case"]), []).append(record)
    rows = []
    for name, of_curve in curves.items():
        axes = {record["case"]["axis"]: record for record in of_curve}
        row = [name]
        for axis in "TBH":
            pair = [axes[axis][f"{what}_exponent"] for what in ("time", "memory")] if axis in axes else [None, None]
            row.append(" / ".join("–" if p is None else f"{p:.2f}" for p in pair))
        run = [point for point in axes.get("T", {"points": []})["points"] if point["seconds"] is not None]
        cost = ["–", "–", "–"]
        if run:
            cost = [f"{run[-1]['size']:,}", f"{run[-1]['seconds']:.3g}", mebibytes(run[-1]["temp_bytes"])]
        rows.append(row + cost)
    return table(["gradient", "by T", "by B", "by H", "longest T", "seconds there", "temporaries there, MiB"], rows)


def skipped(records: Rows) -> list[str]:
    """A paragraph that names the points that were not run; none where all were."""
    found = [
        f"{curve_name(record['case'])} at {record['case']['axis']} {point['size']:,}: {point['skipped']}"
        for record in records
        for point in record["points"]
        if point["skipped"]
    ]
    return [f"Not run: {'; '.join(found)}."] if found else []


def main() -> None:
    """Writes the figures and the README."""
    for kind, records in results_of("peers").items():
        for schedule, rows in by_case(records, "schedule").items():
            (RESULTS / peers_picture(kind, schedule)).write_bytes(images_of(peers_figure(rows), ("svg",))["svg"])
    for kind, records in results_of("scaling").items():
        picture = images_of(scaling_figure(records, curve_name), ("svg",))["svg"]
        (RESULTS / f"scaling-{kind}.svg").write_bytes(picture)
    for kind, records in results_of("vanishing").items():
        picture = images_of(vanishing_figure(records), ("svg",))["svg"]
        (RESULTS / f"vanishing-{kind}.svg").write_bytes(picture)
    for kind, records in results_of("estimators").items():
        picture = images_of(estimators_figure(records), ("svg",))["svg"]
        (RESULTS / f"estimators-{kind}.svg").write_bytes(picture)
    README.write_text(filled_readme(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
