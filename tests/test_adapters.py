"""Recurrent cells of flax as cells, and cells as modules of flax."""

# pyright: reportAttributeAccessIssue=false
# (modules of libraries whose attributes have no types)

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from rnn_jax import (
    bidirectional,
    cell_from_step,
    gru,
    lag_gradients,
    learned_start,
    outputs,
    readout,
    rollout,
    stack,
    vanilla,
    window_cuts,
)
from rnn_jax.diagnostics import leading_gain, lyapunov_spectrum, step_jacobian
from rnn_jax.gradients import chunked
from rnn_jax.interop import WithOutput, cell_from_flax
from rnn_jax.layers import BothWays
from tests.adapted import (
    H,
    I,
    T,
    Theirs,
    allowing,
    cells_in,
    random_array,
    random_params,
    require_equal_to_theirs,
    require_one_line,
)
from tests.own_flax_cells import (
    F64,
    DrawnStartNNX,
    GatedNNX,
    Growing,
    LearnedLinen,
    Narrow,
    Reservoir,
    WithNoise,
    WithoutBatch,
    WithStatistics,
)

QUICK: dict[str, Any] = dict.fromkeys(["kernel_init", "recurrent_kernel_init"], nnx.initializers.zeros)
"""Weights that need no program: the examples have random ones."""


def of_linen(module, x=(I,), beside=False):
    def unroll(params, xs):
        return nn.RNN(module, time_major=True, return_carry=True).apply({"params": {"cell": params}}, xs)

    def step(params, h, x):
        return module.apply({"params": params}, h, x)

    return Theirs(cell_from_flax(module, x if len(x) > 1 else x[0]), unroll, step, x, beside)


def of_nnx(module, beside=False, x=None):
    graph, _, constants = nnx.split(module, nnx.Param, ...)

    def merged(params):
        return nnx.merge(graph, params, jax.tree.map(lambda a: a, constants))

    def unroll(params, xs):
        return nnx.RNN(merged(params), time_major=True, return_carry=True)(xs)

    def step(params, h, x):
        return merged(params)(h, x)

    return Theirs(cell_from_flax(module, x), unroll, step, beside=beside)


EXAMPLES = {
    **{f"linen {of.__name__}": of_linen(of(H, **F64)) for of in (nn.SimpleCell, nn.LSTMCell, nn.OptimizedLSTMCell)},
    **{f"linen {of.__name__}": of_linen(of(H, **F64)) for of in (nn.GRUCell, nn.MGUCell)},
    "linen ConvLSTMCell": of_linen(nn.ConvLSTMCell(2, (3, 3), **F64), (3, 2, 1)),
    "linen, of one's own": of_linen(LearnedLinen()),
    **{
        f"nnx {of.__name__}": of_nnx(of(I, H, dtype=jnp.float64, **F64, **QUICK, rngs=nnx.Rngs(0)))
        for of in (nnx.SimpleCell, nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell)
    },
    "nnx, of one's own": of_nnx(GatedNNX(nnx.Rngs(0)), beside=True, x=I),
}
one_example = pytest.mark.parametrize("theirs", EXAMPLES.values(), ids=EXAMPLES.keys())


@one_example
def test_a_cell_of_flax_has_the_rollouts_gradients_and_lag_gradients_of_flax(theirs):
    require_equal_to_theirs(theirs)


def test_every_cell_of_flax_is_among_the_examples():
    names = {f"linen {name}" for name in cells_in(nn, nn.RNNCellBase)}
    names |= {f"nnx {name}" for name in cells_in(nnx, nnx.RNNCellBase)}
    assert len(names) >= 10
    assert names <= EXAMPLES.keys()


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_a_drawn_start_is_that_of_the_library_the_same_for_every_seed_but_not_for_every_example(library):
    theirs = {
        "linen": lambda: of_linen(nn.SimpleCell(H, carry_init=nn.initializers.normal(), **F64)),
        "nnx": lambda: of_nnx(DrawnStartNNX(I, H, dtype=jnp.float64, **F64, **QUICK, rngs=nnx.Rngs(0))),
    }[library]()
    cell, xs = theirs.cell, random_array(1, (1, 2, I))

    @jax.jit
    def first_steps(params):
        start = cell.start(params, (2,))
        return start, cell.step(params, start, xs[0]), allowing(theirs.unroll)(params, xs)[0]

    (start, ours, unrolled), (again, *_) = first_steps(random_params(cell)), first_steps(random_params(cell, 7))
    chex.assert_trees_all_close(ours, unrolled, rtol=1e-12)
    assert (start == again).all()
    assert (start[0] != start[1]).all()


