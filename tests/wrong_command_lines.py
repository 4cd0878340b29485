"""Wrong command lines of every experiment, counted: ``python -m tests.wrong_command_lines [EXPERIMENT …]``.

Every option of every experiment, as its dataclass has it, is tried with ten kinds of wrong value, one of which is only
too large, and ``--cell``, ``--cells`` and ``--optimizer`` with wrong files. A line is refused well when it ends with
exit code 2, one line on stderr, nothing on stdout and nothing written; right lines among them (``--seed 0``) are
accepted. Experiments run inside a worker process, which ends each line where training would begin, and is itself ended
when a line takes longer than ``PATIENCE``. Prints a table of outcomes, then every line that was not refused well; the
exit code is 1 if there are any. A sample of the lines is part of the suite (test_experiments.py).
"""

import contextlib
import dataclasses
import io
import json
import os
import select
import subprocess
import sys
import tempfile
import traceback
import typing
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.scripts import EXPERIMENTS, ROOT, definitions, run_here

PATIENCE = 40  # seconds for one line, on a machine that others use too
MEMORY = 10 * 2**30  # bytes that the worker may take

VALUES = {
    "wrong type": "many",
    "zero": "0",
    "negative": "-1",
    "inf": "inf",
    "nan": "nan",
    "huge": "99999999999999999999",
    "too large": "1000000000",
    "empty": "",
    "a folder for a file": "THINGS/folder",
    "a file for a folder": "THINGS/file",
}
"""One word for each kind of wrong value; besides, every option is repeated."""
BASE = {"dates": ["--examples", "200"]}
"""What makes a right line quick, besides ``--smoke``."""
VALID = {"text": "THINGS/text.txt", "prompt": "e", "questions": "e", "data": "tiny_shakespeare", "run": "THINGS/run"}
VALID |= {"coordinator": "127.0.0.1:12345"}
VALID |= {"runs": "THINGS/run"}
"""A right value where the default is empty."""
FREE = {"prompt", "questions", "out"}
"""Options for which a word of letters, or a name of a new folder, is right."""
MAY_BE_ZERO = {"seed", "dropout", "k1", "minutes", "weight_decay", "patience", "parameters", "sampling_rate"}
MAY_BE_ZERO |= {"temperature", "temperatures", "devices", "process", "start_timeout"}
MAY_BE_EMPTY = {"data", "prompt", "coordinator"}
MAY_BE_LARGE = {"seed", "patience", "clip", "learning_rate", "weight_decay", "temperature", "temperatures"}
MAY_BE_LARGE |= {"parameters"}  # of which a machine of 16 GiB can hold so many
MAY_BE_HUGE = MAY_BE_LARGE - {"seed", "patience", "parameters"}
"""Floating numbers of which float32 holds 10²⁰."""

UNSAFE = ["../../../pwned", "/tmp/pwned", "a/b", "[/b]", "$x_{$", "", ".", "a b", "_x", "x" * 200]
"""Names of functions that no file, table or figure can bear."""
CELL = """
from typing import NamedTuple
import jax
import jax.numpy as jnp
from rnn_jax import cell_from_step

def leaky(input_size, hidden_size):
    def init(key):
        return jax.random.normal(key, (input_size, hidden_size))
    def start(params, batch_shape=()):
        return jnp.zeros((*batch_shape, hidden_size))
    def step(params, h, x):
        return 0.9 * h + jnp.tanh(x @ params)
    return cell_from_step(init, start, step)
"""
FILES = {
    "raises.py": "1 / 0\n",
    "exits.py": "import sys\nsys.exit('no')\n",
    "imports.py": "import what_is_not_there\n",
    "syntax.py": "def leaky(:\n",
    "zero_bytes.py": "\0",
    "latin.py": "# caf\xe9\n",
    "nothing.py": "def leaky(input_size, hidden_size):\n    return 3\n",
    "none.py": "def leaky(input_size, hidden_size):\n    pass\n",
    "no_arguments.py": "def leaky():\n    return 3\n",
    "inside.py": "def leaky(input_size, hidden_size):\n    return [][input_size]\n",
    "missing.py": "leak = 3\n",
    "no_function.py": "leaky = 3\n",
    "init.py": CELL.replace("return jax.random.normal", "return 1 / 0 + jax.random.normal"),
    "start.py": CELL.replace("jnp.zeros(", "jnp.zeros(1, 2, 3, 4, "),
    "step.py": CELL.replace("jnp.tanh(x", "jnp.tanhh(x"),
    "state.py": CELL.replace("return 0.9 * h + jnp.tanh(x @ params)", "return 0.9 * h[None]"),
    "half.py": CELL.replace("return 0.9 * h + jnp.tanh(x @ params)", "return h.astype(jnp.float16)"),
    "integers.py": CELL.replace("return jax.random.normal(key, (input_size, hidden_size))", "return 3").replace(
        "@ params", "[..., :1]"
    ),
    "wide.py": CELL.replace("(input_size, hidden_size))", "(3, hidden_size))"),
    "one_size.py": CELL.replace("    def init", "    hidden_size = 5\n    def init", 1),
    "names.py": f"{CELL}\nfor name in {UNSAFE}:\n    globals()[name] = leaky\n",
    "we[/b]ird$x_{$.py": "1 / 0\n",
}
"""Wrong files of cells and optimizers."""
NAMES = [f"THINGS/{file}:leaky" for file in FILES if file != "names.py"]
NAMES += [f"THINGS/names.py:{name}" for name in UNSAFE]
NAMES += ["THINGS/none_there.py:leaky", "THINGS/folder:leaky", "THINGS/file:leaky", ":", "x:"]


