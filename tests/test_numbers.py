"""Every number that a public function takes is checked, if it is known, and a wrong one gets one line with its name."""

# pyright: reportArgumentType=false, reportCallIssue=false
# (wrong things on purpose)

import importlib
import inspect
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnn_jax as rnn
from rnn_jax import data, decoding, diagnostics, gradients
from rnn_jax.counting import matching_size
from rnn_jax.data import Digits, Text, Vocabulary, one_hot, split, streams, witten_bell
from rnn_jax.diagnostics import summarise_lags
from rnn_jax.layers import as_layer
from rnn_jax.training import evaluate, window_learner
from tests.laboratory import as_a_user_has_it, random_params, refused

KEY = jax.random.key(0)
cell, model = rnn.gru(3, 4), rnn.readout(rnn.gru(3, 4), 3)
params, model_params = random_params(cell), random_params(model)
h, xs, ids = jnp.zeros(4), jnp.ones((6, 3)), jnp.ones((6, 2), int)
squares = lambda ys, _: jnp.sum(ys**2)  # noqa: E731
rng, images, text = np.random.default_rng(0), np.ones((3, 8, 8)), Text(np.zeros(40, int), Vocabulary("a"), "", "")
part = Digits(images, np.zeros(3, int))


def program(name, **said):
    return getattr(gradients, name)(cell, params, h, xs, (), squares, **said)


def write(name, *key, length=2, **said):
    return getattr(decoding, name)(model, model_params, *key, jnp.zeros(4), 0, length=length, **said)


def prompted(length):
    return decoding.continue_prompt(model, model_params, KEY, jnp.array([0, 1]), length=length)


NAN, INF = float("nan"), float("inf")
NO_NUMBER = ["3", True, None, [1], np.ones(2), 1j]
NEITHER = [value for value in NO_NUMBER if value is not None]
NO_SIZE = [0, -3, 2.5, 3.0, NAN, INF, *NO_NUMBER]
NO_COUNT = [-1, 2.5, 2.0, NAN, INF, *NO_NUMBER]
NO_RATE = [-0.1, 1.0, 2, NAN, INF, *NO_NUMBER]
NO_CHANCE = [-0.1, 1.1, NAN, INF, *NO_NUMBER]
NO_SHAPE = [2, -1, "2", (2.0,), (-1,), (True,), (None,)]

