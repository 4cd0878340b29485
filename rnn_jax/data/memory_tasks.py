"""Synthetic tasks that need memory, continued from ``tasks``: adding as of 1997, temporal order, integration."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray

from rnn_jax.data.tasks import Adding, random_pulses, require_rate
from rnn_jax.keys import one_key
from rnn_jax.machinery.checks import require_dtype, require_positive
from rnn_jax.machinery.compiling import compiled

__all__ = [
    "TEMPORAL_ORDER_BASELINE",
    "Integrator",
    "TemporalOrder",
    "adding_hochreiter",
    "adding_hochreiter_baseline",
    "integrator",
    "integrator_baseline",
    "temporal_order",
]

FIRST_STEPS = 10
"""Steps among which the first one is marked in ``adding_hochreiter``."""

TEMPORAL_ORDER_BASELINE = math.log(4)
"""The best cross-entropy without memory in ``temporal_order``: four classes, all alike, and a fixed last symbol."""


@compiled("T", "batch_size", "dtype")
def adding_hochreiter(key: PRNGKeyArray, T: int, batch_size: int, *, dtype: DTypeLike = float) -> Adding:
    """Sequences of the adding problem as it was first published; ``adding`` is the form of 2015.

    Feature 0 is a value, uniform in [−1, 1). Feature 1 is a marker: −1 at the first and at the last step, 1 at two
    marked steps, 0 elsewhere. One of the first ten steps is marked, then another one of the first ⌊T/2⌋ steps. The
    target is 0.5 + (sum of the values whose marker is 1)/4, which lies in [0, 1]. Where the first step is chosen, its
    marker stays −1, and its value does not count. A sequence is solved where the error is below 0.04.

    The best constant guess is 0.5; ``adding_hochreiter_baseline`` is its mean squared error, the floor is 0. In the
    paper the length is drawn from T … 1.1·T; here all sequences have T steps.

    Args:
        key: of the random numbers.
        T: steps, at least 20, so that the first ten lie in the first half.
        batch_size: B.
        dtype: of the numbers, floating.

    Returns:
        ``xs (T, B, 2)`` and ``targets (B,)``.

    Raises:
        ValueError: for T below 20, a batch size below 1, or a dtype that is not floating.

    >>> xs, targets = adding_hochreiter(jax.random.key(0), T=100, batch_size=3)
    >>> values, markers = xs[..., 0], xs[..., 1]
    >>> markers[0].tolist(), bool(jnp.allclose(targets, 0.5 + jnp.sum(jnp.where(markers == 1, values, 0), axis=0) / 4))
    ([-1.0, -1.0, -1.0], True)

    Reference: Hochreiter, Schmidhuber. Long short-term memory. 1997.
    """
    require_halves(T)
    require_positive(batch_size=batch_size)
    require_dtype(dtype)
    T, batch_size = int(T), int(batch_size)
    k_values, k_first, k_second = jax.random.split(one_key(key), 3)
    values = jax.random.uniform(k_values, (T, batch_size), dtype, -1.0, 1.0)
    first = jax.random.randint(k_first, (batch_size,), 0, FIRST_STEPS, jnp.int32)
    second = jax.random.randint(k_second, (batch_size,), 0, T // 2 - 1, jnp.int32)
    second = second + (second >= first).astype(jnp.int32)  # every step of the first half but the first marked one
    steps = jnp.arange(T, dtype=jnp.int32)[:, None]
    marked = ((steps == first[None]) | (steps == second[None])) & (steps > 0)
    markers = jnp.where((steps == 0) | (steps == T - 1), -1, marked.astype(jnp.int32)).astype(dtype)
    total = jnp.sum(jnp.where(marked, values, 0), axis=0)
    return Adding(jnp.stack([values, markers], axis=-1), 0.5 + total / 4)


def adding_hochreiter_baseline(T: int) -> float:
    """The mean squared error of the best constant guess, 0.5, in ``adding_hochreiter``.

    A value has mean 0 and variance 1/3, so the error is (1/16)·(1/3)·n, with n the expected number of values that
    count. The first mark is at step 0 with probability 1/10; the second one with 9/10 · 1/(⌊T/2⌋ − 1). So
    n = 2 − 1/10 − 0.9/(⌊T/2⌋ − 1).

    >>> round(adding_hochreiter_baseline(100), 5)
    0.0392
    """
    require_halves(T)
    return (2 - 1 / FIRST_STEPS - (1 - 1 / FIRST_STEPS) / (int(T) // 2 - 1)) / 48


def require_halves(T: int) -> None:
    """Raises a ValueError unless the first ten steps lie in the first half of T."""
    require_positive(T=T)
    if T < 2 * FIRST_STEPS:
        raise ValueError(f"T got {T}; want at least {2 * FIRST_STEPS}: one of the first {FIRST_STEPS} steps is marked")


class TemporalOrder(NamedTuple):
    """Sequences of the temporal order problem."""

    xs: Int[Array, "T B"]
    """Ids in [0, 8): the distractors a, b, c, d are 0 to 3, X 4, Y 5, the start E 6, and the end B 7."""
    targets: Int[Array, " B"]
    """The class: 0 for X X, 1 for X Y, 2 for Y X, 3 for Y Y."""


@compiled("T", "batch_size")
def temporal_order(key: PRNGKeyArray, T: int, batch_size: int) -> TemporalOrder:
    """Sequences of the temporal order problem (task 6a): two relevant symbols among distractors give four classes.

    The first symbol is E, the last one B. At a step t₁ in ⌊T/10⌋ … ⌊T/5⌋ and a step t₂ in ⌊T/2⌋ … ⌊3T/5⌋, each uniform,
    stands X or Y, at even odds; all others are one of four distractors. For T = 100 these are the steps of the paper,
    which draws the length from 100 … 110. A guess without memory is right in one of four cases, with a cross-entropy
    of ``TEMPORAL_ORDER_BASELINE``, ln 4; the floor is 0.

    Args:
        key: of the random numbers.
        T: steps, at least 10.
        batch_size: B.

    Returns:
        ``xs (T, B)``, ids in [0, 8), and ``targets (B,)``, classes in [0, 4).

    Raises:
        ValueError: for T below 10, or a batch size below 1.

    >>> xs, targets = temporal_order(jax.random.key(0), T=12, batch_size=1)
    >>> "".join("abcdXYEB"[i] for i in xs[:, 0]), targets.tolist()
    ('EYdbcabXbabB', [2])

    Reference: Hochreiter, Schmidhuber. Long short-term memory. 1997.
    """
    require_positive(T=T, batch_size=batch_size)
    T, shape = int(T), (int(batch_size),)
    if T < 10:
        raise ValueError(f"T got {T}; want at least 10, such as 100: the relevant symbols are at T/10 … T/5 and later")
    k_distractors, k_first, k_second, k_symbols = jax.random.split(one_key(key), 4)
    distractors = jax.random.randint(k_distractors, (T, *shape), 0, 4, jnp.int32)
    first = jax.random.randint(k_first, shape, T // 10, T // 5 + 1, jnp.int32)
    second = jax.random.randint(k_second, shape, T // 2, 3 * T // 5 + 1, jnp.int32)
    is_y = jax.random.randint(k_symbols, (2, *shape), 0, 2, jnp.int32)
    steps = jnp.arange(T, dtype=jnp.int32)[:, None]
    xs = jnp.where(steps == first[None], 4 + is_y[:1], distractors)
    xs = jnp.where(steps == second[None], 4 + is_y[1:], xs)
    return TemporalOrder(xs.at[0].set(6).at[-1].set(7), 2 * is_y[0] + is_y[1])


class Integrator(NamedTuple):
    """Sequences of the integrator task."""

    xs: Float[Array, "T B channels"]
    """Pulses: +1, −1, or 0 where there is none."""
    targets: Float[Array, "T B channels"]
    """The sum of all pulses of a channel so far, this step's too."""


