"""A student's tracking server."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
from conftest import LOOPBACK, Room, check_gone, check_unit, listeners
from waiting import bound

UNIT = "mlflow-role"
FOLDER = "/var/lib/mlflow-role/server"
PORT = 19163
OTHER = "setpriv --reuid=65534 --regid=65534 --clear-groups"


def ask(path: str, **body: Any) -> Any:
    """Return the answer of an API route of the server."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{path}",
        data=json.dumps(body).encode() if body else None,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=bound(6)) as answer:
        return json.load(answer)


@pytest.mark.present
def test_unit_is_hardened(host: Any) -> None:
    check_unit(host, UNIT, "mlflow-jdoe-12")


@pytest.mark.present
def test_unit_starts_after_network_database_and_store(host: Any) -> None:
    after = host.check_output(f"systemctl show -P After {UNIT}").split()
    assert {
        "network-online.target",
        "mlflow-classroom-postgres.service",
        "mlflow-classroom-object-store.service",
    } <= set(after)


@pytest.mark.present
def test_listens_on_loopback_alone(host: Any) -> None:
    assert listeners(host, PORT) == LOOPBACK


@pytest.mark.present
def test_registry_and_artifacts_work_inside_the_sandbox() -> None:
    experiments = ask("/api/2.0/mlflow/experiments/search", max_results=10)["experiments"]
    churn = next(each for each in experiments if each["name"] == "churn-exp")
    runs = ask("/api/2.0/mlflow/runs/search", experiment_ids=[churn["experiment_id"]])["runs"]
    run = runs[0]["info"]["run_id"]
    # What the page of a run in the browser shows: the server reads the bucket's listing.
    files = ask(f"/ajax-api/2.0/mlflow/artifacts/list?run_id={run}")
    assert files["root_uri"].startswith("s3://mlflow-exp-tracking-jdoe-12/")
    assert files["files"]
    models = ask("/api/2.0/mlflow/registered-models/search?max_results=5")["registered_models"]
    assert [model["name"] for model in models] == ["churn-model"]


@pytest.mark.present
def test_secrets_are_for_the_server_alone(host: Any, room: Room) -> None:
    for name in ("pgpass", "aws", "server.env"):
        file = host.file(f"{FOLDER}/{name}")
        assert (file.user, file.mode) == ("mlflow-jdoe-12", 0o600)
        assert host.run(f"{OTHER} cat {FOLDER}/{name}").rc != 0
    log = host.check_output("journalctl --no-pager --quiet")
    arguments = host.check_output("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "mlflow server" in arguments
    seen = log + arguments + host.check_output(f"systemctl show {UNIT}")
    values = list(room.secrets())
    assert len(values) >= 5
    assert [value for value in values if value in seen] == []


@pytest.mark.absent
def test_nothing_is_left(host: Any) -> None:
    check_gone(host, UNIT)
    assert not host.file(FOLDER).exists
    assert listeners(host, PORT) == []
