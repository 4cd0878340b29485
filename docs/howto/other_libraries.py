# %% [markdown]
# # Weights and models of other libraries
#
# Weights come from PyTorch, Keras, flax, haiku or equinox; models leave for these libraries, for ONNX Runtime, or as a
# program that needs JAX alone. A cell of flax, haiku or equinox is also examined without any conversion, and a cell of
# this library is trained inside a model of theirs.
#
# All functions of this page stand in `rnn_jax.interop`. A library is imported only by the function that needs it.

# %%
import tempfile
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import optax
from flax import nnx

import rnn_jax
from rnn_jax import (
    bidirectional,
    interop,
    lag_gradients,
    lstm,
    outputs,
    peephole_lstm,
    readout,
    rollout,
    summarise_lags,
)
from rnn_jax.interop import (
    as_linen,
    cell_from_flax,
    convert,
    from_flax,
    from_torch,
    to_onnx,
    to_stablehlo,
    to_torch,
    write_weights,
)

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)

# %% [markdown]
# ## Weights of PyTorch
#
# A state dict is enough: the model is read from its names and shapes. Here it has an LSTM of 5 inputs and 8 units, and
# a linear readout of 2. PyTorch stores a matrix with its gates first, `(4·8, 5)`, and two biases; here a matrix is
# `(5, 4·8)`, and the bias is their sum.

# %%
state_dict = {
    "rnn.weight_ih_l0": rng.normal(size=(32, 5)).astype(np.float32),
    "rnn.weight_hh_l0": rng.normal(size=(32, 8)).astype(np.float32),
    "rnn.bias_ih_l0": rng.normal(size=32).astype(np.float32),
    "rnn.bias_hh_l0": rng.normal(size=32).astype(np.float32),
    "head.weight": rng.normal(size=(2, 8)).astype(np.float32),
    "head.bias": rng.normal(size=2).astype(np.float32),
}
model, params = from_torch(state_dict)
model

# %%
assert model == readout(lstm(5, 8), 2)
xs = jnp.asarray(rng.normal(size=(30, 4, 5)), jnp.float32)  # T, B, I
_, hs = rollout(model, params, model.start(params, (4,)), xs)
assert outputs(model, params, hs).shape == (30, 4, 2)

# %% [markdown]
# Time leads, as in PyTorch without `batch_first=True`. The way back gives PyTorch's names. Their second bias is zero
# then, and their first one is the sum:

# %%
back = to_torch(model, params)
biases = state_dict["rnn.bias_ih_l0"] + state_dict["rnn.bias_hh_l0"]
assert np.array_equal(back["rnn.weight_hh_l0"], state_dict["rnn.weight_hh_l0"])
assert np.array_equal(back["rnn.bias_ih_l0"], biases)
[*back]

# %% [markdown]
# ## Weights of flax
#
# `from_flax`, `from_haiku`, `from_equinox` and `from_keras` read the weights of their library: arrays by path, a file
# of them, or a live model. Here is a live model of flax.nnx, which has the batch first:

# %%
rngs = nnx.Rngs(0)
theirs = nnx.Sequential(nnx.RNN(nnx.GRUCell(5, 8, rngs=rngs)), nnx.Linear(8, 2, rngs=rngs))
model_of_flax, params_of_flax = from_flax(theirs)
_, hs = rollout(model_of_flax, params_of_flax, model_of_flax.start(params_of_flax, (4,)), xs)
ys = outputs(model_of_flax, params_of_flax, hs)
assert jnp.abs(jnp.swapaxes(theirs(jnp.swapaxes(xs, 0, 1)), 0, 1) - ys).max() < 1e-6
model_of_flax

