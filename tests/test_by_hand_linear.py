"""Cells that are linear in their state, against numbers worked by hand, and what their eigenvalues begin as.

As in ``test_by_hand``, gates are in units of ln 2: σ(k ln 2) = 2ᵏ / (2ᵏ + 1), 1/5, 1/3, 1/2, 2/3, 4/5 for k = −2 … 2.
With x_1 = (1, 1) and x_2 = (1, −1), what comes in is u_1 = b + X₁ + X₂ and u_2 = b + X₁ − X₂, X being the rows of W_xh.
"""

from functools import cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import (
    DiagonalSkipParams,
    ResidualState,
    cells,
    diagonal,
    diagonal_skip,
    lru,
    min_gru,
    min_lstm,
    rollout,
)
from rnn_jax.initializers import zeros
from rnn_jax.types import ComplexState
from tests.oracles import checked
from tests.test_by_hand import LN2, agree, two_steps

TOLERANCE = {
    name: checked(name, "numbers worked by hand", "states and outputs of two steps, float64", 1e-12)
    for name in ["min_gru", "min_lstm", "diagonal", "lru"]
}
SKIPPED = checked("diagonal_skip", "numbers worked by hand, of lru", "states and outputs of two steps, float64", 1e-12)
LINEAR = {"min_gru": min_gru(2, 3), "min_lstm": min_lstm(2, 3), "diagonal": diagonal(2, 3), "lru": lru(2, 3)}
R_MIN, R_MAX, MAX_PHASE = 0.5, 0.9, 1.5
WIDE = {  # many draws of λ in one cell
    "diagonal": diagonal(2, 1000, r_min=R_MIN, r_max=R_MAX),
    "lru": lru(2, 1000, output_size=1, r_min=R_MIN, r_max=R_MAX, max_phase=MAX_PHASE, readout_init=zeros),
}


def test_min_gru_forgets_what_it_writes():
    """Gates z n; n goes through nothing.

    step 1:  z = σ(1, −2) = 2/3, 1/5     n = 3, −1     h_0 = 1, 2
             h_1 = 1/3·1 + 2/3·3 = 7/3,            4/5·2 − 1/5·1 = 7/5
    step 2:  z = σ(−1, 0) = 1/3, 1/2     n = 1, 3
             h_2 = 2/3·7/3 + 1/3·1 = 17/9,         1/2·7/5 + 1/2·3 = 11/5
    """
    #                   z         n
    W_xh = np.array([[2, 1, -1, 2], [1, -1, 1, -2]])
    b_h = np.array([-2, -2, 3, -1])
    unit = np.array([LN2, LN2, 1, 1])
    params = cells.MinGRUParams(jnp.asarray(W_xh * unit), jnp.asarray(b_h * unit))
    got = two_steps(min_gru(2, 2), params, jnp.array([1.0, 2.0]))
    agree(TOLERANCE["min_gru"], got, [[7 / 3, 7 / 5], [17 / 9, 11 / 5]])


def test_min_lstm_shares_one_between_its_gates():
    """Gates f i n; n goes through nothing, f / (f + i) and i / (f + i) weigh.

    step 1:  f = σ(1, −1) = 2/3, 1/3     i = σ(0, 2) = 1/2, 4/5     n = 1, 2     h_0 = 2, −1
             2/3 / (2/3 + 1/2) = 4/7,              1/3 / (1/3 + 4/5) = 5/17
             h_1 = 4/7·2 + 3/7·1 = 11/7,           −5/17·1 + 12/17·2 = 19/17
    step 2:  f = σ(−1, 1) = 1/3, 2/3     i = σ(−2, 0) = 1/5, 1/2    n = −1, 4
             1/3 / (1/3 + 1/5) = 5/8,              2/3 / (2/3 + 1/2) = 4/7
             h_2 = 5/8·11/7 − 3/8·1 = 17/28,       4/7·19/17 + 3/7·4 = 40/17
    """
    #                   f        i        n
    W_xh = np.array([[2, -1, 1, -1, 3, 1], [1, -1, 1, 1, 1, -1]])
    b_h = np.array([-2, 1, -2, 2, -3, 2])
    unit = np.array([LN2, LN2, LN2, LN2, 1, 1])
    params = cells.MinLSTMParams(jnp.asarray(W_xh * unit), jnp.asarray(b_h * unit))
    got = two_steps(min_lstm(2, 2), params, jnp.array([2.0, -1.0]))
    agree(TOLERANCE["min_lstm"], got, [[11 / 7, 19 / 17], [17 / 28, 40 / 17]])


