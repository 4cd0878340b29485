"""Recurrent cells of flax, of linen and of nnx, as cells."""

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
    their_rules,
    zeros_like_input,
)
from rnn_jax.machinery.factories import factory
from rnn_jax.types import Cell, Params, State

__all__ = ["cell_from_flax"]


def cell_from_flax(module: Any, x: PyTree = None) -> Cell:
    """The cell of a recurrent cell of flax, of linen or nnx: ``GRUCell``, ``ConvLSTMCell``, or one of your own.

    A recurrent cell of flax is called as ``module(carry, x) -> (carry, y)`` and has ``initialize_carry``. The state of
    the cell is that carry, for an LSTM ``(c, h)``. Params have the form that flax gives them:

    - linen: ``variables["params"]``. ``init(key)`` draws them.
    - nnx: ``nnx.state(module, nnx.Param)``. ``init`` returns those that the module has when the cell is made, for any
      key. Of a function that makes a module, ``init(key)`` draws them, so that many seeds can be compared. All other
      variables of the module are constants; a function whose module draws them by the key too is refused.

    A start that the module learns is among the params. An initialiser of the carry that draws has the key that
    ``nn.RNN`` and ``nnx.RNN`` have by default: every seed and every window starts from the same draw. An output that is
    no function of the new carry and the params is kept beside it, ``WithOutput(state, output)``: its docstring says
    what lag 0 is. Make the cell once: it is equal to itself alone, except for equal modules of linen.

    Args:
        module: of linen or of nnx, or a function that makes one of nnx, such as
            ``lambda rngs: nnx.GRUCell(3, 4, rngs=rngs)``.
        x: one input without batch axes: its size I, its shape, or an example of its shape and type (an array, or a
            pytree of arrays). A module with ``in_features``, as those of nnx have, does not need it.

    Raises:
        ValueError: for anything but a recurrent cell, for a missing x, or for a module whose step draws random numbers
            or changes variables beside the carry, such as those of a batch norm. A module of linen may have no other
            collection than params, not even one that its step only reads.

    Example: three GRUs of flax, with three seeds, and their norms ‖∂y_T/∂h_{T−20}‖.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from rnn_jax import lag_gradients
    >>> from rnn_jax.interop import cell_from_flax
    >>> cell = cell_from_flax(lambda rngs: nnx.GRUCell(3, 8, param_dtype=float, rngs=rngs))
    >>> params = jax.vmap(cell.init)(jax.random.split(jax.random.key(0), 3))
    >>> def norms(params):
    ...     return lag_gradients(cell, params, cell.start(params), jnp.ones((20, 3)), lambda y: y.sum()).log_norm
    >>> print(jax.vmap(norms)(params)[:, 20].round(1))
    [-6.7 -5.  -6.4]

    Reference: Heek, Levskaya, Oliver, Ritter, Rondepierre, Steiner, van Zee. Flax: a neural network library and
    ecosystem for JAX. 2024.
    """
    linen, nnx = library("flax.linen", "flax"), library("flax.nnx", "flax")
    if isinstance(module, linen.Module):
        require_cell_of_flax(module)
        return cell_from_linen(module, x)
    if isinstance(module, nnx.Module):
        require_cell_of_flax(module)
        return cell_from_nnx(module, None, x)
    wanted = "a recurrent cell of flax, or a function of rngs that makes one of nnx"
    if not callable(module):
        raise ValueError(f"module got {named(module)}; want {wanted}")
    with described("module", module, wanted):
        made = module(nnx.Rngs(0))
    if not isinstance(made, nnx.Module):
        raise ValueError(f"module got {named(module)}, which makes {named(made)}; want {wanted}")
    require_cell_of_flax(made)
    others = nnx.Not(nnx.Any(nnx.Param, nnx.RngState))
    with described("module", module, wanted), their_rules():
        require_fixed_constants("module", module, lambda key: nnx.state(module(nnx.Rngs(key)), others))
    return cell_from_nnx(made, module, x)


