"""Data that needs no download: what it promises, and that no part of it leaks into another."""

import datetime
import functools
import gc
import hashlib
import http.server
import sys
import threading
import warnings

import numpy as np
import pytest

from rnn_jax.data import texts
from rnn_jax.data.images import digits
from rnn_jax.data.languages import LOCALES, STYLES, locale_words, write_date
from rnn_jax.data.parts import split
from rnn_jax.data.texts import TextFile, named_text
from tests.laboratory import refused

FIRST_DAY = datetime.date(1969, 1, 1)


def test_the_digits_are_ink_from_0_to_1_of_ten_classes():
    images, classes = digits()
    assert images.shape == (1797, 8, 8)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0, 1)
    assert np.bincount(classes).min() > 170
    assert len(np.bincount(classes)) == 10


@pytest.mark.parametrize(
    ("locale", "some"),
    [
        ("fr", ["août", "mercredi", "néerlandais", "suède"]),
        ("tr", ["mayıs", "ingilizce", "italyanca"]),
        ("pl", ["października", "środa", "niemiecki"]),
        ("de", ["märz", "donnerstag", "französisch", "österreich"]),
    ],
)
def test_the_words_of_a_language_keep_their_accents_and_are_in_lower_case(locale, some):
    words = locale_words(locale)
    assert set(some) <= set(words)
    assert words == sorted(set(words))
    assert len(words) > 900
    assert all(word == word.lower() and len(word) >= 3 and word.isalpha() for word in words)


def test_no_two_locales_write_different_days_alike():
    rng = np.random.default_rng(0)
    days = {FIRST_DAY + datetime.timedelta(int(d)) for d in rng.choice(36_525, 120)}
    days |= {
        day.replace(month=day.day, day=day.month) for day in days if day.day <= 12
    }  # what another order would read
    read = {}
    for day in days:
        for locale in LOCALES:
            for style in STYLES:
                read.setdefault(write_date(day, locale, style), set()).add(day)
    assert all(len(of) == 1 for of in read.values())
    assert write_date(datetime.date(1979, 5, 3), "es", "long") == "3 de mayo de 1979"


def test_an_unknown_locale_or_style_lists_the_known():
    day = datetime.date(1979, 5, 3)
    for call in (lambda: locale_words("xx"), lambda: write_date(day, "en_US", "short")):
        with pytest.raises(ValueError, match=r"^locale got '(xx|en_US)'; want one of da, de, en_GB, es, fi, "):
            call()
    with pytest.raises(ValueError, match=r"^style got 'tiny'; want one of short, medium, long, full"):
        write_date(day, "fr", "tiny")


def test_data_whose_package_is_missing_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "babel", None)
    with pytest.raises(ValueError, match=r"got no babel, which carries it; want it: pip install 'rnn-jax-lab\[data\]'"):
        locale_words("fr")


@pytest.mark.parametrize("shares", [(0.1, 0.2), (0.5,), (0.0, 0.3)])
def test_the_parts_of_a_split_hold_everything_once(shares):
    parts = split(203, shares, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(203))
    assert [len(part) for part in parts[1:]] == [round(203 * share) for share in shares]
    assert not np.array_equal(np.concatenate(parts), np.arange(203))
    np.testing.assert_array_equal(np.concatenate(split(203, shares, seed=3)), np.concatenate(parts))
    assert not np.array_equal(np.concatenate(split(203, shares, seed=4)), np.concatenate(parts))


@pytest.mark.parametrize("shares", [(0.6, 0.6), (-0.2, 0.5), (1.1,)])
def test_shares_that_are_no_parts_are_refused(shares):
    with pytest.raises(ValueError, match=r"^parts got .* of 10; want shares of at least 0 that sum to at most 1"):
        split(10, shares)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A text called "hello" on a server of this machine, an empty data folder, and an empty cache."""
    site, folder = tmp_path / "site", tmp_path / "data"
    site.mkdir()
    folder.mkdir()
    (site / "hello.txt").write_text("hello")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        text = TextFile("hello.txt", f"http://127.0.0.1:{server.server_port}/hello.txt", sha256_of("hello"))
        monkeypatch.setitem(texts.TEXTS, "hello", text)
        monkeypatch.setenv("RNN_JAX_DATA", str(folder))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield site / "hello.txt", folder / "hello.txt"
        server.shutdown()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a connection that pooch leaves to the garbage collector
        gc.collect()


def sha256_of(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_text_is_downloaded_once_and_found_again(published, monkeypatch):
    original, kept = published
    assert named_text("hello") == "hello"
    assert kept.read_text() == "hello"
    original.unlink()
    assert named_text("hello") == "hello"
    monkeypatch.delenv("RNN_JAX_DATA")
    refused(lambda: named_text("hello"), "data got no hello from http")


def test_a_download_with_another_checksum_is_refused_and_removed(published):
    original, kept = published
    original.write_text("hullo")
    refused(lambda: named_text("hello"), "data got no hello from http")
    assert list(kept.parent.iterdir()) == []


def test_a_kept_file_with_another_checksum_is_refused_and_stays(published):
    _, kept = published
    kept.write_text("hullo")
    refused(lambda: named_text("hello"), f"data got {kept}, whose SHA-256 is {sha256_of('hullo')}")
    assert kept.read_text() == "hullo"


def test_an_unknown_text_lists_those_that_are_known():
    refused(lambda: named_text("tolstoy"), "data got 'tolstoy'; want one of tiny_shakespeare, or a text file")
