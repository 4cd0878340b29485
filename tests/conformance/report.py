"""The report: what the suites measured, as facts in results.json, and docs/conformance.md, which is made of them."""

import importlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from tests.conformance.cases import DIRECTLY, Case, Suite
from tests.conformance.conventions import CONVENTIONS

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
PAGE = FOLDER.parent.parent / "docs" / "conformance.md"

MODULES = (
    *("adbench", "onnx_cases", "onnx_stored", "onnx_live", "keras_stored", "keras_live", "tflite", "torch_live"),
    *("flax_live", "haiku_live", "equinox_live", "jax_live", "rings", "papers", "truncation", "enumeration"),
)
DISTRIBUTIONS = {
    "torch": "torch",
    "keras": "keras",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "flax.linen": "flax",
    "flax.nnx": "flax",
    "haiku": "dm-haiku",
    "equinox": "equinox",
}
"""What is installed for a module."""


class Result(NamedTuple):
    """What a suite measured."""

    suite: str
    cases: int
    own: int
    """How many of the cases are expressed by a cell of the suite's own."""
    tolerances: list[float]
    """The smallest and the largest of its cases."""
    error: float
    """The largest, in one digit."""


def suites() -> list[Suite]:
    """All suites, in the order of the page."""
    found: list[Suite] = []
    for name in MODULES:
        module = importlib.import_module(f"tests.conformance.{name}")
        found += getattr(module, "SUITES", None) or [module.SUITE]
    return found


def missing_for(suite: Suite) -> list[str]:
    """Names to install before a suite can run."""
    return [DISTRIBUTIONS[module] for module in suite.needs if find_spec(module.split(".")[0]) is None]


def result_of(suite: Suite, cases: Iterable[Case]) -> Result:
    """The result of a suite.

    Raises:
        AssertionError: where a case is wrong; the message names the first of them.
    """
    done = list(cases)
    wrong = [case for case in done if not case.right]
    assert not wrong, f"{suite.name}: {len(wrong)} of {len(done)} cases are wrong, the first of them {wrong[0]}"
    tolerances, largest = [case.tolerance for case in done], max(case.error for case in done)
    own = sum(case.how != DIRECTLY for case in done)
    return Result(suite.name, len(done), own, [min(tolerances), max(tolerances)], float(f"{largest:.0e}"))


def agrees(measured: Result, written: Result) -> bool:
    """Whether a run is that of the page: equal counts and tolerances, and errors of the same size.

    Another machine and another compiler round differently, so the largest error may be ten times as large, or smaller.
    """
    return measured[:4] == written[:4] and measured.error <= 10 * written.error


def versions() -> dict[str, str]:
    """Of JAX and the outside libraries that are installed."""
    names = ["jax", *dict.fromkeys(DISTRIBUTIONS.values())]
    modules = {distribution: module for module, distribution in DISTRIBUTIONS.items()} | {"jax": "jax"}
    return {name: version(name) for name in names if find_spec(modules[name].split(".")[0]) is not None}


def read_results() -> dict[str, Any]:
    """The facts of the last run: suites, versions, evidence, faults."""
    return (
        json.loads(RESULTS.read_text())
        if RESULTS.is_file()
        else {"suites": [], "evidence": [], "types": {}, "faults": []}
    )


def write(facts: dict[str, Any]) -> None:
    """Writes the facts, and the page that is made of them."""
    RESULTS.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(facts))


def row(*columns: Any) -> str:
    return "| " + " | ".join(map(str, columns)) + " |\n"


def range_of(tolerances: list[float]) -> str:
    """The tolerances of a suite in a table; 0 is for what is equal or not, such as ids.

    >>> range_of([1e-6, 1e-4]), range_of([0.0, 1e-12]), range_of([1e-5, 1e-5])
    ('1e-06 to 1e-04', '1e-12', '1e-05')
    """
    return " to ".join(dict.fromkeys(f"{each:.0e}" for each in tolerances if each))


HEAD = """# Conformance

The numbers of other libraries, and ours. Every suite below compares ours with numbers from outside: some are stored in
`tests/conformance/data`, whose README names their sources: facts that stand in the sources of others, or that their
code computed. Others are computed live by the library itself, on random numbers. Two are worked out from a definition.
Anyone can run it again:

```sh
make conformance            # installs the outside libraries, runs every suite, writes this page
```

`make test` runs every suite too, in all its cases, and fails when this page is not what they give; a suite whose
library is not installed is skipped, with the reason. Every suite has its own map of the weights and uses no converter
of `rnn_jax.interop`: the tests of the converters compare those with the live libraries.

- A **case** is one quantity: an output, a last state, a gradient, an assertion of their tests. It is right where the
  error is at most the tolerance, which is that of their own test where the numbers are theirs.
- The **error** is the largest difference, absolute for numbers below 1 and relative above. Ours are computed in
  float64 throughout, so it is mostly the rounding of their digits. On another machine it may be another number of the
  same size.
- A case is expressed **directly** by cells and layers of this library, or by an **own cell** that the suite writes,
  because theirs is not one of ours: then rollout, masks and gradients are checked.

| suite | source and commit | what is compared | cases | directly | own cell | tolerance | largest error |
|---|---|---|---|---|---|---|---|
"""

ERRORS = """
## Errors of theirs

Found by these suites. The first two are typing errors in the sources of a test, seen because the library itself, run
live, gives another number than its test, and the number of ours.

| where | their number | their library, live | ours |
|---|---|---|---|
"""

CAST = """
Keras {keras} on JAX computes the tanh of float64 in float32: `keras.activations.tanh` of a float64 array is a {tanh}
array, where that of `sigmoid` is {sigmoid}. So the live suite gives its layers `jax.numpy.tanh`.
"""

FAULTS = """
## Planted faults

A suite that cannot fail shows nothing. `python -m tests.conformance.faults` plants one fault at a time in a copy of the
library and runs the suite that is meant for it.

| fault | suite | wrong cases |
|---|---|---|
"""


def page(facts: dict[str, Any]) -> str:
    """docs/conformance.md, from the facts of a run."""
    results, lines, total, own = {entry["suite"]: Result(**entry) for entry in facts["suites"]}, [], 0, 0
    for suite in suites():
        r = results[suite.name]
        direct = r.cases - r.own
        error = f"{r.error:.0e}" if r.error else "0"
        columns = suite.name, suite.source, suite.what, r.cases, direct, r.own, range_of(r.tolerances), error
        lines.append(row(*columns))
        total, own = total + r.cases, own + r.own
    lines.append(row("**all**", "", "", f"**{total}**", f"**{total - own}**", f"**{own}**", "", ""))
    installed = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    written = f"\nAll {total} cases are right. The live suites ran with {installed}.\n"
    evidence = [row(f"`{where}`, one entry of Y", *numbers) for where, *numbers in facts["evidence"]]
    conventions = ["\n## Conventions that differ\n\n", row("what", "others", "here"), row("---", "---", "---")]
    conventions += [row(*each) for each in CONVENTIONS]
    faults = [row(each["fault"], each["suite"], each["wrong"]) for each in facts["faults"]]
    cast = (
        CAST.format(keras=facts["versions"]["keras"], **facts["types"]) if len({*facts["types"].values()}) > 1 else ""
    )
    parts = [HEAD, *lines, written, *conventions, ERRORS, *evidence, cast]
    return "".join([*parts, FAULTS, *faults] if faults else parts)


__all__ = ["PAGE", "RESULTS", "Result", "agrees", "missing_for", "page", "read_results", "result_of", "suites", "write"]
