"""A batch over 1, 2, 4 and 8 devices: the numbers of one device, by one all-reduce an update."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

import rnn_jax
from rnn_jax.gradients import parallel
from rnn_jax.losses import squared_error
from rnn_jax.parallel import data_mesh, ensemble, on_mesh, parallel_learner, process_lanes, split_batch
from rnn_jax.parallel.meshes import require_order
from rnn_jax.training import Learner, batch_learner, window_learner
from tests import devices
from tests.devices import CASES, B, features, keeping
from tests.laboratory import refused

CLOSE = 1e-6
"""Of a loss and a gradient in float32, relative to the largest number of an array."""


@pytest.fixture(scope="module")
def found():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    strict = {"JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_NUMPY_DTYPE_PROMOTION": "strict"}
    here = {"PYTHONPATH": str(Path(__file__).parents[1]), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    ran = subprocess.run(
        [sys.executable, devices.__file__],
        env={**os.environ, **strict, **here},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


RUNS = [f"{name}, {number}" for name, make in CASES.items() for number in make().devices]


@pytest.mark.parametrize("run", RUNS)
def test_an_update_over_devices_is_that_of_one_device(found, run):
    assert isinstance(found["differences"][run], float), found["differences"][run]
    assert found["differences"][run] < CLOSE


@pytest.mark.parametrize("run", [run for run in RUNS if not run.startswith("a line search")])
def test_an_update_has_one_all_reduce_and_none_in_a_loop(found, run):
    assert found["reduces"][run] == {"all-reduce": 1, "others": 0, "in loops": 0}


def test_a_batch_that_jit_splits_has_all_reduces_in_the_loop_which_are_counted(found):
    assert found["automatic"]["in loops"] > 0


def test_a_chunk_of_updates_has_one_all_reduce_in_the_loop_over_updates(found):
    assert found["skipped"]["chunk"] == {"all-reduce": 1, "others": 0, "in loops": 1}


def test_an_update_that_one_lane_breaks_is_skipped_on_all_devices(found):
    skipped = found["skipped"]
    assert skipped["broken"][0] == skipped["broken"][1] >= 0
    assert skipped["fresh"] == [True] * B
    assert (skipped["step"], skipped["same"]) == (0, 0.0)


def test_training_over_devices_ends_with_the_validation_loss_of_one(found):
    (several, one), *others = found["validation_losses"].values()
    assert others == [200, True]
    assert abs(several - one) < 1e-4


def test_members_of_an_ensemble_over_devices_are_those_of_one_and_may_be_of_any_number(found):
    assert found["ensembles"] == [[float(n) ** 2 for n in range(11)], True]


def test_whole_arrays_have_one_copy_and_a_tree_is_gathered_by_one_program(found):
    assert found["copies"] == {"devices": [4, 1], "same": True, "whole": True, "compiled": 1}


def test_a_gradient_on_each_device_is_a_product_of_matrices_and_only_there(found):
    products = found["products"]
    assert products["split"] == 0
    assert products["whole"] > 0
    assert products["difference"] < 1e-12


REFUSED = {
    "lanes": "batch_size got 30, which 4 devices do not divide; want a multiple of 4, the nearest is 32",
    "init": "batch_size got 6, which 4 devices do not divide; want a multiple of 4, the nearest is 8",
    "no lanes": "batch_shape got (); want the lanes that are split over devices, such as (4,)",
    "state": "batch_size got 6, which 4 devices do not divide; want a multiple of 4, the nearest is 8",
    "batch": "batch got 6 lanes, which 4 devices do not divide; want a multiple of 4, the nearest is 8",
    "several": "batch got arrays of 4, 8 lanes; want the same number of all",
    "update": "batch got 6 lanes, which 4 devices do not divide; want a multiple of 4, the nearest is 8",
    "others": "batch got 4 lanes, the state 8; want the same",
    "ids": "xs got 6, an input id outside the cell's vocabulary; want ",
    "ids of fit": "xs got 6, an input id outside the cell's vocabulary; want ",
    "axes": "axes got (1, 1) for a batch of another form; want one axis, or a tree of them in the form of the batch",
    "aux": "aux got int32; want floating arrays, whose means over the devices are returned",
    "mask": "weight got None for a loss that may be no mean over the lanes, such as one with a mask; want a function",
    "vector": "weight got a function that returns shape (2,); want one number of all lanes",
    "split": "tree got int32[6, 8], split over devices; want whole arrays, or gathered",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_batch_on_several_devices_is_refused_in_one_line(found, name):
    assert found["refusals"][name].startswith(REFUSED[name])
    assert "\n" not in found["refusals"][name]


def test_a_message_names_the_sizes_of_the_whole_batch(found):
    assert found["refusals"]["sizes"] == found["refusals"]["sizes of one"] is not None


def test_wrong_use_is_refused_in_one_line():
    nothing: Any = None
    three: Any = 3
    learner = window_learner(features, squared_error, optax.sgd(0.1))
    device = jax.devices()[0]
    mesh, other = data_mesh([device]), Mesh(np.array([device]), ("lanes",))
    whole = batch_learner(lambda key: jnp.zeros(()), lambda w, x: (x - w) ** 2, keeping)
    state = whole.init(jax.random.key(0))
    refused(lambda: parallel_learner(Learner(learner.init, learner.update), mesh), "learner got one of your own; want")
    refused(lambda: parallel_learner(learner, nothing), "mesh got None; want one of data_mesh")
    refused(lambda: parallel_learner(learner, other), "mesh got axes ('lanes',); want one of data_mesh")
    weights: Any = 3, "same", np.ones(2)
    for weight in weights:
        refused(lambda w=weight: parallel_learner(learner, mesh, weight=w), "weight got ")
    for axes in ("x", -1, 1.0, (1, "x")):
        refused(lambda axes=axes: parallel_learner(learner, mesh, axes=axes), "axes got ")
    refused(
        lambda: parallel_learner(whole, mesh, axes=0).update(state, np.ones(2)),
        "weight got None for a loss that may be no mean over the lanes",
    )
    refused(lambda: on_mesh(other, state), "mesh got axes ('lanes',); want one of data_mesh")
    refused(lambda: on_mesh(mesh, three), "state got int; want a LearnerState")
    refused(lambda: split_batch(other, np.ones((2, 2))), "mesh got axes ('lanes',); want one of data_mesh")
    refused(lambda: split_batch(mesh, np.ones((2, 2)), "x"), "axes got 'x'; want batch axes")
    refused(lambda: process_lanes(other, 4), "mesh got axes ('lanes',); want one of data_mesh")
    refused(lambda: data_mesh([]), "devices got none; want at least one")
    refused(lambda: data_mesh(three), "devices got 3; want a list of devices, such as jax.devices()[:4]")
    refused(lambda: data_mesh(["cpu"]), "devices got ['cpu']; want a list of devices")
    refused(lambda: data_mesh([device, device]), "devices got 2, of which 1 are different; want each once")
    refused(lambda: ensemble(abs, {"a": np.ones(2), "b": np.ones(3)}, mesh), "members got arrays of 2, 3 members; want")
    refused(lambda: ensemble(abs, 3.0, mesh), "members got 3.0; want arrays (N, …)")
    refused(lambda: ensemble(abs, (), mesh), "members got arrays of no members; want")
    refused(lambda: ensemble(three, np.ones(2), mesh), "f got 3; want a function")
    refused(lambda: ensemble(abs, np.ones(2), other), "mesh got axes ('lanes',); want one of data_mesh")


def test_the_devices_of_a_process_are_beside_each_other():
    require_order("devices", [1, 1, 0, 0])
    refused(lambda: require_order("devices", [0, 1, 0, 1]), "devices got processes [0, 1, 0, 1]; want the devices")


def test_parallel_is_the_package_and_the_program_of_truncation_is_one_of_the_gradients():
    assert rnn_jax.parallel.parallel_learner is parallel_learner
    assert rnn_jax.gradients.parallel is parallel
    assert not hasattr(rnn_jax.parallel, "parallel")