@compiled("T", "batch_size", "channels", "rate", "dtype")
def integrator(
    key: PRNGKeyArray, T: int, batch_size: int, *, channels: int = 1, rate: float = 0.1, dtype: DTypeLike = float
) -> Integrator:
    """Sequences of the integrator task: each output is the sum of all pulses of its input channel so far.

    A network solves it with a line of fixed points, one for each sum. The best guess without memory is the input, with
    a mean squared error of ``integrator_baseline``; the floor is 0.

    Args:
        key: of the random numbers.
        T: steps, at least 1.
        batch_size: B.
        channels: independent of each other.
        rate: the probability of a pulse at each step of each channel, in [0, 1]; both signs are alike.
        dtype: of the numbers, floating.

    Returns:
        ``xs (T, B, channels)`` and ``targets (T, B, channels)``.

    Raises:
        ValueError: for a size below 1, a rate outside [0, 1], or a dtype that is not floating.

    >>> xs, targets = integrator(jax.random.key(0), T=4, batch_size=1, rate=0.5)
    >>> xs[:, 0, 0].tolist(), targets[:, 0, 0].tolist()
    ([0.0, -1.0, -1.0, 1.0], [0.0, -1.0, -2.0, -1.0])

    Reference: Seung. How the brain keeps the eyes still. 1996; pulses as in Sussillo, Barak. Opening the black box:
    low-dimensional dynamics in high-dimensional recurrent neural networks. 2013.
    """
    require_positive(T=T, batch_size=batch_size, channels=channels)
    require_rate(rate)
    require_dtype(dtype)
    pulses = random_pulses(key, (int(T), int(batch_size), int(channels)), rate)
    return Integrator(pulses.astype(dtype), jnp.cumsum(pulses, axis=0).astype(dtype))


def integrator_baseline(T: int, *, rate: float = 0.1) -> float:
    """The mean squared error of the best guess without memory in ``integrator``, the input of the step itself.

    The sum before step t has mean 0 and variance (t − 1)·rate, as each pulse has variance rate, and it is independent
    of the input. The mean over t = 1 … T is rate·(T − 1)/2. The best constant guess, 0, has rate·(T + 1)/2.

    >>> round(integrator_baseline(101), 6)
    5.0
    """
    require_positive(T=T)
    require_rate(rate)
    return float(rate) * (int(T) - 1) / 2
