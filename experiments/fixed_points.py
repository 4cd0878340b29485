# %% [markdown]
# # How does a network remember three bits? Its fixed points
#
# A flip-flop holds one bit: a pulse of +1 or −1 sets it, and it stays as it is until the next pulse of the other sign.
# A recurrent network that holds three bits must keep eight memories apart for as long as no pulse comes. Where are they
# in its state? This notebook trains networks on the task and searches the states that one step without a pulse does not
# move, the fixed points h* = F(h*). For each it determines what happens close to it:
#
# - where all eigenvalues of ∂F/∂h lie inside the unit circle, the point is stable: the network returns to it, and a
#   memory can live there;
# - where some lie outside, it is a saddle: the state leaves it along the unstable directions, so saddles stand between
#   two memories, on the border that a pulse must cross.
#
# The sentences under the figures are computed from their data; the text between the cells describes a run with the
# default options.
#
# Sussillo, Barak. Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural networks. 2013.

# %%
import dataclasses
from pathlib import Path
from typing import ClassVar

from rnn_jax.lab.options import StudyOptions, read_options, require_positive


@dataclasses.dataclass(frozen=True)
class Options(StudyOptions):
    """How does a network remember three bits? The fixed points of trained flip-flop networks, stable and saddles."""

    SMOKE: ClassVar = {"cells": ("gru",), "hidden_size": 6, "seeds": 1, "evaluations": 2, "updates": 10}
    SMOKE |= {"batch_size": 8, "steps": 16, "candidates": 32}

    cells: tuple[str, ...] = ("tanh", "gru")
    """gru, lstm, any other cell of the library or an activation of the vanilla cell, each with -gaussian (the default),
    -orthogonal, -identity or -uniform for the start of W_hh; or FILE.py:function, where function(input_size,
    hidden_size) makes your own cell."""
    hidden_size: int = 24
    """Units of the LSTM that sets the number of parameters; every cell gets as many units as give the same number."""
    steps: int = 50
    """Length T of the sequences in training; those of the test are four times as long."""
    updates: int = 100
    """Optimizer steps from one evaluation to the next."""
    candidates: int = 800
    """States of each network from which a fixed point is searched."""
    out: Path = Path("runs/fixed_points/default")
    """The run folder."""


options = read_options(Options)
require_positive(options, "steps", "candidates")
options

# %% [markdown]
# ## The task
# Three channels, each with a pulse of +1 or −1 at one step in ten. Each output must hold the sign of the last pulse of
# its channel. Steps before the first pulse of a channel do not count: there is nothing to remember yet.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import many_to_many, readout, rollout
from rnn_jax.counting import parameter_count
from rnn_jax.data import flip_flop
from rnn_jax.diagnostics.points import fixed_points, state_rows, visited_states
from rnn_jax.lab.figures import COLOURS, Picture, with_fonts
from rnn_jax.lab.figures.dynamics import POINT_KINDS, eigenvalue_figure, point_kind, portrait_figure
from rnn_jax.lab.fixed_point_study import (
    anatomy_of,
    eigenvalue_rows,
    index_sum,
    kind_counts,
    of_kind,
    portrait_of,
    portrait_rows,
    ways_out,
)
from rnn_jax.lab.gradient_study import measure_networks
from rnn_jax.lab.loop import Task, optimizer_of
from rnn_jax.lab.memory import memory_of_training, number_count, require_memory
from rnn_jax.lab.named_cells import equal_models, make_cell
from rnn_jax.lab.own_cells import digests_of
from rnn_jax.lab.page import Table, add_figure, learning_curves, percent, publish
from rnn_jax.lab.study import open_study, train
from rnn_jax.training import batch_learner

BITS, RATE, TESTED = 3, 0.1, 200  # channels, pulses a step of each, and sequences of the parts for evaluation
require_memory(options, steps=4 * options.steps * TESTED * BITS * 20)
sequences = partial(flip_flop, bits=BITS, rate=RATE)
validation, test = (sequences(jax.random.key(seed), 4 * options.steps, TESTED) for seed in (1, 2))
validation = jax.tree.map(lambda a: a[: options.steps], validation)

