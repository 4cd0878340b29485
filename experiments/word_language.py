# %% [markdown]
# # Many to one: which language is this word from?
#
# Many inputs, one output. A recurrent network reads a word character by character; its last state is a summary of the
# whole word, and a linear readout computes from it how likely each of twelve languages is. The network has to discover
# by itself the patterns that a speaker of these languages notices at once: "ij" is Dutch, "cz" Polish, and "ı" Turkish.

# %%
import dataclasses
from pathlib import Path
from typing import ClassVar

from rnn_jax.lab.options import StudyOptions, read_options, require_encodable


@dataclasses.dataclass(frozen=True)
class Options(StudyOptions):
    """Which of twelve languages is this word from? A GRU reads it character by character, in one or both directions."""

    SMOKE: ClassVar = {"hidden_size": 12, "seeds": 1, "evaluations": 2, "updates": 10}

    questions: tuple[str, ...] = ()
    """Words that the first network classifies; with --resume also the one of a finished run."""
    hidden_size: int = 96
    """Units of each direction."""
    updates: int = 100
    """Optimizer steps from one evaluation to the next."""
    out: Path = Path("runs/word_language/default")
    """The run folder."""


options = read_options(Options)
options

# %% [markdown]
# ## The words
# The Unicode CLDR, which the package babel contains, lists in every language the names of months, days, languages and
# territories. These phrases are split into words. A word that two of the languages share is left out, so every word
# has one answer, and no word is in two parts of the data.

# %%
import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import bidirectional, gru, initializers, many_to_one, readout
from rnn_jax.counting import parameter_count
from rnn_jax.data import LOCALES, draw_batches, language_words, majority_accuracy, pad
from rnn_jax.lab.figures import confusion_counts, confusion_figure
from rnn_jax.lab.loop import Task, optimizer_of
from rnn_jax.lab.memory import memory_of_training
from rnn_jax.lab.page import Table, add_figure, learning_curves, percent, publish, score_table
from rnn_jax.lab.study import class_scores, first_network, open_study, train
from rnn_jax.training import batch_learner

words, languages = language_words(), list(LOCALES.values())
require_encodable(words.vocabulary, "questions", options.questions)
{name: len(part.classes) for name, part in words._asdict().items() if name != "vocabulary"}

# %%
ids, lengths, classes = words.train
examples = [np.flatnonzero(classes == language)[:6] for language in range(len(languages))]
Table(
    ["language", "words", "examples"],
    [
        (
            name,
            f"{np.sum(classes == i):,}",
            ", ".join(words.vocabulary.decode(ids[: lengths[n], n]) for n in examples[i]),
        )
        for i, name in enumerate(languages)
    ],
    "Words of the training part.",
)

# %% [markdown]
# A character is a number, its index in the vocabulary; words of a batch are padded to the same length. The padding must
# not change the answer, so the network also gets the length of each word, and its state stays as it is after the last
# character. A network that ignores the word and always answers with the commonest language is the baseline.

# %%
baselines = {"chance": 1 / len(languages), "the commonest language": majority_accuracy(words)}
words.vocabulary, baselines

# %% [markdown]
# ## Two networks
# The first reads a word from left to right. The second has two cells: one reads from left to right, the other from
# right to left, and the readout gets both last states. The beginning of a word is then as recent as its end.

# %%
BOTH_WAYS = "GRU, both ways"
cell = gru(words.vocabulary.size, options.hidden_size, input_init=initializers.unit_normal())
models = {"GRU": readout(cell, len(languages)), BOTH_WAYS: readout(bidirectional(cell, cell), len(languages))}
{kind: f"{parameter_count(model):,} parameters" for kind, model in models.items()}

# %% [markdown]
# `many_to_one` runs through the word and returns the output of the last state. The loss is the cross-entropy of the
# true language in nats: an even guess among twelve costs ln 12 ≈ 2.48.


# %%
def logits(model, params, ids, lengths):
    """``ids (T, N), lengths (N,) -> (N, 12)``."""
    return many_to_one(model, params, model.start(params, lengths.shape), ids, lengths=lengths)