def cell_from_linen(module: Any, x: PyTree) -> Cell:
    """The cell of a module of linen; equal modules give the same cell, so that nothing is compiled again."""
    if x is None:
        raise ValueError(f"x got None for {named(module)} of linen; want one input: its size, such as 3, or an example")
    if module.parent is not None:
        module = module.clone(parent=None)  # a copy that belongs to no model
    with described("module", module, "a recurrent cell of flax"):
        x = one_input(x, floating_type(jax.eval_shape(linen_init(module, one_input(x)), jax.random.key(0))))
    return linen_cell(module, x)


@factory
def linen_cell(module: Any, x: PyTree) -> Cell:
    """The cell of a module of linen whose inputs have these shapes and types."""

    def start(params: Params, batch_shape: tuple[int, ...] = ()) -> State:
        def first_carry(module: Any) -> State:
            return module.initialize_carry(jax.random.key(0), (*batch_shape, *jax.tree.leaves(x)[0].shape))

        with their_rules():
            return module.apply({"params": params}, method=first_carry)

    def step(params: Params, h: State, x: PyTree) -> tuple[State, PyTree]:
        with their_rules():
            return module.apply({"params": params}, h, x)

    return adapted_cell("module", module, linen_init(module, x), start, step, x, named(module))


def linen_init(module: Any, x: PyTree) -> Callable[[PRNGKeyArray], Params]:
    """The function ``(key) -> params`` of a module of linen, by a step from its first carry."""

    def one_step(module: Any, x: PyTree) -> Any:
        return module(module.initialize_carry(jax.random.key(0), jax.tree.leaves(x)[0].shape), x)

    def init(key: PRNGKeyArray) -> Params:
        with their_rules():
            variables = module.init(key, zeros_like_input(x), method=one_step)
        if others := sorted({*variables} - {"params"}):
            raise ValueError(f"module got {named(module)}, which has variables beside its params, {', '.join(others)}; "
                             "want one whose only state is the carry")  # fmt: skip
        return variables.get("params", {})

    return init


def cell_from_nnx(module: Any, make: Callable[[Any], Any] | None, x: PyTree) -> Cell:
    """The cell of a module of nnx, with its weights, or with those that ``make(rngs)`` draws."""
    nnx = library("flax.nnx", "flax")
    graph, *parts = nnx.split(module, nnx.Param, ...)
    weights, constants = jax.tree.map(lambda a: a, parts)  # variables that the module does not change
    x = one_input(getattr(module, "in_features", None) if x is None else x, floating_type(weights))

    def init(key: PRNGKeyArray) -> Params:
        if make is None:
            return jax.tree.map(jnp.copy, weights)
        with their_rules():
            return nnx.state(make(nnx.Rngs(key)), nnx.Param)

    def merged_with(params: Params) -> Any:
        return nnx.merge(graph, params, jax.tree.map(lambda a: a, constants))

    def start(params: Params, batch_shape: tuple[int, ...] = ()) -> State:
        with their_rules():
            shape = (*batch_shape, *jax.tree.leaves(x)[0].shape)
            return merged_with(params).initialize_carry(shape, nnx.RngStream(0, tag="carry"))

    def step(params: Params, h: State, x: PyTree) -> tuple[State, PyTree]:
        with their_rules():
            merged = merged_with(params)
            before = dict(jax.tree.leaves_with_path(nnx.state(merged)))
            h, y = merged(h, x)
            require_unchanged(module, before, nnx.state(merged))
        return h, y

    return adapted_cell("module", make or module, init, start, step, x, named(module))


def require_unchanged(module: Any, before: dict[Any, Any], after: PyTree) -> None:
    """Raises a ValueError where a step has changed a variable of a module, or made a new one."""
    changed = [path for path, leaf in jax.tree.leaves_with_path(after) if leaf is not before.get(path)]
    if changed:
        name = jax.tree_util.keystr(changed[0], simple=True, separator=".").removesuffix(".value")
        raise ValueError(f"module got {named(module)}, whose step changes its variable {name}; want one whose only "
                         "state is the carry: module.eval() where it draws or keeps statistics")  # fmt: skip


def require_cell_of_flax(module: Any) -> None:
    """Raises a ValueError for a module without a carry."""
    if not hasattr(module, "initialize_carry"):
        hint = ": its cell" if hasattr(module, "cell") else ""
        raise ValueError(f"module got {named(module)}; want a recurrent cell of flax, which has initialize_carry{hint}")
