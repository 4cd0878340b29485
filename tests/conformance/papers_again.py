"""``python -m tests.conformance.papers_again XLSTM MINIMAL_LRU``: the code of the two papers, evaluated again.

Both arguments are clones of their repositories, at the commits that data/README.md names. On the inputs of
``papers.npz`` their code computes outputs, last states and gradients in float64; the largest difference from the stored
numbers is printed, which is that of rounding. Needs PyTorch and flax.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tests.conformance.cases import error_of, peer, stored


def slstm_again(case: dict[str, Any]) -> dict[str, Any]:
    """Outputs, last states and gradients, by PyTorch."""
    theirs, torch = importlib.import_module("vanilla"), peer("torch")
    inputs = {name: torch.tensor(case[name], requires_grad=True) for name in case["by"]}
    start = torch.zeros(case["last"].shape, dtype=torch.float64)
    pointwise = theirs.slstm_pointwise_function_registry["slstm"]
    states, last, _ = theirs.slstm_forward(inputs["x"], start, inputs["R"], inputs["b"], pointwise)
    ys = states[0, 1:]
    (torch.tensor(case["weigh"]) * ys).sum().backward()
    found = {"ys": ys, "last": last, "by": {name: tensor.grad for name, tensor in inputs.items()}}
    return jax.tree.map(lambda tensor: tensor.detach().numpy(), found)


def lru_again(case: dict[str, Any]) -> dict[str, Any]:
    """Outputs and gradients, by JAX."""
    w = case["w"]
    module = importlib.import_module("lru.model").LRU(*w["B_re"].shape)

    def loss(x: Any, w: Any) -> Any:
        ys = module.apply({"params": w}, x)
        return jnp.sum(case["weigh"] * ys), ys

    (_, ys), (by_x, by_w) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(case["x"], w)
    return {"ys": ys, "by": {"x": by_x, "w": by_w}}


def main(xlstm: str, minimal_lru: str) -> None:
    """Prints the largest difference of each paper."""
    jax.config.update("jax_enable_x64", True)
    again: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
        "slstm": (f"{xlstm}/xlstm/blocks/slstm/src", slstm_again),
        "lru": (minimal_lru, lru_again),
    }
    for name, (folder, evaluated) in again.items():
        sys.path.insert(0, folder)
        cases = stored("papers")[name]
        found = [evaluated(case) for case in cases]
        errors = [error_of(each, {part: case[part] for part in each}) for each, case in zip(found, cases, strict=True)]
        print(f"{name}: {len(errors)} evaluations, largest difference {max(errors):.0e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
