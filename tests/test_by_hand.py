"""Cells that no other library has, against numbers worked by hand: two steps, in fractions.

With pencil and paper. Whole multiples of ln 2 turn the nonlinearities into fractions,

    σ(k ln 2) = 2ᵏ / (2ᵏ + 1):                 k = −2 … 2 gives 1/5, 1/3, 1/2, 2/3, 4/5
    tanh(k ½ ln 2) = (2ᵏ − 1) / (2ᵏ + 1):      k =  1 … 4 gives 1/3, 3/5, 7/9, 15/17; tanh(−a) = −tanh(a)

so weights are whole numbers in units of ln 2, and of ½ ln 2 in the last block, which goes through tanh. Row j of W_hh
is in these units divided by h_1[j], the first state expected; h_0 = (2 h_1[0], −h_1[1]), x_1 = (1, 1), x_2 = (1, −1).
With the rows X₁, X₂ of W_xh and K₁, K₂ of W_hh, what goes into the nonlinearities is then

    step 1:  b + X₁ + X₂ + 2K₁ − K₂          step 2:  b + X₁ − X₂ + K₁ + K₂

Each test writes these whole numbers down where σ and tanh take them, σ(1, −1) = 2/3, 1/3, one unit beside the other.
"""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from rnn_jax import (
    antisymmetric,
    cells,
    cifg_lstm,
    clipped_lstm,
    cornn,
    ctrnn,
    indrnn,
    janet,
    layer_norm_lstm,
    mgu,
    peephole_lstm,
    projected_lstm,
    rollout,
    slstm,
    step_jacobian,
    ugrnn,
)
from rnn_jax.cells import LSTMState
from rnn_jax.schedules.driver import outputs
from rnn_jax.types import Cell, Params, State
from tests.oracles import checked

GATED = ["mgu", "ugrnn", "janet"]
LSTMS = ["cifg_lstm", "clipped_lstm", "peephole_lstm", "projected_lstm", "layer_norm_lstm", "slstm"]
TOLERANCE = {
    name: checked(name, "numbers worked by hand", "states and outputs of two steps, float64", 1e-12)
    for name in ["indrnn", "ctrnn", "antisymmetric", "cornn", *GATED, *LSTMS]
}

LN2 = np.log(2.0)
XS = np.array([[1.0, 1.0], [1.0, -1.0]])


def units(width: int) -> Array:
    """The unit of each column: ln 2, and ½ ln 2 for the last two, which go through tanh."""
    return LN2 * jnp.where(jnp.arange(width) < width - 2, 1.0, 0.5)


def weights(W_xh: Any, W_hh: Any, b_h: Any, h_1: Any) -> tuple[Array, Array, Array]:
    """Whole numbers in their units; row j of W_hh also divided by h_1[j]."""
    unit = np.asarray(units(len(b_h)))
    W_hh = np.array(W_hh) / np.array(h_1)[:, None]
    return jnp.asarray(W_xh * unit), jnp.asarray(W_hh * unit), jnp.asarray(b_h * unit)


def before(h_1: Any) -> Array:
    """h_0 = (2 h_1[0], −h_1[1])."""
    return jnp.array([2.0 * h_1[0], -h_1[1]])


def two_steps(cell: Cell, params: Params, start: State, xs: Any = XS) -> tuple[State, Any]:
    """The states after both steps, and what is seen of them."""
    _, hs = jax.jit(partial(rollout, cell))(params, start, jnp.asarray(xs))
    return hs, outputs(cell, params, hs)


def agree(tolerance: float, got: tuple[State, Any], wanted: State) -> None:
    """Every part of both states, one row a step, and outputs that are h."""
    wanted = jnp.array(wanted) if isinstance(wanted, list) else wanted
    chex.assert_trees_all_close(got, (wanted, getattr(wanted, "h", wanted)), rtol=0, atol=tolerance)


