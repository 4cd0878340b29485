"""Gradients computed forward in time: the influence of the params on the state is carried along with the state.

With the influence matrix M_t = dstate_t/dparams and the Jacobians of one step J_t = ∂state_t/∂state_{t−1} and
D_t = ∂state_t/∂params,

    M_t = J_t M_{t−1} + D_t
    dL/dparams = Σ_t ∂L_t/∂params + (∂L_t/∂state_t)ᵀ M_t.

The first term is that of the output's own weights. No state is kept: memory does not grow with T. The estimators
differ in how much of M_t they keep. S and P are the numbers of the state and of the params.

=============  ==================================  ======================
estimator      M_t of an example                   gradient
=============  ==================================  ======================
rtrl           (S, P)                              exact
snap           its entries within n steps          biased, less with n
rtrl_diagonal  at most two numbers for each param  exact, diagonal cells
uoro           one column and one row              unbiased, with a large variance
=============  ==================================  ======================

The arguments of all are those of ``estimators``.
"""

from functools import partial

from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnn_jax.gradients.online import (
    forward_gradient,
    influence_on_own_unit,
    influence_within,
    rank_one_influence,
    whole_influence,
)
from rnn_jax.gradients.windows import Loss
from rnn_jax.keys import one_key
from rnn_jax.machinery.checks import in_one_line, require_positive
from rnn_jax.types import Cell, Params, State, require_cell

__all__ = ["rtrl", "rtrl_diagonal", "snap", "uoro"]


def rtrl(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    *,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, ""], Params]:
    """The loss and its exact gradient by real-time recurrent learning, for any cell.

    It costs S products of J and a row of M a step, S² P in all, and keeps S·P numbers for each example.

    Args:
        cell, params, h0, xs, targets, loss, key: as in ``bptt``; the loss of one step is ``loss(y[None],
            target[None])``.

    Returns:
        ``(loss, gradient)``, as ``bptt``.

    Raises:
        ValueError: as ``bptt``, and for a state that is not floating.

    Example: with x_t = w·x_{t−1}, w = 0.2 and x_0 = 0.9, dx_3/dw = 3 w² x_0 = 0.108.

    >>> import jax.numpy as jnp
    >>> from rnn_jax import cell_from_step
    >>> from rnn_jax.gradients.influence import rtrl
    >>> power = cell_from_step(lambda key: 0.2, lambda w, batch_shape=(): jnp.full((*batch_shape, 1), 0.9),
    ...                        lambda w, x, u: w * x)
    >>> u, is_last, w = jnp.zeros((3, 1)), jnp.array([0.0, 0.0, 1.0]), jnp.asarray(0.2)
    >>> value, gradient = rtrl(power, w, power.start(w), u, is_last, lambda xs, of: xs[:, 0] @ of)
    >>> print(f"{value:.4f} {gradient:.3f}")
    0.0072 0.108

    Reference: Williams, Zipser. A learning algorithm for continually running fully recurrent neural networks. 1989.
    """
    return forward_gradient(cell, params, h0, xs, targets, loss, whole_influence)


def snap(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    *,
    order: int = 1,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, ""], Params]:
    """The loss and the SnAp-n estimate of its gradient: RTRL with a sparse influence matrix.

    Of M only those entries are kept through which a param acts on a number of the state within n steps; the others
    stay zero. SnAp-1 of a vanilla network keeps one entry for each param, its action on its own unit; SnAp-2 of a
    dense network keeps all, which is RTRL. The entries are found in Jacobians at random params, states and inputs,
    when the call is compiled, with the comparisons of a step either way: a ReLU counts as on, wherever its threshold
    is. An entry that differs from zero in a small region alone may be missed where no comparison limits the region.

    If a param has at most K kept entries, and K² is at most S, only these are stored and computed: K·P numbers for
    each example, and K²·P products a step. For a dense cell all of J is computed besides, by S backward passes of a
    step. Else M is stored as a whole, at the cost of RTRL: so it is for a ``stack``, in which a param of one layer acts
    on all units of the next within one step.

    Args:
        cell, params, h0, xs, targets, loss, key: as in ``rtrl``.
        order: n, the number of steps.

    Returns:
        ``(loss, gradient)``, as ``bptt``; the gradient is biased.

    Raises:
        ValueError: as ``rtrl``, for an order below 1, and for a cell that reads traced arrays.

    Example: for a diagonal recurrence SnAp-1 is exact. That of a vanilla network differs from the gradient.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import diagonal, vanilla
    >>> from rnn_jax.gradients.influence import rtrl, snap
    >>> squares, xs = lambda ys, _: jnp.sum(ys**2), jnp.ones((5, 2))
    >>> for cell in (diagonal(2, 3), vanilla(2, 3)):
    ...     params = cell.init(jax.random.key(0))
    ...     _, estimate = snap(cell, params, cell.start(params), xs, (), squares, order=1)
    ...     _, gradient = rtrl(cell, params, cell.start(params), xs, (), squares)
    ...     print(bool(jnp.allclose(estimate.W_xh, gradient.W_xh)))
    True
    False

    Reference: Menick, Elsen, Evci, Osindero, Simonyan, Graves. Practical real time recurrent learning with a sparse
    approximation. 2020.
    """
    require_positive(order=order)
    return forward_gradient(cell, params, h0, xs, targets, loss, partial(influence_within, order=int(order)))


