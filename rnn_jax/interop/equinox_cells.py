"""Recurrent cells of equinox as cells, and cells as modules of equinox."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from rnn_jax.interop.adapters import (
    adapted_cell,
    described,
    floating_type,
    library,
    named,
    one_input,
    require_fixed_constants,
    require_params,
    their_rules,
)
from rnn_jax.machinery.checks import in_one_line
from rnn_jax.types import Cell, Keyed, Params, State, require_cell

__all__ = ["as_equinox", "cell_from_equinox"]


def cell_from_equinox(module: Any, x: PyTree = None, *, start: State | Callable[[Any], State] = None) -> Cell:
    """The cell of a recurrent cell of equinox: ``eqx.nn.GRUCell``, ``eqx.nn.LSTMCell``, or a module of your own.

    A module is called as ``module(x, h) -> h`` or ``module(x, h) -> (h, y)``, without batch axes, which ``jax.vmap``
    adds. Without y, the output is the state, and h of the ``(h, c)`` of an ``eqx.nn.LSTMCell``. Params are
    ``eqx.filter(module, eqx.is_inexact_array)``: the module with its floating arrays alone. All else in it is
    constant. ``init`` returns the weights of the module, for any key. Of a function that makes a module, ``init(key)``
    draws them, so that many seeds can be compared; a function whose module draws constants by the key too is refused.
    An output that is no function of the new state and the params is kept beside it, ``WithOutput(state, output)``: its
    docstring says what lag 0 is. Make the cell once: it is equal to itself alone.

    Args:
        module: or a function that makes one, such as ``lambda key: eqx.nn.GRUCell(3, 4, key=key)``.
        x: one input without batch axes: its size I, its shape, or an example of its shape and type (an array, or a
            pytree of arrays). A module with ``input_size`` does not need it.
        start: the state before the first step of one example, or a function of the module that returns it, such as
            ``lambda module: module.h0``, which is then learned. A module with ``hidden_size`` whose state is one
            array of zeros does not need it.

    Raises:
        ValueError: when equinox is missing, for anything but a recurrent cell, for a missing x or start, or for a
            module whose step needs a key.

    Example, where equinox is installed: how far back the gradient of a GRU of equinox reaches::

        cell = cell_from_equinox(eqx.nn.GRUCell(3, 16, key=jax.random.key(0)))
        params = cell.init(jax.random.key(0))
        lags = lag_gradients(cell, params, cell.start(params, (8,)), xs, loss)

    Reference: Kidger, Garcia. Equinox: neural networks in JAX via callable PyTrees and filtered transformations. 2021.
    """
    eqx = library("equinox", "equinox")
    wanted = "a recurrent cell of equinox, or a function of a key that makes one"
    make, made = None, module
    if not isinstance(module, eqx.Module):
        if not callable(module):
            raise ValueError(f"module got {named(module)}; want {wanted}")
        make = module
        with described("module", make, wanted):
            made = make(jax.random.key(0))
    if not isinstance(made, eqx.Module) or not callable(made):
        raise ValueError(
            f"module got {named(module)}{'' if make is None else f', which makes {named(made)}'}; want {wanted}"
        )
    if make is not None:
        with described("module", make, wanted):
            require_fixed_constants("module", make, lambda key: eqx.filter(make(key), is_constant_array))
    weights, constants = eqx.partition(made, eqx.is_inexact_array)
    x = one_input(getattr(made, "input_size", None) if x is None else x, floating_type(weights))
    with described("start", start, "the first state of one example, such as jnp.zeros(4)"):
        first = first_state(made, start)
        state = jax.eval_shape(lambda params: first(eqx.combine(params, constants)), weights)

    def init(key: PRNGKeyArray) -> Params:
        return jax.tree.map(jnp.copy, weights) if make is None else eqx.filter(make(key), eqx.is_inexact_array)

    def start_of(params: Params, batch_shape: tuple[int, ...] = ()) -> State:
        h = first(eqx.combine(params, constants))
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (*batch_shape, *a.shape)), h)

    def one_step(params: Params, h: State, x: PyTree) -> tuple[State, PyTree]:
        with their_rules():
            module = eqx.combine(params, constants)
            return state_and_output(module, state, module(x, h))

    def step(params: Params, h: State, x: PyTree) -> tuple[State, PyTree]:
        function = one_step
        for _ in range(jax.tree.leaves(h)[0].ndim - jax.tree.leaves(state)[0].ndim):
            function = jax.vmap(function, in_axes=(None, 0, 0))
        return function(params, h, x)

    return adapted_cell("module", make or module, init, start_of, step, x, named(made))


def is_constant_array(part: Any) -> bool:
    """Whether a part of a module is an array, but not a floating one."""
    eqx = library("equinox", "equinox")
    return eqx.is_array(part) and not eqx.is_inexact_array(part)


def first_state(module: Any, start: Any) -> Callable[[Any], State]:
    """The function ``(module) -> h_0`` for one example."""
    if callable(start):
        return start
    if start is not None:
        if not all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(start)):
            raise ValueError(f"start got {in_one_line(start)}; want arrays, the first state of one example, such as "
                             "jnp.zeros(4)")  # fmt: skip
        return lambda module: jax.tree.map(jnp.asarray, start)
    if isinstance(module, equinox_class()):
        return lambda module: module.start()
    size = getattr(module, "hidden_size", None)
    if size is None:
        raise ValueError(f"start got None for {named(module)}, which has no hidden_size; want the first state of one "
                         "example, such as jnp.zeros(4), of a recurrent cell")  # fmt: skip
    zeros = functools.partial(jnp.zeros, size, floating_type(module))
    is_lstm = isinstance(module, library("equinox", "equinox").nn.LSTMCell)
    return lambda module: (zeros(), zeros()) if is_lstm else zeros()


def state_and_output(module: Any, before: State, result: Any) -> tuple[State, PyTree]:
    """The new state and the output in the result of a module: it is the state, or a pair whose first is the state."""
    tree = jax.tree.structure(before)
    if jax.tree.structure(result) == tree:
        if isinstance(module, equinox_class()):
            return result, module.output(result)
        return result, result[0] if isinstance(module, library("equinox", "equinox").nn.LSTMCell) else result
    if isinstance(result, tuple) and len(result) == 2 and jax.tree.structure(result[0]) == tree:
        return result
    raise ValueError(f"module got {named(module)}, whose result is {jax.tree.structure(result)}; want the state "
                     f"{tree}, or a pair (state, output)")  # fmt: skip


def as_equinox(cell: Cell, params: Params) -> Any:
    """A module of equinox that is this cell, for models of your own.

    It is called as ``module(x, h) -> h``, as cells of equinox are, with or without batch axes.
    ``module.start(batch_shape=())`` is the state before the first step, and ``module.output(h)`` the output of a
    state. Its arrays are those of ``module.params``. A cell that draws computes the mean, unless a key is given,
    ``module(x, h, key=key)``, one for each example.

    Args:
        cell: the recurrence; x is ``(*batch, I)``, or one id, and h the state of the cell, such as ``(*batch, H)``.
        params: its weights, as ``cell.init`` makes them.

    Raises:
        ValueError: when equinox is missing, for anything but a cell, or params of another cell.

    Example, where equinox is installed: a network that classifies a sequence::

        class Classifier(eqx.Module):
            cell: eqx.Module
            head: eqx.nn.Linear

            def __call__(self, xs):
                h, _ = jax.lax.scan(lambda h, x: (self.cell(x, h), None), self.cell.start(), xs)
                return self.head(self.cell.output(h))

        cell = peephole_lstm(3, 16)
        model = Classifier(as_equinox(cell, cell.init(key)), eqx.nn.Linear(16, 2, key=key))

    Reference: Kidger, Garcia. Equinox: neural networks in JAX via callable PyTrees and filtered transformations. 2021.
    """
    library("equinox", "equinox")
    require_cell("cell", cell)
    require_params(cell, params)
    return equinox_class()(params, cell)


@functools.cache
def equinox_class() -> Any:
    """The class of the modules that ``as_equinox`` returns."""
    eqx = library("equinox", "equinox")

    class EquinoxCell(eqx.Module):
        """A cell of rnn_jax as a module of equinox."""

        params: Any
        cell: Any = eqx.field(static=True)

        def __call__(self, input: PyTree, hidden: State, *, key: PRNGKeyArray | None = None) -> State:
            x = Keyed(input, key) if key is not None and self.cell.keyed else input
            return self.cell.step(self.params, hidden, x)

        def start(self, batch_shape: tuple[int, ...] = ()) -> State:
            return self.cell.start(self.params, batch_shape)

        def output(self, hidden: State) -> PyTree:
            return self.cell.output(self.params, hidden)

    return EquinoxCell
