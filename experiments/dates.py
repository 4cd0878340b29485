# %% [markdown]
# # Sequence to sequence: dates as twelve languages write them
#
# Many to one, joined with one to many: an encoder reads a date as one of twelve locales writes it, in one of four
# lengths, from "03.05.79" to "segunda-feira, 3 de maio de 1979"; a linear map turns what it has read, in both
# directions, into the first state of a decoder, and that writes 1979-05-03. There is no attention: everything that is
# read must pass through one vector. Which letters moved which is seen afterwards, by gradients.
#
# The dates lie within a hundred years, 1969 to 2068, as POSIX reads years of two digits; no two of these locales write
# different days alike, so every line has one right answer. The days of the test are never seen in training, in any
# language.
#
# Cho and others 2014; Sutskever, Vinyals, Le 2014; scheduled sampling: Bengio, Vinyals, Jaitly, Shazeer 2015.

# %%
import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _cells import RECURRENT
from _dates import ANSWER, DAYS_TESTED, END, LENGTH, Dates, draw_dates
from _dates_report import show
from _showing import Scores, Shown, conduct
from _study import Study, optimizer, read_options, require_known, require_positive, require_room
from _training import Networks, Task, first_of, needs_of, open_study

import rnn_jax as rnn
from rnn_jax import encoder_decoder, initializers, readout, scheduled_sampling, sequence_to_sequence
from rnn_jax.bridges import EncoderDecoder
from rnn_jax.counting import parameter_count
from rnn_jax.data.languages import LOCALES, require_locales
from rnn_jax.data.text import Vocabulary, pad
from rnn_jax.decoding import Decoded, greedy
from rnn_jax.lab.runs import wrong_use
from rnn_jax.losses import cross_entropy, per_step
from rnn_jax.training import batch_learner


@dataclasses.dataclass(frozen=True)
class Config(Study):
    """Which day is it? Dates in twelve languages, read by an encoder and written as YYYY-MM-DD by a decoder."""

    locales: tuple[str, ...] = tuple(LOCALES)
    """Languages, of da de en_GB es fi fr it nl pl pt sv tr."""
    encoder: str = "bidirectional gru"
    """gru, lstm, or any other cell of the library with a W_hh; two words make it bidirectional or a stack of two."""
    decoder: str = "gru"
    """Likewise, but never bidirectional."""
    hidden_size: int = 96
    """Units of every cell."""
    examples: int = 40_000
    """Dates drawn for training, each in a random language and length."""
    own_words: float = 0.0
    """Scheduled sampling: the part of letters that the decoder reads from itself at the end of training."""
    ask: tuple[str, ...] = ()
    """Dates to ask the first network about, also of a finished run, with --resume."""
    batch_size: int = 128
    """Examples side by side."""
    updates: int = 100
    """Optimizer steps from one look to the next."""
    out: Path = Path("runs/dates/default")
    """The run folder."""


SMOKE = {"encoder": "gru", "hidden_size": 16, "seeds": 1, "looks": 2, "updates": 5, "examples": 500, "batch_size": 16}


# %% [markdown]
# ## The network


# %%
def make_cell(name: str, option: str, input_size: int, hidden_size: int) -> rnn.Cell | rnn.Layer:
    """A recurrent cell by name, alone, in both directions, or as a stack of two.

    Raises:
        ValueError: for a name that is none.
    """
    *how, kind = name.split() or [""]
    if kind not in RECURRENT or how not in ([], ["bidirectional"], ["stack"]):
        known = ", ".join(RECURRENT)
        raise ValueError(f"--{option} got {name!r}; want one of {known}, alone or after bidirectional or stack")
    cell = RECURRENT[kind](input_size, hidden_size, input_init=initializers.unit_normal())
    if how == ["bidirectional"]:
        return rnn.bidirectional(cell, cell)
    return rnn.stack(cell, RECURRENT[kind](hidden_size, hidden_size)) if how else cell


def make_model(config: Config, letters: Vocabulary) -> EncoderDecoder:
    """An encoder of any kind and a decoder of any kind that reads in one direction."""
    decoder = make_cell(config.decoder, "decoder", ANSWER.size, config.hidden_size)
    if not isinstance(decoder, rnn.Cell):
        raise ValueError(f"--decoder got {config.decoder!r}; want a cell that reads in one direction, as it writes")
    encoder = make_cell(config.encoder, "encoder", letters.size, config.hidden_size)
    return encoder_decoder(encoder, readout(decoder, ANSWER.size))


def translate(model: EncoderDecoder, params: Any, sources: Any, lengths: Any) -> Decoded:
    """Reads dates and writes each letter by letter, reading its own."""
    told = model.encode(params, model.start(params, lengths.shape), sources, lengths=lengths)
    return greedy(model.decoder, params, told, jnp.full(lengths.shape, END), length=LENGTH, end=END)


