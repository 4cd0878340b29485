"""A sweep of 4 cells, 8 gains and 5 seeds: interrupted and restarted it computes every block once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import gru, lstm, map_recurrent, mgu, rollout, vanilla
from rnn_jax.lab.sweeps import Block, sweep
from tests.fake_store import together
from tests.laboratory import refused

CELLS = {"tanh": vanilla(1, 4), "gru": gru(1, 4), "lstm": lstm(1, 4), "mgu": mgu(1, 4)}
GAINS, SEEDS = np.linspace(0.5, 2.0, 8), np.arange(5)


def size(cell, member):
    """The size of the states after 3 steps without input, and how often the program ran."""
    params = cell.init(jax.random.key(member["seed"]))
    params = map_recurrent(lambda W: member["gain"] * W, params)
    h0 = jax.tree.map(lambda h: h + 0.5, cell.start(params))
    return {"size": sum(jnp.sum(jnp.abs(h)) for h in jax.tree.leaves(rollout(cell, params, h0, jnp.zeros((3, 1)))[0]))}


def blocks_of(seeds=SEEDS):
    return {
        f"{name}-{n}": Block(partial(size, cell), {"seed": seeds, "gain": np.full(len(seeds), gain)})
        for name, cell in CELLS.items()
        for n, gain in enumerate(GAINS)
    }


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The names of the blocks that were computed, in two starts of which the first was interrupted, and the results."""
    folder, computed = tmp_path_factory.mktemp("sweep"), []

    def on_block(name):
        computed.append(name)
        if len(computed) == 13:
            raise StoppedError

    with pytest.raises(StoppedError):
        sweep(folder, blocks_of(), on_block=on_block)
    (folder / "gru-7.safetensors.part").write_bytes(b"half")  # as a kill leaves it
    return folder, computed, sweep(folder, blocks_of(), on_block=on_block)


def test_an_interrupted_sweep_computes_every_block_once(swept):
    folder, computed, found = swept
    assert sorted(computed) == sorted(blocks_of())
    assert len(computed) == 32
    assert [*found] == [*blocks_of()]
    assert {result["size"].shape for result in found.values()} == {(5,)}
    again = []
    read = sweep(folder, blocks_of(), on_block=again.append)
    assert not again
    assert all(np.array_equal(read[name]["size"], found[name]["size"]) for name in found)


def test_a_block_has_the_numbers_of_each_network_alone(swept):
    found = swept[2]["lstm-3"]["size"]
    alone = [size(CELLS["lstm"], {"seed": seed, "gain": GAINS[3]})["size"] for seed in SEEDS]
    np.testing.assert_allclose(found, np.asarray(alone), rtol=1e-12)


def test_a_sweep_with_other_members_than_the_folder_is_refused(swept):
    folder = swept[0]
    refused(lambda: sweep(folder, blocks_of(SEEDS + 1)), "sweep got other members than ")
    refused(lambda: sweep(folder, blocks_of(SEEDS[:3])), "params got ")
    refused(lambda: sweep(folder, {"../x": blocks_of()["gru-0"]}), "name got '../x.safetensors'; want a path inside")


def test_a_sweep_with_other_facts_or_other_blocks_in_another_process_is_refused(monkeypatch, tmp_path):
    ones = {"ones": Block(lambda x: x**0, np.arange(3.0))}
    for _ in range(2):
        sweep(tmp_path, ones, facts={"steps": 3})
    refused(lambda: sweep(tmp_path, ones, facts={"steps": 4}), "sweep got other facts than ")
    refused(lambda: sweep(tmp_path, ones), "sweep got other facts than ")

    def work(joined):
        return sweep(tmp_path, {"ones": Block(lambda x: x**0, np.arange(3.0) + joined.number)}, processes=joined)

    assert all(str(error).startswith("block 'ones' got '") for error in together(monkeypatch, work))
