"""Recurrent cells of haiku and equinox as cells."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportInvalidTypeForm=false
# pyright: reportCallIssue=false
# (modules of libraries whose attributes have no types, and wrong things on purpose)

import jax
import jax.numpy as jnp
import pytest

from rnn_jax.interop import cell_from_equinox, cell_from_haiku
from tests.adapted import B, H, I, Theirs, cells_in, random_params, require_equal_to_theirs, require_one_line

hk = pytest.importorskip("haiku", reason="haiku is not installed: pip install -e .[peers]")
eqx = pytest.importorskip("equinox", reason="equinox is not installed: pip install -e .[peers]")


class LearnedCore(hk.RNNCore):
    """A core of one's own: a learned start, two parts, an output of the input and the old state, no rank-0 batch."""

    def initial_state(self, batch_size):
        first = hk.get_parameter("first", [H], float, init=hk.initializers.RandomNormal())
        return {"h": jnp.broadcast_to(first, (batch_size, H)), "m": jnp.zeros((batch_size, 1))}

    def __call__(self, x, state):
        assert x.ndim == 2
        h = jnp.tanh(hk.Linear(H)(jnp.concatenate([state["h"], state["m"], x], -1)))
        m = 0.9 * state["m"] + 0.1 * h.mean(-1, keepdims=True)
        return hk.Linear(2)(jnp.concatenate([state["h"], x], -1)), {"h": h, "m": m}


class Resetting(hk.RNNCore):
    """A GRU that is reset where the last feature is near 1/2: in the batch, but not where lags are measured."""

    def __init__(self):
        super().__init__()
        self.core = hk.ResetCore(hk.GRU(H))

    def initial_state(self, batch_size):
        return self.core.initial_state(batch_size)

    def __call__(self, x, state):
        return self.core((x, jnp.abs(x[..., -1] - 0.5) < 0.25), state)


class Permuted(eqx.Module):
    """A cell whose order of units is drawn by the key."""

    W: jax.Array
    order: jax.Array
    input_size: int = eqx.field(static=True, default=I)
    hidden_size: int = eqx.field(static=True, default=H)

    def __init__(self, key):
        self.W, self.order = jax.random.normal(key, (H, H)), jax.random.permutation(key, H)

    def __call__(self, x, h):
        return jnp.tanh(h[self.order] @ self.W + x.sum())


class OwnCell(eqx.Module):
    """A cell of one's own: a learned start, integers that are constant, and an output of the new state."""

    W: eqx.nn.Linear
    V: eqx.nn.Linear
    first: jax.Array
    order: jax.Array
    activation: object = eqx.field(static=True)

    def __init__(self, key):
        k_W, k_V, k_h = jax.random.split(key, 3)
        self.W, self.V = eqx.nn.Linear(I + H, H, key=k_W), eqx.nn.Linear(H, 2, key=k_V)
        self.first, self.order, self.activation = jax.random.normal(k_h, (H,)), jnp.arange(H)[::-1], jnp.tanh

    def __call__(self, x, h):
        h = self.activation(self.W(jnp.concatenate([h[self.order], x])))
        return h, self.V(h)


def of_haiku(make, x=(I,), beside=False):
    def unroll(params, xs):
        def run(xs):
            core = make()
            return hk.dynamic_unroll(core, xs, core.initial_state(B))

        ys, carry = hk.transform(run).apply(params, None, xs)
        return carry, ys

    def step(params, h, x):
        h, x = jax.tree.map(lambda a: a[None], (h, x))
        y, h = hk.transform(lambda x, h: make()(x, h)).apply(params, None, x, h)
        return jax.tree.map(lambda a: a[0], (h, y))

    return Theirs(cell_from_haiku(make, x if len(x) > 1 else x[0]), unroll, step, x, beside)


def of_equinox(module, first, output, **given):
    def merged(params):
        return eqx.combine(params, eqx.filter(module, eqx.is_inexact_array, inverse=True))

    def step(params, h, x):
        h = merged(params)(x, h)
        return h if output is None else (h, output(h))

    def unroll(params, xs):
        one = lambda xs: jax.lax.scan(lambda h, x: step(params, h, x), first(merged(params)), xs)  # noqa: E731
        return jax.vmap(one, in_axes=1, out_axes=(0, 1))(xs)

    return Theirs(cell_from_equinox(module, **given), unroll, step)


