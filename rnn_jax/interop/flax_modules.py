"""Cells as recurrent cells of flax, of linen and of nnx."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from rnn_jax.interop.adapters import described, library, require_params
from rnn_jax.machinery.checks import in_one_line, is_whole, require_switch
from rnn_jax.machinery.programs import dependent, equations_of, variables
from rnn_jax.types import Cell, Keyed, Params, State, batch_shape, require_cell

__all__ = ["as_linen", "as_nnx"]

NO_STREAM = (
    "rngs got no stream dropout in a step that draws; want rngs={'dropout': key} in apply, and in nn.RNN "
    "split_rngs={'params': False, 'dropout': True}"
)


def as_linen(cell: Cell, *, feature_axes: int = 1, deterministic: bool = True) -> Any:
    """A module of flax.linen that is this cell, for ``nn.RNN``, ``nn.Bidirectional`` and models of your own.

    It is called as ``module(carry, x) -> (carry, y)``: x is ``(*batch, I)``, the carry the state of the cell, such as
    ``(*batch, H)``. Its params are ``{"weights": params}``, with params as ``cell.init`` makes them.

    Args:
        cell: the recurrence.
        feature_axes: axes of one input: 1 for vectors, 0 for ids, and one more than those of space for images.
        deterministic: whether a cell that draws computes the mean. With False its keys are those of the stream
            ``dropout``: ``nn.RNN(module, split_rngs={"params": False, "dropout": True})`` and, in ``apply``,
            ``rngs={"dropout": key}``.

    Raises:
        ValueError: for anything but a cell, a negative feature_axes, a deterministic that is not True or False, and in
            a step that draws, for a missing stream.

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

    Reference: Heek, Levskaya, Oliver, Ritter, Rondepierre, Steiner, van Zee. Flax: a neural network library and
    ecosystem for JAX. 2024.
    """
    require_cell("cell", cell)
    require_axes(feature_axes)
    require_switch(deterministic=deterministic)
    return linen_class()(cell, feature_axes, deterministic)


def as_nnx(cell: Cell, params: Params, *, feature_axes: int = 1, rngs: Any = None) -> Any:
    """A module of flax.nnx that is this cell, for ``nnx.RNN``, ``nnx.Bidirectional`` and models of your own.

    It is called as ``module(carry, x) -> (carry, y)``: x is ``(*batch, I)``, the carry the state of the cell, such as
    ``(*batch, H)``. ``module.weights`` has the form of params, with a ``nnx.Param`` for each floating array.

    Args:
        cell: the recurrence.
        params: its weights: in a model with ``rngs``, ``cell.init(rngs.params())``.
        feature_axes: as in ``as_linen``.
        rngs: whose stream ``dropout`` gives the keys of a cell that draws. Without it, and after ``module.eval()``,
            the cell computes the mean.

    Raises:
        ValueError: for anything but a cell, params of another cell, a negative feature_axes, or other rngs than
            ``nnx.Rngs`` with such a stream.

    Example: an LSTM with peepholes in ``nnx.RNN``.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from rnn_jax import peephole_lstm
    >>> from rnn_jax.interop import as_nnx
    >>> cell, rngs = peephole_lstm(3, 8), nnx.Rngs(0)
    >>> model = nnx.RNN(as_nnx(cell, cell.init(rngs.params())))
    >>> model(jnp.ones((4, 10, 3))).shape
    (4, 10, 8)

    Reference: Heek, Levskaya, Oliver, Ritter, Rondepierre, Steiner, van Zee. Flax: a neural network library and
    ecosystem for JAX. 2024.
    """
    require_cell("cell", cell)
    require_params(cell, params)
    require_axes(feature_axes)
    with described("rngs", rngs, "nnx.Rngs with the stream dropout, such as nnx.Rngs(0)"):
        stream = None if rngs is None else rngs.dropout.fork()
    return nnx_class()(cell, params, feature_axes, stream)


def require_axes(feature_axes: Any) -> None:
    """Raises a ValueError unless this is a number of axes."""
    if not is_whole(feature_axes) or feature_axes < 0:
        raise ValueError(f"feature_axes got {in_one_line(feature_axes)}; want 1 for vectors, or 0 for ids")


def leading_shape(input_shape: tuple[int, ...], feature_axes: int) -> tuple[int, ...]:
    """The batch axes of the shape of an input; a ValueError for one with fewer axes than its features."""
    if len(input_shape) < feature_axes:
        raise ValueError(f"input_shape got {tuple(input_shape)}; want at least feature_axes {feature_axes} of them")
    return tuple(input_shape)[: len(input_shape) - feature_axes]


def with_keys(cell: Cell, params: Params, h: State, x: PyTree, key: PRNGKeyArray) -> Keyed:
    """An input with a key for each example."""
    return x if isinstance(x, Keyed) else Keyed(x, jax.random.split(key, batch_shape(cell, params, h)))


@functools.cache
def linen_class() -> Any:
    """The class of the modules that ``as_linen`` returns."""
    nn, core = library("flax.linen", "flax"), library("flax.core", "flax")

    class LinenCell(nn.RNNCellBase):
        """A cell of rnn_jax as a recurrent cell of linen."""

        cell: Any
        feature_axes: int = 1
        deterministic: bool = True

        def setup(self) -> None:
            if not self.has_variable("params", "weights"):
                self.param("weights", self.cell.init)

        def own_params(self) -> Params:
            params = self.get_variable("params", "weights")
            return core.unfreeze(params) if isinstance(params, core.FrozenDict) else params

        def __call__(self, carry: State, inputs: PyTree) -> tuple[State, PyTree]:
            params = self.own_params()
            if self.cell.keyed and not self.deterministic and not self.is_initializing():
                if not self.has_rng("dropout"):
                    raise ValueError(NO_STREAM)
                inputs = with_keys(self.cell, params, carry, inputs, self.make_rng("dropout"))
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

        def __init__(self, cell: Cell, params: Params, feature_axes: int, stream: Any) -> None:
            self.cell = nnx.static(cell)
            self.feature_axes = feature_axes
            self.deterministic = stream is None  # module.eval() and module.train() set it
            self.rngs = nnx.data(stream)
            self.weights = nnx.data(jax.tree.map(variable, params))

        def own_params(self) -> Params:
            return jax.tree.map(lambda a: a[...], self.weights, is_leaf=lambda a: isinstance(a, nnx.Variable))

        def __call__(self, carry: State, inputs: PyTree) -> tuple[State, PyTree]:
            params = self.own_params()
            if self.cell.keyed and not self.deterministic and self.rngs is not None:
                inputs = with_keys(self.cell, params, carry, inputs, self.rngs())
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
