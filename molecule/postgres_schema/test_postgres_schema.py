"""A migrated template."""

from __future__ import annotations

import pytest
from conftest import Room


@pytest.mark.present
def test_template_is_stamped_and_closed(room: Room) -> None:
    rows = room.sql(
        "select datallowconn, shobj_description(oid, 'pg_database') from pg_database"
        " where datname = 'role_template'"
    )
    assert len(rows) == 1
    assert rows[0][0] is False
    # The classroom's own template, made by the same role, has the same revision.
    assert [rows[0][1]] == [
        row[0]
        for row in room.sql(
            "select shobj_description(oid, 'pg_database') from pg_database"
            " where datname = 'classroom_template'"
        )
    ]


@pytest.mark.present
def test_nobody_can_be_the_owner_of_its_tables(room: Room) -> None:
    rows = room.sql("select rolcanlogin from pg_roles where rolname = 'role_template_owner'")
    assert rows == [(False,)]


@pytest.mark.absent
def test_nothing_is_left(room: Room) -> None:
    assert room.sql("select 1 from pg_database where datname = 'role_template'") == []
    assert room.sql("select 1 from pg_roles where rolname = 'role_template_owner'") == []
