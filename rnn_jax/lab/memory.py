"""Estimates of the memory that a run needs, so that a run which does not fit is refused before it begins."""

import contextlib
import math
import os
from pathlib import Path
from typing import Any

import jax

from rnn_jax.lab.options import Options

__all__ = ["machine_memory", "memory_of_training", "number_count", "require_memory"]


def require_memory(options: Any, **needed: float) -> None:
    """Raises a ValueError if a run needs more memory than the machine has.

    Args:
        options: of the run.
        **needed: bytes, by the name of the option that they depend on; estimates are enough.
    """
    has, needs = machine_memory(), sum(needed.values())
    if needs > has:
        option = max(needed, key=needed.__getitem__)
        raise ValueError(
            f"--{option.replace('_', '-')} got {getattr(options, option)}, with which the run needs about "
            f"{needs / 2**30:,.1f} GiB, this machine has {has / 2**30:,.1f} GiB; want less"
        )


def machine_memory() -> float:
    """Bytes of memory for arrays: those of the accelerator, of the machine, or of the group of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    known = [math.inf]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not every system has these figures
        known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        known.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))  # "max" without a limit
    return min(known)


def number_count(tree: Any) -> int:
    """The number of entries in a tree of arrays or of shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def memory_of_training(
    options: Options, model: Any, *, steps: int, outputs: int, inputs: int, scored: int
) -> dict[str, float]:
    """Approximate bytes that one network needs while it is trained, by the option that they depend on.

    Args:
        options: of the run.
        model: has ``init`` and ``start``.
        steps: T of one example in an update.
        outputs: numbers in the output of one step.
        inputs: numbers of one example.
        scored: steps of all examples that are evaluated at once.
    """
    params = jax.eval_shape(model.init, jax.random.key(0))
    state = number_count(jax.eval_shape(model.start, params))
    kept = steps * (4 * state + 2 * outputs) + inputs  # for the gradient: gates, states and logits
    needs: dict[str, float] = {
        "seeds": 4 * number_count(params),  # of each finished network
        "hidden_size": 4 * (4 * number_count(params) + 2 * scored * (state + outputs)),  # gradient, moments of Adam
        "batch_size": 4 * options.batch_size * kept,
        "updates": 0,
    }
    largest = max("batch_size", "updates", key=lambda option: getattr(options, option))
    needs[largest] += 8 * options.updates * options.batch_size * inputs
    return needs
