"""Files of ONNX that other exporters write, as models; and files that are refused."""

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bidirectional, gru, lstm, readout, stack, vanilla
from rnn_jax.interop import from_onnx, to_onnx
from rnn_jax.layers import as_layer
from tests.onnx_models import REASON, H, I, V, outputs_of, random_network, random_params, session_of

onnx = pytest.importorskip("onnx", reason=REASON)
FOLDER = Path(__file__).parent / "exported"
TOLERANCE = 1e-6
rng = np.random.default_rng(2)


def assert_computes(model, params, x, y):
    """The model's outputs of a batch, in either order of axes, are y: every step or the last one."""
    layer = as_layer(model)
    _, ys = jax.jit(layer.apply)(params, layer.start(params, (x.shape[1],)), jnp.asarray(x))
    ys = np.asarray(ys)
    np.testing.assert_allclose(ys if ys.ndim == y.ndim else ys[-1], y, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["keras_lstm", "keras_last_step", "keras_bidirectional", "torch_dynamo"])
def test_recorded_files_of_keras_and_pytorch_are_read_as_what_these_computed(name):
    model, params = from_onnx(str(FOLDER / f"{name}.onnx"))
    facts = np.load(FOLDER / f"{name}.npz")
    x, y = facts["x"], facts["y"]
    if "keras" in name:  # the batch leads
        x, y = x.swapaxes(0, 1), y.swapaxes(0, 1) if y.ndim == 3 else y
    deep = "bidirectional" in name or "torch" in name
    assert repr(model).count("lstm(") == (4 if deep else 1)
    assert "readout" in repr(model)
    assert ("embedding" in repr(model)) == deep
    assert_computes(model, params, x.astype(np.int32) if deep else x, y)


def exported(network, example, path, names, first=False):
    """The path of a file into which PyTorch writes a network, with free sizes."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make peers")
    x = {0: "B", 1: "T"} if first else {0: "T", 1: "B"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter without onnxscript is the older one
        axes = {"x": x, "n": {0: "B"}}
        torch.onnx.export(network, example, path, input_names=names, dynamic_axes=axes, dynamo=False)
    return path


TORCH = {
    "LSTM of two layers and directions on an embedding": ("LSTM", {"num_layers": 2, "bidirectional": True}, True),
    "GRU, the batch first": ("GRU", {"num_layers": 2, "batch_first": True}, False),
    "GRU, both directions": ("GRU", {"bidirectional": True}, False),
    "RNN with a ReLU": ("RNN", {"nonlinearity": "relu", "num_layers": 2}, False),
    "RNN without biases": ("RNN", {"bias": False, "bidirectional": True}, False),
    "LSTM, the batch first, both directions": ("LSTM", {"batch_first": True, "bidirectional": True}, False),
}


@pytest.mark.parametrize("name", TORCH)
def test_files_that_pytorch_exports_now_are_read_as_what_it_computes(name, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make peers")
    kind, options, ids = TORCH[name]

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(V, I)
            self.recurrent = getattr(torch.nn, kind)(I, H, **options)
            self.readout = torch.nn.Linear(H * (1 + options.get("bidirectional", False)), 2)

        def forward(self, x):
            return self.readout(self.recurrent(self.embedding(x) if ids else x)[0])

    torch.manual_seed(0)
    network, first = Network().eval(), options.get("batch_first", False)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(0, 0.5)
    x = torch.randint(0, V, (4, 2)) if ids else torch.randn(4, 2, I)
    model, params = from_onnx(exported(network, (x,), tmp_path / "torch.onnx", ["x"], first))
    x = torch.randint(0, V, (6, 3)) if ids else torch.randn(6, 3, I)
    y = network(x).detach().numpy()
    x = x.numpy().astype(np.int32) if ids else x.numpy()
    assert_computes(model, params, *((x.swapaxes(0, 1), y.swapaxes(0, 1)) if first else (x, y)))


@pytest.mark.parametrize("in_order", [True, False])
def test_packed_sequences_of_pytorch_are_read_with_their_lengths_and_padded_steps_as_it_is_said(in_order, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make peers")
    rnn = torch.nn.utils.rnn

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = torch.nn.LSTM(I, H, 2, bidirectional=True)
            self.readout = torch.nn.Linear(2 * H, 2)

        def forward(self, x, n):
            packed, (h, _) = self.recurrent(rnn.pack_padded_sequence(x, n, enforce_sorted=in_order))
            return self.readout(rnn.pad_packed_sequence(packed)[0]), h

    torch.manual_seed(0)
    network, x = Network().eval(), torch.randn(6, 4, I)
    n = torch.tensor([6, 5, 3, 1] if in_order else [3, 6, 1, 5])
    model, params = from_onnx(exported(network, (x, n), tmp_path / "torch.onnx", ["x", "n"]))
    lengths = n.numpy()
    h_T, ys = jax.jit(as_layer(model).apply)(
        params, as_layer(model).start(params, (4,)), jnp.asarray(x.numpy()), lengths=lengths
    )
    valid = np.arange(6)[:, None] < lengths
    y, h = network(x, n)
    np.testing.assert_allclose(np.where(valid[..., None], ys, params.b_y), y.detach(), rtol=0, atol=TOLERANCE)
    last = [state.h for ways in h_T for state in ways]
    np.testing.assert_allclose(np.stack(last), h.detach(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(8))
def test_random_networks_come_back_bit_by_bit(seed):
    model = random_network(seed)
    params = random_params(model, seed=seed)
    read, weights = from_onnx(to_onnx(model, params))
    assert [np.shape(a) for a in jax.tree.leaves(weights)] == [np.shape(a) for a in jax.tree.leaves(params)]
    for a, b in zip(jax.tree.leaves(weights), jax.tree.leaves(params), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert repr(read).count("bidirectional") == repr(model).count("bidirectional")


def edited(file, change):
    """A copy of a file with its graph changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(file)
    change(copy.graph)
    return copy


