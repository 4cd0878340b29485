# %% [markdown]
# # Many to many: the next letter
#
# At every step a letter goes in, and what comes out is how likely each letter is to be the next: the lecture's "hello",
# on a text of half a million letters. Beside the network stand what needs none: the commonest letter, and the commonest
# letter after each letter. Then the network writes, in every way of decoding: greedily, drawing at several
# temperatures, from the likeliest few, from the nucleus, and by beam search.

# %%
import dataclasses
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _showing import DIVERGED, Scores, Shown, conduct, draw_curves, shown
from _study import Study, optimizer, read_options, require_known, require_positive, require_room
from _text import SHOWN, Text, draw_confidences, load_text
from _training import Networks, Task, first_of, needs_of, open_study

from rnn_jax import Cell, gru, initializers, many_to_many, readout, rollout
from rnn_jax.counting import parameter_count
from rnn_jax.data.text import streams
from rnn_jax.decoding import Decoded, beam_search, greedy, sample
from rnn_jax.lab.runs import Run, wrong_use
from rnn_jax.losses import bits_per_char, cross_entropy, per_step
from rnn_jax.training import window_learner


@dataclasses.dataclass(frozen=True)
class Config(Study):
    """Which letter comes next? Asked at every letter of a text."""

    text: Path | None = None
    """A UTF-8 text file; by default the Python language reference that CPython carries."""
    hidden_size: int = 128
    """Units of the GRU."""
    batch_size: int = 32
    """Lanes of text read side by side."""
    window: int = 64
    """Letters between updates; the gradient goes back to the window's beginning."""
    updates: int = 60
    """Optimizer steps from one look to the next."""
    learning_rate: float = 1e-2
    """The highest of Adam: up to it over the first sixth of the updates, then down along a cosine."""
    prompt: str = ""
    """What the network goes on from when it writes; when empty, the first letters of the text."""
    letters: int = 200
    """Letters that it writes."""
    out: Path = Path("runs/next_letter/default")
    """The run folder."""


SMOKE = {"hidden_size": 16, "batch_size": 8, "window": 16, "seeds": 1, "looks": 2, "updates": 10, "letters": 30}
NAME = "GRU"
HELD_OUT = 40_000  # letters each of validation and test, of a long text


# %% [markdown]
# ## The text
# The last tenth is held out, or less of a long text: its first half to validate on, its second to test on.


# %%
class Data(NamedTuple):
    """The text, cut."""

    text: Text
    prompt: str
    windows: tuple[np.ndarray, np.ndarray]
    """Letters and those that follow, each ``(W, K, B)``."""
    validation: tuple[np.ndarray, np.ndarray]
    """``(T, B)``: one long stretch in several lanes."""
    test: tuple[np.ndarray, np.ndarray]


