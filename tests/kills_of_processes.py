"""Processes of one run that are killed, stopped or busy, counted by hand.

    python -m tests.kills_of_processes [KILLS] [SEED]

Two processes with two devices each train the model of characters on loopback. The run is made once undisturbed. Then
one of the processes is killed (SIGKILL) at a random moment, the first one while they start: the other one must end with
an error in one line and a code that is not 0 within 30 s, and both start again with ``--resume``, until there were so
many kills. The run must end with the losses of the undisturbed one. Then a process is stopped (SIGSTOP), which must end
the other one after ``--timeout``; process 0 is busy for 60 s, which must end nothing; and a checkpoint of the two goes
on with one process, on one device and on four.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rnn_jax.data import python_reference
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
        time.sleep(60)
long_run.save_progress = slow
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


def start(place: Path, out: str, *words: str, busy: bool = False) -> list[subprocess.Popen]:
    """Two processes of a run in a folder."""
    port, found = free_port(), []
    for number in (0, 1):
        command = [sys.executable, str(EXPERIMENTS / "char_lm.py")]
        if busy and number == 0:
            command = [sys.executable, "-c", BUSY.replace("sys.argv[0]", repr(command[1]))]
        command += [*WORDS, "--text", str(place / "text.txt"), "--out", str(place / out), *words, "--devices", "2"]
        command += ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", str(number)]
        with (place / f"log{number}").open("w") as log:
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            found.append(subprocess.Popen(command, stdout=log, stderr=log, env=env))
    return found


def rows(folder: Path) -> list[float]:
    """The losses of a run, in order."""
    file = folder / "metrics.jsonl"
    return [json.loads(line)["loss"] for line in file.read_text().splitlines()] if file.is_file() else []


def last_line(place: Path, number: int) -> str:
    lines = [line for line in (place / f"log{number}").read_text().splitlines() if "Gloo" not in line]
    return lines[-1] if lines else ""


def wait(process: subprocess.Popen, seconds: float) -> float:
    """Seconds until a process ended; −1 if it did not."""
    begin = time.monotonic()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return -1.0
    return time.monotonic() - begin


def alone(place: Path, out: str, devices: int) -> list[float]:
    """The losses of a run that goes on with one process."""
    command = [sys.executable, str(EXPERIMENTS / "char_lm.py"), *WORDS, "--text", str(place / "text.txt")]
    command += ["--out", str(place / out), "--resume", "--devices", str(devices)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return rows(place / out)


def main(kills: int = 5, seed: int = 0) -> None:
    """Prints what happened, line by line."""
    draw, place = random.Random(seed), Path(tempfile.mkdtemp())
    (place / "text.txt").write_text(python_reference()[:20_000])
    begin = time.monotonic()
    both = start(place, "whole")
    codes = [process.wait() for process in both]
    seconds = time.monotonic() - begin
    print(f"undisturbed: codes {codes}, {seconds:.0f} s, {len(rows(place / 'whole'))} rows", flush=True)
    for kill in range(kills):
        both = start(place, "killed", "--resume")
        victim, before = kill % 2, len(rows(place / "killed"))
        if kill:  # the first one while it starts
            while len(rows(place / "killed")) < before + 4:
                time.sleep(0.05)
        time.sleep(draw.uniform(0, 5) if kill else 0.25 * seconds)
        both[victim].send_signal(signal.SIGKILL)
        other = both[1 - victim]
        took, code, made = wait(other, 60), other.poll(), len(rows(place / "killed"))
        if kill == 2 and (place / "killed" / "checkpoints").is_dir():
            for name in ("one", "four"):
                shutil.copytree(place / "killed", place / name, dirs_exist_ok=True)
        print(f"kill of process {victim}: the other ended after {took:.1f} s with {code}, {made} rows", flush=True)
        print(f"    {last_line(place, 1 - victim)}", flush=True)
    codes = [process.wait() for process in start(place, "killed", "--resume")]
    whole, killed = rows(place / "whole"), rows(place / "killed")
    print(
        f"after the kills: codes {codes}, losses equal bit for bit: {whole == killed}, {len(killed)} rows", flush=True
    )
    for name, devices in (("one", 1), ("four", 4)):
        found = alone(place, name, devices)
        apart = max(abs(a - b) for a, b in zip(whole, found, strict=True))
        print(f"a checkpoint of 2 × 2 on 1 × {devices}: losses within {apart:.1e}", flush=True)
    for victim in (1, 0):
        both = start(place, f"stopped{victim}", "--timeout", "10")
        while len(rows(place / f"stopped{victim}")) < 4:
            time.sleep(0.05)
        both[victim].send_signal(signal.SIGSTOP)
        took, code = wait(both[1 - victim], 60), both[1 - victim].poll()
        both[victim].send_signal(signal.SIGKILL)
        print(f"stop of process {victim}, --timeout 10: the other ended after {took:.1f} s with {code}", flush=True)
        print(f"    {last_line(place, 1 - victim)}", flush=True)
    codes = [process.wait() for process in start(place, "busy", busy=True)]
    print(f"process 0 busy for 60 s: codes {codes}, losses equal: {rows(place / 'busy') == whole}", flush=True)
    shutil.rmtree(place)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
