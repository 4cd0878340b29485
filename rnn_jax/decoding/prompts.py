"""Ids that a model generates after a prompt, and the probability that it gives to every next id."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Integer, PRNGKeyArray

from rnn_jax.decoding.decoders import Decoded, check_writer, sample
from rnn_jax.machinery.checks import require_id, require_integers, require_kept, require_sequence
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.sharding import scan
from rnn_jax.schedules.driver import rollout
from rnn_jax.sequences import length_mask, require_lengths
from rnn_jax.types import Cell, Params, State, require_cell


def continue_prompt(
    cell: Cell,
    params: Params,
    key: PRNGKeyArray,
    prompt: Integer[ArrayLike, "T *batch"],
    *,
    length: int,
    lengths: Integer[ArrayLike, "*batch"] | None = None,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    end: int | None = None,
) -> Decoded:
    """The ids that a model generates after a prompt, which it reads from its start state.

    Memory does not grow with the length of the prompt.

    Args:
        cell, params, key: as in ``sample``.
        prompt: one id or more, time leading; without batch axes for a single prompt.
        length, temperature, top_k, top_p, end: as in ``sample``; a temperature of 0 is ``greedy``.
        lengths: of prompts that end early, each in [1, T]; ids after the end of a prompt may have any value.

    Returns:
        The ids after the prompt, without it.

    Raises:
        ValueError: for an empty prompt, or arguments that ``sample`` refuses.

    Example: a model without weights, whose bias favours id 2.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru, readout
    >>> from rnn_jax.decoding import continue_prompt
    >>> model = readout(gru(input_size=3, hidden_size=4), output_size=3)
    >>> params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))._replace(b_y=jnp.array([0.0, 1.0, 2.0]))
    >>> prompt = jnp.array([0, 1, 1])
    >>> continue_prompt(model, params, jax.random.key(0), prompt, length=4, temperature=0.0).ids.tolist()
    [2, 2, 2, 2]
    """
    require_cell("cell", cell)
    T = require_ids_in_order("prompt", prompt)
    if T == 0:
        raise ValueError("prompt got no ids; want one or more, (T, *batch)")
    require_lengths(lengths, T)
    if lengths is not None and not isinstance(lengths, Tracer) and np.any(np.asarray(lengths) < 1):
        raise ValueError(f"lengths got {np.min(lengths)}; want at least 1 id in each prompt")
    ids = jnp.asarray(prompt)
    lengths = None if lengths is None else jnp.asarray(lengths)
    h = cell.start(params, ids.shape[1:])
    require_known_ids(cell, params, h, prompt, lengths)
    h, last = _state_and_last_id(cell, params, ids, lengths)
    how: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "end": end}
    return sample(cell, params, key, h, last, length=length, **how)


def confidences(cell: Cell, params: Params, ids: Integer[ArrayLike, "T *batch"]) -> Float[Array, "T *batch V"]:
    """p(next id) at every place of a sequence, read from the start state: the softmax of a model's logits.

    No state is kept but that of the current step, so the result is all that grows with T.

    Args:
        cell, params: as in ``sample``.
        ids: time leading; without batch axes for a single sequence.

    Returns:
        Probabilities in float32 or more. Those at t, computed from the ids up to t, are of the id at t + 1.

    Raises:
        ValueError: for ids outside the vocabulary, unless they are traced, or a model that does not predict ids.

    Example: a model without weights, whose bias makes id 1 three times as likely as id 0.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import gru, readout
    >>> from rnn_jax.decoding import confidences
    >>> model = readout(gru(input_size=2, hidden_size=4), output_size=2)
    >>> params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    >>> params = params._replace(b_y=jnp.log(jnp.array([1.0, 3.0])))
    >>> print(confidences(model, params, jnp.array([0, 1, 1])).round(2))
    [[0.25 0.75]
     [0.25 0.75]
     [0.25 0.75]]
    """
    require_cell("cell", cell)
    require_ids_in_order("ids", ids)
    h = cell.start(params, np.shape(ids)[1:])
    require_known_ids(cell, params, h, ids)
    return _confidences(cell, params, h, jnp.asarray(ids))


@compiled("cell")
def _state_and_last_id(
    cell: Cell, params: Params, prompt: Integer[Array, "T *batch"], lengths: Integer[Array, "*batch"] | None
) -> tuple[State, Integer[Array, "*batch"]]:
    """The state before the last id of each prompt is read, and that id."""
    h = cell.start(params, prompt.shape[1:])
    if lengths is None:
        return rollout(cell, params, h, prompt[:-1])[0], prompt[-1]
    h, _ = rollout(cell, params, h, prompt[:-1], lengths=lengths - 1)
    return h, jnp.take_along_axis(prompt, (lengths - 1)[None], axis=0)[0]


@compiled("cell")
def _confidences(cell: Cell, params: Params, h: State, ids: Integer[Array, "T *batch"]) -> Float[Array, "T *batch V"]:
    def step(h: State, x: Array) -> tuple[State, Array]:
        h = cell.step(params, h, x)
        return h, jax.nn.softmax(widened(cell.output(params, h)), axis=-1)

    return scan(step, h, ids)[1]


def require_ids_in_order(name: str, ids: Any) -> int:
    """T of ids ``(T, *batch)``; a ValueError that begins with the name unless they are integers that JAX can hold."""
    ids = ids if hasattr(ids, "dtype") else np.asarray(ids)
    T = require_sequence(ids)
    require_integers(name, ids.dtype, 2**31)
    require_kept(**{name: ids})
    return T


def require_known_ids(cell: Cell, params: Params, h: State, ids: Any, lengths: Any = None) -> None:
    """Raises a ValueError for ids outside the vocabulary, up to their lengths, unless something is traced.

    Args:
        cell, params, h: a model that predicts ids, and its start state.
        ids: ``(T, *batch)``, T may be 0.
        lengths: as in ``continue_prompt``.
    """
    V = check_writer(cell, params, h, jnp.zeros(np.shape(ids)[1:], jnp.asarray(ids).dtype))
    if isinstance(ids, Tracer) or isinstance(lengths, Tracer):
        return
    known = np.asarray(ids)
    require_id(V, ids=known if lengths is None else known[np.asarray(length_mask(lengths, len(known)))])
