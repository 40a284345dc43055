"""A classroom to measure: a directory and ports of its own, filled by the playbook."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]


PR_SET_CHILD_SUBREAPER = 36


class Cost(NamedTuple):
    """What a run took: seconds on the clock, and of all processors."""

    wall: float
    cpu: float


def timed(command: list[str], directory: Path, environment: dict[str, str]) -> tuple[Cost, str]:
    """Run a command; return its cost and what it printed. A failure ends the benchmark.

    What it leaves in the background and ends at once, as the interpreter of Ansible's modules does,
    counts too; services that go on do not.
    """
    # Orphans become children of this process, which can then be told what they have computed.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")
    time.sleep(0.3)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    after = os.times()
    return Cost(wall, sum(after[2:4]) - sum(before[2:4])), done.stdout


def free_ports(count: int, start: int = 28000) -> list[int]:
    """Return `count` free consecutive ports on loopback, below the range that clients get."""
    for first in range(start, 32000 - count):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return list(range(first, first + count))
    raise SystemExit("no free ports between 28000 and 32000")


def processes(directory: Path) -> list[Path]:
    """Return the /proc folders of all processes that work in or below `directory`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cwd").readlink().is_relative_to(directory):
                found.append(process)
        except OSError:  # ended, or somebody else's
            continue
    return found


def cpu_seconds(directory: Path) -> float:
    """Return what the processes in `directory` and their ended children have computed so far."""
    ticks = 0
    for process in processes(directory):
        try:
            fields = process.joinpath("stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(number) for number in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def end(directory: Path) -> None:
    """End all processes that work in or below `directory`, after ten seconds by force."""
    for stop in (signal.SIGTERM, signal.SIGKILL):
        for process in processes(directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), stop)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if not processes(directory):
                return
            time.sleep(0.1)
    raise SystemExit(f"a server in {directory} does not end")


@dataclass
class Classroom:
    """Where a back end and one student, jdoe, live; installed programs survive `clear`."""

    home: Path
    venv: Path
    ports: list[int] = field(default_factory=lambda: free_ports(16))

    def __post_init__(self) -> None:
        if os.geteuid() == 0:
            raise SystemExit("PostgreSQL does not start for root: run this as an ordinary user")
        if self.home.exists():
            raise SystemExit(f"{self.home} exists: name a directory that does not")
        if not (self.venv / "bin/ansible-playbook").is_file():
            raise SystemExit(f"there is no {self.venv}/bin/ansible-playbook: run make setup")

    @property
    def runtime(self) -> Path:
        """The installed programs."""
        return next(self.home.glob("runtime-*"))

    @property
    def server(self) -> Path:
        """The directory of jdoe's tracking server."""
        return self.home / "servers/jdoe"

    def play(
        self,
        playbook: str,
        *arguments: str,
        repository: Path = REPOSITORY,
        environment: dict[str, str] | None = None,
    ) -> tuple[Cost, str]:
        """Run a playbook for jdoe; return its cost and what it printed."""
        settings = {
            "classroom_home": str(self.home),
            "classroom_postgres_port": self.ports[0],
            "classroom_s3_port": self.ports[1],
            "classroom_s3_admin_port": self.ports[2],
            "classroom_server_port": self.ports[3],
            "classroom_s3_inner_port": self.ports[8],
        }
        return timed(
            [
                *(str(self.venv / "bin/ansible-playbook"), playbook, *arguments),
                *("-e", "user=jdoe", "-e", json.dumps(settings)),
            ],
            repository,
            {"ANSIBLE_CONFIG": str(repository / "ansible.cfg"), **(environment or {})},
        )

    def control(self, *arguments: str) -> None:
        """Talk to the supervisor, and do not mind if it does not answer."""
        configuration = self.home / "supervisor/supervisord.conf"
        subprocess.run(
            [str(self.runtime / "bin/supervisorctl"), "-c", str(configuration), *arguments],
            check=False,
            stdout=subprocess.DEVNULL,
        )

    def clear(self) -> None:
        """End everything that runs here and remove all but the installed programs."""
        if (self.home / "supervisor/supervisord.conf").is_file():
            self.control("shutdown")
            deadline = time.monotonic() + 90
            while (self.home / "supervisor/supervisord.pid").exists():
                if time.monotonic() > deadline:
                    raise SystemExit(f"the supervisor in {self.home} does not end")
                time.sleep(0.2)
        end(self.home)
        for path in self.home.iterdir():
            if not path.name.startswith("runtime-"):
                shutil.rmtree(path)

    def remove(self) -> None:
        """Leave nothing behind."""
        if self.home.exists():
            self.clear()
            shutil.rmtree(self.home)
        for port in self.ports:  # SeaweedFS leaves these when it is killed
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                path.unlink()