SIZES = {
    "readout output_size": partial(rnn.readout, cell),
    "readout_of_a_layer output_size": partial(rnn.readout, as_layer(cell)),
    "linear_head output_size": rnn.linear_head,
    "mlp_head output_size": partial(rnn.mlp_head, (3,)),
    "embedding vocabulary_size": lambda n: rnn.embedding(cell, n, 3),
    "embedding embedding_size": lambda n: rnn.embedding(rnn.gru(2 if isinstance(n, np.uint8) else 1, 2), 5, n),
    "dense_input input_size": lambda n: rnn.dense_input(cell, n, 3),
    "dense_input output_size": lambda n: rnn.dense_input(rnn.gru(2 if isinstance(n, np.uint8) else 1, 2), 5, n),
    "streams batch_size": lambda n: streams(np.arange(9), n, 2),
    "streams window": lambda n: streams(np.arange(9), 2, n),
    "lanes batch_size": lambda n: data.lanes(np.arange(9), n),
    "windows window": lambda n: data.windows(np.arange(9), n),
    "bucket_batches batch_size": lambda n: data.bucket_batches(np.arange(1, 4), rng, n),
    "consecutive_batches count": lambda n: data.consecutive_batches(images, 0, n),
    "draw_batches updates": lambda n: data.draw_batches(part, rng, n, 2),
    "draw_batches batch_size": lambda n: data.draw_batches(part, rng, 2, n),
    "draw_moved_digits updates": lambda n: data.draw_moved_digits(part, rng, n, 2),
    "draw_moved_digits batch_size": lambda n: data.draw_moved_digits(part, rng, 2, n),
    "shift_images pixels": lambda n: data.shift_images(images, rng, pixels=n),
    "text_parts at_least": lambda n: data.text_parts(text, at_least=n),
    "written_dates examples": lambda n: data.written_dates(["fr"], examples=n, tested=4),
    "copying_baseline T": data.copying_baseline,
    "copying_baseline length": lambda n: data.copying_baseline(4, length=n),
    "copying_baseline symbols": lambda n: data.copying_baseline(4, symbols=n),
    "one_hot size": lambda n: one_hot(ids, n),
    "bigram_baselines vocabulary_size": lambda n: data.bigram_baselines(*[(np.zeros(4, int), np.zeros(4, int))] * 2, n),
    "witten_bell vocabulary_size": lambda n: witten_bell(np.zeros(4, int), np.zeros(4, int), n, 2),
    "witten_bell order": lambda n: witten_bell(np.zeros(4, int), np.zeros(4, int), 3, n),
    "matching_size parameters": lambda n: matching_size(lambda H: rnn.gru(3, H), n),
    "evaluate window": lambda n: evaluate(model, model_params, ids, (), squares, window=n),
    "window_cuts window": lambda n: rnn.window_cuts(6, n),
    "rollout unroll": lambda n: rnn.rollout(cell, params, h, xs, unroll=n),
    "cut window": lambda n: program("cut", window=n),
    "chunked window": lambda n: program("chunked", window=n),
    "parallel window": lambda n: program("parallel", window=n),
    "beam_search width": lambda n: write("beam_search", width=n),
}
K1 = {
    "windows k1": lambda n: data.windows(np.arange(9), 2, n),
    "streams k1": lambda n: streams(np.arange(9), 2, 2, k1=n),
    "chunked k1": lambda n: program("chunked", window=2, k1=n),
    "parallel k1": lambda n: program("parallel", window=2, k1=n),
}
COUNTS = {
    "zero_probes steps": lambda n: diagnostics.zero_probes(h, n),
    "greedy length": lambda n: write("greedy", length=n),
    "sample length": lambda n: write("sample", KEY, length=n),
    "continue_prompt length": lambda n: prompted(length=n),
    "beam_search length": lambda n: write("beam_search", length=n, width=1),
    "window_cuts length": lambda n: rnn.window_cuts(n, 2),
    "length_mask length": lambda n: rnn.length_mask(jnp.array([0, 0]), n),
    "consecutive_batches first": lambda n: data.consecutive_batches(images, n, 2),
    "split count": lambda n: split(n, (0.1,)),
    "split seed": lambda n: split(10, (0.1,), n),
}
RATES = {
    "dropout_mask rate": lambda r: rnn.dropout_mask(KEY, r, (4,)),
    "input_dropout rate": lambda r: rnn.input_dropout(cell, r),
    "output_dropout rate": lambda r: rnn.output_dropout(cell, r),
    "zoneout rate": lambda r: rnn.zoneout(cell, r),
    "weight_drop rate": lambda r: rnn.weight_drop(params, KEY, r),
    "recurrent_dropout rate": lambda r: rnn.recurrent_dropout(params, KEY, r),
}
SHAPES = {
    "keyed batch_shape": lambda s: rnn.keyed(KEY, xs, s),
    "recurrent_dropout batch_shape": lambda s: rnn.recurrent_dropout(params, KEY, 0.5, s),
    "init batch_shape": lambda s: window_learner(cell, squares, optax.sgd(0.1)).init(KEY, s),
    "dropout_mask shape": lambda s: rnn.dropout_mask(KEY, 0.1, s),
}
two, two_xs = rnn.vanilla(3, 2), jnp.ones((2, 3))
two_params = random_params(two)
TWO = two, two_params, jnp.zeros(2)