class Line(NamedTuple):
    """A command line that is tried."""

    script: str
    argv: Sequence[str]
    option: str
    kind: str
    right: bool
    """Whether it may be accepted."""


def option_classes(script: str) -> dict[str, type]:
    """The options of an experiment, ``{command: dataclass}``; the command is empty for the first or only one."""
    source = (EXPERIMENTS / f"{script}.py").read_text(encoding="utf-8")
    if "Options" in source:
        return {"": definitions(script)["Options"]}
    folder = next(path for path in EXPERIMENTS.iterdir() if path.is_dir() and path.name in source)
    commands = sorted(path.stem for path in folder.glob("*.py"))
    return {"" if c == "train" else c: definitions(f"{folder.name}/{c}")["Options"] for c in commands}


def lines_of(script: str) -> Iterator[Line]:
    """Every line of an experiment."""
    classes = option_classes(script)
    for command, kind in classes.items():
        hints = typing.get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            positional = hasattr(hints[field.name], "__metadata__")
            yield from lines_of_option(script, [command] if command else [], field, positional=positional)
    options = {field.name for field in dataclasses.fields(classes[""])}
    for option in {"cell", "cells", "optimizer"} & options if script != "digit_pixels" else {"optimizer"}:
        for name in NAMES:
            right = option == "cell" and "one_size" in name  # of no use where cells get equal parameters
            yield Line(script, [*base(script), f"--{option}", name], option, "own file", right)


def base(script: str) -> list[str]:
    """What every line of an experiment begins with."""
    return ["--smoke", *BASE.get(script, [])]


def lines_of_option(script: str, begin: list[str], field: dataclasses.Field, *, positional: bool) -> Iterator[Line]:
    """An option with every kind of wrong value."""
    name = field.name
    words = [] if positional else ["--" + name.replace("_", "-")]
    first = [*begin, "THINGS/run"] if begin == ["sample"] and not positional else begin or base(script)
    for kind, value in VALUES.items():
        yield Line(script, [*first, *words, value], name, kind, may_be_right(name, kind))
    default = field.default if isinstance(field.default, tuple) else (field.default,)
    value = [str(v) for v in default if v not in (None, "", ())] or [VALID[name]]
    once = [*words, *([] if field.default is False else value)]
    again = ["THINGS/run", "THINGS/run"] if positional else [*once, *once]
    yield Line(script, [*first, *again], name, "repeated", right=name == "runs")


def may_be_right(name: str, kind: str) -> bool:
    """Whether an option may have this value."""
    return (
        (name in FREE and kind != "empty" and not (name == "out" and kind.startswith("a ")))
        or (kind == "zero" and name in MAY_BE_ZERO)
        or (kind == "empty" and name in MAY_BE_EMPTY)
        or (kind == "too large" and name in MAY_BE_LARGE)
        or (kind == "huge" and name in MAY_BE_HUGE)
    )


class Accepted(BaseException):
    """Training would begin."""


def cut_short() -> None:
    """Makes every experiment end where training would begin, with the bytes of what it would hold first."""
    import jax

    from rnn_jax.lab import loop

    def compile_program(options: Any, f: Any, *args: Any) -> Any:
        leaves = jax.tree.leaves(jax.eval_shape(f, *args))
        raise Accepted(sum(leaf.size * 4 for leaf in leaves))

    loop.compile_program = compile_program


def tried(script: str, argv: list[str]) -> dict[str, Any]:
    """One line, in this process and folder: exit code, what was printed, or how else it ended."""
    import jax

    out, err = io.StringIO(), io.StringIO()
    ended: dict[str, Any] = {}
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            ended = {"code": run_here(script, *argv)}
        except Accepted as accepted:
            ended = {"code": "accepted", "bytes": accepted.args[0]}
        except BaseException:
            ended = {"code": "traceback", "trace": traceback.format_exc().splitlines()[-1]}
    jax.clear_caches()
    return {**ended, "out": out.getvalue(), "err": err.getvalue()}


