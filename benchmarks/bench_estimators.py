"""Estimators of the gradient side by side: their bias, variance and cosine, and their cost in gradients."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.report import command
from benchmarks.timing import Comparison, compare, compile_program
from rnn_jax import gru, lstm, min_gru, outputs, readout, rollout, vanilla
from rnn_jax.data import delayed_recall
from rnn_jax.gradients import ESTIMATORS, bptt, compare_estimator
from rnn_jax.lab.environment import Environment, environment
from rnn_jax.training import batch_learner, fit
from rnn_jax.types import Cell, Params

CELLS = {"vanilla": vanilla, "gru": gru, "lstm": lstm, "min_gru": min_gru}
SHOWN: dict[str, tuple[str, dict[str, int]]] = {
    "BPTT": ("bptt", {}),
    "truncated, 5 steps": ("truncated", {"window": 5}),
    "truncated, 20 steps": ("truncated", {"window": 20}),
    "ARTBP, mean 20 steps": ("artbp", {"mean_window": 20}),
    "RTRL": ("rtrl", {}),
    "RTRL, diagonal": ("rtrl_diagonal", {}),
    "SnAp-1": ("snap", {"order": 1}),
    "SnAp-2": ("snap", {"order": 2}),
    "UORO": ("uoro", {}),
}
"""Function and options of each estimator, by the name that is shown."""
RANDOM = ("artbp", "uoro")


class Sizes(NamedTuple):
    """The sizes of the benchmark."""

    H: int = 16
    B: int = 8
    T: int = 100
    delay: int = 10
    updates: int = 1000
    keys: int = 200
    """Estimates of a random estimator, over which its bias and variance are taken."""
    seconds: float = 4.0
    """Of timing, for each estimator and cell."""


QUICK = Sizes(H=3, B=2, T=6, delay=2, updates=2, keys=2, seconds=0.05)


class EstimatorRecord(NamedTuple):
    """One line of the results: one estimator of the gradient of one network."""

    benchmark: str
    case: dict[str, str | int]
    quick: bool
    bias: float
    bias_error: float
    """About the bias that an unbiased estimator shows for so many keys."""
    variance: float
    cosine: float
    """The median over the keys."""
    figures: Comparison
    """The estimator, against ``bptt``."""
    environment: Environment

    def __str__(self) -> str:
        return (
            f"{self.case['cell']}, {self.case['estimator']}: bias {self.bias:.3g} ± {self.bias_error:.2g}, variance "
            f"{self.variance:.3g}, cosine {self.cosine:.3f}, {self.figures.ratio.median:.2f} gradients"
        )


def squared_errors(ys: jax.Array, targets: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The sum of squared errors over the steps that count, the mean over the batch."""
    wanted, mask = targets
    return jnp.sum(jnp.where(mask[..., None], jnp.square(ys - wanted), 0)) / ys.shape[1]


def trained(model: Cell, sizes: Sizes) -> Params:
    """The params after training on the delayed recall of noise."""

    def loss(params: Params, xs: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
        _, hs = rollout(model, params, model.start(params, xs.shape[1:2]), xs)
        return squared_errors(outputs(model, params, hs), (targets, mask)) / len(xs)

    learner = batch_learner(model.init, loss, optax.adam(5e-3), clip=1.0)
    keys = jax.random.split(jax.random.key(1), sizes.updates)
    batches = jax.vmap(lambda key: tuple(delayed_recall(key, sizes.T, 4 * sizes.B, delay=sizes.delay)))(keys)
    return jax.jit(partial(fit, learner))(learner.init(jax.random.key(0)), batches)[0].params


def of_estimator(label: str, name: str, model: Cell, params: Params, sizes: Sizes, quick: bool) -> EstimatorRecord:
    """The record of one estimator of the gradient of one network."""
    function, options = SHOWN[label]
    xs, targets, mask = delayed_recall(jax.random.key(2), sizes.T, sizes.B, delay=sizes.delay)
    rest = model.start(params, (sizes.B,)), xs, (targets, mask), squared_errors
    estimator: Callable[..., Any] = ESTIMATORS[function]
    keys = jax.random.split(jax.random.key(3), sizes.keys if function in RANDOM else 2)
    quality = compare_estimator(estimator, model, params, *rest, keys=keys, **options)
    ours = compile_program(lambda params, key: estimator(model, params, *rest, key=key, **options), params, keys[0])
    baseline = compile_program(lambda params: bptt(model, params, *rest), params)
    figures = compare(ours, baseline, seconds=sizes.seconds, min_pairs=3)
    return EstimatorRecord(
        benchmark="estimators",
        case={"cell": name, "estimator": label, "H": sizes.H, "B": sizes.B, "T": sizes.T},
        quick=quick,
        bias=float(quality.bias),
        bias_error=float(quality.bias_error),
        variance=float(quality.variance),
        cosine=float(np.median(quality.cosine)),
        figures=figures,
        environment=environment(),
    )


def run(quick: bool = False) -> Iterator[EstimatorRecord]:
    """Records, one for each cell and estimator; ``rtrl_diagonal`` is for diagonal cells alone.

    Args:
        quick: tiny sizes, one cell, a few estimators.
    """
    sizes = QUICK if quick else Sizes()
    for name in ("min_gru",) if quick else CELLS:
        model = readout(CELLS[name](1, sizes.H), 1)
        params = trained(model, sizes)
        for label in list(SHOWN)[:: 4 if quick else 1]:
            if label != "RTRL, diagonal" or model.coefficients is not None:
                yield of_estimator(label, name, model, params, sizes, quick)


if __name__ == "__main__":
    command(run)
