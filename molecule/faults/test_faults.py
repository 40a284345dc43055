"""After each fault the classroom comes back by itself and has what it acknowledged before."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import PROJECT, Room
from waiting import bound, wait_until

# On a quiet machine.
COMES_BACK_SECONDS = 12
SERVER = "mlflow-jdoe-12"
STORE = ("mlflow-classroom-postgres", "mlflow-classroom-object-store", "mlflow-classroom-s3")
HOME = "/var/lib/mlflow-classroom"
SCRIPT = """
import mlflow, sys
mlflow.set_experiment("churn-exp")
with mlflow.start_run(run_name="fault") as run:
    mlflow.log_metric("kept", 1.0)
    mlflow.log_text("x" * int(sys.argv[1]), "kept.txt")
print(run.info.run_id)
"""
CHECK = """
import mlflow, sys
for run in sys.argv[1:]:
    found = mlflow.get_run(run)
    assert found.data.metrics["kept"] == 1.0, run
    assert set(mlflow.artifacts.load_text(found.info.artifact_uri + "/kept.txt")) == {"x"}, run
print("kept", len(sys.argv) - 1)
"""


class Student:
    """The student on debian12: logs runs and remembers which were acknowledged."""

    def __init__(self, room: Room) -> None:
        text = (room.home / "handouts/jdoe-12/mlflow.env").read_text()
        exports = dict(re.findall(r"^export (\w+)=(.*)$", text, re.MULTILINE))
        self.environment = {
            **os.environ,
            **{name: value.strip("'\"") for name, value in exports.items()},
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "AWS_MAX_ATTEMPTS": "1",
        }
        self.python = next(room.home.glob("runtime-*/bin/python"))
        self.runs: list[str] = []

    def tries(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the student."""
        return subprocess.run(
            [self.python, "-c", script, *arguments],
            env=self.environment,
            cwd=tempfile.gettempdir(),
            capture_output=True,
            text=True,
            timeout=bound(12),
            check=False,
        )

    def logs(self, size: int = 10) -> None:
        """Log a run that has to be acknowledged."""
        done = self.tries(SCRIPT, str(size))
        assert done.returncode == 0, done.stderr[-2000:]
        self.runs.append(done.stdout.split()[-1])

    def logs_again(self) -> None:
        """Log a run as soon as that is possible."""
        tried: list[subprocess.CompletedProcess[str]] = []

        def logged() -> bool:
            tried.append(self.tries(SCRIPT, "10"))
            return tried[-1].returncode == 0

        try:
            wait_until(logged, "a run to be logged", COMES_BACK_SECONDS)
        except AssertionError as error:
            error.add_note(tried[-1].stderr[-2000:])
            raise
        self.runs.append(tried[-1].stdout.split()[-1])

    def finds_everything(self) -> None:
        """Read back every acknowledged run with its object."""
        done = self.tries(CHECK, *self.runs)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.split() == ["kept", str(len(self.runs))]


@pytest.fixture(scope="module")
def student(room: Room) -> Student:
    return Student(room)


@pytest.fixture(autouse=True)
def nothing_is_lost(student: Student) -> Iterator[None]:
    """Log a run before the fault; after it, find all runs, and let the verify playbook agree."""
    student.logs()
    yield
    student.logs_again()
    student.finds_everything()
    done = verify()
    assert done.returncode == 0, done.stdout[-3000:]


