"""One real classroom for the whole test session, in a directory and on ports of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from waiting import bound, classroom_ports, remove_sockets, wait_until

REPOSITORY = Path(__file__).parents[2]
# The class's real table, where it lies beside the project.
REAL_TABLE = REPOSITORY.parent / "shared/data/Churn_Modelling.csv"
ANSI = re.compile(r"\x1b\[[0-9;]*m")
# As it was at the start: pytest goes on changing its own variable while threads run playbooks.
ENVIRONMENT = dict(os.environ)
HOMES = "classroom-test-"
# What these tests make as root.
ACCOUNTS = {"mlflow-postgres", "mlflow-object-store", "mlflow-jdoe", "mlflow-asmith"}
# The longest play on a quiet machine: the first one, which installs everything.
PLAY_SECONDS = 150
TELL_SECONDS = 60


@dataclass
class Run:
    """What one ansible-playbook run printed and did."""

    returncode: int
    output: str

    def recap(self, host: str) -> dict[str, int]:
        """Return the host's counts, such as changed and failed."""
        line = re.search(rf"^{re.escape(host)}\s+: (.*)$", self.output, re.MULTILINE)
        assert line, f"no recap for {host} in:\n{self.output[-3000:]}"
        return {key: int(n) for key, n in re.findall(r"(\w+)=(\d+)", line[1])}

    @property
    def changed(self) -> int:
        """Tasks that changed something, on all hosts."""
        return sum(int(n) for n in re.findall(r"changed=(\d+)", self.output))

    def flat(self) -> str:
        """Return the output with line breaks and runs of blanks folded, to look for sentences."""
        return " ".join(self.output.split())


@dataclass
class Classroom:
    """A back end of its own: where it lives and how to run playbooks on it."""

    home: Path
    ports: dict[str, int]
    venv: Path
    settings: dict[str, str] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

    def command(self, playbook: str, *arguments: str) -> list[str]:
        """Return the command line that runs a playbook on this classroom."""
        settings = {"classroom_home": str(self.home), **self.ports, **self.settings}
        return [
            str(self.venv / "bin/ansible-playbook"),
            playbook,
            "-e",
            json.dumps(settings),
            *arguments,
        ]

    def environment(self) -> dict[str, str]:
        """Return the environment of a run: this repository's configuration, no colours."""
        return {
            **ENVIRONMENT,
            "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
            "COLUMNS": "10000",
        }

    def play(self, playbook: str, *arguments: str, fails: bool = False) -> Run:
        """Run a playbook and check that it succeeds, or with `fails` that it does not."""
        done = subprocess.run(
            self.command(playbook, *arguments),
            cwd=REPOSITORY,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=bound(PLAY_SECONDS),
            check=False,
        )
        run = Run(done.returncode, ANSI.sub("", done.stdout))
        self.runs.append(run)
        assert (run.returncode != 0) == fails, run.output[-6000:]
        return run

    def secret(self, *parts: str) -> str:
        """Return the content of a file below the secrets directory."""
        return self.home.joinpath("secrets", *parts).read_text().strip()

    def secret_values(self) -> dict[str, str]:
        """Return every generated secret by its file, for searching output and files."""
        found: dict[str, str] = {}
        for path in sorted(self.home.joinpath("secrets").rglob("*")):
            # An access key's id is no secret: it is sent with every request.
            if path.is_file() and path.name != "s3-admin-key":
                text = path.read_text()
                match = re.search(r"aws_secret_access_key\s*=\s*(\S+)", text)
                found[str(path.relative_to(self.home))] = match[1] if match else text.strip()
        return found

    def credentials(self, user: str) -> tuple[str, str]:
        """Return the student's access key id and secret key."""
        text = self.secret("students", user, "aws")
        pairs = dict(re.findall(r"(aws_\w+)\s*=\s*(\S+)", text))
        return pairs["aws_access_key_id"], pairs["aws_secret_access_key"]

    def handout(self, user: str) -> dict[str, str]:
        """Return the variables of the student's environment file."""
        text = self.home.joinpath("handouts", user, "mlflow.env").read_text()
        return dict(re.findall(r"^export (\w+)=(.*)$", text, re.MULTILINE))