def load(config: Config) -> Data:
    """Reads and cuts the text; raises a ValueError when it is too short."""
    text = load_text(config.text)
    letters, ids = text.letters, text.ids
    prompt = config.prompt or letters.decode(ids[:4])
    require_known(letters, "prompt", [prompt])
    held = min(len(ids) // 20, HELD_OUT)
    if held < SHOWN + 1:
        raise ValueError(f"text got {len(ids)} characters; want at least {20 * (SHOWN + 1)}: give a longer text")
    lanes = max(1, held // 1000)
    parts = []
    for part in (ids[-2 * held : -held], ids[-held:]):
        xs, targets = streams(part, lanes, (len(part) - 1) // lanes)
        parts.append((xs[0], targets[0]))
    return Data(text, prompt, streams(ids[: -2 * held], config.batch_size, config.window), parts[0], parts[1])


# %% [markdown]
# ## The network
# One update after each window; the state is carried on to the next, its gradient is not.


# %%
def make_task(config: Config, model: Cell, data: Data) -> Task:
    """What is learned from what."""

    def score(params: Any, xs: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        ys = many_to_many(model, params, model.start(params, xs.shape[1:]), xs)
        return {"accuracy": jnp.mean(ys.argmax(axis=-1) == targets), "loss": per_step(cross_entropy)(ys, targets)}

    def batches(rng: np.random.Generator, look: int) -> tuple[np.ndarray, ...]:
        which = (look * config.updates + np.arange(config.updates)) % len(data.windows[0])
        return tuple(part[which] for part in data.windows)

    return Task(
        learner=window_learner(model, per_step(cross_entropy), optimizer(config), clip=config.clip),
        batches=batches,
        score=score,
        validation=data.validation,
        test=data.test,
        lanes=(config.batch_size,),
        facts={"hidden_size": config.hidden_size, "parameters": parameter_count(model)},
        needs=needs_of(
            config,
            model,
            steps=config.window,
            outputs=data.text.letters.size,
            numbers=2 * config.window,
            scored=data.test[0].size,
        ),
    )


def without_network(data: Data) -> dict[str, dict[str, float]]:
    """Accuracy and nats of the commonest letter, and of the commonest letter after each letter, plus one each."""
    (xs, ys), (test_xs, test_ys), V = data.windows, data.test, data.text.letters.size
    pairs = np.bincount(xs.ravel() * V + ys.ravel(), minlength=V * V).reshape(V, V) + 1.0
    found: dict[str, dict[str, float]] = {"accuracy": {}, "loss": {}}
    for name, counts in (("commonest letter", np.tile(pairs.sum(axis=0), (V, 1))), ("commonest after each", pairs)):
        p = counts / counts.sum(axis=1, keepdims=True)
        found["accuracy"][name] = float(np.mean(p.argmax(axis=1)[test_xs] == test_ys))
        found["loss"][name] = float(-np.mean(np.log(p[test_xs, test_ys])))
    return found


# %% [markdown]
# ## What it writes, and how sure it is


# %%
def write(model: Cell, params: Any, config: Config, data: Data) -> dict[str, str]:
    """What follows the prompt, in every way of decoding."""
    ids = jnp.asarray(data.text.letters.encode(data.prompt))
    h, _ = rollout(model, params, model.start(params), ids[:-1])
    key = jax.random.key(config.seed)

    def draw(**how: Any) -> Callable[..., Decoded]:
        return lambda params, h, first, length: sample(model, params, key, h, first, length=length, **how)

    ways = {
        "greedy": partial(greedy, model),
        "drawn, temperature 0.5": draw(temperature=0.5),
        "drawn, temperature 1": draw(),
        "drawn from the likeliest 5": draw(top_k=5),
        "drawn from the nucleus of 0.9": draw(top_p=0.9),
        "beam search, width 8": partial(beam_search, model, width=8),
    }
    written = {}
    for name, way in ways.items():
        out = np.asarray(jax.jit(partial(way, length=config.letters))(params, h, ids[-1]).ids)
        written[name] = data.prompt + data.text.letters.decode(out if out.ndim == 1 else out[:, 0])
    return written


def answered(scores: Mapping[str, np.ndarray]) -> str:
    """The answer of the page, of the scores of all seeds."""
    nats = scores["loss"].mean()
    cost = f"it costs {nats:.3f} nats, {bits_per_char(nats):.3f} bits" if nats < DIVERGED else "the networks diverged"
    return f"The next letter is guessed right {shown(scores['accuracy'])} of the time; {cost}."


def show(model: Cell, data: Data, config: Config, run: Run, networks: Networks, bars: dict, scores: Scores) -> Shown:
    """Draws how sure the first network is of each letter, and lets it write."""
    params = first_of(networks, NAME)
    sections = [
        draw_confidences(run, model, params, data.text.letters, data.test),
        draw_curves(run, scores, "accuracy", bars["accuracy"], "next letters guessed right", "windows"),
    ]
    return Shown(answered(scores[NAME]), sections, write(model, params, config, data))


# %%
def main(argv: list[str] | None = None) -> int:
    """Runs the experiment; returns the exit code."""
    with wrong_use():
        config, default = read_options(Config, SMOKE, argv)
        require_positive(config, "window", "letters")
        data = load(config)
        size = data.text.letters.size
        model = readout(gru(size, config.hidden_size, input_init=initializers.unit_normal()), size)
        tasks = {NAME: make_task(config, model, data)}
        require_room(config, letters=100 * config.letters)
        run = open_study(config, tasks, {"text_sha256": data.text.sha256})
        run.write_json("vocab.json", list(data.text.letters.characters))
    bars = without_network(data)
    return conduct(
        run,
        (config, default),
        tasks,
        lambda networks, scores: show(model, data, config, run, networks, bars, scores),
        script="next_letter.py",
        title="Many to many: the next letter",
        question=f"{data.windows[0].size:,} letters of "
        + data.text.name
        + f" to learn from, {data.test[0].size:,} to test on",
        baselines=bars,
        legend="Accuracy: first guesses that are right on the test part, mean over seeds ± half their range; nats: "
        "cross-entropy a letter.",
    )


if __name__ == "__main__":
    sys.exit(main())
