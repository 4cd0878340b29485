"""Every instrument on networks of several seeds, before and after training, as numbers for figures."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from rnn_jax.cells import ACTIVATIONS
from rnn_jax.diagnostics import (
    direct_path,
    lag_contributions,
    lag_gradients,
    leading_gain,
    lyapunov_spectrum,
    mean_field,
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
    "closed_exponents",
    "gain_panels",
    "gain_slopes",
    "gradient_left",
    "largest_gaps",
    "line_rows",
    "mean_field_slope",
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
    """Arrays ``(T, N, …)``, such as numbers and a mask of the steps that count."""
    loss: Callable[[PyTree, PyTree], Float[Array, "*shape"]]
    """``(ys, targets) -> losses``, one for each step and example."""

    def shortened(self, T: int) -> "Stimulus":
        """The first T steps."""
        return self._replace(
            xs=jax.tree.map(lambda a: a[:T], self.xs), targets=jax.tree.map(lambda a: a[:T], self.targets)
        )


class Instruments(NamedTuple):
    """The readings of one network; K = T + 1 lags, S numbers of the state, N examples, W windows.

    Products, bound and exponents are those along the first example.
    """

    lag: Float[Array, "K N"]
    """ln‖∂L_T/∂state_{T−k}‖ of the loss of the last step, less that at lag 0."""
    bound: Float[Array, " K"]
    """Pascanu's bound Σ ln σ_max over the last k steps."""
    largest: Float[Array, " K"]
    """The truth below it: ln of the largest singular value of ∂state_T/∂state_{T−k}; at the lags of ``measured_lags``,
    else NaN."""
    direct: Float[Array, " K"]
    """ln of the direct path ∏ f over the last k steps, of the unit that keeps most; −∞ without one."""
    product: Float[Array, " S"]
    """ln of all singular values of ∂state_T/∂state_{T−d}, over the ``delay`` d."""
    exponents: Float[Array, " S"]
    """Lyapunov exponents, in nats a step."""
    bias: Float[Array, " W"]
    """‖g_n − g‖/‖g‖ of the truncated gradient for windows of n steps."""
    scales: Float[Array, " S"]
    """The median time scale of each unit, in steps, the longest first."""
    saturated: Float[Array, ""]
    """The share of nonlinearities with almost no slope, over all steps and examples."""


Panels = dict[str, dict[str, tuple[np.ndarray, Band]]]
"""``{title: {label: (points, band over seeds)}}``, as ``panel_figure`` takes them."""
Theory = dict[str, tuple[np.ndarray, np.ndarray]]
"""``{label: (points, values)}``."""

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

    def panels(self, points_and_values: Callable[[Instruments], tuple[Any, Any]]) -> Panels:
        """``{"task, when": {cell: (points, band over seeds)}}`` of a function of readings."""
        found: Panels = {f"{task}, {when}": {} for task in self.tasks for when in WHEN}
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


def measured_lags(T: int, delay: int) -> list[int]:
    """A few lags up to T, the delay among them, at which products of Jacobians are taken."""
    return sorted({delay, *(max(1, round(T * share)) for share in (0.02, 0.25, 0.5, 0.75, 1))})


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