axes = (figure := Picture(figsize=(10.8, 3.2), layout="constrained")).subplots(BITS, sharex=True)
for bit, axis in enumerate(axes):
    axis.bar(np.arange(options.steps), validation.xs[:, 0, bit], color="0.4", width=0.5)
    axis.step(np.arange(options.steps), validation.targets[:, 0, bit], color=COLOURS[bit], where="mid")
    axis.set(ylabel=f"bit {bit + 1}", ylim=(-1.3, 1.3))
axes[-1].set_xlabel("step: pulses (bars), and the output that is wanted (line)")
with_fonts(figure)

# %% [markdown]
# The score to compare with needs no memory: answer the pulse of this step, and 0 where there is none, or for the share
# of right bits, guess.


# %%
def scores_of(ys, targets):
    """Mean squared error, and the share of outputs with the right sign, where a pulse has come before."""
    counts = targets != 0
    number = jnp.maximum(jnp.sum(counts), 1)
    return {
        "loss": jnp.sum(counts * (ys - targets) ** 2) / number,
        "accuracy": jnp.sum(counts & (ys * targets > 0)) / number,
    }


of_pulses = {name: float(value) for name, value in scores_of(test.xs, test.targets).items()}
memoryless = {"loss": of_pulses["loss"], "accuracy": (1 + of_pulses["accuracy"]) / 2}
memoryless

# %% [markdown]
# ## The networks
# The cells get equal numbers of parameters, and a linear readout of three outputs.

# %%
models = equal_models(
    options.cells, lambda name, H: readout(make_cell(name, BITS, H, reads_ids=False), BITS), options.hidden_size
)
{name: (H, parameter_count(model)) for name, (H, model) in models.items()}

# %% [markdown]
# ## Training
# Each update sees new sequences. The test part has sequences four times as long as those of training: a network that
# holds its bits in stable fixed points holds them for any time.


# %%
def fresh_batches(rng, number):
    """New sequences for every update, ``(updates, T, B, 3)``."""
    keys = jax.random.split(jax.random.key(rng.integers(2**32)), options.updates)
    return tuple(jax.vmap(lambda key: sequences(key, options.steps, options.batch_size))(keys))


def make_task(H, model):
    """The flip-flop task for one kind of network."""

    def score(params, xs, targets):
        return scores_of(many_to_many(model, params, model.start(params, xs.shape[1:2]), xs), targets)

    return Task(
        batch_learner(model.init, lambda *of: score(*of)["loss"], optimizer_of(options), clip=options.clip),
        batches=fresh_batches,
        score=score,
        validation=tuple(validation),
        test=tuple(test),
        facts={"hidden_size": H, "parameters": parameter_count(model)},
        memory=memory_of_training(
            options,
            model,
            steps=options.steps,
            outputs=BITS,
            inputs=2 * BITS * options.steps,
            scored=4 * options.steps * TESTED,
        ),
    )


def state_size(model):
    """The numbers in a state."""
    return number_count(jax.eval_shape(model.start, jax.eval_shape(model.init, jax.random.key(0))))


tasks = {name: make_task(*of) for name, of in models.items()}
most = max(state_size(model) for _, model in models.values())
needs = {"candidates": 4 * 5 * options.seeds * options.candidates * most**2}  # Jacobians and their products
run = open_study(options, tasks, facts=digests_of(options.cells), needs=needs)
networks, scores = train(options, run, tasks)
{kind: {name: values.round(4).tolist() for name, values in of.items()} for kind, of in scores.items()}

# %%
baseline = {"no memory": memoryless["accuracy"]}
sections = [learning_curves(run, "accuracy", y="bits that are right", baselines=baseline)]
sections[-1]

# %% [markdown]
# ## Taken apart
# From many states that a network visits, with noise added, the speed q(h) = ½‖F(h) − h‖² is minimised, where F is one
# step without a pulse. Minimising the speed finds saddles as well as stable points, though no trajectory ever ends at
# a saddle. A point that is found several times counts once, and points far outside the states that the network visits
# are left out.

# %%
NOISE, RADIUS, SLOW = 0.6, 0.05, 1e-4  # of candidates; distance of points that count as one; speed of a slow point
silence = jnp.zeros(BITS)
EDGE = point_kind(1)


