"""Training and sweeps on many devices and many machines."""

from rnn_jax.parallel.learners import on_mesh, parallel_learner
from rnn_jax.parallel.meshes import data_mesh, gathered, one_copy, process_lanes, split_batch

__all__ = ["data_mesh", "gathered", "on_mesh", "one_copy", "parallel_learner", "process_lanes", "split_batch"]
