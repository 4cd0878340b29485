"""Equal calls of a factory return equal, hashable, picklable things."""

import copy
import gc
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnn_jax as rnn
from rnn_jax import initializers
from rnn_jax.cells import activations
from rnn_jax.cells.activations import clipped, leaky_relu, scaled_tanh
from rnn_jax.layers import as_layer
from rnn_jax.losses import cross_entropy
from rnn_jax.machinery import factories
from rnn_jax.training import window_learner
from tests.cases import H, I


def mask():
    return jnp.array([2.0, 0.0, 2.0, 2.0])


PLAIN = (
    *("vanilla", "irnn", "indrnn", "antisymmetric", "cornn", "ctrnn", "gru", "gru_reset_before", "mgu", "ugrnn"),
    *("janet", "min_gru", "lstm", "peephole_lstm", "cifg_lstm", "layer_norm_lstm", "slstm", "min_lstm", "diagonal"),
    "lru",
)

MAKERS = {
    **{name: lambda name=name: getattr(rnn, name)(I, H) for name in PLAIN},
    "chrono_gru": lambda: rnn.chrono_gru(I, H, max_lag=50),
    "chrono_lstm": lambda: rnn.chrono_lstm(I, H, max_lag=50),
    "clipped_lstm": lambda: rnn.clipped_lstm(I, H, cell_clip=0.5),
    "projected_lstm": lambda: rnn.projected_lstm(I, H, projection_size=2),
    "general_lstm": lambda: rnn.general_lstm(I, H, coupled=True, peepholes=True, activation=scaled_tanh(1.7, 2 / 3)),
    "clipped activation": lambda: clipped(leaky_relu(0.1), 3.0),
    "diagonal_skip": lambda: rnn.diagonal_skip(rnn.lru(I, H, output_size=I)),
    "conv_lstm": lambda: rnn.conv_lstm(I, 2, space=(4, 3)),
    "initialisers": lambda: rnn.vanilla(I, H, recurrent_init=initializers.orthogonal(0.5), dtype=jnp.float32),
    "readout": lambda: rnn.readout(rnn.gru(I, H), 2),
    "residual": lambda: rnn.residual(rnn.gru(I, I)),
    "learned_start": lambda: rnn.learned_start(rnn.gru(I, H)),
    "mixed_precision": lambda: rnn.mixed_precision(rnn.gru(I, H)),
    "stack": lambda: rnn.stack(rnn.lstm(I, H), rnn.stack(rnn.gru(H, H), rnn.gru(H, 2))),
    "input_dropout": lambda: rnn.input_dropout(rnn.gru(I, H), 0.5),
    "output_dropout": lambda: rnn.output_dropout(rnn.gru(I, H), 0.5),
    "zoneout": lambda: rnn.zoneout(rnn.gru(I, H), 0.5),
    "variational_dropout": lambda: rnn.variational_dropout(rnn.gru(I, H), state_mask=mask()),
    "layer of a cell": lambda: as_layer(rnn.gru(I, H), reverse=True),
    "bidirectional": lambda: rnn.bidirectional(rnn.gru(I, H), rnn.lstm(I, H), merge="sum"),
    "stack of layers": lambda: rnn.stack(rnn.bidirectional(rnn.gru(I, H), rnn.gru(I, H)), rnn.gru(2 * H, H)),
    "readout of a layer": lambda: rnn.readout(as_layer(rnn.gru(I, H)), 2),
    "heads": lambda: rnn.readout(rnn.gru(I, H), {"policy": 3, "value": rnn.mlp_head((5,), 1, activation="relu")}),
    "embedding": lambda: rnn.embedding(rnn.gru(I, H), 9, I),
    "dense_input": lambda: rnn.dense_input(rnn.gru(I, H), 7, I),
    "encoder_decoder": lambda: rnn.encoder_decoder(rnn.gru(I, H), rnn.readout(rnn.gru(5, H), 5)),
    "cell_from_step": lambda: rnn.cell_from_step(init, start, step),
    "linear_cell": lambda: rnn.linear_cell(init, start, pair),
    "learner": lambda: window_learner(rnn.readout(rnn.gru(I, H), I), cross_entropy, OPTIMIZER),
    **{
        name: getattr(initializers, name)
        for name in ("orthogonal", "identity", "scaled_normal", "unit_normal", "torch_uniform")
    },
    "chrono": lambda: initializers.chrono(50),
    "ring": lambda: initializers.ring(0.5, 0.9),
}


def init(key):
    return jnp.asarray(0.5)


def start(params, batch_shape=()):
    return jnp.zeros((*batch_shape, 1))


def step(params, h, x):
    return params * h + x


def pair(params, u):
    return params, u


OPTIMIZER = optax.sgd(0.1)


@pytest.mark.parametrize("name", MAKERS)
def test_equal_calls_are_equal_and_have_one_hash(name):
    one, two = MAKERS[name](), MAKERS[name]()
    assert one == two
    assert hash(one) == hash(two)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "learner"])  # optax's own closures do not pickle
def test_what_is_pickled_or_copied_is_equal(name):
    made = MAKERS[name]()
    assert pickle.loads(pickle.dumps(made)) == made
    assert copy.deepcopy(made) == made


