"""The LSTM of GradBench: ours against a derivative by hand in NumPy and against PyTorch, on its four instances.

``XLA_FLAGS`` of the process decide how XLA compiles loops; the tool of GradBench, ``gradbench_lstm``, sets one.
"""

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from benchmarks.bench_eager import eager_program
from benchmarks.contenders import MissingError, library
from benchmarks.gradbench_lstm import FUNCTIONS, ONE_KERNEL, Instance
from benchmarks.peers import time_rounds
from benchmarks.report import command
from benchmarks.timing import ROOT, Comparison, Program, Record, Side, compile_program, require_equal, spread
from rnn_jax.lab.environment import environment

DATA = ROOT / "tests" / "conformance" / "data" / "adbench_lstm.npz"
TOLERANCE = 1e-12

Rows = Float[np.ndarray, "T H"]


class Known(NamedTuple):
    """An instance of GradBench, with the numbers that are right."""

    name: str
    instance: Instance
    objective: float
    jacobian: Float[np.ndarray, " P"]
    """By ADBench's manual derivative."""
    published: Float[np.ndarray, " P"] | None
    """The gradient that ADBench publishes, where it does."""


def instances(file: Path = DATA) -> list[Known]:
    """The instances l2_c1024, l2_c4096, l4_c1024 and l4_c4096: layers and characters of 14 bits."""
    with np.load(file) as stored:
        arrays = dict(stored)

    def array(entry: dict[str, Any], name: str) -> Any:
        return arrays[f"a{entry[name]['$']}"]

    found = []
    for entry in json.loads(str(arrays["index"])):
        main, extra, state = (array(entry, name) for name in ("main", "extra", "state"))
        bits = np.unpackbits(array(entry, "sequence"), axis=1)[:, : entry["bits"]]
        published = array(entry, "published_gradient") if "published_gradient" in entry else None
        instance = Instance(main, extra, state, bits.astype(np.float64))
        found.append(Known(entry["name"], instance, entry["objective"], array(entry, "gradient"), published))
    return found


class Layer(NamedTuple):
    """What one layer computed, each ``(T, H)``."""

    x: Rows
    f: Rows
    i: Rows
    o: Rows
    g: Rows
    c: Rows
    h: Rows


def sigmoid(a: np.ndarray) -> np.ndarray:
    """σ(a) = 1 / (1 + exp(−a))."""
    return 1 / (1 + np.exp(-a))


def layer_by_hand(w: np.ndarray, b: np.ndarray, h: np.ndarray, c: np.ndarray, x: Rows) -> Layer:
    """One layer over the whole sequence; the gates that read the input are computed at once."""
    (w_f, w_i, w_o, w_g), (b_f, b_i, b_o, b_g) = np.split(w, 4), np.split(b, 4)
    f, o = sigmoid(w_f * x + b_f), sigmoid(w_o * x + b_o)
    layer = Layer(x, f, np.empty_like(x), o, np.empty_like(x), np.empty_like(x), np.empty_like(x))
    for t in range(len(x)):
        layer.i[t] = i = sigmoid(w_i * h + b_i)
        layer.g[t] = g = np.tanh(w_g * h + b_g)
        layer.c[t] = c = f[t] * c + i * g
        layer.h[t] = h = o[t] * np.tanh(c)
    return layer


def layer_back_by_hand(w: np.ndarray, h_0: np.ndarray, c_0: np.ndarray, layer: Layer, dhs: Rows) -> tuple[Rows, ...]:
    """The gradients of the inputs, of w and of b, given those of h_1 … h_T from the layer above."""
    (w_f, w_i, w_o, w_g), (x, f, i, o, g, c, h) = np.split(w, 4), layer
    h, c = np.concatenate([h_0[None], h[:-1]]), np.concatenate([c_0[None], c[:-1]])
    m = np.tanh(layer.c)
    through_c, through_i, through_g = o * (1 - m * m), g * i * (1 - i), i * (1 - g * g)
    dh, dc = np.zeros_like(h_0), np.zeros_like(c_0)
    all_h, all_c = np.empty_like(x), np.empty_like(x)
    for t in reversed(range(len(x))):
        all_h[t] = dh = dh + dhs[t]
        all_c[t] = dc = dc + dh * through_c[t]
        dh = w_i * (dc * through_i[t]) + w_g * (dc * through_g[t])
        dc = dc * f[t]
    d_f, d_i, d_o, d_g = all_c * c * f * (1 - f), all_c * through_i, all_h * m * o * (1 - o), all_c * through_g
    dw = np.concatenate([np.sum(d * read, axis=0) for d, read in ((d_f, x), (d_i, h), (d_o, x), (d_g, h))])
    return d_f * w_f + d_o * w_o, dw, np.concatenate([np.sum(d, axis=0) for d in (d_f, d_i, d_o, d_g)])


def forward_by_hand(instance: Instance) -> tuple[list[Layer], Rows, Rows, Rows]:
    """All layers, the outputs y, e^y, and the sums 2 + Σ e^y of each step."""
    main, (w_x, w_y, b_y), state, sequence = instance
    layers, x = [], w_x * sequence[:-1]
    for w, b, h, c in zip(main[::2], main[1::2], state[::2], state[1::2], strict=True):
        layers.append(layer_by_hand(w, b, h, c, x))
        x = layers[-1].h
    y = w_y * x + b_y
    powers = np.exp(y)
    return layers, y, powers, 2 + np.sum(powers, axis=-1, keepdims=True)


