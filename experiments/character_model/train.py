# %% [markdown]
# # A model of characters, compared with n-grams
#
# A recurrent network reads a text character by character, and after each one it returns a probability for every next
# character. It is trained by truncated back-propagation through time: after each window of 64 characters the params
# are updated; the state is carried on to the next window, the gradient is not. So the text can be of any length. The
# model is compared with n-grams: frequencies of one to six characters in a row, which need no network. Training for
# hours can be interrupted by crashes, full disks and restarts, so after every evaluation a checkpoint is written;
# after `--resume` on the same machine, with as many devices, the result is bit for bit that without an interruption.
#
# Karpathy 2015; Witten, Bell 1991; Williams, Peng 1990.

# %%
import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

from rnn_jax.lab import options as lab_options
from rnn_jax.lab.options import read_options, require_encodable, require_not_negative, require_positive


@dataclasses.dataclass(frozen=True)
class Options(lab_options.ParallelOptions):
    """Trains a model of characters on a text, beside n-grams. Other commands: sample RUN, table RUN RUN …"""

    SMOKE: ClassVar = {"hidden_size": 16, "batch_size": 8, "window": 16, "split": "98/1/1"} | {
        "evaluations": 3,
        "updates": 8,
        "characters": 30,
    }

    data: str = ""
    """A text by name: tiny_shakespeare."""
    text: Path | None = None
    """A UTF-8 text file; without --data and --text, the Python language reference that comes with CPython."""
    split: str = "90/5/5"
    """Percent of the text for training, validation and test, by position; or for training and validation: 90/10."""
    cell: str = "lstm"
    """Any cell of the library, with the initialization of W_hh after a dash, such as tanh-orthogonal; or
    FILE.py:function, where function(input_size, hidden_size) makes your own cell, whose inputs are one-hot vectors, or
    ids if its step works on ids alone."""
    layers: int = 1
    """Layers of cells, at most 100."""
    hidden_size: int = 256
    """Units of each layer."""
    parameters: int = 0
    """If positive, the hidden size is the one that comes nearest to this number of parameters."""
    dropout: float = 0.0
    """Share of the outputs of each layer that are dropped in training."""
    batch_size: int = 32
    """Lanes of text, read side by side."""
    window: int = 64
    """Characters that the gradient goes back from the end of a window (k2)."""
    k1: int = 0
    """Characters from one update to the next; 0 for a whole window, fewer for windows that overlap."""
    evaluations: int = 12
    """Evaluations on the validation part, each with samples and a checkpoint; with --extend, those in all."""
    minutes: float = 0.0
    """If positive, as many evaluations as take this long in training, measured at the start."""
    learning_rate: float = 4e-3
    """The highest learning rate: it rises over the first sixth of the updates, then falls along a cosine to a
    twentieth, where it stays if the run is extended."""
    optimizer: str = "adamw"
    """adam, adamw, sgd, rmsprop or lion of optax; or FILE.py:function, where function(learning_rate) makes an optimizer
    of a schedule."""
    weight_decay: float = 0.0
    """Weight decay of adamw or lion."""
    patience: int = 0
    """Evaluations without a better validation loss after which training ends; 0 for never."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is not finite ends the run, or its update is skipped and counted."""
    temperatures: tuple[float, ...] = (0.5, 0.8, 1.0)
    """Temperatures of the samples at each evaluation."""
    characters: int = 300
    """Length of each sample."""
    prompt: str = ""
    """The beginning of each sample; if empty, the first characters of the text."""
    out: Path = Path("runs/char_lm/default")
    """The run folder."""


options = read_options(Options, prog="char_lm.py")
require_positive(options, "layers", "hidden_size", "window", "characters")
require_not_negative(options, "parameters", "dropout", "k1", "minutes", "weight_decay", "patience", "temperatures")
options

# %% [markdown]
# ## The text
# The text is cut into three parts by position: the network is trained on the first; the second is for evaluations while
# it is trained; the third is for one evaluation at the end, with the params that were best on the second. Each distinct
# character gets a number, its id. The text begins like this:

