"""Every instrument on networks of several seeds, before and after training, as numbers for figures."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from rnn_jax.diagnostics import (
    lag_contributions,
    lag_gradients,
    leading_gain,
    lyapunov_spectrum,
    product_spectrum,
    recall_scores,
    saturation,
    summarise_lags,
    time_scales,
)
from rnn_jax.diagnostics.lag import recurrent_of, states_before
from rnn_jax.dropout import map_recurrent
from rnn_jax.lab.figures.gradients import Band
from rnn_jax.lab.figures.instruments import band_over
from rnn_jax.lab.memory import number_count
from rnn_jax.schedules import rollout
from rnn_jax.types import Cell, Params

__all__ = [
    "WHEN",
    "Instruments",
    "Readings",
    "Stimulus",
    "arrow",
    "bound_lines",
    "gain_slopes",
    "line_rows",
    "measure_instruments",
    "memory_of_instruments",
    "recall_of",
    "window_for",
]


class Stimulus(NamedTuple):
    """What networks read while they are measured."""

    xs: PyTree
    """``(T, N, …)``."""
    targets: PyTree
    """``(T, N, …)``."""
    loss: Callable[[PyTree, PyTree], Float[Array, "*shape"]]
    """``(ys, targets) -> losses``, one for each step and example."""


class Instruments(NamedTuple):
    """The readings of one network; K = T + 1 lags, S numbers of the state, N examples, W windows."""

    lag: Float[Array, "K N"]
    """ln‖∂L_T/∂state_{T−k}‖ of the loss of the last step, less that at lag 0."""
    bound: Float[Array, " K"]
    """Pascanu's bound Σ ln σ_max over the last k steps, of the first example."""
    largest: Float[Array, " K"]
    """The truth below it: ln of the largest singular value of ∂state_T/∂state_{T−k}; at the lags of ``measured_lags``,
    else NaN."""
    product: Float[Array, " S"]
    """ln of all singular values of ∂state_T/∂state_0, in nats a step."""
    exponents: Float[Array, " S"]
    """Lyapunov exponents, in nats a step."""
    bias: Float[Array, " W"]
    """‖g_n − g‖/‖g‖ of the truncated gradient for windows of n steps."""
    scales: Float[Array, " S"]
    """The median time scale of each unit, in steps, the longest first."""
    saturated: Float[Array, ""]
    """The share of nonlinearities with almost no slope, at the last step."""


WHEN = ("at initialisation", "after training")


class Readings(NamedTuple):
    """The readings of all networks, ``{"cell task": (before, after training)}``, each with the seed as first axis."""

    of: Mapping[str, Sequence[Instruments]]

    @property
    def tasks(self) -> list[str]:
        """The names of tasks."""
        return list(dict.fromkeys(kind.rpartition(" ")[2] for kind in self.of))

    def cells(self, task: str) -> list[str]:
        """The names of cells that were trained on a task."""
        return [kind.rpartition(" ")[0] for kind in self.of if kind.rpartition(" ")[2] == task]

    def panels(self, points_and_values: Callable[[Instruments], tuple[Any, Any]]) -> dict[str, dict[str, Any]]:
        """``{"task, when": {cell: (points, band over seeds)}}`` of a function of readings."""
        found: dict[str, dict[str, Any]] = {f"{task}, {when}": {} for task in self.tasks for when in WHEN}
        for kind, both in self.of.items():
            name, _, task = kind.rpartition(" ")
            for when, readings in zip(WHEN, both, strict=True):
                points, values = points_and_values(readings)
                found[f"{task}, {when}"][name] = points, band_over(values)
        return found

    def words(self, describe: Callable[[Sequence[Instruments]], str]) -> str:
        """A description of each kind of network, from its readings before and after; empty ones are left out."""
        words = {kind: describe(both) for kind, both in self.of.items()}
        found = [(task, name, words[f"{name} {task}"]) for task in self.tasks for name in self.cells(task)]
        return ", ".join(f"{name} ({task}) {of}" for task, name, of in found if of)


def arrow(values: Iterable[Any], form: str) -> str:
    """Medians before and after training.

    >>> arrow([np.array([1.0, 2.0, 3.0]), np.array([0.5])], ".1f")
    '2.0 → 0.5'
    """
    return " → ".join(f"{float(np.median(value)):{form}}" for value in values)


def window_for(readings: Instruments, most: float = 0.1) -> str:
    """The shortest window whose median bias is at most a tenth, in words; more than the longest one otherwise."""
    bias = np.median(readings.bias, axis=0)
    enough = np.flatnonzero(bias <= most)
    return f"{enough[0] + 1}" if len(enough) else f"> {len(bias)}"


def measured_lags(T: int) -> list[int]:
    """A few lags up to T, at which products of Jacobians are taken."""
    return sorted({max(1, round(T * share)) for share in (0.02, 0.1, 0.25, 0.5, 0.75, 1)})


def held(cell: Cell, recurrent: Sequence[bool]) -> Cell:
    """The same cell with inputs ``(x, active)``: where active is False, the recurrent parts of the state are held."""

    def advance(params: Params, h: PyTree, u: tuple[PyTree, Array]) -> PyTree:
        u, active = u
        after, tree = jax.tree.flatten(cell.advance(params, h, u))
        parts = zip(after, jax.tree.leaves(h), recurrent, strict=True)
        return jax.tree.unflatten(tree, [jnp.where(active, new, old) if counts else new for new, old, counts in parts])

    return cell._replace(
        project=lambda params, x: (cell.project(params, x[0]), x[1]), advance=advance, coefficients=None
    )


