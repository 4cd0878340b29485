"""Synthetic tasks that need memory, generated under ``jit`` from a key: adding, copying, flip-flop.

``memory_tasks`` has adding as of 1997, temporal order and integration, ``delayed_tasks`` the recall of inputs of some
steps before, and ``formal_languages`` the strings of regular languages.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PRNGKeyArray

from rnn_jax.keys import one_key
from rnn_jax.machinery.checks import require_dtype, require_number, require_positive
from rnn_jax.machinery.compiling import compiled

__all__ = ["ADDING_BASELINE", "Adding", "Copying", "FlipFlop", "adding", "copying", "copying_baseline", "flip_flop"]

ADDING_BASELINE = 1 / 6
"""The mean squared error of the best constant guess, 1, in ``adding``: the variance of a sum of two, 2 · 1/12."""


class Adding(NamedTuple):
    """Sequences of the adding problem."""

    xs: Float[Array, "T B 2"]
    """Feature 0: a value, uniform in [0, 1). Feature 1: 1 at the two marked steps, 0 elsewhere."""
    targets: Float[Array, " B"]
    """The sum of the two marked values."""


@compiled("T", "batch_size", "dtype")
def adding(key: PRNGKeyArray, T: int, batch_size: int, *, dtype: DTypeLike = float) -> Adding:
    """Sequences of the adding problem: the target is the sum of two marked values among T.

    One marked step lies in the first half, t < ⌊T/2⌋, the other one in the second. Each is uniform in its half.
    A constant guess has a mean squared error of at least ``ADDING_BASELINE``, 1/6.

    Args:
        key: of the random numbers.
        T: steps, at least 2.
        batch_size: B.
        dtype: of the numbers, floating.

    Returns:
        ``xs (T, B, 2)`` and ``targets (B,)``.

    Raises:
        ValueError: for T below 2, a batch size below 1, or a dtype that is not floating.

    >>> xs, targets = adding(jax.random.key(0), T=100, batch_size=3)
    >>> xs.shape, xs[..., 1].sum(axis=0).tolist(), bool(jnp.allclose((xs[..., 0] * xs[..., 1]).sum(axis=0), targets))
    ((100, 3, 2), [2.0, 2.0, 2.0], True)

    Reference: Hochreiter, Schmidhuber. Long short-term memory. 1997; in this form Le, Jaitly, Hinton. A simple way to
    initialize recurrent networks of rectified linear units. 2015.
    """
    require_positive(T=T, batch_size=batch_size)
    require_dtype(dtype)
    T, batch_size = int(T), int(batch_size)
    if T == 1:
        raise ValueError("T got 1; want at least 2: a step to mark in each half")
    k_values, k_first, k_second = jax.random.split(one_key(key), 3)
    values = jax.random.uniform(k_values, (T, batch_size), dtype)
    first = jax.random.randint(k_first, (batch_size,), 0, T // 2, jnp.int32)
    second = jax.random.randint(k_second, (batch_size,), T // 2, T, jnp.int32)
    steps, lanes = jnp.arange(T, dtype=jnp.int32)[:, None], jnp.arange(batch_size)
    marked = (steps == first[None]) | (steps == second[None])
    return Adding(jnp.stack([values, marked.astype(dtype)], axis=-1), values[first, lanes] + values[second, lanes])


class Copying(NamedTuple):
    """Sequences of the copying problem."""

    xs: Int[Array, "steps B"]
    """Ids: symbols in [0, S), the blank S, and the go signal S + 1. One-hot size: S + 2."""
    targets: Int[Array, "steps B"]
    """Blanks, and at the last ``length`` steps the symbols. Ids in [0, S]."""
    mask: Bool[Array, "steps B"]
    """The last ``length`` steps, at which symbols are recalled."""


@compiled("T", "batch_size", "length", "symbols")
def copying(key: PRNGKeyArray, T: int, batch_size: int, *, length: int = 10, symbols: int = 8) -> Copying:
    """Sequences of the copying problem: symbols at the beginning are to be repeated after a delay.

    Inputs: ``length`` random symbols, T − 1 blanks, the go signal, ``length`` blanks. Targets: T + ``length`` blanks,
    then the symbols in the same order. So each symbol is recalled T + ``length`` steps after its input. The
    cross-entropy without memory is ``copying_baseline``.

    Args:
        key: of the random numbers.
        T: the delay, at least 1.
        batch_size: B.
        length: symbols of a sequence.
        symbols: S, different symbols.

    Returns:
        ``xs``, ``targets`` and ``mask``, each ``(T + 2 · length, B)``. A loss over all steps is the classical one; with
        the mask, only recalled symbols count.

    Raises:
        ValueError: for T or a size below 1.

    >>> xs, targets, mask = copying(jax.random.key(0), T=4, batch_size=1, length=3, symbols=5)
    >>> xs[:, 0].tolist(), targets[:, 0].tolist()
    ([4, 0, 2, 5, 5, 5, 6, 5, 5, 5], [5, 5, 5, 5, 5, 5, 5, 4, 0, 2])

    Reference: Hochreiter, Schmidhuber. Long short-term memory. 1997; in this form Arjovsky, Shah, Bengio. Unitary
    evolution recurrent neural networks. 2016.
    """
    require_positive(T=T, batch_size=batch_size, length=length, symbols=symbols)
    T, length, symbols = int(T), int(length), int(symbols)
    recalled = jax.random.randint(one_key(key), (length, batch_size), 0, symbols, jnp.int32)
    blanks = jnp.full((T + length, batch_size), symbols, jnp.int32)
    xs = jnp.concatenate([recalled, blanks.at[T - 1].set(symbols + 1)])
    mask = jnp.broadcast_to(jnp.arange(T + 2 * length)[:, None] >= T + length, xs.shape)
    return Copying(xs, jnp.concatenate([blanks, recalled]), mask)


def copying_baseline(T: int, *, length: int = 10, symbols: int = 8) -> float:
    """The best cross-entropy without memory in ``copying``, in nats a step: length · ln S / (T + 2 · length).

    Blanks cost nothing and each recalled symbol ln S; over the masked steps alone it is thus ln S.

    >>> round(copying_baseline(100), 4)
    0.1733
    """
    require_positive(T=T, length=length, symbols=symbols)
    return int(length) * math.log(symbols) / (int(T) + 2 * int(length))


class FlipFlop(NamedTuple):
    """Sequences of the flip-flop task."""

    xs: Float[Array, "T B bits"]
    """Pulses: +1, −1, or 0 where there is none."""
    targets: Float[Array, "T B bits"]
    """The last pulse of each channel, this step's too; 0 before the first one."""


