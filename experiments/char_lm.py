# %% [markdown]
# # A model of letters, and the bar that it has to clear
#
# A recurrent network reads a text letter by letter and says how likely each letter is to come next. It is trained by
# truncated back-propagation: after each window of 64 letters an update, the state carried on, its gradient not. Beside
# it stands what needs no network: n-grams of one to six letters, counted on the same part of the text. Whatever kills
# a run, `--resume` on the same machine ends it bit for bit as if nothing had happened.
#
#     python experiments/char_lm.py --data tiny_shakespeare --split 90/10 --minutes 10 --out runs/char_lm/mine
#     python experiments/char_lm.py sample runs/char_lm/mine --prompt "ROMEO:"
#     python experiments/char_lm.py table runs/char_lm/*
#
# Karpathy 2015; Witten, Bell 1991; Williams, Peng 1990.

# %%
import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
import optax
import tyro
from _cells import make_model
from _char_lm_report import Finished, print_table, publish
from _char_lm_training import Job, train
from _own import facts_of, naming
from _study import (
    Options,
    carry_out,
    learning_rate,
    numbers_of,
    read_options,
    require_known,
    require_positive,
    require_representable,
    require_room,
)
from _text import SHOWN, Text, load_text, writer

from rnn_jax import Cell
from rnn_jax.counting import matching_size, parameter_count
from rnn_jax.data.ngrams import witten_bell
from rnn_jax.data.text import Vocabulary, streams
from rnn_jax.lab.checkpoints import load_params
from rnn_jax.lab.runs import open_run, parse, read_json, wrong_use
from rnn_jax.losses import cross_entropy, per_step
from rnn_jax.training import window_learner


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Trains a model of letters on a text, beside n-grams of it. Other words: sample RUN, table RUN RUN …"""

    data: str = ""
    """A text by name: tiny_shakespeare."""
    text: Path | None = None
    """A UTF-8 text file; without --data and --text, the Python language reference that CPython carries."""
    split: str = "90/5/5"
    """Percent of the text for training, validation and test, by position; or training and validation alone: 90/10."""
    cell: str = "lstm"
    """Any cell of the library, with a start of W_hh behind a dash, such as tanh-orthogonal; or FILE.py:function, where
    function(input_size, hidden_size) makes a cell of your own that reads one-hot vectors, or ids where its step works
    on ids alone."""
    layers: int = 1
    """Cells on top of each other, at most 100."""
    hidden_size: int = 256
    """Units of each layer."""
    parameters: int = 0
    """When positive, the hidden size is the one that comes nearest to this number of parameters."""
    dropout: float = 0.0
    """Share of each layer's outputs that is not seen in training."""
    batch_size: int = 32
    """Lanes of text read side by side."""
    window: int = 64
    """Letters that the gradient goes back from the end of a window (k2)."""
    k1: int = 0
    """Letters from one update to the next; 0 for as many as a window has, fewer for windows that overlap."""
    looks: int = 12
    """Times that training pauses for scores, samples and a checkpoint."""
    minutes: float = 0.0
    """When positive, as many looks as take this long in training, measured at the start."""
    learning_rate: float = 4e-3
    """The highest of Adam: up to it over the first sixth of the updates, then down along a cosine."""
    weight_decay: float = 0.0
    """Of AdamW."""
    patience: int = 0
    """Looks without a better validation score after which training ends; 0 for never."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What a loss or gradient that is not finite does: end the run, or be skipped and counted."""
    temperatures: tuple[float, ...] = (0.5, 0.8, 1.0)
    """Of the samples written at every look."""
    letters: int = 300
    """Length of each sample."""
    prompt: str = ""
    """What samples go on from; when empty, the text's first letters."""
    out: Path = Path("runs/char_lm/default")
    """The run folder."""


SMOKE = {"hidden_size": 16, "batch_size": 8, "window": 16, "looks": 3, "updates": 8, "letters": 30}
SMOKE |= {"split": "98/1/1"}
ORDER = 6  # letters of the longest n-gram


# %% [markdown]
# ## The text, cut by position


# %%
class Data(NamedTuple):
    """A text, cut."""

    text: Text
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    """Empty when the split has no such part."""


