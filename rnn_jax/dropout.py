"""Dropout for recurrent networks: masks and keys are data beside the inputs, never hidden state."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray, PyTree

from rnn_jax.cells.affine import Dropped, apply_mask
from rnn_jax.combinators import params_name
from rnn_jax.keys import map_keys, one_key, typed_key, unkey, with_stream
from rnn_jax.machinery.checks import in_one_line, require_batch_shape, require_number
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.machinery.sharding import where
from rnn_jax.types import ALONE, Cell, Keyed, Keys, Params, State, require_cell

__all__ = [
    "DroppedState",
    "dropout_mask",
    "input_dropout",
    "map_recurrent",
    "output_dropout",
    "recurrent_dropout",
    "variational_dropout",
    "weight_drop",
    "zoneout",
]


class DroppedState(NamedTuple):
    """A cell's state, and the mask of its output; the recurrence reads the first alone."""

    cell: State
    mask: Float[Array, "*batch O"]

    __repr__ = repr_of_arrays


def dropout_mask(
    key: Keys | PRNGKeyArray, rate: float, shape: tuple[int, ...], dtype: DTypeLike = float
) -> Float[Array, "..."]:
    """A dropout mask: 0 with probability ``rate``, otherwise 1/(1 − rate), so that its mean is 1.

    Args:
        key: one key, or an array of keys for the leading axes of ``shape``.
        rate: the dropout rate, the probability of a 0, in [0, 1).
        shape: for example ``(*batch, H)``.
        dtype: of the mask.

    Raises:
        ValueError: for a rate outside [0, 1), or keys that are not the leading axes of shape.

    Reference: Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov. Dropout: a simple way to prevent neural
    networks from overfitting. 2014.
    """
    rate = require_rate(rate)
    return keep_mask(typed_key(key), rate, shape).astype(dtype) / (1 - rate)


def keep_mask(key: Keys, rate: float, shape: tuple[int, ...]) -> Array:
    """True with probability 1 − rate, drawn for each key on its own."""
    require_batch_shape(shape, "shape")
    if tuple(shape[: key.ndim]) != key.shape:
        raise ValueError(f"keys got shape {key.shape}; want the batch axes of {shape}: use keyed(key, xs, batch_shape)")
    return map_keys(lambda k: jax.random.bernoulli(k, 1 - rate, shape[key.ndim :]), key)


@factory
def input_dropout(cell: Cell, rate: float) -> Cell:
    """A cell that reads its input through a new dropout mask at each step: m_t ⊙ x_t.

    Args:
        cell: with floating inputs; ids have no features to drop.
        rate: the dropout rate, in [0, 1).

    Raises:
        ValueError: for a rate outside [0, 1).

    Reference: Zaremba, Sutskever, Vinyals. Recurrent neural network regularization. 2014.
    """
    require_cell("cell", cell)
    rate = require_rate(rate)

    def project(params: Params, x: PyTree) -> PyTree:
        x, key = unkey(x)
        if key is not None and rate > 0:
            if not jnp.issubdtype(x.dtype, jnp.floating):
                raise ValueError(f"input_dropout got inputs of {x.dtype}; want floating ones: an id has no features")
            x = x * dropout_mask(key, rate, x.shape, x.dtype)
        return cell.project(params, with_stream(cell, x, key, 1))

    return cell._replace(project=project, keyed=True)


@factory
def output_dropout(cell: Cell, rate: float) -> Cell:
    """A cell whose output has a new dropout mask at each step, m_t ⊙ y_t; the recurrence has no mask.

    The state is ``DroppedState(cell, mask)``; without keys m is 1.

    Args:
        cell: whose output is one array.
        rate: the dropout rate, in [0, 1).

    Raises:
        ValueError: for a rate outside [0, 1).

    Reference: Zaremba, Sutskever, Vinyals. Recurrent neural network regularization. 2014.
    """
    require_cell("cell", cell)
    rate = require_rate(rate)
    linear: Any = cell.coefficients

    def project(params: Params, x: PyTree) -> tuple[PyTree, Keys | None]:
        x, key = unkey(x)
        return cell.project(params, with_stream(cell, x, key, 1)), key

    def start(params: Params, batch_shape: tuple[int, ...] = ()) -> DroppedState:
        return undropped_state(params, cell.start(params, batch_shape))

    def undropped_state(params: Params, h: State) -> DroppedState:
        y = jax.eval_shape(cell.output, params, h)
        return DroppedState(h, jnp.ones(y.shape, y.dtype))

    def advance(params: Params, state: DroppedState, u: tuple[PyTree, Keys | None]) -> DroppedState:
        u, key = u
        new = undropped_state(params, cell.advance(params, state.cell, u))
        if key is None or rate == 0:
            return new
        return new._replace(mask=dropout_mask(key, rate, new.mask.shape, new.mask.dtype))

    def output(params: Params, state: DroppedState) -> Array:
        return cell.output(params, state.cell) * state.mask

    def coefficients(params: Params, u: tuple[PyTree, Keys | None]) -> tuple[DroppedState, DroppedState]:
        u, key = u
        a, b = linear(params, u)
        one = start(params).mask
        if key is None or rate == 0:
            return DroppedState(a, ALONE), DroppedState(b, one)
        return DroppedState(a, ALONE), DroppedState(b, dropout_mask(key, rate, (*key.shape, *one.shape), one.dtype))

    return Cell(cell.init, start, project, advance, output, linear and coefficients, keyed=True)


