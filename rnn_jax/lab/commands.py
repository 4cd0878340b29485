"""The command line of an experiment: options, exit codes, errors in one line, and Ctrl-C.

The same script runs as a command and, cell by cell, in a notebook. As a command it reads its options from the command
line, prints an error as one line, and ends with an exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted. In a
notebook the options are the defaults and those of the environment variable ``RNN_JAX_OPTIONS``, and errors are shown
as usual.
"""

import contextlib
import dataclasses
import io
import itertools
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

__all__ = [
    "EXIT_CODES",
    "FAULTS",
    "Ending",
    "begin_command",
    "command_line",
    "describe_errors_with",
    "exit_code_of",
    "finishing",
    "in_notebook",
    "notebook_words",
    "parse",
    "record_failure",
    "uninterrupted",
    "wrong_use",
]

Config = TypeVar("Config")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect."""
WRONG_USE = 2
EXIT_CODES = {"done": 0, "failed": 1, "interrupted": INTERRUPTED}
"""The exit code of a run by its status."""
FAULTS = (FloatingPointError, OSError, ValueError)
"""Errors that a run can meet: numbers that are not finite, a full disk, a damaged file."""
UNTOUCHED = (signal.SIG_IGN, None)
"""Handlers of Ctrl-C in a process that was started to ignore it, as by ``nohup``."""
_COMMAND: dict[str, Any] = {"is_running": False, "run": None, "handler": None}
"""The state of the command that this process runs; it is a script, so there is one."""
_DESCRIBERS: list[Callable[[BaseException], str | None]] = []
"""Functions that give one line for an error that they know (``describe_errors_with``)."""


def in_notebook() -> bool:
    """Whether this code runs in a notebook or in IPython."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def notebook_words() -> list[str]:
    """The words of ``RNN_JAX_OPTIONS``, options for an experiment in a notebook."""
    return shlex.split(os.environ.get("RNN_JAX_OPTIONS", ""))


def begin_command() -> None:
    """From now on an error of the script ends the process with one line and an exit code. Does nothing in a notebook.

    Characters that the encoding of the terminal lacks are printed as escapes.
    """
    _COMMAND.update(is_running=not in_notebook(), run=None, handler=None)
    if in_notebook():
        return
    sys.excepthook = _end_with_one_line
    _escape_unknown_characters()


def run_begins(run: Any) -> None:
    """A run folder was opened: from now on an error is no wrong use but a failed run, whose status is written."""
    _COMMAND["run"] = run


def describe_errors_with(describe: Callable[[BaseException], str | None]) -> None:
    """From now on errors for which this function gives one line end a command with that line.

    A function may also end the process itself, where the cause of an error lies in another process.
    """
    _DESCRIBERS.append(describe)


def described_error(error: BaseException) -> str | None:
    """The line for an error that a function of ``describe_errors_with`` knows; else None."""
    return next(filter(None, (describe(error) for describe in _DESCRIBERS)), None)


def is_command() -> bool:
    """Whether a script runs as a command, whose process ends with the exit code of its run."""
    return _COMMAND["is_running"]


def exit_code_of(error: BaseException) -> int | None:
    """The exit code for an error of a command, after one line on stderr; None for a fault of the program itself.

    The status in the folder of an open run becomes "interrupted" or "failed".
    """
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    if _COMMAND["run"] is None and isinstance(error, ValueError | OSError):
        line = " ".join(str(error).split())
        described = described_error(error)
        _print_error(line if line.startswith("--") else described or line + _place_in_script(error))
        return WRONG_USE
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    record_failure(status)
    if status == "interrupted" or (isinstance(error, Exception) and print_fault(error)):
        return EXIT_CODES[status]
    return None


def record_failure(status: str = "failed") -> None:
    """Writes a status into the folder of the run that a command has open."""
    if is_command() and _COMMAND["run"] is not None:
        with contextlib.suppress(OSError, ValueError):  # a full disk; the error of the run is the one to show
            _COMMAND["run"].record_status(status)


def print_fault(error: Exception) -> bool:
    """Prints an error that a run can meet as one line on stderr; False, and no line, for any other."""
    line = " ".join(str(error).split())
    described = described_error(error)
    is_of_jax = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    if isinstance(error, MemoryError) or (
        is_of_jax and re.search("out of memory|resource_exhausted|bad_alloc", line, re.I)
    ):
        line = f"out of memory ({line[:200]}); want a smaller network, batch or window"
    elif described:
        line = described
    elif not isinstance(error, FAULTS):
        return False
    _print_error(line)
    return True


