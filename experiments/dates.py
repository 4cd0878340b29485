# %% [markdown]
# # Sequence to sequence: dates as twelve languages write them
#
# Many to one, joined with one to many. An encoder reads a date as one of twelve languages writes it, in one of four
# lengths, from "03.05.79" to "segunda-feira, 3 de maio de 1979". A linear map turns the last outputs of the encoder, in
# both directions, into the first state of a decoder, and the decoder writes 1979-05-03, character by character. There
# is no attention: everything must pass through one vector. The influence of each input character on each output
# character is measured afterwards, by gradients.
#
# Cho and others 2014; Sutskever, Vinyals, Le 2014; scheduled sampling: Bengio, Vinyals, Jaitly, Shazeer 2015.

# %%
import dataclasses
from pathlib import Path
from typing import ClassVar

from rnn_jax.lab.options import StudyOptions, read_options, require_encodable, require_positive


@dataclasses.dataclass(frozen=True)
class Options(StudyOptions):
    """Which day is it? Dates in twelve languages, read by an encoder and written as YYYY-MM-DD by a decoder."""

    SMOKE: ClassVar = {
        "encoder": "gru",
        "hidden_size": 16,
        "seeds": 1,
        "evaluations": 2,
        "updates": 5,
        "examples": 500,
        "batch_size": 16,
    }

    locales: tuple[str, ...] = ("da", "de", "en_GB", "es", "fi", "fr", "it", "nl", "pl", "pt", "sv", "tr")
    """Languages, of da de en_GB es fi fr it nl pl pt sv tr."""
    encoder: str = "bidirectional gru"
    """gru, lstm, or any other cell of the library with a W_hh; two words make it bidirectional or a stack of two."""
    decoder: str = "gru"
    """Likewise, but never bidirectional."""
    hidden_size: int = 96
    """Units of every cell."""
    examples: int = 40_000
    """Dates drawn for training, each in a random language and length."""
    sampling_rate: float = 0.0
    """Scheduled sampling: at the end of training, the share of the decoder's inputs that are its own guesses."""
    questions: tuple[str, ...] = ()
    """Dates that the first network reads; with --resume also the one of a finished run."""
    batch_size: int = 128
    """Examples in a batch."""
    updates: int = 100
    """Optimizer steps from one evaluation to the next."""
    out: Path = Path("runs/dates/default")
    """The run folder."""


options = read_options(Options)
require_positive(options, "examples", "hidden_size")
if not 0 <= options.sampling_rate <= 1:
    raise ValueError(f"--sampling-rate got {options.sampling_rate}; want a share of the inputs, from 0 to 1")
twice = [locale for locale in options.locales if options.locales.count(locale) > 1]
if twice or not options.locales:
    raise ValueError(f"--locales got {f'{twice[0]} twice' if twice else 'nothing'}; want one or more, each once")
options

# %% [markdown]
# ## The dates
# One day, written in four lengths, from the Unicode CLDR that the package babel contains. The order of day and month,
# the names of months and weekdays, and the punctuation differ from language to language.

# %%
import datetime

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import Cell, bidirectional, encoder_decoder, initializers, input_gradients, readout, stack
from rnn_jax.counting import parameter_count
from rnn_jax.data import LOCALES, STYLES, draw_batches, one_hot, pad, write_date, written_dates
from rnn_jax.decoding import greedy
from rnn_jax.diagnostics import log_odds
from rnn_jax.lab.figures import alignment_figure, confidence_figure, share_figure
from rnn_jax.lab.loop import Task, optimizer_of
from rnn_jax.lab.memory import memory_of_training, require_memory
from rnn_jax.lab.named_cells import RECURRENT
from rnn_jax.lab.page import Table, add_figure, learning_curves, percent, publish, score_table
from rnn_jax.lab.study import first_network, open_study, train
from rnn_jax.losses import cross_entropy, per_step
from rnn_jax.topologies import scheduled_sampling, sequence_to_sequence
from rnn_jax.training import batch_learner

require_memory(options, examples=2000 * options.examples)  # lines of text, then numbers
dates = written_dates(options.locales, examples=options.examples)
require_encodable(dates.source_vocabulary, "questions", options.questions)
day = datetime.date(1979, 5, 3)
Table(
    ["language", *STYLES],
    [(LOCALES[locale], *(write_date(day, locale, style) for style in STYLES)) for locale in options.locales],
    f"The same day, {day}. The network has to write it like that.",
)

