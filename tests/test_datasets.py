"""Data that needs no download: what it promises, and that no part of it leaks into another."""

import datetime
import functools
import gc
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace as Labels
from typing import Any

import numpy as np
import pytest

from rnn_jax.data import texts
from rnn_jax.data.batches import draw_batches
from rnn_jax.data.catalogue import DATA_SETS
from rnn_jax.data.downloads import PublishedFile
from rnn_jax.data.images import digits, shift_images
from rnn_jax.data.languages import LOCALES, STYLES, language_words, locale_words, write_date, written_dates
from rnn_jax.data.music import CHORALES, chorales
from rnn_jax.data.parts import Parts, majority_accuracy, split
from rnn_jax.data.text import Vocabulary
from rnn_jax.data.texts import TEXTS, Text, load_text, named_text, text_parts
from tests.laboratory import refused

FIRST_DAY = datetime.date(1969, 1, 1)


def test_digits_are_ink_from_0_to_1_of_ten_classes_and_each_is_in_one_part():
    from sklearn import datasets

    found = digits()
    images, classes = (np.concatenate(part) for part in zip(*found, strict=True))
    assert [len(part.classes) for part in found] == [1258, 180, 359]
    assert images.shape == (1797, 8, 8)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0, 1)
    assert np.bincount(classes).min() > 170
    assert len(np.bincount(classes)) == 10
    original: Any = datasets.load_digits()
    inside = {(image.tobytes(), label) for image, label in zip(images, classes, strict=True)}
    given = zip((original.images / 16).astype(np.float32), original.target.astype(np.int32), strict=True)
    assert inside == {(image.tobytes(), label) for image, label in given}


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


def test_each_word_of_one_language_is_in_one_part_with_its_class():
    data, found = language_words(), Counter()
    shares = [len(part.classes) for part in data[:3]]
    for ids, lengths, classes in data[:3]:
        for word, length, of in zip(ids.T, lengths, classes, strict=True):
            assert not word[length:].any()
            found[data.vocabulary.decode(word[:length]), list(LOCALES)[of]] += 1
    all_words = [(word, locale) for locale in LOCALES for word in locale_words(locale)]
    languages = Counter(word for word, _ in all_words)
    assert found == Counter(pair for pair in all_words if languages[pair[0]] == 1)
    np.testing.assert_allclose(np.array(shares) / sum(shares), [0.7, 0.1, 0.2], atol=1e-3)


def test_written_dates_stand_for_their_targets_and_parts_share_no_day():
    data = written_dates(["sv", "fi"], examples=200, tested=40)
    days = []
    for part in data[:3]:
        written = []
        for source, length, target, locale in zip(
            part.sources.T, part.lengths, part.targets.T, part.locales, strict=True
        ):
            text = data.target_vocabulary.decode(target)
            written.append(datetime.date.fromisoformat(text[:-1]))
            assert target[-1] == data.end
            assert text[-1] == "\n"
            line, ways = data.source_vocabulary.decode(source[:length]), [data.locales[int(locale)]]
            assert line in {write_date(written[-1], name, style) for name in ways for style in STYLES}
        days.append(set(written))
        assert FIRST_DAY <= min(written) <= max(written) < FIRST_DAY + datetime.timedelta(36_525)
    assert [len(part.lengths) for part in data[:3]] == [200, 10, 40]
    assert all(days[a].isdisjoint(days[b]) for a, b in [(0, 1), (0, 2), (1, 2)])
    assert all(set(part.locales.tolist()) == {0, 1} for part in data[:3])
    refused(lambda: written_dates(["xx"]), "locale got 'xx'; want one of da")
    refused(lambda: written_dates([]), "locales got 0; want a positive integer")
    refused(lambda: written_dates(examples=0), "examples got 0; want a positive integer")
    refused(lambda: written_dates(tested=3), "tested got 3; want at least 4")


def test_an_image_moves_by_up_to_a_pixel_in_both_directions_each_as_often():
    image = np.zeros((4, 5))
    image[1, 2], image[0, 0] = 1, 2
    moved = shift_images(np.tile(image, (900, 2, 1, 1)), np.random.default_rng(0)).reshape(-1, 4, 5)
    framed = np.pad(image, 1)
    ways = {framed[y : y + 4, x : x + 5].tobytes() for y in range(3) for x in range(3)}
    counts = Counter(one.tobytes() for one in moved)
    assert set(counts) == ways
    assert len(ways) == 9
    assert max(abs(count / 1800 - 1 / 9) for count in counts.values()) < 4 * np.sqrt(8 / 81 / 1800)
    refused(lambda: shift_images(image, np.random.default_rng(0), pixels=0), "pixels got 0; want a positive integer")


def test_the_majority_guess_is_the_commonest_class_of_the_training_part():
    part = lambda *classes: Labels(classes=np.array(classes))  # noqa: E731
    assert majority_accuracy(Parts(part(1, 1, 0), part(), part(1, 0, 0, 0))) == 0.25


