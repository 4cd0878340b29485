"""The schedule of a rollout by default: a rule from measurements, by cell, shape and device."""

import math

import jax

from rnn_jax.types import Cell, State

__all__ = ["default_schedule"]


LARGE = 2**16
"""Numbers in a part of a state (B 128, H 512) from which one product for all steps is no faster than one a step."""


def default_schedule(cell: Cell, h0: State, batch: tuple[int, ...], unroll: int = 1) -> str:
    """The name of the schedule that ``rollout`` uses by default.

    ==========  ====================================================  =============
    device      cell and state                                        schedule
    ==========  ====================================================  =============
    CPU         65,536 numbers or more in a part of the state         scan
    CPU         with ``coefficients``, one example, nothing unrolled  associative
    CPU         all others                                            adjoint
    others                                                            scan
    ==========  ====================================================  =============

    Results are the same up to rounding. The rule comes from measurements on one CPU, which ``benchmarks/README.md``
    has; on other devices nothing was measured, so they keep the reference.

    Args:
        cell: the recurrence.
        h0: a state.
        batch: its batch axes; those of ``jax.vmap`` around the rollout are not seen.
        unroll: steps that the body of a loop makes.
    """
    if jax.default_backend() != "cpu" or any(h.size >= LARGE for h in jax.tree.leaves(h0)):
        return "scan"
    linear = cell.coefficients is not None and math.prod(batch) == 1 and unroll == 1
    return "associative" if linear else "adjoint"
