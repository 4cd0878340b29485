"""Combinators: functions that take cells and return a cell."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray, PyTree

from rnn_jax.cells.affine import broadcast_along
from rnn_jax.initializers import unit_normal
from rnn_jax.keys import unkey, with_stream
from rnn_jax.machinery.checks import require_batch_shape, require_dtype
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.precision import is_floating
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.types import ALONE, Cell, Initializer, Keys, Params, State, require_cell

__all__ = [
    "DiagonalSkipParams",
    "LearnedStartParams",
    "ResidualState",
    "diagonal_skip",
    "learned_start",
    "mixed_precision",
    "residual",
]


class LearnedStartParams(NamedTuple):
    """The weights of a cell, and the state before its first step."""

    cell: Params
    h_0: State

    __repr__ = repr_of_arrays


class DiagonalSkipParams(NamedTuple):
    """The weights of a cell, and one weight from each number of the input to the same number of the output."""

    cell: Params
    D: Float[Array, " O"]

    __repr__ = repr_of_arrays


class ResidualState(NamedTuple):
    """A cell's state, and the input that is added to its output; the recurrence reads the first alone."""

    cell: State
    x: Float[Array, "*batch O"]

    __repr__ = repr_of_arrays


@factory
def learned_start(cell: Cell) -> Cell:
    """A cell whose state before the first step is a parameter, initialised with the start of ``cell``.

    A reset returns to it, and gradients reach it from there as from the first step.

    Example:

    >>> import jax
    >>> from rnn_jax import gru, learned_start
    >>> cell = learned_start(gru(input_size=3, hidden_size=4))
    >>> params = cell.init(jax.random.key(0))
    >>> params.h_0.shape, cell.start(params, (2,)).shape
    ((4,), (2, 4))
    """

    def init(key: PRNGKeyArray) -> LearnedStartParams:
        params = cell.init(key)
        return LearnedStartParams(params, cell.start(params))

    def start(params: LearnedStartParams, batch_shape: tuple[int, ...] = ()) -> State:
        require_batch_shape(batch_shape)
        return jax.tree.map(lambda h: jnp.broadcast_to(jnp.copy(h), (*batch_shape, *h.shape)), params.h_0)

    return nested_cell(cell)._replace(init=init, start=start)


@factory
def residual(cell: Cell) -> Cell:
    """A cell that adds its input to the output of ``cell``: y_t = cell's y_t + x_t.

    The recurrence does not read the sum; the state is ``ResidualState(cell, x)``, where x is 0 before the first step.

    Args:
        cell: whose inputs and outputs have equal sizes.

    Raises:
        ValueError: at the first step, when the sizes differ, or when x_t is an id.

    Reference: Graves. Generating sequences with recurrent neural networks. 2013, whose skip connections have weights;
    He, Zhang, Ren, Sun. Deep residual learning for image recognition. 2016.
    """
    return input_beside("residual", cell, "x_t + y_t")._replace(
        output=lambda params, state: cell.output(params, state.cell) + state.x,
    )


@factory
def diagonal_skip(cell: Cell, *, skip_init: Initializer = unit_normal()) -> Cell:
    """A cell with a learned weight from each input to its output: y_t = cell's y_t + D ⊙ x_t.

    The state is that of ``residual``, which is this cell with D = 1. Of a linear recurrence, such as ``lru``, D is the
    only path from x_t to y_t that does not pass through the state.

    Args:
        cell: whose inputs and outputs have equal sizes.
        skip_init: how ``D (O,)`` begins: ``unit_normal()``, as in the paper's own listing.

    Raises:
        ValueError: at the first step, when the sizes differ, or when x_t is an id.

    Example: a linear recurrent unit with C = 0, of which D ⊙ x_t is left.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import diagonal_skip, initializers, lru, outputs, rollout
    >>> cell = diagonal_skip(lru(input_size=3, hidden_size=8, output_size=3, readout_init=initializers.zeros))
    >>> params = cell.init(jax.random.key(0))._replace(D=jnp.array([1.0, 0.0, -2.0]))
    >>> _, states = rollout(cell, params, cell.start(params), jnp.ones((1, 3)))
    >>> print(outputs(cell, params, states))
    [[ 1.  0. -2.]]

    Reference: Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu, De. Resurrecting recurrent neural networks for long
    sequences. 2023.
    """
    carried = nested_cell(input_beside("diagonal_skip", cell, "D ⊙ x_t + y_t"))

    def init(key: PRNGKeyArray) -> DiagonalSkipParams:
        k_cell, k_D = jax.random.split(key)
        params = cell.init(k_cell)
        y = output_shape(cell, params)
        require_one_array("diagonal_skip", y)
        return DiagonalSkipParams(params, skip_init(k_D, (y.shape[-1],), y.dtype))

    def output(params: DiagonalSkipParams, state: ResidualState) -> Array:
        return cell.output(params.cell, state.cell) + broadcast_along(params.D, state.x.shape) * state.x

    return carried._replace(init=init, output=output)