def test_indrnn_units_see_only_themselves():
    """Without logarithms, w_hh = (1/2, −1) and relu.

    u_1 = (−1 + 1 + 2, 1/2 + 1 − 2) = (2, −1/2)       u_2 = (−1 + 1 − 2, 1/2 + 1 + 2) = (−2, 7/2)
    h_1 = relu(1/2·2 + 2, −1·(−1) − 1/2) = (3, 1/2)
    h_2 = relu(1/2·3 − 2, −1·1/2 + 7/2) = (relu(−1/2), 3) = (0, 3)
    """
    W_xh, w_hh, b_h = jnp.array([[1.0, 1.0], [2.0, -2.0]]), jnp.array([0.5, -1.0]), jnp.array([-1.0, 0.5])
    got = two_steps(indrnn(2, 2), cells.IndRNNParams(W_xh, w_hh, b_h), jnp.array([2.0, -1.0]))
    agree(TOLERANCE["indrnn"], got, [[3, 1 / 2], [0, 3]])


def test_ctrnn_leaks_at_the_rate_dt_over_tau():
    """α = 1/4 and φ = tanh.

    step 1:  φ = tanh(2, 3) = 3/5, 7/9             h_0 = −3/5, −1/9
             h_1 = −3/4·3/5 + 1/4·3/5 = −3/10,     −3/4·1/9 + 1/4·7/9 = 1/9
    step 2:  φ = tanh(−1, −2) = −1/3, −3/5
             h_2 = −3/4·3/10 − 1/4·1/3 = −37/120,  3/4·1/9 − 1/4·3/5 = −1/15
    """
    h_1 = [-3 / 10, 1 / 9]
    params = cells.VanillaParams(*weights([[-2, 1], [-1, 2]], [[1, -1], [-2, -1]], [1, 1], h_1))
    got = two_steps(ctrnn(2, 2, tau=4.0, dt=1.0), params, before(h_1))
    agree(TOLERANCE["ctrnn"], got, [h_1, [-37 / 120, -1 / 15]])


def test_antisymmetric_turns_the_state_by_W_minus_its_transpose_and_damps_it():
    """ε = 1/2; W_hh and γ in units of 10/3 · ½ ln 2, in which 3/10 is 1: γ = 1, h_0 = (1, 2) and h_1 = (2, 1).

    h (W_hh − W_hhᵀ) = a (−h[1], h[0]) with a = W_hh[0, 1] − W_hh[1, 0] = 2; the diagonal does not matter.
    u_1 = (4 + 2 + 1, −1 − 3 + 2) = (7, −2)        u_2 = (4 + 2 − 1, −1 − 3 − 2) = (5, −6)
    step 1:  tanh(2·(−2) − 1 + 7, 2·1 − 2 − 2) = tanh(2, −2) = 3/5, −3/5
             h_1 = 3/10 + 1/2·3/5 = 6/10,          6/10 − 1/2·3/5 = 3/10
    step 2:  tanh(2·(−1) − 2 + 5, 2·2 − 1 − 6) = tanh(1, −3) = 1/3, −7/9
             h_2 = 6/10 + 1/2·1/3 = 23/30,         3/10 − 1/2·7/9 = −4/45
    """
    W_xh, W_hh, b_h = weights([[2, -3], [1, 2]], [[5, 1], [-1, 7]], [4, -1], [3 / 10, 3 / 10])
    cell = antisymmetric(2, 2, step_size=0.5, damping=10 / 3 * LN2 / 2)
    got = two_steps(cell, cells.VanillaParams(W_xh, W_hh, b_h), jnp.array([3 / 10, 6 / 10]))
    agree(TOLERANCE["antisymmetric"], got, [[6 / 10, 3 / 10], [23 / 30, -4 / 45]])


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_the_eigenvalues_of_an_antisymmetric_step_lie_on_the_line_re_1_or_left_of_it_by_at_most_its_damping(damping):
    """∂h_t/∂h_{t−1} = I + εD(A − γI), with A antisymmetric and D = diag(1 − tanh²) between 0 and 1.

    D(A − γI) has the eigenvalues of √D A √D − γD. For a unit vector v, Re v*(√D A √D − γD)v = −γ v*Dv, in [−γ, 0]. So
    Re λ is in [1 − εγ, 1], and without damping λ = 1 ± iεμ, of size √(1 + ε²μ²).
    """
    cell = antisymmetric(2, 4, step_size=0.1, damping=damping)
    *weights, h, x = (jnp.asarray(np.random.default_rng(0).normal(size=s)) for s in [(2, 4), (4, 4), 4, 4, 2])
    J = jax.jit(partial(step_jacobian, cell))(cells.VanillaParams(*weights), h, x)
    real = np.linalg.eigvals(J).real
    assert np.all(real > 1 - 0.1 * damping - 1e-12)
    assert np.all(real < 1) if damping else np.all(abs(real - 1) < 1e-12)


