"""Vanishing gradients: how much of a gradient is left at each lag, and the longest lag that is learned, by cell.

All cells have nearly as many parameters as an LSTM of 32 units, and get the same updates on the same examples of the
adding problem. Before training and after it the gradient of the output with respect to earlier states is measured along
sequences of 1,000 steps. ``--cells`` takes names as the experiments do, and ``FILE.py:function``.
"""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.report import Options, show
from benchmarks.timing import append
from rnn_jax import initializers
from rnn_jax.cells import vanilla
from rnn_jax.counting import parameter_count
from rnn_jax.data import ADDING_BASELINE, adding
from rnn_jax.diagnostics import lag_gradients, summarise_lags
from rnn_jax.lab.commands import parse, wrong_use
from rnn_jax.lab.environment import Environment, environment
from rnn_jax.lab.instrument_study import mean_field_slope
from rnn_jax.lab.loop import compile_program, optimizer_of
from rnn_jax.lab.named_cells import equal_models, make_cell
from rnn_jax.lab.options import Options as Training
from rnn_jax.readouts import readout
from rnn_jax.schedules import rollout
from rnn_jax.training import batch_learner
from rnn_jax.types import Cell, Params

CELLS = ("tanh", "relu", "relu-identity", "gru", "lstm")
GAINS = {"relu": math.sqrt(2)}
"""σ_w of cells that begin with W_ij ~ N(0, σ_w²/H), where it is not 1: a ReLU network begins at its edge."""
LAGS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""At which the gradient is recorded."""
BURN_IN = 100
"""Steps that are read before the gradient is measured."""
LEARNED = ADDING_BASELINE / 10
"""A length is learned where the mean squared error is below a tenth of that of the best constant guess."""


class Sizes(NamedTuple):
    """The sizes of the benchmark."""

    hidden_size: int = 32
    """Of an LSTM; the others have as many units as give the same number of parameters."""
    seeds: int = 5
    lags: int = 1000
    examples: int = 4
    """Along which gradients are measured."""
    lengths: tuple[int, ...] = (10, 25, 50, 100, 200)
    """T of the adding problem. Beyond ``measured``, a length is tried if a seed has learned the one before."""
    measured: int = 50
    """The length after whose training the gradient is measured."""
    updates: int = 1000
    batch_size: int = 32
    learning_rate: float = 5e-3


QUICK = Sizes(4, seeds=2, lags=20, examples=2, lengths=(4,), measured=4, updates=4, batch_size=2)


@dataclasses.dataclass(frozen=True)
class VanishingOptions(Options):
    """Measures how gradients vanish, cell by cell, and appends the results as JSON lines."""

    cells: tuple[str, ...] = ()
    """Names of cells as in the experiments, or FILE.py:function; by default tanh, relu, relu-identity, gru and lstm,
    of which the quick run takes tanh."""


class Gradient(NamedTuple):
    """The gradient of the output with respect to earlier states: for each seed the median over the examples.

    A number is None where it is not finite: the gradient is exactly zero, or the state has overflowed.
    """

    slope: list[float | None]
    """Nats a step, fitted over all lags."""
    half_life: list[float | None]
    """Steps in which the gradient halves; None where it shrinks by less than 1 % over all lags, too."""
    left: dict[str, list[float | None]]
    """ln of the norm relative to that at lag 0, by the lag."""


class VanishingRecord(NamedTuple):
    """One line of the results: one kind of cell."""

    benchmark: str
    case: dict[str, str | int | float]
    quick: bool
    closed_form: float | None
    """The slope before training by mean-field theory, ½ ln χ, at the mean variance of the inputs; None without one."""
    before: Gradient
    after: Gradient
    """Training at the length ``measured``."""
    errors: dict[str, list[float | None]]
    """Mean squared errors on unseen examples of the adding problem, by its length, for each seed."""
    longest: list[int]
    """The longest length that each seed has learned; 0 for none."""
    seconds: float
    environment: Environment

    def __str__(self) -> str:
        of = f"{self.case['cell']} (H {self.case['H']})"
        theory = "" if self.closed_form is None else f" (closed form {self.closed_form:.4f})"
        before, after = (f"{median(g.slope):.4f}" for g in (self.before, self.after))
        left = ", ".join(f"{median(of_lag):.1f} at {lag}" for lag, of_lag in self.after.left.items())
        return (
            f"{of}: slope {before}{theory}, after training {after} nats a step; then ln of the gradient left {left}; "
            f"longest length learned {median(self.longest):g} {self.longest}; {self.seconds:.0f} s"
        )


def median(values: Sequence[float | None]) -> float:
    """The median of the values that are known; NaN where none is."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else math.nan


def known(values: Any) -> list[float | None]:
    """Numbers of an array ``(S,)`` for JSON; None for one that is not finite."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in np.asarray(values).tolist()]


def model_of(name: str, H: int) -> Cell:
    """A cell of this name that reads the adding problem, with one output."""
    if name in GAINS:
        return readout(vanilla(2, H, activation=name, recurrent_init=initializers.scaled_normal(GAINS[name])), 1)
    return readout(make_cell(name, 2, H, reads_ids=False), 1)


def closed_form(name: str, steps: int) -> float | None:
    """The slope ½ ln χ of a vanilla cell with Gaussian weights; None for any other cell.

    A value of the adding problem has the mean square 1/3, and two of the markers are 1. As W_xh has the variance 1/2,
    the inputs have the mean variance (1/3 + 2/steps)/2 over the units.
    """
    slope = mean_field_slope(name, GAINS.get(name, 1.0), (1 / 3 + 2 / steps) / 2)
    return None if slope is None else round(float(slope), 6) + 0.0  # no −0


def ln_left(model: Cell, params: Params, xs: jax.Array) -> jax.Array:
    """ln of ‖∂y_T/∂state_{T−k}‖ less that at lag 0, ``(K, N)``, of the networks' one output."""
    h0, _ = rollout(model, params, model.start(params, xs.shape[1:2]), xs[:BURN_IN])
    found = lag_gradients(model, params, h0, xs[BURN_IN:], lambda y: y[..., 0]).log_norm
    return found - found[:1]


