"""Scripts of experiments/ for tests: run in this process or in others, and their definitions without running them."""

import ast
import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rnn_jax.lab.commands import end_command, exit_code_of
from rnn_jax.lab.options import Options, read_options

ROOT = Path(__file__).parent.parent
EXPERIMENTS = ROOT / "experiments"
SCRIPTS = sorted(EXPERIMENTS.glob("[!_]*.py"))
TINY_STUDY = ROOT / "tests" / "tiny_study.py"

Config = TypeVar("Config", bound=Options)


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


def run_here(script: Path | str, *words: Any) -> int:
    """The exit code of a script that runs in this process; an error that no command can meet is raised."""
    path = script if isinstance(script, Path) else EXPERIMENTS / f"{script}.py"
    argv, sys.argv = sys.argv, [str(path), *map(str, words)]
    with as_no_command():
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except BaseException as error:
            code = exit_code_of(error)
            if code is None:
                raise
            return code
        finally:
            sys.argv = argv
    return 0


def options_of(kind: type[Config], *words: Any) -> Config:
    """The options of an experiment, as it reads them from its command line."""
    with as_no_command():
        return read_options(kind, [*map(str, words)])


@contextlib.contextmanager
def as_no_command() -> Iterator[None]:
    """A context after which this process is no command of an experiment any more."""
    hook = sys.excepthook
    try:
        yield
    finally:
        with contextlib.suppress(SystemExit):
            end_command("done")
        sys.excepthook = hook


class Commands(NamedTuple):
    """A process that runs commands one after the other, as a user has them: float32, nothing strict."""

    process: subprocess.Popen

    def __call__(self, script: str, *words: Any, folder: Path = ROOT) -> tuple[int, str, str]:
        """Exit code, standard output, standard error of a command, which runs in a folder."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([str(folder), script, *map(str, words)]) + "\n")
        self.process.stdin.flush()
        return tuple(json.loads(self.process.stdout.readline()))


@contextlib.contextmanager
def commands() -> Iterator[Commands]:
    """A new process for commands, which ends with the context."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    words = [sys.executable, "-m", "tests.scripts"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT)
    try:
        yield Commands(process)
    finally:
        process.communicate()


def serve() -> None:
    """Reads ``[folder, script, word, …]`` from each line of the standard input; writes ``[code, out, err]``."""
    for line in sys.stdin:
        folder, script, *words = json.loads(line)
        out, err, code = io.StringIO(), io.StringIO(), None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(folder):
            try:
                code = run_here(script, *words)
            except BaseException:
                traceback.print_exc()
        print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)


def definitions(script: str) -> dict[str, Any]:
    """The imports, functions and classes of a script, and its constants in capitals, without running its cells."""
    path = EXPERIMENTS / f"{script}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    tree.body = [node for node in tree.body if isinstance(node, kept) or _is_constant(node)]
    names: dict[str, Any] = {"__name__": f"definitions_of_{path.stem}", "__file__": str(path)}
    sys.modules[names["__name__"]] = type(sys)(names["__name__"])  # where dataclasses look up their annotations
    exec(compile(tree, str(path), "exec"), names)
    return names


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) and t.id.isupper() for t in node.targets)


if __name__ == "__main__":
    serve()