def stepwise(theirs):
    """A cell of one's own whose step is that of the library."""
    cell = theirs.cell
    if theirs.beside:
        step = lambda params, h, x: WithOutput(*allowing(theirs.step)(params, h.state, x))  # noqa: E731
        return cell_from_step(cell.init, cell.start, step, lambda params, h: h.output)
    return cell_from_step(cell.init, cell.start, lambda params, h, x: allowing(theirs.step)(params, h, x)[0])


def measured(cell, params, xs):
    """What instruments find of a cell."""
    h = cell.start(params)
    yield step_jacobian(cell, params, h, xs[0, 0]), leading_gain(cell, params, h, xs[0, 0])
    yield lyapunov_spectrum(cell, params, h, xs[:, 0], count=2, warmup=1, blocks=2).exponents


def wrapped(cell, params, xs):
    """What windows and wrappers make of a cell."""
    h, targets = cell.start(params, (2,)), jnp.ones((6, 2, H))
    loss = lambda ys, targets: jnp.sum((ys - targets) ** 2)  # noqa: E731
    yield jax.value_and_grad(lambda params: chunked(cell, params, h, xs, targets, loss, window=3), has_aux=True)(params)
    deep = learned_start(readout(stack(cell, vanilla(H, 2)), 2))
    weights = deep.init(jax.random.key(2))
    yield outputs(deep, weights, rollout(deep, weights, deep.start(weights, (2,)), xs)[1])
    both, twice = bidirectional(cell, cell), BothWays(params, params)
    yield both.apply(twice, both.start(twice, (2,)), xs)[1]


@pytest.mark.parametrize(
    ("name", "results"), [("linen GRUCell", measured), ("nnx, of one's own", measured), ("nnx, of one's own", wrapped)]
)
def test_instruments_and_wrappers_act_on_a_cell_of_flax_as_on_an_own_cell(name, results):
    theirs, xs = EXAMPLES[name], random_array(1, (6, 2, I))
    params = random_params(theirs.cell)
    cells = theirs.cell, stepwise(theirs)
    found, wanted = jax.jit(lambda params, xs: [list(results(cell, params, xs)) for cell in cells])(params, xs)
    chex.assert_trees_all_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_cuts_resets_and_lengths_act_on_a_cell_of_flax():
    cell = EXAMPLES["nnx, of one's own"].cell
    params, xs = random_params(cell), random_array(1, (6, 2, I))

    @jax.jit
    def reached(xs):
        def loss(xs, flags):
            return outputs(cell, params, rollout(cell, params, cell.start(params, (2,)), xs, **flags)[1])[-1].sum()

        all_flags = {"cuts": window_cuts(6, 3)}, {"resets": jnp.arange(6) == 4}, {"lengths": jnp.array([2, 1])}
        return [(jax.grad(loss)(xs, flags) != 0).any((1, 2)) for flags in all_flags]

    of_cuts, of_resets, of_lengths = (found.tolist() for found in reached(xs))
    assert of_cuts == [False] * 3 + [True] * 3
    assert of_resets == [False] * 4 + [True] * 2
    assert of_lengths == [True] * 2 + [False] * 4


def test_a_function_that_makes_a_module_of_nnx_draws_the_weights_of_its_key():
    make = lambda rngs: nnx.GRUCell(I, H, **F64, rngs=rngs)  # noqa: E731
    keys = jax.random.split(jax.random.key(1), 2)

    @jax.jit
    def drawn(keys):
        theirs = make(nnx.Rngs(keys[1])).dense_h.kernel[...]
        return jax.vmap(cell_from_flax(make).init)(keys)["dense_h"]["kernel"], theirs

    (first, second), theirs = drawn(keys)
    assert (second == theirs).all()
    assert (first != second).all()