def zeros(module):
    return jnp.zeros(H)


EXAMPLES = {
    "haiku VanillaRNN": of_haiku(lambda: hk.VanillaRNN(H)),
    "haiku LSTM": of_haiku(lambda: hk.LSTM(H)),
    "haiku GRU": of_haiku(lambda: hk.GRU(H)),
    "haiku Conv1DLSTM": of_haiku(lambda: hk.Conv1DLSTM((4,), 2, 3), (4, 2)),
    "haiku Conv2DLSTM": of_haiku(lambda: hk.Conv2DLSTM((3, 2), 1, 3), (3, 2, 1)),
    "haiku Conv3DLSTM": of_haiku(lambda: hk.Conv3DLSTM((2, 2, 2), 1, 2), (2, 2, 2, 1)),
    "haiku DeepRNN": of_haiku(lambda: hk.DeepRNN([hk.GRU(2), jnp.cos, hk.VanillaRNN(3), hk.Linear(2)])),
    "haiku ResetCore": of_haiku(Resetting),
    "haiku deep_rnn_with_skip_connections": of_haiku(
        lambda: hk.deep_rnn_with_skip_connections([hk.GRU(2), hk.LSTM(3)])
    ),
    "haiku, of one's own": of_haiku(LearnedCore, beside=True),
    "equinox LSTMCell": of_equinox(
        eqx.nn.LSTMCell(I, H, key=jax.random.key(0)), lambda module: (jnp.zeros(H), jnp.zeros(H)), lambda h: h[0]
    ),
    "equinox GRUCell": of_equinox(eqx.nn.GRUCell(I, H, key=jax.random.key(0)), zeros, lambda h: h),
    "equinox, of one's own": of_equinox(
        OwnCell(jax.random.key(0)), lambda module: module.first, None, x=I, start=lambda module: module.first
    ),
}
one_example = pytest.mark.parametrize("theirs", EXAMPLES.values(), ids=EXAMPLES.keys())


@one_example
def test_a_cell_of_haiku_or_equinox_has_the_rollouts_gradients_and_lag_gradients_of_its_library(theirs):
    require_equal_to_theirs(theirs)


def test_every_cell_of_haiku_and_equinox_is_among_the_examples():
    names = {f"haiku {name}" for name in cells_in(hk, hk.RNNCore)} - {"haiku IdentityCore"}  # which has no state
    names |= {f"equinox {name}" for name in vars(eqx.nn) if name.endswith("Cell")}
    assert len(names) >= 9
    assert names <= EXAMPLES.keys()


def test_a_core_may_read_several_arrays_at_a_step():
    cell = cell_from_haiku(lambda: hk.ResetCore(hk.GRU(H)), (jnp.zeros(I), jnp.zeros((), bool)))
    h, x = jnp.ones((2, H)), jnp.ones((2, I))

    @jax.jit
    def stepped(params):
        both = cell.step(params, h, (x, jnp.array([False, True])))
        return both, cell.step(params, cell.start(params), (x[1], jnp.array(False)))

    (new, first), of_start = stepped(random_params(cell))
    assert jnp.allclose(first, of_start, rtol=1e-12)
    assert not jnp.allclose(new, of_start)


def test_a_module_of_equinox_with_one_array_more_learns_its_start():
    cell = EXAMPLES["equinox, of one's own"].cell
    loss = lambda params: cell.output(params, cell.step(params, cell.start(params), jnp.ones(I))).sum()  # noqa: E731
    grad = jax.jit(jax.grad(loss))(random_params(cell))
    assert grad.first.any()
    assert grad.order is None


def test_a_function_that_makes_a_module_of_equinox_draws_the_weights_of_its_key():
    make = lambda key: eqx.nn.GRUCell(I, H, key=key)  # noqa: E731
    keys, cell = jax.random.split(jax.random.key(1), 2), cell_from_equinox(make)
    (first, second), theirs = jax.jit(lambda keys: (jax.vmap(cell.init)(keys).weight_hh, make(keys[1]).weight_hh))(keys)
    assert (second == theirs).all()
    assert (first != second).all()


