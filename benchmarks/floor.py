"""The floor of a program's time: its products at the rate of one large product on the same device."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def product_flops(f: Callable[..., Any], *args: Any) -> int:
    """The floating-point operations in a program's products, 2·M·K·N of ``(M, K) @ (K, N)`` in each step of a scan.

    Elementwise operations count nothing, and of the branches of a ``cond`` the most expensive counts.

    Args:
        f: a function of arrays, such as ``jax.grad(loss)``.
        args: arrays, or their shapes and types.

    Raises:
        ValueError: for a program with a while loop, whose number of steps is not in the program.
    """
    return _flops(jax.make_jaxpr(f)(*args).jaxpr)


def _flops(jaxpr: Any) -> int:
    """The products of a jaxpr."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = [getattr(p, "jaxpr", p) for p in jax.tree.leaves(list(eqn.params.values())) if hasattr(p, "eqns")]
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            total += 2 * eqn.outvars[0].aval.size * int(np.prod([left[axis] for axis in contracted]))
        elif eqn.primitive.name == "scan":
            total += eqn.params["length"] * _flops(inner[0])
        elif eqn.primitive.name == "cond":
            total += max(map(_flops, inner))
        elif eqn.primitive.name == "while":
            raise ValueError("product_flops got a while loop; want scans, whose lengths are known")
        else:
            total += sum(map(_flops, inner))
    return total


def product_rate(size: int = 1024, runs: int = 5) -> float:
    """Floating-point operations a second of a ``(size, size)`` product of float32, the best of some runs."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, a))
    seconds = []
    for _ in range(runs):
        begin = time.perf_counter()
        jax.block_until_ready(product(a, a))
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds)
