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

from classroom import REPOSITORY, Classroom

LIMIT = 1.0


def time_site(room: Classroom) -> float:
    """Return the seconds of one site.yml run in an empty classroom."""
    started = time.perf_counter()
    room.site()
    seconds = time.perf_counter() - started
    room.clear()
    return seconds


def time_class_text(room: Classroom, show: bool) -> float:
    """Return the seconds until class_text.sh has verified; stopping its servers is not counted."""
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
    seconds = 0.0
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
                seconds = time.perf_counter() - started
    output = "".join(lines)
    if script.returncode or not seconds:
        raise SystemExit(f"class_text.sh failed, see {directory}:\n{output}")
    if show:
        print(output, end="")
    shutil.rmtree(directory)
    return seconds


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
        room.site()  # installs the programs and warms the disk's cache
        room.clear()
        pairs = []
        for number in range(args.n):
            pair = (time_site(room), time_class_text(room, args.profile and number == 0))
            pairs.append(pair)
            print(f"{number + 1}: site.yml {pair[0]:.1f} s, class text {pair[1]:.1f} s", flush=True)
        if args.profile:
            profile = {
                "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
                "PROFILE_TASKS_TASK_OUTPUT_LIMIT": "25",
            }
            print(room.site(**profile).partition("TASKS RECAP")[2])
    finally:
        room.remove()

    ratio = median(ours / theirs for ours, theirs in pairs)
    print(f"site.yml     {median(ours for ours, _ in pairs):.1f} s (median)")
    print(f"class text   {median(theirs for _, theirs in pairs):.1f} s (median)")
    print(f"ratio        {ratio:.2f} (median of pairs; at most {LIMIT})")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
