"""Cells by name, for scripts that compare them: those of the library, and your own from a file."""

from collections.abc import Callable, Sequence
from functools import partial

from rnn_jax import cells, initializers
from rnn_jax.cells import ACTIVATIONS
from rnn_jax.counting import matching_size, parameter_count
from rnn_jax.dropout import output_dropout
from rnn_jax.lab.own_cells import naming, own_cell, require_floating_state
from rnn_jax.layers import stack
from rnn_jax.readouts import readout
from rnn_jax.types import Cell

__all__ = ["DIAGONAL", "RECURRENT", "STARTS", "equal_models", "make_cell", "make_model", "short_name"]

STARTS = {
    "gaussian": initializers.scaled_normal(),
    "orthogonal": initializers.orthogonal(),
    "identity": initializers.identity(),
    "uniform": initializers.torch_uniform(),
}
"""Initializations of W_hh."""

RECURRENT = {
    **{name: partial(cells.vanilla, activation=name) for name in ACTIVATIONS},
    **{name: getattr(cells, name) for name in ("gru", "gru_reset_before", "mgu", "ugrnn", "janet")},
    **{name: getattr(cells, name) for name in ("lstm", "peephole_lstm", "cifg_lstm", "layer_norm_lstm", "slstm")},
    **{name: getattr(cells, name) for name in ("ctrnn", "antisymmetric", "cornn")},
}
"""Cells with a W_hh."""

DIAGONAL = {name: getattr(cells, name) for name in ("indrnn", "min_gru", "min_lstm", "diagonal", "lru")}
"""Cells without a W_hh."""


def make_model(name: str, vocabulary_size: int, hidden_size: int, *, layers: int = 1, dropout: float = 0.0) -> Cell:
    """A cell of this name that reads ids and predicts the next character.

    Args:
        name: of a cell of the library, with a start of W_hh behind a dash, such as ``tanh-orthogonal``, or
            ``FILE.py:function``, where ``function(input_size, hidden_size)`` returns your own cell, whose inputs are
            one-hot vectors ``(input_size,)`` times √V, or ids if its step works on ids alone.
        vocabulary_size: V, characters in and out.
        hidden_size: units of each layer.
        layers: cells on top of each other.
        dropout: the share of the outputs of each layer that are dropped in training.

    Raises:
        ValueError: for a name or a start that is unknown, or your own cell that is wrong (``own_cell``).
    """
    sizes = (vocabulary_size, *[hidden_size] * (layers - 1))
    below = [make_cell(name, size, hidden_size, reads_ids=layer == 0) for layer, size in enumerate(sizes)]
    if dropout:
        below = [output_dropout(cell, dropout) for cell in below]
    return readout(stack(*below) if layers > 1 else below[0], vocabulary_size)


def make_cell(name: str, input_size: int, hidden_size: int, reads_ids: bool) -> Cell:
    """One layer: a cell of a name as in ``make_model``."""
    if ":" in name:
        return own_cell(name, input_size, hidden_size, reads_ids)
    kind, dash, start = name.partition("-")
    if kind not in RECURRENT | DIAGONAL:
        known = ", ".join(RECURRENT | DIAGONAL)
        raise ValueError(f"cell got {kind!r}; want one of {known}, or FILE.py:function")
    if dash and (start not in STARTS or kind in DIAGONAL):
        wanted = "none, as it has no W_hh" if kind in DIAGONAL else f"one of {', '.join(STARTS)}"
        raise ValueError(f"cell got the start {start!r} in {name!r}; want {wanted}")
    inits = {"input_init": initializers.unit_normal() if reads_ids else initializers.scaled_normal()}
    if kind in DIAGONAL:
        return DIAGONAL[kind](input_size, hidden_size, **inits)
    return RECURRENT[kind](input_size, hidden_size, **inits, recurrent_init=STARTS[start or "gaussian"])


def short_name(name: str) -> str:
    """The name of a cell in tables and figures: ``function`` of ``FILE.py:function``.

    >>> short_name("mine.py:leaky"), short_name("gru-identity")
    ('leaky', 'gru-identity')
    """
    return name.rpartition(":")[2]


def equal_models(
    names: Sequence[str], make: Callable[[str, int], Cell], hidden_size: int
) -> dict[str, tuple[int, Cell]]:
    """``{short name: (hidden_size, model)}``: models with nearly as many parameters as that of an LSTM.

    Args:
        names: of cells, as in ``make_cell``.
        make: ``(name, hidden_size) -> model``.
        hidden_size: units of the LSTM.

    Raises:
        ValueError: for no name, the same name twice, one that ``make`` refuses, or a state of integers.
    """
    require_distinct(names)
    budget = parameter_count(make("lstm", hidden_size))
    sizes = {}
    for name in names:
        with naming(name):
            sizes[name] = matching_size(partial(make, name), budget)
            require_floating_state(name, make(name, sizes[name]))
    return {short_name(name): (H, make(name, H)) for name, H in sizes.items()}


def require_distinct(names: Sequence[str]) -> None:
    """Raises a ValueError for no name of a cell, or the same one twice."""
    if not names:
        raise ValueError("--cells got nothing; want at least one, such as: --cells tanh lstm")
    same = [short_name(name).removesuffix("-gaussian") for name in names]
    twice = next((name for name in same if same.count(name) > 1), None)
    if twice:
        raise ValueError(f"--cells got {twice} twice; want each cell once")
