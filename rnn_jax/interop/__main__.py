"""The command that converts files of models: ``python -m rnn_jax.interop convert IN OUT --to torch``."""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import tyro

from rnn_jax.lab.commands import parse, wrong_use

__all__ = ["Options", "main"]

USE = "python -m rnn_jax.interop convert"


@dataclasses.dataclass(frozen=True)
class Options:
    """Converts a model with its weights, and compares the outputs on random inputs.

    IN is a safetensors file with the names of PyTorch, the run folder of char_lm.py, a .keras or .onnx file, or a file
    that this command wrote with --to rnn_jax. OUT is a .safetensors, .keras or .onnx file."""

    file: tyro.conf.Positional[Path] = Path("IN")
    """IN, the file to read; no pickle, such as a .pt file, is read."""
    out: tyro.conf.Positional[Path] = Path("OUT")
    """OUT, the file to write."""
    to: Literal["torch", "keras", "onnx", "rnn_jax"] = "rnn_jax"
    """The library that OUT is for."""
    activation: Literal["tanh", "relu", "of-the-file"] = "of-the-file"
    """The activation of an nn.RNN of PyTorch, which its file does not tell; tanh where nothing tells."""
    overwrite: bool = False
    """Replace OUT if it exists."""


def main(words: list[str]) -> None:
    """Runs the command; one line and exit code 2 for wrong use, 1 where outputs differ by more than rounding."""
    with wrong_use():
        if words[:1] != ["convert"] and words[:1] not in (["--help"], ["-h"]):
            raise ValueError(f"command got {' '.join(words[:1]) or 'nothing'}; want: {USE} IN OUT --to torch")
        options = parse(Options, words[words[:1] == ["convert"] :], prog=USE)
        if Path("OUT") == options.out:
            raise ValueError(f"OUT got nothing; want: {USE} IN OUT --to {options.to}")
        import jax

        jax.config.update("jax_enable_x64", True)  # weights of float64 stay what they are
        from rnn_jax.interop.conversion import convert

        activation = None if options.activation == "of-the-file" else options.activation
        try:
            check = convert(options.file, options.out, options.to, activation=activation, overwrite=options.overwrite)
        except FloatingPointError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        print(f"{options.out}: {check.model!r}")
        print(f"largest difference of outputs on random inputs: {check.difference:.2g}, against {check.against}")


if __name__ == "__main__":
    main(sys.argv[1:])
