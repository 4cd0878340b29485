"""The adjoint schedule: the numbers of ``scan`` under every transformation, and a loop that touches the state alone."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import rnn_jax as rnn
from benchmarks.timing import memory_bytes
from rnn_jax import cell_from_step, outputs, rollout
from rnn_jax.schedules import adjoint as module
from rnn_jax.schedules.choice import default_schedule
from rnn_jax.schedules.linear_step import taken_apart
from tests.cases import H, I
from tests.laboratory import example, refused

T, B = 7, 2


def loss_of(cell, schedule, **options):
    """Σ sin of every state and Σ of squares of outputs, as a function of params, first state and inputs."""

    def loss(params, h0, xs):
        h_T, hs = rollout(cell, params, h0, xs, schedule=schedule, **options)
        flat, _ = ravel_pytree((h_T, hs))
        return jnp.sum(jnp.sin(flat)) + jnp.sum(outputs(cell, params, hs) ** 2)

    return loss


def relative_error(found, wanted):
    """The largest difference in a tree, relative to the largest number of its array."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return max(float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30)) for a, b in pairs)


@pytest.mark.parametrize("name", ["lstm clipped", "gru reset before", "vanilla relu", "lru", "zoneout", "stack"])
def test_blocks_of_steps_give_the_numbers_of_all_at_once(name, monkeypatch):
    cell, *given = example(name, T)

    def both(*given):
        at_once = jax.value_and_grad(loss_of(cell, "adjoint"), argnums=(0, 1, 2))(*given)
        monkeypatch.setattr(module, "CACHE", 0)
        monkeypatch.setattr(module, "BLOCK", 3)  # two blocks and a rest
        return at_once, jax.value_and_grad(loss_of(cell, "adjoint"), argnums=(0, 1, 2))(*given)

    at_once, in_blocks = jax.device_get(jax.jit(both)(*given))
    assert relative_error(in_blocks, at_once) < 1e-12


@pytest.mark.parametrize("schedule", ["scan", "adjoint"])
@pytest.mark.parametrize("reverse", [False, True])
def test_remat_and_unroll_change_no_number(schedule, reverse):
    cell, *given = example("gru", T)
    flags = {"mask": jax.random.bernoulli(jax.random.key(1), 0.7, (T, B)), "reverse": reverse}
    flags["resets"] = jnp.zeros((T, B), bool).at[3, 0].set(True)
    options = [{}, {"remat": 1}, {"remat": 3}, {"remat": T + 1, "unroll": 3}]

    @jax.jit
    def every(*given):
        return [jax.value_and_grad(loss_of(cell, schedule, **o, **flags), argnums=(0, 1, 2))(*given) for o in options]

    wanted, *others = jax.device_get(every(*given))
    for found in others:
        assert relative_error(found, wanted) < 1e-12


@pytest.mark.parametrize("name", ["gru", "lstm layer norm", "learned start"])
def test_forward_mode_second_derivatives_and_vmap_are_those_of_scan(name):
    cell, params, h0, xs = example(name, 4)
    flat, unravel = ravel_pytree(params)
    direction = jax.random.normal(jax.random.key(3), flat.shape)
    many = jnp.stack([flat, flat + 0.1 * direction])
    window = jnp.zeros((4, B), bool).at[1, 0].set(True).at[2, 1].set(True)

    @functools.partial(jax.jit, static_argnums=0)
    def every(schedule):
        def value(flat, xs=xs):
            return loss_of(cell, schedule, cuts=window)(unravel(flat), h0, xs)

        def of_one(h, x):  # vmap inside: every example alone
            return ravel_pytree(rollout(cell, params, h, x, schedule=schedule)[0])[0]

        return (
            jax.jvp(value, (flat,), (direction,)),
            jax.jvp(jax.grad(value), (flat,), (direction,)),
            jax.hessian(lambda b: value(flat.at[:3].add(b)))(jnp.zeros(3)),
            jax.vmap(jax.value_and_grad(value))(many),
            jax.vmap(jax.grad(value, argnums=1), in_axes=(None, 0))(flat, jnp.stack([xs, 2 * xs])),
            jax.jacrev(lambda h: jax.vmap(of_one, in_axes=(0, 1))(h, xs))(h0),
        )

    assert relative_error(*jax.device_get((every("adjoint"), every("scan")))) < 1e-11


def loops_of(text):
    """The bodies of the loops of a compiled program."""
    names = re.findall(r"while\(.*?body=%?([\w.\-]+)", text)
    return [re.findall(rf"%{re.escape(name)} .*?\n}}", text, re.S)[0] for name in names]


