# %% [markdown]
# # How far back does the gradient reach?
#
# A recurrent network h_t = φ(W_hh h_{t−1} + W_xh x_t) multiplies its gradient by one Jacobian for every step back, so
# the gradient of a loss at time T with respect to the state k steps earlier shrinks or grows about like a power k:
# it vanishes or explodes. ReLU, GRU and LSTM are the known remedies. This script measures them side by side, with
# equal numbers of parameters, on real text: (a) the gradient against the lag **at initialisation**; (b) the same
# **after training** each as a model of the next letter; (c) over the **gain** of W_hh, where the gradient vanishes,
# where it explodes, and the edge between.
#
# Hochreiter 1991; Bengio, Simard, Frasconi 1994; Pascanu, Mikolov, Bengio 2013.

# %%
import dataclasses
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _cells import equal_models, start_of
from _own import facts_of
from _study import (
    Study,
    Tick,
    carry_out,
    compiled,
    learning_rate,
    numbers_of,
    optimizer,
    read_options,
    require_positive,
    require_room,
    side_by_side,
)
from _text import Text, load_text
from _vanishing_gradients_report import Result, keep, kept, over_lag_0, publish

from rnn_jax import lag_gradients, leading_gain, lstm, map_recurrent, rollout
from rnn_jax.counting import parameter_count
from rnn_jax.data.text import streams
from rnn_jax.decoding import sample
from rnn_jax.lab.runs import Run, command_line, open_run, wrong_use
from rnn_jax.losses import bits_per_char, cross_entropy, next_token_nats, per_step, perplexity
from rnn_jax.training import Learner, LearnerState, evaluate, fit, window_learner
from rnn_jax.types import Cell


@dataclasses.dataclass(frozen=True)
class Config(Study):
    """How far back does the gradient reach? tanh, ReLU, GRU and LSTM side by side, on real text."""

    text: Path | None = None
    """A UTF-8 text file; by default the Python language reference that CPython carries."""
    cells: tuple[str, ...] = ("tanh", "relu-identity", "relu", "gru", "lstm")
    """gru, lstm, any other cell of the library or an activation of the vanilla cell, each with -gaussian (the default),
    -orthogonal, -identity or -uniform for the start of W_hh; or FILE.py:function, where function(input_size,
    hidden_size) makes a cell of your own that reads one-hot vectors, or ids where its step works on ids alone."""
    hidden_size: int = 64
    """Units of the LSTM that sets the number of parameters; every cell gets as many units as give the same number."""
    batch_size: int = 32
    """Lanes of text read side by side."""
    window: int = 64
    """Letters between updates; the gradient goes back to the window's beginning."""
    updates: int = 24
    """Optimizer steps from one look to the next."""
    learning_rate: float = 1e-2
    """The highest of Adam: up to it over the first sixth of the updates, then down along a cosine."""
    lags: int = 200
    """Steps back over which the gradient is measured."""
    probes: int = 16
    """Places in the validation text at which it is measured."""
    gains: int = 33
    """Gains of W_hh in the sweep, from 1/4 to 4."""
    sweep_lags: int = 60
    """Steps back in the sweep; few enough for an exploding state to stay finite in float32."""
    letters: int = 300
    """Length of the written sample."""
    out: Path = Path("runs/vanishing_gradients/default")
    """The run folder."""


SMOKE = {"hidden_size": 12, "seeds": 2, "batch_size": 8, "window": 16, "looks": 2, "updates": 10, "lags": 24}
SMOKE |= {"probes": 4, "gains": 9, "sweep_lags": 12, "letters": 60, "cells": ("lstm",)}
BURN_IN = 50  # letters read before the gradient is measured
HELD_OUT = 50_000  # letters of a long text that are enough to validate on


# %% [markdown]
# ## The text
# The last tenth is held out for validation, and gives the places where gradients are measured.


