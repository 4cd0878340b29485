"""Keras's own tests of recurrent layers: the numbers that stand in its sources.

Its weights are constants there, so a wrong order of gates would not be seen; ``keras_live`` sees it.
"""

from collections.abc import Callable, Iterator
from functools import cache, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import constant

from rnn_jax import bidirectional, cell_from_step, conv_lstm, gru, gru_reset_before, lstm, stack, vanilla
from rnn_jax.layers import BothWays, Layer, as_layer
from tests.conformance.cases import DIRECTLY, OWN, Case, Suite, error_of, stored

NAME = "Keras, stored"
Spec = dict[str, Any]

MERGES: dict[Any, Any] = {
    "concat": "concatenate",
    "sum": "sum",
    "mul": jnp.multiply,
    "ave": lambda forward, backward: (forward + backward) / 2,
    None: lambda forward, backward: (forward, backward),
}


def one_state_step(params: None, h: Any, x: Any) -> Any:
    """The test cell of one state: h_t = 1 x_t + 1 h_{t−1}, with matrices of ones."""
    ones = jnp.sum(x, axis=-1, keepdims=True) + jnp.sum(h, axis=-1, keepdims=True)
    return jnp.broadcast_to(ones, h.shape)


@cache
def own_cell(kind: str, units: int) -> Any:
    """Keras's test cells; that of two states reads the first of them twice, and its output is the sum of both."""
    if kind == "OneStateRNNCell":
        zeros = lambda params, batch_shape=(): jnp.zeros((*batch_shape, units))  # noqa: E731
        return cell_from_step(lambda key: None, zeros, one_state_step)
    return cell_from_step(
        lambda key: None,
        lambda params, batch_shape=(): (jnp.zeros((*batch_shape, units)), jnp.zeros((*batch_shape, units))),
        lambda params, h, x: (one_state_step(params, h[0], x), one_state_step(params, h[0], x)),
        lambda params, h: h[0] + h[1],
    )


constantly = cache(constant)
"""One initialiser for each constant, so that equal layers are equal cells."""


def inits_of(spec: Spec) -> dict[str, Any]:
    """Our initialisers of a layer's constants; without biases they are 0."""
    bias = number_of(spec, "bias", 0.0) if spec.get("use_bias", True) else 0.0
    numbers = {"input": number_of(spec, "kernel", 0.0), "recurrent": number_of(spec, "recurrent", 0.0), "bias": bias}
    inits: dict[str, Any] = {f"{name}_init": constantly(number) for name, number in numbers.items()}
    if "LSTM" in spec["kind"]:  # b_f begins at 1 there; ours is added to what bias_init makes
        inits["forget_bias"] = 1.0 - bias if spec.get("unit_forget_bias", True) and spec.get("use_bias", True) else 0.0
    return inits


def number_of(spec: Spec, name: str, default: float) -> float:
    """The constant of an initialiser."""
    value = spec.get(f"{name}_initializer", default)
    return 1.0 if value == "ones" else value


def cell_of(spec: Spec, features: int, space: tuple[int, ...]) -> Any:
    """Our cell of a layer of Keras, which begins with its constants."""
    kind = spec["kind"].removesuffix("Cell")
    units: int = spec["units"] if "units" in spec else spec["filters"]
    if kind in ("OneStateRNN", "TwoStatesRNN"):
        return own_cell(spec["kind"], units)
    inits = inits_of(spec)
    if kind.startswith("ConvLSTM"):
        return conv_lstm(features, units, space=space, padding=spec.get("padding", "valid"), **inits)
    if kind == "GRU":
        return (gru if spec.get("reset_after", True) else gru_reset_before)(features, units, **inits)
    return {"SimpleRNN": vanilla, "LSTM": lstm}[kind](features, units, **inits)


@cache
def params_of(cell: Any) -> Any:
    """Our params; a GRU of Keras has a second bias, of which r and z are added to ours."""
    params = cell.init(jax.random.key(0))
    if not hasattr(params, "b_n"):
        return params
    twice = np.repeat([2.0, 2.0, 1.0], len(params.b_n))
    return params._replace(b_h=params.b_h * twice)