@compiled("T", "batch_size", "bits", "rate", "dtype")
def flip_flop(
    key: PRNGKeyArray, T: int, batch_size: int, *, bits: int = 3, rate: float = 0.1, dtype: DTypeLike = float
) -> FlipFlop:
    """Sequences of the flip-flop task: each output holds the sign of the last pulse of its input channel.

    Args:
        key: of the random numbers.
        T: steps, at least 1.
        batch_size: B.
        bits: channels, independent of each other.
        rate: the probability of a pulse at each step of each channel, in [0, 1].
        dtype: of the numbers, floating.

    Returns:
        ``xs (T, B, bits)`` and ``targets (T, B, bits)``.

    Raises:
        ValueError: for T or a size below 1, a rate outside [0, 1], or a dtype that is not floating.

    >>> xs, targets = flip_flop(jax.random.key(0), T=8, batch_size=1, bits=1, rate=0.4)
    >>> xs[:, 0, 0].tolist(), targets[:, 0, 0].tolist()
    ([0.0, -1.0, -1.0, 1.0, 1.0, 0.0, 0.0, -1.0], [0.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0])

    Reference: Sussillo, Barak. Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
    networks. 2013.
    """
    require_positive(T=T, batch_size=batch_size, bits=bits)
    require_rate(rate)
    require_dtype(dtype)
    pulses = random_pulses(key, (int(T), int(batch_size), int(bits)), rate)
    xs = pulses.astype(dtype)
    last = jax.lax.cummax(jnp.where(pulses != 0, jnp.arange(T)[:, None, None], -1), axis=0)
    held = jnp.take_along_axis(xs, jnp.maximum(last, 0), axis=0)  # before the first pulse, xs[0], which is 0
    return FlipFlop(xs, held)


def random_pulses(key: PRNGKeyArray, shape: tuple[int, ...], rate: float) -> Int[Array, "..."]:
    """Independent pulses, +1 or −1 at even odds; 0 where there is none.

    Args:
        key: of the random numbers.
        shape: of the pulses.
        rate: the probability of a pulse, in [0, 1].
    """
    k_pulse, k_sign = jax.random.split(one_key(key))
    pulse = jax.random.uniform(k_pulse, shape, jnp.float32) < float(rate)
    return jnp.where(pulse, 2 * jax.random.randint(k_sign, shape, 0, 2, jnp.int32) - 1, 0)


def require_rate(rate: float) -> None:
    """Raises a ValueError unless a rate is a probability."""
    require_number("rate", rate, lambda p: 0 <= p <= 1, "a probability in [0, 1]")
