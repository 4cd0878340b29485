"""Strings of regular languages, generated under ``jit`` from a key: any finite automaton, parity, Tomita's grammars."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Integer, PRNGKeyArray

from rnn_jax.keys import one_key
from rnn_jax.machinery.checks import in_one_line, is_whole, one_axis, require_id, require_positive, require_sequence
from rnn_jax.machinery.compiling import compiled

__all__ = [
    "PARITY",
    "TOMITA",
    "Automaton",
    "RegularStrings",
    "acceptance",
    "parity",
    "regular_language",
    "regular_language_baseline",
    "tomita",
]


class Automaton(NamedTuple):
    """A deterministic finite automaton of S states over the symbols 0 … V − 1; it begins in state 0."""

    transitions: tuple[tuple[int, ...], ...]
    """The next state, by state and symbol: S rows of V numbers."""
    accepting: tuple[int, ...]
    """The states in which the string so far belongs to the language."""


PARITY = Automaton(((0, 1), (1, 0)), accepting=(1,))
"""Strings with an odd number of ones."""

TOMITA = {
    1: Automaton(((1, 0), (1, 1)), accepting=(0,)),
    2: Automaton(((2, 1), (0, 2), (2, 2)), accepting=(0,)),
    3: Automaton(((0, 1), (2, 0), (3, 4), (2, 1), (4, 4)), accepting=(0, 1, 3)),
    4: Automaton(((1, 0), (2, 0), (3, 0), (3, 3)), accepting=(0, 1, 2)),
    5: Automaton(((1, 2), (0, 3), (3, 0), (2, 1)), accepting=(0,)),
    6: Automaton(((1, 2), (2, 0), (0, 1)), accepting=(0,)),
    7: Automaton(((0, 1), (2, 1), (2, 3), (4, 3), (4, 4)), accepting=(0, 1, 2, 3)),
}
"""Tomita's seven grammars over 0 and 1, by their number.

