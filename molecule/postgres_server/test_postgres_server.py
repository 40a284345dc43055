"""A PostgreSQL of the classroom."""

from __future__ import annotations

import os
from typing import Any

import psycopg2
import pytest
from conftest import LOOPBACK, Room, check_gone, check_unit, listeners

UNIT = "mlflow-role-postgres"
PORT = 19160


def connect(room: Room, login: str, password: str) -> Any:
    return psycopg2.connect(
        host="127.0.0.1", port=PORT, user=login, password=password, dbname="postgres"
    )


@pytest.mark.present
def test_unit_is_hardened(host: Any) -> None:
    check_unit(host, UNIT, "mlflow-postgres")


@pytest.mark.present
def test_listens_on_loopback_alone(host: Any) -> None:
    assert listeners(host, PORT) == LOOPBACK


@pytest.mark.present
def test_administrator_enters_and_is_no_superuser(room: Room) -> None:
    with connect(room, "classroom", room.secret("postgres-admin")) as session:
        cursor = session.cursor()
        cursor.execute("select rolsuper from pg_roles where rolname = current_user")
        assert cursor.fetchone() == (False,)


@pytest.mark.present
@pytest.mark.parametrize("login", ["postgres", "classroom"])
def test_refuses_a_wrong_password(room: Room, login: str) -> None:
    with pytest.raises(psycopg2.OperationalError):
        connect(room, login, os.urandom(8).hex())


@pytest.mark.absent
def test_nothing_is_left(host: Any) -> None:
    check_gone(host, UNIT)
    assert not host.file("/var/lib/mlflow-role/postgres").exists
    assert listeners(host, PORT) == []
