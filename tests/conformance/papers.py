"""Numbers of the code of two papers: the sLSTM of the xLSTM, and a minimal linear recurrent unit.

The sLSTM is given the sums of its input, gates i f z o, each of all heads; its recurrent matrices are one a head. The
linear recurrent unit adds D ⊙ x_t to its output. Ours run on their arrays in their layout, so that both are
differentiated by the same arrays; the loss is a weighted sum of the outputs.
"""

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import diagonal_skip, lru, outputs, rollout, slstm
from rnn_jax.cells import LRUParams, SLSTMParams
from rnn_jax.combinators import DiagonalSkipParams
from tests.conformance.cases import DIRECTLY, Case, Suite, error_of, gates, stored

SLSTM, LRU = "xLSTM, sLSTM", "minimal LRU"
TOLERANCE = 1e-11


def slstm_params(R: Any, b: Any) -> SLSTMParams:
    """Params whose input is the sums themselves, with a matrix of one block a head: R is ``(heads, 4·d, d)``."""
    heads, _, d = R.shape
    H = heads * d
    blocks = R.reshape(heads, 4, d, d)  # head, gate, to, from
    W_hh = jnp.einsum("kgij,kl->kjgli", blocks, jnp.eye(heads)).reshape(H, 4 * H)
    order = "ifgo", "ifog"
    return SLSTMParams(gates(jnp.eye(4 * H), *order), gates(W_hh, *order), gates(b, *order))


def slstm_run(inputs: Any) -> Any:
    """Outputs ``(T, B, H)`` and the last h, c, n and m."""
    params = slstm_params(inputs["R"], inputs["b"])
    H = params.W_hh.shape[0]
    cell = slstm(4 * H, H)
    h_T, hs = rollout(cell, params, cell.start(params, inputs["x"].shape[1:2]), inputs["x"])
    return outputs(cell, params, hs), jnp.stack(h_T)


def lru_run(inputs: Any, schedule: str) -> Any:
    """Outputs ``(T, O)``."""
    w, x = inputs["w"], inputs["x"]
    W_xh = jnp.concatenate([w["B_re"].T, w["B_im"].T], axis=-1)
    weights = LRUParams(W_xh, w["nu_log"], w["theta_log"], w["gamma_log"], w["C_re"].T, w["C_im"].T)
    cell = diagonal_skip(lru(x.shape[-1], len(w["nu_log"]), output_size=x.shape[-1]))
    params = DiagonalSkipParams(weights, w["D"])
    _, hs = rollout(cell, params, cell.start(params), x, schedule=schedule)
    return outputs(cell, params, hs), None


RUNS = {"slstm": slstm_run} | {way: partial(lru_run, schedule=way) for way in ("scan", "associative")}


@cache
def program(name: str) -> Any:
    """Outputs, the last state, and the gradients with respect to all that goes in; compiled once for each shape."""

    def loss(inputs: Any, weigh: Any) -> Any:
        ys, last = RUNS[name](inputs)
        return jnp.sum(weigh * ys), (ys, last)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def compared(suite: str, title: str, run: str, case: dict[str, Any]) -> Iterator[Case]:
    """A case for each quantity."""
    inputs = jax.tree.map(jnp.asarray, {name: case[name] for name in case["by"]})
    (_, (ys, last)), gradients = program(run)(inputs, case["weigh"])
    quantities = {"outputs": (ys, case["ys"])}
    if last is not None:
        quantities |= {f"last {part}": pair for part, *pair in zip("hcnm", last, case["last"], strict=True)}
    for name, theirs in case["by"].items():
        named = theirs if isinstance(theirs, dict) else {name: theirs}
        mine = gradients[name] if isinstance(theirs, dict) else gradients
        quantities |= {f"gradient of {each}": (mine[each], named[each]) for each in named}
    for what, pair in quantities.items():
        yield Case(suite, f"{title}, {what}", DIRECTLY, error_of(*pair), TOLERANCE)


def slstm_cases() -> Iterator[Case]:
    for number, case in enumerate(stored("papers")["slstm"]):
        yield from compared(SLSTM, str(number), "slstm", case)


def lru_cases() -> Iterator[Case]:
    for number, case in enumerate(stored("papers")["lru"]):
        for schedule in ("scan", "associative"):
            yield from compared(LRU, f"{number}, {schedule}", schedule, case)


SUITES = (
    Suite(
        SLSTM,
        "[NX-AI/xlstm](https://github.com/NX-AI/xlstm) `8901ba0`, xlstm/blocks/slstm/src/vanilla, evaluated",
        "outputs, all parts of the last state and all gradients; one and two heads, sums from small to very large",
        slstm_cases,
        cells=("slstm",),
    ),
    Suite(
        LRU,
        "[NicolasZucchet/minimal-LRU](https://github.com/NicolasZucchet/minimal-LRU) `bbd71b1`, lru/model.py, "
        "evaluated",
        "outputs and all gradients, step by step and by the parallel scan",
        lru_cases,
        cells=("lru", "diagonal_skip"),
    ),
)
