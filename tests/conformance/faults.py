"""``python -m tests.conformance.faults``: plants faults, one at a time, and shows that the suites notice them.

Each fault is planted in a copy of the library, and the suite that is meant for it runs on the copy, in a process of its
own. The table goes into results.json and docs/conformance.md. It takes some minutes.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.quick_compilation import FLAGS

ROOT = Path(__file__).absolute().parent.parent.parent


class Fault(NamedTuple):
    """A change of one file of ``rnn_jax``."""

    name: str
    file: str
    right: str
    wrong: str
    suite: str


FAULTS = (
    Fault("LSTM: gates i and f exchanged", "cells/lstms.py", "c = f * c + i * g", "c = i * c + f * g", "Equinox, live"),
    Fault(
        "GRU: the reset before the product in place of after it",
        "cells/grus.py",
        "r * (v_n + jnp.broadcast_to(params.b_n, h.shape))",
        "product(r * h, jnp.split(params.W_hh, 3, axis=-1)[2]) + jnp.broadcast_to(params.b_n, h.shape)",
        "Equinox, live",
    ),
    Fault(
        "GRU: 1 − z in place of z",
        "cells/grus.py",
        "product(r * masked, W_hn))\n    return rest * n + z * h",
        "product(r * masked, W_hn))\n    return z * n + rest * h",
        "haiku, live",
    ),
    Fault(
        "layer norm: its ε ignored",
        "cells/lstm_combinations.py",
        "variance + epsilon",
        "variance + 1e-5",
        "TensorFlow Lite, stored",
    ),
    Fault(
        "forget bias: added to the gate i", "cells/lstms.py", "f = hidden_size * (gates - 3)", "f = 0", "Keras, stored"
    ),
    Fault(
        "hard sigmoid: σ in its place",
        "cells/activations.py",
        '"hard_sigmoid": jax.nn.hard_sigmoid',
        '"hard_sigmoid": jax.nn.sigmoid',
        "Keras, live",
    ),
    Fault(
        "mask: ignored",
        "schedules/scan.py",
        "return stepped if mask is None else where(mask, stepped, h)",
        "return stepped",
        "Keras, stored",
    ),
    Fault(
        "reverse: the end of each sequence not found",
        "schedules/driver.py",
        "return StepFlags(flags.mask, ",
        "return StepFlags(flags.mask if flags.mask is None else flags.mask[::-1], ",
        "jax.experimental.rnn, live",
    ),
    Fault(
        "resets: one step late",
        "schedules/driver.py",
        "    if not reverse:\n        return flags\n",
        "    if flags.resets is not None:\n        flags = flags._replace(resets=jnp.roll(flags.resets, 1, axis=0))\n"
        "    if not reverse:\n        return flags\n",
        "haiku, live",
    ),
    Fault(
        "peephole: o reads c of the step before",
        "cells/lstm_combinations.py",
        'gate_activation(normed("o", c))',
        'gate_activation(normed("o", state.c))',
        "ONNX Runtime, stored",
    ),
    Fault(
        "coupled gates: i = f",
        "cells/lstm_combinations.py",
        'f, i = with_complement(gate_activation)(normed("f", c))',
        'f = i = gate_activation(normed("f", c))',
        "TensorFlow Lite, stored",
    ),
    Fault(
        "projection: its bias left out",
        "cells/lstm_combinations.py",
        "if params.b_p is None else affine(h, params.W_hp, params.b_p)",
        "",
        "TensorFlow Lite, stored",
    ),
    Fault(
        "convolution: its kernel mirrored",
        "cells/conv.py",
        "        widened(W),\n",
        "        widened(W[::-1]),\n",
        "haiku, live",
    ),
    Fault(
        "sLSTM: no stabiliser of its own for large i",
        "cells/exponential.py",
        "m = jnp.maximum(f, i)",
        "m = jnp.where(m < -1e9, i, f)",
        "xLSTM, sLSTM",
    ),
    Fault(
        "LRU: the angle turns back",
        "cells/linear.py",
        "size * jnp.sin(angle)",
        "-size * jnp.sin(angle)",
        "minimal LRU",
    ),
    Fault(
        "truncation: windows shifted by one step",
        "gradients/windows.py",
        "return (number + 1) * self.k1 - self.k2",
        "return (number + 1) * self.k1 - self.k2 + 1",
        "Truncated back-propagation",
    ),
    Fault(
        "truncation: the cut ignored",
        "schedules/scan.py",
        "return where(cut, jax.lax.stop_gradient(h), h)",
        "return h",
        "Truncated back-propagation",
    ),
    Fault(
        "beam search: the score without its length",
        "decoding/decoders.py",
        "lengths.astype(each.dtype)[:, None] ** length_penalty",
        "lengths.astype(each.dtype)[:, None] ** 0.0",
        "Decoding by enumeration",
    ),
    Fault(
        "nucleus: one id too many",
        "decoding/choices.py",
        "likeliest_first = -jnp.sort(-jax.nn.softmax(widened(logits), axis=-1), axis=-1)\n"
        "    before = jnp.cumsum(likeliest_first, axis=-1) - likeliest_first",
        "likeliest_first = -jnp.sort(-jax.nn.softmax(widened(logits), axis=-1), axis=-1)\n"
        "    before = jnp.cumsum(likeliest_first, axis=-1) - 2 * likeliest_first",
        "Decoding by enumeration",
    ),
    Fault(
        "Jacobian: transposed",
        "diagnostics/jacobians.py",
        "return J[np.ix_(recurrent, recurrent)]",
        "return J[np.ix_(recurrent, recurrent)].T",
        "Fixed points of rings",
    ),
    Fault(
        "gradients: a rollout keeps the state before the last step from them",
        "schedules/driver.py",
        "return SCHEDULES[schedule](",
        "h0 = jax.lax.stop_gradient(h0)\n    return SCHEDULES[schedule](",
        "PyTorch, live",
    ),
)


def run_suite(name: str) -> None:
    """Prints how many cases of a suite are wrong, and how many there are."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from tests.conformance.report import suites

    (suite,) = [each for each in suites() if each.name == name]
    cases = list(suite.cases())
    print(json.dumps([sum(not case.right for case in cases), len(cases)]))


