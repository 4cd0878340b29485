"""What is counted: parameters, and steps that wait for each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import gru, lstm, vanilla
from rnn_jax.counting import matching_size, parameter_count, sequential_depth
from tests.laboratory import refused

COUNTS = {
    vanilla: lambda H: H * (20 + H + 1),
    gru: lambda H: 3 * H * (20 + H + 1) + H,
    lstm: lambda H: 4 * H * (20 + H + 1),
}


@pytest.mark.parametrize("factory", list(COUNTS))
@pytest.mark.parametrize("parameters", [50, 1000, 49_703])
def test_no_other_size_comes_closer_to_a_number_of_parameters(factory, parameters):
    counts = np.array([COUNTS[factory](H) for H in range(1, 250)])
    best = 1 + int(np.argmin(np.abs(counts - parameters)))
    assert matching_size(lambda H: factory(20, H), parameters) == best
    assert parameter_count(factory(20, best)) == counts[best - 1]


def scanned(h, length):
    return jax.lax.scan(lambda h, _: (2.0 * h, None), h, length=length)[0]


PROGRAMS = {
    "nothing": (lambda x: x + 1, 0),
    "one after the other": (lambda x: scanned(scanned(x, 3), 4), 7),
    "side by side": (lambda x: scanned(x, 3) + scanned(x, 4), 4),
    "one inside the other": (lambda x: jax.lax.scan(lambda h, _: (scanned(h, 3), None), x, length=4)[0], 12),
    "one of two": (lambda x: jax.lax.cond(x > 0, lambda x: scanned(x, 3), lambda x: scanned(x, 4), x), 4),
    "the choice waits": (lambda x: jax.lax.cond(scanned(x, 5) > 0, lambda x: scanned(x, 3), lambda x: x, x), 8),
    "inside jit": (lambda x: jax.jit(lambda x: scanned(x, 3))(scanned(x, 2)), 5),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_depth_of_a_program_is_its_longest_chain(name):
    program, depth = PROGRAMS[name]
    assert sequential_depth(program, 1.0) == depth


def test_a_loop_of_unknown_length_is_refused():
    def doubled(x):
        return jax.lax.while_loop(lambda x: x < 9, lambda x: 2 * x, x)

    refused(lambda: sequential_depth(doubled, jnp.ones(())), "sequential_depth got a while loop; want scans")
