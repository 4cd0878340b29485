"""Experiments on text: next characters, languages of words, dates; their data, sentences and figures."""

import csv
import hashlib
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import readout, rollout, vanilla
from rnn_jax.data import LOCALES, bigram_baselines, vocabulary, written_dates
from rnn_jax.lab import text_figures
from rnn_jax.lab.runs import Run, open_run
from tests.laboratory import refused
from tests.scripts import EXPERIMENTS, definitions, finish, run_here, start

CHINESE = "".join(map(chr, range(0x4E00, 0x4E00 + 90)))
HINDI = "".join(chr(code) for code in range(0x905, 0x93A)) * 2


@pytest.mark.parametrize("characters", [CHINESE, HINDI], ids=["Chinese", "Hindi"])
def test_the_confidence_figure_holds_a_window_of_states_at_most_and_shows_every_character(
    tmp_path, monkeypatch, characters
):
    text = "1. 2? " * 200 + characters
    known = vocabulary(text)
    ids = known.encode(text)
    model = readout(vanilla(known.size, 4), known.size)
    params = model.init(jax.random.key(0))
    steps = []

    def counted(cell, params, h, xs):
        steps.append(len(xs))
        return rollout(cell, params, h, xs)

    monkeypatch.setattr(text_figures, "rollout", counted)
    section = text_figures.confidence_section(Run(tmp_path), model, params, known, (ids[:-1, None], ids[1:, None]))
    assert max(steps) <= 1024
    _, hs = rollout(model, params, model.start(params), jnp.asarray(ids[:-1]))
    p = np.asarray(jax.nn.softmax(model.output(params, hs)))
    with (tmp_path / "figures" / "confidences.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    begin = text.index(characters)
    for t in range(72):
        row = rows[5 * t]
        assert (row["input"], row["next"]) == (text[begin + t], text[begin + t + 1])
        assert float(row["confidence"]) == pytest.approx(p[begin + t].max(), abs=1e-5)
    shown = "".join(re.findall(r"<text[^>]*>([^<]*)</text>", section.svg))
    assert all(character in shown for character in characters[:72])
    assert "·" not in shown


def test_first_guesses_are_counted_right_where_the_likeliest_character_came():
    for targets, share in (([0, 1, 2, 3], "100%"), ([3, 2, 1, 0], "0%"), ([0, 1, 2, 0], "75%")):
        sentence = text_figures.describe_confidences(np.eye(4), np.array(targets))
        assert sentence.endswith(f"Here {share} of the first guesses are right.")


def test_the_baselines_of_counts_are_those_worked_out_by_hand():
    ids = np.array([0, 1, 0, 1, 0, 1, 0, 2])
    part = ids[:-1].reshape(1, -1, 1), ids[1:].reshape(1, -1, 1)
    found = bigram_baselines(part, (part[0][0], part[1][0]), 3)
    # Of the next characters, b and a come three times, c once; after a comes b three times of four, after b always a.
    np.testing.assert_allclose(found["accuracy"]["commonest after each"], 6 / 7)
    a, b = np.array([1, 4, 2]) / 7, np.array([4, 1, 1]) / 6  # plus one each
    np.testing.assert_allclose(found["loss"]["commonest after each"], -np.log([*[a[1]] * 3, a[2], *[b[0]] * 3]).mean())
    np.testing.assert_allclose(found["accuracy"]["commonest character"], 3 / 7)
    single = np.array([6, 6, 4]) / 16  # counts 3, 3, 1, plus one in each of the three rows
    np.testing.assert_allclose(found["loss"]["commonest character"], -np.log(single[ids[1:]]).mean())


def test_baselines_of_ids_outside_the_vocabulary_are_refused():
    known, unknown = (np.array([0]), np.array([1])), (np.array([0]), np.array([3]))
    for name, parts in {"train": (unknown, known), "test": (known, unknown)}.items():
        refused(lambda parts=parts: bigram_baselines(*parts, 3), f"{name} got 3; want ids in [0, 3), the vocabulary")


def test_scheduled_sampling_grows_from_nothing_to_the_rate_of_the_option():
    script = definitions("dates")
    script["dates"] = written_dates(["fr"], examples=50, tested=4)
    script["options"] = script["Options"](sampling_rate=0.4, evaluations=2, updates=5, batch_size=3)
    drawn = [script["batches"](np.random.default_rng(0), number) for number in range(2)]
    rates = np.concatenate([rate for *_, rate in drawn])
    np.testing.assert_allclose(rates[[0, -1]], [0, 0.4], rtol=1e-6)
    assert np.all(np.diff(rates) >= 0)
    sources, lengths, targets, keys, _ = drawn[0]
    assert (sources.shape[::2], lengths.shape, targets.shape, keys.shape) == ((5, 3), (5, 3), (5, 11, 3), (5,))


def test_the_dates_script_names_every_language_of_the_library():
    assert definitions("dates")["Options"]().locales == tuple(LOCALES)


def test_a_run_on_another_text_is_not_gone_on_with(tmp_path, capsys):
    file, folder = tmp_path / "text.txt", tmp_path / "run"
    file.write_text("to be or not to be " * 200)
    options = definitions("next_character")["Options"](text=file, out=folder)
    open_run(folder, options, facts={"text_sha256": "of another text"})
    assert run_here("next_character", "--text", file, "--out", folder, "--resume") == 2
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"(text_sha256 was 'of another text', now '{digest}')" in capsys.readouterr().err


def test_a_finished_network_is_kept_and_answers_other_questions(tmp_path):
    words = ["--smoke", "--evaluations", "1", "--updates", "2", "--hidden-size", "4", "--out", str(tmp_path / "run")]
    (tmp_path / "twice.py").write_text(
        "import runpy, sys\n"
        f"for words in ({words}, {[*words, '--resume', '--questions', 'lördag']}):\n"
        f"    sys.argv = [{str(EXPERIMENTS / 'word_language.py')!r}, *words]\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n",
        encoding="utf-8",
    )
    code, out, err = finish(start(tmp_path / "twice.py"))
    assert (code, err) == (0, "")
    trained = re.findall(r"(GRU.* 0): evaluation 1 of 1", out)
    assert sorted(trained) == ["GRU 0", "GRU, both ways 0"], "each is trained once"
    assert re.fullmatch(r"== Questions\nlördag: .*\n", (tmp_path / "run" / "samples.txt").read_text(encoding="utf-8"))


WRONG = {
    "dates --locales xx": "locale got 'xx'; want one of da, de, en_GB",
    "dates --locales da da": "--locales got da twice; want",
    "dates --questions=": "--questions got an empty text; want at least one character",
    "dates --questions 三月": "text got characters outside the vocabulary, such as '三' '月'",
    "dates --encoder swoosh": "--encoder got 'swoosh'; want one of tanh, relu",
    "dates --decoder bidirectional_gru": "--decoder got 'bidirectional gru'; want a cell that runs in one direction",
    "dates --sampling-rate 2": "--sampling-rate got 2.0; want",
    "dates --seeds 0": "--seeds got 0; want a positive integer",
    "word_language --questions=": "--questions got an empty text",
    "word_language --questions Ω": "such as 'Ω'",
    "word_language --hidden-size 100000000": "--hidden-size got 100000000; want at most",
    "next_character --prompt 三": "--prompt got '三': text got characters outside the vocabulary",
    "next_character --text none.txt": "which is no file",
    "next_character --characters 2000000000": "--characters got 2000000000, with which the run needs",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_use_gives_one_line_and_writes_nothing(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script, *words = (word.replace("_gru", " gru") for word in line.split())
    words += ["--examples", "300"] if script == "dates" else []
    assert run_here(script, *words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert WRONG[line] in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_next_character_is_described_by_accuracy_and_cost():
    describe, bit = definitions("next_character")["describe_scores"], math.log(2)
    scores = {"accuracy": np.array([0.4, 0.6]), "loss": np.array([bit, 3 * bit])}
    assert describe(scores) == (
        "The next character is guessed right 50.0 ± 10.0 % of the time; it costs 1.386 nats, 2.000 bits."
    )
    for loss in (math.nan, math.inf, 1e9):
        assert describe(scores | {"loss": np.array([loss])}).endswith("of the time; the networks diverged.")


def test_the_languages_mistaken_for_each_other_are_counted_both_ways():
    describe, names = definitions("word_language")["describe_confusion"], ["Czech", "Slovak", "Polish"]
    sentence = describe("gru", names, np.array([[9, 1, 5], [6, 9, 0], [0, 0, 9]]))
    assert sentence.endswith("Most often Czech and Slovak are mistaken for each other, 7 times.")
    for counts in (np.eye(3, dtype=int), np.zeros((3, 3), int)):
        assert describe("gru", names, counts).endswith("No language is mistaken for another.")


def test_the_hardest_languages_are_named_where_there_are_any():
    describe = definitions("dates")["describe_languages"]
    for exact, ending in [
        ([1.0, 0.5, 0.75], "Hardest: Turkish."),
        ([0.5, 0.5, 0.75], "Hardest: French, Turkish."),
        ([1.0, 1.0, 1.0], "No language is harder than another."),
        ([0.0, 0.0, 0.0], "No language is harder than another."),
    ]:
        assert describe(["French", "Turkish", "Finnish"], np.array(exact)).endswith(ending)