def wrong_cases(folder: Path, suite: str) -> str:
    """What a suite finds in the library of a folder: "3 of 40", or the error that stopped it."""
    command = [sys.executable, "-c", f"from tests.conformance.faults import run_suite; run_suite({suite!r})"]
    environment = os.environ | {"PYTHONPATH": str(folder), "XLA_FLAGS": FLAGS, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"stopped: {done.stderr.strip().splitlines()[-1][:100]}"
    wrong, number = json.loads(done.stdout.splitlines()[-1])
    return f"{wrong} of {number}"


def noticed(wrong: str) -> bool:
    """Whether a suite found wrong cases; one that stopped by an error has found none."""
    return not wrong.startswith(("0 of", "stopped"))


def planted(fault: Fault, folder: Path) -> str:
    """What the suite finds while the fault is in the copy of the library, which is as before afterwards."""
    file = folder / "rnn_jax" / fault.file
    before = file.read_text()
    if before.count(fault.right) != 1:
        raise ValueError(f"{fault.file} does not hold {fault.right!r} once; write the fault {fault.name!r} anew")
    file.write_text(before.replace(fault.right, fault.wrong))
    try:
        return wrong_cases(folder, fault.suite)
    finally:
        file.write_text(before)


def main(names: list[str]) -> int:
    """The exit code: 1 where a fault was not noticed. With names, only the faults for suites that begin so."""
    from tests.conformance.report import read_results, write

    rows = {each["fault"]: each for each in read_results()["faults"]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "rnn_jax", folder / "rnn_jax", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "tests").symlink_to(ROOT / "tests")
        for fault in FAULTS:
            if not names or fault.suite.startswith(tuple(names)):
                wrong = planted(fault, folder)
                print(f"{fault.name} | {fault.suite} | {wrong}", flush=True)
                rows[fault.name] = {"fault": fault.name, "suite": fault.suite, "wrong": wrong}
    found = [rows[fault.name] for fault in FAULTS]
    write(read_results() | {"faults": found})
    missed = [each["fault"] for each in found if not noticed(each["wrong"])]
    print(f"{len(found) - len(missed)} of {len(found)} noticed{': missed ' * bool(missed)}{', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
