"""Decoding: a model generates ids one after another, and each id is its next input. Randomness comes from keys alone.

Cells that draw, with dropout or zoneout, use the mean instead, as in evaluation.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Integer, PRNGKeyArray, PyTree

from rnn_jax.decoding.choices import drawn_ids, likeliest_ids
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
from rnn_jax.machinery.sharding import rows, scan, where, with_common_layout
from rnn_jax.schedules.driver import batch_shape, check_fit
from rnn_jax.types import Cell, Params, State, require_cell

__all__ = ["Beams", "Decoded", "beam_search", "greedy", "sample", "stream"]


class Decoded(NamedTuple):
    """The ids generated for each example, and their probabilities."""

    ids: Integer[Array, "length *batch"]
    """The end id is repeated after the end."""
    log_prob: Float[Array, "length *batch"]
    """ln p of each id under the model, in nats, without temperature or truncation; 0 after the end."""
    lengths: Int[Array, "*batch"]
    """Number of ids up to the end, the end included; ``length`` where there is no end."""


class Beams(NamedTuple):
    """The W best hypotheses of each example, the best first."""

    ids: Integer[Array, "length *batch W"]
    """The end id is repeated after the end."""
    score: Float[Array, "*batch W"]
    """Σ ln p / lengths^length_penalty; −∞ where there are fewer hypotheses than W."""
    lengths: Int[Array, "*batch W"]
    """Number of ids up to the end, the end included; ``length`` where there is no end."""


def greedy(
    cell: Cell,
    params: Params,
    h: State,
    first: Integer[ArrayLike, "*batch"],
    *,
    length: int,
    end: int | None = None,
) -> Decoded:
    """The ids of greedy decoding, the likeliest at every step: x_{t+1} = argmax y_t; of equals, the lowest.

    Args:
        cell, params: a model whose inputs are ids and whose outputs are the logits of the next id, ``(*batch, V)``.
        h: the state before ``first`` is read, with the batch axes of ``first``.
        first: the first input, which is not returned.
        length: number of ids to generate.
        end: the id that ends a sequence, and is its last one; without it every sequence has ``length`` ids.

    Raises:
        ValueError: for an id outside the vocabulary, a negative length, or a model that does not predict ids.

    Example: a model without weights, whose bias favours id 2.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru, readout
    >>> from rnn_jax.decoding.decoders import greedy
    >>> model = readout(gru(input_size=3, hidden_size=4), output_size=3)
    >>> params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))._replace(b_y=jnp.array([0.0, 1.0, 2.0]))
    >>> greedy(model, params, model.start(params), jnp.array(0), length=4, end=2).ids.tolist()
    [2, 2, 2, 2]
    """
    return _generated(cell, params, h, first, jnp.zeros((checked_length(length),)), end, likeliest_ids)


def sample(
    cell: Cell,
    params: Params,
    key: PRNGKeyArray,
    h: State,
    first: Integer[ArrayLike, "*batch"],
    *,
    length: int,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    end: int | None = None,
) -> Decoded:
    """Ids drawn one after another, x_{t+1} ~ softmax(y_t / temperature), truncated to the likeliest by top_k or top_p.

    The temperature is applied first, then top_k, then top_p.

    Args:
        cell, params, h, first, length, end: as in ``greedy``.
        key: the source of all randomness.
        temperature: below 1 the likeliest ids become likelier still, and 0 equals ``greedy``; may be traced.
        top_k: draws among the k likeliest ids, as ``keep_top_k``. It cannot be traced, nor can top_p.
        top_p: draws from the nucleus, as ``keep_nucleus``.

    Raises:
        ValueError: for arguments that ``greedy``, ``keep_top_k`` or ``keep_nucleus`` refuse, or a negative temperature
            that is not traced.

    Example: a model without weights, whose bias favours id 2 over 1 over 0.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru, readout
    >>> from rnn_jax.decoding.decoders import sample
    >>> model = readout(gru(input_size=3, hidden_size=4), output_size=3)
    >>> params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))._replace(b_y=jnp.array([0.0, 1.0, 2.0]))
    >>> drawn = sample(model, params, jax.random.key(0), model.start(params), 0, length=50, top_k=2)
    >>> sorted(set(drawn.ids.tolist())), bool(drawn.log_prob.max() < 0)
    ([1, 2], True)
    """
    wanted = "at least 0: 0 is greedy, 1 draws from the model's own probabilities"
    require_number("temperature", temperature, lambda T: 0 <= T < math.inf, wanted, may_be_traced=True)

    keys = jax.random.split(one_key(key), checked_length(length))
    return _generated(cell, params, h, first, keys, end, drawn_ids, temperature, top_k, top_p)


def beam_search(
    cell: Cell,
    params: Params,
    h: State,
    first: Integer[ArrayLike, "*batch"],
    *,
    length: int,
    width: int,
    end: int | None = None,
    length_penalty: float = 1.0,
) -> Beams:
    """The W best hypotheses that beam search finds, by Σ ln p / lengths^length_penalty.

    The search keeps W hypotheses at every step. A finished one keeps its place for as long as its score is among the W
    best, and does not grow. To rounding, width 1 equals ``greedy``; a width of at least the number of hypotheses is an
    exact search.

    Args:
        cell, params, h, first, length, end: as in ``greedy``.
        width: W, the number of hypotheses.
        length_penalty: 0 compares probabilities, which favours short hypotheses; 1 compares the mean of ln p over the
            ids. It cannot be traced, nor can width and length.

    Raises:
        ValueError: for arguments that ``greedy`` refuses, a width below 1, or a length_penalty that is not finite.

    Example: a model without weights, whose bias favours id 2, the end.

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
    require_number(
        "length_penalty", length_penalty, math.isfinite, "a finite number such as 0 or 1, which cannot be traced"
    )
    require_kept(first=first, end=end)
    steps, first = checked_length(length), jnp.asarray(first)
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
    """``beam_search`` after its checks."""

    def search(h: State, first: Array) -> Beams:
        return _search(cell, params, h, first, length, width, V, last, length_penalty)

    for _ in range(first.ndim):
        search = jax.vmap(search, out_axes=Beams(ids=1, score=0, lengths=0))  # type: ignore[arg-type]
    return search(*with_common_layout(first.ndim, h, first))