# %% [markdown]
# The days lie within a hundred years, 1969 to 2068, which is how POSIX reads years of two digits; no two of these
# languages write different days alike, so every line has one right answer. Day, language and length are drawn at
# random. No day of the test is in the training part, in any language: the network cannot have learned its answer by
# heart.
#
# The baseline writes the commonest character at each of the eleven positions: always the same date.

# %%
positions = [np.bincount(row).argmax() for row in dates.train.targets]
same = dates.test.targets == np.array(positions)[:, None]
label = f"always {dates.target_vocabulary.decode(positions).strip()}"
baselines = {"exact": {label: float(same.all(axis=0).mean())}, "characters": {label: float(same.mean())}}
{name: len(getattr(dates, name).lengths) for name in ("train", "validation", "test")} | baselines

# %% [markdown]
# ## The network
# An encoder of any kind and a decoder of any kind that runs in one direction. The readout of the decoder returns the
# logits of the twelve characters that an answer has: digits, the hyphen, and the end.


# %%
def make_cell(name, option, input_size):
    """A recurrent cell by name, alone, in both directions, or as a stack of two; a ValueError for another name."""
    *how, kind = name.split() or [""]
    if kind not in RECURRENT or how not in ([], ["bidirectional"], ["stack"]):
        known = ", ".join(RECURRENT)
        raise ValueError(f"--{option} got {name!r}; want one of {known}, alone or after bidirectional or stack")
    H = options.hidden_size
    cell = RECURRENT[kind](input_size, H, input_init=initializers.unit_normal())
    if how == ["bidirectional"]:
        return bidirectional(cell, cell)
    return stack(cell, RECURRENT[kind](H, H)) if how else cell


V, answer_size, answer_length = dates.source_vocabulary.size, dates.target_vocabulary.size, len(dates.train.targets)
encoder, decoder = make_cell(options.encoder, "encoder", V), make_cell(options.decoder, "decoder", answer_size)
if not isinstance(decoder, Cell):
    raise ValueError(f"--decoder got {options.decoder!r}; want a cell that runs in one direction, as it writes")
model = encoder_decoder(encoder, readout(decoder, answer_size))
facts = {"hidden_size": options.hidden_size, "parameters": parameter_count(model)}
facts

# %% [markdown]
# ## Training with the right inputs, writing with its own
# While it is trained, the decoder gets the right character as its next input, not its own last character:
# teacher forcing, which makes every step of the answer an ordinary prediction of the next character. When it writes,
# it gets its own last character, so one error can lead to the next. Scheduled sampling closes this gap: more and more
# of the inputs are drawn from the decoder's own confidences (`--sampling-rate 0.5`).


# %%
def sampling_rates(options, number):
    """The sampling rate at every update before evaluation ``number``: it grows linearly from 0, ``(U,)``."""
    share = np.linspace(number, number + 1, options.updates, dtype=np.float32) / options.evaluations
    return options.sampling_rate * share


def batches(rng, number):
    """Dates drawn at random, and for scheduled sampling a key and a rate for each update."""
    batch = draw_batches(dates.train, rng, options.updates, options.batch_size)
    keys = jax.random.split(jax.random.key(rng.integers(2**31)), options.updates)
    return *batch[:3], keys, sampling_rates(options, number)


def translate(params, sources, lengths):
    """Reads dates ``(T, N)`` and writes each, ``ids (11, N)``, with its own last character as the next input."""
    h0 = model.encode(params, model.start(params, lengths.shape), sources, lengths=lengths)
    first = jnp.full(lengths.shape, dates.end)
    return greedy(model.decoder, params, h0, first, length=answer_length, end=dates.end)


def loss(params, sources, lengths, targets, key=None, rate=0.0):
    """Nats a character of the right answers ``targets (11, N)``."""
    h0, first = model.start(params, lengths.shape), jnp.full(lengths.shape, dates.end, targets.dtype)
    if key is None or options.sampling_rate == 0:
        logits = sequence_to_sequence(model, params, h0, sources, first, targets, lengths=lengths)
    else:
        h0 = model.encode(params, h0, sources, lengths=lengths)
        logits = scheduled_sampling(model.decoder, params, key, h0, first, targets, rate)
    return per_step(cross_entropy)(logits, targets)


