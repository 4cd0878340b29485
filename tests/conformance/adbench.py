"""ADBench's LSTM: its objective, and the gradients that it publishes and that its manual derivative computes.

Its cell multiplies elementwise: gates f i o g of the row (x, h, x, h) ⊙ w + b, one weight a gate and unit. It is a
cell of the suite's own, so what is checked is ``cell_from_step``, ``rollout`` and its gradient over 4096 steps.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid

from rnn_jax import cell_from_step, outputs, rollout
from tests.conformance.cases import OWN, Case, Suite, error_of, stored

NAME = "ADBench LSTM"


def step(params: Any, states: Any, x: Any) -> Any:
    """One step of all layers; params are main ``(2·layers, 4·H)``, rows of w and b, and extra ``(3, H)``."""
    main, extra = params
    y, new = x * extra[0], []
    for w, b, h, c in zip(main[::2], main[1::2], states[::2], states[1::2], strict=True):
        f, i, o, g = jnp.split(jnp.concatenate([y, h, y, h]) * w + b, 4)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        y = sigmoid(o) * jnp.tanh(c)
        new += [y, c]
    return jnp.stack(new)


cell = cell_from_step(
    init=lambda key: None,
    start=lambda params, batch_shape=(): jnp.zeros((len(params[0]), params[1].shape[-1])),
    step=step,
    output=lambda params, states: states[-2] * params[1][1] + params[1][2],
)


@cache
def program() -> Any:
    """Objective and gradients: the mean of −y_{t+1} · (ŷ_t − ln(2 + Σ exp ŷ_t)) over steps and characters."""

    def objective(params: Any, state: Any, sequence: Any) -> Any:
        _, hs = rollout(cell, params, state, sequence[:-1])
        ys = jax.vmap(lambda states: outputs(cell, params, states))(hs)
        normed = ys - jnp.log(2 + jnp.sum(jnp.exp(ys), axis=-1, keepdims=True))
        return -jnp.mean(sequence[1:] * normed)

    return jax.jit(jax.value_and_grad(objective))


def cases() -> Iterator[Case]:
    """Objective and gradient of four instances, and the published digits of the first."""
    for instance in stored("adbench_lstm"):
        sequence = np.unpackbits(instance["sequence"], axis=1)[:, : instance["bits"]].astype(float)
        value, gradients = program()((instance["main"], instance["extra"]), instance["state"], sequence)
        row = np.concatenate([np.ravel(g) for g in gradients])
        for kind, printed in (("", 1e-12), ("published_", 1e-8)):  # published are 8 digits
            if f"{kind}objective" in instance:
                for what, got in (("objective", value), ("gradient", row)):
                    error = error_of(got, instance[kind + what])
                    yield Case(NAME, f"{instance['name']}, {kind}{what}", OWN, error, printed)


SUITE = Suite(
    NAME,
    "[microsoft/ADBench](https://github.com/microsoft/ADBench) `38cb793`: instances, the published gradient of "
    "lstm_l2_c1024, the manual derivative for the rest",
    "objective and gradient of 2 and 4 layers, 1024 and 4096 characters",
    cases,
)
