"""A tracking server behind a socket."""

from __future__ import annotations

import json
import threading
import urllib.request
from typing import Any

import pytest
from conftest import EXPOSURE_AT_MOST, LOOPBACK, check_gone, exposure, listeners
from waiting import bound, wait_until

UNIT = "mlflow-demand"
PORT = 19163
# On a quiet machine, of which five are the setting.
STOPS_SECONDS = 8


def experiments() -> list[str]:
    """Return the names of the experiments, as a visitor who waits for the answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/api/2.0/mlflow/experiments/search",
        data=b'{"max_results": 5}',
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=bound(13)) as answer:
        return [each["name"] for each in json.load(answer)["experiments"]]


def state(host: Any) -> str:
    return str(host.check_output(f"systemctl show -P ActiveState {UNIT}"))


def wait_until_idle(host: Any) -> None:
    wait_until(lambda: state(host) == "inactive", f"{UNIT} to be idle", STOPS_SECONDS)


@pytest.mark.present
def test_the_first_visitors_get_an_answer_while_it_starts(host: Any) -> None:
    wait_until_idle(host)
    assert listeners(host, PORT) == LOOPBACK
    answers: list[list[str]] = []
    visitors = [threading.Thread(target=lambda: answers.append(experiments())) for _ in range(5)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert len(answers) == len(visitors)
    assert all("churn-exp" in names for names in answers)
    assert state(host) == "active"


@pytest.mark.present
def test_idle_it_takes_no_memory_and_starts_again(host: Any) -> None:
    experiments()
    wait_until_idle(host)
    tree = f"/sys/fs/cgroup/system.slice/{UNIT}.service/cgroup.procs"
    assert host.run(f"cat {tree}").stdout == ""
    assert "churn-exp" in experiments()


@pytest.mark.present
def test_it_comes_back_when_killed_while_visited(host: Any) -> None:
    experiments()
    host.check_output(f"systemctl kill --signal=KILL {UNIT}.service")
    wait_until_idle(host)
    assert "churn-exp" in experiments()


@pytest.mark.present
def test_units_are_hardened(host: Any) -> None:
    for unit in (f"{UNIT}.service", f"{UNIT}-door.service"):
        assert exposure(host, unit) <= EXPOSURE_AT_MOST
    said = host.run(f"systemd-analyze verify {UNIT}.service {UNIT}.socket {UNIT}-door.service")
    assert (said.rc, said.stdout, said.stderr) == (0, "", "")
    assert host.check_output("stat -c '%U %a' /var/lib/mlflow-role/demand") == "mlflow-jdoe-12 700"


@pytest.mark.absent
def test_nothing_is_left(host: Any) -> None:
    check_gone(host, UNIT)
    assert listeners(host, PORT) == []
    assert not host.file("/var/lib/mlflow-role/demand").exists