# %%
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.counting import matching_size, parameter_count
from rnn_jax.data import consecutive_batches, load_text, streams, text_parts
from rnn_jax.decoding import continue_prompt
from rnn_jax.lab import long_run, text_scores
from rnn_jax.lab.checkpoints import Checkpoints, load_params, save_params
from rnn_jax.lab.commands import finishing, uninterrupted
from rnn_jax.lab.figures import LearningCurve, gradient_figure, learning_figure
from rnn_jax.lab.loop import Task, compile_program, compile_task, evaluations, means_of, optimizer_of, score_program
from rnn_jax.lab.machines import follow, leading, open_machines, state_numbers
from rnn_jax.lab.memory import memory_of_training, require_memory
from rnn_jax.lab.named_cells import make_model, short_name
from rnn_jax.lab.own_cells import digests_of, naming
from rnn_jax.lab.page import add_figure, publish
from rnn_jax.lab.progress import progress_bars
from rnn_jax.lab.runs import open_run, read_metrics
from rnn_jax.lab.text_figures import SHOWN, confidence_section
from rnn_jax.losses import bits_per_char, cross_entropy, per_step
from rnn_jax.parallel import one_copy
from rnn_jax.training import evaluate, require_finite, window_learner

machines = open_machines(options, numbers=state_numbers(options.hidden_size, options.layers, options.parameters))
text = load_text(options.text, options.data)
parts, vocabulary = text_parts(text, options.split, at_least=SHOWN + 1), text.vocabulary
prompt = options.prompt or vocabulary.decode(parts.train[:4])
require_encodable(vocabulary, "prompt", [prompt])
vocabulary.decode(parts.train[:400]).splitlines()

# %% [markdown]
# The commonest characters, with their share of the training part. A model that ignores all earlier characters can do no
# better than these shares.

# %%
shares = np.bincount(parts.train, minlength=vocabulary.size) / len(parts.train)
{vocabulary.characters[i]: f"{shares[i]:.1%}" for i in np.argsort(-shares)[:10]}

# %% [markdown]
# ## The network
# Layers of recurrent cells read ids; a readout turns the state of the last one into logits, one for each character. The
# loss is the cross-entropy of the next character in nats; an even guess among V characters costs ln V.

# %%
make = partial(make_model, options.cell, vocabulary.size, layers=options.layers)
require_memory(options, parameters=16 * options.parameters)
if options.parameters:
    with naming(options.cell):
        options = dataclasses.replace(options, hidden_size=matching_size(make, options.parameters))
if options.dropout >= 1:
    raise ValueError(f"--dropout got {options.dropout}; want at least 0 and less than 1")
model = make(options.hidden_size, dropout=options.dropout)
windows = machines.own_lanes(streams(parts.train, options.batch_size, options.window, options.k1 or None))


def score(params, ids):
    """The loss of a text ``(N,)``, read from its first character to its last with the state carried on."""
    return {"loss": evaluate(model, params, ids[:-1, None], ids[1:, None], per_step(cross_entropy))}


def continuation(params, key, temperature):
    """Ids that the network draws after the prompt ``(options.characters,)``."""
    start = vocabulary.encode(prompt)
    return continue_prompt(model, params, key, start, length=options.characters, temperature=temperature).ids


def task_of(options):
    """The task; the schedule of the learning rate depends on the number of evaluations."""
    optimizer = optimizer_of(options, **decay)
    learner, updates = window_learner(model, per_step(cross_entropy), optimizer, clip=options.clip), options.updates
    return Task(
        machines.learner(learner),
        batches=lambda rng, number: machines.split(consecutive_batches(windows, number * updates, updates)),
        score=score,
        validation=(parts.validation,),
        test=(parts.test,) if len(parts.test) else None,
        lanes=(options.batch_size,),
        tokens=options.batch_size * (options.k1 or options.window),
        facts=facts,
    )


decays = options.optimizer in ("adamw", "lion")
if options.weight_decay and not decays:
    raise ValueError(f"--weight-decay got {options.weight_decay}; want it with --optimizer adamw or lion")
decay = {"weight_decay": options.weight_decay} if decays else {}
facts = {name: getattr(options, name) for name in ("cell", "seed", "hidden_size")}
facts["parameters"] = parameter_count(model)
sizes = {"steps": options.window, "inputs": options.window, "outputs": vocabulary.size, "scored": 1024}
memory = memory_of_training(options, model, **sizes) | {"characters": 100 * options.characters}
memory.pop("seeds")
require_memory(options, **memory)
task = task_of(options)
{**facts, "characters": vocabulary.size, "even guess, nats": round(float(np.log(vocabulary.size)), 3)}

# %% [markdown]
# ## Baseline: n-grams
# N-grams are counted on the training part and evaluated on the validation part. Longer ones use more context, but have
# fewer counts; so each is mixed with the shorter ones (Witten, Bell 1991). The loss of the network should be lower than
# that of the best n-grams.