INSTRUMENTS = {
    "lyapunov_spectrum blocks": lambda n: diagnostics.lyapunov_spectrum(*TWO, two_xs, blocks=n),
    "flossing count": lambda n: gradients.flossing(*TWO, two_xs, count=n),
    "probe_gradients lags": lambda n: diagnostics.probe_gradients(*TWO, two_xs, lambda y: y[..., 0], steps=[2], lags=n),
    "loss_surface points": lambda n: diagnostics.loss_surface(lambda w: w, 1.0, 1.0, 0.0, points=n),
    "fixed_points steps": lambda n: diagnostics.fixed_points(two, two_params, jnp.zeros((1, 2)), xs[0], steps=n),
    "visited_states count": lambda n: diagnostics.visited_states(two, two_params, KEY, jnp.ones((3, 2)), count=n),
    "principal_components count": lambda n: diagnostics.principal_components(np.ones((3, 2)), n),
    "sampled_sensitivity probes": lambda n: diagnostics.sampled_sensitivity(
        two, two_params, KEY, TWO[2], two_xs, probes=n
    ),
    "snap order": lambda n: gradients.snap(*TWO, two_xs, (), squares, order=n),
    "truncated window": lambda n: gradients.truncated(*TWO, two_xs, (), squares, window=n),
    "truncated k1": lambda n: gradients.truncated(*TWO, two_xs, (), squares, window=2, k1=n),
}
OTHERS = {
    "lyapunov_spectrum count": (
        lambda n: diagnostics.lyapunov_spectrum(*TWO, two_xs, count=n),
        [0, 3, 2.0, NAN, *NEITHER],
        [1, np.int8(2), None],
    ),
    "lyapunov_spectrum warmup": (
        lambda n: diagnostics.lyapunov_spectrum(*TWO, two_xs, warmup=n),
        [-1, 2, 1.5, NAN, INF, *NEITHER],
        [0, np.int8(1), None],
    ),
    "flossing warmup": (
        lambda n: gradients.flossing(*TWO, two_xs, count=1, warmup=n),
        [-1, 2, 1.5, NAN, INF, *NEITHER],
        [0, np.int8(1)],
    ),
    "lag_contributions lags": (
        lambda n: diagnostics.lag_contributions(*TWO, two_xs, (), squares, lags=n),
        [0, 3, 2.0, NAN, *NEITHER],
        [1, np.int8(2), None],
    ),
    "loss_surface radius": (
        lambda r: diagnostics.loss_surface(lambda w: w, 1.0, 1.0, 0.0, radius=r, points=1),
        [0, -1, NAN, *NO_NUMBER],
        [1, np.float32(0.5)],
    ),
    "saturation slope": (
        lambda r: diagnostics.saturation(*TWO, xs[0], r),
        [0, 1.1, -1, NAN, *NO_NUMBER],
        [1, np.float32(0.5)],
    ),
    "mlp_head hidden_sizes": (
        lambda sizes: rnn.mlp_head(sizes, 2),
        [(0,), (2.5,), 4, ("a",), (True,), None, (NAN,)],
        [(), (3,), (np.int8(2), 1)],
    ),
    "scheduled_sampling rate": (
        lambda r: rnn.scheduled_sampling(model, model_params, KEY, jnp.zeros(4), 0, jnp.ones(2, int), r),
        NO_CHANCE,
        [0, np.float32(0.5), jnp.asarray(0.5)],
    ),
    "sample temperature": (lambda t: write("sample", KEY, temperature=t), [-1, NAN, INF, *NO_NUMBER], [0, 0.5, 2]),
    "sample top_k": (
        lambda k: write("sample", KEY, top_k=k),
        [0, 4, 2.0, "3", True, [1], NAN],
        [1, 3, np.int8(2), None],
    ),
    "sample top_p": (lambda p: write("sample", KEY, top_p=p), [0, -1, 1.1, NAN, "3", True, [1]], [1, 0.5, None]),
    "keep_top_k top_k": (partial(decoding.keep_top_k, jnp.zeros(3)), [0, 4, *NO_NUMBER], [1, 3]),
    "keep_nucleus top_p": (partial(decoding.keep_nucleus, jnp.zeros(3)), [0, 1.1, NAN, *NO_NUMBER], [1, 0.1]),
    "beam_search length_penalty": (
        lambda p: write("beam_search", width=1, length_penalty=p),
        [NAN, INF, *NO_NUMBER],
        [0, np.float32(-0.5)],
    ),
    "greedy end": (lambda e: write("greedy", end=e), [-1, 3, 1.0, True, "1", [1], NAN], [0, 2, np.int8(1), None]),
    "greedy first": (
        lambda x: decoding.greedy(model, model_params, jnp.zeros(4), x, length=2),
        [-1, 3, 1.0, True, NAN],
        [0, np.uint8(2), jnp.asarray(1)],
    ),
    "summarise_lags q": (
        lambda q: summarise_lags(jnp.zeros((4, 2)), q),
        [(1.1,), (-0.1,), (NAN,), 0.5, ("a",), (True,)],
        [(0.5,), (0, 1), ()],
    ),
    "rollout remat": (
        lambda n: rnn.rollout(cell, params, h, xs, remat=n),
        [0, 2.0, NAN, *NEITHER],
        [1, np.int8(2), None],
    ),
    "pad steps": (
        lambda n: data.pad([[1]], steps=n),
        [0, 2.0, NAN, *NEITHER],
        [1, np.int8(2), None],
    ),
    "text_parts at_most": (
        lambda n: data.text_parts(text, at_most=n),
        [0, -1, 2.0, NAN, *NEITHER],
        [2, np.uint8(3), None],
    ),
    "written_dates tested": (
        lambda n: data.written_dates(["fr"], examples=1, tested=n),
        [3, *NO_SIZE],
        [4, np.uint8(5)],
    ),
    "bucket_batches waste": (lambda w: data.bucket_batches(np.arange(1, 4), rng, 2, waste=w), NO_RATE, [0, 0.5]),
    "split parts": (
        lambda p: split(10, p),
        [(0.6, 0.6), (-0.1,), (NAN,), (INF,), ("a",), (True,), 0.5],
        [(0.5,), (0, 1), ()],
    ),
}
CASES = (
    {name: (call, NO_SIZE, [1, np.uint8(2)]) for name, call in (SIZES | INSTRUMENTS).items()}
    | {name: (call, [3, *(n for n in NO_SIZE if n is not None)], [np.int8(2), None]) for name, call in K1.items()}
    | {name: (call, NO_COUNT, [0, 2, np.int64(3)]) for name, call in COUNTS.items()}
    | {name: (call, NO_RATE, [0, 0.0, 0.5, np.float32(0.5)]) for name, call in RATES.items()}
    | {name: (call, NO_SHAPE, [(), []]) for name, call in SHAPES.items()}
    | OTHERS
)


