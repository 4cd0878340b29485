"""Processes of one run that are killed, stopped or busy, counted by hand.

    python -m tests.kills_of_processes [KILLS] [SEED] [FILE]

Two processes with two devices each train the model of characters on loopback. The run is made once undisturbed. Then
one of the processes is killed (SIGKILL) at a random moment, the first one while they start: the other one must end with
an error in one line and a code that is not 0 within 30 s, and both start again with ``--resume``, until there were so
many kills. The run must end with the losses of the undisturbed one. Then a process is stopped (SIGSTOP), which must end
the other one after ``--timeout``; process 0 is busy for 60 s, waiting or in a loop of Python, which must end nothing;
and a checkpoint of the two goes on with one process, on one device and on four.

Each case is one line, also of JSON in the file if one is given. The exit code is 1 if a case fails.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rnn_jax.data import python_reference
from rnn_jax.lab.environment import environment
from tests.loopback import free_port
from tests.scripts import EXPERIMENTS, ROOT

WORDS = ["--smoke", "--split", "80/10/10", "--evaluations", "40", "--updates", "40"]
WORDS += ["--dropout", "0.2", "--layers", "2"]
BUSY = """
import runpy, sys, time
from rnn_jax.lab import long_run
save = long_run.save_progress
def slow(*args):
    save(*args)
    if int(args[2].state.cursor) == 80:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            {work}