def make_task(model):
    """Training and evaluation of one kind of network."""

    def score(params, ids, lengths, classes):
        return class_scores(logits(model, params, ids, lengths), classes)

    def loss(params, *batch):
        return score(params, *batch)["loss"]

    steps = len(words.train.ids)
    return Task(
        batch_learner(model.init, loss, optimizer_of(options), clip=options.clip),
        batches=lambda rng, number: draw_batches(words.train, rng, options.updates, options.batch_size),
        score=score,
        validation=words.validation,
        test=words.test,
        facts={"hidden_size": options.hidden_size, "parameters": parameter_count(model)},
        memory=memory_of_training(
            options, model, steps=steps, outputs=len(languages), inputs=steps, scored=words.test.ids.size
        ),
    )


# %% [markdown]
# ## Training

# %%
tasks = {kind: make_task(model) for kind, model in models.items()}
run = open_study(options, tasks)
run.write_json("vocab.json", list(words.vocabulary.characters))
networks, scores = train(options, run, tasks)
table = score_table(
    run,
    scores,
    baselines={"accuracy": baselines},
    legend="H: units of each direction. Accuracy: test words that are classified right, mean over seeds ± half their "
    "range; nats: cross-entropy of a word's language.",
)
table

# %%
curves = learning_curves(run, "accuracy", y="words classified right", baselines=baselines, unit="words")
curves

# %% [markdown]
# ## Which languages are mistaken for each other?
# The errors of the network show which languages are similar in writing. Mostly they are related, such as Dutch and
# German, Spanish and Portuguese, or French and Portuguese.

# %%
kind = BOTH_WAYS if BOTH_WAYS in networks else next(iter(networks))
model, params = models[kind], first_network(networks, kind)


def describe_confusion(kind, names, counts):
    """The sentence under the confusion matrix, in which each row is a true class."""
    mixed = np.triu(counts + counts.T, k=1)
    a, b = np.unravel_index(mixed.argmax(), mixed.shape)
    most = f"Most often {names[a]} and {names[b]} are mistaken for each other, {mixed[a, b]} times."
    return (
        f"The network {kind} of the first seed on the test part: each row is a true language, each column a guess. "
        f"{most if mixed[a, b] else 'No language is mistaken for another.'}"
    )


counts = confusion_counts(
    np.asarray(logits(model, params, jnp.asarray(words.test.ids), words.test.lengths)).argmax(axis=-1),
    words.test.classes,
    len(languages),
)
confusion = add_figure(
    run,
    "confusion",
    confusion_figure(counts, languages),
    ("truth", *languages),
    [(name, *row) for name, row in zip(languages, counts, strict=True)],
    title="Which language is mistaken for which?",
    sentence=describe_confusion(kind, languages, counts),
)
confusion

# %% [markdown]
# ## Questions
# The confidences of the network in a few words. With `--questions` you give your own: in a notebook set
# `RNN_JAX_OPTIONS='--questions hello lördag'` before the first cell.


# %%
def likeliest_languages(word):
    """The three likeliest languages of a word."""
    ids, lengths = pad([words.vocabulary.encode(word)])
    confidences = np.asarray(jax.nn.softmax(logits(model, params, jnp.asarray(ids), lengths)))[0]
    return ", ".join(f"{languages[i]} {confidences[i]:.0%}" for i in np.argsort(-confidences)[:3])


questions = options.questions or ("goedemorgen", "obrigado", "kiitos", "teşekkürler")
answers = "\n".join(f"{word}: {likeliest_languages(word)}" for word in questions)
print(answers)

# %% [markdown]
# ## The page

# %%
accuracies = " and ".join(f"{percent(of['accuracy'])} ({kind})" for kind, of in scores.items())
publish(
    run,
    options,
    script="experiments/word_language.py",
    title="Many to one: which language is this word from?",
    question=f"{len(words.train.classes):,} words of {len(languages)} languages to train on, "
    f"{len(words.test.classes):,} others to test on: months, days, languages and territories",
    answer=f"Of unseen words {accuracies} are classified right among {len(languages)} languages.",
    sections=[confusion, curves],
    table=table,
    samples={"Questions": answers},
)