# %% [markdown]
# `to_flax` and its siblings give weights in the form of their library; `torch_module`, `keras_model`, `linen_module`,
# `nnx_module`, `haiku_function` and `equinox_module` make live models. `from_keras({w.path: w for w in model.weights})`
# reads those of Keras.
#
# What weights do not tell is not converted: whether their model returns the last step alone (the outputs here are those
# of every step; take `ys[-1]`), a softmax behind the readout (the outputs are logits), masks, dropout, and the axis of
# the batch. A name or a shape that leaves a choice is refused, and an argument decides.
#
# ## Files
#
# Files of weights are safetensors files. A pickle, such as a `.pt` file of `torch.save`, can run any code when it is
# read, so none is read. In PyTorch, `safetensors.torch.save_file(module.state_dict(), "weights.safetensors")` writes
# one. The command
#
# ```sh
# python -m rnn_jax.interop convert weights.safetensors model.onnx --to onnx
# ```
#
# converts a file. It runs the model that it read, and the new file in its own library, on random inputs, and prints the
# largest difference; a file of Keras is run by Keras first. `convert` is the same as a function; `save_model` and
# `load_model` are the format of this library:

# %%
write_weights(folder / "weights.safetensors", state_dict)
convert(folder / "weights.safetensors", folder / "model.onnx", "onnx")

# %% [markdown]
# ## ONNX
#
# `to_onnx` makes one node `LSTM`, `GRU` or `RNN` of each layer; of both directions together, too. Every other cell, one
# of your own too, becomes a `Scan` of its step. T and B are free, and time leads:

# %%
both = readout(bidirectional(lstm(5, 8), lstm(5, 8)), 2)
weights = both.init(jax.random.key(0))
file = to_onnx(both, weights, lengths=True)
session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
for T, lengths in ((30, [30, 7, 0, 1]), (3, [3, 1])):
    inputs = np.asarray(xs[:T, : len(lengths)])
    theirs = session.run(["ys"], {"xs": inputs, "lengths": np.array(lengths, np.int32)})[0]
    _, ys = both.apply(weights, both.start(weights, (len(lengths),)), inputs, lengths=jnp.array(lengths))
    assert np.abs(theirs - ys).max() < 1e-6
[node.op_type for node in file.graph.node if node.op_type in ("LSTM", "MatMul", "Add")]

# %% [markdown]
# `step_to_onnx` exports a single step with the state as input and output, for a device. `to_stablehlo` exports the
# whole model as a program that needs JAX alone, not this library; it holds the weights:

# %%
program = jax.export.deserialize(bytearray(to_stablehlo(both, weights, platforms=("cpu",))))
_, ys = both.apply(weights, both.start(weights, (4,)), xs)
assert jnp.abs(program.call({"xs": xs})["ys"] - ys).max() < 1e-6

# %% [markdown]
# ## Examine a cell of flax as it is
#
# `cell_from_flax`, `cell_from_haiku` and `cell_from_equinox` make a cell of any recurrent cell of these libraries, one
# of your own too. Nothing is converted: the step is theirs. Every function of this library then takes it. Here is
# the gradient against the lag of a GRU of flax, for three seeds:

# %%
cell = cell_from_flax(lambda rngs: nnx.GRUCell(3, 16, rngs=rngs))
seeds = jax.vmap(cell.init)(jax.random.split(jax.random.key(0), 3))
noise = jnp.asarray(rng.normal(size=(50, 3)), jnp.float32)


@jax.vmap
def half_life(params):
    return summarise_lags(lag_gradients(cell, params, cell.start(params), noise, loss=jnp.sum).log_norm).half_life


half_lives = half_life(seeds)
assert jnp.all((half_lives > 1) & (half_lives < 2))
print("half-lives in steps:", *(f"{steps:.2f}" for steps in half_lives))

# %% [markdown]
# ## Train a cell of ours in a model of theirs
#
# `as_linen`, `as_nnx` and `as_equinox` go the other way. flax has no LSTM with peepholes; here is one in `nn.RNN`,
# trained by optax as any module of flax. The task: is the sum of the inputs positive?

