"""Cell → Cell: functions that take a cell and return a cell."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from rnn_jax.cells.affine import affine
from rnn_jax.checks import require_positive
from rnn_jax.initializers import scaled_normal, zeros
from rnn_jax.types import Cell, Initializer, Params


class ReadoutParams(NamedTuple):
    """The weights of a cell and of the linear layer that reads it."""

    cell: Params
    W_hy: Float[Array, "H O"]
    b_y: Float[Array, " O"]


def readout(
    cell: Cell,
    output_size: int,
    *,
    weight_init: Initializer = scaled_normal(),
    bias_init: Initializer = zeros,
) -> Cell:
    """Reads a cell through a linear layer: y_t = W_hy h_t + b_y.

    The state and the recurrence stay those of ``cell``. As ``output`` works on any leading axes,
    ``outputs(cell, params, hs)`` reads a whole sequence in one product, outside the scan.

    Args:
        cell: whose output is one array ``(*batch, H)``.
        output_size: O, for example the vocabulary's size when y are the logits of the next letter.
        weight_init, bias_init: how ``W_hy (H, O)`` and ``b_y (O,)`` begin.

    Raises:
        ValueError: for an output_size below 1.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import lstm, outputs, readout, rollout
    >>> model = readout(lstm(input_size=4, hidden_size=8), output_size=4)
    >>> params = model.init(jax.random.key(0))
    >>> _, states = rollout(model, params, model.start(params), jnp.array([0, 1, 2, 2, 3]))
    >>> outputs(model, params, states).shape
    (5, 4)
    """
    require_positive(output_size=output_size)

    def init(key: PRNGKeyArray) -> ReadoutParams:
        k_cell, k_W, k_b = jax.random.split(key, 3)
        params = cell.init(k_cell)
        h = jax.eval_shape(lambda p: cell.output(p, cell.start(p)), params)
        return ReadoutParams(
            cell=params,
            W_hy=weight_init(k_W, (h.shape[-1], output_size), h.dtype),
            b_y=bias_init(k_b, (output_size,), h.dtype),
        )

    return Cell(
        init=init,
        start=lambda params, batch_shape=(): cell.start(params.cell, batch_shape),
        project=lambda params, x: cell.project(params.cell, x),
        advance=lambda params, h, u: cell.advance(params.cell, h, u),
        output=lambda params, h: affine(cell.output(params.cell, h), params.W_hy, params.b_y),
    )