def search(model, params):
    """States on sequences of the validation part, and the points found from them."""
    xs = jnp.asarray(validation.xs)
    _, hs = rollout(model, params, model.start(params, xs.shape[1:2]), xs)
    key = jax.random.key(options.seed)
    h0s = visited_states(model, params, key, hs, count=options.candidates, noise=NOISE)
    return state_rows(model, params, hs), fixed_points(model, params, h0s, silence)


searched = measure_networks(options, {name: partial(search, models[name][1]) for name in networks}, networks)
anatomies = {}
for name, of_seed in networks.items():
    for place, (seed, params) in enumerate(of_seed.items()):
        visited, found = jax.tree.map(lambda a, place=place: a[place], searched[name][0])
        anatomies[name, seed] = anatomy_of(models[name][1], params, found, silence, visited, radius=RADIUS, slow=SLOW)


def stable_corners(anatomy):
    """The outputs of those stable points at which every output is near 1 or −1."""
    outputs = of_kind(anatomy, "stable").outputs
    return outputs[np.all(np.abs(np.abs(outputs) - 1) < 0.25, axis=1)]


def counts_of(anatomy):
    """Numbers of points of each kind, of different corners with a stable point, and the sum of the indices."""
    corners = {tuple(np.sign(y)) for y in stable_corners(anatomy)}
    return {**kind_counts(anatomy), "corners": len(corners), "index sum": index_sum(anatomy)}


counts = {network: counts_of(anatomy) for network, anatomy in anatomies.items()}
counts

# %% [markdown]
# Three independent bits have 3³ = 27 fixed points: each bit is at +1, at −1, or on the border between them. Of these 8
# are stable, and 12, 6 and 1 have one, two and three unstable directions: the corners, edges, faces and the centre of a
# cube. The three bits of a network share their units, so it could have other saddles; but training finds this cube,
# with tanh units as well as with gates.
#
# Is any point missing? Each fixed point has an index, sign det(I − ∂F/∂h): 1 at a stable point, −1 at a saddle with one
# unstable direction, and so on, if the unstable eigenvalues are above 1. By a theorem of Lefschetz the sum of all
# indices is 1 in a network whose states are bounded, here 8 − 12 + 6 − 1. Another sum in the table shows that more
# candidates are needed. A sum of 1 alone is no proof, because two missing points of opposite index cancel.
#
# From both sides of each saddle with one unstable direction, the first network of each kind is now left to itself,
# without pulses. Where does it go?


# %%
def leave_saddles(model, params, anatomy):
    """Trajectories from saddles with one unstable direction, and whether each saddle joins corners of an edge."""
    hs = ways_out(model, params, of_kind(anatomy, EDGE).points.states, silence, steps=200, size=0.001)
    ends = np.asarray(model.output(params, jax.tree.map(lambda a: a[-1], hs)))
    one, other = np.split(np.where(np.abs(ends) > 0.5, np.sign(ends), np.nan), 2)
    return hs, np.sum(np.abs(one - other), axis=1) == 2  # signs that differ in one bit; NaN is no corner


firsts = {name: min(of_seed) for name, of_seed in networks.items()}
portraits, sentences = {}, []
for name, seed in firsts.items():
    model, params, anatomy = models[name][1], networks[name][seed], anatomies[name, seed]
    flows, joins = leave_saddles(model, params, anatomy)
    portrait = portrait_of(model, params, anatomy, searched[name][0][0][0], flows, shown=12)
    portraits[f"{name}, seed {seed}"] = portrait
    farthest = np.abs(np.abs(stable_corners(anatomy)) - 1).max(initial=0)
    of = counts[name, seed]
    sentences.append(
        f"{name} (seed {seed}) has {of['stable']} stable points, at {of['corners']} of the 8 corners (±1, ±1, ±1) of "
        f"the outputs{f' (largest distance {farthest:.3f})' if of['corners'] else ''}, and "
        f"{sum(of[k] for k in POINT_KINDS if 'saddle' in k)} saddles. Of {of[EDGE]} saddles with one unstable "
        f"direction, {joins.sum()} lead to two corners that differ in one bit (green lines). Three components hold "
        f"{100 * portrait.share.sum():.0f} % of the variance."
    )
