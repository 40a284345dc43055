"""A program as a unit, always there or behind a socket."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from conftest import check_gone, check_unit
from waiting import bound, wait_until

ACCOUNT = "mlflow-role-service"
PORT = 19164


def ask() -> int:
    """Return the process number that the program on demand answers with."""
    with socket.create_connection(("127.0.0.1", PORT), timeout=bound(2)) as door:
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

    def is_another() -> bool:
        return host.check_output("systemctl show -P MainPID role-always") not in ("0", pid)

    wait_until(is_another, "systemd to start role-always again", 4)


@pytest.mark.present
def test_first_connection_starts_it_and_idleness_stops_it(host: Any) -> None:
    def is_idle() -> bool:
        return state(host, "role-on-demand") == "inactive"

    wait_until(is_idle, "role-on-demand to be idle", 5)
    first = ask()
    assert state(host, "role-on-demand") == "active"
    assert ask() == first
    wait_until(is_idle, "role-on-demand to be idle", 5)
    assert ask() != first


@pytest.mark.absent
@pytest.mark.parametrize("unit", ["role-always", "role-on-demand"])
def test_nothing_is_left(host: Any, unit: str) -> None:
    check_gone(host, unit)