def refused(file):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        from_onnx(file)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def file():
    """A stack of two layers with a readout."""
    model = readout(stack(lstm(I, H), gru(H, H)), 2)
    return to_onnx(model, random_params(model))


def node_before(name, op, *more, **attributes):
    """A change that puts an operator in front of the tensor of a name, where it is read."""

    def change(graph):
        for each in graph.node:
            each.input[:] = ["new" if each == name else each for each in each.input]
        place = next((n + 1 for n, each in enumerate(graph.node) if name in each.output), 0)
        graph.node.insert(place, onnx.helper.make_node(op, [name, *more], ["new"], **attributes))

    return change


def test_operators_without_a_place_in_a_network_are_named(file):
    place = "for which a network has no place; want an embedding, layers of LSTM, GRU or RNN, and a linear readout"
    y = next(each.input[0] for each in file.graph.node if each.op_type == "GRU")
    assert refused(edited(file, node_before("xs", "Tanh"))) == f"file got the operator Tanh in front of LSTM, {place}"
    assert refused(edited(file, node_before(y, "Relu"))) == f"file got the operator Relu in front of GRU, {place}"

    def with_softmax(graph):
        graph.node.append(onnx.helper.make_node("Softmax", ["ys"], ["p"]))
        graph.output[0].name = "p"

    assert refused(edited(file, with_softmax)) == f"file got the operator Softmax in front of the output 'p', {place}"

    def with_skip(graph):
        graph.node.append(onnx.helper.make_node("Add", ["ys", "ys"], ["p"]))
        graph.output[0].name = "p"

    assert refused(edited(file, with_skip)) == f"file got the operators Add, MatMul in front of the output 'p', {place}"


def test_loops_and_files_without_recurrent_nodes_are_refused():
    cell = lstm(I, H, activation=jnp.sin)
    assert refused(to_onnx(cell, random_params(cell))) == "file got the operators Scan; want a node LSTM, GRU or RNN"
    assert refused(str(FOLDER / "keras_loop.onnx")) == "file got the operators Loop; want a node LSTM, GRU or RNN"
    mixed = stack(lstm(I, H), lstm(H, H, activation=jnp.sin))
    wanted = "file got the operator Scan; want LSTM, GRU or RNN with what stands around them"
    assert refused(to_onnx(mixed, random_params(mixed))) == wanted