def test_diagonal_leaks_and_scales_its_input():
    """λ = 3/5, 5/13, so √(1 − λ²) = 4/5, 12/13; u_1 = (1, 3), u_2 = (3, −1) and h_0 = (1, −2).

    h_1 = 3/5·1 + 4/5·1 = 7/5,             −5/13·2 + 12/13·3 = 2
    h_2 = 3/5·7/5 + 4/5·3 = 81/25,         5/13·2 − 12/13·1 = −2/13
    """
    params = cells.DiagonalParams(
        W_xh=jnp.array([[1.0, 2.0], [-1.0, 2.0]]),
        b_h=jnp.array([1.0, -1.0]),
        log_nu=jnp.asarray(np.log(np.log([5 / 3, 13 / 5]))),  # λ = exp(−exp(log ν))
    )
    got = two_steps(diagonal(2, 2), params, jnp.array([1.0, -2.0]))
    agree(TOLERANCE["diagonal"], got, [[7 / 5, 2], [81 / 25, -2 / 13]])


def test_lru_turns_shrinks_and_reads_its_state_in_complex_numbers():
    """|λ| = 1/2, arg λ = π/2 and arctan 4/3: λ = i/2, (3 + 4i)/10; γ = 3/2, 1/2; no bias.

    B x_1 = 2 + i − i, 1 − i + 1 + 3i = 2, 2 + 2i              B x_2 = 2 + i + i, 1 − i − 1 − 3i = 2 + 2i, −4i
    h_0 = 1 + i, 2 − i
    h_1 = (−1 + i)/2 + 3 = 5/2 + i/2,                          (10 + 5i)/10 + 1 + i = 2 + 3i/2
    h_2 = (−1 + 5i)/4 + 3 + 3i = 11/4 + 17i/4,                 25i/20 − 2i = −3i/4
    C = (1 − i, 2), (i, 1 + i), one row a unit:
    y_1 = Re((1 − i)(5 + i)/2 + i(2 + 3i/2)) = 3 − 3/2 = 3/2,  Re(5 + i + (1 + i)(2 + 3i/2)) = 5 + 1/2 = 11/2
    y_2 = Re((1 − i)(11 + 17i)/4 + 3/4) = 7 + 3/4 = 31/4,      Re((11 + 17i)/2 − (1 + i)3i/4) = 11/2 + 3/4 = 25/4
    """
    params = cells.LRUParams(
        W_xh=jnp.array([[2.0, 1.0, 1.0, -1.0], [0.0, 1.0, -1.0, 3.0]]),  # real parts, imaginary parts
        log_nu=jnp.asarray(np.log([LN2, LN2])),
        log_theta=jnp.asarray(np.log([np.pi / 2, np.arctan(4 / 3)])),
        log_gamma=jnp.asarray(np.log([3 / 2, 1 / 2])),
        C_re=jnp.array([[1.0, 2.0], [0.0, 1.0]]),
        C_im=jnp.array([[-1.0, 0.0], [1.0, 1.0]]),
    )
    h_0 = ComplexState(jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0]))
    h = ComplexState(jnp.array([[5 / 2, 2], [11 / 4, 0]]), jnp.array([[1 / 2, 3 / 2], [17 / 4, -3 / 4]]))
    y = jnp.array([[3 / 2, 11 / 2], [31 / 4, 25 / 4]])
    got = two_steps(lru(2, 2, output_size=2), params, h_0)
    chex.assert_trees_all_close(got, (h, y), rtol=0, atol=TOLERANCE["lru"])

    D = jnp.array([2.0, -3.0])  # D ⊙ x_1 = (2, −3), D ⊙ x_2 = (2, 3)
    state = ResidualState(h_0, jnp.zeros(2))
    states, ys = two_steps(diagonal_skip(lru(2, 2, output_size=2)), DiagonalSkipParams(params, D), state)
    chex.assert_trees_all_close(states.cell, h, rtol=0, atol=SKIPPED)
    np.testing.assert_allclose(ys, [[7 / 2, 5 / 2], [39 / 4, 37 / 4]], rtol=0, atol=SKIPPED)


