"""From nothing to verified: site.yml against the class text's commands, alternating.

    .venv/bin/python benchmarks/site.py [-n 3] [--profile]

The programs are installed beforehand and used by both. Exit code 1 if site.yml is the slower one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchroom import REPOSITORY, Classroom, Cost, cpu_seconds

LIMIT = 0.75


def time_site(room: Classroom) -> Cost:
    """Return what one site.yml run in an empty classroom takes, its servers included."""
    cost, _ = room.play("site.yml")
    cost = Cost(cost.wall, cost.cpu + cpu_seconds(room.home))
    room.clear()
    return cost


def time_class_text(room: Classroom, show: bool) -> Cost:
    """Return what class_text.sh takes until it has verified; stopping is not counted."""
    directory = room.home / "class-text"
    settings = {
        "DIRECTORY": str(directory),
        "RUNTIME": str(room.runtime),
        "PROJECT": str(REPOSITORY / "training"),
        "PORT_POSTGRES": str(room.ports[0]),
        "PORT_S3": str(room.ports[1]),
        "PORT_SERVER": str(room.ports[3]),
        "PORT_INNER": str(room.ports[8]),
    }
    cost = None
    started = time.perf_counter()
    with subprocess.Popen(
        [Path(__file__).with_name("class_text.sh")],
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as script:
        assert script.stdout
        lines = []
        for line in script.stdout:
            lines.append(line)
            if line == "verified\n":
                cost = Cost(time.perf_counter() - started, cpu_seconds(directory))
    output = "".join(lines)
    if script.returncode or not cost:
        raise SystemExit(f"class_text.sh failed:\n{output}")
    if show:
        print(output, end="")
    shutil.rmtree(directory)
    return cost


def main() -> int:
    """Measure, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=3, help="repetitions (%(default)s)")
    parser.add_argument("--home", type=Path, default=Path(f"/tmp/bench-{os.getpid()}"))
    parser.add_argument("--venv", type=Path, default=REPOSITORY / ".venv")
    parser.add_argument("--profile", action="store_true", help="show where one more run spends it")
    args = parser.parse_args()

    room = Classroom(args.home, args.venv)
    try:
        room.play("site.yml")  # installs the programs and warms the disk's cache
        room.clear()
        pairs = []
        for number in range(args.n):
            ours, theirs = time_site(room), time_class_text(room, args.profile and number == 0)
            pairs.append((ours, theirs))
            print(
                f"{number + 1}: site.yml {ours.wall:.1f} s (CPU {ours.cpu:.1f} s), "
                f"class text {theirs.wall:.1f} s (CPU {theirs.cpu:.1f} s), "
                f"load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
        if args.profile:
            profile = {
                "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
                "PROFILE_TASKS_TASK_OUTPUT_LIMIT": "25",
            }
            _, output = room.play("site.yml", environment=profile)
            print(output.partition("TASKS RECAP")[2].partition("===")[2])
    finally:
        room.remove()

    ratio = median(ours.wall / theirs.wall for ours, theirs in pairs)
    cpu_ratio = median(ours.cpu / theirs.cpu for ours, theirs in pairs)
    for name, costs in zip(("site.yml", "class text"), zip(*pairs, strict=True), strict=True):
        wall, cpu = (median(column) for column in zip(*costs, strict=True))
        print(f"{name:10}  {wall:6.1f} s  CPU {cpu:6.1f} s  (medians)")
    print(f"{'ratio':10}  {ratio:6.2f}    CPU {cpu_ratio:6.2f}    (medians of pairs)")
    print("met" if ratio <= LIMIT else f"MISSED: the ratio must be at most {LIMIT}")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
