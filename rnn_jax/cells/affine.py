"""The two products of every cell: with the input, and with the state."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from rnn_jax.machinery.checks import MisfitError
from rnn_jax.machinery.precision import is_half, widened
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.machinery.sharding import rows

__all__ = ["affine", "product", "project_input", "recurrent_product"]


class Dropped(NamedTuple):
    """A recurrent matrix that reads the state through a dropout mask: its product with h is (m ⊙ h) W_hh."""

    W_hh: Float[Array, "..."]
    mask: Float[Array, "*batch H"]

    __repr__ = repr_of_arrays


def affine(x: Float[Array, "*batch I"], W: Float[Array, "I O"], b: Float[Array, " O"]) -> Float[Array, "*batch O"]:
    """y = W x + b over the last axis; any leading axes are batch."""
    return add_bias(product(x, W), b)


def product(x: Float[Array, "*batch I"], W: Float[Array, "I O"]) -> Float[Array, "*batch O"]:
    """W x over the last axis. In fewer than 32 bits, it and its gradients, sums over the batch, are added up in 32.

    Not every device does so by itself.
    """
    return jnp.matmul(x, W, preferred_element_type=jnp.float32).astype(x.dtype) if is_half(x) else x @ W


def add_bias(y: Float[Array, "*batch O"], b: Float[Array, " O"]) -> Float[Array, "*batch O"]:
    """y + b; the gradient of b, a sum over the batch and other leading axes, is summed in at least 32 bits."""
    return y + broadcast_along(b, y.shape)


def broadcast_along(b: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """b broadcast to a shape; its gradient, a sum, is summed in at least 32 bits."""
    return jnp.broadcast_to(widened(b), shape).astype(b.dtype)


def masked_state(h: Float[Array, "..."], W_hh: Array | Dropped) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The factors of a recurrent product: ``(h, W_hh)``, or ``(m ⊙ h, W_hh)`` with a dropout mask.

    The mask acts only here: a gate that carries h_{t−1} over into h_t carries it without the mask.
    """
    if isinstance(W_hh, Dropped):
        return apply_mask("state_mask", W_hh.mask, h), W_hh.W_hh
    return h, W_hh


def apply_mask(name: str, mask: Float[Array, "..."], a: Float[Array, "..."]) -> Float[Array, "..."]:
    """mask ⊙ a, for a mask of the last axes of ``a``; a ValueError that begins with ``name`` where it does not fit."""
    if mask.ndim > a.ndim or mask.shape != a.shape[a.ndim - mask.ndim :]:
        raise ValueError(f"{name} got shape {mask.shape}; want the last axes of {a.shape}, such as ({a.shape[-1]},)")
    return a * jnp.broadcast_to(mask.astype(a.dtype), a.shape)


def recurrent_product(h: Float[Array, "*batch H"], W_hh: Array | Dropped) -> Float[Array, "*batch GH"]:
    """W_hh h_{t−1}, or W_hh (m ⊙ h_{t−1}) with a dropout mask."""
    masked, W_hh = masked_state(h, W_hh)
    return product(masked, W_hh)


def project_input(
    x: Num[Array, "..."], W_xh: Float[Array, "I O"], b_h: Float[Array, " O"], name: str = "W_xh"
) -> Float[Array, "... O"]:
    """u_t = W_xh x_t + b_h, where an integer x_t stands for the one-hot vector of that index.

    Args:
        x: ``(*batch, I)`` floating, or ``(*batch)`` integer ids below I. An id gathers a row of ``W_xh``, which equals
            the one-hot product exactly and costs O(1) in I; an id outside [0, I) gives NaN, never the row of another
            id.
        W_xh: ``(I, O)``.
        b_h: ``(O,)``.
        name: of the matrix in an error.

    Raises:
        ValueError: when the last axis of a floating x is not I.
    """
    return add_bias(rows_or_product(x, W_xh, name), b_h)


def rows_or_product(x: Num[Array, "..."], W: Float[Array, "I O"], name: str = "W_xh") -> Float[Array, "... O"]:
    """W x_t over the last axis, or the rows of W of integer ids; arguments and errors as in ``project_input``."""
    if jnp.issubdtype(x.dtype, jnp.integer):
        return rows(jnp.asarray(W), x)
    input_size = W.shape[0]
    if x.ndim == 0 or x.shape[-1] != input_size:
        raise MisfitError(
            f"xs got shape (T, {', '.join(map(str, x.shape))}); want {input_size} features on the last axis, as {name} "
            f"has: give xs (T, *batch, {input_size}), integer ids (T, *batch), or another input_size to the cell"
        )
    return product(x, W)