# %%
checkpoints = Checkpoints(options.out / "checkpoints")
own_files = digests_of([options.cell]) | digests_of([options.optimizer], "optimizer_sha256")
follow(machines, options, task_of, checkpoints, text_sha256=text.sha256, **own_files)  # others than process 0 end here
if options.extend:
    long_run.require_more_evaluations(options, checkpoints)
run = open_run(
    options.out,
    options,
    facts={"text_sha256": text.sha256, "vocabulary_size": vocabulary.size, "prompt": prompt} | own_files,
    machines=machines.facts(),
    resume=options.resume,
    extend=("evaluations",) if options.extend else (),
    overwrite=options.overwrite,
)
run.write_json("vocab.json", list(vocabulary.characters))
bars = text_scores.n_gram_nats(parts.train, parts.validation, vocabulary.size)
text_scores.n_gram_table(bars)

# %% [markdown]
# ## Training
# At each evaluation the losses go to `metrics.jsonl` and samples to `samples.txt`; params that are better on the
# validation part than all before are kept; and a checkpoint is written, from which `--resume` goes on. At the end, the
# best params are evaluated on the test part.

# %%
best, name = run.folder / "params.safetensors", short_name(options.cell)
key, rng = jax.random.key(options.seed), np.random.default_rng(0)
found = long_run.restore_progress(run, checkpoints, task, best)
schedule, total = long_run.planned_evaluations(options, task, found, options.minutes)
machines.order(schedule, int(found.state.cursor) if found else None)
scheduled = dataclasses.replace(options, evaluations=schedule)
task = task_of(scheduled)
programs = leading(machines, compile_task(scheduled, task))
state, seconds = (machines.place(found.state), found.seconds) if found else (programs.init(key), 0.0)
draw = compile_program(options, continuation, one_copy(state.params), key, jnp.float32(1))
losses = text_scores.validation_losses(run)
{"updates": options.updates * total, "characters to read": options.updates * total * task.tokens}

# %%
with finishing(run) as ending, long_run.naming_last_checkpoint(checkpoints), progress_bars([name], total) as progress:
    first = int(state.cursor) // options.updates
    progress.report(name, f"going on from checkpoint {int(state.cursor)}" if first else "training", first)
    steps = evaluations(scheduled, task, programs, state, rng, first=first, last=total, seconds=seconds)
    while not long_run.is_stale(losses, options.patience):
        with uninterrupted():  # Ctrl-C waits for the checkpoint
            evaluation = next(steps, None)
            if evaluation is None:
                break
            state, seconds, loss = evaluation.state, evaluation.seconds, evaluation.scores["loss"]
            if options.on_nonfinite == "stop":
                require_finite(state, evaluation.info)
            means = means_of(evaluation.info)
            run.log(**evaluation.row, split="train", **means | text_scores.with_units(means["loss"]))
            run.log(**evaluation.row, split="validation", **text_scores.with_units(loss))
            if loss < min(losses, default=np.inf):
                save_params(run.path(best.name), state.params)
            losses = text_scores.validation_losses(run)
            params, key_of_run, cursor = one_copy((state.params, state.key, state.cursor))
            for number, temperature in enumerate(options.temperatures):
                sample_key = jax.random.fold_in(jax.random.fold_in(key_of_run, cursor), number)
                sample = vocabulary.decode(np.asarray(draw(params, sample_key, jnp.float32(temperature))))
                title = f"== batch {int(state.cursor)}, {loss:.3f} nats, temperature {temperature:g}"
                run.append("samples.txt", f"{title}\n{prompt}{sample}\n\n")
            whole = machines.gather(state)
            long_run.save_progress(run, checkpoints, long_run.Progress(whole, seconds, schedule, total), best)
        progress.report(name, f"loss {loss:.3f} nats", 1)
    else:
        progress.print(f"no better validation loss in {options.patience} evaluations: training ends")
    if task.test and best.is_file():
        params = load_params(best, jax.eval_shape(model.init, key))
        tested = float(score_program(options, task, params, task.test)(params)["loss"])
        run.log(**facts, split="test", wall_s=round(seconds, 3), **text_scores.with_units(tested))
machines.end(ending.status)
summary = {**facts, **text_scores.summary_of_run(run), "n_gram_nats": bars}
run.write_json("summary.json", {"status": ending.status, **summary})
if not losses:
    ending.end_without("evaluation")
