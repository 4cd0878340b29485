"""Common parts of the factories of cells: checks of sizes, initial weights gate by gate, a start of zeros."""

from collections.abc import Callable
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from rnn_jax.cells.affine import project_input
from rnn_jax.initializers import gate_weights, orthogonal, per_gate, scaled_normal, zeros
from rnn_jax.machinery.checks import in_one_line, require_batch_shape, require_dtype, require_positive
from rnn_jax.types import Cell, Initializer, Params, State

__all__ = ["Inits", "InputInits", "bind_cell"]


class InputInits(TypedDict, total=False):
    """Initialisers, gate by gate, of the weights that read the input."""

    input_init: Initializer
    """Of ``W_xh``; ``scaled_normal()`` by default. Use ``unit_normal()`` for ids."""
    bias_init: Initializer
    """Of ``b_h``; ``zeros`` by default."""
    dtype: DTypeLike
    """Of the params and the state; ``float`` by default."""


class Inits(InputInits, total=False):
    """Initialisers, gate by gate, of the weights that read the input and the state."""

    recurrent_init: Initializer
    """Of ``W_hh``; ``orthogonal()`` by default."""


def bind_cell(
    params_type: Callable[..., Params],
    advance: Callable[[Any, Any, Any], State],
    gates: int,
    input_size: int,
    hidden_size: int,
    *,
    input_init: Initializer = scaled_normal(),
    recurrent_init: Initializer = orthogonal(),
    bias_init: Initializer = zeros,
    dtype: DTypeLike = float,
) -> Cell:
    """A cell with the state ``(*batch, H)``, which is also its output, and u_t = W_xh x_t + b_h.

    Args:
        params_type: ``(W_xh (I, G·H), W_hh (H, G·H), b_h (G·H,)) -> params``.
        advance: the recurrence ``(params, h, u) -> h``.
        gates: G, blocks of the weights' last axis, each drawn separately.
        input_size, hidden_size: I and H.
        input_init, recurrent_init, bias_init, dtype: as in ``Inits``.

    Raises:
        ValueError: for a size below 1, or a dtype that is no floating type of 16 bits or more.
    """
    require_positive(input_size=input_size, hidden_size=hidden_size)
    require_dtype(dtype)

    def init(key: PRNGKeyArray) -> Params:
        inits = Inits(input_init=input_init, recurrent_init=recurrent_init, bias_init=bias_init, dtype=dtype)
        return params_type(*gate_weights(key, input_size, hidden_size, gates, **inits))

    def start(params: Params, batch_shape: tuple[int, ...] = ()) -> Float[Array, "*batch H"]:
        return zeros_before(params, batch_shape, hidden_size)

    return Cell(
        init=init,
        start=start,
        project=lambda params, x: project_input(x, params.W_xh, params.b_h),
        advance=advance,
        output=lambda params, h: h,
    )


def zeros_before(params: Params, batch_shape: tuple[int, ...], *sizes: int) -> Float[Array, "..."]:
    """A state of zeros ``(*batch, *sizes)`` before the first step, of the params' type.

    Raises:
        ValueError: for a batch_shape that is no tuple of sizes, or params without ``W_xh``.
    """
    require_batch_shape(batch_shape)
    if not hasattr(params, "W_xh"):
        raise ValueError(f"params got {in_one_line(params)}; want those of cell.init(key), which hold W_xh")
    return jnp.zeros((*batch_shape, *sizes), params.W_xh.dtype)


def bind_input(
    params_type: Callable[..., Params],
    gates: int,
    input_size: int,
    hidden_size: int,
    *,
    input_init: Initializer = scaled_normal(),
    bias_init: Initializer = zeros,
    dtype: DTypeLike = float,
) -> Cell:
    """``bind_cell`` without ``W_hh``: ``params_type(W_xh (I, G·H), b_h (G·H,))``, and without a recurrence."""
    cell = bind_cell(params_type, lambda params, h, u: h, gates, input_size, hidden_size, dtype=dtype)

    def init(key: PRNGKeyArray) -> Params:
        k_x, k_b = jax.random.split(key)
        width = gates * hidden_size
        return params_type(
            W_xh=per_gate(input_init, gates)(k_x, (input_size, width), dtype),
            b_h=per_gate(bias_init, gates)(k_b, (width,), dtype),
        )

    return cell._replace(init=init)
