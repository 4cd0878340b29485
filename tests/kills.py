"""Runs that are killed at random moments end bit for bit as if they had not been, counted by hand.

    python -m tests.kills char_lm [KILLS] [SEED]
    python -m tests.kills digit_class [KILLS] [SEED]

An experiment runs once undisturbed. Then it runs again in another folder, where every start is killed (SIGKILL) after a
random time, up to that of the undisturbed run, and the next start resumes. A start that ends before its kill ends the
run, and another one begins in a new folder, until there were so many kills. All files of each finished run are compared
with those of the undisturbed one, but for what the clock wrote (``timings.jsonl``, ``env.json``, the page, and times in
``metrics.csv``).
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rnn_jax.data import python_reference
from tests.scripts import finish, start

WORDS = {
    "char_lm": [
        "--smoke",
        "--text",
        "TEXT",
        "--split",
        "80/10/10",
        "--evaluations",
        12,
        "--updates",
        20,
        "--dropout",
        0.2,
        "--layers",
        2,
        "--k1",
        8,
    ],
    "digit_class": ["--smoke", "--seeds", 4, "--evaluations", 10, "--updates", 100],
}
CLOCK = {"timings.jsonl", "env.json", ".lock", "report.html"}
TIMES = ("wall_s", "compile_s", "tokens_per_s", "examples_per_s")


def contents(folder: Path) -> dict[str, bytes]:
    """``{name: content}`` of all files of a run but those of the clock; checkpoints by the digest of their state."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name.startswith("checkpoints/"):
            if name.endswith("told/metadata"):
                kept = json.loads(path.read_text())
                found[name] = json.dumps([kept["sha256"], kept["facts"]["lengths"]["metrics.jsonl"]]).encode()
        elif name == "metrics.csv":
            lines = [line.split(",") for line in path.read_text().splitlines()]
            kept = [i for i, column in enumerate(lines[0]) if column not in TIMES]
            found[name] = json.dumps([[line[i] for i in kept if i < len(line)] for line in lines]).encode()
        elif name not in CLOCK:
            found[name] = path.read_bytes()
    return found


def killed(process: subprocess.Popen, seconds: float) -> bool:
    """Whether a process was killed after so many seconds, and had not ended before."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    code, _, err = finish(process)
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"a start ended with exit code {code}: {err}")
    return code != 0


def different(whole: Path, folder: Path) -> list[str]:
    """Names of the files in which two runs differ."""
    first, second = contents(whole), contents(folder)
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def main(script: str, kills: int = 20, seed: int = 0) -> int:
    """Kills and compares; returns 1 if a file differs."""
    rng, counted, differs = np.random.default_rng(seed), 0, []
    with tempfile.TemporaryDirectory() as place:
        text, whole, begin = Path(place) / "text.txt", Path(place) / "whole", time.monotonic()
        text.write_text(python_reference()[:20_000], encoding="utf-8")
        words = [text if word == "TEXT" else word for word in WORDS[script]]
        if finish(start(script, *words, "--out", whole))[::2] != (0, ""):
            raise SystemExit("the undisturbed run failed")
        seconds, runs = time.monotonic() - begin, 0
        print(f"{script}: undisturbed {seconds:.1f} s", flush=True)
        while counted < kills:
            folder, runs = Path(place) / f"run{runs}", runs + 1
            while True:
                after = rng.uniform(0, seconds) if counted < kills else 3600.0
                if not killed(start(script, *words, "--out", folder, "--resume"), after):
                    break
                counted += 1
                rows = folder / "metrics.jsonl"
                count = rows.read_text().count("\n") if rows.is_file() else 0
                print(f"kill {counted} after {after:.1f} s, {count} rows", flush=True)
            differs += different(whole, folder)
            print(f"run {runs} ended; files that differ: {different(whole, folder) or 'none'}", flush=True)
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