table = text_scores.run_table([run.folder])
table

# %% [markdown]
# ## What did it learn?
# The loss on the validation part falls towards a limit that depends on the text. Where it rises again while the loss of
# training falls on, the network learns the training part by heart.

# %%
rows = {split: [row for row in read_metrics(run.folder) if row["split"] == split] for split in ("train", "validation")}
columns = ("tokens", "loss", "grad_norm", "clipped_norm", "clipped", "update_ratio", "skipped", "batches")
means = {column: np.array([row[column] for row in rows["train"]], float) for column in columns}
validation = np.array([row["loss"] for row in rows["validation"]], float)
shortest = int(np.argmin(bars))


def describe_learning(last):
    """The sentence under the learning curve, of the last validation loss in nats."""
    end = f"{last:.3f} nats per character" if np.isfinite(last) else "the loss is not finite"
    return f"On the validation part, at the end: {end}. Dashed: without a network."


curve = add_figure(
    run,
    "learning_curve",
    learning_figure(
        {name: LearningCurve(means["tokens"], means["loss"][:, None], validation[:, None])},
        np.log(vocabulary.size),
        {f"{shortest + 1}-grams": bars[shortest]},
    ),
    ("tokens", "train", "validation"),
    [*zip(means["tokens"], means["loss"], validation, strict=True)],
    title="While learning",
    sentence=describe_learning(validation[-1]),
)
curve

# %% [markdown]
# Next to each character of a stretch of text that the network was not trained on, its five likeliest successors. Inside
# a word the network is confident; at the beginning of a word it is not.

# %%
confidence = None
if best.is_file():
    params = load_params(best, jax.eval_shape(model.init, key))
    part = parts.validation[:-1, None], parts.validation[1:, None]
    confidence = confidence_section(run, model, params, vocabulary, part)
confidence

# %% [markdown]
# The samples of the last evaluation. A low temperature sharpens the probabilities: the text has fewer mistakes, and
# repeats itself.

# %%
samples = text_scores.last_samples(run)
samples

# %% [markdown]
# Is training healthy? The norm of the gradient should neither grow nor vanish; an update changes the params by about a
# thousandth of their norm; and if nearly every gradient is clipped, `--clip` sets the learning rate.

# %%
skipped = np.diff(means["skipped"], prepend=0) / np.diff(means["batches"], prepend=0)


def describe_updates(skipped):
    """The sentence under the norms, of the number of skipped updates."""
    return (
        f"Means over the updates before each evaluation; {int(skipped)} were skipped because a number was not finite."
    )


norms = add_figure(
    run,
    "gradients",
    gradient_figure(
        means["batches"],
        {
            "gradient norm": means["grad_norm"],
            "after clipping": means["clipped_norm"],
            "update / params": means["update_ratio"],
        },
        {"updates clipped": means["clipped"], "updates skipped": skipped},
    ),
    columns,
    [*zip(*means.values(), strict=True)],
    title="Gradients and updates",
    sentence=describe_updates(means["skipped"][-1]),
)
norms

# %% [markdown]
# ## The page
# Everything above is now in the run folder, and on one page. `sample RUN` continues any prompt with the params of the
# run; `table RUN RUN …` compares runs on the same text.


# %%
def describe_result(summary):
    """The answer of the page, of the fields of ``summary.json``."""
    bars = summary["n_gram_nats"]
    if summary["validation"] is None:
        return f"No loss of the {summary['cell']} on the validation part was finite."
    loss, bar = summary["validation"]["loss"], min(bars)
    test = "" if summary["test"] is None else f" On the test part it costs {summary['test']:.3f} nats."
    return (
        f"The {summary['cell']} costs {loss:.3f} nats per character, {bits_per_char(loss):.3f} bits, on the validation "
        f"part; {bars.index(bar) + 1}-grams, the best without a network, cost {bar:.3f} nats.{test}"
    )


held_out = f", {len(parts.test):,} for the test" if len(parts.test) else ""
publish(
    run,
    options,
    script="experiments/char_lm.py",
    title="A model of characters",
    question=f"{len(parts.train):,} characters of {text.name} for training, {len(parts.validation):,} for "
    f"validation{held_out}; {options.cell}, {facts['parameters']:,} parameters",
    answer=describe_result(summary),
    sections=[section for section in (confidence, curve, norms) if section],
    samples=samples,
    keep_samples=True,
    table=table,
)
