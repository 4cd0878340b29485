"""Cells inside models of flax and equinox: trained by their optimisers, and read back."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportInvalidTypeForm=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportOperatorIssue=false
# (modules of libraries whose attributes have no types, and wrong things on purpose)

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rnn_jax import (
    Keyed,
    embedding,
    gru,
    input_dropout,
    learned_start,
    lru,
    lstm,
    outputs,
    peephole_lstm,
    readout,
    residual,
    rollout,
    vanilla,
)
from rnn_jax.initializers import zeros
from rnn_jax.interop import as_equinox, as_linen, as_nnx, cell_from_equinox, cell_from_flax
from tests.adapted import allowing, require_one_line

T, B, I, H = 5, 8, 3, 4
CELL = learned_start(peephole_lstm(I, H))
PARAMS = jax.tree.map(lambda a: a + 0.1, CELL.init(jax.random.key(0)))
W, b = jax.random.normal(jax.random.key(1), (H, 1)), jnp.ones(1)
XS = jax.random.normal(jax.random.key(2), (T, B, I))
TARGETS = XS[-3, :, :1]  # what was read three steps ago
ADAM, UPDATES = optax.adam(0.1), 40


def imports_equinox():
    return pytest.importorskip("equinox", reason="equinox is not installed: pip install -e .[peers]")


def own_loss(params, W, b):
    _, hs = rollout(CELL, params, CELL.start(params, (B,)), XS)
    return jnp.mean((outputs(CELL, params, hs)[-1] @ W + b - TARGETS) ** 2)


@functools.cache
@jax.jit
def own_gradients():
    return jax.value_and_grad(own_loss, (0, 1, 2))(PARAMS, W, b)


def require_trained(losses):
    assert losses[-1] < 0.1 * losses[0]


@allowing
def test_a_model_of_linen_with_a_cell_inside_has_its_gradients_and_trains():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, xs):
            ys = nn.RNN(as_linen(CELL), time_major=True)(xs)
            return nn.Dense(1, param_dtype=jnp.float64, name="head")(ys[-1])

    model = Model()

    def loss(variables):
        return jnp.mean((model.apply(variables, XS) - TARGETS) ** 2)

    drawn = jax.eval_shape(model.init, jax.random.key(5), XS)
    own = {"LinenCell_0": {"weights": PARAMS}, "head": {"kernel": W, "bias": b}}
    chex.assert_trees_all_equal_shapes_and_dtypes(drawn, {"params": own})

    @jax.jit
    def update(variables, state):
        value, gradients = jax.value_and_grad(loss)(variables)
        updates, state = ADAM.update(gradients, state)
        return optax.apply_updates(variables, updates), state, value, gradients

    variables, state, losses, first = {"params": own}, ADAM.init({"params": own}), [], None
    for _ in range(UPDATES):
        variables, state, value, gradients = update(variables, state)
        losses.append(value)
        first = gradients if first is None else first
    value, (to_params, to_W, to_b) = own_gradients()
    chex.assert_trees_all_close(losses[0], value, rtol=1e-12)
    chex.assert_trees_all_close(
        first["params"],
        {"LinenCell_0": {"weights": to_params}, "head": {"kernel": to_W, "bias": to_b}},
        rtol=1e-12,
        atol=1e-13,
    )
    require_trained(losses)


@allowing
def test_a_model_of_nnx_with_a_cell_inside_has_its_gradients_and_trains():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.rnn = nnx.RNN(as_nnx(CELL, PARAMS), time_major=True)
            self.head = nnx.Linear(H, 1, param_dtype=jnp.float64, rngs=rngs)
            self.head.kernel[...], self.head.bias[...] = W, b

        def __call__(self, xs):
            return self.head(self.rnn(xs)[-1])

    def loss(model):
        return jnp.mean((model(XS) - TARGETS) ** 2)

    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, ADAM, wrt=nnx.Param)

    @nnx.jit
    def update(model, optimizer):
        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value, gradients

    first, losses = None, []
    for _ in range(UPDATES):
        value, gradients = update(model, optimizer)
        losses.append(value)
        first = gradients if first is None else first
    value, (to_params, to_W, to_b) = own_gradients()
    chex.assert_trees_all_close(losses[0], value, rtol=1e-12)
    got = nnx.to_pure_dict(first)
    chex.assert_trees_all_close(got["head"], {"kernel": to_W, "bias": to_b}, rtol=1e-12)
    own = nnx.to_pure_dict(nnx.state(as_nnx(CELL, to_params), nnx.Param))
    chex.assert_trees_all_close(got["rnn"]["cell"], own, rtol=1e-12, atol=1e-13)
    require_trained(losses)


@allowing
def test_a_model_of_equinox_with_a_cell_inside_has_its_gradients_and_trains():
    eqx = imports_equinox()

    class Model(eqx.Module):
        cell: eqx.Module
        head: eqx.nn.Linear

        def __call__(self, xs):
            h, _ = jax.lax.scan(lambda h, x: (self.cell(x, h), None), self.cell.start(), xs)
            return self.head(self.cell.output(h))

    def loss(model):
        return jnp.mean((jax.vmap(model, in_axes=1)(XS) - TARGETS) ** 2)

    head = eqx.nn.Linear(H, 1, key=jax.random.key(0))
    model = Model(as_equinox(CELL, PARAMS), eqx.tree_at(lambda head: (head.weight, head.bias), head, (W.T, b)))

    @eqx.filter_jit
    def update(model, state):
        value, gradients = eqx.filter_value_and_grad(loss)(model)
        updates, state = ADAM.update(gradients, state)
        return eqx.apply_updates(model, updates), state, value, gradients

    first, losses, state = None, [], ADAM.init(eqx.filter(model, eqx.is_inexact_array))
    for _ in range(UPDATES):
        model, state, value, gradients = update(model, state)
        losses.append(value)
        first = gradients if first is None else first
    value, (to_params, to_W, to_b) = own_gradients()
    chex.assert_trees_all_close(losses[0], value, rtol=1e-12)
    chex.assert_trees_all_close(first.cell.params, to_params, rtol=1e-12, atol=1e-13)
    chex.assert_trees_all_close((first.head.weight, first.head.bias), (to_W.T, to_b), rtol=1e-12)
    require_trained(losses)


def through_linen(cell, params):
    return cell_from_flax(as_linen(cell), I), {"weights": params}


def through_nnx(cell, params):
    back = cell_from_flax(as_nnx(cell, params), I)
    return back, back.init(jax.random.key(9))


def through_equinox(cell, params):
    imports_equinox()
    back = cell_from_equinox(as_equinox(cell, params), I)
    return back, back.init(jax.random.key(9))


CELLS = {
    "learned start under two heads": readout(learned_start(lstm(I, H)), {"policy": 2, "value": 1}),
    "lru beside its input": residual(lru(I, H, output_size=I)),
}


@pytest.mark.parametrize("through", [through_linen, through_nnx, through_equinox])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
def test_a_cell_that_has_been_a_module_of_another_library_is_the_same_cell(cell, through):
    params = cell.init(jax.random.key(0))
    back, there = through(cell, params)

    @functools.partial(jax.jit, static_argnums=0)
    def run(cell, params):
        h_T, hs = rollout(cell, params, cell.start(params, (2,)), XS[:, :2])
        return jax.tree.leaves(h_T), outputs(cell, params, hs)

    chex.assert_trees_all_close(run(back, there), run(cell, params), rtol=1e-13, atol=1e-15)


def test_a_learned_start_needs_the_weights_of_the_model():
    free = as_linen(gru(I, H))
    np.testing.assert_array_equal(free.initialize_carry(jax.random.key(0), (2, I)), jnp.zeros((2, H)))
    module = as_linen(CELL)
    require_one_line(lambda: module.initialize_carry(jax.random.key(0), (2, I)), "the start of this cell is learned")
    h = module.apply({"params": {"weights": PARAMS}}, jax.random.key(0), (2, I), method="initialize_carry")
    chex.assert_trees_all_equal(h, CELL.start(PARAMS, (2,)))


def test_ids_and_both_directions_are_read_inside_models_of_flax():
    cell = embedding(gru(2, H), 5, 2)
    ids = jnp.array([[0, 4, 2], [1, 1, 3]])  # batch first
    model = nn.RNN(as_linen(cell, feature_axes=0), return_carry=True)
    params = cell.init(jax.random.key(0))

    @jax.jit
    def run(params):
        forward, backward = (nnx.RNN(as_nnx(cell, params, feature_axes=0)) for _ in range(2))
        ours = (rollout(cell, params, cell.start(params, (2,)), ids.T, reverse=back) for back in (False, True))
        layer = model.apply({"params": {"cell": {"weights": params}}}, ids)
        return layer, nnx.Bidirectional(forward, backward)(ids), *ours

    (h_T, hs), both, own, (_, back) = run(params)
    chex.assert_trees_all_close((h_T, hs.swapaxes(0, 1)), own, rtol=1e-12)
    chex.assert_trees_all_close(both, jnp.concatenate([hs, back.swapaxes(0, 1)], -1), rtol=1e-12)


def test_a_cell_that_draws_has_its_key_inside_a_module():
    eqx = imports_equinox()
    cell = input_dropout(gru(I, H), 0.5)
    params, key, x, h = cell.init(jax.random.key(0)), jax.random.key(3), jnp.ones(I), jnp.ones(H)
    drawn, mean = cell.step(params, h, Keyed(x, key)), cell.step(params, h, x)
    module = as_equinox(cell, params)
    assert (module(x, h, key=key) == drawn).all()
    assert (module(x, h) == mean).all()
    assert (as_equinox(gru(I, H), gru(I, H).init(key))(x, h, key=key) != h).any()
    assert (as_nnx(cell, params)(h, Keyed(x, key))[0] == drawn).all()
    assert (as_linen(cell).apply({"params": {"weights": params}}, h, Keyed(x, key))[0] == drawn).all()
    assert eqx.tree_equal(module, as_equinox(cell, params))


DRAWING = input_dropout(vanilla(I, H, recurrent_init=zeros), 0.5)
DRAWING_PARAMS = DRAWING.init(jax.random.key(0))
ONES = jnp.ones((2, T, I))  # batch first


def require_drawn(ys, again, other, mean):
    """Outputs of equal inputs differ by step, example and key, and from those of the mean."""
    assert (ys == again).all()
    rows = ys.reshape(-1, H)
    assert len({tuple(row) for row in rows.tolist()}) > 4  # of 8 that the mask of an input can make
    assert (ys != other).any()
    assert (ys != mean).any()
    chex.assert_trees_all_close(mean, jnp.broadcast_to(mean[:1, :1], mean.shape), rtol=1e-14)


def test_a_cell_draws_inside_a_recurrent_layer_of_linen():
    drawing = as_linen(DRAWING, deterministic=False)
    layer = nn.RNN(drawing, split_rngs={"params": False, "dropout": True})
    variables = {"params": {"cell": {"weights": DRAWING_PARAMS}}}
    chex.assert_trees_all_equal_shapes(jax.eval_shape(layer.init, jax.random.key(0), ONES), variables)

    @jax.jit
    def run(key):
        return layer.apply(variables, ONES, rngs={"dropout": key})

    mean = nn.RNN(as_linen(DRAWING)).apply(variables, ONES, rngs={"dropout": jax.random.key(1)})
    require_drawn(*(run(jax.random.key(seed)) for seed in (1, 1, 2)), mean)
    require_one_line(lambda: nn.RNN(drawing).apply(variables, ONES, rngs={"dropout": jax.random.key(1)}), "rngs got no")


def test_a_cell_draws_inside_a_recurrent_layer_of_nnx():
    def run(seed, training=True):
        layer = nnx.RNN(as_nnx(DRAWING, DRAWING_PARAMS, rngs=nnx.Rngs(seed)))
        return (layer.train() if training else layer.eval()) or layer(ONES)

    require_drawn(run(1), run(1), run(2), run(1, training=False))
    layer = nnx.RNN(as_nnx(DRAWING, DRAWING_PARAMS, rngs=nnx.Rngs(1)))
    assert (layer(ONES) != layer(ONES)).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: as_linen("gru"), "cell got str; want a Cell"),
        (lambda: as_linen(CELL, feature_axes=-1), "feature_axes got -1; want 1 for vectors, or 0 for ids"),
        (lambda: as_linen(CELL, deterministic=1), "deterministic got 1; want True or False"),
        (lambda: as_nnx(None, PARAMS), "cell got NoneType; want a Cell"),
        (lambda: as_nnx(CELL, PARAMS, rngs=3), "rngs got int, which raised .*; want nnx.Rngs with the stream dropout"),
        (lambda: as_nnx(CELL, PARAMS, rngs=nnx.Rngs(params=0)), "rngs got Rngs, which raised .*stream dropout"),
        (
            lambda: as_nnx(CELL, PARAMS, feature_axes=3).initialize_carry((2, 3)),
            "input_shape got .2, 3.; want at least",
        ),
        (lambda: as_equinox(CELL, jax.tree.map(jnp.int32, PARAMS)), "params got .* int32.*; want params of this cell"),
        (lambda: as_nnx(CELL, W), "params got float64.4, 1., where cell.init.key. makes"),
        (lambda: as_equinox(3, PARAMS), "cell got int; want a Cell"),
        (lambda: as_equinox(CELL, PARAMS._replace(h_0=None)), "params got .*want params of this cell"),
    ],
)
def test_what_is_no_cell_or_not_its_params_is_refused_in_one_line(call, message):
    imports_equinox()
    require_one_line(call, message)