def input_beside(name: str, cell: Cell, output: str) -> Cell:
    """``cell`` with the state ``ResidualState(cell, x)``, for an output that reads x_t too.

    Args:
        name, output: of the combinator, and its equation, for errors.
        cell: the recurrence.
    """
    require_cell("cell", cell)
    linear: Any = cell.coefficients

    def project(params: Params, x: PyTree) -> tuple[PyTree, Array]:
        return cell.project(params, x), unkey(x)[0]

    def start(params: Params, batch_shape: tuple[int, ...] = ()) -> ResidualState:
        h = cell.start(params, batch_shape)
        y = jax.eval_shape(cell.output, params, h)
        require_one_array(name, y)
        return ResidualState(h, jnp.zeros(y.shape, y.dtype))

    def advance(params: Params, state: ResidualState, u: tuple[PyTree, Array]) -> ResidualState:
        u, x = u
        h = cell.advance(params, state.cell, u)
        y = jax.eval_shape(cell.output, params, h)
        if y.shape != x.shape:
            hint = "" if jnp.issubdtype(x.dtype, jnp.inexact) else "; ids have no features: jax.nn.one_hot(ids, I)"
            shapes = f"x {x.dtype}{list(x.shape)} and y {y.dtype}{list(y.shape)}"
            raise ValueError(f"{name} got {shapes}; want equal shapes: {output}{hint}")
        return ResidualState(h, x.astype(y.dtype))

    def coefficients(params: Params, u: tuple[PyTree, Array]) -> tuple[ResidualState, ResidualState]:
        u, x = u
        a, b = linear(params, u)
        return ResidualState(a, ALONE), ResidualState(b, x)

    return Cell(
        cell.init,
        start,
        project,
        advance,
        output=lambda params, state: cell.output(params, state.cell),
        coefficients=linear and coefficients,
        keyed=cell.keyed,
    )


def stacked_cells(cells: tuple[Cell, ...]) -> Cell:
    """The cell that ``stack`` returns for cells alone: one scan over time, in which every cell makes its step.

    Raises:
        ValueError: when the output of a cell does not fit the cell above it.
    """
    for layer in range(1, len(cells)):
        require_fit_above(cells[layer - 1], cells[layer], layer)

    def init(key: PRNGKeyArray) -> tuple[Params, ...]:
        return tuple(cell.init(k) for cell, k in zip(cells, jax.random.split(key, len(cells)), strict=True))

    def start(params: tuple[Params, ...], batch_shape: tuple[int, ...] = ()) -> tuple[State, ...]:
        return tuple(cell.start(p, batch_shape) for cell, p in zip(cells, params, strict=True))

    def project(params: tuple[Params, ...], x: PyTree) -> tuple[PyTree, Keys | None]:
        x, key = unkey(x)
        return cells[0].project(params[0], with_stream(cells[0], x, key, 0)), key

    def advance(params: tuple[Params, ...], hs: tuple[State, ...], u: tuple[PyTree, Keys | None]) -> tuple[State, ...]:
        u, key = u
        above = [cells[0].advance(params[0], hs[0], u)]
        for layer in range(1, len(cells)):
            y = cells[layer - 1].output(params[layer - 1], above[-1])
            above.append(cells[layer].step(params[layer], hs[layer], with_stream(cells[layer], y, key, layer)))
        return tuple(above)

    return Cell(
        init,
        start,
        project,
        advance,
        output=lambda params, hs: cells[-1].output(params[-1], hs[-1]),
        keyed=any(cell.keyed for cell in cells),
    )


