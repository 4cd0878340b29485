"""Cell → Cell: functions that take cells and return a cell."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray, PyTree

from rnn_jax.cells.affine import affine
from rnn_jax.initializers import StateReader, scaled_normal, zeros
from rnn_jax.keys import feed, unkey
from rnn_jax.machinery.checks import require_batch_shape, require_dtype, require_positive
from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.precision import is_floating
from rnn_jax.types import Cell, Initializer, Keys, Params, State, require_cell


class ReadoutParams(NamedTuple):
    """The weights of a cell and of the linear layer that reads it."""

    cell: Params
    W_hy: Float[Array, "H O"]
    b_y: Float[Array, " O"]


class LearnedStartParams(NamedTuple):
    """The weights of a cell, and the state before its first step."""

    cell: Params
    h_0: State


class ResidualState(NamedTuple):
    """A cell's state, and the input that is added to its output; the recurrence reads the first alone."""

    cell: State
    x: Float[Array, "*batch O"]


@factory
def readout(
    cell: Cell,
    output_size: int,
    *,
    weight_init: Initializer = scaled_normal(),
    bias_init: Initializer = zeros,
) -> Cell:
    """Reads a cell through a linear layer: y_t = W_hy h_t + b_y.

    The state and the recurrence stay those of ``cell``. As ``output`` works on any leading axes,
    ``outputs(cell, params, hs)`` reads a whole sequence in one product, outside the scan.

    Args:
        cell: whose output is one array ``(*batch, H)``.
        output_size: O, for example the vocabulary's size when y are the logits of the next letter.
        weight_init, bias_init: how ``W_hy (H, O)`` and ``b_y (O,)`` begin.

    Raises:
        ValueError: for an output_size below 1.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import lstm, outputs, readout, rollout
    >>> model = readout(lstm(input_size=4, hidden_size=8), output_size=4)
    >>> params = model.init(jax.random.key(0))
    >>> _, states = rollout(model, params, model.start(params), jnp.array([0, 1, 2, 2, 3]))
    >>> outputs(model, params, states).shape
    (5, 4)
    """
    return inside(cell)._replace(
        init=read_by(cell, output_size, weight_init, bias_init),
        output=lambda params, h: affine(cell.output(params.cell, h), params.W_hy, params.b_y),
    )


def read_by(
    seen: Any, output_size: int, weight_init: Initializer, bias_init: Initializer
) -> Callable[[PRNGKeyArray], ReadoutParams]:
    """The init of a linear layer that reads a cell or a layer, and of what it reads."""
    require_positive(output_size=output_size)

    def init(key: PRNGKeyArray) -> ReadoutParams:
        k_cell, k_W, k_b = jax.random.split(key, 3)
        params = seen.init(k_cell)
        h = seen_of(seen, params)
        return ReadoutParams(
            cell=params,
            W_hy=weight_init(k_W, StateReader(h.shape[-1], output_size), h.dtype),
            b_y=bias_init(k_b, (output_size,), h.dtype),
        )

    return init


