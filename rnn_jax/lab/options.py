"""The options that experiments share, and their checks. Light to import: ``--help`` is printed before JAX is loaded."""

import dataclasses
import math
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from rnn_jax.lab.commands import begin_command, in_notebook, notebook_words, parse

__all__ = [
    "Options",
    "ParallelOptions",
    "StudyOptions",
    "default_options",
    "read_options",
    "require_choices",
    "require_encodable",
    "require_not_negative",
    "require_positive",
    "require_representable",
]

LARGEST = 2**31 - 1
"""The largest integer: counters of updates and places on a device have 32 bits."""
FLOAT32_MAX, FLOAT32_TINY = (2 - 2**-23) * 2.0**127, 2.0**-126
LARGEST_OF = {"seeds": 10_000, "workers": 256, "layers": 100, "minutes": 525_600, "hidden_size": 2**24}
LARGEST_OF |= {"decoder_size": 2**24, "devices": 1024, "processes": 2**16, "timeout": 1e6, "start_timeout": 1e6}
"""The largest value of an option, where it is below that of its type."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of every experiment; each adds its own and sets the defaults."""

    SMOKE: ClassVar[Mapping[str, Any]] = {}
    """Values of a run of seconds, with ``--smoke``."""

    seed: int = 0
    """The one source of randomness, of networks and batches; the data are cut in the same way in every run."""
    batch_size: int = 64
    """Examples, or lanes of text, in a batch."""
    evaluations: int = 10
    """Evaluations on the validation part while a network is trained."""
    updates: int = 100
    """Optimizer steps from one evaluation to the next."""
    learning_rate: float = 5e-3
    """The highest learning rate: it rises over the first sixth of the updates, then falls along a cosine."""
    optimizer: str = "adam"
    """adam, adamw, sgd, rmsprop or lion of optax; or FILE.py:function, where function(learning_rate) makes an optimizer
    of a schedule."""
    clip: float = 1.0
    """The largest global norm of a gradient."""
    smoke: bool = False
    """A run of seconds, to see that everything works."""
    out: Path = Path("runs/study")
    """The run folder."""
    resume: bool = False
    """Go on in the run folder; what is finished is kept."""
    extend: bool = False
    """Go on with a finished run, for more evaluations."""
    overwrite: bool = False
    """Delete the run that is in the folder."""


@dataclasses.dataclass(frozen=True)
class ParallelOptions(Options):
    """The options of an experiment that trains one network on several devices, or with several processes."""

    devices: int = 0
    """Devices of each process, among which the batch is divided; 0 for as many as are faster: on a CPU up to one for
    each core, or accelerators that divide the batch."""
    distributed: bool = False
    """Several processes, which JAX finds by itself under Slurm, Open MPI or Kubernetes."""
    coordinator: str = ""
    """HOST:PORT of process 0, for several processes that are started by hand."""
    processes: int = 1
    """Number of processes that are started by hand."""
    process: int = 0
    """The number of this process, from 0 on."""
    timeout: float = 20.0
    """Seconds after which a process that gives no sign of life ends all, at least 5."""
    start_timeout: float = 0.0
    """Seconds for which processes wait for each other at the start; 0 for those of --timeout."""


NOT_SHARED = ("process", "resume", "extend", "overwrite")
"""Options in which processes may differ; the result depends on none of them."""
SHORTEST_TIMEOUT = 5
"""Seconds, in which a process gives several signs of life."""


@dataclasses.dataclass(frozen=True)
class StudyOptions(Options):
    """The options of a study, which trains many networks."""

    seeds: int = 3
    """Networks of each kind, at most 10,000."""
    workers: int = 2
    """Networks that are trained at the same time, at most 256, each on its own core as far as there are cores."""
    extend: bool = False
    """Go on with a finished run, of more seeds or cells."""


Config = TypeVar("Config", bound=Options)