def gradients_of(model: Cell, sizes: Sizes, *networks: Params, quick: bool = False) -> list[Gradient]:
    """The gradients of several networks of all seeds, whose params are stacked, such as before and after training."""
    xs = adding(jax.random.key(3), BURN_IN + sizes.lags, sizes.examples).xs
    params = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *networks)
    program = compile_program(Training(smoke=quick), jax.vmap(lambda params: ln_left(model, params, xs)), params)
    return [gradient_of(curves, sizes) for curves in np.split(np.asarray(program(params)), len(networks))]


def gradient_of(curves: np.ndarray, sizes: Sizes) -> Gradient:
    """The numbers of the curves ``(S, K, N)`` of S seeds and N examples."""
    slope = np.median(summarise_lags(jnp.moveaxis(jnp.asarray(curves), 1, 0)).slope, axis=-1)
    half_life = np.divide(-math.log(2), slope, out=np.full_like(slope, np.nan), where=-slope * sizes.lags > 0.01)
    half_life[np.isneginf(slope)] = np.nan
    lags = [lag for lag in LAGS if lag <= sizes.lags]
    return Gradient(known(slope), known(half_life), {str(k): known(np.median(curves[:, k], axis=-1)) for k in lags})


def training(model: Cell, T: int, sizes: Sizes) -> Callable[[jax.Array], tuple[Params, Params, jax.Array]]:
    """``(key) -> (before, after, error)``: one network trained on the adding problem of T steps, and its last error."""
    options = Training(evaluations=1, updates=sizes.updates, learning_rate=sizes.learning_rate)

    def loss(params: Params, xs: jax.Array, targets: jax.Array) -> jax.Array:
        h_T, _ = rollout(model, params, model.start(params, targets.shape), xs)
        return jnp.mean(jnp.square(model.output(params, h_T)[..., 0] - targets))

    learner = batch_learner(model.init, loss, optimizer_of(options), clip=options.clip)

    def train(key: jax.Array) -> tuple[Params, Params, jax.Array]:
        keys = jax.random.split(jax.random.fold_in(key, T), sizes.updates)

        def update(state: Any, key: jax.Array) -> tuple[Any, None]:
            return learner.update(state, tuple(adding(key, T, sizes.batch_size)))[0], None

        first = learner.init(key)
        last, _ = jax.lax.scan(update, first, keys)
        return first.params, last.params, loss(last.params, *adding(jax.random.key(2), T, 1000))

    return train


def of_cell(name: str, H: int, model: Cell, sizes: Sizes, quick: bool) -> VanishingRecord:
    """The record of one cell: its gradients before and after training, and the lengths that it learns."""
    begin, keys = time.perf_counter(), jax.random.split(jax.random.key(0), sizes.seeds)
    networks, errors, longest = [], {}, np.zeros(sizes.seeds, int)
    for T in sizes.lengths:
        program = compile_program(Training(smoke=quick), training(model, T, sizes), keys[0])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            of_seeds = [*pool.map(program, keys)]  # one seed on each core: products of this size gain nothing by two
        *params, error = jax.tree.map(lambda *leaves: jnp.stack(leaves), *of_seeds)
        errors[str(T)] = known(error)
        longest = np.where(np.asarray(error) < LEARNED, T, longest)
        networks = params if sizes.measured == T else networks
        if sizes.measured <= T and not np.any(longest == T):
            break
    before, after = gradients_of(model, sizes, *networks, quick=quick)
    case = {"cell": name, "H": H, "parameters": parameter_count(model), **sizes._asdict()}
    return VanishingRecord(
        benchmark="vanishing",
        case={key: value for key, value in case.items() if key not in ("hidden_size", "lengths")},
        quick=quick,
        closed_form=closed_form(name, BURN_IN + sizes.lags),
        before=before,
        after=after,
        errors=errors,
        longest=longest.tolist(),
        seconds=round(time.perf_counter() - begin, 1),
        environment=environment(),
    )


def run(quick: bool = False, cells: Sequence[str] = ()) -> Iterator[VanishingRecord]:
    """Records, one for each cell.

    Args:
        quick: tiny sizes.
        cells: names as in ``make_cell``; by default ``CELLS``, of which the quick run takes the first.

    Raises:
        ValueError: for an unknown name, or one that is given twice.
    """
    sizes = QUICK if quick else Sizes()
    for name, (H, model) in equal_models(cells or CELLS[: 1 if quick else None], model_of, sizes.hidden_size).items():
        yield of_cell(name, H, model, sizes, quick)


def main() -> None:
    """The command line; exits with 2 on wrong use."""
    with wrong_use():
        options = parse(VanishingOptions)
        show(append(run(options.quick, options.cells), options.out))


if __name__ == "__main__":
    main()
