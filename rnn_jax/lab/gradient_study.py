"""Measurements of gradients in networks of several seeds, and their figures."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnn_jax.diagnostics import lag_gradients, leading_gain, summarise_lags
from rnn_jax.dropout import map_recurrent
from rnn_jax.lab.figures import Band, band_of, lag_figure
from rnn_jax.lab.loop import compile_program
from rnn_jax.lab.memory import number_count
from rnn_jax.lab.options import StudyOptions
from rnn_jax.lab.page import Section, add_figure
from rnn_jax.lab.runs import Run
from rnn_jax.lab.study import Networks
from rnn_jax.losses import next_token_nats
from rnn_jax.schedules import rollout
from rnn_jax.types import Cell, Params

__all__ = [
    "add_lag_figure",
    "band_of_seeds",
    "gains_of_text",
    "gradients_of_text",
    "has_recurrent_matrix",
    "measure_networks",
    "median_of",
    "memory_of_measurements",
    "places_in_text",
    "relative_to_lag_0",
    "slopes_of",
    "state_fields",
]


def measure_networks(
    options: StudyOptions, measures: Mapping[str, Callable[[Params], Any]], *networks: Networks
) -> dict[str, list[Any]]:
    """Measurements of the networks of all seeds at once, several kinds side by side.

    Args:
        options: of the run.
        measures: ``{kind: (params) -> arrays}``.
        *networks: such as those before and those after training, each with all of these kinds.

    Returns:
        ``{kind: [measured, …]}``: for each of ``networks`` NumPy arrays whose first axis is the seed.
    """

    def measure(kind: str) -> list[Any]:
        params = [of_seed for of in networks for of_seed in of[kind].values()]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        found = compile_program(options, jax.vmap(measures[kind]), stacked)(stacked)
        ends = np.cumsum([0, *(len(of[kind]) for of in networks)])
        return [jax.tree.map(lambda a, b=b, e=e: np.asarray(a[b:e]), found) for b, e in itertools.pairwise(ends)]

    with ThreadPoolExecutor(options.workers) as pool:
        return dict(zip(measures, pool.map(measure, measures), strict=True))


def memory_of_measurements(options: Any, models: Sequence[Cell], outputs: int) -> dict[str, float]:
    """Approximate bytes that the measurements on a text need, by the option that they depend on.

    Args:
        options: has ``probes``, ``lags``, ``gains``, ``sweep_lags``, ``characters``.
        models: the networks.
        outputs: V of the logits.
    """
    shapes = [jax.eval_shape(model.init, jax.random.key(0)) for model in models]
    state = max(number_count(jax.eval_shape(model.start, of)) for model, of in zip(models, shapes, strict=True))
    params, step = max(map(number_count, shapes)), 4 * state + 2 * outputs  # gates and states; logits
    return {
        "probes": 4 * options.probes * (options.lags * step + 2 * state**2),  # and the Jacobians of one step
        "gains": 4 * options.gains * (-(-options.probes // 4) * options.sweep_lags * step + params),
        "characters": 100 * options.characters,
    }


def has_recurrent_matrix(model: Cell) -> bool:
    """Whether the params of a model hold a matrix W_hh."""
    found = []
    jax.eval_shape(
        lambda key: map_recurrent(lambda W_hh: found.append(None) or W_hh, model.init(key)), jax.random.key(0)
    )
    return bool(found)


def state_fields(model: Cell) -> tuple[str, ...]:
    """The names of the parts of a state, such as ``("h", "c")``; none for a state without names."""
    state = jax.eval_shape(model.start, jax.eval_shape(model.init, jax.random.key(0)))
    return getattr(state, "_fields", ())


def places_in_text(ids: np.ndarray, steps: int, count: int) -> np.ndarray:
    """Stretches of a text, ``(steps, count)``, that begin at evenly spaced places."""
    starts = np.linspace(0, len(ids) - steps, count).astype(int)
    return np.stack([ids[start : start + steps] for start in starts], axis=1)


def gradients_of_text(
    model: Cell, params: Params, ids: np.ndarray, burn_in: int
) -> tuple[Float[Array, "K N"], Float[Array, "P K N"], Float[Array, " N"]]:
    """The gradient of the last character's surprise against the lag, and the leading gain of one step.

    Args:
        model, params: reads ids and returns logits.
        ids: ``(burn_in + K, N)``; the last one is the target.
        burn_in: characters that are read before the gradient is measured.

    Returns:
        ln‖∂L_T/∂state_{T−k}‖ ``(K, N)``, the same for each of the P parts of the state, and the largest singular value
        of the first step's Jacobian ``(N,)``.
    """
    h0, _ = rollout(model, params, model.start(params, ids.shape[1:]), jnp.asarray(ids[:burn_in]))
    xs, target = jnp.asarray(ids[burn_in:-1]), jnp.asarray(ids[-1])
    found = lag_gradients(model, params, h0, xs, lambda y: next_token_nats(y, target))
    gains = jax.vmap(lambda h, x: leading_gain(model, params, h, x))(h0, xs[0])
    return found.log_norm, jnp.stack(jax.tree.leaves(found.log_norm_of)), gains


def gains_of_text(model: Cell, params: Params, ids: np.ndarray, gains: np.ndarray) -> Float[Array, "G K N"]:
    """ln‖∂L_T/∂state_{T−k}‖ from the start state, with W_hh multiplied by each of G gains.

    Args:
        model, params: reads ids and returns logits; without a W_hh every gain gives the same.
        ids: ``(K, N)``; the last one is the target.
        gains: ``(G,)``.
    """
    xs, target = jnp.asarray(ids[:-1]), jnp.asarray(ids[-1])

    def at(gain: Array) -> Array:
        scaled = map_recurrent(lambda W_hh: gain.astype(W_hh.dtype) * W_hh, params)
        h0 = model.start(scaled, target.shape)
        return lag_gradients(model, scaled, h0, xs, lambda y: next_token_nats(y, target)).log_norm

    return jax.vmap(at)(jnp.asarray(gains, jnp.result_type(float)))


def relative_to_lag_0(log_norm: Float[np.ndarray, "S G K N"]) -> Float[np.ndarray, "G K"]:
    """Medians over seeds and places of ln norm less that at lag 0, of those that have a gradient at lag 0.

    NaN where a state has overflowed. A place whose character is predicted with certainty has no gradient.

    >>> relative_to_lag_0(np.array([0.0, 1.0, -np.inf, -np.inf]).reshape(2, 1, 2, 1)).tolist()
    [[0.0, 1.0]]
    """
    curves = np.moveaxis(np.asarray(log_norm), 0, -1).reshape(*log_norm.shape[1:3], -1)
    medians = np.full(curves.shape[:2], np.nan)
    for g, each in enumerate(curves):
        alive = each[:, np.isfinite(each[0])]
        if alive.size:
            medians[g] = np.median(alive - alive[:1], axis=1)
    return medians


def slopes_of(log_norm: Float[np.ndarray, "S K N"]) -> Float[np.ndarray, "S N"]:
    """The slope of each curve in nats a step; NaN for one without a gradient, or whose state has overflowed."""
    return np.asarray(summarise_lags(jnp.moveaxis(jnp.asarray(log_norm), 1, 0)).slope)


def median_of(values: np.ndarray) -> float:
    """The median of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else float("nan")


def band_of_seeds(log_norm: Float[np.ndarray, "S K N"]) -> Band:
    """The band over seeds and examples of the curves that have a slope."""
    known = np.where(np.isnan(slopes_of(log_norm))[:, None], np.nan, log_norm)
    return band_of(np.moveaxis(known, 1, 0))


def add_lag_figure(
    run: Run, name: str, panels: Mapping[str, Mapping[str, Band]], *, title: str, sentence: str
) -> Section:
    """The section of a figure of gradients against the lag, ``{panel: {label: band}}``, with its numbers."""
    rows = [
        (panel, label, k, *(f"{x:.6g}" for x in numbers))
        for panel, lines in panels.items()
        for label, band in lines.items()
        for k, numbers in enumerate(zip(*band, strict=True))
    ]
    columns = ("panel", "label", "lag", "ln_p10", "ln_median", "ln_p90")
    return add_figure(run, name, lag_figure(panels), columns, rows, title=title, sentence=sentence)
