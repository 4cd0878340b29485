"""Every number, size and type that a cell or an initialiser is given is checked, or means something documented."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax as rnn
from rnn_jax import initializers
from rnn_jax.combinators import LearnedStartParams
from rnn_jax.lab.named_cells import make_cell
from tests.cells_page import NEEDED, factories
from tests.laboratory import as_a_user_has_it, refused

NO_NUMBER = [math.nan, None, "1", True, 1j, jnp.ones(4), np.ones((1,)), 10**400]
NOT_FINITE = [*NO_NUMBER, math.inf, -math.inf, 1e39]
NOT_POSITIVE = [*NO_NUMBER, 0, 0.0, -1.0, -math.inf]
NO_TIME, NO_RATE = [*NOT_POSITIVE, math.inf], [*NO_NUMBER, -1.0, math.inf]
NO_FUNCTION = ["swoosh", None, 3, ["tanh"]]
NO_SWITCH = [None, 1, "yes", jnp.ones(4)]
NO_SIZE = [0, -3, True, 2.0, math.nan, math.inf, None, "4", 10**20, (4,), jnp.ones(4)]
BAD = {
    **dict.fromkeys(["forget_bias", "update_bias", "beta", "gain"], NOT_FINITE),
    **dict.fromkeys(["cell_clip", "projection_clip"], NOT_POSITIVE),
    **dict.fromkeys(["tau", "dt", "step_size"], NO_TIME),
    **dict.fromkeys(["stiffness", "damping"], NO_RATE),
    **dict.fromkeys(["input_size", "hidden_size", "projection_size", "kernel_size"], NO_SIZE),
    "output_size": [size for size in NO_SIZE if size is not None],
    "max_lag": [*NOT_FINITE, 2, 0, -1.0],
    "r_max": [*NOT_FINITE, 1.0, 1, 0.0, -0.5, 2.0],
    "r_min": [*NOT_FINITE, -0.5, 0.999, 1.0],
    "max_phase": [*NOT_FINITE, 0.0, -1.0, 6.29],
    "space": [(), (0,), (3, 2.0), (True,), (1, 2, 3, 4), 5, None, (math.nan,), (10**20,)],
    **dict.fromkeys(["activation", "gate_activation"], NO_FUNCTION),
    "memory_activation": [function for function in NO_FUNCTION if function is not None],
    **dict.fromkeys(["coupled", "peepholes", "layer_norm", "projection_bias"], NO_SWITCH),
    "epsilon": NO_TIME,
    "padding": [None, "full", "SAME", 1, ["valid"], jnp.ones(4)],
    "dtype": [jnp.float8_e4m3fn, jnp.int32, bool, complex, "swoosh", 3],
}
"""What is wrong for each argument, whoever takes it."""

MAY_BE_NONE = {("general_lstm", "projection_size"), ("general_lstm", "epsilon")}
"""What may be left out, beside what ``BAD`` leaves out for all."""

LAWS = ("input_init", "recurrent_init", "bias_init", "projection_init", "peephole_init", "readout_init")
INITIALIZERS = ("chrono", "identity", "orthogonal", "ring", "scaled_normal", "torch_uniform", "unit_normal")


def taken(function):
    """Every argument of a factory by name, those of a TypedDict one by one."""
    names = {}
    for name, parameter in inspect.signature(inspect.unwrap(function)).parameters.items():
        if name == "inits":
            names |= dict.fromkeys(["input_init", "bias_init", "dtype"])
        elif name == "options":
            names |= dict.fromkeys(["activation", "gate_activation", "dtype"])
        else:
            names[name] = parameter
    return [name for name in names if name not in LAWS]


def wrong(names):
    """``(function, arguments, name, bad value)`` for all that is wrong, one at a time."""
    for name in names:
        for bad in BAD[name]:
            yield name, bad


@pytest.mark.parametrize("factory", factories())
def test_every_wrong_number_of_a_cell_is_refused_by_its_name(factory):
    make, good = getattr(rnn, factory), {"input_size": 3, "hidden_size": 4, **NEEDED.get(factory, {})}
    make(**good)
    for name, bad in wrong(taken(make)):
        if bad is not None or (factory, name) not in MAY_BE_NONE:
            refused(lambda name=name, bad=bad: make(**good | {name: bad}), f"{name} got ")


@pytest.mark.parametrize("name", INITIALIZERS)
def test_every_wrong_number_of_an_initialiser_is_refused_by_its_name(name):
    make = getattr(initializers, name)
    good = {"chrono": {"max_lag": 9.0}, "ring": {"r_min": 0.9, "r_max": 0.99}}.get(name, {})
    make(**good)
    for argument, bad in wrong(taken(make)):
        if (name, argument, bad) != ("torch_uniform", "hidden_size", None):
            refused(lambda a=argument, bad=bad: make(**good | {a: bad}), f"{argument} got ")


def test_a_step_longer_than_the_time_constant_is_refused():
    refused(lambda: rnn.ctrnn(3, 4, tau=1.0, dt=1.5), "dt got 1.5 with tau 1.0; want 0 < dt ≤ tau")


def test_numbers_may_come_from_numpy_and_may_be_traced():
    def make(tau, forget_bias):
        return rnn.ctrnn(3, 4, tau=tau), rnn.lstm(3, 4, forget_bias=forget_bias)

    with as_a_user_has_it():
        for number in (np.float32(2.0), np.asarray(2), jnp.asarray(2.0), 2):
            make(number, number)
        b_h = jax.eval_shape(jax.vmap(lambda b: make(b, b)[1].init(jax.random.key(0)).b_h), jnp.ones(5))
    assert b_h.shape == (5, 16)


@pytest.mark.parametrize("name", ["orthogonal", "scaled_normal", "identity"])
@pytest.mark.parametrize("gain", [0.0, -0.5, 2])
def test_a_gain_of_any_sign_means_what_is_documented(name, gain):
    made = getattr(initializers, name)(gain)(jax.random.key(0), (4, 4))
    np.testing.assert_allclose(made, gain * getattr(initializers, name)()(jax.random.key(0), (4, 4)), atol=1e-12)


@pytest.mark.parametrize("factory", factories())
def test_a_start_of_no_tuple_or_of_other_params_is_refused(factory):
    cell = getattr(rnn, factory)(3, 4, **NEEDED.get(factory, {}))
    params = jax.eval_shape(cell.init, jax.random.key(0))
    for bad in (32, None, "ab", (2.0,), (-1,), np.ones(3)):
        refused(lambda bad=bad: cell.start(params, bad), "batch_shape got ")
        refused(lambda bad=bad: rnn.learned_start(rnn.readout(cell, 2)).start(learned(params), bad), "batch_shape got ")
    for other in ({"params": {"Dense_0": jnp.ones(3)}}, None, jnp.ones(3)):
        refused(lambda other=other: cell.start(other), "params got ")


def learned(params):
    return LearnedStartParams(params, jnp.zeros(3))


@pytest.mark.parametrize("factory", factories())
def test_no_array_of_fresh_params_or_of_a_start_is_another_one_too(factory):
    cell = getattr(rnn, factory)(3, 4, **NEEDED.get(factory, {}))
    plain = jax.eval_shape(cell.init, jax.random.key(0))
    params = cell.init(jax.random.key(0)) if factory in ("layer_norm_lstm", "general_lstm") else None
    for tree in (params, cell.start(jax.tree.map(lambda a: jnp.zeros(a.shape), plain), (2,))):
        arrays = [a.unsafe_buffer_pointer() for a in jax.tree.leaves(tree)]
        assert len(set(arrays)) == len(arrays)


def test_ids_enter_every_cell_of_an_experiment_with_unit_variance(tmp_path):
    V = 400
    (tmp_path / "mine.py").write_text("from rnn_jax import vanilla as mine\n")
    for name in ("tanh", f"{tmp_path}/mine.py:mine"):
        cell = make_cell(name, V, 50, reads_ids=True)
        u = jax.jit(lambda key, cell=cell: cell.project(cell.init(key), jnp.arange(V)))(jax.random.key(0))
        np.testing.assert_allclose(jnp.std(u), 1.0, rtol=0.03)
