"""A tool of GradBench for its eval ``lstm``: the objective of ADBench's LSTM, and its gradient by back-propagation.

It reads messages from standard input, one line of JSON each, and writes one line for each to standard output. From a
clone of GradBench, with this repository on ``PYTHONPATH``:

``./gradbench run --eval "./gradbench repo eval lstm" --tool "python -m benchmarks.gradbench_lstm"``

References: GradBench, github.com/gradbench/gradbench, commit 095ec0b, CONTRIBUTING.md and evals/lstm; ADBench,
github.com/microsoft/ADBench, commit 38cb793, src/cpp/shared/lstm.h.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid
from jaxtyping import Array, Float, PRNGKeyArray

from rnn_jax import Cell, LSTMState, cell_from_step, outputs, rollout
from rnn_jax.lab.commands import wrong_use
from rnn_jax.machinery.factories import factory

ONE_KERNEL = f"--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold={10**9}"
"""A flag in ``XLA_FLAGS``: a loop on a CPU becomes one kernel, in place of several for each of its steps."""


class DiagonalLSTMParams(NamedTuple):
    """The weights of an LSTM whose matrices are diagonal: one weight and one bias a gate and unit; gates f i o g."""

    w: Float[Array, " 4*H"]
    b: Float[Array, " 4*H"]


def diagonal_lstm_step(params: DiagonalLSTMParams, state: LSTMState, x: Float[Array, "*batch H"]) -> LSTMState:
    """Two gates read the input alone, the input gate and the candidate the state alone.

    f_t = σ(w_f ⊙ x_t + b_f)
    i_t = σ(w_i ⊙ h_{t−1} + b_i)
    o_t = σ(w_o ⊙ x_t + b_o)
    g_t = tanh(w_g ⊙ h_{t−1} + b_g)
    c_t = f_t ⊙ c_{t−1} + i_t ⊙ g_t
    h_t = o_t ⊙ tanh(c_t).
    """
    h, c = state
    w_f, w_i, w_o, w_g = jnp.split(params.w, 4)
    b_f, b_i, b_o, b_g = jnp.split(params.b, 4)
    f, o = sigmoid(w_f * x + b_f), sigmoid(w_o * x + b_o)
    i, g = sigmoid(w_i * h + b_i), jnp.tanh(w_g * h + b_g)
    c = f * c + i * g
    return LSTMState(h=o * jnp.tanh(c), c=c)


@factory
def diagonal_lstm(hidden_size: int) -> Cell:
    """The LSTM of ADBench, which reads as many features as it has units; its weights begin between 0 and 1."""

    def init(key: PRNGKeyArray) -> DiagonalLSTMParams:
        return DiagonalLSTMParams(*jax.random.uniform(key, (2, 4 * hidden_size)))

    def start(params: DiagonalLSTMParams, batch_shape: tuple[int, ...] = ()) -> LSTMState:
        zeros = jnp.zeros((*batch_shape, hidden_size), params.b.dtype)
        return LSTMState(h=zeros, c=zeros)

    return cell_from_step(init, start, diagonal_lstm_step, lambda params, state: state.h)


def objective(
    main_params: Float[Array, "2*layers 4*H"],
    extra_params: Float[Array, "3 H"],
    state: Float[Array, "2*layers H"],
    sequence: Float[Array, "T H"],
) -> Float[Array, ""]:
    """The loss of the next character: − mean over t and units of x_{t+1} ⊙ (y_t − ln(2 + Σ exp y_t)).

    Each layer runs over the whole sequence before the next one. So the gates that read the input are computed for all
    steps at once, and each loop back through time is that of one layer.

    Args:
        main_params: w and b of each layer, from the bottom up.
        extra_params: weights of the input, weights and biases of the output.
        state: h_0 and c_0 of each layer.
        sequence: one character a row, as bits.
    """
    w_x, w_y, b_y = extra_params[:, None]
    cell = diagonal_lstm(sequence.shape[-1])
    xs = w_x * sequence[:-1]
    for w, b, h, c in zip(main_params[::2], main_params[1::2], state[::2], state[1::2], strict=True):
        params = DiagonalLSTMParams(w, b)
        _, states = rollout(cell, params, LSTMState(h, c), xs)
        xs = outputs(cell, params, states)
    ys = w_y * xs + b_y
    log_p = ys - jnp.log(2 + jnp.sum(jnp.exp(ys), axis=-1, keepdims=True))
    return -jnp.mean(sequence[1:] * log_p)


def jacobian(
    main_params: Float[Array, "2*layers 4*H"],
    extra_params: Float[Array, "3 H"],
    state: Float[Array, "2*layers H"],
    sequence: Float[Array, "T H"],
) -> Float[Array, " P"]:
    """The gradient of ``objective`` with respect to main_params and extra_params, row after row."""
    gradients = jax.grad(objective, argnums=(0, 1))(main_params, extra_params, state, sequence)
    return jnp.concatenate(list(map(jnp.ravel, gradients)))


FUNCTIONS: dict[str, Callable[..., Array]] = {"objective": objective, "jacobian": jacobian}


class Instance(NamedTuple):
    """The arguments of both functions."""

    main_params: np.ndarray
    extra_params: np.ndarray
    state: np.ndarray
    sequence: np.ndarray


def instance_of(given: Any) -> Instance:
    """The arrays in the input of a message.

    Raises:
        ValueError: for a missing array, one that holds anything but finite numbers, or shapes that do not fit.
    """
    if not isinstance(given, dict) or not given.keys() >= {*Instance._fields}:
        names = ", ".join(given) if isinstance(given, dict) else type(given).__name__
        raise ValueError(f"input got {names}; want {', '.join(Instance._fields)}")
    arrays = {}
    for name in Instance._fields:
        try:
            arrays[name] = np.asarray(given[name], dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{name} got no matrix of numbers; want rows of equal length") from None
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} got numbers that are not finite; want finite ones")
    instance = Instance(**arrays)
    (rows, *_), (T, H, *_) = (*instance.main_params.shape, 0), (*instance.sequence.shape, 0, 0)
    if instance.sequence.ndim != 2 or T < 2 or H < 1:
        raise ValueError(f"sequence got shape {instance.sequence.shape}; want (T, H) with T of at least 2")
    if rows < 2 or rows % 2:
        raise ValueError(f"main_params got shape {instance.main_params.shape}; want two rows for each layer")
    for name, shape in {"main_params": (rows, 4 * H), "extra_params": (3, H), "state": (rows, H)}.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} got shape {arrays[name].shape}; want {shape}")
    return instance


def answer(message: dict[str, Any]) -> dict[str, Any]:
    """The response to a message; one that cannot be met says so in its field ``error``, in one line."""
    response: dict[str, Any] = {"id": message["id"]}
    try:
        match message.get("kind"):
            case "start":
                flags = os.environ.get("XLA_FLAGS", "")
                response |= {"tool": "rnn_jax", "config": {"jax": jax.__version__, "XLA_FLAGS": flags}}
            case "define":
                require_module(message.get("module"))
                response |= {"success": True}
            case "evaluate":
                require_module(message.get("module"))
                response |= evaluated(message.get("function"), message.get("input"))
    except ValueError as error:
        response |= {"success": False, "error": str(error)}
    return response


def require_module(name: Any) -> None:
    """Raises a ValueError for a module other than ``lstm``."""
    if name != "lstm":
        raise ValueError(f"module got {name!r}; want 'lstm'")


def evaluated(function: Any, given: Any) -> dict[str, Any]:
    """Output and timings of a function: each of at least ``min_runs`` runs that take ``min_seconds`` in all or longer.

    The timing ``prepare`` is that of the arrays and of the compilation, which happens once for each shape.

    Raises:
        ValueError: for an unknown function, an input that does not fit, or an output that is not finite.
    """
    if function not in FUNCTIONS:
        raise ValueError(f"function got {function!r}; want one of {', '.join(FUNCTIONS)}")
    instance = instance_of(given)
    runs, seconds = given.get("min_runs", 1), given.get("min_seconds", 0)
    for name, value, least in (("min_runs", runs, 1), ("min_seconds", seconds, 0)):
        if not isinstance(value, int | float) or not least <= value < float("inf"):
            raise ValueError(f"{name} got {value!r}; want a number of at least {least}")
    begin = time.perf_counter_ns()
    arrays = jax.block_until_ready([jnp.asarray(a) for a in instance])
    run = compiled(function, tuple(a.shape for a in arrays))
    timings = [{"name": "prepare", "nanoseconds": time.perf_counter_ns() - begin}]
    output, spent = jnp.nan, 0
    while len(timings) - 1 < runs or spent < seconds * 1e9:
        begin = time.perf_counter_ns()
        output = jax.block_until_ready(run(*arrays))
        timings.append({"name": "evaluate", "nanoseconds": time.perf_counter_ns() - begin})
        spent += timings[-1]["nanoseconds"]
    if not np.isfinite(output).all():
        raise ValueError(f"{function} got a result that is not finite; want smaller params")
    return {"success": True, "output": np.asarray(output).tolist(), "timings": timings}


@functools.cache
def compiled(function: str, shapes: tuple[tuple[int, ...], ...]) -> Callable[..., Array]:
    """A function compiled for arrays of float64 of these shapes."""
    return jax.jit(FUNCTIONS[function]).lower(*(jax.ShapeDtypeStruct(s, jnp.float64) for s in shapes)).compile()


def serve(lines: Iterable[str]) -> Iterator[str]:
    """The responses to messages, line by line.

    Raises:
        ValueError: for a line that is no message, so that there is no id that a response could name.
    """
    for number, line in enumerate(lines, 1):
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("id"), int):
            raise ValueError(f"line {number} got {line.strip()[:40]!r}; want a message of GradBench with an id")
        yield json.dumps(answer(message), allow_nan=False)


def with_option(flags: str, option: str) -> str:
    """Flags of XLA with one more option; of those whose value is a list of options, XLA reads the last one alone.

    >>> with_option("--a=1 --xla_backend_extra_options=x=2,y", "--xla_backend_extra_options=z=3")
    '--a=1 --xla_backend_extra_options=x=2,y,z=3'
    """
    name, _, value = option.partition("=")
    parts = flags.split()
    given = [part.partition("=")[2] for part in parts if part.startswith(f"{name}=")]
    others = [part for part in parts if not part.startswith(f"{name}=")]
    return " ".join([*others, f"{name}={','.join([*given[-1:], value])}"])


def main() -> None:
    """Answers messages until the end of the input; exits with 2 after a line that is none."""
    os.environ["XLA_FLAGS"] = with_option(os.environ.get("XLA_FLAGS", ""), ONE_KERNEL)  # read when JAX first computes
    jax.config.update("jax_enable_x64", True)
    with wrong_use():
        for line in serve(sys.stdin):
            print(line, flush=True)


if __name__ == "__main__":
    main()