def measure_instruments(model: Cell, params: Params, stimulus: Stimulus, windows: int, delay: int) -> Instruments:
    """The readings of one network on a stimulus.

    Args:
        model, params: a network.
        stimulus: its inputs and losses.
        windows: W, the longest window of a truncated gradient.
        delay: steps of the product whose whole spectrum is returned.
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
    measured = measured_lags(T, delay)
    lags = jnp.asarray(measured)
    active = jnp.arange(T)[None] >= T - lags[:, None]
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
    paths = [
        jnp.max(part.reshape(T + 1, -1), axis=-1) for part in jax.tree.leaves(direct_path(model, params, one, first))
    ]
    states = states_before(h0, rollout(model, params, h0, xs)[1])
    return Instruments(
        lag=lag - jnp.where(jnp.isfinite(lag[:1]), lag[:1], jnp.nan),
        bound=jnp.concatenate([jnp.zeros(1), jnp.cumsum(gains[::-1])]),
        largest=jnp.full(T + 1, jnp.nan).at[0].set(0).at[lags].set(spectra[:, 0]),
        direct=jnp.max(jnp.stack(paths), axis=0),
        product=spectra[measured.index(delay)],
        exponents=lyapunov_spectrum(model, params, one, first).exponents,
        bias=contributions.bias,
        scales=-jnp.sort(-scales),
        saturated=saturation(model, params, states, xs),
    )


def recall_of(model: Cell, params: Params, xs: Float[Array, "T N 1"], delays: tuple[int, ...]) -> Float[Array, " D"]:
    """R²(k) of the best linear readout of white noise k steps ago from the state."""
    _, hs = rollout(model, params, model.start(params, xs.shape[1:2]), xs)
    return recall_scores(hs, xs, delays)[:, 0]


def gain_slopes(model: Cell, params: Params, stimulus: Stimulus, gains: np.ndarray) -> Float[Array, " G"]:
    """The slope of the gradient of the last loss against the lag, nats a step, with W_hh multiplied by each of G gains.

    Args:
        model, params: an untrained network that has a W_hh.
        stimulus: its inputs and losses.
        gains: ``(G,)``.
    """
    N, last = jax.tree.leaves(stimulus.xs)[0].shape[1], jax.tree.map(lambda a: a[-1], stimulus.targets)

    def at(gain: Array) -> Array:
        scaled = map_recurrent(lambda W_hh: gain.astype(W_hh.dtype) * W_hh, params)
        h0 = model.start(scaled, (N,))
        found = lag_gradients(model, scaled, h0, stimulus.xs, lambda y: stimulus.loss(y, last)).log_norm
        return jnp.nanmedian(summarise_lags(found).slope)

    return jax.lax.map(at, jnp.asarray(gains, jnp.result_type(float)))


def mean_field_slope(name: str, gain: ArrayLike, variance: float) -> np.ndarray | None:
    """½ ln χ, the slope of the gradient of a vanilla network of infinitely many units; None for any other cell.

    Args:
        name: as in ``make_cell``; only an activation of the vanilla cell with Gaussian weights has a closed form.
        gain: σ_w, of W_ij ~ N(0, σ_w²/H); one or several.
        variance: of what the input adds to a unit.
    """
    kind, _, start = name.partition("-")
    if kind not in ACTIVATIONS or start not in ("", "gaussian"):
        return None
    return np.asarray(mean_field(kind, jnp.asarray(gain), variance).slope)


def gain_panels(slopes: Mapping[str, Sequence[np.ndarray]], gains: np.ndarray) -> tuple[Panels, Theory]:
    """A panel for each task of ``gain_slopes`` against the gain, and the closed forms of the slopes on a text.

    Args:
        slopes: ``{"cell task": (values,)}``, ``(S, G)`` of S seeds.
        gains: ``(G,)``.
    """
    panels: Panels = {}
    for kind, (values, *_) in slopes.items():
        name, _, task = kind.rpartition(" ")
        panels.setdefault(f"untrained, {task}", {})[name] = gains, band_over(values)
    closed = {name: mean_field_slope(name, gains, 1.0) for name in panels.get("untrained, text", {})}
    return panels, {f"½ ln χ, {name}": (gains, values) for name, values in closed.items() if values is not None}


def largest_gaps(lines: Mapping[str, tuple[np.ndarray, Band]], theory: Theory) -> dict[str, float]:
    """The largest distance of the median of each cell from its closed form."""
    closed = {label.split()[-1]: values for label, (_, values) in theory.items()}
    return {name: float(np.nanmax(np.abs(lines[name][1].median - values))) for name, values in closed.items()}


def closed_exponents(readings: Readings) -> Theory:
    """The largest exponent of untrained vanilla networks on a text, as lines over a tenth of the spectrum."""
    closed = {name: mean_field_slope(name, 1.0, 1.0) for name in readings.cells("text")}
    edge = np.array([0.0, 0.1])
    return {f"½ ln χ, {name}": (edge, np.full(2, value)) for name, value in closed.items() if value is not None}


def gradient_left(of: Instruments) -> np.ndarray:
    """ln of the gradient left at the largest lag relative to lag 0, the median over examples, of each seed."""
    return np.nanmedian(of.lag[:, -1], axis=1)


def bound_lines(of: Instruments) -> dict[str, tuple[np.ndarray, Band]]:
    """Bound, largest singular value, gradient and direct path against the lag, of the readings of several seeds."""
    k = np.arange(of.bound.shape[1])
    known = np.flatnonzero(~np.isnan(of.largest[0]))
    return {
        "bound ∏ σ_max": (k, band_over(of.bound)),
        "truth σ_max(∏ J)": (known, band_over(of.largest[:, known])),
        "gradient of the loss": (k, band_over(np.median(of.lag, axis=2))),
        "direct path ∏ f": (k, band_over(np.where(np.isfinite(of.direct[:, -1:]), of.direct, np.nan))),
    }


def memory_of_instruments(options: Any, models: Sequence[Cell]) -> dict[str, float]:
    """Approximate bytes that the measurements need, by the option that they depend on.

    Args:
        options: has ``seeds``, ``steps``, ``probes``.
        models: the networks.
    """
    shapes = [jax.eval_shape(lambda key, of=model: of.start(of.init(key)), jax.random.key(0)) for model in models]
    most = max(map(number_count, shapes))
    return {
        "steps": 160 * options.seeds * options.steps * most,
        "hidden_size": 160 * options.seeds * most**2,
        "probes": 40 * options.seeds * options.probes * options.steps * most,
    }


def line_rows(panels: Mapping[str, Mapping[str, tuple[np.ndarray, Band]]]) -> Iterator[tuple[Any, ...]]:
    """The numbers of panels of lines as rows: panel, label, x, lowest, median, highest."""
    for title, lines in panels.items():
        for label, (points, band) in lines.items():
            for x, *numbers in zip(points, *band, strict=True):
                yield title, label, f"{x:.6g}", *(f"{number:.6g}" for number in numbers)
