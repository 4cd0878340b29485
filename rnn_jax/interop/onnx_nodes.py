"""The nodes LSTM, GRU and RNN of ONNX as cells of ours, and back: names of activations, orders of gates, biases.

ONNX reads W (D, G·H, I), R (D, G·H, H), B (D, 2·G·H) and P (D, 3·H), where D counts directions. Its gates are i o f c
and z r h, its peepholes i o f. Of its two biases the first becomes ``b_h``, and the second is 0; only a GRU whose reset
gate acts after the product has two, where b_n is in the second. They are added when they are read.
"""

import inspect
from typing import Any, NamedTuple

import numpy as np

from rnn_jax.cells import (
    ACTIVATIONS,
    CIFGParams,
    GeneralLSTMParams,
    GRUParams,
    GRUResetBeforeParams,
    LSTMParams,
    PeepholeLSTMParams,
    VanillaParams,
)
from rnn_jax.cells.activations import (
    affine_activation,
    clipped,
    elu,
    hard_sigmoid,
    leaky_relu,
    scaled_tanh,
    thresholded_relu,
)
from rnn_jax.interop.models import Part, reordered
from rnn_jax.machinery.reprs import repr_of_arrays

__all__ = ["Native", "native_of", "part_of"]

OPS = {
    "vanilla": "RNN",
    **dict.fromkeys(("gru", "gru_reset_before"), "GRU"),
    **dict.fromkeys(("lstm", "peephole_lstm", "cifg_lstm", "general_lstm"), "LSTM"),
}
"""The node of each cell that may be one."""

GATES = {"RNN": ("h", "h"), "GRU": ("rzn", "zrn"), "LSTM": ("ifog", "iofg")}
"""Orders of gates: ours, and ONNX's. Its h of a GRU is our n, its c of an LSTM our g."""

DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
"""Activations of gates, candidate, and memory."""

NAMED = {
    "tanh": "Tanh",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "elu": "Elu",
    "hard_sigmoid": "HardSigmoid",
    "linear": "Affine",
}
"""ONNX's activations by our names."""

NUMBERED: dict[str, tuple[Any, tuple[float | None, ...]]] = {
    "Affine": (affine_activation, (1.0, 0.0)),
    "LeakyRelu": (leaky_relu, (0.01,)),
    "ThresholdedRelu": (thresholded_relu, (1.0,)),
    "ScaledTanh": (scaled_tanh, (1.0, 1.0)),
    "HardSigmoid": (hard_sigmoid, (0.2, 0.5)),
    "Elu": (elu, (1.0,)),
}
"""Activations with numbers alpha and beta: our factory, and ONNX's own numbers."""


class Function(NamedTuple):
    """An activation as ONNX has it."""

    name: str
    numbers: tuple[float, ...] = ()
    """alpha, or alpha and beta."""


class Native(NamedTuple):
    """One direction of a node, without the axis of directions."""

    op: str
    W: np.ndarray
    R: np.ndarray
    B: np.ndarray
    P: np.ndarray | None
    functions: tuple[Function, ...]
    attributes: dict[str, Any]
    """Those that both directions share."""

    __repr__ = repr_of_arrays


def native_of(part: Part) -> Native | None:
    """A part as one direction of a node, or None where ONNX has no such node."""
    op = OPS.get(part.name)
    options = {name: value for name, value in part.options.items() if value is not False}
    activations = activations_of(op or "", options)
    allowed = {"activation", "gate_activation", "memory_activation", "coupled", "peepholes"}
    if op is None or activations is None or options.keys() - allowed:
        return None
    functions, clip = activations
    attributes: dict[str, Any] = {"hidden_size": part.params.W_hh.shape[0]} | ({"clip": clip} if clip else {})
    if part.name == "cifg_lstm" or options.get("coupled"):
        if not is_odd_about_half(functions[0]):
            return None
        return coupled_native(part, functions, attributes | {"input_forget": 1})
    p, (our, their) = part.params, GATES[op]
    W, R = (np.swapaxes(reordered(a, our, their), 0, 1) for a in (p.W_xh, p.W_hh))
    bias = reordered(p.b_h, our, their)
    second = np.zeros_like(bias)
    if part.name == "gru":
        second[-p.b_n.size :] = p.b_n
        attributes["linear_before_reset"] = 1
    w_ch = getattr(p, "w_ch", None)
    P = None if w_ch is None else reordered(w_ch, "ifo", "iof")
    return Native(op, W, R, np.concatenate([bias, second]), P, functions, attributes)