@pytest.mark.parametrize(("name", "B"), [("vanilla", 3), ("gru", 9), ("lstm", 3), ("lstm", 9)])
def test_no_loop_of_the_gradient_makes_or_adds_up_anything_of_the_size_of_the_weights(name, B):
    I, H = 5, 16
    cell = getattr(rnn, name)(I, H)
    gates = {"vanilla": 1, "gru": 3, "lstm": 4}[name]
    params, xs = cell.init(jax.random.key(0)), jnp.ones((50, B, I))

    def compiled(schedule):
        def loss(params):
            return jnp.sum(rollout(cell, params, cell.start(params, (B,)), xs, schedule=schedule)[0][0] ** 2)

        return jax.jit(jax.grad(loss)).lower(params).compile().as_text()

    of_weights = rf"= f64\[(1,)?({H},{gates * H}|{gates * H},{H}|{I},{gates * H}|{gates * H},{I})\]\S* (?!get-tuple)"
    found = {s: sum(len(re.findall(of_weights, body)) for body in loops_of(compiled(s))) for s in ("scan", "adjoint")}
    assert found["adjoint"] == 0
    assert found["scan"] > 0  # the pattern finds such a product where there is one


def test_recomputation_holds_less_than_a_plain_scan():
    cell = rnn.lstm(16, 32)
    params, xs = cell.init(jax.random.key(0)), jnp.ones((1000, 4, 16))

    def temporaries(schedule, **options):
        def loss(params):
            hs = rollout(cell, params, cell.start(params, (4,)), xs, schedule=schedule, **options)[1]
            return jnp.sum(outputs(cell, params, hs) ** 2)

        return memory_bytes(jax.jit(jax.grad(loss)).lower(params).compile())[0] or 0

    plain = temporaries("scan")
    assert plain > 0
    assert temporaries("adjoint", remat=16) <= 0.6 * plain
    assert temporaries("scan", remat=32) <= 0.6 * plain


def test_arrays_that_a_step_closes_over_have_their_gradient():
    def value(scale, schedule):
        cell = cell_from_step(
            lambda key: jnp.eye(H),
            lambda params, batch_shape=(): jnp.zeros((*batch_shape, H)),
            lambda W, h, x: jnp.tanh(scale * (h @ W) + x),
        )
        return rollout(cell, jnp.eye(H), jnp.zeros((B, H)), jnp.ones((T, B, H)), schedule=schedule)[0].sum()

    wanted, found = (jax.value_and_grad(value)(0.3, s) for s in ("scan", "adjoint"))
    np.testing.assert_allclose(found, wanted, rtol=1e-13)


def test_a_product_with_a_constant_matrix_has_the_gradients_of_scan():
    W, many = np.random.default_rng(0).normal(size=(H, H)), 9  # rows from which the transposed matrix is copied

    def step(v, h, x):
        return jnp.tanh(h @ W + v * x @ W)

    cell = cell_from_step(lambda key: 0.5, lambda params, batch_shape=(): jnp.zeros((*batch_shape, H)), step)
    given = jnp.asarray(0.5), jnp.full((many, H), 0.1), jax.random.normal(jax.random.key(0), (T, many, H))
    wanted = jax.grad(loss_of(cell, "scan"), argnums=(0, 1, 2))(*given)
    before = jax.config.values["jax_use_simplified_jaxpr_constants"]
    try:
        for literal in (False, True):  # whether arrays that a step closes over are literals of its equations
            jax.config.update("jax_use_simplified_jaxpr_constants", literal)
            assert relative_error(jax.grad(loss_of(cell, "adjoint"), argnums=(0, 1, 2))(*given), wanted) < 1e-12
    finally:
        jax.config.update("jax_use_simplified_jaxpr_constants", before)


def test_cuts_keep_nothing_more_of_a_step(monkeypatch):
    cell, params, h0, xs = example("lstm", T)
    found = []
    monkeypatch.setattr(module, "taken_apart", lambda *a, **k: found.append(taken_apart(*a, **k)) or found[-1])
    for flags in ({}, {"cuts": jnp.zeros(T, bool).at[3].set(True)}):
        jax.make_jaxpr(jax.grad(loss_of(cell, "adjoint", **flags)))(params, h0, xs)
    free, cut = ([v.aval.shape for v in step.kept] for step, _ in found)
    assert cut == free != []