def measure_instruments(model: Cell, params: Params, stimulus: Stimulus, windows: int) -> Instruments:
    """The readings of one network on a stimulus.

    Args:
        model, params: a network.
        stimulus: its inputs and losses.
        windows: W, the longest window of a truncated gradient.
    """
    xs, targets, loss = stimulus
    T, N = jax.tree.leaves(xs)[0].shape[:2]
    h0 = model.start(params, (N,))
    last = jax.tree.map(lambda a: a[-1], targets)
    lag = lag_gradients(model, params, h0, xs, lambda y: loss(y, last)).log_norm
    one, first = jax.tree.map(lambda h: h[0], h0), jax.tree.map(lambda x: x[:, 0], xs)
    _, hs = rollout(model, params, one, first)
    before = states_before(one, hs)
    gains = jnp.log(jax.lax.map(lambda now: leading_gain(model, params, *now), (before, first)))
    lags = jnp.asarray(measured_lags(T))
    active = jnp.arange(T) >= T - lags[:, None]
    spectra = jax.vmap(
        lambda k, active: (
            product_spectrum(
                held(model, recurrent_of(model, params, one, first)),
                params,
                jax.tree.map(lambda h: h[T - k], before),
                (first, active),
            ).log_values
        )
    )(lags, active)
    contributions = lag_contributions(
        model, params, h0, xs, targets, lambda ys, targets: jnp.sum(loss(ys, targets)), lags=windows
    )
    scales = jnp.concatenate(
        [jnp.median(part, axis=(0, 1)).ravel() for part in jax.tree.leaves(time_scales(model, params, h0, xs))]
    )
    return Instruments(
        lag=lag - jnp.where(jnp.isfinite(lag[:1]), lag[:1], jnp.nan),
        bound=jnp.concatenate([jnp.zeros(1), jnp.cumsum(gains[::-1])]),
        largest=jnp.full(T + 1, jnp.nan).at[0].set(0).at[lags].set(spectra[:, 0]),
        product=spectra[-1] / T,
        exponents=lyapunov_spectrum(model, params, one, first).exponents,
        bias=contributions.bias,
        scales=-jnp.sort(-scales),
        saturated=saturation(model, params, jax.tree.map(lambda h: h[-1], before), first[-1]),
    )


def recall_of(model: Cell, params: Params, xs: Float[Array, "T N 1"], delays: tuple[int, ...]) -> Float[Array, " D"]:
    """R²(k) of the best linear readout of white noise k steps ago from the state."""
    _, hs = rollout(model, params, model.start(params, xs.shape[1:2]), xs)
    return recall_scores(hs, xs, delays)[:, 0]


def gain_slopes(
    model: Cell, params: Params, xs: PyTree, loss: Callable[[Any], Float[Array, " N"]], gains: np.ndarray
) -> Float[Array, " G"]:
    """The slope of the gradient against the lag, nats a step, with W_hh multiplied by each of G gains.

    Args:
        model, params: an untrained network that has a W_hh.
        xs: ``(T, N, …)``.
        loss: of the last output.
        gains: ``(G,)``.
    """
    N = jax.tree.leaves(xs)[0].shape[1]

    def at(gain: Array) -> Array:
        scaled = map_recurrent(lambda W_hh: gain.astype(W_hh.dtype) * W_hh, params)
        found = lag_gradients(model, scaled, model.start(scaled, (N,)), xs, loss).log_norm
        return jnp.nanmedian(summarise_lags(found).slope)

    return jax.lax.map(at, jnp.asarray(gains, jnp.result_type(float)))


def bound_lines(of: Instruments) -> dict[str, tuple[np.ndarray, Band]]:
    """Bound, largest singular value and gradient against the lag, of the readings of several seeds."""
    k = np.arange(of.bound.shape[1])
    known = np.flatnonzero(~np.isnan(of.largest[0]))
    return {
        "bound ∏ σ_max": (k, band_over(of.bound)),
        "truth σ_max(∏ J)": (known, band_over(of.largest[:, known])),
        "gradient of the loss": (k, band_over(np.median(of.lag, axis=2))),
    }


def memory_of_instruments(options: Any, models: Sequence[Cell]) -> dict[str, float]:
    """Approximate bytes that the measurements need, by the option that they depend on.

    Args:
        options: has ``seeds``, ``steps``, ``gains``, ``probes``.
        models: the networks.
    """
    shapes = [jax.eval_shape(lambda key, of=model: of.start(of.init(key)), jax.random.key(0)) for model in models]
    most = max(map(number_count, shapes))
    return {
        "steps": 160 * options.seeds * options.steps * most,
        "windows": 160 * options.seeds * most**2,
        "gains": 8 * options.gains * options.steps * most,
        "probes": 40 * options.probes * options.steps * most,
    }


def line_rows(panels: Mapping[str, Mapping[str, tuple[np.ndarray, Band]]]) -> Iterator[tuple[Any, ...]]:
    """The numbers of panels of lines as rows: panel, label, x, lowest, median, highest."""
    for title, lines in panels.items():
        for label, (points, band) in lines.items():
            for x, *numbers in zip(points, *band, strict=True):
                yield title, label, f"{x:.6g}", *(f"{number:.6g}" for number in numbers)