def test_params_are_those_of_flax_before_and_after_its_module_has_changed():
    module = nnx.GRUCell(I, H, **F64, rngs=nnx.Rngs(0))
    cell = cell_from_flax(module)
    before = cell.init(jax.random.key(0))["dense_h"]["kernel"][...]
    module.dense_h.kernel[...] = 2 * before
    assert (cell.init(jax.random.key(1))["dense_h"]["kernel"][...] == before).all()
    x, h = jnp.ones(I), jnp.ones(H)
    assert (cell.step(nnx.state(module, nnx.Param), h, x) == allowing(module)(h, x)[0]).all()


def test_a_cell_computes_in_the_type_of_params_that_were_cast():
    cell = EXAMPLES["linen LSTMCell"].cell
    params = jax.eval_shape(lambda: jax.tree.map(lambda a: a.astype(jnp.float32), random_params(cell)))
    xs = jax.ShapeDtypeStruct((T, I), jnp.float32)
    _, hs = jax.eval_shape(lambda params, xs: rollout(cell, params, cell.start(params), xs), params, xs)
    assert {leaf.dtype for leaf in jax.tree.leaves(hs)} == {jnp.dtype("float32")}


def test_equal_modules_of_linen_give_one_cell_and_no_cell_is_compiled_twice():
    traced = []

    def tanh(x):
        traced.append(x)
        return jnp.tanh(x)

    cell = cell_from_flax(nn.SimpleCell(H, **F64), I)
    assert cell == cell_from_flax(nn.SimpleCell(H, **F64), I)
    assert repr(cell) == "linen_cell(module=SimpleCell(features=4, param_dtype=float64), x=float64[3])"
    of_nnx = nnx.SimpleCell(I, H, activation_fn=tanh, dtype=jnp.float64, **F64, **QUICK, rngs=nnx.Rngs(0))
    for module in (nn.SimpleCell(H, activation_fn=tanh, **F64), of_nnx):
        cell, counts = cell_from_flax(module, I), []
        params = random_params(cell)
        h0 = cell.start(params)
        for n in range(3):
            lag_gradients(cell, params, h0, jnp.full((2, I), float(n)), jnp.sum)
            counts.append(len(traced))
        assert 0 < counts[0] == counts[1] == counts[2]
        traced.clear()


def test_an_output_that_reads_more_than_the_new_state_is_kept_beside_it():
    kept, seen = EXAMPLES["nnx, of one's own"].cell, EXAMPLES["linen, of one's own"].cell
    assert isinstance(kept.start(random_params(kept), (2,)), WithOutput)
    assert {*seen.start(random_params(seen))} == {"h", "m"}


def test_the_output_of_a_new_state_is_traced_once_for_all_states():
    traced = []

    class Counted(LearnedLinen):
        def __call__(self, carry, x):
            traced.append(x.shape)
            return super().__call__(carry, x)

    cell = cell_from_flax(Counted(), I)
    params = random_params(cell)
    output = jax.eval_shape(cell.output, params, cell.start(params))
    assert output["y"].shape == (2,)
    traced.clear()
    for batch in ((2,), (3, 2)):
        assert jax.eval_shape(cell.output, params, cell.start(params, batch))["y"].shape == (*batch, 2)
    assert traced == []


def test_the_text_of_a_cell_names_its_module():
    assert "advance=GRUCell.advance" in repr(EXAMPLES["nnx GRUCell"].cell)


def test_a_module_that_is_made_may_hold_what_was_drawn_and_is_no_param():
    module = Reservoir(nnx.Rngs(3))
    cell = cell_from_flax(module, I)
    h, x = jnp.ones(H), jnp.ones(I)
    assert (cell.step(cell.init(jax.random.key(7)), h, x) == module(h, x)[0]).all()


