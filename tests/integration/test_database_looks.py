"""What the role postgres_database looks at shows everything that it would set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import PostgresServer

FILES = Path(__file__).parents[2] / "roles/postgres_database/files"
NAMES = {
    "database": "mlflow_look",
    "login": "mlflow_look",
    "login_connections": 20,
    "connections": 25,
    "template": "look_template",
    "template_owner": "look_owner",
    "artifact_root": "s3://mlflow-exp-tracking-look",
}
# As the role leaves it.
SERVER = """
create role look_owner nologin;
create role mlflow_look login nocreatedb nocreaterole connection limit 20;
create database look_template;
comment on database look_template is 'mlflow 1.2.3 revision abc123';
create database mlflow_look connection limit 25;
revoke all on database mlflow_look from public;
grant connect on database mlflow_look to mlflow_look;
"""
INSIDE = """
revoke all on schema public from public;
grant usage, create on schema public to mlflow_look;
create table alembic_version (version_num text);
insert into alembic_version values ('abc123');
create table experiments (artifact_location text,
  constraint classroom_artifact_root check (starts_with(artifact_location, 's3://mlflow-exp-tracking-look/')));
alter table alembic_version owner to mlflow_look;
alter table experiments owner to mlflow_look;
"""
REMOVED = (
    "drop database mlflow_look; drop database look_template; drop role mlflow_look, look_owner"
)


@pytest.fixture(scope="module")
def inside(postgres: PostgresServer) -> Iterator[Any]:
    """Return a connection to a database as the role leaves it, in a transaction."""
    outside = postgres.connect()
    with outside.cursor() as cursor:
        for statement in SERVER.strip().split(";\n"):
            cursor.execute(statement)
    connection = postgres.connect(dbname="mlflow_look")
    with connection.cursor() as cursor:
        cursor.execute(INSIDE)
    connection.autocommit = False
    yield connection
    connection.close()
    with outside.cursor() as cursor:
        for statement in REMOVED.split("; "):
            cursor.execute(statement)
    outside.close()


def look(connection: Any, file: str, change: str = "select", **names: Any) -> tuple[Any, ...]:
    """Return what a look shows after a change, which is then taken back."""
    with connection.cursor() as cursor:
        cursor.execute(change)
        cursor.execute((FILES / file).read_text(), {**NAMES, **names})
        (row,) = cursor.fetchall()
    connection.rollback()
    return tuple(row)


def test_nothing_differs_where_all_is_as_it_should_be(inside: Any) -> None:
    assert look(inside, "server.sql") == ("postgres", "abc123", False)
    assert look(inside, "schema.sql") == (False, "abc123")


def test_a_database_that_is_not_there_differs(inside: Any) -> None:
    assert look(inside, "server.sql", database="mlflow_none") == (None, "abc123", True)
    assert look(inside, "server.sql", login="mlflow_none")[2]


@pytest.mark.parametrize(
    "change",
    [
        "alter role mlflow_look nologin",
        "alter role mlflow_look createdb",
        "alter role mlflow_look createrole",
        "alter role mlflow_look connection limit 21",
        "alter database mlflow_look connection limit 24",
        "grant connect on database mlflow_look to public",
        "grant temporary on database mlflow_look to public",
        "revoke connect on database mlflow_look from mlflow_look",
    ],
)
def test_what_was_changed_on_the_server_is_seen(inside: Any, change: str) -> None:
    assert look(inside, "server.sql", change)[2]


@pytest.mark.parametrize(
    "change",
    [
        "grant usage on schema public to public",
        "revoke create on schema public from mlflow_look",
        "revoke usage on schema public from mlflow_look",
        "alter table experiments owner to look_owner",
        "alter table experiments drop constraint classroom_artifact_root",
    ],
)
def test_what_was_changed_in_the_schema_is_seen(inside: Any, change: str) -> None:
    assert look(inside, "schema.sql", change)[0]


def test_another_bucket_and_another_revision_are_seen(inside: Any) -> None:
    assert look(inside, "schema.sql", artifact_root="s3://mlflow-exp-tracking-lo")[0]
    assert look(inside, "schema.sql", artifact_root="") == (False, "abc123")
    assert look(inside, "schema.sql", "update alembic_version set version_num = 'old'")[1] == "old"