def as_complex(a: Any) -> np.ndarray:
    """One array of numbers, complex where there are two parts."""
    return np.asarray(a.re) + 1j * np.asarray(a.im) if isinstance(a, ComplexState) else np.asarray(a)


@pytest.mark.parametrize("name", LINEAR)
def test_coefficients_are_those_of_the_step(name):
    """h_t = a ⊙ h_{t−1} + b, for a batch."""
    cell, random = LINEAR[name], np.random.default_rng(0)
    assert cell.coefficients
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    params, h, x = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(size=leaf.shape)),
        (shapes, jax.eval_shape(lambda params: cell.start(params, (5,)), shapes), jnp.zeros((5, 2))),
    )
    u = cell.project(params, x)
    a, b = map(as_complex, cell.coefficients(params, u))
    assert a.shape == b.shape == (5, 3)
    after = as_complex(cell.advance(params, h, u))
    np.testing.assert_allclose(after, a * as_complex(h) + b, rtol=0, atol=TOLERANCE[name])


@cache
def fresh(name: str) -> Any:
    """Params as they begin."""
    return jax.jit(WIDE[name].init)(jax.random.key(0))


def eigenvalues(name: str) -> np.ndarray:
    """λ of every unit."""
    params = fresh(name)
    return np.exp(-np.exp(params.log_nu) + (1j * np.exp(params.log_theta) if name == "lru" else 0))


def came_in(name: str, x: Any) -> np.ndarray:
    """|B x|² of every unit."""
    parts = np.asarray(x) @ np.array(fresh(name).W_xh)
    return (parts.reshape(-1, 1000) ** 2).sum(0)


def states(name: str, xs: np.ndarray) -> np.ndarray:
    """|h_t|² of every unit under xs."""
    cell, params = WIDE[name], fresh(name)
    _, hs = jax.jit(partial(rollout, cell))(params, cell.start(params, xs.shape[1:-1]), jnp.asarray(xs))
    return abs(as_complex(hs)) ** 2


def is_even(values: np.ndarray, low: float, high: float) -> bool:
    """Whether values are as uniform on [low, high] as draws are: Kolmogorov and Smirnov refuse 5 in 100 000."""
    inside = low - 1e-12 <= values.min() <= values.max() <= high + 1e-12
    off = (np.sort(values) - low) / (high - low) - np.linspace(0, 1, values.size)
    return bool(inside and abs(off).max() < 2.3 / np.sqrt(values.size))


@pytest.mark.parametrize("name", WIDE)
def test_eigenvalues_begin_evenly_spread_over_the_ring(name):
    """|λ|² is uniform between r_min² and r_max², and arg λ between 0 and max_phase; a diagonal cell's is 0."""
    assert is_even(abs(eigenvalues(name)) ** 2, R_MIN**2, R_MAX**2)
    assert name == "diagonal" or is_even(np.angle(eigenvalues(name)), 0, MAX_PHASE)


@pytest.mark.parametrize("name", WIDE)
def test_an_impulse_leaves_as_much_energy_in_every_unit_as_came_in(name):
    """Σ_t |γ λᵗ B x|² = |B x|² γ² (1 − |λ|^2T) / (1 − |λ|²) = |B x|² (1 − |λ|^2T), because γ² = 1 − |λ|²."""
    T, x = 40, [1.0, -2.0]
    wanted = came_in(name, x) * (1 - abs(eigenvalues(name)) ** (2 * T))
    np.testing.assert_allclose(states(name, np.outer(np.eye(T)[0], x)).sum(0), wanted, rtol=1e-12)


@pytest.mark.parametrize("name", WIDE)
def test_white_input_of_variance_1_gives_every_fresh_unit_variance_1(name):
    """Over 200 inputs and the units' own draws of B, after 60 steps, within 4 standard errors."""
    B = came_in(name, [1.0, 0.0]) + came_in(name, [0.0, 1.0])  # |B|², of mean 1
    assert abs(B.mean() - 1) < 4 * B.std() / np.sqrt(B.size)
    last = (states(name, np.random.default_rng(0).normal(size=(60, 200, 2)))[-1] / B).mean(-1)
    assert abs(last.mean() - 1) < 4 * last.std() / np.sqrt(last.size)
