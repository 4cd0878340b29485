"""Live modules of PyTorch with the weights of a model."""

from typing import Any

from rnn_jax.interop.adapters import library
from rnn_jax.interop.models import Part
from rnn_jax.interop.torch_weights import KINDS, checked_network, modules_of, sizes_of, to_torch
from rnn_jax.layers import Model
from rnn_jax.types import Params

__all__ = ["torch_module"]


def torch_module(model: Model, params: Params) -> Any:
    """A live module of PyTorch with the weights of a model: ``nn.LSTM`` and the like, or a network around them.

    It is ``module(xs, state=None) -> (ys, state)`` with time leading. The parts of a network are ``module.embedding``,
    ``module.rnn`` (one module, or a ``ModuleList``) and ``module.readout``; its state is a list, one of each module.
    Ids go in where it has an embedding, else vectors; one-hot vectors where the model reads ids without an embedding.

    Args:
        model, params: as in ``to_torch``.

    Returns:
        The module. It takes vectors ``xs (T, B, I)`` or ids ``(T, B)`` and returns ``ys (T, B, O)`` and the last state,
        where nothing is padded. ``safetensors.torch.save_file(module.state_dict(), file)`` writes its weights, and so
        does ``write_weights(file, module.state_dict())``.

    Raises:
        ValueError: as in ``to_torch``, and where PyTorch is not installed.

    >>> import jax
    >>> import torch
    >>> from rnn_jax import lstm, readout
    >>> model = readout(lstm(3, 4, dtype="float32"), 2)
    >>> ys, state = torch_module(model, model.init(jax.random.key(0)))(torch.ones(7, 2, 3))
    >>> ys.shape, state[0][0].shape
    (torch.Size([7, 2, 2]), torch.Size([1, 2, 4]))

    Reference: PyTorch documentation. LSTM. https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html.
    """
    torch = library("torch", "torch")
    network, weights = checked_network(model, params), to_torch(model, params)
    dtype = getattr(torch, str(next(iter(weights.values())).dtype))
    modules = modules_of(network)
    recurrent = [recurrent_module(torch, layers, dtype) for layers in modules.values()]
    if [*modules] == [""]:
        module = recurrent[0]
    else:
        rnn = recurrent[0] if "rnn." in modules else torch.nn.ModuleList(recurrent)
        sizes = {
            "Embedding": None if network.embedding is None else network.embedding.shape,
            "Linear": None if network.readout is None else network.readout[0].shape,
        }
        around = (size and blank(torch, kind, *size, dtype=dtype) for kind, size in sizes.items())
        module = network_class(torch)(rnn, *around)
    module.load_state_dict({name: torch.tensor(W.astype(float)) for name, W in weights.items()})  # bfloat16 too
    return module


def blank(torch: Any, kind: str, *sizes: int, **options: Any) -> Any:
    """A module whose weights are not drawn: the generator of PyTorch stays as it is."""
    return getattr(torch.nn, kind)(*sizes, **options, device="meta").to_empty(device="cpu")


def recurrent_module(torch: Any, layers: list[tuple[Part, ...]], dtype: Any) -> Any:
    """A module of PyTorch for layers that agree in kind and sizes."""
    part = layers[0][0]
    H, P = sizes_of(part)
    more: dict[str, Any] = {"num_layers": len(layers), "bidirectional": len(layers[0]) == 2, "dtype": dtype}
    more |= {"proj_size": P} if part.name == "projected_lstm" else {}
    more |= {"nonlinearity": part.options.get("activation", "tanh")} if part.name == "vanilla" else {}
    return blank(torch, KINDS[part.name], part.params.W_xh.shape[0], H, **more)


def network_class(torch: Any) -> type:
    """The module of an embedding, recurrent modules and a readout."""

    class RecurrentNetwork(torch.nn.Module):
        """Time leads; ``forward(xs, state=None) -> (ys, state)``."""

        def __init__(self, rnn: Any, embedding: Any = None, readout: Any = None) -> None:
            super().__init__()
            self.embedding, self.rnn, self.readout = embedding, rnn, readout

        def forward(self, xs: Any, state: Any = None) -> tuple[Any, list[Any]]:
            ys = xs if self.embedding is None else self.embedding(xs)
            modules = [*self.rnn] if isinstance(self.rnn, torch.nn.ModuleList) else [self.rnn]
            last = []
            for module, h in zip(modules, state or [None] * len(modules), strict=True):
                ys, h = module(ys, h)
                last.append(h)
            return ys if self.readout is None else self.readout(ys), last

    return RecurrentNetwork