def test_cornn_moves_velocities_before_positions():
    """Δt = 1/2, stiffness γ = 2, damping ε = 1; row j of W_zh is in units of ½ ln 2 / z_1[j], and z_0 = (−1, 2) z_1.

    The rows Z₁, Z₂ of W_zh add −Z₁ + 2Z₂ = (5, −3) at step 1 and Z₁ + Z₂ = (1, 0) at step 2.
    step 1:  tanh(−3 + 5, 4 − 3) = tanh(2, 1) = 3/5, 1/3        h_0 = −3/5, 1/6     z_0 = −3/5, −4/3
             z_1 = −3/5 + 1/2 (3/5 + 2·3/5 + 3/5) = 3/5,        −4/3 + 1/2 (1/3 − 2·1/6 + 4/3) = −2/3
             h_1 = −3/5 + 1/2·3/5 = −3/10,                      1/6 − 1/2·2/3 = −1/6
    step 2:  tanh(−2 + 1, 2 + 0) = tanh(−1, 2) = −1/3, 3/5
             z_2 = 3/5 + 1/2 (−1/3 + 2·3/10 − 3/5) = 13/30,     −2/3 + 1/2 (3/5 + 2·1/6 + 2/3) = 2/15
             h_2 = −3/10 + 1/2·13/30 = −1/12,                   −1/6 + 1/2·2/15 = −1/10
    """
    h = jnp.array([[-3 / 10, -1 / 6], [-1 / 12, -1 / 10]])
    z = jnp.array([[3 / 5, -2 / 3], [13 / 30, 2 / 15]])
    W_xh, W_hh, b_h = weights([[-2, 3], [1, 3]], [[1, -2], [2, 1]], [-2, 3], h[0])
    _, W_zh, _ = weights([[0, 0]], [[-1, 1], [2, -1]], [0, 0], z[0])
    cell = cornn(2, 2, step_size=0.5, stiffness=2.0, damping=1.0)
    start, wanted = cells.CoRNNState(h=before(h[0]), z=z[0] * jnp.array([-1.0, 2.0])), cells.CoRNNState(h=h, z=z)
    agree(TOLERANCE["cornn"], two_steps(cell, cells.CoRNNParams(W_xh, W_hh, b_h, W_zh), start), wanted)


def test_mgu_forgets_and_resets_by_one_gate():
    """In n's block f scales the rows: 2f[0] K₁ − f[1] K₂ at step 1, f[0] K₁ + f[1] K₂ at step 2.

    step 1:  f = σ(−1, 2) = 1/3, 4/5               h_0 = −2/3, −2/5
             n = tanh(1 + 2·1/3·6 − 4/5·5, −4 + 2·1/3·3 + 4/5·5) = tanh(1, 2) = 1/3, 3/5
             h_1 = −2/3·2/3 + 1/3·1/3 = −1/3,      −1/5·2/5 + 4/5·3/5 = 2/5
    step 2:  f = σ(1, −2) = 2/3, 1/5
             n = tanh(−7 + 2/3·6 + 1/5·5, −2 + 2/3·3 − 1/5·5) = tanh(−2, −1) = −3/5, −1/3
             h_2 = −1/3·1/3 − 2/3·3/5 = −23/45,    4/5·2/5 − 1/5·1/3 = 19/75
    """
    h_1 = [-1 / 3, 2 / 5]
    #          f        n
    W_xh = [[-2, 1, -1, -2], [-1, 1, 4, -1]]
    W_hh = [[2, -2, 6, 3], [1, -2, 5, -5]]
    params = cells.MGUParams(*weights(W_xh, W_hh, [-1, 2, -2, -1], h_1))
    agree(TOLERANCE["mgu"], two_steps(mgu(2, 2), params, before(h_1)), [h_1, [-23 / 45, 19 / 75]])