def layer_of(spec: Spec, features: int, space: tuple[int, ...] = ()) -> tuple[Layer, Any]:
    """Our layer and its params."""
    if spec["kind"] == "Bidirectional":
        ways = spec["layer"], spec.get("backward_layer", spec["layer"])
        cells = [cell_of(way, features, space) for way in ways]
        layer = bidirectional(*cells, merge=MERGES[spec.get("merge_mode", "concat")])
        return layer, BothWays(*map(params_of, cells))
    inner = spec.get("cell", spec)
    specs, cells = inner if isinstance(inner, list) else [inner], []
    for each in specs:
        cells.append(cell_of(each, features, space))
        features = each.get("units", 0)
    params = tuple(map(params_of, cells))
    cell = stack(*cells) if isinstance(inner, list) else cells[0]
    return as_layer(cell, reverse=spec.get("go_backwards", False)), params if isinstance(inner, list) else params[0]


@cache
def program(layer: Layer) -> Callable[..., Any]:
    """States and outputs, and the outputs of the last state; compiled once for each shape."""

    def run(params: Any, h0: Any, xs: Any, mask: Any) -> Any:
        h_T, ys = layer.apply(params, h0, xs, mask=mask)
        return h_T, ys, layer.output(params, h_T)

    return jax.jit(run)


def result_of(spec: Spec, calls: list[Spec]) -> Any:
    """What the layer returns at its last call; ``stateful`` layers begin a call where they ended the one before."""
    x, rank = calls[0]["x"], 0
    if spec["kind"].startswith("ConvLSTM"):
        rank = np.ndim(x) - (2 if "Cell" in spec["kind"] else 3)
    space = x.shape[-rank - 1 : -1] if rank else ()
    layer, params = layer_of(spec, x.shape[-1], space)
    inner, h, returned = spec.get("layer", spec), layer.start(params, x.shape[:1]), None
    for call in calls:
        x = call["x"][:, None] if "states" in call else call["x"]
        given = jax.tree.leaves(call.get("initial_state", call.get("states")))
        h = jax.tree.structure(h).unflatten(given) if given else h
        mask = np.ones(x.shape[:2], bool) if call.get("mask") is None else call["mask"]
        h_T, ys, last = program(layer)(params, h, np.swapaxes(x, 0, 1), mask.T)
        if inner.get("return_sequences"):
            last = jnp.swapaxes(ys, 0, 1)
            if inner.get("zero_output_for_mask"):
                last = jnp.where(mask[..., None], last, 0)
        parts = h_T if isinstance(spec.get("cell"), list) else jax.tree.leaves(h_T)
        outs = last if isinstance(last, tuple) else (last,)
        returned = (*outs, parts) if "Cell" in spec["kind"] else (*outs, *(jax.tree.leaves(part) for part in parts))
        h = h_T if inner.get("stateful") else layer.start(params, x.shape[:1])
    return returned


def walked(result: Any, path: list[Any]) -> Any:
    """The part of a result at a path of Keras's test: parts of a tuple, examples of a batch, a sum."""

    def onward(node: Any, each: Any) -> Any:
        if each == "sum":
            return jnp.sum(node)
        node = node[each[1]] if isinstance(each, list) else node[each]
        return node[0] if isinstance(node, list) and len(node) == 1 else node

    return reduce(onward, path, result)


def cases() -> Iterator[Case]:
    """Each assertion of their tests."""
    for number, case in enumerate(stored("keras")):
        spec = case["layer"]
        if "expected" not in case:
            continue  # an assertion that two results of one layer are equal: none of its numbers is Keras's
        result = result_of(spec, case["calls"])
        whole = "Cell" in spec["kind"] or any(isinstance(each, list) for each in case["path"])
        got = walked(result if whole else result[0], case["path"])
        how = OWN if "StateRNNCell" in str(spec) or "StatesRNNCell" in str(spec) else DIRECTLY
        yield Case(NAME, f"{number} {case['test']}", how, error_of(got, case["expected"]), case["tol"])


SUITE = Suite(
    NAME,
    "[keras-team/keras](https://github.com/keras-team/keras) `3422977`, keras/src/layers/rnn",
    "SimpleRNN, GRU (both resets), LSTM, ConvLSTM 1D to 3D, Bidirectional, stacked cells, masks, carried states",
    cases,
    cells=("vanilla", "gru", "gru_reset_before", "lstm", "conv_lstm", "bidirectional", "stack"),
)