@factory
def mixed_precision(cell: Cell, dtype: DTypeLike = jnp.bfloat16) -> Cell:
    """A cell with params in their own type that computes in another: params, inputs and state are cast.

    The output has the params' type again, so that a loss is summed in it; gradients are summed over time in it too.

    Args:
        cell: any cell, usually with params of float32.
        dtype: of the state and of every product, ``jnp.bfloat16`` or ``jnp.float16``.

    Raises:
        ValueError: for a dtype other than float64, float32, bfloat16 and float16.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import lstm, mixed_precision, outputs, rollout
    >>> cell = mixed_precision(lstm(input_size=3, hidden_size=4), jnp.bfloat16)
    >>> params = cell.init(jax.random.key(0))
    >>> h_T, hs = rollout(cell, params, cell.start(params), jnp.ones((7, 3)))
    >>> h_T.c.dtype, outputs(cell, params, hs).dtype == params.W_hh.dtype
    (dtype(bfloat16), True)

    Reference: Micikevicius, Narang, Alben, Diamos, Elsen, Garcia, Ginsburg, Houston, Kuchaiev, Venkatesh, Wu. Mixed
    precision training. 2018.
    """
    require_cell("cell", cell)
    require_dtype(dtype)
    coefficients = cell.coefficients

    def low(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a: a.astype(dtype) if is_floating(a) else a, tree)

    def output(params: Params, h: State) -> PyTree:
        dtype, y = params_dtype(params), cell.output(low(params), h)
        return jax.tree.map(lambda a: a.astype(dtype) if is_floating(a) else a, y)

    return cell._replace(
        start=lambda params, batch_shape=(): low(cell.start(low(params), batch_shape)),
        project=lambda params, x: cell.project(low(params), low(x)),
        advance=lambda params, h, u: cell.advance(low(params), h, u),
        output=output,
        coefficients=coefficients and (lambda params, u: coefficients(low(params), u)),
    )


def require_fit_above(below: Cell, above: Cell, layer: int) -> None:
    """Raises a ValueError that names both cells, unless one step of ``above`` accepts the output of ``below``."""
    params = jax.eval_shape(below.init, jax.random.key(0))
    y = output_shape(below, params)
    if problem := input_problem(above, y):
        require_one_array(f"layer {layer - 1} of stack ({params_name(params)})", y)
        reader = params_name(jax.eval_shape(above.init, jax.random.key(0)))
        raise ValueError(
            f"stack got layer {layer - 1} ({params_name(params)}), whose output is {y.dtype}{list(y.shape)}, under "
            f"layer {layer} ({reader}), which does not accept it: {problem}"
        )


def input_problem(cell: Cell, x: PyTree) -> str:
    """The first line of the error of one step with an input of these shapes and types, or an empty text."""
    params = jax.eval_shape(cell.init, jax.random.key(0))
    try:
        jax.eval_shape(lambda p, x: cell.step(p, cell.start(p), x), params, x)
    except (TypeError, ValueError, AttributeError) as error:
        return str(error).splitlines()[0]
    return ""


def output_shape(model: Any, params: Params) -> Any:
    """Shape and type of the output of a cell or a layer for one example: one, or a pytree of them."""
    return jax.eval_shape(lambda p: model.output(p, model.start(p)), params)


def require_one_array(name: str, y: Any) -> None:
    """Raises a ValueError unless an output, or its shape and type, is one array."""
    if not hasattr(y, "shape"):
        got = f"a dictionary of {', '.join(map(str, y))}" if isinstance(y, dict) else type(y).__name__
        raise ValueError(f"{name} got the output {got}; want one array: put a readout with several heads on top of all")


def params_dtype(params: Params) -> DTypeLike:
    """The floating type of params."""
    return jnp.result_type(*filter(is_floating, jax.tree.leaves(params)))


def params_name(params: Params) -> str:
    """A short name of a model in an error: the name of its params' type, down to the innermost cell.

    >>> from rnn_jax import gru, readout
    >>> params_name(readout(gru(2, 3), 4).init(jax.random.key(0)))
    'Readout of GRU'
    """
    name = type(params).__name__.removesuffix("Params")
    return f"{name} of {params_name(params.cell)}" if hasattr(params, "cell") else name


def field_of(params: Params, field: str) -> Params:
    """A field of params; a ValueError for params without it."""
    if not hasattr(params, field):
        raise ValueError(f"params got {type(params).__name__}, which hold no {field}; want those that init(key) makes")
    return getattr(params, field)


def nested_cell(cell: Cell, field: str = "cell") -> Cell:
    """``cell`` with its params in a field of larger params: its functions take the larger params."""
    require_cell("cell", cell)
    coefficients = cell.coefficients

    def own(params: Params) -> Params:
        return field_of(params, field)

    return cell._replace(
        start=lambda params, batch_shape=(): cell.start(own(params), batch_shape),
        project=lambda params, x: cell.project(own(params), x),
        advance=lambda params, h, u: cell.advance(own(params), h, u),
        output=lambda params, h: cell.output(own(params), h),
        coefficients=coefficients and (lambda params, u: coefficients(own(params), u)),
    )
