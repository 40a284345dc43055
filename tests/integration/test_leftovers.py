"""Whatever is left of a student is named, and nothing else."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from modules import ModuleRun
from servers import Aws, PostgresServer
from waiting import free_port

Look = Callable[..., dict[str, Any]]


@pytest.fixture
def look(postgres: PostgresServer, seaweedfs: Aws, run_module: ModuleRun) -> Look:
    """Return a function that looks for leftovers of jdoe."""
    stores = {
        "user": "jdoe",
        "login_host": postgres.host,
        "login_port": postgres.port,
        "login_user": postgres.user,
        "login_password": postgres.password,
        **seaweedfs.params(),
    }

    def run(**wanted: Any) -> dict[str, Any]:
        result = run_module("leftovers", {**stores, **wanted})
        assert postgres.password not in result["stdout"]
        assert seaweedfs.secret_key not in result["stdout"]
        return result

    return run


def test_what_is_left_in_the_stores(look: Look, postgres: PostgresServer, seaweedfs: Aws) -> None:
    wanted = {
        "databases": ["left_jdoe", "gone"],
        "logins": ["left_jdoe", "gone"],
        "buckets": ["left-jdoe", "gone-jdoe"],
        "iam_users": ["left-jdoe", "gone"],
    }
    assert look(**wanted)["left"] == []

    s3, iam = seaweedfs.client("s3"), seaweedfs.client("iam")
    with postgres.connect().cursor() as cursor:
        cursor.execute("create role left_jdoe")
        cursor.execute("create database left_jdoe")
        s3.create_bucket(Bucket="left-jdoe")
        iam.create_user(UserName="left-jdoe")
        try:
            result = look(**wanted)
            assert look(fail=False, **wanted)["left"] == result["left"]
        finally:
            cursor.execute("drop database left_jdoe")
            cursor.execute("drop role left_jdoe")
            s3.delete_bucket(Bucket="left-jdoe")
            iam.delete_user(UserName="left-jdoe")
    assert result["failed"]
    assert result["left"] == [
        "database left_jdoe",
        "login left_jdoe",
        "bucket left-jdoe",
        "IAM user left-jdoe",
    ]
    assert "database left_jdoe, login left_jdoe" in result["msg"]
    assert "ansible-playbook playbooks/destroy.yml -e user=jdoe -e confirm=jdoe" in result["msg"]
    assert look(**wanted)["left"] == []


def test_what_is_left_on_the_host(run_module: ModuleRun, tmp_path: Path) -> None:
    """Nothing is asked of a store that is not given."""
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, account = server.getsockname()[1], getpass.getuser()
        params = {
            "user": "jdoe",
            "paths": [str(tmp_path / "dangling"), str(tmp_path / "nowhere")],
            "accounts": [account, "mlflow-nobody"],
            "ports": [port, free_port()],
        }
        result = run_module("leftovers", params)
    expected = [f"path {tmp_path}/dangling", f"account {account}", f"port {port}"]
    assert result["left"] == expected


def test_a_store_that_does_not_answer_proves_nothing(look: Look) -> None:
    result = look(databases=["x"], login_port=free_port())
    assert result["failed"]
    assert "Cannot look into PostgreSQL" in result["msg"]
    result = look(buckets=["x"], secret_key="wrong-secret-key-1")
    assert result["failed"]
    assert "Cannot look for buckets" in result["msg"]
