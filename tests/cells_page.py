"""docs/cells.md: every cell with its equation, params, state, reference, and what it was checked against.

All of it is read off the code: docstrings, annotations, and the checks that the tests declare. ``test_cells_page``
writes the page anew when it has drifted.
"""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jax

from rnn_jax import Cell, cells, combinators, dropout, input_layers, layers, readouts
from tests.conformance.report import read_results, suites
from tests.oracles import CHECKS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "cells.md"

NEEDED: dict[str, dict[str, Any]] = {
    "chrono_gru": {"max_lag": 9},
    "chrono_lstm": {"max_lag": 9},
    "clipped_lstm": {"cell_clip": 1.0},
    "conv_lstm": {"space": (5, 5)},
    "general_lstm": {
        **dict.fromkeys(["coupled", "peepholes", "layer_norm", "projection_bias"], True),
        "projection_size": 2,
    },
    "projected_lstm": {"projection_size": 2},
}
"""Arguments without a default, and those of a cell that has all its params only with them."""

EQUATIONS = {"chrono_gru": "gru", "chrono_lstm": "lstm", "irnn": "vanilla"}
"""Cells that only begin differently."""

COMBINATORS = (
    *(combinators.residual, combinators.diagonal_skip, combinators.learned_start, combinators.mixed_precision),
    *(readouts.readout, input_layers.embedding, input_layers.dense_input),
    *(dropout.input_dropout, dropout.output_dropout, dropout.variational_dropout, dropout.zoneout),
    *(dropout.weight_drop, layers.stack, layers.bidirectional),
)

LETTERS = ("", "", "P", "", "H", "space")
"""What a size of the example cells stands for."""

FAMILIES = (
    "simple",
    "grus",
    "gated",
    "lstms",
    "lstm_variants",
    "lstm_combinations",
    "exponential",
    "minimal",
    "linear",
    "continuous",
    "conv",
)

HEAD = """# Every cell

Written by the tests from the code and from the checks that they run ([tests/cells_page.py](../tests/cells_page.py)): do
not edit. Beside these checks every cell and combinator keeps the laws of [tests/test_laws.py](../tests/test_laws.py).

Letters: `I` input, `H` hidden, `O` output, `P` projection; σ the logistic function, ⊙ elementwise, ∗ convolution. A
matrix is written as it acts, `W_hh h`, and stored with its input first, `(H, G·H)`, gate after gate.

| cell | equation | params | state | reference | checked against |
|---|---|---|---|---|---|
"""

MIDDLE = """
## Combinators and layers

| function | what it does | reference | checked against |
|---|---|---|---|
"""


def factories() -> list[str]:
    """Names of the functions that make cells, family by family."""
    made = {name: getattr(cells, name) for name in cells.__all__}
    made = {n: f for n, f in made.items() if inspect.isfunction(f) and inspect.signature(f).return_annotation is Cell}
    line = {n: (FAMILIES.index(f.__module__.split(".")[-1]), f.__code__.co_firstlineno) for n, f in unwrapped(made)}
    return sorted(line, key=lambda name: line[name])


def unwrapped(functions: dict[str, Any]) -> list[tuple[str, Any]]:
    """The functions as they were written, without the tests' own checks of types around them."""
    return [(name, inspect.unwrap(f)) for name, f in functions.items()]


def collect_checks() -> None:
    """Imports every test module, so that its checks are declared."""
    for file in sorted((ROOT / "tests").glob("test_*.py")):
        if "checked(" in file.read_text():
            importlib.import_module(f"tests.{file.stem}")


def page() -> str:
    """The whole page."""
    collect_checks()
    return "".join([HEAD, *map(cell_row, factories()), MIDDLE, *map(combinator_row, COMBINATORS)])


