"""What every cell was checked against: a test declares it with the tolerance that it uses; docs/cells.md shows it."""

from typing import NamedTuple


class Check(NamedTuple):
    """One truth from outside the library."""

    cell: str
    """A factory's name in ``rnn_jax``, or a combinator's."""
    against: str
    """Whose numbers they are."""
    what: str
    """What was compared."""
    tolerance: float
    """How near it is, absolute and relative to 1."""


CHECKS: list[Check] = []


def checked(cell: str, against: str, what: str, tolerance: float) -> float:
    """Declares a check and gives back its tolerance, for the test to use."""
    CHECKS.append(Check(cell, against, what, tolerance))
    return tolerance
