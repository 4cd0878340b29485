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
    """Converts a model with its weights, and compares the model as read from IN with OUT on random inputs.

    OUT is run by its own library; of IN, a .keras file in float32 alone is run.

    IN is a safetensors file with the names of PyTorch or of Keras, the run folder of char_lm.py, a .keras or .onnx
    file, or a file that this command wrote with --to rnn_jax. OUT is a .safetensors, .keras or .onnx file."""

    files: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IN OUT", help_behavior_hint="(required)")
    ] = ()
    """IN, the file to read, and OUT, the file to write. No pickle, such as a .pt file, is read."""
    to: Annotated[str, tyro.conf.arg(metavar="{torch,keras,onnx,rnn_jax}", help_behavior_hint="(required)")] = ""
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
        if not options.to:
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
        print(f"OUT takes and gives: {check.shapes}")
        if check.reading is not None:
            print(f"largest difference of IN and the model as read from it: {check.reading:.2g}, by Keras in float32")
        print(
            f"largest difference of the model as read from IN and OUT: {check.difference:.2g}, against {check.against}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