def test_ugrnn_keeps_by_one_gate():
    """What is not kept is new.

    step 1:  z = σ(2, −1) = 4/5, 1/3    n = tanh(2, −1) = 3/5, −1/3     h_0 = −2/5, 1/6
             h_1 = −4/5·2/5 + 1/5·3/5 = −1/5,      1/3·1/6 − 2/3·1/3 = −1/6
    step 2:  z = σ(0, 1) = 1/2, 2/3     n = tanh(1, 2) = 1/3, 3/5
             h_2 = −1/2·1/5 + 1/2·1/3 = 1/15,      −2/3·1/6 + 1/3·3/5 = 4/45
    """
    h_1 = [-1 / 5, -1 / 6]
    #          z        n
    W_xh = [[-1, -2, 2, -2], [-1, -1, -1, -1]]
    W_hh = [[2, 2, -1, 1], [-1, 1, -2, 1]]
    params = cells.UGRNNParams(*weights(W_xh, W_hh, [-1, -1, 1, 1], h_1))
    agree(TOLERANCE["ugrnn"], two_steps(ugrnn(2, 2), params, before(h_1)), [h_1, [1 / 15, 4 / 45]])


def test_janet_writes_beta_more_than_it_forgets():
    """β = ln 2, which is 1 in units of ln 2, and 1 − σ(s − β) = σ(1 − s).

    step 1:  s = 1, −1     σ(s) = 2/3, 1/3     σ(1 − s) = σ(0, 2) = 1/2, 4/5     n = tanh(1, −1) = 1/3, −1/3
             h_0 = −1, 1/5       h_1 = −2/3 + 1/2·1/3 = −1/2,      1/3·1/5 − 4/5·1/3 = −1/5
    step 2:  s = 2, 0      σ(s) = 4/5, 1/2     σ(1 − s) = σ(−1, 1) = 1/3, 2/3    n = tanh(−2, 2) = −3/5, 3/5
             h_2 = −4/5·1/2 − 1/3·3/5 = −3/5,                      −1/2·1/5 + 2/3·3/5 = 3/10
    """
    h_1 = [-1 / 2, -1 / 5]
    #          f        n
    W_xh = [[2, 2, 2, -2], [1, -1, 1, -1]]
    W_hh = [[-1, -1, -1, 1], [1, -1, -1, 1]]
    params = cells.JANETParams(*weights(W_xh, W_hh, [1, -1, -1, 1], h_1))
    agree(TOLERANCE["janet"], two_steps(janet(2, 2, beta=float(LN2)), params, before(h_1)), [h_1, [-3 / 5, 3 / 10]])


