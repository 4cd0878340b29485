"""Cells as recurrent cells of flax, of linen and of nnx."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from rnn_jax.interop.adapters import library, require_params
from rnn_jax.machinery.checks import in_one_line, is_whole
from rnn_jax.machinery.programs import dependent, equations_of, variables
from rnn_jax.types import Cell, Params, State, require_cell

__all__ = ["as_linen", "as_nnx"]


def as_linen(cell: Cell, *, feature_axes: int = 1) -> Any:
    """A module of flax.linen that is this cell, for ``nn.RNN``, ``nn.Bidirectional`` and models of your own.

    It is called as ``module(carry, x) -> (carry, y)``. The carry is the state of the cell. Its params are
    ``{"weights": params}``, with params as ``cell.init`` makes them. A cell that draws computes the mean, unless x is
    ``Keyed(x, key)``.

    Args:
        cell: the recurrence.
        feature_axes: axes of one input: 1 for vectors, 0 for ids, and one more than those of space for images.

    Raises:
        ValueError: for anything but a cell, or a negative feature_axes.

    Example: an LSTM with peepholes in ``nn.RNN``.

    >>> import flax.linen as nn
    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import peephole_lstm
    >>> from rnn_jax.interop import as_linen
    >>> model = nn.Sequential([nn.RNN(as_linen(peephole_lstm(3, 8))), nn.Dense(2, param_dtype=float)])
    >>> xs = jnp.ones((4, 10, 3))  # batch first, as flax has it
    >>> variables = model.init(jax.random.key(0), xs)
    >>> model.apply(variables, xs).shape
    (4, 10, 2)
    """
    require_cell("cell", cell)
    require_axes(feature_axes)
    return linen_class()(cell, feature_axes)


def as_nnx(cell: Cell, params: Params, *, feature_axes: int = 1) -> Any:
    """A module of flax.nnx that is this cell, for ``nnx.RNN``, ``nnx.Bidirectional`` and models of your own.

    It is called as ``module(carry, x) -> (carry, y)``. The carry is the state of the cell. ``module.weights`` has the
    form of params, with a ``nnx.Param`` for each floating array. A cell that draws computes the mean, unless x is
    ``Keyed(x, key)``.

    Args:
        cell: the recurrence.
        params: its weights: in a model with ``rngs``, ``cell.init(rngs.params())``.
        feature_axes: as in ``as_linen``.

    Raises:
        ValueError: for anything but a cell, params of another cell, or a negative feature_axes.

    Example: an LSTM with peepholes in ``nnx.RNN``.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from rnn_jax import peephole_lstm
    >>> from rnn_jax.interop import as_nnx
    >>> cell, rngs = peephole_lstm(3, 8), nnx.Rngs(0)
    >>> model = nnx.RNN(as_nnx(cell, cell.init(rngs.params())))
    >>> model(jnp.ones((4, 10, 3))).shape
    (4, 10, 8)
    """
    require_cell("cell", cell)
    require_params(cell, params)
    require_axes(feature_axes)
    return nnx_class()(cell, params, feature_axes)


def require_axes(feature_axes: Any) -> None:
    """Raises a ValueError unless this is a number of axes."""
    if not is_whole(feature_axes) or feature_axes < 0:
        raise ValueError(f"feature_axes got {in_one_line(feature_axes)}; want 1 for vectors, or 0 for ids")


def leading_shape(input_shape: tuple[int, ...], feature_axes: int) -> tuple[int, ...]:
    """The batch axes of the shape of an input."""
    return tuple(input_shape)[: len(input_shape) - feature_axes]


@functools.cache
def linen_class() -> Any:
    """The class of the modules that ``as_linen`` returns."""
    nn, core = library("flax.linen", "flax"), library("flax.core", "flax")

    class LinenCell(nn.RNNCellBase):
        """A cell of rnn_jax as a recurrent cell of linen."""

        cell: Any
        feature_axes: int = 1

        def setup(self) -> None:
            if not self.has_variable("params", "weights"):
                self.param("weights", self.cell.init)

        def own_params(self) -> Params:
            params = self.get_variable("params", "weights")
            return core.unfreeze(params) if isinstance(params, core.FrozenDict) else params

        def __call__(self, carry: State, inputs: PyTree) -> tuple[State, PyTree]:
            params = self.own_params()
            carry = self.cell.step(params, carry, inputs)
            return carry, self.cell.output(params, carry)

        def own_start(self, batch_shape: tuple[int, ...]) -> State:
            return self.cell.start(self.own_params(), batch_shape)

        @nn.nowrap
        def initialize_carry(self, rng: PRNGKeyArray, input_shape: tuple[int, ...]) -> State:
            batch_shape = leading_shape(input_shape, self.feature_axes)
            if self.scope is not None:
                return self.own_start(batch_shape)
            require_fixed_start(self.cell)  # outside of a model there are no weights
            return self.cell.start(self.cell.init(rng), batch_shape)

        @property
        def num_feature_axes(self) -> int:
            return self.feature_axes

    return LinenCell


@functools.cache
def nnx_class() -> Any:
    """The class of the modules that ``as_nnx`` returns."""
    nnx = library("flax.nnx", "flax")

    class NNXCell(nnx.RNNCellBase):
        """A cell of rnn_jax as a recurrent cell of nnx."""

        def __init__(self, cell: Cell, params: Params, feature_axes: int) -> None:
            self.cell = nnx.static(cell)
            self.feature_axes = feature_axes
            self.weights = nnx.data(jax.tree.map(variable, params))

        def own_params(self) -> Params:
            return jax.tree.map(lambda a: a[...], self.weights, is_leaf=lambda a: isinstance(a, nnx.Variable))

        def __call__(self, carry: State, inputs: PyTree) -> tuple[State, PyTree]:
            params = self.own_params()
            carry = self.cell.step(params, carry, inputs)
            return carry, self.cell.output(params, carry)

        def initialize_carry(self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None) -> State:
            return self.cell.start(self.own_params(), leading_shape(input_shape, self.feature_axes))

        @property
        def num_feature_axes(self) -> int:
            return self.feature_axes

    def variable(a: Any) -> Any:
        a = jnp.asarray(a)
        return (nnx.Param if jnp.issubdtype(a.dtype, jnp.inexact) else nnx.Variable)(a)

    return NNXCell


def require_fixed_start(cell: Cell) -> None:
    """Raises a ValueError where the start of a cell depends on its params."""
    program = equations_of(cell.start, jax.eval_shape(cell.init, jax.random.key(0)))
    if dependent(program.eqns, program.args).intersection(variables(program.results)):
        raise ValueError(
            "initialize_carry got no params, and the start of this cell is learned; want it inside of a model, or "
            "module.apply(variables, key, input_shape, method='initialize_carry')"
        )
