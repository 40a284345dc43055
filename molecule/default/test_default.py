"""A classroom on hosts where systemd is the first process."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import CACHE, LOOPBACK, check_unit, classroom, listeners

UNITS = {
    "mlflow-classroom-postgres": "mlflow-postgres",
    "mlflow-classroom-object-store": "mlflow-object-store",
    "mlflow-classroom-s3": "mlflow-object-store",
}


def name(host: Any) -> str:
    return str(host.check_output("cat /etc/hostname"))


def student(host: Any) -> str:
    return "jdoe-" + name(host).removeprefix("debian")


def test_systemd_is_the_first_process(host: Any) -> None:
    assert host.check_output("cat /proc/1/comm") == "systemd"
    assert host.check_output("systemctl is-system-running") == "running"


@pytest.mark.parametrize("unit", UNITS)
def test_unit_of_the_back_end_is_hardened(host: Any, unit: str) -> None:
    check_unit(host, unit, UNITS[unit])


def test_unit_of_the_server_is_hardened(host: Any) -> None:
    check_unit(host, f"mlflow-{student(host)}", f"mlflow-{student(host)}")


def test_listens_on_loopback_alone(host: Any) -> None:
    room = classroom(name(host))
    for key, port in room.settings.items():
        if key.endswith("_port"):
            assert listeners(host, port) == LOOPBACK


def test_evidence_was_collected(host: Any) -> None:
    path = CACHE / name(host) / f"evidence/{student(host)}.json"
    document = json.loads(path.read_text())
    assert document["runs"]


def test_log_holds_no_secret(host: Any) -> None:
    log = host.check_output("journalctl --no-pager --quiet")
    assert "Started" in log
    values = list(classroom(name(host)).secrets())
    assert len(values) >= 5
    assert [value for value in values if value in log] == []
