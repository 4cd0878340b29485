"""Cells by name, for scripts that compare them: those of the library, and your own from a file."""

from functools import partial

import rnn_jax as rnn
from rnn_jax import Cell, initializers, readout
from rnn_jax.cells import ACTIVATIONS
from rnn_jax.counting import matching_size, parameter_count
from rnn_jax.lab.own_cells import naming, own_cell, require_floating_state

__all__ = ["DIAGONAL", "RECURRENT", "STARTS", "equal_models", "make_cell", "make_model", "short", "start_of"]

STARTS = {
    "gaussian": initializers.scaled_normal(),
    "orthogonal": initializers.orthogonal(),
    "identity": initializers.identity(),
    "uniform": initializers.torch_uniform(),
}
"""Initializations of W_hh."""

RECURRENT = {
    **{name: partial(rnn.vanilla, activation=name) for name in ACTIVATIONS},
    **{name: getattr(rnn, name) for name in ("gru", "gru_reset_before", "mgu", "ugrnn", "janet")},
    **{name: getattr(rnn, name) for name in ("lstm", "peephole_lstm", "cifg_lstm", "layer_norm_lstm", "slstm")},
    **{name: getattr(rnn, name) for name in ("ctrnn", "antisymmetric", "cornn")},
}
"""Cells with a W_hh."""

DIAGONAL = {name: getattr(rnn, name) for name in ("indrnn", "min_gru", "min_lstm", "diagonal", "lru")}
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
    cells = [make_cell(name, size, hidden_size, reads_ids=layer == 0) for layer, size in enumerate(sizes)]
    if dropout:
        cells = [rnn.output_dropout(cell, dropout) for cell in cells]
    return readout(rnn.stack(*cells) if layers > 1 else cells[0], vocabulary_size)


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


def short(name: str) -> str:
    """The name of a cell in tables and figures: ``function`` of ``FILE.py:function``.

    >>> short("mine.py:leaky"), short("gru-identity")
    ('leaky', 'gru-identity')
    """
    return name.rpartition(":")[2]


def start_of(name: str) -> str:
    """The initialization of the recurrent matrix, for the rows of the metrics."""
    kind, _, start = name.partition("-")
    return start or ("gaussian" if kind in RECURRENT else "own")


def equal_models(names: tuple[str, ...], vocabulary_size: int, hidden_size: int) -> dict[str, tuple[int, Cell]]:
    """``{name: (hidden_size, model)}``, each with the parameters of an LSTM of ``hidden_size`` units, or nearly.

    Raises:
        ValueError: for no name, the same name twice, one that ``make_model`` refuses, or a state of integers.
    """
    if not names:
        raise ValueError("--cells got nothing; want at least one, such as: --cells tanh lstm")
    same = [short(name).removesuffix("-gaussian") for name in names]
    twice = next((name for name in same if same.count(name) > 1), None)
    if twice:
        raise ValueError(f"--cells got {twice} twice; want each cell once")
    budget = parameter_count(make_model("lstm", vocabulary_size, hidden_size))
    sizes = {}
    for name in names:
        with naming(name):
            sizes[name] = matching_size(partial(make_model, name, vocabulary_size), budget)
            require_floating_state(name, make_model(name, vocabulary_size, sizes[name]))
    return {short(name): (H, make_model(name, vocabulary_size, H)) for name, H in sizes.items()}