def test_no_two_locales_write_different_days_alike():
    rng = np.random.default_rng(0)
    days = {FIRST_DAY + datetime.timedelta(int(d)) for d in rng.choice(36_525, 120)}
    days |= {day.replace(month=day.day, day=day.month) for day in days if day.day <= 12}  # month and day exchanged
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
    with pytest.raises(ValueError, match=r"this data got no package babel; want it: pip install 'rnn-jax-lab\[data\]'"):
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


@pytest.mark.parametrize("split", ["90/5/5", "90/10", "98/1/1", "1/1/98"])
def test_parts_of_a_text_are_consecutive_and_cut_at_their_percent(split):
    text = Text(np.arange(1013), Vocabulary("ab"), "", "")
    parts, shares = text_parts(text, split), [int(share) for share in split.split("/")]
    np.testing.assert_array_equal(np.concatenate(parts), text.ids)
    ends = np.cumsum([len(part) for part in parts])[: len(shares)]
    np.testing.assert_array_equal(ends, [1013 * sum(shares[: n + 1]) // 100 for n in range(len(shares))])
    few = text_parts(text, split, at_most=7)
    np.testing.assert_array_equal(np.concatenate(few), text.ids)
    assert [len(part) for part in few[1:]] == [7] * (len(shares) - 1) + [0] * (3 - len(shares))


def test_a_split_that_is_none_and_a_text_too_short_for_it_are_refused():
    text = Text(np.arange(100), Vocabulary("ab"), "", "")
    for bad in ("90", "90/5/4/1", "a/b", "100/0", "-10/110", "9.5/0.5"):
        refused(lambda bad=bad: text_parts(text, bad), f"split got '{bad}'; want percent such as 90/5/5 or 90/10")
    refused(lambda: text_parts(text, "90/5/4"), "split got '90/5/4', 99 percent; want 100")
    refused(lambda: text_parts(text, at_least=6), "text got 100 characters; want at least 6 in each part of 90/5/5")
    refused(lambda: text_parts(text, at_most=0), "at_most got 0; want a positive integer")


def test_a_text_is_loaded_from_a_file_by_name_or_from_python(tmp_path, published):
    (tmp_path / "ab.txt").write_text("abba")
    text = load_text(tmp_path / "ab.txt")
    assert text.ids.tolist() == [0, 1, 1, 0]
    assert text.vocabulary.characters == "ab"
    assert (text.name, text.sha256) == (str(tmp_path / "ab.txt"), sha256_of("abba"))
    assert load_text(name="hello").sha256 == sha256_of("hello")
    assert load_text(name="hello").name == "hello"
    assert load_text().name == "the Python language reference"
    refused(lambda: load_text(tmp_path / "ab.txt", "hello"), f"file and name got {tmp_path / 'ab.txt'} and hello; want")
    (tmp_path / "a.txt").write_text("aaa")
    refused(lambda: load_text(tmp_path / "a.txt"), "text got one distinct character; want at least two")


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
        text = PublishedFile("hello.txt", f"http://127.0.0.1:{server.server_port}/hello.txt", sha256_of("hello"))
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
    refused(lambda: named_text("tolstoy"), "data got 'tolstoy'; want one of tiny_shakespeare, or your own text file")


def is_here(name):
    files = {"chorales": CHORALES.file} | {text: published.file for text, published in TEXTS.items()}
    return (Path(os.environ.get("RNN_JAX_DATA", "nowhere")) / files[name]).is_file()


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_data_set_of_the_list_is_loaded_in_parts_that_can_be_drawn_from(name):
    data_set = DATA_SETS[name]
    if data_set.downloaded and not is_here(name):
        pytest.skip(f"no test downloads: wants {name} in RNN_JAX_DATA")
    found = data_set.load() if name != "written_dates" else written_dates(examples=10, tested=8)
    found = text_parts(found) if isinstance(found, Text) else found
    assert found._fields[:3] == ("train", "validation", "test")
    for part in found[:3]:
        if isinstance(part, np.ndarray):  # of a text
            assert len(part) > 10_000
        else:
            batch = draw_batches(part, np.random.default_rng(0), updates=2, batch_size=3)
            assert all(array.shape[0] == 2 and array.shape[1 + axis] == 3 for array, axis in drawn_axes(batch))


def drawn_axes(batch):
    return zip(batch, batch.example_axes, strict=True)


@pytest.mark.skipif(not is_here("chorales"), reason="no test downloads: wants the chorales in RNN_JAX_DATA")
def test_chorales_have_at_most_four_voices_and_usually_four():
    parts = chorales()
    assert [len(part.lengths) for part in parts] == [229, 76, 77]
    for notes, lengths in parts:
        assert notes.shape == (lengths.max(), len(lengths), 88)
        assert notes.dtype == bool
        steps = np.arange(len(notes))[:, None]
        assert not notes[steps >= lengths].any()
        voices = notes.sum(axis=-1)[steps < lengths]
        assert voices.max() <= 4  # two voices on one key count once
        assert np.median(voices) == 4


def test_importing_the_data_imports_no_package_that_carries_some():
    heavy = "sklearn", "scipy.io", "babel", "pooch", "matplotlib", "orbax"
    code = f"import sys, rnn_jax.data; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