def with_state():
    class Core(hk.GRU):
        def __call__(self, x, state):
            hk.set_state("steps", hk.get_state("steps", [], init=jnp.zeros) + 1)
            return super().__call__(x, state)

    return Core(H)


def with_noise():
    class Core(hk.GRU):
        def __call__(self, x, state):
            return super().__call__(x + jax.random.normal(hk.next_rng_key(), x.shape), state)

    return Core(H)


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cell_from_haiku("gru", I), "make got str; want a function that makes a core"),
        (lambda: cell_from_haiku(lambda: hk.Linear(H), I), "which makes Linear; want a recurrent core of haiku"),
        (lambda: cell_from_haiku(lambda: jnp.tanh, I), "which makes jax.numpy.tanh|which makes tanh; want"),
        (
            lambda: cell_from_haiku(hk.GRU, I),
            "make got GRU, which raised TypeError .*; want a function that makes a rec",
        ),
        (lambda: hk.transform(lambda: cell_from_haiku(hk.GRU(H), I)).init(KEY), "make got GRU, which raised TypeError"),
        (lambda: cell_from_haiku(hk.IdentityCore, I), "make got IdentityCore, which has no state"),
        (lambda: cell_from_haiku(lambda: hk.GRU(H), None), "x got None; want one input: its size"),
        (lambda: cell_from_haiku(lambda: hk.GRU(H), 0), "x got 0; want a positive integer"),
        (lambda: cell_from_haiku(lambda: hk.GRU(H), (2, 2, 2)), "make got <lambda>, which raised ValueError"),
        (lambda: cell_from_haiku(with_state, I), "whose core has a state of its own, core"),
        (lambda: cell_from_haiku(with_noise, I), "make got with_noise, which raised"),
        (lambda: cell_from_equinox(3), "module got int; want a recurrent cell of equinox"),
        (lambda: cell_from_equinox(lambda key: 3), "module got <lambda>, which makes int; want a recurrent"),
        (lambda: cell_from_equinox(Permuted), "module got Permuted, whose order depends on the key but is no param"),
        (lambda: cell_from_equinox(eqx.nn.GRUCell(I, H, key=KEY), start="a"), "start got 'a'; want arrays, the first"),
        (lambda: cell_from_equinox(eqx.nn.GRUCell(I, H, key=KEY), start=3), "start got 3; want arrays, the first"),
        (
            lambda: cell_from_equinox(eqx.nn.GRUCell(I, H, key=KEY), start=lambda module: module.nothing),
            "start got <lambda>, which raised AttributeError .*; want the first state of one example",
        ),
        (lambda: cell_from_equinox(jnp.tanh), "module got tanh, which raised"),
        (lambda: cell_from_equinox(eqx.nn.Linear(I, H, key=KEY), I), "start got None for Linear, which has no hidden"),
        (
            lambda: cell_from_equinox(eqx.nn.Linear(I, H, key=KEY), I, start=jnp.zeros(H)),
            "module got Linear, which raised",
        ),
        (lambda: cell_from_equinox(OwnCell(KEY), start=jnp.zeros(H)), "x got None; want one input"),
        (lambda: cell_from_equinox(OwnCell(KEY), 7, start=jnp.zeros(H)), "module got OwnCell, which raised"),
        (lambda: cell_from_equinox(OwnCell(KEY), I, start=jnp.zeros(H + 1)), "module got OwnCell, w"),
        (lambda: cell_from_equinox(OwnCell(KEY), I, start=(jnp.zeros(H),)), "module got OwnCell, w"),
    ],
)
def test_what_is_no_recurrent_cell_is_refused_in_one_line(call, message):
    require_one_line(call, message)


def test_inputs_that_do_not_fit_are_refused_in_one_line():
    for cell in (cell_from_haiku(lambda: hk.GRU(H), I), cell_from_equinox(eqx.nn.GRUCell(I, H, key=KEY))):
        params = cell.init(KEY)
        require_one_line(
            lambda: cell.step(params, cell.start(params), jnp.ones(I + 1)), "in a step; want float64\\[3\\]"
        )
        require_one_line(lambda: cell.step(params, cell.start(params), jnp.ones(I, int)), "jax.nn.one_hot")