def verify() -> subprocess.CompletedProcess[str]:
    """Run the project's verify playbook for the student."""
    return subprocess.run(
        [
            "ansible-playbook",
            f"--inventory={PROJECT}/molecule/inventory/hosts.yml",
            "--limit=jdoe-12,localhost",
            f"{PROJECT}/playbooks/verify.yml",
        ],
        env={**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "COLUMNS": "10000"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=bound(30),
        check=False,
    )


@pytest.mark.parametrize("unit", STORE)
def test_part_of_the_store_is_restarted(host: Any, unit: str) -> None:
    host.check_output(f"systemctl restart {unit}")


@pytest.mark.parametrize("unit", [*STORE, SERVER])
def test_service_is_killed(host: Any, unit: str) -> None:
    before = host.check_output(f"systemctl show -P MainPID {unit}")
    host.check_output(f"systemctl kill --signal=KILL --kill-whom=main {unit}")

    def is_another() -> bool:
        return host.check_output(f"systemctl show -P MainPID {unit}") not in ("0", before)

    wait_until(is_another, f"systemd to start {unit} again", COMES_BACK_SECONDS)


def test_only_the_worker_is_killed(host: Any) -> None:
    group = host.check_output(f"systemctl show -P ControlGroup {SERVER}")
    main = host.check_output(f"systemctl show -P MainPID {SERVER}")
    pids = host.check_output(f"cat /sys/fs/cgroup{group}/cgroup.procs").split()
    workers = [pid for pid in pids if pid != main]
    assert workers
    host.check_output(f"kill -9 {' '.join(workers)}")


def test_database_is_away_for_a_while(host: Any, student: Student) -> None:
    host.check_output("systemctl stop mlflow-classroom-postgres")
    done = student.tries(SCRIPT, "10")
    assert done.returncode != 0
    assert verify().returncode != 0
    host.check_output("systemctl start mlflow-classroom-postgres")


def test_host_is_rebooted(host: Any) -> None:
    subprocess.run(["docker", "restart", "--time=30", "mlflow-classroom-debian12"], check=True)

    def is_up() -> bool:
        return bool(host.run("systemctl is-system-running").stdout.strip() == "running")

    wait_until(is_up, "the host to be up", COMES_BACK_SECONDS)


def test_disk_of_the_store_is_full(host: Any, student: Student) -> None:
    host.check_output(f"systemctl stop {' '.join(STORE)}")
    # A small disk with everything that PostgreSQL and the object store have.
    host.check_output(
        f"cd {HOME} && mkdir -p /mnt/small && size=$(du -sm postgres/data object-store/data |"
        " awk '{ n += $1 } END { print n + 150 }')"
        " && mount -t tmpfs -o size=${size}M,mode=755 small /mnt/small"
        " && for each in postgres object-store; do"
        " cp -a $each /mnt/small/ && mount --bind /mnt/small/$each/data $each/data; done"
    )
    try:
        host.check_output(f"systemctl start {' '.join(STORE)}")
        student.logs_again()
        # It fails as soon as the disk is full: that is its purpose.
        host.check_output("dd if=/dev/zero of=/mnt/small/filler bs=1M 2>/dev/null || true")
        done = student.tries(SCRIPT, "30000000")
        assert done.returncode != 0
        assert re.search(
            r"No space|InternalError|ServiceUnavailable|could not extend|503|500", done.stderr
        )
        # What was there can still be read.
        host.check_output("rm /mnt/small/filler")
        student.logs_again()
        student.finds_everything()
    finally:
        host.check_output(
            f"systemctl stop {' '.join(STORE)}; cd {HOME} && rm -f /mnt/small/filler;"
            " for each in postgres object-store; do umount $each/data"
            " && rm -rf $each/data && cp -a /mnt/small/$each/data $each/data; done;"
            f" umount /mnt/small && systemctl start {' '.join(STORE)}"
        )


def test_clock_of_the_server_is_wrong(host: Any, student: Student) -> None:
    host.check_output(
        "apt-get update -qq && apt-get install -y -qq --no-install-recommends libfaketime"
    )
    library = host.check_output("dpkg -L libfaketime | grep '/libfaketime.so.1$'")
    folder = f"/run/systemd/system/{SERVER}.service.d"
    setting = f"Environment=LD_PRELOAD={library} FAKETIME=+2h"
    host.check_output(
        f"mkdir -p {folder} && printf '[Service]\\n{setting}\\n' > {folder}/clock.conf"
        f" && systemctl daemon-reload && systemctl restart {SERVER}"
    )
    try:
        # Clients write to the bucket themselves, by their own clock.
        student.logs_again()
        student.finds_everything()
        # The server itself cannot list the bucket, and its log says why.
        with contextlib.suppress(urllib.error.HTTPError):
            port = student.environment["MLFLOW_TRACKING_URI"].rpartition(":")[2]
            path = f"ajax-api/2.0/mlflow/artifacts/list?run_id={student.runs[-1]}"
            urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=bound(6))
            pytest.fail("a signature of another time was accepted")
        log = host.check_output(f"journalctl --no-pager --quiet -n 200 -u {SERVER}")
        assert re.search("RequestTimeTooSkewed|too large|expired", log)
    finally:
        host.check_output(
            f"rm -r {folder} && systemctl daemon-reload && systemctl restart {SERVER}"
        )
