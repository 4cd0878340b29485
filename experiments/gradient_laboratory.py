# %% [markdown]
# # What do the instruments show? Jacobians, exponents, truncation and memory of four cells
#
# The size of a gradient is the size of a product of Jacobians, so every instrument of this notebook shows such a
# product from another side. All measure the same networks on two tasks: the next character of a text, and the recall of
# white noise some steps later, which needs exactly that many steps of memory. Networks are measured before and after
# training, and as a function of the gain of W_hh.
#
# The sentences under the figures are computed from their data; the text between the cells describes a run with the
# default options.
#
# Pascanu, Mikolov, Bengio. On the difficulty of training recurrent neural networks. 2013. Engelken, Wolf, Abbott.
# Lyapunov spectra of chaotic recurrent neural networks. 2023.

# %%
import dataclasses
from pathlib import Path
from typing import ClassVar

from rnn_jax.lab.options import StudyOptions, read_options, require_positive


@dataclasses.dataclass(frozen=True)
class Options(StudyOptions):
    """What do Jacobians, Lyapunov exponents, truncation and memory show of tanh, ReLU, GRU and LSTM?"""

    SMOKE: ClassVar = {"cells": ("gru",), "hidden_size": 4, "seeds": 2, "batch_size": 8, "evaluations": 2}
    SMOKE |= {"updates": 5, "steps": 16, "delay": 3, "windows": 6, "probes": 2, "gains": 5}

    cells: tuple[str, ...] = ("tanh", "relu", "gru", "lstm")
    """gru, lstm, any other cell of the library or an activation of the vanilla cell, each with -gaussian (the default),
    -orthogonal, -identity or -uniform for the start of W_hh; or FILE.py:function, where function(input_size,
    hidden_size) makes your own cell."""
    hidden_size: int = 24
    """Units of the LSTM; every cell gets as many units as give the same number of parameters."""
    seeds: int = 5
    """Networks of each kind, at most 10,000."""
    steps: int = 100
    """Steps T over which gradients are measured, and length of the sequences of noise."""
    delay: int = 10
    """Steps between an input and its recall."""
    updates: int = 60
    """Optimizer steps from one evaluation to the next."""
    learning_rate: float = 1e-2
    """The highest learning rate: it rises over the first sixth of the updates, then falls along a cosine."""
    text: Path | None = None
    """A UTF-8 text file; by default the Python language reference that CPython carries."""
    windows: int = 60
    """The longest window of a truncated gradient."""
    probes: int = 4
    """Places of the text, and sequences of noise, at which gradients are measured."""
    gains: int = 17
    """Gains of W_hh, from 1/4 to 4."""
    out: Path = Path("runs/gradient_laboratory/default")
    """The run folder."""


options = read_options(Options)
require_positive(options, "steps", "delay", "windows", "probes")
if options.gains < 2:
    raise ValueError(f"--gains got {options.gains}; want at least 2")
if not options.delay < options.steps:
    raise ValueError(f"--delay got {options.delay}; want fewer than the {options.steps} steps")
if options.windows > options.steps:
    raise ValueError(f"--windows got {options.windows}; want at most the {options.steps} steps")
options

# %% [markdown]
# ## Two tasks
# The recall of noise has a floor of 0, and an error of 1 without memory.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import readout
from rnn_jax.counting import parameter_count
from rnn_jax.data import DELAYED_RECALL_BASELINE, delayed_recall, lanes, load_text, streams, text_parts
from rnn_jax.lab.figures.instruments import band_over, panel_figure
from rnn_jax.lab.gradient_study import has_recurrent_matrix, measure_networks, places_in_text
from rnn_jax.lab.instrument_study import (
    WHEN,
    Readings,
    Stimulus,
    arrow,
    bound_lines,
    closed_exponents,
    gain_panels,
    gain_slopes,
    gradient_left,
    largest_gaps,
    line_rows,
    measure_instruments,
    memory_of_instruments,
    recall_of,
    window_for,
)
from rnn_jax.lab.named_cells import equal_models, make_cell, make_model
from rnn_jax.lab.own_cells import digests_of
from rnn_jax.lab.page import Table, add_figure, publish
from rnn_jax.lab.study import initial_params, open_study, train
from rnn_jax.lab.tasks import character_task, masked_squared_error, recall_task
from rnn_jax.losses import next_token_nats

