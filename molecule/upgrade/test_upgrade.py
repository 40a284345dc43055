"""The runs of an older MLflow after the upgrade."""

from __future__ import annotations

import json
import re
import urllib.request

from conftest import PROJECT, classroom
from waiting import bound

DATABASE = "mlflow_jdoe_older"
URL = "http://127.0.0.1:19144"


def locked(path: str) -> str:
    """Return the version of MLflow in a lock file."""
    found = re.search(r"^mlflow==(\S+)", PROJECT.joinpath(path).read_text(), re.MULTILINE)
    return found[1]


def test_server_is_the_newer_one() -> None:
    with urllib.request.urlopen(f"{URL}/version", timeout=bound(3)) as answer:
        version = answer.read().decode()
    assert version == locked("requirements/runtime.txt") != locked("molecule/upgrade/older.txt")


def test_schema_is_that_of_the_template() -> None:
    room = classroom("debian13")
    stamp = "select shobj_description(oid, 'pg_database') from pg_database where datname = %s"
    wanted = room.sql(stamp, "classroom_template")[0][0]
    assert wanted.startswith(f"mlflow {locked('requirements/runtime.txt')} ")
    revision = room.sql("select version_num from alembic_version", database=DATABASE)
    assert revision == [(wanted.rpartition(" ")[2],)]


def test_runs_of_before_are_there_with_their_objects() -> None:
    """The evidence, which has just agreed, has joined each run with its objects."""
    room = classroom("debian13")
    document = json.loads((room.home / "evidence/jdoe-older.json").read_text())
    assert document["verdict"] == "pass"
    assert [run["status"] for run in document["runs"]] == ["FINISHED"]
    # Training has not been run again: what is there was logged through the older server.
    query = "select value from latest_metrics where key = 'accuracy'"
    rows = room.sql(query, database=DATABASE)
    assert [value for (value,) in rows] == [document["runs"][0]["metrics"]["accuracy"]]
