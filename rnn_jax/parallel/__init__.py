"""Training and sweeps on many devices and many machines.

``rnn_jax.parallel`` is this package; ``rnn_jax.gradients.parallel`` is a program of truncation, whose windows are a
batch. No name of the one is a name of the other.
"""

from rnn_jax.parallel.ensembles import ensemble
from rnn_jax.parallel.learners import on_mesh, parallel_learner
from rnn_jax.parallel.meshes import data_mesh, gathered, one_copy, process_lanes, split_batch
from rnn_jax.parallel.messages import Processes, agree, exchange, from_first
from rnn_jax.parallel.processes import join_processes, leave

__all__ = [
    "Processes",
    "agree",
    "data_mesh",
    "ensemble",
    "exchange",
    "from_first",
    "gathered",
    "join_processes",
    "leave",
    "on_mesh",
    "one_copy",
    "parallel_learner",
    "process_lanes",
    "split_batch",
]