long_run.save_progress = slow
sys.argv[0] = {script!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
WORK = {"waits": "time.sleep(1)", "computes in Python": "sum(range(1000))"}
"""What a busy process does."""
WITHIN = 30
"""Seconds within which a process ends after another one was killed."""


class Case(NamedTuple):
    """What happened in one case."""

    case: str
    passed: bool
    facts: dict[str, Any]


def start(place: Path, out: str, *words: str, work: str = "") -> list[subprocess.Popen]:
    """Two processes of a run in a folder; process 0 is busy for a minute if it has work."""
    address, script = f"127.0.0.1:{free_port()}", str(EXPERIMENTS / "char_lm.py")
    begin = {0: ["-c", BUSY.format(work=WORK[work], script=script)] if work else [script], 1: [script]}
    found = []
    for number in (0, 1):
        command = [sys.executable, *begin[number], *WORDS, "--text", str(place / "text.txt")]
        command += ["--out", str(place / out), *words, "--devices", "2", "--start-timeout", "120"]
        command += ["--coordinator", address, "--processes", "2", "--process", str(number)]
        with (place / f"log{number}").open("w") as log:
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            found.append(subprocess.Popen(command, stdout=log, stderr=log, env=env))
    return found


def rows(folder: Path) -> list[float]:
    """The losses of a run, in order."""
    file = folder / "metrics.jsonl"
    return [json.loads(line)["loss"] for line in file.read_text().splitlines()] if file.is_file() else []


def wait_for_rows(folder: Path, number: int, both: list[subprocess.Popen]) -> None:
    """Waits until a run has so many losses, or has ended."""
    while len(rows(folder)) < number and all(process.poll() is None for process in both):
        time.sleep(0.05)


def last_line(place: Path, number: int) -> str:
    """The last line that a process has printed."""
    lines = [line for line in (place / f"log{number}").read_text().splitlines() if "Gloo" not in line]
    return lines[-1] if lines else ""


def end_of(process: subprocess.Popen, place: Path, number: int) -> dict[str, Any]:
    """How the other process ends: seconds, exit code, last line."""
    begin = time.monotonic()
    try:
        code = process.wait(60)
    except subprocess.TimeoutExpired:
        code = None
        process.kill()
    return {"seconds": round(time.monotonic() - begin, 1), "code": code, "line": last_line(place, number)}


def is_clear(end: dict[str, Any], within: float) -> bool:
    """Whether a process ended in time, with an error in one line."""
    return end["code"] not in (0, None) and end["seconds"] <= within and end["line"].startswith("error: ")


def undisturbed(place: Path) -> Case:
    """A run to its end."""
    begin = time.monotonic()
    codes = [process.wait() for process in start(place, "whole")]
    facts = {"codes": codes, "rows": len(rows(place / "whole")), "seconds": round(time.monotonic() - begin, 1)}
    return Case("undisturbed", codes == [0, 0] and facts["rows"] > 80, facts)


def kills(place: Path, number: int, draw: random.Random, seconds: float) -> Iterator[Case]:
    """A run of which a process is killed again and again, and which goes on each time."""
    folder = place / "killed"
    for kill in range(number):
        both, victim, before = start(place, "killed", "--resume"), kill % 2, len(rows(folder))
        if kill:  # the first one while it starts
            wait_for_rows(folder, before + 4, both)
        time.sleep(draw.uniform(0, 5) if kill else 0.25 * seconds)
        both[victim].send_signal(signal.SIGKILL)
        end = end_of(both[1 - victim], place, 1 - victim)
        if kill == 2 and (folder / "checkpoints").is_dir():
            for name in ("one", "four"):
                shutil.copytree(folder, place / name)
        yield Case(f"kill of process {victim}", is_clear(end, WITHIN), {**end, "rows": len(rows(folder))})
    codes = [process.wait() for process in start(place, "killed", "--resume")]
    same = rows(folder) == rows(place / "whole")
    yield Case("the run after the kills", same and codes == [0, 0], {"codes": codes, "equal bit for bit": same})


def on_other_devices(place: Path) -> Iterator[Case]:
    """A checkpoint of two processes goes on in one."""
    for name, devices in (("one", 1), ("four", 4)):
        if not (place / name).is_dir():  # too few kills
            continue
        command = [sys.executable, str(EXPERIMENTS / "char_lm.py"), *WORDS, "--text", str(place / "text.txt")]
        command += ["--out", str(place / name), "--resume", "--devices", str(devices)]
        code = subprocess.run(
            command, check=False, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
        ).returncode
        pairs = zip(rows(place / "whole"), rows(place / name), strict=False)
        apart = max(abs(a - b) for a, b in pairs)
        whole = len(rows(place / name)) == len(rows(place / "whole"))
        facts = {"code": code, "largest difference of losses": apart}
        yield Case(f"a checkpoint of 2 × 2 on 1 × {devices}", code == 0 and whole and apart < 1e-4, facts)


def stops(place: Path, timeout: int = 10) -> Iterator[Case]:
    """A process is stopped, which ends the other one with its number."""
    for victim in (1, 0):
        folder = place / f"stopped{victim}"
        both = start(place, folder.name, "--timeout", str(timeout))
        wait_for_rows(folder, 4, both)
        both[victim].send_signal(signal.SIGSTOP)
        end = end_of(both[1 - victim], place, 1 - victim)
        both[victim].kill()
        passed = is_clear(end, timeout + 10) and f"process {victim} of 2" in end["line"]
        yield Case(f"stop of process {victim}, --timeout {timeout}", passed, end)


def busy(place: Path) -> Iterator[Case]:
    """Process 0 is busy for a minute, which ends nothing."""
    for number, work in enumerate(WORK):
        codes = [process.wait() for process in start(place, f"busy{number}", work=work)]
        same = rows(place / f"busy{number}") == rows(place / "whole")
        facts = {"codes": codes, "equal bit for bit": same}
        yield Case(f"process 0 {work} for 60 s", codes == [0, 0] and same, facts)


def cases(place: Path, number: int, seed: int) -> Iterator[Case]:
    """All cases, one after the other."""
    whole = undisturbed(place)
    yield whole
    yield from kills(place, number, random.Random(seed), whole.facts["seconds"])
    yield from on_other_devices(place)
    yield from stops(place)
    yield from busy(place)


def main(number: int, seed: int, file: str) -> int:
    """Prints every case; returns the exit code."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text.txt").write_text(python_reference()[:20_000])
        for case in cases(Path(folder), number, seed):
            failed += not case.passed
            print("passed" if case.passed else "FAILED", case.case, case.facts, flush=True)
            if file:
                record = {"benchmark": "processes", **case._asdict(), "environment": environment()._asdict()}
                with Path(file).open("a", encoding="utf-8") as results:
                    results.write(json.dumps(record) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    count, seed, file = [*sys.argv[1:], *["5", "0", ""][len(sys.argv) - 1 :]]
    sys.exit(main(int(count), int(seed), file))
