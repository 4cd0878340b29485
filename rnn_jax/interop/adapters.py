"""What the adapters of all libraries share: one cell made of another library's step, and the checks of it.

A step of another library returns ``(h, y)``, but the output of a cell is a function of its state. Where y is a part of
the new state, or computed from it and the params alone, as by a readout, the equations of that part are the output: so
the gradient of a loss of y_T with respect to h_T is found, and no y is stored. Else y is kept beside the state.
"""

import contextlib
import functools
import importlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike, PRNGKeyArray, PyTree

from rnn_jax.machinery.checks import MisfitError, in_one_line, is_whole, require_batch_shape, require_positive
from rnn_jax.machinery.programs import (
    dependent,
    equations_of,
    is_variable,
    made_and_read,
    needed,
    run,
    values_of,
    variables,
)
from rnn_jax.machinery.reprs import repr_of_arrays
from rnn_jax.schedules.driver import describe_shapes, in_words, parts_of
from rnn_jax.types import Cell, Params, Start, State

__all__ = ["WithOutput"]

Step = Callable[[Params, State, PyTree], tuple[State, PyTree]]
"""A step of another library, ``(params, h, x) -> (h, y)``, for any batch axes."""


class WithOutput(NamedTuple):
    """The state of a cell whose output y_t cannot be computed from h_t alone: the output is then kept beside it.

    A loss of y_T has no gradient with respect to h_T alone: at lag 0 ``lag_gradients`` has −∞ in ``log_norm``, and
    ln‖∂L_T/∂y_T‖ in ``log_norm_of.output``. All other lags are those of h.
    """

    state: State
    """h_t, the state as the other library has it."""
    output: PyTree
    """y_t; zeros before the first step. No later step reads it."""

    __repr__ = repr_of_arrays