def test_bytes_that_are_no_onnx_and_attributes_that_are_unknown_are_refused(file, tmp_path):
    assert refused(b"\x80\x04K\x01.").startswith("file got bytes; want a file of ONNX: ")
    assert refused(b"") == "file got bytes, which holds no node; want a file of ONNX"
    (tmp_path / "weights.onnx").write_text("no file of ONNX")
    assert refused(str(tmp_path / "weights.onnx")).startswith(f"file got '{tmp_path}/weights.onnx"[:60])
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "missing.onnx")

    def attribute(**given):
        def change(graph):
            each = next(each for each in graph.node if each.op_type == "LSTM")
            kept = [a for a in each.attribute if a.name not in given]
            del each.attribute[:]
            each.attribute.extend([*kept, *(onnx.helper.make_attribute(name, value) for name, value in given.items())])

        return edited(file, change)

    assert refused(attribute(direction="sideways")) == (
        "direction got 'sideways' for LSTM; want forward, reverse, bidirectional"
    )
    assert refused(attribute(hidden_size=9)) == "file got W of LSTM of the shape (1, 16, 3); want (1, 36, 3)"
    assert refused(attribute(clip=-1.0)) == "clip got -1.0 for LSTM; want a positive bound"
    two = attribute(activations=["Sigmoid", "Tanh"])
    assert refused(two) == "activations got Sigmoid, Tanh for LSTM; want 3 functions"
    more = attribute(activations=["Sigmoid", "LeakyRelu", "Tanh"], activation_alpha=[0.0, 0.3, 0.0])
    assert refused(more).startswith(
        "activation_alpha or activation_beta got more numbers than Sigmoid, LeakyRelu, Tanh"
    )
    unknown = refused(attribute(activations=["Sigmoid", "Swish", "Tanh"]))
    assert unknown.startswith("activations got 'Swish'; want one of Affine, Elu, HardSigmoid, ")
    assert refused(attribute(activations=["Tanh", "Tanh", "Tanh"], input_forget=1)) == (
        "activations got Tanh for coupled gates; want Sigmoid"
    )


def test_weights_of_other_sizes_and_weights_in_another_file_are_refused(tmp_path, monkeypatch):
    file = to_onnx(gru(I, H), random_params(gru(I, H)))

    def with_bias(graph):
        (bias,) = (each for each in graph.initializer if list(each.dims) == [1, 6 * H])
        bias.CopyFrom(onnx.numpy_helper.from_array(np.zeros((1, 30), np.float32), bias.name))

    assert refused(edited(file, with_bias)) == "file got B of GRU of the shape (1, 30); want (1, 24)"

    def with_size(graph):
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 10**9

    assert refused(edited(file, with_size)).startswith("file got xs of the shape (1000000000, 3, 3); want at most")
    onnx.save(file, tmp_path / "gru.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    assert repr(from_onnx(tmp_path / "gru.onnx")[0]).startswith("gru(")
    monkeypatch.chdir(tmp_path)
    apart = "with weights in another file; want the path, from which both are read"
    assert refused((tmp_path / "gru.onnx").read_bytes()) == f"file got bytes {apart}"
    assert refused(onnx.load(tmp_path / "gru.onnx", load_external_data=False)) == f"file got ModelProto {apart}"


def test_initial_states_are_zeros_or_inputs():
    cell = gru(I, H)
    file = to_onnx(cell, random_params(cell), initial_states=True)
    fixed = edited(file, lambda graph: (graph.input.pop(), graph.initializer.append(
        onnx.numpy_helper.from_array(np.ones((3, H), np.float32), "h_0"))))  # fmt: skip
    assert refused(fixed) == "file got an initial state of GRU of constants; want 0, or an input"


def test_a_batchwise_node_with_two_biases_and_other_names_is_read():
    params = random_params(vanilla(I, H))
    second = rng.normal(size=H).astype(np.float32)
    arrays = {"W": params.W_xh.T[None], "R": params.W_hh.T[None], "B": np.concatenate([params.b_h, second])[None]}
    helper = onnx.helper
    node = helper.make_node("RNN", ["in", *arrays], ["", "last"], hidden_size=H, layout=1, activations=["tanh"])
    infos = [helper.make_tensor_value_info(n, 1, shape) for n, shape in (("in", ["N", "S", I]), ("last", ["N", 1, H]))]
    constants = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph([node], "g", infos[:1], infos[1:], constants)
    model, read = from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    assert repr(model).startswith("vanilla(input_size=3, hidden_size=4")
    np.testing.assert_array_equal(read.W_hh, params.W_hh)
    np.testing.assert_array_equal(read.b_h, np.asarray(params.b_h) + second)


def test_two_nodes_of_one_direction_each_are_a_bidirectional_layer():
    model = bidirectional(gru(I, H), lstm(I, 5))
    file = to_onnx(model, random_params(model))
    read, params = from_onnx(file)
    xs = rng.normal(size=(5, 2, I)).astype(np.float32)
    got = outputs_of(session_of(file), {"xs": xs})["ys"]
    assert repr(read).startswith("bidirectional(gru(")
    assert_computes(read, params, xs, got)