def read_options(kind: type[Config], argv: list[str] | None = None, *, prog: str | None = None) -> Config:
    """The options of an experiment: those of the command line, or in a notebook those of ``RNN_JAX_OPTIONS``.

    As a command the script ends from now on with an exit code and, after an error, with one line on stderr
    (``rnn_jax.lab.commands``). In a notebook the run folder is ``<out>-notebook`` if no ``--out`` is given, and only
    that one is overwritten without ``--overwrite``.

    Args:
        kind: a frozen dataclass of options; its ``SMOKE`` holds the values for ``--smoke``.
        argv: words after the name of the command; by default those of this process.
        prog: the name of the command in its help and messages; by default the file name of the script.

    Raises:
        ValueError: on wrong use, or for a number outside its range.
    """
    begin_command()
    if argv is None and in_notebook():
        argv = notebook_words()
        given = {word.partition("=")[0].replace("--no-", "--") for word in argv}
        if "--out" not in given:
            argv += ["--out", f"{kind().out}-notebook"]
            argv += [] if {"--resume", "--extend", "--overwrite"} & given else ["--overwrite"]
    default = kind()
    if parse(kind, argv, prog=prog).smoke:
        default = dataclasses.replace(default, **kind.SMOKE)
    config = parse(kind, argv, default, prog)
    require_representable(config)
    require_positive(config, "batch_size", "evaluations", "updates")
    require_positive(config, "learning_rate", "clip", kind="number")
    if config.evaluations * config.updates > LARGEST:
        raise ValueError(
            f"--evaluations and --updates got {config.evaluations} times {config.updates} updates; "
            f"want at most {LARGEST:,} in all"
        )
    if isinstance(config, ParallelOptions):
        require_processes(config)
    if isinstance(config, StudyOptions):
        require_positive(config, "seeds", "workers")
        # Threads of XLA on a CPU. With one a core, networks side by side can take them all and wait for each other.
        os.environ.setdefault("NPROC", str((os.cpu_count() or 1) + 2 * config.workers))
    return config


def require_processes(config: ParallelOptions) -> None:
    """Raises a ValueError for options of devices and processes that do not go together."""
    require_not_negative(config, "devices", "process", "start_timeout")
    require_positive(config, "processes")
    require_positive(config, "timeout", kind="number")
    if config.timeout < SHORTEST_TIMEOUT:
        raise ValueError(f"--timeout got {config.timeout:g}; want at least {SHORTEST_TIMEOUT} seconds")
    if config.distributed and (config.coordinator or config.processes > 1):
        raise ValueError("--distributed and --coordinator got both; want one of them")
    if bool(config.coordinator) != (config.processes > 1):
        raise ValueError(
            f"--coordinator got {config.coordinator!r} with --processes {config.processes}; want both or none, such as "
            "--coordinator 127.0.0.1:12345 --processes 2 --process 0"
        )
    if getattr(config, "minutes", 0) and (config.distributed or config.coordinator):
        raise ValueError("--minutes got a length for several processes; want --evaluations, which all know before")
    if config.process >= config.processes:
        raise ValueError(f"--process got {config.process} of {config.processes}; want less, as the first is 0")


def default_options(config: Config) -> Config:
    """The options that a run has if none but ``--smoke`` is given."""
    default = type(config)()
    return dataclasses.replace(default, **type(config).SMOKE) if config.smoke else default


def require_positive(config: Any, *names: str, kind: str = "integer") -> None:
    """Raises a ValueError that names the first of these options which is not positive."""
    for name in names:
        value = getattr(config, name)
        if not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} got {value}; want a positive {kind}")


def require_choices(config: Options, name: str, choices: Collection[str]) -> None:
    """Raises a ValueError unless an option of several values has at least one, each of ``choices`` and given once."""
    option, values = f"--{name.replace('_', '-')}", getattr(config, name)
    unknown = [value for value in values if value not in {*choices}]
    if unknown or not values:
        wrong = repr(unknown[0]) if unknown else "nothing"
        raise ValueError(f"{option} got {wrong}; want one or more of {', '.join(choices)}")
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice:
        raise ValueError(f"{option} got {twice} twice; want each once")


def require_encodable(vocabulary: Any, option: str, texts: Iterable[str]) -> None:
    """Raises a ValueError that names the option if a text is empty, or has characters outside the vocabulary.

    Args:
        vocabulary: of ``rnn_jax.data``.
        option: its name without dashes.
        texts: its values.
    """
    for text in texts:
        if not text:
            raise ValueError(f"--{option} got an empty text; want at least one character")
        try:
            vocabulary.encode(text)
        except ValueError as error:
            raise ValueError(f"--{option} got {text!r}: {error}") from None


def require_not_negative(config: Any, *names: str) -> None:
    """Raises a ValueError that names the first of these options with a number that is negative or not finite."""
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not 0 <= number < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} got {number}; want 0 or a positive number")


def require_representable(config: Any) -> None:
    """Raises a ValueError that names the first option whose number is too large, or too small for float32."""
    for field in dataclasses.fields(config):
        option, value = f"--{field.name.replace('_', '-')}", getattr(config, field.name)
        if field.name == "seed":
            if not 0 <= value < 2**32:
                raise ValueError(f"--seed got {value}; want an integer in [0, 2³²)")
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) or (isinstance(number, float) and math.isfinite(number)):
                most = LARGEST_OF.get(field.name, LARGEST if isinstance(number, int) else FLOAT32_MAX)
                if abs(number) > most:
                    shown = f"{most:,}" if isinstance(most, int) else f"{most:.3g}"
                    raise ValueError(f"{option} got {number}; want at most {shown}")
                if 0 < abs(number) < FLOAT32_TINY:
                    raise ValueError(f"{option} got {number}; want 0 or at least {FLOAT32_TINY:.2g}, as float32 has it")
