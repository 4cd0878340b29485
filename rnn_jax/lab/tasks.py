"""Tasks that several experiments train on."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.counting import parameter_count
from rnn_jax.data import DelayedRecall, consecutive_batches
from rnn_jax.lab.loop import Task, optimizer_of
from rnn_jax.lab.memory import memory_of_training
from rnn_jax.lab.options import Options
from rnn_jax.losses import cross_entropy, per_step
from rnn_jax.topologies import many_to_many
from rnn_jax.training import batch_learner, evaluate, window_learner
from rnn_jax.types import Cell, Params

__all__ = ["character_task", "masked_squared_error", "recall_task", "squared_error"]


def character_task(
    options: Options,
    model: Cell,
    windows: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    facts: Mapping[str, Any],
) -> Task:
    """The next character of a text, learned by truncated back-propagation with the state carried on.

    Args:
        options: of the run.
        model: reads ids and returns logits of V characters.
        windows: characters and targets, ``(W, K, B)`` each, as ``streams`` returns them.
        validation, test: characters and targets, ``(T, N)`` each, as ``lanes`` returns them.
        facts: fields of every row of the metrics.

    Its score is ``loss``, nats a character.
    """
    _, window, batch = windows[0].shape
    logits = jax.eval_shape(lambda key: model.output(params := model.init(key), model.start(params)), jax.random.key(0))

    loss = per_step(cross_entropy)

    def score(params: Params, xs: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        return {"loss": evaluate(model, params, xs, targets, loss)}

    needs = {"steps": window, "outputs": logits.shape[-1], "inputs": 2 * window, "scored": validation[0].size}
    return Task(
        window_learner(model, loss, optimizer_of(options), clip=options.clip),
        batches=lambda rng, number: consecutive_batches(windows, number * options.updates, options.updates),
        score=score,
        validation=validation,
        test=test,
        lanes=(batch,),
        tokens=batch * window,
        facts={"parameters": parameter_count(model), **facts},
        options=options,
        memory=memory_of_training(options, model, **needs),
    )


def squared_error(ys: jax.Array, targets: jax.Array) -> jax.Array:
    """The squared error of each step and example, ``(*shape, O)`` to ``(*shape,)``."""
    return jnp.sum((ys - targets) ** 2, axis=-1)


def masked_squared_error(ys: jax.Array, targets: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The squared error of each step and example, 0 where the mask is False; targets are ``(numbers, mask)``."""
    numbers, mask = targets
    return jnp.where(mask, squared_error(ys, numbers), 0)


def recall_task(
    options: Options, model: Cell, noise: Callable[..., DelayedRecall], tested: int, facts: Mapping[str, Any]
) -> Task:
    """The recall of white noise some steps later, with new sequences for every update.

    Args:
        options: of the run.
        model: reads and returns one number a step.
        noise: ``(key, batch_size=B) -> DelayedRecall``.
        tested: sequences of the parts for validation and test.
        facts: fields of every row of the metrics.

    Its score is ``loss``, the mean squared error where there is something to recall.
    """
    validation, test = (noise(jax.random.key(part), batch_size=tested) for part in (1, 2))
    steps = len(validation.xs)

    def score(params: Params, xs: jax.Array, targets: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        ys = many_to_many(model, params, model.start(params, xs.shape[1:2]), xs)
        return {"loss": jnp.sum(masked_squared_error(ys, (targets, mask))) / jnp.sum(mask)}

    def batches(rng: np.random.Generator, number: int) -> tuple[jax.Array, ...]:
        keys = jax.random.split(jax.random.key(rng.integers(2**32)), options.updates)
        return tuple(jax.vmap(lambda key: noise(key, batch_size=options.batch_size))(keys))

    return Task(
        batch_learner(model.init, lambda *of: score(*of)["loss"], optimizer_of(options), clip=options.clip),
        batches=batches,
        score=score,
        validation=tuple(validation),
        test=tuple(test),
        facts={"parameters": parameter_count(model), **facts},
        memory=memory_of_training(options, model, steps=steps, outputs=1, inputs=3 * steps, scored=steps * tested),
    )
