"""Cells against outside truth: JAX's own LSTM reference and flax, in float64, outputs and gradients."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.experimental.rnn import lstm_ref

from rnn_jax import gru, initializers, lstm, outputs, rollout, vanilla
from rnn_jax.cells import GRUParams, LSTMParams, VanillaParams
from tests.oracles import checked

T, B, I, H = 7, 3, 5, 4
LSTM_REF = checked("lstm", "lstm_ref of JAX", "outputs, states and all gradients, float64", 1e-10)
FLAX = [checked(cell, "flax.linen", "outputs and all gradients, float64", 1e-10) for cell in ("vanilla", "gru", "lstm")]
random = initializers.scaled_normal()


def blocks(W, order):
    """Named gate blocks of the last axis."""
    return dict(zip(order, jnp.split(W, len(order), axis=-1), strict=True))


def join(W, order, wanted):
    """The same blocks in another gate order."""
    return jnp.concatenate([blocks(W, order)[gate] for gate in wanted], axis=-1)


def random_sequence():
    k_h, k_c, k_x = jax.random.split(jax.random.key(3), 3)
    return jax.random.normal(k_h, (B, H)), jax.random.normal(k_c, (B, H)), jax.random.normal(k_x, (T, B, I))


def test_lstm_equals_the_reference_of_jax_in_outputs_and_gradients():
    cell = lstm(I, H, bias_init=random)
    params = cell.init(jax.random.key(0))
    h0, c0, xs = random_sequence()
    state = cell.start(params, (B,))._replace(h=h0, c=c0)
    weigh = jax.random.normal(jax.random.key(4), (T, B, H))

    def ours(params: LSTMParams, state, xs):
        (h_T, c_T), hs = rollout(cell, params, state, xs)
        return jnp.sum(weigh * outputs(cell, params, hs)) + h_T.sum() + 2 * c_T.sum(), hs.h

    def theirs(params: LSTMParams, state, xs):  # gates i f g o, weights (4H, I), batch first, a second bias
        W_ih, W_hh, b = (join(W, "ifog", "ifgo").T for W in params)
        ys, h_T, c_T = lstm_ref(
            xs.transpose(1, 0, 2), state.h[None], state.c[None], {0: W_ih}, {0: W_hh}, {0: b}, {0: jnp.zeros_like(b)},
            jnp.full(B, T, jnp.int32), I, H, 1, 0.0, False,
        )  # fmt: skip
        ys = ys.transpose(1, 0, 2)
        return jnp.sum(weigh * ys) + h_T.sum() + 2 * c_T.sum(), ys

    run = {f: jax.value_and_grad(f, argnums=(0, 1, 2), has_aux=True)(params, state, xs) for f in (ours, theirs)}
    chex.assert_trees_all_close(run[ours], run[theirs], rtol=LSTM_REF, atol=LSTM_REF)


def flax_vanilla(params: VanillaParams):
    return nn.SimpleCell(H), {"i": {"kernel": params.W_xh, "bias": params.b_h}, "h": {"kernel": params.W_hh}}


def flax_gru(params: GRUParams):
    x, h, b = (blocks(W, "rzn") for W in params[:3])
    return nn.GRUCell(H), {
        **{f"i{gate}": {"kernel": x[gate], "bias": b[gate]} for gate in "rzn"},
        **{f"h{gate}": {"kernel": h[gate]} for gate in "rz"},
        "hn": {"kernel": h["n"], "bias": params.b_n},
    }


def flax_lstm(params: LSTMParams):
    x, h, b = (blocks(W, "ifog") for W in params)
    return nn.OptimizedLSTMCell(H), {
        **{f"i{gate}": {"kernel": x[gate]} for gate in "ifog"},
        **{f"h{gate}": {"kernel": h[gate], "bias": b[gate]} for gate in "ifog"},
    }


@pytest.mark.parametrize(
    ("cell", "to_flax"),
    [
        (vanilla(I, H, bias_init=random), flax_vanilla),
        (gru(I, H, bias_init=random), flax_gru),
        (lstm(I, H, bias_init=random), flax_lstm),
    ],
    ids=["vanilla", "gru reset after", "lstm"],
)
def test_cells_equal_those_of_flax_in_outputs_and_gradients(cell, to_flax):
    params = cell.init(jax.random.key(0))
    h0, c0, xs = random_sequence()
    is_lstm = to_flax is flax_lstm

    def ours(params, h0, c0, xs):
        state = cell.start(params, (B,))._replace(h=h0, c=c0) if is_lstm else h0
        ys = outputs(cell, params, rollout(cell, params, state, xs)[1])
        return jnp.sum(jnp.sin(ys)), ys

    def theirs(params, h0, c0, xs):
        flax_cell, weights = to_flax(params)
        carry, ys = (c0, h0) if is_lstm else h0, []
        with jax.numpy_rank_promotion("allow"):
            for x in xs:
                carry, y = flax_cell.apply({"params": weights}, carry, x)
                ys.append(y)
        return jnp.sum(jnp.sin(jnp.stack(ys))), jnp.stack(ys)

    run = {f: jax.value_and_grad(f, argnums=(0, 1, 2, 3), has_aux=True)(params, h0, c0, xs) for f in (ours, theirs)}
    chex.assert_trees_all_close(run[ours], run[theirs], rtol=FLAX[0], atol=FLAX[0])