def test_cifg_lstm_writes_what_it_forgets():
    """h_t = o ⊙ tanh(c_t) stays as it is: row j of W_hh is divided by it.

    step 1:  f = σ(1, −1) = 2/3, 1/3    o = σ(2, 0) = 4/5, 1/2      g = tanh(2, −1) = 3/5, −1/3
             c_0 = 1/2, 1        c_1 = 2/3·1/2 + 1/3·3/5 = 8/15,    1/3·1 − 2/3·1/3 = 1/9
    step 2:  f = σ(0, 2) = 1/2, 4/5     o = σ(−1, 1) = 1/3, 2/3     g = tanh(−2, 1) = −3/5, 1/3
             c_2 = 1/2·8/15 − 1/2·3/5 = −1/30,                      4/5·1/9 + 1/5·1/3 = 7/45
    """
    c = jnp.array([[8 / 15, 1 / 9], [-1 / 30, 7 / 45]])
    h = jnp.array([[4 / 5, 1 / 2], [1 / 3, 2 / 3]]) * jnp.tanh(c)
    #          f        o        g
    W_xh = [[-2, 1, -2, 1, -2, -2], [-2, 1, -1, -1, -1, 0]]
    W_hh = [[1, -1, 1, -1, 2, 2], [-2, 2, -2, -1, -2, 2]]
    params = cells.CIFGParams(*weights(W_xh, W_hh, [1, 1, 1, 1, -1, -1], h[0]))
    got = two_steps(cifg_lstm(2, 2), params, LSTMState(h=before(h[0]), c=jnp.array([1 / 2, 1.0])))
    agree(TOLERANCE["cifg_lstm"], got, LSTMState(h=h, c=c))


def test_clipped_lstm_carries_on_from_the_clipped_memory():
    """The memory is clipped to ±1/2.

    step 1:  i = σ(2, 0) = 4/5, 1/2     f = σ(1, −1) = 2/3, 1/3     o = σ(−1, 2) = 1/3, 4/5
             g = tanh(2, −1) = 3/5, −1/3        c_0 = 1/2, 1/4
             c_1 = clip(2/3·1/2 + 4/5·3/5 = 61/75) = 1/2,           1/3·1/4 − 1/2·1/3 = −1/12
    step 2:  i = σ(1, 2) = 2/3, 4/5     f = σ(2, 0) = 4/5, 1/2      o = σ(0, 1) = 1/2, 2/3
             g = tanh(−1, −2) = −1/3, −3/5
             c_2 = 4/5·1/2 − 2/3·1/3 = 8/45,                        clip(−1/2·1/12 − 4/5·3/5 = −313/600) = −1/2
    """
    c = jnp.array([[1 / 2, -1 / 12], [8 / 45, -1 / 2]])
    h = jnp.array([[1 / 3, 4 / 5], [1 / 2, 2 / 3]]) * jnp.tanh(c)
    #          i        f        o        g
    W_xh = [[1, 2, -2, -1, 2, -1, -2, -2], [-1, 1, 1, 1, -1, 1, 3, -1]]
    W_hh = [[1, -2, 1, -1, -1, 1, 1, 1], [-1, 1, 2, 1, -1, 1, 2, -1]]
    params = cells.LSTMParams(*weights(W_xh, W_hh, [-1, 2, 2, 2, -1, 1, 1, -1], h[0]))
    got = two_steps(clipped_lstm(2, 2, cell_clip=0.5), params, LSTMState(before(h[0]), jnp.array([1 / 2, 1 / 4])))
    agree(TOLERANCE["clipped_lstm"], got, LSTMState(h=h, c=c))