1. 1*: no zero.
2. (10)*: ones and zeros alternate, from 1 to 0.
3. No odd number of zeros stands directly behind an odd number of ones (both counted in whole runs).
4. No 000.
5. The number of zeros is even, and so is the number of ones.
6. The number of zeros less the number of ones is divisible by 3.
7. 0*1*0*1*.
"""


class RegularStrings(NamedTuple):
    """Strings, and which of their beginnings belong to a language."""

    xs: Int[Array, "T B"]
    """Symbols, ids in [0, V)."""
    targets: Int[Array, "T B"]
    """1 where the string up to this step, its symbol included, belongs to the language; 0 elsewhere."""


@compiled("T", "batch_size", "transitions", "accepting")
def regular_language(
    key: PRNGKeyArray, T: int, batch_size: int, transitions: Sequence[Sequence[int]], accepting: Iterable[int]
) -> RegularStrings:
    """Strings of T symbols, of which half belong to a regular language and half do not.

    For each string it is decided first, at even odds, whether the whole string belongs to the language. It is then
    drawn uniformly from all strings of T symbols that do, or that do not. If there are only strings of one kind, as for
    ``TOMITA[5]`` at an odd T, all are of this kind. A network that reads a string returns at each step whether the
    string so far belongs to the language. The floor is 0, the cross-entropy without memory
    ``regular_language_baseline``.

    Args:
        key: of the random numbers.
        T: symbols of a string, at least 1.
        batch_size: B.
        transitions: the next state by state and symbol, S rows of V numbers in [0, S); the first state is 0.
        accepting: the states in which the string so far belongs to the language.

    Returns:
        ``xs (T, B)``, ids in [0, V), and ``targets (T, B)``, 0 or 1.

    Raises:
        ValueError: for a size below 1, or states that do not exist.

    Example: binary numbers that are divisible by 3; the state is the remainder.

    >>> xs, targets = regular_language(jax.random.key(0), 5, 2, transitions=((0, 1), (2, 0), (1, 2)), accepting=(0,))
    >>> numbers = [int("".join(map(str, bits)), 2) for bits in xs.T.tolist()]
    >>> numbers, targets[-1].tolist() == [int(n % 3 == 0) for n in numbers]
    ([8, 21], True)

    Reference: Giles, Miller, Chen, Chen, Sun, Lee. Learning and extracting finite state automata with second-order
    recurrent neural networks. 1992.
    """
    require_positive(T=T, batch_size=batch_size)
    following, accepts = checked_automaton(transitions, accepting)
    ln_shares = jnp.asarray(ln_shares_after(following, accepts, int(T)), jnp.float32)
    k_kind, k_symbols = jax.random.split(one_key(key))
    possible = jnp.any(jnp.isfinite(ln_shares[0, :, 0]), axis=-1)
    kind = jax.random.bernoulli(k_kind, 0.5, (batch_size,)) & possible[1] | ~possible[0]
    next_state, accepts = jnp.asarray(following, jnp.int32), jnp.asarray(accepts, jnp.int32)

    def step(state: Array, key_and_shares: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        key, ln_share = key_and_shares
        symbol = jax.random.categorical(key, ln_share[kind.astype(jnp.int32), state]).astype(jnp.int32)
        state = next_state[state, symbol]
        return state, (symbol, accepts[state])

    _, strings = jax.lax.scan(step, jnp.zeros(batch_size, jnp.int32), (jax.random.split(k_symbols, int(T)), ln_shares))
    return RegularStrings(*strings)


@compiled("T", "batch_size", "number")
def tomita(key: PRNGKeyArray, T: int, batch_size: int, *, number: int) -> RegularStrings:
    """Strings of one of Tomita's grammars, ``TOMITA[number]``, of which half belong to the language.

    Args:
        key: of the random numbers.
        T: symbols of a string, at least 1.
        batch_size: B.
        number: of the grammar, 1 to 7.

    Returns:
        As ``regular_language``; the baseline is ``regular_language_baseline(T, *TOMITA[number])``.

    Raises:
        ValueError: for a size below 1, or a number outside 1 … 7.

    >>> xs, targets = tomita(jax.random.key(1), T=8, batch_size=1, number=4)
    >>> xs[:, 0].tolist(), targets[:, 0].tolist()
    ([1, 1, 1, 1, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1, 0, 0])

    Reference: Tomita. Dynamic construction of finite automata from examples using hill-climbing. 1982; learned by
    recurrent networks: Watrous, Kuhn. Induction of finite-state languages using second-order recurrent networks. 1992.
    """
    if not is_whole(number) or number not in TOMITA:
        raise ValueError(f"number got {in_one_line(number)}; want a grammar of Tomita, 1 to {len(TOMITA)}")
    return regular_language(key, T, batch_size, *TOMITA[int(number)])


@compiled("T", "batch_size")
def parity(key: PRNGKeyArray, T: int, batch_size: int) -> RegularStrings:
    """Random bits; the targets are whether the number of ones so far is odd.

    All bits are independent and 0 or 1 at even odds. The target changes with every one, so each bit counts, however
    long ago it was. The floor is 0, the cross-entropy without memory ``regular_language_baseline(T, *PARITY)``: that of
    a variable with probability (T + 1)/(2T), which is nearly ln 2.

    Args:
        key: of the random numbers.
        T: bits, at least 1.
        batch_size: B.

    Returns:
        ``xs (T, B)`` and ``targets (T, B)``, 0 or 1.

    Raises:
        ValueError: for a size below 1.

    >>> xs, targets = parity(jax.random.key(0), T=100, batch_size=3)
    >>> bool((targets == xs.cumsum(axis=0) % 2).all())
    True

    Reference: Hochreiter, Schmidhuber. Long short-term memory. 1997.
    """
    return regular_language(key, T, batch_size, *PARITY)


def acceptance(
    xs: Integer[ArrayLike, "T *batch"], transitions: Sequence[Sequence[int]], accepting: Iterable[int]
) -> Int[Array, "T *batch"]:
    """1 where the string up to a step belongs to a regular language, 0 elsewhere: the targets of given strings.

    Args:
        xs: symbols in [0, V), time leading.
        transitions, accepting: as in ``regular_language``.

    Raises:
        ValueError: for states that do not exist, a single symbol, and for symbols outside [0, V), unless they are
            traced.

    >>> acceptance(jnp.array([1, 0, 0, 0, 1]), *TOMITA[4]).tolist()  # no 000
    [1, 1, 1, 0, 0]
    """
    following, accepts = checked_automaton(transitions, accepting)
    require_id(following.shape[1], xs=xs)
    symbols, next_state = jnp.asarray(xs), jnp.asarray(following, jnp.int32)
    require_sequence(symbols)
    accepts = jnp.asarray(accepts, jnp.int32)

    def step(state: Array, symbol: Array) -> tuple[Array, Array]:
        state = next_state[state, symbol]
        return state, accepts[state]

    return jax.lax.scan(step, jnp.zeros(symbols.shape[1:], jnp.int32), symbols)[1]


def regular_language_baseline(T: int, transitions: Sequence[Sequence[int]], accepting: Iterable[int]) -> float:
    """The best cross-entropy without memory in ``regular_language``, in nats a step.

    The best guess that depends on the current symbol a alone is p(y | a), with the joint probability p(a, y) of symbol
    and target over all steps. Its cross-entropy is −Σ p(a, y) ln p(y | a). The probability of each state at each step
    follows from the automaton, step by step, so p(a, y) is exact.

    Args:
        T: symbols of a string.
        transitions, accepting: as in ``regular_language``.

    >>> round(regular_language_baseline(100, *PARITY), 4), round(regular_language_baseline(100, *TOMITA[4]), 4)
    (0.6931, 0.6783)
    """
    require_positive(T=T)
    following, accepts = checked_automaton(transitions, accepting)
    ln_shares = ln_shares_after(following, accepts, int(T))
    possible = np.isfinite(ln_shares[0, :, 0]).any(axis=-1)
    joint = np.zeros((following.shape[1], 2))
    state = np.zeros((2, len(following)))  # the probability of each kind and state
    state[:, 0] = possible / possible.sum()
    for ln_share in ln_shares:
        largest = ln_share.max(axis=-1, keepdims=True)
        weight = np.exp(ln_share - np.where(np.isfinite(largest), largest, 0))
        step = state[..., None] * weight / np.maximum(weight.sum(axis=-1, keepdims=True), 1e-300)
        state = np.zeros_like(state)
        for s, a in np.ndindex(*following.shape):
            state[:, following[s, a]] += step[:, s, a]
            joint[a, int(accepts[following[s, a]])] += step[:, s, a].sum() / int(T)
    of_symbol = np.broadcast_to(joint.sum(axis=1, keepdims=True), joint.shape)
    seen = joint > 0
    return float(-np.sum(joint[seen] * np.log(joint[seen] / of_symbol[seen])))


def ln_shares_after(following: Integer[np.ndarray, "S V"], accepts: Any, T: int) -> Float[np.ndarray, "T 2 S V"]:
    """ln of the share of all continuations that make the string one outside (0) or inside (1) the language.

    By step, kind, state before the step, and symbol of the step; −∞ where no continuation does. A string that is drawn
    symbol by symbol with probabilities in proportion to these shares is uniform among all strings of its kind.
    """
    share = np.where(np.stack([~accepts, accepts]), 0.0, -np.inf)
    shares = np.empty((T, 2, *following.shape))
    for t in reversed(range(T)):
        shares[t] = share[:, following]
        share = np.logaddexp.reduce(shares[t], axis=-1) - math.log(following.shape[1])
    return shares


def checked_automaton(
    transitions: Sequence[Sequence[int]], accepting: Iterable[int]
) -> tuple[Integer[np.ndarray, "S V"], Any]:
    """The next states ``(S, V)``, and whether each state is accepting ``(S,)``; a ValueError for wrong ones."""
    try:
        following = np.asarray(transitions)
    except ValueError:  # rows of different lengths
        following = np.zeros(0)
    if following.ndim != 2 or not following.size or not all_states(following, len(following)):
        raise ValueError(
            f"transitions got {in_one_line(transitions)}; want a row of next states for each state, with one for each "
            "symbol, such as ((0, 1), (1, 0))"
        )
    states = one_axis("accepting", accepting)
    if states.size and not all_states(states, len(following)):
        raise ValueError(f"accepting got {in_one_line(accepting)}; want states in [0, {len(following)})")
    return following, np.isin(np.arange(len(following)), states)


def all_states(numbers: np.ndarray, count: int) -> bool:
    """Whether all numbers are integers in [0, count)."""
    return bool(np.issubdtype(numbers.dtype, np.integer) and np.all((numbers >= 0) & (numbers < count)))
