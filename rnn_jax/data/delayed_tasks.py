"""Tasks that recall inputs of some steps before: numbers, symbols, the XOR of bits; other tasks are in ``tasks``."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PRNGKeyArray, Shaped

from rnn_jax.keys import one_key
from rnn_jax.machinery.checks import in_one_line, is_whole, require_dtype, require_positive
from rnn_jax.machinery.compiling import compiled

__all__ = [
    "DELAYED_RECALL_BASELINE",
    "DELAYED_XOR_BASELINE",
    "DelayedRecall",
    "DelayedSymbols",
    "DelayedXor",
    "delayed_recall",
    "delayed_symbols",
    "delayed_symbols_baseline",
    "delayed_xor",
]

DELAYED_RECALL_BASELINE = 1.0
"""The mean squared error of the best guess without memory, 0, in ``delayed_recall``: the variance of the noise.

The input of a step is independent of its target. The mean is over the unmasked steps."""

DELAYED_XOR_BASELINE = math.log(2)
"""The best cross-entropy without memory in ``delayed_xor``, in nats an unmasked step: ln 2.

The target is the XOR with a bit of an earlier step, which is 0 or 1 at even odds, whatever the input of this step."""


class DelayedRecall(NamedTuple):
    """Sequences of white noise, and the same noise some steps later."""

    xs: Float[Array, "T B 1"]
    """The noise."""
    targets: Float[Array, "T B 1"]
    """The input of ``delay`` steps before; 0 where there is none."""
    mask: Bool[Array, "T B"]
    """The steps that have a target, from step ``delay`` on."""


@compiled("T", "batch_size", "delay", "noise", "dtype")
def delayed_recall(
    key: PRNGKeyArray,
    T: int,
    batch_size: int,
    *,
    delay: int,
    noise: Literal["normal", "uniform", "sign"] = "normal",
    dtype: DTypeLike = float,
) -> DelayedRecall:
    """White noise of variance 1; the target of a step is the input of ``delay`` steps before.

    A network has to hold the last ``delay`` inputs at once. The best guess without memory is 0, with a mean squared
    error of ``DELAYED_RECALL_BASELINE`` 1; the floor is 0.

    Args:
        key: of the random numbers.
        T: steps.
        batch_size: B.
        delay: steps between an input and its recall, in [1, T).
        noise: ``"normal"``, N(0, 1); ``"uniform"``, in [−√3, √3); or ``"sign"``, −1 or 1 at even odds.
        dtype: of the numbers, floating.

    Returns:
        ``xs (T, B, 1)``, ``targets (T, B, 1)`` and ``mask (T, B)``.

    Raises:
        ValueError: for a size below 1, a delay outside [1, T), another noise, or a dtype that is not floating.

    >>> xs, targets, mask = delayed_recall(jax.random.key(0), T=6, batch_size=1, delay=2, noise="sign")
    >>> xs[:, 0, 0].tolist(), targets[:, 0, 0].tolist()
    ([1.0, 1.0, -1.0, -1.0, -1.0, 1.0], [0.0, 0.0, 1.0, 1.0, -1.0, -1.0])

    Reference: Jaeger. Short term memory in echo state networks. 2001.
    """
    require_delay(T, batch_size, delay)
    require_dtype(dtype)
    shape = (int(T), int(batch_size), 1)
    if noise == "normal":
        xs = jax.random.normal(one_key(key), shape, dtype)
    elif noise == "uniform":
        xs = jax.random.uniform(one_key(key), shape, dtype, -math.sqrt(3), math.sqrt(3))
    elif noise == "sign":
        xs = jax.random.rademacher(one_key(key), shape, jnp.int32).astype(dtype)
    else:
        raise ValueError(f"noise got {in_one_line(noise)}; want normal, uniform or sign")
    return DelayedRecall(xs, delayed(xs, int(delay)), mask_after(int(delay), xs))


class DelayedSymbols(NamedTuple):
    """Sequences of random symbols, and the same symbols some steps later."""

    xs: Int[Array, "T B"]
    """Ids in [0, S)."""
    targets: Int[Array, "T B"]
    """The id of ``delay`` steps before; 0 where there is none."""
    mask: Bool[Array, "T B"]
    """The steps that have a target, from step ``delay`` on."""


@compiled("T", "batch_size", "delay", "symbols")
def delayed_symbols(key: PRNGKeyArray, T: int, batch_size: int, *, delay: int, symbols: int = 8) -> DelayedSymbols:
    """Random symbols; the target of a step is the symbol of ``delay`` steps before. ``delayed_recall`` with ids.

    Args:
        key, T, batch_size, delay: as in ``delayed_recall``.
        symbols: S, different symbols, all alike.

    Returns:
        ``xs``, ``targets`` and ``mask``, each ``(T, B)``. The cross-entropy without memory is
        ``delayed_symbols_baseline``, the floor is 0.

    Raises:
        ValueError: for a size below 1, or a delay outside [1, T).

    >>> xs, targets, mask = delayed_symbols(jax.random.key(0), T=6, batch_size=1, delay=2)
    >>> xs[:, 0].tolist(), targets[:, 0].tolist()
    ([5, 0, 0, 5, 3, 3], [0, 0, 5, 0, 0, 5])

    Reference: Jaeger. Short term memory in echo state networks. 2001.
    """
    require_delay(T, batch_size, delay)
    require_positive(symbols=symbols)
    xs = jax.random.randint(one_key(key), (int(T), int(batch_size)), 0, int(symbols), jnp.int32)
    return DelayedSymbols(xs, delayed(xs, int(delay)), mask_after(int(delay), xs))


def delayed_symbols_baseline(symbols: int = 8) -> float:
    """The best cross-entropy without memory in ``delayed_symbols``, in nats an unmasked step: ln S.

    The symbol of a step is independent of its target, whose S values are all alike.

    >>> round(delayed_symbols_baseline(8), 4)
    2.0794
    """
    require_positive(symbols=symbols)
    return math.log(symbols)


class DelayedXor(NamedTuple):
    """Sequences of the delayed XOR task."""

    xs: Float[Array, "T B 1"]
    """Bits, 0 or 1."""
    targets: Float[Array, "T B 1"]
    """The XOR of the bits of ``delay`` and of ⌊delay/2⌋ steps before; 0 where there are none."""
    mask: Bool[Array, "T B"]
    """The steps that have a target, from step ``delay`` on."""


@compiled("T", "batch_size", "delay", "dtype")
def delayed_xor(key: PRNGKeyArray, T: int, batch_size: int, *, delay: int, dtype: DTypeLike = float) -> DelayedXor:
    """Random bits; the target of step t is x_{t−⌊d/2⌋} XOR x_{t−d}, with the delay d.

    A network has to hold d bits, and to combine two of them in a way that no linear function does. Without memory the
    cross-entropy is ``DELAYED_XOR_BASELINE``, ln 2, and the mean squared error 1/4; the floor of both is 0.

    Args:
        key, T, batch_size, dtype: as in ``delayed_recall``.
        delay: d, steps back to the earlier bit, in [1, T).

    Returns:
        ``xs (T, B, 1)``, ``targets (T, B, 1)`` and ``mask (T, B)``.

    Raises:
        ValueError: for a size below 1, a delay outside [1, T), or a dtype that is not floating.

    >>> xs, targets, mask = delayed_xor(jax.random.key(0), T=8, batch_size=1, delay=4)
    >>> xs[:, 0, 0].astype(int).tolist(), targets[4:, 0, 0].astype(int).tolist()
    ([1, 0, 0, 1, 1, 1, 0, 1], [1, 1, 1, 0])

    Reference: Engelken. Gradient flossing: improving gradient descent through dynamic control of Jacobians. 2023.
    """
    require_delay(T, batch_size, delay)
    require_dtype(dtype)
    bits = jax.random.randint(one_key(key), (int(T), int(batch_size), 1), 0, 2, jnp.int32)
    mask = mask_after(int(delay), bits)
    either = delayed(bits, int(delay) // 2) ^ delayed(bits, int(delay))
    return DelayedXor(bits.astype(dtype), jnp.where(mask[..., None], either, 0).astype(dtype), mask)


def require_delay(T: int, batch_size: int, delay: int) -> None:
    """Raises a ValueError unless sizes are positive and a delay is shorter than the sequence."""
    require_positive(T=T, batch_size=batch_size)
    if not is_whole(delay) or not 1 <= delay < T:
        raise ValueError(f"delay got {in_one_line(delay)}; want a number of steps in [1, T), with T {T}")


def delayed(xs: Shaped[Array, "T *rest"], delay: int) -> Shaped[Array, "T *rest"]:
    """The same sequence ``delay`` steps later; 0 before its first step."""
    return jnp.concatenate([jnp.zeros_like(xs[:delay]), xs[: len(xs) - delay]])


def mask_after(delay: int, xs: Shaped[Array, "T B ..."]) -> Bool[Array, "T B"]:
    """True from step ``delay`` on, for each example of a batch."""
    return jnp.broadcast_to(jnp.arange(len(xs))[:, None] >= delay, xs.shape[:2])