def test_peephole_lstm_shows_the_old_memory_to_i_and_f_and_the_new_one_to_o():
    """w_ch is in units of ln 2 / c_1, and c_0 = (2, −1) c_1, c_2 = (2, 3) c_1, which makes whole numbers.

    step 1:  i = σ(−3 + 2·1, −2 + 1·1) = σ(−1, −1) = 1/3, 1/3       f = σ(3 − 2·1, 0 − 1·2) = σ(1, −2) = 2/3, 1/5
             g = tanh(−1, 2) = −1/3, 3/5        c_0 = 2/3, −1/6
             c_1 = 2/3·2/3 − 1/3·1/3 = 1/3,                         −1/5·1/6 + 1/3·3/5 = 1/6
             o = σ(1 − 1, 1 + 1) = σ(0, 2) = 1/2, 4/5
    step 2:  i = σ(0 + 1, 1 − 1) = σ(1, 0) = 2/3, 1/2               f = σ(3 − 1, −1 + 2) = σ(2, 1) = 4/5, 2/3
             g = tanh(2, 3) = 3/5, 7/9
             c_2 = 4/5·1/3 + 2/3·3/5 = 2/3,                         2/3·1/6 + 1/2·7/9 = 1/2
             o = σ(1 − 2·1, −4 + 3·1) = σ(−1, −1) = 1/3, 1/3
    """
    c = jnp.array([[1 / 3, 1 / 6], [2 / 3, 1 / 2]])
    h = jnp.array([[1 / 2, 4 / 5], [1 / 3, 1 / 3]]) * jnp.tanh(c)
    #          i        f        o        g
    W_xh = [[-2, 2, -2, 2, -1, -2, -1, -1], [1, 0, 1, -1, 1, 1, -3, 0]]
    W_hh = [[-1, -1, 2, -1, 2, 1, 1, 1], [2, 1, 2, -2, 2, -1, -1, 1]]
    w_ch = LN2 * np.array([1, -1, -1, 2, -1, 1]) / np.tile(c[0], 3)
    W_xh, W_hh, b_h = weights(W_xh, W_hh, [2, -1, 2, -1, -1, -1, 0, 2], h[0])
    params = cells.PeepholeLSTMParams(W_xh, W_hh, b_h, jnp.asarray(w_ch))
    got = two_steps(peephole_lstm(2, 2), params, LSTMState(h=before(h[0]), c=before(c[0])))
    agree(TOLERANCE["peephole_lstm"], got, LSTMState(h=h, c=c))


def test_projected_lstm_clips_the_memory_and_then_the_projection():
    """The memory is clipped to ±2/5, and h = (2a[0] − 3a[1], a[0] + 2a[1]) to ±1/4, with a = o ⊙ tanh(c).

    step 1:  i = σ(1, 2) = 2/3, 4/5     f = σ(−1, 1) = 1/3, 2/3     o = σ(2, −1) = 4/5, 1/3
             g = tanh(1, 2) = 1/3, 3/5          c_0 = 1/2, 1/3
             c_1 = 1/3·1/2 + 2/3·1/3 = 7/18,                        clip(2/3·1/3 + 4/5·3/5 = 158/225) = 2/5
             h_1 = 8/5 tanh 7/18 − tanh 2/5 = 0.21…,                clip(4/5 tanh 7/18 + 2/3 tanh 2/5 = 0.54…) = 1/4
    step 2:  i = σ(0, −1) = 1/2, 1/3    f = σ(1, 0) = 2/3, 1/2      o = σ(1, 2) = 2/3, 4/5
             g = tanh(−2, −1) = −3/5, −1/3
             c_2 = 2/3·7/18 − 1/2·3/5 = −11/270,                    1/2·2/5 − 1/3·1/3 = 4/45
             h_2 = clip(−4/3 tanh 11/270 − 12/5 tanh 4/45 = −0.26…) = −1/4,   −2/3 tanh 11/270 + 8/5 tanh 4/45 = 0.11…
    """
    c = jnp.array([[7 / 18, 2 / 5], [-11 / 270, 4 / 45]])
    h_1 = [8 / 5 * jnp.tanh(7 / 18) - jnp.tanh(2 / 5), 1 / 4]
    h_2 = [-1 / 4, -2 / 3 * jnp.tanh(11 / 270) + 8 / 5 * jnp.tanh(4 / 45)]
    #          i        f        o        g
    W_xh = [[-2, -2, 2, 1, 1, -2, -1, -2], [-1, 2, -2, -1, 2, -1, -1, 2]]
    W_hh = [[1, 1, -2, -1, 1, 1, 1, 1], [-1, 1, -2, -2, 2, 1, -2, 1]]
    W_xh, W_hh, b_h = weights(W_xh, W_hh, [1, 1, 1, 1, -1, 1, -1, 1], h_1)
    params = cells.ProjectedLSTMParams(W_xh, W_hh, b_h, jnp.array([[2.0, 1.0], [-3.0, 2.0]]))
    cell = projected_lstm(2, 2, projection_size=2, projection_clip=0.25, cell_clip=0.4)
    got = two_steps(cell, params, LSTMState(h=before(h_1), c=jnp.array([1 / 2, 1 / 3])))
    agree(TOLERANCE["projected_lstm"], got, LSTMState(h=jnp.array([h_1, h_2]), c=c))


