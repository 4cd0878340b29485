"""Recurrent cores of haiku as cells."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PRNGKeyArray, PyTree

from rnn_jax.interop.adapters import (
    adapted_cell,
    described,
    library,
    named,
    one_input,
    their_rules,
    with_batch,
    zeros_like_input,
)
from rnn_jax.types import Cell, Params, State

__all__ = ["cell_from_haiku"]


def cell_from_haiku(make: Callable[[], Any], x: PyTree) -> Cell:
    """The cell of a recurrent core of haiku: ``hk.GRU``, a ``hk.DeepRNN``, or a core of your own.

    A core is called as ``core(x, state) -> (y, state)`` and has ``initial_state(batch_size)``. Params are those of
    haiku, ``{module: {name: array}}``, as ``hk.transform`` returns them; the state has the form of
    ``core.initial_state``. A start that the core learns is among the params. An output that is no function of the new
    state and the params is kept beside it, ``WithOutput(state, output)``: its docstring says what lag 0 is. A core has
    one batch axis: several are one in its step, and a single example is a batch of one. Make the cell once: it is equal
    to itself alone.

    Args:
        make: makes the core, such as ``lambda: hk.GRU(4)``: haiku makes modules inside of ``hk.transform`` alone.
        x: one input without batch axes: its size I, its shape, or an example of its shape and type (an array, or a
            pytree of arrays). Params of haiku have the type of the inputs.

    Raises:
        ValueError: when haiku is missing, for a function that makes no recurrent core, or a core that draws random
            numbers or has a state of its own (``hk.get_state``).

    Example, where haiku is installed: how far back the gradient of a GRU of haiku reaches::

        cell = cell_from_haiku(lambda: hk.GRU(16), 3)
        params = cell.init(jax.random.key(0))
        lags = lag_gradients(cell, params, cell.start(params, (8,)), xs, loss)

    Reference: Hennigan, Cai, Norman, Martens, Babuschkin. Haiku: Sonnet for JAX. 2020.
    """
    hk = library("haiku", "dm-haiku")
    if not callable(make):
        raise ValueError(f"make got {named(make)}; want a function that makes a core, such as lambda: hk.GRU(4)")

    names = []

    def functions() -> tuple[Callable, tuple[Callable, Callable]]:
        core: Any = make()
        names[:] = [named(core)]
        first = getattr(core, "initial_state", None)
        if first is None:
            raise ValueError(f"make got {named(make)}, which makes {named(core)}; want a recurrent core of haiku")
        return lambda x: core(x, first(1)), (lambda size: first(size), lambda x, h: core(x, h))

    x = one_input(x)
    wanted = "a function that makes a recurrent core of haiku, such as lambda: hk.GRU(4)"
    with described("make", make, wanted):
        core = hk.multi_transform_with_state(functions)

    def init(key: PRNGKeyArray) -> Params:
        with their_rules():
            params, held = core.init(key, zeros_like_input(with_batch(x, (1,))))
        if held:
            raise ValueError(f"make got {named(make)}, whose core has a state of its own, {', '.join(held)}; want one "
                             "whose only state is that which it is given")  # fmt: skip
        return params

    with described("make", make, wanted):
        apply_start, apply_step = core.apply
        shapes = jax.eval_shape(lambda key: apply_start(init(key), {}, None, 1)[0], jax.random.key(0))
        ndims = [leaf.ndim - 1 for leaf in jax.tree.leaves(shapes)]

    def start(params: Params, batch_shape: tuple[int, ...] = ()) -> State:
        with their_rules():
            h, _ = apply_start(params, {}, None, math.prod(batch_shape))
        return h if len(batch_shape) == 1 else jax.tree.map(lambda a: a.reshape(*batch_shape, *a.shape[1:]), h)

    def step(params: Params, h: State, x: PyTree) -> tuple[State, PyTree]:
        first = jax.tree.leaves(h)[0]
        batch = first.shape[: first.ndim - ndims[0]]
        h, x = in_one_axis(h, batch), in_one_axis(x, batch)
        with their_rules():
            (y, h), _ = apply_step(params, {}, None, x, h)
        if len(batch) == 1:
            return h, y
        return jax.tree.map(lambda a: a.reshape(*batch, *a.shape[1:]), (h, y))

    return adapted_cell("make", make, init, start, step, x, names[0])


def in_one_axis(tree: PyTree, batch: tuple[int, ...]) -> PyTree:
    """Arrays whose batch axes are one axis, as haiku wants them."""
    if len(batch) == 1:
        return tree
    for leaf in jax.tree.leaves(tree):
        if leaf.shape[: len(batch)] != batch:
            raise ValueError(f"xs got shape {leaf.shape} in a step; want the batch axes {batch} of the state")
    return jax.tree.map(lambda a: a.reshape(math.prod(batch), *a.shape[len(batch) :]), tree)