@pytest.mark.parametrize("name", CASES)
def test_a_number_that_means_nothing_is_refused_by_its_name(name):
    call, bad, _ = CASES[name]
    for value in bad:
        if name.startswith("zoneout") and isinstance(value, list | None.__class__):
            continue  # a rate for each part of the state is a pytree
        try:
            refused(lambda v=value: call(v), name.split()[1] + " got ")
        except BaseException as error:
            raise AssertionError(f"{name} got {value!r}: {type(error).__name__} {str(error)[:400]}") from None


@pytest.mark.parametrize("name", CASES)
def test_a_number_that_means_something_is_taken(name):
    call, _, good = CASES[name]
    for value in good:
        with as_a_user_has_it():
            call(value)


@pytest.mark.parametrize("drops", [rnn.input_dropout, rnn.output_dropout, rnn.zoneout])
def test_keys_without_the_batch_of_the_state_are_refused(drops):
    cell = drops(rnn.gru(3, 4), 0.5)
    params, xs = random_params(cell), jnp.ones((6, 2, 3))
    h0 = cell.start(params, (2,))
    says = "xs got keys of shape (6,), h0 the batch axes (2,); want a key for each step of each example: keyed(key"
    refused(lambda: rnn.rollout(cell, params, h0, rnn.keyed(KEY, xs)), says)
    refused(lambda: gradients.cut(cell, params, h0, rnn.keyed(KEY, xs), (), squares, window=2), says)
    _, hs = rnn.rollout(cell, params, h0, rnn.keyed(KEY, xs, (2,)))
    ys = rnn.outputs(cell, params, hs)
    assert not np.array_equal(ys[:, 0], ys[:, 1])