def load(config: Config) -> Data:
    """Reads and cuts the text; raises a ValueError when the split or the text does not do."""
    shares = config.split.split("/")
    if not all(share.isdecimal() and int(share) > 0 for share in shares) or len(shares) not in (2, 3):
        raise ValueError(f"--split got {config.split!r}; want percent such as 90/5/5 or 90/10")
    if sum(map(int, shares)) != 100:
        raise ValueError(f"--split got {config.split!r}, {sum(map(int, shares))} percent; want 100")
    text = load_text(config.text, config.data)
    ends = np.cumsum([int(share) for share in shares])[:-1] * len(text.ids) // 100
    parts = np.split(text.ids, ends)
    if min(len(part) for part in parts) < SHOWN + 1:
        raise ValueError(
            f"text got {len(text.ids)} characters; want at least {SHOWN + 1} in each part of --split {config.split}"
        )
    return Data(text, parts[0], parts[1], parts[2] if len(parts) == 3 else parts[1][:0])


def n_gram_nats(data: Data) -> list[float]:
    """Nats a letter of n-grams of 1 … ``ORDER`` letters on the validation part, its first letter left out."""
    return witten_bell(data.train, data.validation, data.text.letters.size, ORDER)[:, 1:].mean(axis=1).tolist()


# %% [markdown]
# ## The network


# %%
def model_of(config: Config, vocabulary_size: int) -> tuple[Config, Cell]:
    """The configuration with its hidden size, and the network; raises a ValueError for a wrong option."""
    require_positive(config, "layers", "hidden_size", "window", "letters")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"--dropout got {config.dropout}; want at least 0 and less than 1")
    for name in ("parameters", "k1", "minutes", "weight_decay", "patience"):
        if not 0 <= getattr(config, name) < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} got {getattr(config, name)}; want 0 or a positive number")
    for temperature in config.temperatures:
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"--temperatures got {temperature}; want 0 or a positive number")
    make = partial(make_model, config.cell, vocabulary_size, layers=config.layers)
    require_room(config, parameters=16 * config.parameters)
    if config.parameters:
        with naming(config.cell):
            config = dataclasses.replace(config, hidden_size=matching_size(make, config.parameters))
    return config, make(config.hidden_size, dropout=config.dropout)


def require_room_for(model: Cell, config: Config, vocabulary_size: int) -> None:
    """Raises a ValueError when what training holds at once is more than the memory of the machine."""
    params = jax.eval_shape(model.init, jax.random.key(0))
    step = 4 * numbers_of(jax.eval_shape(model.start, params)) + 2 * vocabulary_size  # gates and states; logits
    require_room(
        config,
        hidden_size=4 * 4 * numbers_of(params),  # with the gradient and Adam's two moments
        batch_size=4 * config.batch_size * config.window * step,
        updates=8 * config.updates * config.batch_size * config.window,
        letters=100 * config.letters,
    )


def job_of(config: Config, data: Data, model: Cell, prompt: str) -> Job:
    """What is to be trained, and on what."""

    def learner(looks: int):
        rate = learning_rate(dataclasses.replace(config, looks=looks))
        optimizer = optax.adamw(rate, weight_decay=config.weight_decay)
        return window_learner(model, per_step(cross_entropy), optimizer, clip=config.clip), rate

    facts = {
        "cell": config.cell,
        "seed": config.seed,
        "hidden_size": config.hidden_size,
        "parameters": parameter_count(model),
    }
    return Job(
        model,
        learner,
        streams(data.train, config.batch_size, config.window, config.k1 or None),
        data.validation,
        data.test,
        data.text.letters,
        prompt,
        facts,
    )


# %% [markdown]
# ## Three commands: train, sample, table


