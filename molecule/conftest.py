"""What the scenarios' tests share: the beat and the test classroom on debian12."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psycopg2
import pytest
import yaml
from botocore.config import Config

PROJECT = Path(__file__).resolve().parents[1]
CACHE = PROJECT / ".cache/molecule"
EXPOSURE_AT_MOST = 2.0
LOOPBACK = ["0100007F"]


@dataclass(frozen=True)
class Room:
    """The classroom of one test host, as the controller knows it."""

    name: str
    home: Path
    settings: dict[str, Any]

    def secret(self, *parts: str) -> str:
        """Return the content of one of its secret files."""
        return self.home.joinpath("secrets", *parts).read_text().strip()

    def secrets(self) -> Iterator[str]:
        """Yield every secret value; an access key's id is none."""
        for path in self.home.joinpath("secrets").rglob("*"):
            if path.is_file() and path.suffix != ".pem" and path.name != "s3-admin-key":
                text = path.read_text()
                found = re.search(r"aws_secret_access_key\s*=\s*(\S+)", text)
                yield found[1] if found else text.strip()

    def sql(self, query: str, *values: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Return the rows of a query of the administrator."""
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.settings["classroom_postgres_port"],
            user="classroom",
            password=self.secret("postgres-admin"),
            dbname=database,
        )
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()

    def aws(self, service: str) -> Any:
        """Return a client of the store's administrator."""
        certificate = str(self.home / "secrets/object-store.pem")
        return boto3.client(
            service,
            endpoint_url=f"https://127.0.0.1:{self.settings['classroom_s3_admin_port']}",
            region_name="us-east-2",
            aws_access_key_id=self.secret("s3-admin-key"),
            aws_secret_access_key=self.secret("s3-admin-secret"),
            verify=certificate,
            config=Config(client_cert=certificate),
        )


def classroom(name: str) -> Room:
    """Return the classroom of a test host."""
    settings = PROJECT / f"molecule/inventory/group_vars/on_{name}.yml"
    return Room(name, CACHE / name, yaml.safe_load(settings.read_text()))


@pytest.fixture(scope="session")
def room() -> Room:
    """Return the classroom on debian12, where the roles' scenarios run."""
    return classroom("debian12")


def pytest_configure(config: pytest.Config) -> None:
    """Describe the marks."""
    config.addinivalue_line("markers", "present: only while the role is to be present")
    config.addinivalue_line("markers", "absent: only after the role was made absent")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tests of the other beat."""
    if any(item.get_closest_marker("present") for item in items):
        beat = (CACHE / "beat").read_text()
        items[:] = [item for item in items if item.get_closest_marker(beat)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the beat, so that the next one cannot be taken for it."""
    if any(
        item.get_closest_marker("present") or item.get_closest_marker("absent")
        for item in session.items
    ):
        (CACHE / "beat").unlink(missing_ok=True)


def listeners(host: Any, port: int) -> list[str]:
    """Return the addresses on which something listens on a TCP port, as the kernel writes them."""
    lines = host.check_output("cat /proc/net/tcp /proc/net/tcp6").splitlines()
    sockets = [line.split() for line in lines if ":" in line.split()[1]]
    return [
        address.rpartition(":")[0]
        for _, address, _, state, *_ in sockets
        if state == "0A" and int(address.rpartition(":")[2], 16) == port
    ]


def exposure(host: Any, unit: str) -> float:
    """Return how exposed systemd finds a unit, 0 to 10."""
    said = host.check_output(f"systemd-analyze security --no-pager {unit}")
    return float(re.search(r"exposure level for \S+: ([0-9.]+)", said)[1])


def check_unit(host: Any, unit: str, account: str) -> None:
    """Check what holds for every unit of this project."""
    service = host.service(unit)
    assert service.is_running
    assert service.is_enabled
    assert exposure(host, unit) <= EXPOSURE_AT_MOST
    said = host.run(f"systemd-analyze verify {unit}.service")
    assert (said.rc, said.stdout, said.stderr) == (0, "", "")
    shown = host.check_output(f"systemctl show {unit} -p MainPID,MemoryMax,TasksMax,Restart")
    limits = dict(line.split("=", 1) for line in shown.splitlines())
    assert limits["MemoryMax"] != "infinity"
    assert limits["TasksMax"] != "infinity"
    assert limits["Restart"] == "always"
    owner = host.check_output(f"stat -c %U /proc/{limits['MainPID']}")
    assert owner == account


def check_gone(host: Any, unit: str) -> None:
    """Check that systemd has never heard of a unit."""
    # It fails when it has nothing to list, which is what is wanted here.
    assert host.check_output(f"systemctl list-unit-files --no-legend '{unit}*' || true") == ""
    assert host.check_output(f"find /etc/systemd /run/systemd -name '*{unit}*'") == ""
    assert not host.service(unit).is_running
