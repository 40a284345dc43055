"""One owner's database."""

from __future__ import annotations

import psycopg2
import pytest
from conftest import Room


def connect(room: Room, database: str) -> None:
    password = room.home.joinpath("role/postgres").read_text().strip()
    port = room.settings["classroom_postgres_port"]
    psycopg2.connect(
        host="127.0.0.1", port=port, user="mlflow_role", password=password, dbname=database
    ).close()


@pytest.mark.present
def test_login_enters_its_own_database_alone(room: Room) -> None:
    connect(room, "mlflow_role")
    for other in ("mlflow_jdoe_12", "postgres", "template1"):
        with pytest.raises(psycopg2.OperationalError, match="permission denied"):
            connect(room, other)


@pytest.mark.present
def test_login_owns_every_table_and_not_the_database(room: Room) -> None:
    owner = "select pg_get_userbyid(datdba), datconnlimit > 0 from pg_database where datname = %s"
    assert room.sql(owner, "mlflow_role") == [("classroom", True)]
    tables = "select distinct tableowner from pg_tables where schemaname = 'public'"
    assert room.sql(tables, database="mlflow_role") == [("mlflow_role",)]


@pytest.mark.absent
def test_nothing_is_left(room: Room) -> None:
    assert room.sql("select 1 from pg_database where datname = 'mlflow_role'") == []
    assert room.sql("select 1 from pg_roles where rolname = 'mlflow_role'") == []