def objective_by_hand(instance: Instance) -> np.ndarray:
    """The objective in NumPy."""
    _, y, _, sums = forward_by_hand(instance)
    return -np.asarray(np.mean(instance.sequence[1:] * (y - np.log(sums))))


def jacobian_by_hand(instance: Instance) -> np.ndarray:
    """The gradient in NumPy, its equations derived by hand: layers from the top down, steps from the last one back."""
    main, (_, w_y, _), state, sequence = instance
    layers, y, powers, sums = forward_by_hand(instance)
    targets = sequence[1:]
    dy = (np.sum(targets, axis=-1, keepdims=True) * powers / sums - targets) / y.size
    dw_y, db_y, dx, rows = np.sum(dy * layers[-1].h, axis=0), np.sum(dy, axis=0), dy * w_y, []
    for number in reversed(range(len(layers))):
        h, c = state[2 * number : 2 * number + 2]
        dx, dw, db = layer_back_by_hand(main[2 * number], h, c, layers[number], dx)
        rows = [dw, db, *rows]
    return np.concatenate([*rows, np.sum(dx * sequence[:-1], axis=0), dw_y, db_y])


def objective_in_torch(torch: Any, main: Any, extra: Any, state: Any, sequence: Any) -> Any:
    """The objective in PyTorch, layer by layer: only i, g, c and h are computed step by step."""
    w_x, w_y, b_y = extra
    x = w_x * sequence[:-1]
    for w, b, h, c in zip(main[::2], main[1::2], state[::2], state[1::2], strict=True):
        (w_f, w_i, w_o, w_g), (b_f, b_i, b_o, b_g) = w.chunk(4), b.chunk(4)
        fs, os, hs = torch.sigmoid(w_f * x + b_f).unbind(), torch.sigmoid(w_o * x + b_o).unbind(), []
        for f, o in zip(fs, os, strict=True):
            i, g = torch.sigmoid(torch.addcmul(b_i, w_i, h)), torch.tanh(torch.addcmul(b_g, w_g, h))
            c = torch.addcmul(f * c, i, g)
            h = o * torch.tanh(c)
            hs.append(h)
        x = torch.stack(hs)
    y = w_y * x + b_y
    log_p = y - torch.log(2 + torch.sum(torch.exp(y), dim=-1, keepdim=True))
    return -torch.mean(sequence[1:] * log_p)


def by_hand(function: str, instance: Instance) -> Program:
    """A function in NumPy."""
    return eager_program(partial({"objective": objective_by_hand, "jacobian": jacobian_by_hand}[function], instance))


def in_torch(function: str, instance: Instance) -> Program:
    """A function in PyTorch, on one thread: the arrays of a step have 14 numbers."""
    torch: Any = library("torch")
    torch.set_num_threads(1)
    main, extra, state, sequence = map(torch.from_numpy, instance)

    def objective() -> Any:
        with torch.no_grad():
            return objective_in_torch(torch, main, extra, state, sequence).numpy()

    def jacobian() -> Any:
        params = (main.clone().requires_grad_(), extra.clone().requires_grad_())
        value = objective_in_torch(torch, params[0], params[1], state, sequence)
        return torch.cat([g.ravel() for g in torch.autograd.grad(value, params)]).numpy()

    return eager_program({"objective": objective, "jacobian": jacobian}[function])


def ours(function: str, instance: Instance) -> Program:
    """A function as the tool computes it, in float64."""
    with jax.enable_x64(True):
        return compile_program(FUNCTIONS[function], *map(jnp.asarray, instance))


BASELINES: dict[str, Callable[[str, Instance], Program]] = {"NumPy by hand": by_hand, "PyTorch": in_torch}


def programs_of(function: str, instance: Instance) -> dict[str, Program]:
    """Ours and those baselines that this process can have."""
    programs = {"ours": ours(function, instance)}
    for name, make in BASELINES.items():
        try:
            programs[name] = make(function, instance)
        except MissingError:
            continue
    return programs


def run(quick: bool = False) -> Iterator[Record]:
    """Records, one for each instance, function and baseline: l layers, c characters, float64.

    Args:
        quick: one instance of 16 characters.

    Raises:
        AssertionError: when a baseline computes other numbers than ours, or ours other ones than ADBench.
    """
    here = environment()
    loops = "one kernel" if ONE_KERNEL in os.environ.get("XLA_FLAGS", "") else "default"
    for known in instances()[: 1 if quick else None]:
        sequence = known.instance.sequence[: 16 if quick else None]
        instance = known.instance._replace(sequence=sequence)
        for function in FUNCTIONS:
            programs = programs_of(function, instance)
            result = programs["ours"].run()
            for program in programs.values():
                require_equal(result, program.run(), TOLERANCE)
            if not quick:
                require_equal(result, getattr(known, function), TOLERANCE)
            rounds = time_rounds(list(programs.values()), 0.05 if quick else 8.0, 2 if quick else 5)
            sides = [Side(spread(s), *p[1:]) for s, p in zip(rounds.T, programs.values(), strict=True)]
            for k, name in list(enumerate(programs))[1:]:
                ratio = spread(rounds[:, 0] / rounds[:, k])
                case = {"function": function, "against": name, "l": len(instance.state) // 2, "c": len(sequence)}
                figures = Comparison(sides[0], sides[k], ratio, len(rounds))
                yield Record("gradbench", "NumPy and PyTorch", case | {"loops": loops}, quick, figures, here)


if __name__ == "__main__":
    command(run)
