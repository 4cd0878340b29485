"""One driver, several schedules: ways to compute the same rollout that change its cost, never its values."""

import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Integer, PyTree

from rnn_jax.keys import check_keys, require_draws, unkey
from rnn_jax.machinery.checks import in_one_line, require_positive, require_sequence
from rnn_jax.machinery.compiling import compiled
from rnn_jax.schedules.adjoint import adjoint
from rnn_jax.schedules.associative import associative
from rnn_jax.schedules.choice import default_schedule
from rnn_jax.schedules.scan import Loops, RolloutTask, StepFlags, idle_inputs, scan
from rnn_jax.sequences import length_mask, require_lengths, reversed_borders
from rnn_jax.types import Cell, Keyed, Params, State, batch_shape, require_cell

__all__ = ["SCHEDULES", "Loops", "batch_shape", "outputs", "rollout"]

SCHEDULES = {"scan": scan, "adjoint": adjoint, "associative": associative}


AUTO = Loops()
NARROW = re.compile(r"\b(float[48]_\w+|u?int[24])\b")  # types of a few bits


def rollout(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    *,
    mask: Bool[ArrayLike, "T ..."] | None = None,
    lengths: Integer[ArrayLike, "..."] | None = None,
    resets: Bool[ArrayLike, "T ..."] | None = None,
    cuts: Bool[ArrayLike, "T ..."] | None = None,
    reverse: bool = False,
    schedule: str = "auto",
    unroll: int = 1,
    remat: int | None = None,
) -> tuple[State, State]:
    """Rolls a cell out over a sequence: h_t = f_W(h_{t−1}, x_t) for t = 1 … T.

    The flags of the steps, mask, resets and cuts, are ``(T,)`` for all examples or ``(T, *batch)`` for each, of JAX or
    NumPy, and may be traced. Borders (resets and cuts) act at masked steps too.

    Args:
        cell: the recurrence.
        params: its weights.
        h0: the state before the first step, with the batch axes of ``xs``: ``cell.start(params, batch_shape)``, or
            the ``h_T`` of the window before.
        xs: ``(T, *batch, I)``, or integer ids ``(T, *batch)``; T may be 0.
        mask: where False, the state is held and the input ignored: NaN there changes neither value nor gradient.
        lengths: ``(*batch)`` in [0, T], the mask of sequences that end early; a length of 0 returns h0.
        resets: where True, a new sequence begins: the state before the step is replaced by ``cell.start``, so a
            NaN does not pass. Nothing flows over this border from either side.
        cuts: where True, a truncated window begins: no gradient crosses this border, and values never change. A
            start that a reset puts there keeps its gradient.
        reverse: reads from the last step to the first, so that h_t depends on x_t … x_T, and h_T is the state after
            x_1. Masked steps keep the state, and borders stay where they are.
        schedule: a name in ``SCHEDULES``, or "auto": the one that ``default_schedule`` names. Schedules differ in cost,
            and in results by rounding alone.
        unroll: number of steps that the body of a compiled loop makes, as in ``jax.lax.scan``.
        remat: number of steps of a block. For the gradient only states are then kept, and each block is computed again:
            less memory for one more computation of the steps. None leaves it to the schedule what is kept.

    Returns:
        ``(h_T, hs)``: the last state, and every state with time leading, ``(T, *batch, H)``.

    Raises:
        ValueError: when xs does not fit the cell, h0 not xs, mask, lengths, resets or cuts not xs, when mask and
            lengths are both given, when the schedule is unknown or cannot be used for this cell, or for an unroll or a
            remat below 1.

    Example: a window of 2 cuts the gradient on its way to x_1 and x_2; the last step is padding.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import rollout, vanilla, window_cuts
    >>> cell = vanilla(input_size=1, hidden_size=4)
    >>> params = cell.init(jax.random.key(0))
    >>> def loss(xs):
    ...     flags = {"lengths": jnp.asarray(3), "cuts": window_cuts(4, window=2)}
    ...     return rollout(cell, params, cell.start(params), xs, **flags)[0].sum()
    >>> (jax.grad(loss)(jnp.ones((4, 1))) != 0).ravel().tolist()
    [False, False, True, False]
    """
    loops = checked_loops(schedule, unroll, remat)
    require_cell("cell", cell)
    x, keys = unkey(xs)
    xs = x if keys is None else Keyed(x, keys)
    require_lengths(lengths, require_sequence(xs))
    mask, lengths, resets, cuts = flag_arrays(mask=mask, lengths=lengths, resets=resets, cuts=cuts)
    return _rolled(cell, params, h0, xs, mask, lengths, resets, cuts, reverse, loops)


@compiled("cell", "reverse", "loops")
def _rolled(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    mask: Array | None,
    lengths: Array | None,
    resets: Array | None,
    cuts: Array | None,
    reverse: bool,
    loops: Loops,
) -> tuple[State, State]:
    """``rollout``, with the checks of shapes and types that are made when it is compiled."""
    require_fit(cell, params, h0, xs)
    flags = step_flags(require_sequence(xs), batch_shape(cell, params, h0), mask, lengths, resets, cuts, reverse)
    return run_schedule(cell, params, h0, xs, flags, idle_inputs(flags.mask, xs), reverse, loops)


