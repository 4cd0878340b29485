"""The one idea: a recurrent cell is five pure functions.

Dimension letters, used everywhere: ``T`` time, ``B`` batch, ``I`` input, ``H`` hidden, ``O`` output, ``K`` lags or
window, ``V`` vocabulary, ``G`` gates. Time is the leading axis, a step works on the last one, and any axes between
them are batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Key, PRNGKeyArray, PyTree

from rnn_jax.machinery.factories import factory
from rnn_jax.machinery.reprs import repr_of_arrays, repr_of_call
from rnn_jax.machinery.sharding import where_leading

__all__ = [
    "Cell",
    "ComplexState",
    "Initializer",
    "Keyed",
    "Keys",
    "Params",
    "Start",
    "State",
    "batch_shape",
    "cell_from_step",
    "linear_cell",
]

Params = PyTree
State = PyTree
Keys = Key[Array, "..."]


@runtime_checkable
class Initializer(Protocol):
    """A function that draws an array, ``(key, shape, dtype) -> array``, as in ``jax.nn.initializers``."""

    def __call__(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
        """Returns an array of this shape and type."""
        ...


@runtime_checkable
class Start(Protocol):
    """The state before the first step: ``(params, batch_shape=()) -> h_0``."""

    def __call__(self, params: Params, batch_shape: tuple[int, ...] = ()) -> State:
        """Returns a state whose leading axes are ``batch_shape``."""
        ...


class Keyed(NamedTuple):
    """An input with a random key for this step, for a cell that draws; ``rnn_jax.keyed`` makes a sequence of them."""

    x: PyTree
    key: Keys
    """``(*batch)``: one key for each example, so that a batch, ``vmap`` and a loop draw the same numbers."""

    __repr__ = repr_of_arrays


class ComplexState(NamedTuple):
    """A state of complex numbers, as two real arrays."""

    re: Float[Array, "*batch H"]
    im: Float[Array, "*batch H"]

    __repr__ = repr_of_arrays


class Cell(NamedTuple):
    """A recurrent cell h_t = f_W(h_{t−1}, x_t), as five pure functions and two optional fields.

    A state ``h`` is one array ``(*batch, H)`` or a small tuple of them, such as ``LSTMState(h, c)``.
    """

    init: Callable[[PRNGKeyArray], Params]
    """``(key) -> params``."""
    start: Start
    """``(params, batch_shape=()) -> h``: the state before the first step, h_0."""
    project: Callable[[Params, PyTree], PyTree]
    """``(params, x) -> u``: the part that depends on the input alone; a schedule may compute all steps at once."""
    advance: Callable[[Params, State, PyTree], State]
    """``(params, h, u) -> h``: the recurrence."""
    output: Callable[[Params, State], PyTree]
    """``(params, h) -> y``: the output, which the next layer or the loss reads."""
    coefficients: Callable[[Params, PyTree], tuple[PyTree, PyTree]] | None = None
    """For recurrences that are linear in h, elementwise: ``(params, u) -> (a, b)`` with h_t = a ⊙ h_{t−1} + b. Like h
    they are pytrees; a ⊙ h is the complex product for each ``ComplexState``, and where a part of ``a`` is None, that
    part of h_t is b. The schedule ``associative`` uses it; ``linear_cell`` makes ``advance`` of it."""
    keyed: bool = False
    """Whether the cell draws random numbers: x may be ``Keyed(x, key)``. With a plain x it computes the mean."""

    __repr__ = repr_of_call

    def step(self, params: Params, h: State, x: PyTree) -> State:
        """One step h_t = f_W(h_{t−1}, x_t): the pure function ``(params, h, x) -> h``."""
        return self.advance(params, h, self.project(params, x))

    def restart(self, params: Params, h: State, first: Bool[Array, "*batch"]) -> State:
        """The state ``h``, replaced by ``start`` in those examples whose next input is the first of a new sequence.

        The counterpart of ``resets`` in ``rollout``, for a loop that makes one step at a time: an agent that acts in
        several environments, some of which have just been reset. No gradient flows from the new state back to ``h``:
        it is exactly zero, and NaN in ``h`` changes neither value nor gradient. A learned start receives its gradient.

        Args:
            params: the weights.
            h: the state after the last step, with the batch axes ``(*batch)``.
            first: True in each example that begins a new sequence.

        Returns:
            The state for the next ``step``.

        Raises:
            ValueError: when ``first`` is not boolean or has other axes than the batch axes of ``h``.

        Example: two environments with a policy and a value head; the second environment is reset after each step.

        >>> import jax, jax.numpy as jnp
        >>> from rnn_jax import gru, readout
        >>> agent = readout(gru(input_size=3, hidden_size=8), {"policy": 4, "value": 1})
        >>> params, observation = agent.init(jax.random.key(0)), jnp.ones((2, 3))
        >>> h, first = agent.start(params, (2,)), jnp.array([True, True])
        >>> for _ in range(5):
        ...     h = agent.step(params, agent.restart(params, h, first), observation)
        ...     actions = agent.output(params, h)["policy"].argmax(axis=-1)
        ...     first = jnp.array([False, True])  # observation, first = environments.step(actions)
        >>> bool((h[1] == agent.step(params, agent.start(params), observation[1])).all())
        True
        """
        first, batch = jnp.asarray(first), batch_shape(self, params, h)
        if first.dtype != jnp.bool_ or first.shape != batch:
            raise ValueError(f"first got {first.dtype}{list(first.shape)}; want bool{list(batch)}, the batch axes of h")
        return where_leading(first, self.start(params, batch), h)


def batch_shape(model: Any, params: Params, h: State) -> tuple[int, ...]:
    """The batch axes of a state: those that ``model.start(params)`` does not have."""
    one = jax.tree.leaves(jax.eval_shape(model.start, params))[0]
    many = jax.tree.leaves(h)[0]
    return many.shape[: many.ndim - one.ndim]


def require_cell(name: str, given: Any) -> None:
    """Raises a ValueError unless a value is a cell.

    >>> require_cell("cell", "gru")
    Traceback (most recent call last):
    ValueError: cell got str; want a Cell, such as gru(3, 4) makes
    """
    if not isinstance(given, Cell):
        raise ValueError(f"{name} got {type(given).__name__}; want a Cell, such as gru(3, 4) makes")


@factory
def cell_from_step(
    init: Callable[[PRNGKeyArray], Params],
    start: Start,
    step: Callable[[Params, State, Any], State],
    output: Callable[[Params, State], PyTree] | None = None,
) -> Cell:
    """A cell made of your own pure function ``step(params, h, x) -> h``.

    Its ``project`` is the identity, and without ``output`` the output is the whole state. If it reads ids from its own
    table E, ``E.at[x].get(mode="fill", fill_value=jnp.nan)`` gives NaN for an id outside the table, where ``E[x]``
    under ``jit`` would give the row of another id.

    Example: a leaky integrator h_t = a·h_{t−1} + x_t.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import cell_from_step, rollout
    >>> leaky = cell_from_step(
    ...     init=lambda key: jnp.asarray(0.5),
    ...     start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 1)),
    ...     step=lambda a, h, x: a * h + x,
    ... )
    >>> params = leaky.init(jax.random.key(0))
    >>> h, _ = rollout(leaky, params, leaky.start(params), jnp.ones((3, 1)))
    >>> print(h)
    [1.75]
    """
    return Cell(
        init=init,
        start=start,
        project=lambda params, x: x,
        advance=step,
        output=output or (lambda params, h: h),
    )


ALONE: Any = None
"""In coefficients, in place of a part of a: that part of h_t is b, whatever stood there before."""


def multiply_add(a: PyTree, h: State, b: State) -> State:
    """a ⊙ h + b for each part of a state, in complex numbers for a ``ComplexState``; b where a is None."""

    def part(h: Any, a: Any, b: Any) -> Any:
        if a is None:
            return b
        a, b = (jax.tree.map(lambda part, h: jnp.broadcast_to(part, h.shape), given, h) for given in (a, b))
        if isinstance(h, ComplexState):
            return ComplexState(re=a.re * h.re - a.im * h.im + b.re, im=a.re * h.im + a.im * h.re + b.im)
        return a * h + b

    return map_parts(part, h, a, b)


def map_parts(function: Callable[..., Any], h: State, *others: PyTree) -> PyTree:
    """``function`` of each part of a state, an array or a ``ComplexState``, and of what stands there in others."""
    return jax.tree.map(function, h, *others, is_leaf=lambda part: isinstance(part, ComplexState))


def with_coefficients(cell: Cell, coefficients: Callable[[Any, Any], tuple[PyTree, PyTree]]) -> Cell:
    """``cell`` with the recurrence h_t = a ⊙ h_{t−1} + b of these coefficients ``(params, u) -> (a, b)``."""

    def advance(params: Params, h: State, u: PyTree) -> State:
        a, b = coefficients(params, u)
        return multiply_add(a, h, b)

    return cell._replace(advance=advance, coefficients=coefficients)


@factory
def linear_cell(
    init: Callable[[PRNGKeyArray], Params],
    start: Start,
    coefficients: Callable[[Params, Any], tuple[PyTree, PyTree]],
    project: Callable[[Params, Any], PyTree] | None = None,
    output: Callable[[Params, State], PyTree] | None = None,
) -> Cell:
    """A cell of your own that is linear in its state, h_t = a ⊙ h_{t−1} + b, for ``schedule="associative"``.

    Args:
        init: ``(key) -> params``.
        start: ``(params, batch_shape=()) -> h``, an array, a ``ComplexState``, or a pytree of them.
        coefficients: ``(params, u) -> (a, b)``, each like the state or broadcast to it; see ``Cell.coefficients``.
        project: ``(params, x) -> u``; without it u is x.
        output: ``(params, h) -> y``; without it y is the whole state.

    Example: a leaky integrator whose leak each input sets.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import linear_cell, rollout
    >>> leaky = linear_cell(
    ...     init=lambda key: jnp.asarray(1.0),
    ...     start=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 1)),
    ...     coefficients=lambda w, x: (jax.nn.sigmoid(w * x), x),
    ... )
    >>> params = leaky.init(jax.random.key(0))
    >>> h, _ = rollout(leaky, params, leaky.start(params), jnp.zeros((3, 1)).at[0].set(1), schedule="associative")
    >>> print(h)
    [0.25]
    """
    cell = Cell(
        init=init,
        start=start,
        project=project or (lambda params, x: x),
        advance=lambda params, h, u: h,
        output=output or (lambda params, h: h),
    )
    return with_coefficients(cell, coefficients)