def serve() -> None:
    """The worker: reads a line of JSON ``[script, argv, folder]``, writes one of what came of it."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cut_short()
    answers.write("ready\n")
    answers.flush()
    for request in sys.stdin:
        script, argv, folder = json.loads(request)
        os.chdir(folder)
        answers.write(json.dumps(tried(script, argv)) + "\n")
        answers.flush()


class Worker(NamedTuple):
    """A process that tries lines."""

    process: subprocess.Popen

    def ask(self, line: Line, things: Path, folder: Path) -> dict[str, Any]:
        """What came of a line; a worker that does not answer in time, or died, is at its end."""
        argv = [word.replace("THINGS", str(things)) for word in line.argv]
        given, answers = self.process.stdin, self.process.stdout
        assert given is not None
        assert answers is not None
        given.write(json.dumps([line.script, argv, str(folder)]) + "\n")
        given.flush()
        if not select.select([answers], [], [], PATIENCE)[0]:
            return {"code": "hang", "out": "", "err": ""}
        answer = answers.readline()
        return json.loads(answer) if answer else {"code": "died", "out": "", "err": ""}

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()


def started() -> Worker:
    """A new worker, ready."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.wrong_command_lines", "--serve"]
    stdin, stdout, stderr = subprocess.PIPE, subprocess.PIPE, subprocess.DEVNULL
    process = subprocess.Popen(command, text=True, env=env, cwd=ROOT, stdin=stdin, stdout=stdout, stderr=stderr)
    assert process.stdout is not None
    process.stdout.readline()
    return Worker(process)


def judged(line: Line, answer: dict[str, Any], written: list[str]) -> str:
    """The outcome of a line in a word or two."""
    code, memory = answer["code"], os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if code in ("hang", "died", "traceback"):
        return code
    if code == "accepted" and answer["bytes"] > memory:
        return "cannot fit"
    if code in ("accepted", 0):
        return "accepted" if line.right else "accepted, but wrong"
    if code != 2:
        return f"exit code {code}"
    if written:
        return "written"
    return "refused" if not answer["out"] and answer["err"].count("\n") == 1 else "not one line"


def prepare(things: Path) -> None:
    """The files and folders that lines name."""
    (things / "folder").mkdir(parents=True)
    (things / "folder" / "precious").write_text("x")
    (things / "file").write_text("a file")
    (things / "text.txt").write_text("to be or not to be, that is the question. " * 400)
    for name, source in FILES.items():
        (things / name).parent.mkdir(exist_ok=True)
        (things / name).write_bytes(source.encode("latin-1" if name == "latin.py" else "utf-8"))


def finished_run(things: Path) -> None:
    """A finished run of ``char_lm.py``, for its other words."""
    options = ["--smoke", "--evaluations", "1", "--updates", "1", "--out", str(things / "run")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(EXPERIMENTS / "char_lm.py"), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)


def outcomes(lines: Sequence[Line], run: bool = True) -> Iterator[tuple[Line, str, dict[str, Any]]]:
    """Each line with its outcome and what was printed, one after the other."""
    with tempfile.TemporaryDirectory() as place:
        things, worker = Path(place).resolve() / "a" / "b" / "things", started()
        prepare(things)
        if run and any("THINGS/run" in line.argv for line in lines):
            finished_run(things)
        for number, line in enumerate(lines):
            folder = Path(place).resolve() / "c" / "d" / str(number)
            folder.mkdir(parents=True)
            before = sorted(p for p in Path(place).rglob("*") if "__pycache__" not in p.parts)
            answer = worker.ask(line, things, folder)
            after = sorted(p for p in Path(place).rglob("*") if "__pycache__" not in p.parts)
            written = [str(p) for p in after if p not in before]
            if answer["code"] in ("hang", "died"):
                worker.end()
                worker = started()
            yield line, judged(line, answer, written), {**answer, "written": written}
        worker.end()


def main(scripts: Sequence[str]) -> int:
    """Tries every line and prints the table; returns the exit code."""
    names = scripts or sorted(path.stem for path in EXPERIMENTS.glob("[!_]*.py"))
    lines = [line for name in names for line in lines_of(name)]
    table: dict[str, Counter[str]] = {}
    bad = []
    for line, outcome, answer in outcomes(lines):
        table.setdefault(line.kind, Counter())[outcome] += 1
        if outcome not in ("refused", "accepted"):
            bad.append((line, outcome, answer))
            said = answer.get("trace", "") + answer["err"][-300:]
            print(f"{outcome}: {line.script} {' '.join(line.argv)[:150]}", said, *answer["written"][:3], flush=True)
    outcomes_seen = {outcome for row in table.values() for outcome in row}
    columns = sorted(outcomes_seen, key=lambda name: (name not in ("refused", "accepted"), name))
    print(f"\n{'kind of wrong value':<22}", *(f"{name:>20}" for name in columns))
    for kind, row in [*table.items(), ("all", sum(table.values(), Counter()))]:
        print(f"{kind:<22}", *(f"{row[name]:>20}" for name in columns))
    print(f"{len(lines)} lines")
    return 1 if bad else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        sys.exit(main(sys.argv[1:]))