def cell_row(name: str) -> str:
    """One cell's line of the table."""
    factory = getattr(cells, name)
    cell = factory(3, LETTERS.index("H"), **NEEDED.get(name, {}))
    params = jax.eval_shape(cell.init, jax.random.key(0))
    state = jax.eval_shape(cell.start, params)
    source = EQUATIONS.get(name, name)
    return row(
        linked(factory),
        equation(source) if source == name else f"as `{source}`; {first_paragraph(factory)}",
        fields(type(params)),
        ", ".join(f"`{part} ({sizes})`" for part, sizes in parts(state)),
        reference(factory),
        checks(name, source),
    )


def combinator_row(function: Any) -> str:
    """One combinator's line of the table."""
    said = checks(function.__name__, function.__name__)
    return row(linked(function), first_paragraph(function), reference(function), said)


def row(*columns: str) -> str:
    return "| " + " | ".join(columns) + " |\n"


def linked(function: Any) -> str:
    """A function's name, linked to its file."""
    return f"[`{function.__name__}`](../{function.__module__.replace('.', '/')}.py)"


def equation(name: str) -> str:
    """The equations of a cell, from the docstring of the function that computes them."""
    module = inspect.getmodule(inspect.unwrap(getattr(cells, name)))
    computes = next(f for end in ("advance", "coefficients") if (f := getattr(module, f"{name}_{end}", None)))
    first, *rest = [line.strip() for line in inspect.cleandoc(computes.__doc__ or "").splitlines() if line.strip()]
    stated = first if first.startswith("h_t =") or not rest else first.partition(": ")[2]
    lines = [stated, *rest] if "=" in stated else rest
    joined = "<br>".join(line.removesuffix(".").replace(",     with", ", with") for line in lines)
    indexed = joined.replace("``", "`").replace("_{t−1}", "ₜ₋₁").replace("_t", "ₜ")
    return re.sub(r"`[^`]*`|_", lambda found: "\\_" if found.group() == "_" else found.group(), indexed)


def fields(kind: type) -> str:
    """Names and shapes of a NamedTuple's arrays, from its annotations; some may be None."""
    return ", ".join(f"`{name} ({dims(hint)})`{or_none(hint)}" for name, hint in get_type_hints(kind).items())


def dims(hint: Any) -> str:
    """The dimensions of an annotated array, or of one that may be None."""
    return _written(next((found for part in (hint, *get_args(hint)) if (found := getattr(part, "dim_str", ""))), ""))


def or_none(hint: Any) -> str:
    return " or None" if type(None) in get_args(hint) else ""


def _written(shape: str) -> str:
    dims = [d.replace("*", "·") for d in shape.split() if not d.startswith("*batch")]
    return ", ".join(d.replace("·kernel", "*kernel") for d in dims)


def parts(state: Any) -> list[tuple[str, str]]:
    """Names and shapes of a state's arrays; an array alone is h."""
    named = state._asdict() if hasattr(state, "_asdict") else {"h": state}
    return [(name, ", ".join(LETTERS[size] for size in a.shape)) for name, a in named.items()]


def first_paragraph(function: Any) -> str:
    """What a docstring says first, and its sentence on where the equations stand left out."""
    text = inspect.cleandoc(function.__doc__ or "").split("\n\n")[0]
    return re.sub(r"(; the equations? stands? at ``\w+``)", "", text).replace("``", "`")


def reference(function: Any) -> str:
    """The reference of a docstring, on one line."""
    found = re.search(r"Reference: (.*?)\n*\Z", inspect.cleandoc(function.__doc__ or ""), re.DOTALL)
    return " ".join(found.group(1).split()) if found else ""


def checks(name: str, source: str) -> str:
    """What a cell, or for one that only begins differently the cell of its equations, was checked against, sorted."""
    said = [f"{c.against}: {c.what}, {c.tolerance:.0e}" for c in CHECKS if c.cell == name]
    tolerance = {entry["suite"]: entry["tolerances"][-1] for entry in read_results()["suites"]}
    said += [f"[{s.name}](conformance.md), {tolerance[s.name]:.0e}" for s in suites() if name in s.cells]
    if not said and source != name:
        return f"as `{source}`"
    return "<br>".join(sorted(set(said)))


__all__ = ["EQUATIONS", "PAGE", "checks", "collect_checks", "factories", "page"]