# %%
class Data(NamedTuple):
    """The text, cut."""

    text: Text
    windows: tuple[np.ndarray, np.ndarray]
    """Letters and targets, ``(W, K, B)``; at its end the text begins anew, with the state carried on."""
    validation: tuple[np.ndarray, np.ndarray]
    """``(T, B)``: one long rollout of several lanes."""
    probes: np.ndarray
    """``(BURN_IN + lags + 1, N)``: letters before, on and after the way back."""


def load(config: Config) -> Data:
    """Reads and cuts the text; raises a ValueError when the configuration is wrong or the text too short for it."""
    require_positive(config, "window", "lags", "probes", "sweep_lags", "letters")
    if config.gains < 2:
        raise ValueError(f"--gains got {config.gains}; want at least 2")
    text = load_text(config.text)
    ids = text.ids
    length = BURN_IN + max(config.lags, config.sweep_lags) + 1
    needed = max(10 * length, (config.batch_size * config.window + 1) * 10 // 9 + 1)
    if len(ids) < needed:
        raise ValueError(
            f"text got {len(ids)} characters; want at least {needed}: nine tenths for one window of {config.window} "
            f"in each of {config.batch_size} lanes, one tenth for {length} letters to measure gradients on: give a "
            "longer text, or a smaller --window, --batch-size or --lags"
        )
    border = len(ids) - min(len(ids) // 10, HELD_OUT)
    held_out = ids[border:]
    xs, targets = streams(ids[:border], config.batch_size, config.window)
    lanes = max(1, min(64, len(held_out) // 256))
    validation = streams(held_out, lanes, (len(held_out) - 1) // lanes)
    require_room(config, probes=8 * length * config.probes, gains=8 * config.gains)
    starts = np.linspace(0, len(held_out) - length, config.probes).astype(int)
    probes = np.stack([held_out[s : s + length] for s in starts], axis=1)
    return Data(text, (xs, targets), (validation[0][0], validation[1][0]), probes)


def chunk(config: Config, data: Data, look: int) -> tuple[np.ndarray, ...]:
    """Letters and targets, ``(updates, K, B)``, from one look to the next."""
    which = (look * config.updates + np.arange(config.updates)) % len(data.windows[0])
    return tuple(part[which] for part in data.windows)


# %% [markdown]
# ## What is measured of a cell


# %%
def measure_lags(model: Cell, params: Any, probes: jax.Array, lags: int) -> tuple[Any, jax.Array, jax.Array]:
    """Log norms ``(K, N)``, those of the parts ``(P, K, N)``, and leading gains ``(N,)``, of one network."""
    h0, _ = rollout(model, params, model.start(params, probes.shape[1:]), probes[:BURN_IN])
    xs, target = probes[BURN_IN : BURN_IN + lags], probes[BURN_IN + lags]
    found = lag_gradients(model, params, h0, xs, lambda y: next_token_nats(y, target))
    gains = jax.vmap(lambda h, x: leading_gain(model, params, h, x))(h0, xs[0])
    return found.log_norm, jnp.stack(jax.tree.leaves(found.log_norm_of)), gains


def sweep_gains(model: Cell, params: Any, probes: jax.Array, gains: jax.Array, lags: int) -> jax.Array:
    """``(G, K, N)``: log norms from the start state, with W_hh multiplied by each gain; a cell without one stays."""

    def at(gain: jax.Array) -> jax.Array:
        scaled = map_recurrent(lambda W_hh: gain * W_hh, params)
        h0 = model.start(scaled, probes.shape[1:])
        return lag_gradients(model, scaled, h0, probes[:lags], lambda y: next_token_nats(y, probes[lags])).log_norm

    return jax.vmap(at)(gains)


def sweep_range(config: Config) -> np.ndarray:
    """The gains of the sweep, evenly spaced in their logarithm."""
    return np.geomspace(0.25, 4.0, config.gains).astype(np.float32)


class Programs(NamedTuple):
    """What is done with the networks of one cell, all seeds under one vmap."""

    measure: Callable  # (params) -> log_norm (K, S, N), log_norm_of (P, K, S, N), leading gain (S, N)
    sweep: Callable  # (params) -> log_norm (S, G, K, N)
    learn: Callable  # (state, windows) -> (state, info)
    validate: Callable  # (params) -> nats (S,)
    write: Callable  # (params of one seed) -> ids (letters,)


def compile_programs(model: Cell, learner: Learner, state: Any, config: Config, data: Data) -> tuple[Programs, float]:
    """The programs of one cell, and the seconds that tracing and compiling them took."""
    probes, gains = jnp.asarray(data.probes), jnp.asarray(sweep_range(config))
    xs, targets = map(jnp.asarray, data.validation)
    few, key = probes[:, :: -(-config.probes // 4)], jax.random.key(config.seed)
    params, first = state.params, jax.tree.map(lambda leaf: leaf[0], state.params)
    windows = chunk(config, data, 0)

    build, begin = partial(compiled, config), time.perf_counter()
    programs = Programs(
        measure=build(jax.vmap(lambda p: measure_lags(model, p, probes, config.lags), out_axes=(1, 2, 0)), params),
        sweep=build(jax.vmap(lambda p: sweep_gains(model, p, few, gains, config.sweep_lags)), params),
        learn=build(jax.vmap(partial(fit, learner), in_axes=(0, None)), state, windows),
        validate=build(jax.vmap(lambda p: evaluate(model, p, xs, targets, per_step(cross_entropy))), params),
        write=build(
            lambda p: sample(model, p, key, model.start(p), probes[0, 0], length=config.letters, temperature=0.7).ids,
            first,
        ),
    )
    return programs, time.perf_counter() - begin


def study(name: str, H: int, model: Cell, config: Config, data: Data, run: Run, tick: Tick) -> Result:
    """Measures, trains and measures again."""
    learner = window_learner(model, per_step(cross_entropy), optimizer(config), clip=config.clip)
    keys = jax.random.split(jax.random.key(config.seed), config.seeds)
    state = compiled(config, jax.vmap(lambda key: learner.init(key, (config.batch_size,))), keys)(keys)
    tick("compiling")
    programs, compile_s = compile_programs(model, learner, state, config, data)

    tick("gradients at initialisation")
    before = programs.measure(state.params)
    swept = over_lag_0(programs.sweep(state.params))
    log = partial(log_loss, run, cell=name, init=start_of(name), compile_s=round(compile_s, 2))
    state, curve, tokens_per_s = train(programs, state, config, data, log, tick)
    tick("gradients after training")
    log_norm, log_norm_of, gain = (np.stack(pair) for pair in zip(before, programs.measure(state.params), strict=True))

    written = data.text.letters.decode(programs.write(jax.tree.map(lambda leaf: leaf[0], state.params)).tolist())
    count = parameter_count(model)
    learned = {"tokens": curve[0], "train": curve[1], "validation": curve[2], "tokens_per_s": tokens_per_s}
    return Result(H, count, log_norm, log_norm_of, gain, **learned, compile_s=compile_s, sweep=swept, written=written)


def train(
    programs: Programs, state: Any, config: Config, data: Data, log: Callable[..., None], tick: Tick
) -> tuple[LearnerState, tuple[np.ndarray, ...], float]:
    """Truncated back-propagation.

    Returns the trained networks, their curves (tokens (C,), train (C, S), validation (C, S)), and tokens/s.
    """
    curve, seconds, tokens_per_s = [], 0.0, 0.0
    rate = learning_rate(config)
    tokens_a_look = config.updates * config.batch_size * config.window
    for look in range(1, config.looks + 1):
        windows, begin = chunk(config, data, look - 1), time.perf_counter()
        state, info = jax.block_until_ready(programs.learn(state, windows))
        seconds += time.perf_counter() - begin
        tokens, nats = look * tokens_a_look, np.mean(info.loss, axis=1)
        validated = np.asarray(programs.validate(state.params))
        curve.append((tokens, nats, validated))
        tokens_per_s = tokens * config.seeds / seconds
        common = {"tokens": tokens, "tokens_per_s": round(tokens_per_s), "wall_s": round(seconds, 3)}
        for seed, (made, read) in enumerate(zip(state.step.tolist(), state.cursor.tolist(), strict=True)):
            row = {"seed": seed, "step": made, "skipped": read - made, **common}
            row["learning_rate"] = float(np.asarray(rate(made - 1)))
            log(nats[seed], split="train", grad_norm=float(np.mean(info.grad_norm[seed])), **row)
            log(validated[seed], split="validation", **row)
        tick(f"loss {validated.mean():.3f} nats", 1)
    return state, tuple(np.asarray(column) for column in zip(*curve, strict=True)), tokens_per_s


def log_loss(run: Run, nats: float, **row: Any) -> None:
    """A loss as one row of the metrics, in nats, in bits and as perplexity."""
    nats = float(nats)
    run.log(**row, loss=nats, bits_per_char=bits_per_char(nats), perplexity=perplexity(nats))


# %% [markdown]
# ## The run
# Each finished cell is kept in the run folder, so `--resume` goes on with the next one.


# %%
def study_all(
    models: dict[str, tuple[int, Cell]], config: Config, data: Data, run: Run, results: dict[str, Result]
) -> None:
    """Studies several cells at a time; adds each to ``results`` and to the run folder when it is finished."""

    def done(name: str, result: Result) -> None:
        keep(run, name, result)
        results[name] = result

    side_by_side(config, {name: partial(study, name, *m, config, data, run) for name, m in models.items()}, done)


def require_room_for(models: dict[str, tuple[int, Cell]], config: Config, data: Data) -> None:
    """Raises a ValueError when what the networks of all seeds hold at once is more than the memory of the machine."""
    params, state = 0, 0
    for _, model in models.values():
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        params = max(params, numbers_of(shapes))
        state = max(state, numbers_of(jax.eval_shape(model.start, shapes)))
    step, few = 4 * state + 2 * data.text.letters.size, -(-config.probes // 4)  # gates and states; logits
    one = {
        "hidden_size": 4 * 4 * params,  # with the gradient and Adam's two moments
        "batch_size": 4 * config.batch_size * config.window * step,
        "probes": 4 * config.probes * (config.lags * step + 2 * state**2),  # and the Jacobians of one step
        "gains": 4 * config.gains * (few * config.sweep_lags * step + params),
    }
    of_all = {"updates": 8 * config.updates * config.batch_size * config.window, "letters": 100 * config.letters}
    require_room(config, **one, **of_all)
    require_room(config, seeds=config.seeds * min(config.workers, len(models)) * sum(one.values()))


def main(argv: list[str] | None = None) -> int:
    """Runs the comparison; returns the exit code."""
    with wrong_use():
        config, default = read_options(Config, SMOKE, argv)
        data = load(config)
        require_room(config, hidden_size=16 * parameter_count(lstm(data.text.letters.size, config.hidden_size)))
        models = equal_models(config.cells, data.text.letters.size, config.hidden_size)
        require_room_for(models, config, data)
        facts = {"text_sha256": data.text.sha256, "vocabulary_size": data.text.letters.size}
        facts |= facts_of(config.cells)
        run = open_run(config.out, config, facts=facts, resume=config.resume, overwrite=config.overwrite)

    results: dict[str, Result] = {}

    def work() -> None:
        results.update(kept(run, list(models)))
        study_all({name: models[name] for name in models if name not in results}, config, data, run, results)

    def show(status: str) -> None:
        publish(
            run,
            {name: results[name] for name in models if name in results},
            status=status,
            gains=sweep_range(config),
            vocabulary=data.text.letters,
            rerun=command_line("experiments/vanishing_gradients.py", config, default),
            question=f"{', '.join(models)} at equal numbers of parameters, {config.seeds} seeds, on " + data.text.name,
        )

    return carry_out(work, show)


if __name__ == "__main__":
    sys.exit(main())
