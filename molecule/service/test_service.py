"""A program as a unit, always there or behind a socket."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest
from conftest import check_gone, check_unit

ACCOUNT = "mlflow-role-service"
PORT = 19164


def ask() -> int:
    """Return the process number that the program on demand answers with."""
    with socket.create_connection(("127.0.0.1", PORT), timeout=20) as door:
        answer = door.recv(100).decode()
    # The percent sign came through the unit file whole.
    assert answer.endswith(" 100%")
    return int(answer.split()[0])


def state(host: Any, unit: str) -> str:
    return str(host.check_output(f"systemctl show -P ActiveState {unit}"))


@pytest.mark.present
def test_unit_is_hardened(host: Any) -> None:
    check_unit(host, "role-always", ACCOUNT)


@pytest.mark.present
def test_environment_is_for_the_service_alone(host: Any) -> None:
    pid = host.check_output("systemctl show -P MainPID role-always")
    environment = host.check_output(f"tr '\\0' '\\n' < /proc/{pid}/environ")
    assert "GREETING=only-for-the-service" in environment.splitlines()
    other = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    for path in (f"/proc/{pid}/environ", "/var/lib/mlflow-role/service/service.env"):
        assert host.run(f"{other} cat {path}").rc != 0


@pytest.mark.present
def test_comes_back_when_killed(host: Any) -> None:
    pid = host.check_output("systemctl show -P MainPID role-always")
    host.check_output(f"kill -9 {pid}")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        now = host.check_output("systemctl show -P MainPID role-always")
        if now not in ("0", pid):
            return
        time.sleep(0.5)
    pytest.fail("it did not come back within 30 seconds")


@pytest.mark.present
def test_first_connection_starts_it_and_idleness_stops_it(host: Any) -> None:
    deadline = time.monotonic() + 30
    while state(host, "role-on-demand") != "inactive" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert state(host, "role-on-demand") == "inactive"
    first = ask()
    assert state(host, "role-on-demand") == "active"
    assert ask() == first
    while state(host, "role-on-demand") != "inactive" and time.monotonic() < deadline + 30:
        time.sleep(0.5)
    assert state(host, "role-on-demand") == "inactive"
    assert ask() != first


@pytest.mark.absent
@pytest.mark.parametrize("unit", ["role-always", "role-on-demand"])
def test_nothing_is_left(host: Any, unit: str) -> None:
    check_gone(host, unit)
