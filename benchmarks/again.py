"""A second run with nothing to do, and verify: this checkout against another commit, alternating.

    .venv/bin/python benchmarks/again.py [-n 5] [--against COMMIT]

Both use the same classroom and the same Ansible. Exit code 1 if a ratio is more than it must be.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

from benchroom import REPOSITORY, Classroom, Cost

# The last commit in which each module got an interpreter of its own.
BEFORE = "f28af6f"
# Playbook, and the part of the former wall time and processor seconds that it may take.
LIMITS = {"site.yml": 0.25, "playbooks/verify.yml": 0.5}


def main() -> int:
    """Measure, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=5, help="repetitions (%(default)s)")
    parser.add_argument("--against", default=BEFORE, help="another commit (%(default)s)")
    parser.add_argument("--home", type=Path, default=Path(f"/tmp/bench-{os.getpid()}"))
    parser.add_argument("--venv", type=Path, default=REPOSITORY / ".venv")
    args = parser.parse_args()

    other = Path(f"{args.home}-other")
    clone = ["git", "clone", "--quiet", "--no-checkout", str(REPOSITORY), str(other)]
    room = Classroom(args.home, args.venv)
    pairs: dict[str, list[tuple[Cost, Cost]]] = {playbook: [] for playbook in LIMITS}
    try:
        subprocess.run(clone, check=True)
        subprocess.run(["git", "-C", other, "checkout", "--quiet", args.against], check=True)
        room.play("site.yml")
        for number in range(args.n):
            for playbook, costs in pairs.items():
                before, _ = room.play(playbook, repository=other)
                now, _ = room.play(playbook)
                costs.append((now, before))
                print(
                    f"{number + 1}: {playbook} now {now.wall:.1f} s (CPU {now.cpu:.1f} s), "
                    f"before {before.wall:.1f} s (CPU {before.cpu:.1f} s), "
                    f"load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    finally:
        shutil.rmtree(other, ignore_errors=True)
        room.remove()

    missed = 0
    for playbook, costs in pairs.items():
        wall = median(now.wall / before.wall for now, before in costs)
        cpu = median(now.cpu / before.cpu for now, before in costs)
        limit = LIMITS[playbook]
        verdict = "met" if max(wall, cpu) <= limit else f"MISSED: at most {limit}"
        missed += verdict != "met"
        print(
            f"{playbook:21} wall {wall:.2f}, CPU {cpu:.2f} of before (medians of pairs): {verdict}"
        )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
