"""The tracking server as the role sets it up against plain `mlflow server`, alternating.

    .venv/bin/python benchmarks/server.py [-n 5]

Both run on the same migrated database and the same bucket, one at a time. Exit code 1 if memory is
more than a quarter or the time until ready more than half of the plain server's.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchroom import REPOSITORY, Classroom, cpu_seconds, end, processes

LIMITS = {"ready": 0.5, "memory": 0.25}


class Command(NamedTuple):
    """A server to start."""

    argv: list[str]
    environment: dict[str, str]
    directory: Path


class Cost(NamedTuple):
    """What one start took: seconds until ready; when settled MiB, processes and CPU seconds."""

    ready: float
    memory: float
    processes: int
    cpu: float


def variables(path: Path) -> dict[str, str]:
    """Return the variables of an environment file."""
    return dict(re.findall(r"^(?:export )?(\w+)=(.*)$", path.read_text(), re.MULTILINE))


def ours(room: Classroom) -> Command:
    """Return command and environment as the role wrote them."""
    program = next(room.home.glob("supervisor/programs/*jdoe*.ini"))
    parser = configparser.RawConfigParser()
    parser.read(program)
    words = shlex.split(parser[parser.sections()[0]]["command"].replace("%%", "%"))
    # /bin/sh launch NAME ENVIRONMENT_FILE STOP_SIGNAL PROGRAM [ARGUMENT...]
    environment = {"HOME": str(room.server), **variables(Path(words[3]))}
    return Command(words[5:], environment, room.server)


def plain(room: Classroom) -> Command:
    """Return the class text's command with all its defaults, on the same stores."""
    handout = variables(room.home / "handouts/jdoe/mlflow.env")
    bucket = variables(room.server / "server.env")["MLFLOW_DEFAULT_ARTIFACT_ROOT"]
    store = "postgresql+psycopg2://{PGUSER}:{PGPASSWORD}@{PGHOST}:{PGPORT}/{PGDATABASE}"
    directory = room.home / "plain"
    directory.mkdir(exist_ok=True)
    return Command(
        [
            *(str(room.runtime / "bin/mlflow"), "server", "--port", str(room.ports[3])),
            *("--backend-store-uri", store.format(**handout), "--default-artifact-root", bucket),
        ],
        {"HOME": str(directory)}
        | {key: value for key, value in handout.items() if key.startswith(("AWS_", "MLFLOW_S3_"))},
        directory,
    )


def proportional_memory(directory: Path) -> float:
    """Return the MiB that the processes in `directory` hold, pages shared in proportion (PSS)."""
    kilobytes = 0
    for process in processes(directory):
        try:
            text = process.joinpath("smaps_rollup").read_text()
        except OSError:
            continue
        kilobytes += int(text.partition("\nPss:")[2].split()[0])
    return kilobytes / 1024


def settled_memory(directory: Path) -> float:
    """Return the memory once it has stayed within 1 % for ten seconds."""
    seen: list[float] = []
    while len(seen) < 120:
        seen.append(proportional_memory(directory))
        last = seen[-10:]
        if len(last) == 10 and max(last) <= 1.01 * min(last):
            break
        time.sleep(1)
    return seen[-1]


def wait_ready(port: int, seconds: float = 300) -> None:
    """Ask every 50 ms until the server answers from its database."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search",
        b'{"max_results": 1}',
        {"Content-Type": "application/json"},
    )
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=10):
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"no server answers on port {port} after {seconds} s")


def measure(command: Command, port: int) -> Cost:
    """Start a server, measure it and end it."""
    inherited = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    started = time.perf_counter()
    with subprocess.Popen(
        command.argv,
        cwd=command.directory,
        env=inherited | command.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ):
        try:
            wait_ready(port)
            ready = time.perf_counter() - started
            memory = settled_memory(command.directory)
            count = len(processes(command.directory))
            return Cost(ready, memory, count, cpu_seconds(command.directory))
        finally:
            end(command.directory)


def main() -> int:
    """Measure, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=5, help="repetitions (%(default)s)")
    parser.add_argument("--home", type=Path, default=Path(f"/tmp/bench-{os.getpid()}"))
    parser.add_argument("--venv", type=Path, default=REPOSITORY / ".venv")
    args = parser.parse_args()

    room = Classroom(args.home, args.venv)
    pairs = []
    try:
        room.play("site.yml")
        room.control("stop", next(room.home.glob("supervisor/programs/*jdoe*.ini")).stem)
        end(room.server)
        for number in range(args.n):
            pair = tuple(measure(way(room), room.ports[3]) for way in (ours, plain))
            pairs.append(pair)
            for name, cost in zip(("ours", "plain"), pair, strict=True):
                print(
                    f"{number + 1} {name:5}  ready {cost.ready:5.1f} s  "
                    f"memory {cost.memory:5.0f} MiB in {cost.processes:2} processes  "
                    f"CPU {cost.cpu:5.1f} s  load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    finally:
        room.remove()

    missed = False
    for figure, limit in LIMITS.items():
        values = [[getattr(cost, figure) for cost in pair] for pair in pairs]
        ratio = median(mine / theirs for mine, theirs in values)
        mine, theirs = (median(column) for column in zip(*values, strict=True))
        missed |= ratio > limit
        verdict = "met" if ratio <= limit else "MISSED"
        print(f"{figure:6}  {mine:.1f} : {theirs:.1f}  ratio {ratio:.2f}  limit {limit}  {verdict}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
