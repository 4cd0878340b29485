"""Decoding: ids written one after another, each fed back as the next input. Keys in, no hidden randomness.

Decoding evaluates: a cell that draws, with dropout or zoneout, takes the mean.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Integer, PRNGKeyArray, PyTree

from rnn_jax.decoding.choices import drawn, keep_nucleus, keep_top_k, likeliest
from rnn_jax.keys import one_key
from rnn_jax.machinery.checks import (
    MisfitError,
    in_one_line,
    is_whole,
    require_id,
    require_kept,
    require_number,
    require_positive,
)
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.sharding import alike, rows, scan, where
from rnn_jax.schedules.driver import batch_shape, check_fit
from rnn_jax.types import Cell, Params, State, require_cell

__all__ = ["Beams", "Decoded", "beam_search", "greedy", "keep_nucleus", "keep_top_k", "sample", "stream"]


class Decoded(NamedTuple):
    """What was written for each example."""

    ids: Integer[Array, "length *batch"]
    """After the end, the end again."""
    log_prob: Float[Array, "length *batch"]
    """ln p of each id as the model has it, in nats: before any temperature or truncation; 0 after the end."""
    lengths: Int[Array, "*batch"]
    """Ids up to the end and with it; ``length`` where no end was written."""


class Beams(NamedTuple):
    """The W best hypotheses of each example, the best first."""

    ids: Integer[Array, "length *batch W"]
    """After the end, the end again."""
    score: Float[Array, "*batch W"]
    """Σ ln p / lengths^length_penalty; −∞ in the places that no hypothesis was left for."""
    lengths: Int[Array, "*batch W"]
    """Ids up to the end and with it; ``length`` where no end was written."""


def greedy(
    cell: Cell,
    params: Params,
    h: State,
    first: Integer[ArrayLike, "*batch"],
    length: int,
    *,
    end: int | None = None,
) -> Decoded:
    """Writes the likeliest id at every step: x_{t+1} = argmax y_t; of equals, the lowest.

    Args:
        cell, params: a model whose inputs are ids and whose outputs are the logits of the next one, ``(*batch, V)``.
        h: the state before ``first`` is read, with the batch axes of ``first``.
        first: the id to begin with, which is not returned.
        length: ids to write.
        end: the id that ends a sequence, which is written too; without it every sequence has ``length`` ids.

    Raises:
        ValueError: for an id outside the vocabulary, a negative length, or a model that does not predict ids.

    Example: a model of no weights, whose bias favours 2.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru, readout
    >>> from rnn_jax.decoding.decoders import greedy
    >>> model = readout(gru(input_size=3, hidden_size=4), output_size=3)
    >>> params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))._replace(b_y=jnp.array([0.0, 1.0, 2.0]))
    >>> greedy(model, params, model.start(params), jnp.array(0), length=4, end=2).ids.tolist()
    [2, 2, 2, 2]
    """
    return _write(cell, params, h, first, jnp.zeros((length_of(length),)), end, likeliest)


def sample(
    cell: Cell,
    params: Params,
    key: PRNGKeyArray,
    h: State,
    first: Integer[ArrayLike, "*batch"],
    length: int,
    *,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    end: int | None = None,
) -> Decoded:
    """Draws x_{t+1} ~ softmax(y_t / temperature), among the likeliest alone if top_k or top_p say so.

    The temperature acts first, then top_k, then top_p.

    Args:
        cell, params, h, first, length, end: as in ``greedy``.
        key: all the randomness there is.
        temperature: below 1 the likeliest are favoured, and 0 equals ``greedy``; may be traced.
        top_k: draws among the k likeliest; see ``keep_top_k``. Known when compiled, as is top_p.
        top_p: draws from the nucleus; see ``keep_nucleus``.

    Raises:
        ValueError: as ``greedy``, for a negative temperature that is not traced, and as ``keep_top_k`` and
            ``keep_nucleus``.

    Example: a model of no weights, whose bias favours 2 over 1 over 0.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru, readout
    >>> from rnn_jax.decoding.decoders import sample
    >>> model = readout(gru(input_size=3, hidden_size=4), output_size=3)
    >>> params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))._replace(b_y=jnp.array([0.0, 1.0, 2.0]))
    >>> drawn = sample(model, params, jax.random.key(0), model.start(params), 0, length=50, top_k=2)
    >>> sorted(set(drawn.ids.tolist())), bool(drawn.log_prob.max() < 0)
    ([1, 2], True)
    """
    wanted = "at least 0: 0 is greedy, 1 the model's own"
    require_number("temperature", temperature, lambda T: 0 <= T < math.inf, wanted, may_be_traced=True)

    keys = jax.random.split(one_key(key), length_of(length))
    return _write(cell, params, h, first, keys, end, drawn, temperature, top_k, top_p)


def beam_search(
    cell: Cell,
    params: Params,
    h: State,
    first: Integer[ArrayLike, "*batch"],
    length: int,
    *,
    width: int,
    end: int | None = None,
    length_penalty: float = 1.0,
) -> Beams:
    """Keeps the W best beginnings at every step: those of highest Σ ln p / lengths^length_penalty.

    A finished hypothesis keeps its place among the W for as long as its score is good enough, and cannot grow. To
    rounding, width 1 equals ``greedy``; a width of at least the number of hypotheses is an exact search.

    Args:
        cell, params, h, first, length, end: as in ``greedy``.
        width: W, hypotheses that are kept.
        length_penalty: 0 compares plain probabilities, which favours the short; 1 the mean of ln p over the ids. Known
            when compiled, as are width and length.

    Raises:
        ValueError: as ``greedy``, for a width below 1, or a length_penalty that is not finite.

    Example: a model of no weights, whose bias favours the end, 2.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru, readout
    >>> from rnn_jax.decoding.decoders import beam_search
    >>> model = readout(gru(input_size=3, hidden_size=4), output_size=3)
    >>> params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))._replace(b_y=jnp.array([0.0, 1.0, 2.0]))
    >>> beams = beam_search(model, params, model.start(params), 0, length=2, width=2, end=2, length_penalty=0.0)
    >>> print(beams.ids.T.tolist(), beams.lengths, beams.score.round(2))
    [[2, 2], [1, 2]] [1 2] [-0.41 -1.82]

    Reference: Graves. Sequence transduction with recurrent neural networks. 2012; Sutskever, Vinyals, Le. Sequence to
    sequence learning with neural networks. 2014.
    """
    require_positive(width=width)
    require_number("length_penalty", length_penalty, math.isfinite, "a number such as 0 or 1, known when compiled")
    require_kept(first=first, end=end)
    steps, first = length_of(length), jnp.asarray(first)
    V = check_writer(cell, params, h, first, end=end)

    last = None if end is None else jnp.asarray(end)
    return _searched(cell, params, h, first, last, steps, int(width), V, float(length_penalty))


@compiled("cell", "length", "width", "V", "length_penalty")
def _searched(
    cell: Cell,
    params: Params,
    h: State,
    first: Integer[Array, "*batch"],
    last: Integer[Array, ""] | None,
    length: int,
    width: int,
    V: int,
    length_penalty: float,
) -> Beams:
    """``beam_search`` of what has been checked."""

    def search(h: State, first: Array) -> Beams:
        return _search(cell, params, h, first, length, width, V, last, length_penalty)

    for _ in range(first.ndim):
        search = jax.vmap(search, out_axes=Beams(ids=1, score=0, lengths=0))  # type: ignore[arg-type]
    return search(*alike(first.ndim, h, first))


def stream(cell: Cell, params: Params) -> Callable[[State, PyTree], tuple[State, Any]]:
    """One input at a time, for live use: a compiled ``(h, x) -> (h, y)`` that keeps nothing but the state.

    Args:
        cell, params: any cell and its weights; an id outside its vocabulary gives NaN, as everywhere.

    Returns:
        The step. It compiles once for each shape of x, and its memory does not grow with the steps.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import lstm
    >>> from rnn_jax.decoding.decoders import stream
    >>> cell = lstm(input_size=3, hidden_size=4)
    >>> params = cell.init(jax.random.key(0))
    >>> step, h = stream(cell, params), cell.start(params)
    >>> for x in jnp.ones((5, 3)):
    ...     h, y = step(h, x)
    >>> y.shape
    (4,)
    """

    require_cell("cell", cell)

    return partial(_live_step, cell, params)


@compiled("cell")
def _live_step(cell: Cell, params: Params, h: State, x: PyTree) -> tuple[State, Any]:
    h = cell.step(params, h, x)
    return h, cell.output(params, h)


def length_of(length: int) -> int:
    """The number of ids to write; a ValueError when it is negative or no whole number."""
    if not is_whole(length) or length < 0:
        got = in_one_line(length)
        raise ValueError(f"length got {got}; want a whole number of ids of at least 0, known when compiled")
    return int(length)


def _write(
    cell: Cell,
    params: Params,
    h: State,
    first: Integer[ArrayLike, "*batch"],
    keys: Array,
    end: int | None,
    choose: Callable[..., Array],
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Decoded:
    """Writes an id for each key, as ``choose(key, logits, temperature, top_k, top_p)`` says."""
    require_kept(first=first, end=end)
    first = jnp.asarray(first)
    check_writer(cell, params, h, first, end=end)
    last = None if end is None else jnp.asarray(end, first.dtype)
    return _written(cell, params, h, first, keys, last, choose, temperature, top_k, top_p)


@compiled("cell", "choose", "top_k", "top_p")
def _written(
    cell: Cell,
    params: Params,
    h: State,
    first: Integer[Array, "*batch"],
    keys: Array,
    last: Integer[Array, ""] | None,
    choose: Callable[..., Array],
    temperature: ArrayLike,
    top_k: int | None,
    top_p: float | None,
) -> Decoded:
    """``_write`` of what has been checked."""

    def step(carry: tuple[State, Array, Array], key: Any) -> tuple[tuple[State, Array, Array], tuple[Array, ...]]:
        h, x, going = carry
        h = cell.step(params, h, x)
        logits = cell.output(params, h)
        x = choose(key, logits, temperature, top_k, top_p).astype(first.dtype)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(widened(logits)), x[..., None], axis=-1)[..., 0]
        written, log_prob = (x, log_prob) if last is None else _unless_ended(going, x, log_prob, last)
        return (h, written, going if last is None else going & (written != last)), (written, log_prob, going)

    begin = (h, first, jnp.ones(first.shape, bool))
    _, (ids, log_prob, going) = scan(step, begin, keys)
    return Decoded(ids, log_prob, jnp.sum(going, axis=0, dtype=jnp.int32))


def _unless_ended(
    going: Bool[Array, "*batch"], x: Array, log_prob: Array, end: Integer[Array, ""]
) -> tuple[Array, Array]:
    """What is written and its ln p: the end, at no cost, of what has ended."""
    return where(going, x, end), where(going, log_prob, 0)


def _search(
    cell: Cell,
    params: Params,
    h: State,
    first: Integer[Array, ""],
    length: int,
    W: int,
    V: int,
    end: Integer[Array, ""] | None,
    length_penalty: float,
) -> Beams:
    """Beam search for one example: a state ``(H,)`` and one id."""
    # how a finished hypothesis goes on: the end, at no cost
    ended = jnp.arange(V, dtype=jnp.int32) == jnp.asarray(-1 if end is None else end, jnp.int32)

    def step(carry: tuple[Any, ...], t: Array) -> tuple[tuple[Any, ...], Array]:
        h, ids, last, log_prob, lengths, going = carry
        h = cell.step(params, h, last)
        each = jax.nn.log_softmax(widened(cell.output(params, h)))
        each = jnp.where(going[:, None], each, jnp.where(ended, 0, -jnp.inf)[None].astype(each.dtype))
        total, lengths = log_prob[:, None] + each, lengths + going.astype(lengths.dtype)
        score, best = jax.lax.top_k((total / lengths.astype(each.dtype)[:, None] ** length_penalty).ravel(), W)
        parent, last = best // V, (best % V).astype(ids.dtype)
        h, going, lengths = jax.tree.map(lambda a: rows(a, parent), (h, going, lengths))
        ids, going = rows(ids.T, parent).T.at[t].set(last), going & ~rows(ended, last)
        return (h, ids, last, total.ravel()[best], lengths, going), score

    log_prob = jnp.where(jnp.arange(W) == 0, 0.0, -jnp.inf)
    log_prob = log_prob.astype(jax.eval_shape(lambda p, h: widened(cell.output(p, h)), params, h).dtype)
    h = jax.tree.map(lambda a: jnp.broadcast_to(a, (W, *a.shape)), h)
    ids, last = jnp.zeros((length, W), first.dtype), jnp.broadcast_to(first, (W,))
    begin = (h, ids, last, log_prob, jnp.zeros(W, jnp.int32), jnp.ones(W, bool))
    if length == 0:
        return Beams(ids, log_prob, begin[4])
    (_, ids, _, _, lengths, _), scores = scan(step, begin, jnp.arange(length))
    return Beams(ids, scores[-1], lengths)


def check_writer(cell: Cell, params: Params, h: State, first: Array, end: int | None = None) -> int:
    """V; raises a ValueError unless the model predicts the ids that it reads, h and first fit, and the ids are such."""
    require_cell("cell", cell)
    if end is not None:
        whole = jnp.issubdtype(getattr(end, "dtype", type(end)), jnp.integer)
        require_number("end", end, lambda _: whole, "one id for all", may_be_traced=whole)
    V = len(_vocabulary(cell, params, h, first))
    require_id(V, first=first, end=end)
    return V


@compiled("cell")
def _vocabulary(cell: Cell, params: Params, h: State, first: Array) -> Bool[Array, " V"]:
    """True for each id that a model predicts; the checks of ``check_writer`` that want no values, made once."""
    batch = batch_shape(cell, params, h)
    if not jnp.issubdtype(first.dtype, jnp.integer) or first.shape != batch:
        raise ValueError(f"first got {first.dtype}{list(first.shape)}; want one id for each of h's {list(batch)}")
    check_fit(cell, params, h, jax.ShapeDtypeStruct((1, *first.shape), first.dtype))
    y = jax.eval_shape(lambda p, h, x: cell.output(p, cell.step(p, h, x)), params, h, first)
    if not isinstance(y, jax.ShapeDtypeStruct) or y.ndim != len(batch) + 1 or y.shape[:-1] != batch:
        raise ValueError(f"the model's output got {y}; want logits (*batch, V): put a readout on the cell")
    check_vocabulary(cell, params, y)
    if jnp.iinfo(first.dtype).max < y.shape[-1] - 1:
        raise ValueError(f"first got {first.dtype}, which does not hold {y.shape[-1]} ids; want int32")
    return jnp.ones(y.shape[-1], bool)


def check_vocabulary(cell: Cell, params: Params, y: jax.ShapeDtypeStruct) -> None:
    """Raises a ValueError where a cell that reads vectors too, in the place of ids, does not read such as y."""
    try:
        jax.eval_shape(cell.project, params, y)
    except MisfitError as misfit:
        raise ValueError(
            f"the model predicts {y.shape[-1]} ids but does not read as many ({misfit}); want one vocabulary for both, "
            "with the first and the last id in it"
        ) from misfit
    except Exception:  # a cell that reads nothing but ids has its own ways to refuse vectors
        return
