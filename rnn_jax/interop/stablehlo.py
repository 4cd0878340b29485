"""Models as programs of StableHLO, which JAX alone can read and run, without this library."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from rnn_jax.interop.signatures import input_of, named_by_path, require_params, with_symbols
from rnn_jax.layers import Model, as_layer, require_model
from rnn_jax.machinery.checks import in_one_line, require_switch
from rnn_jax.types import Params

__all__ = ["to_stablehlo"]


def to_stablehlo(
    model: Model,
    params: Params,
    *,
    ids: bool | str | None = None,
    lengths: bool = False,
    initial_states: bool = False,
    input_shape: tuple[int, ...] | None = None,
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
) -> bytes:
    """The program of a whole model, for any T and B from 1 on, as the bytes of ``jax.export``.

    ``jax.export.deserialize(bytearray(file)).call({"xs": xs})`` runs it, with JAX alone. Inputs and outputs are
    dictionaries with the names of ``to_onnx``: ``xs``, ``lengths``, ``h_0…``, and ``ys``, ``h_T…``. The weights are
    constants of the program, and every cell can be exported, because nothing is translated. Lengths above T are as T
    and below 0 as 0, and an id outside the vocabulary becomes NaN, as in JAX.

    Args:
        model, params, ids, lengths, initial_states, input_shape: as in ``to_onnx``; params of any floating type.
        platforms: which the program is made for.

    Raises:
        ValueError: for params that are not those of the model, where the shape of the input cannot be found or is not
            that of the weights, for ids of int64 where JAX has no 64 bits, or a platform that JAX does not know.

    >>> from rnn_jax import gru, readout
    >>> model = readout(gru(3, 4), output_size=2)
    >>> file = to_stablehlo(model, model.init(jax.random.key(0)), platforms=("cpu",))
    >>> out = export.deserialize(bytearray(file)).call({"xs": jnp.ones((7, 5, 3))})
    >>> {name: array.shape for name, array in out.items()}
    {'h_T': (5, 4), 'ys': (7, 5, 2)}

    Reference: OpenXLA. StableHLO. https://openxla.org/stablehlo.
    """
    require_model("model", model)
    require_switch(lengths=lengths, initial_states=initial_states)
    known = ("cpu", "cuda", "rocm", "tpu")
    if not isinstance(platforms, tuple | list) or not platforms or any(each not in known for each in platforms):
        raise ValueError(f"platforms got {in_one_line(platforms)}; want some of {', '.join(known)}")
    require_params(model, params)
    layer, (T, B) = as_layer(model), export.symbolic_shape("T, B")
    xs = input_of(params, ids, input_shape, (T, B))
    if ids == "int64" and jax.dtypes.canonicalize_dtype(xs.dtype) != xs.dtype:
        raise ValueError("ids got 'int64'; want 'int32', or jax.config.update('jax_enable_x64', True)")
    inputs = {"xs": jax.ShapeDtypeStruct(xs.shape, jax.dtypes.canonicalize_dtype(xs.dtype))}
    if lengths:
        inputs["lengths"] = jax.ShapeDtypeStruct((B,), jnp.int32)
    one = layer.start(params)
    if initial_states:
        states = named_by_path("h_0", one)
        inputs |= {name: jax.ShapeDtypeStruct((B, *h.shape), h.dtype) for name, h in states.items()}

    def program(inputs: dict[str, Any]) -> dict[str, Any]:
        batch = inputs["xs"].shape[1]
        if initial_states:
            h_0 = jax.tree.unflatten(jax.tree.structure(one), [inputs[name] for name in named_by_path("h_0", one)])
        else:
            h_0 = jax.tree.map(lambda h: jnp.broadcast_to(h, (batch, *h.shape)), one)
        flags = (
            {"mask": jnp.arange(inputs["xs"].shape[0], dtype=jnp.int32)[:, None] < inputs["lengths"][None]}
            if lengths
            else {}
        )
        h_T, ys = layer.apply(params, h_0, inputs["xs"], **flags, schedule="scan")
        return named_by_path("ys", ys) | named_by_path("h_T", h_T)

    with with_symbols():
        return bytes(export.export(jax.jit(program), platforms=platforms)(inputs).serialize())