def test_a_bias_that_is_broadcast_over_the_batch_after_a_split_has_its_gradient():
    def step(params, h, x):
        W, V, b = params
        (r, z, n), (x_r, x_z, x_n) = (jnp.split(a, 3, axis=-1) for a in (h @ W, x @ V))
        r, z = jax.nn.sigmoid(r + x_r), jax.nn.sigmoid(x_z + z)
        return z * h + (1 - z) * jnp.tanh(x_n + r * (n + b[None]))

    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(H, 3 * H), (I, 3 * H), (H,), (T, B, I)]
    *params, xs = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    cell = cell_from_step(lambda key: tuple(params), lambda params, batch_shape=(): jnp.zeros((*batch_shape, H)), step)
    given = tuple(params), jnp.zeros((B, H)), xs
    wanted, found = (jax.grad(loss_of(cell, s), argnums=(0, 1, 2))(*given) for s in ("scan", "adjoint"))
    assert relative_error(found, wanted) < 1e-12


def step_with_everything(params, h, x):
    """A step with loops, an integer in the state, rules of its own, weights on the left, and a number as an index."""
    value, count = h
    inner = jax.lax.fori_loop(0, 2, lambda i, v: jnp.tanh(v @ params["W"]), value)
    inner, _ = jax.lax.scan(lambda v, w: (v * w + x, None), inner, params["ws"])
    left = jnp.einsum("ij,bj->bi", params["W"], jax.nn.relu(surrogate(inner)))
    factor = jnp.asarray([0.5, 1.0, 2.0])[(jnp.abs(inner[:, :1]) * 3).astype(int) % 3]
    return jax.checkpoint(lambda v: jnp.exp(-(v**2)))(factor * left) + 0.1 * value, count + 1


SLOPES = np.linspace(0.5, 1.0, H)[None]


@jax.custom_jvp
def surrogate(x):
    """tanh with slopes of its own, which are an array that the rule closes over."""
    return jnp.tanh(x)


@surrogate.defjvp
def _(primals, tangents):
    return jnp.tanh(primals[0]), tangents[0] * SLOPES


@pytest.mark.parametrize("options", [{}, {"remat": 3}])
def test_a_step_may_hold_loops_integers_and_rules_of_its_own(options):
    cell = cell_from_step(
        lambda key: {"W": jax.random.normal(key, (H, H)), "ws": jnp.array([0.5, -0.4])},
        lambda params, batch_shape=(): (jnp.zeros((*batch_shape, H)), jnp.zeros(batch_shape, int)),
        step_with_everything,
        lambda params, h: h[0],
    )
    params, xs = cell.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (T, B, H))

    def value(params, xs, schedule, **options):
        (h, count), hs = rollout(cell, params, cell.start(params, (B,)), xs, schedule=schedule, **options)
        return jnp.sum(h**2) + jnp.sum(hs[0] ** 3), count

    wanted = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(params, xs, "scan")
    found = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(params, xs, "adjoint", **options)
    assert found[0][1].tolist() == [T, T]
    assert relative_error(found, wanted) < 1e-12


@jax.custom_vjp
def clipped(x):
    """The identity, whose gradient is clipped at each step."""
    return x


clipped.defvjp(lambda x: (x, None), lambda _, to_y: (jnp.clip(to_y, -0.1, 0.1),))


def random_keep(key):
    """A mask of H numbers."""
    return jax.random.bernoulli(key, 0.5, (H,)).astype(float)


AS_WRITTEN = {
    "a clipped gradient of params": lambda W, h, x: jnp.tanh(h @ clipped(W) + x["value"]),
    "a clipped gradient of the input": lambda W, h, x: jnp.tanh(h @ W + clipped(x["value"] @ W)),
    "a branch": lambda W, h, x: jnp.tanh(
        h @ W + jax.lax.cond(jnp.sum(h) > 0, lambda x: x @ W, lambda x: 2 * x, x["value"])
    ),
    "a callback": lambda W, h, x: jnp.tanh(
        h @ W + jax.pure_callback(np.sin, jax.ShapeDtypeStruct((B, H), float), jax.lax.stop_gradient(x["value"]))
    ),
    "random numbers of other keys": lambda W, h, x: jnp.tanh(h @ W + x["value"]) * jax.vmap(random_keep)(x["key"]),
}


