"""Scripts of experiments/ as notebooks: their cells, and a kernel that executes them one after the other."""

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jupytext
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from tests.scripts import EXPERIMENTS

MARKER = re.compile(r"^# %%", re.MULTILINE)
NOTEBOOKS = sorted(path for path in EXPERIMENTS.rglob("*.py") if MARKER.search(path.read_text(encoding="utf-8")))


def code_cells(script: Path) -> list[str]:
    """The source of each code cell of a script in percent format."""
    _, *cells = MARKER.split(script.read_text(encoding="utf-8"))
    return [cell.partition("\n")[2] for cell in cells if not cell.startswith(" [markdown]")]


def computes_or_shows(cell: str) -> bool:
    """Whether a cell ends in a value, or calls something outside its imports and definitions.

    >>> [computes_or_shows(cell) for cell in ("x = f()", "x", "import a\\nN = 3", "def f():\\n    return g()", "")]
    [True, True, False, False, False]
    """
    body = ast.parse(cell).body
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    work = [node for node in body if not isinstance(node, definitions)]
    calls = any(isinstance(node, ast.Call) for statement in work for node in ast.walk(statement))
    return calls or (bool(body) and isinstance(body[-1], ast.Expr))


class Executed(NamedTuple):
    """A script that a kernel has executed."""

    notebook: NotebookNode

    def outputs(self) -> Iterator[Any]:
        """All outputs of all cells."""
        for cell in self.notebook.cells:
            yield from cell.get("outputs", ())

    def figures(self) -> int:
        """The number of outputs with a figure."""
        data = [output.get("data", {}) for output in self.outputs()]
        return sum("image/svg+xml" in of or "<svg" in of.get("text/html", "") for of in data)


class Kernel(NamedTuple):
    """A kernel of Jupyter, in which one script is executed after the other, each in an empty namespace."""

    manager: AsyncKernelManager

    def execute(self, script: Path, options: str) -> Executed:
        """Executes a script cell by cell, with these options in ``RNN_JAX_OPTIONS``.

        Raises:
            CellExecutionError: with the traceback, for a cell that raises.
        """
        notebook = jupytext.read(script)
        set_options = f"import os\nos.environ['RNN_JAX_OPTIONS'] = {options!r}"
        notebook.cells = [new_code_cell("%reset -f"), new_code_cell(set_options), *notebook.cells]
        client = NotebookClient(notebook, km=self.manager, timeout=300, kernel_name="python3")
        try:
            client.execute()
        finally:
            if client.kc is not None:
                client.kc.stop_channels()
        return Executed(notebook)


@contextmanager
def kernel() -> Iterator[Kernel]:
    """A context with a kernel of this Python."""
    manager = AsyncKernelManager(kernel_name="python3", transport="ipc")
    try:
        yield Kernel(manager)
    finally:
        if manager.has_kernel:
            run_sync(manager.shutdown_kernel)(now=True)