def checked_loops(schedule: str, unroll: int = 1, remat: int | None = None) -> Loops:
    """How a rollout is computed; a ValueError for an unknown schedule and for numbers below 1."""
    if schedule not in ("auto", *SCHEDULES):
        raise ValueError(f"schedule got {schedule!r}; want one of auto, {', '.join(SCHEDULES)}")
    require_positive(unroll=unroll, remat=1 if remat is None else remat)
    return Loops(schedule, unroll, remat)


def run_schedule(
    cell: Cell,
    params: Params,
    h0: State,
    xs: PyTree,
    flags: StepFlags,
    idle: PyTree,
    reverse: bool = False,
    loops: Loops = AUTO,
) -> tuple[State, State]:
    """A rollout of checked arguments; ``flags`` and ``idle`` as in ``RolloutTask``."""
    batch = batch_shape(cell, params, h0)
    fresh = None if flags.resets is None else cell.start(params, batch)
    schedule = default_schedule(cell, h0, batch, loops.unroll) if loops.schedule == "auto" else loops.schedule
    return SCHEDULES[schedule](RolloutTask(cell, params, h0, xs, flags, fresh, idle, reverse, loops))


def outputs(cell: Cell, params: Params, hs: State) -> Any:
    """The outputs of a rollout: y_t of every h_t, in one call outside the scan.

    Args:
        cell, params: as in ``rollout``.
        hs: states with any leading axes, such as those that ``rollout`` returns.

    Returns:
        ``ys``, ``(T, *batch, O)``.

    Example: at padded steps a rollout holds the state, and the outputs are those of the held state. Where they are to
    be 0, as other libraries write them, one line makes them so.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru, length_mask, outputs, rollout
    >>> cell, lengths = gru(input_size=1, hidden_size=2), jnp.array([3, 1])
    >>> params = cell.init(jax.random.key(0))
    >>> _, hs = rollout(cell, params, cell.start(params, (2,)), jnp.ones((3, 2, 1)), lengths=lengths)
    >>> ys = jnp.where(length_mask(lengths, 3)[..., None], outputs(cell, params, hs), 0)
    >>> (ys[..., 0] != 0).T.tolist()
    [[True, True, True], [True, False, False]]
    """
    return cell.output(params, hs)


def require_fit(cell: Cell, params: Params, h0: State, xs: PyTree) -> None:
    """Raises a ValueError unless one step takes h0 to a state of its shapes and types, and xs have its batch axes."""
    check_fit(cell, params, h0, xs)
    if misfit := batch_misfit(cell, params, h0, xs):
        raise ValueError(misfit)


def check_fit(cell: Cell, params: Params, h0: State, xs: PyTree) -> None:
    """Raises a ValueError unless one step takes h0 to a state of the same shapes and types."""
    require_draws(cell.keyed, "xs", unkey(xs)[1])
    check_keys(xs, () if unkey(xs)[1] is None else batch_shape(cell, params, h0))
    before = describe_shapes(h0) or repr(h0)
    try:
        x0 = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
        after = describe_shapes(jax.eval_shape(cell.step, params, h0, x0))
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        likely = likely_misfit(cell, params, h0, xs)
        if not likely and not isinstance(error, TypeError):
            raise
        raise ValueError(
            likely
            or f"h0 got {before}, on which one step fails ({str(error).splitlines()[0]}); want the batch axes of xs: "
            "start from cell.start(params, batch_shape)"
        ) from error
    if before != after:
        raise ValueError(
            likely_misfit(cell, params, h0, xs)
            or f"h0 got {before}, but one step makes it {after}; want the batch axes of xs and the params' dtype: "
            "start from cell.start(params, batch_shape)"
        )


def batch_misfit(cell: Cell, params: Params, h0: State, xs: PyTree) -> str:
    """The error text where xs lack the batch axes of h0 and would be broadcast; empty where they have them."""
    batch = batch_shape(cell, params, h0)
    one = jax.tree.map(lambda h: jax.ShapeDtypeStruct(h.shape[len(batch) :], h.dtype), h0)

    def read_by_one(axes: int) -> bool:
        """Whether a step from a state without batch axes accepts x_t without so many leading axes."""
        try:
            x = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[axes + 1 :], x.dtype), xs)
            return describe_shapes(jax.eval_shape(cell.step, params, one, x)) == describe_shapes(one)
        except (TypeError, ValueError):
            return False

    shapes = [x.shape for x in jax.tree.leaves(xs)]
    apart = any(shape[1 : 1 + len(batch)] != batch for shape in shapes)
    if not apart and not (batch and read_by_one(0) and not read_by_one(len(batch))):
        return ""
    return (
        f"xs got shape {', '.join(map(str, shapes))}, h0 the batch axes {batch}; want the same in both: give xs "
        f"({', '.join(map(str, ('T', *batch, '…')))}), or h0 = cell.start(params, batch_shape) of the batch of xs"
    )


