"""Tasks that several experiments train on."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rnn_jax.counting import parameter_count
from rnn_jax.data import consecutive_batches
from rnn_jax.lab.loop import Task, optimizer_of
from rnn_jax.lab.memory import memory_of_training
from rnn_jax.lab.options import Options
from rnn_jax.losses import cross_entropy, per_step
from rnn_jax.training import evaluate, window_learner
from rnn_jax.types import Cell, Params

__all__ = ["character_task"]


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