@pytest.mark.parametrize("epsilon", [1e-5, 0.01])
def test_layer_norm_lstm_normalises_all_gates_together_and_the_memory_in_its_output(epsilon):
    """W_xh and W_hh are in units of √ε, so that a variance of 80ε and ε make (9√ε)²; gains in units of 9/4.

    x_1 W_xh = (24, 24, 8, 8, 16, 16, 0, 0), less its mean 12: (12, 12, −4, −4, 4, 4, −12, −12), of mean square 80.
    Over 9 and times 9/4, LN = (3, 3, −1, −1, 1, 1, −3, −3) times the gain. In the same way, with h_0 = (2, −1/2) h_1,

             x:  step 1   3  3 −1 −1  1  1 −3 −3       h:  step 1   1 −1  3 −3  1 −1  3 −3
                 step 2   1  1  3  3 −3 −3 −1 −1           step 2   3 −3 −1  1  3 −3 −1  1

    Of the memory, LN(c) = ±r, r = 1/12 / √(1/144 + ε), for it is 1/12 from its mean; its gain is in units of 1/r.
    step 1:  i = σ(−1, −1) = 1/3, 1/3       f = σ(1, 0) = 2/3, 1/2      o = σ(0, 2) = 1/2, 4/5
             g = tanh(1, −2) = 1/3, −3/5    c_0 = −2/3, −3/5
             c_1 = −2/3·2/3 + 1/3·1/3 = −1/3,                       −1/2·3/5 − 1/3·3/5 = −1/2
             LN(c_1) = r, −r     h_1 = o tanh(2 + 1, −3 + 1) = 1/2·7/9 = 7/18,   −4/5·3/5 = −12/25
    step 2:  i = σ(0, −2) = 1/2, 1/5        f = σ(−1, 2) = 1/3, 4/5     o = σ(2, −1) = 4/5, 1/3
             g = tanh(−3, 1) = −7/9, 1/3
             c_2 = −1/3·1/3 − 1/2·7/9 = −1/2,                       −4/5·1/2 + 1/5·1/3 = −1/3
             LN(c_2) = −r, r     h_2 = o tanh(−2 + 1, 3 + 1) = −4/5·1/3 = −4/15,  1/3·15/17 = 5/17
    """
    c = jnp.array([[-1 / 3, -1 / 2], [-1 / 2, -1 / 3]])
    h = jnp.array([[7 / 18, -12 / 25], [-4 / 15, 5 / 17]])
    root, r = np.sqrt(epsilon), 1 / 12 / np.sqrt(1 / 144 + epsilon)
    unit = np.array(units(8))
    columns = {  # i     f        o     g
        "W_xh": root * np.array([[2, 2, 2, 2, 0, 0, 0, 0], [2, 2, 0, 0, 2, 2, 0, 0]]),
        "W_hh": root * np.array([[8, 0, 8, 0, 8, 0, 8, 0], [16, 0, 0, 16, 16, 0, 0, 16]]) / np.array(h[0])[:, None],
        "b_h": unit * np.array([5, 3, -3, 5, 4, 4, -7, 2]) / 2,
        "scale_x": unit * 9 / 4 * np.array([-2, -1, 1, -1, -2, 1, -2, 1]) / 2,
        "scale_h": unit * 9 / 4 * np.array([-1, 2, 2, 2, -2, 1, 1, 1]) / 2,
        "scale_c": unit[-2:] * np.array([2, 3]) / r,
        "shift_c": unit[-2:],
    }
    params = cells.LayerNormLSTMParams(**jax.tree.map(jnp.asarray, columns))
    start = LSTMState(h=h[0] * jnp.array([2.0, -1 / 2]), c=jnp.array([-2 / 3, -3 / 5]))
    got = two_steps(layer_norm_lstm(2, 2, epsilon=epsilon), params, start, jnp.array([[4.0, 8.0], [8.0, -4.0]]))
    agree(TOLERANCE["layer_norm_lstm"], got, LSTMState(h=h, c=c))


