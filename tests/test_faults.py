"""Training where something is not as it should be: starts, ids, few bits, and what is no optimizer or parameter."""

# pyright: reportArgumentType=false
# (wrong things on purpose)

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax import bidirectional, causal, cell_from_step, gru, lstm, readout, rollout, vanilla
from rnn_jax.losses import cross_entropy
from rnn_jax.training import batch_learner, evaluate, fit, require_finite, window_learner
from tests.laboratory import as_a_user_has_it, random_params, refused

V = 5


def unit_start(D=7):
    """A state that begins on the unit sphere, at z/‖z‖, and decays."""

    def start(z, batch_shape=()):
        return jnp.broadcast_to(z / jnp.linalg.norm(z), (*batch_shape, D))

    return cell_from_step(lambda key: jax.random.normal(key, (D,)), start, lambda z, h, x: 0.9 * h + x)


def squares(ys, targets):
    return jnp.sum(jnp.square(ys) @ jnp.arange(1.0, ys.shape[-1] + 1))


def gradient_of_start(cell, z, xs):
    def loss(z):
        return squares(rollout(cell, z, cell.start(z, xs.shape[1:-1]), xs)[1], ())

    return optax.tree.norm(jax.grad(loss)(z))


@pytest.mark.parametrize("seed", range(2))
def test_a_computed_start_is_taught_whatever_its_rounding(seed):
    cell = unit_start()
    learner = window_learner(cell, squares, optax.sgd(1e-3))
    state, xs = learner.init(jax.random.key(seed), (2,)), jnp.zeros((3, 2, 7))
    update = jax.jit(learner.update)
    wanted = gradient_of_start(cell, state.params, xs)
    second, info = update(state, (xs, ()))
    np.testing.assert_allclose(info.grad_norm, wanted, rtol=1e-10)
    assert wanted > 0.1
    third, info = update(second, (xs, ()))
    assert info.grad_norm == 0  # the second window does not begin with the start
    anew, info = update(third, (xs.at[0].set(jnp.nan), ()))
    assert int(info.broken) == 0
    _, info = update(anew, (xs, ()))  # and the window after a skipped one does
    np.testing.assert_allclose(info.grad_norm, gradient_of_start(cell, anew.params, xs), rtol=1e-10)


def test_a_lane_that_waits_begins_with_the_start_of_the_params_of_its_time():
    cell, mask = unit_start(), jnp.array([[True, False]] * 3)
    learner = window_learner(cell, squares, optax.sgd(1e-3))
    state, xs = learner.init(jax.random.key(0), (2,)), jnp.zeros((3, 2, 7))
    state, _ = learner.update(state, (xs, (), mask))
    assert state.fresh.tolist() == [False, True]
    chex.assert_trees_all_close(state.h[1], cell.start(state.params), rtol=1e-12)
    after, info = learner.update(state, (xs, (), ~mask))
    held = squares(jnp.broadcast_to(state.h[0], (3, 7)), ())
    np.testing.assert_allclose(info.loss, held + squares(rollout(cell, 0, state.h[1], xs[:, 1])[1], ()), rtol=1e-12)
    np.testing.assert_allclose(info.grad_norm, gradient_of_start(cell, state.params, xs[:, 1:]), rtol=1e-10)
    assert after.fresh.tolist() == [False, False]
    resets = jnp.zeros((3, 2), bool).at[1, 0].set(True)
    for reading, fresh in [
        (mask, False),
        (~mask, True),
        (mask.at[1:].set(False), True),
        (mask.at[:2].set(False), False),
    ]:
        state, _ = learner.update(after, (xs, (), reading, resets))
        assert bool(state.fresh[0]) == fresh


def test_a_state_of_ones_own_teaches_no_start():
    learner = window_learner(unit_start(), squares, optax.sgd(1e-3))
    state = learner.init(jax.random.key(0), (2,))
    own = state._replace(h=state.h + 0.5, fresh=jnp.zeros(2, bool))
    assert learner.update(own, (jnp.zeros((3, 2, 7)), ()))[1].grad_norm == 0


def test_a_state_of_another_batch_wants_its_own_lanes():
    learner = window_learner(unit_start(), squares, optax.sgd(1e-3))
    state = learner.init(jax.random.key(0), (2,))
    other = state._replace(h=jnp.zeros((3, 7)))
    refused(
        lambda: learner.update(other, (jnp.zeros((3, 3, 7)), ())),
        "fresh got shape (2,); want the batch axes of h, (3,)",
    )
    learner.update(other._replace(fresh=jnp.zeros(3, bool)), (jnp.zeros((3, 3, 7)), ()))


