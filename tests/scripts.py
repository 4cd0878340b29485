"""Scripts of experiments/ for tests: run in this process or in their own, and their definitions without running them."""

import ast
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

from rnn_jax.lab.commands import exit_code_of

ROOT = Path(__file__).parent.parent
EXPERIMENTS = ROOT / "experiments"
SCRIPTS = sorted(EXPERIMENTS.glob("*.py"))


def start(script: Path | str, *words: Any, **options: Any) -> subprocess.Popen:
    """A script in its own process, as a user runs it: float32, nothing strict."""
    path = script if isinstance(script, Path) else EXPERIMENTS / f"{script}.py"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(path), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, **options)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def run_here(script: str, *words: Any) -> int:
    """The exit code of a script that runs in this process; for lines that end before a network is trained."""
    argv, hook = sys.argv, sys.excepthook
    sys.argv = [str(EXPERIMENTS / f"{script}.py"), *map(str, words)]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except BaseException as error:
        code = exit_code_of(error)
        if code is None:
            raise
        return code
    finally:
        sys.argv, sys.excepthook = argv, hook
    return 0


def definitions(script: str) -> dict[str, Any]:
    """The imports, functions and classes of a script, and its constants in capitals, without running its cells."""
    path = EXPERIMENTS / f"{script}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    tree.body = [node for node in tree.body if isinstance(node, kept) or _is_constant(node)]
    names: dict[str, Any] = {"__name__": f"definitions_of_{script}", "__file__": str(path)}
    sys.modules[names["__name__"]] = type(sys)(names["__name__"])  # where dataclasses look up their annotations
    exec(compile(tree, str(path), "exec"), names)
    return names


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) and t.id.isupper() for t in node.targets)