@pytest.mark.parametrize("name", list(AS_WRITTEN))
def test_a_step_that_may_not_be_taken_apart_is_computed_as_it_is_written(name):
    keys = jax.random.split(jax.random.key(5, impl="rbg"), (T, B))
    xs = {"value": jax.random.normal(jax.random.key(0), (T, B, H))}
    if "random" in name:
        xs["key"] = keys
    cell = cell_from_step(
        lambda key: jnp.eye(H), lambda params, batch_shape=(): jnp.zeros((*batch_shape, H)), AS_WRITTEN[name]
    )

    @functools.partial(jax.jit, static_argnums=1)
    def gradient(scale, schedule):
        def value(scale):
            return jnp.sum(rollout(cell, scale * jnp.eye(H), jnp.zeros((B, H)), xs, schedule=schedule)[1] ** 2)

        return jax.value_and_grad(value)(scale)

    assert relative_error(gradient(0.5, "adjoint"), gradient(0.5, "scan")) < 1e-12


@pytest.mark.parametrize("schedule", ["scan", "adjoint"])
def test_there_may_be_no_features_and_no_examples(schedule):
    def step(params, h, x):
        W, V = params
        return jnp.tanh(h @ W + x @ V)

    cell = cell_from_step(lambda key: (), lambda params, batch_shape=(): jnp.zeros((*batch_shape, H)), step)
    for batch, features in ((B, 0), (0, I)):
        params, xs = (jnp.eye(H), jnp.ones((features, H))), jnp.ones((T, batch, features))
        for options in ({}, {"remat": 2}):

            def by_hand(params, h, xs, step=step):
                _, hs = jax.lax.scan(lambda h, x: (step(params, h, x),) * 2, h, xs)
                return jnp.sum(jnp.sin(hs)) + jnp.sum(jnp.sin(hs[-1])) + jnp.sum(hs**2)

            given = params, jnp.full((batch, H), 0.3), xs
            grads, wanted = (jax.grad(loss)(*given) for loss in (loss_of(cell, schedule, **options), by_hand))
            chex.assert_trees_all_close(grads, wanted, rtol=1e-12)


def test_what_a_step_prints_is_printed_once_a_step(capfd):
    def step(W, h, x):
        jax.debug.print("step {}", x[0])
        return jnp.tanh(h @ W + x)

    cell = cell_from_step(lambda key: jnp.eye(1), lambda params, batch_shape=(): jnp.zeros((*batch_shape, 1)), step)
    h_T, pullback = jax.vjp(
        lambda W: rollout(cell, W, jnp.zeros(1), jnp.ones((3, 1)), schedule="adjoint")[0], jnp.eye(1)
    )
    jax.block_until_ready(pullback(h_T))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("step") == 3


def test_only_what_is_differentiated_is_computed():
    cell, params, h0, xs = example("lstm", T)

    def products(argnums):
        f = jax.grad(loss_of(cell, "adjoint"), argnums=argnums)
        text = jax.jit(f).lower(params, h0, xs).as_text()
        return text.count("dot_general")

    assert products(1) < products(0) < products((0, 1, 2))


def test_the_default_is_that_of_the_rule(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    one, few, many = (jnp.zeros((*batch, H)) for batch in ((), (B,), (2**14,)))
    assert default_schedule(rnn.gru(I, H), one, ()) == default_schedule(rnn.gru(I, H), few, (B,)) == "adjoint"
    assert default_schedule(rnn.gru(I, H), many, (2**14,)) == "scan"
    assert default_schedule(rnn.min_gru(I, H), one, ()) == "associative"
    assert default_schedule(rnn.min_gru(I, H), one, (), unroll=2) == "adjoint"
    assert default_schedule(rnn.min_gru(I, H), few, (B,)) == "adjoint"
    cell, *given = example("lstm", T)
    chex.assert_trees_all_equal(*(jax.grad(loss_of(cell, s))(*given) for s in ("auto", "adjoint")))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert default_schedule(rnn.gru(I, H), few, (B,)) == "scan"


def test_wrong_options_are_refused():
    cell, *given = example("lstm", T)
    roll = functools.partial(rollout, cell, *given)
    refused(lambda: roll(schedule="fast"), "schedule got 'fast'; want one of auto, scan, adjoint, associative")
    refused(lambda: roll(unroll=0), "unroll got 0; want a positive integer")
    refused(lambda: roll(remat=-1), "remat got -1; want a positive integer")
    linear, *given = example("diagonal", T)
    refused(
        lambda: rollout(linear, *given, schedule="associative", unroll=2),
        "unroll got 2 for schedule 'associative'; want 1",
    )
