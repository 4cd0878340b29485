"""The laboratory for recurrent neural networks in JAX.

Every name is imported when it is first used, so that ``import rnn_jax`` does not even import JAX: functions such as
``rnn_jax.lstm``, types such as ``rnn_jax.LSTMState``, and modules such as ``rnn_jax.gradients``. ``__init__.pyi`` lists
the names.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def _read_names() -> dict[str, str | None]:
    """The module of every name that ``__init__.pyi`` lists; None for a module itself."""
    source = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom)]
    return {name.name: None if node.module == __name__ else node.module for node in imports for name in node.names}


_MODULES = _read_names()
__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES[name]
    value = (
        importlib.import_module(f"{__name__}.{name}")
        if module is None
        else getattr(importlib.import_module(module), name)
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
