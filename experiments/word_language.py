# %% [markdown]
# # Many to one: which language is this word from?
#
# Twelve languages in Latin script, and their words for months, days, languages and territories, from the Unicode CLDR
# that the package babel carries. A word is read letter by letter, in one direction or in both, and the last state says
# which language it is from. Words that two of the languages share are left out, so that every word has one answer, and
# no word is in two parts of the data.

# %%
import dataclasses
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from _showing import Scores, Shown, conduct, confusion, draw_curves, shown
from _study import Study, optimizer, read_options, require_known
from _training import Networks, Task, classify, first_of, needs_of, open_study

from rnn_jax import Cell, Layer, bidirectional, gru, initializers, many_to_one, readout
from rnn_jax.counting import parameter_count
from rnn_jax.data.languages import LOCALES, locale_words
from rnn_jax.data.parts import split
from rnn_jax.data.text import Vocabulary, pad, vocabulary
from rnn_jax.lab.plots import confusion_figure
from rnn_jax.lab.report import Section
from rnn_jax.lab.runs import Run, wrong_use
from rnn_jax.training import batch_learner


@dataclasses.dataclass(frozen=True)
class Config(Study):
    """Which of twelve languages is this word from? Read letter by letter."""

    ask: tuple[str, ...] = ()
    """Words to ask the first network about, also of a finished run, with --resume."""
    hidden_size: int = 96
    """Units of each direction."""
    updates: int = 100
    """Optimizer steps from one look to the next."""
    out: Path = Path("runs/word_language/default")
    """The run folder."""


SMOKE = {"hidden_size": 12, "seeds": 1, "looks": 2, "updates": 10}
BOTH_WAYS = "GRU, both ways"


# %% [markdown]
# ## The words


# %%
class Part(NamedTuple):
    """Words as numbers."""

    ids: np.ndarray
    """``(S, N)``: their letters, filled up to the longest."""
    lengths: np.ndarray
    """``(N,)``."""
    classes: np.ndarray
    """``(N,)``: the place of the language in ``LOCALES``."""


class Words(NamedTuple):
    """The words of twelve languages, cut into parts that have none in common."""

    letters: Vocabulary
    train: Part
    validation: Part
    test: Part


def load_words() -> Words:
    """Seven tenths of the words to learn from, one to validate on, two to test on."""
    words = {locale: locale_words(locale) for locale in LOCALES}
    languages_of = Counter(word for of_locale in words.values() for word in of_locale)
    pairs = [(w, c) for c, of_locale in enumerate(words.values()) for w in of_locale if languages_of[w] == 1]
    letters = vocabulary("".join(word for word, _ in pairs))
    ids, lengths = pad([letters.encode(word) for word, _ in pairs])
    classes = np.array([c for _, c in pairs], np.int32)
    parts = (Part(ids[:, i], lengths[i], classes[i]) for i in split(len(pairs), (0.1, 0.2)))
    return Words(letters, *parts)


# %% [markdown]
# ## The networks


# %%
def make_models(config: Config, letters: Vocabulary) -> dict[str, Cell | Layer]:
    """A reader in one direction and one in both."""
    cell = gru(letters.size, config.hidden_size, input_init=initializers.unit_normal())
    return {
        "GRU": readout(cell, len(LOCALES)),
        BOTH_WAYS: readout(bidirectional(cell, cell), len(LOCALES)),
    }


def make_task(config: Config, model: Cell | Layer, words: Words) -> Task:
    """What is learned from what."""

    def score(params: Any, ids: jax.Array, lengths: jax.Array, classes: jax.Array) -> dict[str, jax.Array]:
        return classify(many_to_one(model, params, model.start(params, lengths.shape), ids, lengths=lengths), classes)

    def batches(rng: np.random.Generator, look: int) -> tuple[np.ndarray, ...]:
        chosen = rng.integers(len(words.train.classes), size=(config.updates, config.batch_size))
        ids, lengths, classes = words.train
        return ids[:, chosen].swapaxes(0, 1), lengths[chosen], classes[chosen]

    return Task(
        learner=batch_learner(
            model.init, lambda params, *batch: score(params, *batch)["loss"], optimizer(config), clip=config.clip
        ),
        batches=batches,
        score=score,
        validation=words.validation,
        test=words.test,
        facts={"hidden_size": config.hidden_size, "parameters": parameter_count(model)},
        needs=needs_of(
            config,
            model,
            steps=len(words.train.ids),
            outputs=len(LOCALES),
            numbers=len(words.train.ids),
            scored=words.test.ids.size,
        ),
    )


