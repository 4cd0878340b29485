"""More synthetic tasks that need memory: adding as of 1997, recall, temporal order, delayed XOR, integration."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PRNGKeyArray, Shaped

from rnn_jax.data.tasks import Adding
from rnn_jax.keys import one_key
from rnn_jax.machinery.checks import in_one_line, is_whole, require_number, require_positive
from rnn_jax.machinery.compiling import compiled

__all__ = [
    "DELAYED_RECALL_BASELINE",
    "DELAYED_XOR_BASELINE",
    "TEMPORAL_ORDER_BASELINE",
    "DelayedRecall",
    "DelayedSymbols",
    "DelayedXor",
    "Integrator",
    "TemporalOrder",
    "adding_hochreiter",
    "adding_hochreiter_baseline",
    "delayed_recall",
    "delayed_symbols",
    "delayed_symbols_baseline",
    "delayed_xor",
    "integrator",
    "integrator_baseline",
    "temporal_order",
]

FIRST_STEPS = 10
"""Steps among which the first one is marked in ``adding_hochreiter``."""

DELAYED_RECALL_BASELINE = 1.0
"""The mean squared error of the best guess without memory, 0, in ``delayed_recall``: the variance of the noise.

The input of a step is independent of its target. The mean is over the unmasked steps."""

DELAYED_XOR_BASELINE = math.log(2)
"""The best cross-entropy without memory in ``delayed_xor``, in nats an unmasked step: ln 2.

The target is the XOR with a bit of an earlier step, which is 0 or 1 at even odds, whatever the input of this step."""

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
        ValueError: for T below 20, or a batch size below 1.

    >>> xs, targets = adding_hochreiter(jax.random.key(0), T=100, batch_size=3)
    >>> values, markers = xs[..., 0], xs[..., 1]
    >>> markers[0].tolist(), bool(jnp.allclose(targets, 0.5 + jnp.sum(jnp.where(markers == 1, values, 0), axis=0) / 4))
    ([-1.0, -1.0, -1.0], True)

    Reference: Hochreiter, Schmidhuber. Long short-term memory. 1997.
    """
    require_halves(T)
    require_positive(batch_size=batch_size)
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
        ValueError: for a size below 1, a delay outside [1, T), or another noise.

    >>> xs, targets, mask = delayed_recall(jax.random.key(0), T=6, batch_size=1, delay=2, noise="sign")
    >>> xs[:, 0, 0].tolist(), targets[:, 0, 0].tolist()
    ([1.0, 1.0, -1.0, -1.0, -1.0, 1.0], [0.0, 0.0, 1.0, 1.0, -1.0, -1.0])

    Reference: Jaeger. Short term memory in echo state networks. 2001.
    """
    require_delay(T, batch_size, delay)
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
        ValueError: for a size below 1, or a delay outside [1, T).

    >>> xs, targets, mask = delayed_xor(jax.random.key(0), T=8, batch_size=1, delay=4)
    >>> xs[:, 0, 0].astype(int).tolist(), targets[4:, 0, 0].astype(int).tolist()
    ([1, 0, 0, 1, 1, 1, 0, 1], [1, 1, 1, 0])

    Reference: Engelken. Gradient flossing: improving gradient descent through dynamic control of Jacobians. 2023.
    """
    require_delay(T, batch_size, delay)
    bits = jax.random.randint(one_key(key), (int(T), int(batch_size), 1), 0, 2, jnp.int32)
    mask = mask_after(int(delay), bits)
    either = delayed(bits, int(delay) // 2) ^ delayed(bits, int(delay))
    return DelayedXor(bits.astype(dtype), jnp.where(mask[..., None], either, 0).astype(dtype), mask)


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
        ValueError: for a size below 1, or a rate outside [0, 1].

    >>> xs, targets = integrator(jax.random.key(0), T=4, batch_size=1, rate=0.5)
    >>> xs[:, 0, 0].tolist(), targets[:, 0, 0].tolist()
    ([0.0, -1.0, -1.0, -1.0], [0.0, -1.0, -2.0, -3.0])

    Reference: Seung. How the brain keeps the eyes still. 1996; pulses as in Sussillo, Barak. Opening the black box:
    low-dimensional dynamics in high-dimensional recurrent neural networks. 2013.
    """
    require_positive(T=T, batch_size=batch_size, channels=channels)
    require_rate(rate)
    k_pulse, k_sign = jax.random.split(one_key(key))
    shape = (int(T), int(batch_size), int(channels))
    pulse = jax.random.uniform(k_pulse, shape, jnp.float32) < float(rate)
    pulses = jnp.where(pulse, jax.random.rademacher(k_sign, shape, jnp.int32), 0)
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


def require_rate(rate: float) -> None:
    """Raises a ValueError unless a rate is a probability."""
    require_number("rate", rate, lambda p: 0 <= p <= 1, "a probability in [0, 1]")


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