def answer_to(model: EncoderDecoder, params: Any, letters: Vocabulary, line: str) -> str:
    """What is written for one date."""
    sources, lengths = pad([letters.encode(line)])
    return ANSWER.decode(np.asarray(translate(model, params, jnp.asarray(sources), lengths).ids)[:, 0]).split("\n")[0]


def make_task(config: Config, model: EncoderDecoder, dates: Dates) -> Task:
    """What is learned from what."""

    def loss(params: Any, sources: Any, lengths: Any, targets: Any, key: Any = None, rate: Any = 0.0) -> jax.Array:
        h0, first = model.start(params, lengths.shape), jnp.full(lengths.shape, END, targets.dtype)
        if key is None or config.own_words == 0:
            logits = sequence_to_sequence(model, params, h0, sources, first, targets, lengths=lengths)
        else:
            told = model.encode(params, h0, sources, lengths=lengths)
            logits = scheduled_sampling(model.decoder, params, key, told, first, targets, rate)
        return per_step(cross_entropy)(logits, targets)

    def score(params: Any, sources: Any, lengths: Any, targets: Any, _locales: Any) -> dict[str, jax.Array]:
        same = translate(model, params, sources, lengths).ids == targets
        return {
            "exact": same.all(axis=0).mean(),
            "letters": same.mean(),
            "loss": loss(params, sources, lengths, targets),
        }

    def batches(rng: np.random.Generator, look: int) -> tuple[Any, ...]:
        sources, lengths, targets, _ = dates.train
        chosen = rng.integers(len(lengths), size=(config.updates, config.batch_size))
        keys = jax.random.split(jax.random.key(rng.integers(2**31)), config.updates)
        rates = config.own_words * np.linspace(look, look + 1, config.updates, dtype=np.float32) / config.looks
        return sources[:, chosen].swapaxes(0, 1), lengths[chosen], targets[:, chosen].swapaxes(0, 1), keys, rates

    return Task(
        learner=batch_learner(model.init, loss, optimizer(config), clip=config.clip),
        batches=batches,
        score=score,
        validation=dates.validation,
        test=dates.test,
        facts={"hidden_size": config.hidden_size, "parameters": parameter_count(model)},
        needs=needs_of(
            config,
            model,
            steps=2 * len(dates.train.sources),  # two stacked cells, or both directions and the decoder
            outputs=ANSWER.size,
            numbers=len(dates.train.sources) + LENGTH,
            scored=dates.test.sources.size,
        ),
    )


# %% [markdown]
# ## The run


# %%
def commonest(dates: Dates) -> dict[str, dict[str, float]]:
    """What one gets by writing the commonest letter at every place, whatever is asked."""
    guess = np.array([np.bincount(row, minlength=ANSWER.size).argmax() for row in dates.train.targets])
    same = dates.test.targets == guess[:, None]
    label = "the commonest letters"
    return {"exact": {label: float(same.all(axis=0).mean())}, "letters": {label: float(same.mean())}}


def main(argv: list[str] | None = None) -> int:
    """Runs the experiment; returns the exit code."""
    with wrong_use():
        config, default = read_options(Config, SMOKE, argv)
        require_positive(config, "examples", "hidden_size")
        require_locales(config.locales)
        twice = next((name for name in config.locales if config.locales.count(name) > 1), None)
        if twice:
            raise ValueError(f"--locales got {twice} twice; want each once")
        if not config.locales:
            raise ValueError(f"--locales got nothing; want one or more of {', '.join(LOCALES)}")
        if not 0 <= config.own_words <= 1:
            raise ValueError(f"--own-words got {config.own_words}; want a part of the letters, from 0 to 1")
        require_room(config, examples=2000 * config.examples)  # lines of text, then numbers
        dates = draw_dates(config.locales, config.examples)
        require_known(dates.letters, "ask", config.ask)
        model = make_model(config, dates.letters)
        kind = f"{config.encoder} to {config.decoder}"
        tasks = {kind: make_task(config, model, dates)}
        run = open_study(config, tasks)
        run.write_json("vocab.json", list(dates.letters.characters))
    chance = commonest(dates)

    def shown(networks: Networks, scores: Scores) -> Shown:
        params = first_of(networks, kind)
        written = jax.jit(partial(translate, model))(params, *dates.test[:2])
        asked = [(line, answer_to(model, params, dates.letters, line)) for line in config.ask]
        return show(model, params, dates, written, asked, run, chance["exact"], kind, scores[kind])

    return conduct(
        run,
        (config, default),
        tasks,
        shown,
        script="dates.py",
        title="Sequence to sequence: dates as many languages write them",
        question=f"{config.examples:,} dates of {len(config.locales)} languages to learn from, "
        f"{DAYS_TESTED:,} of days never seen to test on",
        baselines=chance,
        legend="Exact: test dates without a fault; letters: right at their place, dashes and end among them; mean over "
        "seeds ± half their range, the decoder reading its own letters. Nats: cross-entropy a letter, when told the "
        "right ones.",
    )


if __name__ == "__main__":
    sys.exit(main())