sections += [
    add_figure(
        run,
        "portraits",
        portrait_figure(portraits),
        ("network", "what", "number", "step", "pc_1", "pc_2", "pc_3"),
        portrait_rows(portraits),
        title="Fixed points and trajectories in principal components",
        sentence=" ".join(sentences),
    )
]
sections[-1]

# %% [markdown]
# The saddles stand on the edges of the cube, and the two green lines of a saddle end at the two corners that its edge
# joins. A pulse must carry the state across the border on which the saddle lies; then it goes to the other corner by
# itself.
#
# ## Eigenvalues
# Close to a fixed point a displacement is multiplied by ∂F/∂h at every step, so an eigenvalue λ makes it grow or shrink
# by |λ| a step.

# %%
spectra = {
    f"{name}, seed {seed}": {kind: of_kind(anatomies[name, seed], kind).eigenvalues for kind in POINT_KINDS}
    for name, seed in firsts.items()
}


def leading_words(name):
    """The largest |λ| of each point of one kind of network, over all seeds, in words."""
    of_name = [anatomy for (of, _), anatomy in anatomies.items() if of == name]
    stable, saddle = (
        np.concatenate([np.abs(of_kind(of, kind).eigenvalues[:, 0]) for of in of_name]) for kind in ("stable", EDGE)
    )
    words = f"{name} at most {stable.max():.3f} at stable points" if len(stable) else f"{name} has no stable point"
    if len(saddle):
        words += f", {saddle.min():.3f} to {saddle.max():.3f} at saddles with one unstable direction"
    return words


sections += [
    add_figure(
        run,
        "eigenvalues",
        eigenvalue_figure(spectra),
        ("network", "kind", "point", "real", "imaginary", "modulus"),
        eigenvalue_rows(spectra),
        title="Eigenvalues at the fixed points",
        sentence=f"The largest |λ| of each point, over all seeds: {'; '.join(map(leading_words, networks))}.",
    )
]
sections[-1]

# %% [markdown]
# ## In numbers

# %%
score = {
    (name, seed): (scores[name]["accuracy"][place], scores[name]["loss"][place])
    for name, of_seed in networks.items()
    for place, seed in enumerate(of_seed)
}
table = Table(
    (
        "network",
        "H",
        "bits right",
        "error",
        *(kind.removeprefix("saddle, ").partition(" unstable")[0] for kind in POINT_KINDS),
        "index",
        "corners",
    ),
    [
        (
            f"{name}, seed {seed}",
            f"{models[name][0]}",
            percent(score[name, seed][:1]),
            f"{score[name, seed][1]:.4f}",
            *(str(of[kind]) for kind in POINT_KINDS),
            str(of["index sum"]),
            f"{of['corners']} of 8",
        )
        for (name, seed), of in counts.items()
    ],
    f"Bits right, and mean squared error: on test sequences of {4 * options.steps} steps; without memory "
    f"{100 * memoryless['accuracy']:.1f} % and {memoryless['loss']:.3f}. Then the numbers of stable points, of saddles "
    f"by their unstable directions, and of slow points (speed at most {SLOW:g}). Index: the sum over the "
    "fixed points; other than 1, points are missing or outside of the region that was searched (for bounded states). "
    "Corners: those of (±1, ±1, ±1) with a stable point.",
)
table

# %% [markdown]
# ## The page


# %%
def share_of_networks(holds):
    """How many networks of each kind have counts of which this holds, in words."""
    of = {name: [holds(counts[name, seed]) for seed in of_seed] for name, of_seed in networks.items()}
    return ", ".join(f"{sum(found)} of {len(found)} {name}" for name, found in of.items())


publish(
    run,
    options,
    script="experiments/fixed_points.py",
    title="How does a network remember three bits? Its fixed points",
    question=f"{', '.join(networks)} with equally many parameters, {options.seeds} seeds, trained as three flip-flops",
    answer="Networks with a stable point at each of the 8 corners: "
    + share_of_networks(lambda of: of["corners"] == 8)
    + "; with no other stable point: "
    + share_of_networks(lambda of: of["corners"] == of["stable"] == 8)
    + ".",
    sections=sections,
    table=table,
    details={"points": {f"{name} {seed}": of for (name, seed), of in counts.items()}, "baselines": memoryless},
)