def score(params, sources, lengths, targets, locales):
    """Shares of dates without an error and of right characters, when it writes; nats under teacher forcing."""
    same = translate(params, sources, lengths).ids == targets
    return {
        "exact": same.all(axis=0).mean(),
        "characters": same.mean(),
        "loss": loss(params, sources, lengths, targets),
    }


# %% [markdown]
# ## Training

# %%
kind, steps = f"{options.encoder} to {options.decoder}", len(dates.train.sources)
task = Task(
    batch_learner(model.init, loss, optimizer_of(options), clip=options.clip),
    batches=batches,
    score=score,
    validation=dates.validation,
    test=dates.test,
    facts=facts,
    memory=memory_of_training(
        options,
        model,
        steps=2 * steps,  # two stacked cells, or both directions and the decoder
        outputs=answer_size,
        inputs=steps + answer_length,
        scored=dates.test.sources.size,
    ),
)
run = open_study(options, {kind: task})
run.write_json("vocab.json", list(dates.source_vocabulary.characters))
networks, scores = train(options, run, {kind: task})
table = score_table(
    run,
    scores,
    baselines=baselines,
    legend="Exact: test dates without an error; characters: right ones at their position, hyphens and the end among "
    "them; mean over seeds ± half their range, with the decoder's own characters as inputs. Nats: cross-entropy a "
    "character, with the right ones as inputs.",
)
table

# %%
curves = learning_curves(run, "exact", y="dates without an error", baselines=baselines["exact"], unit="dates")
curves

# %% [markdown]
# ## What it writes
# The first network reads the test part. Every line below is a day outside the training part.

# %%
params = first_network(networks, kind)
ids, log_probs, lengths = map(np.asarray, jax.jit(translate)(params, *dates.test[:2]))
same = ids == dates.test.targets
wrong = np.flatnonzero(~same.all(axis=0))


def source_of(n):
    """A test date as the network reads it."""
    return dates.source_vocabulary.decode(dates.test.sources[: dates.test.lengths[n], n])


def lines_of(chosen):
    """Lines such as ``3 mai 1979 -> 1979-05-03 (right)``."""
    lines = []
    for n in chosen:
        answer, truth = (dates.target_vocabulary.decode(of[:, n]).split("\n")[0] for of in (ids, dates.test.targets))
        lines.append(f"{source_of(n)} -> {answer} ({'right' if answer == truth else 'wrong: ' + truth})")
    return "\n".join(lines)


first_of_each = [int(np.flatnonzero(dates.test.locales == n)[0]) for n in np.unique(dates.test.locales)]
samples = {
    "Dates of the test": lines_of(first_of_each),
    f"Errors, {len(wrong)} of {ids.shape[1]}": lines_of(wrong[:30]) or "none",
}
print(samples["Dates of the test"])


# %% [markdown]
# ## Which language is hardest?
# With the default options it is Swedish. Its short form, 2044-08-09, is the only one that begins with the year, and the
# digits of the month come before those of the day. So the network errs where the date is already in the right form.


# %%
def describe_languages(names, exact):
    """The sentence under the bars, of the share of right dates in each language."""
    hardest = [name for name, share in zip(names, exact, strict=True) if share == exact.min()]
    ending = f"Hardest: {', '.join(hardest)}." if len(hardest) < len(names) else "No language is harder than another."
    return f"The first network, on days that are not in the training part in any language. {ending}"


places = np.unique(dates.test.locales)
names = [LOCALES[dates.locales[n]] for n in places]
exact = np.array([same[:, dates.test.locales == n].all(axis=0).mean() for n in places])
characters = np.array([same[:, dates.test.locales == n].mean() for n in places])
shares = list(zip(names, exact.tolist(), characters.tolist(), strict=True))
by_language = add_figure(
    run,
    "by_language",
    share_figure(names, {"whole dates": exact, "characters": characters}),
    ("language", "exact", "characters"),
    [(name, f"{e:.4f}", f"{c:.4f}") for name, e, c in shares],
    title="By language",
    sentence=describe_languages(names, exact),
)
by_language

# %% [markdown]
# ## Alignment by gradients
# Which input character did the decoder use for which output character? The gradient measures this: how much would the
# output change, if this input changed a little? The output is the log-odds ln p/(1 − p) of the written character, since
# p itself, close to 1, hardly changes. In a long date the month's name lies far from the digits of the month,
# and the weekday is of no use at all.