def likely_misfit(cell: Cell, params: Params, h0: State, xs: PyTree) -> str:
    """The probable cause of a mismatch, if not h0, in one line; empty if none is found."""
    made = jax.eval_shape(cell.init, jax.random.key(0))
    for their, our in itertools.zip_longest(parts_of(params), parts_of(made), fillvalue=("no array", "", ())):
        if (their[0], their[2]) != (our[0], our[2]):  # the dtype may differ
            their, our = in_words(their), in_words(our)
            return f"params got {their}, where cell.init(key) makes {our}; want params of this cell"
    for name, given in {"params": params, "h0": h0, "xs": xs}.items():
        if narrow := NARROW.search(describe_shapes(given)):
            return f"{name} got {narrow.group()}, in which JAX does not compute; want float16, bfloat16 or wider"
    if jax.tree.structure(h0) != jax.tree.structure(jax.eval_shape(cell.start, params)):
        return ""
    x, batch = jax.tree.leaves(xs)[0], batch_shape(cell, params, h0)
    if jnp.issubdtype(x.dtype, jnp.integer) and x.ndim > 1 + len(batch):
        return (
            f"xs got {x.dtype}{list(x.shape)}; want ids (T, *batch), as integers are, or floating features: "
            "xs.astype(float)"
        )
    if batch and x.shape[: len(batch)] == batch != x.shape[1 : 1 + len(batch)]:
        return (
            f"xs got shape {x.shape}, whose batch {batch} seems to lead; want time leading, (T, *batch, …): "
            f"jnp.moveaxis(xs, {len(batch)}, 0)"
        )
    return batch_misfit(cell, params, h0, xs)


def flag_arrays(**flags: Any) -> tuple[Array | None, ...]:
    """Flags and lengths as arrays; a ValueError that names the first which is none.

    >>> flag_arrays(mask="no")
    Traceback (most recent call last):
    ValueError: mask got 'no'; want an array of True and False
    """
    arrays = []
    for name, flag in flags.items():
        try:
            arrays.append(None if flag is None else jnp.asarray(flag))
        except (TypeError, ValueError):
            raise ValueError(f"{name} got {in_one_line(flag)}; want an array of True and False") from None
    return tuple(arrays)


def step_flags(
    T: int,
    batch: tuple[int, ...],
    mask: Bool[ArrayLike, "T ..."] | None = None,
    lengths: Integer[ArrayLike, "..."] | None = None,
    resets: Bool[ArrayLike, "T ..."] | None = None,
    cuts: Bool[ArrayLike, "T ..."] | None = None,
    reverse: bool = False,
) -> StepFlags:
    """The checked flags of the steps of a rollout, with lengths as a mask and borders in the order of reading."""
    if lengths is not None:
        if mask is not None:
            raise ValueError(
                "mask got an array and so did lengths; want one of them, as lengths are a mask: length_mask"
            )
        if jnp.shape(lengths) not in ((), batch):
            raise ValueError(f"lengths got shape {jnp.shape(lengths)}; want {batch}, one for each example")
        mask = length_mask(jnp.asarray(lengths), T)
    flags = StepFlags(*(None if a is None else jnp.asarray(a) for a in (mask, resets, cuts)))
    for name, flag in flags._asdict().items():
        require_flag(name, flag, T, batch)
    if not reverse:
        return flags
    return StepFlags(flags.mask, reversed_borders(flags.resets), reversed_borders(flags.cuts))


def require_flag(name: str, flag: Bool[Array, "T ..."] | None, T: int, batch: tuple[int, ...]) -> None:
    """Raises a ValueError unless a flag is None, or boolean with time and any of the leading batch axes."""
    if flag is None:
        return
    if flag.dtype != jnp.bool_ or flag.ndim == 0 or flag.shape[0] != T or flag.shape[1:] != batch[: flag.ndim - 1]:
        each = ", ".join(map(str, (T, *batch)))
        raise ValueError(f"{name} got {flag.dtype} {flag.shape}; want bool ({T},), or ({each}) for each example")


def describe_shapes(state: State) -> str:
    """Shapes and types of a state, in one line."""
    return ", ".join(map(in_words, parts_of(state)))


def parts_of(tree: PyTree) -> list[tuple[str, str, tuple[int, ...]]]:
    """Path, type and shape of every array of a state or of params."""
    leaves = [(jax.tree_util.keystr(path), a) for path, a in jax.tree.leaves_with_path(tree)]
    return [(path, str(getattr(a, "dtype", type(a).__name__)), jnp.shape(a)) for path, a in leaves]


def in_words(part: tuple[str, str, tuple[int, ...]]) -> str:
    """Path, type and shape of an array, in one line for a message."""
    path, dtype, shape = part
    return f"{path} {dtype}{list(shape)}".strip() if dtype else path