@factory
def zoneout(cell: Cell, rate: float | PyTree) -> Cell:
    """A cell in which each number of the state keeps its value with probability ``rate``.

    h_t = m_t ⊙ h_{t−1} + (1 − m_t) ⊙ h̃_t

    Each part of a state has its own mask. Without keys the mean is computed: h_t = rate · h_{t−1} + (1 − rate) · h̃_t.
    Use rate 0 for parts that belong together, such as c, n and m of an ``SLSTMState``.

    Args:
        cell: any cell with a floating state.
        rate: in [0, 1), or one for each part of the state, such as ``LSTMState(h=0.05, c=0.5)``.

    Raises:
        ValueError: for a rate outside [0, 1).

    Reference: Krueger, Maharaj, Kramár, Pezeshki, Ballas, Ke, Goyal, Bengio, Courville, Pal. Zoneout: regularizing
    RNNs by randomly preserving hidden activations. 2017.
    """
    require_cell("cell", cell)
    rate = jax.tree.map(require_rate, rate)
    state = jax.eval_shape(lambda key: cell.start(cell.init(key)), jax.random.key(0))
    try:
        jax.tree.map(lambda _, part: part, rate, state)
    except (ValueError, AttributeError):
        parts = in_one_line(jax.tree.map(lambda part: part.shape, state))
        raise ValueError(f"rate got {in_one_line(rate)}; want a number, or one for each part of {parts}") from None

    def project(params: Params, x: PyTree) -> tuple[PyTree, Keys | None]:
        x, key = unkey(x)
        return cell.project(params, with_stream(cell, x, key, 1)), key

    def advance(params: Params, h: State, u: tuple[PyTree, Keys | None]) -> State:
        u, key = u
        new = cell.advance(params, h, u)
        leaves, tree = jax.tree.flatten(h)
        rates = jax.tree.leaves(jax.tree.broadcast(rate, h))
        mixed = [
            _zoneout_part(part_rate, key, part, old, fresh)
            for part, (part_rate, old, fresh) in enumerate(zip(rates, leaves, jax.tree.leaves(new), strict=True))
        ]
        return jax.tree.unflatten(tree, mixed)

    return cell._replace(project=project, advance=advance, coefficients=None, keyed=True)


def _zoneout_part(rate: float, key: Keys | None, part: int, old: Array, new: Array) -> Array:
    if rate == 0:
        return new
    if key is None:
        return rate * old + (1 - rate) * new
    return where(keep_mask(map_keys(lambda k: jax.random.fold_in(k, 2 + part), key), rate, old.shape), new, old)


@factory
def variational_dropout(
    cell: Cell,
    *,
    input_mask: Float[Array, "*batch I"] | None = None,
    state_mask: Float[Array, "*batch H"] | None = None,
) -> Cell:
    """A cell with the same dropout masks at every step of a sequence: W_xh (m_x ⊙ x_t) and W_hh (m_h ⊙ h_{t−1}).

    m_h acts only inside the recurrent product. A gate that carries h_{t−1} over into h_t, as in a GRU, carries it
    without the mask: scaled by 1/(1 − rate) at every step, a state would grow without bound.

    Args:
        cell: one whose params hold ``W_hh``, if there is a state_mask. Of a ``stack``, give each layer its own masks
            before stacking.
        input_mask, state_mask: made by ``dropout_mask(key, rate, shape)``, one for the batch ``(H,)`` or for each
            example ``(*batch, H)``; none where nothing is to be dropped.

    Raises:
        ValueError: for a state_mask on a cell without W_hh, or a mask without the last axes of its array.

    Example: new masks for every sequence, inside the loss.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import dropout_mask, gru, rollout, variational_dropout
    >>> cell = gru(input_size=3, hidden_size=4)
    >>> params, xs = cell.init(jax.random.key(0)), jnp.ones((7, 2, 3))
    >>> @jax.jit
    ... def loss(params, key):
    ...     dropped = variational_dropout(cell, state_mask=dropout_mask(key, 0.5, (2, 4)))
    ...     return rollout(dropped, params, dropped.start(params, (2,)), xs)[0].sum()
    >>> gradient = jax.grad(loss)(params, jax.random.key(1))

    Reference: Gal, Ghahramani. A theoretically grounded application of dropout in recurrent neural networks. 2016.
    """
    require_cell("cell", cell)
    params = jax.eval_shape(cell.init, jax.random.key(0))
    if state_mask is not None and not hasattr(params, "W_hh"):
        raise ValueError(
            f"variational_dropout got a state_mask for {params_name(params)}, whose params hold no W_hh; want a cell "
            "with a recurrent matrix: wrap it before stack, readout and the like"
        )

    def project(params: Params, x: PyTree) -> PyTree:
        if input_mask is None:
            return cell.project(params, x)
        x, key = unkey(x)
        x = apply_mask("input_mask", input_mask, x)
        return cell.project(params, x if key is None else Keyed(x, key))

    def advance(params: Params, h: State, u: PyTree) -> State:
        return cell.advance(
            params if state_mask is None else params._replace(W_hh=Dropped(params.W_hh, state_mask)), h, u
        )

    coefficients = cell.coefficients if state_mask is None else None
    return cell._replace(project=project, advance=advance, coefficients=coefficients)