WINDOW, LANES, TESTED = 64, 32, 200  # characters between updates; lanes of text; sequences of noise for evaluation
text = load_text(options.text)
enough = max(20 * (options.steps + 1), (LANES * WINDOW + 1) * 10 // 9 + 1)
if len(text.ids) < enough:
    raise ValueError(f"text got {len(text.ids)} characters; want at least {enough}: a longer one, or fewer --steps")
parts = text_parts(text, "90/5/5", at_most=25_000)
held_out, unseen = (lanes(part, max(1, min(64, len(part) // 256))) for part in (parts.validation, parts.test))
noise = partial(delayed_recall, T=options.steps, delay=options.delay)
size = text.vocabulary.size

recall_models = equal_models(
    options.cells, lambda name, H: readout(make_cell(name, 1, H, reads_ids=False), 1), options.hidden_size
)
text_models = equal_models(options.cells, lambda name, H: make_model(name, size, H), options.hidden_size)
windows = streams(parts.train, LANES, WINDOW)
for_text = dataclasses.replace(options, batch_size=LANES)
tasks = {}
for name, (H, model) in recall_models.items():
    tasks[f"{name} recall"] = recall_task(options, model, noise, TESTED, {"hidden_size": H, "task": "recall"})
for name, (H, model) in text_models.items():
    facts = {"hidden_size": H, "task": "text"}
    tasks[f"{name} text"] = character_task(for_text, model, windows, held_out, unseen, facts)
models = {f"{name} recall": of for name, of in recall_models.items()}
models |= {f"{name} text": of for name, of in text_models.items()}
{kind: (H, parameter_count(model)) for kind, (H, model) in models.items()}

# %% [markdown]
# ## Training

# %%
needs = memory_of_instruments(options, [model for _, model in models.values()])
run = open_study(options, tasks, facts={"text_sha256": text.sha256, **digests_of(options.cells)}, needs=needs)
networks, scores = train(options, run, tasks)
{kind: {name: values.round(4).tolist() for name, values in of.items()} for kind, of in scores.items()}

# %% [markdown]
# ## The readings
# Products of Jacobians and exponents are those along the first of the probes, all other numbers are means or medians
# over the probes. Bands hold all seeds.

# %%
before = {kind: {seed: initial_params(options, tasks[kind], seed) for seed in of} for kind, of in networks.items()}
places = jnp.asarray(places_in_text(parts.validation, options.steps + 1, options.probes))
probes = noise(jax.random.key(3), batch_size=options.probes)
stimuli = {
    "recall": Stimulus(probes.xs, (probes.targets, probes.mask), masked_squared_error),
    "text": Stimulus(places[:-1], places[1:], next_token_nats),
}
measure = partial(measure_instruments, windows=options.windows, delay=options.delay)
measures = {kind: partial(measure, models[kind][1], stimulus=stimuli[kind.split()[-1]]) for kind in networks}
readings = Readings(measure_networks(options, measures, before, networks))
sections = []


def add_panels(name, panels, *, title, sentence, **labels):
    """The section of a figure of panels."""
    figure = panel_figure(panels, **labels)
    columns = ("panel", "label", "x", "lowest", "median", "highest")
    sections.append(add_figure(run, name, figure, columns, line_rows(panels), title=title, sentence=sentence))
    return sections[-1]


# %% [markdown]
# **The bound and the truth.** ‖∂h_T/∂h_{T−k}‖ is at most the product of the largest singular values of the k Jacobians,
# which is Pascanu's bound. The product itself is smaller, because the direction that one step stretches most is not the
# one that the step before stretches most.


# %%
task = readings.tasks[-1]
panels = {name: bound_lines(readings.of[f"{name} {task}"][1]) for name in readings.cells(task)}
gaps = ", ".join(
    f"{name} {lines['bound ∏ σ_max'][1].median[-1]:.0f} against {lines['truth σ_max(∏ J)'][1].median[-1]:.0f}"
    for name, lines in panels.items()
)
add_panels(
    "bound_and_truth",
    panels,
    title=f"Pascanu's bound and the truth ({task}, {WHEN[1]})",
    sentence=f"ln of the bound against ln of the largest singular value after {options.steps} steps, medians: {gaps} "
    "nats. Bands hold all seeds.",
    x="lag k, steps back",
    y="ln of the factor, nats",
    baselines={"the gradient keeps its size": 0.0},
)

# %% [markdown]
# **The whole product.** All singular values of the product of the Jacobians of the last steps, as many as the delay.
# A direction whose value is near 0 is passed back as it is; far below 0 it is lost. This is not the largest eigenvalue
# to the power of the delay: a network can hold a signal for some steps by moving it through its units.


# %%
def open_directions(both):
    """The median number of directions that keep 1/e of their size over the delay, before → after training."""
    return arrow([np.sum(of.product > -1, axis=1) for of in both], "g")


panels = readings.panels(lambda of: (np.linspace(0, 1, of.product.shape[1]), of.product))
add_panels(
    "singular_spectrum",
    panels,
    title=f"The singular values of the product of {options.delay} Jacobians",
    sentence=f"Directions that keep at least 1/e of their size over {options.delay} steps, before → after training, "
    f"median over seeds: {readings.words(open_directions)}.",
    x="share of the directions",
    y="ln σ, nats",
    limits=(-15.0, 3.0),
    baselines={"kept": 0.0},
)

# %% [markdown]
# **Lyapunov exponents.** The growth of small differences forward in time, along the trajectory that the input drives.
# Above 0 two trajectories separate, and the network forgets its input in chaos; far below 0 it forgets it by shrinking.
# For vanilla networks of infinitely many units the mean-field theory gives the largest one, ½ ln χ. On the text each
# character adds a vector of unit variance to the units.

# %%
panels = readings.panels(lambda of: (np.linspace(0, 1, of.exponents.shape[1]), of.exponents))
leading = readings.words(lambda both: arrow([of.exponents[:, 0] for of in both], "+.3f"))
add_panels(
    "lyapunov_spectrum",
    panels,
    title="Lyapunov exponents",
    sentence=f"The largest exponent, nats a step, before → after training, median over seeds: {leading}. Dotted: its "
    "closed form for infinitely many units.",
    x="share of the exponents",
    y="λ, nats a step",
    limits=(-2.0, 0.6),
    theory={f"text, {WHEN[0]}": closed_exponents(readings)},
    baselines={"edge of chaos": 0.0},
)

# %% [markdown]
# **The gain of W_hh.** The slope of the gradient against the lag, and on the text the same closed form. Over fewer
# steps than above, so that ReLU does not overflow.

# %%
gains = np.geomspace(0.25, 4.0, options.gains)
short = {task: stimulus.shortened(min(options.steps, 60)) for task, stimulus in stimuli.items()}
recurrent = [kind for kind in readings.of if has_recurrent_matrix(models[kind][1])]
if recurrent:
    sweeps = {
        kind: partial(gain_slopes, models[kind][1], stimulus=short[kind.split()[-1]], gains=gains) for kind in recurrent
    }
    slopes = measure_networks(options, sweeps, before)
    panels, theory = gain_panels(slopes, gains)
    gaps = largest_gaps(panels.get("untrained, text", {}), theory)
    add_panels(
        "gain",
        panels,
        title="Where the gradient vanishes and where it explodes",
        sentence="The slope of ln‖gradient‖ against the lag. Dotted: the closed form for infinitely many units"
        + "".join(f"; {name} is at most {gap:.3f} nats a step away" for name, gap in gaps.items())
        + ".",
        x="W_hh multiplied by",
        y="slope, nats a step",
        theory={"untrained, text": theory},
        log_x=2,
        limits=(-2.5, 1.5),
        baselines={"edge": 0.0},
    )
sections[-1]

# %% [markdown]
# **Truncation.** How far is the gradient of a window of n steps from the whole one? At 1 the error is as large as the
# gradient. To recall an input, a window has to reach back to it.

# %%
panels = readings.panels(lambda of: (np.arange(1, 1 + of.bias.shape[1]), of.bias))
within = readings.words(lambda both: window_for(both[1]))
add_panels(
    "truncation",
    panels,
    title="The bias of the truncated gradient",
    sentence=f"The shortest window with a bias of at most 10 % after training, in steps: {within}.",
    x="window, steps",
    y="‖g_n − g‖ / ‖g‖",
    limits=(0.0, 1.4),
    borders={f"recall, {when}": ("delay", options.delay) for when in WHEN},
)

# %% [markdown]
# **Time scales.** How long each unit keeps its state along its direct path, past all matrix products: −1/ln f of the
# forget gate f. Units of tanh and ReLU networks have no such path. Dashed lines are the closed form without inputs: an
# LSTM begins with the forget bias 1, a GRU with 0.


# %%
def longest_scale(both):
    """The longest time scale, before → after training; empty for networks without a direct path."""
    return arrow([of.scales[:, 0] for of in both], ".1f") if np.any(both[1].scales > 0) else ""


panels = readings.panels(lambda of: (1 + np.arange(of.scales.shape[1]), np.where(of.scales > 0, of.scales, np.nan)))
gated = readings.words(longest_scale) or "none"
add_panels(
    "time_scales",
    panels,
    title="Time scales of the units",
    sentence=f"The longest time scale, in steps, before → after training, median over seeds: {gated}.",
    x="unit, by its time scale",
    y="τ = −1/ln f, steps",
    log_y=True,
    baselines={"f = σ(1), the start of an LSTM": -1 / np.log(1 / (1 + np.exp(-1))), "f = ½, of a GRU": 1 / np.log(2)},
)

# %% [markdown]
# **Memory.** How well can a linear readout of the state return the noise of k steps ago?

# %%
if recalled := readings.cells("recall"):
    delays = tuple(range(min(4 * options.delay, options.steps // 2)))
    white = noise(jax.random.key(4), batch_size=TESTED).xs
    scored = measure_networks(
        options,
        {f"{name} recall": partial(recall_of, recall_models[name][1], xs=white, delays=delays) for name in recalled},
        before,
        {kind: of for kind, of in networks.items() if kind.endswith(" recall")},
    )
    panels = {
        when: {name: (np.array(delays), band_over(scored[f"{name} recall"][i])) for name in recalled}
        for i, when in enumerate(WHEN)
    }
    capacity = [f"{name} {arrow([of.sum(1) for of in scored[f'{name} recall']], '.1f')}" for name in recalled]
    add_panels(
        "memory",
        panels,
        title="What the state remembers of white noise",
        sentence=f"Memory capacity Σ R²(k) over {len(delays)} delays, before → after training for a delay of "
        f"{options.delay}, median over seeds: {', '.join(capacity)}.",
        x="steps ago",
        y="R²",
        limits=(0.0, 1.05),
        borders={WHEN[1]: ("delay of the task", options.delay)},
    )
sections[-1]

# %% [markdown]
# ## In numbers

# %%
rows = [
    (
        f"{name}, {task}",
        f"{models[f'{name} {task}'][0]}",
        f"{np.median(losses):.3f} ({losses.min():.3f} … {losses.max():.3f})",
        arrow(map(gradient_left, both), ".0f"),
        arrow([of.exponents[:, 0] for of in both], "+.2f"),
        arrow([100 * of.saturated for of in both], ".0f"),
        window_for(both[1]),
    )
    for task in readings.tasks
    for name in readings.cells(task)
    for both, losses in [(readings.of[f"{name} {task}"], scores[f"{name} {task}"]["loss"])]
]
table = Table(
    ("network", "H", "loss", "gradient left", "λ₁", "saturated, %", "window"),
    rows,
    f"Loss on the test part: nats a character, or the mean squared error of the recall (without memory "
    f"{DELAYED_RECALL_BASELINE:g}); with the range of the seeds. All others are medians over seeds, before → after "
    f"training. Gradient left: ln of its size {options.steps} steps back, relative to lag 0. λ₁: the largest Lyapunov "
    "exponent, nats a step. Saturated: nonlinearities with less than a tenth of their largest slope. Window: the "
    "shortest one whose truncated gradient is within 10 %, after training.",
)
table

# %% [markdown]
# ## The page

# %%
publish(
    run,
    options,
    script="experiments/gradient_laboratory.py",
    title="What do the instruments show? Jacobians, exponents, truncation and memory",
    question=f"{', '.join(options.cells)} with equally many parameters, {options.seeds} seeds: the recall of noise "
    f"{options.delay} steps ago, and {text.name}",
    answer=f"ln of the gradient left after {options.steps} steps, before → after training: "
    + readings.words(lambda both: arrow(map(gradient_left, both), ".0f"))
    + ".",
    sections=sections,
    table=table,
    details={
        f"{kind}, {when}": {
            "ln gradient left": round(float(np.median(gradient_left(of))), 2),
            "largest exponent": round(float(np.median(of.exponents[:, 0])), 4),
        }
        for kind, both in readings.of.items()
        for when, of in zip(WHEN, both, strict=True)
    },
)
