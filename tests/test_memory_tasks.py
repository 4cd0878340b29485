"""More tasks that need memory, and formal languages: each obeys its definition, whatever the key, compiled or not."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.data.delayed_tasks import (
    DELAYED_RECALL_BASELINE,
    DELAYED_XOR_BASELINE,
    delayed_recall,
    delayed_symbols,
    delayed_symbols_baseline,
    delayed_xor,
)
from rnn_jax.data.formal_languages import (
    PARITY,
    TOMITA,
    acceptance,
    parity,
    regular_language,
    regular_language_baseline,
    tomita,
)
from rnn_jax.data.memory_tasks import (
    TEMPORAL_ORDER_BASELINE,
    adding_hochreiter,
    adding_hochreiter_baseline,
    integrator,
    integrator_baseline,
    temporal_order,
)
from tests.laboratory import as_a_user_has_it, refused

KEY = jax.random.key(3)
THIRDS = (((0, 1), (2, 0), (1, 2)), (0,))
"""Binary numbers that are divisible by 3: the state is the remainder."""


def is_near(values, expected, errors=4.0):
    """Whether the mean of independent values is within so many standard errors of a number."""
    return abs(np.mean(values) - expected) < errors * np.std(values) / np.sqrt(np.size(values))


def nats_of_symbols(xs, targets):
    """The cross-entropy of the best guess that depends on the symbol of a step alone, in nats, by counting."""
    total = 0.0
    for symbol in np.unique(xs):
        p = np.mean(targets[xs == symbol])
        entropy = -sum(q * np.log(q) for q in (p, 1 - p) if q > 0)
        total += np.mean(xs == symbol) * entropy
    return total


@pytest.mark.parametrize("T", [20, 33])
def test_the_first_adding_problem_marks_and_adds_as_in_the_paper(T):
    xs, targets = map(np.asarray, adding_hochreiter(KEY, T, 400))
    assert xs.shape == (T, 400, 2)
    assert xs[..., 0].min() >= -1
    assert xs[..., 0].max() < 1
    marked_steps = set()
    for b in range(400):
        total, marked = 0.0, []
        for t in range(T):
            value, marker = xs[t, b]
            assert marker == -1 if t in (0, T - 1) else marker in (0, 1)
            if marker == 1:
                total, marked = total + value, [*marked, t]
        np.testing.assert_allclose(targets[b], 0.5 + total / 4, rtol=1e-12)
        assert len(marked) <= 2
        assert len(marked) < 2 or marked[0] < 10  # one is left where the first step is chosen
        assert all(t < T // 2 for t in marked)
        marked_steps |= {*marked}
    assert marked_steps == {*range(1, T // 2)}


def test_the_marks_of_the_first_adding_problem_have_their_probabilities_and_its_best_constant_guess_its_error():
    T, N = 24, 20_000
    xs, targets = map(np.asarray, adding_hochreiter(KEY, T, N))
    marked = (xs[..., 1] == 1).mean(axis=1)
    # The first mark is at a step below 10 with probability 1/10, the second one at any other step of the first twelve
    # with 1/11: below 10 with probability 9/10 · 1/11, from there on with 1/11.
    p = np.r_[0, np.full(9, 0.1 + 0.9 / 11), np.full(2, 1 / 11), np.zeros(12)]
    assert np.all(np.abs(marked - p) <= 4 * np.sqrt(p * (1 - p) / N))
    assert is_near((targets - 0.5) ** 2, adding_hochreiter_baseline(T))
    assert is_near(targets, 0.5)
    assert adding_hochreiter_baseline(100) == pytest.approx((2 - 0.1 - 0.9 / 49) / 48, rel=1e-14)


@pytest.mark.parametrize("noise", ["normal", "uniform", "sign"])
def test_delayed_recall_returns_the_noise_of_some_steps_before(noise):
    T, B, delay = 60, 50, 7
    xs, targets, mask = map(np.asarray, delayed_recall(KEY, T, B, delay=delay, noise=noise))
    assert xs.shape == targets.shape == (T, B, 1)
    for t, b in itertools.product(range(T), range(B)):
        assert mask[t, b] == (t >= delay)
        assert targets[t, b, 0] == (xs[t - delay, b, 0] if t >= delay else 0)
    assert is_near(xs, 0)
    assert np.all(xs**2 == 1) if noise == "sign" else is_near(xs**2, 1)
    kurtosis = {"normal": 3, "uniform": 9 / 5, "sign": 1}[noise]
    assert kurtosis == 1 or is_near(xs**4, kurtosis)
    of_mask = np.ravel(targets[mask])
    assert of_mask.var() == pytest.approx(DELAYED_RECALL_BASELINE, abs=4 * np.sqrt(2 / of_mask.size))
    assert abs(np.corrcoef(xs[delay:].ravel(), targets[delay:].ravel())[0, 1]) < 4 / np.sqrt(of_mask.size)


def test_delayed_symbols_are_those_of_some_steps_before_and_all_alike():
    xs, targets, mask = map(np.asarray, delayed_symbols(KEY, 40, 500, delay=3, symbols=5))
    for t in range(40):
        np.testing.assert_array_equal(targets[t], xs[t - 3] if t >= 3 else 0)
        assert np.all(mask[t] == (t >= 3))
    shares = np.bincount(xs.ravel(), minlength=5) / xs.size
    assert len(shares) == 5
    assert np.all(np.abs(shares - 1 / 5) < 4 * np.sqrt(0.16 / xs.size))
    counts = np.histogram2d(xs[3:].ravel(), targets[3:].ravel(), bins=5)[0]
    given_symbol = counts / counts.sum(axis=1, keepdims=True)
    nats = -np.sum(counts / counts.sum() * np.log(given_symbol))
    # Twice the surplus of an empty relation is χ² with 16 degrees of freedom, over the number of samples.
    assert 0 <= delayed_symbols_baseline(5) - nats < 60 / (2 * counts.sum())


def test_the_class_of_temporal_order_is_the_order_of_its_two_relevant_symbols():
    T, B = 100, 2000
    xs, targets = map(np.asarray, temporal_order(KEY, T, B))
    places = []
    for b in range(B):
        string = "".join("abcdXYEB"[i] for i in xs[:, b])
        found = re.fullmatch(r"E([abcd]*)([XY])([abcd]*)([XY])([abcd]*)B", string)
        assert found
        assert targets[b] == ["XX", "XY", "YX", "YY"].index(found[2] + found[4])
        places.append((found.start(2), found.start(4)))
    first, second = np.array(places).T
    assert {*first} == {*range(10, 21)}
    assert {*second} == {*range(50, 61)}
    assert abs(np.mean(first) - 15) < 4 * np.sqrt(10 / B)  # 11 steps, all alike: variance (11² − 1)/12
    shares = np.bincount(targets) / B
    assert np.all(np.abs(shares - 1 / 4) < 4 * np.sqrt(3 / 16 / B))
    assert -np.sum(shares * np.log(shares)) == pytest.approx(TEMPORAL_ORDER_BASELINE, abs=16 / (2 * B))
    np.testing.assert_array_equal(np.asarray(temporal_order(KEY, 10, 3).xs)[[0, -1]], [[6] * 3, [7] * 3])


@pytest.mark.parametrize("delay", [1, 4, 7])
def test_delayed_xor_combines_the_bits_of_a_delay_and_of_its_half(delay):
    T, B = 50, 200
    xs, targets, mask = map(np.asarray, delayed_xor(KEY, T, B, delay=delay))
    bits = xs[..., 0].astype(int)
    assert {*np.unique(xs)} == {0, 1}
    for t in range(T):
        expected = bits[t - delay] ^ bits[t - delay // 2] if t >= delay else np.zeros(B)
        np.testing.assert_array_equal(targets[t, :, 0], expected)
        assert np.all(mask[t] == (t >= delay))
    nats = nats_of_symbols(bits[delay:], targets[delay:, :, 0])
    assert 0 <= DELAYED_XOR_BASELINE - nats < 16 / (2 * mask.sum())


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
def test_an_integrator_adds_up_the_pulses_of_each_channel(rate):
    xs, targets = map(np.asarray, integrator(KEY, 30, 5, channels=2, rate=rate))
    assert xs.shape == targets.shape == (30, 5, 2)
    total = np.zeros((5, 2))
    for t, b, c in itertools.product(range(30), range(5), range(2)):
        total[b, c] += xs[t, b, c]
        assert targets[t, b, c] == total[b, c]
    pulses = np.mean(xs != 0)
    assert abs(pulses - rate) <= 4 * np.sqrt(rate * (1 - rate) / xs.size)


def test_the_best_guess_of_the_sum_of_pulses_without_memory_is_the_input_of_the_step():
    T = 25
    xs, targets = map(np.asarray, integrator(KEY, T, 20_000, rate=0.3))
    best = np.zeros_like(targets)
    for pulse in (-1, 0, 1):
        best[xs == pulse] = targets[xs == pulse].mean()
    error = np.mean((targets - best) ** 2, axis=(0, 2))
    assert is_near(error, integrator_baseline(T, rate=0.3))
    assert is_near(np.mean(targets**2, axis=(0, 2)), 0.3 * (T + 1) / 2)  # of the best constant guess, 0


def odd_ones_then_odd_zeros(string):
    runs = [(symbol, len([*group])) for symbol, group in itertools.groupby(string)]
    return any(a[0] == "1" and a[1] % 2 and b[1] % 2 for a, b in itertools.pairwise(runs))


GRAMMARS = {
    1: lambda s: "0" not in s,
    2: lambda s: re.fullmatch(r"(10)*", s) is not None,
    3: lambda s: not odd_ones_then_odd_zeros(s),
    4: lambda s: "000" not in s,
    5: lambda s: s.count("0") % 2 == 0 and s.count("1") % 2 == 0,
    6: lambda s: (s.count("0") - s.count("1")) % 3 == 0,
    7: lambda s: re.fullmatch(r"0*1*0*1*", s) is not None,
}
LANGUAGES = {f"tomita {number}": (TOMITA[number], accepts) for number, accepts in GRAMMARS.items()}
LANGUAGES |= {
    "parity": (PARITY, lambda s: s.count("1") % 2 == 1),
    "thirds": (THIRDS, lambda s: int(s, 2) % 3 == 0),
}


@pytest.mark.parametrize("name", LANGUAGES)
def test_an_automaton_accepts_the_strings_of_its_language(name):
    automaton, accepts = LANGUAGES[name]
    strings = ["".join(bits) for bits in itertools.product("01", repeat=8)]  # their beginnings are all shorter strings
    xs = jnp.array([[int(s[t]) for s in strings] for t in range(8)])
    expected = [[accepts(s[: t + 1]) for s in strings] for t in range(8)]
    np.testing.assert_array_equal(acceptance(xs, *automaton), expected)


@pytest.mark.parametrize("name", LANGUAGES)
def test_half_of_the_strings_belong_to_the_language_and_all_of_one_kind_are_alike(name):
    automaton, accepts = LANGUAGES[name]
    T, B = 6, 4000
    xs, targets = map(np.asarray, regular_language(KEY, T, B, *automaton))
    strings = ["".join(map(str, bits)) for bits in xs.T]
    np.testing.assert_array_equal(targets, [[accepts(s[: t + 1]) for s in strings] for t in range(T)])
    assert abs(targets[-1].mean() - 0.5) < 4 * 0.5 / np.sqrt(B)
    everything = ["".join(bits) for bits in itertools.product("01", repeat=T)]
    for kind in (False, True):
        of_kind = [s for s in everything if accepts(s) is kind]
        counts = np.array([strings.count(s) for s in of_kind])
        expected = counts.sum() / len(of_kind)
        # Pearson's χ² has mean n − 1 and variance 2(n − 1).
        surplus = np.sum((counts - expected) ** 2) / expected - (len(of_kind) - 1)
        assert abs(surplus) <= 4 * np.sqrt(2 * (len(of_kind) - 1))


def test_strings_of_one_kind_are_drawn_where_there_is_no_other():
    assert not np.any(tomita(KEY, 5, 50, number=5).targets[-1])
    assert np.all(regular_language(KEY, 3, 20, ((0, 0, 0),), (0,)).targets == 1)
    assert not np.any(regular_language(KEY, 3, 20, ((0,),), ()).targets)


def test_a_long_string_of_ones_is_drawn_as_often_as_one_that_is_not():
    xs, targets = map(np.asarray, tomita(KEY, 400, 200, number=1))  # of 2^400 strings one belongs to the language
    np.testing.assert_array_equal(targets[-1], xs.all(axis=0))
    assert abs(targets[-1].mean() - 0.5) < 4 * 0.5 / np.sqrt(200)


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_cross_entropy_without_memory_is_that_of_all_strings_weighted_by_their_probabilities(name):
    automaton, accepts = LANGUAGES[name]
    for T in (1, 6):
        strings = ["".join(bits) for bits in itertools.product("01", repeat=T)]
        kinds = [accepts(s) for s in strings]
        joint = np.zeros((2, 2))
        for s, kind in zip(strings, kinds, strict=True):
            for t in range(T):
                joint[int(s[t]), int(accepts(s[: t + 1]))] += 1 / (T * kinds.count(kind) * len({*kinds}))
        ln_given_symbol = np.log(np.where(joint > 0, joint, 1) / joint.sum(axis=1, keepdims=True))
        nats = -np.sum(joint * ln_given_symbol)
        assert regular_language_baseline(T, *automaton) == pytest.approx(nats, abs=1e-12)


def test_the_cross_entropy_of_a_drawn_sample_without_memory_is_that_of_the_baseline():
    B, parts = 8000, 20
    xs, targets = map(np.asarray, tomita(KEY, 6, B, number=3))
    nats = [nats_of_symbols(x, y) for x, y in zip(np.split(xs, parts, 1), np.split(targets, parts, 1), strict=True)]
    error = np.std(nats) / np.sqrt(parts) + parts / B  # and the bias of an entropy that is counted, of about 1/samples
    assert abs(nats_of_symbols(xs, targets) - regular_language_baseline(6, *TOMITA[3])) < 4 * error


def test_the_cross_entropy_of_parity_without_memory_is_that_of_the_closed_form():
    """At step 1 the target is the bit itself, later it is independent of it: p(1 | 1) = (1 + (T − 1)/2)/T."""
    for T in (1, 2, 50):
        p = np.array([(T + 1) / (2 * T), (T - 1) / (2 * T)])
        entropy = -np.sum(p[p > 0] * np.log(p[p > 0]))
        assert regular_language_baseline(T, *PARITY) == pytest.approx(entropy, abs=1e-12)
    assert regular_language_baseline(2000, *TOMITA[1]) > 0  # shares of 2^−2000 do not underflow


TASKS = {
    "adding_hochreiter": lambda key: adding_hochreiter(key, 20, 3),
    "delayed_recall": lambda key: delayed_recall(key, 6, 3, delay=2),
    "delayed_symbols": lambda key: delayed_symbols(key, 6, 3, delay=2),
    "temporal_order": lambda key: temporal_order(key, 12, 3),
    "delayed_xor": lambda key: delayed_xor(key, 9, 3, delay=2),
    "integrator": lambda key: integrator(key, 12, 3, rate=0.5),
    "parity": lambda key: parity(key, 9, 3),
    "tomita": lambda key: tomita(key, 9, 3, number=4),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_the_same_under_jit_and_vmap_and_outside_and_another_one_for_another_key(name):
    keys = jnp.stack([KEY, jax.random.key(4)])
    outside = [TASKS[name](key) for key in keys]
    for one, other, many in zip(*outside, jax.jit(jax.vmap(TASKS[name]))(keys), strict=True):
        np.testing.assert_array_equal(np.stack([one, other]), many)
        assert one.dtype == many.dtype
    assert not np.array_equal(outside[0].xs, outside[1].xs)


def test_examples_of_a_batch_differ_from_each_other():
    for name, task in TASKS.items():
        xs = np.asarray(task(KEY).xs)
        assert not np.array_equal(xs[:, 0], xs[:, 1]), name


def test_numbers_are_of_the_type_that_is_given():
    for task in (
        adding_hochreiter(KEY, 20, 3, dtype=jnp.float32),
        delayed_recall(KEY, 5, 3, delay=1, dtype=jnp.float32),
        delayed_recall(KEY, 5, 3, delay=1, noise="sign", dtype=jnp.bfloat16),
        delayed_xor(KEY, 5, 3, delay=1, dtype=jnp.float32),
        integrator(KEY, 5, 3, dtype=jnp.bfloat16),
    ):
        assert task.xs.dtype == task.targets.dtype != np.float64


def test_too_few_steps_and_wrong_sizes_are_refused():
    no_size = (0, -1, 2.5, "3", None, np.ones(2), True)
    wrong = {
        "T": [
            lambda n: adding_hochreiter(KEY, n, 2),
            adding_hochreiter_baseline,
            lambda n: delayed_recall(KEY, n, 2, delay=1),
            lambda n: delayed_symbols(KEY, n, 2, delay=1),
            lambda n: delayed_xor(KEY, n, 2, delay=1),
            lambda n: temporal_order(KEY, n, 2),
            lambda n: integrator(KEY, n, 2),
            integrator_baseline,
            lambda n: parity(KEY, n, 2),
            lambda n: tomita(KEY, n, 2, number=1),
            lambda n: regular_language(KEY, n, 2, *PARITY),
            lambda n: regular_language_baseline(n, *PARITY),
        ],
        "batch_size": [
            lambda n: adding_hochreiter(KEY, 20, n),
            lambda n: delayed_recall(KEY, 9, n, delay=1),
            lambda n: delayed_symbols(KEY, 9, n, delay=1),
            lambda n: delayed_xor(KEY, 9, n, delay=1),
            lambda n: temporal_order(KEY, 20, n),
            lambda n: integrator(KEY, 9, n),
            lambda n: parity(KEY, 9, n),
            lambda n: tomita(KEY, 9, n, number=1),
            lambda n: regular_language(KEY, 9, n, *PARITY),
        ],
        "delay": [
            lambda n: delayed_recall(KEY, 9, 2, delay=n),
            lambda n: delayed_symbols(KEY, 9, 2, delay=n),
            lambda n: delayed_xor(KEY, 9, 2, delay=n),
        ],
        "symbols": [lambda n: delayed_symbols(KEY, 9, 2, delay=1, symbols=n), delayed_symbols_baseline],
        "channels": [lambda n: integrator(KEY, 9, 2, channels=n)],
        "number": [lambda n: tomita(KEY, 9, 2, number=n)],
    }
    for name, calls in wrong.items():
        for call in calls:
            for n in no_size:
                refused(lambda call=call, n=n: call(n), f"{name} got ")
    refused(lambda: adding_hochreiter(KEY, 19, 2), "T got 19; want at least 20: one of the first 10 steps is marked")
    refused(lambda: temporal_order(KEY, 9, 2), "T got 9; want at least 10")
    refused(lambda: delayed_recall(KEY, 9, 2, delay=9), "delay got 9; want a number of steps in [1, T), with T 9")
    refused(lambda: delayed_recall(KEY, 9, 2, delay=1, noise="pink"), "noise got 'pink'; want normal, uniform or sign")
    refused(lambda: tomita(KEY, 9, 2, number=8), "number got 8; want a grammar of Tomita, 1 to 7")
    for rate in (-0.1, 1.1, float("nan"), "a", True, [0.5]):
        refused(lambda rate=rate: integrator(KEY, 4, 2, rate=rate), "rate got ")
        refused(lambda rate=rate: integrator_baseline(4, rate=rate), "rate got ")
    for dtype in (int, "int8", bool, complex):
        for task in (
            partial(adding_hochreiter, KEY, 20, 2),
            partial(delayed_recall, KEY, 9, 2, delay=1),
            partial(delayed_xor, KEY, 9, 2, delay=1),
            partial(integrator, KEY, 9, 2),
        ):
            refused(lambda task=task, dtype=dtype: task(dtype=dtype), "dtype got ")
    for task in TASKS.values():
        with as_a_user_has_it(), pytest.raises(ValueError, match=r"^key got \[2\] keys; want one"):
            task(jax.random.split(KEY, 2))


def test_an_automaton_whose_states_do_not_exist_is_refused():
    says = "transitions got "
    for table in (((0, 2), (1, 0)), ((0, -1),), ((0, 1), (1,)), ((0.0, 0.0),), ((True, False),), (), ((),), (0, 1), 3):
        refused(lambda table=table: regular_language(KEY, 3, 2, table, (0,)), says)
        refused(lambda table=table: acceptance(jnp.zeros(3, int), table, (0,)), says)
    for states in ((2,), (-1,), (0.5,), (True,), 0, ((0,),)):
        refused(lambda states=states: regular_language_baseline(3, PARITY.transitions, states), "accepting got ")
    refused(lambda: acceptance(jnp.array([0, 2]), *PARITY), "xs got 2; want ids in [0, 2), the vocabulary")
    refused(lambda: acceptance(jnp.array(1), *PARITY), "xs got int64[]; want arrays (T, *batch, …), time leading")
