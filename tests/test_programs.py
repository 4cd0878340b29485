"""Programs as lists of equations: the primitives that they are sorted by, and parts of them that run alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rnn_jax.machinery.programs import CALLS, Timed, all_equations, equations_of, over_time, run, values_of
from rnn_jax.schedules.adjoint import AS_WRITTEN
from rnn_jax.schedules.gathered import OF_ONE_ARRAY, SUMS
from rnn_jax.schedules.linear_step import CHEAP, DECIDING

x = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)


@jax.custom_vjp
def with_a_rule(a):
    return a


with_a_rule.defvjp(lambda a: (a, None), lambda _, g: (g,))

MADE_BY = {
    "broadcast_in_dim": lambda a: jnp.broadcast_to(a, (4, 2, 3)),
    "reshape": jnp.ravel,
    "squeeze": lambda a: lax.squeeze(a[:1], (0,)),
    "slice": lambda a: lax.slice(a, (0, 0), (1, 1)),
    "split": lambda a: jnp.split(a, 3, axis=1),
    "concatenate": lambda a: jnp.concatenate([a, a]),
    "transpose": jnp.transpose,
    "rev": lambda a: lax.rev(a, (0,)),
    "pad": lambda a: lax.pad(a, 0.0, [(1, 0, 0), (0, 0, 0)]),
    "copy": lambda a: jnp.array(a, copy=True),
    "select_n": lambda a: jnp.where(a > 0, a, 2 * a),
    "stop_gradient": lax.stop_gradient,
    "add": lambda a: a + a,
    "sub": lambda a: a - 2 * a,
    "mul": lambda a: a * a,
    "div": lambda a: a / 2,
    "neg": lambda a: -a,
    "max": lambda a: jnp.maximum(a, 0),
    "min": lambda a: jnp.minimum(a, 0),
    "abs": jnp.abs,
    "square": jnp.square,
    "integer_pow": lambda a: a**3,
    "add_any": jax.grad(lambda a: jnp.sum(jnp.sin(a) * jnp.cos(a))),
    "convert_element_type": lambda a: a.astype(jnp.float32),
    "and": lambda a: (a > 0) & (a < 1),
    "or": lambda a: (a > 0) | (a < 1),
    "not": lambda a: ~(a > 0),
    "xor": lambda a: (a > 0) ^ (a < 1),
    "clamp": lambda a: lax.clamp(0.0, a, 1.0),
    "iota": lambda a: jnp.arange(3) + 0 * a[0].astype(int),
    "reduce_sum": jnp.sum,
    "reduce_max": jnp.max,
    "sign": jnp.sign,
    "floor": jnp.floor,
    "ceil": jnp.ceil,
    "round": jnp.round,
    "sort": jnp.sort,
    "top_k": lambda a: lax.top_k(a, 2),
    "cond": lambda a: lax.cond(a[0, 0] > 0, jnp.sin, jnp.cos, a),
    "custom_vjp_call": with_a_rule,
    "pure_callback": lambda a: jax.pure_callback(np.sin, jax.typeof(a), a),
    "rng_bit_generator": lambda a: lax.rng_bit_generator(jnp.zeros(4, jnp.uint32), (2,)),
    "jit": jax.jit(jnp.sin),
    "remat2": jax.checkpoint(jnp.sin),
}


@pytest.mark.parametrize("name", sorted(CHEAP | DECIDING | AS_WRITTEN | OF_ONE_ARRAY | SUMS | CALLS))
def test_a_primitive_by_whose_name_steps_are_sorted_has_this_name_in_jax(name):
    found = {eqn.primitive.name for eqn in all_equations(jax.make_jaxpr(MADE_BY[name])(x).jaxpr)}
    assert name in found


def step(W, h, a):
    u, v = jnp.split(jax.jit(jnp.tanh)(a @ W), 2, axis=-1)
    return jax.checkpoint(jnp.sin)(u) * h + jnp.cos(W[:1, :2]), v


def test_a_program_without_calls_computes_the_function():
    W, h, a = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), jnp.ones((2, 2)), x
    program = equations_of(step, W, h, a)
    assert not {eqn.primitive.name for eqn in program.eqns} & CALLS
    values = run(program.eqns, program.constants | dict(zip(program.args, (W, h, a), strict=True)))
    for found, wanted in zip(values_of(program.results, values), step(W, h, a), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-15)


def test_equations_of_all_steps_at_once_compute_each_step():
    W, h, many = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), jnp.ones((2, 2)), jnp.stack([x, 2 * x, 3 * x])
    program = equations_of(step, W, h, x)
    of_W, of_h, of_a = program.args
    once, each = over_time(program.eqns, Timed(program.constants | {of_W: W, of_h: h}, {of_a: many}))
    wanted = [step(W, h, a) for a in many]
    for place, v in enumerate(program.results):
        assert v not in once
        np.testing.assert_allclose(each[v], np.stack([both[place] for both in wanted]), rtol=1e-14)