def rtrl_diagonal(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    *,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, ""], Params]:
    """The loss and its exact gradient, forward in time at O(P), for a cell h_t = a_t ⊙ h_{t−1} + b_t.

    If each param acts on one unit alone, M has one entry e for each param (a complex one for a complex unit):
    e_t = a_t e_{t−1} + d_t, where a_t and d_t are those of the param's unit. Memory is that of the gradient, for each
    example; a step costs as much as a step of back-propagation. The unit of each param is found as in ``snap``: the
    gradient is exact unless an entry that differs from zero in a small region alone was missed.

    Args:
        cell: with ``coefficients``, such as ``diagonal``, ``lru``, ``min_gru`` or ``min_lstm``, alone or in
            ``readout``, ``residual``, ``learned_start`` or ``mixed_precision``.
        params, h0, xs, targets, loss, key: as in ``rtrl``.

    Returns:
        ``(loss, gradient)``, as ``bptt``.

    Raises:
        ValueError: as ``rtrl``, for a cell without coefficients or that reads traced arrays, and for one in which a
            param acts on several units, as in ``dense_input``.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import min_gru
    >>> from rnn_jax.gradients.influence import rtrl, rtrl_diagonal
    >>> cell = min_gru(input_size=2, hidden_size=3)
    >>> params = cell.init(jax.random.key(0))
    >>> sequence = params, cell.start(params), jnp.ones((5, 2)), (), lambda ys, _: jnp.sum(ys**2)
    >>> _, gradient = rtrl_diagonal(cell, *sequence)
    >>> bool(jnp.allclose(gradient.W_xh, rtrl(cell, *sequence)[1].W_xh))
    True

    Reference: Mozer. A focused backpropagation algorithm for temporal pattern recognition. 1989; Zucchet, Meier, Schug,
    Mujika, Sacramento. Online learning of long-range dependencies. 2023.
    """
    require_cell("cell", cell)
    if cell.coefficients is None:
        raise ValueError(
            f"cell got {in_one_line(cell)}; want a cell with coefficients, h_t = a ⊙ h_(t−1) + b, such as lru(3, 4): "
            "rtrl takes any cell"
        )
    return forward_gradient(cell, params, h0, xs, targets, loss, influence_on_own_unit)


def uoro(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    targets: PyTree,
    loss: Loss,
    *,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Params]:
    """The loss and the UORO estimate of its gradient: unbiased online recurrent optimization.

    M_t is replaced by a product s̃_t θ̃_tᵀ of one column and one row, whose expectation it is. With random signs ν,

        s̃_t = ρ_0 J_t s̃_{t−1} + ρ_1 ν
        θ̃_t = θ̃_{t−1} / ρ_0 + D_tᵀ ν / ρ_1
        ρ_0 = √(‖θ̃_{t−1}‖ / ‖J_t s̃_{t−1}‖),  ρ_1 = √(‖D_tᵀ ν‖ / ‖ν‖).

    ρ_0 and ρ_1 make the variance least. Where J_t s̃_{t−1} or θ̃_{t−1} is zero, both are left out, as their product
    is; so are ν and D_tᵀ ν. It costs as much as back-propagation and keeps S + P numbers for each example.

    Args:
        cell, params, h0, xs, targets, loss: as in ``rtrl``.
        key: of the signs, which are independent for each example.

    Returns:
        ``(loss, gradient)``, as ``bptt``; the expectation of the gradient over keys is the exact one.

    Raises:
        ValueError: as ``rtrl``, and for anything but one key.

    Example: the mean of 1000 estimates is near 0.108, the gradient of x_3 in the example of ``rtrl``.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import cell_from_step
    >>> from rnn_jax.gradients.influence import uoro
    >>> power = cell_from_step(lambda key: 0.2, lambda w, batch_shape=(): jnp.full((*batch_shape, 1), 0.9),
    ...                        lambda w, x, u: w * x)
    >>> u, is_last, w = jnp.zeros((3, 1)), jnp.array([0.0, 0.0, 1.0]), jnp.asarray(0.2)
    >>> def estimate(key):
    ...     return uoro(power, w, power.start(w), u, is_last, lambda xs, of: xs[:, 0] @ of, key=key)[1]
    >>> print(jax.vmap(estimate)(jax.random.split(jax.random.key(0), 1000)).mean().round(2))
    0.11

    Reference: Tallec, Ollivier. Unbiased online recurrent optimization. 2018.
    """
    return forward_gradient(cell, params, h0, xs, targets, loss, rank_one_influence, key=one_key(key))