def test_slstm_gives_what_it_gives_without_a_stabiliser_whichever_gate_sets_it():
    """The input gate makes the stabiliser at step 1, and at step 2 in the first unit; the forget gate in the other.

    step 1:  e^ĩ = 2^(0, 2) = 1, 4      o = σ(1, −1) = 2/3, 1/3     g = tanh(2, −1) = 3/5, −1/3
             m_1 = ĩ = 0, ln 4     n_1 = 1, 1     c_1 = g     h_1 = o g = 2/5, −1/9
    step 2:  e^ĩ = 2^(1, 0) = 2, 1      σ(f̃) = σ(−1, 1) = 1/3, 2/3      o = σ(2, 1) = 4/5, 2/3
             g = tanh(−1, 2) = −1/3, 3/5       e^m_2 = max(1/3·1, 2) = 2,     max(2/3·4, 1) = 8/3
             i = 2/2 = 1,    1/(8/3) = 3/8     f = 1/3·1/2 = 1/6,             2/3·4/(8/3) = 1
             c_2 = 1/6·3/5 − 1/3 = −7/30,      −1/3 + 3/8·3/5 = −13/120
             n_2 = 1/6 + 1 = 7/6,              1 + 3/8 = 11/8
             h_2 = 4/5·(−7/30)/(7/6) = −4/25,  2/3·(−13/120)/(11/8) = −26/495
    Without stabiliser c_1/n_1 = g, and c_2/n_2 is the mean of g_1 and g_2 weighted by σ(f̃_2) e^ĩ_1 and e^ĩ_2:
             (1/3·3/5 − 2·1/3) / (1/3 + 2) = −1/5,          (−8/3·1/3 + 3/5) / (8/3 + 1) = −13/165, the same.
    """
    c, n = jnp.array([[3 / 5, -1 / 3], [-7 / 30, -13 / 120]]), jnp.array([[1.0, 1.0], [7 / 6, 11 / 8]])
    h, m = jnp.array([[2 / 5, -1 / 9], [-4 / 25, -26 / 495]]), jnp.log(jnp.array([[1, 4], [2, 8 / 3]]))
    #          i        f        o        g
    W_xh = [[2, -2, -2, -2, 1, 2, 1, -1], [1, -1, 0, -1, 1, 1, 1, 0]]
    W_hh = [[-1, 2, 1, 1, 1, -2, -1, 1], [1, -1, -1, 1, 2, 1, -1, 2]]
    params = cells.SLSTMParams(*weights(W_xh, W_hh, [0, 0, 1, 0, -1, 1, 1, 0], h[0]))
    cell = slstm(2, 2)
    got = two_steps(cell, params, cell.start(params)._replace(h=before(h[0])))
    agree(TOLERANCE["slstm"], got, cells.SLSTMState(h=h, c=c, n=n, m=m))


def test_slstm_is_the_same_under_input_gates_whose_exponentials_overflow():
    """A factor e^750 in every input gate is one in memory and normaliser alike: it stays in m, and cancels."""
    T, shift = 5, 750.0
    cell = slstm(2, 3)
    *weights, xs = (jnp.asarray(np.random.default_rng(0).normal(size=s)) for s in [(2, 12), (3, 12), 12, (T, 2)])
    params = cells.SLSTMParams(*weights)

    @jax.jit
    def run(extra: Array) -> cells.SLSTMState:
        louder = params._replace(b_h=params.b_h.at[:3].add(extra))
        return rollout(cell, louder, cell.start(params), xs)[1]

    assert jnp.isinf(jnp.exp(shift))
    quiet, loud = run(jnp.array(0.0)), run(jnp.array(shift))
    rounded = 4 * T * np.spacing(shift)  # exponents near 750 are rounded a few times a step
    chex.assert_trees_all_close(loud, quiet._replace(m=quiet.m + shift), rtol=0, atol=rounded)