def weight_drop(params: Params, key: PRNGKeyArray, rate: float) -> Params:
    """Params with a dropout mask on the weights of every recurrent matrix: ``W_hh`` becomes m ⊙ W_hh.

    It is a function of the params, so it works for any cell and depth: call it inside the loss with a new key for each
    sequence or window, and use the params that it returns. The gradient reaches the weights that were kept.

    Args:
        params: of a cell, or of any combination of them.
        key: the only source of randomness.
        rate: the dropout rate, in [0, 1).

    Raises:
        ValueError: for a rate outside [0, 1), or params without W_hh.

    Reference: Wan, Zeiler, Zhang, Le Cun, Fergus. Regularization of neural networks using DropConnect. 2013; Merity,
    Keskar, Socher. Regularizing and optimizing LSTM language models. 2018.
    """
    rate = require_rate(rate)
    key = one_key(key)
    keys = itertools.count()

    def dropped_matrix(W_hh: Array) -> Array:
        return W_hh * dropout_mask(jax.random.fold_in(key, next(keys)), rate, W_hh.shape, W_hh.dtype)

    dropped = map_recurrent(dropped_matrix, params)
    if next(keys) == 0:
        raise ValueError(
            f"weight_drop got params of {params_name(params)}, which hold no W_hh; want a recurrent matrix"
        )
    return dropped


def recurrent_dropout(params: Params, key: PRNGKeyArray, rate: float, batch_shape: tuple[int, ...] = ()) -> Params:
    """Drops features of the state in every recurrent product: params whose ``W_hh`` reads m ⊙ h_{t−1}.

    As the state_mask of ``variational_dropout``, the same mask for as long as these params are used, but a function of
    the params, so it fits any cell and depth, and the ``transform`` of a ``window_learner``.

    Args:
        params: of a cell, or of any combination of cells, with recurrent matrices ``(H, G·H)``.
        key: the source of all randomness.
        rate: the part that is dropped, in [0, 1).
        batch_shape: for a separate mask for each example; without it all examples share one.

    Raises:
        ValueError: for a rate outside [0, 1), or params without such matrices.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru, rollout
    >>> from rnn_jax.dropout import recurrent_dropout
    >>> cell = gru(input_size=3, hidden_size=4)
    >>> params = cell.init(jax.random.key(0))
    >>> dropped = recurrent_dropout(params, jax.random.key(1), 0.5, (2,))
    >>> h_T, hs = rollout(cell, dropped, cell.start(params, (2,)), jnp.ones((7, 2, 3)))

    Reference: Gal, Ghahramani. A theoretically grounded application of dropout in recurrent neural networks. 2016.
    """
    rate = require_rate(rate)
    require_batch_shape(batch_shape)
    key = one_key(key)
    keys = itertools.count()

    def masked(W_hh: Array) -> Dropped:
        if W_hh.ndim != 2:
            raise ValueError(f"recurrent_dropout got W_hh {W_hh.shape}; want matrices (H, G·H)")
        shape = (*batch_shape, W_hh.shape[0])
        return Dropped(W_hh, dropout_mask(jax.random.fold_in(key, next(keys)), rate, shape, W_hh.dtype))

    dropped = map_recurrent(masked, params)
    if next(keys) == 0:
        raise ValueError(
            f"recurrent_dropout got params of {params_name(params)}, which hold no W_hh; want a matrix W_hh"
        )
    return dropped


def map_recurrent(function: Callable[[Array], Any], params: Params) -> Params:
    """``params`` of any cell or combination of cells, with ``function`` of every recurrent matrix ``W_hh``."""

    def leaf(path: tuple[Any, ...], value: Array) -> Any:
        return function(value) if jax.tree_util.keystr(path[-1:], simple=True) == "W_hh" else value

    return jax.tree.map_with_path(leaf, params)


def require_rate(rate: float) -> float:
    """The rate as a Python number, which changes no array's type; a ValueError for one outside [0, 1)."""
    wanted = "a dropout rate in [0, 1), for example 0.2, known when compiled"
    require_number("rate", rate, lambda part: 0 <= part < 1, wanted)
    return float(rate)