def stream(cell: Cell, params: Params) -> Callable[[State, PyTree], tuple[State, Any]]:
    """A compiled step ``(h, x) -> (h, y)``, for inputs that arrive one at a time.

    Args:
        cell, params: any cell and its weights; an id outside its vocabulary gives NaN.

    Returns:
        The step. It compiles once for each shape of x, and keeps nothing but the state.

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


def checked_length(length: int) -> int:
    """The number of ids to generate; a ValueError if it is negative or not a whole number."""
    if not is_whole(length) or length < 0:
        got = in_one_line(length)
        raise ValueError(f"length got {got}; want a whole number of ids of at least 0, which cannot be traced")
    return int(length)


def _generated(
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
    """Ids that ``choose(key, logits, temperature, top_k, top_p)`` returns one after another, one for each key."""
    require_kept(first=first, end=end)
    first = jnp.asarray(first)
    check_writer(cell, params, h, first, end=end)
    last = None if end is None else jnp.asarray(end, first.dtype)
    return _generated_by_scan(cell, params, h, first, keys, last, choose, temperature, top_k, top_p)


@compiled("cell", "choose", "top_k", "top_p")
def _generated_by_scan(
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
    """``_generated`` after its checks."""

    def step(carry: tuple[State, Array, Array], key: Any) -> tuple[tuple[State, Array, Array], tuple[Array, ...]]:
        h, x, going = carry
        h = cell.step(params, h, x)
        logits = cell.output(params, h)
        x = choose(key, logits, temperature, top_k, top_p).astype(first.dtype)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(widened(logits)), x[..., None], axis=-1)[..., 0]
        if last is None:
            return (h, x, going), (x, log_prob, going)
        x, log_prob = where(going, x, last), where(going, log_prob, 0)  # after the end: the end, at no cost
        return (h, x, going & (x != last)), (x, log_prob, going)

    begin = (h, first, jnp.ones(first.shape, bool))
    _, (ids, log_prob, going) = scan(step, begin, keys)
    return Decoded(ids, log_prob, jnp.sum(going, axis=0, dtype=jnp.int32))


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
    """Beam search for one example, without batch axes."""
    # a finished hypothesis continues with the end, at no cost
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
    """V; raises a ValueError unless the model predicts the ids that it reads, h and first fit, and ids are below V."""
    require_cell("cell", cell)
    if end is not None:
        whole = jnp.issubdtype(getattr(end, "dtype", type(end)), jnp.integer)
        require_number("end", end, lambda _: whole, "one id for all", may_be_traced=whole)
    V = len(_vocabulary(cell, params, h, first))
    require_id(V, first=first, end=end)
    return V


@compiled("cell")
def _vocabulary(cell: Cell, params: Params, h: State, first: Array) -> Bool[Array, " V"]:
    """True for each id that a model predicts; the checks of ``check_writer`` that need no values, compiled once."""
    batch = batch_shape(cell, params, h)
    if not jnp.issubdtype(first.dtype, jnp.integer) or first.shape != batch:
        raise ValueError(f"first got {first.dtype}{list(first.shape)}; want one id for each of h's {list(batch)}")
    check_fit(cell, params, h, jax.ShapeDtypeStruct((1, *first.shape), first.dtype))
    y = jax.eval_shape(lambda p, h, x: cell.output(p, cell.step(p, h, x)), params, h, first)
    if not isinstance(y, jax.ShapeDtypeStruct) or y.ndim != len(batch) + 1 or y.shape[:-1] != batch:
        raise ValueError(f"the model's output got {y}; want logits (*batch, V): put a readout on the cell")
    check_vocabulary(cell, params, y)
    if jnp.iinfo(first.dtype).max < y.shape[-1] - 1:
        raise ValueError(f"first got {first.dtype}, which cannot hold {y.shape[-1]} ids; want int32")
    return jnp.ones(y.shape[-1], bool)


def check_vocabulary(cell: Cell, params: Params, y: jax.ShapeDtypeStruct) -> None:
    """Raises a ValueError for a cell that can also read vectors instead of ids, but not of the size of y."""
    try:
        jax.eval_shape(cell.project, params, y)
    except MisfitError as misfit:
        raise ValueError(
            f"the model predicts {y.shape[-1]} ids but does not read as many ({misfit}); want one vocabulary for both, "
            "with the first and the last id in it"
        ) from misfit
    except Exception:  # a cell that reads ids alone may raise any error for vectors
        return