# %%
def train_command(argv: list[str] | None) -> int:
    """Trains, or goes on; returns the exit code."""
    with wrong_use():
        options, default = read_options(Config, SMOKE, argv)
        data = load(options)
        letters = data.text.letters
        config, model = model_of(options, letters.size)
        prompt = config.prompt or letters.decode(data.train[:4])
        require_known(letters, "prompt", [prompt])
        require_room_for(model, config, letters.size)
        job = job_of(config, data, model, prompt)
        facts = {"text_sha256": data.text.sha256, "vocabulary_size": letters.size, "prompt": prompt}
        facts |= facts_of([config.cell])
        run = open_run(config.out, config, facts=facts, resume=config.resume, overwrite=config.overwrite)
        run.write_json("vocab.json", list(letters.characters))
    question = (
        f"{len(data.train):,} letters of {data.text.name} to learn from, {len(data.validation):,} to validate on"
        + (f", {len(data.test):,} to test on" if len(data.test) else "")
        + f"; {config.cell}, {job.facts['parameters']:,} parameters"
    )
    return carry_out(
        lambda: train(config, run, job),
        lambda status: publish(
            run, job, n_gram_nats(data), status=status, question=question, options=(options, default)
        ),
    )


@dataclasses.dataclass(frozen=True)
class Sample:
    """Goes on from a prompt, by the params that a run has kept."""

    run: tyro.conf.Positional[Path] = Path("runs/char_lm/default")
    """The run folder."""
    prompt: str = ""
    """What the network goes on from; empty for the prompt of the run's own samples."""
    temperature: float = 0.8
    """0 for the likeliest letter each time, 1 for the network's own probabilities, more for more daring."""
    letters: int = 500
    """How many."""
    seed: int = 0
    """Of what is drawn."""


def trained(run: Path) -> tuple[Config, Vocabulary, Cell]:
    """The configuration, vocabulary and network of a run.

    Raises:
        ValueError: for a folder that holds no run of this script, or whose cell was changed since.
    """
    known = {field.name for field in dataclasses.fields(Config)}
    kept, characters = read_json(run / "config.json"), read_json(run / "vocab.json")
    try:
        config, letters = Config(**{name: kept[name] for name in known & kept.keys()}), Vocabulary("".join(characters))
        config, model = model_of(config, letters.size)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"sample got {run}, whose config.json no run of char_lm.py wrote ({error})") from None
    for name, digest in facts_of([config.cell]).items():
        if kept.get(name) != digest:
            raise ValueError(f"{config.cell} got another content since the run; want the one it was trained with")
    return config, letters, model


def sample_command(argv: list[str]) -> int:
    """Prints the prompt and what follows."""
    with wrong_use():
        asked = parse(Sample, argv)
        require_representable(asked)
        require_room(asked, letters=100 * asked.letters)
        if asked.letters < 1 or not 0 <= asked.temperature < float("inf"):
            raise ValueError(
                f"--letters and --temperature got {asked.letters} and {asked.temperature}; want at least 1 and 0"
            )
        config, letters, model = trained(asked.run)
        prompt = asked.prompt or config.prompt or letters.characters[0]
        require_known(letters, "prompt", [prompt])
        params = load_params(asked.run / "params.safetensors", jax.eval_shape(model.init, jax.random.key(0)))

    def work() -> None:
        write = jax.jit(writer(model, letters.encode(prompt), asked.letters))
        ids = np.asarray(write(params, jax.random.key(asked.seed), asked.temperature))
        print(prompt + letters.decode(ids))

    return carry_out(work, lambda status: None)


@dataclasses.dataclass(frozen=True)
class Table:
    """Several runs on one text, in one table."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders."""


def table_command(argv: list[str]) -> int:
    """Prints the table."""
    with wrong_use():
        folders = parse(Table, argv).runs
        if not folders:
            raise ValueError("table got no run; want run folders, such as: table runs/char_lm/*")
        files = ("config.json", "summary.json")
        finished = [Finished(folder, *(read_json(folder / file) for file in files)) for folder in folders]
        if not all("n_gram_nats" in run.summary and "split" in run.config for run in finished):
            raise ValueError("table got the run of another experiment; want runs of char_lm.py")
        texts = {(run.config.get("text_sha256"), run.config.get("split")): str(run.folder) for run in finished}
        if len(texts) > 1:
            raise ValueError(f"table got different texts or splits ({', '.join(texts.values())}); want one of each")
        print_table(finished)
    return 0


# %%
def main(argv: list[str] | None = None) -> int:
    """Runs one of the commands; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    commands = {"sample": sample_command, "table": table_command}
    if words and words[0] in commands:
        return commands[words[0]](words[1:])
    return train_command(words)


if __name__ == "__main__":
    sys.exit(main())