def test_a_state_may_count_beside_what_it_learns():
    counting = cell_from_step(
        lambda key: jnp.ones(3),
        lambda w, batch_shape=(): (jnp.broadcast_to(jnp.tanh(w), (*batch_shape, 3)), jnp.zeros(batch_shape, jnp.int32)),
        lambda w, h, x: (0.5 * h[0] + x, h[1] + 1),
        output=lambda w, h: h[0],
    )
    learner = window_learner(counting, squares, optax.sgd(1e-3))
    state = learner.init(jax.random.key(0), (2,))
    for steps, taught in [(4, True), (8, False)]:
        state, info = learner.update(state, (jnp.zeros((4, 2, 3)), ()))
        assert state.h[1].tolist() == [steps, steps]
        assert bool(info.grad_norm > 0) == taught


@cache
def reader():
    learner = window_learner(readout(vanilla(V, 3), V), cross_entropy, optax.sgd(0.1))
    return learner, learner.init(jax.random.key(0), (2,)), jax.jit(partial(fit, learner))


@pytest.mark.parametrize("outside", [-1, V, 2**31 - 1])
def test_an_input_id_outside_the_vocabulary_is_named_as_the_cause(outside):
    learner, state, compiled = reader()
    ids = jnp.ones((4, 3, 2), int).at[2, 1, 0].set(outside)
    refused(
        lambda: fit(learner, state, (ids, ids)), f"xs got {outside}, an input id outside the cell's vocabulary; want"
    )
    refused(lambda: learner.update(state, (ids[2], ids[2])), f"xs got {outside}, an input id outside")
    state, info = compiled(state, (ids, jnp.ones_like(ids)))
    assert (info.broken >= 0).tolist() == [False, False, True, False]
    says = r"^batch 2 \(update 2\) got an input id outside the cell's vocabulary; want ids below its input_size: encode"
    with pytest.raises(FloatingPointError, match=says):
        require_finite(state, info)


def test_an_id_that_is_masked_may_be_anything():
    ids, mask = jnp.ones((3, 2), int).at[2].set(-1), jnp.array([True, True, False])
    window = ids, (jnp.abs(ids), jnp.broadcast_to(mask[:, None], ids.shape)), mask
    learner = window_learner(readout(vanilla(V, 3), V), lambda ys, of: cross_entropy(ys, *of), optax.sgd(0.1))
    state = learner.init(jax.random.key(0), (2,))
    learner.check(state, tuple(jax.tree.map(lambda a: a[None], window)))
    assert int(jax.jit(learner.update)(state, window)[1].broken) == -1


def test_a_target_outside_the_vocabulary_is_named_as_the_cause():
    _, state, compiled = reader()
    ids = jnp.ones((4, 3, 2), int)
    state, info = compiled(state, (ids, ids.at[0, 1, 0].set(V)))
    with pytest.raises(FloatingPointError, match=r"^batch 0 \(update 0\) got a target outside the vocabulary of"):
        require_finite(state, info)


def test_what_breaks_before_any_update_is_not_blamed_on_the_learning_rate():
    learner = batch_learner(lambda key: jnp.ones(()), lambda p, x: p * x, optax.sgd(0.1))
    state, info = fit(learner, learner.init(jax.random.key(0)), (jnp.array([jnp.nan, 1.0]),))
    with pytest.raises(FloatingPointError, match=r"got a loss that is not finite; want finite inputs and params, and"):
        require_finite(state, info)


def test_the_norm_of_a_gradient_in_float16_does_not_overflow_where_its_entries_do_not():
    init = lambda key: jnp.ones(4, jnp.float16)  # noqa: E731
    loss = lambda p, x: jnp.sum(p * x)  # noqa: E731
    for clip, norm in [(None, 60_000), (1.0, 1)]:
        learner = batch_learner(init, loss, optax.sgd(2.0**-10), clip=clip)
        _, info = learner.update(learner.init(jax.random.key(0)), (jnp.array([3, -3, 3, -3], jnp.float16) * 10_000,))
        assert int(info.broken) == -1
        assert info.grad_norm == 60_000
        np.testing.assert_allclose((info.clipped_norm, info.update_ratio), (norm, 2.0**-10 * norm / 2), rtol=1e-3)