# %% [markdown]
# ## What is taken for what


# %%
def guess(model: Cell | Layer, params: Any, ids: Any, lengths: Any) -> np.ndarray:
    """``(N, 12)``: the confidence in each language."""
    logits = many_to_one(model, params, model.start(params, lengths.shape), jax.numpy.asarray(ids), lengths=lengths)
    return np.asarray(jax.nn.softmax(logits))


def answer_to(model: Cell | Layer, params: Any, letters: Vocabulary, word: str) -> str:
    """The three likeliest languages of a word."""
    ids, lengths = pad([letters.encode(word)])
    confidence = guess(model, params, ids, lengths)[0]
    names = list(LOCALES.values())
    return ", ".join(f"{names[c]} {100 * confidence[c]:.0f} %" for c in np.argsort(-confidence)[:3])


def about_confusion(kind: str, names: list[str], counts: np.ndarray) -> str:
    """The sentence under the confusion matrix, whose rows are truths."""
    mixed = np.triu(counts + counts.T, k=1)
    a, b = np.unravel_index(mixed.argmax(), mixed.shape)
    told = (
        f"{names[a]} and {names[b]} are taken for each other most often, {mixed[a, b]} times."
        if mixed[a, b]
        else "None is taken for another."
    )
    return f"{kind}, first seed, on the test part: each row is a truth. {told}"


def show(
    models: dict[str, Cell | Layer],
    words: Words,
    ask: tuple[str, ...],
    run: Run,
    networks: Networks,
    chance: dict,
    scores: Scores,
) -> Shown:
    """Draws the figures of the first network."""
    kind = BOTH_WAYS if BOTH_WAYS in networks else next(iter(networks))
    model, params = models[kind], first_of(networks, kind)
    ids, lengths, truth = words.test
    guesses = guess(model, params, ids, lengths).argmax(axis=-1)
    counts, names = confusion(guesses, truth, len(LOCALES)), list(LOCALES.values())
    rows = [(name, *row) for name, row in zip(names, counts, strict=True)]
    run.draw("confusion", confusion_figure(counts, names), ("truth", *names), rows)
    sections = [
        Section("What is taken for what", "confusion", about_confusion(kind, names, counts)),
        draw_curves(run, scores, "accuracy", chance, "words given to the right language"),
    ]
    asked = "\n".join(f"{word}: {answer_to(model, params, words.letters, word)}" for word in ask)
    told = " and ".join(f"{shown(of['accuracy'])} ({name})" for name, of in scores.items())
    answer = f"Of unseen words {told} are given to the right one of {len(LOCALES)} languages."
    return Shown(answer, sections, {"Asked": asked} if ask else {})


# %%
def main(argv: list[str] | None = None) -> int:
    """Runs the experiment; returns the exit code."""
    with wrong_use():
        config, default = read_options(Config, SMOKE, argv)
        words = load_words()
        require_known(words.letters, "ask", config.ask)
        models = make_models(config, words.letters)
        tasks = {name: make_task(config, model, words) for name, model in models.items()}
        run = open_study(config, tasks)
        run.write_json("vocab.json", list(words.letters.characters))
    commonest = np.bincount(words.train.classes).argmax()
    chance = {"chance": 1 / len(LOCALES), "the commonest language": float(np.mean(words.test.classes == commonest))}
    return conduct(
        run,
        (config, default),
        tasks,
        lambda networks, scores: show(models, words, config.ask, run, networks, chance, scores),
        script="word_language.py",
        title="Many to one: which language is this word from?",
        question=f"{len(words.train.classes):,} words of {len(LOCALES)} languages to learn from, "
        f"{len(words.test.classes)} others to test on: months, days, languages and territories",
        baselines={"accuracy": chance},
        legend="H: of each direction. Accuracy: test words given to the right language, mean over seeds ± half their "
        "range; nats: cross-entropy of a word's language.",
    )


if __name__ == "__main__":
    sys.exit(main())