def coupled_native(part: Part, functions: tuple[Function, ...], attributes: dict[str, Any]) -> Native:
    """An LSTM with coupled gates, i = 1 − σ(a) = σ(−a), whose weights of i are those of f, negated.

    ONNX Runtime does not read the weights of f; other runtimes may not know ``input_forget``. All compute the same.
    """
    p = part.params

    def widened(a: np.ndarray) -> np.ndarray:
        f, o, g = np.split(a, 3, -1)
        return np.concatenate([-f, o, f, g], -1)

    bias, w_ch, P = widened(p.b_h), getattr(p, "w_ch", None), None
    if w_ch is not None:
        f, o = np.split(w_ch, 2)
        P = np.concatenate([-f, o, f])
    W, R = (np.swapaxes(widened(a), 0, 1) for a in (p.W_xh, p.W_hh))
    return Native("LSTM", W, R, np.concatenate([bias, np.zeros_like(bias)]), P, functions, attributes)


def is_odd_about_half(gate: Function) -> bool:
    """Whether 1 − f(a) = f(−a)."""
    return gate.name == "Sigmoid" or (gate.name == "HardSigmoid" and gate.numbers[1] == 0.5)


def activations_of(op: str, options: dict[str, Any]) -> tuple[tuple[Function, ...], float] | None:
    """The functions of a node, gates first, and the bound of their sums, 0 for none; None where ONNX has none such."""
    phi = options.get("activation", "tanh")
    gate = options.get("gate_activation", "sigmoid")
    wanted = {"RNN": (phi,), "GRU": (gate, phi), "LSTM": (gate, phi)}.get(op, ())
    bounds = {bound_of(each) for each in wanted}
    functions = [function_named(inner_of(each)) for each in wanted]
    if op == "LSTM":
        psi = options.get("memory_activation", phi)
        functions.append(function_named(psi))  # not clipped
    if len(bounds) != 1 or None in functions:
        return None
    return tuple(each for each in functions if each), bounds.pop()


def call_of_activation(activation: Any) -> tuple[Any, dict[str, Any]]:
    """The factory of an activation with its arguments by name; None where it has none."""
    recipe = getattr(activation, "recipe", None)
    if recipe is None:
        return None, {}
    make, args, kwargs, _ = recipe
    bound = inspect.signature(make).bind(*args, **kwargs)
    bound.apply_defaults()
    return make, dict(bound.arguments)


def bound_of(activation: Any) -> float:
    """The bound of a clipped activation; 0 without one."""
    make, given = call_of_activation(activation)
    return float(given["bound"]) if make is clipped else 0.0


def inner_of(activation: Any) -> Any:
    """The activation without its clip."""
    make, given = call_of_activation(activation)
    return given["activation"] if make is clipped else activation


def function_named(activation: Any) -> Function | None:
    """An activation as ONNX has it; None for one of your own."""
    names = {function: name for name, function in ACTIVATIONS.items()}
    name = activation if isinstance(activation, str) else names.get(activation)
    if name == "hard_sigmoid":
        return Function("HardSigmoid", (1 / 6, 0.5))
    if name is not None:
        return Function(NAMED[name], tuple(n or 0.0 for n in NUMBERED.get(NAMED[name], (None, ()))[1]))
    make, given = call_of_activation(activation)
    known = {factory: op for op, (factory, _) in NUMBERED.items()}
    return Function(known[make], tuple(map(float, given.values()))) if make in known else None


