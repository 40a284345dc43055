"""Measures a tracking server that sleeps against one that always runs, on one host with systemd.

    molecule create -s on_demand && molecule side_effect -s on_demand
    molecule converge -s on_demand
    .venv-dev/bin/python benchmarks/on_demand.py -n 5

Both servers are on the test host debian12, over the same database and bucket. Root on the container
engine is needed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
import urllib.request

HOST = "mlflow-classroom-debian12"
SLEEPS, SLEEPS_PORT = "mlflow-demand", 19163
RUNS, RUNS_PORT = "mlflow-jdoe-12", 19123
WARM_REQUESTS = 20


def on_host(command: str) -> str:
    """Return what a command on the test host prints."""
    done = subprocess.run(
        ["docker", "exec", HOST, "sh", "-c", command], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{command}: {done.stderr.strip()}\n{__doc__}")
    return done.stdout


def answer_seconds(port: int) -> float:
    """Return the seconds until an API route answers, connection included."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search",
        data=json.dumps({"max_results": 1}).encode(),
        headers={"Content-Type": "application/json"},
    )
    begin = time.monotonic()
    with urllib.request.urlopen(request, timeout=120) as answer:
        answer.read()
    return time.monotonic() - begin


def memory_mib(unit: str) -> float:
    """Return the PSS of all processes of a service, and of the one that has its port, in MiB."""
    tree = "/sys/fs/cgroup/system.slice"
    script = (
        f"cat {tree}/{unit}.service/cgroup.procs {tree}/{unit}-door.service/cgroup.procs"
        " 2>/dev/null | while read -r pid; do cat /proc/$pid/smaps_rollup; done"
        " | awk '$1 == \"Pss:\" { n += $2 } END { print n + 0 }'"
    )
    return int(on_host(script)) / 1024


def wait_until_asleep() -> float:
    """Return the seconds that the server went on without a visitor."""
    begin = time.monotonic()
    while on_host(f"systemctl show -P ActiveState {SLEEPS}").strip() != "inactive":
        time.sleep(0.2)
    return time.monotonic() - begin


def main() -> None:
    """Measure and print the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-n", type=int, default=5, help="repetitions")
    count = parser.parse_args().n
    on_host(f"systemctl is-active {SLEEPS}.socket {RUNS}")
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    for _ in range(count):
        wait_until_asleep()
        note("asleep: memory, MiB", memory_mib(SLEEPS))
        note("asleep: first answer, s", answer_seconds(SLEEPS_PORT))
        for _ in range(WARM_REQUESTS):
            note("awake: answer through the door, ms", 1000 * answer_seconds(SLEEPS_PORT))
            note("always there: answer, ms", 1000 * answer_seconds(RUNS_PORT))
        note("awake: memory with the door, MiB", memory_mib(SLEEPS))
        note("always there: memory, MiB", memory_mib(RUNS))
    for name, values in figures.items():
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name:36} {statistics.median(values):8.2f}   n={len(values)} ({spread})")


if __name__ == "__main__":
    main()