@factory
def learned_start(cell: Cell) -> Cell:
    """Makes the state before the first step a parameter, which begins as the cell's own start.

    A reset puts it back, and gradients reach it from there as from the first step.

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

    return inside(cell)._replace(init=init, start=start)


@factory
def residual(cell: Cell) -> Cell:
    """Adds the input to what is seen: y_t = cell's y_t + x_t.

    The recurrence does not see the sum; the state is ``ResidualState(cell, x)``, where x is 0 before the first step.

    Args:
        cell: whose inputs and outputs are as long as each other.

    Raises:
        ValueError: at the first step, when they are not, or when x_t is an id.

    Reference: Graves. Generating sequences with recurrent neural networks. 2013, whose skip connections have weights;
    He, Zhang, Ren, Sun. Deep residual learning for image recognition. 2016.
    """

    require_cell("cell", cell)

    def project(params: Params, x: PyTree) -> tuple[PyTree, Array]:
        return cell.project(params, x), unkey(x)[0]

    def start(params: Params, batch_shape: tuple[int, ...] = ()) -> ResidualState:
        h = cell.start(params, batch_shape)
        y = jax.eval_shape(cell.output, params, h)
        return ResidualState(h, jnp.zeros(y.shape, y.dtype))

    def advance(params: Params, state: ResidualState, u: tuple[PyTree, Array]) -> ResidualState:
        u, x = u
        h = cell.advance(params, state.cell, u)
        y = jax.eval_shape(cell.output, params, h)
        if y.shape != x.shape:
            raise ValueError(f"residual got x {list(x.shape)} and y {list(y.shape)}; want them alike: x_t + y_t")
        return ResidualState(h, x.astype(y.dtype))

    def output(params: Params, state: ResidualState) -> Array:
        return cell.output(params, state.cell) + state.x

    return Cell(cell.init, start, project, advance, output, keyed=cell.keyed)


@factory
def stack(*cells: Cell) -> Cell:
    """One cell on top of another: each sees the output that the one below has at the same step.

    Params and state are tuples, from the bottom up; the top is what is seen.

    Args:
        cells: from the bottom up, at least one.

    Raises:
        ValueError: when there is none, or a cell's output does not fit the cell above.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru, lstm, outputs, rollout, stack
    >>> cell = stack(lstm(input_size=3, hidden_size=8), gru(input_size=8, hidden_size=5))
    >>> params = cell.init(jax.random.key(0))
    >>> _, hs = rollout(cell, params, cell.start(params), jnp.ones((7, 3)))
    >>> outputs(cell, params, hs).shape
    (7, 5)

    Reference: Schmidhuber. Learning complex, extended sequences using the principle of history compression. 1992; El
    Hihi, Bengio. Hierarchical recurrent neural networks for long-term dependencies. 1995.
    """
    if not cells:
        raise ValueError("stack got no cell; want at least one, from the bottom up")
    for layer, cell in enumerate(cells):
        require_cell(f"layer {layer} of stack", cell)
    for layer in range(1, len(cells)):
        check_fit_above(cells[layer - 1], cells[layer], layer)

    def init(key: PRNGKeyArray) -> tuple[Params, ...]:
        return tuple(cell.init(k) for cell, k in zip(cells, jax.random.split(key, len(cells)), strict=True))

    def start(params: tuple[Params, ...], batch_shape: tuple[int, ...] = ()) -> tuple[State, ...]:
        return tuple(cell.start(p, batch_shape) for cell, p in zip(cells, params, strict=True))

    def project(params: tuple[Params, ...], x: PyTree) -> tuple[PyTree, Keys | None]:
        x, key = unkey(x)
        return cells[0].project(params[0], feed(cells[0], x, key, 0)), key

    def advance(params: tuple[Params, ...], hs: tuple[State, ...], u: tuple[PyTree, Keys | None]) -> tuple[State, ...]:
        u, key = u
        above = [cells[0].advance(params[0], hs[0], u)]
        for layer in range(1, len(cells)):
            y = cells[layer - 1].output(params[layer - 1], above[-1])
            above.append(cells[layer].step(params[layer], hs[layer], feed(cells[layer], y, key, layer)))
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
    """A cell that keeps its params in their own type and computes in another: params, inputs and state are cast.

    The output has the params' type again, so that a loss is summed in it; gradients are summed over time in it too.

    Args:
        cell: any cell, with params of float32 as a rule.
        dtype: of the state and of every product, ``jnp.bfloat16`` or ``jnp.float16``.

    Raises:
        ValueError: for a dtype in which no cell computes.

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
        own = jnp.result_type(*filter(is_floating, jax.tree.leaves(params)))
        y = cell.output(low(params), h)
        return jax.tree.map(lambda a: a.astype(own) if is_floating(a) else a, y)

    return cell._replace(
        start=lambda params, batch_shape=(): low(cell.start(low(params), batch_shape)),
        project=lambda params, x: cell.project(low(params), low(x)),
        advance=lambda params, h, u: cell.advance(low(params), h, u),
        output=output,
        coefficients=coefficients and (lambda params, u: coefficients(low(params), u)),
    )


def check_fit_above(below: Cell, above: Cell, layer: int) -> None:
    """Raises a ValueError that names both cells, unless one step of ``above`` takes what is seen of ``below``."""
    key = jax.random.key(0)
    params, below_params = jax.eval_shape(above.init, key), jax.eval_shape(below.init, key)
    y = seen_of(below, below_params)
    try:
        jax.eval_shape(lambda p, y: above.step(p, above.start(p), y), params, y)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"stack got layer {layer - 1} ({name_of(below_params)}), whose output is {y.dtype}{list(y.shape)}, under "
            f"layer {layer} ({name_of(params)}), which does not take it: {str(error).splitlines()[0]}"
        ) from error


def seen_of(cell: Any, params: Params) -> jax.ShapeDtypeStruct:
    """Shape and type of one example's output."""
    return jax.eval_shape(lambda p: cell.output(p, cell.start(p)), params)


def name_of(params: Params) -> str:
    """What to call a cell in an error: the name of its params' type, down to the innermost cell.

    >>> from rnn_jax import gru, readout
    >>> name_of(readout(gru(2, 3), 4).init(jax.random.key(0)))
    'Readout of GRU'
    """
    name = type(params).__name__.removesuffix("Params")
    return f"{name} of {name_of(params.cell)}" if hasattr(params, "cell") else name


def inside(cell: Cell, name: str = "cell") -> Cell:
    """``cell`` as part of something larger, whose params hold its own under this name."""
    require_cell("cell", cell)
    within = cell.coefficients

    def mine(params: Params) -> Params:
        if not hasattr(params, name):
            raise ValueError(f"params got {type(params).__name__}, which hold no {name}; want those of cell.init(key)")
        return getattr(params, name)

    return cell._replace(
        start=lambda params, batch_shape=(): cell.start(mine(params), batch_shape),
        project=lambda params, x: cell.project(mine(params), x),
        advance=lambda params, h, u: cell.advance(mine(params), h, u),
        output=lambda params, h: cell.output(mine(params), h),
        coefficients=within and (lambda params, u: within(mine(params), u)),
    )