def library(module: str, package: str) -> Any:
    """A module of another library; a ValueError that names the package where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"{module} got no package {package}; want it: pip install {package}") from error


def adapted_cell(
    name: str,
    given: Any,
    init: Callable[[PRNGKeyArray], Params],
    start: Start,
    step: Step,
    x: PyTree,
    module: str,
) -> Cell:
    """The cell of another library's step, after one abstract step has shown that it is one.

    Args:
        name: of the argument that the user gave, for error messages.
        given: its value.
        init: ``(key) -> params``.
        start: ``(params, batch_shape=()) -> h``.
        step: ``(params, h, x) -> (h, y)``.
        x: shapes and types of one input.
        module: the name of the module, which the text of the cell has.

    Raises:
        ValueError: for a step that fails, or that changes shapes or types of the state.
    """
    with described(name, given, "a recurrent cell whose step keeps the state's shapes and types"):
        params = jax.eval_shape(init, jax.random.key(0))
        dtype = floating_type(params)
        start = start_of_type(start, dtype)
        for batch in ((), (2,)):
            require_step(name, given, params, start, step, x, batch)
        seen = seen_output(
            step, params, jax.eval_shape(lambda params: start(params, (1,)), params), with_batch(x, (1,))
        )
    start, step = (naming_params(function, params) for function in (start, step))

    def project(params: Params, x_t: PyTree) -> PyTree:
        require_input(x, x_t)
        return x_t

    def inputs_for(params: Params, batch_shape: tuple[int, ...]) -> PyTree:
        return with_batch(x, batch_shape, dtype, floating_type(params))

    if seen is None:
        return with_names(module, cell_with_output(init, start, step, project, inputs_for))

    def advance(params: Params, h: State, x_t: PyTree) -> State:
        return step(params, h, x_t)[0]

    return with_names(module, Cell(init, start, project, advance, output_of(start, step, inputs_for, seen)))


def with_names(module: str, cell: Cell) -> Cell:
    """A cell whose functions are named after a module, for its text."""
    for field, function in cell._asdict().items():
        if callable(function):
            function.__name__ = f"{module}.{field}"
    return cell


def naming_params(function: Callable[..., Any], made: Params) -> Callable[..., Any]:
    """A function of params that raises a ValueError for params of another cell, once it has failed.

    Args:
        function: ``(params, ...)``, of the code of another library.
        made: shapes of the params that it takes.
    """

    @functools.wraps(function)
    def checked(params: Params, *args: Any) -> Any:
        try:
            return function(params, *args)
        except Exception:
            require_same_params(params, made)
            raise

    return checked


def start_of_type(start: Start, dtype: DTypeLike) -> Start:
    """A start whose arrays are its own, and have another type where the params have: params may be cast.

    Args:
        start: ``(params, batch_shape=()) -> h``.
        dtype: the type of the params for which it makes its states.
    """

    def typed_start(params: Params, batch_shape: tuple[int, ...] = ()) -> State:
        require_batch_shape(batch_shape)
        now = floating_type(params)
        h = start(params, batch_shape)
        return jax.tree.map(lambda a: jnp.array(a, now if a.dtype == dtype else a.dtype, copy=True), h)

    return typed_start


def cell_with_output(init: Callable, start: Start, step: Step, project: Callable, inputs_for: Callable) -> Cell:
    """The cell whose state holds the output of the step that made it."""

    def start_with_output(params: Params, batch_shape: tuple[int, ...] = ()) -> WithOutput:
        h = start(params, batch_shape)
        y = jax.eval_shape(step, params, h, inputs_for(params, batch_shape))[1]
        return WithOutput(h, jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), y))

    return Cell(
        init=init,
        start=start_with_output,
        project=project,
        advance=lambda params, h, x: WithOutput(*step(params, h.state, x)),
        output=lambda params, h: h.output,
    )


class Seen(NamedTuple):
    """The part of a step that computes its output from the new state and the params alone."""

    tree: Any
    outputs: list[Any]
    """Variables, or numbers."""
    eqns: list[Any]
    params: list[Any]
    state: list[Any]
    """Variables, or numbers, of the new state."""
    constants: dict[Any, Any]


def seen_output(step: Step, params: Params, h: State, x: PyTree) -> Seen | None:
    """The equations that compute the output from the new state and the params; None where they read anything else."""
    trees = []

    def flat(*args: Any) -> list[Any]:
        after, y = step(*args)
        trees[:] = [jax.tree.structure(y)]
        return [*jax.tree.leaves(after), *jax.tree.leaves(y)]

    program, size = equations_of(flat, params, h, x), len(jax.tree.leaves(h))
    state, outputs = program.results[:size], program.results[size:]
    given, weights = set(variables(state)), program.args[: len(jax.tree.leaves(params))]
    eqns = needed([eqn for eqn in program.eqns if given.isdisjoint(eqn.outvars)], outputs)
    made, read = made_and_read(eqns)
    known = given.union(weights, program.constants)
    if not known.issuperset(v for v in [*read, *variables(outputs)] if v not in made):
        return None
    return Seen(trees[0], outputs, eqns, weights, state, program.constants)


def output_of(start: Start, step: Step, inputs_for: Callable, seen: Seen) -> Callable[[Params, State], PyTree]:
    """The output ``(params, h) -> y`` of states with any leading axes: parts of them, or computed from them."""
    places = [[n for n, part in enumerate(seen.state) if part is y][:1] for y in seen.outputs]

    @functools.cache
    def seen_by(tree: Any, *leaves: Any) -> Seen:
        """The equations for params of these shapes and types, and a batch of one."""
        params = jax.tree.unflatten(tree, leaves)
        h = jax.eval_shape(lambda params: start(params, (1,)), params)
        found = seen_output(step, params, h, inputs_for(params, (1,)))
        assert found is not None
        return found

    def output(params: Params, h: State) -> PyTree:
        leaves = jax.tree.leaves(h)
        if all(places):
            return jax.tree.unflatten(seen.tree, [leaves[n] for (n,) in places])
        weights, tree = jax.tree.flatten(params)
        now = seen_by(tree, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in weights))

        def of_one(*leaves: Any) -> list[Any]:
            values = zip([*now.params, *now.state], [*weights, *(leaf[None] for leaf in leaves)], strict=True)
            known = now.constants | {v: value for v, value in values if is_variable(v)}
            return [y[0] for y in values_of(now.outputs, run(now.eqns, known))]

        for _ in range(leaves[0].ndim - jax.tree.leaves(jax.eval_shape(start, params))[0].ndim):
            of_one = jax.vmap(of_one)
        return jax.tree.unflatten(now.tree, of_one(*leaves))

    return output


def one_input(x: Any, dtype: DTypeLike = float) -> PyTree:
    """Shapes and types of one input: of a size, a shape, or an example without batch axes.

    >>> one_input(3), one_input((2, 2, 1)).shape, one_input(jnp.zeros((), int)).dtype.name
    (ShapeDtypeStruct(shape=(3,), dtype=float64), (2, 2, 1), 'int64')
    """
    if is_whole(x) or (isinstance(x, tuple) and all(map(is_whole, x))):
        shape = x if isinstance(x, tuple) else (x,)
        for size in shape:
            require_positive(x=size)
        return jax.ShapeDtypeStruct(shape, jnp.zeros(0, dtype).dtype)
    if not jax.tree.leaves(x) or not all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(x)):
        raise ValueError(f"x got {in_one_line(x)}; want one input: its size, such as 3, its shape, or an example of it")
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)


def floating_type(params: Params) -> DTypeLike:
    """The type of the first floating array of params; the default type where there is none."""
    types = (leaf.dtype for leaf in jax.tree.leaves(params))
    return next((dtype for dtype in types if jnp.issubdtype(dtype, jnp.floating)), jnp.zeros(()).dtype)


def with_batch(x: PyTree, batch_shape: tuple[int, ...], was: Any = None, now: Any = None) -> PyTree:
    """Shapes and types of the inputs of a batch, with another type in the place of one."""
    types = {was: now}
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((*batch_shape, *a.shape), types.get(a.dtype, a.dtype)), x)


def zeros_like_input(x: PyTree) -> PyTree:
    """An input of zeros."""
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), x)


def require_input(x: PyTree, given: PyTree) -> None:
    """Raises a ValueError for inputs that differ from one input ``x`` in more than leading axes and precision."""
    wanted, got = describe_shapes(x), describe_shapes(given)
    if jax.tree.structure(given) != jax.tree.structure(x):
        raise MisfitError(f"xs got {got or in_one_line(given)} in a step; want {wanted} after the batch axes")
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(x), strict=True):
        if a.shape[max(a.ndim - b.ndim, 0) :] != b.shape:
            raise MisfitError(f"xs got {got} in a step; want {wanted} after the batch axes")
        kinds = jnp.floating, jnp.complexfloating, jnp.integer
        if any(jnp.issubdtype(a.dtype, kind) != jnp.issubdtype(b.dtype, kind) for kind in kinds):
            hint = ": of ids, jax.nn.one_hot(ids, I)" if jnp.issubdtype(a.dtype, jnp.integer) else ""
            raise MisfitError(f"xs got {got} in a step; want {wanted} after the batch axes{hint}")


def require_params(cell: Cell, params: Params) -> None:
    """Raises a ValueError unless params have the paths, shapes and kinds of numbers that ``cell.init`` makes."""
    require_same_params(params, jax.eval_shape(cell.init, jax.random.key(0)))


def require_same_params(params: Params, made: Params) -> None:
    """Raises a ValueError unless params have the paths, shapes and kinds of numbers of others."""
    for got, wanted in itertools.zip_longest(parts_of(params), parts_of(made), fillvalue=("no array", "", ())):
        if (got[0], got[2]) != (wanted[0], wanted[2]) or is_inexact(got[1]) != is_inexact(wanted[1]):
            raise ValueError(f"params got {in_words(got)}, where cell.init(key) makes {in_words(wanted)}; want params "
                             "of this cell")  # fmt: skip


def is_inexact(dtype: str) -> bool:
    """Whether the name of a type is that of floating or complex numbers."""
    return dtype.startswith(("float", "bfloat", "complex"))


def require_fixed_constants(name: str, given: Any, constants_of: Callable[[PRNGKeyArray], PyTree]) -> None:
    """Raises a ValueError where what a module holds beside its params depends on the key with which it is made.

    Args:
        name, given: of the argument that the user gave, a function that makes the module.
        constants_of: ``(key) -> arrays`` that are no params.
    """
    paths = []

    def flat(key: PRNGKeyArray) -> list[Any]:
        with_paths = jax.tree.leaves_with_path(constants_of(key))
        paths[:] = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in with_paths]
        return [leaf for _, leaf in with_paths]

    program = equations_of(flat, jax.random.key(0))
    drawn = dependent(program.eqns, program.args)
    for path, part in zip(paths, program.results, strict=True):
        if is_variable(part) and part in drawn:
            path = path.removesuffix(".value")
            raise ValueError(f"{name} got {named(given)}, whose {path} depends on the key but is no param; want it in "
                             "the params, or a module that is made already")  # fmt: skip


def require_step(
    name: str, given: Any, params: Params, start: Start, step: Step, x: PyTree, batch: tuple[int, ...]
) -> None:
    """Raises a ValueError unless an abstract step keeps the state, and each part of the state has the batch axes."""
    one = jax.eval_shape(lambda params: start(params), params)
    before = jax.eval_shape(lambda params: start(params, batch), params)
    if not jax.tree.leaves(one):
        raise ValueError(f"{name} got {named(given)}, which has no state; want a recurrent cell")
    for single, many in zip(parts_of(one), parts_of(before), strict=True):
        require_shape(name, given, many, (*batch, *single[2]), batch)
    after, y = jax.eval_shape(step, params, before, with_batch(x, batch))
    for part in parts_of(y):
        require_shape(name, given, part, (*batch, *part[2][len(batch) :]), batch)
    kept = describe_shapes(before) == describe_shapes(after)
    if not kept or jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError(
            f"{name} got {named(given)}, whose step makes {describe_shapes(after)} of the state "
            f"{describe_shapes(before)} and x {describe_shapes(x)}; want the same shapes and types"
        )


def require_shape(name: str, given: Any, part: Any, wanted: tuple[int, ...], batch: tuple[int, ...]) -> None:
    """Raises a ValueError where a part of a state or of an output lacks the batch axes."""
    if part[2] != wanted:
        raise ValueError(f"{name} got {named(given)}, which makes {in_words(part)} for a batch {batch}; want the batch "
                         "axes to lead in every part of its state and its output")  # fmt: skip


@contextlib.contextmanager
def their_rules() -> Iterator[None]:
    """A context for code of another library: JAX promotes ranks and types, as it does by default."""
    try:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            yield
    except (TypeError, ValueError, LookupError, AttributeError):
        raise
    except Exception as error:  # an error of a class of the other library
        raise ValueError(first_words(error)) from error


@contextlib.contextmanager
def described(name: str, given: Any, wanted: str) -> Iterator[None]:
    """A context that turns any error of another library into a ValueError of one line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and " got " in str(error).split(";")[0] and "; want " in str(error):
            raise  # one line already
        raise ValueError(
            f"{name} got {named(given)}, which raised {type(error).__name__} ({first_words(error)}); want {wanted}"
        ) from error


def named(given: Any) -> str:
    """The class of a module, or the name of a function."""
    return getattr(given, "__name__", None) or type(given).__name__


def first_words(error: BaseException) -> str:
    """An error message in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]
