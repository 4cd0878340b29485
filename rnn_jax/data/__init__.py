"""Data: loaders with parts for training, validation and test; synthetic tasks; text as numbers; batches."""

from rnn_jax.data.batches import Bucket, bucket_batches, consecutive_batches, draw_batches, pad, windows
from rnn_jax.data.images import Digits, digits, shift_images
from rnn_jax.data.languages import (
    LOCALES,
    STYLES,
    Dates,
    LanguageWords,
    Words,
    WrittenDates,
    language_words,
    locale_words,
    write_date,
    written_dates,
)
from rnn_jax.data.ngrams import witten_bell
from rnn_jax.data.parts import Parts, majority_accuracy, split
from rnn_jax.data.tasks import (
    ADDING_BASELINE,
    Adding,
    Copying,
    FlipFlop,
    adding,
    copying,
    copying_baseline,
    flip_flop,
)
from rnn_jax.data.text import Vocabulary, lanes, one_hot, streams, vocabulary
from rnn_jax.data.texts import TEXTS, Text, load_text, named_text, python_reference, read_text, text_parts

__all__ = [
    "ADDING_BASELINE",
    "LOCALES",
    "STYLES",
    "TEXTS",
    "Adding",
    "Bucket",
    "Copying",
    "Dates",
    "Digits",
    "FlipFlop",
    "LanguageWords",
    "Parts",
    "Text",
    "Vocabulary",
    "Words",
    "WrittenDates",
    "adding",
    "bucket_batches",
    "consecutive_batches",
    "copying",
    "copying_baseline",
    "digits",
    "draw_batches",
    "flip_flop",
    "lanes",
    "language_words",
    "load_text",
    "locale_words",
    "majority_accuracy",
    "named_text",
    "one_hot",
    "pad",
    "python_reference",
    "read_text",
    "shift_images",
    "split",
    "streams",
    "text_parts",
    "vocabulary",
    "windows",
    "witten_bell",
    "write_date",
    "written_dates",
]
