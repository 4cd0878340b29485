"""Data: vocabularies, texts, digits, words and dates, in parts that have nothing in common."""

from rnn_jax.data.images import Digits, digits
from rnn_jax.data.languages import LOCALES, STYLES, locale_words, write_date
from rnn_jax.data.ngrams import witten_bell
from rnn_jax.data.parts import split
from rnn_jax.data.text import Vocabulary, one_hot, pad, streams, vocabulary
from rnn_jax.data.texts import TEXTS, named_text, python_reference, read_text

__all__ = [
    "LOCALES",
    "STYLES",
    "TEXTS",
    "Digits",
    "Vocabulary",
    "digits",
    "locale_words",
    "named_text",
    "one_hot",
    "pad",
    "python_reference",
    "read_text",
    "split",
    "streams",
    "vocabulary",
    "witten_bell",
    "write_date",
]