DROPPING = GatedNNX(nnx.Rngs(0), rate=0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cell_from_flax(3), "module got int; want a recurrent cell of flax, or a function of rngs"),
        (lambda: cell_from_flax(gru(I, H)), "module got Cell; want a recurrent cell of flax"),
        (lambda: cell_from_flax(jnp.tanh), "module got tanh, which raised"),
        (lambda: cell_from_flax(lambda rngs: 3), "module got <lambda>, which makes int; want"),
        (lambda: cell_from_flax(nnx.GRUCell), "module got GRUCell, which raised TypeError"),
        (lambda: cell_from_flax(Reservoir, I), "module got Reservoir, whose fixed depends on the key but is no param"),
        (lambda: cell_from_flax(nn.Dense(H), I), "module got Dense; want a recurrent cell of flax"),
        (lambda: cell_from_flax(nn.RNN(nn.GRUCell(H)), I), "module got RNN; .*initialize_carry: its cell"),
        (lambda: cell_from_flax(nnx.RNN(nnx.GRUCell(I, H, rngs=nnx.Rngs(0)))), "module got RNN; .*: its cell"),
        (lambda: cell_from_flax(nn.GRUCell(H)), "x got None for GRUCell of linen; want one input: its size"),
        (lambda: cell_from_flax(nn.GRUCell(H), -1), "x got -1; want a positive integer"),
        (lambda: cell_from_flax(nn.GRUCell(H), "abc"), "x got 'abc'; want one input: its size"),
        (lambda: cell_from_flax(GatedNNX(nnx.Rngs(0))), "x got None; want one input"),
        (lambda: cell_from_flax(nnx.GRUCell(I, H, rngs=nnx.Rngs(0)), I + 1), "module got GRUCell, which raised"),
        (lambda: cell_from_flax(WithStatistics(), I), "module got WithStatistics, which has variables .* batch_stats"),
        (lambda: cell_from_flax(Narrow(), I), "which makes float64.. for a batch .2,.; want the batch axes"),
        (lambda: cell_from_flax(WithNoise(), I), "module got WithNoise, which raised"),
        (lambda: cell_from_flax(WithoutBatch(), I), "which makes float64.4. for a batch .2,.; want the batch axes"),
        (
            lambda: cell_from_flax(Growing(), I),
            "module got Growing, whose step makes float64.8. of the state float64.4.",
        ),
        (lambda: cell_from_flax(DROPPING, I), "GatedNNX, whose step changes its variable dropout.rngs.count; want"),
        (
            lambda: cell_from_flax(nn.SimpleCell(H, dtype=jnp.bfloat16), I),
            "whose step makes bfloat16.4. of .* float32.4.",
        ),
    ],
)
def test_what_is_no_recurrent_cell_of_flax_is_refused_in_one_line(call, message):
    require_one_line(call, message)


def test_dropout_that_is_switched_off_is_no_state():
    module = GatedNNX(nnx.Rngs(0), rate=0.5)
    module.eval()
    cell = cell_from_flax(module, I)
    params = jax.eval_shape(cell.init, jax.random.key(0))
    assert jax.eval_shape(cell.step, params, jax.eval_shape(cell.start, params), jnp.ones(I)).state.shape == (H,)


@pytest.mark.parametrize("name", ["linen GRUCell", "nnx GRUCell"])
def test_inputs_and_params_that_do_not_fit_a_cell_of_flax_are_refused_in_one_line(name):
    cell = EXAMPLES[name].cell
    params = random_params(cell)
    h = cell.start(params)
    require_one_line(
        lambda: rollout(cell, params, h, jnp.ones((T, I + 1))), "xs got float64.4. in a step; want float64.3."
    )
    require_one_line(lambda: rollout(cell, params, h, jnp.ones((T, I), int)), "xs got int64")
    require_one_line(lambda: rollout(cell, params, h, jnp.ones((T, I), complex)), "xs got complex128")
    require_one_line(lambda: rollout(cell, params, h, jnp.ones((T, 2, I))), "h0 got float64.4.")
    other = EXAMPLES[name.replace("GRU", "Simple")].cell
    other = random_params(other)
    for call in (lambda: rollout(cell, other, h, jnp.ones((T, I))), lambda: cell.step(other, h, jnp.ones(I))):
        require_one_line(call, "params got .*; want params of this cell")


@pytest.mark.parametrize("missing", ["flax.linen", "haiku", "equinox"])
def test_a_library_that_is_missing_is_named_with_its_package(missing, monkeypatch):
    from rnn_jax.interop import cell_from_equinox, cell_from_haiku

    monkeypatch.setitem(__import__("sys").modules, missing, None)
    call, package = {
        "flax.linen": (lambda: cell_from_flax(nn.GRUCell(H), I), "flax"),
        "haiku": (lambda: cell_from_haiku(lambda: None, I), "dm-haiku"),
        "equinox": (lambda: cell_from_equinox(None, I), "equinox"),
    }[missing]
    require_one_line(call, f"{missing} got no package {package}; want it: pip install {package}")