def function_attributes(op: str, functions: tuple[Function, ...]) -> dict[str, Any]:
    """The attributes of a node's activations, of both directions; none for the usual ones."""
    if [each.name for each in functions] == [*DEFAULTS[op]] * (len(functions) // len(DEFAULTS[op])):
        return {}
    numbers = {
        "activation_alpha": [each.numbers[0] for each in functions if each.numbers],
        "activation_beta": [each.numbers[1] for each in functions if len(each.numbers) > 1],
    }
    return {"activations": [each.name for each in functions]} | {
        name: found for name, found in numbers.items() if found
    }


def functions_of(op: str, attributes: dict[str, Any], directions: int) -> list[tuple[Function, ...]]:
    """The functions of a node of a file, of each direction."""
    names = [as_text(name) for name in attributes.get("activations") or DEFAULTS[op] * directions]
    count = len(DEFAULTS[op])
    if len(names) != count * directions:
        raise ValueError(f"activations got {', '.join(names)} for {op}; want {count * directions} functions")
    if attributes.get("clip", 0.0) < 0:
        raise ValueError(f"clip got {attributes['clip']} for {op}; want a positive bound")
    alphas, betas = (iter(attributes.get(f"activation_{name}", ())) for name in ("alpha", "beta"))
    found = []
    for name in names:
        known = {each.lower(): each for each in (*NAMED.values(), *NUMBERED)}
        if name.lower() not in known:
            raise ValueError(f"activations got {name!r}; want one of {', '.join(sorted({*known.values()}))}")
        name = known[name.lower()]
        own = NUMBERED.get(name, (None, ()))[1]
        numbers: Any = (next(given, default) for given, default in zip((alphas, betas), own, strict=False))
        found.append(Function(name, tuple(shortest(number) for number in numbers)))
    if [*alphas, *betas]:
        raise ValueError(
            f"activation_alpha or activation_beta got more numbers than {', '.join(names)} take; want one each"
        )
    return [tuple(found[count * d : count * (d + 1)]) for d in range(directions)]


def as_text(name: Any) -> str:
    """A name in a file."""
    return name.decode() if isinstance(name, bytes) else name


def shortest(number: float) -> float:
    """The shortest number that is this one in 32 bits, as a file holds it."""
    return float(str(np.float32(number)))


def activation_of(function: Function, clip: float = 0.0) -> Any:
    """Our activation: a name where it has one, else a function."""
    if function == Function("HardSigmoid", (shortest(1 / 6), 0.5)):
        named: Any = "hard_sigmoid"
    else:
        usual = {function_named(name): name for name in NAMED if name != "hard_sigmoid"}
        named = usual.get(function) or NUMBERED[function.name][0](*function.numbers)
    return clipped(named, clip) if clip else named


def part_of(native: Native, reverse: bool) -> Part:
    """The part that one direction of a node of a file is."""
    our, their = GATES[native.op]
    first, second = np.split(native.B, 2)
    W_xh, W_hh = (reordered(a.T, their, our) for a in (native.W, native.R))
    weights: list[Any] = [W_xh, W_hh, reordered(added(first, second), their, our)]
    options = options_of_node(native)
    if native.op == "RNN":
        return Part("vanilla", options, VanillaParams(*weights), reverse)
    if native.op == "GRU" and native.attributes.get("linear_before_reset"):
        b_n: Any = second[-len(W_hh) :]
        second = np.concatenate([second[: -len(W_hh)], np.zeros_like(b_n)])
        weights[2] = reordered(added(first, second), their, our)
        return Part("gru", options, GRUParams(*weights, b_n=b_n), reverse)
    if native.op == "GRU":
        return Part("gru_reset_before", options, GRUResetBeforeParams(*weights), reverse)
    w_ch: Any = None if native.P is None else reordered(native.P, "iof", "ifo")
    if native.attributes.get("input_forget"):
        if not is_odd_about_half(native.functions[0]):
            raise ValueError(f"activations got {native.functions[0].name} for coupled gates; want Sigmoid")
        return coupled_part(weights, w_ch, options, reverse)
    if w_ch is None:
        return Part("lstm", options, LSTMParams(*weights), reverse)
    return Part("peephole_lstm", options, PeepholeLSTMParams(*weights, w_ch=w_ch), reverse)


def options_of_node(native: Native) -> dict[str, Any]:
    """The options of a cell that differ from its defaults."""
    clip = shortest(native.attributes.get("clip", 0.0))
    names = {"RNN": ("activation",), "GRU": ("gate_activation", "activation")}
    names |= {"LSTM": ("gate_activation", "activation", "memory_activation")}
    activations = [activation_of(f, clip if n < 2 else 0.0) for n, f in enumerate(native.functions)]
    options: dict[str, Any] = dict(zip(names[native.op], activations, strict=True))
    if options.get("memory_activation") == options["activation"]:
        del options["memory_activation"]
    usual = {"activation": "tanh", "gate_activation": "sigmoid"}
    return {name: value for name, value in options.items() if value != usual.get(name)}


def coupled_part(weights: list[Any], w_ch: Any, options: dict[str, Any], reverse: bool) -> Part:
    """The part of an LSTM with coupled gates, as ONNX Runtime computes it."""

    def narrowed(a: Any) -> Any:
        i, _, o, g = np.split(a, 4, -1)
        return np.concatenate([-i, o, g], -1)

    arrays = [*map(narrowed, weights)]
    if w_ch is None and not options:
        return Part("cifg_lstm", {}, CIFGParams(*arrays), reverse)
    own = {"coupled": True} | options
    if w_ch is None:
        return Part("general_lstm", own, GeneralLSTMParams(*arrays), reverse)
    i, _, o = np.split(w_ch, 3)
    peepholes: Any = np.concatenate([-i, o])
    return Part("general_lstm", own | {"peepholes": True}, GeneralLSTMParams(*arrays, w_ch=peepholes), reverse)


def added(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The sum of two biases; the first bit by bit where the second is 0."""
    return np.where(second == 0, first, first + second)