def _place_in_script(error: BaseException) -> str:
    """The file and the last line of the script through which an error passed, such as `` (experiments/x.py:97)``.

    Empty for an error that ``parse`` raises, which is of the command line.
    """
    steps = [(frame.f_globals.get("__name__"), frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    places = [(frame.f_code.co_filename, line) for name, frame, line in steps if name == "__main__"]
    if not places or steps[-1][0] == __name__:
        return ""
    file, line = Path(places[-1][0]).resolve(), places[-1][1]
    return f" ({file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}:{line})"


def _print_error(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)


def _end_with_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The ``sys.excepthook`` of a command; Python ends with the code of a SystemExit that is raised here."""
    code = exit_code_of(error)
    if code is None:
        sys.__excepthook__(kind, error, trace)
        return
    sys.stdout.flush()
    raise SystemExit(code)


def _escape_unknown_characters() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def hold_interrupts() -> None:
    """From now on the first Ctrl-C only prints a line, so that the figures and the page of a command are written.

    The second one ends the command as usual. Training has ended before, so the status and the exit code are those of
    training if Ctrl-C was pressed once.
    """
    if not is_command() or not _is_interruptible() or _COMMAND["handler"] is not None:
        return
    before = signal.getsignal(signal.SIGINT)

    def finish_first(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        print("finishing the page; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, finish_first)
    _COMMAND["handler"] = before


def end_command(status: str) -> None:
    """Ends the process of a command with the exit code of its run; returns in a notebook and for code 0."""
    if _COMMAND["handler"] is not None:
        signal.signal(signal.SIGINT, _COMMAND["handler"])
    running = is_command()
    _COMMAND.update(is_running=False, run=None, handler=None)
    if not running:
        return
    if sys.excepthook is _end_with_one_line:
        sys.excepthook = sys.__excepthook__
    code = EXIT_CODES[status]
    if code:
        raise SystemExit(code)


class Ending(NamedTuple):
    """How training has ended (``finishing``)."""

    errors: list[BaseException]
    """Empty, or the error that ended it."""

    @property
    def status(self) -> str:
        """A key of ``EXIT_CODES``."""
        if not self.errors:
            return "done"
        return "interrupted" if isinstance(self.errors[0], KeyboardInterrupt) else "failed"

    def end_without(self, result: str) -> None:
        """Ends a command whose training left no result to show, after one line; in a notebook raises the error."""
        if not self.errors:
            return
        if not is_command():
            raise self.errors[0]
        print(f"The run is {self.status}; no {result} was finished.")
        end_command(self.status)


@contextlib.contextmanager
def finishing(run: Any) -> Iterator[Ending]:
    """A context for training, after which its results are shown, also when Ctrl-C or an error ended it.

    Ctrl-C ends the context alone, and so does an error that a run can meet when the script runs as a command, after one
    line on stderr. Any other error is raised, with the status in ``summary.json``. After the context, Ctrl-C must be
    pressed twice to end the command (``hold_interrupts``), so that its figures and its page are written.

    Args:
        run: the open run folder.
    """
    ending = Ending([])
    try:
        yield ending
    except KeyboardInterrupt as interrupt:
        ending.errors.append(interrupt)
    except Exception as fault:
        ending.errors.append(fault)
        if not (is_command() and print_fault(fault)):
            run.write_json("summary.json", {"status": ending.status})
            raise
    hold_interrupts()


def _is_interruptible() -> bool:
    """Whether Ctrl-C interrupts this thread."""
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) not in UNTOUCHED


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """A context in which Ctrl-C is held back while results are written; it takes effect at the end.

    Nothing changes outside the main thread, which alone Ctrl-C interrupts, and in a process that ignores Ctrl-C.
    """
    if not _is_interruptible():
        yield
        return
    pressed: list[tuple[Any, ...]] = []
    before = signal.signal(signal.SIGINT, lambda *args: pressed.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed and callable(before):
        before(*pressed[0])


@contextlib.contextmanager
def wrong_use() -> Iterator[None]:
    """A context in which an error ends the process: exit code 2 and one line on stderr for a ValueError or OSError.

    Memory that runs out ends it with exit code 1, and Ctrl-C with 130.
    """
    _escape_unknown_characters()
    try:
        yield
    except (ValueError, OSError) as error:
        _print_error(" ".join(str(error).split()))
        raise SystemExit(WRONG_USE) from None
    except MemoryError as error:
        _print_error("out of memory " + " ".join(str(error).split()))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def command_line(script: str, config: Any, default: Any) -> str:
    """The command that runs a script with this configuration again, ready for a shell.

    Args:
        script: its path.
        config: a dataclass, as ``parse`` returned it.
        default: the value of each option that is not given.
    """
    words = ["python", script]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("resume", "overwrite", "extend") or value == getattr(default, field.name):
            continue
        words.append("--" + field.name.replace("_", "-"))
        if value is not True:
            words += [str(v) for v in (value if isinstance(value, tuple) else (value,))]
    return shlex.join([*words, "--overwrite"])


def parse(
    config_type: type[Config], argv: Sequence[str] | None = None, default: Config | None = None, prog: str | None = None
) -> Config:
    """A frozen dataclass, read from the command line; ``--help`` prints the docstrings of its fields.

    Args:
        config_type: the dataclass; every field has a default.
        argv: words after the name of the command; those of this process when None.
        default: values of options that are not given, if not those of the dataclass.
        prog: the name of the command in its help and messages; by default the file name of the script.

    Raises:
        ValueError: on wrong use, with the whole message of tyro in one line; for an option that is given twice; for an
            empty path.
    """
    import tyro

    answer = io.StringIO()
    try:
        with contextlib.redirect_stderr(answer):
            preset = config_type() if default is None else default
            config = tyro.cli(config_type, args=argv, prog=prog or Path(sys.argv[0]).name, default=preset)
        _check_words(sys.argv[1:] if argv is None else argv, config)
        return config
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    lines = (line.strip().strip("│╭╮╰╯─").strip() for line in answer.getvalue().splitlines())
    _title, *words = (line for line in lines if any(map(str.isalnum, line)))
    raise ValueError("; ".join(words))


def _check_words(words: Sequence[str], config: Any) -> None:
    """Raises a ValueError for an option that is given twice, or an empty path."""
    given: dict[str, str] = {}
    for word, following in itertools.zip_longest(words, words[1:]):
        option, equals, value = word.partition("=")
        name = option.removeprefix("--no-").removeprefix("--").replace("-", "_")
        if not option.startswith("--") or not hasattr(config, name):
            continue
        if name in given:
            raise ValueError(f"{option} got two values; want it once")
        given[name] = value if equals else following
        if given[name] == "" and isinstance(getattr(config, name), Path):
            raise ValueError(f"{option} got an empty path; want a name")
