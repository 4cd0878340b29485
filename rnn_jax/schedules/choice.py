"""The schedule of a rollout by default: a rule from measurements, by cell, shape and device."""

import math

import jax

from rnn_jax.types import Cell

__all__ = ["default_schedule"]


def default_schedule(cell: Cell, batch: tuple[int, ...]) -> str:
    """The name of the schedule that ``rollout`` uses by default.

    ==========  =========================================  =============
    device      cell and batch                             schedule
    ==========  =========================================  =============
    CPU         with ``coefficients``, one example         associative
    CPU         all others                                 adjoint
    others                                                 scan
    ==========  =========================================  =============

    Results are the same up to rounding. The rule is that of measurements on a CPU, in ``benchmarks/README.md``; on
    other devices nothing was measured, so they keep the reference.

    Args:
        cell: the recurrence.
        batch: the batch axes; those of ``jax.vmap`` around the rollout are not seen.
    """
    if jax.default_backend() != "cpu":
        return "scan"
    return "associative" if cell.coefficients is not None and math.prod(batch) == 1 else "adjoint"
