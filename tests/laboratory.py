"""One compiled rollout with its gradients for each cell and schedule: the laws are questions to it."""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rnn_jax import Cell, outputs, rollout
from tests.cases import CASES

T, B = 6, 2  # steps and examples of every question


class Answer(NamedTuple):
    """Values and gradients of one rollout."""

    h_T: Any
    hs: Any
    ys: Any
    to_params: Any
    to_h0: Any
    to_xs: Any


class Lab(NamedTuple):
    """A cell with weights, a state that it has reached, a random sequence, and its rollout compiled once."""

    cell: Cell
    params: Any
    h0: Any
    xs: jax.Array
    ask: Callable[..., Answer]
    """``(mask=, resets=, cuts=, params=, h0=, xs=, last=1, seen=0, reverse=False)``: gradients of
    last · Σ w ⊙ h_T + Σ seen_t ⊙ y_t², with seen ``(T, B)``."""
    traces: list[bool]
    """The ``reverse`` of each trace."""
    roll: Callable[..., Any]
    """``(h0, xs, **flags)``: the rollout, not compiled."""
    roll_of: Callable[..., Any]
    """``(params, h0, xs, **flags)``: the same with any params."""


def example(name: str, steps: int = T, batch: tuple[int, ...] = (B,), dtype: Any = jnp.float64, seed: int = 0) -> Any:
    """``(cell, params, h0, xs)``: random weights, a state reached in two random steps, a random sequence."""
    case = CASES[name]
    k_params, k_x = jax.random.split(jax.random.key(seed))
    params = case.cell.init(k_params)
    early, xs = jnp.split(jax.random.normal(k_x, (2 + steps, *batch, *case.x)), [2])
    params, early, xs = jax.tree.map(lambda a: a.astype(dtype), (params, early, xs))
    step, h0 = jax.jit(case.cell.step), case.cell.start(params, batch)
    for x in early:
        h0 = step(params, h0, x)
    return case.cell, params, h0, xs


def random_example(name: str, steps: int = T, batch: tuple[int, ...] = (B,), seed: int = 0) -> Any:
    """As ``example``, but all numbers are random, those of the state small ones; nothing is compiled."""
    case, rng = CASES[name], np.random.default_rng(seed)
    params = random_params(case.cell, seed, scale=0.6)
    like = jax.eval_shape(lambda params: case.cell.start(params, batch), params)
    h0 = jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.05, 0.25, a.shape), a.dtype), like)  # within every clip
    return case.cell, params, h0, jnp.asarray(rng.normal(size=(steps, *batch, *case.x)))


@functools.cache
def lab(name: str, schedule: str) -> Lab:
    """The laboratory of a cell; made once in a process."""
    cell = CASES[name].cell
    _, params, h0, xs = example(name)
    traces: list[bool] = []

    @functools.partial(jax.jit, static_argnames="reverse")
    def run(params: Any, h0: Any, xs: Any, marks: Any, last: Any, seen: Any, reverse: bool) -> Answer:
        traces.append(reverse)

        def loss(params: Any, h0: Any, xs: Any) -> Any:
            h_T, hs = rollout(cell, params, h0, xs, **marks, reverse=reverse, schedule=schedule)
            ys = outputs(cell, params, hs)
            end, _ = ravel_pytree(h_T)
            squares = jnp.sum(ys**2, axis=range(2, ys.ndim))
            return last * jnp.sum(jnp.linspace(1, 2, end.size) * end) + jnp.sum(seen * squares), (h_T, hs, ys)

        gradients, values = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, h0, xs)
        return Answer(*values, *gradients)

    def ask(**question: Any) -> Answer:
        marks = {
            name: np.broadcast_to(question.pop(name, default), (T, B))
            for name, default in {"mask": True, "resets": False, "cuts": False}.items()
        }
        given = {"params": params, "h0": h0, "xs": xs, "last": 1.0, "seen": 0.0, "reverse": False} | question
        last, seen = np.asarray(given.pop("last")), np.broadcast_to(np.asarray(given.pop("seen")), (T, B))
        answer = run(given["params"], given["h0"], given["xs"], marks, last, seen, given["reverse"])
        return jax.device_get(answer)  # a question to an array of NumPy compiles nothing

    roll_of = functools.partial(rollout, cell, schedule=schedule)
    return Lab(cell, params, h0, xs, ask, traces, functools.partial(roll_of, params), roll_of)


def any_nonzero(tree: Any) -> bool:
    """Whether there is anything but exact zeros."""
    return any(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(tree))


def random_params(model: Any, seed: int = 0, scale: float = 1.0) -> Any:
    """Params of normal numbers; nothing is compiled, and no bias is zero."""
    rng, shapes = np.random.default_rng(seed), jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda a: jnp.asarray(scale * rng.normal(size=a.shape)), shapes)


@contextlib.contextmanager
def as_a_user_has_it() -> Iterator[None]:
    """Without the tests' own checks of types, which would come first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def refused(call: Callable[[], Any], says: str) -> None:
    """Asserts that a call raises a ValueError of one line that begins so."""
    with as_a_user_has_it(), pytest.raises(ValueError, match=f"^{re.escape(says)}") as caught:
        call()
    assert "\n" not in str(caught.value)