# %%
def answer_logits(params, source, written):
    """Logits ``(K, 12)`` of one answer ``(K,)``, for a source of ids ``(T,)`` or one-hot vectors ``(T, V)``."""
    first = jnp.array(dates.end, written.dtype)
    return sequence_to_sequence(model, params, model.start(params), source, first, written)


def alignment_section(name, n):
    """The figure of which input characters influenced which output characters of test date n."""
    source, written = jnp.asarray(dates.test.sources[: dates.test.lengths[n], n]), jnp.asarray(ids[: lengths[n], n])
    odds = lambda xs: log_odds(answer_logits(params, xs, written), written)  # noqa: E731
    weights = np.asarray(jax.jit(lambda xs: input_gradients(odds, xs))(one_hot(source, V)))
    line, answer = source_of(n), dates.target_vocabulary.decode(ids[: lengths[n], n])
    return add_figure(
        run,
        name,
        alignment_figure(line, answer, weights),
        ("place", "written", "read_at", "read", "gradient"),
        [(k, answer[k].strip() or "end", t, line[t], f"{w:.5g}") for (k, t), w in np.ndenumerate(weights)],
        title=f"Which input influenced which output: {LOCALES[dates.locales[int(dates.test.locales[n])]]}",
        sentence=f"“{line}” along the top, the answer on the left, ⏎ is its end. The darker a cell, the more the input "
        "would change the log-odds of the output; each row has its own scale: ‖∂ ln p/(1 − p) / ∂x‖.",
    )


right = np.flatnonzero(same.all(axis=0)).tolist() or list(range(ids.shape[1]))
by_length = sorted(right, key=lambda n: -dates.test.lengths[n])
alignment_long = alignment_section("alignment_long", by_length[0])
alignment_long

# %%
alignment = alignment_section("alignment", by_length[len(by_length) // 3])
alignment

# %% [markdown]
# ## Where it is in doubt
# Of all characters that the network wrote for the test part, this is the one in which its confidence was lowest.

# %%
n = int(log_probs.min(axis=0).argmin())
written = ids[: lengths[n], n]
source = jnp.asarray(dates.test.sources[: dates.test.lengths[n], n])
confidences = np.asarray(jax.nn.softmax(answer_logits(params, source, jnp.asarray(written))))
answer, truth = (dates.target_vocabulary.decode(of) for of in (written, dates.test.targets[: lengths[n], n]))
doubt = add_figure(
    run,
    "confidences",
    confidence_figure("\n" + answer[:-1], truth, confidences, dates.target_vocabulary.characters, top=4),
    ("place", "character", "confidence"),
    [
        (k, dates.target_vocabulary.characters[i].strip() or "end", f"{p:.5f}")
        for (k, i), p in np.ndenumerate(confidences)
    ],
    title="Where it is in doubt",
    sentence=f"“{source_of(n)}” is {dates.target_vocabulary.decode(dates.test.targets[:-1, n])}. Along the top the "
    "decoder's inputs, its own characters; under each the four likeliest next ones: green the right one, red a first "
    "guess that is wrong. Of all test dates this one has the character with the lowest confidence.",
)
doubt

# %% [markdown]
# ## Questions
# Any date, in any of the languages: `--questions "3 mai 1979"`; in a notebook set `RNN_JAX_OPTIONS` before the first
# cell.

# %%
answers = []
for question in options.questions:
    source, length = pad([dates.source_vocabulary.encode(question)])
    answer = dates.target_vocabulary.decode(np.asarray(translate(params, jnp.asarray(source), length).ids)[:, 0])
    answers.append(f"{question} -> {answer.splitlines()[0]}")
    print(answers[-1])

# %% [markdown]
# ## The page

# %%
publish(
    run,
    options,
    script="experiments/dates.py",
    title="Sequence to sequence: dates as many languages write them",
    question=f"{options.examples:,} dates of {len(options.locales)} languages to train on, {ids.shape[1]:,} of other "
    "days to test on",
    answer=f"Of dates whose days are not in the training part, {percent(scores[kind]['exact'])} are written without an "
    "error.",
    sections=[curves, by_language, alignment_long, alignment, doubt],
    table=table,
    samples=samples | ({"Questions": "\n".join(answers)} if answers else {}),
    details={"by_language": {name: {"exact": e, "characters": c} for name, e, c in shares}},
)