def test_a_pickled_cell_draws_the_same_params_where_nothing_of_it_is_known():
    cell = rnn.readout(rnn.stack(rnn.lstm(I, H), rnn.gru(H, H)), 2)
    params, written = cell.init(jax.random.key(0)), pickle.dumps(cell)
    del cell
    gc.collect()
    jax.tree.map(np.testing.assert_array_equal, pickle.loads(written).init(jax.random.key(0)), params)


def test_arguments_by_place_by_name_and_by_default_are_the_same():
    assert rnn.lstm(I, H) == rnn.lstm(hidden_size=H, input_size=I, forget_bias=1, activation="tanh")
    assert rnn.irnn(I, H, bias_init=initializers.zeros, dtype=float) == rnn.irnn(
        I, H, dtype=float, bias_init=initializers.zeros
    )


@pytest.mark.parametrize(
    "other",
    [
        lambda: rnn.lstm(I, H + 1),
        lambda: rnn.lstm(I, H, forget_bias=2.0),
        lambda: rnn.lstm(I, H, recurrent_init=initializers.orthogonal(0.5)),
        lambda: rnn.gru(I, H),
    ],
)
def test_other_arguments_make_another_cell(other):
    assert other() != rnn.lstm(I, H)


def test_the_repr_of_a_made_function_is_the_call_of_its_factory():
    advance = rnn.lstm(I, forget_bias=2.0, hidden_size=H).advance
    assert repr(advance) == "lstm(input_size=3, hidden_size=4, forget_bias=2.0).advance"
    assert repr(initializers.orthogonal(0.5)) == "orthogonal(gain=0.5)"


def test_masks_are_compared_by_value():
    gru = rnn.gru(I, H)
    assert rnn.variational_dropout(gru, state_mask=mask()) != rnn.variational_dropout(gru, state_mask=1 - mask())


def test_a_cell_of_traced_masks_is_equal_to_itself_alone():
    cells = []

    @jax.jit
    def f(mask):
        cells.extend(rnn.variational_dropout(rnn.gru(I, H), state_mask=mask) for _ in range(2))
        return mask

    f(mask())
    assert cells[0] != cells[1]


def test_a_cell_that_is_built_again_compiles_nothing_as_a_static_argument():
    traces = []

    def f(cell, h, x):
        traces.append(cell)
        return cell.step(params, h, x)

    params = rnn.gru(I, H).init(jax.random.key(0))
    compiled = jax.jit(f, static_argnums=0)
    for _ in range(3):
        compiled(rnn.gru(I, H), jnp.zeros(H), jnp.ones(I))
    assert len(traces) == 1


def test_what_nobody_holds_is_forgotten():
    def count():
        gc.collect()
        return len(factories.KNOWN)

    before = count()
    cells = [rnn.stack(rnn.gru(I, 100 + n), rnn.gru(100 + n, 3)) for n in range(5)]
    assert count() > before
    del cells
    assert count() == before


OF_ONES_OWN = {"cell_from_step", "linear_cell"}
SAME_TEXT = {*MAKERS} - OF_ONES_OWN - {"variational_dropout", "learner", "layer of a cell", "readout of a layer"}
"""Those whose arguments are numbers, names, and other calls; the text of ``ring`` is of its arguments too."""


@pytest.mark.parametrize("name", sorted(SAME_TEXT))
def test_the_text_of_a_model_is_a_call_that_makes_it(name):
    made = MAKERS[name]()
    text = repr(made)
    names = {n: getattr(rnn, n) for n in rnn.__all__} | {n: getattr(initializers, n) for n in initializers.__all__}
    names |= {n: getattr(activations, n) for n in activations.__all__}
    assert eval(text, names | {"float32": jnp.float32}) == made
    assert len(text) < 200


@pytest.mark.parametrize("name", MAKERS)
def test_texts_of_models_and_weights_have_no_addresses_and_no_numbers_of_arrays(name):
    made = MAKERS[name]()
    params = [made.init(jax.random.key(0))] if hasattr(made, "init") and name not in OF_ONES_OWN else []
    for value in (made, *params):
        assert not re.search("0x|Array|<function", repr(value)), repr(value)
        assert len(repr(value)) < 600


def test_weights_are_shown_by_name_type_and_shape_and_stay_pytrees():
    params = rnn.readout(rnn.lstm(2, 3), {"value": 1}).init(jax.random.key(0))
    lstm = "LSTMParams(W_xh=float64[2,12], W_hh=float64[3,12], b_h=float64[12])"
    assert repr(params) == f"HeadParams(cell={lstm}, head={{'value': LinearParams(W=float64[3,1], b=float64[1])}})"
    assert repr(jax.tree.map(lambda a: a.ndim, params.cell)) == "LSTMParams(W_xh=2, W_hh=2, b_h=1)"
    assert repr(jax.eval_shape(lambda: params)) == repr(params) == repr(pickle.loads(pickle.dumps(params)))
    traced = []
    jax.eval_shape(lambda p: traced.append(repr(p)), params)
    assert traced == [repr(params)]


def test_a_model_whose_functions_were_replaced_names_them():
    cell = rnn.gru(2, 3)._replace(output=step)
    assert repr(cell).startswith(
        "Cell(init=gru.init, start=gru.start, project=gru.project, advance=gru.advance, output=step"
    )