def test_what_adam_divides_by_in_float16_is_named_as_the_cause():
    learner = batch_learner(lambda key: jnp.ones(2, jnp.float16), lambda p, x: p[0] * x, optax.adam(0.1))
    state, info = fit(learner, learner.init(jax.random.key(0)), (jnp.ones(2, jnp.float16),))
    with pytest.raises(FloatingPointError, match=r"got a step that is not finite; want an eps that float16 holds"):
        require_finite(state, info)
    learner = batch_learner(lambda key: jnp.ones(2, jnp.float16), lambda p, x: p[0] * x, optax.adam(0.1, eps=1e-4))
    require_finite(*fit(learner, learner.init(jax.random.key(0)), (jnp.ones(2, jnp.float16),)))


@pytest.mark.parametrize(
    "optimizer",
    [optax.lbfgs(), optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15))],
    ids=["lbfgs", "backtracking"],
)
def test_a_line_search_learns(optimizer):
    learner = window_learner(readout(vanilla(V, 6), V), cross_entropy, optimizer, clip=10.0)
    ids = jnp.arange(8).reshape(4, 2).T[None] % V
    windows = tuple(jnp.tile(a, (12, 1, 1)) for a in (ids, (ids + 1) % V))
    state, info = jax.jit(partial(fit, learner))(learner.init(jax.random.key(0), (4,)), windows)
    require_finite(state, info)
    assert info.loss[-1] < 0.1 * info.loss[0]


def test_what_cannot_be_learned_from_is_refused_in_one_line():
    cell, adam = gru(V, 3), optax.adam(0.1)
    says = "optimizer got adam; want an optax transformation, such as optax.adam(1e-3)"
    refused(lambda: window_learner(cell, squares, optax.adam), says)
    refused(lambda: batch_learner(cell.init, squares, optax.adam), says)
    for no_cell in (bidirectional(cell, cell), causal(cell)):
        refused(lambda c=no_cell: window_learner(c, squares, adam), "cell got Layer; want a Cell, such as gru(3, 4)")
        refused(lambda c=no_cell: evaluate(c, (), jnp.ones((3, 2, V)), (), squares), "cell got Layer; want a Cell")
    params = random_params(cell)
    refused(lambda: evaluate(cell, params, jnp.ones(3, int), (), squares), "xs got shape (3,); want (T, B, …)")
    refused(lambda: window_learner(cell, squares, adam).init(jax.random.key(0), 2), "batch_shape got 2; want a tuple")
    for number in (1, jnp.ones(2, bool), 1j):
        learner = batch_learner(lambda key, n=number: {"w": jnp.ones(2), "n": jnp.asarray(n)}, squares, adam)
        refused(lambda of=learner: of.init(jax.random.key(0)), "params['n'] got ")
    state = window_learner(cell, squares, adam).init(jax.random.key(0))._replace(params=jax.tree.map(jnp.int32, params))
    refused(lambda: window_learner(cell, squares, adam).update(state, (jnp.ones((3, V)), ())), "params.W_xh got int32")
    learner = window_learner(readout(cell, V), cross_entropy, adam)
    state, ids = learner.init(jax.random.key(0), (2,)), jnp.ones((3, 2), int)
    for windows in ((ids,), (ids, ids, None, None, None)):
        refused(lambda w=windows: learner.update(state, w), f"window got {len(windows)} parts; want xs and targets")
    refused(lambda: learner.update(state, (ids, ids, jnp.ones(2, bool))), "mask got bool (2,); want bool (3,), or")
    wants_more = optax.GradientTransformationExtraArgs(lambda p: (), lambda g, s, p=None, *, hessian: (g, s))
    learner = batch_learner(lambda key: jnp.ones(()), lambda p: p**2, wants_more)
    refused(lambda: learner.update(learner.init(jax.random.key(0)), ()), "optimizer got one whose update fails (")


@pytest.mark.parametrize(
    "made", [partial(window_learner, lstm(V, 3), squares), partial(batch_learner, lambda key: 0.0, squares)]
)
def test_a_clip_is_a_positive_norm(made):
    for clip in (-1.0, 0.0, 0, float("nan"), True, "1", np.ones(2), 1j):
        refused(lambda c=clip: made(optax.sgd(0.1), clip=c), "clip got ")
    for clip in (1, 0.5, np.float32(1), jnp.asarray(2.0), float("inf"), None):
        with as_a_user_has_it():
            made(optax.sgd(0.1), clip=clip)
    jax.jit(lambda clip: made(optax.sgd(0.1), clip=clip).init(jax.random.key(0)).step)(1.0)