ELSEWHERE = {
    "window_learner clip": "test_a_clip_is_a_positive_norm",
    "batch_learner clip": "test_a_clip_is_a_positive_norm",
    "keep_top_k k": "as top_k",
    "keep_nucleus p": "as top_p",
    "sample end": "as greedy",
    "continue_prompt top_p": "as sample, which it calls",
    "continue_prompt top_k": "as sample, which it calls",
    "continue_prompt temperature": "as sample, which it calls",
    "continue_prompt end": "as sample, which it calls",
    "beam_search end": "as greedy",
    **dict.fromkeys(
        (f"{task} {size}" for task in ("adding", "copying", "flip_flop") for size in ("T", "batch_size")),
        "test_too_few_steps_and_wrong_sizes_are_refused",
    ),
    "copying length": "test_too_few_steps_and_wrong_sizes_are_refused",
    "copying symbols": "test_too_few_steps_and_wrong_sizes_are_refused",
    "flip_flop bits": "test_too_few_steps_and_wrong_sizes_are_refused",
    "flip_flop rate": "test_too_few_steps_and_wrong_sizes_are_refused",
    **dict.fromkeys(
        (
            *(f"{task} T" for task in ("adding_hochreiter", "delayed_recall", "delayed_symbols", "delayed_xor")),
            *(
                f"{task} batch_size"
                for task in ("adding_hochreiter", "delayed_recall", "delayed_symbols", "delayed_xor")
            ),
            *(
                f"{task} {size}"
                for task in ("integrator", "parity", "regular_language", "temporal_order", "tomita")
                for size in ("T", "batch_size")
            ),
            *(f"{task} delay" for task in ("delayed_recall", "delayed_symbols", "delayed_xor")),
            *("adding_hochreiter_baseline T", "integrator_baseline T", "regular_language_baseline T"),
            *("delayed_symbols symbols", "delayed_symbols_baseline symbols", "integrator channels", "integrator rate"),
            *("integrator_baseline rate", "tomita number"),
        ),
        "tests/test_memory_tasks.py",
    ),
    "chrono_target max_lag": "tests/test_time_scales.py",
    "chrono_target q": "tests/test_time_scales.py",
    "loss_by_context stride": "tests/test_memory.py",
    "recall_scores ridge": "tests/test_memory.py",
    "fixed_points tolerance": "tests/test_fixed_points.py",
    "unique_points radius": "tests/test_fixed_points.py",
    "visited_states noise": "tests/test_fixed_points.py",
    "artbp mean_window": "tests/test_estimators.py",
    "bits_per_char nats": "any number",
    "perplexity nats": "any number",
}
PLACES = (
    "bridges counting data decoding decoding.choices diagnostics gradients input_layers layers losses readouts "
    "sequences topologies training"
)
HELPERS = {
    "check_writer",
    "drawn",
    "length_of",
    "checked_targets",
    "require_length",
    "require_lengths",
    "require_source",
}


def test_no_number_of_a_public_function_is_forgotten():
    for place in (rnn, *(importlib.import_module(f"rnn_jax.{name}") for name in PLACES.split())):
        functions = {name: f for name, f in vars(place).items() if inspect.isfunction(f) and name not in HELPERS}
        public = getattr(place, "__all__", [n for n, f in functions.items() if f.__module__ == place.__name__])
        for name in functions.keys() & set(public):
            if name.startswith("_") or functions[name].__module__.startswith("rnn_jax.cells"):
                continue
            for p in inspect.signature(functions[name]).parameters.values():
                kind = str(p.annotation).replace("<class 'int'>", "int").replace("<class 'float'>", "float")
                if re.match(r"(int|float|tuple\[(int|float))\b", kind):
                    assert f"{name} {p.name}" in CASES | ELSEWHERE, f"{name}({p.name}: {kind}) of {place.__name__}"