class ArgumentSampler(threading.Thread):
    """Reads every process's arguments all the time; a secret among them can be seen by anybody."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[str] = set()
        self.stop = threading.Event()

    def run(self) -> None:
        """Collect distinct command lines until told to stop."""
        while not self.stop.wait(0.02):
            for process in Path("/proc").iterdir():
                if process.name.isdigit():
                    try:
                        line = process.joinpath("cmdline").read_bytes()
                    except OSError:
                        continue
                    self.seen.add(line.replace(b"\0", b" ").decode(errors="replace"))


@pytest.fixture(scope="session")
def alone(pytestconfig: pytest.Config) -> Iterator[None]:
    """Wait until no other run of ours has the accounts, and tidy up what a killed one has left."""
    with open(f"/tmp/mlflow-classroom-tests-{os.getuid()}.lock", "w") as lock:
        told = 0.0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - told > TELL_SECONDS:
                    told = time.monotonic()
                    with pytestconfig.pluginmanager.getplugin(
                        "capturemanager"
                    ).global_and_fixture_disabled():
                        print("waiting for another run of these tests to end", flush=True)
                time.sleep(0.5)
        stale = [
            home for home in Path("/tmp").glob(f"{HOMES}*") if home.stat().st_uid == os.getuid()
        ]
        for home in stale:
            remove_home(home)
        known = accounts()
        # With a real classroom on this machine, the accounts are its own.
        if stale and not Path("/var/lib/mlflow-classroom").exists():
            known -= ACCOUNTS
        yield
        for account in accounts() - known:
            subprocess.run(["userdel", "--force", account], check=False)


def accounts() -> set[str]:
    """Return the names of the accounts of services on this machine."""
    return {entry.pw_name for entry in pwd.getpwall() if entry.pw_name.startswith("mlflow-")}


@pytest.fixture(scope="session")
def sampler() -> Iterator[ArgumentSampler]:
    """Sample command lines during the whole session."""
    thread = ArgumentSampler()
    thread.start()
    yield thread
    thread.stop.set()


@pytest.fixture(scope="session")
def classroom(sampler: ArgumentSampler, alone: None) -> Iterator[Classroom]:
    """Give a classroom that is nothing but a name and ports; the first test fills it."""
    # Short, as supervisord's socket has to fit into 107 bytes; and services have to enter it.
    home = Path(f"/tmp/{HOMES}{secrets.token_hex(3)}")
    venv = Path(os.environ.get("CLASSROOM_VENV", REPOSITORY / ".venv"))
    assert (venv / "bin/ansible-playbook").is_file(), f"{venv} is missing: run make setup"
    room = Classroom(
        home,
        classroom_ports(),
        venv,
        # The services' Python, where it is not to be the default one.
        {"classroom_python": python} if (python := os.environ.get("CLASSROOM_PYTHON")) else {},
    )
    yield room
    remove(room)


def remove(room: Classroom) -> None:
    """End what the classroom runs and remove its directory, whatever state a test left it in."""
    remove_home(room.home)
    first = room.ports["classroom_s3_inner_port"]
    remove_sockets(range(first, first + 8))


def remove_home(home: Path) -> None:
    """End what runs in a classroom's directory, and remove it."""
    control = home / "supervisor/supervisord.conf"
    supervisorctl = next(home.glob("runtime-*/bin/supervisorctl"), None)
    if control.is_file() and supervisorctl:
        subprocess.run([str(supervisorctl), "-c", str(control), "shutdown"], check=False)
        pid_file = home / "supervisor/supervisord.pid"
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not pid_file.exists(), "supervisord to end", 10)
    for unit in Path("/etc/systemd/system").glob("mlflow-*.service"):
        if f"{home}/" in unit.read_text():
            subprocess.run(["systemctl", "disable", "--now", unit.name], check=False)
            unit.unlink()
    # What lives on when a supervisor was killed works in that directory, too.
    for working in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if working.readlink().is_relative_to(home):
                os.kill(int(working.parent.name), signal.SIGKILL)
    shutil.rmtree(home, ignore_errors=True)


def pytest_report_header() -> str:
    """Say which Python runs the tests and whether the real table is there."""
    return f"controller tests on {sys.version.split()[0]}, real table: {REAL_TABLE.is_file()}"