# %%
network = nn.Sequential([nn.RNN(as_linen(peephole_lstm(1, 16))), nn.Dense(1)])
batch = jnp.asarray(rng.normal(size=(256, 10, 1)), jnp.float32)  # flax has the batch first
wanted = (batch.sum(axis=(1, 2)) > 0).astype(float)
variables = network.init(jax.random.key(0), batch)
optimizer = optax.adam(0.03)


def loss(variables):
    logits = network.apply(variables, batch)[:, -1, 0]
    return optax.sigmoid_binary_cross_entropy(logits, wanted).mean()


def update(carry, _):
    variables, state = carry
    value, gradient = jax.value_and_grad(loss)(variables)
    updates, state = optimizer.update(gradient, state)
    return (optax.apply_updates(variables, updates), state), value


(variables, _), losses = jax.jit(lambda c: jax.lax.scan(update, c, None, length=40))(
    (variables, optimizer.init(variables))
)
assert abs(losses[0] - np.log(2)) < 0.1
assert losses[-1] < 0.2
print(f"cross entropy {losses[0]:.2f} → {losses[-1]:.2f} nats")

# %% [markdown]
# ## What can be converted
#
# Stacks, both directions, embeddings in front and linear readouts behind, of these cells:
#
# | here | PyTorch | Keras | flax | haiku | equinox | ONNX |
# |---|---|---|---|---|---|---|
# | `vanilla` | `RNN` | `SimpleRNN` | `SimpleCell` | `VanillaRNN`, ReLU alone | – | `RNN` |
# | `gru` | `GRU` | `GRU` | `GRUCell` | – | `GRUCell` | `GRU` |
# | `gru_reset_before` | – | `GRU(reset_after=False)` | – | `GRU` | – | `GRU` |
# | `lstm` | `LSTM` | `LSTM` | `OptimizedLSTMCell` | `LSTM` | `LSTMCell` | `LSTM` |
# | `cifg_lstm` | `LSTM` | `LSTM` | `OptimizedLSTMCell` | `LSTM` | `LSTMCell` | `LSTM` |
# | `projected_lstm` | `LSTM(proj_size=…)` | – | – | – | – | `Scan` |
# | `peephole_lstm` | – | – | – | – | – | `LSTM` |
# | `general_lstm` | – | – | – | – | – | `LSTM` if it has no layer norm, projection and clips |
# | every other cell | – | – | – | – | – | `Scan` |
#
# What has no place in the other library is refused, with the reason. An LSTM with coupled gates becomes a plain one:
# the weights of i are those of f, negated. Where a gate means the opposite, as z in haiku, its weights are negated too.
# [](../conformance.md) shows that the numbers are equal, and which conventions differ.

# %%
cells = {
    name: getattr(rnn_jax, name)(3, 4) for name in ("vanilla", "gru", "gru_reset_before", "lstm", "cifg_lstm", "mgu")
}
cells |= {"projected_lstm": rnn_jax.projected_lstm(3, 4, projection_size=2), "peephole_lstm": peephole_lstm(3, 4)}
refused = {}
for library in ("torch", "keras", "flax", "haiku", "equinox"):
    refused[library] = []
    for name, cell in cells.items():
        try:
            getattr(interop, f"to_{library}")(cell, cell.init(jax.random.key(0)))
        except ValueError:
            refused[library].append(name)
assert refused["torch"] == ["gru_reset_before", "mgu", "peephole_lstm"]
assert refused["keras"] == ["mgu", "projected_lstm", "peephole_lstm"]
assert refused["flax"] == ["gru_reset_before", "mgu", "projected_lstm", "peephole_lstm"]
assert refused["haiku"] == ["vanilla", "gru", "mgu", "projected_lstm", "peephole_lstm"]  # vanilla has tanh here
assert refused["equinox"] == ["vanilla", "gru_reset_before", "mgu", "projected_lstm", "peephole_lstm"]
