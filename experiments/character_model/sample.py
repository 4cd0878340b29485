"""Prints a text that a trained model of characters continues from a prompt: ``char_lm.py sample RUN``."""

import dataclasses
from pathlib import Path

import tyro

from rnn_jax.lab.commands import begin_command, parse
from rnn_jax.lab.options import require_encodable, require_not_negative, require_positive, require_representable


@dataclasses.dataclass(frozen=True)
class Options:
    """Continues a prompt, with the params that a run has kept."""

    run: tyro.conf.Positional[Path] = Path("runs/char_lm/default")
    """The run folder."""
    prompt: str = ""
    """The beginning of the text; if empty, the prompt of the samples of the run."""
    temperature: float = 0.8
    """0 for the likeliest character each time, 1 for the probabilities of the network, more for more variety."""
    characters: int = 500
    """Number of characters after the prompt."""
    seed: int = 0
    """Seed of the random choices."""


begin_command()
options = parse(Options, prog="char_lm.py sample")
require_representable(options)
require_positive(options, "characters")
require_not_negative(options, "temperature")

import jax
import numpy as np

from rnn_jax.data import Vocabulary
from rnn_jax.decoding import continue_prompt
from rnn_jax.lab.checkpoints import load_params
from rnn_jax.lab.memory import require_memory
from rnn_jax.lab.named_cells import make_model
from rnn_jax.lab.own_cells import digests_of
from rnn_jax.lab.runs import read_json

require_memory(options, characters=100 * options.characters)
kept, vocabulary = (read_json(options.run / name) for name in ("config.json", "vocab.json"))
try:
    vocabulary = Vocabulary("".join(vocabulary))
    sizes = {name: kept[name] for name in ("layers", "dropout")}
    model = make_model(kept["cell"], vocabulary.size, kept["hidden_size"], **sizes)
    prompt = options.prompt or kept["prompt"]
except (TypeError, KeyError, AttributeError) as error:
    raise ValueError(f"sample got {options.run}, whose config.json no run of char_lm.py wrote ({error!r})") from None
for name, digest in digests_of([kept["cell"]]).items():
    if kept.get(name) != digest:
        raise ValueError(f"{kept['cell']} has another content than in the run; want the one that was trained")
require_encodable(vocabulary, "prompt", [prompt])
params = load_params(options.run / "params.safetensors", jax.eval_shape(model.init, jax.random.key(0)))
length, key = options.characters, jax.random.key(options.seed)
ids = continue_prompt(model, params, key, vocabulary.encode(prompt), length=length, temperature=options.temperature).ids
print(prompt + vocabulary.decode(np.asarray(ids)))
