"""The command that converts files of models: ``python -m rnn_jax.interop convert IN OUT --to torch``."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rnn_jax.lab.commands import parse, wrong_use

__all__ = ["Options", "main"]

USE = "python -m rnn_jax.interop convert"


@dataclasses.dataclass(frozen=True)
class Options:
    """Converts a model with its weights, and compares the outputs on random inputs.

    IN is a safetensors file with the names of PyTorch or of Keras, the run folder of char_lm.py, a .keras or .onnx
    file, or a file that this command wrote with --to rnn_jax. OUT is a .safetensors, .keras or .onnx file."""

    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IN OUT")] = ()
    """IN, the file to read, and OUT, the file to write. No pickle, such as a .pt file, is read."""
    to: Literal["torch", "keras", "onnx", "rnn_jax"] | None = None
    """The library that OUT is for."""
    activation: Literal["tanh", "relu"] | None = None
    """The activation of an nn.RNN of PyTorch, where its file has none; else tanh."""
    overwrite: bool = False
    """Replace OUT if it exists."""


def main(words: list[str]) -> None:
    """Runs the command; one line and exit code 2 for wrong use, 1 where outputs differ by more than rounding."""
    with wrong_use():
        if words[:1] != ["convert"] and words[:1] not in (["--help"], ["-h"]):
            raise ValueError(f"command got {' '.join(words[:1]) or 'nothing'}; want: {USE} IN OUT --to torch")
        options = parse(Options, words[words[:1] == ["convert"] :], prog=USE)
        if len(options.files) != 2:
            raise ValueError(f"convert got {len(options.files)} files; want: {USE} IN OUT --to {options.to or 'torch'}")
        if options.to is None:
            raise ValueError("--to got nothing; want torch, keras, onnx or rnn_jax")
        os.environ.setdefault("KERAS_BACKEND", "jax")  # in the process of this command alone
        import jax

        jax.config.update("jax_enable_x64", True)  # weights of float64 stay what they are
        from rnn_jax.interop.conversion import convert

        file, out = options.files
        try:
            check = convert(file, out, options.to, activation=options.activation, overwrite=options.overwrite)
        except FloatingPointError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        print(f"{out}: {check.model!r}")
        if check.left_out:
            print(f"left out: {check.left_out}")
        print(f"largest difference of outputs on random inputs: {check.difference:.2g}, against {check.against}")


if __name__ == "__main__":
    main(sys.argv[1:])
